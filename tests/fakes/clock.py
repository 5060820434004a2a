"""Virtual time: `sleep` parks until somebody advances the clock."""

import asyncio
import heapq
from itertools import count


class FakeClock:
    """A clock that moves only when told.

    `now` can be set on its own (`set_wall`), as vehicle clocks jump; `monotonic` never steps back.
    """

    def __init__(self, now: float = 1_780_000_000.0, monotonic: float = 1_000.0, boot_id: str = "boot-1") -> None:
        self._wall_offset = now - monotonic
        self._monotonic = monotonic
        self._boot_id = boot_id
        self._order = count()
        self._parked: list[tuple[float, int, asyncio.Future[None]]] = []

    def now(self) -> float:
        return self._monotonic + self._wall_offset

    def monotonic(self) -> float:
        return self._monotonic

    def boot_id(self) -> str:
        return self._boot_id

    async def sleep(self, seconds: float) -> None:
        if seconds <= 0.0:
            await asyncio.sleep(0)
            return
        future: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        heapq.heappush(self._parked, (self._monotonic + seconds, next(self._order), future))
        await future

    def set_wall(self, now: float) -> None:
        """Set the wall clock, as NTP or a person does."""
        self._wall_offset = now - self._monotonic

    def reboot(self, boot_id: str, monotonic: float = 10.0) -> None:
        """Begin another boot: time since boot starts again, the wall clock goes on."""
        wall = self.now()
        self._boot_id, self._monotonic = boot_id, monotonic
        self._wall_offset = wall - monotonic

    def tick(self, seconds: float) -> None:
        """Let time pass without letting anybody run: for plain code."""
        self._monotonic += seconds

    async def advance(self, seconds: float) -> None:
        """Let time pass, waking sleepers in order and letting them run."""
        end = self._monotonic + seconds
        await settle()
        while self._parked and self._parked[0][0] <= end:
            due, _, future = heapq.heappop(self._parked)
            self._monotonic = max(self._monotonic, due)
            if not future.done():
                future.set_result(None)
            await settle()
        self._monotonic = end
        await settle()

    @property
    def sleepers(self) -> int:
        """How many wait."""
        return sum(not future.done() for _, _, future in self._parked)


async def settle(turns: int = 20) -> None:
    """Give every ready task its turn; work in threads is not waited for."""
    for _ in range(turns):
        await asyncio.sleep(0)
