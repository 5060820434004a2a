"""The recorder's folders, looked at from outside: which there are, whether one changes, what is its own. Blocks."""

import contextlib
import hashlib
import os
import stat
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.scenarios.recordings import open_file
from sentinel_sync.scenarios.rules.metadata import LARGEST_METADATA, read_metadata, video_names
from sentinel_sync.scenarios.rules.plan import ANNOTATIONS_NAME, METADATA_NAME, Part, PartKind

#: A folder is only opened itself, never what a link of its name leads to.
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
_NS = 1e-9


@dataclass(frozen=True, slots=True)
class Appearance:
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


def appearance_of(folder: Path) -> Appearance | None:
    """Look at a folder and its files, without opening any; None where it has gone."""
    digest = hashlib.sha256()
    try:
        status = folder.lstat()
        if stat.S_ISLNK(status.st_mode):
            digest.update(f"{status.st_mtime_ns}".encode())
            return Appearance(digest.hexdigest(), status.st_mtime_ns * _NS, is_link=True)
        newest = 0
        with os.scandir(folder) as entries:
            for entry in sorted(entries, key=lambda entry: entry.name):
                found = entry.stat(follow_symlinks=False)
                newest = max(newest, found.st_mtime_ns)
                digest.update(f"{entry.name!a} {found.st_mode} {found.st_size} {found.st_mtime_ns}\n".encode())
    except OSError:
        return None
    return Appearance(digest.hexdigest(), (newest or status.st_mtime_ns) * _NS, is_link=False)


def own_files(folder: Path) -> tuple[Part, ...]:
    """The files of a recording that are there, whole or not; nothing else in the folder is the recorder's."""
    names = [(PartKind.METADATA, METADATA_NAME), (PartKind.ANNOTATIONS, ANNOTATIONS_NAME)]
    with contextlib.suppress(ScenarioError), open_file(folder, METADATA_NAME) as file:
        names += [(PartKind.VIDEO, name) for name in video_names(read_metadata(file.read(LARGEST_METADATA + 1)))]
    found: list[Part] = []
    for kind, name in names:
        with contextlib.suppress(OSError):
            status = (folder / name).lstat()
            if stat.S_ISREG(status.st_mode):
                found.append(Part(kind, name, status.st_size, status.st_mtime_ns))
    return tuple(found)


def is_inside(folder: Path, scenarios_dir: Path) -> bool:
    """Whether a folder lies in `scenarios_dir` itself, and is no link."""
    with contextlib.suppress(OSError):
        return folder.parent.resolve(strict=True) == scenarios_dir.resolve(strict=True) and stat.S_ISDIR(
            folder.lstat().st_mode
        )
    return False


def delete_files(folder: Path, parts: Sequence[Part]) -> bool:
    """Delete a recording's files, as far as they are still what they were, then the folder where nothing is left.

    Returns:
        Whether none of the files is there any more.
    """
    with _opened(folder) as descriptor:
        if descriptor is None:
            return not folder.is_symlink()
        # What tells of the others goes last: a power cut in between leaves nothing that nobody can name.
        for part in sorted(parts, key=lambda part: part.kind is PartKind.METADATA):
            with contextlib.suppress(OSError):
                status = os.stat(part.name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and (status.st_size, status.st_mtime_ns) == (
                    part.size_bytes,
                    part.modified_ns,
                ):
                    os.unlink(part.name, dir_fd=descriptor)
        with os.scandir(descriptor) as entries:
            left = {part.name for part in parts} & {entry.name for entry in entries}
        os.fsync(descriptor)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
    return not left


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(folder, _FOLDER_FLAGS)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)
