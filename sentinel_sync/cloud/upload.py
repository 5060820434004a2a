"""Sends a file by the first protocol that the backend takes it by: the seam for upload protocols.

Another protocol is a class with the methods of `UploadProtocol` in a file of its own, and a line in `Uploads`.
"""

import asyncio
import hashlib
import os
import secrets
from collections.abc import AsyncGenerator, AsyncIterator, Awaitable, Callable, Iterator
from dataclasses import dataclass
from http import HTTPMethod
from threading import Lock
from types import TracebackType
from typing import BinaryIO, Protocol, Self

from aiolimiter import AsyncLimiter

from sentinel_sync.base.errors import (
    CredentialError,
    FileError,
    SentinelSyncError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient

#: Read and sent at once. Below it the hops to a thread and back cost more than the reading; two are held at a time.
PIECE_BYTES = 512 << 10
#: Seconds of the bandwidth limit that may go at once: so much is the burst to begin with, and the unevenness later.
_BURST_SECONDS = 0.1
#: And no more bytes than this.
_LARGEST_BURST_BYTES = 64 << 10
#: What `remember` keeps in the place of a URL of an upload to addresses that expire.
DIRECTLY = "direct-uploads:"


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
    """A range of an open file as a request's body. Each iteration begins anew.

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
        begin: The file's first byte in it.
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
        self.begin = begin
        self._end = end
        self._before = before
        self._after = after
        self._bandwidth = bandwidth
        self._on_progress = on_progress
        self.size_bytes: int = len(before) + end - begin + len(after)
        self.reached = begin

    @property
    def has_begun(self) -> bool:
        """Whether some of the file was taken out of it."""
        return self.reached > self.begin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the body in pieces.

        Raises:
            SentinelSyncError: The file has become shorter, or cannot be read any more.
        """
        self.reached = self.begin
        if self._before:
            yield self._before
        async for block in self._source.pieces(self.begin, self._end):
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


@dataclass(frozen=True, slots=True)
class FileUpload:
    """A file that is to be sent.

    Attributes:
        path: Where files of its kind go, below `api_url`.
        key: `Idempotency-Key` of the work; a UUID.
        source: The file.
        name: What the backend knows it by.
        content_type: Of the file's bytes.
        sha256: Of the file's bytes, in hex.
        encoding: `Content-Encoding` of the bytes, or None.
        as_form: Whether one request that has it whole is a form with one field, named like the file.
        resume_url: Of an upload that was begun before, or None.
        may_send: Awaited before each request: raises HeldError where nothing may be sent any more.
        remember: Keeps the URL of an upload that can be resumed, or None for "there is none"; awaited before the first
            byte goes there.
        on_progress: Told how many of the file's bytes have arrived or were handed to the network.
        confirmed: Told how many of them the other side says that it has.
    """

    path: str
    key: str
    source: OpenFile
    name: str
    content_type: str
    sha256: str
    encoding: str | None
    as_form: bool
    resume_url: str | None
    may_send: Callable[[], Awaitable[object]]
    remember: Callable[[str | None], Awaitable[None]]
    on_progress: Callable[[int], None]
    confirmed: Callable[[int], None]

    @property
    def was_begun_directly(self) -> bool:
        """Whether what was begun before is a direct upload: its addresses have expired, and are asked for anew."""
        return self.resume_url == DIRECTLY

    @property
    def resume_address(self) -> str | None:
        """The URL where an upload that was begun before goes on, or None."""
        return None if self.was_begun_directly else self.resume_url


class UploadProtocol(Protocol):
    """A way for files to get to the backend."""

    async def takes_encoding(self, path: str, encoding: str) -> bool | None:
        """Whether files that go to `path` may be packed so; None where the backend does not offer this protocol.

        Raises:
            CloudError: It does not say now.
        """
        ...

    async def send(self, upload: FileUpload) -> bool:
        """Send a file, or what the backend has not got of it; returns once the backend has acknowledged it.

        Returns:
            False where the backend does not take it by this protocol: nothing is left of the attempt.

        Raises:
            CloudError: It has not arrived whole.
            SentinelSyncError: The file cannot be read.
        """
        ...

    def forget(self, path: str) -> None:
        """Ask the backend again what it offers: whoever answered may not have been the backend."""
        ...


class SingleRequest:
    """The whole file in one POST; every backend takes it.

    Args:
        bandwidth: How fast.
    """

    def __init__(self, client: CloudAPIClient, bandwidth: BandwidthLimit) -> None:
        self._client = client
        self._bandwidth = bandwidth

    async def takes_encoding(self, path: str, encoding: str) -> bool | None:  # noqa: ARG002 - as the protocol has it
        """The contract allows gzip for annotations, the only files that are packed."""
        return True

    async def send(self, upload: FileUpload) -> bool:
        """Send it, whatever was sent of it before."""
        await upload.may_send()
        headers, before, after = _form(upload) if upload.as_form else _plain(upload)
        body = FileBody(
            upload.source,
            0,
            upload.source.size_bytes,
            before=before,
            after=after,
            bandwidth=self._bandwidth,
            on_progress=upload.on_progress,
        )
        await self._client.request(
            HTTPMethod.POST,
            upload.path,
            content=body,
            headers={**headers, "Content-Length": str(body.size_bytes)},
            idempotency_key=upload.key,
            bulk=True,
        )
        return True

    def forget(self, path: str) -> None:
        """There is nothing that the backend offers."""


class Uploads:
    """Sends files over one client, within its `upload_bandwidth_limit`.

    Args:
        protocols: In the order in which they are tried; the last takes every file.
    """

    def __init__(self, protocols: tuple[UploadProtocol, ...]) -> None:
        self._protocols = protocols

    async def takes_encoding(self, path: str, encoding: str) -> bool:
        """Whether files that go to `path` may be packed so.

        Raises:
            CloudError: The backend does not say now.
        """
        for protocol in self._protocols:
            taken = await protocol.takes_encoding(path, encoding)
            if taken is not None:
                return taken
        return False

    async def send(self, upload: FileUpload) -> None:
        """Send a file; returns once the backend has acknowledged it.

        Raises:
            CloudError: It has not arrived whole.
            HeldError: It may not be sent any more.
            SentinelSyncError: The file cannot be read.
        """
        passed_over: list[UploadProtocol] = []
        for protocol in self._protocols:
            try:
                if await protocol.send(upload):
                    return
            except (UnreachableError, UnacknowledgedError, CredentialError):
                # Whoever said that there is nothing better may have been a login page, or have refused us.
                for other in passed_over:
                    other.forget(upload.path)
                raise
            passed_over.append(protocol)


def _form(upload: FileUpload) -> tuple[dict[str, str], bytes, bytes]:
    """Headers of a `multipart/form-data` request of one part, what goes before the file, and what goes after it."""
    boundary = secrets.token_hex(16)
    # Names have no quotation marks, slashes or control characters, so they need no escaping.
    before = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{upload.name}"; filename="{upload.name}"\r\n'
        f"Content-Type: {upload.content_type}\r\n\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return headers, before.encode(), f"\r\n--{boundary}--\r\n".encode()


def _plain(upload: FileUpload) -> tuple[dict[str, str], bytes, bytes]:
    headers = {"Content-Type": upload.content_type}
    return (headers if upload.encoding is None else {**headers, "Content-Encoding": upload.encoding}), b"", b""
