"""Does what was ordered and could not be done at once: forgetting at the backend, syncing for the command line."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from sentinel_sync.base.errors import SentinelSyncError, StoreError
from sentinel_sync.profiles.cipher import ProfileCipher
from sentinel_sync.profiles.commands import ALL, ForgetCommand, ForgetCommands, SyncCommand, SyncCommands
from sentinel_sync.profiles.forgetter import Forgetter
from sentinel_sync.profiles.merge_session import Instant

logger = logging.getLogger(__name__)

_UNREADABLE = "{} to forget a driver cannot be read, because the key that sealed it is gone: give it again"


class ProfileCommandRunner:
    """Orders, in the order of their importance.

    Args:
        forgetter: Forgets.
        forget_orders: Whom.
        sync_orders: What the command line asked for.
        cipher: The keys.
        lock: Holds one driver's profile.
        instant: Says what the clocks say.

    Attributes:
        forgetting: How many drivers are still to be forgotten at the backend.
        reason: Why the last of them could not be, or None.
    """

    def __init__(
        self,
        forgetter: Forgetter,
        forget_orders: ForgetCommands,
        sync_orders: SyncCommands,
        cipher: ProfileCipher,
        *,
        lock: Callable[[str], AbstractAsyncContextManager[None]],
        instant: Callable[[], Instant],
    ) -> None:
        self._forgetter = forgetter
        self._forget_orders = forget_orders
        self._sync_orders = sync_orders
        self._cipher = cipher
        self._lock = lock
        self._instant = instant
        self.forgetting: frozenset[str] = frozenset()
        self.unreadable = 0
        self.reason: str | None = None

    async def forget(self, driver_id: str) -> ForgetCommand:
        """Forget a driver on this vehicle, and write down that the backend is to be told.

        Raises:
            ConfigurationError: There are no keys to be had.
            StoreError: It cannot be written down.
            ProfileError: The file cannot be removed.
        """
        keyring = await self._cipher.keyring()
        async with self._lock(driver_id):
            self.forgetting |= {driver_id}
            return await self._forgetter.forget_here(keyring, driver_id, self._instant())

    async def look(self) -> None:
        """Take in what was ordered, also by other processes, and see that it is done on this vehicle."""
        if not await self._forget_orders.any():
            self.forgetting, self.unreadable, self.reason = frozenset(), 0, None
            return
        keyring = await self._cipher.keyring()
        orders, self.unreadable = await self._forget_orders.all(keyring)
        self.forgetting = frozenset(order.driver_id for order in orders)
        if self.unreadable:
            self.reason = _UNREADABLE.format("an order" if self.unreadable == 1 else f"{self.unreadable} orders")
        for order in orders:
            async with self._lock(order.driver_id):
                await self._forgetter.go_on_here(keyring, order, self._instant())

    async def tell(self) -> None:
        """Tell the backend whom to forget.

        Raises:
            StoreError: It cannot be noted.
        """
        if not self.forgetting:
            return
        keyring = await self._cipher.keyring()
        orders, _ = await self._forget_orders.all(keyring)
        for order in orders:
            try:
                async with self._lock(order.driver_id):
                    if await self._forgetter.forget_there(keyring, order, self._instant()):
                        self.forgetting -= {order.driver_id}
            except StoreError:
                raise
            except SentinelSyncError as error:
                self.reason = str(error)
                reference = keyring.reference(order.driver_id)[:8]
                logger.warning(
                    "profiles.to_forget: profile %s is not forgotten at the backend yet: %s", reference, error
                )

    async def answer(self, sync: Callable[[str | None], Awaitable[SyncCommand]]) -> None:
        """Do what the command line asked for.

        Args:
            sync: Given a driver's reference, or None for all; says what came of it.
        """
        for key, order in (await self._sync_orders.waiting()).items():
            done = await sync(None if key == ALL else key)
            await self._sync_orders.answer(key, replace(done, asked_at=order.asked_at))
