"""How the profiles stand, for a person: what lies in the folder, set against what this vehicle remembers."""

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from typing import Any

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.cipher import Keyring, ProfileCipher
from sentinel_sync.profiles.commands import ForgetCommands
from sentinel_sync.profiles.executor import SerialExecutor
from sentinel_sync.profiles.files import ProfileFolder
from sentinel_sync.profiles.records import ProfileRecord, ProfileRecords
from sentinel_sync.profiles.rules.descent import Known, base_of
from sentinel_sync.profiles.rules.envelope import known_from, state_digest
from sentinel_sync.profiles.rules.fields import AVERAGES, CREATED, TOTALS, UPDATED, read_profile
from sentinel_sync.profiles.rules.merge import PLAIN, render
from sentinel_sync.store.documents import Documents

#: Fields that may be shown to whoever stands at the vehicle. All others may be biometric, a name or a contact.
SHOWABLE = (*sorted(TOTALS), *sorted(AVERAGES), "driving_style", "risk_tolerance", CREATED, UPDATED)


class Standing(StrEnum):
    """How a profile stands."""

    SYNCED = "synced"
    CHANGED = "changed since"
    NEW = "never synced"
    UNUSABLE = "cannot be used"
    NO_FILE = "no file here"
    TO_FORGET = "to be forgotten at the backend"
    FORGOTTEN = "forgotten"
    UNKNOWN = "unknown"


@dataclass(frozen=True, slots=True, repr=False)
class ProfileStanding:
    """One driver's profile.

    Attributes:
        profile: The fields, biometric ones among them: show only what `shown` gives.
        vehicles: How many vehicles it is known to have been driven in.
        reason: Why it cannot be used, or None.
    """

    driver_id: str
    standing: Standing
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
    """

    def __init__(self, folder: ProfileFolder, documents: Documents | None, cipher: ProfileCipher) -> None:
        self._folder = folder
        self._records = None if documents is None else ProfileRecords(documents)
        self._orders = None if documents is None else ForgetCommands(documents)
        self._cipher = cipher
        self._bench = SerialExecutor()

    async def all(self) -> list[ProfileStanding]:
        """All drivers who have a file here, and those of whom something is kept, by id.

        Raises:
            ProfileError: The folder cannot be read.
            ConfigurationError: There are no keys to be had.
        """
        drivers = set(await self._bench.do(self._folder.signatures))
        keyring = await self._keyring()
        if keyring is not None and self._records is not None and self._orders is not None:
            orders, _ = await self._orders.all(keyring)
            drivers |= {order.driver_id for order in orders}
            for record in await self._records.besides(keyring, drivers):
                try:
                    drivers.add((await self._bench.do(keyring.open, record.whose or "")).decode())
                except ProfileError:
                    continue  # its key is gone: nobody can say whose it is
        return [await self._of(keyring, driver_id) for driver_id in sorted(drivers)]

    async def one(self, driver_id: str) -> ProfileStanding:
        """One driver.

        Raises:
            ConfigurationError: There are no keys to be had.
        """
        return await self._of(await self._keyring(), driver_id)

    async def _keyring(self) -> Keyring | None:
        if self._records is None or self._orders is None:
            return None
        kept = await self._records.any() or await self._orders.any()
        return await self._cipher.keyring() if kept else None

    async def _of(self, keyring: Keyring | None, driver_id: str) -> ProfileStanding:
        record, to_forget = None, False
        if keyring is not None and self._records is not None and self._orders is not None:
            record = await self._records.load(keyring, driver_id)
            to_forget = await self._orders.find(keyring, driver_id)
        return await self._bench.do(self._stands, keyring, driver_id, record, to_forget)

    def _stands(
        self, keyring: Keyring | None, driver_id: str, record: ProfileRecord | None, to_forget: bool
    ) -> ProfileStanding:
        try:
            file = self._folder.read(driver_id)
            local = None if file is None else file.profile
            known = None if record is None or keyring is None else known_from(keyring.open(record.sealed))
            standing = _standing(local, known, record, driver_id)
        except ProfileError as error:
            return ProfileStanding(driver_id, Standing.UNUSABLE, {}, reason=str(error))
        if local is None:
            local = {} if known is None else render(known.state)
        drivers = () if known is None else known.state.contributions
        vehicles = sum(not contributor.startswith(PLAIN) for contributor in drivers)
        return ProfileStanding(driver_id, Standing.TO_FORGET if to_forget else standing, local, vehicles)


def _standing(
    local: Mapping[str, Any] | None, known: Known | None, record: ProfileRecord | None, driver_id: str
) -> Standing:
    if known is None or record is None:
        if local is None:
            return Standing.UNKNOWN
        read_profile(local, driver_id)
        return Standing.NEW
    if known.state.is_tombstone:
        return Standing.FORGOTTEN if local is None else Standing.CHANGED
    if local is None:
        return Standing.NO_FILE
    arrived = record.cloud == state_digest(known.state)
    left = (*known.bases[-1:], known.pending)
    return Standing.SYNCED if arrived and base_of(read_profile(local, driver_id)) in left else Standing.CHANGED
