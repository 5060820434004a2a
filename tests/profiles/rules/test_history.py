"""Any history of drives, syncs, lost answers and power cuts ends with equal profiles whose totals are what was driven.

Each vehicle has a profile manager that reads its file, changes it and writes it, knowing nothing of the sync. A sync is
cut into its steps, so that the others come in between: fetching and merging, putting under the version fetched, and
replacing the file.
"""

import os
from dataclasses import dataclass, field
from itertools import count
from typing import Any, Literal, NamedTuple

from hypothesis import Phase, given, settings
from hypothesis import strategies as st

from sentinel_sync.base.errors import UndecidedProfileError
from sentinel_sync.profiles.rules.descent import Known, confirmed, dropped
from sentinel_sync.profiles.rules.envelope import envelope, known_bytes, known_from, opened, state_digest
from sentinel_sync.profiles.rules.history import Merged, MergeInput, merge
from sentinel_sync.profiles.rules.merge import ProfileState, join
from sentinel_sync.profiles.rules.state_folders import Cloud

VEHICLES = 3
START = 1_790_000_000
NOW = 10**16
TOKENS = count()


#: `EXAMPLES=5000 pytest --timeout 3600 tests/profiles/rules/test_history.py -k whatever` looks longer.
EXAMPLES = int(os.environ.get("EXAMPLES", "40"))
#: A history that fails is not made shorter: that takes minutes.
QUICK = [Phase.explicit, Phase.reuse, Phase.generate]
#: One clock is ten years ahead, another as much behind.
AHEAD = 315_360_000


def told(vehicle: str) -> MergeInput:
    ahead = (int(vehicle[1:]) - 1) * AHEAD * 1_000_000
    return MergeInput(driver_id="d", vehicle=vehicle, now=NOW, token=f"{next(TOKENS):x}", ahead=ahead)


class Drive(NamedTuple):
    vehicle: int
    distance: int
    style: str
    score: int


class Sync(NamedTuple):
    vehicle: int
    outcome: Literal["done", "answer lost", "not sent", "power cut before the file", "power cut after the file"]


class Fetch(NamedTuple):
    """The first half of a sync whose second half comes later."""

    vehicle: int


class Put(NamedTuple):
    vehicle: int


class LoseState(NamedTuple):
    """The vehicle's own store is gone; its file and the backend are not."""

    vehicle: int


class PutStateBack(NamedTuple):
    """The vehicle's own store is the one of so many syncs ago."""

    vehicle: int
    age: int


class Reset(NamedTuple):
    """The driver has the vehicle's manager begin the totals anew."""

    vehicle: int


@dataclass
class Backend:
    content: bytes | None = None
    version: int = 0


@dataclass
class Vehicle:
    name: str
    file: dict[str, Any]
    record: bytes | None = None
    under_way: tuple[Merged, int, dict[str, Any]] | None = None

    def known(self) -> Known | None:
        return None if self.record is None else known_from(self.record)

    def fetch(self, backend: Backend) -> None:
        cloud = None if backend.content is None else opened(backend.content, "d", own=False)
        read = dict(self.file)
        merged = merge(self.known(), cloud, read, told(self.name))
        self.record = known_bytes(merged.before)
        self.under_way = merged, backend.version, read

    def put(self, backend: Backend, outcome: str) -> None:
        if self.under_way is None:
            return
        (merged, version, read), self.under_way = self.under_way, None
        if outcome == "not sent" or version != backend.version:
            return
        held = None if backend.content is None else state_digest(opened(backend.content, "d", own=False).state)
        if held != state_digest(merged.known.state):
            backend.content, backend.version = envelope(merged.known.state, "d"), backend.version + 1
        if outcome == "answer lost":
            return
        self.record = known_bytes(merged.known)
        if outcome != "power cut before the file" and self.file == read:
            self.file = {name: merged.profile[name] for name in read}
            left = confirmed
        elif outcome == "power cut before the file":
            # At the next start the profiles are looked at before anybody drives.
            self.fetch(backend)
            self.under_way = None
            return
        else:
            left = dropped
        if outcome != "power cut after the file":
            self.record = known_bytes(left(merged.known))


@dataclass
class World:
    backend: Backend = field(default_factory=Backend)
    vehicles: list[Vehicle] = field(
        default_factory=lambda: [
            Vehicle(
                f"v{number}",
                {
                    "driver_id": "d",
                    "total_distance": 0,
                    "total_time": 0.0,
                    "session_count": 0,
                    "driving_style": "normal",
                    "safety_score": 80.0,
                    "metrics": {"gap": []},
                    "last_updated": START + number + (number - 1) * AHEAD,
                },
            )
            for number in range(VEHICLES)
        ]
    )
    driven: int = 0
    drives: int = 0
    sessions: int = 0
    turns: int = 0

    def drive(self, drive: Drive) -> None:
        self.turns += 1
        self.drives += 1
        self.sessions += 1
        self.driven += drive.distance
        file = self.vehicles[drive.vehicle].file
        self.vehicles[drive.vehicle].file = file | {
            "total_distance": file["total_distance"] + drive.distance,
            "total_time": file["total_time"] + drive.distance / 4,
            "session_count": file["session_count"] + 1,
            "driving_style": drive.style or file["driving_style"],
            "safety_score": float(drive.score),
            "metrics": {"gap": [*file["metrics"]["gap"], self.drives]},
            "last_updated": self.now(drive.vehicle),
        }

    def reset(self, reset: Reset) -> None:
        self.turns += 1
        self.driven = self.sessions = 0
        vehicle = self.vehicles[reset.vehicle]
        zeros = {"total_distance": 0, "total_time": 0.0, "session_count": 0}
        vehicle.file = vehicle.file | zeros | {"last_updated": self.now(reset.vehicle)}

    def now(self, vehicle: int) -> int:
        return START + VEHICLES + self.turns + (vehicle - 1) * AHEAD

    def quiesce(self) -> None:
        for _ in range(VEHICLES + 2):
            for vehicle in self.vehicles:
                vehicle.fetch(self.backend)
                vehicle.put(self.backend, "done")


vehicles = st.integers(0, VEHICLES - 1)
drives = st.builds(
    Drive, vehicles, st.integers(0, 5000), st.sampled_from(["", "calm", "normal", "sporty"]), st.integers(0, 100)
)
syncs = st.builds(
    Sync,
    vehicles,
    st.sampled_from(
        ["done", "done", "answer lost", "not sent", "power cut before the file", "power cut after the file"]
    ),
)
histories = st.lists(st.one_of(drives, syncs, syncs, st.builds(Fetch, vehicles), st.builds(Put, vehicles)), max_size=40)


@settings(max_examples=80, deadline=None)
@given(histories)
def test_every_history_ends_with_equal_profiles_and_the_totals_that_were_driven(
    history: list[Drive | Sync | Fetch | Put],
) -> None:
    world = World()
    for event in history:
        match event:
            case Drive():
                world.drive(event)
            case Sync(number, outcome):
                world.vehicles[number].fetch(world.backend)
                world.vehicles[number].put(world.backend, outcome)
            case Fetch(number):
                world.vehicles[number].fetch(world.backend)
            case Put(number):
                world.vehicles[number].put(world.backend, "done")
    world.quiesce()
    first, *others = (vehicle.file for vehicle in world.vehicles)
    assert all(other == first for other in others)
    assert first["total_distance"] == world.driven
    assert first["total_time"] == world.driven / 4
    assert first["session_count"] == world.drives
    assert sorted(first["metrics"]["gap"]) == list(range(1, world.drives + 1))
    assert 0.0 <= first["safety_score"] <= 100.0
    settled = world.backend.version
    world.quiesce()
    assert world.backend.version == settled


losses = st.one_of(
    drives,
    drives,
    st.builds(Reset, vehicles),
    st.builds(LoseState, vehicles),
    st.builds(PutStateBack, vehicles, st.integers(0, 5)),
)


@settings(max_examples=EXAMPLES, deadline=None, phases=QUICK)
@given(st.lists(losses, max_size=20))
def test_whatever_happens_to_the_state_the_totals_are_what_was_driven(
    history: list[Drive | Reset | LoseState | PutStateBack],
) -> None:
    """The vehicles take turns here, and hear of the others only when their own turn comes."""
    world = World()
    world.quiesce()
    records, kinds = [[vehicle.record] for vehicle in world.vehicles], {type(event) for event in history}
    for event in history:
        vehicle = world.vehicles[event.vehicle]
        try:
            match event:
                case Drive():
                    world.drive(event)
                case Reset():
                    vehicle.fetch(world.backend)  # the driver resets what he sees
                    vehicle.put(world.backend, "done")
                    world.reset(event)
                case LoseState():
                    vehicle.record = None
                    continue
                case PutStateBack(number, age):
                    vehicle.record = records[number][-1 - age :][0]
                    continue
            vehicle.fetch(world.backend)
        except UndecidedProfileError:
            # It asks rather than guess: numbers as small as these look like others.
            assert kinds >= {Reset} or kinds >= {LoseState, PutStateBack}
            return
        vehicle.put(world.backend, "done")
        records[event.vehicle].append(vehicle.record)
    try:
        world.quiesce()
    except UndecidedProfileError:
        assert kinds >= {Reset} or kinds >= {LoseState, PutStateBack}
        return
    assert {vehicle.file["total_distance"] for vehicle in world.vehicles} == {world.driven}
    assert {vehicle.file["session_count"] for vehicle in world.vehicles} == {world.sessions}
    settled = world.backend.version
    world.quiesce()
    assert world.backend.version == settled


def test_without_preconditions_what_was_overwritten_comes_back_with_the_next_sync() -> None:
    one = merge(None, None, {"total_distance": 10}, told("v1")).known
    two = merge(None, None, {"total_distance": 20}, told("v2")).known
    overwritten = two.state  # both found nothing, and the second put last
    again = merge(one, Cloud(overwritten), {"total_distance": 10}, told("v1"))
    assert again.profile["total_distance"] == 30
    assert join(again.known.state, two.state) == again.known.state
    assert join(overwritten, ProfileState()) == overwritten
