"""Scenarios: metadata first, then each video and the annotations, each acknowledged by itself."""

import json
from datetime import UTC, datetime
from typing import Annotated, Any, Literal

import anyio.to_thread
from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from sentinel_sync.backend.bodies import ScenarioRegistration
from sentinel_sync.backend.callers import (
    Caller,
    CallerHere,
    OperatorHere,
    check_announced_size,
    only_own_fleet,
    read_json,
    too_large,
)
from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.documentation import EXTENSION, REFERENCE_ONLY, operation
from sentinel_sync.backend.keys import Grant
from sentinel_sync.backend.multipart import PartHeader, receive_file
from sentinel_sync.backend.parts import (
    ANNOTATIONS,
    PartKind,
    awaited_videos,
    check_video_name,
    find_scenario,
    keep,
    keep_and_record,
    record_part,
    require_absent,
    use_key,
)
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.resumable import create_upload
from sentinel_sync.backend.storage import IncomingFile, ReceivedFile
from sentinel_sync.backend.trip_store import record_events

router: APIRouter = APIRouter(tags=["scenarios"])
#: With the extension `scenario-catalogue`: files when they are asked for.
catalogue: APIRouter = APIRouter(tags=["scenarios"])

LARGEST_PAGE = 1000
_BINARY = {"schema": {"type": "string", "format": "binary"}}
_VIDEO_BODY = {"multipart/form-data": {"schema": {"type": "object", "additionalProperties": _BINARY["schema"]}}}
_ANNOTATIONS_BODY = {"application/json": {"schema": {"type": "object"}}}


class Part(BaseModel):
    """A part that is here. `received_*` is as it travelled, before decompression."""

    name: str
    kind: PartKind
    size: int
    sha256: str
    received_size: int
    received_sha256: str


class Scenario(BaseModel):
    """A scenario and what of it has arrived."""

    scenario_id: str
    fleet_id: str
    vehicle_id: str
    received_at: str
    priority: str
    state: Literal["announced", "wanted", "partial", "complete"]
    """`wanted`: it was asked for, and not all of that has arrived; `partial`: some has, and no more was asked for."""
    complete: bool
    missing: list[str]
    parts: list[Part]
    metadata: dict[str, Any]
    consent: dict[str, Any]


class Scenarios(BaseModel):
    """Newest arrival first."""

    scenarios: list[Scenario]


class ScenarioAccepted(BaseModel):
    """The metadata is on disk; the parts in `missing` are awaited."""

    scenario_id: str
    status: str
    missing: list[str]
    upload: Literal["on_request"] | None = None
    """With the extension `scenario-catalogue`: only the announcement is wanted for now."""


class PartAccepted(BaseModel):
    """The part is on disk."""

    scenario_id: str
    part: str
    size: int
    sha256: str


@router.post(
    "/scenarios",
    status_code=201,
    response_model=ScenarioAccepted,
    summary="Announce a recorded scenario",
    description="Scenario ids are unique for a vehicle, not for the fleet: two recorders may start at one second.",
    **operation(409, 422, idempotent=True, body=ScenarioRegistration),
)
async def register_scenario(request: Request, caller: CallerHere, backend: BackendHere) -> Response:
    """Announce a recorded scenario."""
    registration, body = await read_json(request, ScenarioRegistration, backend.settings.limits.json_body)
    sent = json.loads(body)  # what came, with the fields that the contract does not name
    now = backend.now()

    def insert(connection: Connection) -> None:
        use_key(connection, caller, f"scenario {registration.scenario_id}", now)
        row = (
            caller.fleet_id,
            caller.vehicle_id,
            registration.scenario_id,
            now,
            registration.priority,
            json.dumps(sent["metadata"]),
            json.dumps(sent["consent"]),
        )
        added = connection.execute(
            "INSERT INTO scenarios (fleet_id, vehicle_id, scenario_id, received_at, priority, metadata, consent)"
            " VALUES (?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
            row,
        )
        if not added.rowcount:
            raise Problem(409, "scenario-exists", "this scenario is already here")
        if backend.settings.with_events:
            fact = json.dumps({"scenario_id": registration.scenario_id, "priority": registration.priority})
            record_events(connection, "scenario", [(caller.fleet_id, caller.vehicle_id, fact, now)])

    await backend.database.write(insert)
    missing = sorted({*registration.metadata.files.values(), ANNOTATIONS})
    answer: dict[str, object] = {
        "scenario_id": registration.scenario_id,
        "status": "registered",
        "missing": missing,
    }
    if backend.settings.extensions.scenario_catalogue:
        answer["upload"] = "on_request"
    return JSONResponse(answer, status_code=201)


@router.post(
    "/scenarios/{scenario_id}/videos",
    status_code=201,
    response_model=PartAccepted,
    summary="Upload one video",
    description="One part, whose field name and file name are the video's file name in the metadata. "
    + EXTENSION
    + "With `Tus-Resumable: 1.0.0` it creates a resumable upload instead, see there.",
    **operation(404, 409, 412, 422, idempotent=True, body=_VIDEO_BODY),
)
async def upload_video(request: Request, scenario_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Upload one video."""
    scenario = await backend.database.read(lambda connection: find_scenario(connection, caller, scenario_id))
    if backend.settings.extensions.resumable_uploads and "tus-resumable" in request.headers:
        return await create_upload(request, scenario, PartKind.VIDEO, caller, backend)
    names = await backend.database.read(lambda connection: names_here(connection, scenario))
    accepted: list[str] = []

    def accept(header: PartHeader) -> None:
        if header.field_name != header.filename:
            raise Problem(422, "multipart", "the field name and the file name must both be the video's file name")
        check_video_name(scenario, header.filename)
        if header.filename in names:  # said before gigabytes have travelled for nothing
            raise Problem(409, "part-exists", "this part is already here")
        accepted.append(header.filename)

    async with IncomingFile(backend.folders.incoming) as incoming:
        await receive_file(request, incoming, limit=backend.settings.limits.part, accept=accept)
        if not incoming.size:
            raise Problem(422, "empty-part", "the video is empty")
        file = await incoming.finish(backend.folders.incoming)
    return await store_part(file, accepted[0], PartKind.VIDEO, scenario, caller, backend, compressed=False)


@router.post(
    "/scenarios/{scenario_id}/annotations",
    status_code=201,
    response_model=PartAccepted,
    summary="Upload the annotations",
    description="The JSON file, `Content-Encoding: gzip` allowed. "
    + EXTENSION
    + "With `Tus-Resumable: 1.0.0` it creates a resumable upload instead, see there.",
    **operation(
        404,
        409,
        412,
        422,
        idempotent=True,
        body=_ANNOTATIONS_BODY,
        headers={"Content-Encoding": "`gzip`, or absent."},
    ),
)
async def upload_annotations(request: Request, scenario_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Upload the annotations."""
    scenario = await backend.database.read(lambda connection: find_scenario(connection, caller, scenario_id))
    if backend.settings.extensions.resumable_uploads and "tus-resumable" in request.headers:
        return await create_upload(request, scenario, PartKind.ANNOTATIONS, caller, backend)
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise Problem(415, "content-encoding", "only gzip is understood", headers={"Accept-Encoding": "gzip"})
    if request.headers.get("content-type", "").partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not-json", "the body must be application/json")
    await backend.database.read(lambda connection: require_absent(connection, scenario, ANNOTATIONS))
    limit = backend.settings.limits.annotations
    check_announced_size(request, limit)
    async with IncomingFile(backend.folders.incoming) as incoming:
        async for piece in request.stream():
            if incoming.size + len(piece) > limit:
                raise too_large(limit)
            await incoming.append(piece)
        file = await incoming.finish(backend.folders.incoming)
    return await store_part(
        file, ANNOTATIONS, PartKind.ANNOTATIONS, scenario, caller, backend, compressed=encoding == "gzip"
    )


async def store_part(
    file: ReceivedFile,
    name: str,
    kind: PartKind,
    scenario: Row,
    caller: Caller,
    backend: Backend,
    *,
    compressed: bool,
) -> Response:
    """Keep a file that has arrived whole, exactly once; `file` is gone afterwards.

    Raises:
        Problem: It is damaged, or the part is there already.
    """
    limit = backend.settings.limits.annotations
    try:
        part = await anyio.to_thread.run_sync(
            lambda: keep(file, name, kind, backend.folders.parts, limit, compressed=compressed)
        )
    finally:
        await anyio.to_thread.run_sync(file.path.unlink)
    now = backend.now()

    def record(connection: Connection) -> bool:
        use_key(connection, caller, f"part {scenario['scenario_id']}/{name}", now)
        record_part(connection, scenario["id"], part, now, with_events=backend.settings.with_events)
        return True

    await keep_and_record(part, record, backend)
    answer = {
        "scenario_id": scenario["scenario_id"],
        "part": name,
        "size": part.file.size,
        "sha256": part.file.sha256,
    }
    return JSONResponse(answer, status_code=201)


@router.get(
    "/scenarios",
    response_model=Scenarios,
    summary="List scenarios",
    description=REFERENCE_ONLY,
    **operation(422, caller=False),
)
async def list_scenarios(
    operator: OperatorHere,
    backend: BackendHere,
    fleet_id: str | None = None,
    vehicle_id: str | None = None,
    limit: Annotated[int, Query(ge=1, le=LARGEST_PAGE)] = 100,
) -> Response:
    """List scenarios."""
    fleet_id = only_own_fleet(operator, fleet_id)
    found = await backend.database.read(
        lambda connection: _described(
            connection,
            "WHERE fleet_id = coalesce(?, fleet_id) AND vehicle_id = coalesce(?, vehicle_id) ORDER BY id DESC LIMIT ?",
            (fleet_id, vehicle_id, limit),
        )
    )
    return JSONResponse({"scenarios": found})


@router.get(
    "/scenarios/{scenario_id}",
    response_model=Scenario,
    summary="Show one scenario with its parts",
    description=REFERENCE_ONLY + "Name the vehicle where several vehicles have a scenario of this id (else 400).",
    **operation(400, 404, caller=False),
)
async def show_scenario(
    scenario_id: str, operator: OperatorHere, backend: BackendHere, vehicle_id: str | None = None
) -> Response:
    """Show one scenario with its parts."""
    return JSONResponse(await _only_one(backend, operator, scenario_id, vehicle_id))


@router.get(
    "/scenarios/{scenario_id}/parts/{name}",
    response_class=Response,
    summary="Get the bytes of a part",
    description=REFERENCE_ONLY + "Annotations come decompressed.",
    **operation(400, 404, 416, caller=False, headers={"Range": "One range of bytes."}),
)
async def show_part(
    request: Request,
    scenario_id: str,
    name: str,
    operator: OperatorHere,
    backend: BackendHere,
    vehicle_id: str | None = None,
) -> Response:
    """Get the bytes of a part."""
    scenario = await _only_one(backend, operator, scenario_id, vehicle_id)
    row = await backend.database.read(
        lambda connection: connection.execute(
            "SELECT parts.file, parts.sha256 FROM parts JOIN scenarios ON parts.scenario = scenarios.id"
            " WHERE fleet_id = ? AND vehicle_id = ? AND scenario_id = ? AND name = ?",
            (scenario["fleet_id"], scenario["vehicle_id"], scenario_id, name),
        ).fetchone()
    )
    if row is None:
        raise Problem(404, "no-such-part", "this part has not arrived")
    return await backend.parts.send(request, row["file"], f'"{row["sha256"]}"')


async def _only_one(backend: Backend, operator: Grant, scenario_id: str, vehicle_id: str | None) -> dict[str, Any]:
    found = await backend.database.read(
        lambda connection: _described(
            connection,
            "WHERE scenario_id = ? AND fleet_id = coalesce(?, fleet_id) AND vehicle_id = coalesce(?, vehicle_id)"
            " LIMIT 2",
            (scenario_id, operator.fleet_id, vehicle_id),
        )
    )
    if not found:
        raise Problem(404, "no-such-scenario", "no scenario of this id has arrived")
    if len(found) > 1:
        raise Problem(400, "ambiguous", "several vehicles have a scenario of this id: add ?vehicle_id=")
    return found[0]


@catalogue.put(
    "/scenarios/{scenario_id}/wanted",
    response_class=Response,
    status_code=204,
    summary="Ask for a recording that was announced",
    description=REFERENCE_ONLY + "The vehicle is told in the answer to its next report, until all has arrived. "
    "`file`, several times: only these files.",
    **operation(400, 404, 422, caller=False),
)
async def want_scenario(
    scenario_id: str,
    operator: OperatorHere,
    backend: BackendHere,
    vehicle_id: str | None = None,
    file: Annotated[list[str] | None, Query()] = None,
) -> Response:
    """Ask for a recording that was announced."""
    scenario = await _only_one(backend, operator, scenario_id, vehicle_id)
    known = {*scenario["missing"], *(part["name"] for part in scenario["parts"])}
    if unknown := sorted(set(file or []) - known):  # it would be asked for for ever
        wrong = [FieldError("file", "must be one of the files that the metadata names") for _ in unknown]
        raise Problem(422, "unknown-part", f"this scenario has {', '.join(sorted(known))} alone", errors=wrong)
    row = (json.dumps(file or []), backend.now(), scenario["fleet_id"], scenario["vehicle_id"], scenario_id)
    await backend.database.write(
        lambda connection: connection.execute(
            "INSERT INTO wanted (files, asked_at, scenario) SELECT ?, ?, id FROM scenarios"
            " WHERE fleet_id = ? AND vehicle_id = ? AND scenario_id = ?"
            " ON CONFLICT (scenario) DO UPDATE SET files = excluded.files, asked_at = excluded.asked_at",
            row,
        )
    )
    return Response(status_code=204)


def wishes(connection: Connection, fleet_id: str, vehicle_id: str) -> list[dict[str, object]]:
    """What is wanted of a vehicle and has not arrived, the longest wanted first; what has is wanted no more."""
    found: list[dict[str, object]] = []
    rows = connection.execute(
        "SELECT scenarios.*, wanted.files FROM wanted JOIN scenarios ON wanted.scenario = scenarios.id"
        " WHERE fleet_id = ? AND vehicle_id = ? ORDER BY asked_at",
        (fleet_id, vehicle_id),
    ).fetchall()
    for row in rows:
        files = json.loads(row["files"])
        if set(files or awaited_videos(row) | {ANNOTATIONS}) <= names_here(connection, row):
            connection.execute("DELETE FROM wanted WHERE scenario = ?", (row["id"],))
        else:
            found.append({"scenario_id": row["scenario_id"], **({"files": files} if files else {})})
    return found


def names_here(connection: Connection, scenario: Row) -> frozenset[str]:
    """The parts of a scenario that have arrived."""
    rows = connection.execute("SELECT name FROM parts WHERE scenario = ?", (scenario["id"],))
    return frozenset(row["name"] for row in rows)


def _described(connection: Connection, condition: str, values: tuple[Any, ...]) -> list[dict[str, Any]]:
    found: list[dict[str, Any]] = []
    rows = connection.execute(f"SELECT * FROM scenarios {condition}", values).fetchall()  # noqa: S608  # constants
    of_these = f"WHERE scenario IN (SELECT id FROM scenarios {condition})"  # noqa: S608  # constants
    here: dict[str, list[Row]] = {}
    for part in connection.execute(f"SELECT * FROM parts {of_these} ORDER BY name", values):  # noqa: S608  # constants
        here.setdefault(part["scenario"], []).append(part)
    asked = connection.execute(f"SELECT scenario, files FROM wanted {of_these}", values)  # noqa: S608  # constants
    wanted = {row["scenario"]: json.loads(row["files"]) for row in asked}
    for row in rows:
        parts = here.get(row["id"], [])
        missing = sorted((awaited_videos(row) | {ANNOTATIONS}) - {part["name"] for part in parts})
        found.append(
            {
                "scenario_id": row["scenario_id"],
                "fleet_id": row["fleet_id"],
                "vehicle_id": row["vehicle_id"],
                "received_at": datetime.fromtimestamp(row["received_at"], UTC).isoformat(),
                "priority": row["priority"],
                "state": _state({part["name"] for part in parts}, missing, wanted.get(row["id"])),
                "complete": not missing,
                "missing": missing,
                "parts": [{name: part[name] for name in Part.model_fields} for part in parts],
                "metadata": json.loads(row["metadata"]),
                "consent": json.loads(row["consent"]),
            }
        )
    return found


def _state(here: set[str], missing: list[str], wanted: list[str] | None) -> str:
    """Where it stands; `wanted` is what was asked for of it: none of its files by name means all."""
    if not missing:
        return "complete"
    if wanted is not None and not here >= set(wanted or missing):
        return "wanted"
    return "partial" if here else "announced"
