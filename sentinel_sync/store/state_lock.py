"""One agent per state folder: an advisory lock that dies with its process, so it is never stale."""

import fcntl
import os
import time
from pathlib import Path
from typing import IO

from sentinel_sync.base.errors import StateLockedError

LOCK_NAME = "agent.lock"
#: `is_locked` holds the lock for an instant itself: an agent that starts just then looks again, so many times …
_LOOKS = 5
#: … after so many seconds.
_PAUSE = 0.02


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
