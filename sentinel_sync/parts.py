"""All that an agent consists of, built once, in order: client, store, services. Leaving undoes it backwards."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass
from random import Random

import httpx

from sentinel_sync.adapters.cloud_api_client import CloudAPIClient
from sentinel_sync.adapters.store import Store
from sentinel_sync.adapters.timekeeper import Timekeeper
from sentinel_sync.clock import Clock
from sentinel_sync.services.legacy_queue import take_over
from sentinel_sync.services.offline_manager import OfflineManager
from sentinel_sync.services.trip_uploader import KIND as TRIP
from sentinel_sync.services.trip_uploader import TripUploader
from sentinel_sync.settings import CloudSettings
from sentinel_sync.supervisor import Duty

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Parts:
    """The collaborators of one agent."""

    client: CloudAPIClient
    store: Store
    timekeeper: Timekeeper
    connectivity: OfflineManager
    trips: TripUploader

    @property
    def duties(self) -> tuple[Duty, ...]:
        """What the supervisor keeps doing, for all services."""
        return (self.connectivity.monitor, self.trips.upload, self.trips.checkpoint)

    @property
    def syncs(self) -> tuple[Callable[[], Awaitable[object]], ...]:
        """What sends, most important first."""
        return (self.trips.sync_now,)


async def build(
    settings: CloudSettings,
    stack: AsyncExitStack,
    *,
    http: httpx.AsyncClient | None,
    clock: Clock,
    rng: Random,
) -> Parts:
    """Build and open everything; what was opened is closed when `stack` is left, also after a failure in between.

    Raises:
        ConfigurationError: A key or certificate cannot be read.
        StoreError: The state folder cannot be used, or is another agent's (StateLockedError).
    """
    store = Store(settings.state_dir, clock=clock, max_bytes=settings.outbox_max_bytes)
    await stack.enter_async_context(store)
    client = CloudAPIClient(settings=settings, http=http, clock=clock, rng=rng)
    await stack.enter_async_context(client)
    await client.refresh_credential()
    timekeeper = Timekeeper(store.documents, clock)
    trips = TripUploader(client, store, timekeeper=timekeeper, supervised=True, clock=clock, rng=rng)
    await trips.prepare()
    stack.push_async_callback(trips.checkpoint_step)
    await take_over(
        settings.trip_queue_file,
        store,
        kind=TRIP,
        vehicle_id=settings.vehicle_id,
        pseudonym_of=trips.pseudonym_of,
        clock=clock,
    )
    connectivity = OfflineManager(client, on_probe=timekeeper.observe, clock=clock, rng=rng)
    stack.push_async_callback(connectivity.close)
    return Parts(client, store, timekeeper, connectivity, trips)
