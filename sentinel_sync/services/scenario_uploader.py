"""`ScenarioUploader`: recorded scenarios reach the backend part by part, and only while the driver consents."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from random import Random, SystemRandom
from typing import TypedDict

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.adapters.cloud.cloud_api_client import CloudAPIClient
from sentinel_sync.adapters.scenarios.consent import ConsentRecord
from sentinel_sync.adapters.scenarios.parts import PartSender, QueuedScenario
from sentinel_sync.adapters.scenarios.recordings import Recording, absolute, read_recording
from sentinel_sync.adapters.store.outbox import ItemState, NewItem, OutboxItem
from sentinel_sync.adapters.store.store import Store
from sentinel_sync.adapters.threads import run_to_end
from sentinel_sync.adapters.traffic.desk import TrafficDesk
from sentinel_sync.clock import Clock, SystemClock, wait_first
from sentinel_sync.errors import CloudError, ConsentError, HeldError, ScenarioError, StoreError
from sentinel_sync.rules.scenarios.plan import Consent, Priority, ScenarioPlan, missing_consent
from sentinel_sync.rules.scenarios.status import ScenarioStatus, status_of
from sentinel_sync.rules.traffic import Traffic
from sentinel_sync.rules.verdict import Defer, Release, SetAside, Verdict, verdict_on
from sentinel_sync.services.standalone import desk_of, store_of
from sentinel_sync.supervisor import Duty, Supervisor

logger = logging.getLogger(__name__)

KIND = "scenario"
#: Folder within the state folder for what is made of recordings.
DERIVED_NAME = "derived"
#: While a part is under way it is asked so often whether it still may be, seconds: the CLI may withdraw the consent.
_ASK_AGAIN = 0.5
#: An item that is due now but was not sent waits at least so long, seconds: a claim that finds nothing must not spin.
_MIN_WAIT = 0.05
#: Why an item goes that was set aside and is queued again; nothing is lost by it.
_REPLACED = "replaced"
_PLAN = TypeAdapter(ScenarioPlan)
_QUEUED = TypeAdapter(QueuedScenario)


class ScenarioStatistics(TypedDict):
    """What `get_statistics` answers."""

    consent: bool
    uploading: str | None
    queued: int
    uploaded: int
    set_aside: int
    dropped: int


@dataclass(slots=True)
class _Transfer:
    """The scenario that is being sent."""

    scenario_id: str
    scope: asyncio.Timeout
    part_bytes: int = 0

    def cut(self) -> None:
        """End it now."""
        if not self.scope.expired():
            self.scope.reschedule(asyncio.get_running_loop().time())

    def progress(self, sent_bytes: int) -> None:
        """Note how much of the part under way has been handed to the network."""
        self.part_bytes = sent_bytes


class ScenarioUploader:
    """Scenarios, from the recorder's folder to the backend's acknowledgement of every part.

    Args:
        api_client: The backend.
        upload_consent: True where the host knows that the driver consents: recorded at first use, unless the driver
            has withdrawn it on this vehicle, which only `set_consent(True)` undoes.
        store: Where the queue and the decision lie; by default as `TripUploader`.
        traffic: Says whether recordings may go now; by default the client's own.
        supervised: True where somebody else (the agent) sees to `upload`.
        clock: The seam for time.
        rng: The seam for chance.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        upload_consent: bool = False,
        store: Store | None = None,
        *,
        traffic: TrafficDesk | None = None,
        supervised: bool = False,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client = api_client
        self._settings = api_client.settings
        self._vouched = upload_consent
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._store = store or store_of(api_client, self._clock)
        self._traffic = traffic or desk_of(api_client, self._store, self._clock)
        self._consent = ConsentRecord(self._store.documents, self._clock)
        self._sender = PartSender(api_client, self._store.state_dir / DERIVED_NAME)
        self._supervised = supervised
        self._background = Supervisor(self._clock, self._rng)
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._queueing = asyncio.Lock()
        self._sending = asyncio.Lock()
        self._swept = False
        self._transfer: _Transfer | None = None
        self._consent_changed = asyncio.Event()
        self.upload = Duty("scenarios.upload", self.step)
        self._traffic.subscribe(self.upload.wake.set)

    async def prepare(self) -> None:
        """Open what is needed, and record the consent that the constructor was given; done by itself at first use.

        Raises:
            StoreError: The state folder cannot be used.
        """
        async with self._preparing:
            if self._prepared:
                return
            await self._store.open()
            decided = await self._consent.load()
            withdrawn = decided is not None and not decided.granted
            if self._vouched and not withdrawn and missing_consent(decided, self._settings.policy_version):
                await self._consent.record(granted=True, policy_version=self._settings.policy_version)
            if not self._supervised:
                self._client.close_with(self._close)
            self._prepared = True

    # --- consent ---

    async def set_consent(self, granted: bool) -> None:
        """Record the driver's decision; returns once it is on disk and, where withdrawn, nothing is sent any more.

        Withdrawing stops the transfer under way, drops what is queued and leaves the recordings.
        """
        await self.prepare()
        await self._consent.record(granted=granted, policy_version=self._settings.policy_version)
        self._consent_changed.set()
        if granted:
            self.upload.wake.set()
            return
        if self._transfer is not None:
            self._transfer.cut()
        async with self._sending:
            await self._drop_if_withdrawn()

    async def get_consent(self) -> Consent | None:
        """The decision in force, or None where none was ever made."""
        await self.prepare()
        return await self._consent.load()

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
        if missing := missing_consent(await self._consent.load(), self._settings.policy_version):
            raise ConsentError(f"a scenario was not queued: {missing}")
        folder = await run_to_end(absolute, path)
        async with self._queueing:
            try:
                recording = await run_to_end(read_recording, folder)
            except ScenarioError as error:
                await self._remember_refusal(folder, rank, str(error))
                raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
            await self._queue(recording, rank)
        self.upload.wake.set()
        return recording.scenario_id

    async def get_upload_status(self, scenario_id: str) -> ScenarioStatus:
        """Say where a scenario stands."""
        await self.prepare()
        plan = await self._store.documents.load(KIND, _storable(scenario_id), _PLAN)
        if plan is None:
            return status_of(scenario_id, None, "unknown", "this scenario was never queued", 0)
        if plan.refused is not None:
            return status_of(scenario_id, plan, "set_aside", plan.refused, 0)
        if plan.uploaded_at is not None:
            return status_of(scenario_id, plan, "uploaded", None, 0)
        item = await self._store.outbox.find(_key(scenario_id))
        if item is None:
            return status_of(scenario_id, plan, "dropped", "it was taken out of the queue", 0)
        if item.state is ItemState.SET_ASIDE:
            return status_of(scenario_id, plan, "set_aside", item.reason, 0)
        if self._transfer is not None and self._transfer.scenario_id == scenario_id:
            return status_of(scenario_id, plan, "uploading", None, self._transfer.part_bytes)
        if forbidden := await self.why_held():
            return status_of(scenario_id, plan, "held", forbidden, 0)
        passage = self._client.gate.passage(self._clock.monotonic())
        return status_of(scenario_id, plan, "queued", item.reason or passage.why or None, 0)

    async def get_statistics(self) -> ScenarioStatistics:
        """Count scenarios: queued, uploaded, set aside, dropped."""
        await self.prepare()
        counts = await self._store.outbox.counts(KIND)
        consent = await self._consent.load()
        return ScenarioStatistics(
            consent=missing_consent(consent, self._settings.policy_version) is None,
            uploading=None if self._transfer is None else self._transfer.scenario_id,
            queued=counts.unsent,
            uploaded=counts.acknowledged,
            set_aside=counts.set_aside,
            dropped=sum(count for name, count in counts.dropped.items() if not name.endswith(_REPLACED)),
        )

    # --- sending ---

    async def sync_now(self) -> int:
        """Send what is due now, one scenario after the other; returns how many the backend has whole."""
        await self.prepare()
        async with self._sending:
            if not self._swept:
                # What a killed agent left half made.
                await self._sender.clear_derived()
                self._swept = True
            await self._drop_if_withdrawn()
            sent = 0
            while await self._may_send():
                # One at a time, so that a more important one that comes meanwhile is the next.
                claimed = await self._store.outbox.claim(KIND, 1)
                if not claimed:
                    break
                sent += await self._upload(claimed[0])
            await self._drop_if_withdrawn()
            return sent

    #: The name that deployed vehicles register with their OfflineManager.
    _process_next_upload = sync_now

    async def why_held(self) -> str | None:
        """Why no recording may leave now, or None. Asked before each request: the place for every further policy."""
        if not self._settings.upload_scenarios:
            return "cloud.upload_scenarios is false"
        missing = missing_consent(await self._consent.load(), self._settings.policy_version)
        return missing or await self._traffic.why_held(Traffic.SCENARIOS)

    def start_background_upload(self) -> "asyncio.Future[None]":
        """Upload every `sync_interval` seconds and after each queueing, in the running loop; may be awaited."""
        return self._background.start([self.upload])

    async def stop_background_upload(self) -> None:
        """End what `start_background_upload` began; what is queued stays queued, what has arrived stays so."""
        await self._background.stop(grace=self._settings.shutdown_timeout)

    async def step(self) -> float:
        """Upload what is due; returns the seconds until the next upload."""
        await self.sync_now()
        interval = self._settings.sync_interval
        passage = self._client.gate.passage(self._clock.monotonic())
        if not passage.open:
            return interval if passage.wait is None else passage.wait
        due = await self._store.outbox.next_due(KIND)
        if due is None or await self.why_held() is not None:
            return interval
        return min(interval, max(due, _MIN_WAIT))

    # --- how ---

    async def _queue(self, recording: Recording, priority: Priority) -> None:
        known = await self._store.documents.load(KIND, recording.scenario_id, _PLAN)
        plan = ScenarioPlan(recording.scenario_id, str(recording.folder), priority, self._clock.now(), recording.parts)
        item = await self._store.outbox.find(_key(plan.scenario_id))
        if known is not None and known.refused is None:
            if known.folder != plan.folder and (known.uploaded_at is not None or item is not None):
                raise ScenarioError(
                    f"scenario {plan.scenario_id!a} was not queued: another folder of this name was queued before"
                )
            if known.uploaded_at is not None or (item is not None and item.state is not ItemState.SET_ASIDE):
                return
            plan = plan.going_on_from(known)
        # The plan first: an item without one could not be sent, a plan without an item is queued by the next call.
        await self._store.documents.save(KIND, plan.scenario_id, plan, _PLAN)
        if item is not None:
            await self._store.outbox.drop([item.key], reason=_REPLACED)
        body = _QUEUED.dump_json(QueuedScenario(plan.scenario_id, recording.metadata))
        await self._store.outbox.put(NewItem(KIND, _key(plan.scenario_id), body, priority=priority.rank))
        logger.info("scenario.queued: %s, %s, %d bytes", plan.scenario_id, priority, plan.size_bytes)

    async def _remember_refusal(self, folder: Path, priority: Priority, reason: str) -> None:
        """Keep the reason for the status, but never over a scenario that is known to be good."""
        scenario_id = _storable(folder.name)
        known = await self._store.documents.load(KIND, scenario_id, _PLAN)
        if known is None or known.refused is not None:
            plan = ScenarioPlan(scenario_id, _storable(str(folder)), priority, self._clock.now(), (), refused=reason)
            await self._store.documents.save(KIND, scenario_id, plan, _PLAN)
        logger.warning("scenario.refused: %s: %s", ascii(scenario_id), reason)

    async def _may_send(self) -> bool:
        return self._client.gate.passage(self._clock.monotonic()).open and await self.why_held() is None

    async def _upload(self, item: OutboxItem) -> bool:
        """Send what is left of one scenario; False where it did not come to its end."""
        try:
            queued = _QUEUED.validate_json(item.body)
        except ValidationError:
            await self._settle(item, SetAside("it cannot be read as it is stored: queue the scenario again"))
            return False
        settled = False
        try:
            async with self._under_way(queued.scenario_id) as transfer:
                await self._send_parts(queued, transfer)
            await self._store.outbox.acknowledge(KIND, [item.seq])
            settled = True
            logger.info("scenario.uploaded: %s", queued.scenario_id)
        except CloudError as error:
            await self._settle(item, verdict_on(error, item.attempts, self._rng))
            settled = True
            return False
        except ScenarioError as error:
            await self._settle(item, SetAside(str(error)))
            settled = True
            return False
        finally:
            if not settled:
                await self._store.outbox.release([item.seq])
        return True

    async def _send_parts(self, queued: QueuedScenario, transfer: _Transfer) -> None:
        plan = await self._store.documents.load(KIND, queued.scenario_id, _PLAN)
        if plan is None:
            raise ScenarioError("what is to be sent of it was lost: queue the scenario again")
        while (part := plan.next_part()) is not None:
            consent = await self._consent.load()
            forbidden = await self.why_held()
            if consent is None or forbidden is not None:
                raise HeldError(f"scenario {plan.scenario_id}: not sent: {forbidden}")
            transfer.part_bytes = 0
            await self._sender.send(plan, part, queued, consent, transfer.progress)
            plan = plan.acknowledged(part, self._clock.now(), consent)
            await self._store.documents.save(KIND, plan.scenario_id, plan, _PLAN)
            transfer.part_bytes = 0
            logger.info("scenario.part: %s %s, %d bytes", plan.scenario_id, part.name, part.size_bytes)

    @asynccontextmanager
    async def _under_way(self, scenario_id: str) -> AsyncIterator[_Transfer]:
        """A transfer that ends at once when it may not go on.

        Raises:
            HeldError: It was ended so.
        """
        scope = asyncio.timeout(None)
        try:
            async with scope:
                self._transfer = transfer = _Transfer(scenario_id, scope)
                guard = asyncio.create_task(self._keep_asking(transfer), name="sync.scenarios.guard")
                try:
                    yield transfer
                finally:
                    self._transfer = None
                    guard.cancel()
                    await asyncio.gather(guard, return_exceptions=True)
        except TimeoutError:
            if not scope.expired():
                raise
            raise HeldError(f"scenario {scenario_id}: cut off: {await self.why_held()}") from None

    async def _keep_asking(self, transfer: _Transfer) -> None:
        try:
            while await self.why_held() is None:
                self._consent_changed.clear()
                await wait_first(self._clock, _ASK_AGAIN, self._consent_changed)
        except StoreError as error:
            # Without an answer it is a no.
            logger.error("scenario.consent: cannot be read: %s", error)
        transfer.cut()

    async def _settle(self, item: OutboxItem, verdict: Verdict) -> None:
        match verdict:
            case Release():
                await self._store.outbox.release([item.seq])
            case Defer(seconds, reason, connectivity):
                await self._store.outbox.defer(item.seq, seconds, reason, connectivity=connectivity)
            case SetAside(reason):
                logger.warning("scenario.set_aside: %s: %s", item.key, reason)
                await self._store.outbox.set_aside(item.seq, reason)

    async def _drop_if_withdrawn(self) -> None:
        """Take everything out of the queue where the driver has said no, in this process or another."""
        consent = await self._consent.load()
        if consent is None or consent.granted:
            return
        keys = [item.key for item in await self._store.outbox.items(kind=KIND)]
        if keys:
            dropped = await self._store.outbox.drop(keys, reason="consent")
            logger.info("scenario.dropped: %d scenarios: the consent was withdrawn", dropped)
        await self._sender.clear_derived()

    async def _close(self) -> None:
        await self.stop_background_upload()
        self._prepared = False


def _key(scenario_id: str) -> str:
    # With a prefix: keys are looked up without their kind, and a folder may be called like a trip.
    return f"scenario:{scenario_id}"


def _storable(name: str) -> str:
    """A folder's name as text that SQLite takes, also where it is not UTF-8."""
    return name.encode("utf-8", "backslashreplace").decode()
