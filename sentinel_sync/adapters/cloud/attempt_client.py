"""One attempt at one request, by the wire contract: what our own services send with. Retrying is their outbox's."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from dataclasses import dataclass
from http import HTTPMethod
from random import Random, SystemRandom
from typing import Any
from uuid import uuid4

import httpx

from sentinel_sync.adapters.cloud.api_response import Probe
from sentinel_sync.adapters.cloud.credential import Credential, credential_of
from sentinel_sync.adapters.cloud.download_stream import open_download
from sentinel_sync.adapters.cloud.exchange import Content, Count, Reply, exchange, head_bytes
from sentinel_sync.adapters.cloud.http import build_http_client, warm_up
from sentinel_sync.adapters.cloud.in_flight import Deadline, InFlight
from sentinel_sync.adapters.cloud.judge import Judge, Listener
from sentinel_sync.adapters.cloud.request_form import Asked, Caller, Patience
from sentinel_sync.adapters.cloud.transport_logs import mute
from sentinel_sync.adapters.cloud.turns import Turns
from sentinel_sync.clock import Clock, SystemClock
from sentinel_sync.errors import HeldError, UnreachableError
from sentinel_sync.payloads import Payload
from sentinel_sync.rules.answers import Meaning, meaning_of
from sentinel_sync.rules.backoff import RetryBudget
from sentinel_sync.rules.gate import Gate, GateState
from sentinel_sync.settings import CloudSettings

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Download:
    """An answer whose body is still to be read, and the deadline to be moved while it is."""

    response: httpx.Response
    deadline: Deadline


class AttemptClient:
    """Makes single attempts: bounded, paced, authenticated, behind the gate. Constructing it does no I/O.

    Args:
        settings: Where to, as whom, how fast.
        http: A client to share; it is not closed then.
        credential: Where the key comes from, if not from the settings.
        clock: The seam for time.
        rng: The seam for chance.

    Raises:
        ConfigurationError: `api_url` is no URL.
    """

    def __init__(
        self,
        settings: CloudSettings,
        *,
        http: httpx.AsyncClient | None = None,
        credential: Credential | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self.settings = settings
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._http = http
        self._owns_http = http is None
        self._ready = False
        self._opening = asyncio.Lock()
        self._credential = credential or credential_of(settings)
        self._caller = Caller(settings)
        self._patience = Patience.of(settings.timeout)
        self._probe_patience = Patience.of_a_probe(settings.timeout)
        self._in_flight = InFlight()
        self._turns = Turns(settings.max_in_flight, settings.rate_limit, self._in_flight)
        self._budget = RetryBudget()
        self.gate = Gate(self._rng, credential_retry_interval=settings.credential_retry_interval)
        self._judge = Judge(self.gate, self._budget, self._clock, settings.max_retry_after)
        self._traffic_listeners: list[Count] = []
        mute()

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
            content: A payload, or the bytes of one as the outbox keeps them, or pieces of a file. While pieces go
                out, the deadline moves along.
            params: The query.
            headers: Further ones.
            idempotency_key: Required on POST: the same on every attempt at the same work.

        Returns:
            The answer to keep: 2xx, 304 where it was asked for, or 409 on a POST.

        Raises:
            UnreachableError: No usable answer; unknown whether it was done.
            NotNowError: The backend asked to come back later; the whole client waits.
            CredentialError: The credential was refused; nothing more is sent until it changes.
            RejectedError: This request can't succeed (PreconditionError: another writer was faster).
            HeldError: Not sent, or cut off: the gate is closed.
        """
        if method == HTTPMethod.POST and not idempotency_key:
            raise ValueError("a POST needs an idempotency_key: without it a retry could do the work twice")
        asked = Asked.of(method, path, content=content, params=params, headers=headers, idempotency_key=idempotency_key)
        if self.gate.passage(self._clock.monotonic()).state is GateState.REFUSED:
            await self.refresh_credential()
        self._refuse_if_closed(asked)
        async with self._turns.turn(asked.what):
            self._refuse_if_closed(asked)
            reply, key_in_use = await self._attempt(asked, self._patience)
        return self._judge.answer(reply, method, asked.what, conditional=asked.is_conditional, key_in_use=key_in_use)

    @asynccontextmanager
    async def download(self, address: str, headers: Mapping[str, str]) -> AsyncIterator[Download]:
        """Open a file at an address that the backend gave, perhaps on another host; the caller judges its status.

        It moves neither the gate nor the retry budget: another host says nothing about this backend. Nor does it take
        a place among those in flight. The deadline moves along while the caller says that there is progress.

        Args:
            address: Absolute, or relative to `api_url`. The credential goes only to the origin of `api_url`.
            headers: Further ones.

        Raises:
            UnreachableError: No answer, or it broke off; or the address is not to be followed.
            HeldError: Not sent, or cut off: the gate is closed.
        """
        asked = Asked(HTTPMethod.GET, "", "GET a file", headers={"Accept": "*/*", **headers})
        self._refuse_if_closed(asked)
        http = await self._open()
        key = self._credential.key()
        request_id = str(uuid4())
        try:
            async with (
                self._in_flight.within(self._patience.deadline, asked.what) as deadline,
                open_download(
                    http,
                    self._caller.base,
                    address,
                    headers=self._caller.headers(request_id, asked),
                    secret_headers={"Authorization": f"Bearer {key}"} if key else {},
                    timeout=self._patience.phases,
                ) as response,
            ):
                try:
                    yield Download(response, deadline)
                finally:
                    self._count(
                        head_bytes(response.request.headers),
                        head_bytes(response.headers) + response.num_bytes_downloaded,
                    )
        except TimeoutError:
            why = f"{asked.what}: nothing came for {self._patience.deadline:g} s"
            raise UnreachableError(why, request_id=request_id) from None

    async def probe(self) -> Probe:
        """Ask `GET /health`; passes our own pause and a refusal.

        Raises:
            CloudError: Out of reach: no answer, an error, or a login page; HeldError where it was not sent.
        """
        asked = Asked.of(HTTPMethod.GET, "/health")
        passage = self.gate.probe_passage(self._clock.monotonic())
        if not passage.open:
            raise HeldError(f"{asked.what}: not sent: {passage.why}")
        reply, key_in_use = await self._attempt(asked, self._probe_patience)
        return self._judge.health(reply, key_in_use=key_in_use)

    async def refresh_credential(self) -> bool:
        """Look whether the key was rotated; True where it was (and the gate gives it a try)."""
        had_one = bool(self._credential.key())
        changed = await self._credential.refresh()
        if changed:
            self.gate.on_credential_changed()
            if had_one:
                logger.info("cloud.credential: a new key is in use")
        return changed

    def on_traffic(self, listener: Count) -> None:
        """Have `listener(sent_bytes, received_bytes)` told what goes over the wire, TLS and TCP left out.

        Bodies of requests are told piece by piece, answers and downloads when they have ended. A plain function that
        returns at once.
        """
        self._traffic_listeners.append(listener)

    def subscribe(self, listener: Listener) -> None:
        """Have every attempt's lesson told to `listener(contact, why)`: a plain function that returns at once."""
        self._judge.subscribe(listener)

    def halt(self, cause: str, why: str) -> None:
        """Send nothing until `resume(cause)`; what is under way is cut off."""
        self.gate.halt(cause, why)
        self._in_flight.cut(why)

    def resume(self, cause: str) -> None:
        """Lift what `halt(cause)` forbade."""
        self.gate.resume(cause)

    def _count(self, sent_bytes: int, received_bytes: int) -> None:
        for listener in self._traffic_listeners:
            listener(sent_bytes, received_bytes)

    async def _close_http(self) -> None:
        http = self._http
        if http is not None and self._owns_http:
            self._http, self._ready = None, False
            await http.aclose()

    async def _open(self) -> httpx.AsyncClient:
        if self._http is not None and self._ready:
            return self._http
        async with self._opening:
            if self._http is None:
                # Reading certificates blocks.
                self._http = await asyncio.to_thread(build_http_client, self.settings)
            if not self._ready:
                await asyncio.to_thread(warm_up)
                await self._credential.refresh()
                self._ready = True
            return self._http

    def _refuse_if_closed(self, asked: Asked) -> None:
        passage = self.gate.passage(self._clock.monotonic())
        if not passage.open:
            raise HeldError(f"{asked.what}: not sent: {passage.why}")

    async def _attempt(self, asked: Asked, patience: Patience) -> tuple[Reply, bool]:
        """Send it once, under an id of its own; returns the answer and whether the key it went with is still in use."""
        http = await self._open()
        key = self._credential.key()
        request_id = str(uuid4())
        facts = {"request_id": request_id}
        try:
            reply = await self._exchange(http, key, request_id, asked, patience)
        except HeldError as error:
            error.request_id = request_id
            logger.info("cloud.attempt: %s (request %s)", error, request_id, extra=facts)
            raise
        except UnreachableError as error:
            logger.info("cloud.attempt: %s (request %s)", error, request_id, extra=facts)
            raise self._judge.unreachable(error) from None
        level = logging.DEBUG if reply.status < 400 else logging.INFO
        logger.log(
            level, "cloud.attempt: %s answered %d (request %s)", asked.what, reply.status, request_id, extra=facts
        )
        if reply.from_api and meaning_of(reply.status, asked.method) is Meaning.REFUSED:
            # Perhaps it was rotated while nobody looked: then this was the old key's refusal.
            await self.refresh_credential()
        return reply, self._credential.key() == key

    async def _exchange(
        self, http: httpx.AsyncClient, key: str, request_id: str, asked: Asked, patience: Patience
    ) -> Reply:
        try:
            async with self._in_flight.within(patience.deadline, asked.what) as deadline:
                return await exchange(
                    http,
                    asked.method,
                    self._caller.url(asked),
                    asked.what,
                    headers=self._caller.headers(request_id, asked),
                    # Without a key none is claimed: the backend says 401, and all that follows from it.
                    secret_headers={"Authorization": f"Bearer {key}"} if key else {},
                    content=asked.body(deadline),
                    clock=self._clock,
                    timeout=patience.phases,
                    count=self._count,
                )
        except TimeoutError:
            why = f"{asked.what}: no whole answer within {patience.deadline:g} s"
            raise UnreachableError(why, request_id=request_id) from None
