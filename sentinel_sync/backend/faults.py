"""Failing on purpose: for tests and the demo, and only where `create_app` was given a `FaultPlan`.

Faults strike requests of any kind, health probes included, before credentials are looked at; only the route that
controls them is spared. What a client then sees is what bad networks and bad days make: no connection, no answer
though the work was done, half an answer, nonsense, a hotel's log-in page, or a polite refusal.
"""

import asyncio
import random
import threading
import time
from collections import Counter
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from typing import Annotated, Literal

from fastapi import APIRouter, Depends, Request
from fastapi.responses import HTMLResponse, JSONResponse, Response
from pydantic import Field
from starlette.types import ASGIApp, Message, Receive, Scope, Send

from sentinel_sync.backend.bodies import StrictBody
from sentinel_sync.backend.callers import authorize, read_json
from sentinel_sync.backend.documentation import REFERENCE_ONLY, operation
from sentinel_sync.backend.problems import Problem

CONTROL_PATH = "/_faults"
SEVER = "sentinel.sever"
"""The ASGI extension by which a server lets the application cut a connection: `sever(flush: bool)`."""

_PORTAL = "<!doctype html><html><head><title>Welcome</title></head><body><h1>Accept the terms</h1></body></html>"
_GARBAGE_BYTES = 200


class Fault(StrictBody):
    """One way to fail, and for which requests and how long."""

    kind: Literal["status", "drop", "lose", "delay", "truncate", "garbage", "portal"] = Field(
        description="`status`: answer with `status` and do nothing. `drop`: cut the connection and do nothing. "
        "`lose`: do the work, then cut the connection instead of answering. `delay`: wait first, then go on. "
        "`truncate`: do the work, send half of the answer's body, cut the connection. `garbage`: do the work, answer "
        "with random bytes that claim to be JSON. `portal`: answer 200 with a log-in page in HTML and do nothing."
    )
    status: Annotated[int, Field(ge=300, le=599)] = 503
    retry_after: int | str | None = Field(default=None, description="Seconds or an HTTP date, for `status`.")
    delay: Annotated[float, Field(ge=0)] = Field(default=0.0, description="Seconds, for `delay`.")
    count: Annotated[int, Field(ge=1)] | None = Field(default=None, description="Strikes this often, then never again.")
    seconds: Annotated[float, Field(gt=0)] | None = Field(default=None, description="Ends after this time.")
    fraction: Annotated[float, Field(gt=0, le=1)] = Field(default=1.0, description="The share of requests it strikes.")
    method: str | None = Field(default=None, description="Strikes only this method.")
    path: str = Field(default="", description="Strikes only paths that begin so.")


class FaultList(StrictBody):
    """All faults that are to be in force; an empty list ends them."""

    faults: list[Fault]
    seed: int | None = Field(default=None, description="Starts the random choices anew from this number.")


@dataclass(slots=True)
class _Armed:
    fault: Fault
    left: int | None
    until: float | None


class FaultPlan:
    """The faults that are in force. May be changed at any time, from any thread."""

    def __init__(
        self, faults: Iterable[Fault] = (), *, seed: int = 0, monotonic: Callable[[], float] = time.monotonic
    ) -> None:
        self._lock = threading.Lock()
        self._monotonic = monotonic
        self._random = random.Random(seed)  # noqa: S311  # repeatable, not secret
        self._armed: list[_Armed] = []
        self.strikes: Counter[str] = Counter()
        """How often each kind has struck."""
        self.replace(faults)

    def replace(self, faults: Iterable[Fault], *, seed: int | None = None) -> None:
        """Puts these in force instead of those before; counts and times start now."""
        now = self._monotonic()
        with self._lock:
            if seed is not None:
                self._random.seed(seed)
            self._armed = [
                _Armed(fault, fault.count, None if fault.seconds is None else now + fault.seconds) for fault in faults
            ]

    def clear(self) -> None:
        """Ends all faults."""
        self.replace(())

    def in_force(self) -> list[Fault]:
        """The faults that can still strike, with what is left of their counts."""
        now = self._monotonic()
        with self._lock:
            self._armed = [armed for armed in self._armed if _alive(armed, now)]
            return [armed.fault.model_copy(update={"count": armed.left}) for armed in self._armed]

    def strike(self, method: str, path: str) -> list[Fault]:
        """The faults for one request: any delays, then at most one of another kind."""
        now = self._monotonic()
        struck: list[Fault] = []
        with self._lock:
            for armed in self._armed:
                fault = armed.fault
                concerned = path.startswith(fault.path) and fault.method in {None, method}
                if not concerned or not _alive(armed, now) or self._random.random() >= fault.fraction:
                    continue
                if armed.left is not None:
                    armed.left -= 1
                struck.append(fault)
                self.strikes[fault.kind] += 1
                if fault.kind != "delay":
                    break
        return struck

    def random_bytes(self, size: int) -> bytes:
        """Repeatable nonsense."""
        with self._lock:
            return self._random.randbytes(size)


class FaultInjector:
    """ASGI middleware around the whole application that makes the plan's faults happen."""

    def __init__(self, app: ASGIApp, plan: FaultPlan) -> None:
        self._app = app
        self._plan = plan

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or fails to, as the plan says."""
        if scope["type"] != "http" or scope["path"] == CONTROL_PATH:
            await self._app(scope, receive, send)
            return
        decisive: Fault | None = None
        for fault in self._plan.strike(scope["method"], scope["path"]):
            if fault.kind == "delay":
                await asyncio.sleep(fault.delay)
            else:
                decisive = fault
        if decisive is None:
            await self._app(scope, receive, send)
        else:
            await self._fail(decisive, scope, receive, send)

    async def _fail(self, fault: Fault, scope: Scope, receive: Receive, send: Send) -> None:
        if fault.kind == "status":
            await _refusal(fault).response()(scope, receive, send)
        elif fault.kind == "portal":
            await HTMLResponse(_PORTAL)(scope, receive, send)
        elif fault.kind == "truncate":
            await self._truncate(scope, receive, send)
        elif fault.kind == "garbage":
            await self._garble(scope, receive, send)
        else:
            if fault.kind == "lose":
                await self._app(scope, receive, _discard)
            await _sever(scope, receive, flush=False)

    async def _truncate(self, scope: Scope, receive: Receive, send: Send) -> None:
        cut = False

        async def send_half(message: Message) -> None:
            nonlocal cut
            body: bytes = message.get("body", b"")
            if cut:
                return
            if body:
                cut = True
                message = {**message, "body": body[: len(body) // 2], "more_body": True}
            await send(message)

        await self._app(scope, receive, send_half)
        if cut:
            await _sever(scope, receive, flush=True)

    async def _garble(self, scope: Scope, receive: Receive, send: Send) -> None:
        status = 200

        async def note_status(message: Message) -> None:
            nonlocal status
            status = message.get("status", status)

        await self._app(scope, receive, note_status)
        nonsense = b"\xff" + self._plan.random_bytes(_GARBAGE_BYTES)  # never valid UTF-8, so never JSON
        if status in {204, 304}:
            status = 200
        await Response(nonsense, status, media_type="application/json")(scope, receive, send)


def faults_router(plan: FaultPlan) -> APIRouter:
    """The route by which a test or the demo changes the plan of a backend in another process."""
    router = APIRouter(tags=["faults"], dependencies=[Depends(authorize)])
    limit = 1024 * 1024

    def state() -> Response:
        answer = {"faults": [fault.model_dump(mode="json") for fault in plan.in_force()], "strikes": dict(plan.strikes)}
        return JSONResponse(answer)

    @router.put(
        CONTROL_PATH,
        summary="Replace all faults",
        description=REFERENCE_ONLY,
        response_class=Response,
        **operation(422, caller=False, body=FaultList),
    )
    async def replace_faults(request: Request) -> Response:
        wanted, _ = await read_json(request, FaultList, limit)
        plan.replace(wanted.faults, seed=wanted.seed)
        return state()

    @router.get(
        CONTROL_PATH,
        summary="Show what is in force and how often each kind has struck",
        description=REFERENCE_ONLY,
        response_class=Response,
        **operation(caller=False),
    )
    async def show_faults() -> Response:
        return state()

    return router


def _alive(armed: _Armed, now: float) -> bool:
    return (armed.left is None or armed.left > 0) and (armed.until is None or now < armed.until)


def _refusal(fault: Fault) -> Problem:
    headers = {} if fault.retry_after is None else {"Retry-After": str(fault.retry_after)}
    return Problem(fault.status, "injected", "this failure was asked for", headers=headers)


async def _discard(_: Message) -> None:
    """Takes an answer that nobody will see."""


async def _sever(scope: Scope, receive: Receive, *, flush: bool) -> None:
    """Cuts the connection and waits until the server has noticed.

    Raises:
        ConnectionResetError: The server can't cut connections, e.g. a test's transport without a socket; its
            client gets this error instead.
    """
    sever: Callable[[bool], None] | None = scope.get("extensions", {}).get(SEVER)
    if sever is None:
        raise ConnectionResetError("the connection was cut on purpose")
    sever(flush)
    while (await receive())["type"] != "http.disconnect":
        pass
