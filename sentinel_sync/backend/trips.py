"""Trips: one row each, exactly once, on disk before the answer."""

import gzip
import hashlib
import json
from datetime import UTC, datetime
from typing import Annotated, Any, ClassVar

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, ConfigDict

from sentinel_sync.backend.bodies import Trip, TripBatch, day_of
from sentinel_sync.backend.callers import (
    Caller,
    OperatorHere,
    checked,
    identify,
    only_own_fleet,
    read_json,
    read_packed,
)
from sentinel_sync.backend.context import BackendHere, backend_of
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.documentation import EXTENSION, REFERENCE_ONLY, operation
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.scoring import safety_score
from sentinel_sync.backend.trip_store import TripRow, store_trips

router: APIRouter = APIRouter(tags=["trips"])

#: Extension: several trips in one request.
batches: APIRouter = APIRouter(tags=["trips"])

LARGEST_PAGE = 10_000
MOST_IN_A_BATCH = 500
LARGEST_BATCH_BYTES = 1 << 20
_TAKEN = "another vehicle of this fleet has sent a trip of this id"

_COUNT = """
SELECT count(*), CAST(coalesce(sum(repeats), 0) AS BIGINT) FROM trip_ids
WHERE fleet_id = coalesce(?, fleet_id) AND vehicle_id = coalesce(?, vehicle_id)
"""
_STORED = """
SELECT trips.fleet_id, trips.vehicle_id, trips.trip_id, received_at, safety_score, coalesce(repeats, 0) AS repeats, body
FROM trips LEFT JOIN trip_ids AS ids
    ON ids.fleet_id = trips.fleet_id AND ids.trip_id = trips.trip_id AND ids.vehicle_id = trips.vehicle_id
"""
_PAGE = f"""
{_STORED}
WHERE trips.fleet_id = coalesce(?, trips.fleet_id) AND trips.vehicle_id = coalesce(?, trips.vehicle_id)
    AND (trips.fleet_id, trips.vehicle_id, trips.trip_id) > (?, ?, ?)
ORDER BY trips.fleet_id, trips.vehicle_id, trips.trip_id LIMIT ?
"""
_ONE = f"{_STORED} WHERE trips.trip_id = ? AND trips.fleet_id = coalesce(?, trips.fleet_id)"


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
    ((_, claim),) = await backend.database.write(
        lambda connection: store_trips(connection, [row], with_events=backend.settings.with_events)
    )
    if claim.is_taken:
        raise Problem(422, "trip-id-taken", _TAKEN)
    if not claim.is_new:
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
            rows.append(_row(caller, checked(Trip, body), body, backend.now()))
        except Problem as problem:
            results.append(TripOutcome(trip_id=trip_id, status=problem.status, detail=problem.detail))

    claims = await backend.database.write(
        lambda connection: store_trips(connection, rows, with_events=backend.settings.with_events)
    )
    for trip_id, claim in claims:
        status = 422 if claim.is_taken else 201 if claim.is_new else 409
        results.append(TripOutcome(trip_id=trip_id, status=status, detail=_TAKEN if claim.is_taken else None))
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
    **operation(422, caller=False),
)
async def list_trips(
    operator: OperatorHere,
    backend: BackendHere,
    fleet_id: str | None = None,
    vehicle_id: str | None = None,
    after: str = "",
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 1000,
) -> Response:
    """List trips."""
    fleet_id = only_own_fleet(operator, fleet_id)
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
    **operation(404, caller=False),
)
async def show_trip(trip_id: str, operator: OperatorHere, backend: BackendHere) -> Response:
    """Show one trip."""
    row = await backend.database.read(
        lambda connection: connection.execute(_ONE, (trip_id, operator.fleet_id)).fetchone()
    )
    if row is None:
        raise Problem(404, "no-such-trip", "no trip of this id has arrived")
    return JSONResponse(_stored(row))


def _row(caller: Caller, trip: Trip, body: bytes, now: float) -> TripRow:
    score = safety_score(
        average_risk=trip.average_risk_score,
        max_risk=trip.max_risk_score,
        critical=trip.critical_alert_count,
        warning=trip.warning_alert_count,
        distance=trip.distance,
    )
    return TripRow(
        fleet_id=caller.fleet_id,
        vehicle_id=caller.vehicle_id,
        trip_id=trip.trip_id,
        received_at=now,
        day=day_of(trip.start_time),
        end_time=trip.end_time.astimezone(UTC).isoformat(timespec="milliseconds"),
        duration=trip.duration,
        distance=trip.distance,
        critical_alerts=trip.critical_alert_count,
        warning_alerts=trip.warning_alert_count,
        info_alerts=trip.info_alert_count,
        average_risk=trip.average_risk_score,
        max_risk=trip.max_risk_score,
        safety_score=score,
        driver_id=trip.driver_id,
        body=body.decode(),
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
