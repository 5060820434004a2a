"""Driver profiles: opaque here, one writer wins and the other is told, and the forgotten stay forgotten."""

from dataclasses import dataclass
from email.utils import formatdate

from fastapi import APIRouter, Request
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from sentinel_sync.backend.bodies import Profile
from sentinel_sync.backend.callers import Caller, CallerHere, read_json
from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.documentation import EXTENSION, operation
from sentinel_sync.backend.downloads import matches, sign
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.storage import fresh_name

router: APIRouter = APIRouter(tags=["profiles"])
deletion: APIRouter = APIRouter(tags=["profiles"])

_ABOUT_IDS = (
    "The id is the caller's own and may be any text; percent-encode it, slashes too. Profiles belong to the fleet "
    "in `X-Fleet-ID`: every vehicle of it shares them. "
)
_ABOUT_FORGETTING = "410 where the driver has been forgotten: the vehicle removes its own copy and stops. "
#: The version that a forgotten driver's profile has: it can be asked about, and a new profile put in its place.
FORGOTTEN = '"forgotten"'


class ProfileStored(BaseModel):
    """The profile is on disk."""

    driver_id: str
    updated_at: float


@router.get(
    "/drivers/{driver_id:path}/profile",
    response_model=Profile,
    summary="Get a profile",
    description=_ABOUT_IDS
    + _ABOUT_FORGETTING
    + EXTENSION
    + 'The `ETag` is for `If-Match` of the next PUT. `If-None-Match: "forgotten"` asks whether and when the driver was '
    "forgotten: 304 with `Last-Modified` where that is so.",
    **operation(404, 410, headers={"If-None-Match": "The ETag of the copy at hand; 304 where it still holds."}),
)
async def get_profile(request: Request, driver_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Get a profile."""
    digest = _digest(backend, caller, driver_id)
    row = await backend.database.read(lambda connection: _find(connection, caller, driver_id, digest))
    if row is None:
        raise Problem(404, "no-such-profile", "there is no profile of this driver")
    if isinstance(row, _Tombstone):
        if request.headers.get("if-none-match") != FORGOTTEN:
            raise row.problem()
        return Response(status_code=304, headers={"Cache-Control": "no-store", **row.headers()})
    headers = {"Cache-Control": "no-store", **_etag(backend, row["revision"])}
    if backend.settings.extensions.profile_etags and matches(
        request.headers.get("if-none-match"), f'"{row["revision"]}"'
    ):
        return Response(status_code=304, headers=headers)
    answer = {
        "driver_id": driver_id,
        "encrypted_data": row["encrypted_data"],
        "updated_at": row["updated_at"],
    }
    return JSONResponse(answer, headers=headers)


@router.put(
    "/drivers/{driver_id:path}/profile",
    response_model=ProfileStored,
    summary="Store a profile",
    description=_ABOUT_IDS
    + _ABOUT_FORGETTING
    + "201 where there was none. "
    + EXTENSION
    + "412 where the precondition does not hold: another vehicle was faster; fetch, merge, put again. Without a "
    'precondition the last one wins. `If-Match: "forgotten"` begins a new profile of a driver who was forgotten.',
    **operation(
        410,
        412,
        422,
        body=Profile,
        headers={"If-Match": "The ETag that was merged.", "If-None-Match": "`*`: there must be none yet."},
    ),
)
async def put_profile(request: Request, driver_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Store a profile."""
    profile, _ = await read_json(request, Profile, backend.settings.limits.profile_body)
    if profile.driver_id != driver_id:
        wrong = FieldError("driver_id", "must be the id in the address")
        raise Problem(422, "invalid-body", "the body is another driver's", errors=[wrong])
    digest = _digest(backend, caller, driver_id)
    revision = fresh_name()

    def store(connection: Connection) -> bool:
        connection.lock(f"driver {digest.hex()}")
        row = _find(connection, caller, driver_id, digest)
        if isinstance(row, _Tombstone):
            # Only who knows of the forgetting may begin anew: a vehicle that comes back late brings nothing back.
            if request.headers.get("if-match") != FORGOTTEN:
                raise row.problem()
            row = None
        elif backend.settings.extensions.profile_etags:
            _check_preconditions(request, row)
        connection.execute(
            "INSERT INTO profiles VALUES (?, ?, ?, ?, ?) ON CONFLICT (fleet_id, driver_id) DO UPDATE SET"
            " encrypted_data = excluded.encrypted_data, updated_at = excluded.updated_at, revision = excluded.revision",
            (caller.fleet_id, driver_id, profile.encrypted_data, profile.updated_at, revision),
        )
        return row is None

    new = await backend.database.write(store)
    answer = {"driver_id": driver_id, "updated_at": profile.updated_at}
    return JSONResponse(answer, 201 if new else 200, _etag(backend, revision))


@deletion.delete(
    "/drivers/{driver_id:path}/profile",
    status_code=204,
    response_class=Response,
    summary="Forget a driver",
    description=EXTENSION
    + "Removes the profile from the disk, the write-ahead log included, and keeps only a keyed digest of the id and "
    "the time, so that from then on GET and PUT answer 410 and no vehicle that comes back late brings the profile "
    "back. There is no way to undo it; a driver who returns begins a new profile by a PUT with "
    '`If-Match: "forgotten"`. 204 also where there was no profile.',
    **operation(412, headers={"If-Match": "Forget only this version."}),
)
async def forget_driver(request: Request, driver_id: str, caller: CallerHere, backend: BackendHere) -> Response:
    """Forget a driver."""
    digest = _digest(backend, caller, driver_id)
    now = backend.now()

    def forget(connection: Connection) -> None:
        connection.lock(f"driver {digest.hex()}")
        row = _find(connection, caller, driver_id, digest)
        if isinstance(row, _Tombstone):
            return  # again: it stays the first time
        if request.headers.get("if-match"):
            _check_preconditions(request, row)
        # `Last-Modified` counts seconds: a driver who is forgotten twice within one must be seen to be.
        connection.execute(
            "INSERT INTO forgotten_drivers VALUES (?, ?, ?) ON CONFLICT (fleet_id, driver_digest)"
            " DO UPDATE SET forgotten_at = CASE WHEN excluded.forgotten_at > forgotten_drivers.forgotten_at + 1"
            " THEN excluded.forgotten_at ELSE forgotten_drivers.forgotten_at + 1 END",
            (caller.fleet_id, digest, now),
        )
        connection.execute("DELETE FROM profiles WHERE fleet_id = ? AND driver_id = ?", (caller.fleet_id, driver_id))

    await backend.database.write(forget)
    await backend.database.scrub()
    return Response(status_code=204)


def _digest(backend: Backend, caller: Caller, driver_id: str) -> bytes:
    return bytes.fromhex(sign(backend.secret, "driver", caller.fleet_id, driver_id))


@dataclass(frozen=True, slots=True)
class _Tombstone:
    """What is left of a forgotten driver: when that was, seconds since the epoch."""

    forgotten_at: float

    def headers(self) -> dict[str, str]:
        return {"ETag": FORGOTTEN, "Last-Modified": formatdate(self.forgotten_at, usegmt=True)}

    def problem(self) -> Problem:
        return Problem(410, "driver-forgotten", "this driver has been forgotten", headers=self.headers())


def _find(connection: Connection, caller: Caller, driver_id: str, digest: bytes) -> Row | _Tombstone | None:
    row: Row | None = connection.execute(
        "SELECT * FROM profiles WHERE fleet_id = ? AND driver_id = ?", (caller.fleet_id, driver_id)
    ).fetchone()
    if row is not None:
        return row
    forgotten = connection.execute(
        "SELECT forgotten_at FROM forgotten_drivers WHERE fleet_id = ? AND driver_digest = ?", (caller.fleet_id, digest)
    ).fetchone()
    return None if forgotten is None else _Tombstone(forgotten["forgotten_at"])


def _check_preconditions(request: Request, row: Row | None) -> None:
    current = f'"{row["revision"]}"' if row is not None else None
    if_match, if_none_match = request.headers.get("if-match"), request.headers.get("if-none-match")
    stale = if_match is not None and (current is None or not matches(if_match, current))
    taken = current is not None and matches(if_none_match, current)
    if stale or taken:
        headers = {"ETag": current} if current is not None else {}
        raise Problem(412, "profile-changed", "another vehicle was faster: fetch, merge, put again", headers=headers)


def _etag(backend: Backend, revision: str) -> dict[str, str]:
    return {"ETag": f'"{revision}"'} if backend.settings.extensions.profile_etags else {}
