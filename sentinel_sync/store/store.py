"""The state folder: its lock, its one database, and what lies in it. What a power cut must not take is here."""

import asyncio
import contextlib
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
from sentinel_sync.base.files import make_folder, remove_leftovers
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.store.database import Database, translated
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.headroom import Headroom
from sentinel_sync.store.outbox import Outbox
from sentinel_sync.store.salvage import Salvage, put_aside_if_no_file, rebuild, repair

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
    """`flock` on the state folder itself, and on a file in it whose text is the owner's process id, for people.

    The folder is what is protected: a cleaner that deletes the file opens it to nobody. The file's lock is kept for
    agents of earlier versions, which look there alone. Blocks shortly: call it off the loop.
    """

    def __init__(self, state_dir: Path) -> None:
        self._state_dir = state_dir
        self._path = state_dir / LOCK_NAME
        self._file: IO[str] | None = None
        self._folder: int | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StateLockedError: Another agent holds it.
        """
        descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o666)
        file = os.fdopen(descriptor, "r+", encoding="ascii", errors="replace")
        folder = os.open(self._state_dir, os.O_RDONLY | os.O_DIRECTORY | os.O_CLOEXEC)
        try:
            if not _try_lock(folder) or not _try_lock(file.fileno()):
                file.seek(0)
                owner = file.read(20).strip() or "unknown"
                raise StateLockedError(
                    f"another agent (process {owner}) runs on {self._path.parent}: "
                    "stop it first, or give this one a state_dir of its own"
                )
            process = str(os.getpid()).encode()
            # Who owns the folder is told to whoever asks; no full disk may keep the agent from its start for that.
            with contextlib.suppress(OSError):
                os.pwrite(descriptor, process, 0)
                os.ftruncate(descriptor, len(process))
        except BaseException:
            os.close(folder)
            file.close()
            raise
        self._file, self._folder = file, folder

    def release(self) -> None:
        """Give the lock back, if it is held."""
        file, self._file = self._file, None
        folder, self._folder = self._folder, None
        if folder is not None:
            fcntl.flock(folder, fcntl.LOCK_UN)
            os.close(folder)
        if file is not None:
            # Closing is not enough where the host has forked: the child has the same open file.
            fcntl.flock(file, fcntl.LOCK_UN)
            file.close()


def is_locked(state_dir: Path) -> bool:
    """Whether an agent runs on this folder now. Blocks shortly; writes nothing."""
    for path, kind in ((state_dir, os.O_DIRECTORY), (state_dir / LOCK_NAME, 0)):
        try:
            descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NONBLOCK | kind)
        except OSError:
            continue
        try:
            fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        except BlockingIOError:
            return True
        except OSError:
            continue
        finally:
            os.close(descriptor)
    return False


def lock_owner(state_dir: Path) -> int | None:
    """Process id of whoever took the folder's lock last, or None where nobody has said. Blocks shortly."""
    try:
        with (state_dir / LOCK_NAME).open(encoding="ascii", errors="replace") as file:
            return int(file.read(20))
    except (OSError, ValueError):
        return None


def _try_lock(descriptor: int) -> bool:
    for look in range(_LOOKS):
        if look:
            time.sleep(_PAUSE)
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
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
        self._database = Database(
            state_dir / DATABASE_NAME,
            headroom=self._headroom,
            rebuild=lambda connection, path, is_ours: rebuild(
                connection, path, self._clock.now(), keep_other=not is_ours
            ),
        )
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
            make_folder(self._state_dir, 0o700)
            if self._exclusive:
                for name in (LOCK_NAME, HEADROOM_NAME):
                    put_aside_if_no_file(self._state_dir / name, self._clock.now())
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
        remove_leftovers(self._state_dir)
        # The headroom is made once the first file is whole.
        is_new = not (self._state_dir / HEADROOM_NAME).exists()

        def attempt() -> Salvage | None:
            try:
                return repair(path, self._clock.now(), is_new=is_new)
            except sqlite3.Error as error:
                raise translated(error, path) from error

        self.salvaged = self._headroom.spend(attempt) or self.salvaged
