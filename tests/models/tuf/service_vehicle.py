"""Vehicles with `models.source: tuf`, whole from the settings on: what the tests of `ModelDownloader` with it share."""

import asyncio
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AsyncExitStack
from dataclasses import dataclass
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

NAME = "yolov8m_automotive"


@pytest.fixture(name="_off_the_loop", autouse=True)
def off_the_loop_fixture() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


def content_of(version: str) -> bytes:
    return Random(version).randbytes(300_000)


@pytest.fixture(name="repository")
def repository_fixture(clock: FakeClock, stranger: FakeCloud) -> TufRepository:
    stranger.handler = repository = TufRepository(clock.now())
    return repository


def offer(repository: TufRepository, version: str, **custom: str) -> None:
    repository.add(f"{NAME}/{version}/{NAME}.pt", content_of(version), {"name": NAME, "version": version, **custom})
    repository.publish()


class Trips:
    """Whether a trip is under way."""

    def __init__(self) -> None:
        self.under_way = False

    def __call__(self) -> bool:
        return self.under_way


@dataclass
class Vehicle:
    """One whose models come from the repository; v9 is installed."""

    downloader: ModelDownloader
    models: Path
    build: Callable[..., ModelDownloader]

    def live(self) -> bytes:
        return (self.models / f"{NAME}.pt").read_bytes()

    async def untouched(self) -> None:
        """The runtime opens v9, and nothing half done lies beside it."""
        assert await asyncio.to_thread(self.live) == content_of("v9")
        assert (await self.downloader.get_installed_models())[NAME]["version"] == "v9"
        parts = await asyncio.to_thread(lambda: [path for path in self.models.rglob("*") if ".part" in path.name])
        assert parts == []


@pytest.fixture(name="trips")
def trips_fixture() -> Trips:
    return Trips()


@pytest.fixture(name="vehicle")
async def vehicle_fixture(
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
