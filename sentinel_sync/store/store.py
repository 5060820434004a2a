"""The state folder: its lock, its one database, and what lies in it. What a power cut must not take is here."""

import asyncio
import errno
import fcntl
import logging
import os
import sqlite3
import time
from pathlib import Path
from typing import IO, Self

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import StateLockedError, StoreError, StoreFullError
from sentinel_sync.base.files import LEFTOVERS
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.store.database import Database, translated
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.headroom import Headroom
from sentinel_sync.store.outbox import Outbox
from sentinel_sync.store.salvage import Salvage, finish, is_sound, salvage

logger: logging.Logger = logging.getLogger(__name__)

LOCK_NAME = "agent.lock"
#: `is_locked` holds the lock for an instant itself: an agent that starts just then looks again, so many times …
_LOOKS = 5
#: … after so many seconds.
_PAUSE = 0.02
DATABASE_NAME = "outbox.db"
HEADROOM_NAME = "headroom"
DEFAULT_STATE_DIR = Path("state")
DEFAULT_MAX_BYTES = 256 << 20


class StateLock:
    """`flock` on a file in the state folder; the file's text is the owner's process id, for people.

    Blocks shortly: call it off the loop.
    """

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK_NAME
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StateLockedError: Another agent holds it.
        """
        file = self._path.open("a+", encoding="ascii", errors="replace")
        try:
            if not _try_lock(file):
                file.seek(0)
                owner = file.read(20).strip() or "unknown"
                raise StateLockedError(
                    f"another agent (process {owner}) runs on {self._path.parent}: "
                    "stop it first, or give this one a state_dir of its own"
                )
            file.truncate(0)
            file.write(str(os.getpid()))
            file.flush()
        except BaseException:
            file.close()
            raise
        self._file = file

    def release(self) -> None:
        """Give the lock back, if it is held."""
        file, self._file = self._file, None
        if file is not None:
            # Closing is not enough where the host has forked: the child has the same open file.
            fcntl.flock(file, fcntl.LOCK_UN)
            file.close()


def is_locked(state_dir: Path) -> bool:
    """Whether an agent runs on this folder now. Blocks shortly; writes nothing."""
    try:
        with (state_dir / LOCK_NAME).open(encoding="ascii", errors="replace") as file:
            fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False


def _try_lock(file: IO[str]) -> bool:
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        return True
    return False


class Store:
    """Opens the state folder and holds it. An async context manager; `open` may be called again.

    Args:
        state_dir: The folder; made (0700: trips are personal even without a name) where it is missing.
        max_bytes: Bound of the outbox.
        exclusive: True for whoever sends: takes the folder's lock and repairs a damaged file. False for a look from
            outside, or to add to what a running agent sends.

    Attributes:
        outbox: Outgoing work.
        documents: Small durable facts.
        salvaged: What became of a file found damaged at `open`, or None.
    """

    def __init__(
        self,
        state_dir: Path = DEFAULT_STATE_DIR,
        *,
        clock: Clock | None = None,
        max_bytes: int = DEFAULT_MAX_BYTES,
        exclusive: bool = True,
    ) -> None:
        self._state_dir = state_dir
        self._clock = clock or SystemClock()
        self._exclusive = exclusive
        self._lock = StateLock(state_dir)
        self._headroom = Headroom(state_dir / HEADROOM_NAME)
        self._database = Database(state_dir / DATABASE_NAME, headroom=self._headroom)
        self._opening = asyncio.Lock()
        self._is_open = False
        self.outbox: Outbox = Outbox(self._database, self._clock, max_bytes)
        self.documents: Documents = Documents(self._database, self._clock)
        self.salvaged: Salvage | None = None

    @property
    def state_dir(self) -> Path:
        """The folder that everything durable lies in."""
        return self._state_dir

    async def open(self) -> Self:
        """Open the folder; does nothing where it is open.

        Raises:
            StateLockedError: Another agent owns the folder.
            StoreError: The folder cannot be made or the file cannot be opened.
        """
        async with self._opening:
            if not self._is_open:
                try:
                    await run_to_end(self._prepare)
                    await self._database.open()
                    self._is_open = True
                    if self._exclusive:
                        released = await self.outbox.release_all()
                        if released:
                            logger.info("outbox.released: %d items were being sent when the last agent ended", released)
                except BaseException:
                    await self._give_up()
                    raise
        return self

    async def close(self) -> None:
        """Finish what was asked for and give the folder back."""
        async with self._opening:
            if self._is_open:
                await self._give_up()

    async def _give_up(self) -> None:
        self._is_open = False
        try:
            await self._database.close()
        finally:
            await run_to_end(self._lock.release)

    async def __aenter__(self) -> Self:
        return await self.open()

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def _prepare(self) -> None:
        path = self._state_dir / DATABASE_NAME
        try:
            self._state_dir.mkdir(mode=0o700, parents=True, exist_ok=True)
            if self._exclusive:
                self._lock.acquire()
                self._repair(path)
        except OSError as error:
            if error.errno in {errno.ENOSPC, errno.EDQUOT}:
                raise StoreFullError(f"the disk that holds {self._state_dir} is full: free some space") from None
            raise StoreError(
                f"the state folder {self._state_dir} cannot be used ({error.strerror}): "
                "set cloud.state_dir to a folder that this user may write to"
            ) from None
        except sqlite3.Error as error:
            raise translated(error, path) from error

    def _repair(self, path: Path) -> None:
        """End what a power cut interrupted, and save what can be saved of a damaged file."""
        for leftover in self._state_dir.glob(LEFTOVERS):
            leftover.unlink(missing_ok=True)
        finish(path)

        def repair() -> Salvage | None:
            try:
                return None if is_sound(path) else salvage(path, self._clock.now())
            except sqlite3.Error as error:
                raise translated(error, path) from error

        self.salvaged = self._headroom.spend(repair) or self.salvaged
