"""A chart of one series in a terminal: columns of block elements, eight steps to a line."""

import math
from collections.abc import Sequence
from dataclasses import dataclass

_HEIGHT = 10
_STEPS = 8
_BLOCKS = " ▁▂▃▄▅▆▇█"
#: A day without a figure is a gap, not a zero.
_GAP = "·"
_LEAST_WIDTH = 20


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
        cells = "".join(_cell(value, row, low, high) * spread for value in columns)
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


def _cell(value: float | None, row: int, low: float, high: float) -> str:
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
