"""Models: the listing, addresses of files and deltas that work for a while, the files, and publishing over HTTP."""

import json
from typing import Annotated, Any
from urllib.parse import quote

import anyio.to_thread
from fastapi import APIRouter, Depends, Query, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel, Field

from sentinel_sync.backend.callers import CallerHere, authorize_publisher, check_announced_size, too_large
from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.deltas import FORMAT
from sentinel_sync.backend.documentation import EXTENSION, REFERENCE_ONLY, operation
from sentinel_sync.backend.downloads import check_signature, revalidated, send_file, sign
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.publishing import (
    ModelExistsError,
    ModelRelease,
    ModelSignature,
    record_model,
    version_order,
    withdraw_model,
)
from sentinel_sync.backend.rollouts import abort_withdrawn
from sentinel_sync.backend.storage import IncomingFile, ReceivedFile

router: APIRouter = APIRouter(tags=["models"])
#: Extension: deltas are offered with a model's address, and sent from addresses that work for a while.
deltas: APIRouter = APIRouter(tags=["models"])


class SignatureBody(BaseModel):
    """One signature over the manifest."""

    signature: str
    key_id: str | None


class Model(BaseModel):
    """One version of a model. Without a signature, `signature` is null and no vehicle takes it."""

    name: str
    version: str
    size: int
    checksum: str
    signature: str | None
    key_id: str | None = None
    signatures: list[SignatureBody]
    released_at: str
    rollout: float
    filename: str


class Models(BaseModel):
    """By name, the newest version first."""

    models: list[Model]


class DeltaOffer(BaseModel):
    """A shorter way to the file for a vehicle that has another version of it; docs/deltas.md has the format."""

    download_url: str = Field(description="As the model's: absolute or relative, may expire, may be on another host.")
    format: str = Field(description="`zstd-blocks`; a vehicle that does not know it takes the whole file.")
    size: int = Field(description="Bytes of the delta.")
    checksum: str = Field(description="SHA-256 in lower-case hex of the delta.")


class Download(BaseModel):
    """Where the file is for a while. `delta` is there only where one was asked for, and is worth it."""

    download_url: str
    version: str
    checksum: str
    size: int
    expires_at: float
    delta: DeltaOffer | None = None


class Published(BaseModel):
    """The model is listed."""

    name: str
    version: str
    checksum: str
    size: int


@router.get(
    "/models",
    response_model=Models,
    summary="List models",
    description="Every version, because a vehicle that is not yet in the rollout of the newest may want the one "
    "before. `signatures` has all of them, `signature` and `key_id` are the first.",
    **operation(headers={"If-None-Match": "The ETag of an earlier answer; 304 where it still holds."}),
)
async def list_models(request: Request, _: CallerHere, backend: BackendHere) -> Response:
    """List models."""
    rows = await backend.database.read(
        lambda connection: connection.execute(
            "SELECT * FROM models WHERE withdrawn_at IS NULL ORDER BY name"
        ).fetchall()
    )
    rows.sort(key=lambda row: version_order(row["version"]), reverse=True)
    rows.sort(key=lambda row: str(row["name"]))
    return revalidated(request, {"models": [_listed(row) for row in rows]})


@router.get(
    "/models/{name}/download",
    response_model=Download,
    summary="Ask where a model's file is",
    description="The address needs no other credential, and expires: 403 or 410 there means to ask again here. "
    f"{EXTENSION}With `from`, the answer may hold a `delta`: a file that leads from what the vehicle has to what it "
    "asked for. What is verified in the end is the whole file, by its signed size and checksum.",
    **operation(404, 410),
)
async def download_model(
    name: str,
    _: CallerHere,
    backend: BackendHere,
    version: Annotated[str | None, Query(description="The newest where absent.")] = None,
    has: Annotated[
        str | None,
        Query(
            alias="from", description="Extension: SHA-256 in hex of the file that the vehicle has; ignored if unknown."
        ),
    ] = None,
) -> Response:
    """Ask where a model's file is."""
    row = await _find(backend, name, version)
    expires = int(backend.now() + backend.settings.download_url_lifetime)
    offer = await offered_delta(backend, row, has, expires) if has is not None else {}
    token = sign(backend.secret, row["name"], row["version"], str(expires))
    path = "/".join(quote(row[column], safe="") for column in ("name", "version", "filename"))
    elsewhere = await backend.models.address(row["file"], backend.settings.download_url_lifetime)
    answer = {
        "download_url": elsewhere or f"{outside(backend)}/model-files/{path}?expires={expires}&token={token}",
        "version": row["version"],
        "checksum": row["checksum"],
        "size": row["size"],
        "expires_at": expires,
        **offer,
    }
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


@router.api_route(
    "/model-files/{name}/{version}/{filename}",
    methods=["GET"],
    response_class=Response,
    summary="Get a model's file",
    description="Only at an address that the backend gave out, of which this is the form here; another backend's "
    "may be on any host. The ETag is the checksum, `Range` and `If-Range` are honoured.",
    **operation(
        403,
        404,
        410,
        416,
        caller=False,
        credential=False,
        headers={"Range": "One range of bytes.", "If-Range": "The ETag that the first bytes had."},
    ),
)
@router.head("/model-files/{name}/{version}/{filename}", include_in_schema=False)
async def send_model(
    request: Request,
    name: str,
    version: str,
    filename: str,  # noqa: ARG001  # for whoever saves it under its last segment
    backend: BackendHere,
    expires: int = 0,
    token: str = "",
) -> Response:
    """Get a model's file."""
    subject = (name, version, str(expires))
    check_signature(backend.secret, token, expires=expires, now=backend.now(), subject=subject)
    row = await _find(backend, name, version)
    return await backend.models.send(request, row["file"], f'"{row["checksum"]}"')


@router.put(
    "/models/{name}/versions/{version}",
    status_code=201,
    response_model=Published,
    summary="Publish a model",
    description=REFERENCE_ONLY
    + "The body is the file. A version never changes its bytes: other ones are refused with 409. The same ones "
    "again (200) change the signatures, the date, and what else is given, and offer again what was withdrawn. "
    "`signature` may be repeated, each with the "
    "`key_id` at the same position.",
    dependencies=[Depends(authorize_publisher)],
    **operation(
        403,
        409,
        422,
        caller=False,
        body={"application/octet-stream": {"schema": {"type": "string", "format": "binary"}}},
        also={200: Published},
    ),
)
async def publish(
    request: Request,
    name: str,
    version: str,
    backend: BackendHere,
    signature: Annotated[list[str], Query(description="Base64 of the Ed25519 signature.")] = [],  # noqa: B006  # FastAPI copies it
    key_id: Annotated[list[str], Query(description="The key of the signature at this position.")] = [],  # noqa: B006
    filename: str | None = None,
    rollout: Annotated[float | None, Query(description="0 to 1; left out: all, or as it was.")] = None,
    released_at: str | None = None,
    checksum: Annotated[str | None, Query(description="SHA-256 in hex that the body must have.")] = None,
) -> Response:
    """Publish a model."""
    release = _release(
        name=name,
        version=version,
        filename=filename,
        rollout=rollout,
        released_at=released_at,
        signature=signature,
        key_id=key_id,
    )
    limit = backend.settings.limits.model
    check_announced_size(request, limit)
    async with IncomingFile(backend.folders.incoming) as incoming:
        async for piece in request.stream():
            if incoming.size + len(piece) > limit:
                raise too_large(limit)
            await incoming.append(piece)
        if not incoming.size:
            raise Problem(422, "empty-model", "the body must be the model's file")
        file = await incoming.finish(backend.folders.models)
    if checksum not in {None, file.sha256}:
        await anyio.to_thread.run_sync(file.path.unlink)
        raise Problem(422, "model-checksum", "the body does not have this checksum")
    await backend.models.keep(file.path)
    new = await _record(backend, release, file)
    if not new:
        await backend.models.remove(file.path.name)
    answer = {"name": name, "version": version, "checksum": file.sha256, "size": file.size}
    return JSONResponse(answer, 201 if new else 200)


@router.delete(
    "/models/{name}/versions/{version}",
    response_class=Response,
    status_code=204,
    summary="Withdraw a model",
    description=REFERENCE_ONLY
    + "The version is listed no more, its roll-out is aborted, and its addresses answer 410; where it is in use it "
    "stays. Again: 204. Its bytes are kept: the same version is never published with other ones.",
    dependencies=[Depends(authorize_publisher)],
    **operation(403, 404, caller=False),
)
async def withdraw(name: str, version: str, backend: BackendHere) -> Response:
    """Withdraw a model."""
    now = backend.now()

    def change(connection: Connection) -> None:
        if not withdraw_model(connection, name, version, now):
            raise Problem(404, "no-such-model", "no model of this name and version is published")
        abort_withdrawn(connection, name, version)

    await backend.database.write(change)
    return Response(status_code=204)


async def _record(backend: Backend, release: ModelRelease, file: ReceivedFile) -> bool:
    now = backend.now()
    try:
        return await backend.database.write(lambda connection: record_model(connection, release, file, now))
    except ModelExistsError as error:
        await backend.models.remove(file.path.name)
        raise Problem(409, "model-exists", str(error)) from error


def _release(*, signature: list[str], key_id: list[str], **values: Any) -> ModelRelease:
    try:
        if key_id and len(key_id) != len(signature):
            raise ValueError("there must be a key_id for each signature, or none at all")
        keys: list[str | None] = [*key_id] if key_id else [None] * len(signature)
        signatures = [ModelSignature(value, key) for value, key in zip(signature, keys, strict=True)]
        return ModelRelease(signatures=signatures, **values)
    except ValueError as error:
        wrong = FieldError("query", str(error))
        raise Problem(422, "invalid-parameters", "this can't be published", errors=[wrong]) from error


async def _find(backend: Backend, name: str, version: str | None) -> Row:
    def select(connection: Connection) -> list[Row]:
        return connection.execute(
            "SELECT * FROM models WHERE name = ? AND version = coalesce(?, version)", (name, version)
        ).fetchall()

    found = await backend.database.read(select)
    if not found:
        raise Problem(404, "no-such-model", "no model of this name and version is published")
    rows = [row for row in found if row["withdrawn_at"] is None]
    if not rows:
        raise Problem(410, "model-withdrawn", "this version was withdrawn: it is offered no more")
    return max(rows, key=lambda row: version_order(row["version"]))


def _listed(row: Row) -> dict[str, Any]:
    signatures = json.loads(row["signatures"])
    first = signatures[0] if signatures else {"signature": None, "key_id": None}
    listed = {name: row[name] for name in ("name", "version", "size", "checksum", "released_at", "rollout", "filename")}
    key = {"key_id": first["key_id"]} if first["key_id"] else {}
    return {**listed, "signature": first["signature"], **key, "signatures": signatures}


@deltas.get(
    "/model-deltas/{old_checksum}/{new_checksum}",
    response_class=Response,
    summary="Get a delta",
    description=EXTENSION + "Only at an address that the backend gave out, of which this is the form here; another "
    "backend's may be on any host. `Range` and `If-Range` are honoured.",
    **operation(
        403,
        404,
        410,
        416,
        caller=False,
        credential=False,
        headers={"Range": "One range of bytes.", "If-Range": "The ETag that the first bytes had."},
    ),
)
@deltas.head("/model-deltas/{old_checksum}/{new_checksum}", include_in_schema=False)
async def send_delta(
    request: Request, old_checksum: str, new_checksum: str, backend: BackendHere, expires: int = 0, token: str = ""
) -> Response:
    """Get a delta."""
    subject = ("delta", old_checksum, new_checksum, str(expires))
    check_signature(backend.secret, token, expires=expires, now=backend.now(), subject=subject)
    delta = await backend.deltas.kept(old_checksum, new_checksum)
    if delta is None or not delta.size:
        raise Problem(404, "no-such-delta", "this delta is not kept any more; take the whole file")
    return await send_file(request, backend.deltas.path(old_checksum, new_checksum), f'"{delta.checksum}"')


async def offered_delta(backend: Backend, row: Row, has: str, expires: int) -> dict[str, Any]:
    """The part of an answer that offers a delta from the version that the vehicle has; empty where there is none."""
    if not backend.settings.extensions.model_deltas or has == row["checksum"]:
        return {}
    old: Row | None = await backend.database.read(
        lambda connection: connection.execute(
            "SELECT file FROM models WHERE name = ? AND checksum = ?", (row["name"], has)
        ).fetchone()
    )
    if old is None:
        return {}
    async with backend.models.local(old["file"]) as before, backend.models.local(row["file"]) as after:
        delta = await backend.deltas.between(before, has, after, row["checksum"])
    if delta is None:
        return {}
    token = sign(backend.secret, "delta", has, row["checksum"], str(expires))
    offer = {
        "download_url": f"{outside(backend)}/model-deltas/{has}/{row['checksum']}?expires={expires}&token={token}",
        "format": FORMAT,
        "size": delta.size,
        "checksum": delta.checksum,
    }
    return {"delta": offer}


def outside(backend: Backend) -> str:
    """Where files are reached from outside; empty where addresses are relative."""
    return (backend.settings.public_url or "").rstrip("/")
