"""A backend with a settable clock, without a socket unless a test asks for one."""

import os
from collections.abc import AsyncIterator
from pathlib import Path

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.settings import BackendSettings, Limits
from tests.backend.vehicle import KEY, SettableClock, Vehicle
from tests.servers.postgresql import PostgresqlServer

SMALL = Limits(
    requests=1000, json_body=20_000, profile_body=20_000, part=16_000_000, annotations=2_000_000, model=1_000_000
)


@pytest.fixture
def server_clock() -> SettableClock:
    return SettableClock()


@pytest.fixture
def database(request: pytest.FixtureRequest) -> str | None:
    """What the backend under test keeps its rows in: SQLite, or as `make test-postgresql` says."""
    if os.environ.get("SENTINEL_TEST_DATABASE") != "postgresql":
        return None
    server: PostgresqlServer = request.getfixturevalue("postgresql")
    return server.fresh()


@pytest.fixture
def backend_settings(tmp_path: Path, server_clock: SettableClock, database: str | None) -> BackendSettings:
    return BackendSettings(
        folder=tmp_path / "backend",
        database=database,
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
