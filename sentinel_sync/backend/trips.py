"""Trips: one row each, exactly once, on disk before the answer."""

import gzip
import hashlib
import json
from datetime import UTC, datetime
from sqlite3 import Connection, Row
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from sentinel_sync.backend.bodies import Trip, TripBatch, day_of
from sentinel_sync.backend.callers import Caller, authorize, checked, identify, read_json, read_packed
from sentinel_sync.backend.context import BackendHere, backend_of
from sentinel_sync.backend.documentation import EXTENSION, REFERENCE_ONLY, operation
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.scoring import safety_score

router: APIRouter = APIRouter(tags=["trips"])

#: Extension: several trips in one request.
batches: APIRouter = APIRouter(tags=["trips"])

LARGEST_PAGE = 10_000
MOST_IN_A_BATCH = 500
LARGEST_BATCH_BYTES = 1 << 20

# A trip that is already there only counts how often it came again: the row itself never changes.
_INSERT = """
INSERT INTO trips (fleet_id, vehicle_id, trip_id, received_at, day, end_time, duration, distance,
    critical_alerts, warning_alerts, info_alerts, average_risk, max_risk, safety_score, driver_id, body)
VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?, ?)
ON CONFLICT DO UPDATE SET repeats = repeats + 1
RETURNING repeats
"""
_COUNT = """
SELECT count(*), ifnull(sum(repeats), 0) FROM trips
WHERE fleet_id = ifnull(?, fleet_id) AND vehicle_id = ifnull(?, vehicle_id)
"""
_PAGE = """
SELECT fleet_id, vehicle_id, trip_id, received_at, safety_score, repeats, body FROM trips
WHERE fleet_id = ifnull(?, fleet_id) AND vehicle_id = ifnull(?, vehicle_id)
    AND (fleet_id, vehicle_id, trip_id) > (?, ?, ?)
ORDER BY fleet_id, vehicle_id, trip_id LIMIT ?
"""
_ONE = """
SELECT fleet_id, vehicle_id, trip_id, received_at, safety_score, repeats, body FROM trips WHERE trip_id = ?
"""


class TripAccepted(BaseModel):
    """The trip is on disk."""

    trip_id: str
    status: str = "uploaded"


class StoredTrip(BaseModel):
    """A trip's body as it came, and what the backend added."""

    model_config: ClassVar[ConfigDict] = ConfigDict(extra="allow")

    trip_id: str
    fleet_id: str
    vehicle_id: str
    received_at: str
    safety_score: float
    repeats: int


class StoredTrips(BaseModel):
    """One page of trips, oldest first."""

    trips: list[StoredTrip]
    total: int
    """Trips that fit the query, on all pages."""
    repeats: int
    """How often one of them was sent again after it had been stored."""
    next: str | None
    """The `after` of the next page; null on the last."""


@router.post(
    "/trips",
    status_code=201,
    response_class=Response,
    summary="Upload one trip",
    description="`Idempotency-Key` is the `trip_id`. A trip that this vehicle already sent is answered with 409.",
    **operation(409, 422, idempotent=True, body=Trip),
)
async def upload_trip(request: Request) -> Response:
    """Upload one trip."""
    # Asked directly, not through FastAPI's dependencies: this is the route that a whole fleet calls at once.
    caller = await identify(request)
    backend = backend_of(request)
    trip, body = await read_json(request, Trip, backend.settings.limits.json_body)
    if caller.idempotency_key != trip.trip_id:
        wrong = FieldError("Idempotency-Key", "must be the trip_id")
        raise Problem(400, "headers", "the Idempotency-Key of a trip is its trip_id", errors=[wrong])
    row = _row(caller, trip, body, backend.now())

    def insert(connection: Connection) -> int:
        (repeats,) = connection.execute(_INSERT, row).fetchone()
        return int(repeats)

    if await backend.database.write(insert):
        raise Problem(409, "trip-exists", "this trip is already here")
    return Response(b'{"trip_id":"%s","status":"uploaded"}' % trip.trip_id.encode(), 201, media_type="application/json")


class TripOutcome(BaseModel):
    """What became of one trip of a batch: `status` is as its own `POST` would have been answered."""

    trip_id: str
    status: int
    detail: str | None = None


class BatchOutcome(BaseModel):
    """What became of each trip, in any order."""

    results: list[TripOutcome]


@batches.post(
    "/trips/batch",
    response_model=BatchOutcome,
    summary="Upload several trips",
    description=EXTENSION + "`Content-Encoding: gzip` allowed; at most 500 trips and 1 MiB before compression. "
    "`Idempotency-Key` is the SHA-256 of the trip ids, joined by newlines.",
    **operation(422, idempotent=True, body=TripBatch, headers={"Content-Encoding": "`gzip`, or absent."}),
)
async def upload_trips(request: Request) -> Response:
    """Upload several trips."""
    caller = await identify(request)
    backend = backend_of(request)
    batch = checked(TripBatch, await read_packed(request, LARGEST_BATCH_BYTES))
    if not 1 <= len(batch.trips) <= MOST_IN_A_BATCH:
        raise Problem(413, "too-many", f"1 to {MOST_IN_A_BATCH} trips are accepted at once")
    named = [(entry.get("trip_id") if isinstance(entry, dict) else None, entry) for entry in batch.trips]
    ids = [name for name, _ in named if isinstance(name, str)]
    if len(ids) < len(named) or caller.idempotency_key != hashlib.sha256("\n".join(ids).encode()).hexdigest():
        wrong = FieldError("Idempotency-Key", "must be the SHA-256 of the trip ids, joined by newlines")
        raise Problem(400, "headers", "the Idempotency-Key of a batch names its trips", errors=[wrong])
    results: list[TripOutcome] = []
    rows = []
    for trip_id, entry in zip(ids, batch.trips, strict=True):
        body = json.dumps(entry, ensure_ascii=False, separators=(",", ":")).encode()
        try:
            rows.append((trip_id, _row(caller, checked(Trip, body), body, backend.now())))
        except Problem as problem:
            results.append(TripOutcome(trip_id=trip_id, status=problem.status, detail=problem.detail))

    def insert(connection: Connection) -> list[TripOutcome]:
        return [
            TripOutcome(trip_id=trip_id, status=409 if connection.execute(_INSERT, row).fetchone()[0] else 201)
            for trip_id, row in rows
        ]

    results += await backend.database.write(insert)
    answer = BatchOutcome(results=results).model_dump_json(exclude_none=True).encode()
    headers = {}
    if "gzip" in request.headers.get("accept-encoding", ""):  # half of what a batch costs on the way is its answer
        answer, headers = gzip.compress(answer, mtime=0), {"Content-Encoding": "gzip"}
    return Response(answer, 200, headers, media_type="application/json")


@router.get(
    "/trips",
    summary="List trips",
    description=REFERENCE_ONLY + "Ordered by fleet, vehicle and trip; ask again with `after` = `next` for more.",
    response_model=StoredTrips,
    dependencies=[Depends(authorize)],
    **operation(422, caller=False),
)
async def list_trips(
    backend: BackendHere,
    fleet_id: str | None = None,
    vehicle_id: str | None = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 1000,
) -> Response:
    """List trips."""
    place = [*after.split("\n"), "", "", ""][:3]

    def select(connection: Connection) -> tuple[int, int, list[Row]]:
        filters = (fleet_id, vehicle_id)
        total, repeats = connection.execute(_COUNT, filters).fetchone()
        page = connection.execute(_PAGE, (*filters, *place, limit))
        return total, repeats, page.fetchall()

    total, repeats, rows = await backend.database.read(select)
    last = rows[-1] if len(rows) == limit else None
    following = "\n".join((last["fleet_id"], last["vehicle_id"], last["trip_id"])) if last is not None else None
    trips = [_stored(row) for row in rows]
    return JSONResponse({"trips": trips, "total": total, "repeats": repeats, "next": following})


@router.get(
    "/trips/{trip_id}",
    summary="Show one trip",
    description=REFERENCE_ONLY,
    response_model=StoredTrip,
    dependencies=[Depends(authorize)],
    **operation(404, caller=False),
)
async def show_trip(trip_id: str, backend: BackendHere) -> Response:
    """Show one trip."""
    row = await backend.database.read(lambda connection: connection.execute(_ONE, (trip_id,)).fetchone())
    if row is None:
        raise Problem(404, "no-such-trip", "no trip of this id has arrived")
    return JSONResponse(_stored(row))


def _row(caller: Caller, trip: Trip, body: bytes, now: float) -> tuple[Any, ...]:
    score = safety_score(
        average_risk=trip.average_risk_score,
        max_risk=trip.max_risk_score,
        critical=trip.critical_alert_count,
        warning=trip.warning_alert_count,
        distance=trip.distance,
    )
    return (
        caller.fleet_id,
        caller.vehicle_id,
        trip.trip_id,
        now,
        day_of(trip.start_time),
        trip.end_time.astimezone(UTC).isoformat(timespec="milliseconds"),
        trip.duration,
        trip.distance,
        trip.critical_alert_count,
        trip.warning_alert_count,
        trip.info_alert_count,
        trip.average_risk_score,
        trip.max_risk_score,
        score,
        trip.driver_id,
        body.decode(),
    )


def _stored(row: Row) -> dict[str, Any]:
    return {
        **json.loads(row["body"]),
        "fleet_id": row["fleet_id"],
        "vehicle_id": row["vehicle_id"],
        "received_at": datetime.fromtimestamp(row["received_at"], UTC).isoformat(),
        "safety_score": round(row["safety_score"], 2),
        "repeats": row["repeats"],
    }
