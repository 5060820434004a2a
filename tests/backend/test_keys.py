"""Keys of their own for vehicles and operators: what each may, for whom, and how they are changed without a gap."""

from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sentinel_sync.backend.context import Backend
from sentinel_sync.backend.keys import (
    KEPT_SECONDS,
    Grant,
    NoSuchKeyError,
    Scope,
    issue_key,
    list_keys,
    revoke_keys,
    rotate_keys,
)
from tests.backend.vehicle import SettableClock, Vehicle, make_trip, problem


class KeyedVehicle(Vehicle):
    """One that has a key of its own."""

    key = ""

    def headers(self, method: str, **changed: str | None) -> dict[str, str]:
        return super().headers(method, **{"Authorization": f"Bearer {self.key}", **changed})


Issue = Callable[..., Any]


@pytest.fixture
def running(backend: httpx.AsyncClient) -> Backend:
    app: Any = vars(backend._transport)["app"]
    opened: Backend = app.state.backend
    return opened


@pytest.fixture
def with_key(backend: httpx.AsyncClient, running: Backend) -> Issue:
    async def issue(grant: Grant, vehicle_id: str = "vehicle_001", fleet_id: str = "fleet_alpha") -> KeyedVehicle:
        made = KeyedVehicle(backend, vehicle_id, fleet_id)
        made.key = await running.database.write(
            lambda connection: issue_key(connection, f"{fleet_id}/{vehicle_id}", grant, running.now())
        )
        return made

    return issue


async def test_a_vehicle_is_itself_and_nobody_else(with_key: Issue, vehicle: Vehicle) -> None:
    other_fleet = Vehicle(vehicle.http, "vehicle_009", "fleet_beta")
    assert (await other_fleet.post_trip(make_trip())).status_code == 201
    car = await with_key(Grant(frozenset({Scope.VEHICLE}), "fleet_alpha", "vehicle_001"))
    assert (await car.post_trip(make_trip())).status_code == 201
    problem(await car.post_trip(make_trip(), **{"X-Vehicle-ID": "vehicle_002"}), 403, "not-yours")
    problem(await car.post_trip(make_trip(), **{"X-Fleet-ID": "fleet_beta"}), 403, "not-yours")
    assert (await car.get("/fleet/fleet_alpha/statistics")).json()["total_trips"] == 1
    for path in ("statistics", "rankings", "trends", "comparison", "alerts", "drivers/leaderboard"):
        problem(await car.get(f"/fleet/fleet_beta/{path}"), 403, "not-yours")
    assert (await car.get("/vehicles/vehicle_001/status")).status_code == 200
    problem(await car.get("/vehicles/vehicle_002/status"), 403, "not-yours")
    for path in ("/trips", "/trips/trip_1", "/scenarios", "/scenarios/1", "/scenarios/1/parts/bev.mp4"):
        problem(await car.get(path), 403, "may-not-read")
    problem(await car.send("PUT", "/models/yolo/versions/v1.0.0", content=b"model"), 403, "may-not-publish")


async def test_an_operator_looks_at_one_fleet_and_publishes_only_where_it_may(
    with_key: Issue, vehicle: Vehicle
) -> None:
    mine, theirs = make_trip(), make_trip()
    assert (await vehicle.post_trip(mine)).status_code == 201
    assert (await Vehicle(vehicle.http, "vehicle_009", "fleet_beta").post_trip(theirs)).status_code == 201
    assert (await vehicle.register()).status_code == 201
    desk = await with_key(Grant(frozenset({Scope.READ}), "fleet_alpha"))
    listed = (await desk.get("/trips")).json()
    assert [trip["trip_id"] for trip in listed["trips"]] == [mine["trip_id"]]
    problem(await desk.get("/trips", params={"fleet_id": "fleet_beta"}), 403, "not-yours")
    assert (await desk.get(f"/trips/{mine['trip_id']}")).status_code == 200
    problem(await desk.get(f"/trips/{theirs['trip_id']}"), 404, "no-such-trip")
    assert (await desk.get("/fleet/fleet_alpha/statistics")).json()["total_vehicles"] == 1  # it is none itself
    assert len((await desk.get("/scenarios")).json()["scenarios"]) == 1
    problem(await desk.post_trip(make_trip()), 403, "not-a-vehicle")
    elsewhere = await with_key(Grant(frozenset({Scope.READ}), "fleet_beta"), "desk", "fleet_beta")
    problem(await elsewhere.get("/scenarios/20241117_103045"), 404, "no-such-scenario")
    release = await with_key(Grant(frozenset({Scope.PUBLISH})))
    assert (await release.send("PUT", "/models/yolo/versions/v1.0.0", content=b"model")).status_code == 201
    problem(await release.get("/trips"), 403, "may-not-read")


async def test_rotation_leaves_no_gap_and_an_end(
    with_key: Issue, running: Backend, server_clock: SettableClock
) -> None:
    car = await with_key(Grant(frozenset({Scope.VEHICLE}), "fleet_alpha", "vehicle_001"))
    name, old = "fleet_alpha/vehicle_001", car.key
    made = await running.database.write(lambda it: rotate_keys(it, [name], running.now(), 3600.0))
    for key in (old, made[name]):
        car.key = key
        assert (await car.post_trip(make_trip())).status_code == 201
    server_clock.now += 3601.0
    assert (await car.post_trip(make_trip())).status_code == 201
    car.key = old
    problem(await car.post_trip(make_trip()), 401, "credential")
    with pytest.raises(NoSuchKeyError, match=r"there is no key .* that still works"):
        await running.database.write(lambda it: rotate_keys(it, [name, "nobody"], running.now(), 0.0))
    car.key = made[name]
    assert (await car.post_trip(make_trip())).status_code == 201
    assert await running.database.write(lambda it: revoke_keys(it, name)) == 2
    server_clock.now += KEPT_SECONDS
    problem(await car.post_trip(make_trip()), 401, "credential")


async def test_a_key_is_nowhere_to_be_read(with_key: Issue, running: Backend) -> None:
    car = await with_key(Grant(frozenset({Scope.READ, Scope.VEHICLE}), "fleet_alpha", expires_at=2e9))
    rows = await running.database.read(lambda it: [tuple(row) for row in it.execute("SELECT * FROM api_keys")])
    assert car.key not in repr(rows)
    ((name, grant, made_at),) = await running.database.read(list_keys)
    assert (name, made_at) == ("fleet_alpha/vehicle_001", running.now())
    assert grant == Grant(frozenset({Scope.READ, Scope.VEHICLE}), "fleet_alpha", expires_at=2e9)
