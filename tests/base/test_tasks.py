"""Duties side by side: paced, woken, restarted; and stopped in three phases, with no cancellation swallowed."""

import asyncio
import logging
from collections.abc import AsyncIterator
from random import Random

import pytest

from sentinel_sync.base.tasks import MAX_RESTART_DELAY, PeriodicTask, Supervisor
from tests.fakes.clock import FakeClock, settle


class Recorder:
    """A duty's step that keeps the times of its steps, and does as it is told."""

    def __init__(self, clock: FakeClock, delay: float = 10.0) -> None:
        self._clock = clock
        self.delay = delay
        self.times: list[float] = []
        self.faults: list[BaseException] = []

    async def step(self) -> float:
        self.times.append(self._clock.monotonic())
        if self.faults:
            raise self.faults.pop(0)
        return self.delay


@pytest.fixture
async def supervisor(clock: FakeClock, rng: Random) -> AsyncIterator[Supervisor]:
    made = Supervisor(clock, rng)
    yield made
    await made.stop(0.0)


async def test_a_duty_is_done_again_after_the_time_it_asked_for(supervisor: Supervisor, clock: FakeClock) -> None:
    work = Recorder(clock, 10.0)
    start = clock.monotonic()
    await supervisor.start([PeriodicTask("work", work.step)])
    await clock.advance(35.0)
    assert [time - start for time in work.times] == [0.0, 10.0, 20.0, 30.0]
    work.delay = 100.0
    await clock.advance(10.0)
    await clock.advance(50.0)
    assert len(work.times) == 5


async def test_a_wake_brings_it_early_once(supervisor: Supervisor, clock: FakeClock) -> None:
    work = Recorder(clock, 1_000.0)
    duty = PeriodicTask("work", work.step)
    await supervisor.start([duty])
    await settle()
    duty.wake.set()
    await settle()
    duty.wake.set()
    await settle()
    assert len(work.times) == 3
    await settle()
    assert len(work.times) == 3


async def test_a_wake_during_a_step_is_not_lost(supervisor: Supervisor, clock: FakeClock) -> None:
    inside, may_end, steps = asyncio.Event(), asyncio.Event(), 0

    async def step() -> float:
        nonlocal steps
        steps += 1
        inside.set()
        await may_end.wait()
        return 1_000.0

    duty = PeriodicTask("slow", step)
    await supervisor.start([duty])
    await inside.wait()
    duty.wake.set()  # something to be done came in after the step had looked
    may_end.set()
    await settle()
    assert steps == 2


async def test_a_crash_reaches_no_sibling_and_is_shown(
    supervisor: Supervisor, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    broken, sound = Recorder(clock, 1.0), Recorder(clock, 1.0)
    broken.faults = [RuntimeError("a bug")]
    duty = PeriodicTask("broken", broken.step)
    await supervisor.start([duty, PeriodicTask("sound", sound.step)])
    await settle()
    assert (duty.crashes, duty.total_crashes, duty.last_error) == (1, 1, "RuntimeError: a bug")
    (record,) = [record for record in caplog.records if record.message.startswith("supervisor.crash")]
    assert "broken crashed (1 in a row)" in record.message
    assert record.exc_info is not None, "with its traceback"
    await clock.advance(5.0)
    assert len(sound.times) == 6
    assert len(broken.times) > 1
    assert (duty.crashes, duty.total_crashes) == (0, 1), "counted in a row until it ends well"


async def test_restarts_come_ever_more_slowly_with_jitter_and_a_ceiling(clock: FakeClock) -> None:
    waits: list[list[float]] = []
    for seed in range(8):
        work = Recorder(clock)
        work.faults = [RuntimeError("again") for _ in range(14)]
        supervisor = Supervisor(clock, Random(seed))
        await supervisor.start([PeriodicTask("work", work.step)])
        await clock.advance(14 * MAX_RESTART_DELAY)
        await supervisor.stop(0.0)
        waits.append([after - before for before, after in zip(work.times, work.times[1:15], strict=False)])
    ceilings = [min(MAX_RESTART_DELAY, 2.0**attempt) for attempt in range(14)]
    for series in waits:
        assert all(wait <= ceiling for wait, ceiling in zip(series, ceilings, strict=False))
    assert max(series[0] for series in waits) <= 1.0
    assert max(max(series[7:]) for series in waits) > 30.0
    assert len({round(series[5], 6) for series in waits}) == 8, "no two vehicles in step"


async def test_a_wake_does_not_hurry_a_duty_that_crashes(supervisor: Supervisor, clock: FakeClock) -> None:
    """Else whoever wakes it in its own step would have it crash in a circle."""
    steps = 0

    async def step() -> float:
        nonlocal steps
        steps += 1
        duty.wake.set()
        raise RuntimeError("a bug")

    duty = PeriodicTask("circle", step)
    await supervisor.start([duty])
    await settle(200)
    assert steps == 1


async def test_a_step_that_awaits_something_cancelled_is_restarted_not_lost(
    supervisor: Supervisor, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """A task group takes such a task for ended, without a word."""
    caplog.set_level(logging.CRITICAL)
    work = Recorder(clock, 1.0)
    work.faults = [asyncio.CancelledError()]
    duty = PeriodicTask("work", work.step)
    await supervisor.start([duty])
    await clock.advance(3.0)
    assert len(work.times) >= 2
    assert duty.total_crashes == 1


async def test_stop_lets_the_step_under_way_end(supervisor: Supervisor) -> None:
    inside, may_end, ended = asyncio.Event(), asyncio.Event(), False

    async def step() -> float:
        nonlocal ended
        inside.set()
        await may_end.wait()
        ended = True
        return 0.0

    await supervisor.start([PeriodicTask("work", step)])
    await inside.wait()
    stopping = asyncio.create_task(supervisor.stop(grace=10.0))
    await settle()
    assert not stopping.done()
    may_end.set()
    await stopping
    assert ended
    assert not supervisor.running


async def test_stop_cuts_off_what_does_not_end_in_its_grace_and_lets_it_clean_up(supervisor: Supervisor) -> None:
    inside, cleaned = asyncio.Event(), False

    async def step() -> float:
        nonlocal cleaned
        inside.set()
        try:
            await asyncio.Event().wait()
        finally:
            await asyncio.sleep(0)
            cleaned = True
        return 0.0

    await supervisor.start([PeriodicTask("work", step)])
    await inside.wait()
    await supervisor.stop(grace=0.01)
    assert cleaned
    assert not supervisor.running


async def test_a_waiting_duty_is_stopped_at_once(supervisor: Supervisor, clock: FakeClock) -> None:
    await supervisor.start([PeriodicTask("work", Recorder(clock, 1e9).step)])
    await settle()
    async with asyncio.timeout(1.0):
        await supervisor.stop(grace=60.0)


async def test_whoever_stops_and_is_cancelled_leaves_nothing_running(supervisor: Supervisor) -> None:
    inside, cancelled = asyncio.Event(), False

    async def step() -> float:
        nonlocal cancelled
        inside.set()
        try:
            await asyncio.Event().wait()
        except asyncio.CancelledError:
            cancelled = True
            raise
        return 0.0

    await supervisor.start([PeriodicTask("work", step)])
    await inside.wait()
    stopping = asyncio.create_task(supervisor.stop(grace=60.0))
    await settle()
    stopping.cancel()
    with pytest.raises(asyncio.CancelledError):
        await stopping
    assert cancelled
    assert not supervisor.running
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sync.")]


async def test_it_can_be_started_again_and_a_second_start_changes_nothing(
    supervisor: Supervisor, clock: FakeClock
) -> None:
    work = Recorder(clock, 10.0)
    await supervisor.start([PeriodicTask("work", work.step)])
    await supervisor.start([PeriodicTask("other", Recorder(clock).step)])
    assert [duty.name for duty in supervisor.duties] == ["work"]
    await settle()
    await supervisor.stop(1.0)
    await supervisor.stop(1.0)
    await supervisor.start([PeriodicTask("work", work.step)])
    await settle()
    assert len(work.times) == 2


async def test_every_duty_has_a_task_of_its_name_once_start_returns(supervisor: Supervisor, clock: FakeClock) -> None:
    await supervisor.start([PeriodicTask("one", Recorder(clock).step), PeriodicTask("two", Recorder(clock).step)])
    names = {task.get_name() for task in asyncio.all_tasks()}
    assert {"sync.supervisor", "sync.one", "sync.two"} <= names
