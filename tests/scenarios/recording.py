"""A vehicle that records trips, put together as the agent does it, for the tests of `TripUploader`."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from random import Random
from typing import Any

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from sentinel_sync.trips.trip_uploader import TripUploader
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud, closed_port, settings_for

#: Somewhere in Santa Rosa, finer than may be kept.
FINE = {"lat": 38.440429, "lon": -122.714055}
COARSE = {"lat": 38.44, "lon": -122.71}
DRIVER = "driver_123"
PSEUDONYM_KEY = "the fleet's own secret"


class Vehicle:
    """One life of a vehicle's software: leaving it without `kill` closes everything."""

    def __init__(self, store: Store, client: CloudAPIClient, trips: TripUploader, timekeeper: Timekeeper) -> None:
        self.store = store
        self.client = client
        self.trips = trips
        self.timekeeper = timekeeper

    async def queued(self) -> list[TripSummary]:
        """The trips in the outbox, oldest first."""
        items = await self.store.outbox.items(kind="trip", limit=100_000)
        return [TripSummary.model_validate_json(item.body) for item in items]


@asynccontextmanager
async def vehicle(
    folder: Path, clock: FakeClock, cloud: FakeCloud | None = None, **settings: Any
) -> AsyncIterator[Vehicle]:
    """Start one on a state folder; without a cloud there is no way to the backend."""
    known = {"state_dir": folder / "state", "pseudonym_key": PSEUDONYM_KEY} | settings
    if cloud is None:
        known = {"api_url": f"http://127.0.0.1:{closed_port()}"} | known
    made = settings_for(cloud or FakeCloud(), **known)
    rng = Random(1)
    async with (
        Store(made.state_dir, clock=clock, max_bytes=made.outbox_max_bytes) as store,
        CloudAPIClient(settings=made, clock=clock, rng=rng) as client,
    ):
        timekeeper = Timekeeper(store.documents, clock)
        trips = TripUploader(
            client,
            foundation=Foundation.of(client, store, timekeeper=timekeeper, clock=clock, rng=rng, supervised=True),
        )
        await trips.prepare()
        yield Vehicle(store, client, trips, timekeeper)
