"""The demo's recorder: leaves a recording as a vehicle's does; the driver consents; what arrived is looked at."""

import asyncio
import json
import sys
from asyncio.subprocess import DEVNULL, PIPE
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Protocol

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.demo.processes import DemoError
from sentinel_sync.demo.witness import Witness
from sentinel_sync.scenarios.ffmpeg import Ffmpeg, TranscodeError

_NAME, _VIDEO = "2026-11-23_08-00-00", "front_left.mp4"
#: Where the recorder says that it was made, and the two decimals of it that may leave.
_PLACE, _COARSE = "37.774929,-122.419416", "37.77,-122.42"
_SECONDS, _FRAMES_PER_SECOND = 3, 15
#: As a recorder's camera: MPEG-4 part 2, which is quick to write and large.
_CAMERA = f"testsrc2=s=640x360:r={_FRAMES_PER_SECOND}:d={_SECONDS}"
_RECORDING_LIMIT = 60.0


class Stage(Protocol):
    """Told what happens."""

    def doing(self, text: str) -> None:
        """Something has begun."""
        ...

    def done(self, text: str) -> None:
        """It has ended well."""
        ...


@dataclass(frozen=True, slots=True)
class SentRecording:
    """What became of the recording.

    Attributes:
        recorded_bytes: Of the video on the vehicle's disk.
        sent_bytes: Of the video as it arrived.
    """

    recorded_bytes: int
    sent_bytes: int


class RecordingAct:
    """The part of the demo that is about a recording.

    Args:
        home: The vehicle's folder.
        stage: Told what happens.
    """

    def __init__(self, home: Path, stage: Stage) -> None:
        self._home = home
        self._stage = stage

    async def run(self, witness: Witness) -> SentRecording | None:
        """Show it; None where there is no ffmpeg to play the camera.

        Raises:
            DemoError: Something is not as promised.
        """
        self._stage.doing("the recorder leaves a recording …")
        try:
            recorded_bytes = await self._record()
        except TranscodeError as error:
            self._stage.done(f"without a recording: {error}")
            return None
        if await witness.scenarios():
            raise DemoError("a recording was sent without the driver's consent")
        self._stage.done("the recorder left a recording; it stays where it is until the driver consents")
        self._stage.doing("the driver consents: sentinel-sync consent grant …")
        await self._consent()
        arrived = await witness.wait_for_scenario(_NAME)
        sent = SentRecording(recorded_bytes, check_recording(arrived))
        self._stage.done(
            f"the driver consented (consent grant), and it arrived whole: its video compressed to "
            f"{100 * sent.sent_bytes // sent.recorded_bytes} % of {recorded_bytes / 1000:.0f} kB"
        )
        return sent

    async def _record(self) -> int:
        """Leave a recording as a recorder does, what tells of the others last; returns the video's bytes."""
        folder = self._home / "scenarios" / _NAME
        await asyncio.to_thread(folder.mkdir, parents=True)
        video = folder / _VIDEO
        camera = ["-loglevel", "error", "-f", "lavfi", "-i", _CAMERA, "-c:v", "mpeg4", "-q:v", "3", str(video)]
        ending = await Ffmpeg(None, SystemClock()).run(camera, _RECORDING_LIMIT, lambda _: True)
        if ending.exit_code != 0:
            raise DemoError(f"ffmpeg does not play the camera: {ending.words}")
        frames = [{"timestamp": number / _FRAMES_PER_SECOND} for number in range(_SECONDS * _FRAMES_PER_SECOND)]
        metadata = {
            "timestamp": "2026-11-23T08:00:00",
            "duration": float(_SECONDS),
            "num_frames": len(frames),
            "trigger": {"type": "critical", "reason": "risk 0.90 above 0.7"},
            "files": {"front_left": _VIDEO},
            "location": _PLACE,
        }
        for name, content in (("annotations.json", {"frames": frames}), ("metadata.json", metadata)):
            await asyncio.to_thread((folder / name).write_text, json.dumps(content), encoding="utf-8")
        return (await asyncio.to_thread(video.stat)).st_size

    async def _consent(self) -> None:
        """Say so as a person does: on the command line, beside the running vehicle."""
        command = await asyncio.create_subprocess_exec(
            sys.executable,
            *("-m", "sentinel_sync", "consent", "grant", "--config", str(self._home / "config.yaml")),
            stdin=DEVNULL,
            stdout=DEVNULL,
            stderr=PIPE,
        )
        _, said = await command.communicate()
        if command.returncode != 0:
            raise DemoError(f"consent grant failed: {said.decode(errors='replace').strip()}")


def check_recording(arrived: Mapping[str, Any]) -> int:
    """Is what arrived what may leave? Returns the bytes of its video.

    Raises:
        DemoError: It is not.
    """
    if not arrived["complete"]:
        raise DemoError(f"of the recording, {', '.join(arrived['missing'])} has not arrived")
    if arrived["metadata"].get("location") != _COARSE:
        raise DemoError("the recording arrived with another place than its own to two decimals")
    (video,) = (part for part in arrived["parts"] if part["name"] == _VIDEO)
    return int(video["size"])
