"""The trip under way: start, update at sensor rate, close, recover. Arithmetic only."""

import hashlib
import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from typing import Any

from pydantic import ValidationError

from sentinel_sync.base.clock import ClockStamp, moment
from sentinel_sync.base.payloads import Location, TripSummary
from sentinel_sync.base.privacy import Place, place_or_none

#: No update covers more metres than a quarter of the Earth's circumference: it is a broken sensor.
MAX_DISTANCE_DELTA = 1.0e7
#: No road vehicle exceeds 1,000 m/s: it is a broken sensor.
MAX_SPEED = 1.0e3
_RANDOM_BYTES = 10


def new_trip_id(now: float, random: bytes) -> str:
    """`trip_` + a UUIDv7 in hex (RFC 9562 section 5.7): unique over the fleet, sorts by start.

    Args:
        now: Wall time of the start, seconds since the epoch.
        random: Ten random bytes.
    """
    if len(random) != _RANDOM_BYTES:
        raise ValueError(f"a UUIDv7 takes {_RANDOM_BYTES} random bytes, not {len(random)}")
    milliseconds = max(0, int(now * 1000)) & 0xFFFF_FFFF_FFFF
    tail = int.from_bytes(random)
    value = milliseconds << 80 | 0x7 << 76 | (tail >> 64 & 0xFFF) << 64 | 0b10 << 62 | tail & 0x3FFF_FFFF_FFFF_FFFF
    return f"trip_{value:032x}"


def adopted_trip_id(start: float, vehicle_id: str, old_id: str) -> str:
    """Id of a trip that an older module recorded: the same however often it is taken over."""
    digest = hashlib.sha256(f"{vehicle_id}\0{old_id}\0{start!r}".encode()).digest()
    return new_trip_id(start, digest[:_RANDOM_BYTES])


@dataclass(slots=True)
class OpenTrip:
    """A trip under way, in constant memory: sums and maxima, no lists.

    Attributes:
        driver: The driver's pseudonym; the vehicle's own id never gets in here.
        stamp: The clocks at the start.
        started: Time since boot at the start, seconds.
        reached: Time since boot up to which the sums below hold, seconds; written with each checkpoint.
        reached_offset: Wall time minus time since boot at `reached`, seconds: a trip is dated by its latest reading.
    """

    trip_id: str
    driver: str | None
    stamp: ClockStamp
    started: float
    reached: float
    reached_offset: float
    start_location: Place | None = None
    end_location: Place | None = None
    distance: float = 0.0
    max_speed: float = 0.0
    updates: int = 0
    risk_sum: float = 0.0
    max_risk: float = 0.0
    critical: int = 0
    warning: int = 0
    info: int = 0

    def update(self, distance_delta: float, speed: float, risk_score: float, alert_urgency: str | None) -> None:
        """Add one reading.

        Args:
            distance_delta: Metres since the reading before.
            speed: m/s.
            risk_score: 0 … 1.
            alert_urgency: "info", "warning", "critical", or None where there was no alert.

        Raises:
            ValueError: A value is NaN, infinite, negative, out of range or unknown; the trip is as it was.
        """
        # Chained comparisons are False for NaN, so one test each refuses NaN, infinities and the rest.
        if not 0.0 <= distance_delta <= MAX_DISTANCE_DELTA:
            raise ValueError(f"distance_delta must be within 0 and {MAX_DISTANCE_DELTA:.0f} m, not {distance_delta!r}")
        if not 0.0 <= speed <= MAX_SPEED:
            raise ValueError(f"speed must be within 0 and {MAX_SPEED:.0f} m/s, not {speed!r}")
        if not 0.0 <= risk_score <= 1.0:
            raise ValueError(f"risk_score must be within 0 and 1, not {risk_score!r}")
        # Both sums before anything is changed: a number that floats do not add to (Decimal) raises here.
        distance, risk_sum = self.distance + distance_delta, self.risk_sum + risk_score
        if alert_urgency is not None:
            self._count_alert(alert_urgency)
        self.distance = distance
        if speed > self.max_speed:
            self.max_speed = speed
        self.updates += 1
        self.risk_sum = risk_sum
        if risk_score > self.max_risk:
            self.max_risk = risk_score

    def _count_alert(self, urgency: str) -> None:
        match urgency:
            case "warning":
                self.warning += 1
            case "info":
                self.info += 1
            case "critical":
                self.critical += 1
            case _:
                raise ValueError(f'alert_urgency must be "info", "warning", "critical" or None, not {urgency!r}')

    def reach(self, monotonic: float, offset: float) -> None:
        """Note that the sums hold up to `monotonic`, and what the wall clock says now."""
        self.reached = max(self.reached, monotonic)
        self.reached_offset = offset

    def closing_stamp(self) -> ClockStamp:
        """Under which clocks the summary's times are given."""
        return ClockStamp(self.stamp.boot_id, self.reached_offset)

    def summary(self, *, interrupted: bool) -> TripSummary:
        """Sum the trip up to where it was reached.

        The duration is by the clock that never steps; both times are by the wall clock's latest reading, so they agree
        with the duration even where the wall clock was set in between.
        """
        duration = self.reached - self.started
        return TripSummary(
            trip_id=self.trip_id,
            start_time=moment(self.started + self.reached_offset),
            end_time=moment(self.reached + self.reached_offset),
            duration=duration,
            distance=self.distance,
            average_speed=self.distance / duration if duration > 0.0 else 0.0,
            max_speed=self.max_speed,
            alert_count=self.critical + self.warning + self.info,
            critical_alert_count=self.critical,
            warning_alert_count=self.warning,
            info_alert_count=self.info,
            average_risk_score=min(1.0, self.risk_sum / self.updates) if self.updates else 0.0,
            max_risk_score=self.max_risk,
            driver_id=self.driver,
            start_location=_location(self.start_location),
            end_location=_location(self.end_location),
            interrupted=interrupted,
        )


def _location(place: Place | None) -> Location | None:
    return None if place is None else Location(lat=place.lat, lon=place.lon)


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
            **{name: 0.0 if name in _SCORES and _is_missing(old.get(name)) else old.get(name) for name in _MEASURES},
        )
    except ValidationError as error:
        names = sorted({str(detail["loc"][0]) if detail["loc"] else "the counts" for detail in error.errors()})
        raise ValueError(f"unusable: {', '.join(names)}") from None


#: Where the older module had no score it wrote null or NaN.
_SCORES = frozenset({"average_risk_score", "max_risk_score"})
_MEASURES = ("duration", "distance", "average_speed", "max_speed", "average_risk_score", "max_risk_score")


def _is_missing(value: object) -> bool:
    """Whether something was not measured: null, or NaN as Python's own writer puts it."""
    return value is None or (isinstance(value, float) and math.isnan(value))


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
    place = place_or_none(value)
    return None if place is None else Location(lat=place.lat, lon=place.lon)
