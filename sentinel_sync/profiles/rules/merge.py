"""Driver profiles that merge in any order, any number of times, to the same result: a join.

A profile as the vehicle writes it can't be merged so: from `total_distance: 3000` nobody can tell whose 3000 it is, and
adding two such numbers adds what both already have. So what is merged is a `ProfileState`: totals as one contribution
per vehicle (a grow-only counter), averages as each vehicle's own part, every other field as a register stamped by a
hybrid logical clock, readings as a bounded set. The profile is rendered from it.

Join: M. Shapiro et al., "Conflict-free Replicated Data Types", INRIA RR-7687, 2011. Hybrid logical clock: S. Kulkarni
et al., "Logical Physical Clocks", OPODIS 2014: never behind what its writer had seen, however wrong its own clock is.

A driver who is forgotten begins a new generation: of two states the one that was begun after the later forgetting is
the whole result, and the other is gone. A chain (the generations) over a join in each is itself a join.
"""

import hashlib
import json
import math
import re
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from math import fsum
from typing import Any, NamedTuple, TypeVar

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
#: What averages rest on.
WEIGHT = "session_count"
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
Part = TypeVar("Part")
#: Averages are rounded to so many decimals: far below what is measured, far above what sums of floats lose.
_DECIMALS = 9
#: How the contributors that stand for profiles which never met this sync are called.
PLAIN = "plain:"


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


class Stamp(NamedTuple):
    """Hybrid logical time: microseconds since the epoch, a counter within them, and whose clock it was."""

    us: int
    counter: int
    contributor: str


class Register(NamedTuple):
    """A field whose most recent value wins."""

    stamp: Stamp
    value: Any


class MetricReading(NamedTuple):
    """One reading of a metric: when it was taken over, by whom, its number there, and its value."""

    us: int
    contributor: str
    number: int
    value: Any


class Ancestor(NamedTuple):
    """A profile that this vehicle had at some time, reduced to what tells whether another one descends from it.

    Attributes:
        marks: Digests of the fields of which the latest wins.
        readings: Digests of each metric's readings.
        created: Microseconds since the epoch, or None.
        updated: The same.
    """

    totals: dict[str, Number]
    averages: dict[str, Number]
    marks: dict[str, str]
    readings: dict[str, list[str]]
    created: int | None
    updated: int | None


@dataclass(frozen=True, slots=True)
class Contribution:
    """What one vehicle brought in. Only that vehicle changes it.

    Attributes:
        sequence: Counts its changes.
        totals: What was driven in that vehicle.
        averages: That vehicle's part of each average.
        left: The profiles that the vehicle had when it last contributed: whoever lost its own state finds them here.
    """

    sequence: int
    totals: dict[str, Number]
    averages: dict[str, Number]
    left: tuple[Ancestor, ...] = ()

    @property
    def weight(self) -> Number:
        """Sessions that the averages rest on; where nobody counted them, each vehicle weighs the same."""
        return max(1, self.totals.get(WEIGHT, 0))


@dataclass(frozen=True, slots=True)
class ProfileState:
    """All that is known of one driver, in a form that merges.

    Attributes:
        forgotten: When the driver was last forgotten, microseconds since the epoch, 0 where never; all else was begun
            after it.
    """

    contributions: dict[str, Contribution] = field(default_factory=dict)
    registers: dict[str, Register] = field(default_factory=dict)
    metrics: dict[str, tuple[MetricReading, ...]] = field(default_factory=dict)
    created: ProfileTime | None = None
    updated: ProfileTime | None = None
    forgotten: int = 0

    @property
    def is_tombstone(self) -> bool:
        """Whether it says that the driver was forgotten, and nothing else."""
        return self.forgotten > 0 and self == ProfileState(forgotten=self.forgotten)


def join(one: ProfileState, other: ProfileState) -> ProfileState:
    """Merge two states: commutative, associative, idempotent, and neither is changed."""
    if one.forgotten != other.forgotten:
        return max(one, other, key=lambda state: state.forgotten)
    return ProfileState(
        contributions=_by_key(one.contributions, other.contributions, _join_contributions),
        registers=_by_key(one.registers, other.registers, lambda *both: max(both, key=_register_order)),
        metrics=_by_key(one.metrics, other.metrics, lambda a, b: newest((*a, *b))),
        created=min(_given(one.created, other.created), key=_moment_order, default=None),
        updated=max(_given(one.updated, other.updated), key=_moment_order, default=None),
        forgotten=one.forgotten,
    )


def newest(entries: Iterable[MetricReading]) -> tuple[MetricReading, ...]:
    """The newest readings, each once, oldest first; taking the greatest of a union is itself a join."""
    unlike = {_entry_order(entry): entry for entry in entries}
    return tuple(unlike[order] for order in sorted(unlike)[-MAX_READINGS:])


def from_plain(reading: ParsedProfile, contributor: str) -> ProfileState:
    """The state of a profile that never met this sync, as the part that `contributor` brings in."""
    at = 0 if reading.updated is None else reading.updated.us
    counts = bool(reading.totals or reading.averages)
    return ProfileState(
        contributions={contributor: Contribution(1, reading.totals, reading.averages)} if counts else {},
        registers={name: Register(Stamp(at, 0, contributor), value) for name, value in reading.latest.items()},
        metrics={
            name: tuple(MetricReading(at, contributor, index, value) for index, value in enumerate(values))
            for name, values in reading.metrics.items()
        },
        created=reading.created,
        updated=reading.updated,
    )


def plain_contributor(profile: Mapping[str, Any]) -> str:
    """Name the part that a profile which never met this sync brings in: the same on every vehicle that reads it."""
    return f"{PLAIN}{digest(profile, 16)}"


def total(state: ProfileState, name: str) -> Number | None:
    """The sum of what all vehicles contributed; the same in whatever order they came."""
    parts = [
        contribution.totals[name]
        for _, contribution in sorted(state.contributions.items())
        if name in contribution.totals
    ]
    if not parts:
        return None
    return sum(parts) if all(isinstance(part, int) for part in parts) else fsum(parts)


def average(state: ProfileState, name: str) -> Number | None:
    """The mean of all vehicles' parts, weighted by what they rest on."""
    parts = [
        (contribution.averages[name], contribution.weight)
        for _, contribution in sorted(state.contributions.items())
        if name in contribution.averages
    ]
    if len({value for value, _ in parts}) <= 1:
        return parts[0][0] if parts else None  # as it was written, to the last digit
    return round(fsum(value * weight for value, weight in parts) / fsum(weight for _, weight in parts), _DECIMALS)


def render(state: ProfileState, like: Mapping[str, Any] | None = None) -> dict[str, Any]:
    """Write the profile that a state amounts to.

    Args:
        state: The state.
        like: A profile whose order of fields and form of times are kept; fields that only the state has come after.
    """
    like = like or {}
    found: dict[str, Any] = {name: register.value for name, register in state.registers.items()}
    found |= {name: value for name in TOTALS if (value := total(state, name)) is not None}
    found |= {name: value for name in AVERAGES if (value := average(state, name)) is not None}
    if state.metrics:
        found[METRICS] = {name: [entry.value for entry in entries] for name, entries in sorted(state.metrics.items())}
    for name, moment in ((CREATED, state.created), (UPDATED, state.updated)):
        if moment is not None:
            found[name] = _written(moment, like.get(name))
    merged = {name: found.get(name, value) for name, value in like.items()}
    return merged | {name: found[name] for name in sorted(found.keys() - merged.keys())}


def _written(moment: ProfileTime, like: Any) -> Any:
    if like is None or isinstance(like, str) is isinstance(moment.raw, str):
        same = not isinstance(like, str) or _offset(like) == _offset(moment.raw)
        if same:
            return moment.raw
    return in_form(moment.us, like)


def _offset(text: str) -> str:
    """How an ISO time says its offset: "Z", "+01:00" or nothing."""
    tail = text[10:]
    if tail.endswith(("Z", "z")):
        return "Z"
    at = max(tail.rfind("+"), tail.rfind("-"))
    return tail[at:] if at >= 0 else ""


def _join_contributions(one: Contribution, other: Contribution) -> Contribution:
    newer = max(one, other, key=_contribution_order)
    totals = _by_key(one.totals, other.totals, lambda *both: max(both, key=_number_order))
    return Contribution(newer.sequence, totals, newer.averages, newer.left)


def _by_key(one: Mapping[str, Part], other: Mapping[str, Part], merge: Callable[[Part, Part], Part]) -> dict[str, Part]:
    return {
        key: merge(one[key], other[key]) if key in one and key in other else one[key] if key in one else other[key]
        for key in (*one, *(key for key in other if key not in one))
    }


def _given(*moments: ProfileTime | None) -> list[ProfileTime]:
    return [moment for moment in moments if moment is not None]


def _moment_order(moment: ProfileTime) -> tuple[int, str]:
    return moment.us, canonical(moment.raw)


def _register_order(register: Register) -> tuple[Stamp, str]:
    return register.stamp, canonical(register.value)


def _entry_order(entry: MetricReading) -> tuple[int, str, int, str]:
    return entry.us, entry.contributor, entry.number, canonical(entry.value)


def _number_order(value: Number) -> tuple[Number, str]:
    return value, canonical(value)  # 5 and 5.0 are equal, but not written the same


def _contribution_order(contribution: Contribution) -> tuple[int, str]:
    # Equal numbers with unlike content come from a vehicle whose state was lost; any order will do, if all agree on it.
    return contribution.sequence, canonical([contribution.averages, contribution.left])
