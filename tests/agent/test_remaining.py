"""G1: one account of what is left, whoever asks: what lies in the folders and is not queued yet is in it."""

import asyncio
import json
import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.agent import SyncAgent
from sentinel_sync.models.commands import ModelCommand, ModelCommands
from sentinel_sync.settings import Settings
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.cloud import Answer, FakeCloud, settings_for

AN_HOUR = 3600.0


@pytest.fixture
def parked(tmp_path: Path) -> Path:
    """Two whole recordings an hour old; nobody has queued them."""
    folder = tmp_path / "scenarios"
    shutil.copytree(FIXTURES / "scenarios", folder)
    for path in folder.rglob("*"):
        os.utime(path, (path.stat().st_mtime - AN_HOUR,) * 2)
    return folder


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def settings(folder: Path, cloud: FakeCloud, **more: Any) -> Settings:
    known = {
        "enabled": True,
        "state_dir": folder / "state",
        "trip_queue_file": folder / "trip_queue.json",
        "scenarios_dir": folder / "scenarios",
        "profiles_dir": folder / "profiles",
        "models_dir": folder / "models",
        "scenario_settle_time": 0.3,
        "compress_videos": False,
        "drop_audio": False,
    }
    return Settings(cloud=settings_for(cloud, **(known | more)))


async def consenting(agent: SyncAgent) -> None:
    await agent.scenarios.set_consent(True)


async def test_flush_waits_for_what_settles_and_sends_it(tmp_path: Path, cloud: FakeCloud, parked: Path) -> None:
    count = len(names(parked))
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await consenting(agent)
        left = await agent.flush(timeout=60)
        assert left.left == 0
    assert len(cloud.to("POST", "/scenarios")) == count


async def test_drain_says_what_it_had_no_time_for(tmp_path: Path, cloud: FakeCloud, parked: Path) -> None:
    async with SyncAgent(settings(tmp_path, cloud, scenario_settle_time=600.0)) as agent:
        await consenting(agent)
        left = await agent.drain(1.0)
        assert (left.unsent, left.recordings) == (0, len(names(parked)))
        assert left.left == left.recordings
        assert (await agent.status()).outbox.recordings == left.recordings


async def test_what_may_not_be_sent_is_nothing_that_is_left(tmp_path: Path, cloud: FakeCloud, parked: Path) -> None:
    """Without the driver's consent they stay where they are, and nobody waits for them."""
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        assert (await agent.flush(timeout=60)).left == 0
    assert cloud.to("POST", "/scenarios") == []


async def test_one_that_is_not_whole_is_left_and_not_waited_for(tmp_path: Path, cloud: FakeCloud, parked: Path) -> None:
    (parked / names(parked)[0] / "metadata.json").unlink()
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await consenting(agent)
        async with asyncio.timeout(30):
            left = await agent.flush(timeout=60)
        assert left.recordings == 1


@pytest.mark.parametrize("synced", [True, False])
async def test_profiles_count_where_they_are_synced(tmp_path: Path, cloud: FakeCloud, synced: bool) -> None:
    (tmp_path / "profiles").mkdir()
    (tmp_path / "profiles" / "driver-1.json").write_text(json.dumps({"driver_id": "driver-1", "total_distance": 1.0}))
    usual = cloud.handler
    cloud.handler = lambda seen: Answer(503) if "/profiles" in seen.path else usual(seen)
    async with SyncAgent(settings(tmp_path, cloud, sync_profiles=synced)) as agent:
        left = await agent.flush(timeout=2)
        assert left.profiles == int(synced)


async def test_orders_that_nobody_carried_out_count(tmp_path: Path, cloud: FakeCloud) -> None:
    usual = cloud.handler
    cloud.handler = lambda seen: Answer(503) if seen.path == "/models" else usual(seen)
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        async with Store(tmp_path / "state", exclusive=False) as beside:
            await ModelCommands(beside.documents).place(ModelCommand("install", "detector", "v1.0.0"))
        left = await agent.flush(timeout=2)
        assert (left.orders, left.left) == (1, 1)
