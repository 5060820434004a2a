"""How models stand, for the status."""

from datetime import datetime

from pydantic import Field

from sentinel_sync.base.status import StatusModel, TransferStatus


class BadVersionStatus(StatusModel):
    """A version that failed on this vehicle, and why: it is never tried again, unless the operator forgives it."""

    version: str
    reason: str


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


class ModelCheckStatus(StatusModel):
    """The looking for new releases.

    Attributes:
        checked_at: When the source last answered, or None.
        failure: Why it could not be asked after that, or None.
    """

    checked_at: datetime | None
    failure: str | None
