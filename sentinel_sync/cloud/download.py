"""Fetches one file of known size and checksum into a staging file: resumed where it stopped, hashed on the way.

Whose address it is does not matter: what counts is the checksum, and that was signed.
"""

import hashlib
import os
from collections.abc import Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import RejectedError, UnreachableError, VerificationError
from sentinel_sync.base.files import file_error, replace_file
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.response import Download
from sentinel_sync.cloud.rules.download import (
    AskForAddress,
    AskForAll,
    IsWhole,
    NotFound,
    PartialFile,
    Refuse,
    RetryLater,
    TakeBody,
    next_step,
    range_headers,
)

#: What is on its way, and what a server called it, beside the file that it will be.
PART_ENDING = ".part"
ETAG_ENDING = ".part.etag"
#: Written and hashed at once: large enough that the hop to a thread is no cost, small enough that no time is lost.
BUFFER_BYTES = 512 << 10
#: … but what came over a thin link is not kept back longer than this, seconds: a power cut costs no more, and whoever
#: looks sees it grow.
_LONGEST_KEPT = 1.0
#: A host that is slower than `download_min_rate` over so many seconds only keeps us busy ("slow retrieval").
RATE_WINDOW = 60.0


class StaleAddressError(UnreachableError):
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
    """

    def __init__(
        self, client: CloudAPIClient, target: Target, *, clock: Clock, on_progress: Callable[[int], None]
    ) -> None:
        self._client = client
        self._target = target
        self._clock = clock
        self._min_rate = client.settings.download_min_rate
        self._on_progress = on_progress
        self._staging = _Staging(target.staging)
        self._watched_since, self._received = clock.monotonic(), 0

    async def fetch(self, address: str) -> None:
        """Fetch what is missing from `address`; returns once the staging file is whole and its checksum right.

        Raises:
            StaleAddressError: The address has expired; what is on disk stays.
            UnreachableError: It broke off, or came too slowly; what is on disk stays.
            RejectedError: There is no file at this address.
            VerificationError: This is not the file that was signed; nothing of it stays.
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
        except OSError as error:
            raise file_error(error, self._target.staging) from None
        finally:
            await run_to_end(self._staging.close)

    async def _fetch(self, address: str) -> None:
        while self._staging.size < self._target.size:
            progress = PartialFile(self._staging.size, self._staging.etag)
            async with self._open(address, progress) as download:
                response = download.response
                step = next_step(response.status_code, response.headers, progress, self._target.size)
                match step:
                    case TakeBody(offset, etag):
                        await run_to_end(self._staging.go_on_from, offset, etag)
                        await self._receive(download, progress)
                    case AskForAll():
                        await run_to_end(self._staging.empty)
                    case AskForAddress():
                        raise StaleAddressError("GET a file: its address has expired", status=response.status_code)
                    case IsWhole():
                        return
                    case RetryLater(reason):
                        raise UnreachableError(f"GET a file: {reason}", status=response.status_code)
                    case NotFound(reason):
                        raise RejectedError(f"GET a file: {reason}", status=response.status_code)
                    case Refuse(reason):
                        raise VerificationError(f"the file is refused: its host {reason}")

    def _open(self, address: str, progress: PartialFile) -> AbstractAsyncContextManager[Download]:
        return self._client.download(address, range_headers(progress))

    async def _receive(self, download: Download, progress: PartialFile) -> None:
        """Write the body down, and never more of it than was signed."""
        before = self._staging.size
        buffer, written_at = bytearray(), self._clock.monotonic()
        try:
            async for chunk in download.response.aiter_raw():
                download.deadline.extend()
                if self._staging.size + len(buffer) + len(chunk) > self._target.size:
                    raise VerificationError(f"the file is refused: more than the {self._target.size} signed bytes came")
                buffer += chunk
                if len(buffer) >= BUFFER_BYTES or self._clock.monotonic() - written_at >= _LONGEST_KEPT:
                    await self._write(buffer)
                    written_at = self._clock.monotonic()
                self._note_pace(len(chunk))
        finally:
            # Also what came before it broke off: it is not to be fetched again.
            await self._write(buffer)
        if self._staging.size == before and self._staging.size < self._target.size:
            raise UnreachableError(f"GET a file: nothing came, {progress.offset} of {self._target.size} bytes are here")

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
            raise UnreachableError(f"GET a file: only {received} bytes came in {elapsed:.0f} s: too slow")


class _Staging:
    """A file that grows, with the hash of what it holds and the ETag it came under. Blocks: call it off the loop."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._etag_path = path.with_name(path.name.removesuffix(PART_ENDING) + ETAG_ENDING)
        self._descriptor = -1
        self._digest = hashlib.sha256()
        self.size = 0
        self.etag: str | None = None

    def open(self, limit: int) -> None:
        """Open it and hash what it holds; a file larger than `limit` is not what is wanted."""
        self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_NOFOLLOW | os.O_CLOEXEC, 0o600)
        if os.fstat(self._descriptor).st_size > limit:
            self.empty()
            return
        while chunk := os.read(self._descriptor, BUFFER_BYTES):
            self._digest.update(chunk)
            self.size += len(chunk)
        if self.size:
            try:
                self.etag = self._etag_path.read_text(encoding="utf-8")
            except (OSError, UnicodeDecodeError):
                self.etag = None

    def go_on_from(self, offset: int, etag: str | None) -> None:
        """Keep what there is (`offset` is its size) or nothing (0), and note what the server calls the file."""
        if offset != self.size:
            self.empty()
        if etag != self.etag or offset == 0:
            if etag is None:
                self._etag_path.unlink(missing_ok=True)
            else:
                replace_file(self._etag_path, etag.encode(), durable=False)
            self.etag = etag

    def empty(self) -> None:
        """Begin again."""
        os.ftruncate(self._descriptor, 0)
        os.lseek(self._descriptor, 0, os.SEEK_SET)
        self._digest, self.size, self.etag = hashlib.sha256(), 0, None
        self._etag_path.unlink(missing_ok=True)

    def append(self, piece: bytes) -> None:
        """Write the next bytes."""
        view = memoryview(piece)
        while view:
            written = os.write(self._descriptor, view)
            self._digest.update(view[:written])
            self.size += written
            view = view[written:]

    def checksum(self) -> str:
        """SHA-256 of what it holds, in hex."""
        return self._digest.hexdigest()

    def close(self) -> None:
        """Close it; what it holds stays."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


def discard(staging: Path) -> None:
    """Delete a staging file and what is known of it."""
    staging.unlink(missing_ok=True)
    staging.with_name(staging.name.removesuffix(PART_ENDING) + ETAG_ENDING).unlink(missing_ok=True)
