"""`ScenarioUploader`: recorded scenarios reach the backend part by part, and only while the driver consents."""

import asyncio
import logging
from collections.abc import Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any

from sentinel_sync.base.clock import Clock, moment
from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.folder_watch import WATCHED_INTERVAL
from sentinel_sync.base.tasks import EventPublisher, PeriodicTask, run_to_end
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation, Lifecycle
from sentinel_sync.scenarios.consent import ConsentRecord, UploadPermission, WithdrawalMark
from sentinel_sync.scenarios.preparation import DerivedFiles, Preparation
from sentinel_sync.scenarios.records import DERIVED_NAME, KIND, REPLACED, ScenarioRecords
from sentinel_sync.scenarios.retention import LOOK_INTERVAL, DiskReserve, Retention
from sentinel_sync.scenarios.rules.lifecycle import WITHDRAWN
from sentinel_sync.scenarios.rules.plan import Consent, Priority, missing_consent, waits_for_request
from sentinel_sync.scenarios.rules.status import (
    ScenariosStatus,
    ScenarioStatistics,
    ScenarioStatus,
    SentPart,
    UploadConditions,
)
from sentinel_sync.scenarios.scan import Scan
from sentinel_sync.scenarios.transcoder import Transcoder
from sentinel_sync.scenarios.upload import CATALOGUE, PartSender, UploadContext, UploadWorker
from sentinel_sync.store.outbox import OutboxItem
from sentinel_sync.store.store import Store

logger: logging.Logger = logging.getLogger(__name__)

#: An `async def` runs on the loop; a plain function runs in a thread of its own, where it may block.
ProgressListener = Callable[[TransferStatus], Any]

#: An item that is due now but was not sent waits at least so long, seconds: a claim that finds nothing must not spin.
_MIN_WAIT = 0.05
#: While the network's cost holds what is queued, it is asked again so often, seconds: nobody says when that changes.
_HELD_INTERVAL = 15.0
#: More reasons than a person reads at a glance are left to the list of scenarios.
_MOST_REASONS = 20
#: Retention is a matter of days.
_RETENTION_INTERVAL = 3600.0


class ScenarioUploader:
    """Scenarios, from the recorder's folder to the backend's acknowledgement of every part.

    Args:
        api_client: The backend.
        upload_consent: True where the host knows that the driver consents: recorded at first use, unless the driver
            has withdrawn it on this vehicle, which only `set_consent(True)` undoes.
        store: Where the queue and the decision lie; by default as `TripUploader`.
        foundation: What the agent's features share; by default what the client's components share. The retention
            settings delete nothing while its timekeeper does not trust the wall clock.

    Attributes:
        upload: The duty that sends what is queued.
        announce: The duty that tells the backend of recordings while a long one is being sent.
        scan: The duty that queues what is new and complete in `scenarios_dir`.
        retention: The duty that deletes recordings as the settings say.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        upload_consent: bool = False,
        store: Store | None = None,
        *,
        foundation: Foundation | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client = api_client
        self._settings = settings = api_client.settings
        self._vouched = upload_consent
        foundation = foundation or Foundation.of(api_client, store, clock=clock, rng=rng)
        self._clock = clock = foundation.clock
        self._store = store = foundation.store
        self._record = ConsentRecord(store.documents, clock, WithdrawalMark(settings.scenarios_dir))
        self._records = records = ScenarioRecords(store.documents, store.outbox, clock)
        self._permission = UploadPermission(settings, self._record, foundation.policy)
        derived_dir = store.state_dir / DERIVED_NAME
        reserve = settings.disk_reserve
        recorder = None if reserve is None else (settings.scenarios_dir, reserve)
        self._derived = DerivedFiles(derived_dir, settings.derived_max_bytes, recorder)
        self._reserve = DiskReserve(records, self._derived, settings, clock)
        sender = PartSender(api_client, derived_dir, clock=clock, ceilings=records)
        transcoder = Transcoder(settings, clock)
        preparation = Preparation(settings, self._derived, transcoder, sender.packs_annotations, clock)
        context = UploadContext(
            records,
            self._permission,
            preparation,
            sender,
            clock,
            self._id_key,
            settings.scenario_upload,
            lambda: bool(self._wanted),
        )
        self._events = EventPublisher[TransferStatus]("scenario.progress")
        worker = partial(UploadWorker, api_client, store.outbox, context, self._events, rng=foundation.rng)
        self._worker, self._announcer = worker(), worker(only_announces=True)
        self._scan = Scan(records, self._record, settings, clock)
        self._retention = Retention(records, settings, clock, lambda: foundation.timekeeper.trusted)
        self._sending, self._announcing = asyncio.Lock(), asyncio.Lock()
        self._wanted: dict[str, tuple[str, ...]] = {}
        self._swept = self._delivers = False
        self.upload: PeriodicTask = PeriodicTask("scenarios.upload", self.step)
        self.announce: PeriodicTask = PeriodicTask("scenarios.announce", self.announce_step)
        self.scan: PeriodicTask = PeriodicTask("scenarios.scan", self.scan_step)
        self.retention: PeriodicTask = PeriodicTask("scenarios.retention", self.retention_step)
        self._life = Lifecycle(foundation, [self.upload, self.announce], opening=self._open, closing=self._events.close)
        self._folders = foundation.folders
        foundation.policy.subscribe(self.upload.wake.set)

    async def prepare(self) -> None:
        """Open what is needed, and record the consent that the constructor was given; done by itself at first use.

        Raises:
            StoreError: The state folder cannot be used.
        """
        await self._life.prepare()

    # --- consent ---

    async def set_consent(self, granted: bool) -> None:
        """Record the driver's decision; returns once it is on disk and, where withdrawn, nothing is sent any more.

        Withdrawing stops the transfer or compression under way, drops what is queued, deletes what was made of
        recordings, and leaves the recordings.
        """
        await self.prepare()
        if not granted:
            # At once: to note what lies in a folder of thousands takes a moment.
            self._cut_for_withdrawal()
        await self._record.record(granted=granted, policy_version=self._settings.policy_version)
        for worker in (self._worker, self._announcer):
            worker.ask_again.set()
        if granted:
            self.scan.wake.set()
            self.upload.wake.set()
            return
        self._cut_for_withdrawal()
        async with self._sending, self._announcing:
            await self._drop_if_withdrawn()

    async def get_consent(self) -> Consent | None:
        """The decision in force, or None where none was ever made."""
        await self.prepare()
        return await self._record.load()

    async def get_consent_history(self) -> list[Consent]:
        """All decisions, oldest first."""
        await self.prepare()
        return await self._record.history()

    async def get_uploads(self) -> list[SentPart]:
        """What has left the vehicle, part by part, and under which consent; newest first."""
        await self.prepare()
        return await self._records.sent()

    async def uploaded_since(self, moment_at: float) -> list[tuple[float, str]]:
        """When which recording had arrived whole, since then (seconds since the epoch): cheap, from memory."""
        await self.prepare()
        found = ((summary.uploaded_at, name) for name, summary in (await self._records.summaries()).items())
        return sorted((at, name) for at, name in found if at is not None and at >= moment_at)

    # --- the queue ---

    async def queue_scenario(self, path: str | Path, priority: str = Priority.NORMAL) -> str:
        """Queue a recording for upload; returns its id (the folder's name) once that is on disk.

        Queueing one again is no harm: what has arrived stays so, and one that was set aside is tried again.

        Args:
            path: The recording's folder.
            priority: "high", "normal" or "low".

        Raises:
            ConsentError: The driver has not consented.
            ScenarioError: It cannot be uploaded as it is; `get_upload_status` keeps the reason.
            ValueError: Unknown priority.
            StoreError: It cannot be written; nothing was queued.
        """
        rank = Priority(priority)
        await self.prepare()
        policy_version, consent = self._settings.policy_version, await self._record.load()
        scenario_id = await self._records.take(path, rank, consent=consent, policy_version=policy_version)
        self._wake()
        return scenario_id

    async def get_upload_status(self, scenario_id: str) -> ScenarioStatus:
        """Say where a scenario stands."""
        await self.prepare()
        return await self._records.status(scenario_id, await self._conditions())

    async def get_scenarios(self) -> list[ScenarioStatus]:
        """Say where all scenarios stand, newest first."""
        await self.prepare()
        return await self._records.statuses(await self._conditions())

    async def get_statistics(self) -> ScenarioStatistics:
        """Count scenarios, and say what is under way."""
        await self.prepare()
        return await self._statistics(await self._record.load())

    async def _statistics(self, consent: Consent | None) -> ScenarioStatistics:
        counts = await self._store.outbox.counts(KIND)
        summaries = (await self._records.summaries()).values()
        going = self._worker.progress()
        return ScenarioStatistics(
            consent=missing_consent(consent, self._settings.policy_version) is None,
            uploading=self._worker.scenario_id,
            queued=counts.unsent,
            uploaded=counts.acknowledged,
            set_aside=counts.set_aside,
            dropped=sum(count for name, count in counts.dropped.items() if not name.endswith(REPLACED)),
            refused=sum(summary.refused is not None for summary in summaries),
            on_request=sum(summary.waits_for_request for summary in summaries),
            deleted=sum(summary.deleted for summary in summaries),
            deleted_unsent=sum(summary.deleted and summary.uploaded_at is None for summary in summaries),
            phase=None if going is None else going.phase,
            part=None if going is None else going.part,
            part_bytes=None if going is None else going.done_bytes,
            part_total_bytes=None if going is None else going.total_bytes,
            rate=None if going is None else going.rate,
            time_left=None if going is None else going.time_left,
        )

    async def snapshot(self) -> ScenariosStatus:
        """What is to be shown of recordings: cheap enough to be asked every second."""
        await self.prepare()
        consent = await self._record.load()
        statistics = await self._statistics(consent)
        return ScenariosStatus(
            consent=statistics["consent"],
            consent_at=None if consent is None else moment(consent.at),
            policy_version=self._settings.policy_version,
            held=await self.blocked_reason(),
            under_way=self._worker.progress(),
            queued=statistics["queued"],
            uploaded=statistics["uploaded"],
            set_aside=statistics["set_aside"] + statistics["refused"],
            dropped=statistics["dropped"],
            on_request=statistics["on_request"],
            deleted=statistics["deleted"],
            deleted_unsent=statistics["deleted_unsent"],
            unqueued=self.unqueued,
            disk_is_short=self._reserve.is_short,
            reasons=await self._records.reasons(_MOST_REASONS),
        )

    @property
    def unqueued(self) -> int:
        """Folders that may become recordings to be sent, as of the last look."""
        return self._scan.unqueued

    def settles_in(self) -> float | None:
        """Seconds until the next folder can be told to be whole; None where none is waited for; a plain call."""
        return self._scan.settles_in()

    def under_way(self) -> TransferStatus | None:
        """What is being prepared, compressed or sent at this instant; a plain call."""
        return self._worker.progress()

    def on_progress(self, listener: ProgressListener) -> None:
        """Have `listener(progress)` told a few times a second how what is under way goes.

        An `async def` runs on the loop; a plain function runs in a thread, where it may block. One that is slow or
        raises disturbs nothing.
        """
        self._events.subscribe(listener)

    # --- what the backend asks for ---

    def want(self, scenario_id: str, files: tuple[str, ...] = ()) -> None:
        """Send a recording that was announced, before everything else; a plain call.

        Consent is asked again. What cannot be given is logged with the reason, and stays as it is.

        Args:
            scenario_id: As the backend knows it.
            files: As the backend knows them; none of them means all.
        """
        self._wanted[scenario_id] = files
        self.upload.wake.set()

    async def _take_up_wanted(self) -> None:
        for scenario_id, files in list(self._wanted.items()):
            del self._wanted[scenario_id]
            try:
                async with self._announcing:  # which may have an older plan of it in hand
                    await self._records.request(scenario_id, files)
            except ScenarioError as error:
                logger.warning("scenario.cannot_be_given: %s: %s", ascii(scenario_id), error)

    # --- sending ---

    async def sync_now(self) -> int:
        """Send what is due now, one scenario after the other; returns how many the backend has whole."""
        await self.prepare()
        async with self._sending:
            await self._drop_if_withdrawn()
            if not self._swept:
                # What a killed agent left half made.
                await run_to_end(self._derived.sweep, await self._records.derived_names())
                self._swept = True
            sent = 0
            while await self._may_send():
                await self._take_up_wanted()
                # One at a time, so that a more important one that comes meanwhile is the next.
                item = await self._records.claim()
                if item is None:
                    break
                sent += await self._deliver(item)
            await self._drop_if_withdrawn()
            return sent

    async def _deliver(self, item: OutboxItem) -> bool:
        self._delivers = True
        self.announce.wake.set()
        try:
            return await self._worker.deliver(item)
        finally:
            self._delivers = False

    #: The name that deployed vehicles register with their OfflineManager.
    _process_next_upload = sync_now

    async def blocked_reason(self) -> str | None:
        """Why no recording may leave now, or None: the settings, the driver, or what the network costs."""
        return await self._permission.blocked_reason()

    def start_background_upload(self) -> "asyncio.Future[None]":
        """Upload every `sync_interval` seconds and after each queueing, in the running loop; may be awaited."""
        return self._life.start()

    async def stop_background_upload(self) -> None:
        """End what `start_background_upload` began; what is queued stays queued, what has arrived stays so."""
        await self._life.stop()

    async def close(self) -> None:
        """End the background and what listeners are being told; the store stays open."""
        await self._life.close()

    async def step(self) -> float:
        """Upload what is due; returns the seconds until the next upload."""
        await self.sync_now()
        interval = self._settings.sync_interval
        passage = self._client.gate.passage(self._clock.monotonic())
        if not passage.open:
            return interval if passage.wait is None else passage.wait
        due = await self._store.outbox.next_due(KIND)
        if due is None or await self._permission.forbidden_reason() is not None:
            return interval
        if await self.blocked_reason() is not None:
            return min(interval, _HELD_INTERVAL)
        return min(interval, max(due, _MIN_WAIT))

    async def announce_step(self) -> float:
        """Tell the backend of what is queued while another is being sent; returns the seconds until the next look.

        A recording may take hours to be sent, and whoever decides which of them are wanted is to know of all of them.
        """
        if self._announces_first:
            for scenario_id in await self._records.unannounced():
                async with self._announcing:
                    item = await self._records.claim_one(scenario_id) if await self._may_send() else None
                    if item is not None:
                        await self._announcer.deliver(item)
                        self.upload.wake.set()  # which may have looked for it meanwhile
        return self._settings.sync_interval

    @property
    def _announces_first(self) -> bool:
        """Whether files are sent that are asked for, while others may be to be announced."""
        says = "on_request" if self._client.offers(CATALOGUE) else None
        return self._delivers and waits_for_request(self._settings.scenario_upload, says)

    async def scan_step(self) -> float:
        """Queue what is new and complete; returns the seconds until the next look."""
        await self.prepare()
        queued, wait = await self._scan.look()
        if queued:
            self._wake()
        # What is written inside a recording's own folder is told to nobody: while one is unsettled, it is looked at.
        if not self._scan.unqueued and await self._folders.follows(self._settings.scenarios_dir, self.scan.wake.set):
            return max(wait, WATCHED_INTERVAL)
        return wait

    async def retention_step(self) -> float:
        """Delete what was kept long enough; returns the seconds until the next time."""
        await self.prepare()
        await self._retention.apply(lambda: self._worker.scenario_id)
        if self._settings.disk_reserve is None:
            return _RETENTION_INTERVAL
        busy = self._worker.scenario_id
        plan = None if busy is None else await self._records.plan(busy)
        await self._reserve.keep(busy, frozenset[str]() if plan is None else plan.derived_names)
        return LOOK_INTERVAL

    # --- how ---

    def _wake(self) -> None:
        self.upload.wake.set()
        self.announce.wake.set()

    def _cut_for_withdrawal(self) -> None:
        self._worker.cut(WITHDRAWN)
        self._announcer.cut(WITHDRAWN)

    async def _open(self) -> None:
        decided = await self._record.load()
        withdrawn = decided is not None and not decided.granted
        if self._vouched and not withdrawn and missing_consent(decided, self._settings.policy_version):
            await self._record.record(granted=True, policy_version=self._settings.policy_version)

    async def _id_key(self) -> bytes:
        """The fleet's pseudonym key, so that the vehicles' names do not differ; else one of this state folder."""
        return await self._settings.read_pseudonym_key() or await self._records.id_secret()

    async def _may_send(self) -> bool:
        return self._client.gate.passage(self._clock.monotonic()).open and await self.blocked_reason() is None

    async def _conditions(self) -> UploadConditions:
        passage = self._client.gate.passage(self._clock.monotonic())
        return UploadConditions(await self.blocked_reason(), passage.why or None, self._worker.progress())

    async def _drop_if_withdrawn(self) -> None:
        """Take everything out of the queue where the driver has said no, in this process or another."""
        consent = await self._record.load()
        if consent is None or consent.granted:
            return
        dropped = await self._records.drop_all(WITHDRAWN)
        if dropped:
            logger.info("scenario.dropped: %d scenarios: the consent was withdrawn", dropped)
        await run_to_end(self._derived.sweep, ())
