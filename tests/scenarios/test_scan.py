"""What is new and complete in the recorder's folder is queued by itself; what is being written is left alone."""

import asyncio
import gzip
import json
import os
import shutil
import struct
from pathlib import Path

import pytest

from sentinel_sync import ScenarioUploader
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FakeCloud
from tests.scenarios.service import FIRST, SECOND, Build, announced, backdate

pytestmark = pytest.mark.usefixtures("no_blocking")

SETTLE, INTERVAL, PATIENCE = 5.0, 10.0, 60.0


async def statuses(uploader: ScenarioUploader) -> dict[str, str]:
    return {status["scenario_id"]: status["status"] for status in await uploader.get_scenarios()}


async def settle(uploader: ScenarioUploader, clock: FakeClock) -> None:
    """Look, wait until what was seen has settled, look again."""
    await uploader.scan_step()
    clock.tick(SETTLE)
    await uploader.scan_step()


async def test_what_is_complete_is_queued_once_it_has_settled_and_sent(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build()
    assert await uploader.scan_step() == SETTLE
    assert await statuses(uploader) == {}
    clock.tick(SETTLE)
    assert await uploader.scan_step() == INTERVAL
    assert await statuses(uploader) == {FIRST: "queued", SECOND: "queued"}
    assert uploader.upload.wake.is_set()
    assert await uploader.sync_now() == 2
    assert announced(cloud) == [FIRST, SECOND]
    assert {name for _, name in await uploader.uploaded_since(clock.now() - 60.0)} == {FIRST, SECOND}
    assert await uploader.uploaded_since(clock.now() + 60.0) == []
    clock.tick(INTERVAL)
    await settle(uploader, clock)
    await settle(build(), clock)
    assert await uploader.sync_now() == 0
    assert len(announced(cloud)) == 2


async def test_a_critical_trigger_goes_first(recordings: Path, build: Build, clock: FakeClock) -> None:
    uploader = build()
    await settle(uploader, clock)
    priorities = {status["scenario_id"]: status["priority"] for status in await uploader.get_scenarios()}
    assert priorities == {FIRST: "high", SECOND: "normal"}


async def test_a_recording_that_is_being_written_is_left_alone_until_it_is_complete(
    recordings: Path, build: Build, clock: FakeClock, tmp_path: Path
) -> None:
    shutil.rmtree(recordings / SECOND)
    whole = tmp_path / "whole"
    (recordings / FIRST).rename(whole)
    being_written = recordings / FIRST
    being_written.mkdir()
    uploader = build()
    for path in sorted(whole.iterdir(), key=lambda path: path.name == "metadata.json"):
        content = path.read_bytes()
        with (being_written / path.name).open("wb") as file:
            for piece in (content[: len(content) // 2], content[len(content) // 2 :]):
                file.write(piece)
                file.flush()
                await settle(uploader, clock)
                if piece is content[: len(content) // 2]:
                    assert await statuses(uploader) == {}
        if path.name != "metadata.json":
            assert await statuses(uploader) == {}
    assert await statuses(uploader) == {FIRST: "queued"}


async def test_one_that_keeps_changing_is_not_taken(recordings: Path, build: Build, clock: FakeClock) -> None:
    uploader = build()
    for at in range(1, 6):
        os.utime(recordings / FIRST / "bev.mp4", (at, at))
        await uploader.scan_step()
        clock.tick(SETTLE - 1.0)
    assert await statuses(uploader) == {SECOND: "queued"}


async def test_one_that_stays_incomplete_is_refused_once_and_looked_at_again_when_it_changes(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    video = recordings / FIRST / "bev.mp4"
    content = video.read_bytes()
    os.truncate(video, 1000)
    uploader = build()
    await settle(uploader, clock)
    assert await statuses(uploader) == {SECOND: "queued"}
    clock.tick(PATIENCE)
    await uploader.scan_step()
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], status["reason"]) == ("set_aside", "bev.mp4 is cut off")
    assert status["queued_at"] is not None
    for again in (uploader, build()):
        clock.tick(PATIENCE)
        await settle(again, clock)
        assert (await again.get_upload_status(FIRST))["queued_at"] == status["queued_at"]
    video.write_bytes(content)
    clock.tick(60.0)
    await settle(uploader, clock)
    assert (await uploader.get_upload_status(FIRST))["status"] == "queued"


async def test_one_that_was_refused_by_name_is_queued_once_it_is_complete(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    metadata = recordings / FIRST / "metadata.json"
    content = metadata.read_bytes()
    metadata.unlink()
    uploader = build()
    with pytest.raises(Exception, match="is missing"):
        await uploader.queue_scenario(recordings / FIRST)
    metadata.write_bytes(content)
    await settle(uploader, clock)
    assert (await uploader.get_upload_status(FIRST))["status"] == "queued"


async def test_nothing_is_looked_at_without_consent_and_all_of_it_with(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build(consent=False)
    await settle(uploader, clock)
    assert await statuses(uploader) == {}
    await uploader.set_consent(True)
    assert uploader.scan.wake.is_set()
    await settle(uploader, clock)
    assert set(await statuses(uploader)) == {FIRST, SECOND}


async def test_nothing_is_queued_while_uploads_are_switched_off(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build(upload_scenarios=False)
    await settle(uploader, clock)
    assert await statuses(uploader) == {}


async def test_what_a_withdrawal_dropped_is_not_queued_again_by_a_grant(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build()
    await settle(uploader, clock)
    await uploader.set_consent(False)
    await uploader.set_consent(True)
    await settle(uploader, clock)
    assert await statuses(uploader) == {FIRST: "dropped", SECOND: "dropped"}
    await uploader.queue_scenario(recordings / FIRST)
    assert await uploader.sync_now() == 1


@pytest.mark.parametrize(
    # Of what an unset clock dates while no agent runs, nobody can know when it was made.
    ("restarted", "clock_is_set"),
    [(False, True), (False, False), (True, True)],
)
async def test_what_was_made_while_the_consent_stood_withdrawn_is_sent_by_name_only(
    recordings: Path, build: Build, clock: FakeClock, restarted: bool, clock_is_set: bool, tmp_path: Path
) -> None:
    (recordings / SECOND).rename(tmp_path / SECOND)
    backdate(recordings / FIRST, clock.now() - 60.0)
    uploader = build(consent=False)
    await uploader.set_consent(False)
    await settle(uploader, clock)
    clock.tick(60.0)
    (tmp_path / SECOND).rename(recordings / SECOND)
    backdate(recordings / SECOND, clock.now() if clock_is_set else 1000.0)
    if not restarted:
        await settle(uploader, clock)
    clock.tick(60.0)
    uploader = build(consent=False)
    await uploader.set_consent(True)
    await settle(uploader, clock)
    # FIRST was made before any decision.
    assert await statuses(uploader) == {FIRST: "queued", SECOND: "dropped"}
    assert "while the consent was withdrawn" in str((await uploader.get_upload_status(SECOND))["reason"])
    await uploader.queue_scenario(recordings / SECOND)
    assert (await uploader.get_upload_status(SECOND))["status"] == "queued"


@pytest.mark.parametrize("clock_moves_by", [-90_000.0, 0.0, 90_000.0])
async def test_no_clock_has_to_be_right_for_what_was_made_while_the_consent_stood_withdrawn(
    recordings: Path, build: Build, clock: FakeClock, clock_moves_by: float, tmp_path: Path
) -> None:
    """Found by the simulation: withdrawn by a clock that ran ahead, recorded by one that had been set right."""
    (recordings / SECOND).rename(tmp_path / SECOND)
    uploader = build(consent=False)
    await uploader.set_consent(True)
    await uploader.set_consent(False)
    clock.set_wall(clock.now() + clock_moves_by)
    (tmp_path / SECOND).rename(recordings / SECOND)
    backdate(recordings / SECOND, clock.now())
    # The recording that was there goes on being written.
    (recordings / FIRST / "annotations.json").write_text('{"frames": []}')
    backdate(recordings / FIRST, clock.now())
    await uploader.set_consent(False)
    clock.set_wall(clock.now() + clock_moves_by)
    await uploader.set_consent(True)
    await settle(uploader, clock)
    assert await statuses(uploader) == {FIRST: "dropped", SECOND: "dropped"}


async def test_a_link_to_a_folder_is_refused_and_files_and_hidden_folders_are_nobody(
    recordings: Path, build: Build, clock: FakeClock, tmp_path: Path
) -> None:
    (recordings / FIRST).rename(tmp_path / "elsewhere")
    (recordings / FIRST).symlink_to(tmp_path / "elsewhere")
    (recordings / ".being-made").mkdir()
    (recordings / "notes.txt").write_text("")
    uploader = build()
    await settle(uploader, clock)
    assert await statuses(uploader) == {FIRST: "set_aside", SECOND: "queued"}
    assert "is a link" in str((await uploader.get_upload_status(FIRST))["reason"])


async def test_a_folder_that_vanishes_or_never_was_is_no_fault(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build()
    await uploader.scan_step()
    shutil.rmtree(recordings / FIRST)
    clock.tick(SETTLE)
    await uploader.scan_step()
    assert await statuses(uploader) == {SECOND: "queued"}
    shutil.rmtree(recordings)
    assert await uploader.scan_step() == INTERVAL


@pytest.mark.parametrize("name", ["two\nlines", b"not-utf8-\xff"])
async def test_a_name_that_cannot_travel_is_refused_with_its_reason(
    recordings: Path, build: Build, clock: FakeClock, name: str | bytes
) -> None:
    (recordings / FIRST).rename(recordings / os.fsdecode(name))
    uploader = build()
    await settle(uploader, clock)
    clock.tick(PATIENCE)
    await uploader.scan_step()
    found = await statuses(uploader)
    assert found.pop(SECOND) == "queued"
    assert list(found.values()) == ["set_aside"]


async def test_what_was_cut_off_while_it_was_queued_is_queued_by_the_next_look(
    recordings: Path, build: Build, clock: FakeClock, store: Store
) -> None:
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    # As a power cut leaves it between the plan and the item: neither the item nor the note that it is in.
    records = uploader._records
    plan = await records.plan(FIRST)
    assert plan is not None
    await store.outbox.drop([f"scenario:{FIRST}"])
    assert (await uploader.get_upload_status(FIRST))["status"] == "dropped"
    body = json.loads((await _documents_body(store)).decode())
    assert body["in_queue"] is True
    restarted = build()
    await settle(restarted, clock)
    # What an operator dropped stays dropped …
    assert (await restarted.get_upload_status(FIRST))["status"] == "dropped"
    await _write_plan(store, body | {"in_queue": False})
    restarted = build()
    await settle(restarted, clock)
    # … what a power cut took is made up for.
    assert (await restarted.get_upload_status(FIRST))["status"] == "queued"


async def test_thousands_of_folders_that_are_known_are_not_looked_into(
    recordings: Path, build: Build, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = build()
    await settle(uploader, clock)
    looked: list[Path] = []
    monkeypatch.setattr("sentinel_sync.scenarios.scan.snapshot_of", looked.append)
    clock.tick(INTERVAL)
    await uploader.scan_step()
    assert looked == []
    (recordings / "new").mkdir()
    await uploader.scan_step()
    assert looked == [recordings / "new"]


async def _documents_body(store: Store) -> bytes:
    return await store.documents._database.run(
        lambda connection: connection.execute(
            "SELECT body FROM document WHERE kind = 'scenario' AND key = ?", (FIRST,)
        ).fetchone()[0]
    )


async def _write_plan(store: Store, body: dict[str, object]) -> None:
    await store.documents._database.run(
        lambda connection: connection.execute(
            "UPDATE document SET body = ? WHERE kind = 'scenario' AND key = ?", (json.dumps(body).encode(), FIRST)
        )
    )


# --- what changes, what is still written, what was cut off ---


HOUR_NS = 3600 * 10**9


def moved(folder: Path, by_ns: int) -> None:
    """Move the times of all files, as a FAT disk's do with the zone."""
    for path in folder.iterdir():
        found = path.stat()
        os.utime(path, ns=(found.st_atime_ns, found.st_mtime_ns + by_ns))


@pytest.mark.parametrize("by_ns", [-HOUR_NS, HOUR_NS * 23 // 4, HOUR_NS + 2 * 10**9])
async def test_a_zone_that_changed_changes_no_recording(
    recordings: Path, build: Build, clock: FakeClock, by_ns: int
) -> None:
    """G12."""
    uploader = build()
    await settle(uploader, clock)
    moved(recordings / FIRST, by_ns)
    assert await uploader.sync_now() == 2


@pytest.mark.parametrize("by_ns", [1, 10**9, 17 * 10**9, -40 * HOUR_NS])
async def test_one_whose_files_have_another_time_is_queued_again_by_itself(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, by_ns: int
) -> None:
    uploader = build()
    await settle(uploader, clock)
    moved(recordings / FIRST, by_ns)
    assert await uploader.sync_now() == 1
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], "looked at again" in str(status["reason"])) == ("held", True)
    await settle(uploader, clock)
    assert await uploader.sync_now() == 1
    assert (await uploader.get_upload_status(FIRST))["status"] == "uploaded"
    assert await uploader.sync_now() == 0


async def test_one_that_was_written_to_after_it_was_queued_goes_as_it_is_now(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock
) -> None:
    """G11: annotations that are rewritten later."""
    uploader = build()
    await settle(uploader, clock)
    (recordings / FIRST / "annotations.json").write_text('{"frames": [], "tag": "second thoughts"}')
    await uploader.sync_now()
    await settle(uploader, clock)
    await uploader.sync_now()
    assert (await uploader.get_upload_status(FIRST))["status"] == "uploaded"
    sent = [gzip.decompress(seen.body) for seen in cloud.to("POST", f"/scenarios/{FIRST}/annotations")]
    assert b"second thoughts" in sent[-1]


async def test_one_that_somebody_has_open_to_write_is_not_taken(
    recordings: Path, build: Build, clock: FakeClock
) -> None:
    """G11: a recorder that flushes more seldom than a recording settles."""
    uploader = build()
    with (recordings / FIRST / "bev.mp4").open("ab"):
        for _ in range(5):
            await settle(uploader, clock)
        assert await statuses(uploader) == {SECOND: "queued"}
    await settle(uploader, clock)
    assert (await uploader.get_upload_status(FIRST))["status"] == "queued"


def noting(folder: Path, clock: FakeClock, **facts: object) -> None:
    """Have the recorder say so, just now."""
    path = folder / "metadata.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | facts))
    backdate(folder, clock.now())


@pytest.mark.parametrize(
    ("facts", "lack", "compressed"),
    [
        ({"duration": 30.0}, "holds 2.0 s of the 30.0 s in metadata.json", True),
        ({"duration": None, "num_frames": 900}, "holds 60 pictures of the 900 in metadata.json", False),
    ],
)
async def test_one_that_is_shorter_than_its_metadata_says_waits_and_then_goes_marked(
    recordings: Path, build: Build, clock: FakeClock, facts: dict[str, object], lack: str, *, compressed: bool
) -> None:
    """G11: a recorder that closes the file between two pieces; or one that a power cut ended."""
    shutil.rmtree(recordings / SECOND)
    noting(recordings / FIRST, clock, **facts, files={"interior": "interior.mp4"})
    uploader = build(compress_videos=compressed)
    await settle(uploader, clock)
    await uploader.sync_now()
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], lack in str(status["reason"])) == ("queued", True)
    assert not (status["parts"] | {"metadata.json": False}).get("interior.mp4")
    clock.tick(120.0)
    await uploader.sync_now()
    status = await uploader.get_upload_status(FIRST)
    assert status["status"] == "uploaded"
    assert f"it {lack}: what is there goes" in str(status)


async def test_one_that_is_written_on_meanwhile_goes_whole(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock
) -> None:
    """G11."""
    whole = (recordings / FIRST / "bev.mp4").read_bytes()
    shutil.copy(recordings / SECOND / "bev.mp4", recordings / FIRST / "bev.mp4")  # the first half of it
    noting(recordings / FIRST, clock, duration=30.0)
    uploader = build()
    await settle(uploader, clock)
    await uploader.sync_now()
    (recordings / FIRST / "bev.mp4").write_bytes(whole)
    noting(recordings / FIRST, clock, duration=2.0)
    for _ in range(3):
        clock.tick(120.0)
        await settle(uploader, clock)
        await uploader.sync_now()
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], "what is there goes" in str(status)) == ("uploaded", False)


def boxes(*found: tuple[bytes, int]) -> bytes:
    return b"".join(struct.pack(">I4s", size, kind) + bytes(size - 8) for kind, size in found)


FRONT = (b"ftyp", 24), (b"moov", 600)
TAILS = {
    "four zero bytes": boxes(*FRONT, (b"mdat", 4000)) + bytes(4),
    "a page of zeros": boxes(*FRONT, (b"mdat", 4000)) + bytes(4096),
    "a vendor's block": boxes(*FRONT, (b"mdat", 4000)) + b"VENDORBLOCK" * 9,
    "an index at the end, then a trailer": boxes((b"ftyp", 24), (b"mdat", 4000), (b"moov", 600)) + b"\xff" * 20,
    "text": boxes(*FRONT, (b"mdat", 4000)) + b"end of recording\n",
    "a half header": boxes(*FRONT, (b"mdat", 4000)) + b"\0\0\1",
}
CUT = {
    "in the only media": boxes(*FRONT, (b"mdat", 4000))[:-900],
    "in a fragment": boxes(*FRONT, (b"moof", 100), (b"mdat", 900), (b"moof", 100), (b"mdat", 900))[:-400],
    "in a fragment's index": boxes(*FRONT, (b"moof", 100), (b"mdat", 900), (b"moof", 100))[:-40],
    "in the first fragment": boxes(*FRONT, (b"moof", 100), (b"mdat", 900))[:-880],
    "in a wide box": boxes(*FRONT) + struct.pack(">I4sQ", 1, b"mdat", 1 << 33) + bytes(500),
}


@pytest.mark.parametrize("tail", TAILS)
async def test_what_lies_behind_the_last_box_is_for_ffmpeg_to_judge(
    recordings: Path, build: Build, clock: FakeClock, tail: str
) -> None:
    """G13."""
    (recordings / FIRST / "bev.mp4").write_bytes(TAILS[tail])
    uploader = build()
    await settle(uploader, clock)
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], status["warning"]) == ("queued", None)


@pytest.mark.parametrize("where", CUT)
async def test_of_one_that_was_cut_off_what_is_there_goes_and_is_marked(
    recordings: Path, build: Build, clock: FakeClock, where: str
) -> None:
    """G14."""
    (recordings / FIRST / "bev.mp4").write_bytes(CUT[where])
    uploader = build()
    await settle(uploader, clock)
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], status["warning"]) == ("queued", "bev.mp4 is cut off: what is there goes")


async def test_two_looks_at_once_take_each_recording_once(recordings: Path, build: Build, clock: FakeClock) -> None:
    """Whoever flushes looks beside the background."""
    uploader = build()
    await uploader.scan_step()
    clock.tick(SETTLE)
    await asyncio.gather(*(uploader.scan_step() for _ in range(5)))
    assert await statuses(uploader) == {FIRST: "queued", SECOND: "queued"}


async def test_a_power_cut_while_it_is_taken_out_of_the_queue_costs_nothing(
    recordings: Path, build: Build, clock: FakeClock, store: Store, monkeypatch: pytest.MonkeyPatch
) -> None:
    uploader = build()
    await settle(uploader, clock)
    moved(recordings / FIRST, 17 * 10**9)

    async def cut(*_: object, **__: object) -> int:
        raise InterruptedError("the power")

    with monkeypatch.context() as patched:
        patched.setattr(store.outbox, "drop", cut)
        with pytest.raises(InterruptedError):
            await uploader.sync_now()
    again = build()
    await settle(again, clock)
    await again.sync_now()
    assert await statuses(again) == {FIRST: "uploaded", SECOND: "uploaded"}
