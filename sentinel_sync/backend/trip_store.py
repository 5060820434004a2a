"""Trips as rows: an id once in a fleet, and the sums from which the fleet's figures are made, kept as trips arrive.

Each trip adds to its vehicle's sums, to its driver's, and to its day's. A day's are spread over a few rows, so that a
whole fleet that comes back at once does not wait for one row.
"""

import zlib
from collections.abc import Iterable, Sequence
from dataclasses import astuple, dataclass
from operator import attrgetter

from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.scoring import SUMS

DAY_SHARDS = 16
SUBJECTS = {"vehicle": "vehicle_id", "driver": "driver_id", "day": "day"}
"""What sums are kept for, and the column of `trips` that names it."""

_COLUMNS = (
    "fleet_id, vehicle_id, trip_id, received_at, day, end_time, duration, distance, critical_alerts, warning_alerts,"
    " info_alerts, average_risk, max_risk, safety_score, driver_id, body"
)
_INSERT = f"INSERT INTO trips ({_COLUMNS}) VALUES ({', '.join('?' * 16)})"  # noqa: S608  # constants of this module
# Whoever claimed the id first keeps it; coming again is only counted.
_CLAIM = """
INSERT INTO trip_ids (fleet_id, trip_id, vehicle_id) VALUES (?, ?, ?)
ON CONFLICT (fleet_id, trip_id) DO UPDATE
    SET repeats = trip_ids.repeats + CASE WHEN trip_ids.vehicle_id = excluded.vehicle_id THEN 1 ELSE 0 END
RETURNING vehicle_id, repeats
"""
_ADDED = ", ".join(f"{name} = totals.{name} + excluded.{name}" for name in SUMS)
_ADD = f"""
INSERT INTO totals (fleet_id, kind, name, shard, {", ".join(SUMS)}, last_ended)
VALUES (?, ?, ?, ?, {", ".join("?" * len(SUMS))}, ?)
ON CONFLICT (fleet_id, kind, name, shard) DO UPDATE SET {_ADDED},
    last_ended = CASE WHEN excluded.last_ended > totals.last_ended THEN excluded.last_ended ELSE totals.last_ended END
"""  # noqa: S608  # constants of this package
_WEIGHT = "CASE WHEN duration > 1.0 THEN duration ELSE 1.0 END"
ADD_UP_ALL = ";\n".join(
    f"""
INSERT INTO totals (fleet_id, kind, name, shard, {", ".join(SUMS)}, last_ended)
SELECT fleet_id, '{kind}', {column}, 0, count(*), sum(duration), sum(distance), sum(critical_alerts),
    sum(warning_alerts), sum(info_alerts), sum({_WEIGHT}), sum(safety_score * {_WEIGHT}), sum(average_risk * {_WEIGHT}),
    max(end_time)
FROM trips WHERE {column} IS NOT NULL GROUP BY fleet_id, {column}
"""  # noqa: S608  # as above
    for kind, column in SUBJECTS.items()
)
"""Fills the empty table `totals` from the trips that are there."""


@dataclass(frozen=True, slots=True)
class TripRow:
    """A trip as it is stored, in the order of the columns."""

    fleet_id: str
    vehicle_id: str
    trip_id: str
    received_at: float
    day: str
    end_time: str
    duration: float
    distance: float
    critical_alerts: int
    warning_alerts: int
    info_alerts: int
    average_risk: float
    max_risk: float
    safety_score: float
    driver_id: str | None
    body: str


@dataclass(frozen=True, slots=True)
class Claim:
    """What became of a trip that was to be stored."""

    is_new: bool
    is_taken: bool = False
    """Another vehicle of the fleet has sent a trip of this id: it was not stored."""


def store_trips(
    connection: Connection, rows: Sequence[TripRow], *, with_events: bool = False
) -> list[tuple[str, Claim]]:
    """Stores those that are new, and adds them to the sums; what became of each, by its id.

    Rows are taken in one order everywhere, so that two transactions wait for each other and never in a circle.
    """
    claims: list[tuple[str, Claim]] = []
    new: list[TripRow] = []
    for row in sorted(rows, key=attrgetter("trip_id")):
        owner, repeats = connection.execute(_CLAIM, (row.fleet_id, row.trip_id, row.vehicle_id)).fetchone()
        is_mine = owner == row.vehicle_id
        claims.append((row.trip_id, claim := Claim(is_mine and not repeats, is_taken=not is_mine)))
        if claim.is_new:
            new.append(row)
    if new:
        connection.executemany(_INSERT, [astuple(row) for row in new])
        connection.executemany(_ADD, sorted(_sums(new)))
        if with_events:
            record_events(
                connection, "trip", ((row.fleet_id, row.vehicle_id, row.body, row.received_at) for row in new)
            )
    return claims


def record_events(connection: Connection, kind: str, facts: Iterable[tuple[str, str, str, float]]) -> None:
    """Puts events into the outbox, in the transaction that stores what they tell of.

    Args:
        connection: In that transaction.
        kind: What happened.
        facts: Fleet, vehicle, JSON, and seconds since the epoch.
    """
    entries = [(fleet, vehicle, kind, body, at) for fleet, vehicle, body, at in facts]
    for fleet, vehicle in sorted({entry[:2] for entry in entries}):
        connection.lock(f"events {fleet}/{vehicle}")  # so that its numbers grow in the order of its commits
    connection.executemany(
        "INSERT INTO events (fleet_id, vehicle_id, kind, body, recorded_at) VALUES (?, ?, ?, ?, ?)",
        entries,
    )


def _sums(rows: Sequence[TripRow]) -> Iterable[tuple[object, ...]]:
    """What the rows add, one entry for each row of `totals`."""
    found: dict[tuple[str, str, str, int], tuple[list[float], str]] = {}
    for row in rows:
        weight = max(row.duration, 1.0)
        figures = (
            1,
            row.duration,
            row.distance,
            row.critical_alerts,
            row.warning_alerts,
            row.info_alerts,
            weight,
            row.safety_score * weight,
            row.average_risk * weight,
        )
        for kind, column in SUBJECTS.items():
            name = getattr(row, column)
            if name is None:
                continue
            shard = zlib.crc32(row.vehicle_id.encode()) % DAY_SHARDS if kind == "day" else 0
            key = (row.fleet_id, kind, name, shard)
            before, ended = found.get(key, ([0] * len(SUMS), ""))
            found[key] = ([one + other for one, other in zip(before, figures, strict=True)], max(ended, row.end_time))
    return ((*key, *sums, ended) for key, (sums, ended) in found.items())


def totals_of_vehicle(connection: Connection, fleet_id: str, vehicle_id: str) -> Row | None:
    """The sums of one vehicle; None before its first trip."""
    row: Row | None = connection.execute(
        "SELECT * FROM totals WHERE fleet_id = ? AND kind = 'vehicle' AND name = ? AND shard = 0",
        (fleet_id, vehicle_id),
    ).fetchone()
    return row
