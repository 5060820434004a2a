"""Syncs profiles that lie as files in the profiles' folder, where the vehicle's manager reads and writes them."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass

from sentinel_sync.base.errors import ConfigurationError, ProfileError, SentinelSyncError
from sentinel_sync.profiles.cipher import Keyring, ProfileCipher
from sentinel_sync.profiles.exchange import Errand, ProfileExchange
from sentinel_sync.profiles.executor import SerialExecutor
from sentinel_sync.profiles.files import ProfileFile, ProfileFolder, Signature
from sentinel_sync.profiles.merge_session import Instant, MergeSession
from sentinel_sync.profiles.records import ProfileRecord, ProfileRecords

#: The profile manager may write so many times while a profile is being synced, before it waits for the next turn.
_MAX_READS = 3

#: What became of a file: it is as the backend has it; it is gone, or changes too fast; it cannot be synced.
Outcome = Signature | SentinelSyncError | None


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
        bench: Where what blocks or computes is done.
        vehicle: This vehicle's id.
        instant: Says what the clocks say.
    """

    def __init__(
        self,
        folder: ProfileFolder,
        exchange: ProfileExchange,
        records: ProfileRecords,
        cipher: ProfileCipher,
        bench: SerialExecutor,
        *,
        vehicle: str,
        instant: Callable[[], Instant],
    ) -> None:
        self._folder = folder
        self._exchange = exchange
        self._records = records
        self._cipher = cipher
        self._bench = bench
        self._vehicle = vehicle
        self._instant = instant

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
            found = await self._bench.each(self._folder.read, left)
            read = {id_: file for id_, file in zip(left, found, strict=True) if isinstance(file, ProfileFile)}
            outcomes |= {id_: e for id_, e in zip(left, found, strict=True) if isinstance(e, SentinelSyncError)}
            errands = [Errand(driver_id, file.profile) for driver_id, file in read.items()]
            await self._exchange.run(errands)
            left = await self._leave(keyring, errands, read, outcomes)
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
                driver_id, settled = await self._bench.do(self._settled, keyring, record)
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
        desk = MergeSession(driver_id, self._vehicle, keyring)
        return await self._bench.do(self._remove_forgotten, desk, record, self._instant())

    def _remove_forgotten(self, desk: MergeSession, record: ProfileRecord, instant: Instant) -> bool:
        file = self._folder.read(desk.driver_id)
        if file is None or not desk.was_forgotten(record, file.profile, instant):
            return False
        return self._folder.remove(desk.driver_id, file)

    async def leave(self, driver_id: str, file: ProfileFile, errand: Errand) -> None:
        """Leave the vehicle with the merged profile, where its file is still the one that was read.

        Raises:
            ProfileError: The file cannot be written.
            StoreError: It cannot be noted.
        """
        outcomes: dict[str, Outcome] = {}
        await self._leave(await self._cipher.keyring(), [errand], {driver_id: file}, outcomes)
        outcome = outcomes.get(driver_id)
        if isinstance(outcome, SentinelSyncError):
            raise outcome

    async def _leave(
        self, keyring: Keyring, errands: Sequence[Errand], read: dict[str, ProfileFile], outcomes: dict[str, Outcome]
    ) -> list[str]:
        """Leave the vehicle with the merged profiles; returns whose file has changed meanwhile."""
        outcomes |= {errand.driver_id: errand.error for errand in errands if errand.error is not None}
        done = [errand for errand in errands if errand.error is None]
        changed: list[str] = []
        results = await self._bench.each(lambda errand: self._left(keyring, errand, read[errand.driver_id]), done)
        for errand, result in zip(done, results, strict=True):
            if isinstance(result, SentinelSyncError):
                outcomes[errand.driver_id] = result
                continue
            if result.record is not None:
                await self._records.save(keyring, errand.driver_id, result.record)
            if result.error is not None:
                outcomes[errand.driver_id] = result.error
            elif result.signature is not None:
                outcomes[errand.driver_id] = result.signature
            elif not errand.forgotten:
                changed.append(errand.driver_id)
        return changed

    def _left(self, keyring: Keyring, errand: Errand, file: ProfileFile) -> _Left:
        if errand.merged is None or errand.record is None:
            self._folder.remove(errand.driver_id, file)
            return _Left(None)
        # Its own fields only: the profile manager reads exactly them.
        profile = {name: errand.merged[name] for name in file.profile}
        if profile == file.profile:
            return _Left(file.signature)
        desk = MergeSession(errand.driver_id, self._vehicle, keyring)
        try:
            signature = self._folder.replace(errand.driver_id, profile, file)
        except ProfileError as error:
            return _Left(None, desk.left(errand.record, replaced=False), error)
        return _Left(signature, desk.left(errand.record, replaced=signature is not None))
