"""The reference backend with one thing wrong: each fault is a few lines between the kit and the backend."""

import gzip
import json
import re
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from typing import Any

import httpx

KEY = "key-of-the-conformance-tests"
Backend = Callable[[httpx.Request], Awaitable[httpx.Response]]
Fault = Callable[[httpx.Request, Backend], Awaitable[httpx.Response]]


class Broken(httpx.AsyncBaseTransport):
    """Puts a fault before a backend."""

    def __init__(self, inner: httpx.AsyncBaseTransport, fault: Fault) -> None:
        self._inner = inner
        self._fault = fault

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        await request.aread()
        return await self._fault(request, self._ask)

    async def _ask(self, request: httpx.Request) -> httpx.Response:
        answer = await self._inner.handle_async_request(request)
        content = await answer.aread()
        # The body is unpacked already.
        dropped = {"content-length", "content-encoding"}
        headers = [(name, value) for name, value in answer.headers.items() if name not in dropped]
        return httpx.Response(answer.status_code, headers=headers, content=content, request=request)


def is_to(request: httpx.Request, method: str, path: str) -> bool:
    return re.fullmatch(method, request.method) is not None and re.fullmatch(path, request.url.path) is not None


def changed(request: httpx.Request, *, body: bytes | None = None, **headers: str | None) -> httpx.Request:
    """The same request with other headers (None: without) and perhaps another body."""
    names = {name.replace("_", "-"): value for name, value in headers.items()}
    kept = [
        (name, value)
        for name, value in request.headers.items()
        if name not in names and not (body is not None and name in {"content-length", "content-encoding"})
    ]
    kept += [(name, value) for name, value in names.items() if value is not None]
    return httpx.Request(request.method, request.url, headers=kept, content=request.content if body is None else body)


def answers(method: str, path: str, status: int, body: Any = None, *, when: str = "") -> Fault:
    """Answers so instead of the backend, which never hears of it."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        if is_to(request, method, path) and when.encode() in request.content:
            return httpx.Response(status, json=body, request=request)
        return await ask(request)

    return fault


def tells(method: str, path: str, change: Callable[[dict[str, Any]], Any], *, status: int | None = None) -> Fault:
    """Changes what a good answer says, or its status."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        answer = await ask(request)
        if not is_to(request, method, path) or not answer.is_success:
            return answer
        body = change(json.loads(answer.content or b"{}"))
        headers = {
            name: value for name, value in answer.headers.items() if name not in {"content-length", "content-type"}
        }
        return httpx.Response(status or answer.status_code, headers=headers, json=body, request=request)

    return fault


def sets(name: str, value: Any) -> Callable[[dict[str, Any]], Any]:
    return lambda body: {**body, name: value}


def each(listing: str, change: Callable[[dict[str, Any]], Any]) -> Callable[[dict[str, Any]], Any]:
    return lambda body: {**body, listing: [change(one) for one in body.get(listing, [])]}


def forwards(method: str, path: str, body: Callable[[bytes], bytes] | None = None, **headers: str | None) -> Fault:
    """Gives the backend another request than came."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        if not is_to(request, method, path):
            return await ask(request)
        return await ask(changed(request, body=None if body is None else body(request.content), **headers))

    return fault


def second(method: str, path: str, status: int) -> Fault:
    """The second request like one before is answered so."""
    seen: set[tuple[str, bytes]] = set()

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        if is_to(request, method, path):
            if (request.url.path, request.content) in seen:
                return httpx.Response(status, json={}, request=request)
            seen.add((request.url.path, request.content))
        return await ask(request)

    return fault


def doubles() -> Fault:
    """Each request is a trip of its own, whatever its id."""
    count = 0

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        nonlocal count
        if not is_to(request, "POST", "/trips") or request.headers.get("authorization") != f"Bearer {KEY}":
            return await ask(request)
        try:
            body = json.loads(request.content)
            sent = body["trip_id"]
        except (ValueError, KeyError):
            return await ask(request)
        count += 1
        body["trip_id"] = sent[:-4] + f"{count:04x}"
        answer = await ask(changed(request, body=json.dumps(body).encode(), idempotency_key=body["trip_id"]))
        text = answer.content.replace(body["trip_id"].encode(), sent.encode())
        return httpx.Response(answer.status_code, content=text, request=request)

    return fault


def refuses(method: str, path: str, status: int, *, header: str) -> Fault:
    """Refuses whatever carries a header."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        if is_to(request, method, path) and header in request.headers:
            return httpx.Response(status, json={}, request=request)
        return await ask(request)

    return fault


def without_header(method: str, path: str, name: str) -> Fault:
    """Leaves a header out of its answers."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        answer = await ask(request)
        if not is_to(request, method, path):
            return answer
        kept = [(one, value) for one, value in answer.headers.items() if one not in {name, "content-length"}]
        return httpx.Response(answer.status_code, headers=kept, content=answer.content, request=request)

    return fault


def turns(method: str, path: str, before: int, after: int) -> Fault:
    """Answers with another status."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        answer = await ask(request)
        if is_to(request, method, path) and answer.status_code == before:
            return httpx.Response(after, json={}, request=request)
        return answer

    return fault


def turns_a_bad_batch() -> Fault:
    """Refuses the whole batch for one trip."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        if is_to(request, "POST", "/trips/batch") and b'"distance":-5' in _unpacked(request):
            return httpx.Response(422, json={}, request=request)
        return await ask(request)

    return fault


def _unpacked(request: httpx.Request) -> bytes:
    return gzip.decompress(request.content) if "content-encoding" in request.headers else request.content


def cuts_files() -> Fault:
    """Sends files without their last byte."""

    async def fault(request: httpx.Request, ask: Backend) -> httpx.Response:
        answer = await ask(request)
        if not is_to(request, "GET", "/model-files/.*") or not answer.is_success:
            return answer
        return httpx.Response(answer.status_code, content=answer.content[:-1], request=request)

    return fault


@dataclass(frozen=True, slots=True)
class Planted:
    """A fault, and the check that has to find it."""

    what: str
    found_by: str
    fault: Fault


_VIDEOS, _UPLOAD = "/scenarios/[^/]+/videos", "/uploads/.*"
_PROFILE, _STATUS = "/drivers/[^/]+/profile", "/vehicles/[^/]+/status"
_OWN = f"Bearer {KEY}"

PLANTED = (
    Planted("health says up", "health", tells("GET", "/health", sets("status", "up"))),
    Planted("health wants the key", "health", refuses("GET", "/health", 401, header="x-vehicle-id")),
    Planted("health is a page", "health", tells("GET", "/health", lambda _: "<html>welcome</html>")),
    Planted(
        "health's time has no offset", "health fields", tells("GET", "/health", sets("time", "2026-11-28T10:00:00"))
    ),
    Planted("health's interval is a text", "health fields", tells("GET", "/health", sets("min_interval", "30"))),
    Planted("any key will do for models", "wrong key", forwards("GET", "/models", authorization=_OWN)),
    Planted("any key will do for trips", "wrong key", forwards("POST", "/trips", authorization=_OWN)),
    Planted("no key is needed", "no key", forwards("GET", "/models", authorization=_OWN)),
    Planted("errors are pages", "no such path", answers("GET", "/no-such-path-.*", 404, "not found")),
    Planted("a trip is answered with another id", "trip", tells("POST", "/trips", sets("trip_id", "trip_other"))),
    Planted("a trip is taken and failed", "trip", tells("POST", "/trips", sets("status", "failed"))),
    Planted("a trip is taken with an error", "trip", tells("POST", "/trips", sets("error", "disk full"))),
    Planted("a trip is accepted, not created", "trip", tells("POST", "/trips", lambda body: body, status=202)),
    Planted("a trip again is a fault of the backend", "trip again", second("POST", "/trips", 500)),
    Planted("a trip again is refused for good", "trip again", second("POST", "/trips", 422)),
    Planted("a trip again counts twice", "trip counted once", doubles()),
    Planted("a trip is lost", "trip counted once", answers("POST", "/trips", 201, {}, when='"start_time"')),
    Planted(
        "a trip needs a driver",
        "trip without driver and places",
        answers("POST", "/trips", 422, {}, when='"driver_id":null'),
    ),
    Planted("anything is a trip", "trip that is none", answers("POST", "/trips", 201, {}, when='"distance":"far"')),
    Planted("a bad trip breaks it", "trip that is none", answers("POST", "/trips", 500, {}, when='"distance":"far"')),
    Planted("homes are taken", "trip with a fine place", answers("POST", "/trips", 201, {}, when="37.774929")),
    Planted(
        "a fine place breaks it", "scenario with a fine place", answers("POST", "/scenarios", 500, {}, when="37.774929")
    ),
    Planted("every driver has a profile", "no profile", answers("GET", _PROFILE, 200, {})),
    Planted("a profile is changed", "profile", tells("GET", _PROFILE, sets("encrypted_data", "gAAAAA=="))),
    Planted(
        "a profile's time is rounded",
        "profile",
        tells("GET", _PROFILE, lambda body: {**body, "updated_at": int(body["updated_at"])}),
    ),
    Planted("the last writer wins", "profile conditions", forwards("PUT", _PROFILE, if_match=None, if_none_match=None)),
    Planted("a batch tells of nothing", "batch", tells("POST", "/trips/batch", sets("results", []))),
    Planted(
        "a batch tells of no status",
        "batch",
        tells("POST", "/trips/batch", each("results", lambda one: {"trip_id": one["trip_id"]})),
    ),
    Planted("a batch is not unpacked", "batch", refuses("POST", "/trips/batch", 415, header="content-encoding")),
    Planted("one bad trip refuses all", "batch with a bad trip", turns_a_bad_batch()),
    Planted("a large batch breaks it", "batch too large", turns("POST", "/trips/batch", 413, 500)),
    Planted("reports are refused", "report", answers("PUT", _STATUS, 404, {})),
    Planted("reports are forgotten", "report", tells("GET", _STATUS, sets("report", None))),
    Planted("reports keep free text", "report that is none", answers("PUT", _STATUS, 200, {}, when="said so")),
    Planted(
        "a score of thousands", "statistics", tells("GET", "/fleet/.*/statistics", sets("average_safety_score", 4000))
    ),
    Planted("a figure is a text", "statistics", tells("GET", "/fleet/.*/statistics", sets("total_alerts", "many"))),
    Planted(
        "rankings of others",
        "rankings",
        tells("GET", "/fleet/.*/rankings", each("rankings", sets("vehicle_id", "other"))),
    ),
    Planted(
        "trends with other dates", "trends", tells("GET", "/fleet/.*/trends", each("trend", sets("date", "28.11.2026")))
    ),
    Planted("a comparison with nobody", "comparison", tells("GET", "/fleet/.*/comparison", sets("vehicles", {}))),
    Planted(
        "alerts without an offset",
        "alerts",
        tells("GET", "/fleet/.*/alerts", each("alerts", sets("timestamp", "2026-11-28T10:00:00"))),
    ),
    Planted(
        "a leader without a name",
        "leaderboard",
        tells("GET", "/fleet/.*/leaderboard", each("leaderboard", sets("driver_id", None))),
    ),
    Planted("a vehicle without a status", "vehicle status", tells("GET", _STATUS, sets("status", None))),
    Planted("nothing is ever unchanged", "not modified", forwards("GET", "/models", if_none_match=None)),
    Planted("checksums in capitals", "models", tells("GET", "/models", each("models", sets("checksum", "A" * 64)))),
    Planted("models without a signature", "models", tells("GET", "/models", each("models", sets("signature", None)))),
    Planted("a rollout in percent", "models", tells("GET", "/models", each("models", sets("rollout", 50)))),
    Planted(
        "the address of another version", "model file", tells("GET", "/models/.*/download", sets("version", "v9.9.9"))
    ),
    Planted("files are cut", "model file", cuts_files()),
    Planted("a range is the whole", "model file goes on", forwards("GET", "/model-files/.*", range=None)),
    Planted("every model exists", "no such model", answers("GET", "/models/no-such-.*", 200, {})),
    Planted("a scenario with another id", "scenario", tells("POST", "/scenarios", sets("scenario_id", "other"))),
    Planted(
        "anything is a scenario",
        "scenario that is none",
        answers("POST", "/scenarios", 500, {}, when='"priority":"normal"}'),
    ),
    Planted("videos are refused", "video", answers("POST", _VIDEOS, 415, {}, when="form-data")),
    Planted(
        "packed annotations are refused",
        "annotations",
        refuses("POST", "/scenarios/.*/annotations", 415, header="content-encoding"),
    ),
    Planted("parts of nothing are taken", "part of nothing", answers("POST", _VIDEOS, 201, {}, when="nothing")),
    Planted("an upload has no address", "tus upload", without_header("POST", _VIDEOS, "location")),
    Planted("an upload tells no offset", "tus upload", without_header("HEAD", _UPLOAD, "upload-offset")),
    Planted("any offset is taken", "tus offset", forwards("PATCH", _UPLOAD, upload_offset="0")),
    Planted("checksums are not looked at", "tus checksum", forwards("PATCH", _UPLOAD, upload_checksum=None)),
    Planted("no upload is ever gone", "tus gone", answers("HEAD", _UPLOAD, 200, {})),
    Planted("another word for on request", "catalogue", tells("POST", "/scenarios", sets("upload", "later"))),
    Planted("no addresses are given", "direct uploads", tells("GET", "/scenarios/.*/uploads", sets("uploads", {}))),
    Planted(
        "other bytes are acknowledged",
        "direct upload of other bytes",
        answers("POST", ".*/complete", 201, {}, when="0" * 64),
    ),
)
