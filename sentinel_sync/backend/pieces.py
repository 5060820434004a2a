"""Parts of files that vehicles put straight to where they are to be, at addresses that they are given."""

import asyncio
import hashlib
import math
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Protocol

from sentinel_sync.backend.downloads import sign
from sentinel_sync.backend.storage import BLOCK


class Pieces(Protocol):
    """The parts of all files that are on their way; a scenario and a file's name say which file's."""

    async def there(self, scenario: int, name: str) -> dict[int, str]:
        """ETags of the parts that are there, by number."""

    async def address(self, base: str, scenario: int, name: str, number: int, seconds: float) -> str:
        """Where one is put, without a credential, for so many seconds.

        Args:
            base: How this process is reached, where it takes them itself.
            scenario: Its row.
            name: Of the file.
            number: From 1.
            seconds: For which the address holds.
        """

    def read(self, scenario: int, name: str, number: int) -> AsyncIterator[bytes]:
        """The bytes of one.

        Raises:
            FileNotFoundError: It is gone.
        """

    async def remove(self, scenario: int, name: str) -> None:
        """Removes all of a file's."""


class FolderPieces:
    """In a folder; they come through this process, at `/direct/…`; see `Pieces`."""

    def __init__(self, folder: Path, secret: bytes, clock: Callable[[], float]) -> None:
        self._folder = folder
        self._secret = secret
        self._clock = clock

    async def there(self, scenario: int, name: str) -> dict[int, str]:
        """By the names of files."""
        found = await asyncio.to_thread(self._paths, scenario, hidden(name))
        return {number: _etag(path) for number, path in found.items()}

    async def address(self, base: str, scenario: int, name: str, number: int, seconds: float) -> str:
        """One of this process, signed."""
        expires = math.ceil(self._clock() + seconds)
        place = (str(scenario), hidden(name), str(number))
        token = sign(self._secret, "direct", *place, str(expires))
        return f"{base}/direct/{'/'.join(place)}?expires={expires}&token={token}"

    async def read(self, scenario: int, name: str, number: int) -> AsyncIterator[bytes]:
        """From its file."""
        found = await asyncio.to_thread(self._paths, scenario, hidden(name))
        if number not in found:
            raise FileNotFoundError(2, "this part is gone", str(number))
        with await asyncio.to_thread(found[number].open, "rb") as piece:
            while block := await asyncio.to_thread(piece.read, BLOCK):
                yield block

    async def remove(self, scenario: int, name: str) -> None:
        """Removes their files."""

        def remove() -> None:
            for path in self._paths(scenario, hidden(name)).values():
                path.unlink(missing_ok=True)

        await asyncio.to_thread(remove)

    async def take(self, received: Path, scenario: int, hidden_name: str, number: int, sha256: str) -> str:
        """Lets a durable file of the folder be a part, instead of what came before of its number; its ETag."""
        target = self._folder / f"direct-{scenario}-{hidden_name}-{number}-{sha256}"

        def take() -> None:
            received.replace(target)
            for other in self._folder.glob(f"direct-{scenario}-{hidden_name}-{number}-*"):
                if other != target:
                    other.unlink(missing_ok=True)

        await asyncio.to_thread(take)
        return _etag(target)

    def _paths(self, scenario: int, hidden_name: str) -> dict[int, Path]:
        found = self._folder.glob(f"direct-{scenario}-{hidden_name}-*-*")
        return {int(path.name.split("-")[3]): path for path in found}


def hidden(name: str) -> str:
    """Stands for a file's name in addresses and paths: nothing that came over the network is ever part of a path."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _etag(path: Path) -> str:
    return f'"{path.name.rpartition("-")[2]}"'
