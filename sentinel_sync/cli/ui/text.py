"""Figures as a person says them: durations, sizes, moments, tables."""

import math
import os
import re
import shutil
import sys
import textwrap
from collections.abc import Sequence
from datetime import UTC, datetime
from importlib.util import find_spec
from typing import Literal

_SPANS = ((86_400.0, "d"), (3600.0, "h"), (60.0, "min"))
_THOUSAND = 1000.0
Colour = Literal["red", "green", "yellow", "bold"]
_CODES: dict[Colour, str] = {"red": "31", "green": "32", "yellow": "33", "bold": "1"}

#: A last column narrower than this goes below its row instead, so far in.
_LEAST_COLUMN = 24
_INDENT = 4
#: What of what is not printable we write ourselves.
_OURS = re.compile(rf"((?:\x1b\[(?:0|{'|'.join(_CODES.values())})m|[\n\t])+)")


def duration(seconds: float) -> str:
    """`3 s`, `4 min 10 s`, `2 h 5 min`, `12 d 3 h`: two units at most."""
    if not math.isfinite(seconds):
        return "an unknown time"
    whole = max(0, round(seconds))
    for place, (length, unit) in enumerate(_SPANS):
        if whole >= length:
            count, rest = divmod(whole, int(length))
            smaller, below = _SPANS[place + 1] if place + 1 < len(_SPANS) else (1.0, "s")
            rest = int(rest // smaller)
            return f"{count} {unit} {rest} {below}" if rest else f"{count} {unit}"
    return f"{whole} s"


def size(size_bytes: float) -> str:
    """`512 B`, `1.5 kB`, `230 MB`: in powers of ten (SI), three digits."""
    if size_bytes < _THOUSAND:
        return f"{size_bytes:.0f} B"
    value = size_bytes
    unit = "B"
    for unit in ("kB", "MB", "GB", "TB"):  # noqa: B007 # the last one is used below
        value /= _THOUSAND
        if value < _THOUSAND - 0.5:  # else it would be rounded to a thousand of them
            break
    return f"{value:.1f} {unit}" if value < 10.0 else f"{value:.0f} {unit}"


def count(number: int, one: str, many: str | None = None) -> str:
    """`1 item`, `12,000 items`."""
    return f"{number:,} {one if number == 1 else many or one + 's'}"


def moment(timestamp: float) -> str:
    """Wall time in the machine's own zone: `2026-11-23 15:04:05 +01:00`."""
    return datetime.fromtimestamp(timestamp, UTC).astimezone().isoformat(sep=" ", timespec="seconds")


def utc(timestamp: float | None) -> str | None:
    """A time for programs (RFC 3339, UTC, to the millisecond); None stays None."""
    if timestamp is None:
        return None
    return datetime.fromtimestamp(round(timestamp, 3), UTC).isoformat(timespec="milliseconds")


def from_now(seconds: float) -> str:
    """`now`, `in 4 min`."""
    return "now" if seconds < 1.0 else f"in {duration(seconds)}"


def table(head: Sequence[str], rows: Sequence[Sequence[str]], *, width: int | None, right: frozenset[int]) -> list[str]:
    """Lay out rows in columns; nothing is ever cut.

    Args:
        head: Names of the columns.
        rows: Cells.
        width: Columns of the terminal: the last cell is wrapped to it; None where nothing is wrapped.
        right: Columns that are aligned to the right.
    """
    lines = [[printable(cell) for cell in row] for row in (head, *rows)]
    widths = [max(len(row[column]) for row in lines) for column in range(len(head))]
    return [line for row in lines for line in _row(row, widths, width, right)]


def pairs(facts: Sequence[tuple[str, str]]) -> list[str]:
    """Names and values, the values one below the other."""
    longest = max((len(name) for name, _ in facts), default=0)
    return [f"{name:<{longest}}  {printable(value)}".rstrip() for name, value in facts]


def printable(text: str) -> str:
    """The text without control characters: what a recorder or a backend said must not steer the terminal."""
    return "".join(character if character.isprintable() else "\N{REPLACEMENT CHARACTER}" for character in text)


def harmless(text: str) -> str:
    """The text as it may go to a terminal: what is printable, line ends, tabs, and our own colours."""
    return "".join(part if at % 2 else printable(part) for at, part in enumerate(_OURS.split(text)))


def out(text: str) -> None:
    """Write to standard output: the only way there, whoever's words the text holds."""
    sys.stdout.write(harmless(text))


def err(text: str) -> None:
    """Write to standard error, likewise."""
    sys.stderr.write(harmless(text))


def _row(cells: Sequence[str], widths: Sequence[int], width: int | None, right: frozenset[int]) -> list[str]:
    *most, last = (
        cell.rjust(widths[column]) if column in right else cell.ljust(widths[column])
        for column, cell in enumerate(cells)
    )
    line = "  ".join((*most, last)).rstrip()
    if width is None or len(line) <= width or not most:
        return [line]
    lead = "  ".join((*most, ""))
    if width - len(lead) >= _LEAST_COLUMN:
        first, *further = textwrap.wrap(last.strip(), width - len(lead))
        return [lead + first, *(" " * len(lead) + more for more in further)]
    below = textwrap.wrap(last.strip(), max(_LEAST_COLUMN, width - _INDENT))
    return [lead.rstrip(), *(" " * _INDENT + more for more in below)]


def is_terminal() -> bool:
    """Whether a person reads standard output."""
    return sys.stdout.isatty()


def can_draw() -> bool:
    """Whether a display may redraw itself: on a terminal that can, with rich (the extra `cli`) installed."""
    return is_terminal() and os.environ.get("TERM", "dumb") != "dumb" and find_spec("rich") is not None


def width() -> int | None:
    """Columns of the terminal, or None where the output goes elsewhere and nothing needs to be cut."""
    return shutil.get_terminal_size().columns if is_terminal() else None


def coloured(text: str, colour: Colour) -> str:
    """The text in a colour, on a terminal whose user did not ask for none (https://no-color.org)."""
    if not is_terminal() or os.environ.get("NO_COLOR") or os.environ.get("TERM") == "dumb":
        return text
    return f"\x1b[{_CODES[colour]}m{text}\x1b[0m"


def clear() -> None:
    """Empty the screen, the cursor to its top."""
    sys.stdout.write("\x1b[H\x1b[2J")
