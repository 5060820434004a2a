"""One agent per state folder: an advisory lock that dies with its process, so it is never stale."""

import fcntl
import os
from pathlib import Path
from typing import IO

from sentinel_sync.errors import StateLockedError

LOCK_NAME = "agent.lock"


class StateLock:
    """`flock` on a file in the state folder; the file's text is the owner's process id, for people. Blocks shortly."""

    def __init__(self, state_dir: Path) -> None:
        self._path = state_dir / LOCK_NAME
        self._file: IO[str] | None = None

    def acquire(self) -> None:
        """Take the lock.

        Raises:
            StateLockedError: Another agent holds it.
        """
        file = self._path.open("a+", encoding="ascii")
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            file.seek(0)
            owner = file.read(20).strip() or "unknown"
            file.close()
            raise StateLockedError(
                f"another agent (process {owner}) runs on {self._path.parent}: "
                "stop it first, or give this one a state_dir of its own"
            ) from None
        file.truncate(0)
        file.write(str(os.getpid()))
        file.flush()
        self._file = file

    def release(self) -> None:
        """Give the lock back, if it is held."""
        file, self._file = self._file, None
        if file is not None:
            file.close()


def is_locked(state_dir: Path) -> bool:
    """Whether an agent runs on this folder now. Blocks shortly."""
    try:
        with (state_dir / LOCK_NAME).open("a+", encoding="ascii") as file:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return True
    except OSError:
        return False
    return False
