"""What a running agent says of itself: for the host, for `status` on another terminal, for the console."""

from datetime import datetime
from typing import Any

from pydantic import BaseModel, ConfigDict

#: The file in the state folder that a running agent keeps up to date with its `AgentStatus`.
STATUS_NAME = "status.json"


class Shown(BaseModel):
    """Something to be shown. It holds no secret and no personal data."""

    model_config = ConfigDict(frozen=True, extra="ignore")


class ConnectivityShown(Shown):
    """The way to the backend. Durations are seconds."""

    status: str
    message: str
    unauthorized: bool
    offline_duration: float
    since: float
    gate: str
    gate_reason: str
    clock_skew: float | None


class OutboxShown(Shown):
    """How much outgoing work there is."""

    waiting: int
    sending: int
    set_aside: int
    size_bytes: int
    acknowledged: int
    dropped: dict[str, int]


class DutyShown(Shown):
    """A part of the agent: how often it crashed, and why at last."""

    name: str
    crashes: int
    total_crashes: int
    last_error: str | None


class AgentStatus(Shown):
    """A running agent at one instant."""

    version: str
    process_id: int
    vehicle_id: str
    fleet_id: str
    api_url: str
    enabled: bool
    power: str
    trip_id: str | None
    connectivity: ConnectivityShown
    outbox: OutboxShown
    duties: list[DutyShown]
    salvaged_from: str | None
    updated_at: datetime
    #: What the other parts say of themselves, by part.
    parts: dict[str, Any] = {}
