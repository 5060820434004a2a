"""A copy of a recording has its pictures and its sound, and nothing else that is in the file."""

import asyncio
import os
import shutil
import subprocess
from pathlib import Path

import pytest

from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.videos import VideoMaker, packets
from tests.scenarios.workbench import Bench

pytestmark = pytest.mark.usefixtures("watched")

#: What no part of may be found in what goes.
SECRETS = ("37.774929", "-122.419416", "Zacharias", "/home/zacharias")
PLACE, PERSON = "37.774929,-122.419416", "Zacharias Quill of /home/zacharias"
#: How a recorder may have coded it: container, and codec of the pictures.
KINDS = [
    ("mp4", "mpeg4"),
    ("mp4", "libx264"),
    ("mp4", "libx265"),
    ("mov", "mjpeg"),
    ("mkv", "libx264"),
    ("mkv", "mpeg2video"),
    ("avi", "mpeg4"),
    ("ts", "libx264"),
]


def told_all(videos: VideoMaker, folder: Path, container: str, codec: str) -> Path:
    """A recording with secrets wherever its container has a place for them."""
    subtitles = folder / "track.srt"
    subtitles.write_text(f"1\n00:00:00,000 --> 00:00:01,000\n{PLACE} {PERSON}\n")
    chapters = folder / "chapters.txt"
    chapters.write_text(f";FFMETADATA1\n[CHAPTER]\nTIMEBASE=1/1\nSTART=0\nEND=1\ntitle={PLACE} {PERSON}\n")
    attached = folder / "attached.txt"
    attached.write_text(f"{PLACE} {PERSON}")
    path = folder / f"told.{container}"
    takes_subtitles = {"mp4": ("-c:s", "mov_text"), "mov": ("-c:s", "mov_text"), "mkv": ("-c:s", "srt")}.get(container)
    notes = {"libx264": ("-bsf:v", f"h264_metadata=sei_user_data=086f3693-b7b3-4f2c-9653-21492feee5b8+{PERSON}")}
    # h264_metadata knows no spaces in a message: its own marks stand for them.
    note = tuple(word.replace(" ", "_") for word in notes.get(codec, ()))
    subprocess.run(
        [
            *(videos.ffmpeg, "-nostdin", "-loglevel", "error", "-y"),
            *("-f", "lavfi", "-i", "testsrc2=s=160x120:r=30:d=1", "-f", "lavfi", "-i", "sine=d=1"),
            *("-i", str(subtitles), "-i", str(chapters), "-map", "0:v", "-map", "1:a"),
            *(("-map", "2:s", *takes_subtitles) if takes_subtitles else ()),
            *("-map_chapters", "3", "-c:v", codec, *note, "-c:a", "aac" if container != "avi" else "mp3"),
            *("-metadata", f"comment={PLACE}", "-metadata", f"title={PERSON}", "-metadata", f"location={PLACE}"),
            *(
                "-metadata",
                f"artist={PERSON}",
                "-metadata:s:v",
                f"title={PERSON}",
                "-metadata:s:v",
                f"handler_name={PERSON}",
            ),
            *("-metadata:s:a", f"title={PLACE}"),
            *(("-attach", str(attached), "-metadata:s:t", "mimetype=text/plain") if container == "mkv" else ()),
            *(("-pix_fmt", "yuvj420p") if codec == "mjpeg" else ()),
            str(path),
        ],
        check=True,
    )
    return path


def from_the_first(times: list[float]) -> list[float]:
    return [time - times[0] for time in times]


@pytest.mark.parametrize(("container", "codec"), KINDS)
async def test_nothing_but_pictures_and_sound_goes(
    videos: VideoMaker, bench: Bench, tmp_path: Path, container: str, codec: str
) -> None:
    recording = told_all(videos, tmp_path, container, codec)
    assert any(secret.encode() in recording.read_bytes() for secret in SECRETS), "else this shows nothing"
    made = await bench.copied(recording)
    content = made.read_bytes()
    assert not [secret for secret in SECRETS if secret.encode() in content]
    assert [stream.partition(":")[0] for stream in videos.streams(made)] == ["Video", "Audio"]
    assert from_the_first(videos.times(made)) == pytest.approx(from_the_first(videos.times(recording)), abs=0.001)
    assert videos.likeness(recording, made) == pytest.approx(1.0, abs=0.0001)
    assert bench.shares == sorted(set(bench.shares))
    assert bench.shares[-1] == 1.0


@pytest.mark.parametrize("recording", sorted(FIXTURES.glob("scenarios/*/*.mp4"))[:2], ids=lambda path: path.stem)
async def test_a_recorders_own_files_keep_every_packet(bench: Bench, recording: Path) -> None:
    assert packets(await bench.copied(recording)) == packets(recording)


async def test_the_same_file_makes_the_same_bytes(bench: Bench) -> None:
    recording = min(FIXTURES.glob("scenarios/*/*.mp4"))
    first = (await bench.copied(recording)).read_bytes()
    assert (await bench.copied(recording)).read_bytes() == first


async def test_sound_is_dropped_where_it_is_to_be(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.with_sound("heard.mp4", "aac")
    assert [stream[:5] for stream in videos.streams(await bench.copied(recording, drop_audio=True))] == ["Video"]


async def test_sound_that_mp4_does_not_take_is_coded_anew(videos: VideoMaker, bench: Bench) -> None:
    recording = videos.with_sound("heard.mkv", "pcm_s16le")
    streams = videos.streams(await bench.copied(recording))
    assert [stream.split()[1].rstrip(",") for stream in streams] == ["mpeg4", "aac"]


@pytest.mark.parametrize("content", [os.urandom(50_000), b"", b"ID3" + bytes(10_000)])
async def test_what_is_no_video_is_the_recordings_own_fault(bench: Bench, tmp_path: Path, content: bytes) -> None:
    (tmp_path / "garbage.mp4").write_bytes(content)
    made = await bench.not_copied(tmp_path / "garbage.mp4")
    assert made.is_recordings_fault
    assert "there is no video in it" in made.reason


async def test_no_ffmpeg_is_the_machines(tmp_path: Path, clock: FakeClock) -> None:
    recording = min(FIXTURES.glob("scenarios/*/*.mp4"))
    made = await Bench("/nowhere/ffmpeg", tmp_path, clock).not_copied(recording)
    assert not made.is_recordings_fault
    assert "ffmpeg" in made.reason


async def test_a_folder_that_cannot_be_written_is_the_machines(videos: VideoMaker, bench: Bench) -> None:
    bench.folder.write_text("a file where the folder belongs")
    with (min(FIXTURES.glob("scenarios/*/*.mp4"))).open("rb") as source:
        made = await bench.transcoder.remux(source, 1, bench.target, bench.shares.append)
    assert not getattr(made, "is_recordings_fault", True)


#: What a power cut leaves of these can be read from its beginning: container, codec, and what else it takes.
READABLE = {
    "mp4 with its index first": ("first.mp4", "-movflags", "+faststart"),
    "fragmented mp4": ("fragments.mp4", "-g", "10", "-movflags", "frag_keyframe+empty_moov"),
    "mkv": ("cut.mkv",),
    "ts": ("cut.ts",),
    "avi": ("cut.avi", "-c:v", "mpeg4"),
}


@pytest.mark.parametrize("kind", READABLE)
async def test_of_one_that_a_power_cut_ended_what_is_there_goes(
    videos: VideoMaker, tmp_path: Path, clock: FakeClock, kind: str
) -> None:
    """G14: no kind blocks the whole recording; that it was cut off is in the note of why it was not compressed."""
    name, *options = READABLE[kind]
    whole = videos.pattern(name, *options, seconds=4.0)
    count = len(videos.times(whole))
    cut = tmp_path / name
    await asyncio.to_thread(shutil.copyfile, whole, cut)
    os.truncate(cut, whole.stat().st_size * 7 // 10)
    copy = await Bench(videos.ffmpeg, tmp_path, clock).copied(cut)
    assert count // 3 < len(videos.times(copy)) < count


@pytest.mark.parametrize("tail", [bytes(4), bytes(4096), b"VENDORBLOCK" * 9, b"\xff" * 20, b"end of recording\n"])
async def test_what_recorders_leave_behind_the_last_box_is_in_nobodys_way(
    videos: VideoMaker, tmp_path: Path, clock: FakeClock, tail: bytes
) -> None:
    """G13: ffmpeg judges."""
    whole = videos.pattern("tail.mp4", seconds=2.0)
    count = len(videos.times(whole))
    with whole.open("ab") as file:
        file.write(tail)
    copy = await Bench(videos.ffmpeg, tmp_path, clock).copied(whole)
    assert len(videos.times(copy)) == count
    assert tail not in copy.read_bytes() or (len(tail) < 5000 and set(tail) <= {0})
