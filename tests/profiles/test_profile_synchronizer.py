"""Profiles over a real socket: encrypted, merged, written where the vehicle's profile manager reads them."""

import asyncio
import base64
import hashlib
import json
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack, asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random
from typing import Any

import pytest
from cryptography.fernet import Fernet

from sentinel_sync.backend import BackendSettings, Extensions, running_server
from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    HeldError,
    NotNowError,
    ProfileError,
    UnreachableError,
)
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.profiles.backend_copy import FORGOTTEN, MAX_ROUNDS
from sentinel_sync.profiles.keys import GivenKeys, KeyFile
from sentinel_sync.profiles.profile_synchronizer import WATCH_INTERVAL, ProfileSynchronizer
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.scripted_server import Asked, Said, scripted

KEY, OTHER_KEY = (base64.urlsafe_b64encode(bytes([number]) * 32).decode() for number in (1, 2))
Profile = dict[str, Any]


@dataclass
class Vehicle:
    client: CloudAPIClient
    profiles: ProfileSynchronizer
    folder: Path
    state_dir: Path

    def put(self, driver_id: str, profile: Profile) -> None:
        (self.folder / f"{driver_id}.json").write_text(json.dumps(profile, indent=2))

    def get(self, driver_id: str) -> Profile:
        profile: Profile = json.loads((self.folder / f"{driver_id}.json").read_text())
        return profile


class Fleet:
    """Vehicles that share one backend."""

    def __init__(self, stack: AsyncExitStack, url: str, tmp_path: Path) -> None:
        self._stack = stack
        self._tmp_path = tmp_path
        self.url = url

    async def vehicle(self, name: str, keys: tuple[str, ...] = (KEY,), **settings: Any) -> Vehicle:
        folder, state_dir = self._tmp_path / name / "profiles", self._tmp_path / name / "state"
        folder.mkdir(parents=True, exist_ok=True)
        values = {
            "api_url": self.url,
            "api_key": "key",
            "vehicle_id": name,
            "rate_limit": 0,
            "timeout": 5,
            "state_dir": state_dir,
            "profiles_dir": folder,
        }
        client = CloudAPIClient(settings=CloudSettings.model_validate(values | settings), rng=Random(1))
        await self._stack.enter_async_context(client)
        return Vehicle(client, ProfileSynchronizer(client, keys=GivenKeys(keys)), folder, state_dir)


@asynccontextmanager
async def fleet_at(url: str, tmp_path: Path) -> AsyncIterator[Fleet]:
    async with AsyncExitStack() as stack:
        yield Fleet(stack, url, tmp_path)


@pytest.fixture(params=[True, False], ids=["with ETags", "without ETags"])
async def fleet(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Fleet]:
    extensions = Extensions(profile_etags=request.param)
    backend = BackendSettings(folder=tmp_path / "backend", api_keys=("key",), extensions=extensions)
    async with running_server(backend) as url, fleet_at(url, tmp_path) as fleet:
        yield fleet


def without(profile: Profile, *names: str) -> Profile:
    return {name: value for name, value in profile.items() if name not in names}


def json_files(folder: Path) -> list[Path]:
    return sorted(folder.rglob("*.json"))


def contents(folder: Path, *, but: Path) -> dict[Path, bytes]:
    files = {path: path.read_bytes() for path in folder.rglob("*") if path.is_file() and path.parent != but}
    assert files
    return files


async def test_an_uploaded_profile_comes_back_as_it_was(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    profile = json.loads((FIXTURES / "profiles" / "driver_123.json").read_text())
    assert await vehicle.profiles.upload_profile("driver_123", profile) is True
    assert await vehicle.profiles.upload_profile("driver_123", profile) is True
    assert await vehicle.profiles.download_profile("driver_123") == profile
    assert await (await fleet.vehicle("vehicle_002")).profiles.download_profile("driver_123") == profile
    assert await vehicle.profiles.download_profile("nobody") is None


async def test_documented_profiles_merge_as_documented_and_never_twice(fleet: Fleet) -> None:
    one, two = await fleet.vehicle("vehicle_001"), await fleet.vehicle("vehicle_002")
    await one.profiles.sync_profile(
        "driver_123", {"total_distance": 2000.0, "safety_score": 90.0, "last_updated": 2000.0}
    )
    local = {"total_distance": 1000.0, "safety_score": 80.0, "last_updated": 1000.0}
    for _ in range(3):
        merged = await two.profiles.sync_profile("driver_123", local)
        assert merged == {"total_distance": 3000.0, "safety_score": 85.0, "last_updated": 2000.0}
        local = merged


async def test_a_profile_without_merge_state_merges_as_documented(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    sealed = await vehicle.profiles.encrypt_profile({"total_distance": 2000.0, "safety_score": 90.0})
    body = {"driver_id": "driver_123", "encrypted_data": sealed, "updated_at": 5}
    assert (await vehicle.client.put("/drivers/driver_123/profile", body)).success
    merged = await vehicle.profiles.sync_profile("driver_123", {"total_distance": 1000.0, "safety_score": 80.0})
    assert merged == {"total_distance": 3000.0, "safety_score": 85.0}
    assert await vehicle.profiles.sync_profile("driver_123", merged) == merged


async def test_files_converge_over_the_fleet_and_keep_exactly_their_fields(fleet: Fleet) -> None:
    fixture = json.loads((FIXTURES / "profiles" / "driver_123.json").read_text())
    names = ["vehicle_001", "vehicle_002", "vehicle_003"]
    vehicles = [await fleet.vehicle(name) for name in names]
    for number, vehicle in enumerate(vehicles):
        start = {"total_distance": 1000.0 * number, "total_time": 0.5 * number, "session_count": number}
        vehicle.put("driver_123", fixture | start | {"created_at": f"2026-03-0{number + 1}T07:55:10.000012"})
    vehicles[2].put("driver_123", vehicles[2].get("driver_123") | {"new_field": [1]})
    for _ in range(2):
        for vehicle in vehicles:
            assert await vehicle.profiles.sync_all_profiles() == 1
    profiles = [vehicle.get("driver_123") for vehicle in vehicles]
    assert profiles[0] == profiles[1] == without(profiles[2], "new_field")
    assert list(profiles[0]) == list(fixture)
    assert profiles[0]["total_distance"] == 3000.0
    assert profiles[0]["total_time"] == 1.5
    assert profiles[0]["session_count"] == 3
    assert profiles[0]["created_at"] == "2026-03-01T07:55:10.000012"
    assert profiles[2]["new_field"] == [1]


async def test_vehicles_that_sync_at_once_lose_nothing(fleet: Fleet) -> None:
    vehicles = [await fleet.vehicle(f"vehicle_{number}") for number in range(4)]
    for number, vehicle in enumerate(vehicles):
        vehicle.put("d", {"total_distance": 10**number, "last_updated": number})
    for _ in range(6):
        for vehicle in vehicles:
            profile = vehicle.get("d")
            vehicle.put("d", profile | {"total_distance": profile["total_distance"] + 1})
        await asyncio.gather(*(vehicle.profiles.sync_all_profiles() for vehicle in vehicles))
    for _ in range(2):
        for vehicle in vehicles:
            await vehicle.profiles.sync_all_profiles()
    assert {vehicle.get("d")["total_distance"] for vehicle in vehicles} == {1111 + 6 * 4}


async def test_any_id_travels_as_itself_and_names_no_other_file(fleet: Fleet, tmp_path: Path) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    before = json_files(tmp_path)
    ids = ["a/b", "..", ".", "50% off", "Zoë Ünal", "a.b", "x?y#z", "%2e%2e/%2F", "../../etc", "a"]
    for number, driver_id in enumerate(ids):
        merged = await vehicle.profiles.sync_profile(driver_id, {"driver_id": driver_id, "total_distance": number})
        assert merged["total_distance"] == number
    for number, driver_id in enumerate(ids):
        found = await vehicle.profiles.download_profile(driver_id)
        assert found == {"driver_id": driver_id, "total_distance": number}
    assert json_files(tmp_path) == before


async def test_nothing_readable_leaves_the_profiles_folder(fleet: Fleet, tmp_path: Path) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    secret = {"driver_id": "driver-secret", "name": "Zacharias Secret", "face_embedding": [0.123456789], "x_field": 1}
    vehicle.put("driver-secret", secret)
    assert await vehicle.profiles.sync_all_profiles() == 1
    await vehicle.client.close()
    needles = [b"Zacharias", b"0.123456789", b"face_embedding", b"x_field", KEY.encode()]
    for path, content in contents(tmp_path, but=vehicle.folder).items():
        assert not [needle for needle in needles if needle in content], path.name
        assert "backend" in path.parts or b"driver-secret" not in content, path.name


async def test_keys_are_rotated_without_a_gap(fleet: Fleet) -> None:
    old = await fleet.vehicle("vehicle_001", (OTHER_KEY,))
    await old.profiles.sync_profile("d", {"total_distance": 10})
    new = await fleet.vehicle("vehicle_002", (KEY, OTHER_KEY))
    assert (await new.profiles.sync_profile("d", {"total_distance": 5}))["total_distance"] == 15
    with pytest.raises(ProfileError, match="cannot be opened"):
        await old.profiles.download_profile("d")
    newest = await fleet.vehicle("vehicle_003", (KEY,))
    assert await newest.profiles.download_profile("d") == {"total_distance": 15}


async def test_a_vehicle_whose_record_does_not_open_any_more_begins_anew_from_the_backend(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001", (OTHER_KEY,))
    await vehicle.profiles.sync_profile("d", {"total_distance": 10})
    await vehicle.client.close()
    helper = await fleet.vehicle("vehicle_002", (KEY, OTHER_KEY))
    await helper.profiles.sync_profile("d", {"total_distance": 5})
    again = await fleet.vehicle("vehicle_001", (KEY,))
    assert (await again.profiles.sync_profile("d", {"total_distance": 12}))["total_distance"] == 17


async def test_foreign_tampered_and_truncated_copies_change_nothing(tmp_path: Path) -> None:
    held: dict[str, Any] = {}

    def answer(asked: Asked) -> Said:
        assert asked.method == "GET", "the backend's copy must not be overwritten"
        return Said.json(held)

    token = Fernet(KEY).encrypt(b'{"total_distance": 2000}').decode()
    elsewhere = Fernet(KEY).encrypt(b'{"driver_id": "e", "total_distance": 2000}').decode()
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 1000})
        original = (vehicle.folder / "d.json").read_bytes()
        copies: list[Any] = [
            {"encrypted_data": Fernet(OTHER_KEY).encrypt(b"{}").decode()},
            {"encrypted_data": token[:50] + ("A" if token[50] != "A" else "B") + token[51:]},
            {"encrypted_data": token[:-20]},
            {"encrypted_data": ""},
            {"encrypted_data": None},
            {"encrypted_data": 5},
            {},
            [],
            None,
            {"encrypted_data": Fernet(KEY).encrypt(b"no json").decode()},
            {"encrypted_data": Fernet(KEY).encrypt(b'{"total_distance": "2000"}').decode()},
            {"encrypted_data": Fernet(KEY).encrypt(b'{"sentinel_profile": 9}').decode()},
            {"encrypted_data": elsewhere},
            {"encrypted_data": token, "driver_id": "e"},
        ]
        for copy in copies:
            held = copy
            with pytest.raises(ProfileError):
                await vehicle.profiles.sync_profile("d", {"total_distance": 1000})
            with pytest.raises(ProfileError):
                await vehicle.profiles.upload_profile("d", {"total_distance": 1000})
            assert await vehicle.profiles.sync_all_profiles() == 0
        assert (vehicle.folder / "d.json").read_bytes() == original


@pytest.mark.parametrize(
    "odd",
    [
        '{"total_distance": 10, "seat": 1E400}',
        '{"total_distance": ' + "9" * 400 + "}",
        '{"seat": NaN}',
        '{"seat": -Infinity}',
        '{"total_distance": 10, "prefs": {"a": [' + "9" * 4000 + "]}}",
        "{",
        "[1]",
        '{"total_distance": ' + "[" * 300 + "}",
    ],
)
async def test_one_odd_profile_costs_only_itself(fleet: Fleet, odd: str) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    (vehicle.folder / "odd.json").write_text(odd)
    vehicle.put("good", {"total_distance": 1000})
    assert await vehicle.profiles.sync_all_profiles() == 1
    assert (await vehicle.profiles.download_profile("good") or {})["total_distance"] == 1000
    assert (vehicle.folder / "odd.json").read_text() == odd


async def test_unusable_local_profiles_are_left_alone_and_cost_only_themselves(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    vehicle.put("good", {"driver_id": "good", "total_distance": 1})
    vehicle.put("text", {"total_distance": "1000"})
    vehicle.put("negative", {"total_distance": -1})
    vehicle.put("another", {"driver_id": "somebody"})
    (vehicle.folder / "broken.json").write_text("{")
    with (vehicle.folder / "huge.json").open("wb") as file:
        file.truncate(50 << 20)
    before = {path.name: path.read_bytes() for path in vehicle.folder.iterdir()}
    assert await vehicle.profiles.sync_all_profiles() == 1
    assert {path.name: path.read_bytes() for path in vehicle.folder.iterdir()} == before
    assert await vehicle.profiles.download_profile("text") is None
    # Not again before they change.
    assert await vehicle.profiles.sync_now() == 0
    vehicle.put("text", {"total_distance": 1000})
    assert await vehicle.profiles.sync_now() == 1


@pytest.mark.parametrize(
    "profile",
    [{"total_distance": "5"}, {"a": float("nan")}, {"a": object()}, {"driver_id": "e"}, {"a": "x" * (50 << 20)}],
    ids=["number as text", "NaN", "object", "another driver", "50 MB"],
)
async def test_a_callers_bad_profile_is_refused_before_anything_is_sent(profile: Profile, tmp_path: Path) -> None:
    async with scripted(lambda _: Said(500)) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        with pytest.raises(ProfileError):
            await vehicle.profiles.sync_profile("d", profile)
        with pytest.raises(ProfileError):
            await vehicle.profiles.upload_profile("d", profile)
        assert server.asked == []


async def test_what_is_no_id_is_refused(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    for driver_id in ("", "a\nb", "x" * 2000, "\ud800"):
        for call in (vehicle.profiles.sync_profile, vehicle.profiles.upload_profile):
            with pytest.raises(ValueError, match="driver_id"):
                await call(driver_id, {})
        with pytest.raises(ValueError, match="driver_id"):
            await vehicle.profiles.download_profile(driver_id)


async def test_switched_off_nothing_is_sent(tmp_path: Path) -> None:
    async with scripted(lambda _: Said(500)) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001", sync_profiles=False)
        vehicle.put("d", {"total_distance": 1})
        assert await vehicle.profiles.sync_all_profiles() == 0
        assert await vehicle.profiles.sync_now() == 0
        assert await vehicle.profiles.step() == WATCH_INTERVAL
        for refused in (
            vehicle.profiles.sync_profile("d", {}),
            vehicle.profiles.upload_profile("d", {}),
            vehicle.profiles.download_profile("d"),
        ):
            with pytest.raises(HeldError, match="sync_profiles is false"):
                await refused
        assert server.asked == []


async def test_where_the_data_plan_is_used_up_nothing_is_sent_and_the_files_stay(tmp_path: Path) -> None:
    async with scripted(lambda _: Said(404)) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001", data_budget={"any": {"day": 1_000_000}})
        vehicle.put("d", {"total_distance": 1})
        await vehicle.profiles.prepare()
        Foundation.of(vehicle.client).policy.count(0, 1_000_000)
        for refused in (
            vehicle.profiles.sync_profile("d", {}),
            vehicle.profiles.upload_profile("d", {}),
            vehicle.profiles.download_profile("d"),
        ):
            with pytest.raises(HeldError, match="profiles wait until"):
                await refused
        assert await vehicle.profiles.sync_all_profiles() == 0
        assert server.asked == []
        assert vehicle.get("d") == {"total_distance": 1}


async def test_a_plan_that_runs_out_between_fetching_and_putting_holds_the_put(tmp_path: Path) -> None:
    async with fleet_at("", tmp_path) as fleet:

        def answer(asked: Asked) -> Said:
            Foundation.of(vehicle.client).policy.count(0, 1_000_000)
            return Said(404) if asked.method == "GET" and asked.path != "/health" else Said.json({})

        async with scripted(answer) as server:
            fleet.url = server.url
            vehicle = await fleet.vehicle("vehicle_001", data_budget={"any": {"day": 1_000_000}})
            with pytest.raises(HeldError, match="profiles wait until"):
                await vehicle.profiles.sync_profile("d", {"total_distance": 1})
            assert [asked for asked in server.asked if asked.method == "PUT"] == []


@pytest.mark.parametrize(
    ("found", "when", "is_sent"),
    [
        pytest.param(410, 410, False, id="forgotten, and it keeps no time"),
        pytest.param(410, 404, True, id="gone is all that it says"),
    ],
)
async def test_what_a_backend_says_of_a_profile_that_is_gone(
    tmp_path: Path, found: int, when: int, is_sent: bool
) -> None:
    def answer(asked: Asked) -> Said:
        if asked.path == "/health" or asked.method == "PUT":
            return Said.json({})
        for earlier in reversed(server.asked):
            if earlier.method == "PUT":
                return Said.json(json.loads(earlier.body))
        return Said(when if asked.headers.get("if-none-match") == FORGOTTEN else found)

    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        assert await vehicle.profiles.download_profile("d") is None
        if is_sent:
            assert await vehicle.profiles.sync_profile("d", {"total_distance": 1}) == {"total_distance": 1}
        else:
            with pytest.raises(ProfileError, match="the driver was forgotten"):
                await vehicle.profiles.sync_profile("d", {"total_distance": 1})
        assert any(asked.method == "PUT" for asked in server.asked) is is_sent


@pytest.mark.parametrize("asked_first", [None, FORGOTTEN], ids=["the profile", "when it was forgotten"])
async def test_a_refusal_is_not_taken_for_a_profile_that_is_not_there(tmp_path: Path, asked_first: str | None) -> None:
    def answer(asked: Asked) -> Said:
        if asked.path == "/health":
            return Said.json({"status": "ok"})
        return Said(403 if asked.headers.get("if-none-match") == asked_first else 410)

    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        with pytest.raises(CloudError, match="403"):
            await vehicle.profiles.sync_profile("d", {"total_distance": 1})
        assert all(asked.method == "GET" for asked in server.asked)


async def test_a_driver_who_is_forgotten_while_the_profile_is_put_is_looked_for_again(tmp_path: Path) -> None:
    def answer(asked: Asked) -> Said:
        if asked.path == "/health":
            return Said.json({"status": "ok"})
        has_put = any(earlier.method == "PUT" for earlier in server.asked)
        return Said(410 if has_put else 404)

    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 1})
        assert await vehicle.profiles.sync_all_profiles() == 0
        assert sum(asked.method == "PUT" for asked in server.asked) == 1, "it is not put again"
        assert not (vehicle.folder / "d.json").exists(), "here the driver is forgotten as well"


async def test_without_a_file_there_is_nothing_to_decide(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    with pytest.raises(ProfileError, match="there is nothing to decide"):
        await vehicle.profiles.resolve_profile("nobody", "local")


def _shelf(
    answer_after: Callable[[Asked], Said | None] = lambda _: None, *, etags: bool = True, mark: str = ""
) -> tuple[dict[str, Any], Callable[[Asked], Said]]:
    """A backend of one profile; `answer_after(asked)` may answer otherwise once the work is done."""
    shelf: dict[str, Any] = {"body": None, "version": 0}

    def tag() -> str:
        return f'{mark}"{shelf["version"]}"'

    def done(asked: Asked) -> Said:
        exists = shelf["body"] is not None
        if asked.method == "GET":
            if not exists:
                return Said(404)
            return Said(304) if etags and asked.headers.get("if-none-match") == tag() else Said.json(shelf["body"])
        wanted = asked.headers.get("if-match") if exists else "" if "if-match" in asked.headers else None
        if etags and wanted != (tag() if exists else None):
            return Said(412)
        shelf["body"], shelf["version"] = json.loads(asked.body), shelf["version"] + 1
        return Said.json({})

    def answer(asked: Asked) -> Said:
        said = done(asked)
        if etags and said.status < 400:
            said.headers["ETag"] = tag()
        return answer_after(asked) or said

    return shelf, answer


async def test_a_lost_answer_counts_nothing_twice_and_nothing_is_lost(tmp_path: Path) -> None:
    lose = {"PUT"}
    _, answer = _shelf(lambda asked: Said(cut=True) if asked.method in lose else None)
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        with pytest.raises(UnreachableError):
            await vehicle.profiles.sync_profile("d", {"total_distance": 10})
        lose.clear()
        vehicle.client.gate.on_reachable()
        assert (await vehicle.profiles.sync_profile("d", {"total_distance": 15}))["total_distance"] == 15
        assert (await vehicle.profiles.download_profile("d")) == {"total_distance": 15}


async def test_an_unchanged_profile_costs_one_conditional_request(tmp_path: Path) -> None:
    _, answer = _shelf()
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 10})
        assert await vehicle.profiles.sync_all_profiles() == 1
        assert [asked.method for asked in server.asked] == ["GET", "PUT"]
        assert server.asked[1].headers["if-none-match"] == "*"
        assert await vehicle.profiles.sync_all_profiles() == 1
        assert [asked.method for asked in server.asked] == ["GET", "PUT", "GET"]
        assert server.asked[2].headers["if-none-match"] == '"1"'
        assert await vehicle.profiles.sync_now() == 0
        assert len(server.asked) == 3


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_a_driver_forgotten_while_orders_are_looked_for_is_not_said_to_be_forgotten_everywhere(
    tmp_path: Path, turns: int
) -> None:
    """Seen right after the start: True, while the backend was never told."""
    _, answer = _shelf()
    async with (
        scripted(lambda asked: Said(503) if asked.method in {"DELETE", "PUT"} else answer(asked)) as server,
        fleet_at(server.url, tmp_path) as fleet,
    ):
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 10})
        looking = asyncio.create_task(vehicle.profiles.step())
        for _ in range(turns):
            await asyncio.sleep(0)
        forgotten = await vehicle.profiles.forget_profile("d")
        await asyncio.gather(looking, return_exceptions=True)
        told = any(asked.method == "DELETE" for asked in server.asked)
        assert forgotten is False
        assert told or await vehicle.profiles.forget_profile("d") is False


async def test_a_weak_etag_is_given_back_as_it_was(tmp_path: Path) -> None:
    """Seen: `W/` was stripped, and a backend that compares texts answered 412 for ever."""
    _, answer = _shelf(mark="W/")
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        await vehicle.profiles.sync_profile("d", {"total_distance": 10})
        await vehicle.profiles.sync_profile("d", {"total_distance": 20})
        puts = [asked for asked in server.asked if asked.method == "PUT"]
        assert [asked.headers.get("if-match") for asked in puts] == [None, 'W/"1"']


async def test_where_a_condition_cannot_be_met_it_is_put_without_one_and_read_back(tmp_path: Path) -> None:
    """A backend that compares strongly, and gives weak ETags: nobody was faster."""
    shelf, answer = _shelf(lambda asked: None, mark="W/")

    def strong(asked: Asked) -> Said:
        if asked.method == "PUT" and "if-match" in asked.headers:
            return Said(412)
        if asked.method == "PUT" and shelf["body"] is not None:
            asked.headers["if-match"] = f'W/"{shelf["version"]}"'  # as a backend that takes it without a condition
        return answer(asked)

    async with scripted(strong) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        await vehicle.profiles.sync_profile("d", {"total_distance": 10})
        merged = await vehicle.profiles.sync_profile("d", {"total_distance": 20})
        assert merged["total_distance"] == 20
        methods = [asked.method for asked in server.asked][2:]
        assert methods == ["GET", "PUT", "GET", "PUT", "GET"]


async def test_a_backend_on_which_others_are_always_faster_is_given_up_for_now(tmp_path: Path) -> None:
    _, answer = _shelf()
    async with (
        scripted(lambda asked: Said(412) if asked.method == "PUT" else answer(asked)) as server,
        fleet_at(server.url, tmp_path) as fleet,
    ):
        vehicle = await fleet.vehicle("vehicle_001")
        with pytest.raises(NotNowError, match="other vehicles were faster"):
            await vehicle.profiles.sync_profile("d", {"total_distance": 10})
        assert sum(asked.method == "PUT" for asked in server.asked) == MAX_ROUNDS


async def test_without_etags_what_somebody_overwrote_is_put_again(tmp_path: Path) -> None:
    shelf, answer = _shelf(etags=False)
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        other = await fleet.vehicle("vehicle_002")
        await other.profiles.sync_profile("d", {"total_distance": 7})
        theirs = shelf["body"]
        vehicle = await fleet.vehicle("vehicle_001")
        overwrites = iter([True])

        def overwriting(asked: Asked) -> Said:
            said = answer(asked)
            if asked.method == "PUT" and next(overwrites, False):
                shelf["body"] = theirs
            return said

        server.answer = overwriting
        assert (await vehicle.profiles.sync_profile("d", {"total_distance": 10}))["total_distance"] == 17
        assert await other.profiles.download_profile("d") == {"total_distance": 17}


async def test_what_the_older_module_left_is_read_once_and_encrypted_anew(tmp_path: Path) -> None:
    key = base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", b"vehicle_001", b"sentinel_salt", 100_000))
    older = base64.b64encode(Fernet(key).encrypt(b'{"total_distance": 1000, "driver_id": "d"}')).decode()
    shelf, answer = _shelf()
    shelf["body"] = {"driver_id": "d", "encrypted_data": older, "updated_at": 5}
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        assert await vehicle.profiles.decrypt_profile(older) == {"total_distance": 1000, "driver_id": "d"}
        assert await vehicle.profiles.download_profile("d") == {"total_distance": 1000, "driver_id": "d"}
        merged = await vehicle.profiles.sync_profile("d", {"total_distance": 1200, "driver_id": "d"})
        assert merged["total_distance"] == 1200
        assert Fernet(KEY).decrypt(shelf["body"]["encrypted_data"])
        # From then on anyone who knows the id could have made it, so it is refused.
        shelf["body"] = {"driver_id": "d", "encrypted_data": older, "updated_at": 5}
        shelf["version"] += 1
        with pytest.raises(ProfileError, match="cannot be opened"):
            await vehicle.profiles.sync_profile("d", merged)


async def test_a_plain_copy_that_could_not_be_replaced_is_merged_once(tmp_path: Path) -> None:
    refuse = {"PUT"}
    shelf, answer = _shelf(lambda asked: Said(500) if asked.method in refuse else None)
    original = {"driver_id": "d", "encrypted_data": Fernet(KEY).encrypt(b'{"total_distance": 2000}').decode()}
    shelf["body"] = original
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        with pytest.raises(NotNowError):
            await vehicle.profiles.sync_profile("d", {"total_distance": 1000})
        shelf["body"] = original  # the 500 meant that it was not stored
        refuse.clear()
        vehicle.client.gate.on_reachable()
        assert (await vehicle.profiles.sync_profile("d", {"total_distance": 1000}))["total_distance"] == 3000


async def test_a_forgotten_driver_is_not_brought_back(tmp_path: Path) -> None:
    backend = BackendSettings(folder=tmp_path / "backend", api_keys=("key",))
    async with running_server(backend) as url, fleet_at(url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 1})
        assert await vehicle.profiles.sync_all_profiles() == 1
        assert (await vehicle.client.delete("/drivers/d/profile")).success
        assert await vehicle.profiles.sync_all_profiles() == 0
        assert not json_files(vehicle.folder)
        with pytest.raises(ProfileError, match="forgotten"):
            await vehicle.profiles.upload_profile("d", {"total_distance": 1})


async def test_a_file_that_changes_while_it_is_synced_keeps_the_change(tmp_path: Path) -> None:
    shelf, answer = _shelf()
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        await (await fleet.vehicle("vehicle_002")).profiles.sync_profile("d", {"total_distance": 100})
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 1})
        drives = iter([5000])

        def driving(asked: Asked) -> Said:
            if asked.method == "PUT" and (distance := next(drives, 0)):
                vehicle.put("d", {"total_distance": 1 + distance})
            return answer(asked)

        server.answer = driving
        assert await vehicle.profiles.sync_all_profiles() == 1
        assert vehicle.get("d") == {"total_distance": 5101}
        assert await vehicle.profiles.download_profile("d") == {"total_distance": 5101}
        assert shelf["version"] == 3


async def test_a_file_made_from_a_download_adds_nothing(fleet: Fleet) -> None:
    one, two = await fleet.vehicle("vehicle_001"), await fleet.vehicle("vehicle_002")
    await one.profiles.sync_profile("d", {"total_distance": 1000, "driving_style": "calm", "last_updated": 5.0})
    downloaded = await two.profiles.download_profile("d")
    assert downloaded is not None
    two.put("d", downloaded | {"total_distance": downloaded["total_distance"] + 7, "last_updated": 6.0})
    await two.profiles.sync_all_profiles()
    assert two.get("d")["total_distance"] == 1007


async def test_the_duty_syncs_at_first_then_what_changes_then_all_again(
    tmp_path: Path, clock: FakeClock, rng: Random
) -> None:
    _, answer = _shelf()
    folder = tmp_path / "profiles"
    folder.mkdir()
    async with scripted(answer) as server:
        values = {"api_url": server.url, "api_key": "key", "rate_limit": 0, "profiles_dir": folder, "sync_interval": 25}
        config = CloudSettings.model_validate(values)
        async with (
            Store(tmp_path / "state", clock=clock) as store,
            CloudAPIClient(settings=config, clock=clock, rng=rng) as client,
        ):
            profiles = ProfileSynchronizer(
                client,
                keys=GivenKeys([KEY]),
                foundation=Foundation.of(client, store, clock=clock, rng=rng, supervised=True),
            )
            assert await profiles.step() == WATCH_INTERVAL
            assert server.asked == []
            clock.tick(WATCH_INTERVAL)
            (folder / "d.json").write_text('{"total_distance": 1}')
            assert await profiles.step() == WATCH_INTERVAL
            assert [asked.method for asked in server.asked] == ["GET", "PUT"]
            clock.tick(WATCH_INTERVAL)
            assert await profiles.step() == 5.0
            assert len(server.asked) == 2
            clock.tick(5.0)
            assert await profiles.step() == WATCH_INTERVAL
            assert [asked.method for asked in server.asked] == ["GET", "PUT", "GET"]
            client.gate.halt("test", "halted")
            assert await profiles.step() == WATCH_INTERVAL
            assert len(server.asked) == 3


async def test_an_outage_leaves_what_changed_to_the_next_turn(tmp_path: Path) -> None:
    away = {True}
    _, answer = _shelf(lambda _: Said(cut=True) if away else None)
    async with scripted(answer) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        vehicle.put("d", {"total_distance": 1})
        assert await vehicle.profiles.sync_now() == 0
        with pytest.raises(CloudError):
            await vehicle.profiles.sync_profile("d", {"total_distance": 1})
        away.clear()
        vehicle.client.gate.on_reachable()
        assert await vehicle.profiles.sync_now() == 1


async def test_alone_it_syncs_in_the_background_and_stops_with_its_client(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    vehicle.put("d", {"total_distance": 1})
    answered = asyncio.Semaphore(0)
    vehicle.client.subscribe(lambda *_: answered.release())
    await vehicle.profiles.start_background_sync()
    async with asyncio.timeout(10):
        await answered.acquire()  # there is none yet
        await answered.acquire()  # now there is
    await vehicle.profiles.stop_background_sync()
    await vehicle.client.close()
    other = await fleet.vehicle("vehicle_002")
    assert await other.profiles.download_profile("d") == {"total_distance": 1}
    # The state folder is free again.
    async with Store(vehicle.state_dir) as store:
        assert len(await store.documents.keys("profile")) == 1


async def test_after_an_outage_all_are_looked_at_again(fleet: Fleet) -> None:
    one, two = await fleet.vehicle("vehicle_001"), await fleet.vehicle("vehicle_002")
    one.put("d", {"total_distance": 10, "last_updated": 5})
    two.put("d", {"total_distance": 1, "last_updated": 4})
    await one.profiles.step()
    await two.profiles.step()
    one.client.gate.halt("test", "the backend is away")
    one.put("d", {"total_distance": 15, "last_updated": 6})
    await one.profiles.step()
    shown = one.profiles.snapshot()
    assert (shown.unsent, shown.held) == (1, "the backend is away")
    two.put("d", two.get("d") | {"total_distance": 111, "last_updated": 7})
    await two.profiles.step()
    one.client.gate.resume("test")
    # Long before the next sync of all is due.
    await one.profiles.step()
    assert one.get("d")["total_distance"] == 115 + 1
    shown = one.profiles.snapshot()
    assert (shown.profiles, shown.unsent, shown.failing, shown.held, shown.reason) == (1, 0, 0, None, None)
    assert shown.synced_at is not None


async def test_the_status_counts_and_names_nobody(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    vehicle.put("driver-secret", {"total_distance": 1})
    vehicle.put("driver-broken", {"total_distance": "1"})
    await vehicle.profiles.step()
    shown = vehicle.profiles.snapshot()
    assert (shown.profiles, shown.unsent, shown.failing, shown.to_forget) == (2, 1, 1, 0)
    assert shown.reason == "total_distance must be a number, not str"
    assert "driver-" not in shown.model_dump_json()


async def test_a_vehicle_without_profiles_asks_for_no_key(tmp_path: Path) -> None:
    async with scripted(lambda _: Said(500)) as server, fleet_at(server.url, tmp_path) as fleet:
        vehicle = await fleet.vehicle("vehicle_001")
        keyless = ProfileSynchronizer(vehicle.client, keys=KeyFile(tmp_path / "missing"))
        await keyless.step()
        vehicle.put("d", {"total_distance": 1})
        with pytest.raises(ConfigurationError):
            await keyless.step()
        assert server.asked == []


async def test_a_broken_file_does_not_take_a_callers_merged_profile_from_him(fleet: Fleet) -> None:
    vehicle = await fleet.vehicle("vehicle_001")
    (vehicle.folder / "d.json").write_text("{")
    assert await vehicle.profiles.sync_profile("d", {"total_distance": 3}) == {"total_distance": 3}
    assert (vehicle.folder / "d.json").read_text() == "{"
