"""registry.json, in the older module's form: what is installed, for whoever reads the models folder. Blocks.

Beside it lies, out of sight, which versions are bad: that must outlive the state folder, or a vehicle whose store was
lost would try them again.
"""

import json
import re
from collections.abc import Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.base.files import file_error, replace_file
from sentinel_sync.models.files import MODEL_MODE
from sentinel_sync.models.rules.installed import BadVersion

REGISTRY_NAME = "registry.json"
#: No model can be called so: names do not begin with a dot.
BAD_NAME = ".bad_versions.json"
#: What `replace_file` leaves of either when it is killed.
_LEFTOVER = re.compile(rf"\.({re.escape(REGISTRY_NAME)}|{re.escape(BAD_NAME)})\.[0-9a-f]{{8}}\.new")
_BAD = TypeAdapter(dict[str, tuple[BadVersion, ...]])


@dataclass(frozen=True, slots=True)
class RegistryEntry:
    """What registry.json says of a model, in the older module's form."""

    version: str
    installed_at: float
    path: str


class Registry:
    """The two files.

    Args:
        folder: `models_dir`.

    Every method raises FileError where the folder cannot be read or written, StoreFullError where its disk is
    full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def read(self) -> dict[str, RegistryEntry]:
        """What registry.json says; one that is broken is set aside under another name."""
        path = self._folder / REGISTRY_NAME
        try:
            entries = _raw_registry(path)
        except FileNotFoundError:
            return {}
        except ValueError:
            _set_aside(path)
            return {}
        except OSError as error:
            raise file_error(error, path) from None
        return {name: entry for name, raw in entries.items() if (entry := _entry(raw)) is not None}

    def write(self, entries: Mapping[str, RegistryEntry]) -> None:
        """Put these entries into registry.json, in one step; what it says besides stays."""
        path = self._folder / REGISTRY_NAME
        try:
            document = _raw_registry(path)
        except (FileNotFoundError, ValueError):
            document = {}
        except OSError as error:
            raise file_error(error, path) from None
        for name, entry in entries.items():
            before = document.get(name)
            document[name] = {
                **(before if isinstance(before, dict) else {}),
                "version": entry.version,
                "installed_at": entry.installed_at,
                "path": entry.path,
            }
        self._replace(path, json.dumps(document, indent=2).encode())

    def read_bad(self) -> dict[str, tuple[BadVersion, ...]]:
        """Which versions are bad, by model; a list that is broken is set aside."""
        path = self._folder / BAD_NAME
        try:
            return _BAD.validate_json(path.read_bytes())
        except FileNotFoundError:
            return {}
        except ValidationError:
            _set_aside(path)
            return {}
        except OSError as error:
            raise file_error(error, path) from None

    def write_bad(self, bad: Mapping[str, Sequence[BadVersion]]) -> None:
        """Write which versions are bad, in one step."""
        listed = {name: tuple(versions) for name, versions in bad.items() if versions}
        self._replace(self._folder / BAD_NAME, _BAD.dump_json(listed, indent=2))

    def clean(self) -> None:
        """Delete what a kill left half written."""
        try:
            for leftover in self._folder.glob(".*.new"):
                if _LEFTOVER.fullmatch(leftover.name):
                    leftover.unlink(missing_ok=True)
        except OSError as error:
            raise file_error(error, self._folder) from None

    def _replace(self, path: Path, content: bytes) -> None:
        try:
            path.parent.mkdir(parents=True, exist_ok=True)
            replace_file(path, content, durable=True, mode=MODEL_MODE)
        except OSError as error:
            raise file_error(error, path) from None


def _set_aside(path: Path) -> None:
    with suppress(OSError):  # a folder that cannot be written is said when something is to be installed
        path.replace(path.with_name(f"{path.name}.damaged"))


def _raw_registry(path: Path) -> dict[str, Any]:
    document = json.loads(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _entry(raw: Any) -> RegistryEntry | None:
    match raw:
        case {"version": str(version), "installed_at": float() | int() as installed_at, "path": str(path)}:
            return RegistryEntry(version, float(installed_at), path)
        case {"version": str(version)}:
            return RegistryEntry(version, 0.0, "")
    return None
