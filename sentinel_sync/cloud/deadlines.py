"""What is under way: each piece has its deadline, and all can be cut off at once."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from sentinel_sync.base.errors import HeldError


class Deadline:
    """Ends one piece of work when it takes too long, or when all is cut off."""

    def __init__(self, scope: asyncio.Timeout, seconds: float | None) -> None:
        self._scope = scope
        self._seconds = seconds
        self.cut_off: str | None = None

    def extend(self) -> None:
        """Count from now: there was progress."""
        if self._seconds is not None and self.cut_off is None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time() + self._seconds)

    def cut(self, why: str) -> None:
        """End it now."""
        # A scope that has run out, and whose work is on its way out, cannot be told again.
        if self.cut_off is None and not self._scope.expired():
            self.cut_off = why
            self._scope.reschedule(asyncio.get_running_loop().time())


class InFlight:
    """The deadlines of all that is under way."""

    def __init__(self) -> None:
        self._deadlines: set[Deadline] = set()

    @asynccontextmanager
    async def within(self, seconds: float | None, what: str) -> AsyncIterator[Deadline]:
        """Do something within so many seconds (None: however long it takes), or until all is cut off.

        Raises:
            TimeoutError: It took longer.
            HeldError: It was cut off; `what` says what.
        """
        deadline: Deadline | None = None
        try:
            async with asyncio.timeout(seconds) as scope:
                deadline = Deadline(scope, seconds)
                self._deadlines.add(deadline)
                try:
                    yield deadline
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError:
            if deadline is not None and deadline.cut_off is not None:
                raise HeldError(f"{what}: cut off: {deadline.cut_off}") from None
            raise

    def cut(self, why: str) -> None:
        """End all that is under way, now."""
        for deadline in self._deadlines:
            deadline.cut(why)
