"""Makes one video small, checks what came out, and leaves it beside nothing half made."""

import asyncio
import contextlib
import hashlib
import logging
import os
import secrets
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from pathlib import Path
from typing import BinaryIO

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.files import sync_folder
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.ffmpeg import Ffmpeg, RunResult, TranscodeError
from sentinel_sync.scenarios.rules.compression import (
    COPYING_PACE,
    DECODING_PACE,
    ENCODERS,
    Codec,
    ProgressReader,
    TimesReader,
    VideoInfo,
    audio_codecs,
    choose_codec,
    codec_named,
    encode_arguments,
    failure,
    fault_of_recording,
    fault_of_result,
    is_full_disk,
    look_arguments,
    measured,
    no_gain,
    remux_arguments,
    streams_arguments,
    time_limit,
)
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: Shares of the whole at which the recording has been looked at, and its result written: decoding is cheap.
_LOOKED_AT, _ENCODED = 0.05, 0.9
#: Hashed in one go: a cancelled wait lasts no longer than this takes.
_HASH_BYTES = 4 << 20


@dataclass(frozen=True, slots=True)
class MadeVideo:
    """The target has the video.

    Attributes:
        size_bytes: What it has.
        sha256: Of its bytes, lower-case hex.
        seconds: How long it is.
        frames: How many pictures it has.
        note: What is not as it was asked for, or None.
    """

    size_bytes: int
    sha256: str
    seconds: float
    frames: int
    note: str | None = None


@dataclass(frozen=True, slots=True)
class NotMade:
    """There is no target.

    Attributes:
        reason: Why, in words that hold no path.
        is_recordings_fault: Whether it would be the same another time: not the machine's state, but the recording's.
    """

    reason: str
    is_recordings_fault: bool = False


class Transcoder:
    """Compresses videos by ffmpeg, one at a time.

    Args:
        settings: `video_codec`, `compression_quality`, `ffmpeg_path`.
        clock: For time limits.
    """

    def __init__(self, settings: CloudSettings, clock: Clock) -> None:
        self._codec = settings.video_codec
        self._quality = settings.compression_quality
        self._ffmpeg = Ffmpeg(settings.ffmpeg_path, clock)
        self._turn = asyncio.Lock()
        self._told_of_codec = False

    async def compress(
        self,
        source: BinaryIO,
        size_bytes: int,
        target: Path,
        on_progress: Callable[[float], None],
        *,
        drop_audio: bool = False,
    ) -> MadeVideo | NotMade:
        """Compress an open recording into `target`, which appears whole or not at all.

        Whatever ends this, also a cancellation, ffmpeg is gone and nothing is left beside `target` afterwards; what a
        killed agent leaves has a name of its own (`DerivedFiles.sweep`).

        Args:
            source: The recording. ffmpeg reads the open file, whatever its path has become meanwhile.
            size_bytes: What it has.
            target: In a folder of the agent's own, which is made where it is missing.
            on_progress: Told how much is done, 0 to 1, never less than before; 1 once the result was accepted.
            drop_audio: Whether the result has no sound.
        """
        work = _Work(source.fileno(), size_bytes, target, _growing(on_progress), drop_audio=drop_audio)
        return await self._done(work, self._compress, "video.not_compressed")

    async def remux(
        self,
        source: BinaryIO,
        size_bytes: int,
        target: Path,
        on_progress: Callable[[float], None],
        *,
        drop_audio: bool = False,
    ) -> MadeVideo | NotMade:
        """Copy the pictures and the sound of an open recording into `target`, nothing else; otherwise as `compress`.

        Nothing is decoded: a damaged recording keeps what is in it.
        """
        work = _Work(source.fileno(), size_bytes, target, _growing(on_progress), drop_audio=drop_audio)
        return await self._done(work, self._remux, "video.not_copied")

    async def _done(
        self, work: "_Work", make: "Callable[[_Work], Awaitable[MadeVideo]]", otherwise: str
    ) -> MadeVideo | NotMade:
        async with self._turn:
            try:
                result = await make(work)
            except TranscodeError as error:
                logger.info("%s: %d bytes: %s", otherwise, work.size_bytes, error)
                return NotMade(str(error), error.is_recordings_fault)
            finally:
                await run_to_end(_remove, work.unfinished)
        work.reached(1.0)
        return result

    async def _remux(self, work: "_Work") -> MadeVideo:
        await self._ffmpeg.program()
        limit = time_limit(COPYING_PACE, None, work.size_bytes)
        said = await self._ffmpeg.run(streams_arguments(work.video), limit, lambda _: True, work.video_file)
        codec = codec_named(said.words)
        if codec is None:
            raise work.fault(said, "there is no video in it that can be read")
        await run_to_end(_create, work.unfinished)
        reader = ProgressReader()

        def on_output(piece: bytes) -> bool:
            events = reader.feed(piece)
            for progress in events:
                work.reached(_ENCODED * min(1.0, progress.size_bytes / work.size_bytes))
            return bool(events)

        arguments = remux_arguments(
            work.video, str(work.unfinished), codec, audio_codecs(said.words), drop_audio=work.drop_audio
        )
        ending = await self._ffmpeg.run(arguments, limit, on_output, work.video_file)
        if ending.exit_code != 0 or not reader.last.ended:
            raise work.fault(ending, "it cannot be copied")
        if reader.last.frames == 0:
            raise TranscodeError("there is no picture in it", is_recordings_fault=True)
        size = await asyncio.to_thread(_durable_size, work.unfinished)
        sha256 = await _sha256(work.unfinished)
        await run_to_end(_put_in_place, work.unfinished, work.target)
        logger.info("video.copied: %d bytes of %d, %d frames", size, work.size_bytes, reader.last.frames)
        return MadeVideo(size, sha256, reader.last.seconds, reader.last.frames)

    async def _compress(self, work: "_Work") -> MadeVideo:
        codec = await self._usable_codec()
        recording = await self._look(work, work.video, work.video_file, None)
        if fault := fault_of_recording(recording):
            raise TranscodeError(f"the recording is not as it should be: {fault}")
        work.reached(_LOOKED_AT)
        await run_to_end(_create, work.unfinished)
        await self._encode(work, codec, recording)
        work.reached(_ENCODED)
        result = await self._look(work, str(work.unfinished), None, recording.seconds)
        # Not to its end: on a slow disk that could outlast the grace of a stop, and it does no harm to a deleted file.
        size = await asyncio.to_thread(_durable_size, work.unfinished)
        if fault := fault_of_result(recording, work.size_bytes, result, size):
            raise TranscodeError(fault)
        sha256 = await _sha256(work.unfinished)
        await run_to_end(_put_in_place, work.unfinished, work.target)
        logger.info(
            "video.compressed: %d bytes of %d, %d frames, %.1f s, %s",
            size,
            work.size_bytes,
            result.frames,
            result.seconds,
            codec,
        )
        note = None if codec == self._codec else f"{_without(self._codec)}: it is {codec}"
        return MadeVideo(size, sha256, result.seconds, result.frames, note)

    async def _usable_codec(self) -> Codec:
        codec = choose_codec(self._codec, (await self._ffmpeg.program()).encoders)
        if codec is None:
            raise TranscodeError("this ffmpeg has no encoder for H.264 (libx264)")
        if codec != self._codec and not self._told_of_codec:
            logger.warning("video.codec: %s: videos become %s", _without(self._codec), codec)
            self._told_of_codec = True
        return codec

    async def _look(self, work: "_Work", video: str, video_file: int | None, seconds: float | None) -> VideoInfo:
        """Decode a video to its end."""
        times = TimesReader()
        limit = time_limit(DECODING_PACE, seconds, work.size_bytes)
        ending = await self._ffmpeg.run(look_arguments(video), limit, times.feed, video_file)
        if ending.exit_code != 0:
            what = "result" if video_file is None else "recording"
            raise TranscodeError(f"the {what} cannot be decoded: {work.failure(ending)}")
        return measured(times, ending.words)

    async def _encode(self, work: "_Work", codec: Codec, recording: VideoInfo) -> None:
        reader = ProgressReader()

        def on_output(piece: bytes) -> bool:
            events = reader.feed(piece)
            for progress in events:
                if fault := no_gain(progress.size_bytes, work.size_bytes):
                    raise TranscodeError(fault)
                work.reached(_LOOKED_AT + (_ENCODED - _LOOKED_AT) * min(1.0, progress.frames / recording.frames))
            return bool(events)

        limit = time_limit(ENCODERS[codec].pace, recording.seconds, work.size_bytes)
        arguments = encode_arguments(
            work.video, str(work.unfinished), codec, self._quality, recording.audio_codecs, drop_audio=work.drop_audio
        )
        ending = await self._ffmpeg.run(arguments, limit, on_output, work.video_file)
        if ending.exit_code != 0 or not reader.last.ended:
            raise TranscodeError(f"it cannot be compressed: {work.failure(ending)}")


class _Work:
    """One video on its way.

    Attributes:
        video: How ffmpeg opens it: by the descriptor it inherits, so that no link and no swapped path matters.
        video_file: That descriptor.
        size_bytes: What the recording has.
        target: Where the result is to be.
        unfinished: Where it is until it is whole and checked.
        drop_audio: Whether the result has no sound.
    """

    def __init__(
        self,
        video_file: int,
        size_bytes: int,
        target: Path,
        reached: Callable[[float], None],
        *,
        drop_audio: bool,
    ) -> None:
        self.drop_audio = drop_audio
        self.video = f"/proc/self/fd/{video_file}"
        self.video_file = video_file
        self.size_bytes = size_bytes
        self.target = target
        self.unfinished = self.target.with_name(f".{target.name}.{secrets.token_hex(4)}.new")
        self.reached = reached

    def fault(self, ending: RunResult, what: str) -> TranscodeError:
        """The error of a run of ffmpeg that went wrong: the recording's where the machine had all that it takes."""
        is_recordings = ending.exit_code >= 0 and not is_full_disk(ending.words)
        return TranscodeError(f"{what}: {self.failure(ending)}", is_recordings_fault=is_recordings)

    def failure(self, ending: RunResult) -> str:
        """Why ffmpeg has not done what it was asked for, without this vehicle's paths."""
        return failure(ending.exit_code, ending.words, {self.video: "the video", str(self.unfinished): "the result"})


def _without(codec: str) -> str:
    return f"this ffmpeg has no encoder for {codec}"


def _growing(on_progress: Callable[[float], None]) -> Callable[[float], None]:
    """Pass on only what is more than before."""
    most = -1.0

    def reached(share: float) -> None:
        nonlocal most
        if share > most:
            most = share
            on_progress(share)

    return reached


def _create(path: Path) -> None:
    """Make the file that ffmpeg writes to, for nobody else to read."""
    try:
        path.parent.mkdir(mode=0o700, parents=True, exist_ok=True)
        os.close(os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600))
    except OSError as error:
        raise TranscodeError(f"no result can be written ({error.strerror})") from None


def _durable_size(path: Path) -> int:
    """Bytes of a file that survives a power cut from here on."""
    try:
        with path.open("rb") as file:
            os.fsync(file.fileno())
            return os.fstat(file.fileno()).st_size
    except OSError as error:
        raise TranscodeError(f"the result cannot be written to disk ({error.strerror})") from None


async def _sha256(path: Path) -> str:
    """Piece by piece, so that a cancelled wait is short."""
    digest = hashlib.sha256()
    hashed = 0
    while read := await run_to_end(_hash_piece, path, hashed, digest):
        hashed += read
    return digest.hexdigest()


def _hash_piece(path: Path, at: int, digest: "hashlib._Hash") -> int:
    """Hash the next piece; return how long it was, 0 at the end."""
    try:
        with path.open("rb") as file:
            file.seek(at)
            piece = file.read(_HASH_BYTES)
    except OSError as error:
        raise TranscodeError(f"the result cannot be read ({error.strerror})") from None
    digest.update(piece)
    return len(piece)


def _put_in_place(unfinished: Path, target: Path) -> None:
    try:
        unfinished.replace(target)
        sync_folder(target.parent)
    except OSError as error:
        target.unlink(missing_ok=True)
        raise TranscodeError(f"the result cannot be put in its place ({error.strerror})") from None


def _remove(unfinished: Path) -> None:
    with contextlib.suppress(OSError):  # what cannot be deleted now is swept at the next start
        unfinished.unlink(missing_ok=True)
