"""A state folder that is new, lost, put back from a backup, or copied: under which name it contributes, from where on.

Two agents that changed one contribution would each take the other's part for its own past. So each state folder
contributes under a name of its own, and a folder that finds a contribution under its name which it did not make (it was
put back, or copied to another vehicle) takes a new one.

A new name goes on from what the former one left. Was that one lost, or does another vehicle live on with the same
vehicle id? Whoever lives on answers: it notes each new name of its vehicle's that it sees (`Contribution.seen`). Until
then the smaller sum counts, so that nothing counts twice; with the answer, the rest is added.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from typing import Any

from sentinel_sync.profiles.rules.descent import (
    Known,
    PriorFolder,
    added,
    base_of,
    descent,
    is_of,
    reaches,
    reaches_number,
)
from sentinel_sync.profiles.rules.fields import Number, ParsedProfile, digest, read_profile
from sentinel_sync.profiles.rules.merge import (
    PLAIN,
    Ancestor,
    Contribution,
    ProfileState,
    Stamp,
    contributor_of,
    from_plain,
    join,
    namesakes,
    render,
    reset_order,
    vehicle_of,
)

#: So many readings are not the same by chance.
_TELLING_READINGS = 3


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


def plain_contributor(profile: Mapping[str, Any]) -> str:
    """Name the part that a profile which never met this sync brings in: the same on every vehicle that reads it."""
    return f"{PLAIN}{digest(profile, 16)}"


def name_of(known: Known, vehicle: str) -> str:
    """Under which name a state folder contributes."""
    return known.contributor or vehicle


def begun(cloud: Cloud, local: Mapping[str, Any] | None, vehicle: str, token: str) -> Known:
    """Begin with what the backend holds, where this state folder knows nothing yet of the driver.

    Args:
        cloud: What the backend holds.
        local: This vehicle's profile, valid, or None.
        vehicle: This vehicle's id.
        token: Names the state folder.
    """
    elders = tuple(sorted(namesakes(cloud.state, vehicle)))
    known = Known(cloud.state, contributor=contributor_of(vehicle, token), elders=elders)
    if local is None:
        return known
    this = base_of(read_profile(local, None))
    if cloud.plain is not None and cloud.own:
        before = read_profile(cloud.plain, None)
        if all(reaches_number(this.totals.get(name, 0), value) for name, value in before.totals.items()):
            # The vehicle's own older copy: what it says is in the local profile already.
            return _counted(known, (base_of(before),))
    left = {name: cloud.state.contributions[name].left for name in elders if cloud.state.contributions[name].left}
    for bases in left.values():
        if this in bases:
            return _counted(replace(known, written=bases[0]), bases)
    if _holds_copy(cloud, local) or is_of(this, cloud.state.lineage):
        return _counted(known, (this,))
    if left:
        return _heir(known, this, left)
    copied = [base for part in cloud.state.contributions.values() for base in part.left if _goes_on_from(this, base)]
    return _counted(known, (max(copied, key=lambda base: sum(base.totals.values())),)) if copied else known


def _heir(known: Known, this: Ancestor, left: Mapping[str, Sequence[Ancestor]]) -> Known:
    """Go on from what a former state folder of this vehicle's left, until that one shows that it lives on."""
    parts = known.state.contributions
    found = _farthest(this, {name: bases[-1] for name, bases in left.items()}, known.state)
    if found is None:  # was the file not replaced any more?
        found = _farthest(this, {name: bases[0] for name, bases in left.items()}, known.state)
    if found is None:
        # Less than was left: an older copy, or another vehicle's own.
        latest = max(left, key=lambda name: (parts[name].sequence, name))
        return replace(_counted(known, (this,)), prior=PriorFolder(latest, dict(this.totals)))
    name, base = found
    shared = {total: min(value, base.totals.get(total, 0)) for total, value in this.totals.items()}
    heir = _counted(replace(known, written=left[name][0]), (base,))
    return replace(heir, prior=PriorFolder(name, shared))


def renamed(known: Known, cloud: ProfileState, reading: ParsedProfile, vehicle: str, token: str) -> Known:
    """Take a new name where somebody else has contributed under this state folder's.

    Args:
        known: What this state folder knows.
        cloud: What the backend holds.
        reading: This vehicle's profile.
        vehicle: This vehicle's id.
        token: Names the state folder from now on, where that is needed.
    """
    name = name_of(known, vehicle)
    mine, theirs = known.state.contributions.get(name), cloud.contributions.get(name)
    if theirs is None or (mine is not None and (theirs.sequence < mine.sequence or theirs == mine)):
        return known
    this, own = base_of(reading), descent(known, base_of(reading), name, ProfileState())
    others = {other: part for other, part in known.state.contributions.items() if other != name}
    state = join(replace(known.state, contributions=others), cloud)
    unsent = _unsent(mine, state, known.arrived)
    fresh = Known(
        state,
        known.bases,
        known.pending,
        known.removed,
        contributor_of(vehicle, token),
        known.written,
        elders=tuple(sorted(namesakes(state, vehicle))),
        resolved=known.resolved,
    )
    if own.base == this:
        return _counted(fresh, fresh.bases, unsent)
    apart = {*known.elders, *(() if mine is None else mine.seen)}
    left = {other: state.contributions[other].left for other in fresh.elders if other not in apart}
    left = {other: bases for other, bases in left.items() if bases}
    for bases in left.values():
        if this in bases:
            return _counted(replace(fresh, pending=None, written=bases[0]), (this,))
    if is_of(this, cloud.lineage):
        return _counted(replace(fresh, pending=None, written=this), (this,))
    found = _farthest(this, {other: bases[-1] for other, bases in left.items()}, state)
    if found is None:
        return _counted(fresh, fresh.bases, unsent)
    # Put back from a backup, or a copy that was driven on as far: the smaller sum, until the other one answers.
    other, base = found
    more, less = added(this, own.base) if own.counts else {}, added(this, base)
    prior = {total: max(0, more.get(total, 0) + unsent.get(total, 0) - value) for total, value in less.items()}
    heir = _counted(replace(fresh, pending=None, written=left[other][0]), (base,))
    return replace(heir, prior=PriorFolder(other, prior))


def _farthest(this: Ancestor, left: Mapping[str, Ancestor], state: ProfileState) -> tuple[str, Ancestor] | None:
    """Of the profiles that this one reaches, the farthest since the latest reset, and whose it was."""
    reached = [(name, base) for name, base in left.items() if reaches(this, base)]

    def order(found: tuple[str, Ancestor]) -> tuple[Stamp, float, str]:
        name, base = found
        return reset_order(state.contributions[name].reset), sum(base.totals.values()), name

    return max(reached, key=order, default=None)


def acknowledged(known: Known, vehicle: str, token: str) -> Known:
    """Note which state folders of the same vehicle id came up, and take over what one that lives on shows to be own.

    Args:
        known: What this state folder knows, joined with what the backend holds.
        vehicle: This vehicle's id.
        token: Marks the change.
    """
    name, state, prior = name_of(known, vehicle), known.state, known.prior
    mine = state.contributions.get(name)
    if mine is None:
        return known
    others = namesakes(state, vehicle) - {name, *mine.seen}
    came = sorted(other for other in others if other not in known.elders or name in _seen(state, other))
    totals = mine.totals
    if prior is not None and mine.reset == state.reset and name in _seen(state, prior.contributor):
        totals = totals | {total: totals.get(total, 0) + more for total, more in prior.totals.items()}
        known = replace(known, prior=None)
    if not came and totals == mine.totals:
        return known
    part = replace(mine, sequence=mine.sequence + 1, totals=totals, seen=(*mine.seen, *came), writer=token)
    return replace(known, state=replace(state, contributions={**state.contributions, name: part}))


def shared_vehicle_ids(state: ProfileState) -> list[str]:
    """The vehicle ids under which two state folders write at the same time: each has noted the other."""
    pairs = [(name, other) for name, part in state.contributions.items() for other in part.seen]
    return sorted({vehicle_of(name) for name, other in pairs if name in _seen(state, other)})


def _unsent(mine: Contribution | None, state: ProfileState, arrived: Mapping[str, Number] | None) -> dict[str, Number]:
    """What this state folder had counted and the backend never got."""
    if mine is None or arrived is None or mine.reset != state.reset:
        return {}
    return {total: value - arrived.get(total, 0) for total, value in mine.totals.items()}


def _goes_on_from(this: Ancestor, base: Ancestor) -> bool:
    """Whether a file that another vehicle wrote goes on from a profile: its readings begin with all that were there."""
    return reaches(this, base) and any(
        len(readings) >= _TELLING_READINGS and this.readings.get(name, [])[: len(readings)] == readings
        for name, readings in base.readings.items()
    )


def _seen(state: ProfileState, contributor: str) -> tuple[str, ...]:
    part = state.contributions.get(contributor)
    return () if part is None else part.seen


def _counted(known: Known, bases: tuple[Ancestor, ...], totals: Mapping[str, Number] | None = None) -> Known:
    """Begin with a profile whose totals others brought in: this state folder adds only what comes on top."""
    part = Contribution(1, dict(totals or {}), {}, bases[-1:], known.state.reset)
    return replace(known, state=join(known.state, ProfileState(contributions={known.contributor: part})), bases=bases)


def _holds_copy(cloud: Cloud, local: Mapping[str, Any]) -> bool:
    """Whether a profile is there already: as it never met this sync, or as it was merged."""
    if any(contributor.startswith(PLAIN) for contributor in cloud.state.contributions):
        return plain_contributor(local) in cloud.state.contributions
    if cloud.plain is not None or not cloud.state.contributions:
        return False
    return local.keys() <= render(cloud.state).keys() and render(cloud.state, local) == local
