"""Compares what a kill has left on disk with what was promised. Blocks."""

import contextlib
import json
import sqlite3
from hashlib import sha256
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.models.rules.installed import ModelRecord
from sentinel_sync.store.store import DATABASE_NAME
from tests.soak.model_releases import LAST, LIVE_NAMES
from tests.soak.model_vehicle import NAME
from tests.soak.vehicle import read_diary

#: In the folder of a run.
MODELS, DIARY = "models", "diary.jsonl"
_RECORD = TypeAdapter(ModelRecord)


class Judge:
    """Looks at the folder of a run while no agent is alive.

    Args:
        folder: Of the run.
        published: Versions by checksum.

    Attributes:
        mended: Kills after which a switch was to be finished.
        promises: How often a call had promised what is in use, and nothing was begun since.
        orders: Rollbacks that were ordered, and carried out, by whichever life.
        problems: What is not as promised; empty where all is.
    """

    def __init__(self, folder: Path, published: dict[str, str]) -> None:
        self._folder = folder
        self._models = folder / MODELS
        self._diary = folder / DIARY
        self._published = published
        self.mended = self.promises = self.orders = 0
        self.problems: list[str] = []

    def what_is_left(self) -> None:
        """A kill leaves the old or the new model, in full, and what had been promised."""
        record = self._record()
        if record.installed is None and record.switching_to is None:
            return
        self.mended += record.switching_to is not None or bool(record.superseded)
        whole = {name: self._version(self._models / name) for name in LIVE_NAMES}
        self.problems += [f"{name} is not whole" for name, version in whole.items() if version == "nobody's"]
        may_be = {kept.version for kept in (record.installed, record.switching_to) if kept is not None}
        found = self._version(self._live(record))
        if record.installed is not None and found not in may_be:
            self.problems.append(f"the live file is {found}, and the record says {' or '.join(sorted(may_be))}")
        promised = self._promised()
        if promised is not None:
            self.promises += 1
            if found not in promised:
                self.problems.append(f"the live file is {found}, and {' or '.join(promised)} was promised")

    def _live(self, record: ModelRecord) -> Path:
        """What the runtime opens: registry.json has its path."""
        try:
            return Path(json.loads((self._models / "registry.json").read_bytes())[NAME]["path"])
        except FileNotFoundError:
            kept = record.installed or record.switching_to
            return self._models / (LIVE_NAMES[0] if kept is None else kept.live_name)

    def what_was_mended(self) -> None:
        """After a start the record, the registry and the live file agree, and nothing of a switch is left."""
        record, problems = self._record(), self.problems
        if record.switching_to is not None or record.superseded:
            wanted = None if record.switching_to is None else record.switching_to.version
            problems.append(f"a switch to {wanted} was not finished by the next start; superseded: {record.superseded}")
        if record.installed is None:
            return
        live = self._models / record.installed.live_name
        entry = json.loads((self._models / "registry.json").read_bytes())[NAME]
        if (entry["version"], entry["path"]) != (record.installed.version, str(live)):
            problems.append(f"the registry says {entry}, and the record {record.installed}")
        if (found := self._version(live)) != record.installed.version:
            problems.append(f"the live file is {found}, and the record says {record.installed.version}")
        kept = {(version.version, Path(version.live_name).suffix) for version in record.kept}
        allowed = {self._models / "versions" / NAME / f"{version}{suffix}" for version, suffix in kept}
        allowed |= {live, self._models / "registry.json", self._models / ".bad_versions.json"}
        # What came of a download is gone on from, or deleted once no listed release wants it.
        lying = [path for path in self._files() if path not in allowed and ".part" not in path.name]
        problems += [f"{path.name} is left lying about after a start" for path in lying]

    def the_end(self) -> None:
        """In the end the last one is in use, nothing of a download lies about, and each order was carried out once."""
        record, problems = self._record(), self.problems
        if record.installed is None or record.installed.version != LAST:
            problems.append(f"in the end {record.installed} is in use, not {LAST}")
        problems += [f"{path.name} is left lying about in the end" for path in self._files() if ".part" in path.name]
        self._the_orders()

    def _the_orders(self) -> None:
        """A rollback that was ordered happened once: a second one would lead forward again."""
        ordered: str | None = None
        for told in read_diary(self._diary):
            match told:
                case {"obeyed": version} if ordered is not None:
                    self.orders += 1
                    if version != ordered:
                        self.problems.append(f"{version} is in use, after a rollback to {ordered}")
                    ordered = None
                case {"begun": _}:
                    ordered = told.get("ordered")

    def _files(self) -> list[Path]:
        return [path for path in self._models.rglob("*") if path.is_file()]

    def _version(self, path: Path) -> str:
        try:
            return self._published.get(sha256(path.read_bytes()).hexdigest(), "nobody's")
        except FileNotFoundError:
            return "missing"

    def _record(self) -> ModelRecord:
        """The record on disk; reading it changes nothing for the next start."""
        path = self._folder / "state" / DATABASE_NAME
        if not path.exists():
            return ModelRecord(NAME)
        with contextlib.closing(sqlite3.connect(f"file:{path}?mode=ro", uri=True)) as database:
            try:
                row = database.execute("SELECT body FROM document WHERE kind = 'model' AND key = ?", (NAME,)).fetchone()
            except sqlite3.OperationalError as error:
                if "no such table" not in str(error):
                    raise
                return ModelRecord(NAME)  # killed before the store was made
        return ModelRecord(NAME) if row is None else _RECORD.validate_json(row[0])

    def _promised(self) -> list[str] | None:
        """What the last call that returned has promised; None where another was begun since."""
        try:
            last = read_diary(self._diary)[-1]
        except (FileNotFoundError, IndexError):
            return None
        promised: list[str] | None = last.get("promised")
        return promised
