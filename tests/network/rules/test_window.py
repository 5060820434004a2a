"""Windows: hours of the vehicle's own day, overnight too, and what the host says of the vehicle."""

from datetime import datetime, timedelta

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import ValidationError

from sentinel_sync.network.rules.window import VehicleCondition, Window, seconds_to_next_minute, why_closed
from sentinel_sync.settings import TransferWindow

#: A Monday.
MONDAY = datetime(2026, 11, 23)  # noqa: DTZ001 - a vehicle's local time
NIGHT = Window(begin=22 * 60, end=6 * 60)


@pytest.mark.parametrize(
    ("window", "days", "time", "is_open"),
    [
        (Window(), 0, (0, 0), True),
        (Window(), 6, (23, 59), True),
        (Window(begin=8 * 60, end=17 * 60), 0, (7, 59), False),
        (Window(begin=8 * 60, end=17 * 60), 0, (8, 0), True),
        (Window(begin=8 * 60, end=17 * 60), 0, (16, 59), True),
        (Window(begin=8 * 60, end=17 * 60), 0, (17, 0), False),
        (NIGHT, 0, (21, 59), False),
        (NIGHT, 0, (22, 0), True),
        (NIGHT, 1, (5, 59), True),
        (NIGHT, 1, (6, 0), False),
        (Window(frozenset({5}), 22 * 60, 6 * 60), 5, (23, 0), True),
        (Window(frozenset({5}), 22 * 60, 6 * 60), 6, (5, 0), True),
        (Window(frozenset({5}), 22 * 60, 6 * 60), 6, (23, 0), False),
        (Window(frozenset({5}), 22 * 60, 6 * 60), 5, (5, 0), False),
        (Window(frozenset({6}), 22 * 60, 6 * 60), 7, (5, 0), True),
        (Window(frozenset({5, 6})), 4, (23, 59), False),
        (Window(frozenset({5, 6})), 5, (0, 0), True),
        (Window(begin=60, end=60), 0, (0, 30), True),
    ],
)
def test_it_is_open_at_its_hours(window: Window, days: int, time: tuple[int, int], is_open: bool) -> None:
    now = MONDAY + timedelta(days=days, hours=time[0], minutes=time[1])
    assert window.is_open(now, ()) is is_open


def test_a_condition_has_to_hold_besides() -> None:
    window = Window(begin=22 * 60, end=6 * 60, condition=VehicleCondition.CHARGING)
    night = MONDAY + timedelta(hours=23)
    assert not window.is_open(night, ())
    assert not window.is_open(night, {VehicleCondition.PARKED})
    assert window.is_open(night, {VehicleCondition.CHARGING})
    assert not window.is_open(MONDAY + timedelta(hours=12), {VehicleCondition.CHARGING})


def test_any_of_them_will_do_and_none_is_always() -> None:
    noon = MONDAY + timedelta(hours=12)
    assert why_closed("recordings", "upload_window", [], noon, ()) is None
    assert why_closed("recordings", "upload_window", [NIGHT, Window(frozenset({0}))], noon, ()) is None
    assert why_closed("recordings", "upload_window", [NIGHT], noon, ()) == (
        "cloud.upload_window is closed: recordings wait for it"
    )


@given(
    st.builds(Window, st.frozensets(st.integers(0, 6)), st.integers(0, 1439), st.integers(0, 1440)),
    st.integers(0, 7 * 86_400 - 1),
)
def test_it_opens_and_closes_at_full_minutes_alone(window: Window, second: int) -> None:
    now = MONDAY + timedelta(seconds=second)
    assert window.is_open(now, ()) is window.is_open(now.replace(second=0), ())
    assert 0.0 < seconds_to_next_minute(now) <= 60.0


@pytest.mark.parametrize(
    "keys",
    [{"begin": "24:01"}, {"begin": "7:00"}, {"end": "noon"}, {"days": ["monday"]}, {"when": "idle"}, {"from": "22:00"}],
)
def test_what_is_no_window_is_refused(keys: dict[str, object]) -> None:
    with pytest.raises(ValidationError):
        TransferWindow.model_validate(keys)
    assert TransferWindow(begin="22:00", end="06:00", days=("sat",)).minutes == (22 * 60, 6 * 60)
