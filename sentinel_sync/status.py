"""What a running agent says of itself: for the host, for `status` on another terminal, for the console."""

from datetime import datetime

from pydantic import Field

from sentinel_sync.base.payloads import StatusModel
from sentinel_sync.base.tasks import PeriodicTaskStatus
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cloud.rules.connectivity import ConnectivitySummary
from sentinel_sync.models.rules.status import ModelCheckStatus, ModelStatus
from sentinel_sync.network.rules.budget import NetworkStatus
from sentinel_sync.profiles.records import ProfilesStatus
from sentinel_sync.scenarios.rules.status import ScenariosStatus
from sentinel_sync.store.rules.outbox import OutboxStatus

#: The file in the state folder that a running agent keeps up to date with its `AgentStatus`.
STATUS_NAME = "status.json"


class RemainingWork(OutboxStatus):
    """All that is still to be done with the backend: the queue, and what lies elsewhere and is not queued.

    Attributes:
        recordings: Folders that may become recordings to be sent: still changing, or not whole yet.
        profiles: Driver profiles with changes that the backend does not have, and drivers it is still to forget.
        orders: Of operators, that have not been carried out.
    """

    recordings: int = 0
    profiles: int = 0
    orders: int = 0

    @property
    def left(self) -> int:
        """All of it."""
        return self.unsent + self.set_aside + self.recordings + self.profiles + self.orders


class AgentStatus(StatusModel):
    """A running agent at one instant."""

    version: str
    process_id: int
    vehicle_id: str
    fleet_id: str
    api_url: str
    enabled: bool
    power: str
    trip_id: str | None
    connectivity: ConnectivitySummary
    outbox: RemainingWork
    duties: list[PeriodicTaskStatus]
    salvaged_from: str | None
    updated_at: datetime
    traffic: NetworkStatus | None = None
    scenarios: ScenariosStatus | None = None
    models: list[ModelStatus] = Field(default_factory=list)
    model_check: ModelCheckStatus | None = None
    profiles: ProfilesStatus | None = None
    console: str | None = None

    def waiting_reason(self, kind: str) -> str | None:
        """Why queued work of a kind does not go now, the same wherever it is shown; None where it may."""
        shown = self.connectivity
        if not self.enabled:
            return "cloud.enabled is false"
        if shown.gate != "open":
            return shown.gate_reason or shown.gate
        if shown.status == "offline":
            return shown.message
        if kind == "scenario" and self.scenarios is not None:
            return self.scenarios.held
        return None if self.traffic is None else self.traffic.held.get(f"{kind}s")

    @property
    def transfers(self) -> list[TransferStatus]:
        """All that is under way."""
        recording = Field(default_factory=list) if self.scenarios is None else [self.scenarios.under_way]
        return [going for going in (*recording, *(model.under_way for model in self.models)) if going is not None]
