"""Files that arrive: written in blocks off the event loop, hashed on the way, durable when they are finished."""

import asyncio
import contextlib
import hashlib
import os
import secrets
import time
from dataclasses import dataclass
from pathlib import Path
from types import TracebackType
from typing import Self

BLOCK = 1024 * 1024
"""Bytes that are gathered before a thread writes them: large enough that the hand-over costs nothing."""
SPARED_AGE = 3600.0
"""Seconds for which a file without a row is not taken for a leftover."""


@dataclass(frozen=True, slots=True)
class ReceivedFile:
    """A file that is whole and on disk."""

    path: Path
    size: int
    sha256: str


class Folders:
    """Where the backend keeps its files. No name that came over the network is ever part of a path."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.database: Path = root / "backend.sqlite3"
        self.secret: Path = root / "secret.key"
        self.api_key: Path = root / "api_key"
        self.lock: Path = root / "lock"
        self.incoming: Path = root / "incoming"
        self.uploads: Path = root / "uploads"
        self.parts: Path = root / "parts"
        self.models: Path = root / "models"

    def create(self) -> None:
        """Makes the folders, readable by nobody else."""
        for folder in (self.root, self.incoming, self.uploads, self.parts, self.models):
            folder.mkdir(mode=0o700, parents=True, exist_ok=True)

    def clean(self, known: set[str]) -> None:
        """Removes what a crash left: files that no row of the database knows.

        Young ones stay: another process may be publishing a model, whose row comes after its file.
        """
        oldest_spared = time.time() - SPARED_AGE
        for folder in (self.incoming, self.uploads, self.parts, self.models):
            for path in folder.iterdir():
                if path.name not in known and path.stat().st_mtime < oldest_spared:
                    path.unlink()

    def load_secret(self) -> bytes:
        """The key for download tokens and for the digests of forgotten drivers; made at the first start.

        Of several processes that start at once on a new folder one makes it, and all have the same.
        """
        if not self.secret.exists():
            fresh = self.incoming / f"secret-{fresh_name()}"
            descriptor = os.open(fresh, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
            with os.fdopen(descriptor, "wb") as file:
                file.write(secrets.token_bytes(32))
                file.flush()
                os.fsync(file.fileno())
            with contextlib.suppress(FileExistsError):  # another process was first
                os.link(fresh, self.secret)
            fresh.unlink()
            sync_folder(self.root)
        return self.secret.read_bytes()


def fresh_name() -> str:
    """A name that no file has had yet."""
    return secrets.token_hex(16)


def sync_folder(folder: Path) -> None:
    """Makes a rename or a new name in the folder survive a power cut."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)


class IncomingFile:
    """One file on its way in. Use as an async context manager: what is not finished is removed on leaving."""

    def __init__(self, folder: Path) -> None:
        self._path = folder / fresh_name()
        self._file = self._path.open("xb", buffering=0)  # closed by __aexit__
        self._hash = hashlib.sha256()
        self._buffer = bytearray()
        self._writing: asyncio.Future[None] | None = None
        self._moved = False
        self.size = 0

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._writing is not None:
            # The thread still uses the file, even if nobody waits for it any more. Where it failed, the error has
            # been raised by the call that waited, or what is being left for is worse.
            await asyncio.wait([self._writing])
            self._writing.exception()
        self._file.close()
        if not self._moved:
            self._path.unlink(missing_ok=True)

    async def append(self, data: bytes) -> None:
        """Takes the next bytes; waits only when the disk is a whole block behind."""
        self.size += len(data)
        self._buffer += data
        if len(self._buffer) >= BLOCK:
            await self._hand_over()

    async def finish(self, folder: Path) -> ReceivedFile:
        """Writes the rest, makes it durable and moves it into `folder` under a fresh name."""
        await self._hand_over()
        if self._writing is not None:
            await self._writing
        target = folder / self._path.name
        await asyncio.to_thread(self._make_durable, target)
        self._moved = True
        return ReceivedFile(target, self.size, self._hash.hexdigest())

    async def _hand_over(self) -> None:
        if self._writing is not None:
            await asyncio.shield(self._writing)
        block, self._buffer = bytes(self._buffer), bytearray()
        self._writing = asyncio.get_running_loop().run_in_executor(None, self._write, block)

    def _write(self, block: bytes) -> None:
        write_all(self._file.fileno(), block)
        self._hash.update(block)

    def _make_durable(self, target: Path) -> None:
        os.fsync(self._file.fileno())
        self._path.replace(target)
        sync_folder(target.parent)


def write_all(descriptor: int, block: bytes) -> None:
    """Writes all of a block at the descriptor's position."""
    view = memoryview(block)
    while view:
        view = view[os.write(descriptor, view) :]
