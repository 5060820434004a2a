"""Virtual time that passes by itself: who sleeps has slept, and how long is written down."""

import asyncio

from tests.fakes.clock import FakeClock


class RecordingClock(FakeClock):
    """A clock whose sleepers wake at once, at the time that they wanted."""

    def __init__(self, now: float = 1_780_000_000.0) -> None:
        super().__init__(now)
        self.slept: list[float] = []

    async def sleep(self, seconds: float) -> None:
        self.slept.append(seconds)
        self.tick(seconds)
        await asyncio.sleep(0)
