"""From which of its former profiles does this vehicle's profile descend? Only what it adds to that one was driven here.

The vehicle's profile manager knows nothing of the sync: it reads the file, changes it, and writes it. Adding the file's
totals to what is known would count twice what came from other vehicles; adding the difference to the last profile that
the vehicle was left with does not. But was it left with it? The power may have gone before the file was replaced, the
manager may have written meanwhile, or write what it had in memory since before. So the last few profiles are
remembered, and the one that was about to be written is set apart until it is known to be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from sentinel_sync.profiles.rules.fields import Number, Reading, digest, read_profile
from sentinel_sync.profiles.rules.merge import (
    PLAIN,
    Base,
    Contribution,
    ProfileState,
    from_plain,
    join,
    plain_contributor,
    render,
)

#: So many of its own former profiles a vehicle remembers.
MAX_BASES = 8
#: A manager may round when it writes: a total that fell by no more than this has not fallen.
_ROUNDING = 0.5
#: Hex digits that tell one value of a field from another.
MARK_DIGITS = 12
#: The same for readings, of which there are many: a mix-up costs one reading.
READING_DIGITS = 6


@dataclass(frozen=True, slots=True)
class Known:
    """What one vehicle knows of one driver.

    Attributes:
        bases: Profiles that the vehicle had, oldest first; never merged, only this vehicle's.
        pending: The profile that it was about to be left with, or None.
        removed: What this vehicle's own clock said when it removed a forgotten profile of the driver (microseconds
            since the epoch), or None.
    """

    state: ProfileState
    bases: tuple[Base, ...] = ()
    pending: Base | None = None
    removed: int | None = None


@dataclass(frozen=True, slots=True)
class Cloud:
    """What the backend holds, opened.

    Attributes:
        state: In the form that merges.
        plain: The profile itself where it never met this sync, else None.
        own: True where only this vehicle's older module can have written it.
    """

    state: ProfileState
    plain: Mapping[str, Any] | None = None
    own: bool = False


def plain_cloud(profile: Mapping[str, Any], driver_id: str, *, own: bool) -> Cloud:
    """Take what the backend holds where it is a profile that never met this sync.

    Raises:
        ProfileError: It cannot be used.
    """
    return Cloud(from_plain(read_profile(profile, driver_id), plain_contributor(profile)), profile, own)


def first_known(cloud: Cloud, local: Mapping[str, Any] | None, vehicle: str) -> Known:
    """Begin with what the backend holds, where this vehicle knows nothing yet of the driver.

    Args:
        cloud: What the backend holds.
        local: This vehicle's profile, valid, or None.
        vehicle: This vehicle's id.
    """
    if cloud.plain is not None and cloud.own and local is not None:
        before, now = read_profile(cloud.plain, None), read_profile(local, None)
        if all(_reaches(now.totals.get(name, 0), value) for name, value in before.totals.items()):
            # The vehicle's own older copy: what it says is in the local profile already.
            return _counted(cloud.state, vehicle, base_of(before))
    mine = cloud.state.contributions.get(vehicle)
    if mine is not None:
        return Known(cloud.state, mine.left)
    if local is not None and _holds_copy(cloud, local):
        # A copy of what is there already.
        return _counted(cloud.state, vehicle, base_of(read_profile(local, None)))
    return Known(cloud.state)


def descent(known: Known, this: Base, vehicle: str) -> tuple[Base | None, bool]:
    """The former profile that this one descends from (None: none, it is new), and whether what it adds counts."""
    if vehicle not in known.state.contributions:
        # Nothing was counted here yet: the profile is this vehicle's own, unless it is what was downloaded.
        return (known.pending if known.pending is not None and _is_copy(known.pending, this) else None), True
    if known.pending is not None and known.bases[-1:] == (this,):
        return this, True  # the power went, or another vehicle was faster, before the file was replaced
    former = (*known.bases, *(() if known.pending is None else (known.pending,)))
    if this in former and this.updated is not None:
        return this, True
    for base in reversed(former):
        if all(_reaches(value, base.totals.get(name, 0)) for name, value in this.totals.items()):
            return base, True
    created = max((base.created for base in former if base.created is not None), default=None)
    if not former or (this.created is not None and created is not None and this.created > created):
        return None, True  # the driver was enrolled anew
    return former[-1], False  # an older copy was put back: its totals are counted already


def remembered(bases: tuple[Base, ...], base: Base) -> tuple[Base, ...]:
    """The former profiles with one more; the oldest goes where there are too many."""
    return bases if bases[-1:] == (base,) else (*bases, base)[-MAX_BASES:]


def base_of(reading: Reading) -> Base:
    """Reduce a profile to what tells whether another one descends from it."""
    return Base(
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


def _counted(state: ProfileState, vehicle: str, base: Base) -> Known:
    """Begin with a profile whose totals others brought in: this vehicle adds only what comes on top."""
    began = ProfileState(contributions={vehicle: Contribution(1, {}, {}, (base,))})
    return Known(join(state, began), (base,))


def _holds_copy(cloud: Cloud, local: Mapping[str, Any]) -> bool:
    """Whether a profile is there already: as it never met this sync, or as it was merged."""
    if any(contributor.startswith(PLAIN) for contributor in cloud.state.contributions):
        return plain_contributor(local) in cloud.state.contributions
    if cloud.plain is not None or not cloud.state.contributions:
        return False
    return local.keys() <= render(cloud.state).keys() and render(cloud.state, local) == local


def _is_copy(base: Base, this: Base) -> bool:
    return (
        this.created == base.created
        and all(base.marks.get(name) == mark for name, mark in this.marks.items())
        and all(_reaches(value, base.totals.get(name, 0)) for name, value in this.totals.items())
    )


def _reaches(value: Number, former: Number) -> bool:
    return value >= former - _ROUNDING
