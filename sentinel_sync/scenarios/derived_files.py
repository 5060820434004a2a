"""Files made of recordings: compressed videos, packed annotations. Every method blocks: call it off the loop.

They lie in one folder of the agent's own, within a budget, and each of them could be made again.
"""

import hashlib
import shutil
from collections.abc import Collection
from pathlib import Path

from sentinel_sync.base.errors import StoreError
from sentinel_sync.base.files import sync_folder

#: So much of the disk is left to others, whatever the budget says: the outbox and the recorder come first.
DISK_RESERVE = 64 << 20
#: Hex digits of a name: as many as a UUID has, so two parts never share one.
_NAME_DIGITS = 32


class DerivedFiles:
    """The folder of derived files.

    Args:
        folder: The agent's own: whatever is in it and nobody keeps is deleted. Need not exist yet.
        max_bytes: Budget for all of its files together (`derived_max_bytes`).
    """

    def __init__(self, folder: Path, max_bytes: int) -> None:
        self._folder = folder
        self._max_bytes = max_bytes

    def name_for(self, scenario_id: str, part_name: str, suffix: str) -> str:
        """Name of what is made of a part, the same every time: plain letters, whatever the part is called."""
        digest = hashlib.sha256(f"{scenario_id}\0{part_name}".encode(errors="surrogatepass")).hexdigest()
        return digest[:_NAME_DIGITS] + suffix

    def path(self, name: str) -> Path:
        """Where a derived file lies, or will."""
        return self._folder / name

    def size_bytes(self) -> int:
        """What all of them take, the half made ones too.

        Raises:
            StoreError: The folder cannot be read.
        """
        return sum(_size(entry) for entry in self._entries())

    def room_for(self, size_bytes: int) -> bool:
        """Whether a file of so many bytes may be made: the budget and the disk have room for it.

        Raises:
            StoreError: The folder cannot be read.
        """
        if self.size_bytes() + size_bytes > self._max_bytes:
            return False
        existing = next(folder for folder in (self._folder, *self._folder.absolute().parents) if folder.exists())
        return shutil.disk_usage(existing).free >= size_bytes + DISK_RESERVE

    def sweep(self, keep: Collection[str]) -> int:
        """Delete everything but the files named, half made ones too; durable when it returns.

        Whoever may be writing here must have ended before.

        Returns:
            Bytes that were freed.

        Raises:
            StoreError: Something could not be deleted; all else is.
        """
        freed, fault = 0, None
        swept = [entry for entry in self._entries() if entry.name not in keep]
        for entry in swept:
            size = _size(entry)
            try:
                if entry.is_dir() and not entry.is_symlink():
                    shutil.rmtree(entry)
                else:
                    entry.unlink(missing_ok=True)
                freed += size
            except OSError as error:
                fault = error
        if swept:
            try:
                sync_folder(self._folder)
            except OSError as error:
                fault = fault or error
        if fault is not None:
            raise StoreError(f"derived files cannot be deleted ({fault.strerror})") from None
        return freed

    def _entries(self) -> list[Path]:
        try:
            return list(self._folder.iterdir())
        except FileNotFoundError:
            return []
        except OSError as error:
            raise StoreError(f"the folder of derived files cannot be read ({error.strerror})") from None


def _size(entry: Path) -> int:
    """What a file takes; 0 for one that has gone meanwhile. Folders are nobody's here, and only ever swept."""
    try:
        return entry.lstat().st_size
    except FileNotFoundError:
        return 0
