"""Videos of every kind made small by both ffmpegs: the same pictures at the same times, and nothing else of them."""

import asyncio
import hashlib
import io
import os
import re
import shutil
import signal
import subprocess
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync.adapters.scenarios import transcoder as transcoder_module
from sentinel_sync.adapters.scenarios.transcoder import Compressed, KeptOriginal, Transcoder
from sentinel_sync.settings import CloudSettings
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.ffmpeg import FOR_EVER, LOOK, stand_in
from tests.fakes.patience import until
from tests.fakes.processes import children_of
from tests.fakes.videos import SOURCES, VideoMaker, ffmpeg_of

RECORDINGS = sorted((FIXTURES / "scenarios").glob("*/*.mp4"))
#: x264's pictures of the moving pattern at the default quality are this alike.
ALIKE = 0.95


@pytest.fixture(autouse=True)
def _no_blocking_call_on_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


@pytest.fixture(autouse=True)
def _nothing_is_left_running() -> Iterator[None]:
    before = set(children_of())
    yield
    assert {process: line for process, line in children_of().items() if process not in before} == {}


@pytest.fixture(scope="session", params=SOURCES)
def videos(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> VideoMaker:
    """Videos made by the ffmpeg that is then to compress them."""
    return VideoMaker(ffmpeg_of(request.param), tmp_path_factory.mktemp("videos"))


class Bench:
    """A transcoder with its derived folder."""

    def __init__(self, ffmpeg: str | Path, folder: Path, clock: FakeClock, **settings: Any) -> None:
        self.folder = folder / "derived"
        self.target = self.folder / "0123456789abcdef.mp4"
        self.shares: list[float] = []
        self.transcoder = Transcoder(CloudSettings(ffmpeg_path=Path(ffmpeg), **settings), clock)

    async def compress(self, video: Path, on_progress: Callable[[float], None] | None = None) -> object:
        with io.open(os.open(video, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb") as source:  # noqa: UP020
            size = os.fstat(source.fileno()).st_size
            return await self.transcoder.compress(source, size, self.target, on_progress or self.shares.append)

    async def compressed(self, video: Path) -> Path:
        """Compress a video that can be; the result is what it is said to be, and alone in its folder."""
        result = await self.compress(video)
        assert isinstance(result, Compressed), result
        content = self.target.read_bytes()
        assert result == Compressed(len(content), hashlib.sha256(content).hexdigest())
        assert len(content) < video.stat().st_size
        assert self.left == [self.target.name]
        return self.target

    async def kept(self, video: Path) -> str:
        """Why a video is kept as it is; there is nothing in the folder."""
        result = await self.compress(video)
        assert isinstance(result, KeptOriginal), result
        assert self.left == []
        return result.reason

    @property
    def left(self) -> list[str]:
        return [entry.name for entry in self.folder.iterdir()] if self.folder.exists() else []


@pytest.fixture(name="bench")
def bench_fixture(videos: VideoMaker, tmp_path: Path, clock: FakeClock) -> Bench:
    return Bench(videos.ffmpeg, tmp_path, clock)


# --- what comes out ---


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: f"{path.parent.name}/{path.stem}")
async def test_recordings_become_less_than_half(videos: VideoMaker, bench: Bench, recording: Path) -> None:
    made = await bench.compressed(recording)
    assert made.stat().st_size < 0.5 * recording.stat().st_size
    assert videos.times(made) == pytest.approx(videos.times(recording), abs=0.001)
    assert videos.likeness(recording, made) > ALIKE


async def test_progress_grows_to_1(bench: Bench) -> None:
    await bench.compressed(RECORDINGS[1])
    assert bench.shares == sorted(set(bench.shares))
    assert (bench.shares[0] > 0.0, bench.shares[-1]) == (True, 1.0)
    assert len(bench.shares) >= 3


@pytest.mark.parametrize(("codec", "name"), [("hevc", "hevc"), ("av1", "av1")])
async def test_another_codec_is_made_where_it_is_asked_for(
    videos: VideoMaker, tmp_path: Path, clock: FakeClock, codec: str, name: str
) -> None:
    recording = videos.pattern("plain.mp4")
    made = await Bench(videos.ffmpeg, tmp_path, clock, video_codec=codec).compressed(recording)
    assert videos.streams(made)[0].startswith(f"Video: {name}")
    assert videos.times(made) == pytest.approx(videos.times(recording), abs=0.001)
    assert videos.likeness(recording, made) > ALIKE


async def test_a_codec_that_this_ffmpeg_lacks_becomes_h264(
    videos: VideoMaker, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """An ffmpeg built without x265: the real one, which does not say that it has it."""
    lean = tmp_path / "ffmpeg"
    lean.write_text(
        f'#!/bin/sh\nexec {videos.ffmpeg} "$@" | if [ "$2" = -encoders ]; then grep -v x265; else cat; fi\n'
    )
    lean.chmod(0o755)
    bench = Bench(lean, tmp_path, clock, video_codec="hevc")
    made = await bench.compressed(videos.pattern("plain.mp4"))
    assert videos.streams(made)[0].startswith("Video: h264")
    await bench.compressed(videos.pattern("plain.mp4"))
    assert caplog.text.count("no encoder for hevc: videos become h264") == 1


async def test_quality_is_the_settings(videos: VideoMaker, tmp_path: Path, clock: FakeClock) -> None:
    recording = videos.pattern("plain.mp4")
    sizes = [
        (await Bench(videos.ffmpeg, tmp_path, clock, compression_quality=quality).compressed(recording)).stat().st_size
        for quality in (18, 23, 40)
    ]
    assert sizes == sorted(sizes, reverse=True)
    assert sizes[0] > 1.5 * sizes[2]


@pytest.mark.parametrize(("codec", "kept"), [("aac", True), ("pcm_s16le", False)])
async def test_sound_goes_along(videos: VideoMaker, bench: Bench, codec: str, kept: bool) -> None:
    recording = videos.with_sound(f"{codec}.mov", codec)
    made = await bench.compressed(recording)
    video, audio = videos.streams(made)
    assert video.startswith("Video: h264")
    assert audio.startswith("Audio: aac")
    assert (videos.sound(made) == videos.sound(recording)) is kept


async def test_a_picture_higher_than_wide_stays_so(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.pattern("vertical.mp4", size="120x160")
    made = await bench.compressed(recording)
    assert "120x160" in videos.streams(made)[0]
    assert videos.likeness(recording, made) > ALIKE


async def test_a_picture_to_be_turned_is_turned(videos: VideoMaker, bench: Bench) -> None:
    lying = videos.pattern("plain.mp4")
    if re.search(r"display_rotation", _options(videos.ffmpeg)):
        recording = videos.make("turned.mp4", "-display_rotation", "90", "-i", str(lying), "-c", "copy")
    else:  # as ffmpeg 5 did it
        recording = videos.make("turned.mp4", "-i", str(lying), "-c", "copy", "-metadata:s:v", "rotate=270")
    made = await bench.compressed(recording)
    assert "120x160" in videos.streams(made)[0]
    assert videos.likeness(recording, made) > ALIKE


@pytest.mark.parametrize("size", ["161:121", "160:121", "161:120"])
async def test_an_odd_size_gets_a_black_edge_and_nothing_is_scaled(videos: VideoMaker, bench: Bench, size: str) -> None:
    name = f"odd{size.replace(':', 'x')}.mp4"
    recording = videos.pattern(name, "-vf", f"scale={size},format=yuv420p", size="320x240")
    made = await bench.compressed(recording)
    assert "162x122" in videos.streams(made)[0] or size != "161:121"
    width, height = size.split(":")
    assert videos.likeness(recording, made, crop=f"crop={width}:{height}:0:0:exact=1") > ALIKE


@pytest.mark.parametrize("codec", ["h264", "hevc", "av1"])
async def test_pictures_keep_their_times_where_the_rate_varies(
    videos: VideoMaker, tmp_path: Path, clock: FakeClock, codec: str
) -> None:
    recording = videos.pattern(
        "varying.mp4",
        *("-vf", r"select='lt(n\,20)+not(mod(n\,7))',setpts=PTS+0.003*mod(N\,3)/TB"),
        *("-fps_mode", "passthrough", "-enc_time_base", "1:60000"),
        seconds=2.0,
    )
    made = await Bench(videos.ffmpeg, tmp_path, clock, video_codec=codec).compressed(recording)
    gaps = {
        round(later - sooner, 2)
        for sooner, later in zip(videos.times(recording), videos.times(recording)[1:], strict=False)
    }  # noqa: E501
    assert len(gaps) > 2
    assert videos.times(made) == pytest.approx(videos.times(recording), abs=0.001)


async def test_what_a_container_says_of_places_and_persons_is_not_in_the_result(
    videos: VideoMaker, bench: Bench
) -> None:
    """Tags, chapters, names of streams, subtitles as a GPS track, and words within the video itself."""
    words = videos.folder / "words.txt"
    words.write_text(
        ";FFMETADATA1\ntitle=SECRET-home\n[CHAPTER]\nTIMEBASE=1/1000\nSTART=0\nEND=500\ntitle=SECRET-chapter\n"
    )
    (videos.folder / "track.srt").write_text("1\n00:00:00,000 --> 00:00:01,000\nSECRET +37.7749-122.4194\n")
    told = videos.make(
        "told.mp4",
        *("-f", "lavfi", "-i", "testsrc2=s=160x120:r=30:d=1", "-f", "lavfi", "-i", "sine=d=1"),
        *("-i", str(videos.folder / "track.srt"), "-i", str(words), "-map_metadata", "3", "-map_chapters", "3"),
        *("-map", "0", "-map", "1", "-map", "2", "-c:v", "libx264", "-qp", "1", "-c:a", "aac", "-c:s", "mov_text"),
        *("-bsf:v", "h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+SECRET-in-the-video"),
        *("-metadata", "location=+37.7749-122.4194/", "-metadata", "comment=SECRET-comment"),
        *("-metadata", "com.apple.quicktime.location.ISO6709=+37.7749-122.4194/", "-metadata", "SECRET-key=value"),
        *("-metadata", "creation_time=2024-11-17T10:30:45Z", "-movflags", "use_metadata_tags"),
        *("-metadata:s:v", "handler_name=SECRET-camera", "-metadata:s:a", "handler_name=SECRET-microphone"),
    )
    plain = videos.make(
        "tagged.mp4", "-i", str(videos.pattern("plain.mp4")), "-c", "copy", "-metadata", "location=+37.7749-122.4194/"
    )
    for recording, tell_tales in ((told, 6), (plain, 1)):
        assert len(re.findall(rb"SECRET|37\.7749", recording.read_bytes())) >= tell_tales
        made = await bench.compressed(recording)
        content = made.read_bytes()
        assert not re.findall(rb"SECRET|37\.77|122\.41|Lavf", content)
        assert {stream.partition(":")[0] for stream in videos.streams(made)} <= {"Video", "Audio"}
        # Version 0 of `mvhd`: its flags, then the times of making and of changing, in seconds since 1904.
        assert content[content.index(b"mvhd") + 4 :][:12] == bytes(12)


async def test_the_index_comes_first(videos: VideoMaker, bench: Bench) -> None:
    content = (await bench.compressed(videos.pattern("plain.mp4"))).read_bytes()
    assert content.index(b"moov") < content.index(b"mdat")


async def test_nobody_else_may_read_the_result(videos: VideoMaker, bench: Bench) -> None:
    made = await bench.compressed(videos.pattern("plain.mp4"))
    assert made.stat().st_mode & 0o077 == 0
    assert bench.folder.stat().st_mode & 0o077 == 0


async def test_what_was_there_before_is_replaced(videos: VideoMaker, bench: Bench) -> None:
    bench.folder.mkdir()
    bench.target.write_bytes(b"older")
    await bench.compressed(videos.pattern("plain.mp4"))


async def test_a_folder_that_vanishes_does_no_harm(videos: VideoMaker, bench: Bench, tmp_path: Path) -> None:
    folder = tmp_path / "scenario"
    folder.mkdir()
    recording = shutil.copy(videos.pattern("plain.mp4"), folder / "video.mp4")
    with recording.open("rb") as source:
        size = recording.stat().st_size
        shutil.rmtree(folder)
        result = await bench.transcoder.compress(source, size, bench.target, bench.shares.append)
    assert isinstance(result, Compressed)


# --- what stays as it was ---


async def test_a_truncated_recording_is_kept(videos: VideoMaker, bench: Bench, tmp_path: Path) -> None:
    whole = videos.pattern("index_first.mp4", "-movflags", "+faststart", seconds=2.0).read_bytes()
    (tmp_path / "cut.mp4").write_bytes(whole[: len(whole) * 6 // 10])
    reason = await bench.kept(tmp_path / "cut.mp4")
    assert re.fullmatch(r"the recording cannot be decoded: ffmpeg ended with exit code \d+: .*corrupt input.*", reason)


async def test_a_recording_damaged_within_is_kept(videos: VideoMaker, bench: Bench, tmp_path: Path) -> None:
    content = bytearray(videos.pattern("plain.mp4").read_bytes())
    content[content.index(b"mdat") + 4 :][:0] = b""
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
    recording = videos.pattern("long.mp4", size="640x480", seconds=6.0)
    task = asyncio.create_task(bench.kept(recording))
    os.kill(await _encoder(), number)
    assert await task == reason


async def test_a_cancelled_compression_leaves_nothing(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.pattern("long.mp4", size="640x480", seconds=6.0)
    task = asyncio.create_task(bench.compress(recording))
    await _encoder()
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
    assert isinstance(await first, Compressed)
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
    assert all(isinstance(result, Compressed) for result in results)


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
        recording = videos.pattern("long.mp4", size="640x480", seconds=6.0)
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
    await _encoder()
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
            LOOK.replace("frame=30", "frame=$(case $* in *.new*) echo 28;; *) echo 30;; esac)").replace("'", '"'),
            "the result has 28 frames, but the recording 30",
        ),
        (
            f"{LAST}; printf small >$result; {DONE}",
            LOOK.replace("us=1", "us=$(case $* in *.new*) echo 2;; *) echo 1;; esac)").replace("'", '"'),
            "the result is 2.00 s long, but the recording 1.00 s",
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
    assert reason == "the recording is not as it should be: it ends after 1.00 s, but its header says 5.97 s"


async def test_a_folder_that_cannot_be_written_keeps_the_original(
    tmp_path: Path, clock: FakeClock, any_video: Path
) -> None:
    bench = Bench(stand_in(tmp_path), tmp_path, clock)
    bench.folder.write_bytes(b"a file, where the folder should be")
    result = await bench.compress(any_video)
    assert result == KeptOriginal("no result can be written (File exists)")


async def test_a_result_whose_folder_is_swept_meanwhile_is_none(
    tmp_path: Path, clock: FakeClock, any_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bench = Bench(stand_in(tmp_path, f"{LAST}; printf small >$result; {DONE}"), tmp_path, clock)
    digest = transcoder_module._sha256

    async def slow(path: Path) -> str:
        found = await digest(path)
        shutil.rmtree(bench.folder)
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


async def test_what_is_acknowledged_is_on_disk(
    tmp_path: Path, clock: FakeClock, any_video: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The file first, then its name, then the folder."""
    order: list[str] = []
    fsync, replace, sync_folder = os.fsync, Path.replace, transcoder_module.sync_folder

    def noted_replace(path: Path, target: Path) -> Path:
        order.append("rename")
        return replace(path, target)

    monkeypatch.setattr(transcoder_module.os, "fsync", lambda file: (order.append("file"), fsync(file)))
    monkeypatch.setattr(Path, "replace", noted_replace)
    monkeypatch.setattr(
        transcoder_module,
        "sync_folder",
        lambda folder: (order.append("folder"), monkeypatch.undo(), sync_folder(folder)),
    )
    await Bench(stand_in(tmp_path, f"{LAST}; printf small >$result; {DONE}"), tmp_path, clock).compressed(any_video)
    assert order == ["file", "rename", "folder"]


async def _encoder() -> int:
    """Id of the ffmpeg that compresses, once there is one."""
    found: list[int] = []

    def running() -> bool:
        found[:] = [process for process, line in children_of().items() if "faststart" in line or "tail -f" in line]
        return bool(found)

    await until(running, "an ffmpeg that compresses")
    return found[0]


def _options(ffmpeg: str) -> str:
    return subprocess.run([ffmpeg, "-hide_banner", "-h", "full"], check=True, capture_output=True, text=True).stdout
