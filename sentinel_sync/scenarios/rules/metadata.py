"""A recorder's metadata.json: what it must have, and what of it may leave the vehicle."""

import re
from collections.abc import Mapping

from pydantic import JsonValue

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.payloads import MalformedJSONError, read_json
from sentinel_sync.scenarios.rules.plan import ANNOTATIONS_NAME, METADATA_NAME, check_name
from sentinel_sync.scenarios.rules.private_data import Context, outgoing

#: A recorder writes a few hundred bytes; backends take no more than this of a JSON body.
LARGEST_METADATA = 1 << 20
#: Nested deeper it is no recorder's, and would only exhaust the stack.
_DEEPEST = 50
#: A camera's key that says where it looks and nothing else.
_CAMERA = re.compile(r"[A-Za-z](?!.*\d{3})[A-Za-z0-9_-]{0,31}")


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
