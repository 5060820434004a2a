"""`CloudAPIClient`: the specification's face. It never raises for what the network does, and retries with tenacity.

Below that face are single attempts, for our own services: their retry is the outbox's. `response_policy.py` says
what an answer does, `rules/answers.py` what it means and whether anything may be sent.
"""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from http import HTTPMethod
from random import Random, SystemRandom
from typing import Any, Protocol, Self, TypedDict, TypeVar, Unpack, cast
from uuid import uuid4

from pydantic import SecretStr

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import CloudError, CutError, HeldError, UnacknowledgedError, UnreachableError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.payloads import Payload
from sentinel_sync.base.privacy import mute
from sentinel_sync.cloud.http import Certificates, Timeouts, build_http_client, credential_of, warm_up
from sentinel_sync.cloud.request import (
    ActiveRequests,
    ConcurrencyLimit,
    Content,
    Request,
    RequestHeaders,
    TrafficListener,
    TrafficMeter,
    address_in,
    quote_id,
)
from sentinel_sync.cloud.response import Download, ElsewhereError, Exchange, Response
from sentinel_sync.cloud.response_policy import (
    APIResponse,
    Attempt,
    AttemptOutcome,
    CallRetries,
    Listener,
    Probe,
    ResponsePolicy,
)
from sentinel_sync.cloud.rules.answers import AddressGuard, Gate, GateState, RetryBudget
from sentinel_sync.settings import CloudSettings, settings_from

__all__ = ["APIResponse", "AttemptOutcome", "CloudAPIClient", "Listener", "Probe", "Response", "quote_id"]

logger: logging.Logger = logging.getLogger(__name__)


class Closable(Protocol):
    """Something that lives as long as its client."""

    async def close(self) -> None:
        """Give back what it holds."""
        ...


Companion = TypeVar("Companion", bound=Closable)


class ClientOptions(TypedDict, total=False):
    """Settings that the constructor takes by themselves.

    Attributes:
        timeout: Seconds for each of: connect (at most 10), read, write.
        max_retries: Further attempts that `get`, `post`, `put` and `delete` make.
        rate_limit: Requests per second; 0 is no limit.
    """

    timeout: float
    max_retries: int
    rate_limit: float


class CloudAPIClient:
    """Talks to one backend for one vehicle. An async context manager; constructing it does no I/O.

    Args:
        api_url: Base URL; https, but for a loopback address.
        api_key: The bearer token.
        vehicle_id: As configured.
        fleet_id: As configured.
        settings: All settings; then the other arguments that are settings must be left out.
        http: A client to share, used as it is: with the connections that it makes, unmarked; it is not closed then.
        options: `timeout`, `max_retries`, `rate_limit`, as in the settings.

    Attributes:
        settings: What it was made of.
        gate: Whether anything may be sent now.

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
        settings: CloudSettings | None = None,
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        **options: Unpack[ClientOptions],
    ) -> None:
        arguments = {
            "api_url": api_url,
            "api_key": None if api_key is None else SecretStr(api_key),
            "vehicle_id": vehicle_id,
            "fleet_id": fleet_id,
            **options,
        }
        self.settings = settings = settings_from(settings, arguments)
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._http = http
        self._owns_http = http is None
        self._is_ready = False
        self._opening = asyncio.Lock()
        self._credential = credential_of(settings)
        self._certificates = Certificates(settings)
        self._key = ""
        self._headers = RequestHeaders(settings)
        self._guard = AddressGuard(self._headers.base.host, is_ours=http is None and settings.proxy is None)
        self._in_flight = ActiveRequests()
        self._limit = ConcurrencyLimit(
            settings.max_in_flight, settings.rate_limit, self._in_flight, bulk=settings.max_parallel_parts
        )
        self._timeouts = Timeouts.of(settings.timeout)
        self._probe_timeouts = Timeouts.of_a_probe(settings.timeout)
        self._meter = TrafficMeter()
        budget = RetryBudget()
        self.gate: Gate = Gate(
            self._rng,
            credential_retry_interval=settings.credential_retry_interval,
            reconnect_spread=settings.reconnect_spread,
        )
        self._policy = ResponsePolicy(self.gate, budget, self._clock, settings.max_retry_after)
        self._retries = CallRetries(self.gate, budget, self._clock, self._rng, settings.max_retries)
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._companions: dict[type[Closable], Closable] = {}
        mute()

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"CloudAPIClient({self.settings.api_url!r}, vehicle_id={self.settings.vehicle_id!r})"

    async def get(self, endpoint: str, params: Mapping[str, Any] | None = None) -> APIResponse:
        """GET `endpoint`, for example '/fleet/fleet_alpha/statistics'."""
        return await self._retries.call(self.request, HTTPMethod.GET, endpoint, params=params)

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
        return await self._retries.call(
            self.request, HTTPMethod.POST, endpoint, data=data, params=params, idempotency_key=key
        )

    async def put(self, endpoint: str, data: Any = None, *, params: Mapping[str, Any] | None = None) -> APIResponse:
        """PUT JSON. Coordinates in it are coarsened."""
        return await self._retries.call(self.request, HTTPMethod.PUT, endpoint, data=data, params=params)

    async def delete(self, endpoint: str, params: Mapping[str, Any] | None = None) -> APIResponse:
        """DELETE `endpoint`."""
        return await self._retries.call(self.request, HTTPMethod.DELETE, endpoint, params=params)

    async def check_connectivity(self) -> bool:
        """Whether the backend answers a health request now."""
        try:
            await self.probe()
        except CloudError as error:
            logger.info("cloud.probe: %s", error)
            return False
        return True

    async def close(self) -> None:
        """Close what this client opened; again is once. A later call opens it again."""
        closers, self._closers, self._companions = self._closers, [], {}
        async with AsyncExitStack() as stack:
            stack.push_async_callback(self._close_http)
            for closer in closers:
                stack.push_async_callback(closer)

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

    async def request(
        self,
        method: HTTPMethod,
        path: str,
        *,
        content: Payload | Content = None,
        params: Mapping[str, Any] | None = None,
        headers: Mapping[str, str] | None = None,
        idempotency_key: str | None = None,
        bulk: bool = False,
        names: Mapping[str, str] | None = None,
    ) -> Response:
        """Make one attempt.

        Args:
            method: The method.
            path: Below `api_url`, with ids percent-encoded (`quote_id`).
            content: A payload, or the bytes of one as the outbox keeps them, or pieces of a file. While pieces go
                out, the deadline moves along.
            params: The query.
            headers: Further ones.
            idempotency_key: Required on POST: the same on every attempt at the same work.
            bulk: It is large and in no hurry: it takes nobody's place or connection who is.
            names: What the answer names the work by, where it does: `{"trip_id": …}`.

        Returns:
            The answer to keep: 2xx, 304 where it was asked for, or 409 on a POST.

        Raises:
            UnreachableError: No usable answer; unknown whether it was done.
            UnacknowledgedError: Answered 2xx, with a body that acknowledges nothing; the same.
            NotNowError: The backend asked to come back later; the whole client waits.
            CredentialError: The credential was refused; nothing more is sent until it changes.
            RejectedError: This request can't succeed (PreconditionError: another writer was faster).
            HeldError: Not sent, or cut off: the gate is closed.
        """
        return await self.ask(
            Request.of(
                method,
                path,
                content=content,
                params=params,
                headers=headers,
                idempotency_key=idempotency_key,
                bulk=bulk,
                names=names,
            )
        )

    async def ask(self, asked: Request) -> Response:
        """Make one attempt at a request that says more of itself; as `request`.

        Its path may be a whole URL that the backend gave, also on another host: the credential goes only to the origin
        of `api_url`, and what another host says moves no gate. An answer whose status is in `asked.takes` is returned
        as it is.
        """
        if self.gate.passage(self._clock.monotonic()).state is GateState.REFUSED:
            await self.refresh_credential()
        self._refuse_if_closed(asked)
        async with self._limit.turn(asked.what, bulk=asked.bulk):
            self._refuse_if_closed(asked)
            reply, key_in_use = await self._policy.reported(asked, self._attempt(asked, self._timeouts))
        if self._policy.is_rejected(reply, asked):
            await self._policy.verify_backend(asked, reply, self.probe)
        return self._policy.answer(reply, asked, key_in_use=key_in_use)

    def address_of(self, path: str, location: str) -> str | None:
        """The address that the answer to a request of `path` named in `Location`; None where none may be followed."""
        return address_in(location, self._headers.url(Request(HTTPMethod.POST, path, "")))

    def download(self, address: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Download]:
        """Open a file at an address that the backend gave, perhaps on another host; the caller judges its status.

        Another host's answer moves neither the gate nor the retry budget, the API's own only where it says when to come
        back. No place among those in flight is taken. The deadline moves along while the caller tells of progress.

        Args:
            address: Absolute, or relative to `api_url`. The credential goes only to the origin of `api_url`.
            headers: Further ones.

        Raises:
            UnreachableError: No answer, or it broke off; or the address is not to be followed.
            HeldError: Not sent, or cut off: the gate is closed.
        """
        asked = Request(HTTPMethod.GET, "", "GET a file", headers={"Accept": "*/*", **headers})
        self._refuse_if_closed(asked)
        return self._open_download(asked, address)

    async def probe(self) -> Probe:
        """Ask `GET /health`; passes our own pause and a refusal.

        Raises:
            CloudError: Out of reach: no answer, an error, or a login page; HeldError where it was not sent.
        """
        asked = Request.of(HTTPMethod.GET, "/health")
        passage = self.gate.probe_passage(self._clock.monotonic())
        if not passage.open:
            raise HeldError(f"{asked.what}: not sent: {passage.why}")
        attempt = self._attempt(asked, self._probe_timeouts, level=logging.DEBUG)
        reply, key_in_use = await self._policy.reported(asked, attempt)
        return self._policy.health(reply, key_in_use=key_in_use)

    @property
    def certificate_expires_at(self) -> float | None:
        """When the vehicle's own certificate ends, seconds since the epoch; None where it has none."""
        return self._certificates.expires_at

    async def refresh_credential(self) -> bool:
        """Look whether the key or a certificate was rotated; True where the key was (and the gate gives it a try)."""
        if self._certificates.may_change and await asyncio.to_thread(self._certificates.refresh):
            self.gate.on_credential_changed()
        had_one = bool(self._key)
        await self._credential.refresh()
        changed, self._key = self._credential.key() != self._key, self._credential.key()
        if changed:
            self.gate.on_credential_changed()
            if had_one:
                logger.info("cloud.credential: a new key is in use")
        return changed

    def offers(self, extension: str) -> bool:
        """Whether the backend has an extension of the wire contract, as far as `/health` has said; a plain call."""
        return extension in self._policy.extensions

    def withdraw(self, extension: str) -> None:
        """Use an extension no more until `/health` lists it again: the backend has answered that it has none."""
        self._policy.extensions -= {extension}

    def item_error(self, asked: Request, reply: Response, status: int, detail: str | None) -> CloudError | None:
        """What an answer's status for one item among several means: None where that item is done; moves the gate."""
        return self._policy.item_error(asked, reply, status, detail)

    def subscribe(self, listener: Listener) -> None:
        """Have every attempt's lesson told to `listener(contact, why)`: a plain function that returns at once."""
        self._policy.subscribe(listener)

    def halt(self, cause: str, why: str) -> None:
        """Send nothing until `resume(cause)`; what is under way is cut off."""
        self.gate.halt(cause, why)
        self._in_flight.cut(why)

    def resume(self, cause: str) -> None:
        """Lift what `halt(cause)` forbade."""
        self.gate.resume(cause)

    def _refuse_if_closed(self, asked: Request) -> None:
        passage = self.gate.passage(self._clock.monotonic())
        if not passage.open:
            raise HeldError(f"{asked.what}: not sent: {passage.why}")

    def on_attempt(self, listener: Callable[[Attempt], None]) -> None:
        """Have every request told once it is over, but for files: a plain function that returns at once."""
        self._policy.on_attempt(listener)

    async def _attempt(self, asked: Request, timeouts: Timeouts, *, level: int = logging.INFO) -> tuple[Response, bool]:
        """Send it once, under an id of its own; returns the answer and whether the key it went with is still in use."""
        exchange = await self._exchange()
        request_id = str(uuid4())
        facts = {"request_id": request_id}
        try:
            async with self._in_flight.within(timeouts.deadline, asked.what) as deadline:
                reply = await exchange.send(asked, request_id, deadline, timeouts.phases)
        except HeldError as error:
            error.request_id = request_id
            logger.info("cloud.attempt: %s (request %s)", error, request_id, extra=facts)
            raise
        except UnacknowledgedError as error:
            logger.warning("cloud.attempt: %s (request %s)", error, error.request_id, extra=facts)
            raise self._policy.unacknowledged(error) from None
        except (UnreachableError, TimeoutError) as error:
            if isinstance(error, TimeoutError):
                why = f"{asked.what}: no whole answer within {timeouts.deadline:g} s"
                error = UnreachableError(why, request_id=request_id)
            logger.log(level, "cloud.attempt: %s (request %s)", error, request_id, extra=facts)
            if asked.has_begun and not isinstance(error, ElsewhereError):
                # The link let something through: whoever asks next how much arrived sees whether that is over.
                raise CutError(str(error), request_id=request_id, was_reused=error.was_reused) from None
            raise self._policy.unreachable(error) from None
        logger.log(
            logging.DEBUG if reply.status < 400 else level,
            "cloud.attempt: %s answered %d (request %s)",
            asked.what,
            reply.status,
            reply.request_id,
            extra={"request_id": reply.request_id},
        )
        if self._policy.is_refused(reply, asked):
            # Perhaps it was rotated while nobody looked: then this was the old key's refusal.
            await self.refresh_credential()
        return reply, self._key == exchange.key

    @asynccontextmanager
    async def _open_download(self, asked: Request, address: str) -> AsyncIterator[Download]:
        exchange, timeouts, request_id = await self._exchange(), self._timeouts, str(uuid4())
        try:
            async with (
                self._in_flight.within(timeouts.deadline, asked.what) as deadline,
                exchange.open(address, asked, request_id, timeouts.phases) as response,
            ):
                if exchange.headers.is_own(response.url):
                    self._policy.file_answered(asked.what, response.status_code, response.headers)
                yield Download(response, deadline)
        except TimeoutError:
            why = f"{asked.what}: nothing came for {timeouts.deadline:g} s"
            raise UnreachableError(why, request_id=request_id) from None

    def on_traffic(self, listener: TrafficListener) -> None:
        """Have `listener(sent_bytes, received_bytes)` called as bytes go out and come in, to and from whatever host.

        Heads and bodies of HTTP, without what TLS and TCP add. A plain function that returns at once.
        """
        self._meter.follow(listener)

    async def _exchange(self) -> Exchange:
        http = self._http
        if http is None or not self._is_ready:
            http = await self._open()
        return Exchange(http, self._headers, self._key, self._meter, self._clock, self._guard.refusal)

    async def _open(self) -> httpx.AsyncClient:
        async with self._opening:
            if self._http is None:
                # Reading certificates blocks.
                self._http = await asyncio.to_thread(build_http_client, self.settings, self._certificates)
            if not self._is_ready:
                await asyncio.to_thread(warm_up)
                await self._credential.refresh()
                self._key = self._credential.key()
                self._is_ready = True
            return self._http

    async def _close_http(self) -> None:
        http = self._http
        if http is not None and self._owns_http:
            self._http, self._is_ready = None, False
            await http.aclose()
