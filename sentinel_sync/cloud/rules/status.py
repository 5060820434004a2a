"""How the way to the backend stands, for the status."""

from sentinel_sync.base.status import StatusModel


class ConnectivitySummary(StatusModel):
    """The way to the backend. Durations are seconds."""

    status: str
    message: str
    unauthorized: bool
    offline_duration: float
    since: float
    gate: str
    gate_reason: str
    clock_skew: float | None
