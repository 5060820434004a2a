"""A backend with a settable clock, without a socket unless a test asks for one."""

from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.settings import BackendSettings, Limits
from tests.backend.vehicle import KEY, SettableClock, Vehicle

SMALL = Limits(json_body=20_000, profile_body=20_000, part=16_000_000, annotations=2_000_000, model=1_000_000)


@pytest.fixture
def server_clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def backend_settings(tmp_path: Path, server_clock: SettableClock) -> BackendSettings:
    return BackendSettings(
        folder=tmp_path / "backend",
        api_keys=(KEY, "another-key"),
        publisher_keys=("publisher-key",),
        limits=SMALL,
        clock=server_clock,
    )


@pytest.fixture
async def backend(backend_settings: BackendSettings) -> AsyncIterator[httpx.AsyncClient]:
    app = create_app(backend_settings)
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        yield client


@pytest.fixture
def vehicle(backend: httpx.AsyncClient) -> Vehicle:
    return Vehicle(backend)
