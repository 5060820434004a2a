"""How much outgoing work there is, for the status."""

from sentinel_sync.base.status import StatusModel


class OutboxStatus(StatusModel):
    """How much outgoing work there is."""

    waiting: int
    sending: int
    set_aside: int
    size_bytes: int
    acknowledged: int
    dropped: dict[str, int]
