"""Videos go small where that is possible, are made once, and nothing of the making is left behind."""

import asyncio
import hashlib
import shutil
from pathlib import Path

import httpx
import pytest

from sentinel_sync.backend import BackendSettings, running_server
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, Answer, FakeCloud, problem
from tests.fakes.patience import until
from tests.fakes.videos import noisy_video
from tests.fakes.wire_rules import Seen
from tests.scenarios.service import FIRST, SECOND, VIDEOS, Build, derived, fail_once, is_video

pytestmark = pytest.mark.usefixtures("no_blocking")

needs_ffmpeg = pytest.mark.skipif(shutil.which("ffmpeg") is None, reason="no ffmpeg on PATH")


@needs_ffmpeg
async def test_a_recording_goes_small_and_each_part_arrives_as_it_was_made(
    tmp_path: Path, recordings: Path, build: Build
) -> None:
    async with (
        running_server(BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,))) as url,
        httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}) as reader,
    ):
        uploader = build(url=url, compress_videos=True)
        told: list[TransferStatus] = []
        uploader.on_progress(told.append)
        await uploader.queue_scenario(recordings / SECOND)
        assert await uploader.sync_now() == 1
        shown = (await reader.get(f"/scenarios/{SECOND}")).json()
    assert shown["complete"]
    sent = {part.part: part for part in await uploader.get_uploads()}
    there = {part["name"]: part for part in shown["parts"]}
    for name in (*VIDEOS, "annotations.json"):
        assert there[name]["received_sha256"] == sent[name].sha256
        assert sent[name].size_bytes == there[name]["received_size"]
        assert sent[name].size_bytes <= 0.6 * (recordings / SECOND / name).stat().st_size
    annotations = (recordings / SECOND / "annotations.json").read_bytes()
    assert there["annotations.json"]["sha256"] == hashlib.sha256(annotations).hexdigest()
    assert derived(uploader) == set()
    await until(lambda: told[-1].part == "annotations.json", "the last news")
    phases = {(said.part, said.phase) for said in told}
    assert {(name, phase) for name in VIDEOS for phase in ("compressing", "uploading")} <= phases
    assert all(0 <= said.done_bytes <= said.total_bytes for said in told)
    status = await uploader.get_upload_status(SECOND)
    assert (status["status"], status["notes"]) == ("uploaded", {})


@needs_ffmpeg
async def test_what_was_made_is_not_made_again_after_a_restart(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock
) -> None:
    fail_once(cloud, is_video, problem(503))
    first = build(compress_videos=True)
    await first.queue_scenario(recordings / SECOND)
    assert await first.sync_now() == 0
    (made,) = derived(first)
    clock.tick(600.0)
    restarted = build(compress_videos=True)
    told: list[tuple[str, str]] = []
    restarted.on_progress(lambda said: told.append((said.part, said.phase)))
    usual, kept = cloud.handler, []

    def look(seen: Seen) -> Answer:
        kept.append(made in derived(restarted))
        return usual(seen)

    cloud.handler = look
    assert await restarted.sync_now() == 1
    assert kept[0]
    assert (VIDEOS[0], "compressing") not in told
    assert (VIDEOS[1], "compressing") in told


@needs_ffmpeg
async def test_what_was_made_and_is_gone_is_made_again(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, store: Store
) -> None:
    fail_once(cloud, is_video, problem(503))
    uploader = build(compress_videos=True)
    await uploader.queue_scenario(recordings / SECOND)
    assert await uploader.sync_now() == 0
    shutil.rmtree(store.state_dir / "derived")
    clock.tick(600.0)
    assert await uploader.sync_now() == 1


@needs_ffmpeg
async def test_withdrawing_stops_the_compression_within_a_second_and_leaves_nothing(
    cloud: FakeCloud, recordings: Path, build: Build, store: Store
) -> None:
    uploader = build(compress_videos=True)
    compressing = asyncio.Event()

    async def listen(said: TransferStatus) -> None:
        if said.phase == "compressing":
            compressing.set()

    uploader.on_progress(listen)
    await uploader.queue_scenario(recordings / FIRST)
    sending = asyncio.create_task(uploader.sync_now())
    async with asyncio.timeout(10.0):
        await compressing.wait()
    async with asyncio.timeout(1.0):
        await uploader.set_consent(False)
    assert await sending == 0
    assert derived(uploader) == set()
    assert list((store.state_dir / "derived").iterdir()) == []
    assert (await uploader.get_upload_status(FIRST))["status"] == "dropped"
    assert not [seen for seen in cloud.to("POST") if is_video(seen)]


async def test_what_cannot_be_made_small_goes_as_a_copy_and_the_status_says_why(
    tmp_path: Path, cloud: FakeCloud, recordings: Path, build: Build
) -> None:
    for name in VIDEOS:
        await asyncio.to_thread(noisy_video, recordings / SECOND / name, 100_000)
    uploader = build(compress_videos=True, compression_quality=0)
    await uploader.queue_scenario(recordings / SECOND)
    assert await uploader.sync_now() == 1
    notes = (await uploader.get_upload_status(SECOND))["notes"]
    assert dict.fromkeys(VIDEOS, "compressing does not make it smaller") == notes
    assert len([seen for seen in cloud.to("POST") if is_video(seen)]) == len(VIDEOS)


async def test_without_ffmpeg_nothing_leaves_as_the_recorder_wrote_it(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build(ffmpeg_path=Path("/nowhere/ffmpeg"))
    await uploader.queue_scenario(recordings / SECOND)
    assert await uploader.sync_now() == 0
    status = await uploader.get_upload_status(SECOND)
    assert status["status"] == "queued", "it waits: another ffmpeg may be installed"
    assert "interior.mp4 does not go: what may be private in it cannot be taken out" in str(status["reason"])
    assert "ffmpeg" in str(status["reason"])
    assert not [seen for seen in cloud.to("POST") if is_video(seen)]


async def test_what_never_fits_the_budget_is_set_aside_with_the_reason(recordings: Path, build: Build) -> None:
    uploader = build(derived_max_bytes=1000)
    await uploader.queue_scenario(recordings / SECOND)
    assert await uploader.sync_now() == 0
    status = await uploader.get_upload_status(SECOND)
    assert (status["status"], "cloud.derived_max_bytes" in str(status["reason"])) == ("set_aside", True)


async def test_files_that_no_plan_names_are_swept_at_the_start(recordings: Path, build: Build, store: Store) -> None:
    left = store.state_dir / "derived" / "of-a-killed-agent.mp4"
    left.parent.mkdir()
    left.write_bytes(b"half")
    assert await build().sync_now() == 0
    assert not left.exists()
