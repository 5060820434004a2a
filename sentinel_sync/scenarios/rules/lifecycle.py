"""When a folder that appeared is a complete recording, and how much it matters."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from pydantic import JsonValue

from sentinel_sync.base.clock import is_plausible
from sentinel_sync.scenarios.rules.plan import Consent, Priority

#: A recording that is incomplete and has not changed for so long, seconds, is refused with the reason: a recorder at
#: work writes all the time. Where it only paused, nothing is lost: what was refused is looked at again when it changes.
PATIENCE = 60.0
#: Why a recording is never queued by itself.
MADE_WHILE_WITHDRAWN = "it was recorded while the consent was withdrawn: only queueing it by name sends it"
#: Why a recording is not in the queue any more.
WITHDRAWN = "the driver withdrew the consent"
#: Who is one priority lower goes first after having waited so much longer, seconds: a vehicle's day has hours, and a
#: recording of this morning must not wait behind each new one of the evening.
HEAD_START = 6 * 3600.0
#: What the backend has asked for goes before everything else: its place, as a priority.
ASKED_FOR_RANK = -1_000
_DAY = 86_400.0
#: Why a recording is gone that the backend never had.
DELETED_UNSENT = "it was deleted unsent, by cloud.keep_unsent_days"
#: Why a recording is gone that took room which the recorder needs.
DELETED_FOR_ROOM = "it was deleted to keep cloud.disk_reserve free"


@dataclass(slots=True)
class FolderObservation:
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


def made_while_withdrawn(history: Sequence[Consent], made_at: float) -> bool:
    """Whether the consent stood withdrawn when a recording was made, going by its time and that of the decisions.

    Only good for what comes into the folder later: of what lies there at a grant it is known (`WithdrawalMark`), and
    a clock may have been set in between. What was made before any decision is not: nobody had said no.

    Args:
        history: All decisions, oldest first.
        made_at: When the newest of the recording's files was written, seconds since the epoch.
    """
    before = [decision for decision in history if decision.at <= made_at]
    return bool(before) and not before[-1].granted


def turn(queued_at: float, rank: int) -> float:
    """When it is a scenario's turn, as a time to sort by: the smallest goes first.

    Args:
        queued_at: When it was queued, seconds since the epoch.
        rank: 0 is the most important.
    """
    return queued_at + rank * HEAD_START


def is_past(at: float | None, keep_days: float | None, now: float) -> bool:
    """Whether something is older than it is to be kept.

    Args:
        at: When it happened, seconds since the epoch. A time that no working clock shows has no age that one could
            know, and keeps what it belongs to.
        keep_days: Days to keep it; None is for ever.
        now: Wall time, seconds since the epoch.
    """
    if at is None or keep_days is None or not is_plausible(at):
        return False
    return now - at > keep_days * _DAY
