"""What a running agent says of itself: for the host, for `status` on another terminal, for the console."""

from datetime import datetime

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


class TransferShown(Shown):
    """Something under way. Bytes, bytes per second, seconds; None where nothing can be said yet.

    Attributes:
        name: Of the scenario or model.
        part: Of it: a file, a version.
        phase: `compressing`, `uploading`, `downloading`, `installing` or another word for what is done now.
    """

    name: str
    part: str
    phase: str
    done_bytes: int
    total_bytes: int
    rate: float | None
    time_left: float | None


class BudgetShown(Shown):
    """How much of a data budget is used, bytes.

    Attributes:
        link: The class of link that it is for, or `any`.
        period: `day` or `month`.
    """

    link: str
    period: str
    used_bytes: int
    limit_bytes: int


class TrafficShown(Shown):
    """What the network may cost now.

    Attributes:
        link: Class of the link: wifi, cellular, ethernet, other.
        source: Whose word that is.
        held: Why which kind of traffic waits, by kind.
    """

    link: str
    metered: bool
    source: str
    budgets: list[BudgetShown]
    held: dict[str, str]


class ScenariosShown(Shown):
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
    under_way: TransferShown | None
    queued: int
    uploaded: int
    set_aside: int
    dropped: int
    deleted: int = 0
    deleted_unsent: int = 0
    reasons: dict[str, str] = {}


class BadVersionShown(Shown):
    """A version that failed on this vehicle, and why: it is never tried again, unless the operator forgives it."""

    version: str
    reason: str


class ModelShown(Shown):
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
    bad_versions: list[BadVersionShown] = []
    probation_left: float = 0.0
    reason: str | None
    under_way: TransferShown | None


class ModelCheckShown(Shown):
    """The looking for new releases.

    Attributes:
        checked_at: When the source last answered, or None.
        failure: Why it could not be asked after that, or None.
    """

    checked_at: datetime | None
    failure: str | None


class ProfilesShown(Shown):
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
    traffic: TrafficShown | None = None
    scenarios: ScenariosShown | None = None
    models: list[ModelShown] = []
    model_check: ModelCheckShown | None = None
    profiles: ProfilesShown | None = None

    @property
    def transfers(self) -> list[TransferShown]:
        """All that is under way."""
        recording = [] if self.scenarios is None else [self.scenarios.under_way]
        return [going for going in (*recording, *(model.under_way for model in self.models)) if going is not None]
