"""One scenario on its way, part by part: asked, prepared, sent, acknowledged, each step on disk before the next."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, replace
from http import HTTPMethod, HTTPStatus
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from pydantic import ValidationError

from sentinel_sync.base.clock import Clock, SystemClock, moment
from sentinel_sync.base.errors import CloudError, HeldError, NotNowError, ScenarioError, UnsettledError
from sentinel_sync.base.payloads import ConsentGiven, ScenarioAnnouncement, ScenarioReceipt
from sentinel_sync.base.tasks import EventPublisher, run_to_end
from sentinel_sync.base.transfer import ActiveTransfer, TransferGuard, TransferStatus
from sentinel_sync.cloud.client import CloudAPIClient, Response, quote_id
from sentinel_sync.cloud.direct import DirectUploads
from sentinel_sync.cloud.request import Request
from sentinel_sync.cloud.rules.answers import GateState
from sentinel_sync.cloud.tus import PatchCeilings, TusUploads
from sentinel_sync.cloud.upload import BandwidthLimit, FileUpload, SingleRequest, Uploads
from sentinel_sync.scenarios.consent import UploadPermission
from sentinel_sync.scenarios.preparation import Preparation, UploadPhase, open_what_goes
from sentinel_sync.scenarios.recordings import is_inside
from sentinel_sync.scenarios.records import ANNOUNCED, KIND, QueuedScenario, ScenarioRecords, id_of, queued_of
from sentinel_sync.scenarios.rules.metadata import RecordedLength, outgoing_metadata, videos
from sentinel_sync.scenarios.rules.plan import (
    Consent,
    Part,
    PartKind,
    ScenarioPlan,
    outgoing_scenario_id,
    part_key,
    waits_for_request,
)
from sentinel_sync.store.outbox import Outbox, OutboxItem
from sentinel_sync.store.rules import Defer, Release, RetryDecision, RetryPolicy, SetAside

logger: logging.Logger = logging.getLogger(__name__)

#: The extension by which a backend takes announcements first, and asks for the files it wants.
CATALOGUE = "scenario-catalogue"
_WHERE = {PartKind.VIDEO: "videos", PartKind.ANNOTATIONS: "annotations"}


class PartSender:
    """Sends parts over the client, each as one attempt.

    Args:
        derived_dir: Where files lie that were made of recordings.
        ceilings: Remembers how large pieces may be.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        derived_dir: Path,
        *,
        clock: Clock | None = None,
        ceilings: PatchCeilings | None = None,
    ) -> None:
        self._client = client
        self._derived_dir = derived_dir
        bandwidth = BandwidthLimit(client.settings.upload_bandwidth_limit)
        resumable = TusUploads(client, bandwidth, clock=clock or SystemClock(), ceilings=ceilings)
        parts_at_once = client.settings.max_parallel_parts
        self._direct = DirectUploads(client, bandwidth, parts_at_once=parts_at_once, now=(clock or SystemClock()).now)
        self._uploads = Uploads((self._direct, resumable, SingleRequest(client, bandwidth)))

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
        confirmed: Callable[[int], None],
    ) -> ScenarioReceipt | None:
        """Send one part, or what the backend has not got of it; returns once the backend has acknowledged it.

        Returns:
            What the backend says to an announcement; None of any other part.

        Args:
            plan: The scenario.
            part: Which of its parts; `file` says which bytes go, `upload_url` where an upload of them goes on.
            queued: The scenario's metadata.
            consent: Under which it goes.
            may_send: Asked again before each request after the first: raises HeldError where it may not go any more.
            remember: Keeps the URL of a resumable upload, or None where there is none any more; awaited before the
                first byte goes there.
            on_progress: Told how many of the file's bytes have arrived or were handed to the network.
            confirmed: Told how many of them the backend says that it has.

        Raises:
            CloudError: It has not.
            ScenarioError: The recording is not what was queued.
            StoreError: What was made of it is gone, or the URL cannot be kept.
        """
        key = part_key(self._client.settings.vehicle_id, plan.scenario_id, part)
        if part.kind is PartKind.METADATA:
            return await self._announce(plan, queued, consent, key)
        if part.file is None:
            raise ValueError(f"{part.name} was not made ready")
        is_video = part.kind is PartKind.VIDEO
        async with open_what_goes(part, self._derived_dir) as source:
            upload = FileUpload(
                path=_path(plan.known_as, part.kind),
                key=key,
                source=source,
                name=part.outgoing_name,
                content_type="video/mp4" if is_video else "application/json",
                sha256=part.file.sha256,
                encoding=part.file.encoding,
                as_form=is_video,
                resume_url=part.upload_url,
                may_send=may_send,
                remember=remember,
                on_progress=on_progress,
                confirmed=confirmed,
            )
            await self._uploads.send(upload)
        return None

    async def _announce(
        self, plan: ScenarioPlan, queued: QueuedScenario, consent: Consent, key: str
    ) -> ScenarioReceipt:
        announcement = ScenarioAnnouncement(
            scenario_id=plan.known_as,
            # Once more: what an earlier version queued was made fit by that version's filter. Off the loop: a megabyte
            # of metadata takes it a fifth of a second.
            metadata=await run_to_end(outgoing_metadata, queued.metadata),
            priority=plan.priority.value,
            consent=ConsentGiven(granted_at=moment(consent.at), policy_version=consent.policy_version),
        )
        reply = await self._client.request(
            HTTPMethod.POST,
            "/scenarios",
            content=announcement,
            idempotency_key=key,
            names={"scenario_id": plan.known_as},
        )
        receipt = _receipt(reply)
        if receipt.uploads:
            self._direct.note(f"/scenarios/{quote_id(plan.known_as)}", receipt.uploads)
        if reply.status == HTTPStatus.CONFLICT and receipt.upload is None and self._client.offers(CATALOGUE):
            return await self._known(plan.known_as)
        return receipt

    async def _known(self, scenario_id: str) -> ScenarioReceipt:
        """What the backend wants of a scenario that it has been told of before: the store was lost since, perhaps.

        One that does not say wants what it asks for: so nothing large goes twice, and the files stay here.
        """
        takes = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
        path = f"/scenarios/{quote_id(scenario_id)}"
        query = {"vehicle_id": self._client.settings.vehicle_id}
        reply = await self._client.ask(Request.of(HTTPMethod.GET, path, params=query, takes=takes))
        said = None if reply.status in takes else _receipt(reply).upload
        return ScenarioReceipt(upload=said or "on_request")


def _receipt(reply: Response) -> ScenarioReceipt:
    try:
        return ScenarioReceipt.model_validate(reply.data)
    except ValidationError:
        return ScenarioReceipt()


def _path(scenario_id: str, kind: PartKind) -> str:
    return f"/scenarios/{quote_id(scenario_id)}/{_WHERE[kind]}"


@dataclass(frozen=True, slots=True)
class UploadContext:
    """What a delivery works with.

    Attributes:
        records: Where the plan lies.
        permission: Asked before each step.
        preparation: Makes what goes.
        sender: Sends it.
        id_key: The key of names that the backend knows scenarios by.
        upload_setting: `scenario_upload`.
        is_asked: Says whether the backend has asked for a recording that is still to be queued for that.
    """

    records: ScenarioRecords
    permission: UploadPermission
    preparation: Preparation
    sender: PartSender
    clock: Clock
    id_key: Callable[[], Awaitable[bytes]]
    upload_setting: str = "auto"
    is_asked: Callable[[], bool] = bool


class ScenarioUpload:
    """Sends what is left of one scenario.

    Args:
        context: What it works with.
        plan: What is known of it.
        item: The claimed item.
        queued: What is in it.
        transfer: Where it says how far it is.

    Attributes:
        got_further: Whether the backend has more of it, for good, than when this began.
    """

    def __init__(
        self,
        context: UploadContext,
        plan: ScenarioPlan,
        item: OutboxItem,
        queued: QueuedScenario,
        transfer: ActiveTransfer,
    ) -> None:
        self._context = context
        self._plan = plan
        self._item = item
        self._queued = queued
        self._transfer = transfer
        self._spent_bytes = self._at_bytes = self._confirmed_bytes = 0
        self.got_further: bool = False

    async def run(self, *, only_announces: bool = False) -> bool:
        """Go on where it stopped; True once all that may go has arrived, False where a more important one comes first.

        Args:
            only_announces: Whether it ends, with False, before the first file goes.

        Raises:
            CloudError: A part was not taken; HeldError where nothing may be sent now.
            ScenarioError: The recording is not what was queued.
            StoreError: The disk that holds the state folder is full.
        """
        if self._plan.outgoing_id is None:
            await self._name_what_goes()
        if self._plan.on_request_at is not None and self._context.upload_setting == "all":
            # The setting has changed since it was announced, and somebody has queued it.
            await self._save(replace(self._plan, on_request_at=None))
        while (part := self._plan.next_part()) is not None:
            if only_announces and part.kind is not PartKind.METADATA:
                return False
            await self._ask()
            await self._send(await self._prepared(part))
            self.got_further = True
            if not only_announces and self._plan.uploaded_at is None and await self._is_overtaken():
                logger.info("scenario.overtaken: %s: a more important one goes first", self._plan.scenario_id)
                return False
        return True

    async def _is_overtaken(self) -> bool:
        return self._context.is_asked() or await self._context.records.is_overtaken(self._item)

    async def _name_what_goes(self) -> None:
        """Settle what the backend is to know it by, also of what an earlier version queued by other names."""
        outgoing_id = outgoing_scenario_id(self._plan.scenario_id, await self._context.id_key())
        names = videos(self._queued.metadata)
        parts = tuple(
            replace(part, sent_as=names[part.name])
            if part.kind is PartKind.VIDEO and part.sent_as is None and part.name in names
            else part
            for part in self._plan.parts
        )
        await self._save(replace(self._plan, outgoing_id=outgoing_id, parts=parts))

    async def _ask(self) -> Consent:
        forbidden = await self._context.permission.blocked_reason()
        consent = await self._context.permission.consent()
        if consent is None or forbidden is not None:
            raise HeldError(f"scenario {self._plan.scenario_id}: not sent: {forbidden}")
        return consent

    async def _prepared(self, part: Part) -> Part:
        """The part with the file that goes for it, made now where it was not made before."""
        if await self._context.preparation.is_ready(part):
            return part
        length = RecordedLength.of(self._queued.metadata)
        file = await self._context.preparation.file_of(self._plan, part, length, self._transfer)
        # An upload that was begun was of another file.
        return await self._note(replace(part, file=file, upload_url=None))

    async def _send(self, part: Part) -> None:
        context, transfer = self._context, self._transfer
        # Asked again: making it may have taken minutes.
        consent = await self._ask()
        part = await self._note(replace(part, began_at=context.clock.now(), consent=consent))
        transfer.begin(UploadPhase.UPLOADING, part.name, part.size_bytes if part.file is None else part.file.size_bytes)

        async def remember(upload_url: str | None) -> None:
            nonlocal part
            part = await self._note(replace(part, upload_url=upload_url))

        def moved(done_bytes: int) -> None:
            self._spent_bytes += max(0, done_bytes - self._at_bytes)
            self._at_bytes = done_bytes
            transfer.moved(done_bytes)

        def confirmed(arrived_bytes: int) -> None:
            # What was handed to a socket is no progress: only what the backend says that it has.
            self._confirmed_bytes = max(self._confirmed_bytes, arrived_bytes)
            self.got_further = self.got_further or arrived_bytes > part.attempts.furthest_bytes
            self._at_bytes = arrived_bytes
            transfer.moved(arrived_bytes)

        self._spent_bytes = self._at_bytes = self._confirmed_bytes = 0
        receipt = await context.sender.send(
            self._plan,
            part,
            self._queued,
            consent,
            may_send=self._ask,
            remember=remember,
            on_progress=moved,
            confirmed=confirmed,
        )
        self._spent_bytes = 0
        plan = self._plan.acknowledged(part, context.clock.now(), consent)
        if receipt is not None and waits_for_request(context.upload_setting, receipt.upload):
            plan = plan.on_request(context.clock.now())
        await self._save(plan)
        logger.info("scenario.part: %s %s, %d bytes", self._plan.scenario_id, part.name, transfer.total_bytes)
        await context.preparation.forget(part)

    @property
    def is_uploaded(self) -> bool:
        """Whether the backend has all of it."""
        return self._plan.uploaded_at is not None

    async def cut(self, error: CloudError, rng: Random) -> Defer | None:
        """Take in how sending a part ended: when it is worth trying again; None where nothing had left yet."""
        part = self._plan.next_part()
        if part is None or self._spent_bytes == 0:
            return None
        now = self._context.clock.now()
        attempts = part.attempts.ended(
            str(error),
            host=urlsplit(part.upload_url or "").netloc,
            furthest_bytes=self._confirmed_bytes,
            spent_bytes=self._spent_bytes,
            now=now,
            rng=rng,
            retry_after=error.retry_after if isinstance(error, NotNowError) else None,
        )
        await self._note(replace(part, attempts=attempts))
        won = self._confirmed_bytes > part.attempts.furthest_bytes
        return Defer(attempts.wait(now), str(error), connectivity=won)

    async def _note(self, part: Part) -> Part:
        """Write down what is known of a part now."""
        await self._save(self._plan.with_part(part))
        return part

    async def _save(self, plan: ScenarioPlan) -> None:
        self._plan = plan
        await self._context.records.save(plan)


class UploadWorker:
    """Delivers, and can be stopped at any instant.

    Args:
        client: For its gate.
        outbox: Where the items lie.
        context: What a delivery works with.
        events: Who wants to know how it goes.
        only_announces: Whether it sends what tells of a recording, and leaves its files to another worker.

    Attributes:
        ask_again: Set by whoever has a reason to ask at once whether what is under way may go on.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        outbox: Outbox,
        context: UploadContext,
        events: EventPublisher[TransferStatus],
        *,
        rng: Random,
        only_announces: bool = False,
    ) -> None:
        self._client = client
        self._outbox = outbox
        self._only_announces = only_announces
        self._context = context
        self._events = events
        self._rng = rng
        self._retry = RetryPolicy(rng)
        self._transfer: ActiveTransfer | None = None
        self._guard: TransferGuard | None = None
        self.ask_again: asyncio.Event = asyncio.Event()

    @property
    def scenario_id(self) -> str | None:
        """The scenario that is under way, or None."""
        return None if self._transfer is None else self._transfer.name

    def progress(self) -> TransferStatus | None:
        """How what is under way goes, or None where nothing is."""
        return None if self._transfer is None else self._transfer.status()

    def cut(self, why: str) -> None:
        """End what is under way, now."""
        if self._guard is not None:
            self._guard.cut(why)

    async def deliver(self, item: OutboxItem) -> bool:
        """Send what is left of one scenario; False where it did not come to its end.

        Raises:
            StoreError: The state folder cannot be read or written; the item waits again.
        """
        verdict: RetryDecision | bool = Release()
        changed: UnsettledError | None = None
        try:
            verdict = await self._attempt(item)
        except UnsettledError as error:
            changed = error
            verdict = SetAside(f"{error}: queue the scenario again")
        finally:
            # Also where it was cancelled: then the item waits as if nothing had been tried.
            if not isinstance(verdict, bool):
                await self._outbox.settle(item, verdict)
        if changed is not None:
            await self._look_again(item, changed)
        return verdict is True

    async def _look_again(self, item: OutboxItem, changed: UnsettledError) -> None:
        """Leave a recording that changed to the scan, where that sees it; elsewhere a person has queued it by hand."""
        plan = await self._context.records.plan(id_of(item))
        scanned = self._client.settings.scenarios_dir
        if plan is not None and await run_to_end(is_inside, Path(plan.folder), scanned):
            await self._context.records.look_again(item, plan, str(changed))

    async def _attempt(self, item: OutboxItem) -> RetryDecision | bool:
        """Do it; returns what follows for the item, or where it is done whether the backend has all of it."""
        queued = queued_of(item)
        plan = None if queued is None else await self._context.records.plan(queued.scenario_id)
        if queued is None or plan is None:
            return SetAside("what is to be sent of it cannot be read: queue the scenario again")
        delivery: ScenarioUpload | None = None
        try:
            self._transfer = transfer = ActiveTransfer(plan.scenario_id, self._events, self._context.clock)
            self._guard = TransferGuard(
                f"scenario {plan.scenario_id}",
                self._blocked_reason,
                clock=self._context.clock,
                ask_again=self.ask_again,
            )
            async with self._guard.watching():
                delivery = ScenarioUpload(self._context, plan, item, queued, transfer)
                if not await delivery.run(only_announces=self._only_announces):
                    return Release()
            await self._outbox.acknowledge(KIND if delivery.is_uploaded else ANNOUNCED, [item.seq])
        except CloudError as error:
            # Whoever got further begins to count anew: a long upload over a bad network is cut often.
            further = delivery is not None and delivery.got_further
            decision = self._retry.decision(item.key, error, 1 if further else item.attempts)
            if delivery is not None and isinstance(decision, Defer):
                decision = await delivery.cut(error, self._rng) or decision
            return decision
        except UnsettledError:
            raise
        except ScenarioError as error:
            return SetAside(str(error))
        finally:
            self._transfer = self._guard = None
        if delivery.is_uploaded:
            logger.info("scenario.uploaded: %s", plan.scenario_id)
        else:
            logger.info("scenario.on_request: %s: announced; its files go when they are asked for", plan.scenario_id)
        return delivery.is_uploaded

    async def _blocked_reason(self) -> str | None:
        """Why what is under way may not go on: what the network costs is no matter before anything is sent."""
        if self._transfer is not None and self._transfer.phase == UploadPhase.UPLOADING:
            return await self._context.permission.blocked_reason()
        passage = self._client.gate.passage(self._context.clock.monotonic())
        halted = passage.why if passage.state is GateState.HALTED else None
        return halted or await self._context.permission.forbidden_reason()
