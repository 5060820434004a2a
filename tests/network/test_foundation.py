"""Components built with nothing but an api_client, as the specification shows them, share one store and end with it."""

import asyncio
from pathlib import Path

import pytest

from sentinel_sync.base.errors import StateLockedError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.offline_manager import OfflineManager
from sentinel_sync.cloud.rules.connectivity import ConnectivityStatus
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.store import Store, is_locked
from sentinel_sync.trips.trip_uploader import TripUploader
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, FakeCloud, settings_for
from tests.fakes.patience import until


@pytest.fixture
def in_a_folder_of_its_own(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """`state_dir` is relative to the working directory, as on deployed vehicles."""
    monkeypatch.chdir(tmp_path)
    return tmp_path


async def test_the_specifications_snippets_work_together(cloud: FakeCloud, in_a_folder_of_its_own: Path) -> None:
    told: list[str] = []

    def on_connectivity_change(status: ConnectivityStatus) -> None:
        told.append(f"Connectivity: {status.value}")

    async with CloudAPIClient(api_url=cloud.url, api_key=API_KEY, vehicle_id=VEHICLE, fleet_id=FLEET) as api_client:
        uploader = TripUploader(api_client)
        manager = OfflineManager(api_client, connectivity_callback=on_connectivity_change)
        manager.register_sync_callback(uploader._process_upload_queue)
        manager.start_monitoring()

        trip_id = await uploader.start_trip(driver_id="driver_123")
        uploader.update_trip(distance_delta=100.0, speed=15.0, risk_score=0.3, alert_urgency="warning")
        await uploader.end_trip()
        uploader.start_background_upload()

        (post,) = await cloud.received(1, path="/trips")
        assert post.key == trip_id
        await until(lambda: manager.is_online() and told == ["Connectivity: online"])
        assert manager.get_offline_duration() == 0.0
        assert is_locked(in_a_folder_of_its_own / "state")
        await manager.stop_monitoring()
        await uploader.stop_background_upload()
    assert not is_locked(in_a_folder_of_its_own / "state")
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sync.")]


async def test_the_old_name_of_sync_now_is_the_same_thing(cloud: FakeCloud, tmp_path: Path) -> None:
    async with CloudAPIClient(settings=settings_for(cloud, state_dir=tmp_path)) as client:
        uploader = TripUploader(client)
        await uploader.start_trip()
        await uploader.end_trip()
        assert await uploader._process_upload_queue() == 1


async def test_components_of_one_client_share_one_store(cloud: FakeCloud, tmp_path: Path) -> None:
    async with CloudAPIClient(settings=settings_for(cloud, state_dir=tmp_path / "state")) as client:
        assert Foundation.of(client).store is Foundation.of(client).store
        one, other = TripUploader(client), TripUploader(client)
        await asyncio.gather(one.prepare(), other.prepare())
        assert is_locked(tmp_path / "state")


async def test_a_component_and_a_running_agent_do_not_send_the_same_work(cloud: FakeCloud, tmp_path: Path) -> None:
    async with (
        Store(tmp_path / "state"),
        CloudAPIClient(settings=settings_for(cloud, state_dir=tmp_path / "state")) as client,
    ):
        with pytest.raises(StateLockedError):
            await TripUploader(client).start_trip()


async def test_nothing_is_touched_before_it_is_used(cloud: FakeCloud, tmp_path: Path) -> None:
    async with CloudAPIClient(settings=settings_for(cloud, state_dir=tmp_path / "state")) as client:
        TripUploader(client)
        OfflineManager(client)
    assert not (tmp_path / "state").exists()
    assert cloud.requests == []


async def test_the_trips_of_one_use_are_there_at_the_next(cloud: FakeCloud, tmp_path: Path) -> None:
    settings = settings_for(cloud, state_dir=tmp_path / "state")
    async with CloudAPIClient(settings=settings) as client:
        uploader = TripUploader(client)
        trip_id = await uploader.start_trip()
        await uploader.end_trip()
    async with CloudAPIClient(settings=settings) as client:
        assert await TripUploader(client).sync_now() == 1
    assert [seen.key for seen in cloud.to("POST", "/trips")] == [trip_id]


async def test_a_trip_recorded_alone_is_checkpointed_by_itself(cloud: FakeCloud, tmp_path: Path) -> None:
    settings = settings_for(cloud, state_dir=tmp_path / "state", checkpoint_interval=0.01)
    async with CloudAPIClient(settings=settings) as client, Store(tmp_path / "state", exclusive=False) as other:
        uploader = TripUploader(client)
        await uploader.start_trip()
        for _ in range(3):
            version = await other.outbox.data_version()
            while await other.outbox.data_version() == version:  # noqa: ASYNC110 - another connection sets no event
                await asyncio.sleep(0.001)
        await uploader.end_trip()
        assert await other.documents.keys("open_trip") == []
