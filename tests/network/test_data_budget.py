"""A day with a data budget, end to end: the real services, the reference backend, bytes counted as they travel."""

import asyncio
import shutil
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.base.errors import HeldError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.budget import DAY
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.scenarios.scenario_uploader import ScenarioUploader
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from sentinel_sync.trips.trip_uploader import TripUploader
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock

LIMIT = 40_000_000
SCENARIO = "20241117_132640"
#: Its four videos and its annotations, bytes.
RECORDED = 1_556_662


@dataclass(frozen=True, slots=True)
class Vehicle:
    """The services of one vehicle that keep to one budget."""

    policy: TransferPolicy
    trips: TripUploader
    fleet: FleetManager
    scenarios: ScenarioUploader
    backend: Path

    @property
    def used(self) -> int:
        (budget,) = self.policy.snapshot().budgets
        return budget.used_bytes

    def use_up_to(self, share: float) -> None:
        """As if other traffic had used the rest."""
        assert self.used < LIMIT * share
        self.policy.count(0, round(LIMIT * share) - self.used)

    async def drive(self) -> None:
        await self.trips.start_trip()
        await self.trips.end_trip()

    async def waiting_trips(self) -> int:
        return (await self.trips.get_statistics())["queued"]


@asynccontextmanager
async def on_the_road(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Vehicle]:
    shutil.copytree(FIXTURES / "scenarios" / SCENARIO, tmp_path / "scenarios" / SCENARIO)
    backend = BackendSettings(folder=tmp_path / "backend", api_keys=("key",))
    async with running_server(backend) as url:
        settings = CloudSettings.model_validate(
            {
                "api_url": url,
                "api_key": "key",
                "rate_limit": 0,
                "state_dir": tmp_path / "state",
                "scenarios_dir": tmp_path / "scenarios",
                "data_budget": {"any": {"day": LIMIT}},
            }
        )
        async with Store(settings.state_dir, clock=clock) as store, CloudAPIClient(settings=settings) as client:
            policy = TransferPolicy(store.documents, settings, clock=clock, bus_address="unix:path=/nowhere")
            client.on_traffic(policy.count)
            yield Vehicle(
                policy,
                TripUploader(
                    client, foundation=Foundation.of(client, store, policy=policy, clock=clock, rng=Random(1))
                ),
                FleetManager(client, max_age=0.0, foundation=Foundation.of(client, store, policy=policy, clock=clock)),
                ScenarioUploader(
                    client, True, foundation=Foundation.of(client, store, policy=policy, clock=clock, rng=Random(1))
                ),
                backend.folder,
            )
            await policy.close()


async def test_recordings_wait_then_what_people_look_at_then_trips_and_all_go_on_the_next_day(
    tmp_path: Path, clock: FakeClock
) -> None:
    async with on_the_road(tmp_path, clock) as vehicle, asyncio.timeout(60.0):
        policy, scenarios = vehicle.policy, vehicle.scenarios
        await vehicle.drive()
        assert await vehicle.trips.sync_now() == 1
        assert 500 < vehicle.used < 5_000, "a trip's bytes, heads and answers, both ways"

        # Recordings stop at 90 %: asked before each part, so the overshoot is a part at most.
        await scenarios.queue_scenario(tmp_path / "scenarios" / SCENARIO)
        vehicle.use_up_to(0.895)
        await scenarios.sync_now()
        stopped_at = vehicle.used
        assert 0.90 * LIMIT <= stopped_at < 0.95 * LIMIT
        status = await scenarios.get_upload_status(SCENARIO)
        assert (status["status"], 0 < status["sent_bytes"] < RECORDED) == ("held", True)
        assert "recordings stop at 90%: recordings wait until 2026-05-29 00:00 UTC" in (status["reason"] or "")
        await scenarios.sync_now()
        assert vehicle.used == stopped_at, "while it waits nothing is sent for it"

        # What people look at stops at 95 %.
        assert (await vehicle.fleet.get_fleet_statistics())["total_trips"] == 1
        vehicle.use_up_to(0.95)
        assert await policy.blocked_reason(TrafficClass.PROFILES) is not None
        assert (await vehicle.fleet.get_fleet_statistics()).stale
        with pytest.raises(HeldError, match="fleet statistics stop at 95%"):
            await vehicle.fleet.get_vehicle_rankings()

        # Trips go on to the last byte; what is then still on its way is let through.
        await vehicle.drive()
        assert await vehicle.trips.sync_now() == 1
        vehicle.use_up_to(1.0)
        await vehicle.drive()
        assert await vehicle.trips.sync_now() == 0
        assert await vehicle.waiting_trips() == 1
        spent = vehicle.used
        wait = await vehicle.trips.step()
        assert vehicle.used == spent
        assert wait <= DAY

        # The day turns.
        clock.tick(DAY - clock.now() % DAY + 1.0)
        assert vehicle.used == 0
        await vehicle.trips.step()
        assert await vehicle.waiting_trips() == 0
        assert (await vehicle.fleet.get_fleet_statistics())["total_trips"] == 3
        await scenarios.sync_now()
        assert (await scenarios.get_upload_status(SCENARIO))["status"] == "uploaded"
        assert stopped_at - 0.895 * LIMIT + vehicle.used < 1.05 * RECORDED, "no part was sent twice"
