"""Is the backend within reach, since when, and when should it be probed again?"""

from dataclasses import dataclass, field
from enum import StrEnum
from random import Random

from sentinel_sync.base.backoff import RETURN_SPREAD, full_jitter
from sentinel_sync.base.payloads import StatusModel

#: Ceiling of the first probe's delay after contact was lost, seconds: short outages are common (a tunnel, a lift).
_FIRST_PROBE = 2.0
#: In a long outage probes are so many times rarer than while online: what ends one is seen by traffic and events too.
_OUTAGE_FACTOR = 4.0
#: After an outage of so many seconds the mean interval is at least …
_LONG_OUTAGE = 3600.0
#: … half of this, seconds: whoever parks in a garage for a week pays for no probe a minute.
_LONG_OUTAGE_CEILING = 600.0
#: After so many seconds in which nobody was busy, probes come so many seconds apart: of what an idle vehicle sends they
#: are most (docs/measurements.md has the bytes of a day).
_QUIET_AFTER = 600.0
_QUIET_INTERVALS = ((3600.0, 600.0), (_QUIET_AFTER, 300.0))
#: While all is quiet and well, intervals vary by so much either way, so that a fleet does not probe in step.
_JITTER = 0.25
#: A `min_interval` counts for at most so many seconds: nobody means a vehicle never to look again.
_MAX_MIN_INTERVAL = 3600.0
#: No backend needs to hear a vehicle more often, seconds.
_LEAST_INTERVAL = 5.0


class ConnectivityStatus(StrEnum):
    """Whether the backend can be reached."""

    UNKNOWN = "unknown"
    ONLINE = "online"
    OFFLINE = "offline"


@dataclass(frozen=True, slots=True)
class Transition:
    """The status changed; the one before had held for `lasted` seconds."""

    before: ConnectivityStatus
    after: ConnectivityStatus
    lasted: float = field(default=0.0, compare=False)


class Connectivity:
    """The state behind `OfflineManager`. Times are monotonic seconds.

    Args:
        interval: Seconds between probes while online and nothing else is sent (`connectivity_check_interval`).
        reconnect_spread: What the backend asked for is passed by a random part, within at least so many seconds; a
            network that is back is tried within as many.
    """

    def __init__(self, interval: float, rng: Random, now: float, *, reconnect_spread: float = 0.0) -> None:
        self._interval = interval
        self._reconnect_spread = reconnect_spread
        self._min_interval = 0.0
        self._is_told = False
        self._rng = rng
        self._failures = 0
        self._busy_at: float | None = None
        self._next_probe = now  # the first probe is due at once; its spread is the supervisor's
        self._offline_since: float | None = None
        self.status: ConnectivityStatus = ConnectivityStatus.UNKNOWN
        self.since: float = now
        self.message: str = "not asked yet"
        self._refusal = ""

    @property
    def unauthorized(self) -> bool:
        """Whether the backend refuses the credential, as far as is known."""
        return bool(self._refusal)

    def on_contact(self, now: float) -> Transition | None:
        """The backend answered usefully."""
        self._failures = 0
        self._offline_since = None
        spread = 1.0 + self._rng.uniform(-_JITTER, _JITTER)
        self._next_probe = now + max(self._pace(now) * spread, self._at_least())
        return self._become(ConnectivityStatus.ONLINE, now)

    def on_authorized(self) -> None:
        """A request with the credential was accepted."""
        self._refusal = ""
        if self.status is ConnectivityStatus.ONLINE:
            self.message = "online"

    def on_unauthorized(self, why: str, now: float) -> Transition | None:
        """The backend answered, and refused the credential: reachable, but not for us."""
        self._refusal = why or "the credential is refused"
        return self.on_contact(now)

    def on_no_contact(self, why: str, now: float) -> Transition | None:
        """No usable answer came."""
        if now >= self._next_probe or self.status is not ConnectivityStatus.OFFLINE:
            self._failures += 1
            pace = self._pace(now)
            ceiling = max(_OUTAGE_FACTOR * pace, _FIRST_PROBE)
            if self.offline_duration(now) >= _LONG_OUTAGE:
                ceiling = max(ceiling, _LONG_OUTAGE_CEILING)
            if self._is_quiet(now):
                # A parked vehicle has nothing to hurry for, and a parked fleet that does is what a backend drowns in
                # as it comes back: never more often than while all is well. What waits to be sent asks for itself.
                delay = pace + full_jitter(self._failures, self._rng, base=pace, cap=ceiling)
            else:
                # One at work may be in a tunnel.
                delay = full_jitter(self._failures, self._rng, base=_FIRST_PROBE, cap=ceiling)
            self._next_probe = now + max(delay, self._at_least())
        if self._offline_since is None:
            self._offline_since = now
        self.message = f"offline: {why}"
        return self._become(ConnectivityStatus.OFFLINE, now)

    def note_activity(self, now: float, *, is_busy: bool) -> None:
        """Whoever lives with this says whether the vehicle is at work; unless it ever does, the interval stays."""
        if is_busy or self._busy_at is None:
            self._busy_at = now

    def _pace(self, now: float) -> float:
        # Where the backend has said how often it wants to hear of a vehicle, that holds for a parked one too.
        quiet_for = 0.0 if self._is_told else self._quiet_for(now)
        return max(self._interval, next((pace for after, pace in _QUIET_INTERVALS if quiet_for >= after), 0.0))

    def _is_quiet(self, now: float) -> bool:
        return self._quiet_for(now) >= _QUIET_AFTER

    def _quiet_for(self, now: float) -> float:
        return 0.0 if self._busy_at is None else now - self._busy_at

    def set_min_interval(self, seconds: float) -> None:
        """The backend said how many seconds it wants between probes (`min_interval`)."""
        self._min_interval = min(max(0.0, seconds), _MAX_MIN_INTERVAL)

    def set_interval(self, seconds: float) -> None:
        """The backend said how many seconds it wants between probes while all is well (`probe_interval`)."""
        self._interval, self._is_told = min(max(_LEAST_INTERVAL, seconds), _MAX_MIN_INTERVAL), True

    def probe_in(self, now: float) -> float:
        """Seconds until the next probe is due; 0 where it is due now."""
        return max(0.0, self._next_probe - now)

    def probe_soon(self, now: float) -> None:
        """Ask for a probe now: the network has changed. In an outage within `reconnect_spread`, as others know too."""
        spread = self._reconnect_spread if self.status is ConnectivityStatus.OFFLINE else 0.0
        self._next_probe = min(self._next_probe, now + self._rng.uniform(0.0, spread))

    def offline_duration(self, now: float) -> float:
        """Seconds without contact, 0.0 while online or unknown."""
        return 0.0 if self._offline_since is None else max(0.0, now - self._offline_since)

    def _at_least(self) -> float:
        """What the backend asked for, and a random part on top: nobody comes back on the second."""
        if self._min_interval == 0.0:
            return 0.0
        return self._min_interval + self._rng.uniform(
            0.0, max(RETURN_SPREAD * self._min_interval, self._reconnect_spread)
        )

    def _become(self, status: ConnectivityStatus, now: float) -> Transition | None:
        if status is ConnectivityStatus.ONLINE:
            self.message = f"online, but unauthorized: {self._refusal}" if self._refusal else "online"
        before = self.status
        if status is before:
            return None
        lasted, self.since = now - self.since, now
        self.status = status
        return Transition(before, status, lasted)


class ConnectivitySummary(StatusModel):
    """What is known about the way to the backend. Durations are seconds.

    Attributes:
        message: For a person; tells a refused credential apart from being offline.
        unauthorized: Whether the backend refuses the credential.
        offline_duration: Without contact; 0.0 while online or unknown.
        since: How long the status has held.
        gate: Whether anything may be sent: open, paused, refused or halted.
        gate_reason: Why not; empty where it may.
        clock_skew: By how much this machine's clock is ahead of the backend's, or None where that is not known.
        transitions: Changes of the status since the start.
    """

    status: ConnectivityStatus
    message: str
    unauthorized: bool
    offline_duration: float
    since: float
    gate: str
    gate_reason: str
    clock_skew: float | None
    transitions: int = 0
