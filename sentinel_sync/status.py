"""What a running agent says of itself: for the host, for `status` on another terminal, for the console."""

from collections.abc import Iterator
from datetime import datetime

from pydantic import Field, computed_field

from sentinel_sync.base.payloads import LastStop, StatusModel
from sentinel_sync.base.tasks import PeriodicTaskStatus
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cloud.rules.connectivity import ConnectivitySummary
from sentinel_sync.models.rules.status import ModelCheckStatus, ModelStatus
from sentinel_sync.network.rules.budget import NetworkStatus
from sentinel_sync.profiles.records import ProfilesStatus
from sentinel_sync.scenarios.rules.status import ScenariosStatus
from sentinel_sync.store.rules import OutboxStatus

#: The file in the state folder that a running agent keeps up to date with its `AgentStatus`.
STATUS_NAME = "status.json"


#: A vehicle may be in a garage for a night: longer without a backend is worth a look, seconds.
_LONG_OFFLINE = 86_400.0
#: Trips are dated by the backend's time where the clock is wrong; certificates are not. Seconds.
_WRONG_CLOCK = 300.0
#: Renewals are made a month ahead, and sometimes fail, seconds.
_CERTIFICATE_SOON = 30 * 86_400.0
#: Of models, as `get_download_status` says it.
_TROUBLED = frozenset({"failed", "damaged"})


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


class Trouble(StatusModel):
    """Something that does not mend itself, and what a person can do about it.

    Attributes:
        part: Of the agent: "agent", "connection", "queue", "recordings", "model", "profiles", "clock" or "store".
    """

    part: str
    what: str
    remedy: str


class AgentLife(StatusModel):
    """The agent's lives on this state folder.

    Attributes:
        starts: How many there were, this one included.
        last_stop: How the one before ended.
    """

    started_at: datetime
    starts: int
    last_stop: LastStop


class DiskStatus(StatusModel):
    """The file system that the state folder lies on, bytes."""

    free_bytes: int
    used_bytes: int


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
    life: AgentLife | None = None
    disk: DiskStatus | None = None
    certificate_expires_at: datetime | None = None

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

    @computed_field  # type: ignore[prop-decorator]
    @property
    def troubles(self) -> list[Trouble]:
        """All that somebody has to look after, the worst first; what waits for the network alone is none."""
        return [
            *_troubles_of_connection(self),
            *_troubles_of_certificate(self),
            *troubles_of_queue(self.outbox),
            *_troubles_of_parts(self),
            *_troubles_of_models(self),
            *_troubles_of_vehicle(self),
        ]

    @property
    def transfers(self) -> list[TransferStatus]:
        """All that is under way."""
        recording = Field(default_factory=list) if self.scenarios is None else [self.scenarios.under_way]
        return [going for going in (*recording, *(model.under_way for model in self.models)) if going is not None]


def troubles_of_queue(outbox: OutboxStatus) -> list[Trouble]:
    """What the backend has refused for good."""
    if not outbox.set_aside:
        return []
    what = f"{outbox.set_aside:,} {'item was' if outbox.set_aside == 1 else 'items were'} set aside"
    return [
        Trouble(part="queue", what=what, remedy="`queue list --state set_aside` says why, `queue retry` sends again")
    ]


_RIGHT_KEY = (
    "put the right key into the file of cloud.api_key_file, which is read again by itself, "
    "or, where none is set, into cloud.api_key, and restart the agent"
)
_NOTHING_BEFORE = "mend what the reason says (settings count after a restart), or publish another release"


def _troubles_of_connection(said: AgentStatus) -> Iterator[Trouble]:
    shown = said.connectivity
    if not said.enabled:
        yield Trouble(part="agent", what="nothing is sent", remedy="set cloud.enabled to true")
    if shown.unauthorized or shown.gate == "refused":
        what = shown.gate_reason or "the backend refuses the credential"
        yield Trouble(part="connection", what=what, remedy=_RIGHT_KEY)
    elif shown.status == "offline" and shown.offline_duration > _LONG_OFFLINE:
        what = f"no backend for {shown.offline_duration / 3600.0:.0f} hours"
        yield Trouble(part="connection", what=f"{what} ({shown.message})", remedy="`doctor` tries each step of the way")


def _troubles_of_certificate(said: AgentStatus) -> Iterator[Trouble]:
    ends = said.certificate_expires_at
    if ends is None or (left := (ends - said.updated_at).total_seconds()) > _CERTIFICATE_SOON:
        return
    days = f"{abs(left) / 86_400.0:.0f} days"
    what = f"the vehicle's certificate ends in {days}" if left > 0.0 else f"the vehicle's certificate ended {days} ago"
    yield Trouble(part="connection", what=what, remedy="put a new one where client_cert_file says: it is taken up")


def _troubles_of_parts(said: AgentStatus) -> Iterator[Trouble]:
    for duty in said.duties:
        if duty.crashes:
            what = f"{duty.name} keeps failing ({duty.last_error})"
            yield Trouble(part="agent", what=what, remedy="the log has it; it is tried again by itself")
    if said.scenarios is not None and said.scenarios.disk_is_short:
        what = "the recorder's disk has less room than cloud.disk_reserve, and nothing more may go"
        yield Trouble(part="store", what=what, remedy="free some space, or allow cloud.disk_reserve_unsent")
    if said.scenarios is not None and said.scenarios.set_aside > said.outbox.set_aside:
        # Those that the backend has refused are the outbox's, and said there.
        what = f"recordings that cannot be sent as they are: {said.scenarios.set_aside:,}"
        yield Trouble(part="recordings", what=what, remedy="`scenarios list --status set_aside` says why")
    if said.salvaged_from is not None:
        what = f"the outbox was damaged, and what could be read was saved from {said.salvaged_from}"
        yield Trouble(part="store", what=what, remedy="check the disk; then restart the agent")


def _troubles_of_models(said: AgentStatus) -> Iterator[Trouble]:
    for model in said.models:
        if model.waits_for_pinned and model.offered:
            what = f"model {model.name} is pinned to {model.pinned}, which nobody offers: no other is taken"
            yield Trouble(part="model", what=what, remedy="`models pin` the right one, or `models unpin`")
        if model.reason is not None and model.status in _TROUBLED:
            what = f"model {model.name} is {model.status}: {model.reason}"
            remedy = "`models list` shows what there is to go back to" if model.previous else _NOTHING_BEFORE
            yield Trouble(part="model", what=what, remedy=remedy)


def _troubles_of_vehicle(said: AgentStatus) -> Iterator[Trouble]:
    profiles, skew = said.profiles, said.connectivity.clock_skew
    if profiles is not None and profiles.failing and profiles.held is None:
        what = f"{profiles.failing:,} driver profiles cannot be synced ({profiles.reason})"
        yield Trouble(part="profiles", what=what, remedy="`profiles list` says which, and why")
    if skew is not None and abs(skew) > _WRONG_CLOCK:
        what = f"the clock is wrong by {abs(skew) / 60.0:.0f} minutes"
        yield Trouble(part="clock", what=what, remedy="set it, by NTP")
