"""Trips: strict, exactly once, and all there when asked for."""

import asyncio
import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from typing import Any

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.settings import BackendSettings
from tests.backend.vehicle import KEY, Vehicle, make_trip, problem, stored_bytes, trip_id


async def test_a_trip_is_stored_and_can_be_queried_back(vehicle: Vehicle) -> None:
    trip = make_trip()
    response = await vehicle.post_trip(trip)
    assert response.status_code == 201
    assert response.json() == {"trip_id": trip["trip_id"], "status": "uploaded"}
    shown = (await vehicle.get(f"/trips/{trip['trip_id']}")).json()
    assert shown.items() >= trip.items()
    assert shown["vehicle_id"] == "vehicle_001"
    assert shown["fleet_id"] == "fleet_alpha"
    assert shown["received_at"] == "2026-11-23T08:00:00+00:00"


async def test_a_second_post_is_409_and_no_second_row(vehicle: Vehicle) -> None:
    trip = make_trip()
    assert (await vehicle.post_trip(trip)).status_code == 201
    problem(await vehicle.post_trip({**trip, "distance": 1.0}), 409, "trip-exists")
    listed = (await vehicle.get("/trips")).json()
    assert listed["total"] == 1
    assert listed["repeats"] == 1
    assert listed["trips"][0]["distance"] == trip["distance"]


async def test_many_at_once_are_one_row_each(vehicle: Vehicle) -> None:
    trips = [make_trip() for _ in range(40)]
    answers = await asyncio.gather(*(vehicle.post_trip(trip) for trip in trips * 3))
    assert sorted(answer.status_code for answer in answers) == [201] * 40 + [409] * 80
    assert (await vehicle.get("/trips")).json()["total"] == 40


async def test_what_was_acknowledged_is_there_after_a_restart(backend_settings: BackendSettings) -> None:
    trip = make_trip()
    for expected in (201, 409):
        app = create_app(backend_settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
        ):
            assert (await Vehicle(client).post_trip(trip)).status_code == expected
            assert (await Vehicle(client).get("/vehicles/vehicle_001/status")).json()["total_trips"] == 1


async def test_the_key_of_a_trip_is_its_id(vehicle: Vehicle) -> None:
    trip = make_trip()
    problem(await vehicle.post_trip(trip, **{"Idempotency-Key": "other"}), 400, "headers")


NOT_ALLOWED: list[tuple[str, Any]] = [
    ("trip_id", "trip_1795421742668"),
    ("trip_id", "trip_" + "0" * 32),
    ("trip_id", 5),
    ("start_time", "2026-11-23T06:00:00"),
    ("start_time", "2026-11-23 06:00:00Z"),
    ("start_time", 1_795_000_000),
    ("start_time", "2026-13-23T06:00:00Z"),
    ("start_time", "9999-12-31T23:59:59-10:00"),
    ("duration", -1),
    ("duration", "3600"),
    ("distance", None),
    ("distance", 1e300),
    ("max_speed", True),
    ("alert_count", 7),
    ("alert_count", 6.5),
    ("critical_alert_count", -1),
    ("average_risk_score", 1.01),
    ("max_risk_score", -0.1),
    ("driver_id", "driver_123"),
    ("driver_id", "d_" + "AB" * 16),
    ("start_location", {"lat": 91, "lon": 0}),
    ("start_location", {"lat": 1}),
    ("start_location", {"lat": 1, "lon": 2, "alt": 3}),
    ("start_location", "37.77,-122.42"),
    ("interrupted", "no"),
    ("interrupted", 0),
    ("schema_version", 2),
    ("schema_version", "1"),
    ("driver_name", "Ada"),
]


async def test_refuses_what_the_contract_does_not_allow(vehicle: Vehicle) -> None:
    for field, value in NOT_ALLOWED:
        trip = make_trip(**{field: value})
        body = problem(await vehicle.post_trip(trip, **{"Idempotency-Key": trip_id()}), 422, "invalid-body")
        fields = {error["field"].partition(".")[0] for error in body["errors"]}
        # The sum of the alerts belongs to no single field.
        assert fields == ({"body"} if (field, value) == ("alert_count", 7) else {field}), (field, value)
    assert (await vehicle.get("/trips")).json()["total"] == 0


async def test_every_field_is_required(vehicle: Vehicle) -> None:
    for field in make_trip():
        trip = make_trip()
        del trip[field]
        body = problem(await vehicle.post_trip(trip, **{"Idempotency-Key": trip_id()}), 422, "invalid-body")
        assert [error["field"] for error in body["errors"]] == [field]


async def test_nan_and_infinity_are_refused(vehicle: Vehicle) -> None:
    for number in ("NaN", "Infinity"):
        trip = make_trip()
        content = json.dumps(trip).replace("13.9", number)
        headers = {"Idempotency-Key": trip["trip_id"], "Content-Type": "application/json"}
        response = await vehicle.send("POST", "/trips", headers, content=content)
        assert response.status_code == 422


@pytest.mark.parametrize("place", ["start_location", "end_location"])
async def test_a_fine_coordinate_is_a_loud_privacy_violation(
    vehicle: Vehicle, caplog: pytest.LogCaptureFixture, place: str, backend_settings: BackendSettings
) -> None:
    trip = make_trip(**{place: {"lat": 37.774929, "lon": -122.42}})
    with caplog.at_level(logging.INFO, "sentinel_sync.backend"):
        response = await vehicle.post_trip(trip)
    body = problem(response, 422, "privacy-violation")
    assert [error["field"] for error in body["errors"]] == [f"{place}.lat"]
    assert "what must not leave" in caplog.text
    for trace in (response.text, caplog.text, repr(stored_bytes(backend_settings.folder))):
        assert "774929" not in trace
        assert KEY not in trace


@pytest.mark.parametrize("location", [{"lat": 0, "lon": 0}, {"lat": -89.99, "lon": 179.5}, {"lat": 1.1, "lon": 2.20}])
async def test_two_decimals_are_coarse_enough(vehicle: Vehicle, location: dict[str, float]) -> None:
    assert (await vehicle.post_trip(make_trip(end_location=location))).status_code == 201


async def test_a_clock_that_was_set_back_while_driving_is_no_error(vehicle: Vehicle) -> None:
    trip = make_trip(start_time="2026-11-23T08:00:00Z", end_time="2026-11-23T07:00:00.5+02:00")
    assert (await vehicle.post_trip(trip)).status_code == 201


async def test_pages_through_trips_of_one_vehicle(backend: httpx.AsyncClient) -> None:
    mine, other = Vehicle(backend), Vehicle(backend, "vehicle_002")
    sent = [make_trip() for _ in range(5)]
    for trip in sent:
        assert (await mine.post_trip(trip)).status_code == 201
    assert (await other.post_trip(make_trip())).status_code == 201
    seen: list[str] = []
    after = ""
    while True:
        query = {"vehicle_id": "vehicle_001", "limit": 2, "after": after}
        page = (await mine.get("/trips", params=query)).json()
        assert page["total"] == 5
        seen += [trip["trip_id"] for trip in page["trips"]]
        if page["next"] is None:
            break
        after = page["next"]
    assert seen == sorted(trip["trip_id"] for trip in sent)


async def test_unknown_trip_and_bad_page_are_problems(vehicle: Vehicle) -> None:
    problem(await vehicle.get("/trips/trip_unknown"), 404, "no-such-trip")
    problem(await vehicle.get("/trips", params={"limit": 0}), 422, "invalid-parameters")


class TestBatch:
    """The extension `trips-batch`."""

    async def test_each_trip_is_judged_by_itself(self, vehicle: Vehicle) -> None:
        there, new, wrong = make_trip(), make_trip(), make_trip(distance=-1.0)
        await vehicle.post_trip(there)
        answer = await batch(vehicle, [there, new, wrong])
        found = {result["trip_id"]: result["status"] for result in answer.json()["results"]}
        assert found == {there["trip_id"]: 409, new["trip_id"]: 201, wrong["trip_id"]: 422}
        assert (await vehicle.get("/trips")).json()["total"] == 2
        again = await batch(vehicle, [there, new])
        assert {result["status"] for result in again.json()["results"]} == {409}

    async def test_what_is_private_is_refused_as_alone(self, vehicle: Vehicle) -> None:
        answer = await batch(vehicle, [make_trip(start_location={"lat": 48.13713, "lon": 11.57}), make_trip()])
        assert sorted(result["status"] for result in answer.json()["results"]) == [201, 422]
        assert b"48.13713" not in answer.content

    async def test_it_may_come_packed_and_is_bounded_unpacked(self, vehicle: Vehicle) -> None:
        assert (await batch(vehicle, [make_trip()], packed=True)).status_code == 200
        problem(await batch(vehicle, [{"trip_id": "x", "pad": "p" * (1 << 20)}], packed=True), 413, "too-large")
        problem(await batch(vehicle, [{"trip_id": f"t{n}"} for n in range(501)]), 413, "too-many")
        problem(await batch(vehicle, [], packed=True), 413, "too-many")

    async def test_its_key_is_the_hash_of_its_trips(self, vehicle: Vehicle) -> None:
        problem(await batch(vehicle, [make_trip()], key="other"), 400, "headers")
        problem(await batch(vehicle, ["no trip"], key="other"), 400, "headers")

    @pytest.mark.parametrize("damage", [lambda body: body[:-9], lambda body: b"x" + body])
    async def test_a_damaged_package_is_refused(self, vehicle: Vehicle, damage: Callable[[bytes], bytes]) -> None:
        problem(await batch(vehicle, [make_trip()], packed=True, damage=damage), 422, "damaged-gzip")

    async def test_its_answer_is_packed_where_that_is_asked_for(self, vehicle: Vehicle) -> None:
        answer = await batch(vehicle, [make_trip()])
        assert answer.headers["Content-Encoding"] == "gzip"
        assert answer.json()["results"][0]["status"] == 201

    async def test_health_lists_it_where_it_is(self, vehicle: Vehicle) -> None:
        assert "trips-batch" in (await vehicle.get("/health")).json()["extensions"]


async def batch(
    vehicle: Vehicle,
    trips: list[Any],
    *,
    packed: bool = False,
    key: str | None = None,
    damage: Callable[[bytes], bytes] = bytes,
) -> httpx.Response:
    body = json.dumps({"trips": trips}).encode()
    names = "\n".join(str(trip["trip_id"]) for trip in trips if isinstance(trip, dict))
    headers = {
        "Content-Type": "application/json",
        "Idempotency-Key": key or hashlib.sha256(names.encode()).hexdigest(),
        **({"Content-Encoding": "gzip"} if packed else {}),
    }
    content = damage(gzip.compress(body) if packed else body)
    return await vehicle.send("POST", "/trips/batch", headers=headers, content=content)
