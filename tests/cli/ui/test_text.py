"""Figures in words."""

import pytest

from sentinel_sync.cli.ui.text import count, duration, from_now, pairs, size, table


@pytest.mark.parametrize(
    ("seconds", "text"),
    [
        (0.0, "0 s"),
        (-3.0, "0 s"),
        (59.4, "59 s"),
        (59.6, "1 min"),
        (250.0, "4 min 10 s"),
        (3600.0, "1 h"),
        (7500.0, "2 h 5 min"),
        (86_400.0 * 12 + 3 * 3600.0 + 59.0, "12 d 3 h"),
        (float("inf"), "an unknown time"),
        (float("nan"), "an unknown time"),
    ],
)
def test_durations_have_two_units_at_most(seconds: float, text: str) -> None:
    assert duration(seconds) == text


@pytest.mark.parametrize(
    ("size_bytes", "text"),
    [
        (0, "0 B"),
        (1023, "1023 B"),
        (1536, "1.5 KiB"),
        (268_435_456, "256 MiB"),
        (5 << 40, "5.0 TiB"),
        (9 << 50, "9216 TiB"),
    ],
)
def test_sizes(size_bytes: int, text: str) -> None:
    assert size(size_bytes) == text


def test_counts_and_moments_to_come() -> None:
    assert [count(1, "item"), count(12_000, "item"), count(2, "entry", "entries")] == [
        "1 item",
        "12,000 items",
        "2 entries",
    ]
    assert [from_now(0.4), from_now(-5.0), from_now(240.0)] == ["now", "now", "in 4 min"]


def test_a_table_is_cut_to_the_terminal_and_shows_no_control_characters() -> None:
    lines = table(("KEY", "N"), [("a", "1"), ("long\x1b[2J", "22")], width=None, right=frozenset({1}))
    assert lines == ["KEY        N", "a          1", "long\ufffd[2J  22"]
    assert table(("KEY",), [("abcdefgh",)], width=5, right=frozenset()) == ["KEY", "abcd…"]


def test_pairs_line_up() -> None:
    assert pairs([("a", "1"), ("long", "2")]) == ["a     1", "long  2"]
