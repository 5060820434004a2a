"""Fleet figures in the units that a person uses."""

import pytest

from sentinel_sync.fleet.rules import titled, unit_of


@pytest.mark.parametrize(
    ("metric", "value", "said"),
    [
        ("total_distance", 1_234_567.0, "1,234.6 km"),
        ("distance_per_trip", 29_900, "29.9 km"),
        ("average_trip_duration", 2100.0, "35.0 min"),
        ("average_speed", 14.25, "51.3 km/h"),
        ("safety_score", 84.23, "84.2"),
        ("average_risk_score", 0.234, "0.23"),
        ("active_share", 0.5, "50 %"),
        ("total_trips", 1200, "1,200"),
        ("trips_per_vehicle", 40.0, "40.0"),
        ("alerts_per_100_km", 5.294, "5.29"),
        ("battery_swaps", 7, "7"),
        ("battery_health", 0.75, "0.8"),
        ("safety_score", None, "-"),
        ("status", "online", "online"),
        ("electric", True, "True"),
    ],
)
def test_a_figure_is_said_in_a_persons_unit(metric: str, value: object, said: str) -> None:
    assert unit_of(metric, value).said(value) == said


def test_a_field_becomes_a_heading() -> None:
    assert titled("average_safety_score") == "Average safety score"
