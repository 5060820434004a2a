"""A new model's time of probation: how much of it has passed, and when the model is tried again."""

from dataclasses import dataclass, replace

#: A model on probation is tried so many times, evenly, …
_TRIALS = 10
#: … but not more often than this, seconds: a validator may take a minute of the processor's time, …
_SHORTEST = 10.0
#: … and not less often than this.
_LONGEST = 900.0


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

    def after(self, seconds: float) -> "Probation":
        """The same, so many seconds later."""
        return replace(self, passed=self.passed + max(0.0, seconds))

    def next_trial(self) -> float:
        """Seconds until the next trial; the last one is at the end."""
        return min(self.left, max(_SHORTEST, min(_LONGEST, self.seconds / _TRIALS)))
