"""`ProfileSynchronizer`: each driver's profile, encrypted, the same in every vehicle of the fleet."""

import asyncio
import logging
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager
from random import Random, SystemRandom
from typing import Any, TypeVar
from weakref import WeakValueDictionary

from sentinel_sync.adapters.cloud.cloud_api_client import CloudAPIClient
from sentinel_sync.adapters.profiles.cipher import Keyring, ProfileCipher
from sentinel_sync.adapters.profiles.cloud import ProfileCloud, SealedCopy
from sentinel_sync.adapters.profiles.desk import ProfileDesk, Woven, open_profile
from sentinel_sync.adapters.profiles.files import ProfileFile, ProfileFolder, Signature
from sentinel_sync.adapters.profiles.keys import KeyProvider, LegacyKeys, key_provider
from sentinel_sync.adapters.profiles.records import ProfileRecord, ProfileRecords, reference
from sentinel_sync.adapters.store.store import Store
from sentinel_sync.adapters.timekeeper import Timekeeper
from sentinel_sync.adapters.traffic.desk import TrafficDesk
from sentinel_sync.clock import Clock, SystemClock
from sentinel_sync.errors import (
    CloudError,
    HeldError,
    NotNowError,
    PreconditionError,
    ProfileError,
    RejectedError,
    StoreError,
)
from sentinel_sync.rules.profiles.envelope import detached
from sentinel_sync.rules.profiles.fields import canonical, checked_id, read_profile
from sentinel_sync.rules.traffic import Traffic
from sentinel_sync.services.standalone import desk_of, store_of
from sentinel_sync.supervisor import Duty, Supervisor

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: The profiles' folder is looked at so often, seconds: a change is sent within it.
WATCH_INTERVAL = 10.0
#: Other vehicles may be faster so many times in a row before the profile waits for the next turn.
MAX_ROUNDS = 6
#: The profile manager may write so many times while a profile is being synced, before it waits for the next turn.
_MAX_READS = 3


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
        timekeeper: What is known of the true time.
        supervised: True where somebody else (the agent) sees to `synchronize`.
        clock: The seam for time.
        rng: The seam for chance.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        store: Store | None = None,
        *,
        keys: KeyProvider | None = None,
        timekeeper: Timekeeper | None = None,
        traffic: TrafficDesk | None = None,
        supervised: bool = False,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client = api_client
        self._settings = settings = api_client.settings
        self._clock = clock or SystemClock()
        self._store = store or store_of(api_client, self._clock)
        self._traffic = traffic or desk_of(api_client, self._store, self._clock)
        self._traffic.subscribe(self._on_traffic)
        self._records = ProfileRecords(self._store)
        self._cloud = ProfileCloud(api_client)
        self._timekeeper = timekeeper
        self._vehicle = settings.vehicle_id
        self._cipher = ProfileCipher(
            keys or key_provider(settings, self._clock),
            LegacyKeys([settings.vehicle_id, *settings.profile_legacy_vehicle_ids]),
        )
        self._folder = ProfileFolder(settings.profiles_dir)
        self._supervised = supervised
        self._background = Supervisor(self._clock, rng or SystemRandom())
        self._aside_one_by_one = asyncio.Lock()
        self._locks: WeakValueDictionary[str, asyncio.Lock] = WeakValueDictionary()
        #: Files as they were when last synced, and as they were when found unusable.
        self._synced: dict[str, Signature] = {}
        self._unusable: dict[str, Signature] = {}
        self._all_due = 0.0
        self._prepared = False
        self._preparing = asyncio.Lock()
        self.synchronize = Duty("profiles.synchronize", self.step)

    # --- the specification's ---

    async def upload_profile(self, driver_id: str, profile_data: Mapping[str, Any]) -> bool:
        """Bring this vehicle's profile of a driver to the backend, merged with what is there. No file is touched.

        Returns:
            True: the backend has it.

        Raises:
            CloudError: It could not be sent.
            ProfileError: The profile, or the backend's copy, cannot be used.
            ValueError: `driver_id` is no id.
        """
        self._check_allowed()
        async with self._one_at_a_time(driver_id):
            local = await self._aside(_own_copy, profile_data, driver_id)
            await self._exchange(driver_id, local, keeps_local=True)
        return True

    async def download_profile(self, driver_id: str) -> dict[str, Any] | None:
        """The backend's profile of a driver, decrypted; None where there is none. Nothing local is touched.

        Raises:
            CloudError: The backend could not be asked.
            ProfileError: Its copy cannot be used.
            ValueError: `driver_id` is no id.
        """
        self._check_allowed()
        async with self._one_at_a_time(driver_id):
            copy = await self._cloud.fetch(driver_id, None)
            if copy.sealed is None:
                return None
            await self.prepare()
            record = await self._records.load(driver_id)
            desk = await self._desk(driver_id, copy, record)
            profile, offered = await self._aside(desk.offer, copy.sealed, record)
            if offered is not None:
                await self._records.save(driver_id, offered)
            return profile

    async def sync_profile(self, driver_id: str, local_profile: Mapping[str, Any]) -> dict[str, Any]:
        """Merge this vehicle's profile of a driver with the backend's, both ways.

        Where the driver has a file in `profiles_dir` that says what `local_profile` says, it is replaced by the merged
        one (its own fields only).

        Returns:
            The merged profile.

        Raises:
            CloudError: The backend could not be asked; nothing has changed.
            ProfileError: The profile, or the backend's copy, cannot be used; nothing has changed.
            ValueError: `driver_id` is no id.
        """
        self._check_allowed()
        async with self._one_at_a_time(driver_id):
            local = await self._aside(_own_copy, local_profile, driver_id)
            merged = await self._exchange(driver_id, local)
            file = await self._aside(self._folder.read, driver_id)
            if file is not None and file.profile == local:
                await self._leave(driver_id, file, merged)
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
        files = await self._aside(self._folder.signatures)
        self._forget_missing(files)
        return await self._sync_files(files)

    async def encrypt_profile(self, profile_data: Mapping[str, Any]) -> str:
        """Encrypt a profile with the newest key, as a Fernet token.

        Raises:
            ProfileError: It is no profile.
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._cipher.keyring()
        return await self._aside(lambda: keyring.seal(canonical(detached(profile_data)).encode()))

    async def decrypt_profile(self, encrypted_data: str) -> dict[str, Any]:
        """Decrypt what `encrypt_profile`, another vehicle of the fleet, or the older module encrypted.

        Raises:
            ProfileError: Tampered with, cut off, or encrypted with a key that is not here.
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._cipher.keyring()
        try:
            return await self._aside(open_profile, (keyring,), encrypted_data)
        except ProfileError:
            legacy = await self._cipher.legacy_keyrings()
            return await self._aside(open_profile, (*legacy, keyring), encrypted_data)

    # --- for the agent, and for one component alone ---

    async def sync_now(self) -> int:
        """Sync the profiles that changed since they were last synced; returns how many are now as the backend's."""
        if not self._settings.sync_profiles or await self._traffic.why_held(Traffic.PROFILES) is not None:
            return 0
        files = await self._aside(self._folder.signatures)
        self._forget_missing(files)
        changed = {
            driver_id: signature
            for driver_id, signature in files.items()
            if signature not in {self._synced.get(driver_id), self._unusable.get(driver_id)}
        }
        return await self._sync_files(changed)

    def _on_traffic(self) -> None:
        self.synchronize.wake.set()

    def start_background_sync(self) -> "asyncio.Future[None]":
        """Sync every `sync_interval` seconds and after a profile changes, in the running loop; may be awaited."""
        return self._background.start([self.synchronize])

    async def stop_background_sync(self) -> None:
        """End what `start_background_sync` began; what has not been sent goes with the next sync."""
        await self._background.stop(grace=self._settings.shutdown_timeout)

    async def step(self) -> float:
        """Sync what is due; returns the seconds until the next look."""
        if not self._settings.sync_profiles:
            return self._settings.sync_interval
        now = self._clock.monotonic()
        passage = self._client.gate.passage(now)
        if not passage.open:
            return self._settings.sync_interval if passage.wait is None else passage.wait
        if now < self._all_due:
            await self.sync_now()
            return min(WATCH_INTERVAL, max(0.0, self._all_due - now))
        await self.sync_all_profiles()
        # What an outage kept back counts as changed, so it needs no other turn of all.
        self._all_due = now + self._settings.sync_interval
        return min(WATCH_INTERVAL, self._settings.sync_interval)

    async def prepare(self) -> None:
        """Open what is needed; done by itself at first use.

        Raises:
            StoreError: The state folder cannot be used.
        """
        async with self._preparing:
            if not self._prepared:
                await self._store.open()
                if not self._supervised:
                    self._client.close_with(self._close)
                self._prepared = True

    # --- files ---

    async def _sync_files(self, files: Mapping[str, Signature]) -> int:
        if not files:
            return 0
        await self.prepare()
        await self._cipher.keyring()  # a missing key is one error, not one per profile
        waiting = iter(sorted(files.items()))
        async with asyncio.TaskGroup() as group:
            workers = [
                group.create_task(self._work(waiting))
                for _ in range(min(len(files), self._client.settings.max_in_flight))
            ]
        done = [worker.result() for worker in workers]
        synced = sum(count for count, _ in done)
        errors = [error for _, found in done for error in found]
        for error in errors:
            if isinstance(error, StoreError):
                raise error
        if errors:
            logger.warning("profiles.left: %d of %d not synced; the first: %s", len(errors), len(files), errors[0])
        else:
            logger.debug("profiles.synced: %d", synced)
        return synced

    async def _work(self, waiting: Iterator[tuple[str, Signature]]) -> tuple[int, list[Exception]]:
        synced, errors = 0, list[Exception]()
        for driver_id, signature in waiting:
            try:
                async with self._one_at_a_time(driver_id):
                    synced += await self._sync_file(driver_id)
            except (ProfileError, RejectedError) as error:
                self._unusable[driver_id] = signature
                logger.warning("profiles.unusable: profile %s: %s", reference(driver_id)[:8], error)
                errors.append(error)
            except (CloudError, StoreError) as error:
                errors.append(error)
        return synced, errors

    async def _sync_file(self, driver_id: str) -> bool:
        """Sync one file; False where it is gone, or changes faster than it can be synced."""
        for _ in range(_MAX_READS):
            file = await self._aside(self._folder.read, driver_id)
            if file is None:
                return False
            merged = await self._exchange(driver_id, file.profile)
            if await self._leave(driver_id, file, merged):
                return True
        return False

    async def _leave(self, driver_id: str, file: ProfileFile, merged: Mapping[str, Any]) -> bool:
        """Leave the vehicle with the merged profile; False where the file has changed meanwhile."""
        # Its own fields only: the profile manager reads exactly them.
        profile = {name: merged[name] for name in file.profile}
        signature: Signature | None = file.signature
        if profile != file.profile:
            try:
                signature = await self._aside(self._folder.replace, driver_id, profile, file)
            except ProfileError:
                await self._note_left(driver_id, replaced=False)
                raise
            await self._note_left(driver_id, replaced=signature is not None)
        if signature is None:
            return False
        self._synced[driver_id] = signature
        self._unusable.pop(driver_id, None)
        return True

    async def _note_left(self, driver_id: str, *, replaced: bool) -> None:
        record = await self._records.load(driver_id)
        if record is not None:
            desk = await self._desk(driver_id, SealedCopy(), record)
            await self._records.save(driver_id, await self._aside(desk.left, record, replaced=replaced))

    def _forget_missing(self, files: Mapping[str, Signature]) -> None:
        for remembered in (self._synced, self._unusable):
            for driver_id in remembered.keys() - files.keys():
                del remembered[driver_id]

    # --- one driver ---

    async def _exchange(self, driver_id: str, local: dict[str, Any], *, keeps_local: bool = False) -> dict[str, Any]:
        """Bring a local profile into the fleet's, and the fleet's here; returns the merged profile."""
        await self.prepare()
        record, whole = await self._records.load(driver_id), False
        for _ in range(MAX_ROUNDS):
            copy = await self._cloud.fetch(driver_id, None if record is None or whole else record.etag)
            desk = await self._desk(driver_id, copy, record)
            woven = await self._aside(desk.weave, copy, record, local, self._now(), keeps_local=keeps_local)
            whole = woven is None
            if woven is None:
                continue
            if woven.body is None:
                return await self._settle(driver_id, woven, copy.etag, record)
            if woven.record != record:
                # Before anything is sent: whatever is lost after this, the next sync knows of it.
                await self._records.save(driver_id, woven.record)
                record = woven.record
            try:
                etag = await self._cloud.replace(woven.body, copy)
            except PreconditionError:
                continue  # another vehicle was faster: fetch, merge, put again
            if copy.etag is not None or etag is not None or await self._holds(desk, woven):
                return await self._settle(driver_id, woven, etag, record)
        raise NotNowError(f"PUT /drivers/{{id}}/profile: other vehicles were faster {MAX_ROUNDS} times; sync it again")

    async def _settle(
        self, driver_id: str, woven: Woven, etag: str | None, record: ProfileRecord | None
    ) -> dict[str, Any]:
        """Note, before a file is touched, that the backend has it all and what the vehicle will be left with."""
        settled = woven.settled(etag)
        if settled != record:
            await self._records.save(driver_id, settled)
        return woven.profile

    async def _holds(self, desk: ProfileDesk, woven: Woven) -> bool:
        """Check after writing to a backend that knows no conditions: somebody may have written in between."""
        copy = await self._cloud.fetch(desk.driver_id, None)
        return await self._aside(desk.holds, copy, woven)

    # --- small ---

    async def _desk(self, driver_id: str, copy: SealedCopy, record: ProfileRecord | None) -> ProfileDesk:
        """The keys for one driver; the older module's only where its profile may be what was fetched."""
        keyring = await self._cipher.keyring()
        legacy: tuple[Keyring, ...] = ()
        if copy.sealed is not None and (record is None or record.plain is not None):
            try:
                await self._aside(keyring.open, copy.sealed)
            except ProfileError:
                legacy = await self._cipher.legacy_keyrings()
        return ProfileDesk(driver_id, self._vehicle, keyring, legacy)

    async def _aside(self, work: Callable[..., Result], *arguments: Any, **named: Any) -> Result:
        """Do what blocks or computes in a thread; one at a time, because each such thread takes turns with the loop."""
        async with self._aside_one_by_one:
            return await asyncio.to_thread(work, *arguments, **named)

    @asynccontextmanager
    async def _one_at_a_time(self, driver_id: str) -> AsyncIterator[None]:
        checked_id(driver_id)
        lock = self._locks.get(driver_id)
        if lock is None:
            lock = self._locks[driver_id] = asyncio.Lock()
        async with lock:
            yield

    def _check_allowed(self) -> None:
        if not self._settings.sync_profiles:
            raise HeldError("not sent: cloud.sync_profiles is false")

    def _now(self) -> int:
        """Wall time, put right where the backend's is known; microseconds since the epoch."""
        ahead = None if self._timekeeper is None else self._timekeeper.skew()
        return max(0, round((self._clock.now() - (ahead or 0.0)) * 1_000_000))

    async def _close(self) -> None:
        await self.stop_background_sync()
        self._prepared = False


def _own_copy(profile: Mapping[str, Any], driver_id: str) -> dict[str, Any]:
    """A caller's profile as JSON brings it back, valid."""
    copy = detached(profile)
    read_profile(copy, driver_id)
    return copy
