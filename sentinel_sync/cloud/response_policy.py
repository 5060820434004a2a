"""What each answer does: it moves the gate and the retry budget, is told to who listens, and is returned or raised.

`cloud/rules/answers.py` says what an answer means. Only answers from the host of `api_url` move the gate: a 403 of
an object store says nothing about our credential.
"""

import logging
from collections.abc import Callable
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPMethod, HTTPStatus
from typing import Any

from pydantic import ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    NotNowError,
    PreconditionError,
    RejectedError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.base.payloads import Health, Problem
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.base.timekeeping import is_plausible
from sentinel_sync.cloud.request import Request
from sentinel_sync.cloud.response import ElsewhereError, Response
from sentinel_sync.cloud.rules.answers import (
    Gate,
    GateState,
    Meaning,
    RetryBudget,
    http_date,
    meaning_of,
    retry_after_seconds,
    rfc3339,
)

logger: logging.Logger = logging.getLogger(__name__)


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

    def subscribe(self, listener: Listener) -> None:
        """Have every attempt's lesson told to `listener`."""
        self._listeners.append(listener)

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

    def in_between(self, asked: Request, reply: Response, error: CloudError) -> UnreachableError:
        """Take in that a 4xx came from where `/health` does not answer as the contract says; returns what to raise."""
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
        theirs = http_date(reply.headers.get("Date"))
        now = self._clock.now() if theirs is None else theirs
        wait = retry_after_seconds(reply.headers.get("Retry-After"), now, self._max_retry_after)
        if reply.from_api:
            self._gate.on_not_now(what, self._clock.monotonic(), wait)
        return NotNowError(what, status=reply.status, request_id=reply.request_id, retry_after=wait)

    def _refused(self, what: str, reply: Response, *, key_in_use: bool) -> CredentialError:
        facts: dict[str, Any] = {"status": reply.status, "request_id": reply.request_id}
        if not key_in_use:
            return CredentialError(f"{what}: it was sent with a key that has been changed since", **facts)
        why = f"{what}: the credential is refused: check cloud.api_key"
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
