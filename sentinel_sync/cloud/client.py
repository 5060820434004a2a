"""`CloudAPIClient`: the specification's face. It never raises for what the network does, and retries with tenacity.

An attempt is made in `attempt_client.py`; `cloud/rules/answers.py` says what an answer means, and `cloud/rules/gate.py`
whether anything may be sent.
"""

import logging
from collections.abc import Awaitable, Callable, Mapping
from contextlib import AsyncExitStack
from http import HTTPMethod
from random import Random
from typing import Any, Protocol, Self, TypeVar, cast
from uuid import uuid4

import httpx
from pydantic import SecretStr, ValidationError
from tenacity import AsyncRetrying, RetryCallState, retry_if_exception, stop_after_attempt

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    CredentialError,
    HeldError,
    NotNowError,
    UnreachableError,
)
from sentinel_sync.cloud.api_response import APIResponse, Contact, Probe
from sentinel_sync.cloud.attempt_client import AttemptClient
from sentinel_sync.cloud.credential import Credential
from sentinel_sync.cloud.exchange import Response
from sentinel_sync.cloud.response_policy import Listener
from sentinel_sync.cloud.rules.gate import GateState
from sentinel_sync.cloud.rules.requests import json_body, quote_id, target_of
from sentinel_sync.settings import CloudSettings

__all__ = ["APIResponse", "CloudAPIClient", "Contact", "Listener", "Probe", "Response", "quote_id"]

logger = logging.getLogger(__name__)

#: One wait inside one call lasts at most so many seconds: an hour's Retry-After is not what a caller sits through.
LONGEST_WAIT = 30.0


class Closable(Protocol):
    """Something that lives as long as its client."""

    async def close(self) -> None:
        """Give back what it holds."""
        ...


Companion = TypeVar("Companion", bound=Closable)


class CloudAPIClient(AttemptClient):
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
        arguments = {
            "api_url": api_url,
            "api_key": None if api_key is None else SecretStr(api_key),
            "vehicle_id": vehicle_id,
            "fleet_id": fleet_id,
            "timeout": timeout,
            "max_retries": max_retries,
            "rate_limit": rate_limit,
        }
        given = {name: value for name, value in arguments.items() if value is not None}
        super().__init__(_settings(settings, given), http=http, credential=credential, clock=clock, rng=rng)
        self._closers: list[Callable[[], Awaitable[None]]] = []
        self._companions: dict[type[Closable], Closable] = {}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.close()

    def __repr__(self) -> str:
        return f"CloudAPIClient({self.settings.api_url!r}, vehicle_id={self.settings.vehicle_id!r})"

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

    async def _with_retries(
        self,
        method: HTTPMethod,
        endpoint: str,
        *,
        data: Any = None,
        params: Mapping[str, Any] | None = None,
        idempotency_key: str | None = None,
    ) -> APIResponse:
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
                self.request,
                method,
                path,
                content=json_body(data),
                params=query,
                idempotency_key=idempotency_key,
            )
        except CloudError as error:
            return APIResponse(False, error.status or 0, None, str(error), error.request_id)
        return APIResponse(True, reply.status, reply.data, None, reply.request_id)

    def _is_worth_retrying(self, error: BaseException) -> bool:
        if isinstance(error, CredentialError):
            # Only where the key was changed meanwhile: a refused one is not tried again.
            return self.gate.passage(self._clock.monotonic()).state is not GateState.REFUSED
        return isinstance(error, UnreachableError | NotNowError | HeldError)

    def _gives_up(self, state: RetryCallState) -> bool:
        if stop_after_attempt(self.settings.max_retries + 1)(state) or not self._budget.allows_retry:
            return True
        passage = self.gate.passage(self._clock.monotonic())
        return not passage.open and (passage.state is not GateState.PAUSED or (passage.wait or 0.0) > LONGEST_WAIT)

    def _wait(self, state: RetryCallState) -> float:
        passage = self.gate.passage(self._clock.monotonic())
        return max(full_jitter(state.attempt_number, self._rng), passage.wait or 0.0)


def _settings(settings: CloudSettings | None, given: dict[str, Any]) -> CloudSettings:
    if settings is not None:
        if given:
            raise ConfigurationError(f"CloudAPIClient takes settings or {', '.join(given)}, not both")
        return settings
    try:
        return CloudSettings(**given)
    except ValidationError as error:
        reasons = "; ".join(detail["msg"] for detail in error.errors(include_input=False, include_url=False))
        raise ConfigurationError(f"CloudAPIClient cannot be built: {reasons}") from None
