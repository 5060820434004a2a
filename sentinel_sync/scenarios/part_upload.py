"""Sends one part of a scenario, by the contract's steps: resumable where the backend offers it, in one request else."""

import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPMethod
from pathlib import Path

from pydantic import JsonValue

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import CredentialError, PreconditionError, RejectedError, UnreachableError
from sentinel_sync.base.payloads import ConsentGiven, ScenarioAnnouncement
from sentinel_sync.base.timekeeping import moment
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from sentinel_sync.cloud.rules.tus import Offer
from sentinel_sync.scenarios.bandwidth import BandwidthLimit
from sentinel_sync.scenarios.bodies import FileBody, multipart_around, plain_headers
from sentinel_sync.scenarios.part_file import open_what_goes
from sentinel_sync.scenarios.rules.plan import Consent, Part, PartFile, PartKind, ScenarioPlan, part_key
from sentinel_sync.scenarios.tus import ResumableUploads, Sending, UnworkableError

logger = logging.getLogger(__name__)

_WHERE = {PartKind.VIDEO: "videos", PartKind.ANNOTATIONS: "annotations"}


@dataclass(frozen=True, slots=True)
class QueuedScenario:
    """What the outbox keeps of a scenario: `metadata` as it may leave the vehicle."""

    scenario_id: str
    metadata: dict[str, JsonValue]


class PartSender:
    """Sends parts over the client, each as one attempt.

    Args:
        client: The backend; its `upload_bandwidth_limit` holds for all that is sent here.
        derived_dir: Where files lie that were made of recordings.
        clock: The seam for time.
    """

    def __init__(self, client: CloudAPIClient, derived_dir: Path, *, clock: Clock | None = None) -> None:
        self._client = client
        self._derived_dir = derived_dir
        self._pace = BandwidthLimit(client.settings.upload_bandwidth_limit)
        self._resumable = ResumableUploads(client, self._pace, clock=clock or SystemClock())

    async def packs_annotations(self, scenario_id: str) -> bool:
        """Whether annotations are to be packed for this backend: for a resumable upload that takes no gzip they go raw.

        Raises:
            CloudError: It does not say now.
        """
        offer = await self._resumable.offer(_path(scenario_id, PartKind.ANNOTATIONS))
        return offer is None or offer.takes_gzip

    async def send(
        self,
        plan: ScenarioPlan,
        part: Part,
        queued: QueuedScenario,
        consent: Consent,
        *,
        ask: Callable[[], Awaitable[object]],
        remember: Callable[[str | None], Awaitable[None]],
        on_progress: Callable[[int], None],
    ) -> None:
        """Send one part, or what the backend has not got of it; returns once the backend has acknowledged it.

        Args:
            plan: The scenario.
            part: Which of its parts; `file` says which bytes go, `upload_url` where an upload of them goes on.
            queued: The scenario's metadata.
            consent: Under which it goes.
            ask: Asked again before each request after the first: raises HeldError where it may not go any more.
            remember: Keeps the address of a resumable upload, or None where there is none any more; awaited before
                the first byte goes there.
            on_progress: Told how many of the file's bytes have arrived or were handed to the network.

        Raises:
            CloudError: It has not.
            ScenarioError: The recording is not what was queued.
            StoreError: What was made of it is gone, or the address cannot be kept.
        """
        if part.kind is PartKind.METADATA:
            await self._announce(plan, part, queued, consent)
        else:
            await self._send_file(plan, part, ask, remember, on_progress)

    async def _announce(self, plan: ScenarioPlan, part: Part, queued: QueuedScenario, consent: Consent) -> None:
        announcement = ScenarioAnnouncement(
            scenario_id=plan.scenario_id,
            metadata=queued.metadata,
            priority=plan.priority.value,
            consent=ConsentGiven(granted_at=moment(consent.at), policy_version=consent.policy_version),
        )
        key = self._key(plan, part)
        await self._client.request(HTTPMethod.POST, "/scenarios", content=announcement, idempotency_key=key)

    async def _send_file(
        self,
        plan: ScenarioPlan,
        part: Part,
        ask: Callable[[], Awaitable[object]],
        remember: Callable[[str | None], Awaitable[None]],
        on_progress: Callable[[int], None],
    ) -> None:
        path = _path(plan.scenario_id, part.kind)
        async with await open_what_goes(Path(plan.folder), part, self._derived_dir) as source:
            file = _file_of(part)
            offer = await self._offer(path, file)
            sending = Sending(
                path, self._key(plan, part), source, _metadata(part), part.upload_url, ask, remember, on_progress
            )
            if offer is not None and await self._sent_resumably(sending, offer, file):
                return
            if part.upload_url is not None or offer is not None:
                await remember(None)
            await ask()
            await self._post(sending, part, file)

    async def _offer(self, path: str, file: PartFile) -> Offer | None:
        offer = await self._resumable.offer(path)
        return offer if offer is not None and offer.takes(file.size_bytes, file.encoding) else None

    async def _sent_resumably(self, sending: Sending, offer: Offer, file: PartFile) -> bool:
        """Send it so; False where the backend offers that no longer, or does not do what it offers."""
        try:
            await self._resumable.send(sending, offer)
        except (UnworkableError, PreconditionError) as error:
            # 412 says that the backend speaks another version than the one that it offered (tus, "Tus-Version").
            logger.warning("scenario.resumable: %s; sent in one request each for a while", error)
            self._resumable.do_without(sending.path)
            return False
        except RejectedError:
            # Perhaps the offer is an old one.
            self._resumable.forget(sending.path)
            if await self._offer(sending.path, file) is not None:
                raise
            return False
        return True

    async def _post(self, sending: Sending, part: Part, file: PartFile) -> None:
        """Send it in one request."""
        headers, before, after = (
            multipart_around(part.name) if part.kind is PartKind.VIDEO else (plain_headers(file.encoding), b"", b"")
        )
        body = FileBody(
            sending.source,
            0,
            file.size_bytes,
            before=before,
            after=after,
            pace=self._pace,
            on_progress=sending.on_progress,
        )
        try:
            await self._client.request(
                HTTPMethod.POST,
                sending.path,
                content=body,
                headers={**headers, "Content-Length": str(body.size_bytes)},
                idempotency_key=sending.key,
                bulk=True,
            )
        except (UnreachableError, CredentialError):
            # Whoever said that there are no resumable uploads may have been a login page, or have refused us.
            self._resumable.forget(sending.path)
            raise

    def _key(self, plan: ScenarioPlan, part: Part) -> str:
        return part_key(self._client.settings.vehicle_id, plan.scenario_id, part)


def _path(scenario_id: str, kind: PartKind) -> str:
    return f"/scenarios/{quote_id(scenario_id)}/{_WHERE[kind]}"


def _file_of(part: Part) -> PartFile:
    if part.file is None:
        raise ValueError(f"{part.name} was not made ready")
    return part.file


def _metadata(part: Part) -> dict[str, str]:
    """`Upload-Metadata` of a part: under the name that the contract knows it by, whatever file goes for it."""
    file = _file_of(part)
    packed = "application/gzip" if file.encoding == "gzip" else "application/json"
    return {
        "filename": part.name,
        "filetype": "video/mp4" if part.kind is PartKind.VIDEO else packed,
        "sha256": file.sha256,
    }
