"""When a vehicle was last heard, and what it has sent."""

from datetime import UTC, datetime
from sqlite3 import Connection, Row
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel

from sentinel_sync.backend.callers import CallerHere
from sentinel_sync.backend.context import BackendHere
from sentinel_sync.backend.documentation import operation
from sentinel_sync.backend.downloads import revalidated
from sentinel_sync.backend.problems import Problem

router: APIRouter = APIRouter(tags=["vehicles"])

ONLINE_WITHIN = 300.0
"""Seconds since its last request for which a vehicle counts as online."""
ACTIVE_WITHIN = 86400.0
"""Seconds since its last request for which a vehicle counts as active."""


class VehicleStatus(BaseModel):
    """`online` was heard in the last 5 min, `idle` in the last 24 h, `offline` before that."""

    vehicle_id: str
    fleet_id: str
    status: Literal["online", "idle", "offline"]
    last_seen: str
    user_agent: str
    total_trips: int
    total_distance: float
    last_trip_ended_at: str | None


@router.get(
    "/vehicles/{vehicle_id:path}/status",
    response_model=VehicleStatus,
    summary="One vehicle of the caller's fleet",
    description="`last_seen` is the backend's time of the last accepted request of that vehicle, of any kind.",
    **operation(404, headers={"If-None-Match": "The ETag of an earlier answer; 304 where it still holds."}),
)
async def vehicle_status(request: Request, vehicle_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """One vehicle of the caller's fleet."""
    sighting = backend.sightings.find(caller.fleet_id, vehicle_id)
    if sighting is None:
        raise Problem(404, "no-such-vehicle", "no vehicle of this id has been heard in this fleet")

    def summarize(connection: Connection) -> Row:
        row: Row = connection.execute(
            "SELECT count(*) AS trips, ifnull(sum(distance), 0.0) AS distance, max(end_time) AS ended"
            " FROM trips WHERE fleet_id = ? AND vehicle_id = ?",
            (caller.fleet_id, vehicle_id),
        ).fetchone()
        return row

    summary = await backend.database.read(summarize)
    silence = backend.now() - sighting.last_seen
    answer = {
        "vehicle_id": vehicle_id,
        "fleet_id": caller.fleet_id,
        "status": "online" if silence <= ONLINE_WITHIN else "idle" if silence <= ACTIVE_WITHIN else "offline",
        "last_seen": datetime.fromtimestamp(sighting.last_seen, UTC).isoformat(timespec="milliseconds"),
        "user_agent": sighting.user_agent,
        "total_trips": summary["trips"],
        "total_distance": round(summary["distance"], 1),
        "last_trip_ended_at": summary["ended"],
    }
    return revalidated(request, answer)
