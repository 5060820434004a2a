"""Which recordings may be deleted. Ask only while the wall clock is trusted."""

from sentinel_sync.base.timekeeping import is_plausible

_DAY = 86_400.0
#: Why a recording is gone that the backend never had.
DELETED_UNSENT = "it was deleted unsent, by cloud.keep_unsent_days"


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
