"""All that an agent consists of, built once, in order: client, store, services. Leaving undoes it backwards."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import FileError, ProfileError, ScenarioError
from sentinel_sync.base.folder_watch import FolderWatch
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.tasks import PeriodicTask
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.offline_manager import OfflineManager
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.models.model_downloader import ModelDownloader
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.scenarios.records import KIND as SCENARIO
from sentinel_sync.scenarios.scenario_uploader import ScenarioUploader
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from sentinel_sync.trips.legacy_queue import LegacyQueue
from sentinel_sync.trips.trip_uploader import KIND as TRIP
from sentinel_sync.trips.trip_uploader import TripUploader

logger: logging.Logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Components:
    """The collaborators of one agent."""

    foundation: Foundation
    connectivity: OfflineManager
    trips: TripUploader
    old_queue: LegacyQueue
    scenarios: ScenarioUploader
    models: ModelDownloader
    profiles: ProfileSynchronizer
    fleet: FleetManager

    @property
    def duties(self) -> tuple[PeriodicTask, ...]:
        """What the supervisor keeps doing, for all services."""
        return (
            self.foundation.policy.duty,
            self.connectivity.monitor,
            self.trips.upload,
            self.trips.checkpoint,
            self.old_queue.retry,
            self.profiles.synchronize,
            self.scenarios.scan,
            self.scenarios.upload,
            self.scenarios.announce,
            self.scenarios.retention,
            *self.models.tasks,
        )

    @property
    def is_busy(self) -> bool:
        """Whether something is under way that takes long enough to be watched."""
        models = any(model.under_way is not None for model in self.models.snapshot())
        return models or self.scenarios.under_way() is not None

    @property
    def syncs(self) -> tuple[Callable[[], Awaitable[object]], ...]:
        """What sends, most important first."""
        return (self.trips.sync_now, self.profiles.sync_now, self.scenarios.scan_step, self.scenarios.sync_now)

    async def held_kinds(self) -> list[str]:
        """Kinds of the outbox that the settings, a missing consent or the network keep from being sent."""
        below = self.foundation
        may_go = below.client.settings.upload_trips and await below.policy.blocked_reason(TrafficClass.TRIPS) is None
        held = [] if may_go else [TRIP]
        return held if await self.scenarios.blocked_reason() is None else [*held, SCENARIO]


async def build(
    settings: CloudSettings,
    stack: AsyncExitStack,
    *,
    http: httpx.AsyncClient | None,
    clock: Clock,
    rng: Random,
) -> Components:
    """Build and open everything; what was opened is closed when `stack` is left, also after a failure in between.

    Raises:
        ConfigurationError: A key or certificate cannot be read.
        StoreError: The state folder cannot be used, or is another agent's (StateLockedError).
    """
    foundation = await _foundation(settings, stack, http=http, clock=clock, rng=rng)
    client, store, timekeeper = foundation.client, foundation.store, foundation.timekeeper
    policy = foundation.policy
    connectivity = OfflineManager(
        client, on_probe=timekeeper.observe, is_busy=lambda: policy.trip_under_way, clock=clock, rng=rng
    )
    trips = TripUploader(client, foundation=foundation, ask_time=connectivity.probe_now)
    old_queue = await _begin_trips(trips, store, settings, stack, clock)
    scenarios = ScenarioUploader(client, foundation=foundation)
    stack.push_async_callback(scenarios.close)
    models = ModelDownloader(client, foundation=foundation)
    profiles = ProfileSynchronizer(client, foundation=foundation)
    await _begin("scenarios", scenarios.prepare)
    await _begin("profiles", profiles.prepare)
    # Models open with their first duty: to hash those of an older module may take a minute, and trips begin now.
    stack.push_async_callback(models.close)
    fleet = FleetManager(client, foundation=foundation)
    stack.push_async_callback(fleet.close)
    stack.push_async_callback(connectivity.close)
    return Components(foundation, connectivity, trips, old_queue, scenarios, models, profiles, fleet)


async def _foundation(
    settings: CloudSettings, stack: AsyncExitStack, *, http: httpx.AsyncClient | None, clock: Clock, rng: Random
) -> Foundation:
    store = Store(settings.state_dir, clock=clock, max_bytes=settings.outbox_max_bytes)
    await stack.enter_async_context(store)
    client = CloudAPIClient(settings=settings, http=http, clock=clock, rng=rng)
    await stack.enter_async_context(client)
    await client.refresh_credential()
    timekeeper = Timekeeper(store.documents, clock)
    policy = TransferPolicy(store.documents, settings, clock=clock, timekeeper=timekeeper, supervised=True)
    stack.push_async_callback(policy.close)
    client.on_traffic(policy.count)
    folders = FolderWatch()
    if isinstance(clock, SystemClock):  # the kernel tells at its own pace: under another clock that one's counts
        await stack.enter_async_context(folders)
    return Foundation(client, store, timekeeper, policy, clock, rng, supervised=True, folders=folders)


async def _begin(part: str, prepare: Callable[[], Awaitable[None]]) -> None:
    """Open a part of the agent; one whose own folder cannot be used is down by itself, and its task tries again."""
    try:
        await prepare()
    except (FileError, ProfileError, ScenarioError) as error:
        logger.error("agent.part: %s cannot begin yet, everything else does: %s", part, error)


async def _begin_trips(
    trips: TripUploader, store: Store, settings: CloudSettings, stack: AsyncExitStack, clock: Clock
) -> LegacyQueue:
    """Close the trip that a crash cut off, and take over what the older module had queued."""
    await trips.prepare()
    stack.push_async_callback(trips.checkpoint_step)
    old_queue = LegacyQueue(
        settings.trip_queue_file,
        store,
        kind=TRIP,
        vehicle_id=settings.vehicle_id,
        pseudonym_of=trips.pseudonym_of,
        clock=clock,
    )
    await old_queue.take_over()
    return old_queue
