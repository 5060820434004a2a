"""Profiles on their way: fetched, merged, put, and noted, many side by side and in this order for each.

What is merged is kept before it is sent, and what the vehicle is about to be left with is kept before its file is
touched: so whatever is cut off, the next exchange knows of it and counts nothing twice.

The steps are taken by all profiles of a batch together: a crossing into a thread costs more than a profile takes there,
and what many ask of the store at once shares one fsync.
"""

import asyncio
from collections.abc import Awaitable, Callable, Iterator, Sequence
from dataclasses import dataclass
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
from sentinel_sync.profiles.backend_copy import ProfileCloud, SealedCopy
from sentinel_sync.profiles.cipher import Keyring, ProfileCipher
from sentinel_sync.profiles.executor import SerialExecutor
from sentinel_sync.profiles.merge_session import Forgotten, Instant, MergeResult, MergeSession, Need
from sentinel_sync.profiles.records import ProfileRecord, ProfileRecords

#: Other vehicles may be faster so many times in a row before the profile waits for the next turn.
MAX_ROUNDS = 6

_NOTHING = SealedCopy()


@dataclass(slots=True)
class Errand:
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
        woven: What came of merging in this round; None where another round is needed.
        etag: The version that the backend holds now, or None.
        needs_whole: Whether the copy is needed even where it has not changed.
    """

    driver_id: str
    local: dict[str, Any] | None
    keeps_local: bool = False
    merged: dict[str, Any] | None = None
    forgotten: bool = False
    error: SentinelSyncError | None = None
    record: ProfileRecord | None = None
    copy: SealedCopy = _NOTHING
    woven: MergeResult | None = None
    etag: str | None = None
    needs_whole: bool = False

    @property
    def is_open(self) -> bool:
        """Whether there is still something to do."""
        return self.merged is None and not self.forgotten and self.error is None


Step = Callable[[Keyring, Errand], Awaitable[None]]


class ProfileExchange:
    """Brings profiles to the backend and back.

    Args:
        cloud: The backend.
        records: What is kept.
        cipher: The keys.
        bench: Where what computes is done.
        blocked_reason: Says why nothing may be sent now, or None.
        instant: Says what the clocks say.
        vehicle: This vehicle's id.
        workers: So many requests are made side by side.
    """

    def __init__(
        self,
        cloud: ProfileCloud,
        records: ProfileRecords,
        cipher: ProfileCipher,
        bench: SerialExecutor,
        *,
        blocked_reason: Callable[[], Awaitable[str | None]],
        instant: Callable[[], Instant],
        vehicle: str,
        workers: int,
    ) -> None:
        self._cloud = cloud
        self._records = records
        self._cipher = cipher
        self._bench = bench
        self._blocked_reason = blocked_reason
        self._instant = instant
        self._vehicle = vehicle
        self._workers = workers

    async def run(self, errands: Sequence[Errand]) -> None:
        """Do errands; what became of each stands in it.

        Raises:
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._cipher.keyring()
        await self._at_once(self._load, keyring, errands)
        for _ in range(MAX_ROUNDS):
            under_way = [errand for errand in errands if errand.is_open]
            if not under_way:
                return
            await self._round(keyring, under_way)
        for errand in errands:
            if errand.is_open:
                errand.error = NotNowError(
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
        desk = MergeSession(driver_id, self._vehicle, keyring)
        offer = await self._bench.do(desk.offer, copy, record)
        if isinstance(offer, Need):
            desk = MergeSession(driver_id, self._vehicle, keyring, await self._cipher.legacy_keyrings())
            offer = await self._bench.do(desk.offer, copy, record)
        if isinstance(offer, Need):
            raise ProfileError(f"the backend's copy cannot be opened: it needs {offer}")
        profile, offered = offer
        if offered is not None:
            await self._records.save(keyring, driver_id, offered)
        return profile or None

    async def _round(self, keyring: Keyring, errands: Sequence[Errand]) -> None:
        if await self._held(errands):
            return
        await self._side_by_side(self._fetch, keyring, errands)
        await self._weave(keyring, [errand for errand in errands if errand.is_open])
        await self._at_once(self._keep, keyring, _ready(errands))
        sending = [errand for errand, woven in _woven(errands) if woven.body is not None]
        if sending and await self._held(sending):
            return
        await self._side_by_side(self._put, keyring, sending)
        await self._at_once(self._settle, keyring, _ready(errands))

    async def _held(self, errands: Sequence[Errand]) -> bool:
        why = await self._blocked_reason()
        if why is not None:
            for errand in errands:
                errand.error = HeldError(f"not sent: {why}")
        return why is not None

    # --- the steps of one round ---

    async def _load(self, keyring: Keyring, errand: Errand) -> None:
        errand.record = await self._records.load(keyring, errand.driver_id)

    async def _fetch(self, _: Keyring, errand: Errand) -> None:
        etag = None if errand.record is None or errand.needs_whole else errand.record.etag
        errand.copy = await self._cloud.fetch(errand.driver_id, etag)

    async def _weave(self, keyring: Keyring, errands: Sequence[Errand]) -> None:
        results = await self._bench.each(lambda errand: self._on_desk(keyring, errand, None), errands)
        if Need.LEGACY in results:
            legacy = await self._cipher.legacy_keyrings()
            again = [errand for errand, result in zip(errands, results, strict=True) if result is Need.LEGACY]
            opened = iter(await self._bench.each(lambda errand: self._on_desk(keyring, errand, legacy), again))
            results = [next(opened) if result is Need.LEGACY else result for result in results]
        for errand, result in zip(errands, results, strict=True):
            errand.woven = None
            match result:
                case MergeResult():
                    errand.woven = result
                case Forgotten():
                    await self._forget(keyring, errand, result)
                case SentinelSyncError():
                    errand.error = result
                case _:
                    errand.needs_whole = True

    def _on_desk(
        self, keyring: Keyring, errand: Errand, legacy: tuple[Keyring, ...] | None
    ) -> MergeResult | Forgotten | Need:
        desk = MergeSession(errand.driver_id, self._vehicle, keyring, legacy)
        return desk.weave(errand.copy, errand.record, errand.local, self._instant(), keeps_local=errand.keeps_local)

    async def _forget(self, keyring: Keyring, errand: Errand, forgotten: Forgotten) -> None:
        try:
            await self._records.save(keyring, errand.driver_id, forgotten.record)
        except SentinelSyncError as error:
            errand.error = error
        else:
            errand.record, errand.forgotten = forgotten.record, True

    async def _keep(self, keyring: Keyring, errand: Errand) -> None:
        """Before anything is sent: whatever is lost after this, the next exchange knows of it."""
        woven = errand.woven
        if woven is not None and woven.body is not None and woven.record != errand.record:
            await self._records.save(keyring, errand.driver_id, woven.record)
            errand.record = woven.record

    async def _put(self, keyring: Keyring, errand: Errand) -> None:
        woven = errand.woven
        if woven is None or woven.body is None:
            return
        try:
            errand.etag = await self._cloud.replace(woven.body, errand.copy)
        except PreconditionError:
            errand.woven = None  # another vehicle was faster: fetch, merge, put again
            return
        except RejectedError as error:
            if error.status != HTTPStatus.GONE or errand.copy.gone:
                raise
            errand.woven = None  # the driver was forgotten since: look again
            return
        if errand.copy.etag is None and errand.etag is None:
            # A backend that knows no conditions: somebody may have written in between.
            copy = await self._cloud.fetch(errand.driver_id, None)
            desk = MergeSession(errand.driver_id, self._vehicle, keyring)
            if not await self._bench.do(desk.holds, copy, woven):
                errand.woven = None

    async def _settle(self, keyring: Keyring, errand: Errand) -> None:
        """Before a file is touched: the backend has it all, and this is what the vehicle will be left with."""
        woven = errand.woven
        if woven is None:
            return
        settled = woven.settled(errand.copy.etag if woven.body is None else errand.etag)
        if settled != errand.record:
            await self._records.save(keyring, errand.driver_id, settled)
        errand.record, errand.merged = settled, woven.profile

    # --- how ---

    async def _side_by_side(self, step: Step, keyring: Keyring, errands: Sequence[Errand]) -> None:
        waiting = iter(errands)

        async def work() -> None:
            for errand in waiting:
                await _attempt(step, keyring, errand)

        async with asyncio.TaskGroup() as group:
            for _ in range(min(len(errands), self._workers)):
                group.create_task(work())

    async def _at_once(self, step: Step, keyring: Keyring, errands: Sequence[Errand]) -> None:
        """What many ask of the store within one turn of the loop shares one transaction."""
        async with asyncio.TaskGroup() as group:
            for errand in errands:
                group.create_task(_attempt(step, keyring, errand))


def _woven(errands: Sequence[Errand]) -> Iterator[tuple[Errand, MergeResult]]:
    return ((errand, errand.woven) for errand in errands if errand.is_open and errand.woven is not None)


def _ready(errands: Sequence[Errand]) -> list[Errand]:
    return [errand for errand, _ in _woven(errands)]


async def _attempt(step: Step, keyring: Keyring, errand: Errand) -> None:
    try:
        await step(keyring, errand)
    except SentinelSyncError as error:
        errand.error = error
