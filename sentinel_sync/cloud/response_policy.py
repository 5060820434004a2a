"""What each answer does: it moves the gate and the retry budget, is told to who listens, and returned, raised, retried.

`cloud/rules/answers.py` says what an answer means. Only answers from the host of `api_url` move the gate: a 403 of
an object store says nothing about our credential.
"""

import asyncio
import json
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass, replace
from enum import StrEnum
from http import HTTPMethod, HTTPStatus
from random import Random
from typing import Any
from urllib.parse import parse_qsl, quote

import pydantic_core
from pydantic import ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import Clock, http_date, is_plausible, rfc3339
from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    HeldError,
    NotNowError,
    PreconditionError,
    RejectedError,
    SentinelSyncError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.base.payloads import Health, Payload, Problem
from sentinel_sync.base.privacy import coarse_path, coarsen, loggable_text
from sentinel_sync.cloud.request import Request, coarse_query
from sentinel_sync.cloud.response import ElsewhereError, Response
from sentinel_sync.cloud.rules.answers import Gate, GateState, Meaning, RetryBudget, meaning_of, retry_after_seconds

logger: logging.Logger = logging.getLogger(__name__)

#: One wait inside one call lasts at most so many seconds: an hour's Retry-After is not what a caller sits through.
LONGEST_WAIT = 30.0
#: Characters that a path keeps as they are (RFC 3986 section 3.3), `%` because ids come encoded.
_PATH_SAFE = "/%=&,:;@!$'()*+~-._"


class AttemptOutcome(StrEnum):
    """What an attempt taught about the backend."""

    AUTHORIZED = "authorized"
    REACHABLE = "reachable"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"


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


@dataclass(frozen=True, slots=True)
class Attempt:
    """One request as it went.

    Attributes:
        what: Method and path, as logs name it.
        status: Of the answer; None where there was none.
        error: Why there was none.
        began_at: Wall time, seconds since the epoch.
        seconds: Until the answer was there, or the error.
    """

    method: str
    what: str
    status: int | None
    error: Exception | None
    began_at: float
    seconds: float


Listener = Callable[[AttemptOutcome, str], None]


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


class ResponsePolicy:
    """Reads the outcome of every attempt of one client.

    Args:
        gate: May anything be sent.
        budget: For the client's own retries.
        max_retry_after: A `Retry-After` counts for at most so many seconds.
    """

    def __init__(self, gate: Gate, budget: RetryBudget, clock: Clock, max_retry_after: float) -> None:
        self._gate = gate
        self._budget = budget
        self._clock = clock
        self._max_retry_after = max_retry_after
        self._listeners: list[Listener] = []
        self._attempt_listeners: list[Callable[[Attempt], None]] = []
        self._verifying = asyncio.Lock()
        self._healthy_at = float("-inf")
        #: Extensions of the wire contract that the backend has, as `/health` last said.
        self.extensions: frozenset[str] = frozenset()

    def subscribe(self, listener: Listener) -> None:
        """Have every attempt's lesson told to `listener`."""
        self._listeners.append(listener)

    def on_attempt(self, listener: Callable[[Attempt], None]) -> None:
        """Have every attempt that is `reported` told to `listener`."""
        self._attempt_listeners.append(listener)

    async def reported(self, asked: Request, attempt: Awaitable[tuple[Response, bool]]) -> tuple[Response, bool]:
        """Wait for an attempt, and tell how it went; returns its answer, and whether its key is still in use."""
        if not self._attempt_listeners:
            return await attempt
        began_at, began = self._clock.now(), self._clock.monotonic()
        status, fault = None, None
        try:
            reply, key_in_use = await attempt
            status = reply.status
        except SentinelSyncError as error:
            fault = error
            raise
        finally:
            seconds = self._clock.monotonic() - began
            over = Attempt(str(asked.method), asked.what, status, fault, began_at, seconds)
            for listener in self._attempt_listeners:
                listener(over)
        return reply, key_in_use

    def unreachable(self, error: UnreachableError) -> UnreachableError:
        """Take in that no usable answer came; returns the error to raise."""
        self._budget.on_failure()
        if not isinstance(error, ElsewhereError):
            self._gate.on_unreachable(str(error), self._clock.monotonic())
            self._tell(AttemptOutcome.UNREACHABLE, str(error))
        return error

    def unacknowledged(self, error: UnacknowledgedError) -> UnacknowledgedError:
        """Take in an answer that acknowledges nothing: it says nothing about anybody else's request."""
        self._budget.on_failure()
        return error

    async def verify_backend(self, asked: Request, reply: Response, probe: Callable[[], Awaitable[object]]) -> None:
        """Whether it is the backend that rejects: else the address is wrong or a gateway answers, and all must wait.

        Raises:
            UnreachableError: `/health` does not answer as the contract says ("Something in between").
            HeldError: It may not be asked now.
        """
        async with self._verifying:  # several are rejected together: one asks for all
            if self._healthy_at >= reply.sent:
                return
            asked_at = self._clock.monotonic()
            try:
                await probe()
            except (HeldError, CredentialError):
                raise
            except CloudError as error:
                raise self._in_between(asked, reply, error) from None
            self._healthy_at = asked_at

    def _in_between(self, asked: Request, reply: Response, error: CloudError) -> UnreachableError:
        why = (
            f"{asked.what}: {_words(reply)}, and {error}: something in between answers, or the address is wrong: "
            "check cloud.api_url"
        )
        return self.unreachable(UnreachableError(why, status=reply.status, request_id=reply.request_id))

    def is_rejected(self, reply: Response, asked: Request) -> bool:
        """Whether the answer says that this very work can't succeed."""
        rejected = (
            reply.from_api and asked.changes_something and meaning_of(reply.status, asked.method) is Meaning.REJECTED
        )
        return rejected and reply.status not in asked.takes

    def is_refused(self, reply: Response, asked: Request) -> bool:
        """Whether the backend refused the credential that a request was sent with."""
        refused = reply.from_api and meaning_of(reply.status, asked.method) is Meaning.REFUSED
        return refused and reply.status not in asked.takes

    def answer(self, reply: Response, asked: Request, *, key_in_use: bool) -> Response:
        """Take in an answer; return it where the work is done, else raise what it means.

        Args:
            reply: The answer.
            asked: The request.
            key_in_use: Whether the credential that it was sent with is still the one in use.
        """
        if reply.status in asked.takes and not (reply.status == HTTPStatus.UNAUTHORIZED and reply.from_api):
            return reply
        meaning = meaning_of(reply.status, asked.method)
        if meaning is Meaning.DONE or (meaning is Meaning.NOT_MODIFIED and asked.is_conditional):
            self._served(reply)
            return reply
        what = f"{asked.what}: {_words(reply)}"
        match meaning:
            case Meaning.REFUSED if reply.from_api:
                raise self._refused(what, reply, key_in_use=key_in_use)
            case Meaning.NOT_NOW:
                raise self._not_now(what, reply)
            case Meaning.PRECONDITION:
                self._served(reply)
                raise PreconditionError(what, status=reply.status, request_id=reply.request_id)
            case Meaning.REJECTED | Meaning.REFUSED:
                self._served(reply)
                raise RejectedError(what, status=reply.status, request_id=reply.request_id)
        failure = UnreachableError if reply.from_api else ElsewhereError
        raise self.unreachable(
            failure(f"{what}: neither done nor followed", status=reply.status, request_id=reply.request_id)
        )

    def item_error(self, asked: Request, reply: Response, status: int, detail: str | None) -> CloudError | None:
        """Take in what an answer says of one item among several: None where that is done, else what it means.

        It means what it would as the answer to the item's own request, but that nothing is unreachable that answers.
        """
        meaning = meaning_of(status, asked.method)
        if meaning is Meaning.DONE:
            return None
        own = replace(reply, status=status, data=None if detail is None else {"detail": detail})
        if meaning in {Meaning.REDIRECT, Meaning.NOT_MODIFIED, Meaning.UNKNOWN}:
            return UnacknowledgedError(f"{asked.what}: {_words(own)}", status=status, request_id=reply.request_id)
        try:
            self.answer(own, replace(asked, takes=frozenset()), key_in_use=True)
        except CloudError as error:
            return error
        return None

    def health(self, reply: Response, *, key_in_use: bool) -> Probe:
        """Take in the answer to a health request; raise where the backend is not within reach."""
        what = f"GET /health: {_words(reply)}"
        meaning = meaning_of(reply.status, HTTPMethod.GET)
        if meaning is Meaning.REFUSED and reply.from_api:
            raise self._refused(what, reply, key_in_use=key_in_use)
        if meaning is not Meaning.DONE:
            self._tell(AttemptOutcome.UNREACHABLE, what)
            if meaning is Meaning.NOT_NOW:
                raise self._not_now(what, reply)
            raise NotNowError(what, status=reply.status, request_id=reply.request_id)
        try:
            health = Health.model_validate(reply.data)
        except ValidationError:
            why = "GET /health: the answer is not a health object: a login page in between?"
            self._tell(AttemptOutcome.UNREACHABLE, why)
            raise UnreachableError(why, request_id=reply.request_id) from None
        self.extensions = frozenset(name for name in health.extensions if isinstance(name, str))
        self._gate.on_reachable()
        self._tell(AttemptOutcome.REACHABLE, "")
        # A backend's clock may be broken as well, and no trip may be dated by it.
        time = health.time if is_plausible(rfc3339(health.time)) else None
        date = http_date(reply.headers.get("Date"))
        date = date if is_plausible(date) else None
        return Probe(time, date, reply.sent, reply.received, health.min_interval)

    def _served(self, reply: Response) -> None:
        """The backend is up and took the credential, whatever it thinks of this request."""
        self._budget.on_success()
        if reply.from_api:
            self._gate.on_success(self._clock.monotonic())
            self._tell(AttemptOutcome.AUTHORIZED, "")

    def _not_now(self, what: str, reply: Response) -> NotNowError:
        self._budget.on_failure()
        wait = self._asked_wait(reply.headers)
        if reply.from_api:
            self._gate.on_not_now(what, self._clock.monotonic(), wait)
        return NotNowError(what, status=reply.status, request_id=reply.request_id, retry_after=wait)

    def file_answered(self, what: str, status: int, headers: Mapping[str, str]) -> None:
        """Take in how the API's own host answers a request for a file: when to come back, it says for all requests."""
        if meaning_of(status, HTTPMethod.GET) is Meaning.NOT_NOW and (wait := self._asked_wait(headers)) is not None:
            self._gate.on_not_now(f"{what}: answered {status}", self._clock.monotonic(), wait)

    def _asked_wait(self, headers: Mapping[str, str]) -> float | None:
        theirs = http_date(headers.get("Date"))
        now = self._clock.now() if theirs is None else theirs
        return retry_after_seconds(headers.get("Retry-After"), now, self._max_retry_after)

    def _refused(self, what: str, reply: Response, *, key_in_use: bool) -> CredentialError:
        facts: dict[str, Any] = {"status": reply.status, "request_id": reply.request_id}
        if not key_in_use:
            return CredentialError(f"{what}: it was sent with a key that has been changed since", **facts)
        why = f"{what}: the credential is refused: check cloud.api_key (or api_key_file, which goes before it)"
        if self._gate.passage(self._clock.monotonic()).state is not GateState.REFUSED:
            logger.error("cloud.refused: %s; nothing but health probes is sent until it changes", what)
        self._gate.on_refused(why, self._clock.monotonic())
        self._tell(AttemptOutcome.UNAUTHORIZED, why)
        return CredentialError(why, **facts)

    def _tell(self, contact: AttemptOutcome, why: str) -> None:
        for listener in self._listeners:
            listener(contact, why)


def _words(reply: Response) -> str:
    """Say what an answer was, with the backend's own reason (RFC 9457) where it gave one."""
    try:
        problem = Problem.model_validate(reply.data)
    except ValidationError:
        return f"answered {reply.status}"
    reason = loggable_text(": ".join(part for part in (problem.title, problem.detail) if part))
    return f"answered {reply.status} ({reason})" if reason else f"answered {reply.status}"


def target_of(endpoint: str, params: Mapping[str, Any] | None) -> tuple[str, dict[str, Any]]:
    """Split an endpoint into its path and its query, both without a fine coordinate.

    Args:
        endpoint: As '/fleet/fleet_alpha/statistics', also without the first slash, also with a query.
        params: Joins the query; entries that are None are left out.

    Raises:
        ValueError: Not a path below `api_url`: the credential goes nowhere else.
    """
    path, _, query = endpoint.partition("?")
    if "://" in path or path.startswith("//") or "#" in endpoint:
        raise ValueError("endpoint must be a path below api_url, such as '/health'; the credential goes nowhere else")
    if not {".", ".."}.isdisjoint(path.split("/")):
        raise ValueError("endpoint must not climb with '.' or '..'; encode an id with quote_id")
    joined: dict[str, Any] = {}
    for name, value in parse_qsl(query, keep_blank_values=True):
        joined.setdefault(name, []).append(value)
    joined.update(params or {})
    path = path if path.startswith("/") else f"/{path}"
    return coarse_path(quote(path, safe=_PATH_SAFE)), coarse_query(joined)


def json_body(data: Any) -> bytes | None:
    """Serialize what a caller gave as JSON, every coordinate in it coarsened; None is no body.

    Raises:
        ValueError: It holds what JSON cannot say, such as NaN.
    """
    if data is None:
        return None
    if isinstance(data, Payload):
        return data.model_dump_json().encode()
    # First made plain, so that a place inside an object of the caller's own is seen as well.
    plain = pydantic_core.to_jsonable_python(data, inf_nan_mode="constants")
    return json.dumps(coarsen(plain), ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()


class CallRetries:
    """The retries within one call of `get`, `post`, `put` and `delete`.

    Args:
        gate: Whether anything may be sent, and when.
        budget: Bounds the retries of all calls together.
        clock: For the waits.
        rng: Spreads them.
        max_retries: Further attempts of one call.
    """

    def __init__(self, gate: Gate, budget: RetryBudget, clock: Clock, rng: Random, max_retries: int) -> None:
        self._gate = gate
        self._budget = budget
        self._clock = clock
        self._rng = rng
        self._max_retries = max_retries

    async def call(
        self,
        attempt: Callable[..., Awaitable[Response]],
        method: HTTPMethod,
        endpoint: str,
        *,
        data: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> APIResponse:
        """Have `attempt` (`CloudAPIClient.request`) made again and again; never raises for what the network does."""
        path, query = target_of(endpoint, params)
        retrying = AsyncRetrying(
            retry=retry_if_exception(self._is_worth_retrying),
            stop=self._gives_up,
            wait=self._wait,
            sleep=self._clock.sleep,
            reraise=True,
        )
        try:
            reply: Response = await retrying(
                attempt, method, path, content=json_body(data), params=query, idempotency_key=idempotency_key
            )
        except CloudError as error:
            return APIResponse(False, error.status or 0, None, str(error), error.request_id)
        return APIResponse(True, reply.status, reply.data, None, reply.request_id)

    def _is_worth_retrying(self, error: BaseException) -> bool:
        if isinstance(error, CredentialError):
            # Only where the key was changed meanwhile: a refused one is not tried again.
            return self._gate.passage(self._clock.monotonic()).state is not GateState.REFUSED
        return isinstance(error, UnreachableError | UnacknowledgedError | NotNowError | HeldError)

    def _gives_up(self, state: RetryCallState) -> bool:
        if stop_after_attempt(self._max_retries + 1)(state) or not self._budget.allows_retry:
            return True
        passage = self._gate.passage(self._clock.monotonic())
        return not passage.open and (passage.state is not GateState.PAUSED or (passage.wait or 0.0) > LONGEST_WAIT)

    def _wait(self, state: RetryCallState) -> float:
        passage = self._gate.passage(self._clock.monotonic())
        return max(full_jitter(state.attempt_number, self._rng), passage.wait or 0.0)
