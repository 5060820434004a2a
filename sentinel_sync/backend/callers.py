"""Who is calling: the headers that the contract asks of every request, and the bodies that come with them."""

import zlib
from dataclasses import dataclass
from typing import Annotated, TypeVar
from uuid import UUID

from fastapi import Depends, Request
from pydantic import ValidationError

from sentinel_sync.backend.bodies import PRIVACY_ERROR, StrictBody
from sentinel_sync.backend.context import backend_of
from sentinel_sync.backend.keys import Grant, Scope
from sentinel_sync.backend.problems import FieldError, Problem, field_errors

LONGEST_HEADER = 255
BEARER = "bearer "
NAMED_FIELDS = 3
"""Of what is wrong with a body, so many are named in its problem's one line: the vehicle shows that line."""

AnyBody = TypeVar("AnyBody", bound=StrictBody)


@dataclass(frozen=True, slots=True)
class Caller:
    """A vehicle with a valid credential, as its headers name it."""

    fleet_id: str
    vehicle_id: str
    request_id: str
    idempotency_key: str
    """Empty unless the request is a POST, where it is required."""
    grant: Grant
    """What its key allows."""


async def authorize(request: Request) -> Grant:
    """Lets only requests pass whose key may look at what has arrived.

    Raises:
        Problem: 401, the key is missing or not accepted; 403, it is a vehicle's.
    """
    grant = await _grant(request, _headers(request))
    if Scope.READ not in grant.scopes:
        raise Problem(403, "may-not-read", "this key may not look at what has arrived")
    return grant


async def authorize_publisher(request: Request) -> None:
    """Lets only requests pass whose key may publish models.

    Raises:
        Problem: 401 for an unknown key, 403 for one that may not publish.
    """
    grant = await _grant(request, _headers(request))
    if Scope.PUBLISH not in grant.scopes:
        raise Problem(403, "may-not-publish", "this key may not publish models")


async def identify(request: Request) -> Caller:
    """Checks the credential, then the other headers, and notes that the vehicle was heard.

    Raises:
        Problem: 401 as above; 403 where the key is another's; 400 where a header that the contract requires is missing
            or malformed.
    """
    backend = backend_of(request)
    headers = _headers(request)
    grant = await _grant(request, headers)
    if Scope.VEHICLE not in grant.scopes and not (request.method == "GET" and Scope.READ in grant.scopes):
        raise Problem(403, "not-a-vehicle", "this key is no vehicle's")
    wrong: list[FieldError] = []
    fleet_id = _text(headers, b"x-fleet-id", "X-Fleet-ID", wrong)
    vehicle_id = _text(headers, b"x-vehicle-id", "X-Vehicle-ID", wrong)
    user_agent = _text(headers, b"user-agent", "User-Agent", wrong)
    request_id = _text(headers, b"x-request-id", "X-Request-ID", wrong)
    if request_id and not _is_uuid(request_id):
        wrong.append(FieldError("X-Request-ID", "must be a UUID"))
    idempotency_key = ""
    if request.method == "POST":
        idempotency_key = _text(headers, b"idempotency-key", "Idempotency-Key", wrong)
    if wrong:
        names = ", ".join(error.field for error in wrong)
        raise Problem(400, "headers", f"missing or malformed headers: {names}", errors=wrong)
    if grant.fleet_id not in {None, fleet_id} or grant.vehicle_id not in {None, vehicle_id}:
        raise Problem(403, "not-yours", "this key is for another fleet or vehicle than the headers name")
    if Scope.VEHICLE in grant.scopes:
        backend.sightings.note(fleet_id, vehicle_id, user_agent, backend.now())
    return Caller(fleet_id, vehicle_id, request_id, idempotency_key, grant)


CallerHere = Annotated[Caller, Depends(identify)]
OperatorHere = Annotated[Grant, Depends(authorize)]


def only_own_fleet(grant: Grant, fleet_id: str | None) -> str | None:
    """The fleet that is looked at: the one that is asked for, or the only one that the key may see.

    Raises:
        Problem: 403, another fleet is asked for.
    """
    if grant.fleet_id is not None and fleet_id not in {None, grant.fleet_id}:
        raise Problem(403, "not-yours", "this key may not see that fleet")
    return grant.fleet_id or fleet_id


def only_own_vehicle(grant: Grant, vehicle_id: str) -> None:
    """Refuses a vehicle's key a look at another vehicle.

    Raises:
        Problem: 403.
    """
    if grant.vehicle_id not in {None, vehicle_id}:
        raise Problem(403, "not-yours", "this key may not see that vehicle")


async def read_body(request: Request, limit: int) -> bytes:
    """The request's body.

    Raises:
        Problem: 413, it is larger than `limit` bytes.
    """
    check_announced_size(request, limit)
    pieces: list[bytes] = []
    size = 0
    async for piece in request.stream():
        size += len(piece)
        if size > limit:
            raise too_large(limit)
        pieces.append(piece)
    return b"".join(pieces)


async def read_json(request: Request, kind: type[AnyBody], limit: int) -> tuple[AnyBody, bytes]:
    """The request's JSON body, checked, and the bytes that it was.

    Raises:
        Problem: 400 no JSON, 413 too large, 415 not announced as JSON, 422 not as the contract says.
    """
    content_type = request.headers.get("content-type", "")
    if content_type.partition(";")[0].strip().lower() != "application/json":
        raise Problem(415, "not-json", "the body must be application/json")
    body = await read_body(request, limit)
    return checked(kind, body), body


def checked(kind: type[AnyBody], body: bytes) -> AnyBody:
    """A JSON body as the contract has it.

    Raises:
        Problem: 400 no JSON, 422 not as the contract says.
    """
    try:
        return kind.model_validate_json(body)
    except ValidationError as error:
        details = error.errors(include_input=False, include_context=False, include_url=False)
    kinds = {detail["type"] for detail in details}
    found = field_errors(details)
    if "json_invalid" in kinds:
        raise Problem(400, "malformed-json", "the body is not JSON", errors=found)
    if PRIVACY_ERROR in kinds:
        raise Problem(422, "privacy-violation", "the body carries what must not leave a vehicle", errors=found)
    named = ", ".join(one.field for one in found[:NAMED_FIELDS]) + (", …" if len(found) > NAMED_FIELDS else "")
    raise Problem(422, "invalid-body", f"these are not as they must be: {named}", errors=found)


async def read_packed(request: Request, limit: int) -> bytes:
    """The request's body, unpacked where it comes as gzip.

    Raises:
        Problem: 413, it is larger than `limit` bytes, packed or not; 415 packed otherwise; 422 damaged.
    """
    encoding = request.headers.get("content-encoding", "identity").strip().lower()
    if encoding not in {"gzip", "identity"}:
        raise Problem(415, "content-encoding", "only gzip is understood", headers={"Accept-Encoding": "gzip"})
    body = await read_body(request, limit)
    if encoding == "identity":
        return body
    unpacker = zlib.decompressobj(16 + zlib.MAX_WBITS)
    try:
        unpacked = unpacker.decompress(body, limit + 1)
    except zlib.error:
        raise Problem(422, "damaged-gzip", "the packed body is damaged") from None
    if len(unpacked) > limit:
        raise too_large(limit)
    if not unpacker.eof:
        raise Problem(422, "damaged-gzip", "the packed body is cut off")
    return unpacked


def check_announced_size(request: Request, limit: int) -> None:
    """Refuses a body before it is read, where its length says enough.

    Raises:
        Problem: 413, `Content-Length` is above `limit` bytes.
    """
    announced = request.headers.get("content-length", "0")
    if announced.isdecimal() and int(announced) > limit:
        raise too_large(limit)


def too_large(limit: int) -> Problem:
    """The refusal of a body above `limit` bytes."""
    return Problem(413, "too-large", f"at most {limit} bytes are accepted here")


def _headers(request: Request) -> dict[bytes, bytes]:
    raw: list[tuple[bytes, bytes]] = request.scope["headers"]
    return dict(raw)


async def _grant(request: Request, headers: dict[bytes, bytes]) -> Grant:
    value = headers.get(b"authorization", b"")
    is_bearer = value[: len(BEARER)].lower() == BEARER.encode()
    grant = await backend_of(request).keys.grant(value[len(BEARER) :].strip()) if is_bearer else None
    if grant is None:
        reason = "this key is not accepted" if value else "a bearer key is needed"
        raise Problem(401, "credential", reason, headers={"WWW-Authenticate": 'Bearer realm="sentinel"'})
    return grant


def _text(headers: dict[bytes, bytes], raw_name: bytes, name: str, wrong: list[FieldError]) -> str:
    raw = headers.get(raw_name, b"")
    try:
        value = raw.decode()
    except UnicodeDecodeError:
        value = ""
    if not value:
        wrong.append(FieldError(name, "is required, as UTF-8"))
    elif len(value) > LONGEST_HEADER or not value.isprintable():
        wrong.append(FieldError(name, f"must be at most {LONGEST_HEADER} printable characters"))
    return value


def _is_uuid(value: str) -> bool:
    try:
        UUID(value)
    except ValueError:
        return False
    return True
