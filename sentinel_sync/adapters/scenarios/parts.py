"""Sends one part of a scenario in one request, by the contract's steps."""

import hashlib
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from http import HTTPMethod
from pathlib import Path

from pydantic import JsonValue

from sentinel_sync.adapters.cloud.cloud_api_client import CloudAPIClient, quote_id
from sentinel_sync.adapters.scenarios.bodies import FileBody, annotations_body, video_body
from sentinel_sync.adapters.threads import run_to_end
from sentinel_sync.errors import StoreError
from sentinel_sync.payloads import ConsentGiven, ScenarioAnnouncement
from sentinel_sync.rules.scenarios.plan import Consent, Part, PartKind, ScenarioPlan, part_key
from sentinel_sync.rules.trips.trips import moment


@dataclass(frozen=True, slots=True)
class QueuedScenario:
    """What the outbox keeps of a scenario: `metadata` as it may leave the vehicle."""

    scenario_id: str
    metadata: dict[str, JsonValue]


class PartSender:
    """Sends parts over the client, each as one attempt.

    Args:
        client: The backend.
        derived_dir: For files made of recordings (packed annotations); holds nothing that cannot be made again.
    """

    def __init__(self, client: CloudAPIClient, derived_dir: Path) -> None:
        self._client = client
        self._derived_dir = derived_dir

    async def send(
        self,
        plan: ScenarioPlan,
        part: Part,
        queued: QueuedScenario,
        consent: Consent,
        on_progress: Callable[[int], None],
    ) -> None:
        """Send one part; returns once the backend has acknowledged it.

        Raises:
            CloudError: It has not.
            ScenarioError: The recording is not what was queued.
            StoreError: The disk that holds the state folder is full.
        """
        match part.kind:
            case PartKind.METADATA:
                await self._announce(plan, part, queued, consent)
            case PartKind.VIDEO:
                async with await video_body(Path(plan.folder), part, on_progress) as body:
                    await self._post(plan, part, "videos", body)
            case PartKind.ANNOTATIONS:
                await self._send_annotations(plan, part, on_progress)

    async def clear_derived(self) -> None:
        """Delete the files made of recordings."""
        await run_to_end(shutil.rmtree, self._derived_dir, ignore_errors=True)

    async def _announce(self, plan: ScenarioPlan, part: Part, queued: QueuedScenario, consent: Consent) -> None:
        announcement = ScenarioAnnouncement(
            scenario_id=plan.scenario_id,
            metadata=queued.metadata,
            priority=plan.priority.value,
            consent=ConsentGiven(granted_at=moment(consent.at), policy_version=consent.policy_version),
        )
        key = part_key(self._client.settings.vehicle_id, plan.scenario_id, part)
        await self._client.request(HTTPMethod.POST, "/scenarios", content=announcement, idempotency_key=key)

    async def _send_annotations(self, plan: ScenarioPlan, part: Part, on_progress: Callable[[int], None]) -> None:
        # A name of its own making: the id may hold what another file system does not take.
        packed = self._derived_dir / f"{hashlib.sha256(plan.scenario_id.encode()).hexdigest()[:32]}.annotations.gz"
        try:
            body = await annotations_body(Path(plan.folder), part, packed, on_progress)
        except OSError as error:
            raise StoreError(f"the annotations of a scenario cannot be packed on disk ({error.strerror})") from None
        try:
            async with body:
                await self._post(plan, part, "annotations", body)
        finally:
            await run_to_end(packed.unlink, missing_ok=True)

    async def _post(self, plan: ScenarioPlan, part: Part, where: str, body: FileBody) -> None:
        await self._client.request(
            HTTPMethod.POST,
            f"/scenarios/{quote_id(plan.scenario_id)}/{where}",
            content=body,
            headers=body.headers,
            idempotency_key=part_key(self._client.settings.vehicle_id, plan.scenario_id, part),
        )
