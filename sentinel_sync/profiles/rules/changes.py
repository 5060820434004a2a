"""What has changed in this vehicle's profile since it was last looked at, brought into the state that merges."""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum, inf
from typing import Any

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.rules.descent import (
    MARK_DIGITS,
    READING_DIGITS,
    Cloud,
    Known,
    base_of,
    descent,
    first_known,
    remembered,
)
from sentinel_sync.profiles.rules.fields import (
    MAX_SCORE,
    Moment,
    Number,
    Reading,
    digest,
    in_form,
    read_profile,
)
from sentinel_sync.profiles.rules.merge import (
    Base,
    Contribution,
    Entry,
    ProfileState,
    Register,
    Stamp,
    average,
    join,
    newest,
    render,
)

#: Of a vehicle's former profiles, so many travel: what it had read, and what it was to be left with.
_LEFT = 2


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


def absorb(known: Known, reading: Reading, vehicle: str, now: int, *, is_true: bool = True) -> Known:
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


def settled(known: Known, left_with: Base, vehicle: str, before: ProfileState) -> Known:
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


def _not_after(moment: Moment, now: int) -> Moment:
    return moment if moment.us <= now else Moment(now, in_form(now, moment.raw))


def _of_this_generation(created: Moment, state: ProfileState) -> Moment:
    """What was begun after the forgetting says so on every vehicle, also where its own clock was behind."""
    earliest = state.forgotten + 1
    return created if created.us >= earliest else Moment(earliest, in_form(earliest, created.raw))


def _contribution(
    state: ProfileState, reading: Reading, base: Base | None, vehicle: str, *, counts: bool
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


def _own_part(state: ProfileState, grown: Contribution, vehicle: str, name: str, value: Number, base: Base) -> Number:
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
    state: ProfileState, reading: Reading, marks: Mapping[str, str], base: Base | None, stamp: Stamp
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
    state: ProfileState, reading: Reading, base: Base | None, at: int, vehicle: str
) -> dict[str, tuple[Entry, ...]]:
    found: dict[str, tuple[Entry, ...]] = {}
    for name, values in reading.metrics.items():
        marks = [digest(value, READING_DIGITS) for value in values]
        added = values[_overlap([] if base is None else base.readings.get(name, []), marks) :]
        first = 1 + max(
            (entry.number for entry in state.metrics.get(name, ()) if entry.contributor == vehicle), default=-1
        )
        fresh = (Entry(at, vehicle, index, value) for index, value in enumerate(added, first))
        found[name] = newest(fresh)
    return found


def _overlap(before: list[str], now: list[str]) -> int:
    """How many of the first readings are the last ones of `before`: what comes after them was appended since."""
    return next((size for size in range(min(len(before), len(now)), 0, -1) if before[-size:] == now[:size]), 0)
