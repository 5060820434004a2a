"""`FleetManager`: what the backend knows of the whole fleet, and what it last said while it is away."""

import asyncio
import logging
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPMethod, HTTPStatus
from typing import Any, TypeVar, cast

from pydantic import ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import CloudError, HeldError, RejectedError, UnreachableError
from sentinel_sync.base.privacy import loggable_path
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from sentinel_sync.fleet.answer_cache import AnswerCache, KeptAnswer
from sentinel_sync.fleet.rules.queries import (
    MAX_DAYS,
    MAX_LIMIT,
    AggregateMetrics,
    DriverLeaderboard,
    FleetAlerts,
    FleetAnswer,
    FleetStatistics,
    FleetTrend,
    VehicleComparison,
    VehicleRankings,
    VehicleStatus,
    aggregate,
    bounded,
    compared,
    identifier,
    word,
)
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.store.store import Store

logger = logging.getLogger(__name__)

#: Of a list in an answer so many entries are looked at: no question asks for more.
_MOST_ENTRIES = max(MAX_LIMIT, MAX_DAYS)

#: An answer counts as fresh for so many seconds; after it the backend is asked whether it still holds.
MAX_AGE = 300.0

Answered = TypeVar("Answered", bound=FleetAnswer)
_Key = tuple[str, tuple[tuple[str, object], ...]]


@dataclass(slots=True)
class _Flight:
    """A request that several callers wait for."""

    task: asyncio.Task[FleetAnswer]
    waiting: int = 0


class FleetManager:
    """Fleet-wide statistics and analytics.

    Every answer is cached for five minutes and revalidated by its ETag after that. Where the backend cannot be asked,
    the last known comes back with `stale` set and its `age` in seconds. Callers of the same thing share one request.

    All methods raise CloudError where there is nothing to give: RejectedError with the backend's reason where it does
    not take the question (an unknown metric, no such vehicle), and UnreachableError, NotNowError, CredentialError or
    HeldError where it could not be asked and never has been.

    Args:
        api_client: The backend.
        store: Where answers are kept over a restart; by default that of the client's `state_dir`.
        foundation: What the agent's features share; by default what the client's components share.
        clock: The seam for time.
        max_age: Seconds for which an answer counts as fresh.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        store: Store | None = None,
        *,
        foundation: Foundation | None = None,
        clock: Clock | None = None,
        max_age: float = MAX_AGE,
    ) -> None:
        self._client = api_client
        foundation = foundation or Foundation.of(api_client, store, clock=clock)
        self._clock = foundation.clock
        self._max_age = max_age
        settings = api_client.settings
        self._vehicle_id = settings.vehicle_id
        self._fleet = f"/fleet/{quote_id(settings.fleet_id)}"
        self._policy = foundation.policy
        self._cache = AnswerCache(foundation.store, settings.api_url, self._clock)
        self._flights: dict[_Key, _Flight] = {}
        self._registered = False

    async def get_fleet_statistics(self) -> FleetStatistics:
        """The fleet as a whole: vehicles, distance (metres), trips, alerts, mean score (0 … 100)."""
        return await self._ask(FleetStatistics, f"{self._fleet}/statistics")

    async def get_vehicle_rankings(self, metric: str = "safety_score", limit: int = 10) -> VehicleRankings:
        """The best vehicles by a metric.

        Raises:
            ValueError: `limit` is not within 1 and 1,000, or `metric` is not a name.
            CloudError: See the class.
        """
        params = {"metric": word("metric", metric), "limit": bounded("limit", limit, MAX_LIMIT)}
        found = await self._ask(VehicleRankings, f"{self._fleet}/rankings", params)
        return found.model_copy(update={"rankings": found.rankings[:limit]})

    async def get_fleet_trends(self, metric: str = "safety_score", days: int = 30) -> FleetTrend:
        """A metric day by day, oldest first.

        Raises:
            ValueError: `days` is not within 1 and 3,660, or `metric` is not a name.
            CloudError: See the class.
        """
        params = {"metric": word("metric", metric), "days": bounded("days", days, MAX_DAYS)}
        return await self._ask(FleetTrend, f"{self._fleet}/trends", params)

    async def get_vehicle_comparison(self, vehicle_ids: Sequence[str] | None = None) -> VehicleComparison:
        """Vehicles side by side; all where `vehicle_ids` is left out.

        Raises:
            ValueError: `vehicle_ids` is no list of ids.
            CloudError: See the class.
        """
        params = {} if vehicle_ids is None else {"vehicle_ids": compared(vehicle_ids)}
        return await self._ask(VehicleComparison, f"{self._fleet}/comparison", params)

    async def get_fleet_alerts(self, severity: str | None = None, limit: int = 50) -> FleetAlerts:
        """Alerts, newest first.

        Raises:
            ValueError: `limit` is not within 1 and 1,000, or `severity` is not a name.
            CloudError: See the class.
        """
        params: dict[str, object] = {} if severity is None else {"severity": word("severity", severity)}
        params["limit"] = bounded("limit", limit, MAX_LIMIT)
        found = await self._ask(FleetAlerts, f"{self._fleet}/alerts", params)
        return found.model_copy(update={"alerts": found.alerts[:limit]})

    async def get_driver_leaderboard(self, metric: str = "safety_score", limit: int = 10) -> DriverLeaderboard:
        """The best drivers by a metric; drivers are pseudonyms.

        Raises:
            ValueError: `limit` is not within 1 and 1,000, or `metric` is not a name.
            CloudError: See the class.
        """
        params = {"metric": word("metric", metric), "limit": bounded("limit", limit, MAX_LIMIT)}
        found = await self._ask(DriverLeaderboard, f"{self._fleet}/drivers/leaderboard", params)
        return found.model_copy(update={"leaderboard": found.leaderboard[:limit]})

    async def get_vehicle_status(self, vehicle_id: str | None = None) -> VehicleStatus:
        """When a vehicle was last heard, and more; by default this vehicle.

        Raises:
            ValueError: `vehicle_id` is empty or no text.
            CloudError: See the class.
        """
        chosen = self._vehicle_id if vehicle_id is None else identifier("vehicle_id", vehicle_id)
        return await self._ask(VehicleStatus, f"/vehicles/{quote_id(chosen)}/status")

    async def get_aggregate_metrics(self) -> AggregateMetrics:
        """Shares, means and rates worked out from the fleet's statistics; costs no request of its own."""
        return aggregate(await self.get_fleet_statistics())

    async def close(self) -> None:
        """Cut off what is being asked; its callers get HeldError. Done by itself when the client is closed."""
        flights, self._flights = list(self._flights.values()), {}
        for flight in flights:
            flight.task.cancel()
        await asyncio.gather(*(flight.task for flight in flights), return_exceptions=True)
        self._registered = False

    # --- how ---

    async def _ask(self, shape: type[Answered], path: str, params: Mapping[str, object] | None = None) -> Answered:
        if not self._registered:
            self._registered = True
            self._client.close_with(self.close)
        query = dict(params or {})
        kept = await self._cache.load(path, query)
        if kept is not None and kept.age(self._clock) < self._max_age and (known := _read(shape, kept.body)):
            return self._dated(known, kept, stale=False)
        try:
            fresh = await self._shared((path, tuple(query.items())), partial(self._fetch, shape, path, query))
        except RejectedError:
            raise
        except CloudError as error:
            known = None if kept is None else _read(shape, kept.body)
            if kept is None or known is None:
                raise
            logger.info("fleet.stale: %.0f s old: %s", kept.age(self._clock), error)
            return self._dated(known, kept, stale=True)
        return cast("Answered", fresh)

    async def _fetch(self, shape: type[Answered], path: str, query: dict[str, object]) -> Answered:
        kept = await self._cache.load(path, query)
        if kept is not None and _read(shape, kept.body) is None:
            kept = None  # kept by another version, in a form that this one cannot give out
        held = await self._policy.blocked_reason(TrafficClass.FLEET)
        if held is not None:
            raise HeldError(f"GET {loggable_path(path)}: not sent: {held}")
        headers = {} if kept is None or kept.etag is None else {"If-None-Match": kept.etag}
        reply = await self._client.request(HTTPMethod.GET, path, params=query, headers=headers)
        if reply.status != HTTPStatus.NOT_MODIFIED:
            body, etag = reply.data, reply.headers.get("ETag")
        elif kept is not None and kept.etag is not None:
            body, etag = kept.body, kept.etag
        else:
            raise UnreachableError(f"GET {loggable_path(path)}: answered 304 to a request that set no condition")
        # Not on the loop: nobody knows yet how large it is.
        answer = await asyncio.to_thread(_checked, shape, body, path)
        fresh = KeptAnswer(body, etag, self._clock.now(), self._clock.boot_id(), self._clock.monotonic())
        await self._cache.keep(path, query, fresh)
        return self._dated(answer, fresh, stale=False)

    async def _shared(self, key: _Key, fetch: Callable[[], Coroutine[Any, Any, FleetAnswer]]) -> FleetAnswer:
        """Have one request made for all who ask the same at the same time; it ends when nobody waits any more."""
        flight = self._flights.get(key)
        if flight is None:
            flight = self._flights[key] = _Flight(asyncio.create_task(fetch(), name="fleet.request"))
            flight.task.add_done_callback(partial(self._landed, key))
        flight.waiting += 1
        try:
            return await asyncio.shield(flight.task)
        except asyncio.CancelledError:
            caller = asyncio.current_task()
            if flight.task.cancelled() and caller is not None and not caller.cancelling():
                raise HeldError("not sent: the client is being closed") from None
            raise
        finally:
            flight.waiting -= 1
            if flight.waiting == 0 and not flight.task.done():
                # A later caller must not join what was cut off.
                self._flights.pop(key, None)
                flight.task.cancel()

    def _landed(self, key: _Key, task: asyncio.Task[FleetAnswer]) -> None:
        flight = self._flights.get(key)
        if flight is not None and flight.task is task:
            del self._flights[key]
        if not task.cancelled():
            task.exception()  # looked at even where every caller has gone, so that none is reported as lost

    def _dated(self, answer: Answered, kept: KeptAnswer, *, stale: bool) -> Answered:
        return answer.model_copy(update={"stale": stale, "age": kept.age(self._clock)})


def _read(shape: type[Answered], body: Any) -> Answered | None:
    try:
        return _validated(shape, body)
    except ValidationError:
        return None


def _checked(shape: type[Answered], body: Any, path: str) -> Answered:
    try:
        return _validated(shape, body)
    except ValidationError as error:
        first = error.errors(include_input=False, include_url=False)[0]
        place = ".".join(str(part) for part in first["loc"]) or "the whole"
        raise UnreachableError(
            f"GET {loggable_path(path)}: the answer is not of the expected form ({place}: {first['msg']})"
        ) from None


def _validated(shape: type[Answered], body: Any) -> Answered:
    if not isinstance(body, dict):
        return shape.model_validate(body)
    # How old an answer is, is ours to say. More than anybody can ask for would only hold the loop up.
    return shape.model_validate(
        {
            name: value[:_MOST_ENTRIES] if isinstance(value, list) else value
            for name, value in body.items()
            if name not in FleetAnswer.model_fields
        }
    )
