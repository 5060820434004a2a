"""Virtual time for a whole agent: its timers, its threads and its clocks, in an order that a seed decides.

Whatever the agent puts into a thread is done at once, in the loop's own, and so is what it asks of its store. So the
order of all that happens follows from the seed.
"""

import asyncio
import itertools
import selectors
from collections.abc import Callable, Coroutine, Iterator
from dataclasses import dataclass, field
from random import Random
from typing import Any, TypeVar
from unittest import mock

from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.store import database
from tests.simulation.disk import Disks

Result = TypeVar("Result")
#: A turn of the loop takes so many seconds: code that waits for a rounding error to pass would wait for ever without.
_TURN = 1e-6
#: The store's thread has to have answered within so many real seconds.
_STUCK = 60.0
#: Virtual seconds that a machine under load may need to start ffmpeg and have it do its work.
_LONGEST_START = 20.0
#: 2026-06-01, when the simulation begins.
BEGIN = 1_780_272_000.0


def _hand_over(disks: Disks, store: database.Database) -> None:
    """Do what was asked of a store now, and tell who asked in the next turn."""
    group, store._gathered = store._gathered, []
    if group:
        disks.limit(store)
        # In a group that does not fit, each is tried by itself: some may find a page that is free.
        refused = [it for it in group if it.writes and not it.frees and disks.refuses(store)]
        full = StoreFullError("the simulated disk is full")
        outcomes = store._outcomes([it for it in group if it not in refused]) + [
            (it.future, None, full) for it in refused
        ]
        asyncio.get_running_loop().call_soon(database._resolve, outcomes)


class _Jumping(selectors.DefaultSelector):
    """Does not wait, but says for how long it would have."""

    def __init__(self) -> None:
        super().__init__()
        self._children: list[asyncio.SubprocessTransport] = []
        self.passed = 0.0

    def wait_for(self, child: asyncio.SubprocessTransport) -> None:
        """Let no time pass until a process has ended: its pace is the machine's."""
        self._children.append(child)

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        # An answer that has just come is taken before any time passes.
        ready = super().select(0)
        if ready:
            return ready
        self._children = [child for child in self._children if child.get_returncode() is None]
        if self._children and timeout != 0:
            return super().select(_STUCK)
        if timeout is not None:
            self.passed += max(_TURN, timeout)
        return super().select(0 if timeout is not None else None)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0 seconds; its threads are the loop's own.

    Args:
        rng: Decides how long it takes until a child process is started.
    """

    def __init__(self, rng: Random) -> None:
        self._jumping = _Jumping()
        self._rng = rng
        super().__init__(self._jumping)

    def time(self) -> float:
        return self._jumping.passed

    def run_in_executor(  # type: ignore[override]
        self,
        executor: Any,
        func: Callable[..., Any],
        *args: Any,
    ) -> asyncio.Future[Any]:
        """Do it now: a thread's pace is not the seed's to decide."""
        future = self.create_future()
        try:
            future.set_result(func(*args))
        except BaseException as error:  # handed to whoever waits, as an executor does
            future.set_exception(error)
        return future

    async def subprocess_exec(self, *args: Any, **kwargs: Any) -> Any:
        """What takes time is put before the process itself, so that a crash can come in between."""
        await asyncio.sleep(self._rng.uniform(0.5, _LONGEST_START))
        transport, protocol = await super().subprocess_exec(*args, **kwargs)
        self._jumping.wait_for(transport)
        return transport, protocol


def run_simulated(main: Callable[["World"], Coroutine[Any, Any, Result]], seed: int) -> Result:
    """Run a world to its end."""
    disks = Disks(Random(seed))
    with (
        disks.watched(),
        mock.patch.object(database.Database, "_hand_over", lambda store: _hand_over(disks, store)),
        asyncio.Runner(loop_factory=lambda: SimulatedLoop(Random(seed))) as runner,
    ):
        return runner.run(main(World(seed, runner.get_loop(), disks)))


@dataclass(slots=True)
class World:
    """What is true, whatever the vehicles' clocks say."""

    seed: int
    loop: asyncio.AbstractEventLoop
    disks: Disks
    log: list[str] = field(default_factory=list)
    _boots: Iterator[int] = field(default_factory=lambda: itertools.count(1))

    def now(self) -> float:
        """The true time, seconds since the epoch; asked from the backend's thread too."""
        return BEGIN + self.elapsed()

    def elapsed(self) -> float:
        """Virtual seconds since the beginning."""
        return self.loop.time()

    def note(self, line: str) -> None:
        """Remember what happened, for whoever replays this seed."""
        self.log.append(f"{self.elapsed():>10.1f} {line}")

    def boot(self, wrong_by: float) -> "BootClock":
        """The clock of a vehicle that starts now."""
        return BootClock(self.loop, f"boot-{next(self._boots)}", self.elapsed(), wrong_by)


@dataclass(slots=True)
class BootClock:
    """A vehicle's clock from one start to the next.

    Attributes:
        wrong_by: Seconds by which the wall clock is ahead of the truth; may be changed, as by a person or NTP.
    """

    loop: asyncio.AbstractEventLoop
    name: str
    since: float
    wrong_by: float

    def now(self) -> float:
        return BEGIN + self.loop.time() + self.wrong_by

    def monotonic(self) -> float:
        return self.loop.time() - self.since + 5.0

    def boot_id(self) -> str:
        return self.name

    async def sleep(self, seconds: float) -> None:
        await asyncio.sleep(seconds)
