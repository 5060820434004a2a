"""What this vehicle's store keeps of each driver: sealed like what is sent, and under no name that tells the driver."""

import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from datetime import datetime
from enum import StrEnum
from typing import Any

from pydantic import TypeAdapter

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.base.payloads import StatusModel
from sentinel_sync.profiles.commands import SEALED, ForgetCommands, Sealed
from sentinel_sync.profiles.files import ProfileFolder, SerialExecutor
from sentinel_sync.profiles.keys import Keyring, ProfileCipher
from sentinel_sync.profiles.rules.descent import UNDECIDED, Known, Origin, Resolution, base_of, descent
from sentinel_sync.profiles.rules.envelope import known_from, resolution_bytes, resolution_from, state_digest
from sentinel_sync.profiles.rules.fields import AVERAGES, CREATED, TOTALS, UPDATED, read_profile
from sentinel_sync.profiles.rules.merge import PLAIN, render, vehicle_of
from sentinel_sync.profiles.rules.state_folders import name_of, shared_vehicle_ids
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

KIND = "profile"
RESOLVE = "profile.resolve"
#: Fields that may be shown to whoever stands at the vehicle. All others may be biometric, a name or a contact.
SHOWABLE = (*sorted(TOTALS), *sorted(AVERAGES), "driving_style", "risk_tolerance", CREATED, UPDATED)


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """What is kept of one driver.

    Attributes:
        sealed: What this vehicle knows (`rules.descent.Known`), encrypted.
        etag: The version of the backend's copy that is merged into it, or None.
        cloud: Digest of that copy's state; None where the backend holds none.
        plain: Digest of a profile without merge state that was merged, until it is replaced at the backend, else None.
        whose: The driver's id, encrypted; None where the driver was forgotten.
        unsettled: Whether it is not known yet if the vehicle was left with the merged profile.
    """

    sealed: str
    etag: str | None = None
    cloud: str | None = None
    plain: str | None = None
    whose: str | None = None
    unsettled: bool = False


_SHAPE = TypeAdapter(ProfileRecord)


class ProfileRecords:
    """The records.

    Args:
        documents: Where they lie.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def load(self, keyring: Keyring, driver_id: str) -> ProfileRecord | None:
        """What is kept of a driver, or None."""
        for reference in keyring.references(driver_id):
            record = await self._documents.load(KIND, reference, _SHAPE)
            if record is not None:
                return record
        return None

    async def save(self, keyring: Keyring, driver_id: str, record: ProfileRecord) -> None:
        """Keep it; returns when it is on disk."""
        newest, *former = keyring.references(driver_id)
        await self._documents.save(KIND, newest, record, _SHAPE)
        for reference in former:
            await self._documents.delete(KIND, reference)
        if record.whose is None:
            await self.resolved(keyring, driver_id)

    async def resolve(self, keyring: Keyring, driver_id: str, resolution: Resolution) -> None:
        """Keep a person's decision until it is carried out; returns when it is on disk."""
        sealed = Sealed(keyring.seal(resolution_bytes(resolution)))
        await self._documents.save(RESOLVE, keyring.reference(driver_id), sealed, SEALED)

    async def resolutions(self, keyring: Keyring) -> dict[str, Resolution]:
        """The decisions that are still to be carried out, by the driver's reference."""
        found = dict[str, Resolution]()
        for reference in await self._documents.keys(RESOLVE):
            kept = await self._documents.load(RESOLVE, reference, SEALED)
            try:
                if kept is not None:
                    found[reference] = resolution_from(keyring.open(kept.sealed))
            except ProfileError as error:
                logger.error("profiles.unreadable_decision: set aside, give it again: %s", error)
                await self._documents.set_aside(RESOLVE, reference)
        return found

    async def resolved(self, keyring: Keyring, driver_id: str) -> None:
        """The decision about a driver was carried out, or is of no use any more."""
        if await self._documents.keys(RESOLVE):
            for reference in keyring.references(driver_id):
                await self._documents.delete(RESOLVE, reference)

    async def any(self) -> bool:
        """Whether there is any: asked often, and without keys."""
        return bool(await self._documents.keys(KIND))

    async def unsettled(self) -> list[ProfileRecord]:
        """Those of which it is not known if the vehicle was left with the merged profile."""
        found = list[ProfileRecord]()
        for key in await self._documents.keys(KIND):
            record = await self._documents.load(KIND, key, _SHAPE)
            if record is not None and record.unsettled:
                found.append(record)
        return found

    async def besides(self, keyring: Keyring, driver_ids: set[str]) -> list[ProfileRecord]:
        """The records of all other drivers, but for those who were forgotten."""
        known = {reference for driver_id in driver_ids for reference in keyring.references(driver_id)}
        others = [key for key in await self._documents.keys(KIND) if key not in known]
        found = list[ProfileRecord]()
        for key in others:
            record = await self._documents.load(KIND, key, _SHAPE)
            if record is not None and record.whose is not None:
                found.append(record)
        return found


class SyncState(StrEnum):
    """How a profile stands."""

    SYNCED = "synced"
    CHANGED = "changed since"
    NEW = "never synced"
    UNDECIDED = "to be decided"
    DECIDED = "decided"
    UNUSABLE = "cannot be used"
    NO_FILE = "no file here"
    TO_FORGET = "to be forgotten at the backend"
    FORGOTTEN = "forgotten"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class ProfileSummary:
    """One driver's profile.

    Attributes:
        profile: The fields, biometric ones among them: show only what `shown` gives.
        vehicles: How many vehicles it is known to have been driven in.
        reason: Why it cannot be used, what is to be decided, or what there is to know; None where nothing is.
    """

    driver_id: str
    standing: SyncState
    profile: Mapping[str, Any]
    vehicles: int = 0
    reason: str | None = None

    def shown(self) -> dict[str, Any]:
        """The fields that may be shown, plain values only."""
        return {name: self.profile[name] for name in SHOWABLE if isinstance(self.profile.get(name), (int, float, str))}

    def withheld(self) -> list[str]:
        """The names of those that may not."""
        return sorted(self.profile.keys() - self.shown().keys() - {"driver_id"})


class ProfileOverview:
    """Looks and changes nothing.

    Args:
        folder: Where the profiles lie.
        documents: What is kept of them and who is to be forgotten; None where nothing is.
        cipher: The keys; asked for only where there is something to open.
        vehicle: This vehicle's id.
    """

    def __init__(self, folder: ProfileFolder, documents: Documents | None, cipher: ProfileCipher, vehicle: str) -> None:
        self._folder = folder
        self._records = None if documents is None else ProfileRecords(documents)
        self._commands = None if documents is None else ForgetCommands(documents)
        self._cipher = cipher
        self._vehicle = vehicle
        self._executor = SerialExecutor()

    async def all(self) -> list[ProfileSummary]:
        """All drivers who have a file here, and those of whom something is kept, by id.

        Raises:
            ProfileError: The folder cannot be read.
            ConfigurationError: There are no keys to be had.
        """
        drivers = set(await self._executor.do(self._folder.signatures))
        keyring = await self._keyring()
        if keyring is not None and self._records is not None and self._commands is not None:
            orders, _ = await self._commands.all(keyring)
            drivers |= {order.driver_id for order in orders}
            for record in await self._records.besides(keyring, drivers):
                try:
                    drivers.add((await self._executor.do(keyring.open, record.whose or "")).decode())
                except ProfileError:
                    continue  # its key is gone: nobody can say whose it is
        return [await self._of(keyring, driver_id) for driver_id in sorted(drivers)]

    async def references(self, driver_id: str) -> tuple[str, ...]:
        """By which keyed references a driver is on record; none where nothing is.

        Raises:
            ConfigurationError: There are no keys to be had.
        """
        keyring = await self._keyring()
        return () if keyring is None else keyring.references(driver_id)

    async def one(self, driver_id: str) -> ProfileSummary:
        """One driver.

        Raises:
            ConfigurationError: There are no keys to be had.
        """
        return await self._of(await self._keyring(), driver_id)

    async def _keyring(self) -> Keyring | None:
        if self._records is None or self._commands is None:
            return None
        kept = await self._records.any() or await self._commands.any()
        return await self._cipher.keyring() if kept else None

    async def _of(self, keyring: Keyring | None, driver_id: str) -> ProfileSummary:
        record, to_forget = None, False
        if keyring is not None and self._records is not None and self._commands is not None:
            record = await self._records.load(keyring, driver_id)
            to_forget = await self._commands.find(keyring, driver_id)
        summary = await self._executor.do(self._stands, keyring, driver_id, record, to_forget)
        if summary.standing is SyncState.UNDECIDED and keyring is not None and self._records is not None:
            decisions = await self._records.resolutions(keyring)
            for decision in (decisions.get(reference) for reference in keyring.references(driver_id)):
                if decision is not None:
                    reason = f"--keep {decision.keep} is carried out with the next sync"
                    return replace(summary, standing=SyncState.DECIDED, reason=reason)
        return summary

    def _stands(
        self, keyring: Keyring | None, driver_id: str, record: ProfileRecord | None, to_forget: bool
    ) -> ProfileSummary:
        try:
            file = self._folder.read(driver_id)
            local = None if file is None else file.profile
            known = None if record is None or keyring is None else known_from(keyring.open(record.sealed))
            standing = _standing(local, known, record, driver_id, self._vehicle)
        except ProfileError as error:
            return ProfileSummary(driver_id, SyncState.UNUSABLE, {}, reason=str(error))
        if local is None:
            local = {} if known is None else render(known.state)
        names = () if known is None else known.state.contributions
        vehicles = {vehicle_of(name) for name in names if not name.startswith(PLAIN)}
        shared = [] if known is None else shared_vehicle_ids(known.state)
        reason = UNDECIDED if standing is SyncState.UNDECIDED else None
        if shared:
            reason = f"two vehicles write as {', '.join(shared)}: give each its own vehicle_id"
        return ProfileSummary(
            driver_id, SyncState.TO_FORGET if to_forget else standing, local, len(vehicles) + len(shared), reason
        )


def _standing(
    local: Mapping[str, Any] | None, known: Known | None, record: ProfileRecord | None, driver_id: str, vehicle: str
) -> SyncState:
    if known is None or record is None:
        if local is None:
            return SyncState.UNKNOWN
        read_profile(local, driver_id)
        return SyncState.NEW
    if known.state.is_tombstone:
        return SyncState.FORGOTTEN if local is None else SyncState.CHANGED
    if local is None:
        return SyncState.NO_FILE
    this, arrived = base_of(read_profile(local, driver_id)), record.cloud == state_digest(known.state)
    if arrived and this in (*known.bases[-1:], known.pending):
        return SyncState.SYNCED
    # As the next merge will find, which needs the name under which this vehicle contributes.
    undecided = descent(known, this, name_of(known, vehicle), known.state).origin is Origin.UNDECIDED
    return SyncState.UNDECIDED if undecided else SyncState.CHANGED


class ProfilesStatus(StatusModel):
    """Driver profiles, as counts: an id is personal.

    Attributes:
        profiles: How many lie in `profiles_dir`.
        unsent: How many have changes that the backend does not have, and drivers it is still to forget.
        failing: How many could not be synced at the last try: they are set aside until they change or the way is free.
        to_forget: How many drivers the backend is still to forget.
        held: Why nothing may be sent now, or None.
        reason: Why the last one that failed did, or None.
        synced_at: When all of them were last as the backend has them, or None.
        keys: Where the fleet's keys come from.
        warning: What these keys cannot do, or None.
    """

    profiles: int
    unsent: int
    failing: int
    to_forget: int
    held: str | None
    reason: str | None
    synced_at: datetime | None
    keys: str
    warning: str | None
