"""Where a scenario stands, as it is shown to people and programs."""

from typing import TypedDict

from sentinel_sync.rules.scenarios.plan import ScenarioPlan
from sentinel_sync.rules.trips.trips import moment


class ScenarioStatus(TypedDict):
    """What `get_upload_status` answers.

    `status` is "unknown", "queued", "uploading", "uploaded", "held" (something forbids sending now), "set_aside" (it
    needs a person) or "dropped"; `reason` says why where it is not going well. Bytes are as on disk.
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
    consent_granted_at: str | None
    policy_version: str | None


def status_of(
    scenario_id: str, plan: ScenarioPlan | None, status: str, reason: str | None, part_bytes: int
) -> ScenarioStatus:
    """Put together what is known; `part_bytes` are those of the part under way, not acknowledged yet."""
    consent = None if plan is None else plan.consent
    return ScenarioStatus(
        scenario_id=scenario_id,
        status=status,
        reason=reason,
        priority=None if plan is None else plan.priority.value,
        parts={} if plan is None else {part.name: part.acknowledged_at is not None for part in plan.parts},
        total_bytes=0 if plan is None else plan.size_bytes,
        sent_bytes=0 if plan is None else plan.arrived_bytes + part_bytes,
        queued_at=None if plan is None else _shown(plan.queued_at),
        uploaded_at=None if plan is None else _shown(plan.uploaded_at),
        consent_granted_at=None if consent is None else _shown(consent.at),
        policy_version=None if consent is None else consent.policy_version,
    )


def _shown(at: float | None) -> str | None:
    return None if at is None else moment(at).isoformat()
