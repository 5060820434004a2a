"""Forgets a driver: here at once, then at the backend, for as long as that takes."""

import logging
from collections.abc import Awaitable, Callable
from contextlib import AbstractAsyncContextManager
from dataclasses import replace

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import (
    NotNowError,
    PreconditionError,
    ProfileError,
    SentinelSyncError,
    StoreError,
    UnreachableError,
)
from sentinel_sync.profiles.backend_copy import MAX_ROUNDS, Deletion, RemoteProfile, RemoteProfiles
from sentinel_sync.profiles.commands import ALL, ForgetCommand, ForgetCommands, SyncCommand, SyncCommands
from sentinel_sync.profiles.files import ProfileFile, ProfileFolder, SerialExecutor
from sentinel_sync.profiles.keys import Keyring, ProfileCipher
from sentinel_sync.profiles.merge_session import ClockReading, MergeSession
from sentinel_sync.profiles.records import ProfileRecords
from sentinel_sync.profiles.rules.envelope import put_right

logger: logging.Logger = logging.getLogger(__name__)

#: On a backend that knows neither deletion nor conditions a tombstone is looked at again after so many seconds: by then
#: whatever another vehicle had on its way, and did not know of the tombstone, has arrived.
CONFIRM_AFTER = 120.0
_UNREADABLE = "{} to forget a driver cannot be read, because the key that sealed it is gone: give it again"


class Forgetter:
    """Forgets drivers. Whoever calls holds the driver's lock.

    Args:
        cloud: The backend.
        records: What is kept of drivers.
        orders: What is still to be done.
        folder: Where the profiles lie.
        executor: Where what computes is done.
        vehicle: This vehicle's id.
        clock: For the confirmation.
    """

    def __init__(
        self,
        cloud: RemoteProfiles,
        records: ProfileRecords,
        orders: ForgetCommands,
        folder: ProfileFolder,
        executor: SerialExecutor,
        *,
        vehicle: str,
        clock: Clock,
    ) -> None:
        self._cloud = cloud
        self._records = records
        self._commands = orders
        self._folder = folder
        self._executor = executor
        self._vehicle = vehicle
        self._clock = clock
        self._placed: dict[str, float] = {}

    async def forget_here(self, keyring: Keyring, driver_id: str, clock_reading: ClockReading) -> ForgetCommand:
        """Forget a driver on this vehicle, and write down that the backend is to be told.

        Raises:
            StoreError: The order cannot be written; nothing was done.
            ProfileError: The file cannot be removed; the order stands.
        """
        record, file = await self._records.load(keyring, driver_id), await self._read(driver_id)
        local = None if file is None else file.profile
        order = await self._executor.do(self._session(keyring, driver_id).order, record, local, clock_reading.now)
        await self._commands.save(keyring, order)
        await self.go_on_here(keyring, order, clock_reading)
        return order

    async def go_on_here(self, keyring: Keyring, order: ForgetCommand, clock_reading: ClockReading) -> None:
        """Do on this vehicle what an order says, where it was not done or the profile is back.

        Raises:
            ProfileError: The file cannot be removed; the order stands.
        """
        driver_id = order.driver_id
        session, record = self._session(keyring, driver_id), await self._records.load(keyring, driver_id)
        file = await self._read(driver_id)
        local = None if file is None else file.profile
        if record is not None and await self._executor.do(session.knows_of, record, order.at):
            if local is None or not await self._executor.do(session.was_forgotten, record, local, clock_reading):
                return
        else:
            forgotten = await self._executor.do(session.forgotten, record, order.at, local, clock_reading.here)
            await self._records.save(keyring, driver_id, forgotten.record)
        await self._executor.do(self._folder.remove, driver_id)

    async def forget_there(self, keyring: Keyring, order: ForgetCommand, clock_reading: ClockReading) -> bool:
        """Have the backend forget; True where it has, False where that is to be looked at again later.

        Raises:
            CloudError: The backend could not be told; the order stands.
        """
        order = replace(order, at=put_right(order.at, order.after, clock_reading.true_now))
        session, refused = self._session(keyring, order.driver_id), ""
        for _ in range(MAX_ROUNDS):
            copy = await self._fetch(order.driver_id)
            if copy.gone and (order.asked or not order.deletes):
                await self._done(keyring, order, copy.forgotten or order.at)
                return True
            if await self._executor.do(_has_forgotten, session, copy, order.at):
                if copy.etag is None and not self._confirmed(order):
                    return False
                await self._done(keyring, order, order.at)
                return True
            if copy.etag == refused:
                copy = replace(copy, etag=None)  # nobody was faster: the backend cannot be met so (wire contract)
            try:
                order = await self._tell(keyring, session, order, copy, clock_reading.now)
            except PreconditionError:
                refused = copy.etag or ""  # another vehicle was faster, perhaps: look again
        raise NotNowError(f"DELETE /drivers/{{id}}/profile: other vehicles were faster {MAX_ROUNDS} times")

    async def _fetch(self, driver_id: str) -> RemoteProfile:
        try:
            return await self._cloud.fetch(driver_id, None)
        except ProfileError:
            return RemoteProfile()  # something is there that is no profile: it goes as well

    async def _tell(
        self, keyring: Keyring, session: MergeSession, order: ForgetCommand, copy: RemoteProfile, now: int
    ) -> ForgetCommand:
        """Delete it; where that is not offered, or leaves nothing for the other vehicles to see, put a tombstone."""
        if order.deletes and not (order.asked and not copy.exists):
            try:
                if await self._cloud.delete(order.driver_id, copy) is Deletion.DONE:
                    return replace(order, asked=True)
            except UnreachableError:
                await self._commands.save(keyring, replace(order, asked=True))
                raise
            order = replace(order, deletes=False)
            # An answer of 501 pauses the client: what it said must not be forgotten till then.
            await self._commands.save(keyring, order)
            if copy.gone:
                return order
        await self._cloud.replace(await self._executor.do(session.tombstone, order.at, now), copy)
        return order

    def _confirmed(self, order: ForgetCommand) -> bool:
        now = self._clock.monotonic()
        return now - self._placed.setdefault(order.driver_id, now) >= CONFIRM_AFTER

    async def _done(self, keyring: Keyring, order: ForgetCommand, at: int) -> None:
        """Take over the time that the other vehicles will see, and end the order."""
        record = await self._records.load(keyring, order.driver_id)
        session = self._session(keyring, order.driver_id)
        if record is not None and not await self._executor.do(session.knows_exactly, record, at):
            forgotten = await self._executor.do(session.forgotten, record, at, None, 0)
            await self._records.save(keyring, order.driver_id, forgotten.record)
        await self._commands.done(keyring, order.driver_id)
        self._placed.pop(order.driver_id, None)
        logger.info("profiles.forgotten: the backend has forgotten profile %s", keyring.reference(order.driver_id)[:8])

    async def _read(self, driver_id: str) -> ProfileFile | None:
        try:
            return await self._executor.do(self._folder.read, driver_id)
        except ProfileError:
            return None  # it goes all the same

    def _session(self, keyring: Keyring, driver_id: str) -> MergeSession:
        return MergeSession(driver_id, self._vehicle, keyring)


def _has_forgotten(session: MergeSession, copy: RemoteProfile, at: int) -> bool:
    try:
        return session.has_forgotten(copy, at)
    except ProfileError:
        return False  # nobody can read it: it goes all the same


class ProfileCommandRunner:
    """Orders, in the order of their importance.

    Args:
        forgetter: Forgets.
        forget_orders: Whom.
        sync_orders: What the command line asked for.
        cipher: The keys.
        lock: Holds one driver's profile.
        clock_reading: Says what the clocks say.

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
        clock_reading: Callable[[], ClockReading],
    ) -> None:
        self._forgetter = forgetter
        self._forget_orders = forget_orders
        self._sync_orders = sync_orders
        self._cipher = cipher
        self._lock = lock
        self._clock_reading = clock_reading
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
            return await self._forgetter.forget_here(keyring, driver_id, self._clock_reading())

    async def look(self) -> None:
        """Take in what was ordered, also by other processes, and see that it is done on this vehicle."""
        before = self.forgetting
        if not await self._forget_orders.any():
            self.forgetting, self.unreadable, self.reason = self.forgetting - before, 0, None
            return
        keyring = await self._cipher.keyring()
        orders, self.unreadable = await self._forget_orders.all(keyring)
        # With those that were placed while this was read, and are not all on disk yet.
        self.forgetting = frozenset(order.driver_id for order in orders) | (self.forgetting - before)
        if self.unreadable:
            self.reason = _UNREADABLE.format("an order" if self.unreadable == 1 else f"{self.unreadable} orders")
        for order in orders:
            async with self._lock(order.driver_id):
                await self._forgetter.go_on_here(keyring, order, self._clock_reading())

    async def is_forgotten_everywhere(self, driver_id: str) -> bool:
        """Whether nothing is left to be told about a driver, by what is on disk."""
        return not await self._forget_orders.find(await self._cipher.keyring(), driver_id)

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
                    if await self._forgetter.forget_there(keyring, order, self._clock_reading()):
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
