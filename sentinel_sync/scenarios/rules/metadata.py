"""A recorder's metadata.json: what it must have, and what of it may leave the vehicle."""

import re
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Self

from pydantic import JsonValue

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.payloads import MalformedJSONError, read_json
from sentinel_sync.scenarios.rules.plan import ANNOTATIONS_NAME, METADATA_NAME, check_name
from sentinel_sync.scenarios.rules.private_data import Context, outgoing

#: A recorder writes a few hundred bytes; backends take no more than this of a JSON body.
LARGEST_METADATA = 1 << 20
#: Seconds: no recording of a scene is longer than a day.
_LONGEST_SECONDS = 86_400.0
#: A video is whole with this share of what the recorder says, and a little less: cameras start one after the other.
_WHOLE_SHARE, _WHOLE_SECONDS, _WHOLE_FRAMES = 0.8, 1.0, 30
#: Nested deeper it is no recorder's, and would only exhaust the stack.
_DEEPEST = 50
#: A camera's key that says where it looks and nothing else.
_CAMERA = re.compile(r"[A-Za-z](?!.*\d{3})[A-Za-z0-9_-]{0,31}")


@dataclass(frozen=True, slots=True)
class RecordedLength:
    """How much the recorder says that each of its videos holds.

    Attributes:
        seconds: `duration`; None where it is not there, or no length.
        frames: `num_frames`; likewise.
    """

    seconds: float | None
    frames: int | None

    @classmethod
    def of(cls, metadata: Mapping[str, JsonValue]) -> Self:
        """What the metadata has of it."""
        match metadata.get("duration"):
            case float(seconds) | int(seconds) if not isinstance(seconds, bool) and 0.0 < seconds < _LONGEST_SECONDS:
                duration: float | None = float(seconds)
            case _:
                duration = None
        match metadata.get("num_frames"):
            case int(frames) if not isinstance(frames, bool) and frames > 0:
                return cls(duration, frames)
        return cls(duration, None)

    def shortfall(self, seconds: float, frames: int) -> str | None:
        """What a video of that length lacks; None where it is as long as was said.

        A camera may leave out pictures without being cut off: they are counted only where no duration is known.
        """
        if self.seconds is not None:
            if seconds < _WHOLE_SHARE * self.seconds - _WHOLE_SECONDS:
                return f"holds {seconds:.1f} s of the {self.seconds:.1f} s in {METADATA_NAME}"
        elif self.frames is not None and frames < _WHOLE_SHARE * self.frames - _WHOLE_FRAMES:
            return f"holds {frames} pictures of the {self.frames} in {METADATA_NAME}"
        return None


def read_metadata(text: bytes) -> dict[str, JsonValue]:
    """Read metadata.json.

    Raises:
        ScenarioError: It is not a JSON object.
    """
    try:
        metadata = read_json(text)
    except MalformedJSONError as error:
        raise ScenarioError(f"{METADATA_NAME} is not valid JSON: {error}") from None
    if not isinstance(metadata, dict):
        raise ScenarioError(f"{METADATA_NAME} is not a JSON object")
    if _depth(metadata) > _DEEPEST:
        raise ScenarioError(f"{METADATA_NAME} is nested deeper than {_DEEPEST} levels")
    return metadata


def videos(metadata: Mapping[str, JsonValue]) -> dict[str, str]:
    """The videos that the metadata announces, in its order: the recorder's file name → what it is called when it goes.

    It goes by the camera's key, whatever the recorder called the file: that may say who or where. `null` is no camera.

    Raises:
        ScenarioError: `files` is missing or is not camera → file name, or a name is none.
    """
    files = metadata.get("files")
    if not isinstance(files, dict):
        raise ScenarioError(f"{METADATA_NAME} has no `files` (camera: file name)")
    names: dict[str, str] = {}
    for number, (camera, name) in enumerate(files.items(), start=1):
        if name is None:
            continue
        if not isinstance(name, str):
            raise ScenarioError(f"{METADATA_NAME} names no file for the camera {camera!a}")
        if check_name(name, "the file name") in {METADATA_NAME, ANNOTATIONS_NAME}:
            raise ScenarioError(f"{METADATA_NAME} calls {name} a video")
        names.setdefault(name, f"{_camera(camera, number)}.mp4")
    return names


def outgoing_metadata(metadata: Mapping[str, JsonValue]) -> dict[str, JsonValue]:
    """The metadata as it may leave: coarse places, no persons, no paths of this vehicle's file system.

    Raises:
        ScenarioError: As `videos`.
    """
    files = metadata.get("files")
    kept = outgoing({key: value for key, value in metadata.items() if key != "files"}, Context())
    fit = kept if isinstance(kept, dict) else {}
    if not isinstance(files, dict):
        return fit
    names = {sent: sent for sent in videos(metadata).values()} | videos(metadata)
    sent_files: dict[str, JsonValue] = {
        _camera(camera, number): None if name is None else names[str(name)]
        for number, (camera, name) in enumerate(files.items(), start=1)
    }
    # In the recorder's order.
    return {key: sent_files if key == "files" else fit[key] for key in metadata if key == "files" or key in fit} | fit


def _camera(key: str, number: int) -> str:
    return key if _CAMERA.fullmatch(key) else f"camera_{number}"


def _depth(value: object) -> int:
    """How deep containers are nested; stops counting where it is too deep anyway."""
    deepest, level = 0, [value]
    while level and deepest <= _DEEPEST:
        deepest += 1
        level = [
            inner
            for container in level
            if isinstance(container, Mapping | list)
            for inner in (container.values() if isinstance(container, Mapping) else container)
        ]
    return deepest
