"""`disk_reserve`: the recorder finds room before anything is kept for its own sake, on a real disk that is small."""

import os
import shutil
import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest
from pydantic import ValidationError

from sentinel_sync import ScenarioUploader
from sentinel_sync.base.files import Room, room_of
from sentinel_sync.scenarios.retention import LOOK_INTERVAL
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock
from tests.scenarios.service import FIRST, SECOND, Build, derived

MEBIBYTE = 1 << 20


@pytest.fixture
def small_disk(tmp_path: Path) -> Iterator[Path]:
    """A disk of 24 MiB where recordings lie."""
    folder = tmp_path / "scenarios"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=24m,nr_inodes=200", "tmpfs", str(folder)]
    if os.geteuid() != 0 or subprocess.run(mount, check=False, capture_output=True).returncode:
        pytest.skip("mounts a disk of its own: needs root")
    yield folder
    subprocess.run(["umount", "-l", str(folder)], check=True)


def recording(folder: Path, source: Path, name: str, padding: int = 0) -> Path:
    made = folder / name
    shutil.copytree(source, made)
    if padding:
        (made / "bev.mp4").write_bytes(os.urandom(padding))
    return made


@pytest.fixture
def source(recordings: Path) -> Path:
    return recordings / FIRST


def left(folder: Path) -> set[str]:
    return {path.name for path in folder.iterdir()}


class Short:
    """A disk that is short until so many files were deleted."""

    def __init__(self, folder: Path, files: int) -> None:
        self.folder = folder
        self.files = files

    def room(self, _: Path, reserve: int | str) -> Room:
        there = sum(1 for path in self.folder.rglob("*") if path.is_file())
        return Room(0 if there > self.files else 1 << 40, 1 << 20, int(reserve), 0)


async def sent(uploader: ScenarioUploader, folder: Path, clock: FakeClock, *names: str) -> None:
    for name in names:
        await uploader.queue_scenario(folder / name)
        assert await uploader.sync_now() == 1
        clock.tick(60.0)


async def test_uploaded_ones_go_oldest_first_and_no_more_than_needed(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    shutil.copytree(recordings / FIRST, recordings / "20250101_000000")
    uploader = build(disk_reserve=1000)
    await sent(uploader, recordings, clock, SECOND, FIRST)
    uploader._reserve._room = Short(recordings, 13).room
    assert await uploader.retention_step() == LOOK_INTERVAL
    assert left(recordings) == {FIRST, "20250101_000000"}
    status = await uploader.get_upload_status(SECOND)
    assert (status["status"], status["deleted_at"] is None) == ("uploaded", False)
    assert not (await uploader.snapshot()).disk_is_short


async def test_what_was_not_uploaded_stays_unless_the_setting_says_otherwise(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build(disk_reserve=1000)
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.queue_scenario(recordings / SECOND, priority="low")
    uploader._reserve._room = Short(recordings, 6).room
    await uploader.retention_step()
    assert left(recordings) == {FIRST, SECOND}
    assert (await uploader.snapshot()).disk_is_short, "and that is said"
    allowed = build(disk_reserve=1000, disk_reserve_unsent=True)
    allowed._reserve._room = Short(recordings, 6).room
    await allowed.retention_step()
    assert left(recordings) == {FIRST}, "the least important goes first"
    status = await allowed.get_upload_status(SECOND)
    assert (status["status"], status["reason"]) == ("deleted", "it was deleted to keep cloud.disk_reserve free")
    statistics = await allowed.get_statistics()
    assert (statistics["deleted_unsent"], statistics["queued"]) == (1, 1)
    assert not (await allowed.snapshot()).disk_is_short


async def test_derived_files_go_before_any_recording_and_are_made_again(recordings: Path, build: Build) -> None:
    uploader = build(disk_reserve=1000)
    (uploader._store.state_dir / "derived").mkdir()
    left = uploader._store.state_dir / "derived" / ("0" * 32 + ".mp4")
    left.write_bytes(b"made of a recording")
    await uploader.prepare()
    uploader._reserve._room = Short(recordings, 1 << 30).room
    await uploader.retention_step()
    assert left.exists(), "there is room"
    uploader._reserve._room = Short(recordings, 0).room
    await uploader.retention_step()
    assert derived(uploader) == set()


async def test_a_delete_that_a_power_cut_ended_is_done_again(recordings: Path, build: Build, clock: FakeClock) -> None:
    uploader = build(disk_reserve=1000)
    await sent(uploader, recordings, clock, FIRST)
    kept = recordings.parent / "kept"
    shutil.copytree(recordings / FIRST, kept)
    uploader._reserve._room = Short(recordings, 6).room
    await uploader.retention_step()
    assert not (recordings / FIRST).exists()
    shutil.copytree(kept, recordings / FIRST)  # as if its files had never gone
    await build(disk_reserve=1000).prepare()
    again = build(disk_reserve=1000)
    again._reserve._room = Short(recordings, 6).room
    await again.retention_step()
    assert not (recordings / FIRST).exists()


async def test_the_recorder_is_never_starved_on_a_real_disk(
    small_disk: Path, build: Build, clock: FakeClock, tmp_path: Path
) -> None:
    from tests.conftest import FIXTURES  # noqa: PLC0415 - the recordings fixture would lie on the same path

    source = next(iter((FIXTURES / "scenarios").iterdir()))
    uploader = build(disk_reserve=8 * MEBIBYTE, disk_reserve_unsent=True)
    for number in range(20):  # 80 MiB in all, onto 24
        made = recording(small_disk, source, f"20260101_0000{number:02}", 4 * MEBIBYTE)
        await uploader.queue_scenario(made)
        await uploader.sync_now()
        clock.tick(60.0)
        await uploader.retention_step()
        assert room_of(small_disk, 8 * MEBIBYTE).free_bytes >= 8 * MEBIBYTE
    assert (await uploader.get_statistics())["deleted"] >= 15


async def test_nothing_is_derived_while_room_is_short(small_disk: Path, build: Build) -> None:
    uploader = build(disk_reserve="99%")
    (small_disk / "something").write_bytes(b"x" * MEBIBYTE)
    assert not uploader._derived.room_for(1)
    (small_disk / "something").unlink()
    assert build(disk_reserve="1%")._derived.room_for(1)


def test_inodes_count_as_room(small_disk: Path) -> None:
    assert not room_of(small_disk, "50%").is_short
    for number in range(150):
        (small_disk / str(number)).touch()
    assert room_of(small_disk, "50%").is_short
    assert room_of(small_disk / "not" / "there", 1).free_bytes > 0


@pytest.mark.parametrize("value", ["-1%", "101%", "ten %", -1])
def test_what_is_no_reserve_is_refused(value: object) -> None:
    with pytest.raises(ValidationError):
        CloudSettings.model_validate({"disk_reserve": value})
    assert CloudSettings(disk_reserve="12.5%").disk_reserve == "12.5%"
