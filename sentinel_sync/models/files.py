"""The models folder: versions side by side, one atomic switch of what the runtime opens. Blocks: call it off the loop.

Beside what the runtime opens (`models/yolov8m.pt`) lies `models/versions/yolov8m/v2.1.0.pt` for each version kept, the
same bytes on disk by a hard link, and, while it is downloaded, `models/versions/yolov8m/.v2.1.0.pt.part`.
"""

import errno
import json
import os
import re
import shutil
import stat
from collections.abc import Collection, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.files import digest_like, file_error, make_folder, replace_file, sync_folder
from sentinel_sync.base.payloads import read_json
from sentinel_sync.cloud.download import PART_ENDING, discard, owner_of
from sentinel_sync.models.rules.installed import BadVersion, KeptVersion
from sentinel_sync.models.rules.releases import UNKNOWN_VERSION

VERSIONS_NAME = "versions"
#: What a switch that was cut off leaves.
_SWITCH_ENDING = ".switch"
#: The runtime, another user perhaps, reads models.
MODEL_MODE = 0o644
_HASH_CHUNK = 1 << 20
#: Space that a download leaves to others.
RESERVE_BYTES = 16 << 20
_NO_LINKS = frozenset({errno.EPERM, errno.EOPNOTSUPP, errno.ENOTSUP, errno.EMLINK, errno.EXDEV, errno.ENOSYS})
REGISTRY_NAME = "registry.json"
#: No model can be called so: names do not begin with a dot.
BAD_NAME = ".bad_versions.json"
#: What `replace_file` leaves of either when it is killed.
_LEFTOVER = re.compile(rf"\.({re.escape(REGISTRY_NAME)}|{re.escape(BAD_NAME)})\.[0-9a-f]{{8}}\.new")
_BAD = TypeAdapter(dict[str, tuple[BadVersion, ...]])


@dataclass(frozen=True, slots=True)
class FileStamp:
    """What changes when somebody writes a file: bytes, time in nanoseconds, and which file it is."""

    size: int
    modified_ns: int
    inode: int


class ModelFiles:
    """Everything that touches the models folder.

    Args:
        folder: `models_dir`.

    Every method raises FileError where the folder cannot be read or written, StoreFullError where its disk is
    full.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder

    # --- where things lie ---

    def live(self, live_name: str) -> Path:
        """What the runtime opens."""
        return self._folder / live_name

    def version(self, name: str, version: str, live_name: str) -> Path:
        """Where a version is kept."""
        return self._folder / VERSIONS_NAME / name / (version + Path(live_name).suffix)

    def staging(self, name: str, version: str, live_name: str) -> Path:
        """Where a version lies while it is downloaded."""
        kept = self.version(name, version, live_name)
        return kept.with_name(f".{kept.name}{PART_ENDING}")

    # --- what is there ---

    def holds(self, path: Path, size: int, checksum: str) -> bool:
        """Whether a file is there with just these bytes; reads all of it."""
        stamp = self.stamp(path)
        return stamp is not None and stamp.size == size and self.checksum(path, like=checksum) == (size, checksum)

    def checksum(self, path: Path, *, like: str | None = None) -> tuple[int, str] | None:
        """Size and checksum of a file, of the kind of another; None where there is no file. Reads all of it."""
        try:
            if (stamp := self.stamp(path)) is None:
                return None
            return stamp.size, checksum_of(path, like=like)
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error(error, path) from None

    def found(self, live_name: str, clock: Clock) -> KeptVersion | None:
        """A live file that nobody kept a record of, or None where there is none. Reads all of it."""
        measured = self.checksum(self.live(live_name))
        return None if measured is None else KeptVersion(UNKNOWN_VERSION, live_name, clock.now(), *measured)

    def stamp(self, path: Path) -> FileStamp | None:
        """What the file system says of a file, or None where none is there: a folder or a pipe is no file."""
        try:
            found = path.stat()
        except FileNotFoundError:
            return None
        except OSError as error:
            raise file_error(error, path) from None
        return FileStamp(found.st_size, found.st_mtime_ns, found.st_ino) if stat.S_ISREG(found.st_mode) else None

    # --- changing it ---

    def make_room(self, staging: Path, size: int) -> int:
        """Make the staging file's folder, and see whether the disk has room for what is missing of `size` bytes.

        Returns:
            How many bytes are there already.
        """
        try:
            make_folder(staging.parent)
            there = staging.stat().st_size if staging.exists() else 0
            check_room(staging.parent, max(0, size - there))
        except OSError as error:
            raise file_error(error, staging) from None
        return there

    def keep(self, staging: Path, kept: Path) -> None:
        """Make a whole staging file a version: durable before it has its name."""
        try:
            descriptor = os.open(staging, os.O_RDONLY | os.O_NOFOLLOW)
            try:
                os.fchmod(descriptor, MODEL_MODE)
                os.fsync(descriptor)
            finally:
                os.close(descriptor)
            staging.replace(kept)
            discard(staging)
            sync_folder(kept.parent)
        except OSError as error:
            raise file_error(error, kept) from None

    def keep_live(self, live: Path, kept: Path) -> None:
        """Keep what the runtime opens now as a version, in the place of what is kept as it."""
        try:
            if live.exists():
                make_folder(kept.parent)
                _link_or_copy(live, kept.with_name(f".{kept.name}{_SWITCH_ENDING}"), kept)
        except OSError as error:
            raise file_error(error, kept) from None

    def switch(self, kept: Path, live: Path) -> None:
        """Let the runtime open this version: one rename, so that at no instant there is no model, or a mixed one."""
        try:
            _link_or_copy(kept, live.with_name(f".{live.name}{_SWITCH_ENDING}"), live)
        except OSError as error:
            raise file_error(error, live) from None

    def is_there(self, live: Path) -> bool:
        """Whether the runtime finds a file."""
        try:
            return live.is_file()
        except OSError as error:
            raise file_error(error, live) from None

    def remove(self, live: Path) -> bool:
        """Take a live file away whose model is opened under another name now; False where there is none."""
        try:
            live.unlink()
            sync_folder(live.parent)
        except FileNotFoundError:
            return False
        except OSError as error:
            raise file_error(error, live) from None
        return True

    def clean(self, kept: Collection[Path], partial: Collection[Path]) -> None:
        """Delete what was left half done, and versions and staging files that are in neither of these.

        Args:
            kept: Whole versions.
            partial: What may be begun now: its folder stays too, where it is still empty.
        """
        try:
            for leftover in self._folder.glob(".*"):
                if leftover.name.endswith(_SWITCH_ENDING):
                    leftover.unlink(missing_ok=True)
            for path in self._folder.glob(f"{VERSIONS_NAME}/*/*"):
                owner = owner_of(path)
                if owner not in kept and owner not in partial and not path.is_dir():  # a folder is none of ours
                    path.unlink(missing_ok=True)
            in_use = {path.parent for path in partial}
            for folder in self._folder.glob(f"{VERSIONS_NAME}/*/"):
                if folder not in in_use:
                    with suppress(OSError):  # it is not empty
                        folder.rmdir()
        except OSError as error:
            raise file_error(error, self._folder) from None


def check_room(folder: Path, size: int) -> None:
    """Let pass what is to take so many bytes, where its disk has them and what is left to others.

    Raises:
        StoreFullError: It has not.
        OSError: It cannot be asked.
    """
    needed, free = size + RESERVE_BYTES, shutil.disk_usage(folder).free
    if free < needed:
        raise StoreFullError(f"the disk of the models folder has {free} bytes free, and {needed} are needed")


def checksum_of(path: Path, *, like: str | None = None) -> str:
    """SHA-256 of a file, in hex, or whatever another checksum is of."""
    digest = digest_like(like)
    with path.open("rb") as file:
        while chunk := file.read(_HASH_CHUNK):
            digest.update(chunk)
    return digest.hexdigest()


def _link_or_copy(source: Path, beside: Path, target: Path) -> None:
    """Give `source`'s bytes the name `target`, durably and in one step."""
    beside.unlink(missing_ok=True)
    try:
        # What a symbolic link leads to is somebody else's, and a link to a link holds no bytes.
        if source.is_symlink():
            raise OSError(errno.EXDEV, "leads elsewhere")
        os.link(source, beside)
    except OSError as error:
        if error.errno not in _NO_LINKS:
            raise
        # Or a file system without hard links (FAT on an SD card).
        shutil.copyfile(source, beside)
        with beside.open("rb") as file:
            os.fchmod(file.fileno(), MODEL_MODE)
            os.fsync(file.fileno())
    beside.replace(target)
    # Renaming one name of a file to another of its names does nothing (POSIX), so the first would stay.
    beside.unlink(missing_ok=True)
    sync_folder(target.parent)


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
            make_folder(path.parent)
            replace_file(path, content, durable=True, mode=MODEL_MODE)
        except OSError as error:
            raise file_error(error, path) from None


#: No time that anything was installed at is later, seconds since the epoch (the year 5138).
_LATEST = 1e11


def _set_aside(path: Path) -> None:
    with suppress(OSError):  # a folder that cannot be written is said when something is to be installed
        path.replace(path.with_name(f"{path.name}.damaged"))


def _raw_registry(path: Path) -> dict[str, Any]:
    document = read_json(path.read_bytes())
    if not isinstance(document, dict):
        raise ValueError("not an object")
    return document


def _entry(raw: Any) -> RegistryEntry | None:
    match raw:
        case {"version": str(version), "installed_at": float() | int() as installed_at, "path": str(path)}:
            plausible = 0.0 <= installed_at < _LATEST
            return RegistryEntry(version, float(installed_at) if plausible else 0.0, path)
        case {"version": str(version)}:
            return RegistryEntry(version, 0.0, "")
    return None
