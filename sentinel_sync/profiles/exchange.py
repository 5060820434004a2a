"""Profiles on their way: fetched, merged, put, and noted, many side by side and in this order for each.

What is merged is kept before it is sent, and what the vehicle is about to be left with is kept before its file is
touched: so whatever is cut off, the next exchange knows of it and counts nothing twice.

The steps are taken by all profiles of a batch together: a crossing into a thread costs more than a profile takes there,
and what many ask of the store at once shares one fsync.
"""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from http import HTTPStatus
from typing import Any

from sentinel_sync.base.errors import (
    HeldError,
    NotNowError,
    PreconditionError,
    ProfileError,
    RejectedError,
    SentinelSyncError,
)
from sentinel_sync.base.tasks import in_own_task
from sentinel_sync.profiles.backend_copy import MAX_ROUNDS, RemoteProfile, RemoteProfiles
from sentinel_sync.profiles.files import SerialExecutor
from sentinel_sync.profiles.keys import Keyring, ProfileCipher
from sentinel_sync.profiles.merge_session import ClockReading, Forgotten, MergeResult, MergeSession, MissingInput
from sentinel_sync.profiles.records import ProfileRecord, ProfileRecords
from sentinel_sync.profiles.rules.descent import Origin, Resolution
from sentinel_sync.store.outbox import Outbox

logger: logging.Logger = logging.getLogger(__name__)

_NOTHING = RemoteProfile()
#: What is said of a profile that was merged: one may want to know why its totals are what they are.
_UNUSUAL = frozenset({Origin.CONTINUED_OLDER, Origin.OLDER_COPY, Origin.RESET})


@dataclass(slots=True)
class ProfileSync:
    """One driver's profile that is to be brought to the backend and back.

    Attributes:
        driver_id: Whose.
        local: This vehicle's profile; None where it has none now.
        keeps_local: True where the vehicle stays with `local`.
        merged: The merged profile, once the backend has it all.
        forgotten: True where the driver was forgotten, and `local` is not a profile begun since.
        error: Why it could not be done.
        record: What is kept of the driver.
        copy: What was fetched in this round.
        merged_result: What came of merging in this round; None where another round is needed.
        etag: The version that the backend holds now, or None.
        needs_whole: Whether the copy is needed even where it has not changed.
        refused_etag: What the backend has just refused as another vehicle's, or None.
        resolution: What a person decided about it, or None.
    """

    driver_id: str
    local: dict[str, Any] | None
    keeps_local: bool = False
    merged: dict[str, Any] | None = None
    forgotten: bool = False
    error: SentinelSyncError | None = None
    record: ProfileRecord | None = None
    copy: RemoteProfile = _NOTHING
    merged_result: MergeResult | None = None
    etag: str | None = None
    needs_whole: bool = False
    refused_etag: str | None = None
    resolution: Resolution | None = None

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.merged is None and not self.forgotten and self.error is None


Step = Callable[[Keyring, ProfileSync], Awaitable[None]]


class ProfileExchange:
    """Brings profiles to the backend and back.

    Args:
        cloud: The backend.
        records: What is kept.
        outbox: Where what went is put on record.
        cipher: The keys.
        executor: Where what computes is done.
        blocked_reason: Says why nothing may be sent now, or None.
        clock_reading: Says what the clocks say.
        vehicle: This vehicle's id.
        workers: So many requests are made side by side.
    """

    def __init__(
        self,
        cloud: RemoteProfiles,
        records: ProfileRecords,
        outbox: Outbox,
        cipher: ProfileCipher,
        executor: SerialExecutor,
        *,
        blocked_reason: Callable[[], Awaitable[str | None]],
        clock_reading: Callable[[], ClockReading],
        vehicle: str,
        workers: int,
    ) -> None:
        self._cloud = cloud
        self._records = records
        self._outbox = outbox
        self._cipher = cipher
        self._executor = executor
        self._blocked_reason = blocked_reason
        self._clock_reading = clock_reading
        self._vehicle = vehicle
        self._workers = workers
        #: The vehicle ids under which two vehicles were seen to write.
        self.shared_vehicle_ids: set[str] = set()

    async def run(self, syncs: Sequence[ProfileSync]) -> None:
        """Do syncs; what became of each stands in it.

        Raises:
            ConfigurationError: There are no keys to be had.
        """
        await in_own_task(self._run(await self._cipher.keyring(), syncs))

    async def _run(self, keyring: Keyring, syncs: Sequence[ProfileSync]) -> None:
        await self._in_turn(self._load, keyring, syncs)
        for reference, resolution in (await self._records.resolutions(keyring)).items():
            for sync in syncs:
                if reference in keyring.references(sync.driver_id):
                    sync.resolution = resolution
        for _ in range(MAX_ROUNDS):
            under_way = [sync for sync in syncs if sync.is_open]
            if not under_way:
                return
            await self._round(keyring, under_way)
        for sync in syncs:
            if sync.is_open:
                sync.error = NotNowError(
                    f"PUT /drivers/{{id}}/profile: other vehicles were faster {MAX_ROUNDS} times; sync it again"
                )

    async def offer(self, driver_id: str) -> dict[str, Any] | None:
        """The backend's profile of a driver, opened; None where there is none.

        Raises:
            CloudError: The backend could not be asked.
            ProfileError: Its copy cannot be used.
            ConfigurationError: There are no keys to be had.
        """
        copy = await self._cloud.fetch(driver_id, None)
        if copy.sealed is None:
            return None
        keyring = await self._cipher.keyring()
        record = await self._records.load(keyring, driver_id)
        session = MergeSession(driver_id, self._vehicle, keyring)
        offer = await self._executor.do(session.offer, copy, record)
        if isinstance(offer, MissingInput):
            session = MergeSession(driver_id, self._vehicle, keyring, await self._cipher.legacy_keyrings())
            offer = await self._executor.do(session.offer, copy, record)
        if isinstance(offer, MissingInput):
            raise ProfileError(f"the backend's copy cannot be opened: it needs {offer}")
        profile, offered = offer
        if offered is not None:
            await self._records.save(keyring, driver_id, offered)
        return profile or None

    async def _round(self, keyring: Keyring, syncs: Sequence[ProfileSync]) -> None:
        if await self._held(syncs):
            return
        await self._concurrently(self._fetch, keyring, syncs)
        await self._merge(keyring, [sync for sync in syncs if sync.is_open])
        await self._in_turn(self._keep, keyring, _ready(syncs))
        sending = [sync for sync, merged_result in _merged(syncs) if merged_result.body is not None]
        if sending and await self._held(sending):
            return
        await self._concurrently(self._put, keyring, sending)
        await self._in_turn(self._settle, keyring, _ready(syncs))

    async def _held(self, syncs: Sequence[ProfileSync]) -> bool:
        why = await self._blocked_reason()
        if why is not None:
            for sync in syncs:
                sync.error = HeldError(f"not sent: {why}")
        return why is not None

    # --- the steps of one round ---

    async def _load(self, keyring: Keyring, sync: ProfileSync) -> None:
        sync.record = await self._records.load(keyring, sync.driver_id)

    async def _fetch(self, _: Keyring, sync: ProfileSync) -> None:
        etag = None if sync.record is None or sync.needs_whole else sync.record.etag
        sync.copy = await self._cloud.fetch(sync.driver_id, etag)

    async def _merge(self, keyring: Keyring, syncs: Sequence[ProfileSync]) -> None:
        results = await self._executor.each(lambda sync: self._merge_one(keyring, sync, None), syncs)
        if MissingInput.LEGACY in results:
            legacy = await self._cipher.legacy_keyrings()
            again = [sync for sync, result in zip(syncs, results, strict=True) if result is MissingInput.LEGACY]
            opened = iter(await self._executor.each(lambda sync: self._merge_one(keyring, sync, legacy), again))
            results = [next(opened) if result is MissingInput.LEGACY else result for result in results]
        for sync, result in zip(syncs, results, strict=True):
            sync.merged_result = None
            match result:
                case MergeResult():
                    sync.merged_result = result
                case Forgotten():
                    await self._forget(keyring, sync, result)
                case SentinelSyncError():
                    sync.error = result
                case _:
                    sync.needs_whole = True

    def _merge_one(
        self, keyring: Keyring, sync: ProfileSync, legacy: tuple[Keyring, ...] | None
    ) -> MergeResult | Forgotten | MissingInput:
        session = MergeSession(sync.driver_id, self._vehicle, keyring, legacy)
        return session.merge(
            sync.copy,
            sync.record,
            sync.local,
            self._clock_reading(),
            keeps_local=sync.keeps_local,
            resolution=sync.resolution,
        )

    async def _forget(self, keyring: Keyring, sync: ProfileSync, forgotten: Forgotten) -> None:
        try:
            await self._records.save(keyring, sync.driver_id, forgotten.record)
        except SentinelSyncError as error:
            sync.error = error
        else:
            sync.record, sync.forgotten = forgotten.record, True

    async def _keep(self, keyring: Keyring, sync: ProfileSync) -> None:
        """Before anything is sent: whatever is lost after this, the next exchange knows of it."""
        merged_result = sync.merged_result
        if merged_result is not None and merged_result.body is not None and merged_result.record != sync.record:
            await self._records.save(keyring, sync.driver_id, merged_result.record)
            sync.record = merged_result.record

    async def _put(self, keyring: Keyring, sync: ProfileSync) -> None:
        merged_result = sync.merged_result
        if merged_result is None or merged_result.body is None:
            return
        # Refused with the ETag that the backend itself has just given: nobody was faster, it cannot be met so.
        cannot_be_met = sync.copy.etag is not None and sync.copy.etag == sync.refused_etag
        former = replace(sync.copy, etag=None) if cannot_be_met else sync.copy
        try:
            sync.etag = await self._cloud.replace(merged_result.body, former)
            size_bytes = len(merged_result.body.encrypted_data)
            await self._outbox.note_sent("profile", keyring.reference(sync.driver_id), size_bytes)
        except PreconditionError:
            sync.refused_etag = former.etag
            sync.merged_result = None  # another vehicle was faster: fetch, merge, put again
            return
        except RejectedError as error:
            if error.status != HTTPStatus.GONE or sync.copy.gone:
                raise
            sync.merged_result = None  # the driver was forgotten since: look again
            return
        if cannot_be_met or (sync.copy.etag is None and sync.etag is None):
            # A backend that knows no conditions: somebody may have written in between.
            copy = await self._cloud.fetch(sync.driver_id, None)
            session = MergeSession(sync.driver_id, self._vehicle, keyring)
            if not await self._executor.do(session.holds, copy, merged_result):
                sync.merged_result = None

    async def _settle(self, keyring: Keyring, sync: ProfileSync) -> None:
        """Before a file is touched: the backend has it all, and this is what the vehicle will be left with."""
        merged_result = sync.merged_result
        if merged_result is None:
            return
        settled = merged_result.settled(sync.copy.etag if merged_result.body is None else sync.etag)
        if settled != sync.record:
            await self._records.save(keyring, sync.driver_id, settled)
        sync.record, sync.merged = settled, merged_result.profile
        if sync.resolution is not None and sync.local is not None:
            await self._records.resolved(keyring, sync.driver_id)
        self._say(keyring.reference(sync.driver_id)[:8], merged_result)

    def _say(self, reference: str, merged_result: MergeResult) -> None:
        """Say what is out of the ordinary, once it is done."""
        if merged_result.origin in _UNUSUAL:
            logger.warning("profiles.descent: profile %s %s", reference, merged_result.origin)
        elif merged_result.origin is Origin.NEW:
            logger.info("profiles.descent: profile %s %s", reference, merged_result.origin)
        for vehicle in set(merged_result.shared_vehicle_ids) - self.shared_vehicle_ids:
            logger.error(
                "profiles.shared_vehicle_id: two vehicles write as %s: a copied image perhaps. Their parts are kept"
                " apart; give each its own vehicle_id",
                vehicle,
            )
        self.shared_vehicle_ids |= set(merged_result.shared_vehicle_ids)

    # --- how ---

    async def _concurrently(self, step: Step, keyring: Keyring, syncs: Sequence[ProfileSync]) -> None:
        waiting, held = iter(syncs), list[HeldError]()

        async def work() -> None:
            for sync in waiting:
                if held:  # the way is closed for all of them
                    sync.error = held[0]
                    continue
                await _attempt(step, keyring, sync)
                if isinstance(sync.error, HeldError):
                    held.append(sync.error)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(syncs), self._workers)):
                group.create_task(work())

    async def _in_turn(self, step: Step, keyring: Keyring, syncs: Sequence[ProfileSync]) -> None:
        """What many ask of the store within one turn of the loop shares one transaction."""
        async with asyncio.TaskGroup() as group:
            for sync in syncs:
                group.create_task(_attempt(step, keyring, sync))


def _merged(syncs: Sequence[ProfileSync]) -> Iterator[tuple[ProfileSync, MergeResult]]:
    return ((sync, sync.merged_result) for sync in syncs if sync.is_open and sync.merged_result is not None)


def _ready(syncs: Sequence[ProfileSync]) -> list[ProfileSync]:
    return [sync for sync, _ in _merged(syncs)]


async def _attempt(step: Step, keyring: Keyring, sync: ProfileSync) -> None:
    try:
        await step(keyring, sync)
    except SentinelSyncError as error:
        # Hundreds are kept until the last has been tried: what they were raised in is not to be kept with them.
        sync.error = error.with_traceback(None)
    except (ValueError, ArithmeticError, TypeError, RecursionError) as error:
        # What somebody wrote into one profile must not stop the others.
        logger.exception("profile.fault: one could not be synced")
        sync.error = ProfileError(f"it cannot be synced as it is ({type(error).__name__})")
