"""Recordings, uploaders and videos for the tests of scenarios."""

import shutil
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.cloud.client import Probe
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud
from tests.fakes.processes import children_of
from tests.fakes.videos import SOURCES, VideoMaker, ffmpeg_of
from tests.scenarios.service import Build, settings
from tests.scenarios.workbench import Bench


@pytest.fixture
def no_blocking() -> Iterator[None]:
    """No blocking call on the loop."""
    with blockbuster_ctx("sentinel_sync", excluded_modules=["sentinel_sync.backend"]):
        yield


@pytest.fixture
def recordings(tmp_path: Path) -> Path:
    """The fixture recordings, to be changed and deleted at will."""
    folder = tmp_path / "scenarios"
    shutil.copytree(FIXTURES / "scenarios", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    return folder


@pytest.fixture
async def build(tmp_path: Path, cloud: FakeCloud, store: Store, clock: FakeClock) -> AsyncIterator[Build]:
    """Makes uploaders on one store, as restarts of one vehicle's agent would.

    Videos go as they were recorded, but where a test says otherwise: most are about what is done with files, not about
    what is in them.
    """
    clients: list[CloudAPIClient] = []
    timekeepers: dict[bool | None, Timekeeper] = {None: Timekeeper(store.documents, clock)}
    for trusted, ahead in ((True, 0.0), (False, 3600.0)):
        timekeepers[trusted] = Timekeeper(store.documents, clock)
        await timekeepers[trusted].observe(Probe(None, clock.now() - ahead, clock.monotonic(), clock.monotonic(), None))

    def make(
        *, url: str = cloud.url, consent: bool = True, trusted: bool | None = None, **more: Any
    ) -> ScenarioUploader:
        client = CloudAPIClient(settings=settings(url, tmp_path, **more), clock=clock, rng=Random(1))
        clients.append(client)
        return ScenarioUploader(
            client,
            consent,
            foundation=Foundation.of(client, store, timekeeper=timekeepers[trusted], clock=clock, rng=Random(1)),
        )

    yield make
    for client in clients:
        await client.close()


@pytest.fixture
def watched() -> Iterator[None]:
    """No blocking call on the loop, and no process left over."""
    before = set(children_of())
    with blockbuster_ctx("sentinel_sync"):
        yield
    assert {process: line for process, line in children_of().items() if process not in before} == {}


@pytest.fixture(scope="session", params=SOURCES)
def videos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoMaker:
    """Videos made by the ffmpeg that is then to compress them."""
    return VideoMaker(ffmpeg_of(request.param), tmp_path_factory.mktemp("videos"))


@pytest.fixture
def bench(videos: VideoMaker, tmp_path: Path, clock: FakeClock) -> "Bench":
    return Bench(videos.ffmpeg, tmp_path, clock)
