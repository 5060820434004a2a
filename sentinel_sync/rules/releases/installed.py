"""What is installed of a model, and how that is told."""

from dataclasses import dataclass, replace
from typing import Self, TypedDict

from sentinel_sync.errors import SentinelSyncError
from sentinel_sync.rules.releases.releases import Standing


@dataclass(frozen=True, slots=True)
class KeptVersion:
    """A version that is on this vehicle.

    Attributes:
        live_name: What the runtime opens it as.
        checksum: SHA-256 in hex; None where nobody has hashed it yet (it was there before us).
        installed_at: Seconds since the epoch.
    """

    version: str
    live_name: str
    installed_at: float
    size: int = 0
    checksum: str | None = None


@dataclass(frozen=True, slots=True)
class ModelRecord:
    """What is known of one model.

    Attributes:
        installed: What the runtime opens.
        previous: What it opened before: `rollback` leads there.
        switching_to: What is being put in its place: a start that finds this finishes it.
        newest_seen: As in `Standing`.
        pinned: As in `Standing`.
        skipped: As in `Standing`.
        failure: Why the last attempt at it came to nothing, or None.
    """

    name: str
    installed: KeptVersion | None = None
    previous: KeptVersion | None = None
    switching_to: KeptVersion | None = None
    newest_seen: str | None = None
    pinned: str | None = None
    skipped: tuple[str, ...] = ()
    failure: str | None = None

    @property
    def standing(self) -> Standing:
        """What counts against a release."""
        return Standing(
            installed=None if self.installed is None else self.installed.version,
            newest_seen=self.newest_seen,
            pinned=self.pinned,
            skipped=self.skipped,
        )

    def switched(self, previous: KeptVersion | None) -> Self:
        """The record once the runtime opens `switching_to`."""
        now = self.switching_to
        skipped = tuple(version for version in self.skipped if now is None or version != now.version)
        return replace(self, installed=now, previous=previous, switching_to=None, skipped=skipped, failure=None)

    @property
    def kept(self) -> tuple[KeptVersion, ...]:
        """All versions that must stay on disk."""
        return tuple(kept for kept in (self.installed, self.previous, self.switching_to) if kept is not None)


class ModelUpdate(TypedDict):
    """One entry of what `check_for_updates` answers: a genuine release that this vehicle may take."""

    name: str
    version: str
    current_version: str | None
    size: int
    checksum: str
    signature: str | None
    key_id: str | None
    released_at: str | None


class InstalledModel(TypedDict):
    """One entry of what `get_installed_models` answers; the first three as registry.json has them."""

    version: str
    installed_at: float
    path: str
    checksum: str | None
    previous_version: str | None
    pinned_version: str | None


class DownloadStatus(TypedDict):
    """What `get_download_status` answers.

    `status` is "unknown", "idle", "downloading", "installing", "installed" or "failed"; `reason` says why it failed.
    """

    name: str
    status: str
    version: str | None
    installed_version: str | None
    received_bytes: int
    total_bytes: int
    reason: str | None


@dataclass(frozen=True, slots=True)
class InstallResult:
    """What became of an installation. True where the runtime opens the version now.

    Attributes:
        reason: Why not, in words; None where it does.
        error: The same as an error: VerificationError where it was refused, CloudError where the network failed,
            StoreError where the disk did.
    """

    installed: bool
    name: str
    version: str
    reason: str | None = None
    error: SentinelSyncError | None = None

    def __bool__(self) -> bool:
        return self.installed
