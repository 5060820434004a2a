"""What the fields of a driver's profile mean, and what their values can be: the file taken apart."""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Any, NamedTuple

from sentinel_sync.base.errors import ProfileError

#: Sums over all that was driven: each vehicle adds its own part.
TOTALS = frozenset({"total_distance", "total_time", "session_count"})
#: Means over all that was driven. They rest on sessions: the vehicle's profile manager updates them once per session.
AVERAGES = frozenset(
    {
        "safety_score",
        "attention_score",
        "eco_score",
        "avg_reaction_time",
        "avg_following_distance",
        "avg_lane_change_freq",
        "avg_speed",
    }
)
#: Lists of readings by name, oldest first.
METRICS = "metrics"
CREATED = "created_at"
UPDATED = "last_updated"
#: Scores go from 0 to this.
MAX_SCORE = 100.0
#: Readings kept of each metric; the newest stay. Lists that only grow were a fault of the older module.
MAX_READINGS = 256
#: Above any distance or time that one driver reaches, in whatever unit, and low enough that sums keep their precision.
_MAX_TOTAL = 1e12
_EPOCH = datetime(1970, 1, 1, tzinfo=UTC)
_MICROSECOND = timedelta(microseconds=1)
#: 9999-12-31, the last day that datetime knows.
_LAST_SECOND = 253_402_214_400.0

#: The reference backend takes ids of so many characters.
_MAX_ID = 1024
#: Control characters, and halves of characters that UTF-8 cannot spell.
_UNFIT = re.compile(r"[\x00-\x1f\x7f\ud800-\udfff]")

Number = int | float


class ProfileTime(NamedTuple):
    """A time in a profile: microseconds since the epoch, and as it was written."""

    us: int
    raw: Any


@dataclass(frozen=True, slots=True)
class ParsedProfile:
    """A profile taken apart by what its fields mean.

    Attributes:
        latest: Fields whose most recent value wins; those that nobody here knows are among them.
    """

    totals: dict[str, Number]
    averages: dict[str, Number]
    metrics: dict[str, list[Any]]
    latest: dict[str, Any]
    created: ProfileTime | None
    updated: ProfileTime | None


def read_profile(profile: Mapping[str, Any], driver_id: str | None) -> ParsedProfile:
    """Take a profile apart.

    Args:
        profile: JSON.
        driver_id: Whose it must be; None where that is not known.

    Raises:
        ProfileError: A field cannot be what it should be. The message names it and holds no value.
    """
    whose = profile.get("driver_id")
    if driver_id is not None and whose is not None and whose != driver_id:
        raise ProfileError("the profile belongs to another driver: its driver_id is not the one asked for")
    known = TOTALS | AVERAGES | {METRICS, CREATED, UPDATED}
    return ParsedProfile(
        totals=_numbers(profile, TOTALS, lowest=0.0),
        averages=_numbers(profile, AVERAGES, lowest=-_MAX_TOTAL),
        metrics=_metrics(profile.get(METRICS)),
        latest={str(name): value for name, value in profile.items() if name not in known},
        created=moment_of(profile, CREATED),
        updated=moment_of(profile, UPDATED),
    )


def checked_id(driver_id: object) -> str:
    """Check a driver's id: any text without control characters; it is quoted where it stands in a URL.

    Raises:
        ValueError: It is none. The message does not repeat it.
    """
    usable = isinstance(driver_id, str) and 0 < len(driver_id) <= _MAX_ID and not _UNFIT.search(driver_id)
    if not isinstance(driver_id, str) or not usable or not driver_id.strip():
        raise ValueError(f"driver_id must be text of 1 to {_MAX_ID} characters, without control characters")
    return driver_id


def moment_of(profile: Mapping[str, Any], name: str) -> ProfileTime | None:
    """Read a time: ISO 8601 (without an offset: the vehicle's local time) or seconds since the epoch.

    Raises:
        ProfileError: Neither.
    """
    raw = profile.get(name)
    try:
        match raw:
            case None:
                return None
            case str():
                # astimezone() reads a naive time as the system's local time.
                return ProfileTime((datetime.fromisoformat(raw).astimezone(UTC) - _EPOCH) // _MICROSECOND, raw)
            case int() | float() if not isinstance(raw, bool) and 0.0 <= raw <= _LAST_SECOND:
                return ProfileTime(round(raw * 1_000_000), raw)
    except (ValueError, OverflowError, OSError):
        raise ProfileError(f"{name} is no time: it must be ISO 8601 or seconds since the epoch") from None
    raise ProfileError(f"{name} is no time: it must be ISO 8601 or seconds since the epoch")


def in_form(us: int, like: Any) -> Any:
    """Write a time as `like` is written: seconds, or ISO 8601 with or without an offset."""
    if not isinstance(like, str):
        whole, rest = divmod(us, 1_000_000)
        return whole if rest == 0 and not isinstance(like, float) else us / 1_000_000
    moment = _EPOCH + us * _MICROSECOND
    zone = datetime.fromisoformat(like).tzinfo
    if zone is None:
        return moment.astimezone().replace(tzinfo=None).isoformat()
    text = moment.astimezone(zone).isoformat()
    return text.replace("+00:00", "Z") if like.endswith(("Z", "z")) else text


def canonical(value: Any) -> str:
    """JSON in one way only, so that equal values are equal text, on every vehicle."""
    return json.dumps(value, sort_keys=True, separators=(",", ":"), allow_nan=False)


def digest(value: Any, digits: int = 64) -> str:
    """Hex digits of the SHA-256 of a value's JSON."""
    return hashlib.sha256(canonical(value).encode()).hexdigest()[:digits]


def _numbers(profile: Mapping[str, Any], names: frozenset[str], *, lowest: float) -> dict[str, Number]:
    found: dict[str, Number] = {}
    for name in sorted(names):
        value = profile.get(name)
        if value is None:
            continue
        if isinstance(value, bool) or not isinstance(value, (int, float)):
            raise ProfileError(f"{name} must be a number, not {type(value).__name__}")
        if not math.isfinite(value) or not lowest <= value <= _MAX_TOTAL:
            raise ProfileError(f"{name} is not a possible value")
        found[name] = value
    return found


def _metrics(value: Any) -> dict[str, list[Any]]:
    if value is None:
        return {}
    if not isinstance(value, dict) or not all(isinstance(readings, list) for readings in value.values()):
        raise ProfileError(f"{METRICS} must hold lists by name")
    return {str(name): readings[-MAX_READINGS:] for name, readings in value.items()}
