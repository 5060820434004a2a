"""What is known of one model on this vehicle: what is installed, what waits, what was before, what is bad."""

import signal
from dataclasses import dataclass, replace
from random import Random
from typing import Self, TypedDict

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.errors import HeldError, RejectedError, SentinelSyncError, UnreachableError, VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.rules.releases import ReleaseConstraints, same_version

#: What failed is tried again within 30 s, then ever later, at most an hour: models are large.
RETRY_BASE = 30.0
RETRY_CAP = 3600.0
#: Checks vary by so much either way, so that a fleet does not ask at one instant.
JITTER = 0.1
#: So a check comes at the soonest after this share of the interval.
LEAST_SHARE = 1.0 - JITTER
#: Seconds before somebody's word that the network is back is believed.
_WAKE_PAUSE = 1.0


@dataclass(frozen=True, slots=True)
class Passed:
    """The model does what it should."""


@dataclass(frozen=True, slots=True)
class Failed:
    """It does not: this version is bad, for good."""

    reason: str


@dataclass(frozen=True, slots=True)
class Untried:
    """Nothing was learned about the model: try again."""

    reason: str


Verdict = Passed | Failed | Untried

#: Whoever ends a program so means the program, not the model: an agent's service is stopped with all its children when
#: the ignition goes off, and the kernel ends somebody when memory is short. Crashes (SIGSEGV, SIGABRT …) are others.
_ENDED_FROM_OUTSIDE = frozenset({signal.SIGHUP, signal.SIGINT, signal.SIGTERM, signal.SIGKILL})
#: How a shell tells that its command was ended by a signal.
_SHELL_SIGNAL = 128
#: What a shell, or `env`, ends with where a program cannot be run or found (POSIX 2.8.2).
_NOT_RUN = frozenset({126, 127})
#: A model on probation is tried so many times, evenly, …
_TRIALS = 10
#: … but not more often than this, seconds: a validator may take a minute of the processor's time, …
_SHORTEST = 10.0
#: … and not less often than this.
_LONGEST = 900.0


def verdict_of_exit(code: int, command: str) -> Verdict:
    """Read how a validator's command ended.

    Args:
        code: As `subprocess` gives it: the exit code, or the negative number of the signal that ended it.
        command: Names it.
    """
    if code == 0:
        return Passed()
    number = -code if code < 0 else code - _SHELL_SIGNAL
    if number in _ENDED_FROM_OUTSIDE:
        return Untried(f"the validator ({command}) was ended by {signal.Signals(number).name}")
    if code in _NOT_RUN:
        return Untried(f"the validator ({command}) could not be run (exit code {code})")
    if code < 0:
        return Failed(f"the validator ({command}) crashed (signal {-code})")
    return Failed(f"the validator ({command}) ended with exit code {code}")


@dataclass(frozen=True, slots=True)
class CommitSchedule:
    """The probation of what is installed.

    Only time that an agent saw counts: a vehicle that was parked has proven nothing, and its clock may jump.

    Attributes:
        seconds: How long it lasts.
        passed: Seconds of it that are behind the model, as of the last trial.
    """

    seconds: float
    passed: float = 0.0

    @property
    def left(self) -> float:
        """Seconds that are still to come."""
        return max(0.0, self.seconds - self.passed)

    @property
    def is_over(self) -> bool:
        """Whether a model that has passed the trial just now is proven."""
        return self.left <= 0.0

    def after(self, seconds: float) -> Self:
        """The same, so many seconds later."""
        return replace(self, passed=self.passed + max(0.0, seconds))

    def next_trial(self) -> float:
        """Seconds until the next trial; the last one is at the end."""
        return min(self.left, max(_SHORTEST, min(_LONGEST, self.seconds / _TRIALS)))


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that is on this vehicle.

    Attributes:
        live_name: What the runtime opens it as.
        checksum: SHA-256 in hex; None where nobody has hashed it yet (it was there before us).
        installed_at: Seconds since the epoch.
    """

    version: str
    live_name: str
    installed_at: float
    size: int = 0
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class StagedVersion:
    """A version that lies whole among the versions and waits to be switched to.

    Attributes:
        release: As it was listed: it is verified again when it is switched to.
        live_name: What the runtime is to open it as.
        tried: Whether the validator has passed it.
        asked_for: Whether a person asked for just this version: a rollout counts for what comes by itself.
    """

    release: ModelRelease
    live_name: str
    tried: bool = False
    asked_for: bool = False

    @property
    def kept(self) -> KeptVersion:
        """The same as a file among the versions."""
        release = self.release
        return KeptVersion(release.version, self.live_name, 0.0, release.size, release.checksum)


@dataclass(frozen=True, slots=True)
class BadVersion:
    """A version that failed its validator on this vehicle: never to be tried again, whoever lists it.

    Attributes:
        checksum: SHA-256 in hex: the same bytes under another version are as bad.
        found_at: Seconds since the epoch.
        was_in_use: Whether it had been switched to.
    """

    version: str
    checksum: str
    reason: str
    found_at: float
    was_in_use: bool = False


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What is known of one model.

    Attributes:
        installed: What the runtime opens.
        previous: What it opened before: `rollback` leads there.
        switching_to: What is being put in its place: a start that finds this finishes it.
        staged: What is put in its place as soon as that may be.
        probation: Of what is installed; None where it is proven.
        next_probation: Of what is being switched to.
        superseded: Live files of other names that the runtime is not to open any more, still to be taken away.
        bad: What failed.
        newest_seen: As in `ReleaseConstraints`.
        pinned: As in `ReleaseConstraints`.
        skipped: As in `ReleaseConstraints`.
        failure: Why the last attempt at it came to nothing, or None.
        given_up: Checksum of the release that came to nothing last, or None …
        given_up_at: … and when, seconds since the epoch.
        last_order: Key of the operator's last order that switched, so that none is carried out twice.
        damage: What is wrong with the bytes that the runtime opens, or None: they are to be fetched again.
    """

    name: str
    installed: KeptVersion | None = None
    previous: KeptVersion | None = None
    switching_to: KeptVersion | None = None
    staged: StagedVersion | None = None
    probation: CommitSchedule | None = None
    next_probation: CommitSchedule | None = None
    superseded: tuple[str, ...] = ()
    bad: tuple[BadVersion, ...] = ()
    newest_seen: str | None = None
    pinned: str | None = None
    skipped: tuple[str, ...] = ()
    failure: str | None = None
    given_up: str | None = None
    given_up_at: float = 0.0
    last_order: str | None = None
    damage: str | None = None

    def pinned_to(self, version: str | None) -> Self:
        """The record once the operator wants just this version, also one that was rolled back from; None is any."""
        skipped = self.skipped if version is None else tuple(it for it in self.skipped if not same_version(it, version))
        return replace(self, pinned=version, skipped=skipped)

    def is_pinned_to(self, version: str) -> bool:
        """Whether the operator wants just this version, however it was written."""
        return self.pinned is not None and same_version(version, self.pinned)

    @property
    def standing(self) -> ReleaseConstraints:
        """What counts against a release."""
        return ReleaseConstraints(
            installed=None if self.installed is None else self.installed.version,
            newest_seen=self.newest_seen,
            pinned=self.pinned,
            skipped=self.skipped,
            bad={bad.checksum: bad.reason for bad in self.bad},
        )

    def switched(self, previous: KeptVersion | None) -> Self:
        """The record once the runtime opens `switching_to`."""
        before, now = self.installed, self.switching_to
        names = {*self.superseded, *(() if before is None else (before.live_name,))}
        was_bad = before is not None and self.is_bad(before.checksum)
        if previous is not None and (
            self.is_bad(previous.checksum) or (now is not None and previous.version == now.version)
        ):
            previous = None  # nothing to go back to
        is_staged = self.staged is not None and now is not None and self.staged.release.version == now.version
        return replace(
            self,
            installed=now,
            damage=None,
            previous=previous,
            switching_to=None,
            staged=None if is_staged else self.staged,
            probation=self.next_probation,
            next_probation=None,
            superseded=tuple(sorted(name for name in names if now is None or name != now.live_name)),
            skipped=tuple(version for version in self.skipped if now is None or version != now.version),
            # Why it was taken back is what people want to know then.
            failure=self.failure if was_bad else None,
        )

    def is_given_up(self, checksum: str, now: float, interval: float) -> bool:
        """Whether a release failed less than an interval ago, and not for the network's sake: not to be fetched again.

        A clock that was set back says nothing about when that was.
        """
        return self.given_up == checksum and 0.0 <= now - self.given_up_at < interval

    def is_installed(self, version: str, checksum: str) -> bool:
        """Whether the runtime opens just this, whole or not."""
        installed = self.installed
        return installed is not None and (installed.version, installed.checksum) == (version, checksum)

    def is_bad(self, checksum: str | None) -> bool:
        """Whether these bytes have failed here."""
        return any(bad.checksum == checksum for bad in self.bad)

    def marked_bad(self, bad: BadVersion) -> Self:
        """The record once a version has failed."""
        others = tuple(other for other in self.bad if other.checksum != bad.checksum)
        staged = self.staged
        if staged is not None and staged.release.checksum == bad.checksum:
            staged = None
        return replace(self, bad=(*others, bad), staged=staged, failure=bad.reason)

    @property
    def kept(self) -> tuple[KeptVersion, ...]:
        """All versions that must stay on disk."""
        staged = None if self.staged is None else self.staged.kept
        return tuple(kept for kept in (self.installed, self.previous, self.switching_to, staged) if kept is not None)


class ModelUpdate(TypedDict):
    """One entry of what `check_for_updates` answers: a genuine release that this vehicle may take."""

    name: str
    version: str
    current_version: str | None
    size: int
    checksum: str
    signature: str | None
    key_id: str | None
    released_at: str | None


def update_of(release: ModelRelease, installed: str | None) -> ModelUpdate:
    """Tell of a release that may be taken."""
    return ModelUpdate(
        name=release.name,
        version=release.version,
        current_version=installed,
        size=release.size,
        checksum=release.checksum,
        signature=release.signature,
        key_id=release.key_id,
        released_at=release.released_at,
    )


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What became of an installation. True where the runtime opens the version now.

    Attributes:
        reason: Why not, in words; None where it does.
        error: The same as an error: VerificationError where it was refused, CloudError where the network failed
            (HeldError where a download may not be now), StoreError where the disk did.
        waiting: Whether it is on the vehicle, verified, and is switched to by itself when what `reason` says is over.
        note: What was passed over to take it, in words, or None: a rollout that is not for this vehicle.
    """

    installed: bool
    name: str
    version: str
    reason: str | None = None
    error: SentinelSyncError | None = None
    waiting: bool = False
    note: str | None = None

    def __bool__(self) -> bool:
        return self.installed


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

    def answered(self) -> None:
        """The source answered; whether the files come as well is yet to be seen, so failures go on being counted."""
        self._expedited = False
        self._spread = self._draw()

    def succeeded(self) -> None:
        """All that a check led to came to its end."""
        self._failures = 0

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
