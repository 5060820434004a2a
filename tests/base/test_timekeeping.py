"""Which time was it really? Vehicles boot without a clock, and clocks are set while they run."""

from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.clock import (
    EARLIEST_PLAUSIBLE,
    LATEST_PLAUSIBLE,
    TOLERANCE,
    ClockObservation,
    ClockStamp,
    clock_observation,
    correction,
    http_date,
    is_plausible,
    is_trusted,
    rfc3339,
    skew,
)

TRUE_OFFSET = 1_780_000_000.0
HOUR = 3600.0


def stamp(wrong_by: float, boot: str = "boot-1") -> ClockStamp:
    """The clocks of a vehicle whose wall clock is ahead by so much."""
    return ClockStamp(boot, TRUE_OFFSET + wrong_by)


SEEN = ClockObservation("boot-1", TRUE_OFFSET, 0.5)


def test_the_backends_clock_is_read_halfway() -> None:
    seen = clock_observation("boot-1", TRUE_OFFSET + 101.0, sent=100.0, received=102.0, resolution=0.5)
    assert seen == ClockObservation("boot-1", TRUE_OFFSET, 1.5)


@pytest.mark.parametrize(
    ("wrong_by", "seen", "now_wrong_by", "now_boot", "shift"),
    [
        # Seen in that boot: the backend's word counts, whatever the clock says now.
        (0.0, SEEN, 0.0, "boot-1", 0.0),
        (-HOUR, SEEN, -HOUR, "boot-1", HOUR),
        (86_400.0, SEEN, 0.0, "boot-1", -86_400.0),
        (-TRUE_OFFSET, SEEN, 0.0, "boot-2", TRUE_OFFSET),
        # Latency and drift are no wrong clock.
        (TOLERANCE, SEEN, 0.0, "boot-1", 0.0),
        (-TOLERANCE, SEEN, 0.0, "boot-1", 0.0),
        (TOLERANCE + 1.0, SEEN, 0.0, "boot-1", -TOLERANCE - 1.0),
        # Never seen, but set since in the same boot: the later reading counts.
        (-HOUR, None, 0.0, "boot-1", HOUR),
        (0.0, None, 5.0, "boot-1", 0.0),
        # Never seen, and another boot: nobody knows.
        (-HOUR, None, 0.0, "boot-2", 0.0),
        # Seen in another boot says nothing about this one.
        (-HOUR, ClockObservation("boot-0", 0.0, 0.0), 0.0, "boot-2", 0.0),
    ],
)
def test_corrections(
    wrong_by: float, seen: ClockObservation | None, now_wrong_by: float, now_boot: str, shift: float
) -> None:
    assert correction(stamp(wrong_by), seen, stamp(now_wrong_by, now_boot)) == pytest.approx(shift)


@given(st.floats(-1e9, 1e9), st.floats(0.0, 10.0))
def test_what_was_put_right_is_right(wrong_by: float, uncertainty: float) -> None:
    seen = ClockObservation("boot-1", TRUE_OFFSET, uncertainty)
    recorded = stamp(wrong_by)
    left = recorded.offset + correction(recorded, seen, recorded) - TRUE_OFFSET
    assert abs(left) <= TOLERANCE + uncertainty + 1e-3


@pytest.mark.parametrize(
    ("seen", "current", "ahead", "trusted"),
    [
        (SEEN, stamp(0.0), 0.0, True),
        (SEEN, stamp(HOUR), HOUR, False),
        (SEEN, stamp(-HOUR), -HOUR, False),
        (SEEN, stamp(TOLERANCE), TOLERANCE, True),
        (None, stamp(0.0), None, False),
        (SEEN, stamp(0.0, "boot-2"), None, False),
    ],
)
def test_skew_and_trust(seen: ClockObservation | None, current: ClockStamp, ahead: float | None, trusted: bool) -> None:
    assert skew(seen, current) == ahead
    assert is_trusted(seen, current) is trusted


@pytest.mark.parametrize(
    ("seconds", "plausible"),
    [
        (None, False),
        (0.0, False),
        (-1.0, False),
        (EARLIEST_PLAUSIBLE, True),
        (TRUE_OFFSET, True),
        (LATEST_PLAUSIBLE, False),
        (float("nan"), False),
        (float("inf"), False),
    ],
)
def test_what_a_working_clock_can_show(seconds: float | None, plausible: bool) -> None:
    assert is_plausible(seconds) is plausible


class TestTimesAsOthersWriteThem:
    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("Mon, 23 Nov 2026 08:00:00 GMT", 1_795_420_800.0),
            ("Mon, 23 Nov 2026 08:00:00 -0000", 1_795_420_800.0),
            (None, None),
            ("", None),
            ("x", None),
        ],
    )
    def test_http_dates(self, text: str | None, seconds: float | None) -> None:
        assert http_date(text) == seconds

    @pytest.mark.parametrize(
        ("text", "seconds"),
        [
            ("2026-11-23T08:00:00Z", 1_795_420_800.0),
            ("2026-11-23t08:00:00z", 1_795_420_800.0),
            ("2026-11-23T09:00:00.5+01:00", 1_795_420_800.5),
            ("2026-11-23T08:00:00", None),
            ("2026-11-23", None),
            ("yesterday", None),
            ("", None),
            (None, None),
            (1_795_420_800, None),
            ([], None),
        ],
    )
    def test_rfc_3339(self, text: Any, seconds: float | None) -> None:
        assert rfc3339(text) == seconds

    @given(st.text())
    def test_no_text_raises(self, text: str) -> None:
        http_date(text)
        rfc3339(text)
