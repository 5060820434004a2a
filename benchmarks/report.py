"""What a benchmark says: a figure, the bar it is held against, and how it came about."""

from dataclasses import dataclass
from statistics import median


@dataclass(frozen=True, slots=True)
class Figure:
    """One measured figure.

    Attributes:
        name: What was measured.
        value: The median over the rounds.
        unit: Of `value` and `bar`; "×" for a ratio.
        bar: What is asked for; None where a figure only informs a choice.
        at_least: True where `value` must not be below `bar`; False where it must not be above.
        how: The absolute figures behind it, for a reader.
    """

    name: str
    value: float
    unit: str
    bar: float | None
    at_least: bool
    how: str

    @property
    def reached(self) -> bool:
        if self.bar is None:
            return True
        return self.value >= self.bar if self.at_least else self.value <= self.bar


def show(figures: list[Figure]) -> None:
    for figure in figures:
        sign = "≥" if figure.at_least else "≤"
        asked = "no bar" if figure.bar is None else f"{sign} {figure.bar:g}"
        verdict = "ok  " if figure.reached else "MISS"
        print(f"  {verdict} {figure.name}: {figure.value:.3g} {figure.unit} ({asked}); {figure.how}")


def spread(values: list[float], scale: float = 1.0) -> str:
    """Median with the least and the most, for the absolute figures."""
    return f"{median(values) * scale:.4g} [{min(values) * scale:.4g}–{max(values) * scale:.4g}]"


def percentile(values: list[float], share: float) -> float:
    """The value that `share` of all values do not exceed (nearest rank)."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(share * len(ordered)))]
