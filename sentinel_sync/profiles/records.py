"""What this vehicle's store keeps of each driver: sealed like what is sent, and under no name that tells the driver."""

from dataclasses import dataclass

from pydantic import TypeAdapter

from sentinel_sync.profiles.cipher import Keyring
from sentinel_sync.store.documents import Documents

KIND = "profile"


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """What is kept of one driver.

    Attributes:
        sealed: What this vehicle knows (`rules/profiles/descent.Known`), encrypted.
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
