"""How a video is made small: what ffmpeg is asked for, how long it may take, and whether its result is good enough.

What is asked for is understood by ffmpeg 5.1 and by all later ones (9.0 was tried). An older one refuses the options,
and the original goes.
"""

import math
from collections.abc import Collection, Sequence
from dataclasses import dataclass
from enum import StrEnum


class Codec(StrEnum):
    """What a video may be compressed to (`video_codec`)."""

    H264 = "h264"
    HEVC = "hevc"
    AV1 = "av1"


@dataclass(frozen=True, slots=True)
class Encoder:
    """ffmpeg's encoder for a codec.

    Attributes:
        name: As `ffmpeg -encoders` lists it.
        options: A fast preset each: a vehicle's cores are needed for driving.
        best_crf: The least CRF that is one.
        worst_crf: The largest.
        middle_crf: What looks like x264's 23.
        pace: Seconds that a second of video may take on a slow, busy machine.
    """

    name: str
    options: tuple[str, ...]
    best_crf: int
    worst_crf: int
    middle_crf: int
    pace: float


ENCODERS: dict[Codec, Encoder] = {
    # Closed captions are text that a camera wrote; they do not go along.
    Codec.H264: Encoder("libx264", ("-preset", "veryfast", "-a53cc", "0"), 0, 51, 23, 20.0),
    # `hvc1` is the tag that players outside of ffmpeg know.
    Codec.HEVC: Encoder(
        "libx265", ("-preset", "veryfast", "-tag:v", "hvc1", "-x265-params", "log-level=error"), 0, 51, 25, 60.0
    ),
    # SVT-AV1 itself calls presets from 10 on unfit for pictures that somebody looks at. 0 is no CRF but "choose one".
    Codec.AV1: Encoder("libsvtav1", ("-preset", "8"), 1, 63, 35, 60.0),
}
#: The CRF that `compression_quality` is meant on: x264's.
_MIDDLE = ENCODERS[Codec.H264].middle_crf

#: Containers that a recorder writes. A playlist with a video's name could make ffmpeg read any other file.
_CONTAINERS = "mov,matroska,avi,mpegts"
#: Audio that MP4 takes as it is (ISO/IEC 14496-12 registrations that players know); anything else becomes AAC.
_MP4_AUDIO = frozenset({"aac", "ac3", "alac", "eac3", "mp3", "opus"})
#: Ticks per second of the result: MPEG's own, fine enough for any frame rate, so that none is rounded to another.
_TIME_BASE = "1:90000"
#: Seconds between two reports: often enough for a person who watches, and to stop soon where it is no gain.
_REPORT_EVERY = "0.5"

#: Seconds that ffmpeg may take for a video of no length: starting it on a machine that is busy with something else.
_LEAST_LIMIT = 60.0
#: Seconds that decoding a second of video may take.
DECODING_PACE = 10.0
#: Bytes per second of the leanest recorder (1 Mbit/s): what a video's length is guessed by where it does not say it.
_LEANEST_RECORDER = 125_000
#: A header may say more than there is by so many seconds: audio runs on, times are rounded.
_HEADER_TOLERANCE = 1.0
#: Times are compared after ffmpeg has rounded them to milliseconds.
_ROUNDING = 0.002


@dataclass(frozen=True, slots=True)
class Measured:
    """A video that was decoded to its end.

    Attributes:
        frames: How many pictures came out.
        seconds: From the beginning of the first to that of the last. How long the last is shown is a guess in most
            containers, and in videos of variable rate a bad one.
        promised_seconds: What its header says, or None where it says nothing.
        audio_codecs: Of its audio streams, by ffmpeg's names.
    """

    frames: int
    seconds: float
    promised_seconds: float | None = None
    audio_codecs: tuple[str, ...] = ()

    @property
    def frame(self) -> float:
        """How long a picture is shown on the average, in seconds; 0 where there is only one."""
        return self.seconds / max(1, self.frames - 1)


def choose_codec(wanted: str, encoders: Collection[str]) -> Codec | None:
    """The codec asked for where ffmpeg has its encoder, else H.264; None where it has not even that."""
    return next((codec for codec in (Codec(wanted), Codec.H264) if ENCODERS[codec].name in encoders), None)


def crf_for(codec: Codec, quality: int) -> int:
    """The codec's own CRF for `compression_quality`, which is meant on x264's scale whatever the codec.

    So another codec changes the size and hardly the picture: 23 is 25 in x265 and 35 in SVT-AV1, and the rest of
    either scale goes in proportion, up to its ends. The two were chosen by SSIM against recordings of the recorder's
    (a street, an interior) with the presets above: x264 at 23 .983 and .981, x265 at 25 .981 and .981 with 30 % and
    45 % of x264's bytes, SVT-AV1 at 35 (its own default) .984 and .985 with 44 % and 78 %.
    """
    encoder = ENCODERS[codec]
    return max(encoder.best_crf, min(encoder.worst_crf, round(quality * encoder.middle_crf / _MIDDLE)))


def look_arguments(video: str) -> list[str]:
    """Decode the first video stream to its end and write when each picture is shown, in milliseconds, a line for each.

    Args:
        video: Path.
    """
    return [
        *_reading(video, "info"),
        *("-nostats", "-map", "0:V:0", "-fps_mode", "passthrough", "-enc_time_base", _TIME_BASE),
        *("-f", "mkvtimestamp_v2", "pipe:1"),
    ]


def encode_arguments(video: str, result: str, codec: Codec, quality: int, audio_codecs: Sequence[str]) -> list[str]:
    """Compress a video.

    All pictures are kept with their times (no rate is forced on a recording of variable rate), and turned the way
    they are to be seen. Where the width or height is odd, which 4:2:0 cannot have, a black column or row is added:
    scaling would touch every pixel. Audio goes along; subtitles, data streams (a camera's GPS track), chapters,
    titles, places and what else the container or a picture's side data says do not.

    Args:
        video: Path of the recording.
        result: Path; what is there is written over.
        codec: What to make.
        quality: `compression_quality`.
        audio_codecs: Those in the recording.
    """
    encoder = ENCODERS[codec]
    return [
        *_reading(video, "error"),
        *("-progress", "pipe:1", "-nostats", "-stats_period", _REPORT_EVERY),
        *("-y", "-map", "0:V", "-map", "0:a?", "-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1"),
        *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p,sidedata=mode=delete"),
        *("-fps_mode", "passthrough", "-enc_time_base", _TIME_BASE),
        *("-c:v", encoder.name, "-crf", str(crf_for(codec, quality)), *encoder.options),
        *(("-c:a", "copy") if _MP4_AUDIO.issuperset(audio_codecs) else ("-c:a", "aac", "-b:a", "128k")),
        # No encoder's name and version either; the index first, so that a receiver can look before all is there.
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-f", "mp4", f"file:{result}"),
    ]


def _reading(video: str, log_level: str) -> list[str]:
    """What every call begins with. Without -xerror a truncated recording would count as one that went well."""
    return [
        *("-nostdin", "-hide_banner", "-loglevel", f"level+{log_level}"),
        *("-xerror", "-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-i", f"file:{video}"),
    ]


def time_limit(pace: float, seconds: float | None, size_bytes: int) -> float:
    """Seconds after which ffmpeg is ended.

    Args:
        pace: Seconds that a second of video may take.
        seconds: The video's length, or None where it is not known: then its bytes say how long it may be at most.
        size_bytes: What the video has.
    """
    return _LEAST_LIMIT + pace * (size_bytes / _LEANEST_RECORDER if seconds is None else seconds)


def processor_limit(limit: float, cores: int) -> list[str]:
    """Arguments by which the kernel itself ends an ffmpeg that nobody watches any more."""
    return ["-timelimit", str(math.ceil(limit * cores))]


def fault_of_recording(recording: Measured) -> str | None:
    """Why a recording that can be decoded is not compressed all the same, or None."""
    if recording.frames == 0:
        return "there is no picture in it"
    promised = recording.promised_seconds
    if promised is not None and promised - recording.seconds > _HEADER_TOLERANCE + recording.frame:
        return f"its last picture comes after {recording.seconds:.2f} s, but its header promises {promised:.2f} s"
    return None


def fault_of_result(recording: Measured, recorded_bytes: int, result: Measured, result_bytes: int) -> str | None:
    """Why a result is not taken for its recording, or None where it is as long, as many pictures, and smaller."""
    if abs(result.frames - recording.frames) > 1:
        return f"the result has {result.frames} frames, but the recording {recording.frames}"
    if abs(result.seconds - recording.seconds) > recording.frame + _ROUNDING:
        return f"the result is {result.seconds:.2f} s long, but the recording {recording.seconds:.2f} s"
    return no_gain(result_bytes, recorded_bytes)


def no_gain(result_bytes: int, recorded_bytes: int) -> str | None:
    """Why a result of so many bytes is not worth having, or None; may be asked of a result that still grows."""
    return "compressing does not make it smaller" if result_bytes >= recorded_bytes else None
