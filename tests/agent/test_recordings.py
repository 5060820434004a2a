"""Recordings in the whole agent: found in the recorder's folder, sent under consent, held by the network, shown."""

import json
import shutil
from pathlib import Path
from typing import Any

from sentinel_sync.agent import SyncAgent
from sentinel_sync.settings import Settings
from sentinel_sync.status import STATUS_NAME
from tests.conftest import FIXTURES
from tests.fakes.cloud import FakeCloud, settings_for
from tests.fakes.patience import until, until_true

RECORDING = min(path.name for path in (FIXTURES / "scenarios").iterdir())


def agent_for(folder: Path, cloud: FakeCloud, **overrides: Any) -> SyncAgent:
    known = {
        "enabled": True,
        "state_dir": folder / "state",
        "trip_queue_file": folder / "data" / "trip_queue.json",
        "scenarios_dir": folder / "scenarios",
        "profiles_dir": folder / "profiles",
        "models_dir": folder / "models",
        "reconnect_spread": 0.05,
        "scenario_scan_interval": 0.05,
        "scenario_settle_time": 0.0,
        "compress_videos": False,
    }
    return SyncAgent(Settings(cloud=settings_for(cloud, **(known | overrides))))


def record(folder: Path) -> None:
    shutil.copytree(FIXTURES / "scenarios" / RECORDING, folder / "scenarios" / RECORDING)


async def uploaded(agent: SyncAgent) -> bool:
    arrived = (await agent.scenarios.get_upload_status(RECORDING))["status"] == "uploaded"
    return arrived and (await agent.scenarios.get_statistics())["uploaded"] == 1


async def test_what_the_recorder_leaves_is_found_and_sent_without_a_call(tmp_path: Path, cloud: FakeCloud) -> None:
    async with agent_for(tmp_path, cloud) as agent:
        await agent.scenarios.set_consent(True)
        record(tmp_path)
        await until_true(lambda: uploaded(agent), "the upload")
        shown = (await agent.status()).scenarios
    assert shown is not None
    assert (shown.consent, shown.queued, shown.uploaded) == (True, 0, 1)
    assert [seen.path for seen in cloud.to("POST") if seen.path.startswith("/scenarios")] == [
        "/scenarios",
        *[f"/scenarios/{RECORDING}/videos"] * 4,
        f"/scenarios/{RECORDING}/annotations",
    ]


async def test_nothing_is_queued_without_consent(tmp_path: Path, cloud: FakeCloud) -> None:
    record(tmp_path)
    async with agent_for(tmp_path, cloud) as agent:
        await agent.scenarios.scan_step()
        await agent.scenarios.scan_step()
        assert await agent.scenarios.get_scenarios() == []
        shown = (await agent.status()).scenarios
    assert shown is not None
    assert (shown.consent, shown.queued) == (False, 0)
    assert shown.held == "the driver has not consented to sending recordings"
    assert [seen for seen in cloud.to("POST") if seen.path.startswith("/scenarios")] == []


async def test_a_metered_network_holds_recordings_and_says_so(tmp_path: Path, cloud: FakeCloud) -> None:
    record(tmp_path)
    async with agent_for(tmp_path, cloud) as agent:
        await agent.set_network("metered")
        await agent.scenarios.set_consent(True)
        await until_true(lambda: _is_queued(agent), "the recording in the queue")
        await agent.scenarios.sync_now()
        shown = (await agent.status()).scenarios
        assert shown is not None
        assert shown.held is not None
        assert "metered" in shown.held
        assert [seen for seen in cloud.to("POST") if seen.path.startswith("/scenarios")] == []
        await agent.set_network("unmetered")
        await until_true(lambda: uploaded(agent), "the upload")


async def test_an_upload_under_way_is_written_for_others_with_its_progress(tmp_path: Path, cloud: FakeCloud) -> None:
    record(tmp_path)
    status_file = tmp_path / "state" / STATUS_NAME

    def is_shown() -> bool:
        written = json.loads(status_file.read_text())["scenarios"] if status_file.exists() else None
        going = written["under_way"] if written else None
        return going is not None and going["phase"] == "uploading" and 0 < going["done_bytes"] < going["total_bytes"]

    # Slow enough to be seen: the first video alone takes several seconds so.
    async with agent_for(tmp_path, cloud, upload_bandwidth_limit=100_000) as agent:
        await agent.scenarios.set_consent(True)
        await until(is_shown, "an upload in the status file")
        going = agent.scenarios.under_way()
    assert going is not None
    assert (going.scenario_id, going.phase) == (RECORDING, "uploading")


async def _is_queued(agent: SyncAgent) -> bool:
    return (await agent.scenarios.get_statistics())["queued"] == 1
