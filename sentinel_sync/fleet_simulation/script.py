"""What a simulated fleet goes through, and what one of its processes is told to do."""

import json
from dataclasses import asdict, dataclass
from typing import Self

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
