"""Videos that are not made small: each is kept as it was with the reason, and nothing is left of the attempt."""

import asyncio
import os
import re
import shutil
import signal
from pathlib import Path

import pytest

from sentinel_sync.scenarios import transcoder as transcoder_module
from sentinel_sync.scenarios.transcoder import MadeVideo, NotMade
from tests.fakes.clock import FakeClock
from tests.fakes.disk_journal import keep_journal
from tests.fakes.ffmpeg import FOR_EVER, LOOK, stand_in
from tests.fakes.patience import until
from tests.fakes.processes import children_of
from tests.fakes.videos import VideoMaker
from tests.scenarios.workbench import Bench, child

pytestmark = pytest.mark.usefixtures("watched")

# --- what stays as it was ---


async def test_a_truncated_recording_is_kept(videos: VideoMaker, bench: Bench, tmp_path: Path) -> None:
    whole = videos.pattern("index_first.mp4", "-movflags", "+faststart", seconds=2.0).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    reason = await bench.kept(tmp_path / "cut.mp4")
    assert re.fullmatch(r"the recording cannot be decoded: ffmpeg ended with exit code \d+: .*corrupt input.*", reason)


async def test_a_recording_damaged_within_is_kept(videos: VideoMaker, bench: Bench, tmp_path: Path) -> None:
    content = bytearray(videos.pattern("plain.mp4").read_bytes())
    middle = content.index(b"mdat") + 20_000
    content[middle : middle + 3000] = b"\xff" * 3000
    (tmp_path / "damaged.mp4").write_bytes(content)
    assert "the recording cannot be decoded" in await bench.kept(tmp_path / "damaged.mp4")


@pytest.mark.parametrize(
    ("content", "reason"),
    [
        (os.urandom(50_000), "the recording cannot be decoded"),
        (b"", "the recording cannot be decoded"),
        (b"ID3" + bytes(10_000), "the recording cannot be decoded"),
    ],
)
async def test_what_is_no_video_is_kept(bench: Bench, tmp_path: Path, content: bytes, reason: str) -> None:
    (tmp_path / "garbage.mp4").write_bytes(content)
    assert reason in await bench.kept(tmp_path / "garbage.mp4")


async def test_a_video_of_no_length_is_kept(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.pattern("empty.mp4", "-frames:v", "0")
    assert await bench.kept(recording) == "the recording cannot be decoded: there is no video in it"


async def test_sound_alone_is_kept(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.make("sound.mp4", "-f", "lavfi", "-i", "sine=d=1", "-c:a", "aac")
    assert await bench.kept(recording) == "the recording cannot be decoded: there is no video in it"


@pytest.mark.parametrize(
    "playlist",
    [
        "#EXTM3U\n#EXT-X-TARGETDURATION:10\n#EXTINF:10,\nfile://{other}\n#EXT-X-ENDLIST\n",
        "ffconcat version 1.0\nfile '{other}'\n",
    ],
)
async def test_a_playlist_with_a_videos_name_reads_no_other_file(
    videos: VideoMaker, bench: Bench, tmp_path: Path, playlist: str
) -> None:
    (tmp_path / "video.mp4").write_text(playlist.format(other=videos.pattern("plain.mp4")))
    assert "the recording cannot be decoded" in await bench.kept(tmp_path / "video.mp4")


async def test_a_video_that_is_small_already_is_kept(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.make("small.mp4", "-i", str(videos.pattern("plain.mp4")), "-c:v", "libx264", "-crf", "40")
    assert await bench.kept(recording) == "compressing does not make it smaller"


@pytest.mark.parametrize(
    ("number", "reason"),
    [
        (signal.SIGKILL, "it cannot be compressed: ffmpeg was killed by signal 9"),
        (signal.SIGTERM, "it cannot be compressed: ffmpeg ended with exit code 255: it does not say why"),
    ],
)
async def test_a_killed_encoder_leaves_nothing(
    videos: VideoMaker, bench: Bench, number: signal.Signals, reason: str
) -> None:
    """After SIGTERM ffmpeg finishes a file that is whole and too short."""
    recording = videos.pattern("long.mp4", size="640x480", seconds=10.0)
    task = asyncio.create_task(bench.kept(recording))
    process = await bench.encoder()
    # Some pictures are there already: ffmpeg can make a file of them that plays.
    await until(lambda: bench.made_so_far > 20_000, "a part of the result")
    os.kill(process, number)
    assert await task == reason


async def test_a_cancelled_compression_leaves_nothing(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.pattern("long.mp4", size="640x480", seconds=4.0)
    task = asyncio.create_task(bench.compress(recording))
    await bench.encoder()
    assert len(bench.left) == 1
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    assert children_of() == {}
    assert bench.left == []


async def test_one_that_waits_for_its_turn_may_be_cancelled(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.pattern("plain.mp4")
    first, second = (asyncio.create_task(bench.compress(recording)) for _ in range(2))
    await until(lambda: bool(children_of()), "the first ffmpeg")
    second.cancel()
    assert isinstance(await first, MadeVideo)
    with pytest.raises(asyncio.CancelledError):
        await second


async def test_one_ffmpeg_runs_at_a_time(videos: VideoMaker, tmp_path: Path, clock: FakeClock) -> None:
    alone = tmp_path / "ffmpeg"
    alone.write_text(
        f'#!/bin/sh\nmkdir {tmp_path}/lock || exit 9\n{videos.ffmpeg} "$@"; rc=$?\nrmdir {tmp_path}/lock; exit $rc\n'
    )
    alone.chmod(0o755)
    bench = Bench(alone, tmp_path, clock)
    results = await asyncio.gather(*(bench.compress(videos.pattern("plain.mp4")) for _ in range(3)))
    assert all(isinstance(result, MadeVideo) for result in results)


async def test_a_full_disk_is_said_and_leaves_nothing(videos: VideoMaker, tmp_path: Path, clock: FakeClock) -> None:
    mount, umount = shutil.which("mount"), shutil.which("umount")
    (tmp_path / "derived").mkdir()
    small = await asyncio.create_subprocess_exec(
        *(mount or "mount", "-t", "tmpfs", "-o", "size=64k", "none", str(tmp_path / "derived")),
        stderr=asyncio.subprocess.DEVNULL,
    )
    if await small.wait() != 0:
        pytest.skip("a small file system cannot be mounted here: that takes root")
    try:
        bench = Bench(videos.ffmpeg, tmp_path, clock)
        recording = videos.pattern("long.mp4", size="640x480", seconds=4.0)
        assert await bench.kept(recording) == "it cannot be compressed: the disk is full"
    finally:
        await (await asyncio.create_subprocess_exec(umount or "umount", str(tmp_path / "derived"))).wait()


# --- what only a stand-in does ---


@pytest.fixture(name="any_video")
def any_video_fixture(tmp_path: Path) -> Path:
    (tmp_path / "video.mp4").write_bytes(b"x" * 1000)
    return tmp_path / "video.mp4"


DONE = "printf 'frame=30\\nprogress=end\\n'; exit 0"
LAST = 'for result; do :; done; result="${result#file:}"'


async def test_without_any_ffmpeg_the_original_goes(tmp_path: Path, clock: FakeClock, any_video: Path) -> None:
    bench = Bench(tmp_path / "none", tmp_path, clock)
    assert await bench.kept(any_video) == "cloud.ffmpeg_path names no program that can be run"


async def test_without_any_encoder_the_original_goes(tmp_path: Path, clock: FakeClock, any_video: Path) -> None:
    program = stand_in(tmp_path)
    program.write_text(program.read_text().replace("libx264", "h264_v4l2m2m"))
    assert await Bench(program, tmp_path, clock).kept(any_video) == "this ffmpeg has no encoder for H.264 (libx264)"


async def test_one_that_hangs_is_ended_in_proportion_to_the_video(
    tmp_path: Path, clock: FakeClock, any_video: Path
) -> None:
    """A second of video: 60 s, and 20 s for each second."""
    bench = Bench(stand_in(tmp_path, FOR_EVER), tmp_path, clock)
    task = asyncio.create_task(bench.kept(any_video))
    await child()
    await clock.advance(79.9)
    assert not task.done()
    await clock.advance(0.2)
    assert await task == "ffmpeg took longer than 80 s"


@pytest.mark.parametrize(
    ("encode", "look", "reason"),
    [
        (f"{LAST}; printf small >$result; exit 0", LOOK, "it cannot be compressed: ffmpeg ended with exit code 0"),
        (
            f"{LAST}; printf small >$result; {DONE[:-1]}7",
            LOOK,
            "it cannot be compressed: ffmpeg ended with exit code 7",
        ),
        (
            f"{LAST}; printf small >$result; {DONE}",
            f"case $* in *.new*) seq 29; exit 0;; esac; {LOOK}",
            "the result has 29 frames, but the recording 31",
        ),
        (
            f"{LAST}; printf small >$result; {DONE}",
            f"case $* in *.new*) seq 0 66 1980; exit 0;; esac; {LOOK}",
            "the result is 1.98 s long, but the recording 1.00 s",
        ),
        (
            f"{LAST}; printf small >$result; {DONE}",
            f"case $* in *.new*) echo '[error] damaged' >&2; exit 1;; esac; {LOOK}",
            "the result cannot be decoded: ffmpeg ended with exit code 1: damaged",
        ),
        (f"{LAST}; rm -f $result; {DONE}", LOOK, "the result cannot be written to disk (No such file or directory)"),
        (
            f"{LAST}; cat {{video}} >$result; {DONE}",
            LOOK,
            "compressing does not make it smaller",
        ),
        (
            f"while printf 'frame=1\\ntotal_size=1000\\nprogress=continue\\n'; do :; done; {FOR_EVER}",
            LOOK,
            "compressing does not make it smaller",
        ),
    ],
)
async def test_what_looks_like_success_is_looked_at(
    tmp_path: Path, clock: FakeClock, any_video: Path, encode: str, look: str, reason: str
) -> None:
    program = stand_in(tmp_path, encode.replace("{video}", str(any_video)), look)
    assert (await Bench(program, tmp_path, clock).kept(any_video)).startswith(reason)


async def test_a_header_that_promises_more_than_comes_is_not_believed(
    tmp_path: Path, clock: FakeClock, any_video: Path
) -> None:
    program = stand_in(tmp_path, look=f"echo '  Duration: 00:00:05.97, start: 0' >&2; {LOOK}")
    reason = await Bench(program, tmp_path, clock).kept(any_video)
    assert reason == (
        "the recording is not as it should be: its last picture comes after 1.00 s, but its header promises 5.97 s"
    )


async def test_a_folder_that_cannot_be_written_keeps_the_original(
    tmp_path: Path, clock: FakeClock, any_video: Path
) -> None:
    bench = Bench(stand_in(tmp_path), tmp_path, clock)
    bench.folder.write_bytes(b"a file, where the folder should be")
    result = await bench.compress(any_video)
    assert result == NotMade("no result can be written (File exists)")


async def test_a_result_whose_folder_is_swept_meanwhile_is_none(
    tmp_path: Path, clock: FakeClock, any_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(stand_in(tmp_path, f"{LAST}; printf small >$result; {DONE}"), tmp_path, clock)
    digest = transcoder_module._sha256

    async def slow(path: Path) -> str:
        found = await digest(path)
        await asyncio.to_thread(shutil.rmtree, bench.folder)
        return found

    monkeypatch.setattr(transcoder_module, "_sha256", slow)
    assert await bench.kept(any_video) == "the result cannot be put in its place (No such file or directory)"


async def test_a_listener_that_fails_ends_the_work(tmp_path: Path, clock: FakeClock, any_video: Path) -> None:
    bench = Bench(stand_in(tmp_path, f"{LAST}; printf small >$result; {DONE}"), tmp_path, clock)

    def broken(_share: float) -> None:
        raise ValueError("a bug of the listener's")

    with pytest.raises(ValueError, match="a bug"):
        await bench.compress(any_video, broken)
    assert bench.left == []


async def test_what_is_acknowledged_is_on_disk(tmp_path: Path, clock: FakeClock, any_video: Path) -> None:
    """The file first, then its name, then the folder."""
    with keep_journal() as journal:
        await Bench(stand_in(tmp_path, f"{LAST}; printf small >$result; {DONE}"), tmp_path, clock).compressed(any_video)
    assert [step.split()[0] for step in journal.steps if not step.startswith("unlink")] == ["sync", "rename", "sync"]
