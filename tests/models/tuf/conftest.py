"""A TUF repository, and a vehicle that checks it."""

from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random

import pytest
from blockbuster import blockbuster_ctx
from pydantic import SecretStr

from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.settings import CloudSettings, ModelSource
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, FakeCloud
from tests.fakes.tuf_repository import TufRepository
from tests.models.tuf.vehicle import TIMEOUT, Vehicle, offer


@pytest.fixture
def off_the_loop() -> Iterator[None]:
    """None of our code blocks the loop."""
    with blockbuster_ctx("sentinel_sync"):
        yield


@pytest.fixture
def repository(clock: FakeClock, stranger: FakeCloud) -> TufRepository:
    """One with a release."""
    stranger.handler = repository = TufRepository(clock.now())
    offer(repository, "v1")
    return repository


@pytest.fixture
async def vehicle(
    repository: TufRepository, cloud: FakeCloud, stranger: FakeCloud, tmp_path: Path, store: Store, clock: FakeClock
) -> AsyncIterator[Vehicle]:
    """One that was delivered with the repository's first root."""
    root_file = tmp_path / "root.json"
    root_file.write_bytes(repository.anchor)
    source = ModelSource(source="tuf", metadata_url=f"{stranger.url}/metadata/", root_file=root_file)
    settings = CloudSettings(
        api_url=cloud.url,
        api_key=SecretStr(API_KEY),
        vehicle_id=VEHICLE,
        fleet_id=FLEET,
        rate_limit=0.0,
        timeout=TIMEOUT,
        models=source,
        state_dir=tmp_path / "state",
    )
    async with CloudAPIClient(settings=settings, clock=clock, rng=Random(1)) as client:
        yield Vehicle(client, store, clock, source, tmp_path / "state" / "tuf")
