"""A bad network in front of the real backend: weather that changes, and what it does to each request."""

import asyncio
import json
import threading
import zlib
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field, fields, replace
from enum import StrEnum
from random import Random
from typing import Any

import httpx

from sentinel_sync.backend import BackendSettings, create_app
from sentinel_sync.backend.settings import Extensions
from tests.simulation.world import World

#: The mean length of one kind of weather, seconds.
_WEATHER_LASTS = 300.0


class Weather(StrEnum):
    """What the network is like."""

    FINE = "fine"
    LOSSY = "lossy"
    OUTAGE = "outage"
    PORTAL = "portal"
    STORM = "storm"
    REVOKED = "revoked"
    SLOW = "slow"


_ODDS = {
    Weather.FINE: 8,
    Weather.LOSSY: 5,
    Weather.OUTAGE: 3,
    Weather.PORTAL: 3,
    Weather.STORM: 2,
    Weather.REVOKED: 1,
    Weather.SLOW: 1,
}
#: How often the backend comes back with other extensions when the weather changes.
_RESTARTS = 0.15
_PIECE_BYTES, _PIECE_SECONDS = 32 << 10, 0.5
_PORTAL = b"<html><body>Welcome! Log in to use this network.</body></html>"


class BackendThread:
    """The reference backend's application on a loop of its own: each request is one step of the simulation."""

    def __init__(self, settings: BackendSettings) -> None:
        self._settings = settings
        self._app = create_app(settings)
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)

    @contextmanager
    def running(self) -> Iterator[None]:
        """Open its folder, and close it again."""
        self._thread.start()
        self._open()
        try:
            yield
        finally:
            self._close()
            self._loop.call_soon_threadsafe(self._loop.stop)
            self._thread.join()
            self._loop.close()

    def _open(self) -> None:
        self._lifespan = self._app.router.lifespan_context(self._app)
        self._do(self._lifespan.__aenter__())

    def _close(self) -> None:
        self._do(self._lifespan.__aexit__(None, None, None))

    def restart(self, extensions: Extensions) -> None:
        """Go on with the same folder, as a backend that has these extensions."""
        self._close()
        self._app = create_app(replace(self._settings, extensions=extensions))
        self._open()

    def handle(self, method: str, url: str, headers: httpx.Headers, body: bytes) -> tuple[int, httpx.Headers, bytes]:
        """Answer a request."""
        answer: tuple[int, httpx.Headers, bytes] = self._do(self._handle(method, url, headers, body))
        return answer

    async def _handle(
        self, method: str, url: str, headers: httpx.Headers, body: bytes
    ) -> tuple[int, httpx.Headers, bytes]:
        request = httpx.Request(method, url, headers=headers, content=body)
        answer = await httpx.ASGITransport(self._app).handle_async_request(request)
        return answer.status_code, answer.headers, await answer.aread()

    def _do(self, work: Any) -> Any:
        return asyncio.run_coroutine_threadsafe(work, self._loop).result(60.0)


@dataclass(frozen=True, slots=True)
class Sent:
    """A request as it left a vehicle.

    Attributes:
        at: Virtual seconds since the beginning.
        is_metered: Whether that link cost money.
        is_early: Whether the backend had asked this process to come back later than that.
        data: All of it: the address, the headers, the body.
    """

    at: float
    vehicle: str
    is_metered: bool
    is_early: bool
    method: str
    path: str
    data: bytes


@dataclass(slots=True)
class Network:
    """All that goes between vehicles and the backend.

    Attributes:
        requests: Times of all requests, true seconds since the epoch, by vehicle.
        wire: All that vehicles sent.
        listings: When each vehicle got a listing of the models, virtual seconds.
        is_calm: Only fine weather from now on.
    """

    world: World
    backend: BackendThread
    rng: Random
    requests: dict[str, list[float]] = field(default_factory=dict)
    wire: list[Sent] = field(default_factory=list)
    listings: dict[str, list[float]] = field(default_factory=dict)
    happened: set[str] = field(default_factory=set)
    is_calm: bool = False
    _weather: Weather = Weather.FINE
    _until: float = 0.0

    @property
    def weather(self) -> Weather:
        """What it is like now."""
        if self.is_calm:
            return Weather.FINE
        if self.world.elapsed() >= self._until:
            self._weather = self.rng.choices(list(_ODDS), list(_ODDS.values()))[0]
            self._until = self.world.elapsed() + self.rng.expovariate(1.0 / _WEATHER_LASTS)
            self.world.note(f"weather: {self._weather}")
            if self.rng.random() < _RESTARTS:
                has = {it.name: self.rng.random() < 0.7 for it in fields(Extensions)}
                self.backend.restart(Extensions(**has))
                self.world.note(f"the backend comes back with {', '.join(name for name, it in has.items() if it)}")
                self.happened.add("the backend was restarted")
        return self._weather


def ask_for_all(backend: BackendThread) -> None:
    """Have an operator ask for every recording that was announced; then the backend takes whole ones again."""
    backend.restart(Extensions(scenario_catalogue=True))
    key = httpx.Headers({"Authorization": "Bearer key"})
    _, _, listed = backend.handle("GET", "http://backend/scenarios?limit=1000", key, b"")
    for one in json.loads(listed)["scenarios"]:
        url = f"http://backend/scenarios/{one['scenario_id']}/wanted?vehicle_id={one['vehicle_id']}"
        status, _, body = backend.handle("PUT", url, key, b"")
        assert status == 204, body
    backend.restart(Extensions())


class SimulatedLink(httpx.AsyncBaseTransport):
    """One vehicle's connection, as long as its process lives.

    Args:
        vehicle: Whose.
        is_metered: Whether it costs money.
        on_answered: Told once the backend has done the work, and before the vehicle hears of it.

    Attributes:
        is_cut: The process is gone: nothing leaves any more.
    """

    def __init__(self, network: Network, vehicle: str, *, is_metered: bool, on_answered: Callable[[], None]) -> None:
        self._network = network
        self._vehicle = vehicle
        self._is_metered = is_metered
        self._on_answered = on_answered
        self._asked_until = 0.0
        self.is_cut = False

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        network, rng = self._network, self._network.rng
        body = b"".join([piece async for piece in _pieces(request)])
        if self.is_cut:
            raise httpx.ConnectError("the process is gone", request=request)
        weather = network.weather
        network.requests.setdefault(self._vehicle, []).append(network.world.now())
        network.wire.append(
            Sent(
                network.world.elapsed(),
                self._vehicle,
                self._is_metered,
                network.world.elapsed() < self._asked_until,
                request.method,
                request.url.path,
                _as_sent(request, body),
            )
        )
        await asyncio.sleep(rng.uniform(5.0, 40.0) if weather is Weather.SLOW else rng.expovariate(1.0 / 0.08))
        if self.is_cut:
            raise httpx.ReadError("the process is gone", request=request)
        fate = rng.random()
        return self._turned_away(request, weather, fate) or self._passed_on(request, body, weather, fate)

    def _turned_away(self, request: httpx.Request, weather: Weather, fate: float) -> httpx.Response | None:
        """What something in between makes of it, before the backend has seen it."""
        network, rng = self._network, self._network.rng
        if weather is Weather.OUTAGE or (weather is Weather.LOSSY and fate < 0.2):
            raise httpx.ConnectError("no route", request=request)
        if weather is Weather.PORTAL:
            return httpx.Response(200, headers={"Content-Type": "text/html"}, content=_PORTAL, request=request)
        if weather is Weather.REVOKED:
            network.happened.add("answered 401")
            return httpx.Response(401, json={"title": "unknown key"}, request=request)
        if weather is Weather.STORM and fate < 0.7:
            status = rng.choice([429, 500, 502, 503, 504])
            later = {"Retry-After": str(wait := rng.randint(1, 120))} if rng.random() < 0.5 else {}
            if later and status in {429, 503}:
                self._asked_until = max(self._asked_until, network.world.elapsed() + wait)
            network.happened.add(f"answered {status}")
            return httpx.Response(status, headers=later, content=b"busy", request=request)
        return None

    def _passed_on(self, request: httpx.Request, body: bytes, weather: Weather, fate: float) -> httpx.Response:
        """The backend's own answer, as far as it comes back."""
        network, rng = self._network, self._network.rng
        is_cut_off = weather is Weather.LOSSY and request.method == "PATCH" and fate < 0.5
        if is_cut_off:
            body = body[: rng.randint(0, len(body))]
            request.headers["Content-Length"] = str(len(body))
            # Of a whole piece: a connection that breaks has the server keep what came without it.
            request.headers.pop("Upload-Checksum", None)
        status, headers, content = network.backend.handle(request.method, str(request.url), request.headers, body)
        network.happened.add(f"{request.method} answered {status}")
        if request.url.path == "/trips/batch" and status == 200:
            network.happened.add("trips went in a batch")
        if request.method in {"POST", "PUT", "PATCH"}:
            self._on_answered()
        if self.is_cut:
            raise httpx.ReadError("the process is gone", request=request)
        if is_cut_off:
            network.happened.add("a piece was cut off on its way")
            raise httpx.WriteError("reset", request=request)
        if request.url.path == "/models" and not (weather is Weather.LOSSY and fate < 0.6):
            network.listings.setdefault(self._vehicle, []).append(network.world.elapsed())
        if weather is Weather.LOSSY and fate < 0.4:
            network.happened.add("an answer was lost after the work was done")
            raise httpx.ReadError("reset", request=request)
        if weather is Weather.LOSSY and fate > 0.8 and request.url.path.startswith("/model-files/") and content:
            network.happened.add("a file was altered on its way")
            at = rng.randrange(len(content))
            content = content[:at] + bytes([content[at] ^ 0x10]) + content[at + 1 :]
        if weather is Weather.LOSSY and fate < 0.6 and content:
            network.happened.add("an answer was cut off")
            return httpx.Response(status, headers=headers, stream=self._stream(content, len(content) // 2))
        return httpx.Response(status, headers=headers, stream=self._stream(content, len(content)))

    def _stream(self, content: bytes, length: int) -> "_Stream":
        return _Stream(self, content, length)


class _Stream(httpx.AsyncByteStream):
    """An answer's body as it arrives: so much of it, and not after the process is gone."""

    def __init__(self, link: SimulatedLink, content: bytes, length: int) -> None:
        self._link = link
        self._content = content
        self._length = length

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for begin in range(0, self._length, _PIECE_BYTES):
            if begin:
                await asyncio.sleep(_PIECE_SECONDS)
            if self._link.is_cut:
                raise httpx.ReadError("the process is gone")
            yield self._content[begin : min(begin + _PIECE_BYTES, self._length)]
        if self._length < len(self._content):
            raise httpx.RemoteProtocolError("peer closed connection without sending complete message body")


async def _pieces(request: httpx.Request) -> AsyncIterator[bytes]:
    if isinstance(request.stream, httpx.AsyncByteStream):
        async for piece in request.stream:
            yield piece


def _as_sent(request: httpx.Request, body: bytes) -> bytes:
    """The whole request, its body unpacked: what is private stays so in a package as well."""
    heads = b"\r\n".join(name + b": " + value for name, value in request.headers.raw)
    if body.startswith(b"\x1f\x8b"):
        with suppress(zlib.error):
            body = zlib.decompressobj(16 + zlib.MAX_WBITS).decompress(body)
    return b"\r\n".join([str(request.url).encode(), heads, body])
