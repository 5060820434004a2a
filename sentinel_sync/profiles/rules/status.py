"""How driver profiles stand altogether, for the status."""

from datetime import datetime

from sentinel_sync.base.status import StatusModel


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
