"""What may be asked about the fleet, and what follows from its statistics."""

import re
from collections.abc import Sequence

from sentinel_sync.fleet.rules.answers import AggregateMetrics, Figure, FleetStatistics

#: More entries than this nobody reads, and no backend is made to sort them for one vehicle.
MAX_LIMIT = 1000
#: Ten years.
MAX_DAYS = 3660
#: Their ids stand in one URL, and servers cut URLs off (nginx at 8 KiB by default).
MAX_COMPARED = 50
_WORD = re.compile(r"[A-Za-z0-9][A-Za-z0-9_.\-]{0,63}")
#: 100 km in metres: the distance that alert rates are given over.
_RATE_DISTANCE = 100_000.0


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
