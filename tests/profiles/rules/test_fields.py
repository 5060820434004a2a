"""What a profile's fields may hold, and the forms of its times."""

from typing import Any

import pytest

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.rules.fields import MAX_READINGS, checked_id, in_form, moment_of, read_profile


def test_a_real_profile_is_taken_apart_by_what_its_fields_mean() -> None:
    reading = read_profile(
        {"driver_id": "d", "total_distance": 1, "safety_score": 80.5, "driving_style": "calm", "metrics": {"a": [1]}},
        "d",
    )
    assert reading.totals == {"total_distance": 1}
    assert reading.averages == {"safety_score": 80.5}
    assert reading.latest == {"driver_id": "d", "driving_style": "calm"}
    assert reading.metrics == {"a": [1]}


@pytest.mark.parametrize(
    ("name", "value"),
    [
        ("total_distance", "1000"),
        ("total_distance", -1),
        ("total_time", float("nan")),
        ("total_time", 1e300),
        ("session_count", True),
        ("safety_score", "high"),
        ("safety_score", [80]),
        ("metrics", [1]),
        ("metrics", {"a": 5}),
        ("last_updated", "yesterday"),
        ("last_updated", "1763400000"),
        ("last_updated", -5),
        ("last_updated", 1e15),
        ("last_updated", True),
        ("created_at", {"at": 1}),
        ("driver_id", "another"),
    ],
)
def test_an_impossible_value_is_named_but_not_repeated(name: str, value: Any) -> None:
    with pytest.raises(ProfileError, match=name) as caught:
        read_profile({name: value}, "d")
    assert repr(value) not in str(caught.value)


def test_nulls_are_as_if_left_out() -> None:
    reading = read_profile({"total_distance": None, "metrics": None, "last_updated": None, "safety_score": None}, "d")
    assert not reading.totals
    assert reading.updated is None


def test_lists_keep_their_newest_readings() -> None:
    reading = read_profile({"metrics": {"a": list(range(MAX_READINGS + 10))}}, "d")
    assert reading.metrics["a"][0] == 10
    assert len(reading.metrics["a"]) == MAX_READINGS


@pytest.mark.parametrize(
    "raw",
    [
        "2026-11-17T18:22:31.104233",
        "2026-11-17T18:22:31",
        "2026-11-17T18:22:31.104233+02:00",
        "2026-11-17T18:22:31.104233Z",
        1_763_400_000,
        1_763_400_000.25,
        0,
    ],
)
def test_a_time_is_written_back_in_its_own_form(raw: Any) -> None:
    moment = moment_of({"last_updated": raw}, "last_updated")
    assert moment is not None
    assert in_form(moment.us, raw) == raw


@pytest.mark.parametrize("driver_id", ["driver_123", "a/b", "..", "50% off", "Zoë Ünal", "a.b", "x" * 1024])
def test_any_text_is_an_id(driver_id: str) -> None:
    assert checked_id(driver_id) == driver_id


@pytest.mark.parametrize("driver_id", ["", "  ", "a\nb", "a\x00b", "\ud800", "x" * 1025, None, 7])
def test_what_is_no_id_is_refused_without_repeating_it(driver_id: object) -> None:
    with pytest.raises(ValueError, match="driver_id must be text") as caught:
        checked_id(driver_id)
    assert "xx" not in str(caught.value)
