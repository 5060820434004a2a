"""Driver profiles that merge in any order, any number of times, to the same result: a join.

A profile as the vehicle writes it can't be merged so: from `total_distance: 3000` nobody can tell whose 3000 it is, and
adding two such numbers adds what both already have. So what is merged is a `ProfileState`: totals as one contribution
per vehicle (a grow-only counter), averages as each vehicle's own part, every other field as a register stamped by a
hybrid logical clock, readings as a bounded set. The profile is rendered from it.

Join: M. Shapiro et al., "Conflict-free Replicated Data Types", INRIA RR-7687, 2011. Hybrid logical clock: S. Kulkarni
et al., "Logical Physical Clocks", OPODIS 2014: never behind what its writer had seen, however wrong its own clock is.

A driver who is forgotten begins a new generation: of two states the one that was begun after the later forgetting is
the whole result, and the other is gone. A chain (the generations) over a join in each is itself a join. In the same way
a reset of the statistics, stamped like a register, leaves only the contributions that were made after it.
"""

from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field, replace
from math import fsum
from typing import Any, NamedTuple, TypeVar

from sentinel_sync.profiles.rules.fields import (
    AVERAGES,
    CREATED,
    MAX_READINGS,
    METRICS,
    TOTALS,
    UPDATED,
    Number,
    ParsedProfile,
    ProfileTime,
    canonical,
    in_form,
)

#: What averages rest on.
WEIGHT = "session_count"
Part = TypeVar("Part")
#: Averages are rounded to so many decimals: far below what is measured, far above what sums of floats lose.
_DECIMALS = 9
#: How the contributors that stand for profiles which never met this sync are called.
PLAIN = "plain:"
#: Between a vehicle's id and the name of the state folder that writes for it.
_FOLDER = "#"
#: Digests of so many former profiles travel: a file that is one of them, in whatever vehicle, is counted already.
MAX_LINEAGE = 64


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
    """What one vehicle brought in, from one state folder. Only that folder's agent changes it.

    Attributes:
        sequence: Counts its changes.
        totals: What was driven in that vehicle.
        averages: That vehicle's part of each average.
        left: The profile that the vehicle's manager last wrote, and the one that the vehicle was then left with, where
            that is another one: whoever lost its own state finds them here.
        reset: The reset after which it was made; None where it was made before any.
        seen: Contributors of the same vehicle id that came up, or showed that they live on, while this one was alive:
            where both have noted each other, two vehicles have the id.
        writer: Tells two changes apart that have the same sequence, as two copies of one state folder make them.
    """

    sequence: int
    totals: dict[str, Number]
    averages: dict[str, Number]
    left: tuple[Ancestor, ...] = ()
    reset: Stamp | None = None
    seen: tuple[str, ...] = ()
    writer: str = ""

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
        reset: When the statistics were last reset or corrected; only contributions made after it count.
        lineage: Former profiles: when they were, microseconds since the epoch, and their digests.
    """

    contributions: dict[str, Contribution] = field(default_factory=dict)
    registers: dict[str, Register] = field(default_factory=dict)
    metrics: dict[str, tuple[MetricReading, ...]] = field(default_factory=dict)
    created: ProfileTime | None = None
    updated: ProfileTime | None = None
    forgotten: int = 0
    reset: Stamp | None = None
    lineage: tuple[tuple[int, str], ...] = ()

    @property
    def counted(self) -> dict[str, Contribution]:
        """The contributions that were made since the last reset, by contributor."""
        parts = sorted(self.contributions.items())
        return {contributor: part for contributor, part in parts if part.reset == self.reset}

    @property
    def is_tombstone(self) -> bool:
        """Whether it says that the driver was forgotten, and nothing else."""
        return self.forgotten > 0 and self == ProfileState(forgotten=self.forgotten)


def join(one: ProfileState, other: ProfileState) -> ProfileState:
    """Merge two states: commutative, associative, idempotent, and neither is changed."""
    if one.forgotten != other.forgotten:
        return max(one, other, key=lambda state: state.forgotten)
    reset = max(one.reset, other.reset, key=reset_order)
    return ProfileState(
        contributions=_by_key(one.contributions, other.contributions, _join_contributions),
        registers=_by_key(one.registers, other.registers, lambda *both: max(both, key=_register_order)),
        metrics=_since(reset, _by_key(one.metrics, other.metrics, lambda a, b: newest((*a, *b)))),
        created=min(_given(one.created, other.created), key=_moment_order, default=None),
        updated=max(_given(one.updated, other.updated), key=_moment_order, default=None),
        forgotten=one.forgotten,
        reset=reset,
        lineage=tuple(sorted({*one.lineage, *other.lineage})[-MAX_LINEAGE:]),
    )


def reset_order(reset: Stamp | None) -> Stamp:
    """A key by which a later reset is greater, and none is the least."""
    return Stamp(-1, 0, "") if reset is None else reset


def contributor_of(vehicle: str, folder: str) -> str:
    """Name the contributor that one state folder of a vehicle is."""
    return f"{vehicle}{_FOLDER}{folder}"


def vehicle_of(contributor: str) -> str:
    """The vehicle id under which a contributor writes."""
    vehicle, separator, _ = contributor.rpartition(_FOLDER)
    return vehicle if separator else contributor


def namesakes(state: ProfileState, vehicle: str) -> set[str]:
    """The contributors that write under one vehicle id."""
    return {contributor for contributor in state.contributions if vehicle_of(contributor) == vehicle}


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


def total(state: ProfileState, name: str) -> Number | None:
    """The sum of what all vehicles contributed; the same in whatever order they came."""
    parts = [part.totals[name] for part in state.counted.values() if name in part.totals]
    if not parts:
        return None
    return sum(parts) if all(isinstance(part, int) for part in parts) else fsum(parts)


def average(state: ProfileState, name: str) -> Number | None:
    """The mean of all vehicles' parts, weighted by what they rest on."""
    parts = [(part.averages[name], part.weight) for part in state.counted.values() if name in part.averages]
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
    if one.reset != other.reset:
        return newer
    return replace(newer, totals=_by_key(one.totals, other.totals, lambda *both: max(both, key=_number_order)))


def _since(
    reset: Stamp | None, metrics: Mapping[str, tuple[MetricReading, ...]]
) -> dict[str, tuple[MetricReading, ...]]:
    """The readings since a reset; whoever reset kept those of its own that it stamped with it."""
    if reset is None:
        return dict(metrics)
    return {name: tuple(entry for entry in entries if entry.us >= reset.us) for name, entries in metrics.items()}


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


def _contribution_order(part: Contribution) -> tuple[Stamp, int, str]:
    # Equal numbers with unlike content come from two copies of a state folder; any order will do, if all agree on it.
    unlike = canonical([part.averages, part.left, part.seen, part.writer])
    return reset_order(part.reset), part.sequence, unlike
