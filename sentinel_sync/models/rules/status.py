"""How models stand, for the status."""

from collections.abc import Mapping, Sequence
from datetime import datetime
from types import MappingProxyType
from typing import TypedDict

from pydantic import Field

from sentinel_sync.base.clock import moment
from sentinel_sync.base.payloads import ModelReason, ModelState, StatusModel
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.models.rules.installed import KeptVersion, ModelRecord
from sentinel_sync.models.rules.releases import same_version


class InstalledModel(TypedDict):
    """One entry of what `get_installed_models` answers; the first three as registry.json has them.

    `probation_left` is in seconds, 0.0 where the version is proven.
    """

    version: str
    installed_at: float
    path: str
    checksum: str | None
    previous_version: str | None
    pinned_version: str | None
    probation_left: float


class DownloadStatus(TypedDict):
    """What `get_download_status` answers.

    `status` is "unknown", "idle", "downloading", "validating", "installing", "held" (something forbids going on now),
    "installed", "damaged" (what is in use is not what was installed) or "failed"; `reason` says why it is held,
    damaged or failed. `rate` is in bytes per second, `time_left` in seconds; None where nothing can be said yet.
    `bad_versions` failed on this vehicle: version, and why.
    """

    name: str
    status: str
    version: str | None
    installed_version: str | None
    received_bytes: int
    total_bytes: int
    rate: float | None
    time_left: float | None
    reason: str | None
    bad_versions: dict[str, str]


def installed_model(record: ModelRecord, installed: KeptVersion, path: str) -> InstalledModel:
    """Tell of what the runtime opens at `path`."""
    return InstalledModel(
        version=installed.version,
        installed_at=installed.installed_at,
        path=path,
        checksum=installed.checksum,
        previous_version=None if record.previous is None else record.previous.version,
        pinned_version=record.pinned,
        probation_left=0.0 if record.probation is None else record.probation.left,
    )


def download_status(
    record: ModelRecord | None, name: str, *, progress: TransferStatus | None, refusal: str | None, held: str | None
) -> DownloadStatus:
    """Put together what is known of a model.

    Args:
        record: What is on this vehicle, or None where nothing ever was.
        name: Of the model.
        progress: What is being done about it now, or None.
        refusal: Why what was offered of it was refused, or None.
        held: Why what is wanted of it waits, or None.
    """
    installed = None if record is None else record.standing.installed
    failure = refusal if record is None or record.failure is None else record.failure
    version = installed
    if progress is not None:
        status, reason, version = progress.phase, None, progress.version
    elif held is not None:
        status, reason = "held", held
        if record is not None and record.staged is not None:
            version = record.staged.release.version
    elif failure is not None:
        status, reason = "failed", failure
    else:
        status, reason = ("unknown" if record is None else "installed" if installed else "idle"), None
    if record is not None and record.damage is not None:
        status = "damaged" if status == "installed" else status
        reason = record.damage if reason is None else f"{record.damage}; {reason}"
    return DownloadStatus(
        name=name,
        status=status,
        version=version,
        installed_version=installed,
        received_bytes=0 if progress is None else progress.done_bytes,
        total_bytes=0 if progress is None else progress.total_bytes,
        rate=None if progress is None else progress.rate,
        time_left=None if progress is None else progress.time_left,
        reason=reason,
        bad_versions={} if record is None else {bad.version: bad.reason for bad in record.bad},
    )


class BadVersionStatus(StatusModel):
    """A version that failed on this vehicle, and why: it is never tried again, unless the operator clears it."""

    version: str
    reason: str


class OfferedVersion(StatusModel):
    """A version that the source lists, and why it is not for this vehicle; None where it is."""

    version: str
    note: str | None = None


class ModelOutcome(StatusModel):
    """Where one version stands, as the vehicle's report tells of it.

    Attributes:
        since: Since when, or None where nobody noted that.
    """

    version: str
    state: ModelState
    since: datetime | None = None
    reason: ModelReason | None = None


class ModelStatus(StatusModel):
    """One model.

    Attributes:
        status: As `get_download_status` says it.
        installed: The version that the runtime opens, or None.
        available: One that may be taken, or None.
        previous: What a rollback leads to, or None.
        pinned: The version that is wanted whatever is offered, or None.
        bad_versions: What failed on this vehicle.
        probation_left: Seconds until what is installed counts as proven; 0.0 where it does.
        reason: Why it is not going well, or waits (`status` is "held" then), or None.
        under_way: What is being fetched or put in place now, or None.
        outcomes: Where each version stands that is or was here, the installed one first.
        offered: What the source lists, as of the last check.
    """

    name: str
    status: str
    installed: str | None
    available: str | None
    previous: str | None
    pinned: str | None
    bad_versions: list[BadVersionStatus] = Field(default_factory=list)
    probation_left: float = 0.0
    reason: str | None
    under_way: TransferStatus | None
    outcomes: list[ModelOutcome] = Field(default_factory=list)
    offered: list[OfferedVersion] = Field(default_factory=list)

    @property
    def waits_for_pinned(self) -> bool:
        """Whether it is pinned to a version that is neither here nor offered, and so takes no other."""
        there = (self.installed, self.previous, *(one.version for one in self.offered))
        return self.pinned is not None and not any(
            version is not None and same_version(self.pinned, version) for version in there
        )


class ModelCheckStatus(StatusModel):
    """The looking for new releases.

    Attributes:
        checked_at: When the source last answered, or None.
        failure: Why it could not be asked after that, or None.
    """

    checked_at: datetime | None
    failure: str | None


def model_shown(
    record: ModelRecord,
    status: DownloadStatus,
    progress: TransferStatus | None,
    available: str | None,
    offered: Sequence[OfferedVersion] = (),
    refused: Mapping[str, ModelReason | None] = MappingProxyType({}),
) -> ModelStatus:
    """Put together what the agent's status shows of a model.

    Args:
        record: What is on this vehicle.
        status: As `download_status` says it.
        progress: What is being done about it now, or None.
        available: A version that may be taken, or None.
        offered: What the source lists.
        refused: Versions that were refused, and what the report says of each.
    """
    outcomes = _outcomes(record, progress)
    there = {one.version for one in outcomes}
    outcomes += [
        ModelOutcome(version=version, state=ModelState.REFUSED, reason=reason)
        for version, reason in refused.items()
        if version not in there
    ]
    if status["status"] == "failed" and available is not None and available not in {one.version for one in outcomes}:
        outcomes.append(ModelOutcome(version=available, state=ModelState.FAILED, reason=ModelReason.ATTEMPT))
    return ModelStatus(
        name=record.name,
        status=status["status"],
        installed=status["installed_version"],
        available=available,
        previous=None if record.previous is None else record.previous.version,
        pinned=record.pinned,
        bad_versions=[BadVersionStatus(version=bad.version, reason=bad.reason) for bad in record.bad],
        probation_left=0.0 if record.probation is None else record.probation.left,
        reason=status["reason"],
        under_way=progress,
        outcomes=outcomes,
        offered=list(offered),
    )


def _outcomes(record: ModelRecord, progress: TransferStatus | None) -> list[ModelOutcome]:
    found: list[ModelOutcome] = []
    installed = record.installed
    if installed is not None:
        proven = record.probation is None or record.probation.left == 0.0
        found.append(
            ModelOutcome(
                version=installed.version,
                state=ModelState.INSTALLED if proven else ModelState.ON_PROBATION,
                since=moment(installed.installed_at),
                reason=None if record.damage is None else ModelReason.DAMAGED,
            )
        )
        found += [
            ModelOutcome(version=version, state=ModelState.ROLLED_BACK, reason=ModelReason.OPERATOR)
            for version in record.skipped
        ]
    if record.staged is not None:
        found.append(ModelOutcome(version=record.staged.release.version, state=ModelState.STAGED))
    elif progress is not None and progress.version is not None:
        found.append(ModelOutcome(version=progress.version, state=ModelState.DOWNLOADING))
    for bad in record.bad:
        state, reason = (
            (ModelState.ROLLED_BACK, ModelReason.PROBATION)
            if bad.was_in_use
            else (ModelState.REFUSED, ModelReason.VALIDATOR)
        )
        found.append(ModelOutcome(version=bad.version, state=state, since=moment(bad.found_at), reason=reason))
    return found
