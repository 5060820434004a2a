"""What may be asked about the fleet, and what follows from its statistics."""

import re
from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Annotated, Any, ClassVar

from pydantic import BeforeValidator, ConfigDict, Field, ValidationError, ValidatorFunctionWrapHandler, WrapValidator

from sentinel_sync.base.payloads import Answer, NonNegative

#: A count or a measure; None where the backend left it out.
Figure = int | Annotated[float, Field(allow_inf_nan=False)] | None
#: More entries than this nobody reads, and no backend is made to sort them for one vehicle.
MAX_LIMIT = 1000
#: Ten years.
MAX_DAYS = 3660
#: Their ids stand in one URL, and servers cut URLs off (nginx at 8 KiB by default).
MAX_COMPARED = 50
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
#: 100 km in metres: the distance that alert rates are given over.
_RATE_DISTANCE = 100_000.0


class Entry(Answer):
    """An object of an answer that also reads like the dict it was: `entry["vehicle_id"]`, `in`, `.get`, `.items`.

    A named field that the backend left out is there and None; what the backend added is there too.
    """

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    def keys(self) -> list[str]:
        """Names of all fields, those that the backend added last."""
        return list(self._all())

    def get(self, key: str, default: Any = None) -> Any:
        """The field, or `default` where there is none."""
        return self._all().get(key, default)

    def items(self) -> list[tuple[str, Any]]:
        """Names and values."""
        return list(self._all().items())

    def values(self) -> list[Any]:
        """Values, in the order of `keys`."""
        return list(self._all().values())

    def _all(self) -> dict[str, Any]:
        # What the backend added may be called like one of our methods, so it is not looked up as an attribute.
        return {name: getattr(self, name) for name in type(self).model_fields} | (self.model_extra or {})

    def __getitem__(self, key: Any) -> Any:
        return self._all()[key]

    def __contains__(self, key: object) -> bool:
        return key in self._all()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # as a dict iterates, not as pydantic does
        return iter(self._all())


class FleetAnswer(Entry):
    """What every answer about the fleet carries besides.

    Attributes:
        stale: True where the backend could not be asked and this is the last that it said.
        age: Seconds since the backend last said or confirmed it.
    """

    stale: bool = False
    age: NonNegative = 0.0


def _readable(value: Any, validate: ValidatorFunctionWrapHandler) -> Any:
    """Read a list entry by entry: null is an empty one, and what cannot be read is left out (wire contract)."""
    if value is None:
        return ()
    if not isinstance(value, list):
        return validate(value)
    kept: list[Any] = []
    for entry in value:
        try:
            kept.extend(validate([entry]))
        except ValidationError:
            continue
    return tuple(kept)


_READABLE = WrapValidator(_readable)


class FleetListing(FleetAnswer):
    """An answer that is a list: it iterates, counts and indexes as one, and gives its fields by name."""

    @abstractmethod
    def entries(self) -> Sequence[Entry]:
        """What it lists."""

    def __len__(self) -> int:
        return len(self.entries())

    def __getitem__(self, key: Any) -> Any:
        return super().__getitem__(key) if isinstance(key, str) else self.entries()[key]

    def __contains__(self, key: object) -> bool:
        return super().__contains__(key) if isinstance(key, str) else key in self.entries()

    def __iter__(self) -> Iterator[Any]:  # type: ignore[override]  # as a list iterates, not as pydantic does
        return iter(self.entries())


class FleetStatistics(FleetAnswer):
    """Answer to `GET /fleet/{id}/statistics`. Metres, seconds; the score is 0 … 100."""

    total_vehicles: Figure = None
    active_vehicles: Figure = None
    total_distance: Figure = None
    total_trips: Figure = None
    average_safety_score: Figure = None
    total_alerts: Figure = None
    critical_alerts: Figure = None
    average_trip_duration: Figure = None


class RankedVehicle(Entry):
    """One vehicle; the metric asked for stands under its own name."""

    vehicle_id: str


class VehicleRankings(FleetListing):
    """Answer to `GET /fleet/{id}/rankings`, best first."""

    rankings: Annotated[tuple[RankedVehicle, ...], _READABLE] = ()

    def entries(self) -> Sequence[Entry]:
        """The vehicles, best first."""
        return self.rankings


class TrendPoint(Entry):
    """One day, such as `2026-11-01`."""

    date: str
    value: Figure = None


class FleetTrend(FleetListing):
    """Answer to `GET /fleet/{id}/trends`, oldest first."""

    metric: str | None = None
    days: int | None = None
    trend: Annotated[tuple[TrendPoint, ...], _READABLE] = ()

    def entries(self) -> Sequence[Entry]:
        """The days, oldest first."""
        return self.trend


def _by_vehicle(value: Any) -> Any:
    """Null is nothing, and what is no vehicle's metrics is left out."""
    if not isinstance(value, dict):
        return {} if value is None else value
    return {vehicle: metrics for vehicle, metrics in value.items() if isinstance(metrics, dict)}


class VehicleComparison(FleetAnswer):
    """Answer to `GET /fleet/{id}/comparison`: metrics by vehicle."""

    vehicles: Annotated[dict[str, dict[str, Any]], BeforeValidator(_by_vehicle)] = Field(default_factory=dict)


class FleetAlert(Entry):
    """One alert."""

    vehicle_id: str | None = None
    severity: str | None = None
    message: str | None = None
    timestamp: str | None = None


class FleetAlerts(FleetListing):
    """Answer to `GET /fleet/{id}/alerts`, newest first."""

    alerts: Annotated[tuple[FleetAlert, ...], _READABLE] = ()

    def entries(self) -> Sequence[Entry]:
        """The alerts, newest first."""
        return self.alerts


class RankedDriver(Entry):
    """One driver, by pseudonym; the metric asked for stands under its own name."""

    driver_id: str


class DriverLeaderboard(FleetListing):
    """Answer to `GET /fleet/{id}/drivers/leaderboard`, best first."""

    leaderboard: Annotated[tuple[RankedDriver, ...], _READABLE] = ()

    def entries(self) -> Sequence[Entry]:
        """The drivers, best first."""
        return self.leaderboard


class VehicleStatus(FleetAnswer):
    """Answer to `GET /vehicles/{id}/status`."""

    vehicle_id: str | None = None
    status: str | None = None
    last_seen: str | None = None


class AggregateMetrics(FleetAnswer):
    """What follows from the fleet's statistics; None where something needed was left out or is zero.

    Attributes:
        active_share: Of the vehicles, 0 … 1.
        distance_per_vehicle: Metres.
        distance_per_trip: Metres.
        average_speed: m/s over all trips.
    """

    total_vehicles: Figure = None
    active_vehicles: Figure = None
    total_distance: Figure = None
    total_trips: Figure = None
    average_safety_score: Figure = None
    total_alerts: Figure = None
    critical_alerts: Figure = None
    average_trip_duration: Figure = None
    active_share: Figure = None
    trips_per_vehicle: Figure = None
    distance_per_vehicle: Figure = None
    distance_per_trip: Figure = None
    average_speed: Figure = None
    alerts_per_100_km: Figure = None
    critical_alerts_per_100_km: Figure = None


def bounded(name: str, value: object, maximum: int) -> int:
    """Check a count that a caller asks for.

    Raises:
        ValueError: Not a whole number from 1 to `maximum`.
    """
    if not isinstance(value, int) or isinstance(value, bool) or not 1 <= value <= maximum:
        raise ValueError(f"{name} must be a whole number from 1 to {maximum}, not {value!r:.40}")
    return value


def word(name: str, value: object) -> str:
    """Check the name of a metric or a severity; which ones there are, the backend knows.

    Raises:
        ValueError: Not such a name.
    """
    if not isinstance(value, str) or _WORD.fullmatch(value) is None:
        raise ValueError(f"{name} must be a name such as 'safety_score', not {value!r:.40}")
    return value


def identifier(name: str, value: object) -> str:
    """Check an id that a caller asks for.

    Raises:
        ValueError: Empty or no text.
    """
    if not isinstance(value, str) or not value.strip():
        raise ValueError(f"{name} must be an id, not {value!r:.40}")
    return value


def compared(vehicle_ids: object) -> str:
    """Vehicle ids as one query value, comma-separated (wire contract, "Fleet").

    Raises:
        ValueError: No ids, too many, or one that cannot stand in such a list.
    """
    if not isinstance(vehicle_ids, Sequence) or isinstance(vehicle_ids, (str, bytes)):
        raise ValueError("vehicle_ids must be a list of ids; leave it out for all vehicles")
    if not 1 <= len(vehicle_ids) <= MAX_COMPARED:
        raise ValueError(f"vehicle_ids must hold 1 to {MAX_COMPARED} ids; leave it out for all vehicles")
    for vehicle_id in vehicle_ids:
        if not isinstance(vehicle_id, str) or not vehicle_id.strip() or "," in vehicle_id:
            raise ValueError("each of vehicle_ids must be an id without a comma")
    return ",".join(dict.fromkeys(vehicle_ids))


def aggregate(statistics: FleetStatistics) -> AggregateMetrics:
    """Work out shares, means and rates. What rests on a figure that is missing or zero is None."""
    vehicles, trips, distance = statistics.total_vehicles, statistics.total_trips, statistics.total_distance
    duration = statistics.average_trip_duration
    return AggregateMetrics(
        **{name: getattr(statistics, name) for name in FleetStatistics.model_fields},
        active_share=_ratio(statistics.active_vehicles, vehicles),
        trips_per_vehicle=_ratio(trips, vehicles),
        distance_per_vehicle=_ratio(distance, vehicles),
        distance_per_trip=_ratio(distance, trips),
        average_speed=_ratio(distance, None if duration is None or trips is None else duration * trips),
        alerts_per_100_km=_rate(statistics.total_alerts, distance),
        critical_alerts_per_100_km=_rate(statistics.critical_alerts, distance),
    )


def _ratio(part: Figure, whole: Figure) -> float | None:
    return None if part is None or not whole else part / whole


def _rate(alerts: Figure, distance: Figure) -> float | None:
    per_metre = _ratio(alerts, distance)
    return None if per_metre is None else per_metre * _RATE_DISTANCE


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
