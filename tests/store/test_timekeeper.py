"""By how much the wall clock was wrong, boot by boot."""

import asyncio
from datetime import UTC, datetime
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from sentinel_sync.base.clock import ClockObservation
from sentinel_sync.cloud.response_policy import Probe
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from tests.fakes.clock import FakeClock

SIGHTING = TypeAdapter(ClockObservation)
TRUE_TIME = 1_780_000_000.0


def probe(clock: FakeClock, true_time: float | None, *, date: float | None = None, took: float = 0.2) -> Probe:
    """An answer that left the backend halfway."""
    text = None if true_time is None else datetime.fromtimestamp(true_time, UTC).isoformat()
    sent = clock.monotonic()
    clock.tick(took)
    return Probe(text, date, sent, clock.monotonic(), None)


async def test_nothing_is_known_before_the_backend_was_seen(store: Store, clock: FakeClock) -> None:
    timekeeper = Timekeeper(store.documents, clock)
    assert timekeeper.skew() is None
    assert not timekeeper.trusted
    assert not timekeeper.has_observation
    assert timekeeper.correction(timekeeper.stamp()) == 0.0


async def test_the_backends_time_tells_by_how_much_the_clock_is_wrong(store: Store, clock: FakeClock) -> None:
    clock.set_wall(1_000_000.0)  # 1970, before NTP
    timekeeper = Timekeeper(store.documents, clock)
    stamp = timekeeper.stamp()
    wrong_by = clock.now() - TRUE_TIME
    await timekeeper.observe(probe(clock, TRUE_TIME + 0.1))
    assert timekeeper.has_observation
    assert timekeeper.skew() == pytest.approx(wrong_by, abs=0.2)
    assert not timekeeper.trusted
    assert timekeeper.correction(stamp) == pytest.approx(-wrong_by, abs=0.2)


async def test_a_date_header_will_do(store: Store, clock: FakeClock) -> None:
    clock.set_wall(1_000_000.0)
    timekeeper = Timekeeper(store.documents, clock)
    stamp = timekeeper.stamp()
    wrong_by = clock.now() - TRUE_TIME
    await timekeeper.observe(probe(clock, None, date=TRUE_TIME))
    assert timekeeper.correction(stamp) == pytest.approx(-wrong_by, abs=1.0)


async def test_an_answer_without_any_time_teaches_nothing(store: Store, clock: FakeClock) -> None:
    timekeeper = Timekeeper(store.documents, clock)
    await timekeeper.observe(probe(clock, None))
    assert not timekeeper.has_observation


async def test_a_clock_that_agrees_is_trusted_and_corrects_nothing(store: Store, clock: FakeClock) -> None:
    timekeeper = Timekeeper(store.documents, clock)
    await timekeeper.observe(probe(clock, clock.now() + 3.0))
    assert timekeeper.trusted
    assert timekeeper.correction(timekeeper.stamp()) == 0.0


async def test_what_was_seen_in_a_boot_counts_for_that_boot_also_later(tmp_path: Path, clock: FakeClock) -> None:
    clock.set_wall(1_000_000.0)
    async with Store(tmp_path, clock=clock) as store:
        timekeeper = Timekeeper(store.documents, clock)
        stamp = timekeeper.stamp()
        wrong_by = clock.now() - TRUE_TIME
        await timekeeper.observe(probe(clock, TRUE_TIME))
    clock.reboot("boot-2")
    clock.set_wall(TRUE_TIME + 500.0)
    async with Store(tmp_path, clock=clock) as store:
        timekeeper = Timekeeper(store.documents, clock)
        await timekeeper.load()
        assert timekeeper.correction(stamp) == pytest.approx(-wrong_by, abs=0.5)
        assert not timekeeper.has_observation, "not in this boot"


async def test_every_probe_is_no_reason_to_write(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store, Store(tmp_path, clock=clock, exclusive=False) as other:
        timekeeper = Timekeeper(store.documents, clock)
        await timekeeper.observe(probe(clock, clock.now()))
        written = await other.outbox.data_version()
        for _ in range(20):
            clock.tick(30.0)
            await timekeeper.observe(probe(clock, clock.now()))
        assert await other.outbox.data_version() == written


async def test_the_oldest_boots_are_forgotten_and_the_present_one_never(store: Store, clock: FakeClock) -> None:
    boots = {
        f"boot-{number:04}": ClockObservation(f"boot-{number:04}", TRUE_TIME + number, 0.1) for number in range(1_002)
    }
    await asyncio.gather(*(store.documents.save("clock", boot, seen, SIGHTING) for boot, seen in boots.items()))
    timekeeper = Timekeeper(store.documents, clock)
    await timekeeper.load()
    clock.reboot("boot-now")
    clock.set_wall(TRUE_TIME - 1e6)
    await timekeeper.observe(
        probe(clock, TRUE_TIME - 1e6)
    )  # the clock says it is the oldest: it is needed all the same
    known = timekeeper.observations
    assert len(known) in {1_000, 1_001}
    assert {"boot-0000", "boot-0001"}.isdisjoint(known)
    assert {"boot-now", "boot-1001"} <= set(known)
    assert sorted(known) == await store.documents.keys("clock")
