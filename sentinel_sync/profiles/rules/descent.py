"""From which of its former profiles does this vehicle's profile descend? Only what it adds to that one was driven here.

The vehicle's profile manager knows nothing of the sync: it reads the file, changes it, and writes it. Adding the file's
totals to what is known would count twice what came from other vehicles; adding the difference to the last profile that
the vehicle was left with does not. But was it left with it? The power may have gone before the file was replaced, the
manager may have written meanwhile, or write what it had in memory since before. So the last few profiles are
remembered, and the one that was about to be written is set apart until it is known to be there.

Totals that fell were reset or corrected, or an older copy was put back. The manager's own last words tell which, where
it stamps them; where nothing tells, a person decides (docs/profiles.md has the table).
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from enum import StrEnum
from typing import NamedTuple

from sentinel_sync.profiles.rules.fields import Number, ParsedProfile, digest
from sentinel_sync.profiles.rules.merge import Ancestor, ProfileState, namesakes, vehicle_of

#: So many of its own former profiles a vehicle remembers.
MAX_BASES = 8
#: A manager may round when it writes: a total that fell by no more than this has not fallen.
_ROUNDING = 0.5
#: Hex digits that tell one value of a field from another.
MARK_DIGITS = 12
#: The same for readings, of which there are many: a mix-up costs one reading.
READING_DIGITS = 6
#: The same for whole profiles.
_PROFILE_DIGITS = 16
#: What is said of a profile of which nothing tells what its totals mean.
UNDECIDED = (
    "its totals are not what they were, and nothing tells whether they were reset, or go on from an older copy: nothing"
    " is changed until `profiles resolve DRIVER --keep local|fleet|sum` decides"
)


class Keep(StrEnum):
    """What a person decides where nothing tells what a profile's totals mean."""

    LOCAL = "local"
    FLEET = "fleet"
    SUM = "sum"


@dataclass(frozen=True, slots=True)
class Resolution:
    """A person's decision about one profile.

    Attributes:
        name: Tells it from any other decision: it is carried out once.
        keep: This vehicle's totals, everywhere; the fleet's; or both added up.
        of: The profile that was decided about; what was driven since counts. None where there was none.
    """

    name: str
    keep: Keep
    of: Ancestor | None = None


class PriorFolder(NamedTuple):
    """Another state folder of this vehicle's id, whose profile this one seems to go on from.

    Attributes:
        contributor: That folder's contributor.
        totals: What counts as that folder's own for as long as nothing shows that its vehicle is another one.
    """

    contributor: str
    totals: dict[str, Number]


@dataclass(frozen=True, slots=True)
class Known:
    """What one vehicle knows of one driver.

    Attributes:
        bases: Profiles that the vehicle had, oldest first; never merged, only this vehicle's.
        pending: The profile that it was about to be left with, or None.
        removed: What this vehicle's own clock said when it removed a forgotten profile of the driver (microseconds
            since the epoch), or None.
        contributor: Under which name this state folder contributes; the vehicle's id where that is empty.
        written: The last profile that the vehicle's manager wrote, and not the sync; None where that is not known.
        arrived: Totals of its own contribution that the backend is known to have.
        elders: Contributors of the same vehicle id that were there before this one.
        prior: The state folder that this one seems to be the heir of, or None.
        resolved: The decision of a person that was carried out last.
    """

    state: ProfileState
    bases: tuple[Ancestor, ...] = ()
    pending: Ancestor | None = None
    removed: int | None = None
    contributor: str = ""
    written: Ancestor | None = None
    arrived: dict[str, Number] | None = None
    elders: tuple[str, ...] = ()
    prior: PriorFolder | None = None
    resolved: str = ""

    @property
    def former(self) -> tuple[Ancestor, ...]:
        """The profiles that the vehicle had, and the one that it may have been left with, oldest first."""
        return (*self.bases, *(() if self.pending is None else (self.pending,)))


class Origin(StrEnum):
    """What a profile is to the ones before it."""

    CONTINUED = "goes on from one that the vehicle had"
    CONTINUED_OLDER = "goes on from an older one than the vehicle was last left with"
    NEW = "is the vehicle's own, and new"
    COPY = "was counted already"
    OLDER_COPY = "is an older copy that was put back: its totals were counted already"
    RESET = "was reset or corrected"
    UNDECIDED = "is behind what the vehicle was left with, and nothing tells why"


@dataclass(frozen=True, slots=True)
class Descent:
    """How a profile descends.

    Attributes:
        base: The former profile; None where there is none.
        counts: Whether what it adds to that one counts.
    """

    origin: Origin
    base: Ancestor | None
    counts: bool = True


def descent(known: Known, this: Ancestor, contributor: str, cloud: ProfileState) -> Descent:
    """Find the former profile that this one descends from.

    Args:
        known: What the vehicle knows.
        this: Its profile now.
        contributor: Under which name it contributes.
        cloud: What the backend holds.
    """
    pending, former = known.pending, known.former
    if contributor not in known.state.contributions:
        # Nothing was counted here yet: the profile is this vehicle's own, unless it is what was downloaded, or a copy.
        if pending is not None and _is_copy(pending, this):
            return Descent(Origin.NEW, pending)
        copied = is_of(this, (*known.state.lineage, *cloud.lineage))
        return Descent(Origin.COPY, this, counts=False) if copied else Descent(Origin.NEW, None)
    if pending is not None and known.bases[-1:] == (this,):
        return Descent(Origin.CONTINUED, this)  # the power went, or another was faster, before the file was replaced
    if this.updated is not None and this in former:
        return Descent(Origin.CONTINUED, this)
    younger = _left_by_younger(known, contributor, cloud)
    if this in younger or (_is_stamped_anew(this, former) and is_of(this, cloud.lineage)):
        return Descent(Origin.COPY, this)
    if any(reaches(this, left) for left in younger):
        # Another vehicle's, with this one's id? Or was this state put back, from before it was lost and begun anew?
        return _undecided(this)
    base = next((base for base in reversed(former) if reaches(this, base)), None)
    return _fallen(known, this) if base is None else _continued(known, this, base)


def _left_by_younger(known: Known, contributor: str, cloud: ProfileState) -> list[Ancestor]:
    """What state folders of the same vehicle id were left with that this one has not heard of yet."""
    mine = known.state.contributions.get(contributor)
    heard = {contributor, *known.elders, *(() if mine is None else mine.seen)}
    came = namesakes(cloud, vehicle_of(contributor)) - heard
    return [cloud.contributions[name].left[-1] for name in came if cloud.contributions[name].left]


def _is_stamped_anew(this: Ancestor, former: Sequence[Ancestor]) -> bool:
    """Whether a profile's own time tells it from all that could be driven here: not what was there, nor whole seconds.

    Two vehicles that are driven as far, by a manager that sets no time or one of whole seconds, write the same profile.
    """
    if this.updated is None or this.updated % 1_000_000 == 0:
        return False
    return all(base.updated != this.updated for base in former)


def _continued(known: Known, this: Ancestor, base: Ancestor) -> Descent:
    """It may go on from `base`: unless the manager itself was further on, or somebody else has reset meanwhile."""
    written, last = known.written, known.former[-1]
    further = written is None or reaches(this, written)
    if base != last and (known.pending is None or known.bases[-1:] != (base,)):
        has_read = _has_read(this, last, base)
        if not further or has_read:
            # What the manager has in memory is no older than what it wrote or read: it goes on from no older one.
            return _fallen(known, this)
        return _undecided(base) if has_read is None else Descent(Origin.CONTINUED_OLDER, base)
    if written is not None and further and not reaches(base, written):
        # Reset elsewhere, and as far on as before the reset: does the manager know of it?
        return Descent(Origin.CONTINUED, base) if _has_read(this, base, written) else _undecided(base)
    return Descent(Origin.CONTINUED, base)


def _undecided(base: Ancestor) -> Descent:
    return Descent(Origin.UNDECIDED, base, counts=False)


def _has_read(this: Ancestor, last: Ancestor, base: Ancestor) -> bool | None:
    """Whether the manager has read what the vehicle was last left with, or goes on from before; None: nothing tells.

    Whatever the two differ in, besides the totals, tells it.
    """
    told = set[bool]()
    pairs: tuple[tuple[Mapping[str, object], Mapping[str, object], Mapping[str, object]], ...] = (
        (this.marks, last.marks, base.marks),
        (this.averages, last.averages, base.averages),
    )
    for now, after, before in pairs:
        for name in now.keys() & after.keys() & before.keys():
            # A manager may well come to the average of before once more, and hardly to what came from elsewhere.
            read, kept = now[name] == after[name], now[name] == before[name] and now is this.marks
            if after[name] != before[name] and (read or kept):
                told.add(read)
    for name, readings in last.readings.items():
        came = set(readings) - set(base.readings.get(name, ()))
        if came and this.readings.get(name):
            told.add(bool(came & set(this.readings[name])))
    return told.pop() if len(told) == 1 else None


def _fallen(known: Known, this: Ancestor) -> Descent:
    """Its totals fell below what the manager itself had written."""
    former = known.former
    created = max((base.created for base in former if base.created is not None), default=None)
    if not former or (this.created is not None and created is not None and this.created > created):
        return Descent(Origin.NEW, None)  # the driver was enrolled anew
    last = known.written or former[-1]
    older = this.updated is not None and last.updated is not None and this.updated < last.updated
    if (older and any(this.totals.values())) or (
        this.created is not None and created is not None and this.created < created
    ):
        return Descent(Origin.OLDER_COPY, former[-1], counts=False)
    same = this.created == last.created and (
        this.created is not None or any(base.marks == this.marks for base in (*former, last))
    )
    later = (
        this.updated is not None
        and last.updated is not None
        and this.updated > last.updated
        and all(base.updated != this.updated for base in former)  # or somebody changed the numbers only
    )
    if same and (later or (not older and not any(this.totals.values()))) and not _lacks_readings(this, last):
        return Descent(Origin.RESET, last)
    return _undecided(last)


def _lacks_readings(this: Ancestor, last: Ancestor) -> bool:
    """Whether a profile has readings of before, and not the last of them: then it goes on from an older copy."""
    for name, readings in this.readings.items():
        before = last.readings.get(name)
        if before and before[-1] not in readings and not set(before).isdisjoint(readings):
            return True
    return False


def remembered(bases: tuple[Ancestor, ...], base: Ancestor) -> tuple[Ancestor, ...]:
    """The former profiles with one more; the oldest goes where there are too many."""
    return bases if bases[-1:] == (base,) else (*bases, base)[-MAX_BASES:]


def base_of(reading: ParsedProfile) -> Ancestor:
    """Reduce a profile to what tells whether another one descends from it."""
    return Ancestor(
        totals=reading.totals,
        averages=reading.averages,
        marks={name: digest(value, MARK_DIGITS) for name, value in reading.latest.items()},
        readings={
            name: [digest(value, READING_DIGITS) for value in values] for name, values in reading.metrics.items()
        },
        created=None if reading.created is None else reading.created.us,
        updated=None if reading.updated is None else reading.updated.us,
    )


def confirmed(known: Known) -> Known:
    """The vehicle is left with the profile that it was about to be left with."""
    if known.pending is None:
        return known
    return replace(known, bases=remembered(known.bases, known.pending), pending=None)


def dropped(known: Known) -> Known:
    """The profile changed meanwhile: the vehicle was not left with the one that was pending."""
    return replace(known, pending=None)


def profile_digest(base: Ancestor) -> str:
    """Name a profile by its content: the same in every vehicle that has a copy of it."""
    return digest(list(base), _PROFILE_DIGITS)


def is_of(this: Ancestor, lineage: Sequence[tuple[int, str]]) -> bool:
    """Whether a profile is one of these; without a time of its own, two profiles may be the same by chance."""
    return this.updated is not None and profile_digest(this) in {name for _, name in lineage}


def reaches(this: Ancestor, base: Ancestor) -> bool:
    """Whether a profile's totals are at least those of another one."""
    return all(reaches_number(value, base.totals.get(name, 0)) for name, value in this.totals.items())


def reaches_number(value: Number, former: Number) -> bool:
    """Whether a total is at least another one, but for rounding."""
    return value >= former - _ROUNDING


def overlap(before: Sequence[str], now: Sequence[str]) -> int:
    """How many of the first readings are the last ones of `before`: what comes after them was appended since."""
    return next((size for size in range(min(len(before), len(now)), 0, -1) if before[-size:] == now[:size]), 0)


def added(this: Ancestor, base: Ancestor | None) -> dict[str, Number]:
    """What a profile's totals are beyond another one's."""
    before = {} if base is None else base.totals
    return {name: max(0, value - before.get(name, 0)) for name, value in this.totals.items()}


def _is_copy(base: Ancestor, this: Ancestor) -> bool:
    return (
        this.created == base.created
        and all(base.marks.get(name) == mark for name, mark in this.marks.items())
        and reaches(this, base)
    )
