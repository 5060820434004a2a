"""The right to be forgotten: here at once, at the backend as soon as it can be told, and then in every vehicle."""

import asyncio
import json
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import pytest
from cryptography.fernet import Fernet

from sentinel_sync.backend import BackendSettings, Extensions
from sentinel_sync.base.errors import ProfileError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.profiles.keys import GivenKeys, Keyring
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.profiles.rules.envelope import opened, put_right
from sentinel_sync.settings import CloudSettings
from tests.fakes.reference_backend import reference_backend
from tests.fakes.scripted_server import Asked, Said, scripted
from tests.profiles.fleet import API_KEY, KEY, YEARS, Drive, Fleet

NEW = {"total_distance": 5, "session_count": 1, "last_updated": 1_790_000_500, "driving_style": "calm"}


@pytest.fixture(params=["with extensions", "without extensions"])
def url(request: pytest.FixtureRequest, tmp_path: Path) -> Iterator[str]:
    has = request.param == "with extensions"
    extensions = Extensions(profile_etags=has, profile_deletion=has)
    backend = BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,), extensions=extensions)
    with reference_backend(backend) as url:
        yield url


@pytest.fixture
async def fleet(url: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with Fleet(url, tmp_path / "vehicles", "driver-1") as fleet:
        yield fleet


async def test_a_driver_who_enrols_again_begins_anew(fleet: Fleet) -> None:
    await fleet.quiesce()
    first, second, third = fleet.vehicles
    await first.forget({})
    await fleet.quiesce()
    # By a clock that is right, and by one that is ten years ahead; one that is behind cannot show that it is a new one.
    for number, vehicle in enumerate((second, third), 1):
        vehicle.write(NEW | {"driver_id": fleet.driver, "created_at": vehicle.clock.now() + 1})
        await vehicle.sync()
        assert (vehicle.profile() or {})["total_distance"] == 5 * number
    await fleet.quiesce()
    assert (await first.synchronizer.download_profile(fleet.driver) or {})["total_distance"] == 10
    assert first.profile() is None  # its manager has not enrolled the driver again
    assert [(vehicle.profile() or {}).get("total_distance") for vehicle in (second, third)] == [10, 10]
    await second.forget({})
    await fleet.quiesce()
    assert [vehicle.profile() for vehicle in fleet.vehicles] == [None] * 3


async def test_an_old_profile_that_is_put_back_goes_again_also_while_the_backend_is_away(fleet: Fleet) -> None:
    await fleet.quiesce()
    first, second, _ = fleet.vehicles
    backup = second.profile()
    assert backup is not None
    await first.forget({})
    await second.sync()
    assert second.profile() is None
    second.write(backup)
    second.client.gate.halt("test", "the backend is away")
    await second.synchronizer.step()
    assert second.profile() is None
    second.client.gate.resume("test")
    second.write(backup | {"total_distance": 10**6})
    await second.sync()
    assert second.profile() is None
    with pytest.raises(ProfileError, match="forgotten"):
        await second.synchronizer.sync_profile(fleet.driver, backup)


async def test_whoever_drives_on_after_the_forgetting_has_it_removed_as_well(fleet: Fleet) -> None:
    await fleet.quiesce()
    first, _, third = fleet.vehicles
    await first.forget({})
    third.drive(Drive(2, 700, "sporty", 10))  # by a clock that is ten years ahead
    assert third.clock.now() > first.clock.now() + YEARS
    await third.sync()
    assert third.profile() is None
    assert await first.synchronizer.download_profile(fleet.driver) is None


async def test_a_profile_that_nobody_can_read_can_be_forgotten(fleet: Fleet) -> None:
    await fleet.quiesce()
    first, second, _ = fleet.vehicles
    body = {"driver_id": fleet.driver, "encrypted_data": Fernet(Fernet.generate_key()).encrypt(b"{}").decode()}
    assert (await first.client.put(f"/drivers/{fleet.driver}/profile", body | {"updated_at": 1})).success
    second.file.write_text("{")
    await second.forget({})
    assert not second.file.exists()
    await fleet.quiesce()
    assert [vehicle.profile() for vehicle in fleet.vehicles] == [None] * 3
    assert second.synchronizer.snapshot().to_forget == 0


async def test_the_order_outlives_the_process_and_is_not_readable_on_disk(fleet: Fleet, tmp_path: Path) -> None:
    first, second, _ = fleet.vehicles
    await fleet.quiesce()
    first.client.gate.halt("test", "the backend is away")
    assert await first.synchronizer.forget_profile(fleet.driver) is False
    assert first.profile() is None
    await first.end()
    for path in first.state_dir.iterdir():
        assert fleet.driver.encode() not in path.read_bytes(), path.name
    await first.start()
    assert first.synchronizer.snapshot().to_forget == 0  # it has not looked yet
    first.client.gate.halt("test", "the backend is away")
    await first.synchronizer.step()
    assert first.synchronizer.snapshot().to_forget == 1
    first.client.gate.resume("test")
    await first.sync()
    await first.sync()
    assert first.synchronizer.snapshot().to_forget == 0
    await second.sync()
    assert second.profile() is None
    assert tmp_path in second.folder.parents


async def test_an_order_is_carried_over_to_new_keys_once_and_without_its_key_it_is_said_to_be_lost(
    tmp_path: Path,
) -> None:
    def settings(name: str) -> CloudSettings:
        cloud = {"api_url": "http://127.0.0.1:9", "api_key": API_KEY, "vehicle_id": name, "rate_limit": 0}
        folders = {"state_dir": tmp_path / name / "state", "profiles_dir": tmp_path / name / "profiles"}
        return CloudSettings.model_validate(cloud | folders)

    async def to_forget(*keys: str, again: bool = False) -> tuple[int, str | None]:
        async with CloudAPIClient(settings=settings("vehicle_1")) as client:
            synchronizer = ProfileSynchronizer(client, keys=GivenKeys(keys))
            await synchronizer.prepare()
            client.gate.halt("test", "the backend is away")
            if again:
                assert await synchronizer.forget_profile("driver-1") is False
            await synchronizer.step()
            shown = synchronizer.snapshot()
            return shown.to_forget, shown.reason

    new = Fernet.generate_key().decode()
    assert (await to_forget(KEY, again=True))[0] == 1
    assert (await to_forget(new, KEY, again=True))[0] == 1, "the same order, now under the new key alone"
    assert (await to_forget(new))[0] == 1
    count, reason = await to_forget(KEY)
    assert (count, "an order to forget a driver cannot be read" in (reason or "")) == (1, True), reason


MICRO = 1_000_000
NOW = 1_795_000_000 * MICRO


@pytest.mark.parametrize(
    ("ordered", "after", "true_now", "counts_as"),
    [
        pytest.param(NOW - MICRO, 0, NOW, NOW - MICRO, id="a clock that was right"),
        pytest.param(NOW + YEARS * MICRO, 0, NOW, NOW, id="ten years ahead"),
        pytest.param(5, 0, NOW, NOW, id="never set"),
        pytest.param(NOW + YEARS * MICRO, 0, None, NOW + YEARS * MICRO, id="the true time is not known"),
        pytest.param(NOW - MICRO, NOW, NOW, NOW + 1, id="never before the last forgetting"),
    ],
)
def test_an_order_counts_from_the_true_time(ordered: int, after: int, true_now: int | None, counts_as: int) -> None:
    assert put_right(ordered, after, true_now) == counts_as


@pytest.mark.parametrize("refusal", [404, 405, 501])
async def test_where_deletion_is_not_offered_a_tombstone_is_put(tmp_path: Path, refusal: int) -> None:
    shelf: dict[str, Any] = {"body": None}

    def answer(asked: Asked) -> Said:
        match asked.method:
            case "DELETE":
                return Said(refusal)
            case "PUT":
                shelf["body"] = json.loads(asked.body)
                return Said.json({})
        return Said(404) if shelf["body"] is None else Said.json(shelf["body"])

    async with scripted(answer) as server, Fleet(server.url, tmp_path, "driver-1", size=2) as fleet:
        await fleet.quiesce()
        await fleet.vehicles[0].forget({})
        await fleet.quiesce()
        assert [vehicle.profile() for vehicle in fleet.vehicles] == [None, None]
        assert [vehicle.synchronizer.snapshot().to_forget for vehicle in fleet.vehicles] == [0, 0]
        # It is asked for once; what the backend said is remembered.
        assert sum(asked.method == "DELETE" for asked in server.asked) == 1
        keyring = await asyncio.to_thread(Keyring.of, (KEY.encode(),))
        assert opened(keyring.open(shelf["body"]["encrypted_data"]), "driver-1", own=False).state.is_tombstone


@pytest.mark.parametrize("deletes", [True, False], ids=["DELETE", "a tombstone"])
async def test_a_driver_is_forgotten_where_a_condition_cannot_be_met(tmp_path: Path, deletes: bool) -> None:
    """A backend that compares its own weak ETag as a strong one: nobody was faster (wire contract)."""
    shelf: dict[str, Any] = {"body": None, "version": 0}

    def answer(asked: Asked) -> Said:
        exists, tag = shelf["body"] is not None, f'W/"{shelf["version"]}"'
        if asked.method == "GET":
            return Said.json(shelf["body"], ETag=tag) if exists else Said(404)
        if exists and "if-match" in asked.headers:
            return Said(412)
        if asked.method == "DELETE" and not deletes:
            return Said(405)
        shelf["body"] = None if asked.method == "DELETE" else json.loads(asked.body)
        shelf["version"] += 1
        return Said.json({}, ETag=f'W/"{shelf["version"]}"')

    async with scripted(answer) as server, Fleet(server.url, tmp_path, "driver-1", size=2) as fleet:
        await fleet.quiesce()
        await fleet.vehicles[0].forget({})
        await fleet.quiesce()
        assert [vehicle.profile() for vehicle in fleet.vehicles] == [None, None]
        assert [vehicle.synchronizer.snapshot().to_forget for vehicle in fleet.vehicles] == [0, 0]
