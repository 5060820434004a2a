"""The extension for direct uploads: signed addresses that take a file's bytes without the credential.

Here they lead to this backend itself; with an object store they would lead there, and the rest stays as it is.
"""

import asyncio
from datetime import UTC, datetime
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from sentinel_sync.backend.bodies import StrictBody
from sentinel_sync.backend.callers import Caller, CallerHere, check_announced_size, read_json, too_large
from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.database import Row
from sentinel_sync.backend.documentation import EXTENSION, operation
from sentinel_sync.backend.downloads import check_signature
from sentinel_sync.backend.parts import (
    ANNOTATIONS,
    PartKind,
    awaited_videos,
    check_video_name,
    find_scenario,
    require_absent,
)
from sentinel_sync.backend.pieces import FolderPieces
from sentinel_sync.backend.problems import Problem
from sentinel_sync.backend.scenarios import PartAccepted, names_here, store_part
from sentinel_sync.backend.storage import IncomingFile, ReceivedFile

router: APIRouter = APIRouter(tags=["direct uploads"])

#: Files go in parts of so many bytes; nobody has said yet how long they are.
PART_BYTES = 8 << 20
#: So many addresses are given beyond what is there; further ones are asked for when these are used up.
AHEAD = 16
#: Addresses hold for so many seconds.
LIFETIME = 900.0


class CompletedPart(StrictBody):
    """A part that is there, and the ETag that its `PUT` was answered with."""

    number: Annotated[int, Field(ge=1, le=100_000)]
    etag: str


class CompletedUpload(StrictBody):
    """All bytes are there: how many, and their SHA-256, as they were sent."""

    size: Annotated[int, Field(ge=1)]
    sha256: Annotated[str, Field(pattern=r"^[0-9a-f]{64}$")]
    encoding: str | None = None
    parts: list[CompletedPart]


class Addresses(BaseModel):
    """Where the files go that are missing, by name."""

    uploads: dict[str, Any]


@router.get(
    "/scenarios/{scenario_id}/uploads",
    response_model=Addresses,
    summary="Ask for addresses anew",
    description=EXTENSION + "Addresses for the files that have not arrived; `done` are the parts of them that have.",
    **operation(404),
)
async def show_addresses(request: Request, scenario_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Ask for addresses anew."""
    scenario = await backend.database.read(lambda connection: find_scenario(connection, caller, scenario_id))
    return JSONResponse({"uploads": await addresses(request, scenario, backend)})


async def addresses(request: Request, scenario: Row, backend: Backend) -> dict[str, Any]:
    """Where each missing file of a scenario goes."""
    here = await backend.database.read(lambda connection: names_here(connection, scenario))
    missing = sorted((awaited_videos(scenario) | {ANNOTATIONS}) - here)
    base = (backend.settings.public_url or str(request.base_url)).rstrip("/")
    return {name: await _target(base, scenario["id"], name, backend) for name in missing}


async def _target(base: str, scenario: int, name: str, backend: Backend) -> dict[str, Any]:
    pieces, expires_at = backend.pieces, backend.now() + LIFETIME
    there = await pieces.there(scenario, name)
    wanted = [number for number in range(1, max(there, default=0) + AHEAD + 1) if number not in there]
    return {
        "part_size": PART_BYTES,
        "parts": [
            {"number": number, "url": await pieces.address(base, scenario, name, number, LIFETIME)} for number in wanted
        ],
        "expires_at": datetime.fromtimestamp(expires_at, UTC).isoformat(),
        "done": [{"number": number, "etag": etag} for number, etag in sorted(there.items())],
    }


@router.put(
    "/direct/{scenario}/{file}/{number}",
    response_class=Response,
    summary="Put one part of a file",
    description=EXTENSION + "At an address that the backend gave; without a credential.",
    **operation(403, 410, 413, caller=False, credential=False),
)
async def put_part(
    request: Request,
    scenario: Annotated[int, Field(ge=0)],
    file: str,
    number: Annotated[int, Field(ge=1)],
    backend: BackendHere,
    expires: Annotated[int, Query(ge=0)] = 0,
    token: str = "",
) -> Response:
    """Put one part of a file."""
    if not isinstance(backend.pieces, FolderPieces):
        raise Problem(403, "token", "parts are put into the object store here")
    place = (str(scenario), file, str(number))
    check_signature(backend.secret, token, expires=expires, now=backend.now(), subject=("direct", *place, str(expires)))
    check_announced_size(request, PART_BYTES)
    async with IncomingFile(backend.folders.uploads) as incoming:
        async for piece in request.stream():
            if incoming.size + len(piece) > PART_BYTES:
                raise too_large(PART_BYTES)
            await incoming.append(piece)
        received = await incoming.finish(backend.folders.uploads)
    etag = await backend.pieces.take(received.path, scenario, file, number, received.sha256)
    return Response(status_code=200, headers={"ETag": etag})


@router.post(
    "/scenarios/{scenario_id}/videos/{name}/complete",
    status_code=201,
    response_model=PartAccepted,
    summary="Say that a video is there",
    description=EXTENSION + "Acknowledges the video, where its bytes are as said.",
    **operation(404, 409, 422, idempotent=True, body=CompletedUpload),
)
async def complete_video(
    request: Request, scenario_id: str, name: str, caller: CallerHere, backend: BackendHere
) -> Response:
    """Say that a video is there."""
    scenario = await backend.database.read(lambda connection: find_scenario(connection, caller, scenario_id))
    check_video_name(scenario, name)
    return await _complete(request, scenario, name, PartKind.VIDEO, caller, backend)


@router.post(
    "/scenarios/{scenario_id}/annotations/complete",
    status_code=201,
    response_model=PartAccepted,
    summary="Say that the annotations are there",
    description=EXTENSION
    + "Acknowledges them, where their bytes are as said; `encoding`: `gzip` where they are packed.",
    **operation(404, 409, 422, idempotent=True, body=CompletedUpload),
)
async def complete_annotations(
    request: Request, scenario_id: str, caller: CallerHere, backend: BackendHere
) -> Response:
    """Say that the annotations are there."""
    scenario = await backend.database.read(lambda connection: find_scenario(connection, caller, scenario_id))
    return await _complete(request, scenario, ANNOTATIONS, PartKind.ANNOTATIONS, caller, backend)


async def _complete(
    request: Request, scenario: Row, name: str, kind: PartKind, caller: Caller, backend: Backend
) -> Response:
    said, _ = await read_json(request, CompletedUpload, backend.settings.limits.json_body)
    await backend.database.read(lambda connection: require_absent(connection, scenario, name))
    there = await backend.pieces.there(scenario["id"], name)
    numbers = [part.number for part in said.parts]
    if numbers != list(range(1, len(numbers) + 1)) or any(there.get(part.number) != part.etag for part in said.parts):
        raise Problem(422, "missing-parts", "not all of these parts are there")
    file = await _joined(scenario["id"], name, numbers, backend)
    if (file.size, file.sha256) != (said.size, said.sha256):
        await asyncio.to_thread(file.path.unlink)
        await backend.pieces.remove(scenario["id"], name)
        raise Problem(422, "other-bytes", "the bytes are not as they were said to be; send them again")
    answer = await store_part(file, name, kind, scenario, caller, backend, compressed=said.encoding == "gzip")
    await backend.pieces.remove(scenario["id"], name)
    return answer


async def _joined(scenario: int, name: str, numbers: list[int], backend: Backend) -> ReceivedFile:
    async with IncomingFile(backend.folders.incoming) as whole:
        for number in numbers:
            async for block in backend.pieces.read(scenario, name, number):
                await whole.append(block)
        return await whole.finish(backend.folders.incoming)
