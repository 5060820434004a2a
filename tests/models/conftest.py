"""A vehicle that installs models, and a host that offers them."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from pydantic import SecretStr

from sentinel_sync import CloudAPIClient, ModelDownloader
from sentinel_sync.models.installer import Validator
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, FakeCloud
from tests.models.vehicle import TRUSTED, Build, ModelHost


@pytest.fixture
def off_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync", excluded_modules=["sentinel_sync.backend"]):
        yield


@pytest.fixture
def host(cloud: FakeCloud) -> ModelHost:
    cloud.handler = host = ModelHost()
    return host


@pytest.fixture
def models(tmp_path: Path) -> Path:
    """The models folder of a deployed vehicle."""
    folder = tmp_path / "models"
    shutil.copytree(FIXTURES / "models", folder)
    return folder


@pytest.fixture
async def build(tmp_path: Path, cloud: FakeCloud, store: Store, clock: FakeClock, models: Path) -> AsyncIterator[Build]:
    """Makes downloaders on one store and folder, as restarts of one vehicle's agent would."""
    clients: list[CloudAPIClient] = []

    def make(
        *,
        url: str = cloud.url,
        auto_install: bool | None = None,
        folder: Path = models,
        validator: Validator | None = None,
        traffic: TransferPolicy | None = None,
        **more: Any,
    ) -> ModelDownloader:
        settings = CloudSettings(
            **{
                "api_url": url,
                "api_key": SecretStr(API_KEY),
                "vehicle_id": VEHICLE,
                "fleet_id": FLEET,
                "rate_limit": 0.0,
                "state_dir": tmp_path / "state",
                "models_dir": folder,
                "model_trusted_keys": (TRUSTED,),
            }
            | more
        )
        clients.append(CloudAPIClient(settings=settings, clock=clock, rng=Random(1)))
        return ModelDownloader(
            clients[-1],
            auto_install,
            validator=validator,
            foundation=Foundation.of(clients[-1], store, policy=traffic, clock=clock, rng=Random(1)),
        )

    yield make
    for client in clients:
        await client.close()
