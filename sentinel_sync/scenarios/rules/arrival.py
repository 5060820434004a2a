"""When a folder that appeared is a complete recording, and how much it matters."""

from collections.abc import Mapping
from dataclasses import dataclass

from pydantic import JsonValue

from sentinel_sync.scenarios.rules.plan import Priority

#: A recording that is incomplete and has not changed for so long, seconds, is refused with the reason: a recorder at
#: work writes all the time. Where it only paused, nothing is lost: what was refused is looked at again when it changes.
PATIENCE = 60.0


@dataclass(slots=True)
class Sight:
    """A folder that is not queued yet, as it was last seen.

    Attributes:
        fingerprint: Names, sizes and times of its files.
        since: Since when it has been so, monotonic seconds.
        fault: Why it cannot be uploaded as it is, or None where that was not asked yet.
    """

    fingerprint: str
    since: float
    fault: str | None = None

    def settles_in(self, now: float, settle_time: float) -> float:
        """Seconds until it has been unchanged for `settle_time`; 0.0 where it has."""
        return max(0.0, self.since + settle_time - now)

    def is_given_up(self, now: float) -> bool:
        """Whether nobody is working on it any more."""
        return now - self.since >= PATIENCE


def priority_of(metadata: Mapping[str, JsonValue]) -> Priority:
    """How much a recording matters that nobody has queued by hand: high where its trigger's type says critical."""
    trigger = metadata.get("trigger")
    kind = trigger.get("type") if isinstance(trigger, Mapping) else None
    return Priority.HIGH if isinstance(kind, str) and "critical" in kind.lower() else Priority.NORMAL
