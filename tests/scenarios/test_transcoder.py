"""Videos of every kind made small by both ffmpegs: the same pictures at the same times, and nothing else of them."""

import re
import shutil
import subprocess
from itertools import pairwise
from pathlib import Path

import pytest

from sentinel_sync.scenarios.transcoder import MadeVideo
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.videos import VideoMaker
from tests.scenarios.workbench import Bench, content_of, opened

pytestmark = pytest.mark.usefixtures("watched")

#: A large picture and a small one of the shorter recording; the benchmark compresses all of them.
RECORDINGS = [FIXTURES / "scenarios" / "20241117_132640" / name for name in ("front_left.mp4", "bev.mp4")]
#: x264's pictures of the moving pattern at the default quality are this alike.
ALIKE = 0.95


# --- what comes out ---


@pytest.mark.parametrize("recording", RECORDINGS, ids=lambda path: path.stem)
async def test_recordings_become_less_than_half(videos: VideoMaker, bench: Bench, recording: Path) -> None:
    made = await bench.compressed(recording)
    assert len(content_of(made)) < 0.5 * len(content_of(recording))
    assert videos.times(made) == pytest.approx(videos.times(recording), abs=0.001)
    assert videos.likeness(recording, made) > ALIKE


async def test_progress_grows_to_1(bench: Bench) -> None:
    await bench.compressed(RECORDINGS[0])
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
    assert bench.note == "this ffmpeg has no encoder for hevc: it is h264"
    await bench.compressed(videos.pattern("plain.mp4"))
    assert caplog.text.count("no encoder for hevc: videos become h264") == 1


async def test_quality_is_the_settings(videos: VideoMaker, tmp_path: Path, clock: FakeClock) -> None:
    recording = videos.pattern("plain.mp4")
    sizes = [
        len(content_of(await Bench(videos.ffmpeg, tmp_path, clock, compression_quality=quality).compressed(recording)))
        for quality in (18, 40)
    ]
    assert sizes[0] > 1.5 * sizes[1]


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
    gaps = {round(later - sooner, 2) for sooner, later in pairwise(videos.times(recording))}
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
        assert len(re.findall(rb"SECRET|37\.7749|loci", content_of(recording))) >= tell_tales
        made = await bench.compressed(recording)
        content = content_of(made)
        assert not re.findall(rb"SECRET|37\.77|122\.41|loci|Lavf", content)
        assert {stream.partition(":")[0] for stream in videos.streams(made)} <= {"Video", "Audio"}
        # Version 0 of `mvhd`: its flags, then the times of making and of changing, in seconds since 1904.
        assert content[content.index(b"mvhd") + 4 :][:12] == bytes(12)


async def test_the_index_comes_first(videos: VideoMaker, bench: Bench) -> None:
    content = content_of(await bench.compressed(videos.pattern("plain.mp4")))
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
    recording = Path(shutil.copy(videos.pattern("plain.mp4"), folder / "video.mp4"))
    with opened(recording) as source:
        size = len(content_of(recording))
        shutil.rmtree(folder)
        result = await bench.transcoder.compress(source, size, bench.target, bench.shares.append)
    assert isinstance(result, MadeVideo)


def _options(ffmpeg: str) -> str:
    return subprocess.run([ffmpeg, "-hide_banner", "-h", "full"], check=True, capture_output=True, text=True).stdout
