"""Answers about the fleet as sheets: named columns of figures, for a table, for CSV, for JSON."""

import csv
import io
import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path
from typing import Any

from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import duration, printable, table
from sentinel_sync.fleet.rules import FleetAnswer, FleetListing, FleetTrend, VehicleComparison, titled, unit_of

#: A spreadsheet takes a text that begins so for a formula, and runs it; the backend's words are not ours to trust.
_FORMULA = ("=", "+", "-", "@", "\uff1d", "\uff0b", "\uff0d", "\uff20")
#: So many characters are a sentence, not a name or a figure.
_LONG_CELL = 40
_OWN = frozenset({"stale", "age"})
#: Inches and dots per inch: as wide as a page's text, sharp when printed.
_SIZE = (8.0, 3.6)
_RESOLUTION = 150
#: More labels than this would overlap.
_MOST_LABELS = 8
_HEIGHT = 10
_STEPS = 8
_BLOCKS = " ▁▂▃▄▅▆▇█"
#: A day without a figure is a gap, not a zero.
_GAP = "·"
_LEAST_WIDTH = 20


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
    """An answer that is one object: a row for each of its fields, also of those that are objects themselves."""
    facts = {name: value for name, value in answer.items() if name not in _OWN}
    return Sheet(("figure", "value"), tuple(_flat("", facts)))


def _flat(name: str, value: Any) -> Iterator[tuple[str, Any]]:
    """The values in an object, each under the path that leads to it."""
    if isinstance(value, Mapping):
        for inner, fact in value.items():
            yield from _flat(f"{name}.{inner}" if name else str(inner), fact)
    elif isinstance(value, list | tuple) and any(isinstance(entry, Mapping) for entry in value):
        for number, entry in enumerate(value, 1):
            yield from _flat(f"{name}.{number}", entry)
    else:
        yield name, value


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
        width: Columns of the terminal; None where nothing is wrapped.

    Nothing is cut: a column of sentences comes last, where it is wrapped.
    """
    metrics = sheet.metrics or sheet.columns
    rows = [
        [
            _cell(value, row[0] if by_row else metric, is_name=by_row and at == 0)
            for at, (metric, value) in enumerate(zip(metrics, row, strict=True))
        ]
        for row in sheet.rows
    ]
    right = [
        any(isinstance(row[at], int | float) for row in sheet.rows) and not (by_row and at == 0)
        for at in range(len(sheet.columns))
    ]
    head = [name.upper().replace("_", " ") if not by_row or at == 0 else name for at, name in enumerate(sheet.columns)]
    order = sorted(
        range(len(head)), key=lambda at: not by_row and max((len(row[at]) for row in rows), default=0) > _LONG_CELL
    )
    return table(
        [head[at] for at in order],
        [[row[at] for at in order] for row in rows],
        width=width,
        right=frozenset(place for place, at in enumerate(order) if right[at]),
    )


def as_csv(sheet: Sheet) -> str:
    """The sheet as CSV (RFC 4180, but with a terminal's line ends), figures in the wire's units, to be worked with."""
    target = io.StringIO(newline="")
    writer = csv.writer(target, lineterminator="\n")
    writer.writerow([_harmless(name) for name in sheet.columns])
    writer.writerows([_harmless(value) for value in row] for row in sheet.rows)
    return target.getvalue().rstrip("\n")


def as_json(answer: FleetAnswer) -> str:
    """The answer as the backend gave it, with `stale` and `age`."""
    return json.dumps(answer.model_dump(mode="json"))


def age_note(answer: FleetAnswer) -> str | None:
    """What to say of an answer that is not today's, or None."""
    return f"the backend cannot be asked: this is what it said {duration(answer.age)} ago" if answer.stale else None


def _cell(value: object, metric: object, *, is_name: bool) -> str:
    if is_name:
        return titled(str(value))
    if isinstance(value, dict | list):
        return json.dumps(value, ensure_ascii=False)
    return unit_of(str(metric), value).said(value)


def _harmless(value: object) -> object:
    if isinstance(value, dict | list):
        value = json.dumps(value, ensure_ascii=False)
    if not isinstance(value, str):
        return value
    return printable(f"'{value}" if value.lstrip().startswith(_FORMULA) else value)


@dataclass(frozen=True, slots=True)
class Series:
    """What is drawn.

    Attributes:
        labels: One for each value; the first, middle and last are shown.
        values: None is a gap.
        unit: Behind the figures of the axis.
        decimals: Of the figures of the axis.
    """

    labels: Sequence[str]
    values: Sequence[float | None]
    unit: str
    decimals: int


def save_picture(series: Series, title: str, note: str | None, path: Path) -> None:
    """Draw a series into a file; its suffix, .png or .svg, says as what.

    Raises:
        CommandError: matplotlib is not installed, or the file cannot be written.
    """
    if find_spec("matplotlib") is None:
        raise CommandError(
            "pictures take the extra `report`: pip install 'sentinel-sync[report]'", ExitCode.UNAVAILABLE
        )
    # Not pyplot: it would look for a display. Imported here because it is optional and slow to load.
    figure = import_module("matplotlib.figure").Figure(figsize=_SIZE, layout="constrained")
    axes = figure.subplots()
    values = [float("nan") if value is None else value for value in series.values]
    axes.plot(range(len(values)), values, marker="o", markersize=3, linewidth=1.5)
    step = max(1, -(-len(values) // _MOST_LABELS))
    axes.set_xticks(range(0, len(values), step), [series.labels[at] for at in range(0, len(values), step)])
    axes.tick_params(axis="x", labelrotation=30)
    axes.set_ylabel(series.unit)
    axes.set_title(title if note is None else f"{title}\n({note})", fontsize=10)
    axes.grid(visible=True, alpha=0.3)
    try:
        figure.savefig(path, dpi=_RESOLUTION, metadata={"Date": None} if path.suffix == ".svg" else None)
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror}): name another file") from None


def draw(series: Series, width: int) -> list[str]:
    """Lines of a chart at most `width` columns wide; empty where there is nothing to draw.

    The axis does not begin at zero where the values lie close together: a trend is looked at for its changes. With more
    values than columns, neighbours are averaged.
    """
    if not any(value is not None for value in series.values):
        return []
    known = [value for value in series.values if value is not None]
    low, high = _bounds(min(known), max(known))
    marks = [_mark(figure, series) for figure in (high, (low + high) / 2, low)]
    margin = max(map(len, marks))
    columns = _fitted(series.values, max(_LEAST_WIDTH, width - margin - 2))
    spread = max(1, (width - margin - 2) // len(columns)) if len(columns) < _LEAST_WIDTH * 2 else 1
    lines = []
    for row in range(_HEIGHT, 0, -1):
        mark = {_HEIGHT: marks[0], (_HEIGHT + 1) // 2: marks[1], 1: marks[2]}.get(row, "")
        cells = "".join(_block(value, row, low, high) * spread for value in columns)
        lines.append(f"{mark:>{margin}} ┤{cells}".rstrip())
    lines.append(_foot(series.labels, margin + 2, len(columns) * spread))
    return lines


def _bounds(low: float, high: float) -> tuple[float, float]:
    if low == high:
        return low - 1.0, high + 1.0
    room = (high - low) * 0.05
    return low - room, high + room


def _mark(figure: float, series: Series) -> str:
    text = f"{figure:,.{series.decimals}f}"
    return f"{text} {series.unit}" if series.unit else text


def _fitted(values: Sequence[float | None], columns: int) -> list[float | None]:
    if len(values) <= columns:
        return list(values)
    fitted: list[float | None] = []
    for column in range(columns):
        group = values[column * len(values) // columns : (column + 1) * len(values) // columns]
        known = [value for value in group if value is not None]
        fitted.append(math.fsum(known) / len(known) if known else None)
    return fitted


def _block(value: float | None, row: int, low: float, high: float) -> str:
    if value is None:
        return _GAP if row == 1 else " "
    filled = round((value - low) / (high - low) * _HEIGHT * _STEPS) - (row - 1) * _STEPS
    return _BLOCKS[min(_STEPS, max(0, filled))]


def _foot(labels: Sequence[str], indent: int, width: int) -> str:
    first, middle, last = labels[0], labels[len(labels) // 2], labels[-1]
    if len(labels) < 3 or width < len(first) + len(middle) + len(last) + 4:
        return " " * indent + (
            first if len(labels) == 1 else f"{first}{last:>{max(len(last) + 1, width - len(first))}}"
        )
    half = (width - len(middle)) // 2
    return " " * indent + f"{first:<{half}}{middle}{last:>{width - half - len(middle)}}"
