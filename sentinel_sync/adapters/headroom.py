"""A reserve of disk space, so that acknowledging and deleting still work when the disk is full."""

import logging
import os
from pathlib import Path

logger = logging.getLogger(__name__)

#: Enough for SQLite to log a few hundred changed pages (4 KiB each).
SIZE_BYTES = 1 << 20


class Headroom:
    """A file of allocated, unused blocks beside the database. Blocks: call it off the loop."""

    def __init__(self, path: Path, size_bytes: int = SIZE_BYTES) -> None:
        self._path = path
        self._size_bytes = size_bytes

    def reserve(self) -> bool:
        """Take the space if it is not taken; False where the disk has none left for it."""
        try:
            if self._path.exists() and self._path.stat().st_size >= self._size_bytes:
                return True
            with self._path.open("wb") as file:
                os.posix_fallocate(file.fileno(), 0, self._size_bytes)
        except OSError as error:
            logger.warning(
                "store.headroom: no space for %d bytes beside the store (%s)", self._size_bytes, error.strerror
            )
            self._path.unlink(missing_ok=True)
            return False
        return True

    def release(self) -> bool:
        """Give the space back; False where there was none."""
        try:
            self._path.unlink()
        except OSError:
            return False
        return True
