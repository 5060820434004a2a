"""One attempt at one request, by the wire contract: what our own services send with. Retrying is their outbox's."""

import logging
from collections.abc import Mapping
from contextlib import AbstractAsyncContextManager
from http import HTTPMethod
from random import Random, SystemRandom
from typing import Any
from uuid import uuid4

import httpx

from sentinel_sync.base.backoff import RetryBudget
from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import HeldError, UnreachableError
from sentinel_sync.base.payloads import Payload
from sentinel_sync.cloud.addresses import address_in
from sentinel_sync.cloud.api_response import Probe
from sentinel_sync.cloud.connection import Connection, Download
from sentinel_sync.cloud.credential import Credential
from sentinel_sync.cloud.exchange import Content, Response
from sentinel_sync.cloud.limits import ConcurrencyLimit
from sentinel_sync.cloud.request import Request, Timeouts
from sentinel_sync.cloud.response_policy import Listener, ResponsePolicy
from sentinel_sync.cloud.rules.answers import Meaning, meaning_of
from sentinel_sync.cloud.rules.gate import Gate, GateState
from sentinel_sync.settings import CloudSettings

__all__ = ["AttemptClient", "Download"]

logger = logging.getLogger(__name__)


class AttemptClient(Connection):
    """Makes single attempts: bounded, paced, authenticated, behind the gate. Constructing it does no I/O.

    Args:
        settings: Where to, as whom, how fast.
        http: A client to share, used as it is: with the connections that it makes, unmarked; it is not closed.
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
        super().__init__(settings, http=http, credential=credential, clock=clock or SystemClock())
        self._rng = rng or SystemRandom()
        self._patience = Timeouts.of(settings.timeout)
        self._probe_patience = Timeouts.of_a_probe(settings.timeout)
        self._turns = ConcurrencyLimit(settings.max_in_flight, settings.rate_limit, self._in_flight)
        self._budget = RetryBudget()
        self.gate = Gate(self._rng, credential_retry_interval=settings.credential_retry_interval)
        self._judge = ResponsePolicy(self.gate, self._budget, self._clock, settings.max_retry_after)

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

        Returns:
            The answer to keep: 2xx, 304 where it was asked for, or 409 on a POST.

        Raises:
            UnreachableError: No usable answer; unknown whether it was done.
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
        async with self._turns.turn(asked.what, bulk=asked.bulk):
            self._refuse_if_closed(asked)
            reply, key_in_use = await self._attempt(asked, self._patience)
        return self._judge.answer(reply, asked, key_in_use=key_in_use)

    def address_of(self, path: str, location: str) -> str | None:
        """The address that the answer to a request of `path` named in `Location`; None where none may be followed."""
        return address_in(location, self._caller.url(Request(HTTPMethod.POST, path, "")))

    def download(self, address: str, headers: Mapping[str, str]) -> AbstractAsyncContextManager[Download]:
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
        self._refuse_if_closed(Request(HTTPMethod.GET, "", "GET a file"))
        return self._downloading(str(uuid4()), address, headers, self._patience)

    async def probe(self) -> Probe:
        """Ask `GET /health`; passes our own pause and a refusal.

        Raises:
            CloudError: Out of reach: no answer, an error, or a login page; HeldError where it was not sent.
        """
        asked = Request.of(HTTPMethod.GET, "/health")
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

    def _refuse_if_closed(self, asked: Request) -> None:
        passage = self.gate.passage(self._clock.monotonic())
        if not passage.open:
            raise HeldError(f"{asked.what}: not sent: {passage.why}")

    async def _attempt(self, asked: Request, patience: Timeouts) -> tuple[Response, bool]:
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
        refused = reply.from_api and meaning_of(reply.status, asked.method) is Meaning.REFUSED
        if refused and reply.status not in asked.takes:
            # Perhaps it was rotated while nobody looked: then this was the old key's refusal.
            await self.refresh_credential()
        return reply, self._credential.key() == key
