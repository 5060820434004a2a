"""Drives through a city, made up but plausible: streets, corners, red lights, speeds, alerts. The same every time."""

import math
from collections.abc import Iterator
from dataclasses import dataclass
from random import Random

from sentinel_sync.trips.rules.drive import haversine

#: What drivers take with passengers aboard, m/s² (the comfort that road design counts on is 3.4 for braking: AASHTO,
#: "A Policy on Geometric Design of Highways and Streets", 2018, section 3.2.2).
ACCELERATION, BRAKING = 1.4, 2.0
#: 50 km/h.
LIMIT = 13.9
#: How fast a corner is taken, m/s.
CORNER = 5.0
#: Metres between crossings, seconds of a red light.
_BLOCK = (250.0, 600.0)
_RED = (8.0, 30.0)
_RED_SHARE = 0.4
#: How often somebody in the crossing makes for an alert, by urgency.
_ALERTS = {"info": 0.30, "warning": 0.12, "critical": 0.03}


@dataclass(frozen=True, slots=True)
class Place:
    """Somewhere to drive from and to. Degrees WGS 84."""

    name: str
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class CityDrive:
    """One drive.

    Attributes:
        driver: The vehicle's own id of the driver.
        seed: Decides lights, speeds and alerts.
    """

    origin: Place
    destination: Place
    driver: str
    seed: int

    @property
    def name(self) -> str:
        """From where to where."""
        return f"{self.origin.name} to {self.destination.name}"


@dataclass(frozen=True, slots=True)
class Moment:
    """A second of a drive.

    Attributes:
        elapsed: Seconds since the start.
        distance: Metres since the moment before.
        speed: m/s.
        risk: 0 … 1.
        alert: Urgency, or None.
        progress: 0 … 1 of the way.
    """

    elapsed: float
    distance: float
    speed: float
    risk: float
    alert: str | None
    lat: float
    lon: float
    progress: float


DEPOT = Place("the depot", 37.7766, -122.3947)
FERRY = Place("the ferry building", 37.7955, -122.3937)
WHARF = Place("the wharf", 37.8080, -122.4177)
PARK = Place("the park", 37.7694, -122.4862)
HOSPITAL = Place("the hospital", 37.7557, -122.4048)
MISSION = Place("the old mission", 37.7644, -122.4269)

#: A day of one vehicle with three drivers.
DAY = (
    CityDrive(DEPOT, FERRY, "driver_17", 1),
    CityDrive(FERRY, WHARF, "driver_17", 2),
    CityDrive(WHARF, MISSION, "driver_4", 3),
    CityDrive(MISSION, PARK, "driver_4", 4),
    CityDrive(PARK, HOSPITAL, "driver_23", 5),
    CityDrive(HOSPITAL, DEPOT, "driver_23", 6),
)


def moments(drive: CityDrive) -> Iterator[Moment]:
    """Drive, a second at a time: along one street, round a corner, along another."""
    rng = Random(drive.seed)  # noqa: S311  # made up, not secret
    route = _Route(drive.origin, drive.destination)
    halts = _halts(route, rng)
    travelled = speed = waiting = alertness = 0.0
    elapsed = 0
    while travelled < route.length - 1.0:
        elapsed += 1
        before, alert = travelled, None
        if waiting > 0.0:
            waiting, speed = waiting - 1.0, 0.0
        else:
            ahead, slow, red = halts[0]
            fastest = math.sqrt(slow * slow + 2.0 * BRAKING * max(0.0, ahead - travelled))
            speed = max(1.0, min(speed + ACCELERATION, LIMIT * rng.uniform(0.93, 1.03), fastest))
            travelled = min(travelled + speed, route.length)
            if travelled >= ahead - 1.0:
                halts.pop(0)
                waiting = red
                alert = _alert(rng)
        alertness = max(0.85 * alertness, {"info": 0.35, "warning": 0.6, "critical": 0.9}.get(alert or "", 0.0))
        risk = min(1.0, 0.05 + 0.15 * speed / LIMIT + alertness)
        lat, lon = route.at(travelled)
        yield Moment(elapsed, travelled - before, speed, risk, alert, lat, lon, travelled / route.length)


class _Route:
    """North or south first, then east or west: streets at right angles."""

    def __init__(self, origin: Place, destination: Place) -> None:
        self._origin = origin
        self._destination = destination
        self.corner = haversine(origin.lat, origin.lon, destination.lat, origin.lon)
        self.length = self.corner + haversine(destination.lat, origin.lon, destination.lat, destination.lon)

    def at(self, travelled: float) -> tuple[float, float]:
        """Degrees after so many metres."""
        origin, destination = self._origin, self._destination
        if travelled < self.corner:
            return origin.lat + (destination.lat - origin.lat) * travelled / self.corner, origin.lon
        rest = (travelled - self.corner) / max(1.0, self.length - self.corner)
        return destination.lat, origin.lon + (destination.lon - origin.lon) * rest


def _halts(route: _Route, rng: Random) -> list[tuple[float, float, float]]:
    """Crossings in order: metres from the start, m/s at which they are passed, seconds of waiting there."""
    halts = [(route.corner, CORNER, 0.0)]
    at = rng.uniform(*_BLOCK)
    while at < route.length:
        red = rng.random() < _RED_SHARE
        halts.append((at, 0.0 if red else LIMIT, rng.uniform(*_RED) if red else 0.0))
        at += rng.uniform(*_BLOCK)
    return [*sorted(halts), (route.length, 0.0, 0.0)]


def _alert(rng: Random) -> str | None:
    chance = rng.random()
    for urgency, share in _ALERTS.items():
        if chance < share:
            return urgency
        chance -= share
    return None
