"""How recordings stand altogether, for the status."""

from datetime import datetime

from pydantic import Field

from sentinel_sync.base.status import StatusModel, TransferStatus


class ScenariosStatus(StatusModel):
    """Recordings.

    Attributes:
        consent: Whether the driver consents, under the policy in force.
        consent_at: When the decision was made, or None where there is none.
        held: Why nothing may leave now, or None.
        under_way: What is being prepared, compressed or sent now, or None.
        set_aside: How many need a person.
        deleted: How many the retention settings deleted, and …
        deleted_unsent: … how many of them had not been sent.
        reasons: Why those that need a person do, by scenario: the first few.
    """

    consent: bool
    consent_at: datetime | None
    policy_version: str
    held: str | None
    under_way: TransferStatus | None
    queued: int
    uploaded: int
    set_aside: int
    dropped: int
    deleted: int = 0
    deleted_unsent: int = 0
    reasons: dict[str, str] = Field(default_factory=dict)
