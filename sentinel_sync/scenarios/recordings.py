"""Recordings as the recorder leaves them: read, checked, opened, never changed. Blocks: call it off the loop."""

import contextlib
import fcntl
import hashlib
import os
import signal
import stat
import struct
from dataclasses import dataclass, replace
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

from sentinel_sync.base.errors import ScenarioError, UnsettledError
from sentinel_sync.scenarios.rules.metadata import LARGEST_METADATA, outgoing_metadata, read_metadata, videos
from sentinel_sync.scenarios.rules.plan import ANNOTATIONS_NAME, METADATA_NAME, Part, PartKind, check_name

#: No link is followed (it could lead out of the folder), and a pipe does not make us wait for its writer.
_FLAGS = os.O_RDONLY | os.O_NOFOLLOW | os.O_NONBLOCK | os.O_CLOEXEC
#: What an MP4 begins with (ISO/IEC 14496-12); anything else is no MP4, and goes as it is.
_FIRST_BOXES = frozenset({b"ftyp", b"moov", b"mdat", b"free", b"skip", b"wide"})
#: Those that hold what was recorded; a fragment has its own index.
_MEDIA_BOXES = frozenset({b"mdat", b"moof"})
#: A recording has a handful of boxes at its top; a file of millions of empty ones is not worth reading.
_MOST_BOXES = 4096
#: Of annotations, so much is looked at from either end: white space beyond that is no JSON writer's.
_END_BYTES = 4096
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Recording:
    """A recording that can be uploaded.

    Attributes:
        metadata: As it may leave the vehicle.
        parts: In the order in which they go.
        warning: What a person should know of it, or None: it was cut off, and what is there goes.
    """

    scenario_id: str
    folder: Path
    metadata: dict[str, JsonValue]
    parts: tuple[Part, ...]
    warning: str | None = None


@dataclass(frozen=True, slots=True)
class FolderSnapshot:
    """A folder as it looks now.

    Attributes:
        fingerprint: Differs when anything in it was written, added, removed or renamed.
        changed_at: When the newest of its files was written, seconds since the epoch.
        is_link: It is a link to a folder.
    """

    fingerprint: str
    changed_at: float
    is_link: bool


def folder_names(scenarios_dir: Path) -> list[str]:
    """Names of the folders, and of links to folders, that a recorder may have left; none where there is no such folder.

    One call to the system per few hundred names: none of the folders is looked into.
    """
    try:
        with os.scandir(scenarios_dir) as entries:
            # What begins with a dot is being made by somebody, or is not a recording.
            return [entry.name for entry in entries if not entry.name.startswith(".") and entry.is_dir()]
    except OSError:
        return []


def snapshot_of(folder: Path) -> FolderSnapshot | None:
    """Look at a folder and its files, without opening any; None where it has gone."""
    digest = hashlib.sha256()
    try:
        status = folder.lstat()
        if stat.S_ISLNK(status.st_mode):
            digest.update(f"{status.st_mtime_ns}".encode())
            return FolderSnapshot(digest.hexdigest(), status.st_mtime_ns * _NS, is_link=True)
        newest = 0
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found = entry.stat(follow_symlinks=False)
                newest = max(newest, found.st_mtime_ns)
                digest.update(f"{entry.name!a} {found.st_mode} {found.st_size} {found.st_mtime_ns}\n".encode())
    except OSError:
        return None
    return FolderSnapshot(digest.hexdigest(), (newest or status.st_mtime_ns) * _NS, is_link=False)


def storable(name: str) -> str:
    """A folder's name as text that SQLite takes, also where it is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()


def absolute(path: str | Path) -> Path:
    """Where a folder lies, without following links: its name stays the one that it was called by."""
    return Path(os.path.abspath(path))  # noqa: PTH100  # Path.resolve() would follow them


def read_recording(folder: Path) -> Recording:
    """Look whether a recording is whole, without reading its videos.

    Args:
        folder: Absolute; its name is the scenario's id.

    Raises:
        ScenarioError: It cannot be uploaded as it is; the message says why, without the folder's path. UnsettledError:
            Somebody is writing it.
    """
    scenario_id = check_name(folder.name, "the folder's name")
    if not str(folder).isprintable():
        raise ScenarioError("the folder's path has characters that cannot be written down")
    if not folder.is_dir():
        raise ScenarioError("the folder does not exist" if not folder.exists() else "this is not a folder")
    with open_file(folder, METADATA_NAME) as file:
        metadata_part = _part(PartKind.METADATA, METADATA_NAME, file)
        if metadata_part.size_bytes > LARGEST_METADATA:
            raise ScenarioError(f"{METADATA_NAME} is larger than {LARGEST_METADATA} bytes")
        metadata = read_metadata(file.read(LARGEST_METADATA + 1))
    parts, warnings = [metadata_part], []
    for name, outgoing_name in videos(metadata).items():
        with open_file(folder, name) as file:
            part = replace(_part(PartKind.VIDEO, name, file), sent_as=outgoing_name)
            if _has_writer(file):
                raise UnsettledError(f"{name} is still being written")
            fault, is_usable = mp4_fault(file, part.size_bytes)
        if not is_usable:
            raise ScenarioError(f"{name} {fault}")
        if fault is not None:
            warnings.append(f"{name} {fault}: what is there goes")
        parts.append(part)
    with open_file(folder, ANNOTATIONS_NAME) as file:
        part = _part(PartKind.ANNOTATIONS, ANNOTATIONS_NAME, file)
        if not _is_whole_object(file, part.size_bytes):
            raise ScenarioError(f"{ANNOTATIONS_NAME} is cut off or not a JSON object")
        parts.append(part)
    warning = "; ".join(warnings) or None
    return Recording(scenario_id, folder, outgoing_metadata(metadata), tuple(parts), warning)


def open_file(folder: Path, name: str) -> BinaryIO:
    """Open one file of a recording.

    Raises:
        ScenarioError: It is missing, a link, not a plain file, or cannot be read.
    """
    try:
        descriptor = os.open(folder / name, _FLAGS)
    except FileNotFoundError:
        raise ScenarioError(f"{name} is missing") from None
    except OSError as error:
        if (folder / name).is_symlink():
            raise ScenarioError(f"{name} is a link: only the recording's own files are sent") from None
        raise ScenarioError(f"{name} cannot be read ({error.strerror})") from None
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        raise ScenarioError(f"{name} is not a plain file")
    return os.fdopen(descriptor, "rb")


def open_part(folder: Path, part: Part) -> BinaryIO:
    """Open a part that is still what was queued.

    Raises:
        ScenarioError: As `open_file`. UnsettledError: It has changed since.
    """
    file = open_file(folder, part.name)
    status = os.fstat(file.fileno())
    if not part.is_of(status.st_size, status.st_mtime_ns):
        file.close()
        raise UnsettledError(f"{part.name} was changed after it was queued")
    return file


def _has_writer(file: BinaryIO) -> bool:
    """Whether any process has a file open for writing; False where the file system cannot tell.

    Linux grants a read lease only on a file that nobody writes (fcntl(2), "Leases"). It is given back at once; who
    opens the file within those microseconds makes the kernel send a signal, one that nobody need handle.
    """
    try:
        fcntl.fcntl(file, fcntl.F_SETSIG, signal.SIGURG)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_RDLCK)
        fcntl.fcntl(file, fcntl.F_SETLEASE, fcntl.F_UNLCK)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def mp4_fault(file: BinaryIO, size: int) -> tuple[str | None, bool]:
    """What shows that an MP4 was not written to its end, or None; and whether it can be used all the same.

    With its index there it can: ffmpeg judges the rest, such as the zeros or the vendor's block that some recorders
    leave behind the last box. Reads the boxes' headers only. What does not begin like an MP4 is not judged.
    """
    at, has_index = 0, False
    for number in range(_MOST_BOXES):
        if at == size:
            return (None, True) if has_index else ("was not recorded to its end (it has no index)", False)
        file.seek(at)
        header = file.read(16)
        kind = header[4:8]
        if number == 0 and kind not in _FIRST_BOXES:
            return None, True
        if len(header) < 8:
            return (None, True) if has_index else ("is cut off", False)
        length, smallest = struct.unpack(">I", header[:4])[0], 8
        if length == 1 and len(header) == 16:
            length, smallest = struct.unpack(">Q", header[8:])[0], 16
        elif length == 0:  # to the end of the file
            length = size - at
        if length < smallest or at + length > size:
            return "is cut off" if kind in _MEDIA_BOXES or not has_index else None, has_index
        has_index = has_index or kind == b"moov"
        at += length
    return "is not an MP4 that a recorder writes", False


def _part(kind: PartKind, name: str, file: BinaryIO) -> Part:
    status = os.fstat(file.fileno())
    if status.st_size == 0:
        raise ScenarioError(f"{name} is empty")
    return Part(kind, name, status.st_size, status.st_mtime_ns)


def _is_whole_object(file: BinaryIO, size: int) -> bool:
    first = file.read(_END_BYTES).lstrip()[:1]
    file.seek(max(0, size - _END_BYTES))
    return (first, file.read(_END_BYTES).rstrip()[-1:]) == (b"{", b"}")


def is_inside(folder: Path, scenarios_dir: Path) -> bool:
    """Whether a folder lies in `scenarios_dir` itself, and is no link."""
    with contextlib.suppress(OSError):
        return folder.parent.resolve(strict=True) == scenarios_dir.resolve(strict=True) and stat.S_ISDIR(
            folder.lstat().st_mode
        )
    return False
