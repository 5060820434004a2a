"""How a video is made small: what ffmpeg is asked for, how long it may take, and whether its result is good enough.

What is asked for is understood by ffmpeg 5.1 and by all later ones (9.0 was tried). An older one refuses the options,
and the original goes.
"""

import math
import re
from collections.abc import Collection, Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum

#: No line of a progress block is longer; the rest of such a line is nothing that is read here.
_LONGEST_LINE = 1024
#: Of words for people, so much is kept from their beginning (a video's streams, the first error) …
_HEAD_BYTES = 64 << 10
#: … and from their end (what made it give up).
_TAIL_BYTES = 8 << 10
#: A reason is read on one line of a terminal.
_LONGEST_REASON = 160

_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_VIDEO = re.compile(r"Stream #0:\d+.*?: Video: (\w+)(?!.*attached pic)")
_AUDIO = re.compile(r"Stream #0:\d+.*?: Audio: (\w+)")
_ENCODER = re.compile(r"^ V\S{5} (\w\S*)", re.MULTILINE)
_ERROR = re.compile(r"\[(?:error|fatal|panic)\] (.*)")
_FULL_DISK = "No space left on device"
_NO_VIDEO = "matches no streams"


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
#: What stands between the pictures and may be anything, as types of the codec's units: H.264's SEI (6), HEVC's (39 and
#: 40), AV1's metadata (5), MPEG-2's user data (178). Nothing of it is needed to decode them.
_NOTES = {"h264": "6", "hevc": "39-40", "av1": "5", "mpeg2video": "178"}
#: Ticks per second of the result: MPEG's own, fine enough for any frame rate, so that none is rounded to another.
_TIME_BASE = "1:90000"
#: Seconds between two reports: often enough for a person who watches, and to stop soon where it is no gain.
_REPORT_EVERY = "0.5"

#: Seconds that ffmpeg may take for a video of no length: starting it on a machine that is busy with something else.
_LEAST_LIMIT = 60.0
#: Seconds that decoding a second of video may take.
DECODING_PACE = 10.0
#: And that copying it may take: as long as a slow disk needs to read and write it.
COPYING_PACE = 2.0
#: Bytes per second of the leanest recorder (1 Mbit/s): what a video's length is guessed by where it does not say it.
_LEANEST_RECORDER = 125_000
#: A header may say more than there is by so many seconds: audio runs on, times are rounded.
_HEADER_TOLERANCE = 1.0
#: Times are compared after ffmpeg has rounded them to milliseconds.
_ROUNDING = 0.002


@dataclass(frozen=True, slots=True)
class VideoInfo:
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


def remux_arguments(video: str, result: str, codec: str, audio_codecs: Sequence[str], *, drop_audio: bool) -> list[str]:
    """Copy the pictures of a video as they are into an MP4 that has nothing else in it.

    What the container, its streams or its chapters say does not go along, nor subtitles, data streams (a camera's GPS
    track), attachments and cover pictures; nor, where the codec is one of `_NOTES`, what stands between the pictures.

    Args:
        video: Path of the recording.
        result: Path; what is there is written over.
        codec: Of its pictures, by ffmpeg's name.
        audio_codecs: Those in the recording.
        drop_audio: Whether it goes without its sound.
    """
    notes = _NOTES.get(codec)
    return [
        # Of one that a power cut ended what is there goes: the last picture, half written, is left out.
        *_reading(video, "error", is_strict=False),
        *("-progress", "pipe:1", "-nostats", "-stats_period", _REPORT_EVERY),
        *("-y", "-map", "0:V", *_sound(audio_codecs, drop_audio=drop_audio)),
        *("-sn", "-dn", "-map_metadata", "-1", "-map_chapters", "-1", "-c:v", "copy"),
        *(() if notes is None else ("-bsf:v", f"filter_units=remove_types={notes}")),
        *(("-tag:v", "hvc1") if codec == "hevc" else ()),
        *("-fflags", "+bitexact", "-movflags", "+faststart", "-f", "mp4", f"file:{result}"),
    ]


def _sound(audio_codecs: Sequence[str], *, drop_audio: bool) -> tuple[str, ...]:
    if drop_audio:
        return ("-an",)
    if _MP4_AUDIO.issuperset(audio_codecs):
        return ("-map", "0:a?", "-c:a", "copy")
    return ("-map", "0:a?", "-c:a", "aac", "-b:a", "128k")


def streams_arguments(video: str) -> list[str]:
    """Have ffmpeg say what streams a video has, without decoding it."""
    return [*_reading(video, "info"), "-map", "0:V:0", "-c", "copy", "-t", "0", "-f", "null", "-"]


def codec_named(words: str) -> str | None:
    """The codec of the first picture stream that ffmpeg names (`streams_arguments`), or None where it names none."""
    found = _VIDEO.search(words)
    return None if found is None else found[1]


def encode_arguments(
    video: str, result: str, codec: Codec, quality: int, audio_codecs: Sequence[str], *, drop_audio: bool = False
) -> list[str]:
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
        drop_audio: Whether it goes without its sound.
    """
    encoder = ENCODERS[codec]
    return [
        *_reading(video, "error"),
        *("-progress", "pipe:1", "-nostats", "-stats_period", _REPORT_EVERY),
        *(
            "-y",
            "-map",
            "0:V",
            *_sound(audio_codecs, drop_audio=drop_audio),
            "-sn",
            "-dn",
            "-map_metadata",
            "-1",
            "-map_chapters",
            "-1",
        ),
        *("-vf", "pad=ceil(iw/2)*2:ceil(ih/2)*2,format=yuv420p,sidedata=mode=delete"),
        *("-fps_mode", "passthrough", "-enc_time_base", _TIME_BASE),
        *("-c:v", encoder.name, "-crf", str(crf_for(codec, quality)), *encoder.options),
        # No encoder's name and version either; the index first, so that a receiver can look before all is there.
        *("-fflags", "+bitexact", "-flags:v", "+bitexact", "-movflags", "+faststart", "-f", "mp4", f"file:{result}"),
    ]


def _reading(video: str, log_level: str, *, is_strict: bool = True) -> list[str]:
    """What every call begins with. Without -xerror a truncated recording would count as one that went well."""
    return [
        *("-nostdin", "-hide_banner", "-loglevel", f"level+{log_level}", *(("-xerror",) if is_strict else ())),
        *("-protocol_whitelist", "file", "-format_whitelist", _CONTAINERS, "-i", f"file:{video}"),
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


def fault_of_recording(recording: VideoInfo) -> str | None:
    """Why a recording that can be decoded is not compressed all the same, or None."""
    if recording.frames == 0:
        return "there is no picture in it"
    promised = recording.promised_seconds
    if promised is not None and promised - recording.seconds > _HEADER_TOLERANCE + recording.frame:
        return f"its last picture comes after {recording.seconds:.2f} s, but its header promises {promised:.2f} s"
    return None


def fault_of_result(recording: VideoInfo, recorded_bytes: int, result: VideoInfo, result_bytes: int) -> str | None:
    """Why a result is not taken for its recording, or None where it is as long, as many pictures, and smaller."""
    if abs(result.frames - recording.frames) > 1:
        return f"the result has {result.frames} frames, but the recording {recording.frames}"
    if abs(result.seconds - recording.seconds) > recording.frame + _ROUNDING:
        return f"the result is {result.seconds:.2f} s long, but the recording {recording.seconds:.2f} s"
    return no_gain(result_bytes, recorded_bytes)


def no_gain(result_bytes: int, recorded_bytes: int) -> str | None:
    """Why a result of so many bytes is not worth having, or None; may be asked of a result that still grows."""
    return "compressing does not make it smaller" if result_bytes >= recorded_bytes else None


@dataclass(frozen=True, slots=True)
class EncodingProgress:
    """How far ffmpeg is.

    Attributes:
        frames: Pictures so far.
        seconds: Length of what has come out so far.
        size_bytes: Of the result so far; 0 where there is none.
        ended: Whether ffmpeg says that it has done all.
    """

    frames: int = 0
    seconds: float = 0.0
    size_bytes: int = 0
    ended: bool = False


class ProgressReader:
    """Puts together the blocks of `-progress`: lines of `key=value`, each block ended by a line `progress=…`.

    A value that is not a number ("N/A", empty) leaves what was known.

    Attributes:
        last: What the newest complete block says.
    """

    def __init__(self) -> None:
        self._lines = _Lines()
        self._progress = EncodingProgress()
        self.last: EncodingProgress = EncodingProgress()

    def feed(self, piece: bytes) -> list[EncodingProgress]:
        """Take what came over the pipe; return the blocks completed by it that say something new."""
        events = []
        for line in self._lines.feed(piece):
            key, _, value = line.partition("=")
            self._note(key.strip(), value.strip())
            if key == "progress" and self._progress != self.last:
                self.last = self._progress
                events.append(self.last)
        return events

    def _note(self, key: str, value: str) -> None:
        match key, _whole(value):
            case "frame", int(frames):
                self._progress = replace(self._progress, frames=frames)
            case "out_time_us", int(microseconds):  # `out_time_ms` is in microseconds too
                self._progress = replace(self._progress, seconds=microseconds / 1e6)
            case "total_size", int(size):
                self._progress = replace(self._progress, size_bytes=size)
            case "progress", _:
                self._progress = replace(self._progress, ended=value == "end")
            case _:
                pass


class TimesReader:
    """Counts the pictures of a video, by the times at which they are shown: a line of milliseconds for each.

    Attributes:
        frames: How many there were.
    """

    def __init__(self) -> None:
        self._lines = _Lines()
        self._first: int | None = None
        self._last = 0
        self.frames = 0

    def feed(self, piece: bytes) -> bool:
        """Take what came over the pipe; True where there was a picture in it."""
        before = self.frames
        for line in self._lines.feed(piece):
            if (time := _whole(line.removeprefix("-"))) is None:
                continue
            time = -time if line.startswith("-") else time
            self._first = time if self._first is None else self._first
            self._last = max(time, self._last)
            self.frames += 1
        return self.frames > before

    @property
    def seconds(self) -> float:
        """From the first picture to the last."""
        return (self._last - (self._first or 0)) / 1000


class _Lines:
    """Cuts what comes over a pipe into lines."""

    def __init__(self) -> None:
        self._held = b""

    def feed(self, piece: bytes) -> list[str]:
        *lines, held = (self._held + piece).split(b"\n")
        self._held = held[:_LONGEST_LINE]
        return [line.decode("ascii", "replace").strip() for line in lines]


def _whole(value: str) -> int | None:
    """A whole number that is not negative, as time before the first frame is."""
    return int(value) if value.isascii() and value.isdecimal() and len(value) < 20 else None


class StderrText:
    """The beginning and the end of what ffmpeg says to people; a flood in between is let go."""

    def __init__(self) -> None:
        self._head = b""
        self._tail = b""

    def feed(self, piece: bytes) -> None:
        """Take what came over the pipe."""
        room = _HEAD_BYTES - len(self._head)
        self._head += piece[:room]
        self._tail = (self._tail + piece[room:])[-_TAIL_BYTES:]

    @property
    def text(self) -> str:
        """What was kept."""
        return (self._head + self._tail).decode("utf-8", "replace")


def measured(times: TimesReader, words: str) -> VideoInfo:
    """What a video is, once it was decoded to its end."""
    header = _DURATION.search(words)
    promised = None if header is None else int(header[1]) * 3600 + int(header[2]) * 60 + float(header[3])
    return VideoInfo(times.frames, times.seconds, promised, audio_codecs(words))


def audio_codecs(words: str) -> tuple[str, ...]:
    """The codecs of the audio streams that ffmpeg names."""
    return tuple(_AUDIO.findall(words))


def is_full_disk(words: str) -> bool:
    """Whether ffmpeg failed because there was no room for its result."""
    return _FULL_DISK in words


def video_encoders(listing: str) -> frozenset[str]:
    """Names of the video encoders in the answer to `ffmpeg -encoders`."""
    return frozenset(_ENCODER.findall(listing))


def failure(exit_code: int, words: str, names: Mapping[str, str]) -> str:
    """Why ffmpeg has not done what it was asked for.

    Args:
        exit_code: Negative for the signal that killed it.
        words: What it said to people.
        names: What to write in place of paths: a reason is shown, and a path may say whose vehicle this is.
    """
    if _FULL_DISK in words:
        return "the disk is full"
    if _NO_VIDEO in words:
        return "there is no video in it"
    if exit_code < 0:
        return f"ffmpeg was killed by signal {-exit_code}"
    for path, name in names.items():
        words = words.replace(f"file:{path}", name).replace(path, name)
    said = _ERROR.search(words)
    reason = "".join(character for character in said[1] if character.isprintable()) if said else "it does not say why"
    return f"ffmpeg ended with exit code {exit_code}: {reason[:_LONGEST_REASON].strip()}"
