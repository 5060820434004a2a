"""What may be asked about the fleet, how answers read, and what follows from the statistics."""

import pytest
from pydantic import ValidationError

from sentinel_sync.fleet.rules import (
    MAX_LIMIT,
    FleetStatistics,
    FleetTrend,
    VehicleRankings,
    aggregate,
    bounded,
    compared,
    identifier,
    word,
)


@pytest.mark.parametrize("limit", [0, -1, 10**9, MAX_LIMIT + 1, True, 1.5, "10", None])
def test_a_limit_that_is_no_count_within_bounds_is_refused(limit: object) -> None:
    with pytest.raises(ValueError, match="limit must be a whole number from 1 to 1000"):
        bounded("limit", limit, MAX_LIMIT)


def test_limits_within_bounds_pass() -> None:
    assert [bounded("limit", limit, MAX_LIMIT) for limit in (1, 10, MAX_LIMIT)] == [1, 10, MAX_LIMIT]


@pytest.mark.parametrize("metric", ["", " ", "a b", "x" * 65, "../x", None, 7, "sc\nore"])
def test_what_cannot_be_a_metric_is_refused_here(metric: object) -> None:
    with pytest.raises(ValueError, match="metric must be a name"):
        word("metric", metric)


@pytest.mark.parametrize("vehicle_ids", [[], "vehicle_001", ["a,b"], [""], [7], ["x"] * 51, b"ab", 3])
def test_a_comparison_takes_a_list_of_ids(vehicle_ids: object) -> None:
    with pytest.raises(ValueError, match="vehicle_ids"):
        compared(vehicle_ids)


def test_compared_ids_are_joined_once_each() -> None:
    assert compared(("a", "b", "a")) == "a,b"


@pytest.mark.parametrize("vehicle_id", ["", "  ", 7, None])
def test_an_id_is_text(vehicle_id: object) -> None:
    with pytest.raises(ValueError, match="vehicle_id must be an id"):
        identifier("vehicle_id", vehicle_id)


def test_statistics_read_like_the_dict_they_were() -> None:
    stats = FleetStatistics.model_validate({"total_vehicles": 3, "total_distance": 12.5, "keys": "added", "items": 1})
    assert stats["total_vehicles"] == 3
    assert isinstance(stats["total_vehicles"], int)
    assert stats["average_safety_score"] is None
    assert "total_trips" in stats
    assert "nothing" not in stats
    assert stats.get("nothing", 5) == 5
    assert stats["keys"] == "added"
    assert stats.get("items") == 1
    assert dict(stats)["total_distance"] == 12.5
    assert {"total_vehicles", "keys"} <= set(stats)
    with pytest.raises(KeyError):
        stats["nothing"]


def test_rankings_read_like_the_list_they_were() -> None:
    rankings = VehicleRankings.model_validate(
        {"rankings": [{"vehicle_id": "a", "safety_score": 90}, {"vehicle_id": "b", "safety_score": 80.5}]}
    )
    assert len(rankings) == 2
    assert rankings[0]["safety_score"] == 90
    assert [entry["vehicle_id"] for entry in rankings] == ["a", "b"]
    assert rankings["rankings"] == rankings[:]
    assert rankings[-1] in rankings
    assert "rankings" in rankings


@pytest.mark.parametrize(
    "body",
    [
        None,
        [],
        "text",
        {"trend": "text"},
        {"trend": 7},
    ],
)
def test_answers_of_another_form_are_refused(body: object) -> None:
    with pytest.raises(ValidationError):
        FleetTrend.model_validate(body)


@pytest.mark.parametrize(
    "entry",
    [7, {"date": "2026-11-01", "value": "much"}, {"date": None, "value": 1}, {}, None],
)
def test_an_entry_that_cannot_be_read_is_left_out(entry: object) -> None:
    answer = FleetTrend.model_validate({"trend": [{"date": "2026-10-31", "value": 1}, entry]})
    assert [point.date for point in answer.trend] == ["2026-10-31"]
    assert FleetTrend.model_validate({"trend": None}).trend == ()


def test_aggregates_follow_from_the_statistics() -> None:
    metrics = aggregate(
        FleetStatistics(
            total_vehicles=4,
            active_vehicles=3,
            total_distance=200_000.0,
            total_trips=10,
            total_alerts=6,
            critical_alerts=1,
            average_trip_duration=1000.0,
            average_safety_score=84.0,
            stale=True,
            age=12.0,
        )
    )
    assert metrics["active_share"] == 0.75
    assert metrics.trips_per_vehicle == 2.5
    assert metrics.distance_per_vehicle == 50_000.0
    assert metrics.distance_per_trip == 20_000.0
    assert metrics.average_speed == 20.0
    assert metrics.alerts_per_100_km == pytest.approx(3.0)
    assert metrics.critical_alerts_per_100_km == pytest.approx(0.5)
    assert metrics.average_safety_score == 84.0
    assert (metrics.stale, metrics.age) == (True, 12.0)


def test_an_empty_fleet_has_no_rates() -> None:
    metrics = aggregate(FleetStatistics(total_vehicles=0, total_trips=0, total_distance=0.0, total_alerts=0))
    assert metrics.active_share is None
    assert metrics.alerts_per_100_km is None
    assert metrics.average_speed is None
    assert metrics.total_trips == 0
