"""What lies in the folder of profiles, what of it the backend does not have yet, and why."""

import logging
from collections.abc import Awaitable, Callable, Iterable, Mapping, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import dataclass

from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    ProfileError,
    RejectedError,
    SentinelSyncError,
    StoreError,
)
from sentinel_sync.profiles.exchange import ProfileExchange, ProfileSync
from sentinel_sync.profiles.files import ProfileFile, ProfileFolder, SerialExecutor, Signature
from sentinel_sync.profiles.keys import Keyring, ProfileCipher
from sentinel_sync.profiles.merge_session import ClockReading, MergeSession
from sentinel_sync.profiles.records import ProfileRecord, ProfileRecords

logger: logging.Logger = logging.getLogger(__name__)

#: The profile manager may write so many times while a profile is being synced, before it waits for the next turn.
_MAX_READS = 3

#: What became of a file: it is as the backend has it; it is gone, or changes too fast; it cannot be synced.
Outcome = Signature | SentinelSyncError | None
#: So many profiles take each step together: what they take in memory (a file has at most 1 MiB), and what each may have
#: to wait, is bounded. One batch after the other: where a second one computed while the first made its requests, each
#: request waited for the interpreter, and 1,000 profiles took 6.9 s instead of 4.
_BATCH = 64


class FolderState:
    """Remembers which files are as the backend has them. A restart forgets it: then all are looked at again."""

    def __init__(self) -> None:
        self._files: dict[str, Signature] = {}
        self._synced: dict[str, Signature] = {}
        self._unusable: dict[str, Signature] = {}
        self._failed: dict[str, str] = {}

    def look(self, files: Mapping[str, Signature]) -> None:
        """Take in what lies there now."""
        self._files = dict(files)
        for remembered in (self._synced, self._unusable, self._failed):
            for driver_id in remembered.keys() - files.keys():
                del remembered[driver_id]

    @property
    def all(self) -> list[str]:
        """Whose profiles lie there."""
        return sorted(self._files)

    def changed(self) -> list[str]:
        """Whose file has changed since it was synced, or found to be of no use."""
        return sorted(
            driver_id
            for driver_id, signature in self._files.items()
            if signature not in {self._synced.get(driver_id), self._unusable.get(driver_id)}
        )

    def note(self, driver_id: str, outcome: Signature | SentinelSyncError | None) -> None:
        """Take in what became of a file."""
        match outcome:
            case SentinelSyncError():
                self._failed[driver_id] = str(outcome)
                if isinstance(outcome, ProfileError | RejectedError) and driver_id in self._files:
                    self._unusable[driver_id] = self._files[driver_id]
            case None:
                self._failed.pop(driver_id, None)
            case signature:
                self._synced[driver_id] = self._files[driver_id] = signature
                self._unusable.pop(driver_id, None)
                self._failed.pop(driver_id, None)

    @property
    def unsent(self) -> int:
        """How many files have changes that the backend does not have, as far as this process knows."""
        return sum(self._synced.get(driver_id) != signature for driver_id, signature in self._files.items())

    @property
    def failing(self) -> int:
        """How many could not be synced at the last try."""
        return len(self._failed)

    def reason_for(self, driver_ids: Iterable[str]) -> str | None:
        """Why the first of these that failed could not be synced."""
        return next((self._failed[driver_id] for driver_id in driver_ids if driver_id in self._failed), None)

    @property
    def reason(self) -> str | None:
        """Why, of the last one."""
        return next(reversed(self._failed.values()), None)


@dataclass(frozen=True, slots=True)
class _Left:
    """What the vehicle is left with.

    Attributes:
        signature: Of the file; None where it has changed meanwhile, or is gone.
        record: What is to be kept, where that has changed.
        error: Why the file could not be replaced.
    """

    signature: Signature | None
    record: ProfileRecord | None = None
    error: ProfileError | None = None


class FileSync:
    """Syncs batches of files.

    Args:
        folder: Where they lie.
        exchange: Brings them to the backend and back.
        records: What is kept.
        cipher: The keys.
        executor: Where what blocks or computes is done.
        vehicle: This vehicle's id.
        clock_reading: Says what the clocks say.
    """

    def __init__(
        self,
        folder: ProfileFolder,
        exchange: ProfileExchange,
        records: ProfileRecords,
        cipher: ProfileCipher,
        executor: SerialExecutor,
        *,
        vehicle: str,
        clock_reading: Callable[[], ClockReading],
    ) -> None:
        self._folder = folder
        self._exchange = exchange
        self._records = records
        self._cipher = cipher
        self._executor = executor
        self._vehicle = vehicle
        self._clock_reading = clock_reading

    async def run(self, driver_ids: Sequence[str]) -> dict[str, Outcome]:
        """Sync files; whoever calls holds the drivers' locks.

        Raises:
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._cipher.keyring()
        outcomes: dict[str, Outcome] = {}
        left = list(driver_ids)
        for _ in range(_MAX_READS):
            outcomes |= dict.fromkeys(left)
            if not left:
                break
            found = await self._executor.each(self._folder.read, left)
            read = {id_: file for id_, file in zip(left, found, strict=True) if isinstance(file, ProfileFile)}
            outcomes |= {id_: e for id_, e in zip(left, found, strict=True) if isinstance(e, SentinelSyncError)}
            syncs = [ProfileSync(driver_id, file.profile) for driver_id, file in read.items()]
            await self._exchange.run(syncs)
            left = await self._leave(keyring, syncs, read, outcomes)
        return outcomes

    async def settle(self) -> None:
        """Find out what was left undone when the power went, before anybody drives on.

        A profile that was driven on afterwards can descend from the one before or from the merged one, and its totals
        alone need not tell from which.

        Raises:
            StoreError: It cannot be noted.
        """
        unsettled = await self._records.unsettled()
        if not unsettled:
            return
        try:
            keyring = await self._cipher.keyring()
        except ConfigurationError:
            return  # the next sync says so; a vehicle whose key is not there yet must start all the same
        for record in unsettled:
            try:
                driver_id, settled = await self._executor.do(self._settled, keyring, record)
            except ProfileError:
                continue  # its key is gone, or the file is of no use: the next sync says so
            if settled != record:
                await self._records.save(keyring, driver_id, settled)

    def _settled(self, keyring: Keyring, record: ProfileRecord) -> tuple[str, ProfileRecord]:
        driver_id = keyring.open(record.whose or "").decode()
        file = self._folder.read(driver_id)
        if file is None:
            return driver_id, record
        return driver_id, MergeSession(driver_id, self._vehicle, keyring).settled(record, file.profile)

    async def remove_forgotten(self, driver_id: str) -> bool:
        """Remove a file of a driver that is known here as forgotten, without asking anybody; True where it was one."""
        keyring = await self._cipher.keyring()
        record = await self._records.load(keyring, driver_id)
        if record is None or record.whose is not None:
            return False
        session = MergeSession(driver_id, self._vehicle, keyring)
        return await self._executor.do(self._remove_forgotten, session, record, self._clock_reading())

    def _remove_forgotten(self, session: MergeSession, record: ProfileRecord, clock_reading: ClockReading) -> bool:
        file = self._folder.read(session.driver_id)
        if file is None or not session.was_forgotten(record, file.profile, clock_reading):
            return False
        return self._folder.remove(session.driver_id, file)

    async def leave(self, driver_id: str, file: ProfileFile, sync: ProfileSync) -> None:
        """Leave the vehicle with the merged profile, where its file is still the one that was read.

        Raises:
            ProfileError: The file cannot be written.
            StoreError: It cannot be noted.
        """
        outcomes: dict[str, Outcome] = {}
        await self._leave(await self._cipher.keyring(), [sync], {driver_id: file}, outcomes)
        outcome = outcomes.get(driver_id)
        if isinstance(outcome, SentinelSyncError):
            raise outcome

    async def _leave(
        self, keyring: Keyring, syncs: Sequence[ProfileSync], read: dict[str, ProfileFile], outcomes: dict[str, Outcome]
    ) -> list[str]:
        """Leave the vehicle with the merged profiles; returns whose file has changed meanwhile."""
        outcomes |= {sync.driver_id: sync.error for sync in syncs if sync.error is not None}
        done = [sync for sync in syncs if sync.error is None]
        changed: list[str] = []
        results = await self._executor.each(lambda sync: self._left(keyring, sync, read[sync.driver_id]), done)
        for sync, result in zip(done, results, strict=True):
            if isinstance(result, SentinelSyncError):
                outcomes[sync.driver_id] = result
                continue
            if result.record is not None:
                await self._records.save(keyring, sync.driver_id, result.record)
            if result.error is not None:
                outcomes[sync.driver_id] = result.error
            elif result.signature is not None:
                outcomes[sync.driver_id] = result.signature
            elif not sync.forgotten:
                changed.append(sync.driver_id)
        return changed

    def _left(self, keyring: Keyring, sync: ProfileSync, file: ProfileFile) -> _Left:
        if sync.merged is None or sync.record is None:
            self._folder.remove(sync.driver_id, file)
            return _Left(None)
        # Its own fields only: the profile manager reads exactly them.
        profile = {name: sync.merged[name] for name in file.profile}
        if profile == file.profile:
            return _Left(file.signature)
        session = MergeSession(sync.driver_id, self._vehicle, keyring)
        try:
            signature = self._folder.replace(sync.driver_id, profile, file)
        except ProfileError as error:
            return _Left(None, session.left(sync.record, replaced=False), error)
        return _Left(signature, session.left(sync.record, replaced=signature is not None))


class FolderSync:
    """One folder's files, synced as many as are asked for.

    Args:
        folder: Where they lie.
        files: Syncs a batch.
        cipher: The keys.
        executor: Where what blocks is done.
        lock: Holds one driver's profile.
        held_reason: Says why nothing may be sent now, or None.

    Attributes:
        watch: What lies in the folder and what of it the backend has.
    """

    def __init__(
        self,
        folder: ProfileFolder,
        files: FileSync,
        cipher: ProfileCipher,
        executor: SerialExecutor,
        *,
        lock: Callable[[str], AbstractAsyncContextManager[None]],
        held_reason: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._folder = folder
        self._files = files
        self._cipher = cipher
        self._executor = executor
        self._lock = lock
        self._held_reason = held_reason
        self.watch: FolderState = FolderState()

    async def look(self) -> None:
        """Take in what lies in the folder now.

        Raises:
            ProfileError: It cannot be read.
        """
        self.watch.look(await self._executor.do(self._folder.signatures))

    async def sync(self, driver_ids: Sequence[str]) -> int:
        """Sync these drivers' files; returns how many are now as the backend has them.

        One that cannot be used is reported in the log and costs only itself. It ends early where the way to the backend
        is closed.

        Raises:
            StoreError: What is to be kept cannot be.
            ConfigurationError: There are no keys to be had.
        """
        if not driver_ids:
            return 0
        keyring = await self._cipher.keyring()  # a missing key is one error, not one per profile
        outcomes: dict[str, Outcome] = {}
        for start in range(0, len(driver_ids), _BATCH):
            done = await self._batch(driver_ids[start : start + _BATCH])
            outcomes |= done
            if await self._held_reason() is not None or any(isinstance(one, StoreError) for one in done.values()):
                break
        errors = [outcome for outcome in outcomes.values() if isinstance(outcome, SentinelSyncError)]
        for driver_id, outcome in outcomes.items():
            self._note(keyring, driver_id, outcome)
        if errors:
            logger.warning("profiles.left: %d of %d not synced; the first: %s", len(errors), len(driver_ids), errors[0])
        return sum(isinstance(outcome, tuple) for outcome in outcomes.values())

    async def _batch(self, driver_ids: Sequence[str]) -> dict[str, Outcome]:
        async with AsyncExitStack() as stack:
            for driver_id in driver_ids:
                await stack.enter_async_context(self._lock(driver_id))
            return await self._files.run(driver_ids)

    async def remove_forgotten(self) -> None:
        """Remove files of drivers that are known here as forgotten, without asking anybody.

        Raises:
            StoreError: What is known cannot be read.
        """
        for driver_id in self.watch.changed():
            async with self._lock(driver_id):
                try:
                    await self._files.remove_forgotten(driver_id)
                except StoreError:
                    raise
                except SentinelSyncError as error:  # a broken file of one driver must not keep the others' from going
                    self.watch.note(driver_id, error)

    def _note(self, keyring: Keyring, driver_id: str, outcome: Outcome) -> None:
        self.watch.note(driver_id, outcome)
        match outcome:
            case StoreError():
                raise outcome
            case CloudError():
                return  # one line for all of them: it is the network's fault
            case SentinelSyncError():
                logger.warning("profiles.unusable: profile %s: %s", keyring.reference(driver_id)[:8], outcome)
