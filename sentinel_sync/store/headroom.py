"""A reserve of disk space, so that acknowledging and deleting still work when the disk is full."""

import contextlib
import logging
import os
from collections.abc import Callable
from pathlib import Path
from typing import TypeVar

from sentinel_sync.base.errors import StoreFullError

logger: logging.Logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: What deleting takes at worst on a disk without a free byte: the log is copied back before it can begin anew (at most
#: about 1,000 pages of 4 KiB, SQLite's own bound), and that may lengthen the database by as much.
SIZE_BYTES = 4 << 20
#: Once given back, the reserve is taken again only where so many times its size is free: otherwise it would take away
#: the very space that was made.
_PLENTY = 2
#: The reserve is given back in so many pieces.
_PIECES = 8


class Headroom:
    """A file of allocated, unused blocks beside the database. Blocks: call it off the loop.

    It is given back piece by piece: whoever filled the disk would take the whole of it at once.

    Attributes:
        held: Whether all of the space is taken, as far as this process knows.
    """

    def __init__(self, path: Path, size_bytes: int = SIZE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes
        self.held: bool = False

    def reserve(self) -> bool:
        """Take the space if it is not taken; False where the disk has none left for it."""
        self.held = self._allocate()
        return self.held

    def restore(self) -> bool:
        """Take the space again once the disk has plenty; cheap enough to be asked after every commit."""
        try:
            disk = os.statvfs(self._path.parent)
        except OSError:
            return False
        if disk.f_bavail * disk.f_frsize < _PLENTY * self._size_bytes:
            return False
        if self.reserve():
            logger.info("store.headroom: there is space again: %d bytes are reserved", self._size_bytes)
        return self.held

    def release(self) -> bool:
        """Give a piece of the space back; False where there is none left."""
        self.held = False
        try:
            left = self._path.stat().st_size - self._size_bytes // _PIECES
            if left > 0:
                os.truncate(self._path, left)
            else:
                self._path.unlink()
        except OSError:
            return False
        return True

    def spend(self, attempt: Callable[[], Result]) -> Result:
        """Do something that must work on a full disk too, giving back as many pieces as it takes.

        Raises:
            StoreFullError: All of the space was not enough.
        """
        while True:
            try:
                return attempt()
            except StoreFullError:
                if not self.release():
                    raise
                logger.warning("store.full: the disk is full; a piece of the headroom was given back to go on")

    def _allocate(self) -> bool:
        try:
            with self._path.open("ab") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
        except OSError as error:
            logger.warning(
                "store.headroom: no space for %d bytes beside the store (%s)", self._size_bytes, error.strerror
            )
            # What was allocated of it is needed by others now.
            with contextlib.suppress(OSError):
                self._path.unlink()
            return False
        return True
