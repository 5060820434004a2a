"""May anything be sent now? One answer for the whole client."""

from dataclasses import dataclass
from enum import StrEnum
from random import Random

from sentinel_sync.base.backoff import full_jitter

#: A refused credential is tried again after so many seconds even if nobody changed it: the backend may have been wrong.
CREDENTIAL_RETRY_INTERVAL = 900.0
#: Ceiling of the pause after failures in a row, seconds. Coming online ends it at once.
MAX_PAUSE = 60.0


class GateState(StrEnum):
    """What the gate lets through."""

    OPEN = "open"
    PAUSED = "paused"  # the backend asked for it, or it does not answer
    REFUSED = "refused"  # the credential was refused; only the health probe passes
    HALTED = "halted"  # the host or the settings forbid sending


@dataclass(frozen=True, slots=True)
class Passage:
    """The gate's answer.

    Attributes:
        wait: Seconds until it is worth asking again; None where only an event can open the gate.
    """

    state: GateState
    wait: float | None
    why: str

    @property
    def open(self) -> bool:
        """Whether a request may go now."""
        return self.state is GateState.OPEN


_OPEN = Passage(GateState.OPEN, None, "")


class Gate:
    """Remembers what the last answers said about everybody's next request. Times are monotonic seconds."""

    def __init__(self, rng: Random, *, credential_retry_interval: float = CREDENTIAL_RETRY_INTERVAL) -> None:
        self._rng = rng
        self._credential_retry_interval = credential_retry_interval
        self._paused_until = float("-inf")
        self._asked_until = float("-inf")
        self._pause_reason = ""
        self._failures = 0
        self._refused_until: float | None = None
        self._refusal = ""
        self._halts: dict[str, str] = {}

    def passage(self, now: float) -> Passage:
        """Say whether a request may be sent at `now`."""
        if self._halts:
            return Passage(GateState.HALTED, None, next(iter(self._halts.values())))
        if self._refused_until is not None and now < self._refused_until:
            return Passage(GateState.REFUSED, self._refused_until - now, self._refusal)
        if now < self._paused_until:
            return Passage(GateState.PAUSED, self._paused_until - now, self._pause_reason)
        return _OPEN

    def probe_passage(self, now: float) -> Passage:
        """Say whether the health probe may be sent at `now`.

        It passes our own pause and a refusal, but neither a halt nor the backend's `Retry-After`, which is for the
        whole client (wire contract, "Answers").
        """
        if self._halts:
            return Passage(GateState.HALTED, None, next(iter(self._halts.values())))
        if now < self._asked_until:
            return Passage(GateState.PAUSED, self._asked_until - now, self._pause_reason)
        return _OPEN

    def on_success(self, now: float) -> None:
        """An authenticated request was answered as asked: nothing stands in the way, but what was asked for counts.

        A refusal stays for its interval: what succeeds meanwhile was sent before it.
        """
        self._failures = 0
        self._paused_until = self._asked_until
        if self._refused_until is not None and now >= self._refused_until:
            self._refused_until = None

    def on_reachable(self) -> None:
        """The health probe was answered: our own pause ends, the backend's `Retry-After` and a refusal stay."""
        self._failures = 0
        self._paused_until = self._asked_until

    def on_refused(self, why: str, now: float) -> None:
        """The credential was refused (401, 403)."""
        self._refused_until = now + self._credential_retry_interval
        self._refusal = why

    def on_credential_changed(self) -> None:
        """There is a new credential: it deserves a try."""
        self._refused_until = None

    def on_not_now(self, why: str, now: float, retry_after: float | None) -> None:
        """The backend asked to come back later; `retry_after` are the seconds it named."""
        self._fail(why, now)
        if retry_after is not None:
            self._asked_until = max(self._asked_until, now + retry_after)
            self._paused_until = max(self._paused_until, self._asked_until)

    def on_unreachable(self, why: str, now: float) -> None:
        """No usable answer came."""
        self._fail(why, now)

    def halt(self, cause: str, why: str) -> None:
        """Forbid all sending until `resume(cause)`."""
        self._halts[cause] = why

    def resume(self, cause: str) -> None:
        """Lift what `halt(cause)` forbade."""
        self._halts.pop(cause, None)

    def _fail(self, why: str, now: float) -> None:
        # Requests in flight together fail together: only the first of them lengthens the pause.
        if now >= self._paused_until:
            self._failures += 1
            self._paused_until = now + full_jitter(self._failures, self._rng, cap=MAX_PAUSE)
        self._pause_reason = why
