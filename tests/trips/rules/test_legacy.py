"""Trips as the older module queued them, from a real vehicle's file."""

import json
import time
from collections.abc import Iterator
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.payloads import Location
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.trips.rules.trip import adopt

QUEUE: list[dict[str, Any]] = json.loads(
    (Path(__file__).parents[2] / "fixtures" / "data" / "trip_queue.json").read_text(encoding="utf-8")
)
KEY = b"fleet-secret"


def pseudonym_of(driver: str | None) -> str | None:
    return pseudonym(driver, KEY)


@pytest.fixture(params=["UTC", "America/Los_Angeles", "Asia/Kolkata"])
def zone(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> Iterator[str]:
    """The vehicle's time zone."""
    name: str = request.param
    monkeypatch.setenv("TZ", name)
    time.tzset()
    yield name
    monkeypatch.undo()
    time.tzset()


def test_every_trip_of_a_real_queue_is_taken_over_once() -> None:
    trips = [adopt(old, "vehicle_001", pseudonym_of) for old in QUEUE]
    assert len(QUEUE) > 0
    assert len({trip.trip_id for trip in trips}) == len(QUEUE)
    assert [adopt(old, "vehicle_001", pseudonym_of) for old in QUEUE] == trips
    for trip, old in zip(trips, QUEUE, strict=True):
        assert trip.distance == old["distance"]
        assert trip.duration == old["duration"]
        assert trip.alert_count == old["alert_count"]
        assert trip.driver_id == pseudonym_of(old["driver_id"])
        assert not trip.interrupted
        assert not old["driver_id"] or old["driver_id"] not in trip.model_dump_json()


def test_times_without_offset_are_the_vehicles_local_time(zone: str) -> None:
    trip = adopt(QUEUE[0], "vehicle_001", pseudonym_of)
    hours = {"UTC": 0.0, "America/Los_Angeles": 8.0, "Asia/Kolkata": -5.5}[zone]
    naive = datetime.fromisoformat(QUEUE[0]["start_time"]).replace(tzinfo=UTC)
    assert trip.start_time.timestamp() - naive.timestamp() == hours * 3600.0


def test_times_with_an_offset_are_as_they_say(zone: str) -> None:
    old = QUEUE[0] | {"start_time": "2026-11-23T08:00:00+01:00", "end_time": "2026-11-23T07:10:00Z"}
    trip = adopt(old, "vehicle_001", pseudonym_of)
    assert trip.start_time == datetime(2026, 11, 23, 7, 0, tzinfo=UTC)
    assert zone


def test_places_are_coarse_however_they_were_kept() -> None:
    old = QUEUE[0] | {"start_location": {"lat": 37.774929, "lon": -122.419416}, "end_location": None}
    trip = adopt(old, "vehicle_001", pseudonym_of)
    assert trip.start_location == Location(lat=37.77, lon=-122.42)
    assert trip.end_location is None


@pytest.mark.parametrize("driver", [None, "", 17, "driver_123"])
def test_a_driver_is_a_pseudonym_or_nobody(driver: object) -> None:
    trip = adopt(QUEUE[0] | {"driver_id": driver}, "vehicle_001", pseudonym_of)
    assert trip.driver_id == (pseudonym_of(str(driver)) if driver else None)
    assert adopt(QUEUE[0] | {"driver_id": driver}, "vehicle_001", lambda _: None).driver_id is None


def test_two_vehicles_queues_do_not_share_ids() -> None:
    first, second = (adopt(QUEUE[0], vehicle, pseudonym_of) for vehicle in ("vehicle_001", "vehicle_002"))
    assert first.trip_id != second.trip_id
    assert first.start_time == second.start_time


@pytest.mark.parametrize(
    ("change", "complaint"),
    [
        ({"start_time": None}, "start_time is no time"),
        ({"end_time": "yesterday"}, "end_time is no time"),
        ({"start_time": 5}, "start_time is no time"),
        ({"distance": float("nan")}, "distance"),
        ({"distance": -1.0}, "distance"),
        ({"duration": float("inf")}, "duration"),
        ({"max_speed": None}, "max_speed"),
        ({"average_risk_score": 1.5}, "average_risk_score"),
        ({"critical_alert_count": -1}, "critical_alert_count"),
        ({"critical_alert_count": 1.5}, "critical_alert_count"),
        ({"info_alert_count": True}, "info_alert_count"),
        ({"start_location": {"lat": 937.774929, "lon": 0.0}}, "location"),
        ({"start_location": "37.774929"}, "location"),
    ],
)
def test_what_is_no_trip_is_refused_without_repeating_it(change: dict[str, Any], complaint: str) -> None:
    with pytest.raises(ValueError, match=complaint) as caught:
        adopt(QUEUE[0] | change, "vehicle_001", pseudonym_of)
    assert "774929" not in str(caught.value)


@pytest.mark.parametrize("old", [None, [], "trip", 5, {}])
def test_what_is_no_object_at_all_is_refused(old: object) -> None:
    with pytest.raises(ValueError, match=r"."):
        adopt(old, "vehicle_001", pseudonym_of)
