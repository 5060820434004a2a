"""What follows for an item of the outbox when its attempt failed."""

from collections import Counter
from dataclasses import dataclass
from random import Random

from pydantic import Field

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import EARLIEST_PLAUSIBLE, ClockObservation, ClockStamp, correction
from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    HeldError,
    RejectedError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.base.payloads import StatusModel

#: The kind that goes last: a trip is small, and it is what the vehicle is for.
PROTECTED_KIND = "trip"


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing was tried that says anything about the item: it waits again, and the attempt is not counted."""


@dataclass(frozen=True, slots=True)
class Defer:
    """The item waits for so many seconds.

    Attributes:
        connectivity: True where only the network stood in the way, so that coming online makes the item due at once.
    """

    seconds: float
    reason: str
    connectivity: bool


@dataclass(frozen=True, slots=True)
class SetAside:
    """The item can't succeed; it is kept with its reason until somebody decides."""

    reason: str


RetryDecision = Release | Defer | SetAside


#: An item whose acknowledgement was contradicted so many times is set aside (wire contract, Acknowledgement).
MOST_CONTRADICTIONS = 10


class RetryPolicy:
    """Decides what becomes of an item whose attempt failed.

    How often the answer to an item contradicted is counted here, until the next start: its attempts count outages too.
    """

    def __init__(self, rng: Random) -> None:
        self._rng = rng
        self._contradictions: Counter[str] = Counter()

    def decision(self, key: str, error: CloudError, attempts: int) -> RetryDecision:
        """What follows for the item with this key, whose attempt number `attempts` ended in `error`."""
        match error:
            case HeldError() | CredentialError():
                return Release()
            case RejectedError():
                return SetAside(str(error))
            case UnreachableError():
                return Defer(full_jitter(attempts, self._rng), str(error), connectivity=True)
            case UnacknowledgedError(contradicts=True):
                self._contradictions[key] += 1
                if self._contradictions[key] >= MOST_CONTRADICTIONS:
                    del self._contradictions[key]
                    return SetAside(str(error))
        return Defer(full_jitter(attempts, self._rng), str(error), connectivity=False)


@dataclass(frozen=True, slots=True)
class EvictionGroup:
    """Items of one kind in one state: the unit of the eviction order."""

    kind: str
    state: str


def eviction_order(groups: list[EvictionGroup]) -> list[EvictionGroup]:
    """Sort groups by who goes first.

    1. what was set aside, but trips; 2. what waits, but trips; 3. trips set aside; 4. trips that wait. Within a group
    the least important goes first, then the oldest. What is being sent is never evicted.
    """
    evictable = [group for group in groups if group.state != "sending"]
    return sorted(evictable, key=lambda group: (group.kind == PROTECTED_KIND, group.state == "waiting", group.kind))


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


class OutboxStatus(StatusModel):
    """How much outgoing work there is.

    Attributes:
        waiting: Items that will be sent.
        sending: Items being sent now.
        set_aside: Items that need a person.
        size_bytes: What the items and facts take on disk.
        acknowledged: Items the backend took, ever.
        dropped: Items given up, ever, by "kind.reason".
        oldest_at: When the oldest that is still to be sent was put here, seconds since the epoch; None where none is.
    """

    waiting: int = 0
    sending: int = 0
    set_aside: int = 0
    size_bytes: int = 0
    acknowledged: int = 0
    dropped: dict[str, int] = Field(default_factory=dict)
    oldest_at: float | None = None

    @property
    def unsent(self) -> int:
        """Items that are still to be sent."""
        return self.waiting + self.sending
