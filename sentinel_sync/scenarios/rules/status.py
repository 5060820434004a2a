"""Where a scenario stands, as it is shown to people and programs."""

from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime
from typing import TypedDict

from pydantic import Field

from sentinel_sync.base.clock import moment
from sentinel_sync.base.payloads import StatusModel
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.scenarios.rules.lifecycle import DELETED_FOR_ROOM, DELETED_UNSENT
from sentinel_sync.scenarios.rules.plan import Consent, Part, ScenarioPlan

#: Why a recording that was announced does not go.
ON_REQUEST = "announced: its files go once the backend asks for them, or with scenario_upload: all"


class ScenarioStatus(TypedDict):
    """What `get_upload_status` answers.

    `status` is "unknown", "queued", "uploading", "uploaded", "on_request" (announced; its files go when the backend
    asks for them), "held" (something forbids sending now), "set_aside" (it needs a person), "dropped" or "deleted"
    (unsent, by the retention setting); `reason` says why where it is not going well. `total_bytes` and `sent_bytes` are
    as on disk; `part_bytes` and `part_total_bytes` are those of the part under
    way as it travels (compressed, packed), `rate` is in bytes per second, `time_left` in seconds and for that part.
    `notes` says by part why the original goes although it was to be compressed, or why it has another codec.
    """

    scenario_id: str
    status: str
    reason: str | None
    priority: str | None
    parts: dict[str, bool]
    total_bytes: int
    sent_bytes: int
    queued_at: str | None
    uploaded_at: str | None
    deleted_at: str | None
    consent_granted_at: str | None
    policy_version: str | None
    phase: str | None
    part: str | None
    part_bytes: int | None
    part_total_bytes: int | None
    rate: float | None
    time_left: float | None
    notes: dict[str, str]
    warning: str | None


class ScenarioStatistics(TypedDict):
    """What `get_statistics` answers. Bytes, bytes per second and seconds are those of the part under way."""

    consent: bool
    uploading: str | None
    queued: int
    uploaded: int
    set_aside: int
    dropped: int
    refused: int
    on_request: int
    deleted: int
    deleted_unsent: int
    phase: str | None
    part: str | None
    part_bytes: int | None
    part_total_bytes: int | None
    rate: float | None
    time_left: float | None


@dataclass(frozen=True, slots=True)
class SentPart:
    """One part of which bytes have left the vehicle, and under which consent.

    Attributes:
        sent_at: When the backend acknowledged it, or else when sending it was last begun; seconds since the epoch.
        acknowledged: Whether the backend has it whole, as far as is known here.
        size_bytes: Of what travels; of the file on disk where that is not known.
        sha256: Of what travels, in hex, or None where that is not known.
        granted_at: When the consent was given, seconds since the epoch.
    """

    scenario_id: str
    part: str
    sent_at: float
    acknowledged: bool
    size_bytes: int
    sha256: str | None
    granted_at: float
    policy_version: str


@dataclass(frozen=True, slots=True)
class QueueState:
    """Whether a scenario is in the outbox, whether it was set aside there, and why, or why it waits."""

    queued: bool = False
    set_aside: bool = False
    reason: str | None = None


@dataclass(frozen=True, slots=True)
class UploadConditions:
    """What concerns all scenarios now.

    Attributes:
        held: Why nothing may be sent, or None.
        paused: Why nothing can be sent, or None.
        going: What is under way, or None.
    """

    held: str | None = None
    paused: str | None = None
    going: TransferStatus | None = None


def status_of(
    scenario_id: str, plan: ScenarioPlan | None, there: QueueState, conditions: UploadConditions
) -> ScenarioStatus:
    """Put together what is known."""
    going = conditions.going
    # What another process heard from the agent may be some seconds old.
    if going is not None and (going.name != scenario_id or (plan is not None and plan.uploaded_at is not None)):
        going = None
    status, reason = _standing(plan, there, conditions, is_going=going is not None)
    if status != "uploading":
        # Another process's word on what is under way may be some seconds old.
        going = None
    consent = None if plan is None else plan.consent
    return ScenarioStatus(
        scenario_id=scenario_id,
        status=status,
        reason=reason,
        priority=None if plan is None else plan.priority.value,
        parts={} if plan is None else {part.name: part.acknowledged_at is not None for part in plan.parts},
        total_bytes=0 if plan is None else plan.size_bytes,
        sent_bytes=0 if plan is None else plan.arrived_bytes + _travelled(plan, going),
        queued_at=None if plan is None else _shown(plan.queued_at),
        uploaded_at=None if plan is None else _shown(plan.uploaded_at),
        deleted_at=None if plan is None else _shown(plan.deleted_at),
        consent_granted_at=None if consent is None else _shown(consent.at),
        policy_version=None if consent is None else consent.policy_version,
        phase=None if going is None else going.phase,
        part=None if going is None else going.part,
        part_bytes=None if going is None else going.done_bytes,
        part_total_bytes=None if going is None else going.total_bytes,
        rate=None if going is None else going.rate,
        time_left=None if going is None else going.time_left,
        notes={} if plan is None else {part.name: note for part in plan.parts if (note := _note(part))},
        warning=None if plan is None else plan.warning,
    )


def sent_parts(plan: ScenarioPlan) -> list[SentPart]:
    """What of a scenario has left the vehicle, whole or in part."""
    sent: list[SentPart] = []
    for part in plan.parts:
        at = part.acknowledged_at if part.acknowledged_at is not None else part.began_at
        if part.consent is None or at is None:
            continue
        sent.append(
            SentPart(
                scenario_id=plan.scenario_id,
                part=part.name,
                sent_at=at,
                acknowledged=part.acknowledged_at is not None,
                size_bytes=part.size_bytes if part.file is None else part.file.size_bytes,
                sha256=None if part.file is None else part.file.sha256,
                granted_at=part.consent.at,
                policy_version=part.consent.policy_version,
            )
        )
    return sent


def sent_under(decision: Consent, sent: Iterable[SentPart]) -> list[SentPart]:
    """Which parts went under one decision."""
    return [part for part in sent if (part.granted_at, part.policy_version) == (decision.at, decision.policy_version)]


def _standing(
    plan: ScenarioPlan | None, there: QueueState, conditions: UploadConditions, *, is_going: bool
) -> tuple[str, str | None]:
    if plan is None:
        return "unknown", "this scenario was never queued"
    if (over := _over(plan)) is not None:
        return over
    if not there.queued:
        return _unqueued(plan)
    if there.set_aside:
        return "set_aside", there.reason
    if is_going:
        return "uploading", None
    if conditions.held is not None:
        return "held", conditions.held
    return "queued", there.reason or conditions.paused


def _over(plan: ScenarioPlan) -> tuple[str, str | None] | None:
    """How a scenario stands for which nothing follows by itself."""
    if plan.uploaded_at is not None:
        return "uploaded", None
    if plan.deleted_at is not None:
        return "deleted", DELETED_FOR_ROOM if plan.warning == DELETED_FOR_ROOM else DELETED_UNSENT
    if plan.refused is not None:
        return "set_aside", plan.refused
    return None


def _unqueued(plan: ScenarioPlan) -> tuple[str, str | None]:
    """How a scenario stands that is not in the outbox."""
    if plan.waits_for_request:
        return "on_request", ON_REQUEST
    if not plan.in_queue and plan.dropped is None:
        return "held", f"it is looked at again, and queued once it is whole ({plan.warning or 'it was cut off'})"
    return "dropped", plan.dropped or "it was taken out of the queue"


def _travelled(plan: ScenarioPlan, going: TransferStatus | None) -> int:
    """Of the part that is being sent, the share that has gone, in bytes as on disk."""
    if going is None or going.phase != "uploading" or not going.total_bytes:
        return 0
    size = next((part.size_bytes for part in plan.parts if part.name == going.part), 0)
    return size * going.done_bytes // going.total_bytes


def _note(part: Part) -> str | None:
    return None if part.file is None else part.file.note


def _shown(at: float | None) -> str | None:
    return None if at is None else moment(at).isoformat()


class ScenariosStatus(StatusModel):
    """Recordings.

    Attributes:
        consent: Whether the driver consents, under the policy in force.
        consent_at: When the decision was made, or None where there is none.
        held: Why nothing may leave now, or None.
        under_way: What is being prepared, compressed or sent now, or None.
        disk_is_short: Whether less of the recorder's disk is free than `disk_reserve`, although all that may go went.
        unqueued: Folders that may become recordings to be sent: still changing, or not whole yet.
        set_aside: How many need a person.
        on_request: How many have been announced, and wait to be asked for.
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
    on_request: int = 0
    deleted: int = 0
    deleted_unsent: int = 0
    unqueued: int = 0
    disk_is_short: bool = False
    reasons: dict[str, str] = Field(default_factory=dict)
