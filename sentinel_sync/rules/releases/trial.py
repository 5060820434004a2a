"""What came of trying a model: it passed, it failed, or nobody knows."""

import signal
from dataclasses import dataclass


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
