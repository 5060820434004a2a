"""Any history of drives, syncs, lost answers and power cuts ends with equal profiles whose totals are what was driven.

Each vehicle has a profile manager that reads its file, changes it and writes it, knowing nothing of the sync. A sync is
cut into its steps, so that the others come in between: fetching and merging, putting under the version fetched, and
replacing the file.
"""

from dataclasses import dataclass, field
from typing import Any, Literal, NamedTuple

from hypothesis import given, settings
from hypothesis import strategies as st

from sentinel_sync.profiles.rules.envelope import envelope, known_bytes, known_from, opened, state_digest
from sentinel_sync.profiles.rules.history import Cloud, Known, Merged, confirmed, dropped, merge
from sentinel_sync.profiles.rules.merge import ProfileState, join

VEHICLES = 3
START = 1_790_000_000
NOW = 10**16


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


class ForgetState(NamedTuple):
    """The vehicle's own store is gone; its file and the backend are not."""

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
        merged = merge(self.known(), cloud, read, driver_id="d", vehicle=self.name, now=NOW)
        self.record = known_bytes(dropped(merged.known))
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
                    "last_updated": START + number,
                },
            )
            for number in range(VEHICLES)
        ]
    )
    driven: int = 0
    drives: int = 0

    def drive(self, drive: Drive) -> None:
        self.drives += 1
        self.driven += drive.distance
        file = self.vehicles[drive.vehicle].file
        self.vehicles[drive.vehicle].file = file | {
            "total_distance": file["total_distance"] + drive.distance,
            "total_time": file["total_time"] + drive.distance / 4,
            "session_count": file["session_count"] + 1,
            "driving_style": drive.style or file["driving_style"],
            "safety_score": float(drive.score),
            "metrics": {"gap": [*file["metrics"]["gap"], self.drives]},
            # One clock is ten years ahead, another as much behind.
            "last_updated": START + self.drives + (drive.vehicle - 1) * 315_360_000,
        }

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


@settings(max_examples=30, deadline=None)
@given(st.lists(st.one_of(drives, st.builds(ForgetState, vehicles)), max_size=15))
def test_a_vehicle_that_lost_its_state_counts_nothing_twice(history: list[Drive | ForgetState]) -> None:
    """The vehicles take turns here: what others added since is what a lost state cannot tell."""
    world = World()
    world.quiesce()
    for event in history:
        if isinstance(event, Drive):
            world.drive(event)
            world.vehicles[event.vehicle].fetch(world.backend)
            world.vehicles[event.vehicle].put(world.backend, "done")
        else:
            # Its own last contribution tells what it was left with.
            alone = world.vehicles[event.vehicle]
            alone.fetch(world.backend)
            alone.put(world.backend, "done")
            contributed = opened(world.backend.content or b"{}", "d", own=False).state.contributions[alone.name].left
            known = alone.known()
            if known is not None and contributed and known.bases[-1:] == contributed[-1:]:
                alone.record = None
    world.quiesce()
    assert {vehicle.file["total_distance"] for vehicle in world.vehicles} == {world.driven}
    assert {vehicle.file["session_count"] for vehicle in world.vehicles} == {world.drives}


def test_without_preconditions_what_was_overwritten_comes_back_with_the_next_sync() -> None:
    one = merge(None, None, {"total_distance": 10}, driver_id="d", vehicle="v1", now=NOW).known
    two = merge(None, None, {"total_distance": 20}, driver_id="d", vehicle="v2", now=NOW).known
    overwritten = two.state  # both found nothing, and the second put last
    again = merge(one, Cloud(overwritten), {"total_distance": 10}, driver_id="d", vehicle="v1", now=NOW)
    assert again.profile["total_distance"] == 30
    assert join(again.known.state, two.state) == again.known.state
    assert join(overwritten, ProfileState()) == overwritten
