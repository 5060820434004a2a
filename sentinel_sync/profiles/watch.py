"""What lies in the folder of profiles, what of it the backend does not have yet, and why."""

from collections.abc import Iterable, Mapping

from sentinel_sync.base.errors import ProfileError, RejectedError, SentinelSyncError
from sentinel_sync.profiles.files import Signature


class FolderWatch:
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

    def why(self, driver_ids: Iterable[str]) -> str | None:
        """Why the first of these that failed could not be synced."""
        return next((self._failed[driver_id] for driver_id in driver_ids if driver_id in self._failed), None)

    @property
    def reason(self) -> str | None:
        """Why, of the last one."""
        return next(reversed(self._failed.values()), None)
