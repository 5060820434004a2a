"""How a profile's state is written: what is sealed for the backend, and what is sealed for this vehicle's own store."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from pydantic import ConfigDict, TypeAdapter, ValidationError, with_config

from sentinel_sync.base.clock import EARLIEST_PLAUSIBLE
from sentinel_sync.base.errors import ProfileError
from sentinel_sync.base.payloads import MalformedJSONError, read_json
from sentinel_sync.profiles.rules.descent import Known, Resolution
from sentinel_sync.profiles.rules.fields import ProfileTime, canonical, digest
from sentinel_sync.profiles.rules.merge import ProfileState, render
from sentinel_sync.profiles.rules.state_folders import Cloud, plain_cloud

#: A profile with all its merge state stays below this (bytes of JSON); a real one has a few thousand.
MAX_BYTES = 2 << 20
#: The field that tells an envelope from a profile that never met this sync.
_FORMAT = "sentinel_profile"
_VERSION = 2
#: Forms that are read: the first one knew no resets, and one contributor a vehicle.
_READ = frozenset({1, _VERSION})
#: A vehicle's clock may be ahead by so much (microseconds) before its "later than the forgetting" is not believed.
_BELIEVED_AHEAD = 86_400 * 1_000_000
_EARLIEST_PLAUSIBLE = round(EARLIEST_PLAUSIBLE) * 1_000_000


@with_config(ConfigDict(extra="forbid", hide_input_in_errors=True))
@dataclass(frozen=True, slots=True)
class _Envelope:
    """What is sealed for the backend. The driver's id is inside, so that no profile passes as another's."""

    sentinel_profile: int
    driver_id: str
    state: ProfileState


_ENVELOPE = TypeAdapter(_Envelope)
_KNOWN = TypeAdapter(Known)
_RESOLUTION = TypeAdapter(Resolution)


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


def resolution_bytes(resolution: Resolution) -> bytes:
    """Write a person's decision."""
    return _RESOLUTION.dump_json(resolution)


def resolution_from(content: bytes) -> Resolution:
    """Read a person's decision.

    Raises:
        ProfileError: It is not of the expected form.
    """
    try:
        return _RESOLUTION.validate_json(content)
    except ValidationError:
        raise ProfileError("a decision about a profile is not of the expected form: give it again") from None


def state_digest(state: ProfileState) -> str:
    """Name a state by its content: the same on every vehicle."""
    return digest(_ENVELOPE.dump_python(_Envelope(_VERSION, "", state), mode="json"))


def parse_profile(content: bytes | str) -> dict[str, Any]:
    """Read JSON that must be an object.

    Raises:
        ProfileError: It is not, or holds a number that JSON does not know.
    """
    try:
        # It is written back: null in the place of an odd number would be a change that nobody made.
        body = read_json(content, refuse_odd_numbers=True)
    except MalformedJSONError as error:
        raise ProfileError(f"the profile is not JSON: {error}") from None
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
    if version not in _READ:
        raise ProfileError("the backend's copy was written by a newer sentinel_sync: update this one; it is not used")
    try:
        return _ENVELOPE.validate_json(content)
    except ValidationError:
        raise ProfileError(
            "the backend's copy opens, but its content is not of the expected form; it is not used"
        ) from None


def time_of_forgetting(known: Known | None, created: ProfileTime | None, now: int) -> int:
    """When a driver counts as forgotten who is to be forgotten now: never behind what was seen of the driver.

    Args:
        known: What this vehicle knows of the driver.
        created: When the local profile says that it was begun.
        now: Wall time, microseconds since the epoch.
    """
    times = [1, now]
    if created is not None:
        times.append(created.us)
    if known is not None:
        moments = (known.state.created, known.state.updated)
        times += [known.state.forgotten + 1, *(moment.us for moment in moments if moment is not None)]
    return max(times)


def put_right(ordered: int, after: int, true_now: int | None) -> int:
    """When a driver counts as forgotten, once the true time is known: a clock may have been years off at the order.

    Args:
        ordered: When the order was given, by the clock of then.
        after: When the driver was forgotten before.
        true_now: The true time; None where it is not known.
    """
    if true_now is not None and not _EARLIEST_PLAUSIBLE <= ordered <= true_now:
        ordered = true_now
    return max(after + 1, ordered)


def begun_anew(created: ProfileTime | None, known: Known | None, forgotten: int, true_now: int | None) -> bool:
    """Whether a local profile was begun after the forgetting, so that it is another one than the forgotten.

    Args:
        created: When it says that it was begun.
        known: What this vehicle knows of the driver.
        forgotten: When the driver was forgotten, microseconds since the epoch.
        true_now: The true time, microseconds since the epoch; None where it is not known.
    """
    if created is None:
        return False
    if known is not None:
        same = any(base.created == created.us for base in known.former)
        if known.state.forgotten < forgotten and same:
            return False  # the very profile that was synced before the forgetting
        if known.state.forgotten >= forgotten and same:
            return True  # recognised as a new one before
        if known.state.forgotten >= forgotten and known.removed is not None and created.us > known.removed:
            return True  # both times are of the same clock, however wrong it is
    return created.us > forgotten and (true_now is None or created.us <= true_now + _BELIEVED_AHEAD)


def forgotten_known(known: Known | None, forgotten: int) -> Known:
    """What is left of what this vehicle knows: that the driver was forgotten, and when."""
    state = ProfileState(forgotten=forgotten)
    return Known(state) if known is None else Known(state, removed=known.removed, contributor=known.contributor)


def removed_here(known: Known, created: ProfileTime | None, here: int) -> Known:
    """Note that this vehicle removes a profile of a forgotten driver.

    Args:
        known: What this vehicle knows.
        created: When that profile says that it was begun; None where it does not say, or there was no file.
        here: What this vehicle's own clock says, microseconds since the epoch.
    """
    # Never behind what was seen: where the clock is set back, the old profile must not seem to be the newer one.
    times = (here, known.removed, None if created is None else created.us)
    return replace(known, removed=max(time for time in times if time is not None))
