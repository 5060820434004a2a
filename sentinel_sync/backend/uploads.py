"""Resumable uploads under way: the bytes on disk, the hash that grows with them, and who may write next."""

import asyncio
import fcntl
import hashlib
import os
from pathlib import Path
from typing import Protocol, Self

from sentinel_sync.backend.storage import BLOCK, sync_folder, write_all

MOST_SESSIONS = 1024
"""Uploads whose running hash is kept in memory; for others it is computed again from the file."""


class RunningHash(Protocol):
    """What hashlib gives."""

    def update(self, data: bytes, /) -> None:
        """Takes the next bytes."""

    def hexdigest(self) -> str:
        """The digest of all bytes so far."""

    def copy(self) -> Self:
        """The same state, to go on from separately."""


class SupersededError(Exception):
    """Another request has taken over this upload."""


class BusyError(Exception):
    """Another process receives this upload just now."""


class UploadSession:
    """One upload. A PATCH begins, appends and ends; a newer PATCH takes over from one that hangs.

    A vehicle that lost its connection comes back on a new one, often before this side has noticed that the
    old one is dead. So the newest PATCH wins, and what the old one had received by then is kept.

    Where several processes share the folder, one of them has the file at a time, from a request's first look at it to
    its end; another that is asked meanwhile says so. What is known of the file is then only as old as the last request
    here, and is brought up to date with what others appended.
    """

    def __init__(self, path: Path, *, shared: bool = False) -> None:
        self._path = path
        self._shared = shared
        self._lock = asyncio.Lock()
        self._descriptor: int | None = None
        self._buffer = bytearray()
        self._writing: asyncio.Future[None] | None = None
        self._turn = 0
        self._turn_ended = True
        self._written = 0
        self._hash: RunningHash | None = None
        self._hash_at_begin: tuple[int, RunningHash] | None = None

    async def offset(self) -> int:
        """How many bytes are safe; what has been received and not yet written is written first.

        Raises:
            FileNotFoundError: The upload has ended meanwhile.
            BusyError: Another process has it.
        """
        async with self._lock:
            await self._open()
            await self._flush()
            if self._turn_ended:
                self._let_go()
            return self._written

    async def begin(self) -> tuple[int, int]:
        """Takes over; returns the turn to append with, and the offset.

        Raises:
            FileNotFoundError: The upload has ended meanwhile.
            BusyError: Another process has it.
        """
        async with self._lock:
            await self._open()
            await self._flush()
            self._turn += 1
            self._turn_ended = False
            self._hash_at_begin = (self._written, self._running_hash().copy())
            return self._turn, self._written

    async def append(self, turn: int, data: bytes) -> None:
        """Takes the next bytes.

        Raises:
            SupersededError: A newer request writes now; these bytes are not taken.
        """
        async with self._lock:
            self._check(turn)
            self._buffer += data
            if len(self._buffer) >= BLOCK:
                await self._hand_over()

    async def commit(self, turn: int) -> int:
        """Makes all appended bytes durable and returns the new offset.

        Raises:
            SupersededError: As above.
        """
        async with self._lock:
            self._check(turn)
            await self._flush()
            if self._descriptor is not None:
                await asyncio.to_thread(os.fdatasync, self._descriptor)
            return self._written

    async def take_back(self, turn: int) -> None:
        """Forgets everything appended in this turn: its checksum was wrong.

        Raises:
            SupersededError: As above; the newer request goes on from bytes that are wrong, which the checksum
                over the whole upload will find.
        """
        async with self._lock:
            self._check(turn)
            self._buffer.clear()
            await self._settle()
            if self._hash_at_begin is not None and self._descriptor is not None:
                self._written, self._hash = self._hash_at_begin
                await asyncio.to_thread(os.ftruncate, self._descriptor, self._written)
                await asyncio.to_thread(os.fdatasync, self._descriptor)

    async def end(self, turn: int) -> None:
        """The request of this turn is over, whatever became of it: other processes may have the file."""
        async with self._lock:
            if turn == self._turn:
                self._turn_ended = True
                if self._descriptor is not None:
                    await self._flush()
                    self._let_go()

    async def sha256(self) -> str:
        """The SHA-256 of all bytes so far, in hex."""
        async with self._lock:
            return self._running_hash().hexdigest()

    async def close(self) -> None:
        """Writes what is buffered and closes the file; the session can be used again."""
        async with self._lock:
            if self._descriptor is not None:
                await self._flush()
                self._turn += 1
                os.close(self._descriptor)
                self._descriptor = None

    def _check(self, turn: int) -> None:
        if turn != self._turn or self._descriptor is None:
            raise SupersededError

    def _running_hash(self) -> RunningHash:
        if self._hash is None:
            raise RuntimeError("the upload has not been opened")
        return self._hash

    async def _open(self) -> None:
        is_new = self._descriptor is None
        if self._descriptor is None:
            self._descriptor = await asyncio.to_thread(os.open, self._path, os.O_RDWR | os.O_APPEND)
            self._written, self._hash = 0, hashlib.sha256()
        if self._shared:
            try:
                fcntl.flock(self._descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                raise BusyError from None
        if is_new or (self._shared and self._turn_ended):
            self._written, self._hash = await asyncio.to_thread(self._hash_file, self._descriptor)

    def _let_go(self) -> None:
        if self._shared and self._descriptor is not None:
            fcntl.flock(self._descriptor, fcntl.LOCK_UN)

    def _hash_file(self, descriptor: int) -> tuple[int, RunningHash]:
        """Goes on from what is known, unless the file has become shorter."""
        running, size = self._running_hash(), self._written
        if os.fstat(descriptor).st_size < size:
            running, size = hashlib.sha256(), 0
        while block := os.pread(descriptor, BLOCK, size):
            running.update(block)
            size += len(block)
        return size, running

    async def _flush(self) -> None:
        """Gives all buffered bytes to the file."""
        if self._buffer:
            await self._hand_over()
        await self._settle()

    async def _hand_over(self) -> None:
        """Lets a thread write the buffer while the next bytes arrive; waits only for the block before."""
        await self._settle()
        block, self._buffer = bytes(self._buffer), bytearray()
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, block)

    async def _settle(self) -> None:
        if self._writing is not None:
            await asyncio.wait([self._writing])  # being cancelled here leaves the write to whoever comes next
            written, self._writing = self._writing, None
            written.result()

    def _write(self, block: bytes) -> None:
        if self._descriptor is None:
            raise RuntimeError("the upload is closed")
        write_all(self._descriptor, block)
        self._running_hash().update(block)
        self._written += len(block)


class UploadSessions:
    """The sessions of all uploads, made when first asked for."""

    def __init__(self, folder: Path, *, shared: bool = False) -> None:
        self._folder = folder
        self._shared = shared
        self._sessions: dict[str, UploadSession] = {}

    def path(self, upload_id: str) -> Path:
        """Where the bytes of this upload are."""
        return self._folder / upload_id

    async def create(self, upload_id: str) -> None:
        """Makes the empty file of a new upload, durably."""

        def make() -> None:
            self.path(upload_id).touch(mode=0o600, exist_ok=False)
            sync_folder(self._folder)

        await asyncio.to_thread(make)

    async def get(self, upload_id: str) -> UploadSession:
        """The session of an upload that exists."""
        session = self._sessions.pop(upload_id, None) or UploadSession(self.path(upload_id), shared=self._shared)
        self._sessions[upload_id] = session  # last in order: most recently used
        if len(self._sessions) > MOST_SESSIONS:
            oldest = next(iter(self._sessions))
            await self._sessions.pop(oldest).close()
        return session

    async def remove(self, upload_id: str) -> None:
        """Ends a session and removes its bytes."""
        session = self._sessions.pop(upload_id, None)
        if session is not None:
            await session.close()
        await asyncio.to_thread(lambda: self.path(upload_id).unlink(missing_ok=True))

    async def close(self) -> None:
        """Writes what is buffered and closes all files."""
        while self._sessions:
            _, session = self._sessions.popitem()
            await session.close()
