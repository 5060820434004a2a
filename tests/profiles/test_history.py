"""Whatever happens to a fleet, all vehicles end with the same profile, its totals are what was driven, and nobody else
can read any of it. See `profile_fleet` for what may happen, and where.

`EXAMPLES=500 pytest --timeout 3600 tests/profiles/test_history.py` looks longer.
"""

import asyncio
import os
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from uuid import uuid4

import pytest
from hypothesis import HealthCheck, Phase, given, settings
from hypothesis import strategies as st

from sentinel_sync.backend import BackendSettings, Extensions
from tests.fakes.reference_backend import reference_backend
from tests.profiles.fleet import (
    API_KEY,
    Arrive,
    Drive,
    Event,
    Fleet,
    Forget,
    Mishap,
    Sync,
    Together,
    left_on_disk,
    overheard,
    power_cuts_at_files,
    secrets_in,
)

#: Where few are looked at, a failure is not made smaller: that takes minutes.
EXAMPLES = int(os.environ.get("EXAMPLES", "8"))
VEHICLES = 3
#: A sync that merges, sends and replaces the file has twelve passages.
PASSAGES = 14

vehicles = st.integers(0, VEHICLES - 1)
mishaps = st.dictionaries(st.integers(0, PASSAGES), st.sampled_from(list(Mishap)), max_size=2)
drives = st.builds(
    Drive, vehicles, st.integers(0, 5000), st.sampled_from(["", "calm", "normal", "sporty"]), st.integers(0, 100)
)
syncs = st.builds(Sync, vehicles, mishaps)
events: st.SearchStrategy[Event] = st.one_of(
    drives, drives, syncs, syncs, syncs, st.builds(Together), st.builds(Arrive)
)
histories = st.lists(events, max_size=12)
several = settings(
    max_examples=EXAMPLES,
    deadline=None,
    report_multiple_bugs=False,
    phases=[Phase.explicit, Phase.reuse, Phase.generate] if EXAMPLES < 100 else list(Phase),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


@pytest.fixture(scope="module", params=["with extensions", "without extensions"])
def backend(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Iterator[tuple[str, Path]]:
    has = request.param == "with extensions"
    folder = tmp_path_factory.mktemp("backend")
    extensions = Extensions(profile_etags=has, profile_deletion=has)
    with reference_backend(BackendSettings(folder=folder, api_keys=(API_KEY,), extensions=extensions)) as url:
        yield url, folder


async def happen(fleet: Fleet, history: list[Event]) -> None:
    for event in history:
        match event:
            case Drive():
                fleet.vehicles[event.vehicle].drive(event)
            case Sync(number, troubles):
                await fleet.vehicles[number].sync(troubles)
            case Forget(number, troubles):
                await fleet.vehicles[number].forget(troubles)
            case Together():
                await asyncio.gather(*(vehicle.sync() for vehicle in fleet.vehicles))
            case Arrive():
                await fleet.deliver()


def check_secrecy(fleet: Fleet, lines: list[str], *folders: Path) -> None:
    assert not secrets_in(b"\n".join(fleet.wire))
    for folder in folders:
        for path, content in left_on_disk(folder).items():
            assert not secrets_in(content), path.name
    for path, content in left_on_disk(fleet.folder).items():
        assert fleet.driver.encode() not in content, path.name
    said = "\n".join(lines).encode()
    assert not secrets_in(said)
    assert fleet.driver.encode() not in said


@several
@given(history=histories)
def test_all_vehicles_end_with_the_same_profile_and_what_was_driven(
    backend: tuple[str, Path], history: list[Event]
) -> None:
    url, stored = backend

    async def play(folder: Path) -> None:
        async with Fleet(url, folder, f"driver-{uuid4().hex}", size=VEHICLES) as fleet:
            with power_cuts_at_files(fleet), overheard() as lines:
                fields = {vehicle.number: list(vehicle.profile() or {}) for vehicle in fleet.vehicles}
                await happen(fleet, history)
                await fleet.quiesce()
                first, *others = (fleet.normal(vehicle) for vehicle in fleet.vehicles)
                assert first is not None
                assert all(other == first for other in others)
                assert first["total_distance"] == fleet.driven
                assert first["total_time"] == fleet.driven / 4
                assert first["session_count"] == fleet.sessions
                assert sorted(first["metrics"]["gap"]) == list(range(1, fleet.sessions + 1))
                assert 0.0 <= first["safety_score"] <= 100.0
                assert {vehicle.number: list(vehicle.profile() or {}) for vehicle in fleet.vehicles} == fields
                assert isinstance((fleet.vehicles[0].profile() or {})["last_updated"], str)
                # And then there is nothing more to say.
                puts = fleet.puts
                await fleet.quiesce(1)
                assert fleet.puts == puts
            check_secrecy(fleet, lines, folder, stored)

    with TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


@several
@given(before=histories, forget=st.builds(Forget, vehicles, mishaps), after=histories)
def test_a_forgotten_driver_is_forgotten_everywhere(
    backend: tuple[str, Path], before: list[Event], forget: Forget, after: list[Event]
) -> None:
    url, stored = backend

    async def play(folder: Path) -> None:
        async with Fleet(url, folder, f"driver-{uuid4().hex}", size=VEHICLES) as fleet:
            with power_cuts_at_files(fleet), overheard() as lines:
                await happen(fleet, [*before, forget])
                assert fleet.vehicles[forget.vehicle].profile() is None
                await happen(fleet, after)
                await fleet.quiesce()
                assert [vehicle.profile() for vehicle in fleet.vehicles] == [None] * VEHICLES
                shown = [vehicle.synchronizer.snapshot() for vehicle in fleet.vehicles]
                assert [(profiles.profiles, profiles.to_forget) for profiles in shown] == [(0, 0)] * VEHICLES
                await still_forgotten(fleet)
            check_secrecy(fleet, lines, folder, stored)

    with TemporaryDirectory() as folder:
        asyncio.run(play(Path(folder)))


async def still_forgotten(fleet: Fleet) -> None:
    """What the backend holds, if anything, is a tombstone: nothing of a profile comes out of it."""
    for vehicle in fleet.vehicles:
        vehicle.client.gate.on_reachable()
        assert await vehicle.synchronizer.download_profile(fleet.driver) is None
    answer = await fleet.vehicles[0].client.get(f"/drivers/{fleet.driver}/profile")
    assert answer.status_code in {200, 410}
    assert answer.data is None or len(answer.data["encrypted_data"]) < 1000
