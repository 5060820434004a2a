"""Trying a model: what came of it, and how often that is done again while the model is on probation."""

import signal
from dataclasses import dataclass, replace
from typing import Self


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
class Probation:
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
