"""A request before it is sent: what is asked of whom, when it may go (`ConcurrencyLimit`), which bytes are counted."""

import asyncio
from collections.abc import AsyncIterable, AsyncIterator, Callable, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPMethod
from typing import Any, Protocol, runtime_checkable
from urllib.parse import quote

import pydantic_core
from aiolimiter import AsyncLimiter

from sentinel_sync import __version__
from sentinel_sync.base.errors import ConfigurationError, HeldError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.payloads import Payload
from sentinel_sync.base.privacy import coarsen, loggable_path
from sentinel_sync.settings import CloudSettings

#: Bulk transfers at once. They have places of their own: else a video would hold a trip's for as long as it takes.
BULK_PLACES = 2
#: The burst that the rate limit allows, seconds of its rate: a fixed-window limiter at the backend must not trip.
_BURST = 0.1
#: What one header line has besides name and value: a colon, a space, a line's end.
_PER_LINE = 4
#: What a request's or a status line has besides method, target or reason: two spaces, the version, the line's end.
_PER_START = 12
_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535
#: So many URLs are kept parsed: those that are asked for again and again are few.
_KNOWN_URLS = 64
#: Headers that are set or looked for here, as they are spelled here: a caller's own spelling replaces, not doubles.
_SPELLING = {
    name.lower(): name
    for name in (
        "Accept",
        "Accept-Encoding",
        "Content-Type",
        "Idempotency-Key",
        "If-None-Match",
        "User-Agent",
        "X-Fleet-ID",
        "X-Request-ID",
        "X-Vehicle-ID",
    )
}

#: Methods that only read.
_READING = frozenset({HTTPMethod.GET, HTTPMethod.HEAD, HTTPMethod.OPTIONS})


@runtime_checkable
class FileContent(Protocol):
    """A file, or a piece of one, as a request's body."""

    @property
    def has_begun(self) -> bool:
        """Whether some of it has been handed to the network."""
        ...


Content = bytes | AsyncIterable[bytes] | None


@dataclass(frozen=True, slots=True)
class Origin:
    """Scheme, host and port: what a credential belongs to (RFC 6454)."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, url: httpx.URL) -> "Origin":
        """Origin of a URL, with the scheme's own port where none is given."""
        return cls(url.scheme, url.host.lower(), url.port or _DEFAULT_PORTS.get(url.scheme))


class Deadline:
    """Ends one piece of work when it takes too long, or when all is cut off."""

    def __init__(self, scope: asyncio.Timeout, seconds: float | None) -> None:
        self._scope = scope
        self._seconds = seconds
        self.cut_off: str | None = None

    def extend(self) -> None:
        """Count from now: there was progress."""
        if self._seconds is not None and self.cut_off is None and not self._scope.expired():
            self._scope.reschedule(asyncio.get_running_loop().time() + self._seconds)

    def cut(self, why: str) -> None:
        """End it now."""
        # A scope that has run out, and whose work is on its way out, cannot be told again.
        if self.cut_off is None and not self._scope.expired():
            self.cut_off = why
            self._scope.reschedule(asyncio.get_running_loop().time())


class ActiveRequests:
    """The deadlines of all that is under way."""

    def __init__(self) -> None:
        self._deadlines: set[Deadline] = set()

    @asynccontextmanager
    async def within(self, seconds: float | None, what: str) -> AsyncIterator[Deadline]:
        """Do something within so many seconds (None: however long it takes), or until all is cut off.

        Raises:
            TimeoutError: It took longer.
            HeldError: It was cut off; `what` says what.
        """
        deadline: Deadline | None = None
        try:
            async with asyncio.timeout(seconds) as scope:
                deadline = Deadline(scope, seconds)
                self._deadlines.add(deadline)
                try:
                    yield deadline
                finally:
                    self._deadlines.discard(deadline)
        except TimeoutError:
            if deadline is not None and deadline.cut_off is not None:
                raise HeldError(f"{what}: cut off: {deadline.cut_off}") from None
            raise

    def cut(self, why: str) -> None:
        """End all that is under way, now."""
        for deadline in self._deadlines:
            deadline.cut(why)


class ConcurrencyLimit:
    """Lets requests go one after the other.

    Args:
        places: So many in flight at once, bulk transfers apart.
        rate: So many per second; 0 is no limit.
        in_flight: Who waits is let go when all is cut off.
        bulk: So many bulk transfers at once, but two at least.
    """

    def __init__(self, places: int, rate: float, in_flight: ActiveRequests, *, bulk: int = BULK_PLACES) -> None:
        self._quick = asyncio.Semaphore(places)
        self._bulk = asyncio.Semaphore(max(BULK_PLACES, bulk))
        self._limiter = _limiter(rate)
        self._in_flight = in_flight

    @asynccontextmanager
    async def turn(self, what: str, *, bulk: bool = False) -> AsyncIterator[None]:
        """Wait for a place and for the rate limit, and hold the place.

        Raises:
            HeldError: All was cut off meanwhile.
        """
        places = self._bulk if bulk else self._quick
        if places.locked():
            async with self._in_flight.within(None, what):
                await places.acquire()
        else:
            await places.acquire()
        try:
            if self._limiter is not None:
                async with self._in_flight.within(None, what):
                    await self._limiter.acquire()
            yield
        finally:
            places.release()


def _limiter(rate: float) -> AsyncLimiter | None:
    if rate <= 0.0:
        return None
    burst = max(1.0, rate * _BURST)
    return AsyncLimiter(burst, burst / rate)


TrafficListener = Callable[[int, int], None]


class TrafficMeter:
    """Tells its listeners of traffic: heads as they are written in HTTP/1.1, bodies as they travel.

    What TLS, TCP and IP put around them is not seen here: some 3 % for a video, more for small requests.
    """

    def __init__(self) -> None:
        self._listeners: list[TrafficListener] = []

    def follow(self, listener: TrafficListener) -> None:
        """Have `listener(sent_bytes, received_bytes)` called as traffic happens: a plain function, quick."""
        self._listeners.append(listener)

    def count(self, sent_bytes: int, received_bytes: int) -> None:
        """Tell of traffic."""
        for listener in self._listeners:
            listener(sent_bytes, received_bytes)

    def count_request(self, request: httpx.Request, body_bytes: int) -> None:
        """Tell of a request's head, and of its body where that went in one piece."""
        if self._listeners:
            start = len(request.method) + len(request.url.raw_path) + _PER_START
            self.count(start + _lines(request.headers) + body_bytes, 0)

    def count_answer(self, response: httpx.Response, body_bytes: int) -> None:
        """Tell of an answer's head, and of what was read of its body."""
        if self._listeners:
            self.count(0, len(response.reason_phrase) + _PER_START + _lines(response.headers) + body_bytes)


class CountedStream(httpx.AsyncByteStream):
    """A body that is counted while it is read: of a large file somebody wants to know before its end."""

    def __init__(self, stream: httpx.AsyncByteStream, meter: TrafficMeter) -> None:
        self._stream = stream
        self._meter = meter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pass the pieces on."""
        async for piece in self._stream:
            self._meter.count(0, len(piece))
            yield piece

    async def aclose(self) -> None:
        """Close what is below."""
        await self._stream.aclose()


def _lines(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + _PER_LINE for name, value in headers.raw) + 2


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the backend.

    Attributes:
        path: Below `api_url`, ids percent-encoded; or a whole URL, where the backend gave one.
        what: Names it in logs and errors: no id of a person, no query.
        headers: Those of this request alone, spelled as they are here.
        takes: Statuses that the caller judges itself; they move neither the gate nor the retry budget.
        proof: Headers that a 2xx answer has, where the answer lies in them: then its body is no JSON. None: it is JSON.
        bulk: Whether it travels with the videos.
        names: What the answer names the work by, where it does: `{"trip_id": …}`. Another name is no acknowledgement.
        is_anonymous: Whether it goes without the credential and the vehicle's name, also to the backend's own origin.
    """

    method: HTTPMethod
    path: str
    what: str
    content: Payload | Content = None
    params: Mapping[str, Any] | None = None
    headers: Mapping[str, str] = field(default_factory=dict)
    takes: frozenset[int] = frozenset()
    proof: tuple[str, ...] | None = None
    bulk: bool = False
    names: Mapping[str, str] = field(default_factory=dict)
    is_anonymous: bool = False

    @classmethod
    def of(
        cls,
        method: HTTPMethod,
        path: str,
        *,
        content: Payload | Content = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        takes: frozenset[int] = frozenset(),
        proof: tuple[str, ...] | None = None,
        bulk: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> "Request":
        """Take what a caller gave.

        Raises:
            ValueError: A POST without a key.
        """
        if method == HTTPMethod.POST and not idempotency_key:
            raise ValueError("a POST needs an idempotency_key: without it a retry could do the work twice")
        own = {_SPELLING.get(name.lower(), name): value for name, value in (headers or {}).items()}
        if idempotency_key is not None:
            own["Idempotency-Key"] = idempotency_key
        return cls(
            method, path, f"{method} {loggable_path(path)}", content, params, own, takes, proof, bulk, names or {}
        )

    @property
    def is_conditional(self) -> bool:
        """Whether a 304 is an answer to it."""
        return "If-None-Match" in self.headers

    @property
    def has_begun(self) -> bool:
        """Whether a part of a file has been handed to the network."""
        return isinstance(self.content, FileContent) and self.content.has_begun

    @property
    def is_work(self) -> bool:
        """Whether a 2xx to it is an acknowledgement that something was done, in the body and not in the headers."""
        return self.proof is None and self.changes_something

    @property
    def changes_something(self) -> bool:
        """Whether it does not only read."""
        return self.method not in _READING

    @property
    def is_repeatable(self) -> bool:
        """Whether it can be sent once more as it is: an iterator comes once, and of a PATCH some may be there now."""
        return not isinstance(self.content, AsyncIterator) and self.method is not HTTPMethod.PATCH

    def body(self, deadline: Deadline, meter: TrafficMeter) -> Content:
        """The body as it goes out; while pieces of a file do, they are counted, and move the deadline along."""
        if isinstance(self.content, Payload):
            return self.content.model_dump_json().encode()
        if isinstance(self.content, AsyncIterable):
            return _extending(self.content, deadline, meter)
        return self.content


class RequestHeaders:
    """Where requests go, and the headers that each has ("Every request" in the wire contract).

    Raises:
        ConfigurationError: `api_url` is no URL.
    """

    def __init__(self, settings: CloudSettings) -> None:
        try:
            self.base: httpx.URL = httpx.URL(settings.api_url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"cloud.api_url is no URL: {error}") from None
        self.origin: Origin = Origin.of(self.base)
        self._urls: dict[str, httpx.URL] = {}
        self._anybody = {"User-Agent": f"sentinel-sync/{__version__}", "Accept": "application/json"}
        self._backend = {
            **self._anybody,
            "User-Agent": f"sentinel-sync/{__version__} (vehicle {settings.vehicle_id})",
            "X-Fleet-ID": settings.fleet_id,
            "X-Vehicle-ID": settings.vehicle_id,
        }

    def is_own(self, url: httpx.URL) -> bool:
        """Whether a URL is of the origin of `api_url`."""
        return Origin.of(url) == self.origin

    def of(self, request: Request, request_id: str, key: str, *, from_api: bool) -> dict[str, str]:
        """The headers of one attempt.

        Args:
            request_id: Of the attempt.
            key: The credential; without one none is claimed: the backend says 401, and all that follows from it.
            from_api: Whether it goes to the origin of `api_url`: nobody else learns the credential or the vehicle.
        """
        # A plain dict: httpx.Headers costs a tenth of a millisecond per request more.
        is_known = from_api and not request.is_anonymous
        headers = {**(self._backend if is_known else self._anybody), "X-Request-ID": request_id}
        if is_known and key:
            headers["Authorization"] = f"Bearer {key}"
        if isinstance(request.content, Payload | bytes):
            headers["Content-Type"] = "application/json"
        headers.update(request.headers)
        return headers

    def url(self, request: Request) -> httpx.URL:
        """The whole URL, every place in its query coarsened."""
        if not request.path.startswith("/"):
            return httpx.URL(request.path)
        url = self._urls.get(request.path)
        if url is None:
            if len(self._urls) >= _KNOWN_URLS:
                self._urls.clear()
            url = self.base.copy_with(raw_path=self.base.raw_path.rstrip(b"/") + request.path.encode("ascii"))
            self._urls[request.path] = url
        return url.copy_merge_params(coarse_query(request.params)) if request.params else url


async def _extending(content: AsyncIterable[bytes], deadline: Deadline, meter: TrafficMeter) -> AsyncIterator[bytes]:
    """Yield the pieces of a body, moving the deadline with each: a large file over a thin link takes its time."""
    async for piece in content:
        deadline.extend()
        meter.count(len(piece), 0)
        yield piece
    deadline.extend()


def followed(location: str, base: httpx.URL) -> httpx.URL | None:
    """The whole URL that a location from outside names, as seen from `base`; None where it is none of http(s)."""
    try:
        # Without user and password: they would become an Authorization of somebody else's making.
        url = base.join(location).copy_with(userinfo=b"", fragment=None)
    except (httpx.InvalidURL, ValueError):
        return None
    return url if url.scheme in _DEFAULT_PORTS and url.host else None


def loses_tls(base: httpx.URL, url: httpx.URL) -> bool:
    """Whether what was asked under TLS would go on without it."""
    return base.scheme == "https" and url.scheme == "http"


def address_in(location: str, asked: httpx.URL) -> str | None:
    """The whole URL that a `Location` names (RFC 9110 section 10.2.2); None where nothing may be sent there.

    Nor is the address that was asked one of something new: an empty `Location` means it.

    A backend behind a proxy that ends TLS often does not know that it is asked by https, and says http: on the host and
    port that was asked, https is meant. Anywhere else it is refused.

    Args:
        location: Absolute, or relative to `asked`.
        asked: The URL of the request that was answered.
    """
    url = followed(location, asked)
    if url is None or (url.port or 0) > _LAST_PORT or url == asked:
        return None
    if loses_tls(asked, url):
        same_port = url.port in {None, _DEFAULT_PORTS["http"], asked.port or _DEFAULT_PORTS["https"]}
        if url.host != asked.host or not same_port:
            return None
        url = url.copy_with(scheme="https", port=asked.port)
    return str(url)


def quote_id(identifier: str) -> str:
    """Percent-encode an id for use as one segment of a path; `.` and `..` would otherwise climb."""
    quoted = quote(identifier, safe="")
    return quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted


def coarse_query(params: Mapping[str, Any]) -> dict[str, Any]:
    """Return a query's parameters coarsened, and without those that are None."""
    coarse: dict[str, Any] = coarsen(pydantic_core.to_jsonable_python(params))
    return {name: value for name, value in coarse.items() if value is not None}
