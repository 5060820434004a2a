"""Recordings are deleted when the settings say so, never else, and nothing but the recorder's own files."""

import os
import shutil
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync import ScenarioUploader
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud
from tests.scenarios.service import DAY, EVERYTHING, FIRST, SECOND, Build, backdate

pytestmark = pytest.mark.usefixtures("no_blocking")


async def uploaded(build: Build, recordings: Path, *names: str, **settings: object) -> ScenarioUploader:
    uploader = build(trusted=True, **settings)
    for name in names:
        await uploader.queue_scenario(recordings / name)
    assert await uploader.sync_now() == len(names)
    return uploader


async def test_uploaded_recordings_are_kept_by_default(recordings: Path, build: Build, clock: FakeClock) -> None:
    uploader = await uploaded(build, recordings, FIRST)
    clock.tick(3650 * DAY)
    assert await uploader.retention_step() == 3600.0
    assert {path.name for path in (recordings / FIRST).iterdir()} == EVERYTHING


async def test_uploaded_ones_go_after_their_days_and_stay_on_record(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = await uploaded(build, recordings, FIRST, keep_uploaded_days=7)
    clock.tick(7 * DAY - 60.0)
    await uploader.retention_step()
    assert (recordings / FIRST).exists()
    clock.tick(120.0)
    await uploader.retention_step()
    assert not (recordings / FIRST).exists()
    assert {path.name for path in (recordings / SECOND).iterdir()} == EVERYTHING
    status = await build().get_upload_status(FIRST)
    assert (status["status"], status["deleted_at"] is None) == ("uploaded", False)
    statistics = await uploader.get_statistics()
    assert (statistics["deleted"], statistics["deleted_unsent"]) == (1, 0)
    assert len(await uploader.get_uploads()) == 6


@pytest.mark.parametrize("consent", [True, False])
async def test_unsent_ones_go_only_where_the_setting_says_so_and_are_counted_and_shown(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, consent: bool
) -> None:
    uploader = build(trusted=True, keep_uploaded_days=0, keep_unsent_days=30, consent=consent)
    if consent:
        await uploader.queue_scenario(recordings / FIRST)
    backdate(recordings / FIRST, clock.now() - 31 * DAY)
    backdate(recordings / SECOND, clock.now() - 29 * DAY)
    await uploader.retention_step()
    assert not (recordings / FIRST).exists()
    assert (recordings / SECOND).exists()
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], status["reason"]) == ("deleted", "it was deleted unsent, by cloud.keep_unsent_days")
    assert (await uploader.get_statistics())["deleted_unsent"] == 1
    assert (await uploader.snapshot()).deleted_unsent == 1
    assert await uploader.sync_now() == 0
    assert cloud.requests == []
    without = build(trusted=True, keep_uploaded_days=0, consent=consent)
    clock.tick(3650 * DAY)
    await without.retention_step()
    assert (recordings / SECOND).exists()


@pytest.mark.parametrize("trusted", [None, False])
async def test_a_clock_that_nobody_vouches_for_deletes_nothing(
    recordings: Path, build: Build, clock: FakeClock, trusted: bool | None
) -> None:
    await uploaded(build, recordings, FIRST, keep_uploaded_days=1)
    clock.tick(10 * DAY)
    await build(trusted=trusted, keep_uploaded_days=1, keep_unsent_days=1).retention_step()
    assert (recordings / FIRST).exists()


async def test_a_recording_that_an_unset_clock_dated_has_no_age(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    for name in (FIRST, SECOND):
        backdate(recordings / name, 1000.0)
    await build(trusted=True, keep_unsent_days=1).retention_step()
    assert (recordings / FIRST).exists()


async def test_only_the_recorders_own_files_are_deleted_and_never_through_a_link(
    recordings: Path, build: Build, clock: FakeClock, tmp_path: Path
) -> None:
    uploader = await uploaded(build, recordings, FIRST, SECOND, keep_uploaded_days=1)
    (recordings / FIRST / "notes.txt").write_text("mine")
    (recordings / SECOND).rename(tmp_path / "elsewhere")
    (recordings / SECOND).symlink_to(tmp_path / "elsewhere")
    clock.tick(2 * DAY)
    await uploader.retention_step()
    assert [path.name for path in (recordings / FIRST).iterdir()] == ["notes.txt"]
    assert {path.name for path in (tmp_path / "elsewhere").iterdir()} == EVERYTHING
    # It is nobody's business any more.
    await uploader.retention_step()
    assert (recordings / FIRST / "notes.txt").read_text() == "mine"


async def test_a_recording_outside_the_folder_is_left_alone(
    recordings: Path, build: Build, clock: FakeClock, tmp_path: Path
) -> None:
    shutil.move(recordings / FIRST, tmp_path / FIRST)
    uploader = await uploaded(build, tmp_path, FIRST, keep_uploaded_days=1)
    shutil.copytree(tmp_path / FIRST, recordings / FIRST)
    clock.tick(2 * DAY)
    await uploader.retention_step()
    assert (tmp_path / FIRST).exists()
    assert (recordings / FIRST).exists()


async def test_files_that_are_not_what_was_uploaded_stay(recordings: Path, build: Build, clock: FakeClock) -> None:
    uploader = await uploaded(build, recordings, FIRST, keep_uploaded_days=1)
    (recordings / FIRST / "bev.mp4").write_bytes(b"another recording of this name")
    clock.tick(2 * DAY)
    await uploader.retention_step()
    assert [path.name for path in (recordings / FIRST).iterdir()] == ["bev.mp4"]


@pytest.mark.parametrize("spoil", ["{", '{"files": {"bev": "../../outside.mp4"}}', None])
async def test_an_unsent_recording_that_is_broken_loses_what_can_be_named(
    recordings: Path, build: Build, clock: FakeClock, spoil: str | None
) -> None:
    (recordings / "outside.mp4").write_bytes(b"x")
    metadata = recordings / FIRST / "metadata.json"
    if spoil is None:
        metadata.unlink()
    else:
        metadata.write_text(spoil)
    backdate(recordings / FIRST, clock.now() - 10 * DAY)
    await build(trusted=True, keep_unsent_days=1).retention_step()
    assert {path.name for path in (recordings / FIRST).iterdir()} == EVERYTHING - {"metadata.json", "annotations.json"}
    assert (recordings / "outside.mp4").exists()


async def test_a_folder_without_anything_of_a_recorder_is_somebody_elses(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    (recordings / "other").mkdir()
    (recordings / "other" / "file").write_text("")
    backdate(recordings / "other", clock.now() - 10 * DAY)
    uploader = build(trusted=True, keep_unsent_days=1)
    await uploader.retention_step()
    assert (recordings / "other" / "file").exists()
    assert (await uploader.get_upload_status("other"))["status"] == "unknown"


async def test_a_power_cut_in_between_is_made_up_for(recordings: Path, build: Build, clock: FakeClock) -> None:
    await uploaded(build, recordings, FIRST, keep_uploaded_days=1)
    clock.tick(2 * DAY)
    deleted: list[object] = []
    with pytest.MonkeyPatch.context() as patched:
        unlink = os.unlink

        def cut_off(*arguments: Any, **more: Any) -> None:
            if len(deleted) == 2:
                raise PowerCutError
            deleted.append(arguments)
            unlink(*arguments, **more)

        patched.setattr(os, "unlink", cut_off)
        with pytest.raises(PowerCutError):
            await build(trusted=True, keep_uploaded_days=1).retention_step()
    left = {path.name for path in (recordings / FIRST).iterdir()}
    assert len(left) == len(EVERYTHING) - 2
    assert "metadata.json" in left
    restarted = build(trusted=True, keep_uploaded_days=1)
    await restarted.retention_step()
    assert not (recordings / FIRST).exists()
    assert (await restarted.get_statistics())["deleted"] == 1


class PowerCutError(Exception):
    """Ends everything, here."""
