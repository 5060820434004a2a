"""Brings this vehicle's profile in, and joins what came from elsewhere: one merge, as `merge()` does it.

What it adds to a former one was driven here (`descent`), under the name of this state folder (`state_folders`). Totals
that were reset or corrected begin anew: what they are set to is the first contribution after the reset, and what was
driven elsewhere before it, and not known then, is part of what was reset.
"""

from collections.abc import Mapping
from dataclasses import dataclass, replace
from math import fsum, inf
from typing import Any

from sentinel_sync.base.errors import ProfileError, UndecidedProfileError
from sentinel_sync.profiles.rules.descent import (
    MARK_DIGITS,
    READING_DIGITS,
    UNDECIDED,
    Descent,
    Keep,
    Known,
    Origin,
    Resolution,
    added,
    base_of,
    descent,
    overlap,
    profile_digest,
    reaches,
    remembered,
)
from sentinel_sync.profiles.rules.fields import (
    MAX_SCORE,
    Number,
    ParsedProfile,
    ProfileTime,
    digest,
    in_form,
    read_profile,
)
from sentinel_sync.profiles.rules.merge import (
    MAX_LINEAGE,
    Ancestor,
    Contribution,
    MetricReading,
    ProfileState,
    Register,
    Stamp,
    average,
    join,
    newest,
    render,
    reset_order,
)
from sentinel_sync.profiles.rules.state_folders import Cloud, acknowledged, begun, name_of, renamed


@dataclass(frozen=True, slots=True)
class MergeInput:
    """What a merge is told besides the profiles.

    Attributes:
        driver_id: Whose.
        vehicle: This vehicle's id.
        now: Wall time, microseconds since the epoch.
        token: Any text that was never given before: it marks what changes, and names a new state folder.
        ahead: By how much the vehicle's own clock is known to be ahead, microseconds.
        is_true: Whether `now` is the true time: then no `last_updated` counts as later.
        keeps_local: True where the vehicle stays with its profile and is not left with the merged one.
        resolution: What a person decided, or None.
    """

    driver_id: str
    vehicle: str
    now: int
    token: str
    ahead: int = 0
    is_true: bool = True
    keeps_local: bool = False
    resolution: Resolution | None = None


@dataclass(frozen=True, slots=True)
class Merged:
    """What came of merging.

    Attributes:
        known: What this vehicle knows once the backend has it all.
        before: The same for as long as the backend has not: to be stored before anything is sent.
        profile: The merged profile: the local one's fields first, in its form, then what only others have.
        origin: What the local profile was to the ones before it; None where there is none.
    """

    known: Known
    before: Known
    profile: dict[str, Any]
    origin: Origin | None = None


def merge(known: Known | None, cloud: Cloud | None, local: Mapping[str, Any], told: MergeInput) -> Merged:
    """Merge this vehicle's profile with what the backend holds.

    Args:
        known: What this vehicle knows; None where it knows nothing of the driver.
        cloud: What the backend holds; None where it holds nothing, or nothing new.
        local: This vehicle's profile.
        told: All else.

    Raises:
        UndecidedProfileError: Nothing tells what the local totals mean.
        ProfileError: The local profile cannot be used, or the backend's lost its merge state.
    """
    reading, vehicle = read_profile(local, told.driver_id), told.vehicle
    theirs = cloud or Cloud(ProfileState())
    if known is None:
        start = begun(theirs, local, vehicle, told.token)
    else:
        _refuse_plain(cloud)
        start = renamed(known, theirs.state, reading, vehicle, told.token)
        if name_of(start, vehicle) not in start.state.contributions and not start.former:
            # It knew of the driver, but had no profile until now.
            both = replace(theirs, state=join(start.state, theirs.state))
            again = begun(both, local, vehicle, told.token)
            start = replace(again, removed=start.removed, resolved=start.resolved)
    # First what was changed here, then what came from elsewhere: nobody here knew of that when it was changed.
    grown, origin = absorb(start, reading, told, theirs.state)
    grown = acknowledged(_joined(grown, theirs.state, reading, told), vehicle, told.token)
    profile = render(grown.state, local)
    kept = dict(local) if told.keeps_local else {name: profile[name] for name in local}
    left = grown.bases[-1] if kept == dict(local) else base_of(read_profile(kept, None))
    after = _settled(grown, left, told, start.state)
    mine = after.state.contributions.get(name_of(after, vehicle))
    arrived = theirs.state.contributions.get(name_of(after, vehicle))
    before = replace(after, pending=None, arrived=start.arrived if arrived is None else arrived.totals)
    return Merged(replace(after, arrived=None if mine is None else mine.totals), before, profile, origin)


def taken_in(known: Known | None, cloud: Cloud | None, vehicle: str, token: str) -> Merged:
    """Merge what this vehicle knows of a driver whose profile it has no more with what the backend holds.

    Raises:
        ProfileError: The backend's copy lost its merge state.
    """
    if known is None:
        start = begun(cloud or Cloud(ProfileState()), None, vehicle, token)
    else:
        start = known
        _refuse_plain(cloud)
    grown = start if cloud is None else replace(start, state=join(start.state, cloud.state))
    return Merged(grown, replace(grown, pending=None), render(grown.state))


def absorb(known: Known, reading: ParsedProfile, told: MergeInput, cloud: ProfileState) -> tuple[Known, Origin]:
    """Bring this vehicle's profile in: only what it adds to the one it descends from counts.

    Raises:
        UndecidedProfileError: Nothing tells what its totals mean.
    """
    name, seen, state = name_of(known, told.vehicle), base_of(reading), known.state
    found = _decided(known, descent(known, seen, name, cloud), seen, told.resolution)
    if told.resolution is not None:
        known = replace(known, resolved=told.resolution.name)
    base, resets = found.base, found.origin is Origin.RESET
    if base == seen and found.counts and name in state.contributions and not resets:
        return replace(known, bases=remembered(known.bases, seen), pending=None), found.origin
    # A clock that is years behind must not turn back what was written when it was right.
    updated = _not_after(reading.updated, told.now) if reading.updated is not None and told.is_true else reading.updated
    at = updated.us if updated is not None else 0 if base is None else told.now
    counts = found.counts and (base is not None or _is_after(seen, state.reset, told))
    registers = _registers(state, reading, seen.marks, base, Stamp(at, 1, name))
    if resets:
        # The file's totals are all there is: whatever else was counted, here or elsewhere, was before it.
        state, base, counts = replace(state, reset=_later(state.reset, at - told.ahead, name)), None, True
        zeros: dict[str, Number] = {total: 0 for part in state.contributions.values() for total in part.totals}
        reading, known = replace(reading, totals=zeros | reading.totals), replace(known, prior=None)
    fresh = ProfileState(
        contributions=_contribution(state, reading, base, name, told.token, counts=counts),
        registers=registers,
        metrics=_metrics(state, reading, base, max(at - told.ahead, reset_order(state.reset).us), name),
        created=None if reading.created is None else _of_this_generation(reading.created, state),
        updated=updated,
        forgotten=state.forgotten,
        reset=state.reset,
        lineage=((at, profile_digest(seen)),),
    )
    bases = known.bases if base is None or base != known.pending else remembered(known.bases, base)
    grown = replace(known, state=join(state, fresh), bases=remembered(bases, seen), pending=None, written=seen)
    return grown, found.origin


def _decided(known: Known, found: Descent, this: Ancestor, resolution: Resolution | None) -> Descent:
    """How a profile descends, by what a person said where that is undecided."""
    if resolution is None or resolution.name == known.resolved:
        if found.origin is Origin.UNDECIDED:
            raise UndecidedProfileError(UNDECIDED)
        return found
    if resolution.keep is Keep.LOCAL:
        return Descent(Origin.RESET, this)
    if found.origin is not Origin.UNDECIDED:
        return found  # there is nothing to decide any more
    if resolution.keep is Keep.SUM:
        return Descent(Origin.NEW, None)
    then = resolution.of
    return Descent(Origin.COPY, this if then is None or not reaches(this, then) else then)


def _later(reset: Stamp | None, at: int, name: str) -> Stamp:
    """The stamp of a reset made knowing of another one: later than it, whatever the clocks say."""
    before = reset_order(reset)
    return Stamp(at, 0, name) if at > before.us else Stamp(before.us, before.counter + 1, name)


def _joined(known: Known, cloud: ProfileState, reading: ParsedProfile, told: MergeInput) -> Known:
    """Join what came from elsewhere; what was driven here after a reset that came counts, what was before does not."""
    state, name = join(known.state, cloud), name_of(known, told.vehicle)
    mine, arrived = known.state.contributions.get(name), cloud.contributions.get(name)
    if state.reset == known.state.reset or mine is None or state.forgotten != known.state.forgotten:
        return replace(known, state=state)
    sent = arrived.totals if arrived is not None and arrived.reset == mine.reset else {}
    unsent = {total: value - sent.get(total, 0) for total, value in mine.totals.items() if value > sent.get(total, 0)}
    known = replace(known, state=state, prior=None)
    if not unsent or not _is_after(base_of(reading), state.reset, told):
        return known
    part = replace(
        mine, sequence=mine.sequence + 1, totals=unsent, averages=mine.averages, reset=state.reset, writer=told.token
    )
    return replace(known, state=replace(state, contributions={**state.contributions, name: part}))


def _is_after(this: Ancestor, reset: Stamp | None, told: MergeInput) -> bool:
    """Whether a profile was written after a reset; where it does not say when, what it adds is not lost."""
    return reset is None or this.updated is None or this.updated - told.ahead > reset.us


def _settled(known: Known, left_with: Ancestor, told: MergeInput, before: ProfileState) -> Known:
    """Note the profile that this vehicle is about to be left with, also for whoever finds its own state lost.

    Args:
        known: What is known, all merged.
        left_with: What the vehicle will be left with.
        told: All else.
        before: The state before this vehicle's profile was brought in.
    """
    name = name_of(known, told.vehicle)
    pending = None if known.bases[-1:] == (left_with,) else left_with
    state, mine, was = known.state, known.state.contributions.get(name), before.contributions.get(name)
    if mine is None:
        return replace(known, pending=pending)
    changed = was is None or was.sequence != mine.sequence
    # What others drove is in this vehicle's file from now on: whoever has lost the state must know that it is.
    arrives = pending is not None and mine.left[-1:] != (pending,)
    if changed or arrives:
        written = known.written or known.bases[-1]
        left = (written,) if written == left_with else (written, left_with)
        sequence = mine.sequence if changed else mine.sequence + 1
        noted = replace(mine, sequence=sequence, left=left, writer=mine.writer if changed else told.token)
        lineage = {*state.lineage, *(() if pending is None else ((pending.updated or 0, profile_digest(pending)),))}
        newest_lineage = tuple(sorted(lineage)[-MAX_LINEAGE:])
        state = replace(state, contributions={**state.contributions, name: noted}, lineage=newest_lineage)
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
    state: ProfileState, reading: ParsedProfile, base: Ancestor | None, name: str, token: str, *, counts: bool
) -> dict[str, Contribution]:
    mine = state.contributions.get(name, Contribution(0, {}, {}, reset=state.reset))
    if mine.reset != state.reset:
        mine = replace(mine, totals={}, averages={}, reset=state.reset)  # the first one since the reset
    more = added(base_of(reading), base) if counts else dict.fromkeys(reading.totals, 0)
    totals = mine.totals | {
        total: mine.totals.get(total, 0) + value for total, value in more.items() if value or base is None
    }
    moved = {
        field: value
        for field, value in reading.averages.items()
        if base is None or value != base.averages.get(field) or any(more.values())
    }
    grown = replace(mine, sequence=mine.sequence + 1, totals=totals, writer=token)
    averages = mine.averages | {
        field: value if base is None else _own_part(state, grown, name, field, value, base)
        for field, value in moved.items()
    }
    if name in state.contributions and totals == mine.totals and averages == mine.averages:
        return {}
    return {name: replace(grown, averages=averages)}


def _own_part(
    state: ProfileState, grown: Contribution, contributed: str, name: str, value: Number, base: Ancestor
) -> Number:
    """This vehicle's part of an average, such that the average moves by as much as the vehicle moved it."""
    former = base.averages.get(name)
    shown = average(state, name)
    target = value if former is None or shown is None or shown == former else shown + (value - former)
    others = [
        (part.averages[name], part.weight)
        for contributor, part in state.counted.items()
        if contributor != contributed and name in part.averages
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
    state: ProfileState, reading: ParsedProfile, base: Ancestor | None, at: int, contributor: str
) -> dict[str, tuple[MetricReading, ...]]:
    found: dict[str, tuple[MetricReading, ...]] = {}
    for name, values in reading.metrics.items():
        marks = [digest(value, READING_DIGITS) for value in values]
        added = values[overlap([] if base is None else base.readings.get(name, []), marks) :]
        first = 1 + max(
            (entry.number for entry in state.metrics.get(name, ()) if entry.contributor == contributor), default=-1
        )
        fresh = (MetricReading(at, contributor, index, value) for index, value in enumerate(added, first))
        found[name] = newest(fresh)
    return found
