"""Fleet figures in the units that a person uses: kilometres, minutes, km/h; the wire has metres, seconds, m/s."""

from dataclasses import dataclass


@dataclass(frozen=True, slots=True)
class Unit:
    """How a metric is shown.

    Attributes:
        name: Behind the figure; empty for a plain number.
        per_wire_unit: What the wire's figure is multiplied by.
        decimals: So many are shown.
    """

    name: str
    per_wire_unit: float
    decimals: int

    def said(self, value: object) -> str:
        """The figure with its unit: `1,234.5 km`; `-` where there is none, and text as it is."""
        if value is None:
            return "-"
        if isinstance(value, bool) or not isinstance(value, int | float):
            return str(value)
        figure = f"{self.shown(value):,.{self.decimals}f}"
        return f"{figure} {self.name}" if self.name else figure

    def shown(self, value: float) -> float:
        """The bare figure in this unit."""
        return value * self.per_wire_unit


_COUNT = Unit("", 1.0, 0)
_PLAIN = Unit("", 1.0, 1)
_SHARE = Unit("%", 100.0, 0)
_KILOMETRES = Unit("km", 1e-3, 1)
_MINUTES = Unit("min", 1.0 / 60.0, 1)
_KILOMETRES_PER_HOUR = Unit("km/h", 3.6, 1)
_RISK = Unit("", 1.0, 2)

#: By what a metric's name holds, the first match counts: backends name metrics of their own.
_BY_WORD: tuple[tuple[str, Unit], ...] = (
    ("per_100_km", Unit("", 1.0, 2)),
    ("share", _SHARE),
    ("speed", _KILOMETRES_PER_HOUR),
    ("distance", _KILOMETRES),
    ("duration", _MINUTES),
    ("driving_time", _MINUTES),
    ("risk", _RISK),
    ("score", _PLAIN),
    ("per_vehicle", _PLAIN),
    ("vehicles", _COUNT),
    ("trips", _COUNT),
    ("alerts", _COUNT),
)


def unit_of(metric: str, example: object = None) -> Unit:
    """The unit for a metric by its name; for an unknown one, a count where `example` is whole, else one decimal."""
    name = metric.lower()
    for word, unit in _BY_WORD:
        if word in name:
            return unit
    return _COUNT if isinstance(example, int) else _PLAIN


def titled(metric: str) -> str:
    """A field's name as a heading: `average_safety_score` is `Average safety score`."""
    return metric.replace("_", " ").strip().capitalize()
