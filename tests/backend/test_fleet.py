"""The fleet's figures: computed from trips, best first, newest first, and cheap to ask again."""

from typing import Any

import httpx
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.backend.scoring import METRICS, safety_score
from tests.backend.vehicle import FLEET, SettableClock, Vehicle, make_trip, problem

CAREFUL = {"average_risk_score": 0.1, "max_risk_score": 0.2, "driver_id": "d_" + "aa" * 16}
WILD = {"average_risk_score": 0.8, "max_risk_score": 1.0, "driver_id": "d_" + "bb" * 16}


def alerts(critical: int, warning: int, info: int) -> dict[str, int]:
    return {
        "critical_alert_count": critical,
        "warning_alert_count": warning,
        "info_alert_count": info,
        "alert_count": critical + warning + info,
    }


@pytest.fixture
async def fleet(backend: httpx.AsyncClient) -> Vehicle:
    """Three vehicles, five trips; vehicle_003 is of another fleet."""
    first, second, third = Vehicle(backend), Vehicle(backend, "vehicle_002"), Vehicle(backend, "vehicle_003", "other")
    sent: list[tuple[Vehicle, dict[str, Any]]] = [
        (first, make_trip(**CAREFUL, **alerts(0, 0, 4), distance=10_000, duration=1000)),
        (
            first,
            make_trip(
                **CAREFUL,
                **alerts(0, 1, 0),
                distance=30_000,
                duration=3000,
                start_time="2026-11-22T23:30:00-01:00",
                end_time="2026-11-23T00:50:00Z",
            ),
        ),
        (
            second,
            make_trip(
                **WILD,
                **alerts(2, 2, 0),
                distance=20_000,
                duration=500,
                start_time="2026-11-21T10:00:00Z",
                end_time="2026-11-21T11:00:00Z",
            ),
        ),
        (
            second,
            make_trip(
                **{**WILD, "driver_id": None},
                **alerts(0, 0, 0),
                distance=5_000,
                duration=0,
                start_time="2026-09-01T10:00:00Z",
                end_time="2026-09-01T10:00:00Z",
            ),
        ),
        (third, make_trip(distance=999_999)),
    ]
    for vehicle, trip in sent:
        assert (await vehicle.post_trip(trip)).status_code == 201
    return first


def test_the_formula_is_the_documented_one() -> None:
    perfect: dict[str, Any] = {"average_risk": 0.0, "max_risk": 0.0, "critical": 0, "warning": 0, "distance": 0.0}
    assert safety_score(**perfect) == 100
    assert safety_score(**{**perfect, "average_risk": 0.5, "max_risk": 0.5}) == pytest.approx(60)
    assert safety_score(**{**perfect, "critical": 1, "warning": 2, "distance": 5_000}) == pytest.approx(93)
    assert safety_score(**{**perfect, "critical": 1, "warning": 2, "distance": 35_000}) == pytest.approx(98)
    assert safety_score(**{**perfect, "critical": 100}) == pytest.approx(80)


@given(st.floats(0, 1), st.floats(0, 1), st.integers(0, 10**6), st.integers(0, 10**6), st.floats(0, 1e9))
def test_a_score_stays_between_0_and_100(
    average: float, highest: float, critical: int, warning: int, far: float
) -> None:
    score = safety_score(average_risk=average, max_risk=highest, critical=critical, warning=warning, distance=far)
    assert 0 <= score <= 100


async def test_statistics_add_up(fleet: Vehicle) -> None:
    statistics = (await fleet.get(f"/fleet/{FLEET}/statistics")).json()
    scores = [90.0, 90 - 1 / 3, 100 - 48 - 20 - 6, 100 - 48 - 20]
    weights = [1000, 3000, 500, 1]
    mean = sum(score * weight for score, weight in zip(scores, weights, strict=True)) / sum(weights)
    assert statistics == {
        "total_vehicles": 2,
        "active_vehicles": 2,
        "total_distance": 65_000,
        "total_trips": 4,
        "total_duration": 4500,
        "total_alerts": 9,
        "critical_alerts": 2,
        "average_safety_score": pytest.approx(mean, abs=0.01),
        "average_trip_duration": 1125,
    }


async def test_vehicles_that_fell_silent_are_not_active(fleet: Vehicle, server_clock: SettableClock) -> None:
    server_clock.now += 86_401
    statistics = (await fleet.get(f"/fleet/{FLEET}/statistics")).json()
    assert statistics["total_vehicles"] == 2
    assert statistics["active_vehicles"] == 1  # the one that asks


async def test_a_fleet_without_trips_has_no_averages(vehicle: Vehicle) -> None:
    statistics = (await vehicle.get("/fleet/unknown/statistics")).json()
    assert statistics["total_trips"] == statistics["total_vehicles"] == statistics["total_distance"] == 0
    assert "average_safety_score" not in statistics
    assert (await vehicle.get("/fleet/unknown/rankings")).json()["rankings"] == []
    assert (await vehicle.get("/fleet/unknown/comparison")).json() == {"vehicles": {}}


async def test_rankings_are_best_first(fleet: Vehicle) -> None:
    for metric, order in (
        ("safety_score", ["vehicle_001", "vehicle_002"]),
        ("total_distance", ["vehicle_001", "vehicle_002"]),
        ("total_alerts", ["vehicle_002", "vehicle_001"]),
        ("critical_alerts", ["vehicle_001", "vehicle_002"]),
        ("average_speed", ["vehicle_002", "vehicle_001"]),
    ):
        answer = (await fleet.get(f"/fleet/{FLEET}/rankings", params={"metric": metric})).json()
        assert [entry["vehicle_id"] for entry in answer["rankings"]] == order, metric
        assert all(metric in entry for entry in answer["rankings"])


async def test_every_metric_works_everywhere(fleet: Vehicle) -> None:
    for part in ("rankings", "trends", "drivers/leaderboard"):
        for metric in METRICS:
            assert (await fleet.get(f"/fleet/{FLEET}/{part}", params={"metric": metric})).status_code == 200


async def test_the_limit_limits(fleet: Vehicle) -> None:
    answer = (await fleet.get(f"/fleet/{FLEET}/rankings", params={"limit": 1})).json()
    assert [entry["vehicle_id"] for entry in answer["rankings"]] == ["vehicle_001"]


async def test_trends_have_utc_days_in_the_window_oldest_first(fleet: Vehicle) -> None:
    answer = (await fleet.get(f"/fleet/{FLEET}/trends", params={"metric": "total_distance", "days": 30})).json()
    assert answer == {
        "metric": "total_distance",
        "days": 30,
        "trend": [{"date": "2026-11-21", "value": 20_000}, {"date": "2026-11-23", "value": 40_000}],
    }
    today = (await fleet.get(f"/fleet/{FLEET}/trends", params={"days": 1})).json()
    assert [point["date"] for point in today["trend"]] == ["2026-11-23"]


async def test_comparison_of_all_and_of_some(fleet: Vehicle) -> None:
    everything = (await fleet.get(f"/fleet/{FLEET}/comparison")).json()["vehicles"]
    assert set(everything) == {"vehicle_001", "vehicle_002"}
    assert set(everything["vehicle_001"]) == set(METRICS)
    some = await fleet.get(f"/fleet/{FLEET}/comparison", params={"vehicle_ids": "vehicle_002, nobody"})
    assert set(some.json()["vehicles"]) == {"vehicle_002"}


async def test_alerts_are_newest_first_and_by_severity(fleet: Vehicle) -> None:
    answer = (await fleet.get(f"/fleet/{FLEET}/alerts")).json()["alerts"]
    assert [(alert["vehicle_id"], alert["severity"], alert["count"]) for alert in answer] == [
        ("vehicle_001", "info", 4),
        ("vehicle_001", "warning", 1),
        ("vehicle_002", "critical", 2),
        ("vehicle_002", "warning", 2),
    ]
    assert answer[0]["timestamp"] == "2026-11-23T07:00:00.000+00:00"
    assert answer[0]["message"] == "4 info alerts in one trip, highest risk 0.20"
    warnings = await fleet.get(f"/fleet/{FLEET}/alerts", params={"severity": "warning", "limit": 1})
    assert [alert["vehicle_id"] for alert in warnings.json()["alerts"]] == ["vehicle_001"]


async def test_leaderboard_is_by_pseudonym(fleet: Vehicle) -> None:
    answer = (await fleet.get(f"/fleet/{FLEET}/drivers/leaderboard")).json()["leaderboard"]
    assert [(entry["driver_id"], entry["total_trips"]) for entry in answer] == [
        (CAREFUL["driver_id"], 2),
        (WILD["driver_id"], 1),
    ]


async def test_status_follows_when_a_vehicle_was_heard(fleet: Vehicle, server_clock: SettableClock) -> None:
    other = "/vehicles/vehicle_002/status"
    shown = (await fleet.get(other)).json()
    assert shown["status"] == "online"
    assert shown["last_seen"] == "2026-11-23T08:00:00.000+00:00"
    assert shown["total_trips"] == 2
    assert shown["last_trip_ended_at"] == "2026-11-21T11:00:00.000+00:00"
    server_clock.now += 301
    assert (await fleet.get(other)).json()["status"] == "idle"
    server_clock.now += 86_400
    assert (await fleet.get(other)).json()["status"] == "offline"
    assert (await fleet.get("/vehicles/vehicle_001/status")).json()["status"] == "online"
    problem(await fleet.get("/vehicles/vehicle_003/status"), 404, "no-such-vehicle")  # of another fleet


async def test_an_etag_saves_the_body_until_something_changes(fleet: Vehicle) -> None:
    url = f"/fleet/{FLEET}/rankings"
    etag = (await fleet.get(url)).headers["etag"]
    again = await fleet.get(url, {"If-None-Match": etag})
    assert again.status_code == 304
    assert again.content == b""
    assert (await fleet.post_trip(make_trip())).status_code == 201
    assert (await fleet.get(url, {"If-None-Match": etag})).status_code == 200


BAD_QUERIES: list[tuple[str, dict[str, str], str]] = [
    ("rankings", {"metric": "beauty"}, "query.metric"),
    ("trends", {"metric": "1; DROP TABLE trips"}, "query.metric"),
    ("drivers/leaderboard", {"metric": ""}, "query.metric"),
    ("rankings", {"limit": "0"}, "query.limit"),
    ("rankings", {"limit": "-1"}, "query.limit"),
    ("rankings", {"limit": "1000000000"}, "query.limit"),
    ("rankings", {"limit": "many"}, "query.limit"),
    ("trends", {"days": "0"}, "query.days"),
    ("alerts", {"severity": "fatal"}, "query.severity"),
]


async def test_bad_queries_say_what_is_wrong(vehicle: Vehicle) -> None:
    for part, query, field in BAD_QUERIES:
        body = problem(await vehicle.get(f"/fleet/{FLEET}/{part}", params=query), 422, "invalid-parameters")
        assert [error["field"] for error in body["errors"]] == [field], query


async def test_ids_may_have_slashes(backend: httpx.AsyncClient) -> None:
    vehicle = Vehicle(backend, "depot/7 a", "north/east")
    assert (await vehicle.post_trip(make_trip())).status_code == 201
    statistics = await vehicle.get("/fleet/north%2Feast/statistics")
    assert statistics.json()["total_trips"] == 1
    assert (await vehicle.get("/vehicles/depot%2F7%20a/status")).json()["total_trips"] == 1
