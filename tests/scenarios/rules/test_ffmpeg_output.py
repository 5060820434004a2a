"""Reading ffmpeg's words, as versions 5.1 and 9.0 were seen to write them, and as none should."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.scenarios.rules.compression import (
    EncodingProgress,
    ProgressReader,
    StderrText,
    TimesReader,
    VideoInfo,
    failure,
    is_full_disk,
    measured,
    video_encoders,
)

FIRST = b"""frame=1
fps=0.00
stream_0_0_q=0.0
bitrate=N/A
total_size=44
out_time_us=N/A
out_time_ms=N/A
out_time=N/A
dup_frames=0
drop_frames=0
speed=N/A
progress=continue
"""
LAST = b"""frame=60
fps=41.20
stream_0_0_q=-1.0
bitrate=1592.7kbits/s
total_size=398178
out_time_us=2000000
out_time_ms=2000000
out_time=00:00:02.000000
dup_frames=0
drop_frames=0
speed=   1x
progress=end
"""
HEADER = """[info] Input #0, mov,mp4,m4a,3gp,3g2,mj2, from 'file:/proc/self/fd/7':
[info]   Duration: 00:01:02.50, start: 0.000000, bitrate: 1912 kb/s
[info]   Stream #0:0[0x1](und): Video: mpeg4 (Simple Profile) (mp4v / 0x7634706D), yuv420p, 320x240, 30 fps
[info]   Stream #0:1[0x2](eng): Audio: aac (LC) (mp4a / 0x6134706D), 44100 Hz, mono, fltp, 69 kb/s (default)
[info]   Stream #0:2: Audio: pcm_s16le (sowt / 0x74776F73), 44100 Hz, 1 channels, s16, 705 kb/s
[info] Output #0, null, to 'pipe:':
"""


def test_blocks_come_out_as_they_are_complete() -> None:
    reader = ProgressReader()
    assert reader.feed(FIRST[:-3]) == []
    assert reader.feed(FIRST[-3:] + LAST[:20]) == [EncodingProgress(1, 0.0, 44, ended=False)]
    assert reader.feed(LAST[20:]) == [reader.last] == [EncodingProgress(60, 2.0, 398_178, ended=True)]


def test_a_block_that_says_nothing_new_is_no_news() -> None:
    reader = ProgressReader()
    assert len(reader.feed(FIRST + FIRST + FIRST)) == 1
    assert reader.feed(FIRST.replace(b"=44", b"=48")) == [EncodingProgress(1, 0.0, 48)]


@given(st.lists(st.integers(0, len(FIRST + LAST)), max_size=8))
def test_where_the_pipe_cuts_makes_no_difference(cuts: list[int]) -> None:
    whole, reader = FIRST + LAST, ProgressReader()
    edges = [0, *sorted(cuts), len(whole)]
    blocks = [block for begin, end in pairwise(edges) for block in reader.feed(whole[begin:end])]
    assert blocks == [EncodingProgress(1, 0.0, 44), EncodingProgress(60, 2.0, 398_178, ended=True)]


def test_what_is_no_number_leaves_what_was_known() -> None:
    (progress,) = ProgressReader().feed(
        b"frame=7\nframe=N/A\nframe=\nframe=-1\nframe= 8 x\nframe=" + b"9" * 30 + b"\nout_time_us=-41666\n"
        b"total_size=N/A\nno equals sign\n=\n\xff\xfe=\xff\nprogress=continue\n"
    )
    assert progress == EncodingProgress(frames=7)


@pytest.mark.parametrize(("digits", "frames"), [(18, 10**18 - 1), (19, 10**19 - 1), (20, 0), (21, 0)])
def test_a_number_has_nineteen_digits_at_most(digits: int, frames: int) -> None:
    assert ProgressReader().feed(b"total_size=1\nframe=" + b"9" * digits + b"\nprogress=continue\n") == [
        EncodingProgress(frames, size_bytes=1)
    ]


def test_nothing_is_known_before_the_first_block() -> None:
    reader = ProgressReader()
    assert reader.last == EncodingProgress()
    assert reader.feed(b"progress=continue\n") == []


def test_what_follows_the_first_equals_sign_is_the_value() -> None:
    (progress,) = ProgressReader().feed(b"frame=3\nframe=4=5\nprogress=end=end\n")
    assert progress == EncodingProgress(frames=3)


def test_blanks_and_line_ends_of_another_system_do_no_harm() -> None:
    (progress,) = ProgressReader().feed(b"frame=   12 \r\nprogress=end\r\n")
    assert progress == EncodingProgress(frames=12, ended=True)


def test_the_time_in_milliseconds_is_not_believed() -> None:
    (progress,) = ProgressReader().feed(b"frame=1\nout_time_ms=5970000\nprogress=continue\n")
    assert progress.seconds == 0.0


@given(st.binary(max_size=5000))
def test_anything_may_come_over_the_pipe(noise: bytes) -> None:
    reader = ProgressReader()
    reader.feed(noise)
    reader.feed(b"\nframe=3\nprogress=end\n")
    assert (reader.last.frames, reader.last.ended) == (3, True)


def test_a_line_without_an_end_takes_no_memory() -> None:
    reader = ProgressReader()
    for _ in range(100):
        assert reader.feed(b"x" * 65_536) == []
    assert len(reader._lines._held) <= 1024


def test_of_a_flood_the_beginning_and_the_end_are_kept() -> None:
    words = StderrText()
    words.feed(b"the beginning\n")
    for _ in range(200):
        words.feed(b"noise " * 10_000)
    words.feed(b"\nthe end")
    assert words.text.startswith("the beginning\n")
    assert words.text.endswith("\nthe end")
    assert len(words.text) <= 72 << 10


def test_a_few_words_are_kept_whole() -> None:
    words = StderrText()
    words.feed(b"one \xff")
    words.feed(b" two")
    assert words.text == "one � two"


def times(text: bytes) -> TimesReader:
    reader = TimesReader()
    reader.feed(text)
    return reader


def test_pictures_are_counted_by_their_times() -> None:
    reader = TimesReader()
    assert not reader.feed(b"# timecode format v2\n")
    assert reader.feed(b"0\n33\n6")
    assert not reader.feed(b"")
    assert reader.feed(b"7\n100\n")
    assert (reader.frames, reader.seconds) == (4, 0.1)


@pytest.mark.parametrize(
    ("text", "frames", "seconds"),
    [
        (b"", 0, 0.0),
        (b"40\n", 1, 0.0),
        (b"-67\n-33\n0\n33\n", 4, 0.1),
        (b"1000\n1033\n1020\n", 3, 0.033),
        (b"noise\n-\n--5\n1.5\n\n\xff\n7\n", 1, 0.0),
    ],
)
def test_times_may_begin_anywhere(text: bytes, frames: int, seconds: float) -> None:
    assert (times(text).frames, times(text).seconds) == (frames, seconds)


def test_a_decoded_video_is_measured() -> None:
    assert measured(times(b"0\n1000\n2000\n"), HEADER) == VideoInfo(3, 2.0, 62.5, ("aac", "pcm_s16le"))


def test_a_header_may_promise_hours() -> None:
    words = HEADER.replace("00:01:02.50", "02:01:02.50")
    assert measured(times(b"0\n1000\n"), words).promised_seconds == 7262.5


@pytest.mark.parametrize("words", ["", "Duration: N/A, bitrate: N/A", "noise"])
def test_a_header_may_say_nothing(words: str) -> None:
    assert measured(times(b"0\n1000\n"), words) == VideoInfo(2, 1.0, None, ())


def test_only_video_encoders_count() -> None:
    listing = """Encoders:
 V..... = Video
 ------
 V....D libx264              libx264 H.264 / AVC
 V....D libx264rgb           libx264 H.264 RGB
 VF.... hevc_qsv             HEVC
 V..... libsvtav1            SVT-AV1
 A....D aac                  AAC
"""
    assert video_encoders(listing) == {"libx264", "libx264rgb", "hevc_qsv", "libsvtav1"}


@pytest.mark.parametrize(
    ("exit_code", "words", "reason"),
    [
        (0, "", "ffmpeg ended with exit code 0: it does not say why"),
        (255, "", "ffmpeg ended with exit code 255: it does not say why"),
        (-9, "", "ffmpeg was killed by signal 9"),
        (1, "[error] av_interleaved_write_frame(): No space left on device\n", "the disk is full"),
        (234, "[fatal] Stream map '' matches no streams.\n", "there is no video in it"),
        (
            183,
            "[in#0 @ 0x1] [warning] odd\n[in#0 @ 0x1] [error] moov atom not found\n[fatal] more\n",
            "ffmpeg ended with exit code 183: moov atom not found",
        ),
    ],
)
def test_a_failure_is_said_in_words(exit_code: int, words: str, reason: str) -> None:
    assert failure(exit_code, words, {}) == reason
    assert is_full_disk(words) is (reason == "the disk is full")


def test_a_reason_holds_no_path_and_fits_a_line() -> None:
    words = "[error] file:/proc/self/fd/7: bad\x1b[31m data in /state/derived/.x.new " + "x" * 500 + "\n"
    reason = failure(1, words, {"/proc/self/fd/7": "the video", "/state/derived/.x.new": "the result"})
    assert reason.startswith("ffmpeg ended with exit code 1: the video: bad[31m data in the result xxx")
    assert reason.isprintable()
    assert len(reason) < 200
