"""Failing on purpose, over a real socket: what the client sees, and whether the work was done."""

import asyncio
from collections.abc import AsyncIterator

import httpx
import pytest

from sentinel_sync.backend.faults import Fault, FaultPlan
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from tests.backend.vehicle import KEY, Vehicle, make_trip, problem


@pytest.fixture
def plan() -> FaultPlan:
    return FaultPlan()


@pytest.fixture
async def served(backend_settings: BackendSettings, plan: FaultPlan) -> AsyncIterator[Vehicle]:
    async with running_server(backend_settings, faults=plan) as url, httpx.AsyncClient(base_url=url) as client:
        yield Vehicle(client)


async def count_trips(vehicle: Vehicle) -> int:
    return int((await vehicle.get("/trips")).json()["total"])


async def test_a_status_for_the_next_requests(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="status", status=429, retry_after=7, count=2, path="/trips")])
    trip = make_trip()
    for _ in range(2):
        response = await served.post_trip(trip)
        problem(response, 429, "injected")
        assert response.headers["retry-after"] == "7"
        assert (await served.get("/health")).status_code == 200
    assert (await served.post_trip(trip)).status_code == 201
    assert plan.strikes == {"status": 2}
    assert plan.in_force() == []


async def test_a_lost_answer_is_cut_after_the_work_was_done(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="lose", count=1)])
    trip = make_trip()
    with pytest.raises(httpx.RemoteProtocolError):
        await served.post_trip(trip)
    problem(await served.post_trip(trip), 409, "trip-exists")
    assert await count_trips(served) == 1


async def test_a_dropped_request_does_nothing(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="drop", count=1)])
    trip = make_trip()
    with pytest.raises(httpx.TransportError):
        await served.post_trip(trip)
    assert await count_trips(served) == 0
    assert (await served.post_trip(trip)).status_code == 201


async def test_a_truncated_answer(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="truncate", count=1)])
    trip = make_trip()
    with pytest.raises(httpx.RemoteProtocolError, match=r"incomplete|without"):
        await served.post_trip(trip)
    assert await count_trips(served) == 1


async def test_garbage_instead_of_json(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="garbage", count=1)])
    response = await served.post_trip(make_trip())
    assert response.status_code == 201
    assert response.headers["content-type"] == "application/json"
    with pytest.raises(UnicodeDecodeError):
        response.json()
    assert await count_trips(served) == 1


async def test_a_captive_portal(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="portal")])
    for _ in range(2):
        response = await served.get("/health")
        assert response.status_code == 200
        assert response.headers["content-type"].startswith("text/html")
    plan.clear()
    assert (await served.get("/health")).json()["status"] == "ok"


async def test_a_delay_goes_along_with_another_fault(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="delay", delay=0.001), Fault(kind="status", status=503, count=1)])
    assert (await served.get("/health")).status_code == 503
    assert (await served.get("/health")).status_code == 200
    assert plan.strikes == {"delay": 2, "status": 1}


async def test_a_random_fraction_is_repeatable_and_nothing_is_doubled(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="lose", fraction=0.3, method="POST")], seed=1)
    trips = [make_trip() for _ in range(30)]
    lost = 0
    for trip in trips:
        status = 0
        while status not in {201, 409}:
            try:
                status = (await served.post_trip(trip)).status_code
            except httpx.TransportError:
                lost += 1
    assert lost == plan.strikes["lose"]
    assert 3 <= lost <= 25
    listed = (await served.get("/trips")).json()
    assert listed["total"] == 30
    assert listed["repeats"] == lost


def test_the_same_seed_strikes_the_same_requests() -> None:
    def strikes(seed: int) -> list[bool]:
        plan = FaultPlan([Fault(kind="lose", fraction=0.5)], seed=seed)
        return [bool(plan.strike("GET", "/")) for _ in range(50)]

    assert strikes(1) == strikes(1) != strikes(2)


def test_a_fault_for_a_time() -> None:
    now = 0.0
    plan = FaultPlan([Fault(kind="status", seconds=10)], monotonic=lambda: now)
    assert plan.strike("GET", "/health")
    now = 10.0
    assert not plan.strike("GET", "/health")


async def test_controlled_over_http(served: Vehicle) -> None:
    problem(await served.http.put("/_faults", json={"faults": []}), 401, "credential")
    fault = {"kind": "status", "status": 500, "count": 3}
    answer = await served.send("PUT", "/_faults", json={"faults": [fault], "seed": 4})
    assert answer.status_code == 200
    assert (await served.get("/health")).status_code == 500
    state = (await served.get("/_faults")).json()  # never struck itself
    assert state["faults"][0]["count"] == 2
    assert state["strikes"] == {"status": 1}
    problem(await served.send("PUT", "/_faults", json={"faults": [{"kind": "explode"}]}), 422, "invalid-body")
    assert (await served.send("PUT", "/_faults", json={"faults": []})).json()["faults"] == []
    assert (await served.get("/health")).status_code == 200
    assert "/_faults" in (await served.get("/openapi.json")).json()["paths"]


async def test_absent_unless_switched_on(vehicle: Vehicle) -> None:
    problem(await vehicle.send("PUT", "/_faults", json={"faults": []}), 404, "not-found")


async def test_other_connections_live_on_when_one_is_cut(served: Vehicle, plan: FaultPlan) -> None:
    plan.replace([Fault(kind="lose", path="/models")])
    answers = await asyncio.gather(
        *(served.get("/models") for _ in range(5)), *(served.get("/trips") for _ in range(5)), return_exceptions=True
    )
    assert all(isinstance(answer, httpx.RemoteProtocolError) for answer in answers[:5])
    assert all(isinstance(answer, httpx.Response) and answer.status_code == 200 for answer in answers[5:])
    assert KEY not in str(answers)
