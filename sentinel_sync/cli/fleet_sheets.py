"""Answers about the fleet as sheets: named columns of figures, for a table, for CSV, for JSON."""

import csv
import io
import json
from dataclasses import dataclass
from typing import Any

from sentinel_sync.cli.words import duration, table
from sentinel_sync.fleet.rules.queries import FleetAnswer, FleetListing, FleetTrend, VehicleComparison, titled, unit_of

#: A cell of a table is cut to so many characters: one talkative alert must not spread the others over the screen.
_LONGEST_CELL = 60
#: A spreadsheet takes a text that begins so for a formula, and runs it; the backend's words are not ours to trust.
_FORMULA = ("=", "+", "-", "@", "\t", "\r")
_OWN = frozenset({"stale", "age"})


@dataclass(frozen=True, slots=True)
class Sheet:
    """A table of figures in the wire's units.

    Attributes:
        columns: Their names on the wire.
        rows: Cells, one for each column; None where the backend said nothing.
        metrics: What each column measures, where its name does not say so.
    """

    columns: tuple[str, ...]
    rows: tuple[tuple[Any, ...], ...]
    metrics: tuple[str, ...] = ()


def facts_sheet(answer: FleetAnswer) -> Sheet:
    """An answer that is one object: a row for each of its fields."""
    return Sheet(("figure", "value"), tuple((name, value) for name, value in answer.items() if name not in _OWN))


def listing_sheet(listing: FleetListing) -> Sheet:
    """An answer that is a list: a column for each field that any entry has."""
    entries = listing.entries()
    columns = tuple(dict.fromkeys(name for entry in entries for name in entry.keys()))  # noqa: SIM118 # no dict
    metric = listing.metric if isinstance(listing, FleetTrend) else None
    return Sheet(
        columns,
        tuple(tuple(entry.get(name) for name in columns) for entry in entries),
        tuple(metric if name == "value" and metric else name for name in columns),
    )


def comparison_sheet(comparison: VehicleComparison) -> Sheet:
    """Vehicles as columns, metrics as rows: few vehicles, many metrics."""
    metrics = tuple(dict.fromkeys(metric for figures in comparison.vehicles.values() for metric in figures))
    return Sheet(
        ("metric", *comparison.vehicles),
        tuple((metric, *(figures.get(metric) for figures in comparison.vehicles.values())) for metric in metrics),
    )


def as_table(sheet: Sheet, *, by_row: bool, width: int | None) -> list[str]:
    """Lines of a table, figures in a person's units.

    Args:
        sheet: What is shown.
        by_row: True where each row's first cell names its metric, False where the column does.
        width: Columns of the terminal; None where nothing is cut.
    """
    metrics = sheet.metrics or sheet.columns
    rows = [
        [
            _cell(value, row[0] if by_row else metric, is_name=by_row and at == 0)
            for at, (metric, value) in enumerate(zip(metrics, row, strict=True))
        ]
        for row in sheet.rows
    ]
    right = frozenset(
        at
        for at in range(len(sheet.columns))
        if any(isinstance(row[at], int | float) for row in sheet.rows) and not (by_row and at == 0)
    )
    head = [name.upper().replace("_", " ") if not by_row or at == 0 else name for at, name in enumerate(sheet.columns)]
    return table(head, rows, width=width, right=right)


def as_csv(sheet: Sheet) -> str:
    """The sheet as CSV (RFC 4180), figures in the wire's units, so that they can be worked with."""
    target = io.StringIO(newline="")
    writer = csv.writer(target)
    writer.writerow(sheet.columns)
    writer.writerows([_harmless(value) for value in row] for row in sheet.rows)
    return target.getvalue().rstrip("\r\n")


def as_json(answer: FleetAnswer) -> str:
    """The answer as the backend gave it, with `stale` and `age`."""
    return json.dumps(answer.model_dump(mode="json"), ensure_ascii=False)


def age_note(answer: FleetAnswer) -> str | None:
    """What to say of an answer that is not today's, or None."""
    return f"the backend cannot be asked: this is what it said {duration(answer.age)} ago" if answer.stale else None


def _cell(value: object, metric: object, *, is_name: bool) -> str:
    if is_name:
        return titled(str(value))
    if isinstance(value, dict | list):
        text = json.dumps(value, ensure_ascii=False)
    else:
        text = unit_of(str(metric), value).said(value)
    return text if len(text) <= _LONGEST_CELL else f"{text[: _LONGEST_CELL - 1]}…"


def _harmless(value: object) -> object:
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return f"'{value}" if isinstance(value, str) and value.startswith(_FORMULA) else value
