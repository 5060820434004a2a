"""What the processes of a simulated fleet are told, and what they tell: the script and the plan, then each second.

Of a second: requests by kind and outcome, how long they took, what waits, how late the loop was.
"""

import json
import math
from collections import Counter
from collections.abc import Iterable
from dataclasses import asdict, dataclass, field
from typing import Any, Self

Window = tuple[float, float]
_THIRD: Window = (1 / 3, 2 / 3)


@dataclass(frozen=True, slots=True)
class Script:
    """One course of events; times are shares of the run.

    Attributes:
        about: For people.
        away: When no vehicle has a network; all have one again in the same instant, and are told so.
        refused: When no connection is taken; vehicles find out by themselves that this is over.
        release_at: When a new model is published, and all vehicles look for it.
    """

    about: str
    away: Window | None = None
    refused: Window | None = None
    release_at: float | None = None


SCRIPTS = {
    "steady": Script("trips end as they do all day"),
    "tunnel": Script(
        "a third in, nobody has a network for a third of the time, and all have it back at once", away=_THIRD
    ),
    "outage": Script(
        "a third in, nobody can connect for a third of the time, nor is told when it is over", refused=_THIRD
    ),
    "release": Script("a third in, a model is published, and every vehicle wants it", release_at=1 / 3),
}


@dataclass(frozen=True, slots=True)
class Plan:
    """What one process does.

    Attributes:
        first: Number of its first vehicle.
        vehicles: How many it has.
        duration: Of the run, seconds.
        trip_interval: Between the ends of a vehicle's trips, seconds on average.
        folder: Where its vehicles keep their state.
        trusted_key: Base64 of the key that signs the model.
    """

    url: str
    api_key: str
    fleet_id: str
    script: str
    first: int
    vehicles: int
    duration: float
    trip_interval: float
    folder: str
    trusted_key: str
    seed: int
    ca_file: str | None = None

    def to_json(self) -> str:
        """One line, for a process's standard input: the key is in it, so it is no argument."""
        return json.dumps(asdict(self))

    @classmethod
    def from_json(cls, line: str) -> Self:
        """What `to_json` made."""
        return cls(**json.loads(line))


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
