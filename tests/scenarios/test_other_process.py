"""What a technician says on the command line reaches an agent that is in the middle of an upload, within a second."""

import asyncio
import json
import os
import sys
from asyncio.subprocess import DEVNULL, PIPE, Process
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.settings import Settings
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.fault_proxy import FaultProxy, fault_proxy
from tests.fakes.patience import until, until_true
from tests.fakes.videos import noisy_video
from tests.scenarios.service import FIRST, SECOND

ROOT = Path(__file__).parents[2]
KEY = "key"
PACE = 500_000
#: Six seconds: a command takes one or two on a busy machine.
VIDEO_BYTES = 3_000_000
#: Nobody waits for its end.
LARGE_VIDEO_BYTES = 15_000_000
#: Heads of requests, probes, announcements.
BESIDES = 50_000
#: Seconds within which a word said elsewhere counts.
AT_ONCE = 1.0


@dataclass(slots=True)
class Vehicle:
    """A running agent that has begun to send a video, and the command line beside it."""

    folder: Path
    agent: Process
    proxy: FaultProxy

    async def say(self, *words: str) -> str:
        command = await started(self.folder, *words)
        out, _ = await command.communicate()
        assert command.returncode == 0, words
        return out.decode()

    async def status(self, scenario_id: str) -> str:
        status: str = json.loads(await self.say("scenarios", "show", scenario_id, "--json"))["status"]
        return status

    async def is_held(self) -> bool:
        return await self.status(FIRST) == "held"

    async def has_sent_all(self) -> bool:
        return await self.status(FIRST) == "uploaded"

    async def quiet(self) -> int:
        """Bytes sent once nothing goes any more."""
        while True:
            before = self.proxy.from_client
            await self.say("status")
            if self.proxy.from_client - before < PACE // 20:  # a probe at most
                return before


async def started(folder: Path, *words: str) -> Process:
    environment = {"PATH": os.environ["PATH"], "PYTHONPATH": str(ROOT)}
    command = [sys.executable, "-m", "sentinel_sync", *words, "--config", str(folder / "vehicle.json")]
    return await asyncio.create_subprocess_exec(
        *command, cwd=folder, env=environment, stdin=DEVNULL, stdout=PIPE, stderr=DEVNULL
    )


@asynccontextmanager
async def sending(folder: Path, *names: str, video_bytes: int) -> AsyncIterator[Vehicle]:
    """An agent that is in the middle of the only video of the first of these recordings; the others wait."""
    for name in names:
        recording = folder / "scenarios" / name
        recording.mkdir(parents=True)
        await asyncio.to_thread(noisy_video, recording / "interior.mp4", video_bytes)
        (recording / "annotations.json").write_text('{"frames": []}')
        metadata = json.loads((FIXTURES / "scenarios" / name / "metadata.json").read_bytes())
        (recording / "metadata.json").write_text(json.dumps({**metadata, "files": {"interior": "interior.mp4"}}))
    async with (
        running_server(BackendSettings(folder=folder / "backend", api_keys=(KEY,))) as url,
        fault_proxy(url) as proxy,
    ):
        cloud = {
            "enabled": True,
            "api_url": proxy.url,
            "api_key": KEY,
            "vehicle_id": "vehicle_1",
            "fleet_id": "fleet_1",
            "rate_limit": 0,
            "compress_videos": False,
            "upload_bandwidth_limit": PACE,
            "state_dir": str(folder / "state"),
            "scenarios_dir": str(folder / "nothing"),
        }
        (folder / "vehicle.json").write_text(json.dumps({"cloud": cloud}))
        (folder / "vehicle.json").chmod(0o600)
        await queue(folder, *names)
        agent = await started(folder, "run")
        try:
            await until(lambda: proxy.from_client > PACE // 5, "the first of the video")
            yield Vehicle(folder, agent, proxy)
        finally:
            agent.terminate()
            await agent.communicate()


async def queue(folder: Path, *names: str) -> None:
    """Queue recordings under a consent."""
    settings = (await asyncio.to_thread(Settings.load, folder / "vehicle.json")).cloud
    async with Store(settings.state_dir) as store, CloudAPIClient(settings=settings) as client:
        uploader = ScenarioUploader(client, True, store)
        for name in names:
            await uploader.queue_scenario(folder / "scenarios" / name)


def contents(folder: Path) -> dict[Path, bytes]:
    return {path: path.read_bytes() for path in folder.rglob("*.*")}


async def test_a_withdrawal_stops_the_upload_empties_the_queue_and_leaves_the_recordings(tmp_path: Path) -> None:
    async with sending(tmp_path, FIRST, SECOND, video_bytes=LARGE_VIDEO_BYTES) as vehicle:
        recordings = contents(tmp_path / "scenarios")
        await vehicle.say("consent", "withdraw")
        said_at = vehicle.proxy.from_client
        stopped_at = await vehicle.quiet()
        assert stopped_at - said_at < PACE * AT_ONCE
        assert [await vehicle.status(name) for name in (FIRST, SECOND)] == ["dropped", "dropped"]
        assert list((tmp_path / "state" / "derived").glob("*")) == []
        assert contents(tmp_path / "scenarios") == recordings
        # Which part had begun to leave, under which consent, stays on record.
        sent = json.loads(await vehicle.say("consent", "show", "--json"))["sent"]
        assert {(part["scenario_id"], part["part"]): part["acknowledged"] for part in sent} == {
            (FIRST, "metadata.json"): True,
            (FIRST, "interior.mp4"): False,
        }


async def test_a_metered_network_stops_the_upload_which_then_goes_on_from_its_offset(tmp_path: Path) -> None:
    async with sending(tmp_path, FIRST, video_bytes=VIDEO_BYTES) as vehicle:
        await vehicle.say("network", "metered")
        said_at = vehicle.proxy.from_client
        stopped_at = await vehicle.quiet()
        assert stopped_at - said_at < PACE * AT_ONCE
        await until_true(vehicle.is_held, "the word that it waits")
        await vehicle.say("network", "unmetered")
        video_bytes = (tmp_path / "scenarios" / FIRST / "interior.mp4").stat().st_size
        await until(lambda: vehicle.proxy.from_client >= VIDEO_BYTES, "the rest of the video")
        await until_true(vehicle.has_sent_all, "the end of the upload")
        assert vehicle.proxy.from_client < video_bytes + BESIDES, "no byte of it went twice"
