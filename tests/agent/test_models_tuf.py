"""A running agent whose models come from a TUF repository: by itself, and by the backend's time."""

import asyncio
import shutil
import time
from contextlib import AsyncExitStack
from datetime import UTC, datetime
from pathlib import Path
from random import Random

import pytest

from sentinel_sync import VerificationError, composition
from sentinel_sync.agent import SyncAgent
from sentinel_sync.cloud.response_policy import Probe
from sentinel_sync.settings import CloudSettings, Settings
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud, settings_for
from tests.fakes.patience import until_true
from tests.fakes.tuf_repository import DAY, TufRepository
from tests.models.tuf.service.vehicle import NAME, content_of, offer
from tests.models.vehicle import OLD, live


@pytest.fixture
def repository(stranger: FakeCloud) -> TufRepository:
    """One with a release, as of now."""
    stranger.handler = repository = TufRepository(time.time())
    offer(repository, "v10")
    return repository


@pytest.fixture
def settings(cloud: FakeCloud, stranger: FakeCloud, repository: TufRepository, tmp_path: Path) -> CloudSettings:
    shutil.copytree(FIXTURES / "models", tmp_path / "models")
    (tmp_path / "root.json").write_bytes(repository.anchor)
    return settings_for(
        cloud,
        enabled=True,
        network="unmetered",
        reconnect_spread=0.05,
        auto_install_models=True,
        state_dir=tmp_path / "state",
        trip_queue_file=tmp_path / "trip_queue.json",
        scenarios_dir=tmp_path / "scenarios",
        profiles_dir=tmp_path / "profiles",
        models_dir=tmp_path / "models",
        models={
            "source": "tuf",
            "metadata_url": f"{stranger.url}/metadata/",
            "root_file": tmp_path / "root.json",
        },
    )


async def test_it_checks_and_installs_by_itself(settings: CloudSettings, cloud: FakeCloud) -> None:
    async def is_installed() -> bool:
        # None of them before the folder of models is open.
        return [shown.installed for shown in (await agent.status()).models] == ["v10"]

    async with SyncAgent(Settings(cloud=settings)) as agent:
        await until_true(is_installed, "the installation")
    assert await asyncio.to_thread(live, settings.models_dir) == content_of("v10")
    assert not [seen for seen in cloud.requests if "/models" in seen.path]


async def test_without_its_root_file_it_says_so_and_all_else_goes_on(settings: CloudSettings) -> None:
    async def is_said() -> bool:
        check = (await agent.status()).model_check
        return check is not None and "cloud.models.root_file cannot be read" in str(check.failure)

    await asyncio.to_thread((settings.models_dir.parent / "root.json").unlink)
    async with SyncAgent(Settings(cloud=settings)) as agent:
        await until_true(is_said, "the failure")
        (shown,) = (await agent.status()).models
        assert shown.installed == "v2.0.0"
        assert not [duty.name for duty in (await agent.status()).duties if duty.crashes]
    assert await asyncio.to_thread(live, settings.models_dir) == OLD


async def test_the_backends_time_counts(settings: CloudSettings, repository: TufRepository, clock: FakeClock) -> None:
    """This vehicle's clock stands before the timestamp's date, and the backend's behind it."""
    clock.set_wall(repository.now)
    async with AsyncExitStack() as stack:
        built = await composition.build(settings, stack, http=None, clock=clock, rng=Random(1))
        (update,) = await built.models.check_for_updates()
        assert (update["name"], update["version"]) == (NAME, "v10")
        later = datetime.fromtimestamp(repository.now + 2 * DAY, UTC).isoformat()
        await built.foundation.timekeeper.observe(Probe(later, None, clock.monotonic(), clock.monotonic(), None))
        with pytest.raises(VerificationError, match=r"its timestamp version \d has expired"):
            await built.models.check_for_updates()
