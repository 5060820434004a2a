"""Files that must be whole whenever somebody reads them, also after a power cut. Blocks: call it off the loop."""

import contextlib
import errno
import hashlib
import os
import secrets
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync.base.errors import FileError, StoreError, StoreFullError

#: What a process that was killed while it wrote leaves behind, for whoever owns the folder to remove.
LEFTOVERS = ".*.new"

#: Of a SHA-512 in hex.
_SHA512_DIGITS = 128


def replace_file(path: Path, content: bytes, *, durable: bool, mode: int = 0o600) -> None:
    """Put `content` in the place of `path` in one step: a reader sees the old whole or the new whole.

    Args:
        path: The file.
        content: All of it.
        durable: True where it must survive a power cut: the file and then its folder are fsync'd, in that order,
            because a rename that is on disk before the content it names would leave an empty file.
        mode: Permissions of the new file.

    Raises:
        OSError: It cannot be written; `path` is as it was, and nothing is left beside it.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        descriptor = os.open(beside, os.O_WRONLY | os.O_CREAT | os.O_EXCL, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            if durable:
                file.flush()
                os.fsync(file.fileno())
        beside.replace(path)
    except BaseException:
        beside.unlink(missing_ok=True)
        raise
    if durable:
        sync_folder(path.parent)


def digest_like(checksum: str | None) -> "hashlib._Hash":
    """A fresh digest of the kind that a checksum in hex is of: SHA-512 where it has 128 digits, else SHA-256."""
    return hashlib.sha512() if checksum is not None and len(checksum) == _SHA512_DIGITS else hashlib.sha256()


def make_folder(folder: Path, mode: int = 0o777) -> None:
    """Make a folder, and those above it, where they are missing; what is made is on disk when this returns.

    Raises:
        OSError: It cannot be made.
    """
    missing: list[Path] = []
    while not folder.is_dir() and folder != folder.parent:
        missing.append(folder)
        folder = folder.parent
    for path in reversed(missing):
        path.mkdir(mode=mode, exist_ok=True)
        # A folder whose name is not on disk takes with it all that is fsync'd in it.
        sync_folder(path.parent)


def remove_leftovers(folder: Path) -> None:
    """Remove what killed writers left in a folder; what is no file, or cannot be removed, is not in anybody's way."""
    for leftover in folder.glob(LEFTOVERS):
        with contextlib.suppress(OSError):
            leftover.unlink()


def sync_folder(folder: Path) -> None:
    """Make renames and deletions in a folder durable."""
    descriptor = os.open(folder, os.O_RDONLY | os.O_DIRECTORY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


def file_error(error: OSError, path: Path) -> StoreError:
    """Say what an error of the file system means to the caller: StoreFullError or FileError, with the file's name."""
    if error.errno in {errno.ENOSPC, errno.EDQUOT}:
        return StoreFullError(f"the disk is full ({path.name} cannot be written): free some space")
    return FileError(f"{path.name} cannot be used: {error.strerror}")


#: Inodes that are kept free where the reserve is in bytes: a recording has six files and a folder.
_LEAST_INODES = 1_000


def free_name(path: Path) -> Path:
    """The path itself, or the first of `name-2`, `name-3` and so on that nothing has yet."""
    number, candidate = 1, path
    while candidate.exists():
        number += 1
        candidate = path.with_name(f"{path.name}-{number}")
    return candidate


@dataclass(frozen=True, slots=True)
class Room:
    """What is free on a file system, and what is to be."""

    free_bytes: int
    free_inodes: int
    reserve_bytes: int
    reserve_inodes: int

    @property
    def is_short(self) -> bool:
        """Whether less is free than is to be."""
        return self.free_bytes < self.reserve_bytes or self.free_inodes < self.reserve_inodes


def room_of(folder: Path, reserve: int | str) -> Room:
    """Look at a folder's file system. Blocks.

    Args:
        folder: It, or the nearest folder above it that exists.
        reserve: Bytes, or percent of the file system ("10%"), of its inodes too.

    Raises:
        OSError: It cannot be looked at.
    """
    existing = next(place for place in (folder, *folder.absolute().parents) if place.exists())
    status = os.statvfs(existing)
    free, inodes = status.f_bavail * status.f_frsize, status.f_favail
    # Some file systems count no inodes, and have as many as fit.
    counts_inodes = status.f_files > 0
    if isinstance(reserve, int):
        return Room(free, inodes, reserve, min(_LEAST_INODES, status.f_files // 20) if counts_inodes else 0)
    share = float(reserve.rstrip("%")) / 100.0
    total = status.f_blocks * status.f_frsize
    return Room(free, inodes, int(total * share), int(status.f_files * share) if counts_inodes else 0)
