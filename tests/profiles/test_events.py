"""What happens to a vehicle's state or file, and what the driver's totals are then: the table of docs/profiles.md.

Each row is played on a backend with and without ETags, over real files and a real store; each sync is a process of its
own, as an ignition is.
"""

import asyncio
import json
import logging
import shutil
from collections.abc import AsyncIterator, Iterable
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sentinel_sync.backend import BackendSettings, Extensions, running_server
from sentinel_sync.base.errors import UndecidedProfileError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.profiles.keys import GivenKeys
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.profiles.rules.descent import Keep
from sentinel_sync.settings import CloudSettings
from tests.profiles.fleet import KEY, NO_TLS

DRIVER = "driver_123"
#: What its manager stamps a profile with goes on by so many seconds each time.
STEP = 60.000041
CREATED = "2026-03-02T07:55:10.000012"


class Car:
    """One vehicle: its file, which the manager writes, and its state folder."""

    def __init__(self, world: "World", name: str, vehicle_id: str | None) -> None:
        self._world = world
        self.folder = world.folder / name
        self.state = self.folder / "state"
        self.file = self.folder / "profiles" / f"{DRIVER}.json"
        self.file.parent.mkdir(parents=True)
        self.vehicle_id = vehicle_id or name

    @property
    def profile(self) -> dict[str, Any]:
        """What the manager reads."""
        profile: dict[str, Any] = json.loads(self.file.read_text())
        return profile

    @property
    def total(self) -> float:
        """The distance that the manager shows."""
        distance: float = self.profile["total_distance"]
        return distance

    def write(self, total: float, **fields: Any) -> None:
        """The manager writes its file, with the time it has now."""
        before = self.profile if self.file.exists() else {"driver_id": DRIVER, "name": "Z", "created_at": CREATED}
        self.file.write_text(
            json.dumps(before | {"total_distance": total, "last_updated": self._world.stamp()} | fields)
        )

    def drive(self, distance: float) -> None:
        """The manager adds to what it reads."""
        self.write(self.total + distance)

    @asynccontextmanager
    async def running(self) -> AsyncIterator[ProfileSynchronizer]:
        """One process."""
        values = {
            "api_url": self._world.url,
            "api_key": "key",
            "vehicle_id": self.vehicle_id,
            "rate_limit": 0,
            "state_dir": self.state,
            "profiles_dir": self.file.parent,
        }
        async with (
            httpx.AsyncClient(verify=NO_TLS) as http,
            CloudAPIClient(settings=CloudSettings.model_validate(values), http=http, rng=Random(1)) as client,
        ):
            yield ProfileSynchronizer(client, keys=GivenKeys([KEY]))

    async def sync(self) -> int:
        """One ignition: all is synced."""
        async with self.running() as profiles:
            return await profiles.sync_all_profiles()

    def lose_state(self) -> None:
        """The vehicle is imaged anew; the profile's file is kept."""
        shutil.rmtree(self.state)

    def back_up(self, name: str = "backup") -> None:
        """Keep a copy of the state folder."""
        shutil.copytree(self.state, self.folder / name)

    def restore(self, name: str = "backup") -> None:
        """Put the copy back."""
        shutil.rmtree(self.state)
        shutil.copytree(self.folder / name, self.state)


class World:
    """Vehicles over one backend."""

    def __init__(self, url: str, folder: Path) -> None:
        self.url = url
        self.folder = folder
        self._now = datetime(2026, 11, 1, 8, 0, 0, 250_000, tzinfo=UTC).timestamp()

    def stamp(self) -> str:
        """The next time that a manager writes."""
        self._now += STEP
        return datetime.fromtimestamp(self._now, UTC).replace(tzinfo=None).isoformat()

    def car(self, name: str, total: float | None = None, *, vehicle_id: str | None = None, **fields: Any) -> Car:
        """One more vehicle, with a profile where a distance is given."""
        car = Car(self, name, vehicle_id)
        if total is not None:
            car.write(total, **fields)
        return car

    async def settle(self, *cars: Car) -> list[float]:
        """Everybody syncs until there is nothing to say; returns the distance that each shows."""
        for _ in range(3):
            for car in cars:
                await car.sync()
        return [car.total for car in cars]


@pytest.fixture(params=[True, False], ids=["with ETags", "without ETags"])
async def world(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[World]:
    extensions = Extensions(profile_etags=request.param)
    backend = BackendSettings(folder=tmp_path / "backend", api_keys=("key",), extensions=extensions)
    async with running_server(backend) as url:
        yield World(url, tmp_path)


async def two(world: World, one: float = 100, other: float = 200) -> tuple[Car, Car]:
    """Two vehicles that have each other's metres."""
    cars = world.car("one", one), world.car("two", other)
    assert await world.settle(*cars) == [one + other] * 2
    return cars


# --- the state folder is lost, or put back ---


async def test_state_lost_and_the_file_kept(world: World) -> None:
    one, other = await two(world)
    one.lose_state()
    assert await world.settle(one, other) == [300, 300]


async def test_state_lost_and_driven_on_before_anybody_synced(world: World) -> None:
    one, other = await two(world)
    one.lose_state()
    one.drive(40)
    other.drive(2)
    assert await world.settle(one, other) == [342, 342]


async def test_state_lost_twice_in_both_vehicles(world: World) -> None:
    one, other = await two(world)
    for car in (one, other, one, other):
        car.lose_state()
        car.drive(5)
        await car.sync()
    assert await world.settle(one, other) == [320, 320]


async def test_state_lost_by_a_manager_that_stamps_nothing(world: World) -> None:
    one, other = world.car("one"), world.car("two")
    for car, total in ((one, 100), (other, 200)):
        car.file.write_text(json.dumps({"driver_id": DRIVER, "total_distance": total}))
    await world.settle(one, other)
    one.lose_state()
    assert await world.settle(one, other) == [300, 300]


async def test_state_put_back_from_yesterday(world: World) -> None:
    one, other = world.car("one", 100), world.car("two", 200)
    await one.sync()
    one.back_up()
    await world.settle(one, other)
    one.drive(10)
    await world.settle(one, other)
    one.restore()
    assert await world.settle(one, other) == [310, 310]


@pytest.mark.parametrize("synced", [True, False], ids=["synced before", "not synced before"])
async def test_state_put_back_and_driven_on(world: World, synced: bool) -> None:
    one, other = world.car("one", 100), world.car("two", 200)
    await one.sync()
    one.back_up()
    await world.settle(one, other)
    one.drive(10)
    if synced:
        await one.sync()
    one.restore()
    one.drive(7)
    other.drive(3)
    assert await world.settle(one, other) == [320, 320]


async def test_state_and_file_both_put_back_and_driven_on(world: World) -> None:
    """What was driven since the backup is at the backend; what is driven after it counts on top."""
    one, other = world.car("one", 100), world.car("two", 200)
    await one.sync()
    one.back_up()
    file = one.file.read_bytes()
    await world.settle(one, other)
    one.drive(10)
    await world.settle(one, other)
    one.restore()
    one.file.write_bytes(file)
    one.drive(20)
    assert await world.settle(one, other) == [330, 330]


async def test_state_put_back_from_before_it_was_lost(world: World, caplog: pytest.LogCaptureFixture) -> None:
    """The folder that was begun in between is gone, and is no other vehicle."""
    one, other = await two(world)
    one.back_up()
    one.lose_state()
    one.drive(5)
    await world.settle(one, other)
    one.restore()
    assert await world.settle(one, other) == [305, 305]
    other.drive(1)
    one.drive(1)
    assert await world.settle(one, other) == [307, 307]
    assert "two vehicles write as" not in caplog.text


# --- the file is put back, or copied ---


async def test_an_older_copy_of_the_file_put_back(world: World, caplog: pytest.LogCaptureFixture) -> None:
    one, other = await two(world)
    file = one.file.read_bytes()
    for _ in range(12):
        one.drive(1)
        await one.sync()
    one.file.write_bytes(file)
    assert await world.settle(one, other) == [312, 312]


async def test_an_older_copy_that_nobody_remembers_is_said(world: World, caplog: pytest.LogCaptureFixture) -> None:
    before = world.stamp()
    one, other = await two(world)
    one.write(30, last_updated=before)
    with caplog.at_level(logging.WARNING):
        assert await world.settle(one, other) == [300, 300]
    assert "is an older copy that was put back" in caplog.text


async def test_the_file_copied_to_a_vehicle_that_had_none(world: World) -> None:
    one, other = await two(world)
    third = world.car("three")
    shutil.copy(one.file, third.file)
    one.drive(4)
    assert await world.settle(one, other, third) == [304] * 3
    third.drive(6)
    assert await world.settle(one, other, third) == [310] * 3


async def test_an_older_file_copied_to_a_vehicle_that_had_none(world: World) -> None:
    one, other = await two(world)
    third = world.car("three")
    shutil.copy(one.file, third.file)
    one.drive(4)
    await world.settle(one, other)
    assert await world.settle(third, one, other) == [304] * 3


async def test_the_file_copied_to_a_vehicle_that_had_none_and_driven_on(world: World) -> None:
    """Its readings tell that it is a copy; without them it could be that vehicle's own, and is added up."""
    one, other = world.car("one", 100, metrics={"gap": [1, 2, 3]}), world.car("two", 200, metrics={"gap": []})
    await world.settle(one, other)
    third = world.car("three")
    shutil.copy(one.file, third.file)
    third.write(340, metrics={"gap": [1, 2, 3, 4]})
    assert await world.settle(third, one, other) == [340] * 3


async def test_a_driven_copy_without_readings_may_be_the_vehicles_own_and_is_added_up(world: World) -> None:
    one, other = await two(world)
    third = world.car("three")
    shutil.copy(one.file, third.file)
    third.drive(40)
    assert await world.settle(third, one, other) == [640] * 3


async def test_the_file_copied_over_the_one_of_another_vehicle(world: World) -> None:
    one, other = await two(world)
    other.drive(50)
    await other.sync()
    shutil.copy(other.file, one.file)  # which has not heard of the fifty
    assert await world.settle(one, other) == [350, 350]


async def test_a_driven_file_copied_before_its_own_vehicle_synced_it(world: World) -> None:
    one, other = await two(world)
    other.drive(50)
    shutil.copy(other.file, one.file)
    assert await world.settle(one, other) == [350, 350]


# --- resets and corrections ---


@pytest.mark.parametrize("synced", [True, False], ids=["synced at zero", "first synced when driven on"])
async def test_a_reset_is_a_reset_everywhere(world: World, synced: bool, caplog: pytest.LogCaptureFixture) -> None:
    one, other = await two(world)
    one.write(0)
    with caplog.at_level(logging.WARNING):
        if synced:
            assert await world.settle(one, other) == [0, 0]
        one.drive(40)
        assert await world.settle(one, other) == [40, 40]
    assert "was reset or corrected" in caplog.text
    other.drive(5)
    one.drive(1)
    assert await world.settle(other, one) == [46, 46]


async def test_a_correction_counts_as_it_is(world: World) -> None:
    one, other = world.car("one", 100), world.car("two")
    await one.sync()
    one.write(1_000_000)
    await one.sync()
    one.write(101)
    shutil.copy(one.file, other.file)
    assert await world.settle(one, other) == [101, 101]


async def test_what_was_driven_elsewhere_before_the_reset_is_reset(world: World) -> None:
    one, other = await two(world)
    other.drive(30)
    one.write(0)
    await one.sync()
    assert await world.settle(other, one) == [0, 0]


async def test_what_was_driven_elsewhere_after_the_reset_counts(world: World) -> None:
    one, other = await two(world)
    one.write(0)
    await one.sync()
    other.drive(30)  # in a vehicle that has not heard of it
    assert await world.settle(other, one) == [30, 30]


async def test_of_two_resets_the_later_one_counts(world: World) -> None:
    one, other = await two(world)
    one.write(0)
    other.write(0)
    other.drive(9)
    assert await world.settle(one, other) == [9, 9]


async def test_a_reset_after_the_state_was_lost_and_found(world: World) -> None:
    one, other = await two(world)
    one.lose_state()
    await one.sync()
    one.write(0)
    assert await world.settle(one, other) == [0, 0]


async def test_a_reset_leaves_the_readings_that_the_file_has(world: World) -> None:
    one, other = world.car("one", 100, metrics={"gap": [1, 2]}), world.car("two", 200, metrics={"gap": []})
    await world.settle(one, other)
    one.write(0, metrics={"gap": []})
    await one.sync()
    one.write(8, metrics={"gap": [3]})
    assert await world.settle(one, other) == [8, 8]
    assert [car.profile["metrics"] for car in (one, other)] == [{"gap": [3]}] * 2


async def test_a_profile_enrolled_anew_adds_to_what_is_known(world: World) -> None:
    one, other = await two(world)
    one.write(7, created_at="2026-11-20T00:00:00.5")
    assert await world.settle(one, other) == [307, 307]


@pytest.mark.parametrize(
    ("before", "after"),
    [
        ({"driving_style": "calm"}, {"driving_style": "sporty"}),
        ({"metrics": {"gap": [1]}}, {"metrics": {"gap": [2]}}),
    ],
    ids=["fields", "readings"],
)
async def test_a_manager_that_goes_on_from_its_memory_counts_nothing_twice(
    world: World, before: dict[str, Any], after: dict[str, Any], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = world.car("one", 100, **before), world.car("two", 200, **after)
    memory = one.profile
    await world.settle(one, other)
    one.write(160, **{name: memory[name] for name in before})  # it has not read the three hundred
    assert await world.settle(one, other) == [360, 360]
    assert "goes on from an older one" in caplog.text


async def test_a_reset_to_less_than_was_driven_elsewhere_is_known_by_what_came_from_there(world: World) -> None:
    one = world.car("one", 10, driving_style="calm", safety_score=80.0)
    other = world.car("two", 200, driving_style="sporty", safety_score=90.0)
    await world.settle(one, other)
    one.write(40)  # reset, and driven on, by a manager that has read what the vehicle was left with
    assert await world.settle(one, other) == [40, 40]


# --- one vehicle id, two vehicles ---


@pytest.mark.parametrize("totals", [(100, 70), (70, 100), (100, 100.5)])
async def test_two_vehicles_with_one_id(
    world: World, totals: tuple[float, float], caplog: pytest.LogCaptureFixture
) -> None:
    one, other = (world.car(name, total, vehicle_id="v") for name, total in zip("ab", totals, strict=True))
    assert await world.settle(one, other) == [sum(totals)] * 2
    one.drive(10)
    other.drive(20)
    assert await world.settle(one, other) == [sum(totals) + 30] * 2
    assert "two vehicles write as v: a copied image perhaps" in caplog.text
    async with one.running() as profiles:
        await profiles.sync_all_profiles()
        assert profiles.snapshot().warning == "two vehicles write as v: give each its own vehicle_id"


@pytest.mark.parametrize(("more", "less"), [(100, 70), (70, 130), (50, 50)])
async def test_a_cloned_image_with_its_state(world: World, more: float, less: float) -> None:
    one = world.car("a", 10, vehicle_id="v")
    await one.sync()
    shutil.copytree(one.folder, world.folder / "b")
    other = Car.__new__(Car)
    other.__dict__ |= one.__dict__ | {"folder": world.folder / "b", "state": world.folder / "b" / "state"}
    other.file = other.folder / "profiles" / f"{DRIVER}.json"
    one.drive(more)
    other.drive(less)
    assert await world.settle(one, other) == [10 + more + less] * 2


async def test_two_vehicles_with_one_id_beside_a_third(world: World) -> None:
    cars = [
        world.car("a", 100, vehicle_id="v"),
        world.car("b", 70, vehicle_id="v"),
        world.car("c", 5),
    ]
    assert await world.settle(*cars) == [175] * 3


# --- what nobody can know ---


def unstamped(car: Car, total: float) -> None:
    """A manager that stamps nothing."""
    car.file.write_text(json.dumps({"driver_id": DRIVER, "total_distance": total}))


@pytest.mark.parametrize(("keep", "total"), [(Keep.LOCAL, 101), (Keep.FLEET, 1200), (Keep.SUM, 1301)])
async def test_what_nobody_can_know_is_decided_by_a_person(world: World, keep: Keep, total: float) -> None:
    one, other = world.car("one"), world.car("two")
    unstamped(one, 1000)
    unstamped(other, 200)
    await world.settle(one, other)
    unstamped(one, 101)  # a correction, or an older copy
    assert await one.sync() == 0
    assert await other.sync() == 1
    assert (one.total, other.total) == (101, 1200)
    async with one.running() as profiles:
        await profiles.sync_all_profiles()
        assert "profiles resolve DRIVER --keep local|fleet|sum" in (profiles.snapshot().reason or "")
        with pytest.raises(UndecidedProfileError):
            await profiles.sync_profile(DRIVER, one.profile)
        await profiles.resolve_profile(DRIVER, keep)
    # The decision outlives the process, is carried out once, and what is driven since counts.
    unstamped(one, 103)
    assert await world.settle(one, other) == [total + 2] * 2
    unstamped(other, other.total + 1)
    assert await world.settle(one, other) == [total + 3] * 2


async def test_an_older_copy_that_was_driven_on_is_no_correction_where_its_readings_tell(world: World) -> None:
    one = world.car("one", 100, metrics={"gap": [1]})
    await one.sync()
    one.write(300, metrics={"gap": [1, 2, 3]})
    await one.sync()
    one.write(120, metrics={"gap": [1, 9]})
    assert await one.sync() == 0
    assert one.total == 120


async def test_a_vehicle_as_far_on_as_before_the_reset_is_asked(world: World) -> None:
    """Did its manager go on from memory, or has it driven all of that since?"""
    one, other = await two(world)
    other.drive(1)
    await world.settle(other, one)
    one.write(0)
    await world.settle(one, other)
    other.write(310)
    assert await other.sync() == 0
    async with other.running() as profiles:
        await profiles.resolve_profile(DRIVER, Keep.FLEET)
    assert await world.settle(other, one) == [0, 0]


async def test_a_backup_from_before_the_state_was_lost_and_driven_on_asks(world: World) -> None:
    one, other = await two(world)
    one.back_up()
    one.lose_state()
    one.drive(5)
    await world.settle(one, other)
    one.restore()
    one.drive(7)
    assert await one.sync() == 0
    async with one.running() as profiles:
        await profiles.resolve_profile(DRIVER, Keep.LOCAL)
    assert await world.settle(one, other) == [312, 312]


async def test_a_reset_to_zero_needs_no_stamp(world: World) -> None:
    one, other = world.car("one"), world.car("two")
    unstamped(one, 100)
    unstamped(other, 200)
    await world.settle(one, other)
    unstamped(one, 0)
    assert await world.settle(one, other) == [0, 0]


async def test_nothing_is_written_where_nothing_is_decided(world: World) -> None:
    one, other = await two(world)
    one.write(30, last_updated=one.profile["last_updated"])
    before = one.file.read_bytes()
    assert await one.sync() == 0
    assert one.file.read_bytes() == before
    await other.sync()
    assert other.total == 300


async def settled_together(cars: Iterable[Car]) -> None:
    """All at once, as at the end of a shift."""
    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(car.running()) for car in cars]
        for _ in range(4):
            await asyncio.gather(*(profiles.sync_all_profiles() for profiles in running))


async def test_all_of_it_at_once(world: World) -> None:
    cars = [world.car(name, 10.0 * number) for number, name in enumerate("abc", 1)]
    await settled_together(cars)
    assert await world.settle(*cars) == [60.0] * 3
    for car in cars:
        car.lose_state()
        car.drive(1)
    await settled_together(cars)
    assert [car.total for car in cars] == [63.0] * 3
