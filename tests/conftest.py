"""What all tests share: a virtual clock, seeded chance, a store on a real file."""

import tempfile
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from hypothesis import HealthCheck, settings

from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud, PrivateCA

FIXTURES = Path(__file__).parent / "fixtures"


@pytest.fixture(scope="session")
def postgresql() -> Iterator[Any]:
    """A server for all tests of this process; skips where there is none."""
    from tests.servers.postgresql import postgresql_server  # noqa: PLC0415  # most tests need nothing of it

    with tempfile.TemporaryDirectory(prefix="postgresql-") as folder:  # a socket's path must be short
        Path(folder).chmod(0o755)
        with postgresql_server(Path(folder) / "server") as server:
            yield server


@pytest.fixture
def clock() -> FakeClock:
    return FakeClock()


@pytest.fixture
def rng() -> Random:
    return Random(20261123)


@pytest.fixture
async def store(tmp_path: Path, clock: FakeClock) -> AsyncIterator[Store]:
    async with Store(tmp_path / "state", clock=clock) as opened:
        yield opened


@pytest.fixture(autouse=True)
def _no_bus_of_this_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    """A developer's own NetworkManager has no say in a test."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")


@pytest.fixture
async def cloud() -> AsyncIterator[FakeCloud]:
    """A backend that behaves until it is scripted otherwise."""
    async with FakeCloud() as cloud:
        yield cloud


@pytest.fixture
async def stranger() -> AsyncIterator[FakeCloud]:
    """A host that is not the backend's: no credential may reach it."""
    async with FakeCloud(stranger=True) as stranger:
        yield stranger


@pytest.fixture
def private_ca(tmp_path: Path) -> PrivateCA:
    """A private CA in files."""
    return PrivateCA.in_folder(tmp_path)


# No test is timed: on a busy machine an example takes as long as it takes.
settings.register_profile("untimed", deadline=None)
settings.load_profile("untimed")
# For `make mutants-rules`, where each test runs some thousand times over, in a tree of mutmut's own.
settings.register_profile(
    "mutants",
    deadline=None,
    max_examples=30,
    derandomize=True,
    database=None,
    suppress_health_check=list(HealthCheck),
)
