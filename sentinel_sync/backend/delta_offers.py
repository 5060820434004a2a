"""Extension: deltas are offered with a model's address, and sent from addresses that work for a while."""

from sqlite3 import Row
from typing import Any

from fastapi import APIRouter, Request
from fastapi.responses import Response
from pydantic import BaseModel, Field

from sentinel_sync.backend.context import Backend, BackendHere
from sentinel_sync.backend.deltas import FORMAT
from sentinel_sync.backend.documentation import EXTENSION, operation
from sentinel_sync.backend.downloads import check_signature, send_file, sign
from sentinel_sync.backend.problems import Problem

router: APIRouter = APIRouter(tags=["models"])


class DeltaOffer(BaseModel):
    """A shorter way to the file for a vehicle that has another version of it; docs/deltas.md has the format."""

    download_url: str = Field(description="As the model's: absolute or relative, may expire, may be on another host.")
    format: str = Field(description="`zstd-blocks`; a vehicle that does not know it takes the whole file.")
    size: int = Field(description="Bytes of the delta.")
    checksum: str = Field(description="SHA-256 in lower-case hex of the delta.")


@router.get(
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
@router.head("/model-deltas/{old_checksum}/{new_checksum}", include_in_schema=False)
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
    models = backend.folders.models
    delta = await backend.deltas.between(models / old["file"], has, models / row["file"], row["checksum"])
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
