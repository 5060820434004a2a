"""What the outbox gives up, in which order, and that it says so: bytes, age, and clocks that cannot be trusted."""

import logging
from pathlib import Path

import pytest

from sentinel_sync.base.clock import ClockObservation, ClockStamp
from sentinel_sync.store.database import Database
from sentinel_sync.store.outbox import ItemState, NewItem, Outbox
from sentinel_sync.store.outbox_items import SLACK_BYTES
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock

DAY = 86_400.0
YEAR = 365 * DAY
BODY = b"x" * 4_000


def item(kind: str, number: int, *, priority: int = 0, body: bytes = BODY) -> NewItem:
    return NewItem(kind, f"{kind}-{number}", body, priority)


async def keys(outbox: Outbox, kind: str, state: ItemState | None = None) -> list[str]:
    return [found.key for found in await outbox.items(kind=kind, state=state, limit=10_000)]


class Bounded:
    """An outbox with a bound of its own."""

    def __init__(self, path: Path, clock: FakeClock, max_bytes: int) -> None:
        self.database = Database(path / "outbox.db")
        self.outbox = Outbox(self.database, clock, max_bytes)
        self.max_bytes = max_bytes

    async def __aenter__(self) -> Outbox:
        await self.database.open()
        return self.outbox

    async def __aexit__(self, *_: object) -> None:
        await self.database.close()


async def test_the_bound_in_bytes_holds_however_much_is_put(tmp_path: Path, clock: FakeClock) -> None:
    limit = 1 << 20
    async with Bounded(tmp_path, clock, limit) as outbox:
        for number in range(1_000):
            await outbox.put(item("trip", number))
            clock.tick(1.0)
        counts = await outbox.counts()
        assert counts.size_bytes <= limit + SLACK_BYTES + 10_000
        assert counts.size_bytes > limit - 3 * SLACK_BYTES, "no more room is made than is needed"
        assert counts.waiting + counts.dropped["trip.size"] == 1_000, "each drop is counted"
        left = await keys(outbox, "trip")
        assert left == [f"trip-{number}" for number in range(1_000 - len(left), 1_000)], "the oldest went"


async def test_trips_go_last_and_what_was_set_aside_goes_first(tmp_path: Path, clock: FakeClock) -> None:
    limit = 1 << 20
    async with Bounded(tmp_path, clock, limit) as outbox:
        for number in range(40):
            await outbox.put(item("trip", number))
            await outbox.put(item("scenario", number))
            clock.tick(1.0)
        for found in await outbox.claim("trip", 10):
            await outbox.set_aside(found.seq, "422")
        for found in await outbox.claim("scenario", 10):
            await outbox.set_aside(found.seq, "413")

        async def press(number: int, until: int) -> dict[str, int]:
            """Put more urgent work until so many items have been given up."""
            while sum((await outbox.counts()).dropped.values()) < until:
                await outbox.put(item("profile", number, priority=0))
                number += 1
                clock.tick(1.0)
            return (await outbox.counts()).dropped

        dropped = await press(0, 1)
        assert set(dropped) == {"scenario.size"} or set(dropped) == {"scenario.size", "profile.size"}
        assert await keys(outbox, "scenario", ItemState.SET_ASIDE) == []
        await press(10_000, 500)
        assert len(await keys(outbox, "trip")) == 40, "as long as anything else is there, no trip goes"


async def test_trips_that_were_set_aside_go_before_those_that_wait(tmp_path: Path, clock: FakeClock) -> None:
    async with Bounded(tmp_path, clock, 1 << 20) as outbox:
        for number in range(100):
            await outbox.put(item("trip", number))
            clock.tick(1.0)
        for found in (await outbox.claim("trip", 100))[20:]:
            await outbox.set_aside(found.seq, "422")
        await outbox.release_all()
        number = 100
        while not (await outbox.counts()).dropped:
            await outbox.put(item("trip", number))
            number += 1
            clock.tick(1.0)
        assert 0 < len(await keys(outbox, "trip", ItemState.SET_ASIDE)) < 80
        waiting = await keys(outbox, "trip", ItemState.WAITING)
        assert waiting[:20] == [f"trip-{number}" for number in range(20)]


async def test_the_least_important_of_a_kind_goes_first(tmp_path: Path, clock: FakeClock) -> None:
    async with Bounded(tmp_path, clock, 1 << 20) as outbox:
        await outbox.put_all([item("scenario", number, priority=number % 3) for number in range(150)])
        number = 0
        while not (await outbox.counts()).dropped:
            await outbox.put(item("trip", number))
            number += 1
        gone = {f"scenario-{number}" for number in range(150)} - set(await keys(outbox, "scenario"))
        assert gone
        assert all(int(key.partition("-")[2]) % 3 == 2 for key in gone)


async def test_what_is_being_sent_is_never_given_up(tmp_path: Path, clock: FakeClock) -> None:
    async with Bounded(tmp_path, clock, 1 << 20) as outbox:
        await outbox.put_all([item("scenario", number) for number in range(10)])
        sending = await outbox.claim("scenario", 10)
        for number in range(500):
            await outbox.put(item("trip", number))
        assert await keys(outbox, "scenario", ItemState.SENDING) == [found.key for found in sending]


async def test_one_large_item_pushes_out_no_more_than_its_room(tmp_path: Path, clock: FakeClock) -> None:
    async with Bounded(tmp_path, clock, 4 << 20) as outbox:
        await outbox.put_all([item("scenario", number, body=b"y" * 100_000) for number in range(38)])
        before = len(await keys(outbox, "scenario"))
        await outbox.put(item("scenario", 1_000, body=b"z" * 500_000))
        assert before - len(await keys(outbox, "scenario")) <= 8


async def test_a_drop_is_logged_with_its_reason(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.WARNING)
    async with Bounded(tmp_path, clock, 1 << 20) as outbox:
        await outbox.put_all([item("trip", number) for number in range(400)])
    assert "outbox.dropped" in caplog.text
    assert "trip.size" in caplog.text


def now_stamp(clock: FakeClock) -> ClockStamp:
    return ClockStamp(clock.boot_id(), clock.now() - clock.monotonic())


def has_observation(stamp: ClockStamp) -> dict[str, ClockObservation]:
    """The backend's clock agreed with `stamp` in its boot."""
    return {stamp.boot_id: ClockObservation(stamp.boot_id, stamp.offset, 0.1)}


async def test_what_is_past_the_age_bound_is_dropped_and_counted(store: Store, clock: FakeClock) -> None:
    stamp = now_stamp(clock)
    await store.outbox.put(NewItem("trip", "old", b"{}", stamp=stamp))
    clock.tick(2 * DAY)
    await store.outbox.put(NewItem("trip", "young", b"{}", stamp=stamp))
    clock.tick(YEAR - DAY)
    assert await store.outbox.drop_too_old(YEAR, has_observation(stamp), now_stamp(clock)) == 1
    assert await keys(store.outbox, "trip") == ["young"]
    assert (await store.outbox.counts()).dropped == {"trip.age": 1}


async def test_no_age_bound_means_none(store: Store, clock: FakeClock) -> None:
    stamp = now_stamp(clock)
    await store.outbox.put(NewItem("trip", "old", b"{}", stamp=stamp))
    clock.tick(30 * YEAR)
    assert await store.outbox.drop_too_old(0.0, has_observation(stamp), now_stamp(clock)) == 0


async def test_an_item_stamped_before_the_clock_was_set_is_not_too_old(store: Store, clock: FakeClock) -> None:
    true_now = clock.now()
    clock.set_wall(1_000_000.0)  # 1970: no battery-backed clock
    await store.outbox.put(NewItem("trip", "just driven", b"{}", stamp=now_stamp(clock)))
    clock.set_wall(true_now)
    seen = has_observation(now_stamp(clock))
    assert await store.outbox.drop_too_old(YEAR, seen, now_stamp(clock)) == 0


async def test_an_item_of_a_boot_whose_clock_nobody_checked_has_no_known_age(store: Store, clock: FakeClock) -> None:
    """A clock that stood two years back looks plausible; the trip was driven yesterday all the same."""
    true_now = clock.now()
    clock.set_wall(true_now - 1.4 * YEAR)
    await store.outbox.put(NewItem("trip", "driven yesterday", b"{}", stamp=now_stamp(clock)))
    clock.reboot("boot-2")
    clock.set_wall(true_now)
    seen = has_observation(now_stamp(clock))
    assert await store.outbox.drop_too_old(YEAR, seen, now_stamp(clock)) == 0
    assert await keys(store.outbox, "trip") == ["driven yesterday"]


async def test_what_is_being_sent_is_not_dropped_for_its_age(store: Store, clock: FakeClock) -> None:
    stamp = now_stamp(clock)
    await store.outbox.put(NewItem("trip", "old", b"{}", stamp=stamp))
    await store.outbox.claim("trip", 1)
    clock.tick(2 * YEAR)
    assert await store.outbox.drop_too_old(YEAR, has_observation(stamp), now_stamp(clock)) == 0


async def test_the_age_bound_looks_at_all_items_in_turns(store: Store, clock: FakeClock) -> None:
    stamp = now_stamp(clock)
    await store.outbox.put_all([NewItem("trip", str(number), b"{}", stamp=stamp) for number in range(1_700)])
    clock.tick(2 * YEAR)
    assert await store.outbox.drop_too_old(YEAR, has_observation(stamp), now_stamp(clock)) == 1_700
