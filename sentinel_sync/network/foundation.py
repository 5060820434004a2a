"""What every feature of one vehicle stands on, and how a feature opens, works and closes: alone or under an agent."""

import asyncio
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from random import Random, SystemRandom

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.folder_watch import FolderWatch
from sentinel_sync.base.tasks import PeriodicTask, Supervisor
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper


@dataclass(frozen=True, slots=True)
class Foundation:
    """The collaborators of every feature.

    Attributes:
        store: The state folder.
        timekeeper: What is known of the true time.
        policy: What the network may cost now.
        supervised: Whether an agent keeps the features' tasks going and closes what they opened.
        folders: Tells of changes in folders, where an agent has opened it.
    """

    client: CloudAPIClient
    store: Store
    timekeeper: Timekeeper
    policy: TransferPolicy
    clock: Clock
    rng: Random
    supervised: bool = False
    folders: FolderWatch = field(default_factory=FolderWatch)

    @classmethod
    def of(
        cls,
        client: CloudAPIClient,
        store: Store | None = None,
        *,
        timekeeper: Timekeeper | None = None,
        policy: TransferPolicy | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
        supervised: bool = False,
    ) -> "Foundation":
        """What stands below a component that is built with nothing but a client, as the specification shows it.

        All components of one client share a store on its `state_dir`, which owns the folder as an agent does, and one
        transfer policy, which charges all that the client sends and receives. Both are closed with the client.

        Args:
            client: The backend.
            store: Another store; on one that was handed in an agent may be running, so that usage is reported to it
                instead of being kept.
            timekeeper: Another timekeeper.
            policy: Another policy.
            clock: The seam for time.
            rng: The seam for chance.
            supervised: Whether somebody else keeps the tasks going.
        """
        clock, settings = clock or SystemClock(), client.settings

        def own_store() -> Store:
            return client.shared(
                Store, lambda: Store(settings.state_dir, clock=clock, max_bytes=settings.outbox_max_bytes)
            )

        chosen = store or own_store()

        def own_policy() -> TransferPolicy:
            made = TransferPolicy(chosen.documents, settings, clock=clock, owner=chosen is own_store())
            client.on_traffic(made.count)
            return made

        policy = policy or client.shared(TransferPolicy, own_policy)
        timekeeper = timekeeper or Timekeeper(chosen.documents, clock)
        return cls(client, chosen, timekeeper, policy, clock, rng or SystemRandom(), supervised)


class Lifecycle:
    """Opens a feature at its first use, runs its tasks where no agent does, and closes it with its client.

    Args:
        foundation: What the feature stands on.
        tasks: What is to be done again and again.
        opening: Awaited once the store is open; again after `close`.
        closing: Awaited when the background has ended.
    """

    def __init__(
        self,
        foundation: Foundation,
        tasks: Sequence[PeriodicTask],
        *,
        opening: Callable[[], Awaitable[None]],
        closing: Callable[[], Awaitable[None]] | None = None,
    ) -> None:
        self.tasks: tuple[PeriodicTask, ...] = tuple(tasks)
        self._foundation = foundation
        self._opening = opening
        self._closing = closing
        self._background = Supervisor(foundation.clock, foundation.rng)
        self._lock = asyncio.Lock()
        self._prepared = False
        self._closes_with_client = False

    async def prepare(self) -> None:
        """Open what is needed; does nothing where that was done.

        Raises:
            StoreError: The state folder cannot be used.
        """
        async with self._lock:
            if not self._prepared:
                await self._foundation.store.open()
                await self._opening()
                self._close_with_client()
                self._prepared = True

    def start(self) -> "asyncio.Future[None]":
        """Do the tasks in the running loop; may be awaited. Under an agent there is nothing to be done."""
        if self._foundation.supervised:
            return self._background.start([])
        self._close_with_client()
        return self._background.start(self.tasks)

    async def stop(self) -> None:
        """End what `start` began, within `shutdown_timeout`."""
        await self._background.stop(grace=self._foundation.client.settings.shutdown_timeout)

    async def close(self) -> None:
        """End the background and whatever else is under way; the store stays open. A later use opens anew."""
        self._closes_with_client = False
        await self.stop()
        if self._closing is not None and self._prepared:
            await self._closing()
        self._prepared = False

    def _close_with_client(self) -> None:
        if not self._foundation.supervised and not self._closes_with_client:
            self._closes_with_client = True
            self._foundation.client.close_with(self.close)
