"""The arithmetic of a trip: sums, refusals that leave it unharmed, ids, times by a clock that never steps."""

import math
from dataclasses import replace
from decimal import Decimal
from typing import Any
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.clock import ClockStamp, moment
from sentinel_sync.base.payloads import Location, TripSummary
from sentinel_sync.base.privacy import Place
from sentinel_sync.trips.rules.trip import MAX_DISTANCE_DELTA, MAX_SPEED, OpenTrip, adopted_trip_id, new_trip_id

NOW = 1_780_000_000.0
BOOTED = NOW - 1000.0


def open_trip(**changes: Any) -> OpenTrip:
    trip = OpenTrip(
        trip_id=new_trip_id(NOW, bytes(10)),
        driver="d_" + "a" * 32,
        stamp=ClockStamp("boot-1", BOOTED),
        started=1000.0,
        reached=1000.0,
        reached_offset=BOOTED,
    )
    return replace(trip, **changes)


UPDATES = st.tuples(
    st.floats(0.0, MAX_DISTANCE_DELTA),
    st.floats(0.0, MAX_SPEED),
    st.floats(0.0, 1.0),
    st.sampled_from([None, "info", "warning", "critical"]),
)


class TestUpdate:
    def test_the_snippet_of_the_specification(self) -> None:
        trip = open_trip()
        trip.update(100.0, 15.0, 0.3, "warning")
        trip.reach(1010.0, BOOTED)
        summary = trip.summary(interrupted=False)
        assert (summary.distance, summary.max_speed, summary.average_speed) == (100.0, 15.0, 10.0)
        assert (summary.alert_count, summary.warning_alert_count) == (1, 1)
        assert (summary.average_risk_score, summary.max_risk_score) == (0.3, 0.3)

    @given(st.lists(UPDATES, max_size=50), st.floats(0.0, 1e6))
    def test_sums_maxima_and_averages(
        self, updates: list[tuple[float, float, float, str | None]], lasted: float
    ) -> None:
        trip = open_trip()
        for update in updates:
            trip.update(*update)
        trip.reach(1000.0 + lasted, BOOTED)
        summary = trip.summary(interrupted=False)
        assert summary.distance == pytest.approx(math.fsum(update[0] for update in updates))
        assert summary.max_speed == max((update[1] for update in updates), default=0.0)
        assert summary.max_risk_score == max((update[2] for update in updates), default=0.0)
        risk = math.fsum(update[2] for update in updates) / len(updates) if updates else 0.0
        assert summary.average_risk_score == pytest.approx(risk)
        urgencies = [update[3] for update in updates]
        assert summary.critical_alert_count == urgencies.count("critical")
        assert summary.warning_alert_count == urgencies.count("warning")
        assert summary.info_alert_count == urgencies.count("info")
        assert summary.alert_count == len(urgencies) - urgencies.count(None)
        if summary.duration > 0.0:
            assert summary.average_speed == pytest.approx(summary.distance / summary.duration)
        assert TripSummary.model_validate_json(summary.model_dump_json()) == summary

    def test_an_average_of_ones_is_one_whatever_the_rounding(self) -> None:
        trip = open_trip()
        for _ in range(1000):
            trip.update(0.0, 0.0, 1.0, None)
            trip.update(0.0, 0.0, 0.9999999999999999, None)
        assert trip.summary(interrupted=False).average_risk_score <= 1.0

    NO_MEASURE = (math.nan, math.inf, -math.inf, -0.1)
    BAD = (
        *(("distance_delta", value) for value in (*NO_MEASURE, MAX_DISTANCE_DELTA * 1.01)),
        *(("speed", value) for value in (*NO_MEASURE, MAX_SPEED * 1.01)),
        *(("risk_score", value) for value in (*NO_MEASURE, 1.01)),
        *(("alert_urgency", value) for value in ("urgent", "CRITICAL", "", 3, ["info"])),
    )

    @pytest.mark.parametrize(("name", "value"), BAD)
    def test_a_bad_value_is_refused_and_the_trip_unharmed(self, name: str, value: Any) -> None:
        trip = open_trip()
        trip.update(1.0, 2.0, 0.5, "info")
        before = replace(trip)
        good: dict[str, Any] = {"distance_delta": 10.0, "speed": 20.0, "risk_score": 0.9, "alert_urgency": "critical"}
        with pytest.raises(ValueError, match=name):
            trip.update(**(good | {name: value}))
        assert trip == before

    @pytest.mark.parametrize("name", ["distance_delta", "speed", "risk_score"])
    @pytest.mark.parametrize("value", [None, "1.0", [1.0], {}])
    def test_what_is_no_number_is_refused_and_the_trip_unharmed(self, name: str, value: Any) -> None:
        trip = open_trip()
        good: dict[str, Any] = {"distance_delta": 10.0, "speed": 20.0, "risk_score": 0.9, "alert_urgency": "critical"}
        with pytest.raises(TypeError):
            trip.update(**(good | {name: value}))
        assert trip == open_trip()

    def test_a_number_that_floats_do_not_add_to_leaves_the_trip_unharmed(self) -> None:
        trip = open_trip()
        distance: Any = Decimal("1.0")
        with pytest.raises(TypeError):
            trip.update(distance, 1.0, 0.5, "critical")
        assert trip == open_trip()

    def test_edges_are_taken(self) -> None:
        trip = open_trip()
        trip.update(0.0, 0.0, 0.0, None)
        trip.update(-0.0, 0, 1, "info")
        trip.update(MAX_DISTANCE_DELTA, MAX_SPEED, 1.0, "critical")
        assert trip.updates == 3


class TestTimes:
    def test_the_duration_is_by_the_clock_that_never_steps(self) -> None:
        trip = open_trip()
        trip.reach(1060.0, BOOTED)
        summary = trip.summary(interrupted=False)
        assert summary.duration == 60.0
        assert summary.start_time == moment(NOW)
        assert summary.end_time == moment(NOW + 60.0)

    @pytest.mark.parametrize("jump", [-3600.0, 86_400.0, 1e9])
    def test_a_clock_set_mid_trip_moves_both_times_and_not_the_duration(self, jump: float) -> None:
        trip = open_trip()
        trip.reach(1030.0, BOOTED)
        trip.reach(1060.0, BOOTED + jump)
        summary = trip.summary(interrupted=False)
        assert summary.duration == 60.0
        assert (summary.end_time - summary.start_time).total_seconds() == pytest.approx(60.0)
        assert summary.start_time == moment(NOW + jump)
        assert trip.closing_stamp() == ClockStamp("boot-1", BOOTED + jump)

    @given(st.lists(st.tuples(st.floats(0.0, 1e6), st.floats(-1e9, 1e9)), max_size=20))
    def test_times_and_duration_always_agree(self, readings: list[tuple[float, float]]) -> None:
        trip = open_trip()
        for monotonic, jump in readings:
            trip.reach(monotonic, BOOTED + jump)
        summary = trip.summary(interrupted=True)
        assert summary.duration >= 0.0
        assert summary.start_time <= summary.end_time
        lasted = (summary.end_time - summary.start_time).total_seconds()
        assert lasted == pytest.approx(summary.duration, abs=0.002)

    def test_a_reading_from_before_does_not_shorten_it(self) -> None:
        trip = open_trip()
        trip.reach(1060.0, BOOTED)
        trip.reach(1010.0, BOOTED)
        assert trip.summary(interrupted=False).duration == 60.0

    def test_a_trip_of_no_time_has_no_speed(self) -> None:
        trip = open_trip()
        trip.update(100.0, 5.0, 0.0, None)
        assert trip.summary(interrupted=False).average_speed == 0.0

    def test_times_say_utc(self) -> None:
        text = open_trip().summary(interrupted=False).model_dump_json()
        assert '"start_time":"2026-05-28T20:26:40Z"' in text


class TestSummary:
    def test_places_driver_and_interruption_are_carried(self) -> None:
        trip = open_trip(start_location=Place(37.77, -122.42), end_location=Place(1.0, 2.0))
        summary = trip.summary(interrupted=True)
        assert summary.start_location == Location(lat=37.77, lon=-122.42)
        assert summary.end_location == Location(lat=1.0, lon=2.0)
        assert summary.interrupted
        assert summary.driver_id == trip.driver

    def test_memory_is_constant(self) -> None:
        trip = open_trip()
        for _ in range(1000):
            trip.update(1.0, 2.0, 0.5, "info")
        assert not any(isinstance(getattr(trip, name), list | dict | set) for name in OpenTrip.__slots__)


class TestIds:
    def test_are_a_prefix_and_a_uuid_7(self) -> None:
        trip_id = new_trip_id(NOW, bytes(range(10)))
        uuid = UUID(hex=trip_id.removeprefix("trip_"))
        assert uuid.version == 7
        assert uuid.variant == "specified in RFC 4122"
        assert int(uuid.hex[:12], 16) == int(NOW * 1000)

    @given(
        st.floats(0.0, 2e11),
        st.floats(0.0, 2e11),
        st.binary(min_size=10, max_size=10),
        st.binary(min_size=10, max_size=10),
    )
    def test_sort_by_start(self, one: float, other: float, random_one: bytes, random_other: bytes) -> None:
        first, second = new_trip_id(one, random_one), new_trip_id(other, random_other)
        if int(one * 1000) != int(other * 1000):
            assert (first < second) == (one < other)
        for trip_id in (first, second):
            assert UUID(hex=trip_id[5:]).version == 7

    @given(st.binary(min_size=10, max_size=10), st.binary(min_size=10, max_size=10))
    def test_use_the_chance_they_are_given(self, one: bytes, other: bytes) -> None:
        """74 of the 80 bits: six give way to the version and the variant."""
        same = new_trip_id(NOW, one) == new_trip_id(NOW, other)
        kept = (1 << 76) - 1 & ~(0b11 << 62)
        assert same == (int.from_bytes(one) & kept == int.from_bytes(other) & kept)

    @pytest.mark.parametrize("random", [b"", bytes(9), bytes(11)])
    def test_take_ten_random_bytes(self, random: bytes) -> None:
        with pytest.raises(ValueError, match="10 random bytes"):
            new_trip_id(NOW, random)

    def test_a_clock_before_the_epoch_is_no_fault_of_the_trip(self) -> None:
        assert UUID(hex=new_trip_id(-5.0, bytes(10))[5:]).version == 7

    def test_of_an_adopted_trip_are_the_same_however_often(self) -> None:
        first = adopted_trip_id(NOW, "vehicle_001", "trip_1795421742668")
        assert first == adopted_trip_id(NOW, "vehicle_001", "trip_1795421742668")
        others = {
            adopted_trip_id(NOW, "vehicle_002", "trip_1795421742668"),
            adopted_trip_id(NOW, "vehicle_001", "trip_1795421742669"),
            adopted_trip_id(NOW + 1.0, "vehicle_001", "trip_1795421742668"),
        }
        assert len(others | {first}) == 4
