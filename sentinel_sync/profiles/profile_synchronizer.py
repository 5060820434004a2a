"""`ProfileSynchronizer`: each driver's profile, encrypted, the same in every vehicle of the fleet."""

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from datetime import UTC, datetime
from random import Random
from typing import Any
from weakref import WeakValueDictionary

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import HeldError, ProfileError
from sentinel_sync.base.folder_watch import WATCHED_INTERVAL
from sentinel_sync.base.tasks import PeriodicTask
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation, Lifecycle
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.profiles.backend_copy import RemoteProfiles
from sentinel_sync.profiles.commands import ForgetCommands, SyncCommand, SyncCommands
from sentinel_sync.profiles.exchange import ProfileExchange, ProfileSync
from sentinel_sync.profiles.files import ProfileFolder, SerialExecutor
from sentinel_sync.profiles.folder_sync import FileSync, FolderSync
from sentinel_sync.profiles.forgetting import Forgetter, ProfileCommandRunner
from sentinel_sync.profiles.keys import KeyProvider, LegacyKeys, ProfileCipher, key_provider
from sentinel_sync.profiles.merge_session import ClockReading, MergeSession, open_profile
from sentinel_sync.profiles.records import ProfileRecords, ProfilesStatus
from sentinel_sync.profiles.rules.descent import Keep
from sentinel_sync.profiles.rules.envelope import detached
from sentinel_sync.profiles.rules.fields import canonical, checked_id, read_profile
from sentinel_sync.store.store import Store

logger: logging.Logger = logging.getLogger(__name__)

#: The profiles' folder is looked at so often, seconds: a change is sent within it.
WATCH_INTERVAL = 10.0


class ProfileSynchronizer:
    """Uploads, downloads and merges driver profiles; nobody but the fleet's vehicles can read them on the way.

    Methods that need the backend raise CloudError where it could not be asked; what this vehicle has is then as it was,
    and goes with the next sync. They raise ProfileError where a profile cannot be used: the local one is then untouched
    and the backend's not overwritten; and ConfigurationError where there are no keys to be had.

    Args:
        api_client: The backend.
        store: Where this vehicle's part of the merge state lies, encrypted; by default that of the client's
            `state_dir`.
        keys: Where the fleet's keys come from; by default from the settings.
        foundation: What the agent's features share; by default what the client's components share.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        store: Store | None = None,
        *,
        keys: KeyProvider | None = None,
        foundation: Foundation | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client = api_client
        self._settings = settings = api_client.settings
        foundation = foundation or Foundation.of(api_client, store, clock=clock, rng=rng)
        self._clock = clock = foundation.clock
        self._store = store = foundation.store
        self._policy = foundation.policy
        self._timekeeper = foundation.timekeeper
        self._vehicle = vehicle = settings.vehicle_id
        self._executor = executor = SerialExecutor(clock)
        self._cipher = cipher = ProfileCipher(
            keys or key_provider(settings, clock),
            LegacyKeys([vehicle, *settings.profile_legacy_vehicle_ids]),
        )
        cloud = RemoteProfiles(api_client)
        self._records = records = ProfileRecords(store.documents)
        self._folder = folder = ProfileFolder(settings.profiles_dir)
        self._exchange = exchange = ProfileExchange(
            cloud,
            records,
            store.outbox,
            cipher,
            executor,
            blocked_reason=self._blocked_reason,
            clock_reading=self._clock_reading,
            vehicle=vehicle,
            # The other half of the places is for trips; and the pool looks at each idle connection at each request.
            workers=max(1, settings.max_in_flight // 2),
        )
        self._files = files = FileSync(
            folder, exchange, records, cipher, executor, vehicle=vehicle, clock_reading=self._clock_reading
        )
        self._folder_sync = FolderSync(
            folder, files, cipher, executor, lock=self._one_at_a_time, held_reason=self._held_reason
        )
        forget_orders = ForgetCommands(store.documents)
        self._commands = ProfileCommandRunner(
            Forgetter(cloud, records, forget_orders, folder, executor, vehicle=vehicle, clock=clock),
            forget_orders,
            SyncCommands(store.documents),
            cipher,
            lock=self._one_at_a_time,
            clock_reading=self._clock_reading,
        )
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        self._all_due = 0.0
        self._was_away = False
        self._held: str | None = None
        self._synced_at: float | None = None
        self.synchronize: PeriodicTask = PeriodicTask("profiles.synchronize", self.step)
        self._folders = foundation.folders
        foundation.policy.subscribe(self.synchronize.wake.set)
        self._life = Lifecycle(foundation, [self.synchronize], opening=self._open)

    # --- the specification's ---

    async def upload_profile(self, driver_id: str, profile_data: Mapping[str, Any]) -> bool:
        """Bring this vehicle's profile of a driver to the backend, merged with what is there. No file is touched.

        Returns:
            True: the backend has it.

        Raises:
            CloudError: It could not be sent.
            ProfileError: The profile, or the backend's copy, cannot be used; or the driver was forgotten since the
                profile was begun.
            ValueError: `driver_id` is no id.
        """
        await self._check_allowed()
        async with self._one_at_a_time(driver_id):
            local = await self._executor.do(_own_copy, profile_data, driver_id)
            await self._run(ProfileSync(driver_id, local, keeps_local=True))
        return True

    async def download_profile(self, driver_id: str) -> dict[str, Any] | None:
        """The backend's profile of a driver, decrypted; None where there is none. Nothing local is touched.

        Raises:
            CloudError: The backend could not be asked.
            ProfileError: Its copy cannot be used.
            ValueError: `driver_id` is no id.
        """
        await self._check_allowed()
        async with self._one_at_a_time(driver_id):
            return await self._exchange.offer(driver_id)

    async def sync_profile(self, driver_id: str, local_profile: Mapping[str, Any]) -> dict[str, Any]:
        """Merge this vehicle's profile of a driver with the backend's, both ways.

        Where the driver has a file in `profiles_dir` that says what `local_profile` says, it is replaced by the merged
        one (its own fields only).

        Returns:
            The merged profile.

        Raises:
            CloudError: The backend could not be asked; nothing has changed.
            ProfileError: The profile, or the backend's copy, cannot be used; nothing has changed. Or the driver was
                forgotten since the profile was begun.
            ValueError: `driver_id` is no id.
        """
        await self._check_allowed()
        async with self._one_at_a_time(driver_id):
            local = await self._executor.do(_own_copy, local_profile, driver_id)
            sync = ProfileSync(driver_id, local)
            merged = await self._run(sync)
            try:
                file = await self._executor.do(self._folder.read, driver_id)
            except ProfileError:
                return merged  # a file of no use is not the caller's profile; the folder's own sync reports it
            if file is not None and file.profile == local:
                await self._files.leave(driver_id, file, sync)
            return merged

    async def sync_all_profiles(self) -> int:
        """Sync every profile in `profiles_dir`; returns how many are now as the backend has them.

        One that cannot be used is reported in the log and costs only itself; so is an outage.

        Raises:
            StoreError: The state folder cannot be written.
            ConfigurationError: There are no keys to be had.
            ProfileError: The folder of profiles cannot be read.
        """
        if not self._settings.sync_profiles:
            logger.info("profiles.disabled: cloud.sync_profiles is false: nothing is sent")
            return 0
        await self.prepare()
        await self._folder_sync.look()
        wanted = self._not_forgotten(self._folder_sync.watch.all)
        synced = await self._folder_sync.sync(wanted)
        if synced == len(wanted):
            self._synced_at = self._clock.now()
        await self._sync_records()
        return synced

    async def encrypt_profile(self, profile_data: Mapping[str, Any]) -> str:
        """Encrypt a profile with the newest key, as a Fernet token.

        Raises:
            ProfileError: It is no profile.
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._cipher.keyring()
        return await self._executor.do(lambda: keyring.seal(canonical(detached(profile_data)).encode()))

    async def decrypt_profile(self, encrypted_data: str) -> dict[str, Any]:
        """Decrypt what `encrypt_profile`, another vehicle of the fleet, or the older module encrypted.

        Raises:
            ProfileError: Tampered with, cut off, or encrypted with a key that is not here.
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._cipher.keyring()
        try:
            return await self._executor.do(open_profile, (keyring,), encrypted_data)
        except ProfileError:
            legacy = await self._cipher.legacy_keyrings()
            return await self._executor.do(open_profile, (*legacy, keyring), encrypted_data)

    # --- where a person decides ---

    async def resolve_profile(self, driver_id: str, keep: str) -> None:
        """Decide what a driver's totals are where nothing tells; the next sync of the driver's file carries it out.

        Args:
            driver_id: Whose.
            keep: `local`: the file's are the totals, in every vehicle. `fleet`: what the file says counts nothing.
                `sum`: it counts on top of the fleet's.

        Raises:
            ProfileError: The driver's file cannot be used, or there is none.
            StoreError: It cannot be written down.
            ConfigurationError: There are no keys to be had.
            ValueError: `driver_id` is no id, or `keep` none of these.
        """
        checked_id(driver_id)
        await self.prepare()
        keyring = await self._cipher.keyring()
        async with self._one_at_a_time(driver_id):
            file = await self._executor.do(self._folder.read, driver_id)
            if file is None:
                raise ProfileError("there is nothing to decide: the driver has no file here")
            session = MergeSession(driver_id, self._vehicle, keyring)
            resolution = await self._executor.do(session.resolution, Keep(keep), file.profile)
            await self._records.resolve(keyring, driver_id, resolution)

    # --- the right to be forgotten ---

    async def forget_profile(self, driver_id: str) -> bool:
        """Forget a driver: here when this returns, at the backend at once or as soon as it can be told.

        The profile's file and what the store knows of the driver are gone then; a restart forgets no order.

        Returns:
            Whether the backend has forgotten the driver too.

        Raises:
            StoreError: It cannot be written down; nothing was done.
            ProfileError: The file cannot be removed; the rest is done, and this is tried again.
            ConfigurationError: There are no keys to be had.
            ValueError: `driver_id` is no id.
        """
        checked_id(driver_id)
        await self.prepare()
        await self._commands.forget(driver_id)
        if await self._held_reason() is None:
            await self._commands.tell()
        return await self._commands.is_forgotten_everywhere(driver_id)

    # --- for the agent, and for one component alone ---

    async def sync_now(self) -> int:
        """Sync the profiles that changed since they were last synced; returns how many are now as the backend's."""
        if not self._settings.sync_profiles:
            return 0
        await self.prepare()
        await self._folder_sync.look()
        return await self._folder_sync.sync(self._not_forgotten(self._folder_sync.watch.changed()))

    async def sync_ordered(self, driver_id: str | None = None) -> SyncCommand:
        """Do now what an operator asks for: sync one driver's file, or all, and tell the backend whom to forget.

        Raises:
            StoreError: The state folder cannot be written.
            ConfigurationError: There are no keys to be had.
            ProfileError: The folder of profiles cannot be read.
            ValueError: `driver_id` is no id.
        """
        await self.prepare()
        await self._folder_sync.look()
        await self._commands.look()
        if await self._held_reason() is None:
            await self._commands.tell()
        if driver_id is None:
            return await self._sync_as_asked(None)
        keyring = await self._cipher.keyring()
        return await self._sync_as_asked(keyring.reference(checked_id(driver_id)))

    def start_background_sync(self) -> "asyncio.Future[None]":
        """Sync every `sync_interval` seconds and after a profile changes, in the running loop; may be awaited."""
        return self._life.start()

    async def stop_background_sync(self) -> None:
        """End what `start_background_sync` began; what has not been sent goes with the next sync."""
        await self._life.stop()

    async def step(self) -> float:
        """Do what is due; returns the seconds until the next look."""
        await self.prepare()
        await self._folder_sync.look()
        await self._commands.look()
        await self._commands.answer(self._sync_as_asked)
        why = await self._held_reason()
        if why is not None:
            # What other vehicles did meanwhile is not known: all is due when the way is free again.
            self._was_away = True
            await self._folder_sync.remove_forgotten()
            return min(await self._watch_interval(), self._settings.sync_interval)
        await self._commands.tell()
        now = self._clock.monotonic()
        if now >= self._all_due or self._was_away:
            self._was_away = False
            await self.sync_all_profiles()
            self._all_due = now + self._settings.sync_interval
        else:
            await self.sync_now()
        return min(await self._watch_interval(), max(0.0, self._all_due - now))

    async def _watch_interval(self) -> float:
        """Until the next look at the folder, seconds: later where its changes are told and nothing is left to send."""
        is_told = await self._folders.follows(self._settings.profiles_dir, self.synchronize.wake.set)
        return WATCHED_INTERVAL if is_told and not self.snapshot().unsent else WATCH_INTERVAL

    def snapshot(self) -> ProfilesStatus:
        """What there is to show, as of the last look: counts only, because an id is personal."""
        synced_at = None if self._synced_at is None else datetime.fromtimestamp(self._synced_at, UTC)
        waiting, watch = len(self._commands.forgetting) + self._commands.unreadable, self._folder_sync.watch
        return ProfilesStatus(
            profiles=len(watch.all),
            unsent=watch.unsent + waiting,
            failing=watch.failing,
            to_forget=waiting,
            held=self._held,
            reason=watch.reason or (self._commands.reason if waiting else None),
            synced_at=synced_at,
            keys=self._cipher.source,
            warning=self._shared_vehicle_id() or self._cipher.warning,
        )

    async def prepare(self) -> None:
        """Open what is needed; done by itself at first use.

        Raises:
            StoreError: The state folder cannot be used.
        """
        await self._life.prepare()

    # --- how ---

    async def _open(self) -> None:
        await self._executor.do(self._folder.sweep)
        await self._files.settle()

    def _shared_vehicle_id(self) -> str | None:
        shared = sorted(self._exchange.shared_vehicle_ids)
        return f"two vehicles write as {', '.join(shared)}: give each its own vehicle_id" if shared else None

    async def _sync_records(self) -> None:
        """Bring what is known of drivers who have no file here now: what was not sent yet, and a forgetting."""
        if await self._held_reason() is not None or not await self._records.any():
            return  # a vehicle without profiles needs no key
        keyring = await self._cipher.keyring()
        for record in await self._records.besides(keyring, {*self._folder_sync.watch.all, *self._commands.forgetting}):
            try:
                driver_id = (await self._executor.do(keyring.open, record.whose or "")).decode()
            except ProfileError:
                continue  # its key is gone: nobody can read it
            async with self._one_at_a_time(driver_id):
                sync = ProfileSync(driver_id, None)
                await self._exchange.run([sync])
            if sync.error is not None:
                reference = keyring.reference(driver_id)[:8]
                logger.warning("profiles.left: profile %s, which has no file here: %s", reference, sync.error)

    async def _sync_as_asked(self, reference: str | None) -> SyncCommand:
        """Sync the files of one driver, by reference, or of all."""
        why, watch = await self._held_reason(), self._folder_sync.watch
        wanted = watch.all
        if reference is not None:
            keyring = await self._cipher.keyring()
            wanted = [driver_id for driver_id in wanted if reference in keyring.references(driver_id)]
        wanted = self._not_forgotten(wanted)
        synced = 0 if why is not None else await self._folder_sync.sync(wanted)
        return SyncCommand(0.0, synced, why if why is not None else watch.reason_for(wanted), len(wanted))

    def _not_forgotten(self, driver_ids: Sequence[str]) -> list[str]:
        return [driver_id for driver_id in driver_ids if driver_id not in self._commands.forgetting]

    async def _run(self, sync: ProfileSync) -> dict[str, Any]:
        await self._exchange.run([sync])
        if sync.error is not None:
            raise sync.error
        if sync.merged is None:
            raise ProfileError(
                "the driver was forgotten, and nothing shows that this profile was begun since: it is not sent"
            )
        return sync.merged

    @asynccontextmanager
    async def _one_at_a_time(self, driver_id: str) -> AsyncIterator[None]:
        checked_id(driver_id)
        lock = self._locks.get(driver_id)
        if lock is None:
            lock = self._locks[driver_id] = asyncio.Lock()
        async with lock:
            yield

    async def _check_allowed(self) -> None:
        if not self._settings.sync_profiles:
            raise HeldError("not sent: cloud.sync_profiles is false")
        await self.prepare()
        held = await self._blocked_reason()
        if held is not None:
            raise HeldError(f"not sent: {held}")

    async def _blocked_reason(self) -> str | None:
        return await self._policy.blocked_reason(TrafficClass.PROFILES)

    async def _held_reason(self) -> str | None:
        """Why nothing may be sent now, whoever says so."""
        passage = self._client.gate.passage(self._clock.monotonic())
        if not self._settings.sync_profiles:
            self._held = "cloud.sync_profiles is false"
        else:
            self._held = await self._blocked_reason() if passage.open else passage.why
        return self._held

    def _clock_reading(self) -> ClockReading:
        """Wall time, put right where the backend's is known."""
        return ClockReading.of(self._clock.now(), self._timekeeper.skew())


def _own_copy(profile: Mapping[str, Any], driver_id: str) -> dict[str, Any]:
    """A caller's profile as JSON brings it back, valid."""
    copy = detached(profile)
    read_profile(copy, driver_id)
    return copy
