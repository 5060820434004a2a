"""`ScenarioUploader`: recorded scenarios reach the backend part by part, and only while the driver consents."""

import asyncio
import logging
from collections.abc import Callable
from pathlib import Path
from random import Random
from typing import Any, TypedDict

from sentinel_sync.base.clock import Clock, moment
from sentinel_sync.base.errors import ConsentError, ScenarioError
from sentinel_sync.base.folder_watch import WATCHED_INTERVAL
from sentinel_sync.base.tasks import PeriodicTask, run_to_end
from sentinel_sync.base.transfer import EventPublisher, TransferStatus
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.http import read_pseudonym_key
from sentinel_sync.network.foundation import Foundation, Lifecycle
from sentinel_sync.scenarios.consent import ConsentRecord, UploadPermission, WithdrawalMark
from sentinel_sync.scenarios.disk_reserve import LOOK_INTERVAL, DiskReserve
from sentinel_sync.scenarios.preparation import DerivedFiles, Preparation
from sentinel_sync.scenarios.recordings import absolute, read_recording
from sentinel_sync.scenarios.records import DERIVED_NAME, KIND, REPLACED, ScenarioRecords
from sentinel_sync.scenarios.rules.lifecycle import DELETED_UNSENT, WITHDRAWN
from sentinel_sync.scenarios.rules.plan import Consent, Priority, missing_consent
from sentinel_sync.scenarios.rules.status import (
    QueueState,
    ScenariosStatus,
    ScenarioStatus,
    SentPart,
    UploadConditions,
    sent_parts,
    status_of,
)
from sentinel_sync.scenarios.scan import Retention, Scan
from sentinel_sync.scenarios.transcoder import Transcoder
from sentinel_sync.scenarios.upload import PartSender, UploadContext, UploadWorker
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


class ScenarioIntake:
    """Takes recordings by name.

    Args:
        records: Where they are recorded.
        record: The driver's decisions.
        policy_version: The policy in force.
    """

    def __init__(self, records: ScenarioRecords, record: ConsentRecord, policy_version: str) -> None:
        self._records = records
        self._record = record
        self._policy_version = policy_version

    async def take(self, path: str | Path, priority: Priority) -> str:
        """Queue a recording; returns its id once that is on disk.

        Raises:
            ConsentError: The driver has not consented.
            ScenarioError: It cannot be uploaded as it is; the reason is kept.
            StoreError: It cannot be written; nothing was queued.
        """
        if missing := missing_consent(await self._record.load(), self._policy_version):
            raise ConsentError(f"a scenario was not queued: {missing}")
        folder = await run_to_end(absolute, path)
        try:
            recording = await run_to_end(read_recording, folder)
        except ScenarioError as error:
            await self._records.refuse(folder, str(error))
            raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
        try:
            await self._records.queue(recording, priority)
        except ScenarioError as error:
            raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
        return recording.scenario_id


class ScenarioOverview:
    """Looks scenarios up.

    Args:
        records: What is known of them.
    """

    def __init__(self, records: ScenarioRecords) -> None:
        self._records = records

    async def status(self, scenario_id: str, conditions: UploadConditions) -> ScenarioStatus:
        """Say where one stands."""
        plan = await self._records.plan(scenario_id)
        return status_of(scenario_id, plan, await self._records.queue_state(scenario_id), conditions)

    async def statuses(self, conditions: UploadConditions) -> list[ScenarioStatus]:
        """Say where all stand, newest first."""
        queued = await self._records.queue_states()
        found: list[tuple[float, ScenarioStatus]] = []
        async for plan in self._records.plans():
            there = queued.get(plan.scenario_id, QueueState())
            found.append((plan.queued_at, status_of(plan.scenario_id, plan, there, conditions)))
        return [status for _, status in sorted(found, key=lambda pair: pair[0], reverse=True)]

    async def sent(self) -> list[SentPart]:
        """What has left the vehicle and under which consent, newest first."""
        sent = [part async for plan in self._records.plans() for part in sent_parts(plan)]
        return sorted(sent, key=lambda part: part.sent_at, reverse=True)


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
        self._worker = UploadWorker(api_client, store.outbox, context, self._events, rng=foundation.rng)
        self._intake = ScenarioIntake(records, self._record, settings.policy_version)
        self._scan = Scan(records, self._record, settings, clock)
        self._retention = Retention(records, settings, clock, lambda: foundation.timekeeper.trusted)
        self._overview = ScenarioOverview(records)
        self._sending = asyncio.Lock()
        self._wanted: dict[str, tuple[str, ...]] = {}
        self._swept = False
        self.upload: PeriodicTask = PeriodicTask("scenarios.upload", self.step)
        self.scan: PeriodicTask = PeriodicTask("scenarios.scan", self.scan_step)
        self.retention: PeriodicTask = PeriodicTask("scenarios.retention", self.retention_step)
        self._life = Lifecycle(foundation, [self.upload], opening=self._open, closing=self._events.close)
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
            self._worker.cut(WITHDRAWN)
        await self._record.record(granted=granted, policy_version=self._settings.policy_version)
        self._worker.ask_again.set()
        if granted:
            self.scan.wake.set()
            self.upload.wake.set()
            return
        self._worker.cut(WITHDRAWN)
        async with self._sending:
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
        return await self._overview.sent()

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
        scenario_id = await self._intake.take(path, rank)
        self.upload.wake.set()
        return scenario_id

    async def get_upload_status(self, scenario_id: str) -> ScenarioStatus:
        """Say where a scenario stands."""
        await self.prepare()
        return await self._overview.status(scenario_id, await self._conditions())

    async def get_scenarios(self) -> list[ScenarioStatus]:
        """Say where all scenarios stand, newest first."""
        await self.prepare()
        return await self._overview.statuses(await self._conditions())

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
                await self._request(scenario_id, files)
            except ScenarioError as error:
                logger.warning("scenario.cannot_be_given: %s: %s", ascii(scenario_id), error)

    async def _request(self, scenario_id: str, files: tuple[str, ...]) -> None:
        plan = await self._records.known_as(scenario_id)
        if plan is None:
            raise ScenarioError("it is not known on this vehicle")
        if plan.uploaded_at is not None:
            return
        for why in (plan.dropped, plan.refused, DELETED_UNSENT if plan.deleted_at is not None else None):
            if why is not None:
                raise ScenarioError(why)
        if plan.asked_for(files).next_part() is None:
            return  # the backend has what it asks for
        if await self._records.request(await run_to_end(read_recording, Path(plan.folder)), files):
            logger.info("scenario.wanted: %s: %s", plan.scenario_id, ", ".join(map(ascii, files)) or "all of it")

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
                sent += await self._worker.deliver(item)
            await self._drop_if_withdrawn()
            return sent

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

    async def scan_step(self) -> float:
        """Queue what is new and complete; returns the seconds until the next look."""
        await self.prepare()
        queued, wait = await self._scan.look()
        if queued:
            self.upload.wake.set()
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

    async def _open(self) -> None:
        decided = await self._record.load()
        withdrawn = decided is not None and not decided.granted
        if self._vouched and not withdrawn and missing_consent(decided, self._settings.policy_version):
            await self._record.record(granted=True, policy_version=self._settings.policy_version)

    async def _id_key(self) -> bytes:
        """The fleet's pseudonym key, so that the vehicles' names do not differ; else one of this state folder."""
        value = self._settings.pseudonym_key
        text = None if value is None else value.get_secret_value()
        key = await read_pseudonym_key(text, self._settings.pseudonym_key_file)
        return key or await self._records.id_secret()

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
