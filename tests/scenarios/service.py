"""A vehicle with recordings, put together as the agent does it, for the tests of `ScenarioUploader`."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sentinel_sync import ScenarioUploader
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud
from tests.fakes.wire_rules import Seen

FIRST, SECOND = (path.name for path in sorted((FIXTURES / "scenarios").iterdir()))
VIDEOS = ("interior.mp4", "front_left.mp4", "front_right.mp4", "bev.mp4")
EVERYTHING = {"metadata.json", *VIDEOS, "annotations.json"}
DAY = 86_400.0

Build = Callable[..., ScenarioUploader]


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
