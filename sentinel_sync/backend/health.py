"""Whether the backend is there, the cheapest answer it has, and whether this process can do its work."""

from fastapi import APIRouter
from fastapi.responses import JSONResponse, Response
from pydantic import BaseModel

from sentinel_sync.backend.context import BackendHere
from sentinel_sync.backend.database import Connection
from sentinel_sync.backend.documentation import REFERENCE_ONLY, operation

router: APIRouter = APIRouter(tags=["health"])


class Health(BaseModel):
    """The backend is there."""

    status: str
    time: str
    min_interval: float | None = None
    extensions: list[str] = []


@router.get(
    "/health",
    response_model=Health,
    summary="Ask whether the backend is there",
    description="Needs no credential and no header. `time` is the backend's clock, to measure skew; `min_interval` "
    "the seconds that it wants between probes; `extensions` those optional parts that this backend has.",
    **operation(caller=False, credential=False),
)
async def health(backend: BackendHere) -> Response:
    """Ask whether the backend is there."""
    answer: dict[str, object] = {
        "status": "ok",
        "time": backend.today().isoformat(timespec="milliseconds"),
        "extensions": backend.settings.extensions.listed,
    }
    if backend.settings.health_min_interval is not None:
        answer["min_interval"] = backend.settings.health_min_interval
    return JSONResponse(answer, headers={"Cache-Control": "no-store"})


class Ready(BaseModel):
    """This process reaches its database."""

    status: str


@router.get(
    "/ready",
    response_model=Ready,
    summary="Ask whether this process can do its work",
    description=REFERENCE_ONLY + "For whoever spreads requests over several processes: 503 where the database cannot "
    "be reached.",
    **operation(503, caller=False, credential=False),
)
async def ready(backend: BackendHere) -> Response:
    """Ask whether this process can do its work."""

    def look(connection: Connection) -> object:
        return connection.execute("SELECT 1").fetchone()

    await backend.database.read(look)
    return JSONResponse({"status": "ready"}, headers={"Cache-Control": "no-store"})
