"""Where profiles are read, opened, merged and sealed: in a thread that lets the host's loop go first."""

import asyncio
import time
from collections.abc import Callable, Sequence
from typing import ParamSpec, TypeVar

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.threads import run_to_end

Parameters = ParamSpec("Parameters")
Piece = TypeVar("Piece")
Result = TypeVar("Result")

#: A thread that computes keeps the loop waiting until it rests, or until the interpreter's switch interval (5 ms) is
#: over: so after so many seconds of work it lets go of the interpreter …
_WORK = 2e-3
#: … for as short as the system's timers can (some 60 µs): enough for the loop to take over.
_REST = 1e-6


class SerialExecutor:
    """One thread at a time, because each that computes takes turns with the loop.

    Args:
        clock: To rest in time.
    """

    def __init__(self, clock: Clock | None = None) -> None:
        self._clock = clock or SystemClock()
        self._one_by_one = asyncio.Lock()

    async def do(
        self, work: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
    ) -> Result:
        """Do one piece of work."""
        async with self._one_by_one:
            return await run_to_end(work, *args, **kwargs)

    async def each(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result | SentinelSyncError]:
        """Do it for each piece; what cannot be done stands in the result as its error.

        All cross to the thread together: a crossing costs more than a profile takes.
        """
        if not pieces:
            return []
        async with self._one_by_one:
            return await run_to_end(self._done, work, pieces)

    def _done(self, work: Callable[[Piece], Result], pieces: Sequence[Piece]) -> list[Result | SentinelSyncError]:
        done: list[Result | SentinelSyncError] = []
        since = self._clock.monotonic()
        for piece in pieces:
            if self._clock.monotonic() - since >= _WORK:
                time.sleep(_REST)
                since = self._clock.monotonic()
            try:
                done.append(work(piece))
            except SentinelSyncError as error:
                done.append(error)
        return done
