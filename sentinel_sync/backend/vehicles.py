"""When a vehicle was last heard, and what it has sent."""

import json
from datetime import UTC, datetime
from typing import Literal

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from sentinel_sync.backend.bodies import VehicleReport
from sentinel_sync.backend.callers import CallerHere, only_own_vehicle, read_json
from sentinel_sync.backend.context import BackendHere
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.documentation import EXTENSION, operation
from sentinel_sync.backend.downloads import revalidated
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.rollouts import note_report
from sentinel_sync.backend.scenarios import wishes
from sentinel_sync.backend.sightings import Sighting
from sentinel_sync.backend.trip_store import record_events, totals_of_vehicle

router: APIRouter = APIRouter(tags=["vehicles"])
#: Extension: what vehicles say of themselves.
reports: APIRouter = APIRouter(tags=["vehicles"])

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
    report: VehicleReport | None = None
    """What it last said of itself, where it reports."""


@router.get(
    "/vehicles/{vehicle_id:path}/status",
    response_model=VehicleStatus,
    summary="One vehicle of the caller's fleet",
    description="`last_seen` is the backend's time of the last accepted request of that vehicle, of any kind.",
    **operation(404, headers={"If-None-Match": "The ETag of an earlier answer; 304 where it still holds."}),
)
async def vehicle_status(request: Request, vehicle_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """One vehicle of the caller's fleet."""
    only_own_vehicle(caller.grant, vehicle_id)
    whose = (caller.fleet_id, vehicle_id)

    def summarize(connection: Connection) -> tuple[Sighting | None, Row | None, Row | None]:
        report = connection.execute("SELECT body FROM reports WHERE fleet_id = ? AND vehicle_id = ?", whose).fetchone()
        return backend.sightings.find(connection, *whose), totals_of_vehicle(connection, *whose), report

    sighting, totals, report = await backend.database.read(summarize)
    if sighting is None:
        raise Problem(404, "no-such-vehicle", "no vehicle of this id has been heard in this fleet")
    silence = backend.now() - sighting.last_seen
    answer = {
        "vehicle_id": vehicle_id,
        "fleet_id": caller.fleet_id,
        "status": "online" if silence <= ONLINE_WITHIN else "idle" if silence <= ACTIVE_WITHIN else "offline",
        "last_seen": datetime.fromtimestamp(sighting.last_seen, UTC).isoformat(timespec="milliseconds"),
        "user_agent": sighting.user_agent,
        "total_trips": totals["trips"] if totals else 0,
        "total_distance": round(totals["distance"], 1) if totals else 0.0,
        "last_trip_ended_at": totals["last_ended"] if totals else None,
        "report": None if report is None else json.loads(report["body"]),
    }
    return revalidated(request, answer)


class Wish(BaseModel):
    """A recording that is wanted: all of its files, or those that are named."""

    scenario_id: str
    files: list[str] | None = None


class ReportAccepted(BaseModel):
    """The report is on disk."""

    time: str
    wanted: list[Wish]


@reports.put(
    "/vehicles/{vehicle_id:path}/status",
    response_model=ReportAccepted,
    summary="Report how a vehicle is",
    description=EXTENSION + "At start, when something in it changed, and at least every `report_interval` seconds. "
    "`wanted` names recordings that were announced and are to be sent now.",
    **operation(422, body=VehicleReport),
)
async def report_vehicle(request: Request, vehicle_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Report how a vehicle is."""
    report, body = await read_json(request, VehicleReport, backend.settings.limits.json_body)
    if vehicle_id != caller.vehicle_id:
        wrong = FieldError("X-Vehicle-ID", "must be the vehicle that is reported")
        raise Problem(400, "headers", "a vehicle reports of itself alone", errors=[wrong])
    now = backend.now()
    row = (caller.fleet_id, vehicle_id, now, body.decode())

    def record(connection: Connection) -> list[dict[str, object]]:
        connection.execute(
            "INSERT INTO reports VALUES (?, ?, ?, ?) ON CONFLICT (fleet_id, vehicle_id)"
            " DO UPDATE SET received_at = excluded.received_at, body = excluded.body",
            row,
        )
        if backend.settings.with_events:
            record_events(connection, "report", [(caller.fleet_id, vehicle_id, row[3], now)])
        note_report(connection, caller, report, now, backend.judged_at)
        return wishes(connection, caller.fleet_id, vehicle_id)

    wanted = await backend.database.write(record)
    return JSONResponse({"time": backend.today().isoformat(timespec="milliseconds"), "wanted": wanted})
