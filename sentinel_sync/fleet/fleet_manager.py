"""`FleetManager`: what the backend knows of the whole fleet, and what it last said while it is away."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Callable, Coroutine, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from http import HTTPMethod, HTTPStatus
from typing import Any, TypeVar, cast

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import CloudError, HeldError, RejectedError, StoreError, UnreachableError
from sentinel_sync.base.privacy import loggable_path
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from sentinel_sync.fleet.rules import (
    MAX_DAYS,
    MAX_LIMIT,
    AggregateMetrics,
    DriverLeaderboard,
    FleetAlerts,
    FleetAnswer,
    FleetListing,
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

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "fleet_answer"
#: So many different questions are remembered; beyond it the one not asked for longest goes.
MAX_ANSWERS = 64
#: An answer larger than this (bytes of JSON) is given to whoever asked, but not kept: 64 of them make 16 MiB at most.
MAX_ANSWER_BYTES = 256 << 10
#: Of a list in an answer so many entries are looked at: no question asks for more.
_MOST_ENTRIES = max(MAX_LIMIT, MAX_DAYS)

#: An answer counts as fresh for so many seconds; after it the backend is asked whether it still holds.
MAX_AGE = 300.0

Answered = TypeVar("Answered", bound=FleetAnswer)
_Key = tuple[str, tuple[tuple[str, object], ...]]


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it came, and when the backend last said so.

    Attributes:
        body: JSON.
        etag: As the backend gave it, or None.
        fetched_at: Wall time, seconds since the epoch.
        boot_id: The boot that `since_boot` belongs to.
        since_boot: Time since boot, seconds: ages are right in this boot even if somebody sets the clock.
    """

    body: Any
    etag: str | None
    fetched_at: float
    boot_id: str
    since_boot: float

    def age(self, clock: Clock) -> float:
        """Seconds since the backend last said so."""
        if self.boot_id == clock.boot_id():
            return max(0.0, clock.monotonic() - self.since_boot)
        return max(0.0, clock.now() - self.fetched_at)


_SHAPE = TypeAdapter(KeptAnswer)


class AnswerCache:
    """The last answers, in memory and in the store. A store that cannot be used costs the disk's part only.

    Args:
        store: Where they lie.
        origin: The backend's base URL: what another backend said is none of this one's answers.
    """

    def __init__(self, store: Store, origin: str, clock: Clock) -> None:
        self._store = store
        self._origin = hashlib.sha256(origin.encode()).hexdigest()[:12]
        self._clock = clock
        #: By key, the longest unasked first; None where it lies on disk and was not read yet.
        self._answers: OrderedDict[str, KeptAnswer | None] = OrderedDict()
        self._on_disk = False
        self._opened = False

    async def load(self, path: str, params: Mapping[str, object]) -> KeptAnswer | None:
        """The last answer to a question, however old, or None."""
        await self._open()
        key = self._key(path, params)
        if key not in self._answers:
            return None
        answer = self._answers[key]
        if answer is None and self._on_disk:
            try:
                answer = await self._store.documents.load(_KIND, key, _SHAPE)
            except StoreError as error:
                logger.warning("fleet.cache: cannot be read: %s", error)
        if answer is None:
            self._answers.pop(key, None)
        else:
            self._answers[key] = answer
            self._answers.move_to_end(key)
        return answer

    async def keep(self, path: str, params: Mapping[str, object], answer: KeptAnswer) -> None:
        """Remember what the backend just said or confirmed."""
        await self._open()
        key = self._key(path, params)
        # Not on the loop: nobody knows yet how large it is.
        if len(await asyncio.to_thread(_SHAPE.dump_json, answer)) > MAX_ANSWER_BYTES:
            logger.info("fleet.cache: an answer of more than %d bytes is not kept", MAX_ANSWER_BYTES)
            await self._drop(key)
            return
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_ANSWERS:
            await self._drop(next(iter(self._answers)))
        if self._on_disk:
            try:
                await self._store.documents.save(_KIND, key, answer, _SHAPE)
            except StoreError as error:
                logger.warning("fleet.cache: not kept over a restart: %s", error)

    async def _open(self) -> None:
        if self._opened:
            return
        try:
            await self._store.open()
            keys = await self._store.documents.keys(_KIND)
        except StoreError as error:
            logger.warning("fleet.cache: answers are kept in memory only: %s", error)
        else:
            self._on_disk = True
            for key in keys:
                self._answers.setdefault(key, None)
        self._opened = True

    async def _drop(self, key: str) -> None:
        self._answers.pop(key, None)
        if self._on_disk:
            try:
                await self._store.documents.delete(_KIND, key)
            except StoreError as error:
                logger.warning("fleet.cache: cannot be trimmed: %s", error)

    def _key(self, path: str, params: Mapping[str, object]) -> str:
        query = "&".join(f"{name}={value}" for name, value in sorted(params.items()))
        return f"{self._origin} {path}?{query}"


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
    bounded = {
        name: value[:_MOST_ENTRIES] if isinstance(value, list) else value
        for name, value in body.items()
        if name not in FleetAnswer.model_fields
    }
    answer = shape.model_validate(bounded)
    if isinstance(answer, FleetListing):
        listed = max((len(value) for name, value in bounded.items() if isinstance(value, list)), default=0)
        if left_out := listed - len(answer):
            logger.warning("fleet.entry: %d of %d entries cannot be read and are left out", left_out, listed)
    return answer
