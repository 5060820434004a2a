"""How a profile's state is written: what is sealed for the backend, and what is sealed for this vehicle's own store."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import pydantic_core
from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.rules.history import Cloud, Known, plain_cloud
from sentinel_sync.profiles.rules.merge import ProfileState, canonical, digest, render

#: A profile with all its merge state stays below this (bytes of JSON); a real one has a few thousand.
MAX_BYTES = 2 << 20
#: The field that tells an envelope from a profile that never met this sync.
_FORMAT = "sentinel_profile"
_VERSION = 1


@with_config(ConfigDict(extra="forbid", hide_input_in_errors=True))
@dataclass(frozen=True, slots=True)
class _Envelope:
    """What is sealed for the backend. The driver's id is inside, so that no profile passes as another's."""

    sentinel_profile: int
    driver_id: str
    state: ProfileState


_ENVELOPE = TypeAdapter(_Envelope)
_KNOWN = TypeAdapter(Known)


def envelope(state: ProfileState, driver_id: str) -> bytes:
    """Write a state for the backend.

    Raises:
        ProfileError: It is too large.
    """
    return _bounded(_ENVELOPE.dump_json(_Envelope(_VERSION, driver_id, state)))


def opened(content: bytes, driver_id: str, *, own: bool) -> Cloud:
    """Read what the backend holds, an envelope or a profile that never met this sync.

    Args:
        content: What was sealed.
        driver_id: Whose it must be.
        own: True where only this vehicle's older module can have sealed it.

    Raises:
        ProfileError: It cannot be used.
    """
    body = parse_profile(content)
    if _FORMAT not in body:
        return plain_cloud(body, driver_id, own=own)
    found = _envelope(content, body)
    if found.driver_id != driver_id:
        raise ProfileError("the backend's copy belongs to another driver than the one asked for; it is not used")
    return Cloud(found.state)


def profile_in(content: bytes) -> dict[str, Any]:
    """Read the profile in what was sealed, an envelope or the profile itself.

    Raises:
        ProfileError: It cannot be used.
    """
    body = parse_profile(content)
    return body if _FORMAT not in body else render(_envelope(content, body).state)


def known_bytes(known: Known) -> bytes:
    """Write what a vehicle knows, for its own store."""
    return _KNOWN.dump_json(known)


def known_from(content: bytes) -> Known:
    """Read what a vehicle knows.

    Raises:
        ProfileError: It is not of the expected form.
    """
    try:
        return _KNOWN.validate_json(content)
    except ValidationError:
        raise ProfileError("what this vehicle remembers of a profile is not of the expected form") from None


def state_digest(state: ProfileState) -> str:
    """Name a state by its content: the same on every vehicle."""
    return digest(_ENVELOPE.dump_python(_Envelope(_VERSION, "", state), mode="json"))


def parse_profile(content: bytes | str) -> dict[str, Any]:
    """Read JSON that must be an object.

    Raises:
        ProfileError: It is not, or holds a number that JSON does not know.
    """
    try:
        body = pydantic_core.from_json(content, allow_inf_nan=False)
    except ValueError:
        raise ProfileError("the profile is not JSON") from None
    if not isinstance(body, dict):
        raise ProfileError("the profile is JSON, but no object")
    return body


def detached(profile: Mapping[str, Any]) -> dict[str, Any]:
    """Copy a caller's profile, as JSON brings it back.

    Raises:
        ProfileError: It holds what JSON cannot.
    """
    try:
        content = canonical(dict(profile))
    except (TypeError, ValueError, RecursionError):
        raise ProfileError("the profile holds what JSON cannot: dates, NaN, binary or circular values") from None
    copy = parse_profile(_bounded(content.encode()))
    return {name: copy[name] for name in map(str, profile) if name in copy}


def _bounded(content: bytes) -> bytes:
    if len(content) > MAX_BYTES:
        raise ProfileError(f"the profile is larger than {MAX_BYTES} bytes with its merge state: it is not synced")
    return content


def _envelope(content: bytes, body: Mapping[str, Any]) -> _Envelope:
    version = body[_FORMAT]
    if version != _VERSION:
        raise ProfileError("the backend's copy was written by a newer sentinel_sync: update this one; it is not used")
    try:
        return _ENVELOPE.validate_json(content)
    except ValidationError:
        raise ProfileError(
            "the backend's copy opens, but its content is not of the expected form; it is not used"
        ) from None
