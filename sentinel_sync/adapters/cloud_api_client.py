"""`CloudAPIClient`: one attempt at one request, by the wire contract; and the specification's face, which retries.

What an answer means is decided in `rules/answers.py`, whether anything may be sent in `rules/gate.py`.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPMethod
from pathlib import Path
from random import Random, SystemRandom
from typing import Any, Protocol, Self, TypeVar, cast
from urllib.parse import quote
from uuid import uuid4

import httpx
import pydantic_core
from aiolimiter import AsyncLimiter
from pydantic import SecretStr, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception_type, stop_after_attempt

from sentinel_sync import __version__
from sentinel_sync.adapters.credential import Credential, FileCredential, FixedCredential
from sentinel_sync.adapters.exchange import Content, Reply, clean, exchange
from sentinel_sync.adapters.http import build_http_client, timeouts
from sentinel_sync.clock import Clock, SystemClock
from sentinel_sync.errors import (
    CloudError,
    ConfigurationError,
    CredentialError,
    HeldError,
    NotNowError,
    PreconditionError,
    RejectedError,
    UnreachableError,
)
from sentinel_sync.payloads import Health, Payload, Problem
from sentinel_sync.rules.answers import Meaning, http_date, meaning_of, retry_after_seconds
from sentinel_sync.rules.backoff import RetryBudget, full_jitter
from sentinel_sync.rules.gate import Gate, GateState
from sentinel_sync.rules.privacy import coarsen, loggable_path
from sentinel_sync.settings import CloudSettings

logger = logging.getLogger(__name__)

#: A whole exchange may take so many times `timeout`: a server that drips a byte before each time-out ends here.
_DEADLINE_FACTOR = 3.0
#: The burst that the rate limit allows, seconds of its rate: a fixed-window limiter at the backend must not trip.
_BURST = 0.1


class Contact(StrEnum):
    """What an attempt taught about the backend."""

    AUTHORIZED = "authorized"
    REACHABLE = "reachable"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"


Listener = Callable[[Contact, str], None]


class Closable(Protocol):
    """Something that lives as long as its client."""

    async def close(self) -> None:
        """Give back what it holds."""
        ...


Companion = TypeVar("Companion", bound=Closable)


@dataclass(frozen=True, slots=True)
class APIResponse:
    """What the specification's face gives back, whatever the network does.

    Attributes:
        success: Whether the backend did what was asked.
        status_code: The HTTP status; 0 where no usable answer came.
        data: The answer's JSON.
        error: What went wrong, in words; None where nothing did.
        request_id: `X-Request-ID` of the last attempt; None where none was sent.
    """

    success: bool
    status_code: int
    data: Any = None
    error: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """An answered health request.

    Attributes:
        server_time: The backend's wall time as it wrote it (RFC 3339), or None.
        date: Its `Date` header, seconds since the epoch, or None.
        sent: Time since boot when it was sent, seconds.
        received: Time since boot when the answer came, seconds.
        min_interval: Seconds that the backend wants between probes, or None.
    """

    server_time: str | None
    date: float | None
    sent: float
    received: float
    min_interval: float | None


class CloudAPIClient:
    """Talks to one backend for one vehicle. An async context manager; constructing it does no I/O.

    Args:
        api_url: Base URL; https, but for a loopback address.
        api_key: The bearer token.
        vehicle_id: As configured.
        fleet_id: As configured.
        timeout: Seconds for each of: connect (at most 10), read, write.
        max_retries: Further attempts that `get`, `post`, `put` and `delete` make.
        rate_limit: Requests per second; 0 is no limit.
        settings: All of the above and more; then the arguments before it must be left out.
        http: A client to share; it is not closed then.
        credential: Where the key comes from, if not from `api_key`.
        clock: The seam for time.
        rng: The seam for chance.

    Raises:
        ConfigurationError: The arguments cannot be used.
    """

    def __init__(
        self,
        api_url: str | None = None,
        api_key: str | None = None,
        vehicle_id: str | None = None,
        fleet_id: str | None = None,
        *,
        timeout: float | None = None,
        max_retries: int | None = None,
        rate_limit: float | None = None,
        settings: CloudSettings | None = None,
        http: httpx.AsyncClient | None = None,
        credential: Credential | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        given = {
            "api_url": api_url,
            "api_key": None if api_key is None else SecretStr(api_key),
            "vehicle_id": vehicle_id,
            "fleet_id": fleet_id,
            "timeout": timeout,
            "max_retries": max_retries,
            "rate_limit": rate_limit,
        }
        self.settings = settings or _settings({name: value for name, value in given.items() if value is not None})
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._http = http
        self._owns_http = http is None
        self._ready = False
        self._opening = asyncio.Lock()
        self._credential = credential or _credential(self.settings)
        self._base = httpx.URL(self.settings.api_url)
        self._timeout = timeouts(self.settings.timeout)
        self._limiter = _limiter(self.settings.rate_limit)
        self._places = asyncio.Semaphore(self.settings.max_in_flight)
        self._headers = {
            "User-Agent": f"sentinel-sync/{__version__} (vehicle {self.settings.vehicle_id})",
            "X-Fleet-ID": self.settings.fleet_id,
            "X-Vehicle-ID": self.settings.vehicle_id,
            "Accept": "application/json",
        }
        self._budget = RetryBudget()
        self._scopes: set[asyncio.Timeout] = set()
        self._listeners: list[Listener] = []
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._companions: dict[type[Closable], Closable] = {}
        self.gate = Gate(self._rng, credential_retry_interval=self.settings.credential_retry_interval)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"CloudAPIClient({self.settings.api_url!r}, vehicle_id={self.settings.vehicle_id!r})"

    # --- the specification's face: never raises for what the network does, retries with tenacity ---

    async def get(self, endpoint: str, params: Mapping[str, Any] | None = None) -> APIResponse:
        """GET `endpoint`, for example '/fleet/fleet_alpha/statistics'."""
        return await self._with_retries(HTTPMethod.GET, endpoint, params=params)

    async def post(
        self,
        endpoint: str,
        data: Any = None,
        *,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> APIResponse:
        """POST JSON. Coordinates in it are coarsened; every retry carries the same `Idempotency-Key`."""
        key = idempotency_key or str(uuid4())
        return await self._with_retries(HTTPMethod.POST, endpoint, data=data, params=params, idempotency_key=key)

    async def put(self, endpoint: str, data: Any = None, *, params: Mapping[str, Any] | None = None) -> APIResponse:
        """PUT JSON. Coordinates in it are coarsened."""
        return await self._with_retries(HTTPMethod.PUT, endpoint, data=data, params=params)

    async def delete(self, endpoint: str, params: Mapping[str, Any] | None = None) -> APIResponse:
        """DELETE `endpoint`."""
        return await self._with_retries(HTTPMethod.DELETE, endpoint, params=params)

    async def check_connectivity(self) -> bool:
        """Whether the backend answers a health request now."""
        try:
            await self.probe()
        except CloudError as error:
            logger.info("cloud.probe: %s", error)
            return False
        return True

    async def close(self) -> None:
        """Close what this client opened."""
        closers, self._closers, self._companions = self._closers, [], {}
        for close in reversed(closers):
            await close()
        http, self._http = (self._http, None) if self._owns_http else (None, self._http)
        if http is not None:
            self._ready = False
            await http.aclose()

    # --- for our own services: one attempt, an answer or a CloudError ---

    async def request(
        self,
        method: HTTPMethod,
        path: str,
        *,
        content: Payload | Content = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
    ) -> Reply:
        """Make one attempt.

        Args:
            method: The method.
            path: Below `api_url`, with ids percent-encoded (`quote_id`).
            content: A payload, or the bytes of one as the outbox keeps them.
            params: The query.
            headers: Further ones.
            idempotency_key: Required on POST: the same on every attempt at the same work.

        Returns:
            The answer to keep: 2xx, 304, or 409 on a POST.

        Raises:
            UnreachableError: No usable answer; unknown whether it was done.
            NotNowError: The backend asked to come back later; the whole client waits.
            CredentialError: The credential was refused; nothing more is sent until it changes.
            RejectedError: This request can't succeed (PreconditionError: another writer was faster).
            HeldError: Not sent: the gate is closed.
        """
        if method == HTTPMethod.POST and not idempotency_key:
            raise ValueError("a POST needs an idempotency_key: without it a retry could do the work twice")
        async with self._places:
            if self._limiter is not None:
                await self._limiter.acquire()
            self._refuse_if_closed(method, path)
            reply = await self._attempt(method, path, content, params, headers, idempotency_key)
        return self._judge(reply, method, path)

    async def probe(self) -> Probe:
        """Ask `GET /health`; passes a paused or refused gate.

        Raises:
            CloudError: Out of reach: no answer, an error, or a login page.
        """
        passage = self.gate.probe_passage()
        if not passage.open:
            raise HeldError(f"GET /health: not sent: {passage.why}")
        reply = await self._attempt(HTTPMethod.GET, "/health", None, None, None, None)
        meaning = meaning_of(reply.status, HTTPMethod.GET)
        if meaning is Meaning.REFUSED:
            raise self._refused(f"GET /health: {_words(reply)}", reply)
        if meaning is not Meaning.DONE:
            why = f"GET /health: {_words(reply)}"
            if meaning is Meaning.NOT_NOW:
                self.gate.on_not_now(why, self._clock.monotonic(), self._retry_after(reply))
            self._tell(Contact.UNREACHABLE, why)
            raise NotNowError(why, status=reply.status, request_id=reply.request_id)
        try:
            health = Health.model_validate(reply.data)
        except ValidationError:
            why = "GET /health: the answer is not a health object: a login page in between?"
            self._tell(Contact.UNREACHABLE, why)
            raise UnreachableError(why, request_id=reply.request_id) from None
        self.gate.on_reachable()
        self._tell(Contact.REACHABLE, "")
        date = http_date(reply.headers.get("Date"))
        return Probe(health.time, date, reply.sent, reply.received, health.min_interval)

    async def refresh_credential(self) -> bool:
        """Look whether the key was rotated; True where it was (and the gate gives it a try)."""
        changed = await self._credential.refresh()
        if changed:
            self.gate.on_credential_changed()
            logger.info("cloud.credential: a new key is in use")
        return changed

    def subscribe(self, listener: Listener) -> None:
        """Have every attempt's lesson told to `listener(contact, why)`: a plain function that returns at once."""
        self._listeners.append(listener)

    def halt(self, cause: str, why: str) -> None:
        """Send nothing until `resume(cause)`; what is under way is cut off."""
        self.gate.halt(cause, why)
        now = asyncio.get_running_loop().time()
        for scope in self._scopes:
            scope.reschedule(now)

    def resume(self, cause: str) -> None:
        """Lift what `halt(cause)` forbade."""
        self.gate.resume(cause)

    def close_with(self, closer: Callable[[], Awaitable[None]]) -> None:
        """Have `await closer()` done when this client is closed: for what was made for this client alone."""
        self._closers.append(closer)

    def shared(self, kind: type[Companion], make: Callable[[], Companion]) -> Companion:
        """The one `kind` that components built with nothing but this client share; made at first, closed with it."""
        companion = self._companions.get(kind)
        if companion is None:
            companion = self._companions[kind] = make()
            self.close_with(companion.close)
        return cast("Companion", companion)

    # --- how ---

    async def _with_retries(
        self,
        method: HTTPMethod,
        endpoint: str,
        *,
        data: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> APIResponse:
        path = _path(endpoint)
        content = _encode(data)
        retrying = AsyncRetrying(
            retry=retry_if_exception_type((UnreachableError, NotNowError, HeldError)),
            stop=self._gives_up,
            wait=self._wait,
            sleep=self._clock.sleep,
            reraise=True,
        )
        try:
            reply: Reply = await retrying(
                self.request,
                method,
                path,
                content=content,
                params=coarsen(dict(params)) if params else None,
                idempotency_key=idempotency_key,
            )
        except CloudError as error:
            return APIResponse(False, error.status or 0, None, str(error), error.request_id)
        return APIResponse(True, reply.status, reply.data, None, reply.request_id)

    def _gives_up(self, state: RetryCallState) -> bool:
        if stop_after_attempt(self.settings.max_retries + 1)(state) or not self._budget.allows_retry:
            return True
        passage = self.gate.passage(self._clock.monotonic())
        # Waiting for an operator, a driver or an hour's Retry-After is not what a caller wants of one call.
        return not passage.open and (
            passage.state is not GateState.PAUSED or (passage.wait or 0.0) > self.settings.timeout
        )

    def _wait(self, state: RetryCallState) -> float:
        passage = self.gate.passage(self._clock.monotonic())
        return max(full_jitter(state.attempt_number, self._rng), passage.wait or 0.0)

    def _refuse_if_closed(self, method: HTTPMethod, path: str) -> None:
        passage = self.gate.passage(self._clock.monotonic())
        if not passage.open:
            raise HeldError(f"{method} {loggable_path(path)}: not sent: {passage.why}")

    async def _attempt(
        self,
        method: HTTPMethod,
        path: str,
        content: Payload | Content,
        params: Mapping[str, Any] | None,
        headers: Mapping[str, str] | None,
        idempotency_key: str | None,
    ) -> Reply:
        http = self._http if self._http is not None and self._ready else await self._open()
        own = {**self._headers, "X-Request-ID": str(uuid4())}
        if isinstance(content, Payload):
            content = content.model_dump_json().encode()
        if isinstance(content, bytes):
            own["Content-Type"] = "application/json"
        if idempotency_key is not None:
            own["Idempotency-Key"] = idempotency_key
        if headers:
            own.update(headers)
        url = self._base.copy_with(raw_path=(self._base.raw_path.rstrip(b"/") + path.encode("ascii")))
        if params:
            url = url.copy_merge_params(dict(params))
        try:
            async with asyncio.timeout(self.settings.timeout * _DEADLINE_FACTOR) as scope:
                self._scopes.add(scope)
                try:
                    reply = await exchange(
                        http,
                        method,
                        url,
                        headers=own,
                        secret_headers={"Authorization": f"Bearer {self._credential.key()}"},
                        content=content,
                        clock=self._clock,
                        timeout=self._timeout,
                    )
                finally:
                    self._scopes.discard(scope)
        except TimeoutError:
            raise self._cut_off(method, path, own["X-Request-ID"]) from None
        except UnreachableError as error:
            self._budget.on_failure()
            self.gate.on_unreachable(str(error), self._clock.monotonic())
            self._tell(Contact.UNREACHABLE, str(error))
            logger.info("cloud.attempt: %s", error, extra={"request_id": error.request_id})
            raise
        logger.log(
            logging.DEBUG if reply.status < 400 else logging.INFO,
            "cloud.attempt: %s %s answered %d",
            method,
            loggable_path(path),
            reply.status,
            extra={"request_id": reply.request_id, "status": reply.status},
        )
        return reply

    def _cut_off(self, method: HTTPMethod, path: str, request_id: str) -> CloudError:
        what = f"{method} {loggable_path(path)}"
        passage = self.gate.probe_passage()
        if not passage.open:
            return HeldError(f"{what}: cut off: {passage.why}", request_id=request_id)
        why = f"{what}: no whole answer within {self.settings.timeout * _DEADLINE_FACTOR:.0f} s"
        self._budget.on_failure()
        self.gate.on_unreachable(why, self._clock.monotonic())
        self._tell(Contact.UNREACHABLE, why)
        logger.info("cloud.attempt: %s", why, extra={"request_id": request_id})
        return UnreachableError(why, request_id=request_id)

    def _judge(self, reply: Reply, method: HTTPMethod, path: str) -> Reply:
        """Return the answer where the work is done, else raise what it means."""
        what = f"{method} {loggable_path(path)}: {_words(reply)}"
        facts: dict[str, Any] = {"status": reply.status, "request_id": reply.request_id}
        match meaning_of(reply.status, method):
            case Meaning.DONE | Meaning.NOT_MODIFIED:
                self._budget.on_success()
                if reply.from_api:
                    self.gate.on_success()
                    self._tell(Contact.AUTHORIZED, "")
                return reply
            case Meaning.REFUSED if reply.from_api:
                raise self._refused(what, reply)
            case Meaning.NOT_NOW:
                self._budget.on_failure()
                wait = self._retry_after(reply)
                if reply.from_api:
                    self.gate.on_not_now(what, self._clock.monotonic(), wait)
                raise NotNowError(what, retry_after=wait, **facts)
            case Meaning.PRECONDITION:
                self._tell(Contact.AUTHORIZED, "")
                raise PreconditionError(what, **facts)
            case Meaning.REJECTED | Meaning.REFUSED:
                self._budget.on_success()
                if reply.from_api:
                    self.gate.on_success()
                    self._tell(Contact.AUTHORIZED, "")
                raise RejectedError(what, **facts)
            case _:
                self._budget.on_failure()
                self.gate.on_unreachable(what, self._clock.monotonic())
                self._tell(Contact.UNREACHABLE, what)
                raise UnreachableError(f"{what}: not followed", **facts)

    def _refused(self, what: str, reply: Reply) -> CredentialError:
        why = f"{what}: the credential is refused: check cloud.api_key"
        if self.gate.passage(self._clock.monotonic()).state is not GateState.REFUSED:
            logger.error("cloud.refused: %s; nothing but health probes is sent until it changes", what)
        self.gate.on_refused(why, self._clock.monotonic())
        self._tell(Contact.UNAUTHORIZED, why)
        return CredentialError(why, status=reply.status, request_id=reply.request_id)

    def _retry_after(self, reply: Reply) -> float | None:
        header = reply.headers.get("Retry-After")
        theirs = http_date(reply.headers.get("Date"))
        return retry_after_seconds(header, theirs or self._clock.now(), self.settings.max_retry_after)

    def _tell(self, contact: Contact, why: str) -> None:
        for listener in self._listeners:
            listener(contact, why)

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._http is None:
                # Reading certificates blocks.
                self._http = await asyncio.to_thread(build_http_client, self.settings)
            if not self._ready:
                await self._credential.refresh()
                self._ready = True
        return self._http


def quote_id(identifier: str) -> str:
    """Percent-encode an id for use as one segment of a path; `.` and `..` would otherwise climb."""
    quoted = quote(identifier, safe="")
    return quoted.replace(".", "%2E") if set(quoted) == {"."} else quoted


def _words(reply: Reply) -> str:
    """Say what an answer was, with the backend's own reason (RFC 9457) where it gave one."""
    try:
        problem = Problem.model_validate(reply.data)
    except ValidationError:
        return f"answered {reply.status}"
    reason = clean(": ".join(part for part in (problem.title, problem.detail) if part))
    return f"answered {reply.status} ({reason})" if reason else f"answered {reply.status}"


def _path(endpoint: str) -> str:
    if "://" in endpoint or endpoint.startswith("//"):
        raise ValueError("endpoint must be a path below api_url, such as '/health'; the credential goes nowhere else")
    path = endpoint if endpoint.startswith("/") else f"/{endpoint}"
    return quote(path, safe="/%?=&,:;@!$'()*+~-._")


def _encode(data: Any) -> bytes | None:
    if data is None:
        return None
    if isinstance(data, Payload):
        return data.model_dump_json().encode()
    return pydantic_core.to_json(coarsen(data), inf_nan_mode="constants")


def _settings(given: dict[str, Any]) -> CloudSettings:
    try:
        return CloudSettings(**given)
    except ValidationError as error:
        reasons = "; ".join(detail["msg"] for detail in error.errors(include_input=False, include_url=False))
        raise ConfigurationError(f"CloudAPIClient cannot be built: {reasons}") from None


def _credential(settings: CloudSettings) -> Credential:
    path: Path | None = settings.api_key_file
    return FileCredential(path) if path is not None else FixedCredential(settings.api_key.get_secret_value())


def _limiter(rate: float) -> AsyncLimiter | None:
    if rate <= 0.0:
        return None
    burst = max(1.0, rate * _BURST)
    return AsyncLimiter(burst, burst / rate)
