"""A vehicle with recordings, put together as the agent does it, for the tests of `ScenarioUploader`."""

import os
import shutil
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest
from blockbuster import blockbuster_ctx
from pydantic import SecretStr

from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.cloud.client import Probe
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud
from tests.fakes.wire_rules import Seen

FIRST, SECOND = (path.name for path in sorted((FIXTURES / "scenarios").iterdir()))
VIDEOS = ("interior.mp4", "front_left.mp4", "front_right.mp4", "bev.mp4")
EVERYTHING = {"metadata.json", *VIDEOS, "annotations.json"}
DAY = 86_400.0

Build = Callable[..., ScenarioUploader]


@pytest.fixture(name="no_blocking", autouse=True)
def no_blocking_fixture() -> Iterator[None]:
    """No blocking call on the loop."""
    with blockbuster_ctx("sentinel_sync", excluded_modules=["sentinel_sync.backend"]):
        yield


@pytest.fixture(name="recordings")
def recordings_fixture(tmp_path: Path) -> Path:
    """The fixture recordings, to be changed and deleted at will."""
    folder = tmp_path / "scenarios"
    shutil.copytree(FIXTURES / "scenarios", folder)
    for path in [folder, *folder.rglob("*")]:
        path.chmod(path.stat().st_mode | 0o200)
    return folder


@pytest.fixture(name="build")
async def build_fixture(tmp_path: Path, cloud: FakeCloud, store: Store, clock: FakeClock) -> AsyncIterator[Build]:
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


def settings(url: str, tmp_path: Path, **more: Any) -> CloudSettings:
    known: dict[str, Any] = {"compress_videos": False, "scenarios_dir": tmp_path / "scenarios"}
    return CloudSettings(
        api_url=url,
        api_key=SecretStr(API_KEY),
        vehicle_id=VEHICLE,
        fleet_id=FLEET,
        rate_limit=0.0,
        state_dir=tmp_path / "state",
        **(known | more),
    )


def store_of(uploader: ScenarioUploader) -> Store:
    store: Store = uploader._store
    return store


def paths(cloud: FakeCloud) -> list[str]:
    return [seen.path for seen in cloud.to("POST")]


def announced(cloud: FakeCloud) -> list[str]:
    """The scenarios that were announced, in their order."""
    return [seen.json["scenario_id"] for seen in cloud.to("POST", "/scenarios")]


def derived(uploader: ScenarioUploader) -> set[str]:
    """Files made of recordings that are there now."""
    return {path.name for path in (store_of(uploader).state_dir / "derived").glob("*")}


def fail_once(cloud: FakeCloud, where: Callable[[Seen], bool], answer: Answer) -> None:
    """Have the first request that fits answered so."""
    usual, left = cloud.handler, [answer]
    cloud.handler = lambda seen: left.pop() if left and where(seen) else usual(seen)


def is_video(seen: Seen) -> bool:
    """The first request of a video's upload that carries work."""
    return seen.method == "POST" and seen.path.endswith("videos")


def backdate(folder: Path, at: float) -> None:
    """Make a recording as old as if it had been written at `at`."""
    for path in folder.iterdir():
        os.utime(path, (at, at), follow_symlinks=False)
