"""A large file as a request's body: read in pieces ahead of the network, hashed in pieces, never held whole."""

import asyncio
import hashlib
import os
from collections.abc import AsyncGenerator, AsyncIterator, Callable, Iterator
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Self

from aiolimiter import AsyncLimiter

from sentinel_sync.base.errors import FileError, SentinelSyncError
from sentinel_sync.base.threads import run_to_end

#: Read and sent at once. Below it the hops to a thread and back cost more than the reading; two are held at a time.
PIECE_BYTES = 512 << 10
#: Seconds of the bandwidth limit that may go at once: so much is the burst to begin with, and the unevenness later.
_BURST_SECONDS = 0.1
#: And no more bytes than this.
_LARGEST_BURST_BYTES = 64 << 10


class OpenFile:
    """An open file. An async context manager; it is closed on leaving.

    Args:
        file: Open for reading.
        name: For errors.
        size_bytes: What it has to have.
        error: Raised where it has become shorter, or cannot be read any more.
    """

    def __init__(
        self, file: BinaryIO, name: str, size_bytes: int, *, error: type[SentinelSyncError] = FileError
    ) -> None:
        self._file = file
        self._error = error
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
            SentinelSyncError: `error`: the file has become shorter, or cannot be read any more.
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
            SentinelSyncError: As `pieces`.
        """
        # No protection against an attacker: tus names sha1, and some servers know no other.
        digest = hashlib.new(algorithm, usedforsecurity=False)
        await asyncio.to_thread(self.feed, digest, begin, end)
        return digest.digest()

    def feed(self, digest: "hashlib._Hash", begin: int, end: int) -> None:
        """Hash the bytes from `begin` to before `end`. Blocks: call it off the loop.

        Raises:
            SentinelSyncError: As `pieces`.
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
            raise self._error(f"{self._name} cannot be read ({error.strerror})") from None
        if not piece:
            raise self._error(f"{self._name} became shorter while it was sent")
        return piece

    def _close(self) -> None:
        with self._lock:
            self._file.close()


class BandwidthLimit:
    """Lets so many bytes pass in a second, in pieces small enough that nobody else's turn comes late.

    Args:
        bytes_per_second: 0 is no limit.
    """

    def __init__(self, bytes_per_second: int) -> None:
        self._burst = max(1, min(int(bytes_per_second * _BURST_SECONDS), _LARGEST_BURST_BYTES))
        # aiolimiter lets a full bucket pass at once, and refuses what is larger than its bucket.
        limited = bytes_per_second > 0
        self._limiter = AsyncLimiter(self._burst, self._burst / bytes_per_second) if limited else None

    def cut(self, piece: bytes) -> Iterator[bytes]:
        """Cut a piece so that each part of it can pass."""
        if self._limiter is None or len(piece) <= self._burst:
            yield piece
            return
        for begin in range(0, len(piece), self._burst):
            yield piece[begin : begin + self._burst]

    async def wait(self, size_bytes: int) -> None:
        """Wait until so many bytes may go."""
        if self._limiter is not None:
            await self._limiter.acquire(size_bytes)


class FileBody:
    """A range of an open file as a request's body; iterate it once.

    Args:
        source: The file.
        begin: Its first byte that goes.
        end: The first that does not.
        before: What goes before the file's bytes.
        after: What goes after them.
        bandwidth: How fast they may go.
        on_progress: Told up to where the file's bytes have been handed to the network.

    Attributes:
        size_bytes: Of the whole body.
        reached: Up to where the file's bytes were taken out of it.
    """

    def __init__(
        self,
        source: OpenFile,
        begin: int,
        end: int,
        *,
        before: bytes = b"",
        after: bytes = b"",
        bandwidth: BandwidthLimit,
        on_progress: Callable[[int], None],
    ) -> None:
        self._source = source
        self._begin = begin
        self._end = end
        self._before = before
        self._after = after
        self._bandwidth = bandwidth
        self._on_progress = on_progress
        self.size_bytes = len(before) + end - begin + len(after)
        self.reached = begin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the body in pieces.

        Raises:
            SentinelSyncError: The file has become shorter, or cannot be read any more.
        """
        if self._before:
            yield self._before
        async for block in self._source.pieces(self._begin, self._end):
            for piece in self._bandwidth.cut(block):
                await self._bandwidth.wait(len(piece))
                self.reached += len(piece)
                yield piece
                self._on_progress(self.reached)
        if self._after:
            yield self._after


def _seen(reading: "asyncio.Future[bytes]") -> None:
    """Whoever waited may have been cancelled: then an error of the reading is nobody's."""
    if not reading.cancelled():
        reading.exception()
