"""What the outbox gives up when its bounds are reached, and in which order. Trips go last."""

from dataclasses import dataclass

from sentinel_sync.base.timekeeping import EARLIEST_PLAUSIBLE, ClockObservation, ClockStamp, correction

#: The kind that goes last: a trip is small, and it is what the vehicle is for.
PROTECTED_KIND = "trip"


@dataclass(frozen=True, slots=True)
class Shelf:
    """Items of one kind in one state: the unit of the eviction order."""

    kind: str
    state: str


def eviction_order(shelves: list[Shelf]) -> list[Shelf]:
    """Sort shelves by who goes first.

    1. what was set aside, but trips; 2. what waits, but trips; 3. trips set aside; 4. trips that wait. Within a shelf
    the least important goes first, then the oldest. What is being sent is never evicted.
    """
    evictable = [shelf for shelf in shelves if shelf.state != "sending"]
    return sorted(evictable, key=lambda shelf: (shelf.kind == PROTECTED_KIND, shelf.state == "waiting", shelf.kind))


def is_too_old(
    created_at: float,
    stamp: ClockStamp | None,
    seen: ClockObservation | None,
    current: ClockStamp,
    now: float,
    max_age: float,
) -> bool:
    """Whether an item is past the age bound. Ask only while the wall clock is trusted.

    An item stamped by a clock that was plainly wrong, and that nothing can put right, has no age that one could know.

    Args:
        created_at: Wall time when the item was recorded, seconds since the epoch.
        stamp: The clocks then, where known.
        seen: The backend's time in that boot, where it was seen.
        current: The clocks now.
        now: Wall time now, seconds since the epoch.
        max_age: The bound in seconds; 0 is none.
    """
    if max_age <= 0.0:
        return False
    if stamp is not None and seen is None and stamp.boot_id != current.boot_id:
        return False  # a clock that nobody checked: it may have stood a year back and looked plausible
    recorded = created_at + (correction(stamp, seen, current) if stamp is not None else 0.0)
    return recorded >= EARLIEST_PLAUSIBLE and now - recorded > max_age
