"""Power cuts: at most the seconds since the last checkpoint are lost, and the trip is queued once, as interrupted."""

import asyncio
import sqlite3
from pathlib import Path
from random import Random

import pytest
from pydantic import TypeAdapter

from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.tasks import Supervisor
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.schema import connect
from sentinel_sync.store.store import DATABASE_NAME, Store
from sentinel_sync.trips.trip_uploader import TripUploader
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud, settings_for
from tests.fakes.patience import until, until_true
from tests.scenarios.recording import DRIVER, FINE, vehicle

ANYTHING = TypeAdapter(dict[str, object])


class PowerCut:
    """Keeps the state folder as it is at an instant, for the next life to start on."""

    def __init__(self, folder: Path) -> None:
        self._source = folder / "state" / DATABASE_NAME
        self._target = folder / "after" / "state"

    @property
    def folder(self) -> Path:
        return self._target.parent

    def now(self) -> None:
        self._target.mkdir(parents=True)
        source = sqlite3.connect(self._source)
        target = sqlite3.connect(self._target / DATABASE_NAME)
        source.backup(target)
        source.close()
        target.close()


async def test_the_trip_under_way_is_checkpointed_every_five_seconds(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        duties = Supervisor(clock, Random(1))
        await duties.start([car.trips.checkpoint])
        await until(lambda: clock.sleepers > 0, "the duty waits")
        await car.trips.start_trip()
        version = None
        async with Store(tmp_path / "state", clock=clock, exclusive=False) as other:

            async def written() -> bool:
                return await other.outbox.data_version() != version

            for second in range(1, 31):
                car.trips.update_trip(distance_delta=1.0)
                if second % 5 == 0:
                    version = await other.outbox.data_version()
                await until(lambda: clock.sleepers > 0, "the duty waits again")
                await clock.advance(1.0)
                if second % 5 == 0:
                    await until_true(written, f"the checkpoint after {second} s")
                    fact = await other.documents.load("open_trip", "", ANYTHING)
                    assert fact is not None
                    assert fact["distance"] == float(second)
        await duties.stop(1.0)


async def test_what_a_power_cut_interrupts_is_queued_once_as_interrupted(tmp_path: Path, clock: FakeClock) -> None:
    cut = PowerCut(tmp_path)
    async with vehicle(tmp_path, clock) as car:
        trip_id = await car.trips.start_trip(driver_id=DRIVER, location=FINE)
        clock.tick(60.0)
        car.trips.update_trip(900.0, 20.0, 0.4, "warning", location=FINE)
        await car.trips.checkpoint_step()
        clock.tick(4.9)
        car.trips.update_trip(98.0, 25.0, 0.9)
        cut.now()
    for _ in range(3):  # however often it starts
        clock.reboot(f"boot-{_}")
        clock.tick(3_600.0)
        async with vehicle(cut.folder, clock) as car:
            (trip,) = await car.queued()
            assert (trip.trip_id, trip.interrupted) == (trip_id, True)
            assert (trip.distance, trip.max_speed, trip.warning_alert_count) == (900.0, 20.0, 1), "as of the checkpoint"
            assert trip.duration == pytest.approx(60.0), "the hours off are not driven"
            assert car.trips.trip_id is None
            assert await car.store.documents.keys("open_trip") == []


async def test_a_power_cut_right_after_the_start_leaves_a_trip_too(tmp_path: Path, clock: FakeClock) -> None:
    cut = PowerCut(tmp_path)
    async with vehicle(tmp_path, clock) as car:
        trip_id = await car.trips.start_trip()
        cut.now()
    async with vehicle(cut.folder, clock) as car:
        assert [(trip.trip_id, trip.duration, trip.interrupted) for trip in await car.queued()] == [
            (trip_id, 0.0, True)
        ]


async def test_a_power_cut_right_after_the_end_leaves_the_ended_trip_alone(tmp_path: Path, clock: FakeClock) -> None:
    cut = PowerCut(tmp_path)
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        await car.trips.end_trip()
        cut.now()
    async with vehicle(cut.folder, clock) as car:
        assert [trip.interrupted for trip in await car.queued()] == [False]


@pytest.mark.parametrize("turns", range(8))
async def test_no_checkpoint_brings_an_ended_trip_back(turns: int, tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        checkpointing = asyncio.create_task(car.trips.checkpoint_step())
        for _ in range(turns):
            await asyncio.sleep(0)
        ending = asyncio.create_task(car.trips.end_trip())
        for _ in range(turns):
            await asyncio.sleep(0)
        await asyncio.gather(checkpointing, ending, car.trips.checkpoint_step())
        assert await car.store.documents.keys("open_trip") == []


async def test_a_checkpoint_that_is_no_trip_keeps_nobody_from_starting(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        await car.trips.checkpoint_step()
    connection = connect(tmp_path / "state" / DATABASE_NAME)
    connection.execute("UPDATE document SET body = replace(body, '\"distance\":0.0', '\"distance\":-5.0')")
    connection.close()
    async with vehicle(tmp_path, clock) as car:
        assert await car.queued() == []
        assert await car.store.documents.keys("unreadable.open_trip") == [""], "kept for a person to look at"
        await car.trips.start_trip()
    assert "trip.unreadable" in caplog.text


async def test_a_full_disk_delays_a_checkpoint_and_crashes_nothing(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()

        async def save(*_: object) -> None:
            raise StoreFullError("the disk is full")

        with monkeypatch.context() as disk:
            disk.setattr(car.store.documents, "save", save)
            assert await car.trips.checkpoint_step() == 5.0, "tried again at the same pace"
        assert "trip.checkpoint: the disk is full" in caplog.text
        car.trips.update_trip(3.0)
        await car.trips.checkpoint_step()
        fact = await car.store.documents.load("open_trip", "", ANYTHING)
        assert fact is not None
        assert fact["distance"] == 3.0


async def test_a_trip_left_open_when_the_client_is_closed_is_checkpointed_to_the_last_moment(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    settings = settings_for(cloud, state_dir=tmp_path / "state")
    async with CloudAPIClient(settings=settings, clock=clock) as client:
        trips = TripUploader(client, clock=clock)
        trip_id = await trips.start_trip()
        clock.tick(4.0)
        trips.update_trip(80.0)
    async with vehicle(tmp_path, clock, cloud) as car:
        (trip,) = await car.queued()
        assert (trip.trip_id, trip.distance, trip.duration, trip.interrupted) == (trip_id, 80.0, 4.0, True)


async def test_a_replayed_drive_leaves_the_trip_under_way_alone(tmp_path: Path, clock: FakeClock) -> None:
    async with vehicle(tmp_path, clock) as car:
        await car.trips.start_trip()
        car.trips.update_trip(5.0)
        await car.trips.checkpoint_step()
        async with Store(tmp_path / "state", clock=clock, exclusive=False) as other:
            replay = TripUploader(
                car.client, recoverable=False, foundation=Foundation.of(car.client, other, clock=clock, supervised=True)
            )
            await replay.start_trip()
            await replay.checkpoint_step()
            await replay.end_trip()
        fact = await car.store.documents.load("open_trip", "", ANYTHING)
        assert fact is not None
        assert fact["distance"] == 5.0
        assert [trip.interrupted for trip in await car.queued()] == [False]
