"""What this vehicle's store keeps of each driver: sealed like what is sent, and under no name that tells the driver."""

import hashlib
from dataclasses import dataclass

from pydantic import TypeAdapter

from sentinel_sync.adapters.store.store import Store

KIND = "profile"


@dataclass(frozen=True, slots=True)
class ProfileRecord:
    """What is kept of one driver.

    Attributes:
        sealed: What this vehicle knows (`rules/profiles_descent.Known`), encrypted.
        etag: The version of the backend's copy that is merged into it, or None.
        cloud: Digest of that copy's state; None where the backend holds none.
        plain: Digest of a profile without merge state that was merged, until it is replaced at the backend, else None.
    """

    sealed: str
    etag: str | None = None
    cloud: str | None = None
    plain: str | None = None


_SHAPE = TypeAdapter(ProfileRecord)


class ProfileRecords:
    """The records.

    Args:
        store: Where they lie.
    """

    def __init__(self, store: Store) -> None:
        self._store = store

    async def load(self, driver_id: str) -> ProfileRecord | None:
        """What is kept of a driver, or None."""
        return await self._store.documents.load(KIND, reference(driver_id), _SHAPE)

    async def save(self, driver_id: str, record: ProfileRecord) -> None:
        """Keep it; returns when it is on disk."""
        await self._store.documents.save(KIND, reference(driver_id), record, _SHAPE)


def reference(driver_id: str) -> str:
    """What stands for a driver in the store, and by its first digits in logs."""
    return hashlib.sha256(f"sentinel-sync profile\0{driver_id}".encode()).hexdigest()
