"""What ffmpeg is asked for, how long it may take, and which results are taken."""

import itertools
from dataclasses import replace

import pytest

from sentinel_sync.scenarios.rules.compression import (
    DECODING_PACE,
    ENCODERS,
    Codec,
    VideoInfo,
    choose_codec,
    codec_named,
    crf_for,
    encode_arguments,
    fault_of_recording,
    fault_of_result,
    look_arguments,
    no_gain,
    processor_limit,
    remux_arguments,
    streams_arguments,
    time_limit,
)

ALL = frozenset(encoder.name for encoder in ENCODERS.values())
#: 30 pictures a second.
RECORDING = VideoInfo(frames=61, seconds=2.0, promised_seconds=2.03)


@pytest.mark.parametrize("codec", Codec)
def test_the_codec_asked_for_is_taken_where_there_is_its_encoder(codec: Codec) -> None:
    assert choose_codec(codec.value, ALL) is codec


@pytest.mark.parametrize("wanted", ["hevc", "av1"])
def test_a_codec_that_is_not_there_falls_back_to_h264(wanted: str) -> None:
    assert choose_codec(wanted, {"libx264", "mpeg4"}) is Codec.H264


@pytest.mark.parametrize("wanted", list(Codec))
def test_without_any_encoder_there_is_no_codec(wanted: str) -> None:
    assert choose_codec(wanted, {"mpeg4", "h264_v4l2m2m"}) is None


@pytest.mark.parametrize(
    ("codec", "quality", "crf"),
    [
        (Codec.H264, 23, 23),
        (Codec.H264, 0, 0),
        (Codec.H264, 51, 51),
        (Codec.H264, 63, 51),
        (Codec.HEVC, 23, 25),
        (Codec.HEVC, 63, 51),
        (Codec.AV1, 23, 35),
        (Codec.AV1, 0, 1),
        (Codec.AV1, 51, 63),
    ],
)
def test_quality_is_meant_on_one_scale(codec: Codec, quality: int, crf: int) -> None:
    assert crf_for(codec, quality) == crf


@pytest.mark.parametrize("codec", Codec)
def test_more_is_never_better(codec: Codec) -> None:
    assert all(crf_for(codec, quality) <= crf_for(codec, quality + 1) for quality in range(63))


def after(arguments: list[str], option: str) -> str:
    return arguments[arguments.index(option) + 1]


@pytest.mark.parametrize("codec", Codec)
def test_compressing_asks_for_the_codec_and_leaves_words_and_places_behind(codec: Codec) -> None:
    arguments = encode_arguments("/proc/self/fd/7", "/state/derived/.x.new", codec, 23, ["aac"])
    assert after(arguments, "-c:v") == ENCODERS[codec].name
    assert after(arguments, "-crf") == str(crf_for(codec, 23))
    assert after(arguments, "-i") == "file:/proc/self/fd/7"
    assert arguments[-1] == "file:/state/derived/.x.new"
    assert (after(arguments, "-map_metadata"), after(arguments, "-map_chapters")) == ("-1", "-1")
    assert {"-sn", "-dn"} <= set(arguments)


@pytest.mark.parametrize("arguments", [look_arguments("/v"), encode_arguments("/v", "/r", Codec.H264, 23, [])])
def test_whatever_is_asked_nothing_is_read_from_the_terminal_and_a_fault_is_the_end(arguments: list[str]) -> None:
    before_input = arguments[: arguments.index("-i")]
    assert {"-nostdin", "-xerror"} <= set(before_input)
    assert after(before_input, "-protocol_whitelist") == "file"
    assert "pipe:1" in arguments
    assert after(arguments, "-fps_mode") == "passthrough"


_READING = "-protocol_whitelist file -format_whitelist mov,matroska,avi,mpegts -i file:/v"
_PROGRESS = "-progress pipe:1 -nostats -stats_period 0.5 -y -map 0:V"
_NOTHING_ELSE = "-sn -dn -map_metadata -1 -map_chapters -1"
_MP4 = "-movflags +faststart -f mp4 file:/r"


def test_the_words_are_those_that_were_tried_with_each_ffmpeg() -> None:
    """From 5.1 to 9.0: a word more, less or otherwise is to be tried with all of them."""
    quiet, strict = "-nostdin -hide_banner -loglevel level+error", "-nostdin -hide_banner -loglevel level+info -xerror"
    assert " ".join(look_arguments("/v")) == (
        f"{strict} {_READING} -nostats -map 0:V:0 -fps_mode passthrough -enc_time_base 1:90000"
        " -f mkvtimestamp_v2 pipe:1"
    )
    assert " ".join(streams_arguments("/v")) == f"{strict} {_READING} -map 0:V:0 -c copy -t 0 -f null -"
    codecs = {
        Codec.H264: "-c:v libx264 -crf 23 -preset veryfast -a53cc 0",
        Codec.HEVC: "-c:v libx265 -crf 25 -preset veryfast -tag:v hvc1 -x265-params log-level=error",
        Codec.AV1: "-c:v libsvtav1 -crf 35 -preset 8",
    }
    for codec, words in codecs.items():
        assert " ".join(encode_arguments("/v", "/r", codec, 23, ["aac"])) == (
            f"{quiet} -xerror {_READING} {_PROGRESS} -map 0:a? -c:a copy {_NOTHING_ELSE}"
            " -vf pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p,sidedata=mode=delete"
            f" -fps_mode passthrough -enc_time_base 1:90000 {words} -fflags +bitexact -flags:v +bitexact {_MP4}"
        )
    for name, words in {
        "h264": "-bsf:v filter_units=remove_types=6 ",
        "hevc": "-bsf:v filter_units=remove_types=39-40 -tag:v hvc1 ",
        "av1": "-bsf:v filter_units=remove_types=5 ",
        "mpeg2video": "-bsf:v filter_units=remove_types=178 ",
        "mjpeg": "",
    }.items():
        assert " ".join(remux_arguments("/v", "/r", name, ["aac"], drop_audio=False)) == (
            f"{quiet} {_READING} {_PROGRESS} -map 0:a? -c:a copy {_NOTHING_ELSE} -c:v copy"
            f" {words}-fflags +bitexact {_MP4}"
        )


@pytest.mark.parametrize(
    ("codecs", "is_dropped", "words"),
    [
        (["aac", "ac3", "alac", "eac3", "mp3", "opus"], False, "-map 0:a? -c:a copy"),
        (["pcm_s16le"], False, "-map 0:a? -c:a aac -b:a 128k"),
        (["aac"], True, "-an"),
    ],
)
def test_sound_goes_along_unless_it_is_dropped(codecs: list[str], is_dropped: bool, words: str) -> None:
    for arguments in (
        encode_arguments("/v", "/r", Codec.H264, 23, codecs, drop_audio=is_dropped),
        remux_arguments("/v", "/r", "h264", codecs, drop_audio=is_dropped),
    ):
        assert f"-map 0:V {words} -sn" in " ".join(arguments)


@pytest.mark.parametrize(
    ("codecs", "treatment"),
    [([], "copy"), (["aac"], "copy"), (["aac", "mp3"], "copy"), (["pcm_s16le"], "aac"), (["aac", "vorbis"], "aac")],
)
def test_audio_that_mp4_does_not_take_becomes_aac(codecs: list[str], treatment: str) -> None:
    assert after(encode_arguments("/v", "/r", Codec.H264, 23, codecs), "-c:a") == treatment


def test_the_time_limit_grows_with_the_length() -> None:
    assert time_limit(20.0, 0.0, 10**10) == 60.0
    assert time_limit(20.0, 30.0, 10**10) == 660.0
    assert time_limit(20.0, 60.0, 0) - time_limit(20.0, 30.0, 0) == 600.0


def test_where_the_length_is_not_known_bytes_stand_for_it() -> None:
    assert time_limit(DECODING_PACE, None, 1_250_000) == time_limit(DECODING_PACE, 10.0, 0)


def test_the_kernel_is_told_of_the_limit_for_all_cores() -> None:
    assert processor_limit(60.2, 4) == ["-timelimit", "241"]


@pytest.mark.parametrize("promised", [None, 0.0, 2.0, 2.9])
def test_a_recording_that_keeps_its_headers_promise_is_in_order(promised: float | None) -> None:
    assert fault_of_recording(replace(RECORDING, promised_seconds=promised)) is None


@pytest.mark.parametrize(("promised", "is_in_order"), [(3.25, True), (3.5, True), (3.501, False)])
def test_a_header_may_promise_a_second_and_a_picture_more(promised: float, is_in_order: bool) -> None:
    assert (fault_of_recording(VideoInfo(5, 2.0, promised)) is None) is is_in_order


@pytest.mark.parametrize(("seconds", "is_taken"), [(0.001, True), (0.002, True), (0.003, False)])
def test_a_result_may_differ_by_what_is_rounded_away(seconds: float, is_taken: bool) -> None:
    assert (fault_of_result(VideoInfo(1, 0.0), 1000, VideoInfo(1, seconds), 999) is None) is is_taken


def test_a_single_picture_has_no_length() -> None:
    picture = VideoInfo(1, 0.0, 0.03)
    assert fault_of_recording(picture) is None
    assert fault_of_result(picture, 1000, picture, 999) is None


def test_a_recording_without_pictures_is_not_in_order() -> None:
    assert fault_of_recording(VideoInfo(0, 0.0)) == "there is no picture in it"


def test_a_recording_shorter_than_its_header_says_is_not_in_order() -> None:
    assert fault_of_recording(replace(RECORDING, promised_seconds=3.4)) == (
        "its last picture comes after 2.00 s, but its header promises 3.40 s"
    )


@pytest.mark.parametrize(
    ("frames", "seconds"), list(itertools.product((60, 61, 62), (2.0 - 1 / 30, 2.0, 2.0 + 1 / 30)))
)
def test_a_result_within_a_frame_is_taken(frames: int, seconds: float) -> None:
    assert fault_of_result(RECORDING, 1000, VideoInfo(frames, seconds), 999) is None


@pytest.mark.parametrize("frames", [0, 30, 59, 63])
def test_a_result_with_other_pictures_is_not_taken(frames: int) -> None:
    fault = fault_of_result(RECORDING, 1000, VideoInfo(frames, 2.0), 100)
    assert fault == f"the result has {frames} frames, but the recording 61"


@pytest.mark.parametrize("seconds", [0.0, 1.9, 2.1])
def test_a_result_of_another_length_is_not_taken(seconds: float) -> None:
    fault = fault_of_result(RECORDING, 1000, VideoInfo(61, seconds), 100)
    assert fault == f"the result is {seconds:.2f} s long, but the recording 2.00 s"


@pytest.mark.parametrize(
    ("size", "fault"),
    [(999, None), (1000, "compressing does not make it smaller"), (1001, "compressing does not make it smaller")],
)
def test_a_result_that_is_not_smaller_is_not_taken(size: int, fault: str | None) -> None:
    assert fault_of_result(RECORDING, 1000, RECORDING, size) == fault
    assert no_gain(size, 1000) == fault


@pytest.mark.parametrize(
    ("words", "codec"),
    [
        ("", None),
        ("[info]   Stream #0:0: Audio: aac (LC), 44100 Hz\n", None),
        ("[info]   Stream #0:0[0x1](und): Video: h264 (High) (avc1 / 0x31637661), yuv420p, 1280x720\n", "h264"),
        ("[info]   Stream #0:0: Video: hevc (Main)\n[info]   Stream #0:1: Video: av1\n", "hevc"),
        ("[info]   Stream #0:0: Video: png, rgb24 (attached pic)\n[info]   Stream #0:1: Video: av1\n", "av1"),
        ("[info]   Stream #0:0: Video: mjpeg (Baseline), yuvj420p (attached pic)\n", None),
    ],
)
def test_the_first_picture_stream_that_is_no_cover_names_the_codec(words: str, codec: str | None) -> None:
    assert codec_named(words) == codec
