"""When to check for releases again."""

from random import Random

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.errors import HeldError, RejectedError, SentinelSyncError, UnreachableError, VerificationError

#: What failed is tried again within 30 s, then ever later, at most an hour: models are large.
RETRY_BASE = 30.0
RETRY_CAP = 3600.0
#: Checks vary by so much either way, so that a fleet does not ask at one instant.
JITTER = 0.1
#: So a check comes at the soonest after this share of the interval.
LEAST_SHARE = 1.0 - JITTER
#: Seconds before somebody's word that the network is back is believed.
_WAKE_PAUSE = 1.0


class CheckSchedule:
    """Times a vehicle's checks. `now` is wall time, because an interval spans restarts; `monotonic` never steps.

    Args:
        interval: Seconds between checks (`model_check_interval`).
        rng: For the jitter.
    """

    def __init__(self, interval: float, rng: Random) -> None:
        self._interval = interval
        self._rng = rng
        self._failures = 0
        self._retry_at = 0.0
        self._wake_at = 0.0
        self._spread = self._draw()
        self._expedited = False

    def due_in(self, now: float, monotonic: float, checked_at: float | None) -> float:
        """Seconds until the next check is due; 0.0 where one is.

        Args:
            now: Wall time, seconds since the epoch.
            monotonic: Time since boot, seconds.
            checked_at: When the last check succeeded, wall time, or None.
        """
        if self._expedited:
            return 0.0
        if self._failures:
            return max(0.0, self._retry_at - monotonic)
        if checked_at is None or now < checked_at:
            # A clock that was set back says nothing about when the last check was.
            return 0.0
        return max(0.0, self._interval * self._spread - (now - checked_at))

    def may_try(self, now: float, monotonic: float, checked_at: float | None) -> bool:
        """Whether whoever was woken may check: also before its time, where only the network failed."""
        if self._failures and monotonic >= self._wake_at:
            return True
        return self.due_in(now, monotonic, checked_at) <= 0.0

    def expedite(self) -> None:
        """The operator wants something: the next check is due now."""
        self._expedited = True

    def succeeded(self) -> None:
        """A check, and all that it led to, came to its end."""
        self._failures = 0
        self._expedited = False
        self._spread = self._draw()

    def failed(self, error: SentinelSyncError, monotonic: float) -> None:
        """Try again later."""
        self._failures += 1
        self._expedited = False
        delay = full_jitter(self._failures, self._rng, base=RETRY_BASE, cap=min(RETRY_CAP, self._interval))
        if not is_passing(error):
            delay = self._interval * self._draw()
        self._retry_at = monotonic + delay
        only_network = isinstance(error, UnreachableError | HeldError)
        self._wake_at = monotonic + min(delay, _WAKE_PAUSE) if only_network else self._retry_at

    def _draw(self) -> float:
        return 1.0 + self._rng.uniform(-JITTER, JITTER)


def is_passing(error: SentinelSyncError) -> bool:
    """Whether trying again soon may help."""
    return not isinstance(error, VerificationError | RejectedError)
