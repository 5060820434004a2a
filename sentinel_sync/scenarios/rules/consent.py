"""What the history of the driver's decisions says about a recording."""

from collections.abc import Sequence

from sentinel_sync.base.timekeeping import is_plausible
from sentinel_sync.scenarios.rules.plan import Consent

#: Why a recording is never queued by itself.
MADE_WHILE_WITHDRAWN = "it was recorded while the consent was withdrawn: only queueing it by name sends it"
#: Why a recording is not in the queue any more.
WITHDRAWN = "the driver withdrew the consent"


def made_while_withdrawn(history: Sequence[Consent], made_at: float) -> bool:
    """Whether the consent stood withdrawn when a recording was made.

    What was made before any decision is not: nobody had said no.

    Args:
        history: All decisions, oldest first.
        made_at: When the newest of the recording's files was written, seconds since the epoch.
    """
    before = [decision for decision in history if decision.at <= made_at]
    return bool(before) and not before[-1].granted


def appeared_while_withdrawn(withdrawal: Consent, made_at: float) -> bool:
    """Whether a recording that came into sight while the consent stood withdrawn was made then.

    Only a time that a working clock can show is believed to be before the withdrawal.
    """
    return made_at >= withdrawal.at or not is_plausible(made_at)
