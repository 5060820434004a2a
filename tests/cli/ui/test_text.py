"""Figures in words."""

import re
from pathlib import Path

import pytest

from sentinel_sync.cli.ui import text as text_module
from sentinel_sync.cli.ui.tables import Sheet, as_csv
from sentinel_sync.cli.ui.text import count, duration, err, from_now, out, pairs, size, table


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
        (999, "999 B"),
        (999_999, "1.0 MB"),
        (1536, "1.5 kB"),
        (268_435_456, "268 MB"),
        (5 << 40, "5.5 TB"),
        (9 << 50, "10133 TB"),
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


def test_a_table_is_wrapped_to_the_terminal_and_shows_no_control_characters() -> None:
    lines = table(("KEY", "N"), [("a", "1"), ("long\x1b[2J", "22")], width=None, right=frozenset({1}))
    assert lines == ["KEY        N", "a          1", "long\ufffd[2J  22"]
    assert table(("KEY",), [("abcdefgh",)], width=5, right=frozenset()) == ["KEY", "abcdefgh"]


@pytest.mark.parametrize("width", [30, 40, 60, 80, 100, 200])
def test_no_word_of_a_reason_is_ever_cut(width: int) -> None:
    """G5: what matters most is in the last column."""
    reason = "the backend refused it (422): distance is missing, and so is everything else that was to be in it"
    rows = [("0195c0e2-7a5b-7c1e-8000-000000000000", "set aside", "2 h 5 min", reason)]
    lines = table(("KEY", "STATE", "AGE", "REASON"), rows, width=width, right=frozenset())
    words = [word for line in lines for word in line.split()]
    assert words == ["KEY", "STATE", "AGE", "REASON", *(word for cell in rows[0] for word in cell.split())]
    widest = max(map(len, lines))
    assert widest <= max(width, 60), "what comes before is not broken"


@pytest.mark.parametrize(
    "hostile",
    [
        "\x1b[2J\x1b[H",
        "\x1b]0;title\x07",
        "\x1b]8;;http://evil\x1b\\link",
        "\x9b31m",
        "\x1b[38;5;1m",
        "\x1bP$q\x1b\\",
        "a\rb",
        "a\x08\x08b",
        "\u202egnp.exe",
        "\u2066\u2069",
        "\u2028next",
        "\x85",
        "\x00",
        "\x7f",
    ],
)
def test_no_text_from_outside_steers_a_terminal(hostile: str, capsys: pytest.CaptureFixture[str]) -> None:
    """G9: one function stands before standard output and standard error."""
    out(f"before {hostile} after\n")
    err(f"before {hostile} after\n")
    for said in capsys.readouterr():
        assert said.removesuffix("\n").isprintable()
        assert (said.startswith("before "), said.endswith(" after\n")) == (True, True)


def test_our_own_colours_pass(capsys: pytest.CaptureFixture[str]) -> None:
    out("\x1b[31mbad\x1b[0m\tand\nbad\n")
    assert capsys.readouterr().out == "\x1b[31mbad\x1b[0m\tand\nbad\n"


def test_nothing_in_the_command_line_writes_past_it() -> None:
    """But for what steers the terminal on purpose: the live panel, the log's writer, a line that is redrawn."""
    allowed = {"text.py", "writer.py", "live.py", "logs.py", "demo.py", "replay.py"}
    past = re.compile(r"std(out|err)\.write\(|(?<![\w.])print\(")
    folder = Path(text_module.__file__).parent.parent
    found = {path.name for path in folder.rglob("*.py") if past.search(path.read_text())}
    assert found <= allowed


def test_pairs_line_up() -> None:
    assert pairs([("a", "1"), ("long", "2")]) == ["a     1", "long  2"]


@pytest.mark.parametrize(
    "hostile",
    ["=cmd|' /C calc'!A0", "+1+1", "-2+3", "@SUM(A1)", "  =1", "\t=1", "\r=1", "\uff1dcmd", '=HYPERLINK("http://x")'],
)
def test_no_cell_of_a_csv_is_a_formula(hostile: str) -> None:
    """G9: neither in a row nor in the head, where vehicles are named."""
    head, row = as_csv(Sheet(("metric", hostile), ((hostile, -1.5),))).replace('"', "").splitlines()
    assert not any(cell.lstrip().startswith(tuple("=+-@\uff1d")) for cell in head.split(","))
    assert row.startswith("'")
    assert row.endswith(",-1.5"), "a figure stays one"
