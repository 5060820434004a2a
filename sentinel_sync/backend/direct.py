"""The extension for direct uploads: signed addresses that take a file's bytes without the credential.

Here they lead to this backend itself; with an object store they would lead there, and the rest stays as it is.
"""

import asyncio
import hashlib
import math
from datetime import UTC, datetime
from pathlib import Path
from typing import Annotated, Any

from fastapi import APIRouter, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from sentinel_sync.backend.bodies import StrictBody
from sentinel_sync.backend.callers import Caller, CallerHere, check_announced_size, read_json, too_large
from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.database import Row
from sentinel_sync.backend.documentation import EXTENSION, operation
from sentinel_sync.backend.downloads import check_signature, sign
from sentinel_sync.backend.parts import (
    ANNOTATIONS,
    PartKind,
    awaited_videos,
    check_video_name,
    find_scenario,
    require_absent,
)
from sentinel_sync.backend.problems import Problem
from sentinel_sync.backend.scenarios import PartAccepted, names_here, store_part
from sentinel_sync.backend.storage import BLOCK, IncomingFile, ReceivedFile

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
    return {name: await asyncio.to_thread(_target, base, scenario, name, backend) for name in missing}


def _target(base: str, scenario: Row, name: str, backend: Backend) -> dict[str, Any]:
    there, expires = _pieces(backend, scenario["id"], name), math.ceil(backend.now() + LIFETIME)
    parts = []
    for number in range(1, max(there, default=0) + AHEAD + 1):
        if number not in there:
            place = (str(scenario["id"]), _hidden(name), str(number))
            token = sign(backend.secret, "direct", *place, str(expires))
            parts.append({"number": number, "url": f"{base}/direct/{'/'.join(place)}?expires={expires}&token={token}"})
    return {
        "part_size": PART_BYTES,
        "parts": parts,
        "expires_at": datetime.fromtimestamp(expires, UTC).isoformat(),
        "done": [{"number": number, "etag": _etag(path)} for number, path in sorted(there.items())],
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
    place = (str(scenario), file, str(number))
    check_signature(backend.secret, token, expires=expires, now=backend.now(), subject=("direct", *place, str(expires)))
    check_announced_size(request, PART_BYTES)
    async with IncomingFile(backend.folders.uploads) as incoming:
        async for piece in request.stream():
            if incoming.size + len(piece) > PART_BYTES:
                raise too_large(PART_BYTES)
            await incoming.append(piece)
        received = await incoming.finish(backend.folders.uploads)
    target = backend.folders.uploads / f"direct-{'-'.join(place)}-{received.sha256}"
    await asyncio.to_thread(_take_place, received.path, target)
    return Response(status_code=200, headers={"ETag": _etag(target)})


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
    there = await asyncio.to_thread(_pieces, backend, scenario["id"], name)
    named = [there.get(part.number) for part in said.parts]
    pieces = [
        path for path, part in zip(named, said.parts, strict=True) if path is not None and _etag(path) == part.etag
    ]
    if len(pieces) < len(said.parts) or [part.number for part in said.parts] != list(range(1, len(pieces) + 1)):
        raise Problem(422, "missing-parts", "not all of these parts are there")
    file = await _joined(pieces, backend)
    if (file.size, file.sha256) != (said.size, said.sha256):
        await asyncio.to_thread(_remove, [file.path, *there.values()])
        raise Problem(422, "other-bytes", "the bytes are not as they were said to be; send them again")
    answer = await store_part(file, name, kind, scenario, caller, backend, compressed=said.encoding == "gzip")
    await asyncio.to_thread(_remove, list(there.values()))
    return answer


async def _joined(pieces: list[Path], backend: Backend) -> ReceivedFile:
    async with IncomingFile(backend.folders.incoming) as whole:
        for path in pieces:
            with await asyncio.to_thread(path.open, "rb") as piece:
                while block := await asyncio.to_thread(piece.read, BLOCK):
                    await whole.append(block)
        return await whole.finish(backend.folders.incoming)


def _pieces(backend: Backend, scenario: int, name: str) -> dict[int, Path]:
    """Parts of a file that are there, by number."""
    found = backend.folders.uploads.glob(f"direct-{scenario}-{_hidden(name)}-*-*")
    return {int(path.name.split("-")[3]): path for path in found}


def _hidden(name: str) -> str:
    """Stands for a file's name in addresses and paths: nothing that came over the network is ever part of a path."""
    return hashlib.sha256(name.encode()).hexdigest()[:16]


def _etag(path: Path) -> str:
    return f'"{path.name.rpartition("-")[2]}"'


def _take_place(received: Path, target: Path) -> None:
    """Let a part replace what came before of the same number."""
    prefix = target.name.rpartition("-")[0]
    received.replace(target)
    for other in target.parent.glob(f"{prefix}-*"):
        if other != target:
            other.unlink(missing_ok=True)


def _remove(paths: list[Path]) -> None:
    for path in paths:
        path.unlink(missing_ok=True)
