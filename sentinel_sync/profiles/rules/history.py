"""From which of its former profiles does this vehicle's profile descend? Only what it adds to that one was driven here.

The vehicle's profile manager knows nothing of the sync: it reads the file, changes it, and writes it. Adding the file's
totals to what is known would count twice what came from other vehicles; adding the difference to the last profile that
the vehicle was left with does not. But was it left with it? The power may have gone before the file was replaced, the
manager may have written meanwhile, or write what it had in memory since before. So the last few profiles are
remembered, and the one that was about to be written is set apart until it is known to be there.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum, inf
from typing import Any

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.rules.merge import (
    MAX_SCORE,
    PLAIN,
    Ancestor,
    Contribution,
    MetricReading,
    Number,
    ParsedProfile,
    ProfileState,
    ProfileTime,
    Register,
    Stamp,
    average,
    digest,
    from_plain,
    in_form,
    join,
    newest,
    plain_contributor,
    read_profile,
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
#: Of a vehicle's former profiles, so many travel: what it had read, and what it was to be left with.
_LEFT = 2


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
    bases: tuple[Ancestor, ...] = ()
    pending: Ancestor | None = None
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


def descent(known: Known, this: Ancestor, vehicle: str) -> tuple[Ancestor | None, bool]:
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


def _counted(state: ProfileState, vehicle: str, base: Ancestor) -> Known:
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


def _is_copy(base: Ancestor, this: Ancestor) -> bool:
    return (
        this.created == base.created
        and all(base.marks.get(name) == mark for name, mark in this.marks.items())
        and all(_reaches(value, base.totals.get(name, 0)) for name, value in this.totals.items())
    )


def _reaches(value: Number, former: Number) -> bool:
    return value >= former - _ROUNDING


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of merging.

    Attributes:
        known: What this vehicle knows now; to be stored before anything is sent or written.
        profile: The merged profile: the local one's fields first, in its form, then what only others have.
    """

    known: Known
    profile: dict[str, Any]


def merge(
    known: Known | None,
    cloud: Cloud | None,
    local: Mapping[str, Any],
    *,
    driver_id: str,
    vehicle: str,
    now: int,
    is_true: bool = True,
    keeps_local: bool = False,
) -> Merged:
    """Merge this vehicle's profile with what the backend holds.

    Args:
        known: What this vehicle knows; None where it knows nothing of the driver.
        cloud: What the backend holds; None where it holds nothing, or nothing new.
        local: This vehicle's profile.
        driver_id: Whose.
        vehicle: This vehicle's id.
        now: Wall time, microseconds since the epoch.
        is_true: Whether that is the true time: then no `last_updated` counts as later.
        keeps_local: True where the vehicle stays with `local` and is not left with the merged profile.

    Raises:
        ProfileError: The local profile cannot be used, or the backend's lost its merge state.
    """
    reading = read_profile(local, driver_id)
    if known is None:
        start = first_known(cloud or Cloud(ProfileState()), local, vehicle)
        grown = absorb(start, reading, vehicle, now, is_true=is_true)
    else:
        _refuse_plain(cloud)
        # First what was changed here, then what came from elsewhere: nobody here knew of that when it was changed.
        start = known
        grown = absorb(start, reading, vehicle, now, is_true=is_true)
        if cloud is not None:
            grown = replace(grown, state=join(grown.state, cloud.state))
    profile = render(grown.state, local)
    kept = dict(local) if keeps_local else {name: profile[name] for name in local}
    left = grown.bases[-1] if kept == dict(local) else base_of(read_profile(kept, None))
    return Merged(settled(grown, left, vehicle, start.state), profile)


def taken_in(known: Known | None, cloud: Cloud | None) -> Merged:
    """Merge what this vehicle knows of a driver whose profile it has no more with what the backend holds.

    Raises:
        ProfileError: The backend's copy lost its merge state.
    """
    start = known or Known(ProfileState())
    if known is not None:
        _refuse_plain(cloud)
    grown = start if cloud is None else replace(start, state=join(start.state, cloud.state))
    return Merged(grown, render(grown.state))


def absorb(known: Known, reading: ParsedProfile, vehicle: str, now: int, *, is_true: bool = True) -> Known:
    """Bring this vehicle's profile in: only what it adds to the one it descends from counts."""
    seen = base_of(reading)
    base, counts = descent(known, seen, vehicle)
    if base == seen and counts and vehicle in known.state.contributions:
        return replace(known, bases=remembered(known.bases, seen), pending=None)
    # A clock that is years behind must not turn back what was written when it was right.
    updated = _not_after(reading.updated, now) if reading.updated is not None and is_true else reading.updated
    at = updated.us if updated is not None else 0 if base is None else now
    state = known.state
    fresh = ProfileState(
        contributions=_contribution(state, reading, base, vehicle, counts=counts),
        registers=_registers(state, reading, seen.marks, base, Stamp(at, 1, vehicle)),
        metrics=_metrics(state, reading, base, at, vehicle),
        created=None if reading.created is None else _of_this_generation(reading.created, state),
        updated=updated,
        forgotten=state.forgotten,
    )
    bases = known.bases if base is None or base != known.pending else remembered(known.bases, base)
    return replace(known, state=join(state, fresh), bases=remembered(bases, seen), pending=None)


def settled(known: Known, left_with: Ancestor, vehicle: str, before: ProfileState) -> Known:
    """Note the profile that this vehicle is about to be left with.

    Args:
        known: What is known, all merged.
        left_with: What the vehicle will be left with.
        vehicle: This vehicle's id.
        before: The state before this vehicle's profile was brought in.
    """
    pending = None if known.bases[-1:] == (left_with,) else left_with
    state, mine, was = known.state, known.state.contributions.get(vehicle), before.contributions.get(vehicle)
    if mine is not None and (was is None or was.sequence != mine.sequence):
        # Only with a contribution of its own, else each vehicle's look would be a change for all the others.
        left = replace(mine, left=(*known.bases, *(() if pending is None else (pending,)))[-_LEFT:])
        state = replace(state, contributions={**state.contributions, vehicle: left})
    return replace(known, state=state, pending=pending)


def _refuse_plain(cloud: Cloud | None) -> None:
    if cloud is not None and cloud.plain is not None:
        raise ProfileError(
            "the backend's copy was replaced by one without merge state, by an older module perhaps: merging it"
            " could count twice, so nothing was changed; update the vehicle that wrote it"
        )


def _not_after(moment: ProfileTime, now: int) -> ProfileTime:
    return moment if moment.us <= now else ProfileTime(now, in_form(now, moment.raw))


def _of_this_generation(created: ProfileTime, state: ProfileState) -> ProfileTime:
    """What was begun after the forgetting says so on every vehicle, also where its own clock was behind."""
    earliest = state.forgotten + 1
    return created if created.us >= earliest else ProfileTime(earliest, in_form(earliest, created.raw))


def _contribution(
    state: ProfileState, reading: ParsedProfile, base: Ancestor | None, vehicle: str, *, counts: bool
) -> dict[str, Contribution]:
    mine = state.contributions.get(vehicle, Contribution(0, {}, {}))
    before: Mapping[str, Number] = {} if base is None else base.totals
    added = {name: max(0, value - before.get(name, 0)) if counts else 0 for name, value in reading.totals.items()}
    totals = mine.totals | {
        name: mine.totals.get(name, 0) + more for name, more in added.items() if more or base is None
    }
    moved = {
        name: value
        for name, value in reading.averages.items()
        if base is None or value != base.averages.get(name) or any(added.values())
    }
    grown = Contribution(mine.sequence + 1, totals, mine.averages, mine.left)
    averages = mine.averages | {
        name: value if base is None else _own_part(state, grown, vehicle, name, value, base)
        for name, value in moved.items()
    }
    if vehicle in state.contributions and totals == mine.totals and averages == mine.averages:
        return {}
    return {vehicle: replace(grown, averages=averages)}


def _own_part(
    state: ProfileState, grown: Contribution, vehicle: str, name: str, value: Number, base: Ancestor
) -> Number:
    """This vehicle's part of an average, such that the average moves by as much as the vehicle moved it."""
    former = base.averages.get(name)
    shown = average(state, name)
    target = value if former is None or shown is None or shown == former else shown + (value - former)
    others = [
        (part.averages[name], part.weight)
        for contributor, part in sorted(state.contributions.items())
        if contributor != vehicle and name in part.averages
    ]
    own = target
    if others:
        whole = fsum([grown.weight, *(weight for _, weight in others)])
        own = (target * whole - fsum(part * weight for part, weight in others)) / grown.weight
    # A moving average can move further than one vehicle's part can carry; no part leaves the range of its kind.
    highest = max(MAX_SCORE, value) if name.endswith("_score") else inf
    return min(max(own, min(0, value)), highest)


def _registers(
    state: ProfileState, reading: ParsedProfile, marks: Mapping[str, str], base: Ancestor | None, stamp: Stamp
) -> dict[str, Register]:
    changed: dict[str, Register] = {}
    for name, value in reading.latest.items():
        known = state.registers.get(name)
        if base is not None and base.marks.get(name) == marks[name]:
            continue
        if known is not None and digest(known.value, MARK_DIGITS) == marks[name]:
            continue
        if known is None or base is None:
            changed[name] = Register(stamp, value)
        elif stamp.us > known.stamp.us:
            changed[name] = Register(stamp._replace(counter=0), value)
        else:
            # Changed knowing the other value, so later than it, whatever the clocks say.
            changed[name] = Register(Stamp(known.stamp.us, known.stamp.counter + 1, stamp.contributor), value)
    return changed


def _metrics(
    state: ProfileState, reading: ParsedProfile, base: Ancestor | None, at: int, vehicle: str
) -> dict[str, tuple[MetricReading, ...]]:
    found: dict[str, tuple[MetricReading, ...]] = {}
    for name, values in reading.metrics.items():
        marks = [digest(value, READING_DIGITS) for value in values]
        added = values[_overlap([] if base is None else base.readings.get(name, []), marks) :]
        first = 1 + max(
            (entry.number for entry in state.metrics.get(name, ()) if entry.contributor == vehicle), default=-1
        )
        fresh = (MetricReading(at, vehicle, index, value) for index, value in enumerate(added, first))
        found[name] = newest(fresh)
    return found


def _overlap(before: list[str], now: list[str]) -> int:
    """How many of the first readings are the last ones of `before`: what comes after them was appended since."""
    return next((size for size in range(min(len(before), len(now)), 0, -1) if before[-size:] == now[:size]), 0)
