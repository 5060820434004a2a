"""The file that goes for a part, open: read in pieces ahead of the network, hashed in pieces, never held whole."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Self

from sentinel_sync.base.errors import ScenarioError, StoreError
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.scenarios.recordings import open_part
from sentinel_sync.scenarios.rules.plan import Part

#: Read and sent at once. Below it the hops to a thread and back cost more than the reading; two are held at a time.
PIECE_BYTES = 512 << 10


class OpenPart:
    """An open file. An async context manager; it is closed on leaving.

    Args:
        file: Open for reading.
        name: For errors.
        size_bytes: What it has to have.
    """

    def __init__(self, file: BinaryIO, name: str, size_bytes: int) -> None:
        self._file = file
        self._name = name
        # A reading that nobody waits for any more must not meet another file under the same descriptor.
        self._lock = Lock()
        self.size_bytes = size_bytes

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await run_to_end(self._close)

    async def pieces(self, begin: int, end: int) -> AsyncGenerator[bytes, None]:
        """Give the bytes from `begin` to before `end`; the next piece is read while the one before is used.

        Raises:
            ScenarioError: The file has become shorter, or cannot be read any more.
        """
        ahead = self._start_reading(begin, end)
        while begin < end:
            piece = await ahead
            begin += len(piece)
            if begin < end:
                ahead = self._start_reading(begin, end)
            yield piece

    async def digest(self, algorithm: str, begin: int, end: int) -> bytes:
        """Hash the bytes from `begin` to before `end`.

        Raises:
            ScenarioError: As `pieces`.
        """
        # No protection against an attacker: tus names sha1, and some servers know no other.
        digest = hashlib.new(algorithm, usedforsecurity=False)
        await asyncio.to_thread(self.feed, digest, begin, end)
        return digest.digest()

    def feed(self, digest: "hashlib._Hash", begin: int, end: int) -> None:
        """Hash the bytes from `begin` to before `end`. Blocks: call it off the loop.

        Raises:
            ScenarioError: As `pieces`.
        """
        while begin < end:
            piece = self._read(begin, min(end, begin + PIECE_BYTES))
            digest.update(piece)
            begin += len(piece)

    def _start_reading(self, begin: int, end: int) -> "asyncio.Future[bytes]":
        reading = asyncio.get_running_loop().run_in_executor(None, self._read, begin, min(end, begin + PIECE_BYTES))
        reading.add_done_callback(_seen)
        return reading

    def _read(self, begin: int, end: int) -> bytes:
        try:
            with self._lock:
                piece = b"" if self._file.closed else os.pread(self._file.fileno(), end - begin, begin)
        except OSError as error:
            raise ScenarioError(f"{self._name} cannot be read ({error.strerror})") from None
        if not piece:
            raise ScenarioError(f"{self._name} became shorter while it was sent")
        return piece

    def _close(self) -> None:
        with self._lock:
            self._file.close()


async def open_what_goes(folder: Path, part: Part, derived_dir: Path) -> OpenPart:
    """Open what goes for a part: the recording's own file, or what was made of it.

    Raises:
        ScenarioError: The recording's file is not what was queued.
        StoreError: What was made of it is gone or changed; it has to be made again.
        ValueError: Nothing was made ready for it.
    """
    if part.file is None:
        raise ValueError(f"{part.name} was not made ready")
    if part.file.derived_name is None:
        file = await run_to_end(open_part, folder, part)
    else:
        file = await run_to_end(_open_derived, derived_dir / part.file.derived_name, part.file.size_bytes, part.name)
    return OpenPart(file, part.name, part.file.size_bytes)


def _open_derived(path: Path, size_bytes: int, name: str) -> BinaryIO:
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise StoreError(f"what was made of {name} cannot be opened ({error.strerror})") from None
    if os.fstat(file.fileno()).st_size != size_bytes:
        file.close()
        raise StoreError(f"what was made of {name} is not what it was")
    return file


def _seen(reading: "asyncio.Future[bytes]") -> None:
    """Whoever waited may have been cancelled: then an error of the reading is nobody's."""
    if not reading.cancelled():
        reading.exception()
