"""What a recorded drive says: distances, speeds where the recording has none, and what of it is noise, gap or jump."""

import math
from collections import deque
from collections.abc import Iterable
from dataclasses import dataclass
from typing import NamedTuple

from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.trips.rules.trip import MAX_DISTANCE_DELTA

#: Mean radius of the Earth, metres (R1 of GRS 80: H. Moritz, "Geodetic Reference System 1980", J. Geodesy 74, 2000).
EARTH_RADIUS = 6_371_008.8
#: A vehicle that stands still seems to wander by so many metres: receivers under open sky are good to 4.9 m (gps.gov,
#: "GPS Accuracy"; F. van Diggelen and P. Enge, ION GNSS+ 2015). Nearer positions than this add no distance.
NOISE = 5.0
#: No road vehicle goes faster, m/s: a position that would take more is a jump of the receiver.
FASTEST = 100.0
#: So many implausible positions in a row that agree with each other are believed: it was the one before that was wrong.
JUMPS_TO_BELIEVE = 3
#: Seconds without a position that are told as a gap; the straight line over it counts.
GAP = 60.0
#: After so many seconds without a position another drive begins: nobody's is a straight line over half a day, and a
#: receiver that did not know the time yet wrote 1980.
SPLIT = 6 * 3600.0
#: So many positions in a row whose time goes back begin another drive too; fewer are left out.
BACK_TO_BELIEVE = 3
#: Seconds over which a missing speed is measured: between two positions a second apart it would be mostly noise.
SPEED_WINDOW = 5.0
#: Positions kept for that: bounds the memory whatever the recording's rate.
_WINDOW_LENGTH = 64
#: 1980-01-06, where GPS time begins, and 2100: no receiver wrote a time outside (seconds since the epoch).
EARLIEST, LATEST = 315_964_800.0, 4_102_444_800.0


class DriveError(SentinelSyncError):
    """A recorded drive cannot be read."""


@dataclass(frozen=True, slots=True)
class Fix:
    """One position of a recording.

    Attributes:
        time: Seconds since the epoch.
        lat: Degrees WGS 84.
        lon: Degrees WGS 84.
        speed: m/s; None where the recording has none.
        line: Where it stands in the file, for messages.

    Raises:
        DriveError: A value is no number or out of range. The message holds no coordinate.
    """

    time: float
    lat: float
    lon: float
    speed: float | None
    line: int

    def __post_init__(self) -> None:
        # Chained comparisons are False for NaN, so one test each refuses NaN, infinities and the rest.
        if not EARLIEST <= self.time <= LATEST:
            hint = "; milliseconds?" if LATEST < self.time <= LATEST * 1000.0 else ""
            raise DriveError(f"line {self.line}: the time is not within 1980 and 2100{hint}")
        if not -90.0 <= self.lat <= 90.0:
            raise DriveError(f"line {self.line}: the latitude is not within ±90 degrees")
        if not -180.0 <= self.lon <= 180.0:
            raise DriveError(f"line {self.line}: the longitude is not within ±180 degrees")
        if self.speed is not None and not math.isfinite(self.speed):
            raise DriveError(f"line {self.line}: the speed is not a number")


class Reading(NamedTuple):
    """What the vehicle's software would have told `update_trip` at this instant.

    Attributes:
        elapsed: Seconds since the drive's start.
        distance: Metres since the reading before.
        speed: m/s.
    """

    elapsed: float
    distance: float
    speed: float
    lat: float
    lon: float


@dataclass(frozen=True, slots=True)
class Drive:
    """A recording, read.

    Attributes:
        start: Of the recording, seconds since the epoch.
        duration: Seconds.
        origin: Latitude and longitude of the start, degrees.
        readings: In order of time.
        left_out: Positions that were jumps, or repeated a time or went back in it.
        gaps: How often no position came for longer than `GAP`.
        longest_gap: Seconds; 0.0 where there was none.
        stated_distance: Metres that the recording's own speeds add up to, or None where it has too few of them.
    """

    start: float
    duration: float
    origin: tuple[float, float]
    readings: tuple[Reading, ...]
    left_out: int
    gaps: int
    longest_gap: float
    stated_distance: float | None

    @property
    def distance(self) -> float:
        """Metres."""
        return math.fsum(reading.distance for reading in self.readings)

    @property
    def doubt(self) -> str | None:
        """What a person should look at before trusting the figures, or None."""
        if self.stated_distance is None or self.distance <= 0.0:
            return None
        ratio = self.stated_distance / self.distance
        if not 1.6 <= ratio <= 4.5:  # knots are 1.94 times too large, miles per hour 2.24, kilometres per hour 3.6
            return None
        return f"the recorded speeds add up to {ratio:.1f} times the distance: are they m/s, as they should be?"


def haversine(lat: float, lon: float, other_lat: float, other_lon: float) -> float:
    """Metres between two places on a sphere (R. W. Sinnott, "Virtues of the Haversine", Sky & Telescope 68, 1984).

    Good to 0.5 %: the Earth is flattened by a third of a percent. All arguments are degrees.
    """
    phi, other_phi = math.radians(lat), math.radians(other_lat)
    half_dlat, half_dlon = (other_phi - phi) / 2.0, math.radians(other_lon - lon) / 2.0
    chord = math.sin(half_dlat) ** 2 + math.cos(phi) * math.cos(other_phi) * math.sin(half_dlon) ** 2
    return 2.0 * EARTH_RADIUS * math.asin(min(1.0, math.sqrt(chord)))


def drives_of(fixes: Iterable[Fix]) -> tuple[list[Drive], int]:
    """Read positions as drives: mostly one, more where the time jumps by hours or goes back for good.

    Returns:
        Them, and the number of positions that belong to none of them.

    Raises:
        DriveError: No two positions at different times.
    """
    walks: list[_Walk] = []
    back: list[Fix] = []
    for fix in fixes:
        walk = walks[-1] if walks else None
        if walk is not None and fix.time < walk.reached:
            back.append(fix)
            if len(back) < BACK_TO_BELIEVE:
                continue
        elif walk is not None:
            walk.left_out += len(back)
            back.clear()
            if fix.time - walk.reached <= SPLIT:
                walk.add(fix)
                continue
        first, *others = back or [fix]
        walks.append(_Walk(first))
        for other in others:
            walks[-1].add(other)
        back.clear()
    if walks:
        walks[-1].left_out += len(back)
    drives = [walk.drive() for walk in walks if walk.is_drive]
    if not drives:
        raise DriveError("it holds one position only; a drive takes two" if walks else "it holds no position")
    return drives, sum(1 + walk.left_out for walk in walks if not walk.is_drive)


class _Walk:
    """Goes from position to position."""

    def __init__(self, first: Fix) -> None:
        self._first = first
        self._origin = (first.lat, first.lon)
        self._latest = first  # whatever it was: for the order of time
        self._previous = first  # the latest that was believed
        self._anchor = first  # up to which distance has been counted
        self._doubted: list[Fix] = []
        self._total = 0.0
        self._recent: deque[tuple[float, float]] = deque([(first.time, 0.0)], maxlen=_WINDOW_LENGTH)
        self._readings: list[Reading] = []
        self.left_out = 0
        self._gaps: list[float] = []
        self._stated = self._compared = 0.0

    def add(self, fix: Fix) -> None:
        """Go on to the next position."""
        passed = fix.time - self._latest.time
        if passed <= 0.0:
            self.left_out += 1
            return
        self._latest = fix
        if passed > GAP:
            self._gaps.append(passed)
        if not _plausible(self._previous, fix) and not self._believe(fix):
            self.left_out += 1
            return
        self._doubted.clear()
        self._accept(fix)

    @property
    def reached(self) -> float:
        """Time of the latest position, seconds since the epoch."""
        return self._latest.time

    @property
    def is_drive(self) -> bool:
        """Whether it holds two positions at different times."""
        return bool(self._readings)

    def drive(self) -> Drive:
        """All of it."""
        return Drive(
            start=self._first.time,
            duration=self._latest.time - self._first.time,
            origin=self._origin,
            readings=tuple(self._readings),
            left_out=self.left_out,
            gaps=len(self._gaps),
            longest_gap=max(self._gaps, default=0.0),
            stated_distance=self._stated if self._compared > self._total / 2.0 else None,
        )

    def _believe(self, fix: Fix) -> bool:
        """Whether enough positions in a row say the same against the one before; then the drive goes on from there."""
        if self._doubted and not _plausible(self._doubted[-1], fix):
            self._doubted.clear()
        self._doubted.append(fix)
        if len(self._doubted) < JUMPS_TO_BELIEVE:
            return False
        if self._total == 0.0:
            # The receiver's first positions were wrong, as happens while it still searches.
            self._origin = (self._doubted[0].lat, self._doubted[0].lon)
        # Nobody drove the jump itself: it adds no distance, and no speed is measured across it.
        self._previous = self._anchor = fix
        self._recent.clear()
        self._recent.append((fix.time, self._total))
        return True

    def _accept(self, fix: Fix) -> None:
        step = haversine(self._anchor.lat, self._anchor.lon, fix.lat, fix.lon)
        moved = step if step > NOISE else 0.0
        if moved:
            self._anchor = fix
            self._total += moved
        speed = self._measured_speed(fix.time)
        if fix.speed is not None and 0.0 <= fix.speed <= FASTEST:  # receivers write -1 for unknown
            speed = fix.speed
            self._stated += speed * (fix.time - self._previous.time)
            self._compared += moved
        self._previous = fix
        self._readings.append(Reading(fix.time - self._first.time, moved, speed, fix.lat, fix.lon))

    def _measured_speed(self, time: float) -> float:
        """Distance over time, as far back as `SPEED_WINDOW` and at least to the position before."""
        recent = self._recent
        while len(recent) > 1 and time - recent[1][0] >= SPEED_WINDOW:
            recent.popleft()
        since, total_then = recent[0]
        recent.append((time, self._total))
        return (self._total - total_then) / (time - since) if time > since else 0.0


def _plausible(before: Fix, after: Fix) -> bool:
    distance = haversine(before.lat, before.lon, after.lat, after.lon)
    return distance <= min(FASTEST * (after.time - before.time) + NOISE, MAX_DISTANCE_DELTA)
