"""What has come from a TUF repository and waits for a trip's end: is it still vouched for when that comes?"""

import asyncio
from pathlib import Path

import pytest

from sentinel_sync.settings import ModelSource
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud
from tests.fakes.tuf_repository import DAY, TufRepository
from tests.models.tuf.service.vehicle import NAME, Trips, Vehicle, content_of, offer

pytestmark = pytest.mark.usefixtures("off_the_loop")


@pytest.fixture
async def waiting(vehicle: Vehicle, repository: TufRepository, trips: Trips) -> Vehicle:
    """v10 has come during a trip."""
    offer(repository, "v10")
    trips.under_way = True
    assert (await vehicle.downloader.download_and_install_model(NAME, "v10")).waiting
    trips.under_way = False
    return vehicle


async def test_it_is_switched_to_without_another_question(waiting: Vehicle, stranger: FakeCloud) -> None:
    """Also by the next process, and where the repository is out of reach by then."""
    await stranger.stop()
    await waiting.build().upkeep_step()
    assert await asyncio.to_thread(waiting.live) == content_of("v10")


async def test_its_metadata_may_expire_meanwhile(waiting: Vehicle, repository: TufRepository, clock: FakeClock) -> None:
    """It was verified while that was valid, and nothing newer is known."""
    clock.set_wall(clock.now() + 2 * DAY)
    await waiting.build().upkeep_step()
    assert await asyncio.to_thread(waiting.live) == content_of("v10")


async def test_what_the_repository_has_withdrawn_is_not(waiting: Vehicle, repository: TufRepository) -> None:
    del repository.targets.targets[f"{NAME}/v10/{NAME}.pt"]
    repository.publish()
    await waiting.downloader.check_for_updates()
    await waiting.downloader.upkeep_step()
    await refused(waiting)


async def test_nor_what_came_under_another_root_file(waiting: Vehicle, clock: FakeClock, tmp_path: Path) -> None:
    """Whoever delivers another root file may do so because the old repository is in the wrong hands."""
    await asyncio.to_thread((tmp_path / "root.json").write_bytes, TufRepository(clock.now()).anchor)
    waiting.downloader = waiting.build()
    await waiting.downloader.upkeep_step()
    await refused(waiting)


async def test_nor_what_came_before_signatures_were_asked_for(waiting: Vehicle) -> None:
    """`source: api` asks each release for a signature of its own, and this one has none."""
    waiting.downloader = waiting.build(ModelSource())
    await waiting.downloader.upkeep_step()
    await refused(waiting)


async def refused(vehicle: Vehicle) -> None:
    """The version that waited is in use no more than before, and the status says why."""
    await vehicle.untouched()
    status = await vehicle.downloader.get_download_status(NAME)
    assert status["status"] == "failed"
    assert "v10 is refused" in str(status["reason"])
