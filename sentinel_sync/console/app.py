"""The console's application: the page, what it shows, and the few things that can be done from it."""

import json
import time
from http import HTTPStatus
from importlib.resources import files

from pydantic import JsonValue
from starlette.applications import Starlette
from starlette.requests import Request
from starlette.responses import JSONResponse, Response, StreamingResponse
from starlette.routing import Route

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.console.feed import Feed
from sentinel_sync.console.views import consents, fleet_picture, last_day, recordings
from sentinel_sync.metrics import CONTENT_TYPE
from sentinel_sync.status import AgentStatus
from sentinel_sync.store.outbox import ItemState, OutboxItem

#: The page's files, by the path that they are asked for under.
_PAGE = {
    "/": ("index.html", "text/html; charset=utf-8"),
    "/console.css": ("console.css", "text/css; charset=utf-8"),
    "/console.js": ("console.js", "text/javascript; charset=utf-8"),
    "/chart.js": ("chart.js", "text/javascript; charset=utf-8"),
    "/icon.svg": ("icon.svg", "image/svg+xml"),
}
#: A technician looks at the first; a backlog of thousands has its count, and is looked through by its text.
_PAGE_ROWS, _MOST_ROWS = 50, 1000
_METRIC, _DAYS = "safety_score", 30


class ConsoleApp:
    """Answers for one agent.

    Args:
        agent: It must be running.
    """

    def __init__(self, agent: SyncAgent) -> None:
        self._agent = agent
        self.feed: Feed = Feed(self._look)
        self.app: Starlette = Starlette(
            routes=[
                *(Route(path, self._page) for path in _PAGE),
                Route("/metrics", self._metrics),
                Route("/api/status", self._status),
                Route("/api/events", self._events),
                Route("/api/outbox", self._outbox),
                Route("/api/outbox/retry", self._retry, methods=["POST"]),
                Route("/api/connectivity", self._connectivity),
                Route("/api/day", self._day),
                Route("/api/sync", self._sync, methods=["POST"]),
                Route("/api/recordings", self._recordings),
                Route("/api/consents", self._consents),
                Route("/api/consent", self._consent, methods=["POST"]),
                Route("/api/models/rollback", self._roll_back, methods=["POST"]),
                Route("/api/fleet", self._fleet),
            ],
            exception_handlers={SentinelSyncError: _failed, ValueError: _misused},
        )

    async def _look(self) -> tuple[str, bool]:
        said = await self._agent.status()
        return said.model_dump_json(
            exclude={"updated_at": True, "disk": True, "connectivity": {"clock_skew"}}
        ), _is_busy(said)

    async def _page(self, request: Request) -> Response:
        name, kind = _PAGE[request.url.path]
        return Response(_page_file(name), media_type=kind, headers={"Cache-Control": "no-cache"})

    async def _status(self, _: Request) -> Response:
        return Response((await self._agent.status()).model_dump_json(), media_type="application/json")

    async def _metrics(self, _: Request) -> Response:
        return Response(await self._agent.metrics(), headers={"Content-Type": CONTENT_TYPE})

    async def _events(self, _: Request) -> Response:
        return StreamingResponse(self.feed.watch(), media_type="text/event-stream")

    async def _outbox(self, request: Request) -> Response:
        text, limit = _wanted(request)
        shown: dict[str, JsonValue] = {}
        for state in (ItemState.SET_ASIDE, ItemState.WAITING):
            items, total = await self._agent.store.outbox.search(state, text, limit)
            shown[str(state)] = {"rows": [_shown(item) for item in items], "total": total}
        return JSONResponse(shown)

    async def _day(self, _: Request) -> Response:
        return JSONResponse(await last_day(self._agent, time.time()))

    async def _retry(self, request: Request) -> Response:
        key = (await _words(request)).get("key")
        if not isinstance(key, str):
            raise ValueError('name the item: {"key": …}')
        retried = await self._agent.store.outbox.retry([key])
        self._agent.wake()
        self.feed.hurry()
        return JSONResponse({"retried": retried}, HTTPStatus.OK if retried else HTTPStatus.NOT_FOUND)

    async def _connectivity(self, _: Request) -> Response:
        history = self._agent.connectivity.history()
        return JSONResponse([{"at": turn.at, "status": turn.status, "message": turn.message} for turn in history])

    async def _sync(self, _: Request) -> Response:
        self._agent.wake()
        online = await self._agent.connectivity.probe_now()
        self.feed.hurry()
        return JSONResponse({"online": online})

    async def _consent(self, request: Request) -> Response:
        granted = (await _words(request)).get("granted")
        if not isinstance(granted, bool):
            raise ValueError('say {"granted": true} or false')
        await self._agent.scenarios.set_consent(granted)
        self.feed.hurry()
        return JSONResponse({"granted": granted})

    async def _recordings(self, request: Request) -> Response:
        return JSONResponse(await recordings(self._agent.scenarios, *_wanted(request)))

    async def _consents(self, _: Request) -> Response:
        return JSONResponse(await consents(self._agent.scenarios))

    async def _roll_back(self, request: Request) -> Response:
        name = (await _words(request)).get("name")
        if not isinstance(name, str):
            raise ValueError('name the model: {"name": …}')
        result = await self._agent.models.rollback(name)
        self.feed.hurry()
        if not result:
            return JSONResponse({"error": result.reason}, HTTPStatus.CONFLICT)
        return JSONResponse({"name": name, "version": result.version})

    async def _fleet(self, request: Request) -> Response:
        days = request.query_params.get("days", str(_DAYS))
        if not days.isdecimal():
            raise ValueError("days must be a whole number")
        metric = request.query_params.get("metric", _METRIC)
        return JSONResponse(await fleet_picture(self._agent.fleet, metric, int(days)))


def _page_file(name: str) -> bytes:
    return files("sentinel_sync.console").joinpath("static", name).read_bytes()


def _is_busy(said: AgentStatus) -> bool:
    return said.outbox.sending > 0 or bool(said.transfers)


def _shown(item: OutboxItem) -> dict[str, JsonValue]:
    """An item without its body: that is the fleet's business."""
    return {
        "key": item.key,
        "kind": item.kind,
        "attempts": item.attempts,
        "created_at": item.created_at,
        "due_at": item.due_at,
        "reason": item.reason,
    }


def _wanted(request: Request) -> tuple[str, int]:
    """The text that is looked for, and how many rows a page of a long list shows."""
    limit = request.query_params.get("limit", str(_PAGE_ROWS))
    if not limit.isdecimal() or not 0 < int(limit) <= _MOST_ROWS:
        raise ValueError(f"limit must be a whole number up to {_MOST_ROWS}")
    return request.query_params.get("find", ""), int(limit)


async def _words(request: Request) -> dict[str, JsonValue]:
    try:
        words = json.loads(await request.body())
    except (ValueError, RecursionError):
        raise ValueError("an action is an object of JSON") from None
    if not isinstance(words, dict):
        raise ValueError("an action is an object of JSON")
    return words


async def _failed(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.SERVICE_UNAVAILABLE)


async def _misused(_: Request, error: Exception) -> Response:
    return JSONResponse({"error": str(error)}, HTTPStatus.BAD_REQUEST)
