"""Whatever is wrong with a recording is said of that recording, and the others go."""

import asyncio
import os
import shutil
import struct
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_sync import ScenarioError
from sentinel_sync.backend import BackendSettings, Limits, running_server
from tests.fakes.cloud import API_KEY, Answer, FakeCloud
from tests.fakes.videos import noisy_video
from tests.fakes.wire_rules import Seen
from tests.scenarios.service import FIRST, SECOND, Build, paths

pytestmark = pytest.mark.usefixtures("no_blocking")


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

    @pytest.mark.parametrize("spoil", [missing_video, vanished, link_out])
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
        await asyncio.to_thread(noisy_video, recordings / FIRST / "interior.mp4", 2 << 20)
        limits = Limits(part=1 << 20)
        backend = BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,), limits=limits)
        async with running_server(backend) as url:
            await (uploader := build(url=url)).queue_scenario(recordings / FIRST)
            assert await uploader.sync_now() == 0
            status = await uploader.get_upload_status(FIRST)
            assert (status["status"], "413" in str(status["reason"])) == ("set_aside", True)

    async def test_a_name_with_a_newline_in_the_metadata(self, recordings: Path, build: Build) -> None:
        (recordings / FIRST / "metadata.json").write_text('{"files": {"bev": "be\\nv.mp4"}}')
        uploader = build()
        with pytest.raises(ScenarioError, match="control character"):
            await uploader.queue_scenario(recordings / FIRST)
        assert (await uploader.get_upload_status(FIRST))["status"] == "set_aside"

    async def test_a_sparse_file_of_ten_gigabytes_holds_up_nobody(self, recordings: Path, build: Build) -> None:
        size = 10 << 30
        with (recordings / FIRST / "interior.mp4").open("wb") as file:
            file.write(struct.pack(">I4sI4sQ", 8, b"ftyp", 1, b"mdat", size - 16))
            file.seek(size - 8)
            file.write(struct.pack(">I4s", 8, b"moov"))
        uploader = build(derived_max_bytes=20 << 30)
        await uploader.queue_scenario(recordings / FIRST, priority="low")
        await uploader.queue_scenario(recordings / SECOND)
        assert await uploader.sync_now() == 1
        assert (await uploader.get_upload_status(SECOND))["status"] == "uploaded"
        status = await uploader.get_upload_status(FIRST)
        assert status["status"] in {"set_aside", "queued"}
        assert "interior.mp4" in str(status["reason"])
