"""Scenarios reach a backend part by part, whole and once, whatever is cut off in between."""

import asyncio
import gzip
import hashlib
import json
import re
import shutil
import sys
from dataclasses import replace
from pathlib import Path

import httpx
import pytest

from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.backend import BackendSettings, Fault, FaultPlan, running_server
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud, problem
from tests.fakes.videos import packets
from tests.scenarios.service import FIRST, SECOND, VIDEOS, Build, announced, fail_once, is_video, paths, store_of

pytestmark = pytest.mark.usefixtures("no_blocking")


#: In the answer's body: before a byte of it, what goes over a kept connection goes once more at once.
_ENDS_EARLY = Answer(201, b"{}", declared=4096, cut=90)


class TestWithTheReferenceBackend:
    async def test_recordings_arrive_whole_byte_for_byte_and_coarse(
        self, tmp_path: Path, recordings: Path, build: Build
    ) -> None:
        faults = FaultPlan([Fault(kind="lose", method="POST", count=3, fraction=0.4)], seed=7)
        async with (
            running_server(BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,)), faults=faults) as url,
            httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}) as reader,
        ):
            uploader = build(url=url)
            for name in (FIRST, SECOND):
                await uploader.queue_scenario(recordings / name, priority="high")
            for _ in range(10):
                await uploader.sync_now()
                await store_of(uploader).outbox.make_due()
                uploader._client.gate.on_reachable()
            sent = {(part.scenario_id, part.part): part for part in await uploader.get_uploads()}
            for name in (FIRST, SECOND):
                assert (await uploader.get_upload_status(name))["status"] == "uploaded"
                shown = (await reader.get(f"/scenarios/{name}")).json()
                assert (shown["complete"], shown["missing"], shown["priority"]) == (True, [], "high")
                assert shown["consent"]["policy_version"] == "1"
                assert "774929" not in json.dumps(shown["metadata"])
                sums = {part["name"]: part["sha256"] for part in shown["parts"]}
                for file in VIDEOS:
                    assert sums[file] == sent[name, file].sha256
                annotations = (recordings / name / "annotations.json").read_bytes()
                assert sums["annotations.json"] == hashlib.sha256(annotations).hexdigest()
            assert faults.strikes["lose"] == 3
            assert (await uploader.get_statistics())["uploaded"] == 2

    async def test_the_specifications_snippet_runs(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, recordings: Path
    ) -> None:
        monkeypatch.chdir(tmp_path)
        async with (
            running_server(BackendSettings(folder=tmp_path / "backend", api_keys=("your_api_key",))) as url,
            CloudAPIClient(
                api_url=url, api_key="your_api_key", vehicle_id="vehicle_001", fleet_id="fleet_alpha"
            ) as api_client,
        ):
            uploader = ScenarioUploader(api_client, upload_consent=True)
            await uploader.queue_scenario(f"scenarios/{FIRST}", priority="high")
            await uploader.start_background_upload()
            await uploader._process_next_upload()
            status = await uploader.get_upload_status(FIRST)
            assert status["status"] == "uploaded"
            assert status["sent_bytes"] == status["total_bytes"] > 0


class TestTheWire:
    async def test_steps_go_in_the_contracts_order_and_form(
        self, tmp_path: Path, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        uploader = build()
        assert await uploader.queue_scenario(recordings / FIRST) == FIRST
        assert await uploader.sync_now() == 1
        announced, *videos, annotations = cloud.to("POST")
        assert paths(cloud) == [
            "/scenarios",
            *[f"/scenarios/{FIRST}/videos"] * 4,
            f"/scenarios/{FIRST}/annotations",
        ]
        assert set(announced.json) == {"scenario_id", "metadata", "priority", "consent"}
        assert announced.json["metadata"]["location"] == "37.77,-122.42"
        for seen, name in zip(videos, VIDEOS, strict=True):
            assert seen.headers["content-type"].startswith("multipart/form-data; boundary=")
            assert "transfer-encoding" not in seen.headers
            assert f'name="{name}"; filename="{name}"'.encode() in seen.body
            video = tmp_path / name
            video.write_bytes(seen.body.partition(b"\r\n\r\n")[2].rpartition(b"\r\n--")[0])
            assert packets(video) == packets(recordings / FIRST / name), "the pictures and the sound, as they were"
        assert annotations.headers["content-encoding"] == "gzip"
        assert gzip.decompress(annotations.body) == (recordings / FIRST / "annotations.json").read_bytes()
        assert len({seen.key for seen in cloud.to("POST")}) == 6
        assert not list((store_of(uploader).state_dir / "derived").glob("*"))

    async def test_a_folder_with_odd_characters_goes_by_another_name(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        odd = recordings / "50% & so?"
        (recordings / FIRST).rename(odd)
        await (uploader := build()).queue_scenario(odd)
        assert await uploader.sync_now() == 1
        (scenario_id,) = announced(cloud)
        assert re.fullmatch(r"s_[0-9a-f]{32}", scenario_id), "its name may say who or where"
        assert set(paths(cloud)[1:]) == {f"/scenarios/{scenario_id}/{part}" for part in ("videos", "annotations")}

    async def test_what_an_earlier_version_queued_goes_by_its_cameras_too(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        folder = recordings / FIRST
        (folder / "bev.mp4").rename(folder / "A_Driver_37.774929.mp4")
        metadata = json.loads((folder / "metadata.json").read_text())
        metadata["files"]["bev"] = "A_Driver_37.774929.mp4"
        (folder / "metadata.json").write_text(json.dumps(metadata))
        uploader = build()
        await uploader.queue_scenario(folder)
        records, store = uploader._records, store_of(uploader)
        plan, item = await records.plan(FIRST), await records.item(FIRST)
        assert plan is not None
        assert item is not None
        await records.save(replace(plan, parts=tuple(replace(part, sent_as=None) for part in plan.parts)))
        await store.outbox.drop([item.key], reason="replaced")
        body = json.dumps({"scenario_id": FIRST, "metadata": metadata}).encode()
        await store.outbox.put(NewItem("scenario", item.key, body))
        assert await uploader.sync_now() == 1
        assert not [seen for seen in cloud.requests if b"A_Driver" in seen.body or "A_Driver" in seen.target]
        assert b'filename="bev.mp4"' in b"".join(seen.body for seen in cloud.to("POST"))

    async def test_more_important_ones_go_first(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        shutil.copytree(recordings / FIRST, recordings / "20241118_000000")
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST, priority="low")
        await uploader.queue_scenario(recordings / SECOND)
        await uploader.queue_scenario(recordings / "20241118_000000", priority="high")
        assert await uploader.sync_now() == 3
        assert [seen.json["scenario_id"] for seen in cloud.to("POST", "/scenarios")] == [
            "20241118_000000",
            SECOND,
            FIRST,
        ]


class TestAgainAndAgain:
    @pytest.mark.parametrize(
        ("failing", "fault"), list(enumerate([_ENDS_EARLY, problem(503), Answer(201, b"<html>")] * 2)), ids=str
    )
    async def test_a_restart_repeats_nothing_that_was_acknowledged(
        self, cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, failing: int, fault: Answer
    ) -> None:
        fail_once(cloud, lambda seen: seen.method == "POST" and len(cloud.to("POST")) == failing, fault)
        first = build()
        await first.queue_scenario(recordings / FIRST)
        assert await first.sync_now() == 0
        status = await first.get_upload_status(FIRST)
        assert status["status"] == "queued"
        assert status["reason"]
        assert sum(status["parts"].values()) == failing
        clock.tick(600.0)
        assert await build().sync_now() == 1
        keys = [seen.key for seen in cloud.to("POST")]
        assert len(keys) == 7
        assert keys[failing] == keys[failing + 1]
        assert len(set(keys)) == 6

    async def test_409_counts_as_arrived(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        cloud.handler = lambda _: problem(409, "already here")
        await (uploader := build()).queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 1

    @pytest.mark.parametrize("failing", [0, 2, 5])
    async def test_4xx_on_a_part_sets_that_scenario_aside_and_no_other(
        self, cloud: FakeCloud, recordings: Path, build: Build, failing: int
    ) -> None:
        fail_once(
            cloud,
            lambda seen: seen.method == "POST" and len(cloud.to("POST")) == failing,
            problem(422, "codec not taken"),
        )
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST, priority="high")
        await uploader.queue_scenario(recordings / SECOND)
        assert await uploader.sync_now() == 1
        status = await uploader.get_upload_status(FIRST)
        assert status["status"] == "set_aside"
        assert "codec not taken" in str(status["reason"])
        assert (await uploader.get_upload_status(SECOND))["status"] == "uploaded"
        # Queued again it goes on where it was.
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 1
        assert len(cloud.to("POST")) == 13
        statistics = await uploader.get_statistics()
        assert (statistics["uploaded"], statistics["set_aside"], statistics["dropped"]) == (2, 0, 0)

    async def test_queueing_twice_sends_once(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        uploader = build()
        for _ in range(2):
            await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 1
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        assert len(cloud.to("POST")) == 6

    async def test_a_cut_off_upload_waits_untried(
        self, cloud: FakeCloud, recordings: Path, build: Build, store: Store
    ) -> None:
        fail_once(cloud, is_video, Answer(silent=True))
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        sending = asyncio.create_task(uploader.sync_now())
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        assert (await uploader.get_upload_status(FIRST))["status"] == "uploading"
        sending.cancel()
        with pytest.raises(asyncio.CancelledError):
            await sending
        (item,) = await store.outbox.items(kind="scenario")
        assert (item.state, item.attempts) == ("waiting", 0)
        assert await uploader.sync_now() == 1

    async def test_the_background_sends_what_is_queued_later(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        uploader = build()
        await uploader.start_background_upload()
        await uploader.queue_scenario(recordings / FIRST)
        await cloud.received(6, method="POST")
        await uploader.stop_background_upload()
        assert (await uploader.get_upload_status(FIRST))["status"] == "uploaded"


DRIVER = """
import asyncio, sys
from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.settings import CloudSettings

async def main(url, state, recording, api_key, vehicle, fleet):
    settings = CloudSettings(api_url=url, api_key=api_key, vehicle_id=vehicle, fleet_id=fleet, rate_limit=0.0,
        state_dir=state)
    async with CloudAPIClient(settings=settings) as client:
        uploader = ScenarioUploader(client, upload_consent=True)
        await uploader.queue_scenario(recording)
        print(await uploader.sync_now())

asyncio.run(main(*sys.argv[1:]))
"""


class TestKilled:
    async def test_a_killed_agent_repeats_only_the_part_that_was_under_way(
        self, cloud: FakeCloud, recordings: Path, tmp_path: Path
    ) -> None:
        arguments = (cloud.url, str(tmp_path / "vehicle"), str(recordings / FIRST), API_KEY, VEHICLE, FLEET)
        kills = {2, 4}
        usual = cloud.handler
        cloud.handler = lambda seen: Answer(silent=True) if len(cloud.to("POST")) in kills else usual(seen)
        for requests in (3, 5):
            process = await asyncio.create_subprocess_exec(sys.executable, "-c", DRIVER, *arguments)
            await cloud.received(requests, method="POST")
            process.kill()
            await process.wait()
        process = await asyncio.create_subprocess_exec(
            sys.executable, "-c", DRIVER, *arguments, stdout=asyncio.subprocess.PIPE
        )
        output, _ = await process.communicate()
        assert output == b"1\n"
        keys = [seen.key for seen in cloud.to("POST")]
        assert (len(keys), len(set(keys))) == (8, 6)
        assert (keys[2], keys[4]) == (keys[3], keys[5])
