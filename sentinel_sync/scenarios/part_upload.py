"""Sends one part of a scenario, by the contract's steps."""

import os
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from http import HTTPMethod
from pathlib import Path
from typing import BinaryIO

from pydantic import JsonValue

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import ScenarioError, StoreError
from sentinel_sync.base.payloads import ConsentGiven, ScenarioAnnouncement
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.base.timekeeping import moment
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from sentinel_sync.cloud.file_body import BandwidthLimit, OpenFile
from sentinel_sync.cloud.tus import TusUploads
from sentinel_sync.cloud.upload import FileUpload, SingleRequest, Uploads
from sentinel_sync.scenarios.recordings import open_part
from sentinel_sync.scenarios.rules.plan import Consent, Part, PartKind, ScenarioPlan, part_key

_WHERE = {PartKind.VIDEO: "videos", PartKind.ANNOTATIONS: "annotations"}


@dataclass(frozen=True, slots=True)
class QueuedScenario:
    """What the outbox keeps of a scenario: `metadata` as it may leave the vehicle."""

    scenario_id: str
    metadata: dict[str, JsonValue]


class PartSender:
    """Sends parts over the client, each as one attempt.

    Args:
        client: The backend.
        derived_dir: Where files lie that were made of recordings.
        clock: The seam for time.
    """

    def __init__(self, client: CloudAPIClient, derived_dir: Path, *, clock: Clock | None = None) -> None:
        self._client = client
        self._derived_dir = derived_dir
        bandwidth = BandwidthLimit(client.settings.upload_bandwidth_limit)
        resumable = TusUploads(client, bandwidth, clock=clock or SystemClock())
        self._uploads = Uploads((resumable, SingleRequest(client, bandwidth)))

    async def packs_annotations(self, scenario_id: str) -> bool:
        """Whether annotations are to be packed for this backend.

        Raises:
            CloudError: It does not say now.
        """
        return await self._uploads.takes_encoding(_path(scenario_id, PartKind.ANNOTATIONS), "gzip")

    async def send(
        self,
        plan: ScenarioPlan,
        part: Part,
        queued: QueuedScenario,
        consent: Consent,
        *,
        may_send: Callable[[], Awaitable[object]],
        remember: Callable[[str | None], Awaitable[None]],
        on_progress: Callable[[int], None],
    ) -> None:
        """Send one part, or what the backend has not got of it; returns once the backend has acknowledged it.

        Args:
            plan: The scenario.
            part: Which of its parts; `file` says which bytes go, `upload_url` where an upload of them goes on.
            queued: The scenario's metadata.
            consent: Under which it goes.
            may_send: Asked again before each request after the first: raises HeldError where it may not go any more.
            remember: Keeps the URL of a resumable upload, or None where there is none any more; awaited before the
                first byte goes there.
            on_progress: Told how many of the file's bytes have arrived or were handed to the network.

        Raises:
            CloudError: It has not.
            ScenarioError: The recording is not what was queued.
            StoreError: What was made of it is gone, or the URL cannot be kept.
        """
        key = part_key(self._client.settings.vehicle_id, plan.scenario_id, part)
        if part.kind is PartKind.METADATA:
            await self._announce(plan, queued, consent, key)
            return
        if part.file is None:
            raise ValueError(f"{part.name} was not made ready")
        is_video = part.kind is PartKind.VIDEO
        async with await open_what_goes(Path(plan.folder), part, self._derived_dir) as source:
            upload = FileUpload(
                path=_path(plan.scenario_id, part.kind),
                key=key,
                source=source,
                name=part.name,
                content_type="video/mp4" if is_video else "application/json",
                sha256=part.file.sha256,
                encoding=part.file.encoding,
                as_form=is_video,
                resume_url=part.upload_url,
                may_send=may_send,
                remember=remember,
                on_progress=on_progress,
            )
            await self._uploads.send(upload)

    async def _announce(self, plan: ScenarioPlan, queued: QueuedScenario, consent: Consent, key: str) -> None:
        announcement = ScenarioAnnouncement(
            scenario_id=plan.scenario_id,
            metadata=queued.metadata,
            priority=plan.priority.value,
            consent=ConsentGiven(granted_at=moment(consent.at), policy_version=consent.policy_version),
        )
        await self._client.request(HTTPMethod.POST, "/scenarios", content=announcement, idempotency_key=key)


def _path(scenario_id: str, kind: PartKind) -> str:
    return f"/scenarios/{quote_id(scenario_id)}/{_WHERE[kind]}"


async def open_what_goes(folder: Path, part: Part, derived_dir: Path) -> OpenFile:
    """Open what goes for a part: the recording's own file, or what was made of it.

    Raises:
        ScenarioError: The recording's file is not what was queued.
        StoreError: What was made of it is gone or changed; it has to be made again.
        ValueError: Nothing was made ready for it.
    """
    if part.file is None:
        raise ValueError(f"{part.name} was not made ready")
    if part.file.derived_name is None:
        file = await run_to_end(open_part, folder, part)
    else:
        file = await run_to_end(_open_derived, derived_dir / part.file.derived_name, part.file.size_bytes, part.name)
    return OpenFile(file, part.name, part.file.size_bytes, error=ScenarioError)


def _open_derived(path: Path, size_bytes: int, name: str) -> BinaryIO:
    try:
        file = os.fdopen(os.open(path, os.O_RDONLY | os.O_NOFOLLOW | os.O_CLOEXEC), "rb")
    except OSError as error:
        raise StoreError(f"what was made of {name} cannot be opened ({error.strerror})") from None
    if os.fstat(file.fileno()).st_size != size_bytes:
        file.close()
        raise StoreError(f"what was made of {name} is not what it was")
    return file
