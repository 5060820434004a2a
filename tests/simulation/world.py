"""Virtual time for a whole agent: its timers, its threads and its clocks, in an order that a seed decides.

Whatever the agent puts into a thread is done at once, in the loop's own; its store's thread is waited for at each turn
of the loop, so that its answers always come at the same place. So the order of all that happens follows from the seed.
"""

import asyncio
import itertools
import selectors
import threading
from collections.abc import Callable, Coroutine, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from typing import Any, TypeVar
from unittest import mock

from sentinel_sync.store import database

Result = TypeVar("Result")
#: A turn of the loop takes so many seconds: code that waits for a rounding error to pass would wait for ever without.
_TURN = 1e-6
#: The store's thread has to have answered within so many real seconds.
_STUCK = 60.0
#: 2026-06-01, when the simulation begins.
BEGIN = 1_780_272_000.0


class _StoreThreads:
    """Operations that were handed to the stores' threads, and those that they have answered."""

    def __init__(self) -> None:
        self._changed = threading.Condition()
        self._open = 0

    def wait(self) -> None:
        """Wait, in real time, until nothing is under way."""
        with self._changed:
            if not self._changed.wait_for(lambda: self._open == 0, _STUCK):
                raise RuntimeError("the store's thread does not answer")

    def add(self, number: int) -> None:
        """So many more are under way (fewer, where it is negative)."""
        with self._changed:
            self._open += number
            self._changed.notify_all()

    @contextmanager
    def watched(self) -> Iterator[None]:
        """Count what goes there and comes back."""
        hand_over, report = database.Database._hand_over, database._report

        def handing_over(store: database.Database) -> None:
            self.add(len(store._gathered))
            hand_over(store)

        def reporting(outcomes: Any) -> None:
            report(outcomes)
            self.add(-len(outcomes))

        with (
            mock.patch.object(database.Database, "_hand_over", handing_over),
            mock.patch.object(database, "_report", reporting),
        ):
            yield


class _Jumping(selectors.DefaultSelector):
    """Does not wait, but says for how long it would have."""

    def __init__(self, stores: _StoreThreads) -> None:
        super().__init__()
        self._stores = stores
        self.passed = 0.0

    def select(self, timeout: float | None = None) -> list[tuple[selectors.SelectorKey, int]]:
        self._stores.wait()
        # An answer that has just come is taken before any time passes.
        ready = super().select(0)
        if not ready and timeout is not None:
            self.passed += max(_TURN, timeout)
        return ready or super().select(0 if timeout is not None else None)


class SimulatedLoop(asyncio.SelectorEventLoop):
    """Starts at 0.0 seconds; its threads are the loop's own."""

    def __init__(self, stores: _StoreThreads) -> None:
        self._jumping = _Jumping(stores)
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


def run_simulated(main: Callable[["World"], Coroutine[Any, Any, Result]], seed: int) -> Result:
    """Run a world to its end."""
    stores = _StoreThreads()
    with stores.watched(), asyncio.Runner(loop_factory=lambda: SimulatedLoop(stores)) as runner:
        return runner.run(main(World(seed, stores, runner.get_loop())))


@dataclass(slots=True)
class World:
    """What is true, whatever the vehicles' clocks say."""

    seed: int
    stores: _StoreThreads
    loop: asyncio.AbstractEventLoop
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
