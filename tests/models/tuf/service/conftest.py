"""A vehicle whose models come out of a TUF repository."""

import shutil
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync import CloudAPIClient, ModelDownloader
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.settings import ModelSource
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud, settings_for
from tests.fakes.tuf_repository import TufRepository
from tests.models.tuf.service.vehicle import NAME, Trips, Vehicle, offer


@pytest.fixture
def off_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


@pytest.fixture
def repository(clock: FakeClock, stranger: FakeCloud) -> TufRepository:
    stranger.handler = repository = TufRepository(clock.now())
    return repository


@pytest.fixture
def trips() -> Trips:
    return Trips()


@pytest.fixture
async def vehicle(
    repository: TufRepository,
    cloud: FakeCloud,
    stranger: FakeCloud,
    tmp_path: Path,
    store: Store,
    clock: FakeClock,
    trips: Trips,
) -> AsyncIterator[Vehicle]:
    models = tmp_path / "models"
    shutil.copytree(FIXTURES / "models", models)
    (tmp_path / "root.json").write_bytes(repository.anchor)
    source = ModelSource(source="tuf", metadata_url=f"{stranger.url}/metadata/", root_file=tmp_path / "root.json")
    policy = TransferPolicy(
        store.documents, settings_for(cloud, state_dir=tmp_path / "state"), clock=clock, supervised=True
    )
    policy.follow_trips(trips)
    async with AsyncExitStack() as stack:

        def build(models_source: ModelSource = source, **more: Any) -> ModelDownloader:
            """As a process that starts now has it, on the same store and folder."""
            settings = settings_for(
                cloud, timeout=2.0, models_dir=models, state_dir=tmp_path / "state", models=models_source, **more
            )
            client = CloudAPIClient(settings=settings, clock=clock, rng=Random(1))
            stack.push_async_callback(client.close)
            return ModelDownloader(
                client, foundation=Foundation.of(client, store, policy=policy, clock=clock, rng=Random(1))
            )

        offer(repository, "v9")
        downloader = build()
        assert await downloader.download_and_install_model(NAME, "v9")
        yield Vehicle(downloader, models, build)
    assert not [seen for seen in cloud.requests if "/models" in seen.path], "the backend's listing was asked"
