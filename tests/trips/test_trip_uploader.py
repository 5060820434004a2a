"""Recording a trip: what is summed, what is refused, and that a trip is never between two states."""

import asyncio
import math
import sys
import tracemalloc
from decimal import Decimal
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.errors import StoreFullError, TripStateError
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.scenarios.recording import COARSE, DRIVER, FINE, Vehicle, vehicle


async def test_a_trip_is_summed_up_as_it_was_driven(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        started = clock.now()
        trip_id = await car.trips.start_trip(driver_id=DRIVER, location=FINE)
        assert car.trips.trip_id == trip_id
        for speed, risk, urgency in (
            (10.0, 0.2, None),
            (30.0, 0.7, "warning"),
            (20.0, 0.6, "critical"),
            (0.0, 0.1, "info"),
        ):
            clock.tick(15.0)
            car.trips.update_trip(distance_delta=250.0, speed=speed, risk_score=risk, alert_urgency=urgency)
        summary = await car.trips.end_trip()
        assert summary is not None
        assert summary.trip_id == trip_id
        assert (summary.distance, summary.duration) == (1_000.0, 60.0)
        assert summary.average_speed == pytest.approx(1_000.0 / 60.0)
        assert (summary.max_speed, summary.max_risk_score) == (30.0, 0.7)
        assert summary.average_risk_score == pytest.approx(0.4), "the average is over update calls"
        assert (summary.alert_count, summary.critical_alert_count) == (3, 1)
        assert (summary.warning_alert_count, summary.info_alert_count) == (1, 1)
        assert summary.start_time.timestamp() == pytest.approx(started)
        assert summary.end_time.timestamp() == pytest.approx(started + 60.0)
        assert not summary.interrupted
        assert car.trips.trip_id is None
        assert await car.queued() == [summary], "as it will be sent"


async def test_a_trip_without_any_update_is_a_trip(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        summary = await car.trips.end_trip()
        assert summary is not None
        assert (summary.duration, summary.average_speed, summary.average_risk_score) == (0.0, 0.0, 0.0)
        assert (summary.driver_id, summary.start_location, summary.end_location) == (None, None, None)


async def test_where_a_trip_ended_is_where_it_was_last_seen(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip(location=FINE)
        car.trips.update_trip(location=(37.774929, -122.419416))
        car.trips.update_trip(speed=3.0)
        summary = await car.trips.end_trip()
        assert summary is not None
        assert summary.model_dump()["start_location"] == COARSE
        assert summary.model_dump()["end_location"] == {"lat": 37.77, "lon": -122.42}
        await car.trips.start_trip()
        named = await car.trips.end_trip(location="38.440429,-122.714055")
        assert named is not None
        assert named.model_dump()["end_location"] == COARSE


BAD_READINGS: list[dict[str, Any]] = [
    *(
        {name: value}
        for name in ("distance_delta", "speed", "risk_score")
        for value in (math.nan, math.inf, -math.inf, -1.0)
    ),
    {"distance_delta": 1e9},
    {"speed": 2_000.0},
    {"risk_score": 1.01},
    {"alert_urgency": "urgent"},
    {"alert_urgency": "WARNING"},
    {"alert_urgency": ""},
    {"alert_urgency": 3},
    {"distance_delta": "far"},
    {"speed": None},
    {"risk_score": []},
    {"distance_delta": 10**400},
    {"location": {"lat": 91.0, "lon": 0.0}},
    {"location": {"lat": 0.0, "lon": 181.0}},
    {"location": {"lat": math.nan, "lon": 0.0}},
    {"location": {"lat": math.inf, "lon": 0.0}},
    {"location": {"lat": 1.0}},
    {"location": "somewhere"},
    {"location": 5},
    {"location": (1.0, 2.0, 3.0)},
]


@pytest.mark.parametrize("bad", BAD_READINGS, ids=str)
async def test_a_bad_reading_is_refused_at_the_call_and_harms_nothing(
    bad: dict[str, Any], tmp_path: Path, clock: FakeClock
) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip(location=FINE)
        car.trips.update_trip(100.0, 10.0, 0.5, "info", location=FINE)
        good: dict[str, Any] = {"distance_delta": 50.0, "speed": 30.0, "risk_score": 0.9, "alert_urgency": "critical"}
        with pytest.raises(ValueError) as refused:
            car.trips.update_trip(**(good | bad))
        assert "38.44" not in str(refused.value), "no coordinate in an error"
        clock.tick(10.0)
        summary = await car.trips.end_trip()
        assert summary is not None
        assert (summary.distance, summary.max_speed, summary.average_risk_score) == (100.0, 10.0, 0.5)
        assert (summary.alert_count, summary.info_alert_count) == (1, 1)
        assert summary.model_dump()["end_location"] == COARSE


@pytest.mark.parametrize("location", [{"lat": 91.0, "lon": 0.0}, {"lat": 0.0}, "x,y", math.nan])
async def test_a_bad_place_at_start_or_end_changes_nothing(location: object, tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        with pytest.raises(ValueError):
            await car.trips.start_trip(location=location)
        assert car.trips.trip_id is None
        trip_id = await car.trips.start_trip()
        with pytest.raises(ValueError):
            await car.trips.end_trip(location=location)
        assert car.trips.trip_id == trip_id


class Float32(float):
    """Stands in for a sensor library's own number type, which JSON does not know."""


async def test_a_sensors_own_number_type_is_kept_as_a_plain_number(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        car.trips.update_trip(Decimal("12.5"), 3, True)  # type: ignore[arg-type]
        car.trips.update_trip(Float32(7.5), Float32(4.0), Float32(0.5))
        await car.trips.checkpoint_step()
        summary = await car.trips.end_trip()
        assert summary is not None
        assert (summary.distance, summary.max_speed, summary.max_risk_score) == (20.0, 4.0, 1.0)


async def test_updates_between_trips_do_nothing_and_are_counted(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        car.trips.update_trip(100.0, 10.0, 0.5)
        assert await car.trips.end_trip() is None
        statistics = await car.trips.get_statistics()
        assert statistics == {
            "trip_id": None,
            "queued": 0,
            "uploaded": 0,
            "set_aside": 0,
            "dropped": 0,
            "ignored_updates": 1,
        }


async def test_twenty_thousand_readings_take_no_more_memory_than_none(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        update = car.trips.update_trip
        for _ in range(1_000):
            update(0.5, 15.0, 0.3, "warning", FINE)
        tracemalloc.start()
        before, _ = tracemalloc.get_traced_memory()
        for _ in range(20_000):
            update(0.5, 15.0, 0.3, "warning", FINE)
        after, _ = tracemalloc.get_traced_memory()
        tracemalloc.stop()
        assert after - before < 10_000
        assert sys.getsizeof(car.trips) < 1_000


async def test_a_second_start_is_refused_and_the_trip_goes_on(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        trip_id = await car.trips.start_trip()
        with pytest.raises(TripStateError, match=rf"{trip_id}.*end_trip"):
            await car.trips.start_trip()
        car.trips.update_trip(5.0)
        summary = await car.trips.end_trip()
        assert summary is not None
        assert (summary.trip_id, summary.distance) == (trip_id, 5.0)


async def test_of_two_starts_at_once_one_begins_and_of_two_ends_one_ends(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        starts = await asyncio.gather(*(car.trips.start_trip() for _ in range(3)), return_exceptions=True)
        assert sorted(type(start).__name__ for start in starts) == ["TripStateError", "TripStateError", "str"]
        ends = await asyncio.gather(*(car.trips.end_trip() for _ in range(3)))
        assert sum(end is not None for end in ends) == 1
        assert len(await car.queued()) == 1


async def test_an_ended_trip_is_on_disk_when_end_trip_returns(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        summary = await car.trips.end_trip()
        assert summary is not None
        async with Store(tmp_path / "state", clock=clock, exclusive=False) as other:
            assert [item.key for item in await other.outbox.items()] == [summary.trip_id]
            assert await other.documents.keys("open_trip") == []


async def test_the_clock_may_jump_while_driving_and_the_duration_stays_true(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        for jump in (-3_600.0, 86_400.0):
            await car.trips.start_trip()
            clock.tick(100.0)
            clock.set_wall(clock.now() + jump)
            clock.tick(20.0)
            summary = await car.trips.end_trip()
            assert summary is not None
            assert summary.duration == pytest.approx(120.0)
            assert summary.end_time.timestamp() == pytest.approx(clock.now(), abs=0.01)
            assert summary.start_time.timestamp() == pytest.approx(clock.now() - 120.0, abs=0.01)


async def full(car: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    """Have the disk be full for whoever puts something into the outbox."""

    async def put(item: NewItem, **_: object) -> bool:
        await asyncio.sleep(0)
        raise StoreFullError("the disk is full")

    monkeypatch.setattr(car.store.outbox, "put", put)


async def test_end_trip_on_a_full_disk_raises_and_the_trip_goes_on(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vehicle(tmp_path, clock) as car:
        trip_id = await car.trips.start_trip()
        car.trips.update_trip(100.0)
        with monkeypatch.context() as disk:
            await full(car, disk)
            ending = asyncio.create_task(car.trips.end_trip())
            await asyncio.sleep(0)
            car.trips.update_trip(1.0)  # a sensor does not wait
            with pytest.raises(StoreFullError):
                await ending
        assert car.trips.trip_id == trip_id
        car.trips.update_trip(10.0)
        summary = await car.trips.end_trip()
        assert summary is not None
        assert (summary.trip_id, summary.distance) == (trip_id, 111.0), "not one reading is lost"


async def test_start_trip_on_a_full_disk_raises_and_no_trip_has_begun(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vehicle(tmp_path, clock) as car:

        async def save(*_: object) -> None:
            raise StoreFullError("the disk is full")

        with monkeypatch.context() as disk:
            disk.setattr(car.store.documents, "save", save)
            with pytest.raises(StoreFullError):
                await car.trips.start_trip()
        assert car.trips.trip_id is None
        await car.trips.start_trip()


@pytest.mark.parametrize("turns", [0, 1, 2, 3, 5, 8])
async def test_an_end_trip_that_is_cancelled_has_ended_the_trip_once(
    turns: int, tmp_path: Path, clock: FakeClock
) -> None:
    async with vehicle(tmp_path, clock) as car:
        trip_id = await car.trips.start_trip()
        car.trips.update_trip(7.0)
        ending = asyncio.create_task(car.trips.end_trip())
        for _ in range(turns):
            await asyncio.sleep(0)
        ending.cancel()
        await asyncio.gather(ending, return_exceptions=True)
        await car.trips.end_trip()  # a host that was interrupted calls again
        assert [(trip.trip_id, trip.distance) for trip in await car.queued()] == [(trip_id, 7.0)]
        assert car.trips.trip_id is None
        assert await car.store.documents.keys("open_trip") == []


async def test_an_end_trip_cancelled_on_a_full_disk_leaves_the_trip_going_on(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vehicle(tmp_path, clock) as car:
        trip_id = await car.trips.start_trip()
        with monkeypatch.context() as disk:
            await full(car, disk)
            ending = asyncio.create_task(car.trips.end_trip())
            await asyncio.sleep(0)
            ending.cancel()
            await asyncio.gather(ending, return_exceptions=True)
            for _ in range(5):
                await asyncio.sleep(0)
        assert car.trips.trip_id == trip_id
        summary = await car.trips.end_trip()
        assert summary is not None
        assert summary.trip_id == trip_id


@pytest.mark.parametrize("turns", [1, 2, 3, 5])
async def test_a_start_trip_that_is_cancelled_leaves_no_ghost(turns: int, tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        starting = asyncio.create_task(car.trips.start_trip())
        for _ in range(turns):
            await asyncio.sleep(0)
        starting.cancel()
        await asyncio.gather(starting, return_exceptions=True)
        if starting.cancelled():
            assert car.trips.trip_id is None
            assert await car.store.documents.keys("open_trip") == []


async def test_trips_follow_one_another_in_the_order_of_their_start(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        ids = []
        for _ in range(5):
            ids.append(await car.trips.start_trip())
            clock.tick(60.0)
            await car.trips.end_trip()
        assert ids == sorted(set(ids))
        assert all(len(trip_id) == 37 and trip_id.startswith("trip_") for trip_id in ids)


async def test_sensor_loops_update_while_the_trip_is_checkpointed(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()

        async def sensor(count: int) -> None:
            for _ in range(count):
                car.trips.update_trip(1.0, 10.0, 0.5)
                await asyncio.sleep(0)

        async def checkpoints() -> None:
            for _ in range(20):
                await car.trips.checkpoint_step()

        await asyncio.gather(sensor(500), sensor(500), checkpoints())
        summary = await car.trips.end_trip()
        assert summary is not None
        assert summary.distance == 1_000.0


class NoFix:
    """As a receiver's own object is while it has none."""

    lat = None
    lon = None


@pytest.mark.parametrize(
    "location",
    [{"lat": None, "lon": None}, {"latitude": None, "longitude": 1.0}, {}, NoFix(), (None, None), [None, 1.0],
     "null, null", ""],
)  # fmt: skip
async def test_no_fix_is_no_place(tmp_path: Path, clock: FakeClock, location: object) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip(location=location)
        clock.tick(10.0)
        car.trips.update_trip(100.0, 10.0, 0.5, "critical", location=location)
        summary = await car.trips.end_trip(location=location)
        assert summary is not None
        assert (summary.distance, summary.critical_alert_count) == (100.0, 1)
        assert (summary.start_location, summary.end_location) == (None, None)


async def test_nonsense_is_an_error_or_only_left_out_as_the_host_likes(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip(location=FINE)
        nonsense = {"lat": 237.0, "lon": 1.0}
        with pytest.raises(ValueError, match="not on Earth"):
            car.trips.update_trip(100.0, location=nonsense)
        car.trips.update_trip(100.0, location=nonsense, ignore_bad_location=True)
        summary = await car.trips.end_trip()
        assert summary is not None
        assert summary.distance == 100.0
