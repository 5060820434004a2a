"""Scenarios reach a backend part by part, whole, once, and only while the driver consents."""

import asyncio
import gzip
import hashlib
import json
import os
import shutil
import struct
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest
from blockbuster import blockbuster_ctx
from pydantic import SecretStr

from sentinel_sync import CloudAPIClient, ConsentError, ScenarioError, ScenarioUploader
from sentinel_sync.adapters.scenarios.consent import ConsentRecord
from sentinel_sync.adapters.store.store import Store
from sentinel_sync.backend import BackendSettings, Fault, FaultPlan, Limits, running_server
from sentinel_sync.settings import CloudSettings
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud, cloud_fixture, problem
from tests.fakes.wire_rules import Seen

__all__ = ["cloud_fixture"]

FIRST, SECOND = (path.name for path in sorted((FIXTURES / "scenarios").iterdir()))
VIDEOS = ("interior.mp4", "front_left.mp4", "front_right.mp4", "bev.mp4")
EVERYTHING = {"metadata.json", *VIDEOS, "annotations.json"}


@pytest.fixture(autouse=True)
def _no_blocking_call_on_the_loop() -> Iterator[None]:
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


def settings(url: str, tmp_path: Path, **more: Any) -> CloudSettings:
    return CloudSettings(
        api_url=url,
        api_key=SecretStr(API_KEY),
        vehicle_id=VEHICLE,
        fleet_id=FLEET,
        rate_limit=0.0,
        state_dir=tmp_path / "state",
        **more,
    )


Build = Callable[..., ScenarioUploader]


@pytest.fixture
async def build(tmp_path: Path, cloud: FakeCloud, store: Store, clock: FakeClock) -> AsyncIterator[Build]:
    """Makes uploaders on one store, as restarts of one vehicle's agent would."""
    clients: list[CloudAPIClient] = []

    def make(*, url: str = cloud.url, consent: bool = True, **more: Any) -> ScenarioUploader:
        client = CloudAPIClient(settings=settings(url, tmp_path, **more), clock=clock, rng=Random(1))
        clients.append(client)
        return ScenarioUploader(client, consent, store, clock=clock, rng=Random(1))

    yield make
    for client in clients:
        await client.close()


def paths(cloud: FakeCloud) -> list[str]:
    return [seen.path for seen in cloud.to("POST")]


def video_name(seen: Seen) -> str:
    return seen.body.split(b'filename="')[1].split(b'"')[0].decode()


def fail_once(cloud: FakeCloud, where: Callable[[Seen], bool], answer: Answer) -> None:
    """Have the first request that fits answered so."""
    usual, left = cloud.handler, [answer]
    cloud.handler = lambda seen: left.pop() if left and where(seen) else usual(seen)


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
            for name in (FIRST, SECOND):
                assert (await uploader.get_upload_status(name))["status"] == "uploaded"
                shown = (await reader.get(f"/scenarios/{name}")).json()
                assert (shown["complete"], shown["missing"], shown["priority"]) == (True, [], "high")
                assert shown["consent"]["policy_version"] == "1"
                assert "774929" not in json.dumps(shown["metadata"])
                sums = {part["name"]: part["sha256"] for part in shown["parts"]}
                for file in (*VIDEOS, "annotations.json"):
                    assert sums[file] == hashlib.sha256((recordings / name / file).read_bytes()).hexdigest()
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


def store_of(uploader: ScenarioUploader) -> Store:
    store: Store = uploader._store
    return store


class TestTheWire:
    async def test_steps_go_in_the_contracts_order_and_form(
        self, cloud: FakeCloud, recordings: Path, build: Build
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
            assert (recordings / FIRST / name).read_bytes() in seen.body
        assert annotations.headers["content-encoding"] == "gzip"
        assert gzip.decompress(annotations.body) == (recordings / FIRST / "annotations.json").read_bytes()
        assert len({seen.key for seen in cloud.to("POST")}) == 6
        assert not list((store_of(uploader).state_dir / "derived").glob("*"))

    async def test_a_folder_with_odd_characters_is_one_segment_of_the_path(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        odd = recordings / "50% & so?"
        (recordings / FIRST).rename(odd)
        await (uploader := build()).queue_scenario(odd)
        assert await uploader.sync_now() == 1
        assert set(paths(cloud)[1:]) == {f"/scenarios/50%25%20%26%20so%3F/{part}" for part in ("videos", "annotations")}

    async def test_more_important_ones_go_first(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        shutil.copytree(recordings / FIRST, recordings / "third")
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST, priority="low")
        await uploader.queue_scenario(recordings / SECOND)
        await uploader.queue_scenario(recordings / "third", priority="high")
        assert await uploader.sync_now() == 3
        assert [seen.json["scenario_id"] for seen in cloud.to("POST", "/scenarios")] == ["third", SECOND, FIRST]


class TestAgainAndAgain:
    @pytest.mark.parametrize(
        ("failing", "fault"), list(enumerate([Answer(cut=0), problem(503), Answer(201, b"<html>")] * 2)), ids=str
    )
    async def test_a_restart_repeats_nothing_that_was_acknowledged(
        self, cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, failing: int, fault: Answer
    ) -> None:
        fail_once(cloud, lambda _: len(cloud.to("POST")) == failing, fault)
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
        fail_once(cloud, lambda _: len(cloud.to("POST")) == failing, problem(422, "codec not taken"))
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
        fail_once(cloud, lambda seen: seen.path.endswith("videos"), Answer(silent=True))
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


class TestConsent:
    async def test_it_is_off_by_default(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        uploader = build(consent=False)
        with pytest.raises(ConsentError):
            await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.get_consent() is None
        assert (await uploader.get_upload_status(FIRST))["status"] == "unknown"
        assert await uploader.sync_now() == 0
        assert cloud.requests == []

    async def test_a_decision_is_kept_with_its_time_and_policy(self, build: Build, clock: FakeClock) -> None:
        await build(consent=False).set_consent(True)
        clock.tick(3600.0)
        consent = await build(consent=False).get_consent()
        assert consent is not None
        assert (consent.granted, consent.at, consent.policy_version) == (True, clock.now() - 3600.0, "1")

    async def test_a_withdrawal_outlasts_the_hosts_word(self, recordings: Path, build: Build) -> None:
        await build(consent=True).set_consent(False)
        with pytest.raises(ConsentError, match="withdrawn"):
            await build(consent=True).queue_scenario(recordings / FIRST)
        await (uploader := build(consent=True)).set_consent(True)
        assert await uploader.queue_scenario(recordings / FIRST)

    async def test_a_new_policy_needs_a_new_consent(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        await build().queue_scenario(recordings / FIRST)
        asked_again = build(consent=False, policy_version="2")
        assert await asked_again.sync_now() == 0
        status = await asked_again.get_upload_status(FIRST)
        assert (status["status"], "policy 2" in str(status["reason"])) == ("held", True)
        await asked_again.set_consent(True)
        assert await asked_again.sync_now() == 1
        assert cloud.to("POST", "/scenarios")[0].json["consent"]["policy_version"] == "2"

    async def test_withdrawing_stops_the_transfer_drops_the_queue_and_leaves_the_recordings(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        fail_once(cloud, lambda seen: seen.path.endswith("videos"), Answer(silent=True))
        uploader = build()
        for name in (FIRST, SECOND):
            await uploader.queue_scenario(recordings / name)
        await uploader.start_background_upload()
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        async with asyncio.timeout(1.0):
            await uploader.set_consent(False)
        assert (await uploader.get_statistics())["queued"] == 0
        assert (await uploader.get_statistics())["dropped"] == 2
        status = await uploader.get_upload_status(FIRST)
        assert status["status"] == "dropped"
        assert status["policy_version"] == "1"  # under which its beginning went
        assert await uploader.sync_now() == 0
        await uploader.stop_background_upload()
        assert len(cloud.requests) == 2
        assert {path.name for path in (recordings / FIRST).iterdir()} == EVERYTHING

    async def test_another_process_can_withdraw_it(
        self, cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, tmp_path: Path
    ) -> None:
        fail_once(cloud, lambda seen: seen.path.endswith("videos"), Answer(silent=True))
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        sending = asyncio.create_task(uploader.sync_now())
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        async with Store(tmp_path / "state", clock=clock, exclusive=False) as elsewhere:
            await ConsentRecord(elsewhere.documents, clock).record(granted=False, policy_version="1")
        while not sending.done():
            await clock.advance(0.5)
        assert await sending == 0
        assert (await uploader.get_upload_status(FIRST))["status"] == "dropped"
        assert len(cloud.requests) == 2

    async def test_it_is_asked_again_before_every_request(
        self, cloud: FakeCloud, recordings: Path, build: Build, store: Store, clock: FakeClock
    ) -> None:
        elsewhere = ConsentRecord(store.documents, clock)
        usual = cloud.handler
        withdrawing: list[asyncio.Task[Any]] = []

        def withdraw(seen: Seen) -> Answer:
            if seen.path == "/scenarios":
                withdrawing.append(asyncio.create_task(elsewhere.record(granted=False, policy_version="1")))
            return usual(seen)

        cloud.handler = withdraw
        await (uploader := build()).queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        await asyncio.gather(*withdrawing)
        assert paths(cloud) in (["/scenarios"], ["/scenarios", f"/scenarios/{FIRST}/videos"])

    async def test_uploads_switched_off_hold_what_is_queued(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        uploader = build(upload_scenarios=False)
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        assert await uploader.step() == 300.0
        status = await uploader.get_upload_status(FIRST)
        assert (status["status"], status["reason"]) == ("held", "cloud.upload_scenarios is false")
        assert await build().sync_now() == 1


def without_metadata(folder: Path) -> None:
    (folder / "metadata.json").unlink()


def broken_metadata(folder: Path) -> None:
    (folder / "metadata.json").write_text("{")


def climbing_name(folder: Path) -> None:
    (folder / "metadata.json").write_text('{"files": {"bev": "../bev.mp4"}}')


def missing_video(folder: Path) -> None:
    (folder / "bev.mp4").unlink()


def empty_video(folder: Path) -> None:
    (folder / "bev.mp4").write_bytes(b"")


def truncated_video(folder: Path) -> None:
    os.truncate(folder / "bev.mp4", 100_000)


def unfinished_video(folder: Path) -> None:
    whole = (folder / "bev.mp4").read_bytes()
    (folder / "bev.mp4").write_bytes(whole[: whole.rindex(b"moov") - 4])


def link_out(folder: Path) -> None:
    (folder / "bev.mp4").unlink()
    (folder / "bev.mp4").symlink_to("/etc/passwd")


def pipe(folder: Path) -> None:
    (folder / "bev.mp4").unlink()
    os.mkfifo(folder / "bev.mp4")


def video_folder(folder: Path) -> None:
    (folder / "bev.mp4").unlink()
    (folder / "bev.mp4").mkdir()


def cut_annotations(folder: Path) -> None:
    os.truncate(folder / "annotations.json", 50_000)


def vanished(folder: Path) -> None:
    shutil.rmtree(folder)


BAD = {
    without_metadata: "metadata.json is missing",
    broken_metadata: "metadata.json is not valid JSON",
    climbing_name: "begins with a dot",
    missing_video: "bev.mp4 is missing",
    empty_video: "bev.mp4 is empty",
    truncated_video: "bev.mp4 is cut off",
    unfinished_video: "bev.mp4 was not recorded to its end",
    link_out: "bev.mp4 is a link",
    pipe: "bev.mp4 is not a plain file",
    video_folder: "bev.mp4 is not a plain file",
    cut_annotations: "annotations.json is cut off",
    vanished: "the folder does not exist",
}


class TestBadRecordings:
    @pytest.mark.parametrize(("spoil", "reason"), BAD.items(), ids=lambda value: getattr(value, "__name__", ""))
    async def test_the_reason_is_said_and_kept_and_others_go(
        self, cloud: FakeCloud, recordings: Path, build: Build, spoil: Callable[[Path], None], reason: str
    ) -> None:
        spoil(recordings / FIRST)
        uploader = build()
        with pytest.raises(ScenarioError, match=reason):
            await uploader.queue_scenario(recordings / FIRST)
        status = await build().get_upload_status(FIRST)
        assert (status["status"], reason in str(status["reason"])) == ("set_aside", True)
        await uploader.queue_scenario(recordings / SECOND)
        assert await uploader.sync_now() == 1
        assert all(FIRST not in path for path in paths(cloud))
        assert cloud.to("POST", "/scenarios")[0].json["scenario_id"] == SECOND

    async def test_a_mended_recording_can_be_queued(self, recordings: Path, build: Build) -> None:
        video = recordings / FIRST / "bev.mp4"
        video.rename(recordings / "aside")
        uploader = build()
        with pytest.raises(ScenarioError):
            await uploader.queue_scenario(recordings / FIRST)
        (recordings / "aside").rename(video)
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 1

    @pytest.mark.parametrize("name", ["two\nlines", ".hidden", b"not-utf8-\xff"])
    async def test_a_folder_with_a_name_that_cannot_travel(
        self, recordings: Path, build: Build, name: str | bytes
    ) -> None:
        folder = recordings / os.fsdecode(name)
        (recordings / FIRST).rename(folder)
        uploader = build()
        with pytest.raises(ScenarioError):
            await uploader.queue_scenario(folder)
        assert (await uploader.get_upload_status(folder.name))["status"] == "set_aside"

    @pytest.mark.parametrize("spoil", [missing_video, empty_video, vanished, link_out])
    async def test_what_goes_bad_after_queueing_sets_only_that_scenario_aside(
        self, recordings: Path, build: Build, spoil: Callable[[Path], None]
    ) -> None:
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST, priority="high")
        await uploader.queue_scenario(recordings / SECOND)
        spoil(recordings / FIRST)
        assert await uploader.sync_now() == 1
        status = await uploader.get_upload_status(FIRST)
        assert (status["status"], "missing" in str(status["reason"]) or "bev" in str(status["reason"])) == (
            "set_aside",
            True,
        )
        assert (await uploader.get_upload_status(SECOND))["status"] == "uploaded"

    async def test_a_folder_that_vanishes_between_two_parts(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        usual = cloud.handler

        def vanish(seen: Seen) -> Answer:
            if seen.path.endswith("videos") and (recordings / FIRST).exists():
                (recordings / FIRST).rename(recordings / "elsewhere")
            return usual(seen)

        cloud.handler = vanish
        await (uploader := build()).queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        status = await uploader.get_upload_status(FIRST)
        assert (status["status"], status["reason"]) == ("set_aside", "front_left.mp4 is missing")

    async def test_two_folders_of_one_name(
        self, tmp_path: Path, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        shutil.copytree(recordings / FIRST, tmp_path / "other" / FIRST)
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        with pytest.raises(ScenarioError, match="another folder of this name"):
            await uploader.queue_scenario(tmp_path / "other" / FIRST)
        assert await uploader.sync_now() == 1
        assert (await uploader.get_upload_status(FIRST))["status"] == "uploaded"

    async def test_an_unknown_priority_is_an_error_of_the_caller(self, recordings: Path, build: Build) -> None:
        with pytest.raises(ValueError, match="urgent"):
            await build().queue_scenario(recordings / FIRST, priority="urgent")

    async def test_a_huge_video_that_the_backend_refuses_is_set_aside(
        self, tmp_path: Path, recordings: Path, build: Build
    ) -> None:
        size = 128 << 20
        with (recordings / FIRST / "interior.mp4").open("wb") as file:
            file.write(struct.pack(">I4sI4sQ", 8, b"ftyp", 1, b"mdat", size - 16))
            file.seek(size - 8)
            file.write(struct.pack(">I4s", 8, b"moov"))
        limits = Limits(part=1 << 20)
        backend = BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,), limits=limits)
        async with running_server(backend) as url:
            await (uploader := build(url=url)).queue_scenario(recordings / FIRST)
            assert await uploader.sync_now() == 0
            status = await uploader.get_upload_status(FIRST)
            assert (status["status"], "413" in str(status["reason"])) == ("set_aside", True)
