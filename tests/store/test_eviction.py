"""Who goes first when the outbox is full, and what is too old."""

from itertools import permutations

import pytest

from sentinel_sync.base.clock import ClockObservation, ClockStamp
from sentinel_sync.store.rules import EvictionGroup, eviction_order, is_too_old

DAY = 86_400.0
NOW = 1_780_000_000.0
BOOTED = NOW - 1000.0


def test_trips_go_last_and_what_is_being_sent_never() -> None:
    groups = [
        EvictionGroup(kind, state)
        for kind in ("trip", "scenario", "profile")
        for state in ("waiting", "set aside", "sending")
    ]
    expected = [
        EvictionGroup("profile", "set aside"),
        EvictionGroup("scenario", "set aside"),
        EvictionGroup("profile", "waiting"),
        EvictionGroup("scenario", "waiting"),
        EvictionGroup("trip", "set aside"),
        EvictionGroup("trip", "waiting"),
    ]
    assert eviction_order(groups) == expected


def test_the_order_does_not_depend_on_the_order_given() -> None:
    groups = [
        EvictionGroup("trip", "waiting"),
        EvictionGroup("a", "waiting"),
        EvictionGroup("b", "set aside"),
        EvictionGroup("trip", "set aside"),
    ]
    assert len({tuple(eviction_order(list(order))) for order in permutations(groups)}) == 1


def test_nothing_is_nothing() -> None:
    assert eviction_order([]) == []


CURRENT = ClockStamp("boot-2", BOOTED)
GOOD = ClockStamp("boot-1", BOOTED - 400 * DAY)


@pytest.mark.parametrize(
    ("created_at", "stamp", "seen", "max_age", "too_old"),
    [
        (NOW - 10 * DAY, None, None, 30 * DAY, False),
        (NOW - 31 * DAY, None, None, 30 * DAY, True),
        (NOW - 30 * DAY, None, None, 30 * DAY, False),
        (NOW - 1000 * DAY, None, None, 0.0, False),  # no bound
        (NOW + 10 * DAY, None, None, 30 * DAY, False),  # from the future
        (100.0, None, None, 30 * DAY, False),  # stamped without a clock: nobody knows
        (100.0, ClockStamp("boot-1", 0.0), None, 30 * DAY, False),
        # Stamped without a clock, but the backend's time was seen in that boot: 40 days ago.
        (100.0, ClockStamp("boot-1", 0.0), ClockObservation("boot-1", NOW - 40 * DAY, 1.0), 30 * DAY, True),
        (100.0, ClockStamp("boot-1", 0.0), ClockObservation("boot-1", NOW - 20 * DAY, 1.0), 30 * DAY, False),
        # It said a year ago and was a year slow.
        (NOW - 365 * DAY, GOOD, ClockObservation("boot-1", GOOD.offset + 364 * DAY, 1.0), 30 * DAY, False),
    ],
)
def test_age(
    created_at: float, stamp: ClockStamp | None, seen: ClockObservation | None, max_age: float, too_old: bool
) -> None:
    assert is_too_old(created_at, stamp, seen, CURRENT, NOW, max_age) is too_old
