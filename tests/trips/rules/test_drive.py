"""What a recorded drive says: distance, speed, and what of it is noise, gap or jump."""

import math
from itertools import pairwise
from random import Random

import pytest

from sentinel_sync.trips.rules.drive import (
    EARLIEST,
    LATEST,
    SPLIT,
    Drive,
    DriveError,
    Fix,
    Reading,
    drives_of,
    haversine,
)
from sentinel_sync.trips.rules.trip import MAX_DISTANCE_DELTA

START = 1_780_000_000.0
#: Metres per degree of latitude on the sphere that the rule takes.
DEGREE = math.radians(1.0) * 6_371_008.8


def drive_of(fixes: list[Fix]) -> Drive:
    """The one drive that these are."""
    (drive,), strays = drives_of(fixes)
    assert strays == 0
    return drive


def north(*metres: float, every: float = 1.0, speed: float | None = None) -> list[Fix]:
    """Positions so many metres north of a place, one after the other."""
    return [
        Fix(START + every * number, 10.0 + distance / DEGREE, 20.0, speed, number + 2)
        for number, distance in enumerate(metres)
    ]


def equator(*steps: tuple[float, float], speed: float | None = None) -> list[Fix]:
    """Positions on the equator, (seconds, metres) after a place where floats are fine enough for exact metres."""
    return [Fix(START + at, 0.0, metres / DEGREE, speed, 1) for at, metres in steps]


def test_haversine_agrees_with_known_distances() -> None:
    # Berlin to Tokyo and Paris to London, great circles on the mean sphere to the kilometre.
    assert haversine(52.5200, 13.4050, 35.6762, 139.6503) == pytest.approx(8_918e3, rel=1e-3)
    assert haversine(48.8566, 2.3522, 51.5074, -0.1278) == pytest.approx(343.6e3, rel=1e-3)
    assert haversine(0.0, 179.9, 0.0, -179.9) == pytest.approx(0.2 * DEGREE, rel=1e-9)  # across the date line
    assert haversine(90.0, 0.0, -90.0, 0.0) == pytest.approx(180 * DEGREE, rel=1e-9)
    assert haversine(1.0, 2.0, 1.0, 2.0) == 0.0


def test_a_steady_drive_has_the_distance_duration_and_speed_that_it_had() -> None:
    drive = drive_of(north(*[15.0 * second for second in range(601)]))
    assert drive.duration == 600.0
    assert drive.start == START
    assert drive.distance == pytest.approx(9_000.0, rel=1e-6)
    assert [reading.speed for reading in drive.readings] == pytest.approx([15.0] * 600, rel=1e-6)
    assert (drive.left_out, drive.gaps, drive.longest_gap, drive.doubt) == (0, 0, 0.0, None)


def test_a_vehicle_that_stands_does_not_move_by_the_receivers_noise() -> None:
    rng = Random(1)
    standing = [Fix(START + second, 10.0 + rng.gauss(0, 1.0) / DEGREE, 20.0, None, 1) for second in range(3600)]
    assert drive_of(standing).distance < 100.0  # it wanders by 5 m at times; the raw sum is some 4 km
    raw = sum(haversine(a.lat, a.lon, b.lat, b.lon) for a, b in pairwise(standing))
    assert raw > 3000.0


def test_a_slow_vehicle_is_not_taken_for_a_standing_one() -> None:
    drive = drive_of(north(*[0.5 * second for second in range(601)]))  # half a walker's pace
    assert drive.distance == pytest.approx(300.0, abs=6.0)


def test_the_recordings_own_speed_counts_where_there_is_one() -> None:
    fixes = north(*[10.0 * second for second in range(10)], speed=9.5)
    assert {reading.speed for reading in drive_of(fixes).readings} == {9.5}


@pytest.mark.parametrize("unknown", [-1.0, 4000.0])
def test_a_speed_that_cannot_be_is_measured_instead(unknown: float) -> None:
    fixes = north(*[10.0 * second for second in range(10)], speed=unknown)
    assert [reading.speed for reading in drive_of(fixes).readings] == pytest.approx([10.0] * 9, rel=1e-6)


def test_a_missing_speed_is_measured_over_seconds_not_from_one_noisy_step() -> None:
    rng = Random(2)
    places = [14.0 * second + rng.gauss(0, 2.0) for second in range(300)]
    drive = drive_of(north(*places))
    steps = [after - before for before, after in pairwise(places)]
    assert max(reading.speed for reading in drive.readings[5:]) < 16.5 < max(steps)


def test_a_tunnel_is_a_gap_over_which_the_straight_line_counts() -> None:
    fixes = north(0.0, 20.0, 40.0)
    after = [Fix(START + 182.0 + second, 10.0 + (3640.0 + 20 * second) / DEGREE, 20.0, None, 9) for second in range(3)]
    drive = drive_of(fixes + after)
    assert (drive.gaps, drive.longest_gap) == (1, 180.0)
    assert drive.distance == pytest.approx(3680.0, rel=1e-6)
    assert max(reading.speed for reading in drive.readings) == pytest.approx(20.0, rel=1e-6)


def test_a_jump_of_the_receiver_is_left_out() -> None:
    fixes = north(*[20.0 * second for second in range(11)])
    fixes[5] = Fix(fixes[5].time, 11.0, 21.0, None, 7)  # 150 km away for one second
    drive = drive_of(fixes)
    assert drive.left_out == 1
    assert drive.distance == pytest.approx(200.0, rel=1e-6)
    assert max(reading.speed for reading in drive.readings) == pytest.approx(20.0, rel=1e-6)


def test_first_positions_that_were_wrong_do_not_cost_the_drive() -> None:
    wrong = [Fix(START - 2.0, -40.0, 100.0, None, 2), Fix(START - 1.0, -40.0, 100.0, None, 3)]
    drive = drive_of(wrong + north(*[20.0 * second for second in range(101)]))
    assert drive.origin == pytest.approx((10.0, 20.0), abs=1e-3)
    assert drive.left_out == 2
    assert 1900.0 < drive.distance <= 2000.0
    assert max(reading.speed for reading in drive.readings) == pytest.approx(20.0, rel=1e-6)


def test_jumps_that_disagree_with_each_other_are_never_believed() -> None:
    fixes = north(*[20.0 * second for second in range(21)])
    for number, lat in zip(range(5, 12), (50.0, -50.0) * 4, strict=False):
        fixes[number] = Fix(fixes[number].time, lat, 0.0, None, number)
    drive = drive_of(fixes)
    assert drive.left_out == 7
    assert drive.distance == pytest.approx(400.0, rel=1e-6)


def test_a_repeated_time_is_left_out_and_costs_no_distance() -> None:
    fixes = [fix for fix in north(0.0, 20.0, 40.0, 60.0) for _ in range(2)]
    drive = drive_of(fixes)
    assert drive.left_out == 4
    assert drive.distance == pytest.approx(60.0, rel=1e-6)


def test_a_time_that_goes_back_is_left_out() -> None:
    fixes = north(0.0, 20.0, 40.0)
    drive = drive_of([*fixes[:2], Fix(START + 0.5, 10.0, 20.0, None, 4), fixes[2]])
    assert drive.left_out == 1
    assert drive.distance == pytest.approx(40.0, rel=1e-6)


@pytest.mark.parametrize("fixes", [[], north(0.0), north(0.0) * 3])
def test_less_than_two_positions_are_no_drive(fixes: list[Fix]) -> None:
    why = "it holds one position only; a drive takes two" if fixes else "it holds no position"
    with pytest.raises(DriveError, match=f"^{why}$"):
        drive_of(fixes)


def test_speeds_in_another_unit_are_told() -> None:
    fixes = north(*[10.0 * second for second in range(100)], speed=36.0)
    assert "3.6 times" in (drive_of(fixes).doubt or "")
    assert drive_of(north(*[10.0 * second for second in range(100)], speed=10.2)).doubt is None


_TIME, _LAT = "the time is not within 1980 and 2100", "the latitude is not within ±90 degrees"
_LON, _SPEED = "the longitude is not within ±180 degrees", "the speed is not a number"


@pytest.mark.parametrize(
    ("time", "lat", "lon", "speed", "why"),
    [
        (math.nan, 1.0, 2.0, None, _TIME),
        (math.inf, 1.0, 2.0, None, _TIME),
        (-5.0, 1.0, 2.0, None, _TIME),
        (EARLIEST - 0.5, 1.0, 2.0, None, _TIME),
        (LATEST + 0.5, 1.0, 2.0, None, f"{_TIME}; milliseconds?"),
        (START * 1000, 1.0, 2.0, None, f"{_TIME}; milliseconds?"),
        (LATEST * 1000, 1.0, 2.0, None, f"{_TIME}; milliseconds?"),
        (LATEST * 1000 + 1.0, 1.0, 2.0, None, _TIME),
        (START, math.nan, 2.0, None, _LAT),
        (START, 90.001, 2.0, None, _LAT),
        (START, -90.001, 2.0, None, _LAT),
        (START, 1.0, 180.001, None, _LON),
        (START, 1.0, -180.001, None, _LON),
        (START, 1.0, math.inf, None, _LON),
        (START, 1.0, 2.0, math.nan, _SPEED),
        (START, 1.0, 2.0, math.inf, _SPEED),
    ],
)
def test_a_position_that_cannot_be_is_refused_with_its_line(
    time: float, lat: float, lon: float, speed: float | None, why: str
) -> None:
    with pytest.raises(DriveError) as refused:
        Fix(time, lat, lon, speed, 17)
    assert str(refused.value) == f"line 17: {why}"


@pytest.mark.parametrize(("time", "lat", "lon"), [(EARLIEST, -90.0, -180.0), (LATEST, 90.0, 180.0)])
def test_the_utmost_times_and_places_are_taken(time: float, lat: float, lon: float) -> None:
    fix = Fix(time, lat, lon, None, 17)
    assert (fix.time, fix.lat, fix.lon) == (time, lat, lon)


def test_no_reading_is_more_than_a_trip_takes_however_long_the_gap() -> None:
    fixes = [Fix(START + SPLIT * at, 0.0, lon, None, at) for at, lon in enumerate((0.0, 19.0, 38.0, 170.0))]
    drive: Drive = drive_of(fixes)
    assert max(reading.distance for reading in drive.readings) <= MAX_DISTANCE_DELTA
    assert (drive.duration, drive.left_out) == (3 * SPLIT, 1)


def test_readings_say_when_how_far_how_fast_and_where() -> None:
    drive = drive_of(equator((0.0, 0.0), (2.0, 10.0), (3.0, 14.0)))
    assert drive.origin == (0.0, 0.0)
    assert drive.readings == (
        Reading(2.0, 10.0, 5.0, 0.0, 10.0 / DEGREE),
        Reading(3.0, 0.0, 10.0 / 3.0, 0.0, 14.0 / DEGREE),
    )


@pytest.mark.parametrize(("metres", "counted"), [(4.9, 0.0), (5.0, 0.0), (5.1, pytest.approx(5.1))])
def test_a_step_counts_from_more_than_five_metres(metres: float, counted: float) -> None:
    assert drive_of(equator((0.0, 0.0), (1.0, metres))).distance == counted


@pytest.mark.parametrize(("metres", "left_out"), [(1000.0, 0), (1005.0, 0), (1005.1, 1)])
def test_a_position_is_a_jump_beyond_the_fastest_and_the_noise(metres: float, left_out: int) -> None:
    drive = drive_of(equator((0.0, 0.0), (10.0, metres), (20.0, 100.0)))
    assert drive.left_out == left_out


@pytest.mark.parametrize(("seconds", "gaps", "longest"), [(59.5, 0, 0.0), (60.0, 0, 0.0), (60.5, 1, 60.5)])
def test_more_than_a_minute_without_a_position_is_a_gap(seconds: float, gaps: int, longest: float) -> None:
    drive = drive_of(equator((0.0, 0.0), (seconds, 100.0)))
    assert (drive.gaps, drive.longest_gap) == (gaps, longest)


@pytest.mark.parametrize(
    ("steps", "speed"),
    [
        ([(0, 0), (1, 10), (2, 40), (3, 70), (4, 100), (5, 130), (6, 160)], 30.0),  # from 5 s before, not from 6
        ([(0, 0), (1, 20), (11, 40)], 2.0),  # from the position before
        ([(at / 16, 0) for at in range(16)] + [(1 + at / 16, 6 * at + 6) for at in range(64)], 96.0),  # from 64 before
        ([(0, 0), (1, 10), (2, 5010), (3, 5020), (4, 5030)], 0.0),  # a jump that was just believed
        ([(0, 0), (1, 10), (2, 5010), (3, 5020), (4, 5030), (5, 5040)], 10.0),  # and after it
    ],
)
def test_a_missing_speed_is_measured_over_the_latest_seconds(steps: list[tuple[float, float]], speed: float) -> None:
    assert drive_of(equator(*steps)).readings[-1].speed == pytest.approx(speed)


@pytest.mark.parametrize(
    ("stated", "speed"), [(-0.5, 10.0), (0.0, 0.0), (0.5, 0.5), (100.0, 100.0), (100.5, 10.0), (None, 10.0)]
)
def test_a_stated_speed_is_believed_from_zero_to_the_fastest(stated: float | None, speed: float) -> None:
    (reading,) = drive_of(equator((0.0, 0.0), (1.0, 10.0), speed=stated)).readings
    assert reading.speed == pytest.approx(speed)


@pytest.mark.parametrize(
    ("speeds", "stated"),
    [((None, None), None), ((7.0, None), None), ((None, 7.0), None), ((7.0, 8.0), 30.0), ((-1.0, 8.0), None)],
)
def test_stated_speeds_add_up_where_they_cover_more_than_half_the_way(
    speeds: tuple[float | None, ...], stated: float | None
) -> None:
    there, back = speeds
    steps = [(0.0, 0.0, None), (2.0, 10.0, there), (4.0, 0.0, back)]
    drive = drive_of([Fix(START + at, 0.0, metres / DEGREE, speed, 1) for at, metres, speed in steps])
    assert drive.distance == 20.0
    assert drive.stated_distance == stated


def test_a_drive_begins_where_the_first_of_the_believed_positions_is() -> None:
    wrong = [Fix(START - 1.0, -40.0, 100.0, None, 2)]
    right = [Fix(START + at, 10.0 + at / 10_000, 20.0 + at / 10_000, None, 3) for at in range(5)]
    drive = drive_of(wrong + right)
    assert drive.origin == (10.0, 20.0)
    assert drive.left_out == 2


def test_times_that_stand_still_begin_no_drive() -> None:
    fixes = north(0.0, 20.0, 40.0)
    drive = drive_of([fixes[0], *[fixes[1]] * 5, fixes[2]])
    assert (drive.left_out, drive.duration, len(drive.readings)) == (4, 2.0, 2)


@pytest.mark.parametrize("count", [1, 2])
def test_a_few_times_that_go_back_are_left_out_also_at_the_end(count: int) -> None:
    drive = drive_of(north(0.0, 20.0, 40.0, 60.0) + north(0.0, 20.0)[:count])
    assert (drive.left_out, drive.duration) == (count, 3.0)


def test_three_times_that_go_back_begin_another_drive_each_time() -> None:
    recorded = [(20.0, 10.0), (10.0, 20.0), (0.0, 30.0)]
    fixes = [fix for later, pace in recorded for fix in equator(*[(later + at, pace * at) for at in range(3)])]
    drives, strays = drives_of(fixes)
    assert [(drive.start - START, drive.duration, drive.left_out) for drive in drives] == [
        (20.0, 2.0, 0),
        (10.0, 2.0, 0),
        (0.0, 2.0, 0),
    ]
    assert [drive.distance for drive in drives] == pytest.approx([20.0, 40.0, 60.0])
    assert strays == 0


def test_positions_of_no_drive_are_told_each() -> None:
    later = [Fix(START + SPLIT + 1.0 + at, 10.0 + at / 10_000, 20.0, None, 5) for at in range(3)]
    (drive,), strays = drives_of(north(0.0) * 2 + later)
    assert (strays, drive.start, drive.left_out) == (2, START + SPLIT + 1.0, 0)
