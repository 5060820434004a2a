"""Reads a trip as the older module queued it: its own id, times without offset, the driver's raw id."""

from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from sentinel_sync.base.payloads import Location, TripSummary
from sentinel_sync.base.privacy import coarse_place
from sentinel_sync.trips.rules.trip import adopted_trip_id


def adopt(old: object, vehicle_id: str, pseudonym_of: Callable[[str | None], str | None]) -> TripSummary:
    """Turn an old queue entry into a trip by the contract.

    The id is derived from the vehicle, the old id (a count of milliseconds, unique in one vehicle at best) and the
    start, so that the same entry is the same trip however often it is taken over.

    Args:
        old: The entry.
        vehicle_id: Of this vehicle.
        pseudonym_of: The driver's pseudonym.

    Raises:
        ValueError: Not a trip; the message holds no value of it.
    """
    if not isinstance(old, Mapping):
        raise ValueError("not an object")
    start, end = _moment(old, "start_time"), _moment(old, "end_time")
    counts = {name: _count(old, name) for name in ("critical_alert_count", "warning_alert_count", "info_alert_count")}
    driver = old.get("driver_id")
    try:
        return TripSummary(
            trip_id=adopted_trip_id(start.timestamp(), vehicle_id, str(old.get("trip_id"))),
            start_time=start,
            end_time=end,
            driver_id=pseudonym_of(None if driver is None else str(driver)),
            start_location=_place(old.get("start_location")),
            end_location=_place(old.get("end_location")),
            alert_count=sum(counts.values()),
            interrupted=False,
            **counts,
            **{name: old.get(name) for name in _MEASURES},
        )
    except ValidationError as error:
        names = sorted({str(detail["loc"][0]) if detail["loc"] else "the counts" for detail in error.errors()})
        raise ValueError(f"unusable: {', '.join(names)}") from None


_MEASURES = ("duration", "distance", "average_speed", "max_speed", "average_risk_score", "max_risk_score")


def _moment(old: Mapping[str, Any], name: str) -> datetime:
    """A time; one without an offset is the vehicle's local time."""
    try:
        # astimezone() reads a naive time as the system's local time.
        return datetime.fromisoformat(old[name]).astimezone(UTC)
    except (KeyError, TypeError, ValueError, OverflowError, OSError):
        raise ValueError(f"{name} is no time") from None


def _count(old: Mapping[str, Any], name: str) -> int:
    value = old.get(name, 0)
    if not isinstance(value, int) or isinstance(value, bool) or value < 0:
        raise ValueError(f"{name} is no count")
    return value


def _place(value: object) -> Location | None:
    if value is None:
        return None
    place = coarse_place(value)
    return Location(lat=place.lat, lon=place.lon)
