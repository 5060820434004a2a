"""When a folder is a complete recording, whose turn it is, what a withdrawal means for it, how long it is kept."""

import pytest
from pydantic import JsonValue

from sentinel_sync.scenarios.rules.lifecycle import (
    HEAD_START,
    PATIENCE,
    FolderObservation,
    is_past,
    made_while_withdrawn,
    priority_of,
    turn,
)
from sentinel_sync.scenarios.rules.plan import Consent, Priority

NOW = 1_780_000_000.0
HOUR = 3600.0
DAY = 24 * HOUR


class TestSight:
    def test_a_folder_settles_once_it_has_been_unchanged_for_long_enough(self) -> None:
        observation = FolderObservation("a", since=100.0)
        assert observation.settles_in(100.0, 5.0) == 5.0
        assert observation.settles_in(104.0, 5.0) == 1.0
        assert observation.settles_in(105.0, 5.0) == 0.0

    def test_it_is_given_up_only_after_patience(self) -> None:
        observation = FolderObservation("a", since=100.0)
        assert not observation.is_given_up(100.0 + PATIENCE - 1.0)
        assert observation.is_given_up(100.0 + PATIENCE)


@pytest.mark.parametrize(
    ("metadata", "priority"),
    [
        ({"trigger": {"type": "critical", "reason": "risk 0.90"}}, Priority.HIGH),
        ({"trigger": {"type": "CRITICAL_RISK"}}, Priority.HIGH),
        ({"trigger": {"type": "near_miss", "reason": "critical TTC"}}, Priority.NORMAL),
        ({"trigger": {"type": 3}}, Priority.NORMAL),
        ({"trigger": "critical"}, Priority.NORMAL),
        ({}, Priority.NORMAL),
    ],
)
def test_a_critical_trigger_makes_a_recording_important(metadata: dict[str, JsonValue], priority: Priority) -> None:
    assert priority_of(metadata) is priority


class TestTurn:
    def test_high_goes_before_normal_before_low(self) -> None:
        turns = [turn(NOW, priority.rank) for priority in (Priority.HIGH, Priority.NORMAL, Priority.LOW)]
        assert turns == sorted(turns)
        assert turn(NOW + HEAD_START - 1.0, Priority.HIGH.rank) < turn(NOW, Priority.NORMAL.rank)

    def test_low_does_not_wait_for_ever(self) -> None:
        assert turn(NOW, Priority.LOW.rank) < turn(NOW + 2 * HEAD_START + 1.0, Priority.HIGH.rank)

    def test_of_one_priority_the_older_goes_first(self) -> None:
        assert turn(NOW, 1) < turn(NOW + 1.0, 1)


GRANTED, WITHDRAWN, AGAIN = (
    Consent(True, NOW, "1"),
    Consent(False, NOW + 10.0, "1"),
    Consent(True, NOW + 20.0, "1"),
)


class TestWithdrawn:
    @pytest.mark.parametrize(
        ("made_at", "withdrawn"),
        [(NOW - 5.0, False), (NOW + 5.0, False), (NOW + 10.0, True), (NOW + 15.0, True), (NOW + 20.0, False)],
    )
    def test_only_what_was_made_in_between_is_left_out(self, made_at: float, withdrawn: bool) -> None:
        assert made_while_withdrawn([GRANTED, WITHDRAWN, AGAIN], made_at) is withdrawn

    def test_what_was_made_before_any_decision_is_not(self) -> None:
        assert not made_while_withdrawn([WITHDRAWN, AGAIN], NOW)
        assert not made_while_withdrawn([], NOW)


@pytest.mark.parametrize(
    ("at", "keep_days", "past"),
    [
        (NOW - 8 * DAY, 7.0, True),
        (NOW - 6 * DAY, 7.0, False),
        (NOW - 1.0, 0.0, True),
        (NOW - 8 * DAY, None, False),
        (None, 7.0, False),
        (0.0, 7.0, False),  # a clock that was not set
        (NOW + DAY, 0.0, False),
    ],
)
def test_only_what_is_known_to_be_old_is_past(at: float | None, keep_days: float | None, past: bool) -> None:
    assert is_past(at, keep_days, NOW) is past
