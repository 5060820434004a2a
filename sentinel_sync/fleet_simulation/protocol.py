"""What was seen in each second: requests by kind and outcome, how long they took, what waits, how late the loop was."""

import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from typing import Any

BASE = 1.1
"""Times are counted in classes that grow by a tenth: a percentile is right to a tenth."""
SHORTEST = 0.0005
"""Seconds; what is shorter is counted as this."""
REFUSED = "no connection"


def kind_of(method: str, path: str) -> str:
    """What a request is for."""
    match path.strip("/").split("/"):
        case ["health"]:
            return "probe"
        case ["trips", *_]:
            return "trips"
        case ["vehicles", *_] if method == "PUT":
            return "report"
        case ["models", *_]:
            return "listing"
        case ["model-files" | "model-deltas", *_]:
            return "model file"
        case _:
            return "other"


@dataclass(slots=True)
class Second:
    """One second of a fleet.

    Attributes:
        requests: By kind.
        outcomes: By status, or `no connection`.
        times: Of answered requests, by class.
        waiting: Trips that have ended and are not acknowledged.
        lag: How late the busiest process's loop was, seconds: above a tenth, it is the simulator that is slow.
    """

    requests: Counter[str] = field(default_factory=Counter)
    outcomes: Counter[str] = field(default_factory=Counter)
    times: Counter[int] = field(default_factory=Counter)
    waiting: int = 0
    lag: float = 0.0

    def count(self, kind: str, outcome: str, seconds: float | None) -> None:
        """One request; `seconds` is None where there was no answer."""
        self.requests[kind] += 1
        self.outcomes[outcome] += 1
        if seconds is not None:
            self.times[math.ceil(math.log(max(seconds, SHORTEST) / SHORTEST, BASE))] += 1

    def add(self, other: "Second") -> None:
        """What another process saw in the same second."""
        self.requests += other.requests
        self.outcomes += other.outcomes
        self.times += other.times
        self.waiting += other.waiting
        self.lag = max(self.lag, other.lag)

    def to_json(self) -> dict[str, Any]:
        """For the line that a process prints."""
        return {
            "requests": self.requests,
            "outcomes": self.outcomes,
            "times": self.times,
            "waiting": self.waiting,
            "lag": self.lag,
        }

    @classmethod
    def from_json(cls, facts: dict[str, Any]) -> "Second":
        """What `to_json` made, after JSON."""
        return cls(
            Counter(facts["requests"]),
            Counter(facts["outcomes"]),
            Counter({int(place): number for place, number in facts["times"].items()}),
            facts["waiting"],
            facts["lag"],
        )

    @property
    def errors(self) -> int:
        """Answers that say that the backend is in trouble: 429 and 5xx."""
        return sum(number for outcome, number in self.outcomes.items() if outcome == "429" or outcome.startswith("5"))


def percentile(seconds: Iterable[Second], share: float) -> float | None:
    """How long a request took at most, for a share of those that were answered, in seconds; None where none was."""
    times: Counter[int] = Counter()
    for second in seconds:
        times.update(second.times)
    left = share * times.total()
    for place in sorted(times):
        left -= times[place]
        if left <= 0:
            return float(SHORTEST * BASE**place)
    return None
