"""Trips and the data budget: they wait on disk untried, and go on by themselves."""

from collections.abc import AsyncIterator, Callable
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.budget import DAY
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.store.outbox import ItemState
from sentinel_sync.store.store import Store
from sentinel_sync.trips.trip_uploader import TripUploader
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud, settings_for

BUDGET = {"any": {"day": 1_000_000}}

Drive = Callable[..., AbstractAsyncContextManager[tuple[TripUploader, TransferPolicy]]]


@pytest.fixture
def driving(tmp_path: Path, cloud: FakeCloud, clock: FakeClock) -> Drive:
    """One life of a vehicle that has recorded a trip."""

    @asynccontextmanager
    async def drive(**settings: Any) -> AsyncIterator[tuple[TripUploader, TransferPolicy]]:
        made = settings_for(cloud, state_dir=tmp_path, **({"data_budget": BUDGET} | settings))
        async with (
            Store(made.state_dir, clock=clock) as store,
            CloudAPIClient(settings=made, clock=clock, rng=Random(1)) as client,
        ):
            policy = TransferPolicy(store.documents, made, clock=clock, bus_address="unix:path=/nowhere")
            trips = TripUploader(
                client,
                foundation=Foundation.of(client, store, policy=policy, clock=clock, rng=Random(1), supervised=True),
            )
            await trips.start_trip()
            await trips.end_trip()
            yield trips, policy
            await policy.close()

    return drive


async def test_with_the_budget_used_up_a_trip_waits_untried_until_the_day_turns(
    driving: Drive, cloud: FakeCloud, clock: FakeClock
) -> None:
    clock.set_wall(20_800 * DAY - 90.0)
    async with driving() as (trips, policy):
        policy.count(900_000, 100_000)
        delay = await trips.step()
        assert 90.0 < delay < 91.0
        (item,) = await trips._store.outbox.items()
        assert (item.state, item.attempts, item.reason) == (ItemState.WAITING, 0, None)
        assert cloud.requests == []
        clock.tick(delay)
        await trips.step()
        assert len(cloud.to("POST", "/trips")) == 1


async def test_far_from_midnight_it_looks_at_the_usual_pace(driving: Drive, clock: FakeClock) -> None:
    clock.set_wall(20_800 * DAY - 40_000.0)
    async with driving(sync_interval=120.0) as (trips, policy):
        policy.count(1_000_000, 0)
        assert await trips.step() == 120.0


async def test_over_a_restart_it_waits_still(driving: Drive, cloud: FakeCloud) -> None:
    async with driving() as (_, policy):
        policy.count(1_000_000, 0)
    async with driving() as (trips, policy):
        assert await trips.sync_now() == 0
        assert "1 MB of the 1 MB per day for all links are used: trips wait until" in (
            await policy.blocked_reason(TrafficClass.TRIPS) or ""
        )
        assert len(await trips._store.outbox.items()) == 2
    assert cloud.requests == []


async def test_a_link_with_a_budget_left_wakes_it(driving: Drive, cloud: FakeCloud) -> None:
    async with driving(data_budget={"cellular": {"month": 1000}}) as (trips, policy):
        await policy.set_network("auto", link="cellular")
        policy.count(1000, 0)
        assert await trips.sync_now() == 0
        await policy.step()
        trips.upload.wake.clear()
        await policy.set_network("auto", link="wifi")
        assert trips.upload.wake.is_set()
        assert await trips.sync_now() == 1


async def test_on_a_metered_network_trips_go(driving: Drive) -> None:
    async with driving(network="metered", quiet_during_trip=True) as (trips, _):
        assert await trips.sync_now() == 1


async def test_a_trips_beginning_and_end_are_news_for_those_who_keep_quiet(driving: Drive) -> None:
    async with driving(quiet_during_trip=True) as (trips, policy):
        told = []
        policy.subscribe(lambda: told.append(sorted(policy.snapshot().held)))
        policy.duty.wake.clear()
        await trips.start_trip()
        assert policy.duty.wake.is_set()
        await policy.step()
        policy.duty.wake.clear()
        await trips.end_trip()
        assert policy.duty.wake.is_set()
        await policy.step()
        assert told == [["models", "scenarios"], []]


async def test_a_component_alone_asks_the_desk_of_its_client(
    tmp_path: Path, cloud: FakeCloud, clock: FakeClock
) -> None:
    settings = settings_for(cloud, state_dir=tmp_path, data_budget={"any": {"day": 0}})
    async with CloudAPIClient(settings=settings, clock=clock, rng=Random(1)) as client:
        trips = TripUploader(client, clock=clock, rng=Random(1))
        await trips.start_trip()
        await trips.end_trip()
        assert await trips.sync_now() == 0
    assert cloud.requests == []
