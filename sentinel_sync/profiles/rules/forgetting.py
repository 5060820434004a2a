"""A driver who asked to be forgotten: what goes, and what was begun anew and stays.

A profile tells by its `created_at` when the driver was enrolled. What was enrolled before the forgetting goes, with all
that was driven on it, also afterwards by a vehicle that had not heard of it. What was enrolled after it is a new
profile. Where that cannot be told it goes: to enrol once more is less than to be remembered against one's will.
"""

from dataclasses import replace

from sentinel_sync.base.timekeeping import EARLIEST_PLAUSIBLE
from sentinel_sync.profiles.rules.history import Known
from sentinel_sync.profiles.rules.merge import Base, Moment, ProfileState

#: A vehicle's clock may be ahead by so much (microseconds) before its "later than the forgetting" is not believed.
_BELIEVED_AHEAD = 86_400 * 1_000_000
_EARLIEST_PLAUSIBLE = round(EARLIEST_PLAUSIBLE) * 1_000_000


def time_of_forgetting(known: Known | None, created: Moment | None, now: int) -> int:
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


def begun_anew(created: Moment | None, known: Known | None, forgotten: int, true_now: int | None) -> bool:
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
        same = any(base.created == created.us for base in _bases(known))
        if known.state.forgotten < forgotten and same:
            return False  # the very profile that was synced before the forgetting
        if known.state.forgotten >= forgotten and same:
            return True  # recognised as a new one before
        if known.state.forgotten >= forgotten and known.removed is not None and created.us > known.removed:
            return True  # both times are of the same clock, however wrong it is
    return created.us > forgotten and (true_now is None or created.us <= true_now + _BELIEVED_AHEAD)


def forgotten_known(known: Known | None, forgotten: int) -> Known:
    """What is left of what this vehicle knows: that the driver was forgotten, and when."""
    return Known(ProfileState(forgotten=forgotten), removed=None if known is None else known.removed)


def removed_here(known: Known, created: Moment | None, here: int) -> Known:
    """Note that this vehicle removes a profile of a forgotten driver.

    Args:
        known: What this vehicle knows.
        created: When that profile says that it was begun; None where it does not say, or there was no file.
        here: What this vehicle's own clock says, microseconds since the epoch.
    """
    # Never behind what was seen: where the clock is set back, the old profile must not seem to be the newer one.
    times = (here, known.removed, None if created is None else created.us)
    return replace(known, removed=max(time for time in times if time is not None))


def _bases(known: Known) -> tuple[Base, ...]:
    return (*known.bases, *(() if known.pending is None else (known.pending,)))
