"""Whatever stops an upload in its middle stops it within a second, and it goes on from where the backend has it."""

import asyncio
import hashlib
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_sync import CloudAPIClient, ScenarioUploader, TripUploader
from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.base.clock import SystemClock
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.fakes.fault_proxy import FaultProxy, fault_proxy
from tests.fakes.patience import until
from tests.fakes.videos import noisy_video

NAME = "20261124_101112"
KEY = "key"
METADATA = {
    "timestamp": "2026-11-24T10:11:12",
    "duration": 2.0,
    "num_frames": 60,
    "trigger": {"type": "critical", "reason": "risk 0.90"},
    "files": {"bev": "bev.mp4"},
}
#: At this pace the video takes a second and a half.
PACE = 1_000_000
VIDEO_BYTES = 1_500_000
BUDGET = 10_000_000
#: Heads of requests, the announcement and the annotations.
BESIDES = 20_000
#: What is on its way when a connection is cut, and never confirmed.
UNCONFIRMED = 300_000


Change = Callable[["Road"], Awaitable[None]]


@dataclass(slots=True)
class Road:
    """A vehicle whose recording is on its way over a wire that counts."""

    uploader: ScenarioUploader
    policy: TransferPolicy
    client: CloudAPIClient
    store: Store
    proxy: FaultProxy
    backend: httpx.AsyncClient
    video: bytes
    driving: bool = False

    async def half_way(self) -> "asyncio.Task[int]":
        """Begin to send; returns once a part of the video has gone."""
        sending = asyncio.create_task(self.uploader.sync_now())
        await until(lambda: self.proxy.from_client > VIDEO_BYTES // 4, "a part of the video")
        return sending

    async def status(self) -> dict[str, Any]:
        return dict(await self.uploader.get_upload_status(NAME))

    async def sent_sha256(self) -> str:
        sent = {part.part: part.sha256 for part in await self.uploader.get_uploads()}
        return str(sent["bev.mp4"])

    async def arrived_sha256(self) -> str:
        answer = await self.backend.get(f"/scenarios/{NAME}/parts/bev.mp4")
        return hashlib.sha256(answer.raise_for_status().content).hexdigest()


@asynccontextmanager
async def on_its_way(tmp_path: Path, **settings: Any) -> AsyncIterator[Road]:
    folder = tmp_path / "scenarios" / NAME
    folder.mkdir(parents=True)
    video = await asyncio.to_thread(noisy_video, folder / "bev.mp4", VIDEO_BYTES)
    (folder / "annotations.json").write_text('{"frames": []}')
    (folder / "metadata.json").write_text(json.dumps(METADATA))
    known: dict[str, Any] = {
        "api_key": KEY,
        "rate_limit": 0,
        "timeout": 5,
        "upload_bandwidth_limit": PACE,
        "compress_videos": False,
        "state_dir": tmp_path / "state",
        "scenarios_dir": tmp_path / "scenarios",
    }
    async with (
        running_server(BackendSettings(folder=tmp_path / "backend", api_keys=(KEY,))) as url,
        fault_proxy(url) as proxy,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {KEY}"}) as backend,
    ):
        settings_now = CloudSettings.model_validate({**known, "api_url": proxy.url, **settings})
        async with Store(settings_now.state_dir) as store, CloudAPIClient(settings=settings_now) as client:
            policy = TransferPolicy(
                store.documents, settings_now, clock=SystemClock(), bus_address="unix:path=/nowhere"
            )
            client.on_traffic(policy.count)
            uploader = ScenarioUploader(client, True, foundation=Foundation.of(client, store, policy=policy))
            road = Road(uploader, policy, client, store, proxy, backend, video)
            policy.follow_trips(lambda: road.driving)
            await uploader.queue_scenario(folder)
            yield road
            await policy.close()


async def become_metered(road: Road) -> None:
    await road.policy.set_network("metered")


async def become_unmetered(road: Road) -> None:
    await road.policy.set_network("unmetered")


async def drive(road: Road) -> None:
    road.driving = True


async def park(road: Road) -> None:
    road.driving = False


@pytest.mark.parametrize(
    ("hold", "lift", "settings", "reason"),
    [
        (become_metered, become_unmetered, {}, "metered"),
        (drive, park, {"quiet_during_trip": True}, "trip"),
    ],
    ids=["metered", "trip"],
)
async def test_what_holds_recordings_is_asked_in_the_middle_and_the_upload_goes_on_from_its_offset(
    tmp_path: Path, hold: Change, lift: Change, settings: dict[str, Any], reason: str
) -> None:
    async with on_its_way(tmp_path, **settings) as road:
        sending = await road.half_way()
        await hold(road)
        async with asyncio.timeout(1.0):
            assert await sending == 0
        status = await road.status()
        assert (status["status"], reason in status["reason"]) == ("held", True), status
        stopped_at = road.proxy.from_client
        assert await road.uploader.sync_now() == 0
        assert road.proxy.from_client == stopped_at
        await lift(road)
        assert await road.uploader.sync_now() == 1
        assert await road.arrived_sha256() == await road.sent_sha256()
        assert road.proxy.from_client < len(road.video) + BESIDES, "no byte of it went twice"


async def test_a_budget_that_is_used_up_in_the_middle_ends_it_within_a_second(tmp_path: Path) -> None:
    async with on_its_way(tmp_path, data_budget={"any": {"day": BUDGET}}) as road:
        sending = await road.half_way()
        road.policy.count(0, BUDGET)
        async with asyncio.timeout(1.0):
            assert await sending == 0
        status = await road.status()
        assert (status["status"], "recordings wait until" in status["reason"]) == ("held", True), status


async def test_a_connection_that_drops_in_the_middle_costs_only_what_was_never_confirmed(tmp_path: Path) -> None:
    async with on_its_way(tmp_path) as road:
        road.proxy.cuts.append(VIDEO_BYTES // 2)
        # What had arrived was won: it goes on at once, in the same attempt.
        assert await road.uploader.sync_now() == 1
        assert road.proxy.struck == 1
        assert await road.arrived_sha256() == await road.sent_sha256()
        assert road.proxy.from_client < len(road.video) + BESIDES + UNCONFIRMED


async def test_trips_do_not_wait_behind_a_video(tmp_path: Path) -> None:
    async with on_its_way(tmp_path) as road:
        trips = TripUploader(road.client, foundation=Foundation.of(road.client, road.store, policy=road.policy))
        sending = await road.half_way()
        await trips.start_trip()
        await trips.end_trip()
        async with asyncio.timeout(1.0):
            assert await trips.sync_now() == 1
        assert not sending.done()
        assert await sending == 1
