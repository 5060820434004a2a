"""What ffmpeg says of its work, read leniently: progress or times on one pipe, words for people on the other."""

import re
from collections.abc import Mapping
from dataclasses import dataclass, replace

from sentinel_sync.scenarios.rules.compression import Measured

#: No line of a progress block is longer; the rest of such a line is nothing that is read here.
_LONGEST_LINE = 1024
#: Of words for people, so much is kept from their beginning (a video's streams, the first error) …
_HEAD_BYTES = 64 << 10
#: … and from their end (what made it give up).
_TAIL_BYTES = 8 << 10
#: A reason is read on one line of a terminal.
_LONGEST_REASON = 160

_DURATION = re.compile(r"Duration: (\d+):(\d\d):(\d\d(?:\.\d+)?)")
_AUDIO = re.compile(r"Stream #0:\d+.*?: Audio: (\w+)")
_ENCODER = re.compile(r"^ V\S{5} (\w\S*)", re.MULTILINE)
_ERROR = re.compile(r"\[(?:error|fatal|panic)\] (.*)")
_FULL_DISK = "No space left on device"
_NO_VIDEO = "matches no streams"


@dataclass(frozen=True, slots=True)
class Progress:
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
        self._progress = Progress()
        self.last = Progress()

    def feed(self, piece: bytes) -> list[Progress]:
        """Take what came over the pipe; return the blocks completed by it that say something new."""
        news = []
        for line in self._lines.feed(piece):
            key, _, value = line.partition("=")
            self._note(key.strip(), value.strip())
            if key == "progress" and self._progress != self.last:
                self.last = self._progress
                news.append(self.last)
        return news

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


class Words:
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


def measured(times: TimesReader, words: str) -> Measured:
    """What a video is, once it was decoded to its end."""
    header = _DURATION.search(words)
    promised = None if header is None else int(header[1]) * 3600 + int(header[2]) * 60 + float(header[3])
    return Measured(times.frames, times.seconds, promised, tuple(_AUDIO.findall(words)))


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
