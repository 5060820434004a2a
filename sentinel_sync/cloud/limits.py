"""Whose turn is it? So many in flight at once, so many per second; waiting for either is no time-out."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager

from aiolimiter import AsyncLimiter

from sentinel_sync.cloud.deadlines import InFlight

#: Bulk transfers at once. They have places of their own: else a video would hold a trip's for as long as it takes.
BULK_PLACES = 2
#: The burst that the rate limit allows, seconds of its rate: a fixed-window limiter at the backend must not trip.
_BURST = 0.1


class ConcurrencyLimit:
    """Lets requests go one after the other.

    Args:
        places: So many in flight at once, bulk transfers apart.
        rate: So many per second; 0 is no limit.
        in_flight: Who waits is let go when all is cut off.
    """

    def __init__(self, places: int, rate: float, in_flight: InFlight) -> None:
        self._quick = asyncio.Semaphore(places)
        self._bulk = asyncio.Semaphore(BULK_PLACES)
        self._limiter = _limiter(rate)
        self._in_flight = in_flight

    @asynccontextmanager
    async def turn(self, what: str, *, bulk: bool = False) -> AsyncIterator[None]:
        """Wait for a place and for the rate limit, and hold the place.

        Raises:
            HeldError: All was cut off meanwhile.
        """
        places = self._bulk if bulk else self._quick
        if places.locked():
            async with self._in_flight.within(None, what):
                await places.acquire()
        else:
            await places.acquire()
        try:
            if self._limiter is not None:
                async with self._in_flight.within(None, what):
                    await self._limiter.acquire()
            yield
        finally:
            places.release()


def _limiter(rate: float) -> AsyncLimiter | None:
    if rate <= 0.0:
        return None
    burst = max(1.0, rate * _BURST)
    return AsyncLimiter(burst, burst / rate)
