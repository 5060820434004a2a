"""All output of a long-running command, on a thread of its own: a terminal on hold must not hold up the agent."""

import threading
from collections.abc import Callable
from queue import Empty, Full, Queue

#: Writes that may wait. Beyond it they are left out and counted: a pipe nobody reads must not fill the memory.
MAX_WAITING = 2000


class Writer:
    """Does writes in the order they were asked for, on one daemon thread.

    Attributes:
        left_out: Writes that found the queue full, or failed.
    """

    def __init__(self) -> None:
        self._waiting: Queue[Callable[[], None] | None] = Queue(MAX_WAITING)
        self._broken = False
        self.left_out = 0
        self._thread = threading.Thread(target=self._serve, name="sentinel-sync-output", daemon=True)
        self._thread.start()

    def submit(self, write: Callable[[], None]) -> None:
        """Have `write()` called soon; returns at once."""
        try:
            self._waiting.put_nowait(write)
        except Full:
            self.left_out += 1

    def close(self, timeout: float = 1.0) -> bool:
        """Write what waits; False where that took longer than `timeout` seconds and was given up."""
        try:
            self._waiting.put(None, timeout=timeout)
        except Full:
            return False
        self._thread.join(timeout)
        return not self._thread.is_alive()

    def _serve(self) -> None:
        while (write := self._waiting.get()) is not None:
            if self._broken:
                continue
            try:
                write()
            except (OSError, ValueError):
                # The terminal was closed or the pipe's reader has gone: the agent goes on without an audience.
                self._broken = True
                self._forget()
            except Exception:  # a display that cannot draw one state must not silence the log that comes after it
                self.left_out += 1

    def _forget(self) -> None:
        stop = False
        try:
            while True:
                stop = self._waiting.get_nowait() is None or stop
        except Empty:
            if stop:
                self._waiting.put_nowait(None)
