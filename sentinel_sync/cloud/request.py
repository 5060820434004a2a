"""What one request consists of before it is sent: who asks, for what, where, and how long an answer is waited for."""

from collections.abc import AsyncIterable, AsyncIterator, Mapping
from dataclasses import dataclass, field
from http import HTTPMethod
from typing import Any

import httpx

from sentinel_sync import __version__
from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.base.payloads import Payload
from sentinel_sync.base.privacy import loggable_path
from sentinel_sync.cloud.deadlines import Deadline
from sentinel_sync.cloud.exchange import Content, Origin, Outgoing
from sentinel_sync.cloud.http import timeouts
from sentinel_sync.cloud.rules.requests import coarse_query
from sentinel_sync.cloud.traffic_meter import TrafficMeter
from sentinel_sync.settings import CloudSettings

#: An exchange may take so many times `timeout`: a server that drips a byte before each time-out ends here.
DEADLINE_FACTOR = 3.0
#: A health request's whole exchange, seconds: it is small, and an answer that takes longer is no good news.
PROBE_DEADLINE = 15.0
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


@dataclass(frozen=True, slots=True)
class Timeouts:
    """How long an answer is waited for: seconds in all, and for each phase."""

    deadline: float
    phases: httpx.Timeout

    @classmethod
    def of(cls, timeout: float) -> "Timeouts":
        """For any request."""
        return cls(timeout * DEADLINE_FACTOR, timeouts(timeout))

    @classmethod
    def of_a_probe(cls, timeout: float) -> "Timeouts":
        """For the health request."""
        return cls(min(PROBE_DEADLINE, timeout * DEADLINE_FACTOR), timeouts(min(PROBE_DEADLINE, timeout)))


@dataclass(frozen=True, slots=True)
class Request:
    """What is asked of the backend.

    Attributes:
        path: Below `api_url`, ids percent-encoded; or a whole URL, where the backend gave one.
        what: Names it in logs and errors: no id of a person, no query.
        headers: Those of this request alone, spelled as they are here.
        takes: Statuses that the caller judges itself; they move neither the gate nor the retry budget.
        proof: Headers of a 2xx answer that lies in them (see `Outgoing.proof`); None where it is JSON.
        bulk: Whether it travels with the videos.
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
        return cls(method, path, f"{method} {loggable_path(path)}", content, params, own, takes, proof, bulk)

    @property
    def is_conditional(self) -> bool:
        """Whether a 304 is an answer to it."""
        return "If-None-Match" in self.headers

    def body(self, deadline: Deadline, meter: TrafficMeter) -> Content:
        """The body as it goes out; while pieces of a file do, they are counted, and move the deadline along."""
        if isinstance(self.content, Payload):
            return self.content.model_dump_json().encode()
        if isinstance(self.content, AsyncIterable):
            return _moving(self.content, deadline, meter)
        return self.content


class Caller:
    """Who asks: the base URL and the headers of every request ("Every request" in the wire contract).

    Raises:
        ConfigurationError: `api_url` is no URL.
    """

    def __init__(self, settings: CloudSettings) -> None:
        try:
            self.base = httpx.URL(settings.api_url)
        except httpx.InvalidURL as error:
            raise ConfigurationError(f"cloud.api_url is no URL: {error}") from None
        self.home = Origin.of(self.base)
        self._urls: dict[str, httpx.URL] = {}
        self._headers = {
            "User-Agent": f"sentinel-sync/{__version__} (vehicle {settings.vehicle_id})",
            "X-Fleet-ID": settings.fleet_id,
            "X-Vehicle-ID": settings.vehicle_id,
            "Accept": "application/json",
        }

    def headers(self, request_id: str, asked: Request) -> dict[str, str]:
        """The headers of one attempt, but for the credential."""
        # A plain dict: httpx.Headers costs a tenth of a millisecond per request more.
        headers = {**self._headers, "X-Request-ID": request_id}
        if isinstance(asked.content, Payload | bytes):
            headers["Content-Type"] = "application/json"
        headers.update(asked.headers)
        return headers

    def outgoing(self, asked: Request, request_id: str, key: str, content: Content) -> Outgoing:
        """One attempt as it goes out."""
        return Outgoing(
            asked.method,
            self.url(asked),
            asked.what,
            self.headers(request_id, asked),
            # Without a key none is claimed: the backend says 401, and all that follows from it.
            {"Authorization": f"Bearer {key}"} if key else {},
            self.home,
            content,
            asked.proof,
            asked.bulk,
        )

    def url(self, asked: Request) -> httpx.URL:
        """The whole URL, every place in its query coarsened."""
        if not asked.path.startswith("/"):
            return httpx.URL(asked.path)
        url = self._urls.get(asked.path)
        if url is None:
            if len(self._urls) >= _KNOWN_URLS:
                self._urls.clear()
            url = self.base.copy_with(raw_path=self.base.raw_path.rstrip(b"/") + asked.path.encode("ascii"))
            self._urls[asked.path] = url
        return url.copy_merge_params(coarse_query(asked.params)) if asked.params else url


async def _moving(content: AsyncIterable[bytes], deadline: Deadline, meter: TrafficMeter) -> AsyncIterator[bytes]:
    """Yield the pieces of a body, moving the deadline with each: a large file over a thin link takes its time."""
    async for piece in content:
        deadline.extend()
        meter.count(len(piece), 0)
        yield piece
    deadline.extend()
