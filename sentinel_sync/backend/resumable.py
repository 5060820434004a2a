"""The extension for resumable uploads: tus 1.0.0 with creation, checksum, termination and expiration.

The address that takes a whole video takes the creation of a resumable upload too. Four things go beyond the
protocol, and are documented in the OpenAPI text:

- a creation that is repeated with its `Idempotency-Key` gets the address of the upload it made before, because
  409 would say that the part is here;
- `Upload-Metadata` must carry the SHA-256 of the whole part, so whatever a cut connection left is kept, and
  still nothing that is damaged is ever stored as a part;
- annotations may come packed, as `application/gzip`, and OPTIONS says so with `Accept-Encoding` (RFC 7694);
- the PATCH that completes an upload is answered when the part is stored; a retry of it, or a HEAD, completes an
  upload that a crash left at its last byte.
"""

import asyncio
import base64
import binascii
import hashlib
import hmac
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from email.utils import formatdate

import anyio.to_thread
from fastapi import APIRouter, Request
from fastapi.responses import Response
from starlette.requests import ClientDisconnect

from sentinel_sync.backend.callers import Caller, CallerHere
from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.documentation import EXTENSION, operation
from sentinel_sync.backend.parts import (
    ANNOTATIONS,
    PartKind,
    check_video_name,
    keep,
    keep_and_record,
    record_part,
    require_absent,
)
from sentinel_sync.backend.problems import CHECKSUM_MISMATCH, Problem
from sentinel_sync.backend.storage import ReceivedFile, fresh_name
from sentinel_sync.backend.uploads import BusyError, SupersededError, UploadSession

router: APIRouter = APIRouter(tags=["resumable uploads"])

VERSION = "1.0.0"
TUS_EXTENSIONS = "creation,checksum,termination,expiration"
PATCH_TYPE = "application/offset+octet-stream"
COMPRESSED_TYPES = frozenset({"application/gzip", "application/x-gzip"})
ALGORITHMS = ("sha256", "sha1")
SHA256_DIGITS = 64
LONGEST_SILENCE = 60.0
"""Seconds without a byte after which a PATCH is ended: its connection is gone, and others may want the upload."""
_TUS = {"Tus-Resumable": VERSION, "Cache-Control": "no-store"}
_TUS_HEADER = {"Tus-Resumable": "`1.0.0`; required."}


@router.options(
    "/scenarios/{scenario_id}/videos",
    status_code=204,
    response_class=Response,
    summary="Ask whether uploads are resumable",
    description=EXTENSION + "Answers with `Tus-Extension` and the other headers of tus 1.0.0.",
    **operation(),
)
@router.options(
    "/scenarios/{scenario_id}/annotations",
    status_code=204,
    response_class=Response,
    summary="Ask whether uploads are resumable",
    description=EXTENSION + "As for videos. `Accept-Encoding: gzip` (RFC 7694) says that they may come packed, as "
    "`application/gzip`.",
    **operation(),
)
async def discover(
    request: Request,
    scenario_id: str,  # noqa: ARG001  # in the path
    _: CallerHere,
    backend: BackendHere,
) -> Response:
    """Ask whether uploads are resumable."""
    packed = {"Accept-Encoding": "gzip"} if request.url.path.endswith("/annotations") else {}
    return Response(
        status_code=204,
        headers={
            **_TUS,
            **packed,
            "Tus-Version": VERSION,
            "Tus-Extension": TUS_EXTENSIONS,
            "Tus-Checksum-Algorithm": ",".join(ALGORITHMS),
            "Tus-Max-Size": str(backend.settings.limits.part),
        },
    )


async def create_upload(request: Request, scenario: Row, kind: PartKind, caller: Caller, backend: Backend) -> Response:
    """Answers the creation of an upload for a part of `scenario`.

    Raises:
        Problem: 400, 409 (the part is here), 412, 413 or 422.
    """
    try:
        return await _create(request, scenario, kind, caller, backend)
    except Problem as problem:
        problem.headers = {**_TUS, **problem.headers}
        raise


async def _create(request: Request, scenario: Row, kind: PartKind, caller: Caller, backend: Backend) -> Response:
    _check_version(request)
    length = _number(request, "upload-length")
    if length == 0:
        raise Problem(422, "empty-part", "the part is empty")
    if length > backend.settings.limits.part:
        raise Problem(413, "too-large", f"at most {backend.settings.limits.part} bytes are accepted here")
    metadata = _metadata(request)
    sha256 = metadata.get("sha256", "").lower()
    if len(sha256) != SHA256_DIGITS or not set(sha256) <= set("0123456789abcdef"):
        raise Problem(400, "upload-metadata", "Upload-Metadata must carry sha256, in hex, of the whole part")
    filename, filetype = metadata.get("filename", ""), metadata.get("filetype", "")
    if not filename or not filetype:
        raise Problem(400, "upload-metadata", "Upload-Metadata must carry filename and filetype")
    if kind is PartKind.VIDEO:
        check_video_name(scenario, filename)
    name = filename if kind is PartKind.VIDEO else ANNOTATIONS
    compressed = kind is PartKind.ANNOTATIONS and filetype in COMPRESSED_TYPES
    await _forget_expired(backend)
    upload_id = fresh_name()
    await backend.uploads.create(upload_id)
    now = backend.now()
    expires_at = now + backend.settings.upload_lifetime

    def insert(connection: Connection) -> tuple[str, float]:
        connection.lock(f"scenario {scenario['id']}")
        require_absent(connection, scenario, name)
        before = connection.execute(
            "SELECT upload_id, expires_at FROM uploads"
            " WHERE scenario = ? AND name = ? AND length = ? AND sha256 = ? AND idempotency_key = ? AND expires_at > ?",
            (scenario["id"], name, length, sha256, caller.idempotency_key, now),
        ).fetchone()
        if before is not None:
            return before["upload_id"], before["expires_at"]
        connection.execute(
            "INSERT INTO uploads VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, 0)",
            (
                upload_id,
                scenario["id"],
                kind,
                name,
                length,
                sha256,
                int(compressed),
                caller.idempotency_key,
                expires_at,
            ),
        )
        return upload_id, expires_at

    given_id = ""
    try:
        given_id, expires_at = await backend.database.write(insert)
    finally:
        if given_id != upload_id:
            await backend.uploads.remove(upload_id)
    headers = {**_TUS, "Location": f"/uploads/{given_id}", "Upload-Expires": formatdate(expires_at, usegmt=True)}
    return Response(status_code=201, headers=headers)


@router.head(
    "/uploads/{upload_id}",
    response_class=Response,
    summary="Ask how much of an upload is here",
    description=EXTENSION + "`Upload-Offset` is how much; it equals `Upload-Length` when the part is stored.",
    **operation(404, 410, 412, 422, 423, headers=_TUS_HEADER),
)
async def show_upload(request: Request, upload_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Ask how much of an upload is here."""
    async with _upload(request, upload_id, caller, backend) as upload:
        offset: int = upload["length"]
        if not upload["completed"]:
            session = await backend.uploads.get(upload_id)
            offset = await session.offset()
            if offset == upload["length"]:
                await _complete(upload, session, backend)
        headers = {"Upload-Offset": str(offset), "Upload-Length": str(upload["length"]), **_expiry(upload), **_TUS}
        return Response(status_code=200, headers=headers)


@router.patch(
    "/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    summary="Send the next bytes of an upload",
    description=EXTENSION + "What arrived before a connection was cut is kept. 409 where `Upload-Offset` is not "
    "the offset that the backend has: ask with HEAD. 460 where `Upload-Checksum` does not fit: nothing of the body "
    "was kept. 422 where the whole part does not have the SHA-256 that its metadata says: the upload is removed.",
    **operation(
        404,
        408,
        409,
        410,
        412,
        422,
        423,
        CHECKSUM_MISMATCH,
        body={PATCH_TYPE: {"schema": {"type": "string", "format": "binary"}}},
        headers={
            **_TUS_HEADER,
            "Upload-Offset": "Where the body begins; required.",
            "Upload-Checksum": "`sha256 <base64>` or `sha1 <base64>` of the body.",
        },
    ),
)
async def continue_upload(request: Request, upload_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Send the next bytes of an upload."""
    async with _upload(request, upload_id, caller, backend) as upload:
        if request.headers.get("content-type") != PATCH_TYPE:
            raise Problem(415, "patch-type", f"the body must be {PATCH_TYPE}")
        begins_at = _number(request, "upload-offset")
        checksum = _checksum(request)
        if upload["completed"]:
            if begins_at != upload["length"]:
                raise _wrong_offset(upload["length"])
            return _patched(upload, upload["length"])
        session = await backend.uploads.get(upload_id)
        turn, offset = await session.begin()
        try:
            if begins_at != offset:
                raise _wrong_offset(offset)
            offset = await _receive(request, session, turn, upload["length"] - offset, checksum)
        except SupersededError:
            raise Problem(409, "superseded", "a newer request goes on with this upload") from None
        finally:
            await session.end(turn)
        if offset == upload["length"]:
            await _complete(upload, session, backend)
        return _patched(upload, offset)


@router.delete(
    "/uploads/{upload_id}",
    status_code=204,
    response_class=Response,
    summary="Give an upload up",
    description=EXTENSION + "Its bytes are removed. A part that is already stored stays.",
    **operation(404, 410, 412, headers=_TUS_HEADER),
)
async def end_upload(request: Request, upload_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Give an upload up."""
    async with _upload(request, upload_id, caller, backend):
        await _forget(backend, upload_id)
        return Response(status_code=204, headers=_TUS)


async def _receive(
    request: Request, session: UploadSession, turn: int, room: int, checksum: tuple[str, bytes] | None
) -> int:
    """Takes the body of a PATCH and returns the new offset."""
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > room:
        raise _too_much(room)
    running = hashlib.new(checksum[0], usedforsecurity=False) if checksum else None
    clock = asyncio.get_running_loop()
    try:
        async with asyncio.timeout(LONGEST_SILENCE) as silence:
            async for piece in request.stream():
                silence.reschedule(clock.time() + LONGEST_SILENCE)
                if len(piece) > room:
                    raise _too_much(room)
                room -= len(piece)
                if running is not None:
                    running.update(piece)
                await session.append(turn, piece)
    except TimeoutError:
        await session.commit(turn)
        raise Problem(408, "silence", "no byte came for a while; what came is kept") from None
    except ClientDisconnect:
        # Kept even where a checksum was announced: the one over the whole part still has to fit.
        await session.commit(turn)
        raise
    if checksum is not None and running is not None and not hmac.compare_digest(running.digest(), checksum[1]):
        await session.take_back(turn)
        raise Problem(CHECKSUM_MISMATCH, "checksum-mismatch", "the body does not have this checksum")
    return await session.commit(turn)


async def _complete(upload: Row, session: UploadSession, backend: Backend) -> None:
    """Stores the part of an upload whose last byte is on disk.

    Raises:
        Problem: 422 or 413, it can't be stored as it is; the upload is removed.
    """
    upload_id: str = upload["upload_id"]
    sha256 = await session.sha256()
    whole = ReceivedFile(backend.uploads.path(upload_id), upload["length"], sha256)
    kind, limit = PartKind(upload["kind"]), backend.settings.limits.annotations
    try:
        if sha256 != upload["sha256"]:
            raise Problem(422, "part-checksum", "the whole part does not have the sha256 of its metadata; start anew")
        part = await anyio.to_thread.run_sync(
            lambda: keep(
                whole, upload["name"], kind, backend.folders.parts, limit, compressed=bool(upload["compressed"])
            )
        )
    except Problem:
        await _forget(backend, upload_id)
        raise
    now = backend.now()

    def record(connection: Connection) -> bool:
        connection.lock(f"scenario {upload['scenario']}")
        connection.execute("UPDATE uploads SET completed = 1 WHERE upload_id = ?", (upload_id,))
        here = connection.execute(
            "SELECT 1 FROM parts WHERE scenario = ? AND name = ?", (upload["scenario"], upload["name"])
        ).fetchone()
        if here is None:
            record_part(connection, upload["scenario"], part, now, with_events=backend.settings.with_events)
        return here is None

    await keep_and_record(part, record, backend)
    await backend.uploads.remove(upload_id)


@asynccontextmanager
async def _upload(request: Request, upload_id: str, caller: Caller, backend: Backend) -> AsyncIterator[Row]:
    """The row of this vehicle's upload; whatever is refused inside leaves with the headers of tus."""
    try:
        _check_version(request)
        row = await backend.database.read(
            lambda connection: connection.execute(
                "SELECT uploads.* FROM uploads JOIN scenarios ON scenarios.id = uploads.scenario"
                " WHERE upload_id = ? AND fleet_id = ? AND vehicle_id = ?",
                (upload_id, caller.fleet_id, caller.vehicle_id),
            ).fetchone()
        )
        if row is None:
            raise Problem(404, "no-such-upload", "there is no such upload; create a new one")
        if backend.now() > row["expires_at"] and not row["completed"]:
            await backend.uploads.remove(upload_id)
            raise Problem(410, "upload-expired", "this upload has expired; create a new one")
        try:
            yield row
        except FileNotFoundError:
            # A request at the same time completed or ended it between the look at its row and at its file.
            raise Problem(409, "superseded", "another request ended this upload: ask again") from None
        except BusyError:
            raise Problem(423, "upload-busy", "the upload is held for another connection: ask again") from None
    except Problem as problem:
        problem.headers = {**_TUS, **problem.headers}
        raise


async def _forget(backend: Backend, upload_id: str) -> None:
    await backend.database.write(
        lambda connection: connection.execute("DELETE FROM uploads WHERE upload_id = ?", (upload_id,)).rowcount
    )
    await backend.uploads.remove(upload_id)


async def _forget_expired(backend: Backend) -> None:
    now = backend.now()
    expired = await backend.database.read(
        lambda connection: connection.execute("SELECT upload_id FROM uploads WHERE expires_at < ?", (now,)).fetchall()
    )
    for row in expired:
        await _forget(backend, row["upload_id"])


def _check_version(request: Request) -> None:
    if request.headers.get("tus-resumable") != VERSION:
        raise Problem(412, "tus-version", f"Tus-Resumable must be {VERSION}", headers={"Tus-Version": VERSION})


def _number(request: Request, header: str) -> int:
    value = request.headers.get(header, "")
    if not (value.isascii() and value.isdecimal() and len(value) < 19):  # fewer digits than 2**63
        raise Problem(400, "headers", f"{header.title()} must be a whole number of bytes")
    return int(value)


def _metadata(request: Request) -> dict[str, str]:
    try:
        pairs = (pair.strip().partition(" ") for pair in request.headers.get("upload-metadata", "").split(","))
        return {key: base64.b64decode(value, validate=True).decode() for key, _, value in pairs if key}
    except (binascii.Error, UnicodeDecodeError):
        raise Problem(400, "upload-metadata", "the values of Upload-Metadata must be base64 of UTF-8") from None


def _checksum(request: Request) -> tuple[str, bytes] | None:
    header = request.headers.get("upload-checksum")
    if header is None:
        return None
    algorithm, _, encoded = header.partition(" ")
    if algorithm not in ALGORITHMS:
        raise Problem(400, "checksum-algorithm", "Upload-Checksum must be one of " + ", ".join(ALGORITHMS))
    try:
        return algorithm, base64.b64decode(encoded, validate=True)
    except binascii.Error:
        raise Problem(400, "headers", "Upload-Checksum must be an algorithm, a space and base64") from None


def _expiry(upload: Row) -> dict[str, str]:
    return {} if upload["completed"] else {"Upload-Expires": formatdate(upload["expires_at"], usegmt=True)}


def _patched(upload: Row, offset: int) -> Response:
    return Response(status_code=204, headers={**_TUS, "Upload-Offset": str(offset), **_expiry(upload)})


def _wrong_offset(offset: int) -> Problem:
    headers = {"Upload-Offset": str(offset)}
    return Problem(409, "upload-offset", "the upload is at another offset: ask with HEAD", headers=headers)


def _too_much(room: int) -> Problem:
    return Problem(413, "too-large", f"only {room} bytes are left of Upload-Length")
