"""What may leave the vehicle: coarse places, pseudonyms, paths fit for a log."""

import hashlib
import hmac
import json
import re
import time
from dataclasses import dataclass
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.privacy import (
    Place,
    coarse_degrees,
    coarse_path,
    coarse_place,
    coarsen,
    loggable_path,
    loggable_text,
    pseudonym,
)

SAN_FRANCISCO = Place(37.77, -122.42)


@dataclass
class Fix:
    lat: float
    lon: float


class TestCoarsePlace:
    @pytest.mark.parametrize(
        "location",
        [
            {"lat": 37.774929, "lon": -122.419416},
            {"latitude": 37.774929, "longitude": -122.419416},
            {"Lat": 37.774929, "LNG": -122.419416, "altitude": 12.3456},
            {"lat": 37.774929, "long": -122.419416},
            {"lat": "37.774929", "lon": "-122.419416"},
            (37.774929, -122.419416),
            [37.774929, -122.419416],
            "37.774929,-122.419416",
            " 37.774929 , -122.419416 ",
            Fix(37.774929, -122.419416),
        ],
    )
    def test_forms(self, location: object) -> None:
        assert coarse_place(location) == SAN_FRANCISCO

    @pytest.mark.parametrize(
        ("location", "place"),
        [
            ((90, 180), (90.0, 180.0)),
            ((-90.0, -180.0), (-90.0, -180.0)),
            ((0.001, -0.001), (0.0, 0.0)),
            ({"lat": 1, "lon": 2}, (1.0, 2.0)),
        ],
    )
    def test_edges(self, location: object, place: tuple[float, float]) -> None:
        assert coarse_place(location) == place
        assert "-0.0" not in repr(coarse_place((0.001, -0.001)))

    @pytest.mark.parametrize(
        "location",
        [
            None,
            "",
            "somewhere",
            "1,2,3",
            "1",
            17,
            True,
            object(),
            {},
            {"lat": 37.774929},
            {"lat": None, "lon": None},
            {"lat": "here", "lon": "there"},
            (1.0,),
            (1.0, 2.0, 3.0),
            (float("nan"), 0.0),
            (0.0, float("inf")),
            "nan,nan",
            (90.001, 0.0),
            (0.0, 180.001),
            (377749290, -1224194160),
            {"lat": {}, "lon": []},
        ],
    )
    def test_what_is_no_place_is_refused_without_repeating_it(self, location: object) -> None:
        with pytest.raises(ValueError, match="location") as caught:
            coarse_place(location)
        assert "774929" not in str(caught.value)
        assert caught.value.__suppress_context__ or caught.value.__context__ is None

    @given(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0))
    def test_every_place_on_earth_keeps_two_decimals(self, lat: float, lon: float) -> None:
        place = coarse_place((lat, lon))
        for degrees, exact in zip(place, (lat, lon), strict=True):
            assert abs(degrees - exact) <= 0.005 + 1e-9
            assert decimals(repr(degrees)) <= 2
            assert repr(degrees) != "-0.0"
        assert coarse_place(place) == place


class TestCoarsen:
    @pytest.mark.parametrize(
        ("value", "coarse"),
        [
            ({"lat": 37.774929, "lon": -122.419416}, {"lat": 37.77, "lon": -122.42}),
            ({"latitude": 37.774929, "Longitude": -122.419416}, {"latitude": 37.77, "Longitude": -122.42}),
            ({"start_lat": 37.774929, "endLon": -122.419416}, {"start_lat": 37.77, "endLon": -122.42}),
            ({"gpsLatitude": 37.774929, "lngE": 1.2345}, {"gpsLatitude": 37.77, "lngE": 1.23}),
            ({"location": "37.774929,-122.419416"}, {"location": "37.77,-122.42"}),
            ({"location": "lat=37.774929;lon=-122.419416"}, {"location": "lat=37.77;lon=-122.42"}),
            ({"location": "3.7774929e1,-1.22419416E+2"}, {"location": "37.77,-122.42"}),
            ({"location": ".774929,5."}, {"location": "0.77,5."}),
            ({"location": {"point": [37.774929, [1.23456]]}}, {"location": {"point": [37.77, [1.23]]}}),
            (
                {"geometry": {"type": "Point", "coordinates": [-122.419416, 37.774929]}},
                {"geometry": {"type": "Point", "coordinates": [-122.42, 37.77]}},
            ),
            (
                {"waypoints": [{"a": 1.23456}], "GPS-Position": (1.23456,)},
                {"waypoints": [{"a": 1.23}], "GPS-Position": [1.23]},
            ),
            ({"location": None, "position": True, "place": 5}, {"location": None, "position": True, "place": 5}),
            ({"location": "parking deck 3"}, {"location": "parking deck 3"}),
            # What is no place stays as it is.
            ({"distance": 12.345678, "speeds": [1.23456]}, {"distance": 12.345678, "speeds": [1.23456]}),
            (
                {"relation": 1.23456, "lonely": 1.23456, "flat": 1.234567},
                {"relation": 1.23456, "lonely": 1.23456, "flat": 1.234567},
            ),
            ({"note": "1.2345", "version": "v1.2.3456"}, {"note": "1.2345", "version": "v1.2.3456"}),
            ([1.23456, "1.23456"], [1.23456, "1.23456"]),
            (1.23456, 1.23456),
            (b"\x00", b"\x00"),
        ],
    )
    def test_table(self, value: Any, coarse: Any) -> None:
        assert coarsen(value) == coarse

    @pytest.mark.parametrize("text", ["1", "1.", "1e", "-1", ".1"])
    def test_a_text_of_a_million_digits_takes_no_longer_than_one_of_letters(self, text: str) -> None:
        began = time.process_time()
        coarsen({"location": text * (1_000_000 // len(text))})
        # Tried at each digit anew it would be a quarter of an hour.
        assert time.process_time() - began < 20.0

    JSON = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text()
        | st.from_regex(r"\A[-+]?[0-9]{0,4}\.?[0-9]{0,8}([eE][-+]?[0-9]{1,2})?(,[0-9]*\.[0-9]+){0,2}\Z"),
        lambda inner: st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["lat", "endLon", "location", "gps", "note", "x", "positions"]), inner),
        max_leaves=12,
    )  # fmt: skip

    @given(JSON)
    def test_is_idempotent(self, value: Any) -> None:
        once = coarsen(value)
        assert coarsen(once) == once

    @given(JSON)
    def test_no_number_under_a_place_keeps_more_than_two_decimals(self, value: Any) -> None:
        for number in numbers(coarsen({"location": value})):
            assert decimals(number) <= 2, number

    @given(JSON)
    def test_leaves_what_it_was_given_alone(self, value: Any) -> None:
        before = json.dumps(value)
        coarsen(value)
        assert json.dumps(value) == before


class TestPseudonym:
    def test_is_hmac_sha_256_with_the_fleets_key(self) -> None:
        digest = hmac.new(b"fleet-secret", b"driver_123", hashlib.sha256).hexdigest()
        assert pseudonym("driver_123", b"fleet-secret") == f"d_{digest[:32]}"

    def test_known_value(self) -> None:
        assert pseudonym("driver_123", b"fleet-secret") == "d_" + (
            hmac.digest(b"fleet-secret", b"driver_123", "sha256")[:16].hex()
        )

    @pytest.mark.parametrize(("driver", "key"), [(None, b"k"), ("", b"k"), ("d", None), ("d", b"")])
    def test_without_a_driver_or_a_key_there_is_none(self, driver: str | None, key: bytes | None) -> None:
        assert pseudonym(driver, key) is None

    @given(st.text(min_size=1).filter(lambda text: text.isprintable()), st.binary(min_size=1))
    def test_the_same_driver_is_the_same_and_cannot_be_read(self, driver: str, key: bytes) -> None:
        name = pseudonym(driver, key)
        assert name == pseudonym(driver, key)
        assert name is not None
        assert re.fullmatch(r"d_[0-9a-f]{32}", name)
        assert name != pseudonym(driver, key + b"x")


class TestLoggable:
    @pytest.mark.parametrize(
        ("path", "loggable"),
        [
            ("/trips", "/trips"),
            ("/drivers/driver_123/profile", "/drivers/{id}/profile"),
            ("/api/v1/drivers/driver_123/profile?x=1", "/api/v1/drivers/{id}/profile"),
            ("/drivers/a%2Fb/profile", "/drivers/{id}/profile"),
            ("/drivers/leaderboardist/profile", "/drivers/{id}/profile"),
            ("/fleet/fleet_alpha/drivers/leaderboard", "/fleet/fleet_alpha/drivers/leaderboard"),
            ("/fleet/f/rankings?metric=x&lat=37.774929", "/fleet/f/rankings"),
            ("/near/37.774929,-122.419416", "/near/37.77,-122.42"),
        ],
    )
    def test_paths(self, path: str, loggable: str) -> None:
        assert loggable_path(path) == loggable

    @pytest.mark.parametrize(
        ("text", "loggable"),
        [
            ("Bad\r\nRequest\x1b[31m\x9b", "Bad Request [31m"),
            ("why? because", "why? because"),
            ("see /drivers/driver_123/profile and go", "see /drivers/{id}/profile and go"),
            ("at 37.774929,-122.419416", "at 37.77,-122.42"),
            ("x" * 1000, "x" * 200),
            ("  ", ""),
        ],
    )
    def test_texts_from_outside(self, text: str, loggable: str) -> None:
        assert loggable_text(text) == loggable

    @given(st.text())
    def test_a_text_is_one_line_and_not_endless(self, text: str) -> None:
        line = loggable_text(text)
        assert len(line) <= 200
        assert not re.search(r"[\x00-\x1f\x7f-\x9f]", line)

    @given(st.floats(-90.0, 90.0), st.floats(-180.0, 180.0))
    def test_no_fine_place_stays_in_a_path(self, lat: float, lon: float) -> None:
        path = coarse_path(f"/near/{lat:.6f},{lon:.6f}/x")
        assert not re.search(r"\d\.\d{3}", path)


@given(st.floats(-180.0, 180.0))
def test_degrees_never_show_a_negative_zero(degrees: float) -> None:
    assert repr(coarse_degrees(degrees)) != "-0.0"


def decimals(number: str) -> int:
    """How many decimals a number has, as written plainly."""
    mantissa, _, exponent = number.lower().partition("e")
    digits = mantissa.partition(".")[2].rstrip("0")
    return max(0, len(digits) - int(exponent or 0))


def numbers(value: Any) -> list[str]:
    """Every number in JSON, also those inside texts, but integers."""
    match value:
        case float():
            return [repr(value)]
        case str():
            return [found[0] for found in re.finditer(r"\d*\.\d+(?:[eE][-+]?\d+)?|\d+[eE][-+]?\d+", value)]
        case dict():
            return [number for inner in value.values() for number in numbers(inner)]
        case list():
            return [number for inner in value for number in numbers(inner)]
    return []
