"""Fetches one file of known size and checksum into a staging file: resumed where it stopped, hashed on the way.

Whose address it is does not matter: what counts is the checksum, and that was signed.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from sentinel_sync.base.clock import Clock, http_date
from sentinel_sync.base.errors import UnreachableError, VerificationError
from sentinel_sync.base.files import digest_like, file_error, replace_file
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.response import Download
from sentinel_sync.cloud.rules.answers import (
    AskForAddress,
    AskForAll,
    IsWhole,
    NotFound,
    PartialFile,
    RetryLater,
    TakeBody,
    next_step,
    range_headers,
    retry_after_seconds,
)

#: What is on its way, and what a server called it, beside the file that it will be.
PART_ENDING = ".part"
ETAG_ENDING = ".part.etag"
#: What comes again from the file's start, until it is longer than what there is.
RESTART_ENDING = ".restart.part"
#: Written and hashed at once: large enough that the hop to a thread is no cost, small enough that no time is lost.
BUFFER_BYTES = 512 << 10
#: … but what came over a thin link is not kept back longer than this, seconds: a power cut costs no more, and whoever
#: looks sees it grow.
_LONGEST_KEPT = 1.0
#: Statuses of an answer that was to be the file.
_GAVE_SOMETHING = frozenset({200, 206})
#: A host that is slower than `download_min_rate` over so many seconds only keeps us busy ("slow retrieval").
RATE_WINDOW = 60.0


class FileHostError(UnreachableError):
    """A file's host gave no file, or not all of it: it is asked again at its own pace, whatever else succeeds.

    Attributes:
        retry_after: Seconds that this host asked for, or None; they hold for it alone.
    """

    def __init__(self, message: str, *, status: int | None = None, retry_after: float | None = None) -> None:
        super().__init__(message, status=status)
        self.retry_after = retry_after


class StaleAddressError(FileHostError):
    """The address has expired: ask for a new one."""


@dataclass(frozen=True, slots=True)
class Target:
    """The file that is wanted.

    Attributes:
        staging: Where it is put together.
        size: Bytes, as signed.
        checksum: SHA-256 in hex, as signed.
    """

    staging: Path
    size: int
    checksum: str


class FileDownload:
    """One file on its way. What is on disk after a failure is gone on from, also by the next process.

    Args:
        client: Opens addresses; its settings have the lowest rate.
        target: What is wanted.
        on_progress: Told how many bytes are on disk.

    Attributes:
        received_bytes: All that came, also what was of no use.
    """

    def __init__(
        self, client: CloudAPIClient, target: Target, *, clock: Clock, on_progress: Callable[[int], None]
    ) -> None:
        self._client = client
        self._target = target
        self._clock = clock
        self._min_rate = client.settings.download_min_rate
        self._on_progress = on_progress
        self._staging = _Staging(target.staging, partial(digest_like, target.checksum))
        self._watched_since, self._received = clock.monotonic(), 0
        self.received_bytes = 0

    @property
    def size_bytes(self) -> int:
        """What is on disk of it, as of the last attempt."""
        return self._staging.size

    async def fetch(self, address: str) -> None:
        """Fetch what is missing from `address`; returns once the staging file is whole and its checksum right.

        Whatever an answer is, what is on disk stays until something longer has come.

        Raises:
            FileHostError: The host gave no file, not all of it, or too slowly, or it broke off (StaleAddressError: the
                address has expired).
            VerificationError: The whole bytes are not those that were signed; nothing of them stays.
            StoreError: The models folder cannot be written.
        """
        try:
            await run_to_end(self._staging.open, self._target.size)
            resumed = self._staging.size > 0
            self._watched_since, self._received = self._clock.monotonic(), 0
            await self._fetch(address)
            if self._staging.checksum() != self._target.checksum and resumed:
                # Perhaps only what was on disk was spoilt, by a power cut or a file that changed under its address.
                await run_to_end(self._staging.empty)
                await self._fetch(address)
            if self._staging.checksum() != self._target.checksum:
                raise VerificationError("the file is refused: its bytes are not those that were signed")
        except VerificationError:
            await run_to_end(discard, self._target.staging)
            raise
        except UnreachableError as error:
            if isinstance(error, FileHostError):
                if not self._staging.size and error.status in _GAVE_SOMETHING:
                    await run_to_end(discard, self._target.staging)
                raise
            raise FileHostError(str(error), status=error.status) from None
        except OSError as error:
            raise file_error(error, self._target.staging) from None
        finally:
            await run_to_end(self._staging.close)

    async def _fetch(self, address: str) -> None:
        asks_for_all = False
        while self._staging.size < self._target.size:
            progress = PartialFile() if asks_for_all else PartialFile(self._staging.size, self._staging.etag)
            async with self._open(address, progress) as download:
                response = download.response
                match next_step(response.status_code, response.headers, progress, self._target.size):
                    case TakeBody(offset, etag):
                        await self._take(download, offset, etag)
                        asks_for_all = False
                    case AskForAll() if not asks_for_all:
                        asks_for_all = True
                    case AskForAll():
                        raise self._host_error("its answers do not fit what was asked for", response)
                    case AskForAddress():
                        raise StaleAddressError("GET a file: its address has expired", status=response.status_code)
                    case IsWhole():
                        return
                    case RetryLater(reason) | NotFound(reason):
                        raise self._host_error(reason, response)

    def _open(self, address: str, progress: PartialFile) -> AbstractAsyncContextManager[Download]:
        return self._client.download(address, range_headers(progress))

    def _host_error(self, reason: str, response: httpx.Response) -> FileHostError:
        theirs = http_date(response.headers.get("Date"))
        now = self._clock.now() if theirs is None else theirs
        cap = self._client.settings.max_retry_after
        wait = retry_after_seconds(response.headers.get("Retry-After"), now, cap)
        return FileHostError(f"GET a file: its host {reason}", status=response.status_code, retry_after=wait)

    async def _take(self, download: Download, offset: int, etag: str | None) -> None:
        """Take a body in; what is on disk is only replaced by something longer."""
        before = self._staging.size
        await run_to_end(self._staging.begin, offset, etag)
        try:
            await self._receive(download)
        finally:
            await run_to_end(self._staging.end)
        if self._staging.size <= before:
            why = f"GET a file: nothing new came, {before} of {self._target.size} bytes are here"
            raise FileHostError(why, status=download.response.status_code)

    async def _receive(self, download: Download) -> None:
        """Write the body down, and never more of it than was signed."""
        buffer, written_at = bytearray(), self._clock.monotonic()
        try:
            async for chunk in download.response.aiter_raw():
                download.deadline.extend()
                self.received_bytes += len(chunk)
                if self._staging.position + len(buffer) + len(chunk) > self._target.size:
                    buffer.clear()
                    await run_to_end(self._staging.take_back)
                    why = f"GET a file: its host sent more than the {self._target.size} signed bytes"
                    raise FileHostError(why, status=download.response.status_code)
                buffer += chunk
                if len(buffer) >= BUFFER_BYTES or self._clock.monotonic() - written_at >= _LONGEST_KEPT:
                    await self._write(buffer)
                    written_at = self._clock.monotonic()
                self._note_pace(len(chunk))
        finally:
            # Also what came before it broke off: it is not to be fetched again.
            await self._write(buffer)

    async def _write(self, buffer: bytearray) -> None:
        if buffer:
            piece = bytes(buffer)
            buffer.clear()
            await run_to_end(self._staging.append, piece)
            self._on_progress(self._staging.size)

    def _note_pace(self, count: int) -> None:
        """Watch the rate over all answers: a host may give the file in many that are short."""
        self._received += count
        now = self._clock.monotonic()
        elapsed = now - self._watched_since
        if elapsed < RATE_WINDOW:
            return
        received, self._watched_since, self._received = self._received, now, 0
        if received < self._min_rate * elapsed:
            raise FileHostError(f"GET a file: only {received} bytes came in {elapsed:.0f} s: too slow")


class _GrowingFile:
    """A file that grows, with the hash of what it holds. Blocks."""

    def __init__(self, path: Path, digest: "hashlib._Hash", flags: int = 0) -> None:
        self.path = path
        flags |= os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC
        self._descriptor = os.open(path, flags, 0o600)
        self.digest = digest
        self.size = 0
        self._state: tuple[int, int, int] | None = None

    def read_through(self) -> None:
        """Hash what it holds."""
        while chunk := os.read(self._descriptor, BUFFER_BYTES):
            self.digest.update(chunk)
            self.size += len(chunk)

    def length(self) -> int:
        """Bytes on disk."""
        return os.fstat(self._descriptor).st_size

    def go_on(self, opened: "_GrowingFile") -> bool:
        """Have the same file, opened again, go on with the hash that is known; False where it has changed since."""
        same = self._state == opened.state()
        if same:
            opened.cut(self.size, self.digest)
        return same

    def state(self) -> tuple[int, int, int]:
        """What tells whether a file is still what it was."""
        status = os.fstat(self._descriptor)
        return status.st_ino, status.st_size, status.st_mtime_ns

    def append(self, piece: bytes) -> None:
        """Write the next bytes."""
        view = memoryview(piece)
        while view:
            written = os.write(self._descriptor, view)
            self.digest.update(view[:written])
            self.size += written
            view = view[written:]

    def cut(self, size: int, digest: "hashlib._Hash") -> None:
        """Go back to a size that it had, and the hash that it had then."""
        os.ftruncate(self._descriptor, size)
        os.lseek(self._descriptor, size, os.SEEK_SET)
        self.size, self.digest = size, digest

    def close(self) -> None:
        """Close it; what it holds stays."""
        self._state = self.state()
        os.close(self._descriptor)


class _Staging:
    """What has come of a file, under the ETag it came under. Blocks: call it off the loop.

    A body that begins again at the file's start is written beside what there is, and takes its place once it is longer.
    """

    def __init__(self, path: Path, new_digest: "Callable[[], hashlib._Hash]") -> None:
        self._path = path
        self._new_digest = new_digest
        self._etag_path = path.with_name(path.name.removesuffix(PART_ENDING) + ETAG_ENDING)
        self._restart_path = path.with_name(path.name.removesuffix(PART_ENDING) + RESTART_ENDING)
        self._kept: _GrowingFile | None = None
        self._closed: _GrowingFile | None = None
        self._restart: _GrowingFile | None = None
        self._restart_etag: str | None = None
        self._before: tuple[int, hashlib._Hash] = (0, new_digest())
        self.size = 0
        self.etag: str | None = None

    @property
    def position(self) -> int:
        """Where the body that is coming stands."""
        return self.size if self._restart is None else self._restart.size

    def open(self, limit: int) -> None:
        """Open it and hash what it holds; a file larger than `limit` is not what is wanted."""
        self._kept = _GrowingFile(self._path, self._new_digest())
        if self._closed is not None and self._closed.go_on(self._kept):
            return
        if self._kept.length() > limit:
            self.empty()
            return
        self._kept.read_through()
        self.size = self._kept.size
        self.etag = None
        if self.size:
            try:
                self.etag = self._etag_path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                self.etag = None

    def begin(self, offset: int, etag: str | None) -> None:
        """A body comes that belongs at `offset`: at the end of what there is, or at the start."""
        if offset == self.size:
            self._before = (self.size, self._file.digest.copy())
            self._note(etag)
        else:
            self._restart, self._restart_etag = _GrowingFile(self._restart_path, self._new_digest(), os.O_TRUNC), etag
            self._before = (0, self._new_digest())

    def append(self, piece: bytes) -> None:
        """Write the next bytes of the body."""
        (self._restart or self._file).append(piece)
        self.size = self._file.size

    def take_back(self) -> None:
        """Forget what came of the body: it cannot be a part of the file."""
        (self._restart or self._file).cut(*self._before)
        self.size = self._file.size

    def end(self) -> None:
        """No more of the body comes."""
        restart, self._restart = self._restart, None
        if restart is None:
            return
        if restart.size <= self.size:
            restart.close()
            self._restart_path.unlink(missing_ok=True)
            return
        self._restart_path.replace(self._path)
        self._file.close()
        self._kept, self.size = restart, restart.size
        self._note(self._restart_etag)

    def empty(self) -> None:
        """Begin again."""
        self._file.cut(0, self._new_digest())
        self.size, self.etag = 0, None
        self._etag_path.unlink(missing_ok=True)

    def checksum(self) -> str:
        """The checksum of what it holds, in hex, of the kind of the target's."""
        return self._file.digest.hexdigest()

    def close(self) -> None:
        """Close it; what it holds stays."""
        if self._kept is not None:
            self._kept.close()
            self._kept, self._closed = None, self._kept

    @property
    def _file(self) -> _GrowingFile:
        if self._kept is None:
            raise ValueError("the staging file is not open")
        return self._kept

    def _note(self, etag: str | None) -> None:
        """Write down what the server calls the file."""
        if etag == self.etag:
            return
        if etag is None:
            self._etag_path.unlink(missing_ok=True)
        else:
            replace_file(self._etag_path, etag.encode(), durable=False)
        self.etag = etag


def owner_of(path: Path) -> Path:
    """The staging file that a file beside it belongs to; of any other, itself."""
    for ending in (ETAG_ENDING, RESTART_ENDING):
        if path.name.endswith(ending):
            return path.with_name(path.name.removesuffix(ending) + PART_ENDING)
    return path


def discard(staging: Path) -> None:
    """Delete a staging file and what is known of it."""
    name = staging.name.removesuffix(PART_ENDING)
    for path in (staging, staging.with_name(name + ETAG_ENDING), staging.with_name(name + RESTART_ENDING)):
        path.unlink(missing_ok=True)
