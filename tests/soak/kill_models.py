"""Kill an agent at random instants while it installs models, and see that the runtime always has a whole one.

`python -m tests.soak.kill_models --kills 200 --seed 1`: an agent downloads signed models from the reference backend,
a process too, whole and as deltas, has them tried by a command, switches to them and rolls back. It is killed with
SIGKILL at random instants and started again. Another process opens the live file over and over, as the runtime does.
Whatever happens, that is the whole old model or the whole new one, by its SHA-256; after each start the registry, the
record and the live file agree; what a call had promised holds; an order is carried out once; and in the end nothing is
left lying about.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sqlite3
import sys
import tempfile
import time
from collections import Counter
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import partial
from hashlib import sha256
from pathlib import Path
from random import Random
from typing import Any

import httpx
from pydantic import TypeAdapter

from sentinel_sync.adapters.models.signing import make_key, read_key, sign_release
from sentinel_sync.adapters.store.store import DATABASE_NAME
from sentinel_sync.backend import ModelRelease, ModelSignature, publish_model
from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child
from sentinel_sync.rules.releases.installed import ModelRecord
from tests.fakes.weights import all_moved, some_tensors_replaced, weights
from tests.soak.model_vehicle import NAME

#: Which requests fail, and how.
FAULTS: list[dict[str, object]] = [
    {"kind": "truncate", "path": "/model-", "fraction": 0.25},
    {"kind": "delay", "path": "/model-", "fraction": 0.3, "delay": 0.1},
    {"kind": "garbage", "path": "/models", "fraction": 0.03},
    {"kind": "drop", "path": "/model", "fraction": 0.03},
    {"kind": "status", "path": "/model", "fraction": 0.03, "status": 503},
]
#: A little model, so that a life of a second sees some installations.
WEIGHTS = 250_000
#: What is published. The validator refuses BAD before the switch, and FLAKY once it is in use.
BAD, FLAKY, LAST = "v1.1.0", "v1.2.0", "v5.0.0"
LIVE_NAMES = (f"{NAME}.onnx", f"{NAME}.pt")
#: Given file, name and version; FLAKY fails where the file is the live one.
VALIDATOR = f"""
sleep 0.03
case "$3:$1" in
  {BAD}:*) exit 1 ;;
  {FLAKY}:*/versions/*) exit 0 ;;
  {FLAKY}:*) exit 1 ;;
esac
"""
#: This share of the kills comes while something chosen is being done, within so many seconds of its beginning; …
AIMED, WITHIN = 0.6, 0.02
AIMS = ("downloading", "patching", "validating", "installing", "installing", "rollback", "rollback", "nothing")
#: … or so many seconds after the fork where that is not done.
AT_LATEST = 4.0
#: Of the others this share comes within so many seconds of the fork, while the vehicle starts and mends; …
EARLY, EARLY_WITHIN = 0.4, 0.12
#: … the rest between so many seconds and so many.
LATE_FROM, LATE_TO = 0.12, 1.5
#: After this share of the kills somebody looks; after the others it is killed again before anybody has.
LOOKED_AT = 0.6
_RECORD = TypeAdapter(ModelRecord)


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        kills: SIGKILLs, by what was being done.
        mended: Kills after which a switch was to be finished.
        promises: How often a call had promised what is in use, and nothing was begun since.
        orders: Rollbacks that were ordered, and carried out, by whichever life.
        looks: How often the watcher saw a whole model.
        versions: Different ones that it saw.
        strikes: How often the backend failed on purpose, by kind.
        seconds: All of it.
        problems: What is not as promised; empty where all is.
    """

    kills: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    promises: int = 0
    orders: int = 0
    looks: int = 0
    versions: int = 0
    strikes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Soak:
    """One run in a folder."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self._folder = folder
        self._rng = rng
        self._models = folder / "models"
        self._diary = folder / "diary.jsonl"
        #: Versions by checksum.
        self._published: dict[str, str] = {}
        self.outcome = Outcome()

    async def run(self, kills: int) -> Outcome:
        """Kill so often, then let it come to its end, and judge."""
        began, key = time.monotonic(), secrets.token_urlsafe(16)
        trusted = await asyncio.to_thread(self._publish)
        async with AsyncExitStack() as stack:
            cloud = await self._start(
                stack,
                "sentinel_sync.demo.cloud",
                str(self._folder / "backend"),
                "0",
                json.dumps(FAULTS),
                environment={KEY_VARIABLE: key},
            )
            url = (await cloud.expect("ready"))["url"]
            config = self._configure(url, key, trusted)
            vehicle = await self._start(stack, "tests.soak.model_vehicle", str(config), str(self._diary))
            watcher = await self._start(
                stack,
                "tests.soak.model_watcher",
                str(self._models),
                json.dumps(LIVE_NAMES),
                json.dumps(list(self._published)),
            )
            backend = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
            )
            for number in range(kills):
                await self._live_and_die(vehicle, number)
                await asyncio.to_thread(self._judge_what_is_left)
                if self._rng.random() < LOOKED_AT:
                    await self._look(vehicle)
            self.outcome.strikes = (await backend.get("/_faults")).json()["strikes"]
            (await backend.put("/_faults", json={"faults": []})).raise_for_status()
            await self._obeyed(vehicle, {"finish": LAST})
            await self._look(vehicle)
            await asyncio.to_thread(self._judge_the_end)
            await asyncio.to_thread(self._judge_the_orders)
            await watcher.tell({})
            self._hear(await watcher.expect("seen"))
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _start(self, stack: AsyncExitStack, module: str, *arguments: str, **how: Any) -> Child:
        name = module.rpartition(".")[2]
        child = await Child.start(
            module, *arguments, name=name, log=self._folder / f"{name}.log", environment=how.get("environment", {})
        )
        stack.push_async_callback(child.kill)
        return child

    # --- killing ---

    async def _live_and_die(self, vehicle: Child, number: int) -> None:
        rng = self._rng
        await vehicle.tell({"versions": sorted(self._published.values()), "seed": rng.random()})
        process = (await vehicle.expect("forked"))["process_id"]
        aim = rng.choice(AIMS) if rng.random() < AIMED else None
        doing: list[str] = ["starting"]
        there = asyncio.Event()
        listening = asyncio.create_task(self._listen(vehicle, aim, there, doing))
        try:
            if aim is not None:
                await asyncio.wait(
                    {listening, waiting := asyncio.create_task(there.wait())},
                    timeout=AT_LATEST,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiting.cancel()
                await asyncio.sleep(rng.uniform(0.0, WITHIN))
            else:
                early = rng.random() < EARLY
                await asyncio.sleep(rng.uniform(0.0, EARLY_WITHIN) if early else rng.uniform(LATE_FROM, LATE_TO))
        finally:
            with contextlib.suppress(ProcessLookupError):  # it had ended by itself, which is found out below
                os.kill(process, signal.SIGKILL)
        if (code := await listening) != -signal.SIGKILL:
            self.outcome.problems.append(f"vehicle {number + 1} ended by itself with {code}, before it was killed")
        self.outcome.kills[doing[0]] += 1

    async def _listen(self, vehicle: Child, aim: str | None, there: asyncio.Event, doing: list[str]) -> int:
        """Hear what it does until it ends; returns its exit code."""
        while (told := await vehicle.event(within=90.0))["event"] != "ended":
            doing[0] = told["doing"]
            if doing[0] == aim:
                there.set()
        return int(told["code"])

    async def _obeyed(self, vehicle: Child, order: dict[str, Any]) -> None:
        """Have it do something, unharmed."""
        await vehicle.tell(order)
        if (code := (await vehicle.expect("ended", within=90.0))["code"]) != 0:
            self.outcome.problems.append(f"a vehicle ended with {code} that nobody killed: {order}")

    async def _look(self, vehicle: Child) -> None:
        """Start it, so that it mends what is to be mended, and see what there is then."""
        await self._obeyed(vehicle, {"look": True})
        await asyncio.to_thread(self._judge_what_was_mended)

    # --- judging ---

    def _judge_what_is_left(self) -> None:
        """A kill leaves the old or the new model, in full, and what had been promised."""
        record, outcome = self._record(), self.outcome
        if record.installed is None and record.switching_to is None:
            return
        outcome.mended += record.switching_to is not None or bool(record.superseded)
        whole = {name: self._version(self._models / name) for name in LIVE_NAMES}
        outcome.problems += [f"{name} is not whole" for name, version in whole.items() if version == "nobody's"]
        may_be = {kept.version for kept in (record.installed, record.switching_to) if kept is not None}
        found = self._version(self._live(record))
        if record.installed is not None and found not in may_be:
            outcome.problems.append(f"the live file is {found}, and the record says {' or '.join(sorted(may_be))}")
        promised = self._promised()
        if promised is not None:
            outcome.promises += 1
            if found not in promised:
                outcome.problems.append(f"the live file is {found}, and {' or '.join(promised)} was promised")

    def _live(self, record: ModelRecord) -> Path:
        """What the runtime opens: registry.json has its path."""
        try:
            return Path(json.loads((self._models / "registry.json").read_bytes())[NAME]["path"])
        except FileNotFoundError:
            kept = record.installed or record.switching_to
            return self._models / (LIVE_NAMES[0] if kept is None else kept.live_name)

    def _judge_what_was_mended(self) -> None:
        """After a start the record, the registry and the live file agree, and nothing of a switch is left."""
        record, problems = self._record(), self.outcome.problems
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

    def _judge_the_end(self) -> None:
        record, problems = self._record(), self.outcome.problems
        if record.installed is None or record.installed.version != LAST:
            problems.append(f"in the end {record.installed} is in use, not {LAST}")
        problems += [f"{path.name} is left lying about in the end" for path in self._files() if ".part" in path.name]

    def _judge_the_orders(self) -> None:
        """A rollback that was ordered happened once: a second one would lead forward again."""
        ordered: str | None = None
        for line in self._diary.read_text(encoding="utf-8").splitlines():
            told: dict[str, Any] = json.loads(line)
            match told:
                case {"obeyed": version} if ordered is not None:
                    self.outcome.orders += 1
                    if version != ordered:
                        self.outcome.problems.append(f"{version} is in use, after a rollback to {ordered}")
                    ordered = None
                case {"begun": _}:
                    ordered = told.get("ordered")

    def _hear(self, seen: dict[str, Any]) -> None:
        self.outcome.looks = sum(seen["seen"].values())
        self.outcome.versions = len(seen["seen"])
        self.outcome.problems += [f"the runtime: {what} ({number} times)" for what, number in seen["problems"].items()]

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
            last = json.loads(self._diary.read_text(encoding="utf-8").splitlines()[-1])
        except (FileNotFoundError, IndexError):
            return None
        promised: list[str] | None = last.get("promised")
        return promised

    # --- setting it up ---

    def _publish(self) -> str:
        """Sign and publish all versions; returns the public key."""
        key = make_key(self._folder / "key.pem", None)
        signer = read_key(self._folder / "key.pem", partial(bytes))
        for version, (name, content) in _contents().items():
            file = self._folder / name
            file.write_bytes(content)
            signed = sign_release(file, NAME, version, filename=name, signers=[signer])
            signatures = [ModelSignature(one.signature, one.key_id) for one in signed.signatures]
            publish_model(
                self._folder / "backend",
                file,
                ModelRelease(name=NAME, version=version, filename=name, signatures=signatures),
            )
            self._published[signed.checksum] = version
        return key.text

    def _configure(self, url: str, key: str, trusted: str) -> Path:
        validator = self._folder / "validator.sh"
        validator.write_text(VALIDATOR, encoding="utf-8")
        cloud = {
            "enabled": True,
            "api_url": url,
            "api_key": key,
            "vehicle_id": "soak_vehicle",
            "fleet_id": "soak_fleet",
            "rate_limit": 0,
            "timeout": 5,
            "connectivity_check_interval": 0.5,
            "auto_install_models": False,
            "model_trusted_keys": [trusted],
            "model_validator_command": ["/bin/sh", str(validator)],
            "model_probation": 0.3,
            "state_dir": str(self._folder / "state"),
            "models_dir": str(self._models),
            "trip_queue_file": str(self._folder / "none.json"),
            "scenarios_dir": str(self._folder / "scenarios"),
            "profiles_dir": str(self._folder / "profiles"),
        }
        path = self._folder / "config.yaml"
        path.write_text(json.dumps({"cloud": cloud}), encoding="utf-8")
        return path


def _contents() -> dict[str, tuple[str, bytes]]:
    """File name and content by version."""
    onnx, pt = LIVE_NAMES
    first = weights(WEIGHTS, 1)
    fourth = some_tensors_replaced(first, 50, 5, 4)
    return {
        "v1.0.0": (onnx, first),
        BAD: (onnx, some_tensors_replaced(first, 50, 1, 2)),
        FLAKY: (onnx, some_tensors_replaced(first, 50, 2, 3)),
        "v2.0.0": (onnx, all_moved(first, 5)),
        "v3.0.0": (pt, fourth),
        "v4.0.0": (onnx, some_tensors_replaced(fourth, 50, 3, 6)),
        LAST: (onnx, weights(WEIGHTS, 7)),
    }


async def soak(kills: int, seed: int, folder: Path) -> Outcome:
    """Kill at random instants."""
    return await Soak(folder, Random(seed)).run(kills)


def _as_text(outcome: Outcome) -> list[str]:
    kills = ", ".join(f"{name} {number}" for name, number in sorted(outcome.kills.items()))
    strikes = ", ".join(f"{kind} {number:,}" for kind, number in sorted(outcome.strikes.items())) or "none"
    return [
        f"{outcome.kills.total()} kills in {outcome.seconds:.0f} s; a switch was to be finished after {outcome.mended}",
        f"  where     {kills}",
        f"  failures  {strikes}",
        f"  promises  {outcome.promises} calls had promised what is in use; {outcome.orders} orders to roll back",
        f"  runtime   opened a whole model {outcome.looks:,} times, {outcome.versions} different ones",
        *(f"  PROBLEM   {problem}" for problem in outcome.problems[:20]),
        f"{len(outcome.problems)} problems" if outcome.problems else "there was a whole model at every instant",
    ]


def main() -> int:
    """Parse the command line, run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sentinel-soak-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(soak(arguments.kills, arguments.seed, folder))
        sys.stdout.write("\n".join(_as_text(outcome)) + "\n")
        if outcome.problems and arguments.keep is None:
            log = (folder / "model_vehicle.log").read_text(encoding="utf-8", errors="replace").splitlines()
            sys.stdout.write("\n".join(["the end of the vehicles' log:", *log[-20:]]) + "\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
