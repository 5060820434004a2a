"""Wire contract, the bodies of "Trips" and "Health" field by field, and places in all of them."""

import json
from datetime import UTC, datetime, timedelta, timezone
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sentinel_sync.base.payloads import Answer, Health, Location, Payload, Problem, TripSummary

TRIP: dict[str, Any] = {
    "trip_id": "trip_" + "0" * 12 + "7" + "0" * 3 + "8" + "0" * 15,
    "start_time": "2026-11-23T08:00:00Z",
    "end_time": "2026-11-23T08:10:00Z",
    "duration": 600.0,
    "distance": 12_345.678,
    "average_speed": 20.5,
    "max_speed": 30.0,
    "alert_count": 6,
    "critical_alert_count": 1,
    "warning_alert_count": 2,
    "info_alert_count": 3,
    "average_risk_score": 0.25,
    "max_risk_score": 1.0,
    "driver_id": "d_" + "0123456789abcdef" * 2,
    "start_location": {"lat": 37.77, "lon": -122.42},
    "end_location": None,
    "interrupted": False,
    "schema_version": 1,
}


def test_a_trip_has_exactly_the_fields_of_the_table() -> None:
    trip = TripSummary.model_validate(TRIP)
    assert json.loads(trip.model_dump_json()) == TRIP
    assert set(TripSummary.model_fields) == set(TRIP)


NUMBERS = ["duration", "distance", "average_speed", "max_speed"]
COUNTS = ["alert_count", "critical_alert_count", "warning_alert_count", "info_alert_count"]
SCORES = ["average_risk_score", "max_risk_score"]


@pytest.mark.parametrize(
    ("field", "value"),
    [
        *((field, value) for field in NUMBERS for value in (-0.1, float("nan"), float("inf"), "x", None)),
        *((field, value) for field in COUNTS for value in (-1, 1.5, float("nan"), None)),
        *((field, value) for field in SCORES for value in (-0.1, 1.1, float("nan"), float("inf"), None)),
        *((field, value) for field in ("start_time", "end_time") for value in ("2026-11-23T08:00:00", "soon", None)),
        ("trip_id", "trip_1795421742668"),
        ("trip_id", "trip_" + "G" * 32),
        ("trip_id", TRIP["trip_id"] + "0"),
        ("trip_id", TRIP["trip_id"] + "\n"),
        ("driver_id", "driver_123"),
        ("driver_id", "d_" + "0" * 31),
        ("driver_id", "d_" + "0" * 32 + "\n"),
        ("driver_id", ""),
        ("start_location", {"lat": 91.0, "lon": 0.0}),
        ("start_location", {"lat": 0.0, "lon": float("nan")}),
        ("start_location", {"lat": 0.0}),
        ("start_location", {"lat": 0.0, "lon": 0.0, "altitude": 5.0}),
        ("interrupted", "perhaps"),
        ("name", "Ada"),
    ],
)
def test_nothing_else_passes_as_a_trip(field: str, value: Any) -> None:
    with pytest.raises(ValidationError) as caught:
        TripSummary.model_validate(TRIP | {field: value})
    assert "driver_123" not in str(caught.value)


def test_the_alert_count_is_the_sum() -> None:
    with pytest.raises(ValidationError, match="sum"):
        TripSummary.model_validate(TRIP | {"alert_count": 7})


@pytest.mark.parametrize("field", ["driver_id", "start_location", "end_location"])
def test_what_may_be_null_is_sent_as_null(field: str) -> None:
    trip = TripSummary.model_validate(TRIP | {field: None})
    assert json.loads(trip.model_dump_json())[field] is None


def test_times_carry_an_offset() -> None:
    east = datetime(2026, 11, 23, 9, tzinfo=timezone(timedelta(hours=1)))
    trip = TripSummary.model_validate(TRIP | {"start_time": east})
    text = json.loads(trip.model_dump_json())["start_time"]
    assert datetime.fromisoformat(text) == datetime(2026, 11, 23, 8, tzinfo=UTC)
    assert text.endswith(("Z", "+01:00"))


@given(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0))
def test_a_place_finer_than_two_decimals_cannot_be_spelled(lat: float, lon: float) -> None:
    for place in (Location(lat=lat, lon=lon), Location.model_validate({"lat": lat, "lon": lon})):
        for number in json.loads(place.model_dump_json(), parse_float=str).values():
            assert len(str(number).partition(".")[2]) <= 2
            assert str(number) != "-0.0"


def test_what_is_sent_refuses_more_than_the_contract_names_what_comes_ignores_it() -> None:
    for payload in Payload.__subclasses__():
        assert payload.model_config["extra"] == "forbid", payload
        assert payload.model_config["frozen"], payload
    for answer in Answer.__subclasses__():
        assert answer.model_config["extra"] != "forbid", answer


def test_an_error_repeats_no_value() -> None:
    for kind in (*Payload.__subclasses__(), *Answer.__subclasses__()):
        assert kind.model_config["hide_input_in_errors"], kind


@pytest.mark.parametrize("body", [{}, {"status": "ok"}, {"status": "ok", "news": [1]}, {"time": None}])
def test_health_may_leave_out_anything(body: dict[str, Any]) -> None:
    assert Health.model_validate(body).min_interval is None


@pytest.mark.parametrize(
    ("asked", "read"), [(60, 60.0), (0, 0.0), (-1, None), (float("nan"), None), (float("inf"), None), ("x", None)]
)
def test_a_min_interval_is_a_number_of_seconds_or_none(asked: Any, read: float | None) -> None:
    assert Health.model_validate({"min_interval": asked}).min_interval == read


def test_a_problem_is_read_as_far_as_it_is_one() -> None:
    problem = Problem.model_validate({"type": 5, "title": "No", "status": "x", "detail": None, "instance": "/x"})
    assert (problem.type, problem.title, problem.status, problem.detail) == (None, "No", None, None)
