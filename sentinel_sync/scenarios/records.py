"""The record of every scenario: its plan, its item in the outbox, and what is known of all of them at a glance."""

import asyncio
import logging
import secrets
from collections.abc import AsyncIterator, Collection, Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from itertools import islice
from pathlib import Path
from typing import Self, TypeVar

from pydantic import JsonValue, TypeAdapter, ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ConsentError, ScenarioError
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.recordings import Recording, absolute, read_recording, storable
from sentinel_sync.scenarios.rules.lifecycle import ASKED_FOR_RANK, DELETED_UNSENT, HEAD_START, turn
from sentinel_sync.scenarios.rules.plan import (
    OUTGOING_PREFIX,
    Consent,
    PartKind,
    Priority,
    ScenarioPlan,
    missing_consent,
)
from sentinel_sync.scenarios.rules.status import (
    QueueState,
    ScenarioStatus,
    SentPart,
    UploadConditions,
    sent_parts,
    status_of,
)
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.outbox import ItemState, NewItem, Outbox, OutboxItem

logger: logging.Logger = logging.getLogger(__name__)

Thing = TypeVar("Thing")

#: Of its items in the outbox, and of its documents.
KIND = "scenario"
#: Under which announcements are counted whose files are on request: the scenario itself has not been sent.
ANNOUNCED = "scenario.announced"
#: Folder within the state folder for what is made of recordings.
DERIVED_NAME = "derived"
#: Why an item goes whose scenario is queued anew; nothing is lost by it.
REPLACED = "replaced"
#: Plans that are read in one go; others get their turn in between.
_CHUNK = 64
#: More items than fit on a vehicle's disk as recordings.
_ALL = 1_000_000
_TWIN = "another folder of this name was found and not sent: give it a name of its own"

_PLAN = TypeAdapter(ScenarioPlan)
_TEXT = TypeAdapter(str)
#: Kind and key of the document that has the key of scenarios' names.
_SECRETS, _ID_SECRET = "secret", "scenario_ids"
#: Kind of the documents that say how large a piece of an upload passes a server; their key is its host and port.
_CEILINGS = "scenario.patch_ceiling"
#: Seconds after which a larger one is dared again: whoever runs the server may have raised its limit.
_CEILING_LIFETIME = 7 * 86_400.0


@dataclass(frozen=True, slots=True)
class QueuedScenario:
    """What the outbox keeps of a scenario: `metadata` as it may leave the vehicle."""

    scenario_id: str
    metadata: dict[str, JsonValue]


_QUEUED = TypeAdapter(QueuedScenario)


@dataclass(frozen=True, slots=True)
class ScenarioSummary:
    """What of a plan is kept in memory.

    Attributes:
        refused: Why it was refused, or None.
        fingerprint: Of a refused folder; None where it was refused without one.
        settled: Whether nothing follows for it by itself: queued, uploaded, dropped or deleted.
        uploaded_at: When all of it had arrived, seconds since the epoch, or None.
        unannounced: Whether it is queued, and the backend has not been told of it.
    """

    folder: str
    refused: str | None
    fingerprint: str | None
    settled: bool
    uploaded_at: float | None
    deleted: bool
    waits_for_request: bool = False
    unannounced: bool = False

    @classmethod
    def of(cls, plan: ScenarioPlan) -> Self:
        """Note down a plan."""
        deleted = plan.deleted_at is not None
        done = plan.uploaded_at is not None or deleted or plan.dropped is not None
        next_part = plan.next_part()
        return cls(
            folder=plan.folder,
            refused=plan.refused,
            fingerprint=plan.fingerprint,
            settled=done or (plan.refused is None and plan.in_queue),
            uploaded_at=plan.uploaded_at,
            deleted=deleted,
            waits_for_request=plan.waits_for_request,
            unannounced=plan.in_queue and not done and next_part is not None and next_part.kind is PartKind.METADATA,
        )


@dataclass(frozen=True, slots=True)
class _PatchCeiling:
    ceiling_bytes: int
    learnt_at: float


_CEILING = TypeAdapter(_PatchCeiling)


class ScenarioRecords:
    """Plans as documents, items in the outbox.

    A plan says what is known of a scenario for ever; its item is there as long as it is to be sent. The plan is written
    first, and once more when the item is in: whatever a power cut leaves can be told apart.
    """

    def __init__(self, documents: Documents, outbox: Outbox, clock: Clock) -> None:
        self._documents = documents
        self._outbox = outbox
        self._clock = clock
        self._cards: dict[str, ScenarioSummary] = {}
        self._version: int | None = None
        self._saved: set[str] = set()
        self._reading = asyncio.Lock()
        self._queueing = asyncio.Lock()

    async def plan(self, scenario_id: str) -> ScenarioPlan | None:
        """What is known of one scenario, or None where it was never heard of."""
        return await self._documents.load(KIND, storable(scenario_id), _PLAN)

    async def patch_ceiling(self, server: str) -> int | None:
        """How large a piece of an upload passes a server, bytes; None where that is not known, or was long ago."""
        known = await self._documents.load(_CEILINGS, server, _CEILING)
        if known is None or not 0.0 <= self._clock.now() - known.learnt_at < _CEILING_LIFETIME:
            return None
        return known.ceiling_bytes

    async def save_patch_ceiling(self, server: str, ceiling_bytes: int) -> None:
        """Remember it over restarts."""
        await self._documents.save(_CEILINGS, server, _PatchCeiling(ceiling_bytes, self._clock.now()), _CEILING)

    async def save(self, plan: ScenarioPlan) -> None:
        """Write a plan; returns once it is on disk."""
        await self._documents.save(KIND, plan.scenario_id, plan, _PLAN)
        self._cards[plan.scenario_id] = ScenarioSummary.of(plan)
        self._saved.add(plan.scenario_id)

    async def item(self, scenario_id: str) -> OutboxItem | None:
        """The item of one scenario, or None where it is not queued."""
        return await self._outbox.find(key_of(scenario_id))

    async def items(self) -> list[OutboxItem]:
        """All that is queued, oldest first."""
        return await self._outbox.items(kind=KIND, limit=_ALL)

    async def queue_state(self, scenario_id: str) -> QueueState:
        """Whether a scenario is in the outbox, and how it is there."""
        return _whereabouts(await self.item(scenario_id))

    async def queue_states(self) -> dict[str, QueueState]:
        """The same for all that are in the outbox, by scenario."""
        return {id_of(item): _whereabouts(item) for item in await self.items()}

    async def reasons(self, most: int) -> dict[str, str]:
        """Why scenarios need a person: of `most` that were set aside, and of `most` that were refused."""
        aside = await self._outbox.items(kind=KIND, state=ItemState.SET_ASIDE, limit=most)
        refused = (
            (name, summary.refused) for name, summary in (await self.summaries()).items() if summary.refused is not None
        )
        return {**dict(islice(refused, most)), **{id_of(item): item.reason or "" for item in aside}}

    async def known_as(self, outgoing_id: str) -> ScenarioPlan | None:
        """The plan of the scenario that the backend knows by this id, or None."""
        plan = await self.plan(outgoing_id)
        if plan is not None and plan.outgoing_id in {None, outgoing_id}:
            return plan
        if not outgoing_id.startswith(OUTGOING_PREFIX):
            return None  # a time stamp is the folder's own name
        async for other in self.plans():
            if other.outgoing_id == outgoing_id:
                return other
        return None

    async def ids(self) -> list[str]:
        """All scenarios that were ever heard of, sorted."""
        return await self._documents.keys(KIND)

    async def plans(self, ids: Iterable[str] | None = None) -> AsyncIterator[ScenarioPlan]:
        """Go through plans, all by default."""
        for some in _batched(list(ids) if ids is not None else await self.ids(), _CHUNK):
            for plan in await asyncio.gather(*(self.plan(scenario_id) for scenario_id in some)):
                if plan is not None:
                    yield plan

    async def summaries(self) -> dict[str, ScenarioSummary]:
        """All scenarios at a glance; read again only where another process has written."""
        async with self._reading:
            version = await self._outbox.data_version()
            if version != self._version:
                self._saved.clear()
                summaries = {plan.scenario_id: ScenarioSummary.of(plan) async for plan in self.plans()}
                # What was saved here meanwhile is newer than what was read.
                self._cards = summaries | {scenario_id: self._cards[scenario_id] for scenario_id in self._saved}
                self._version = version
        return self._cards

    # --- for people ---

    async def status(self, scenario_id: str, conditions: UploadConditions) -> ScenarioStatus:
        """Say where one stands."""
        plan = await self.plan(scenario_id)
        return status_of(scenario_id, plan, await self.queue_state(scenario_id), conditions)

    async def statuses(self, conditions: UploadConditions) -> list[ScenarioStatus]:
        """Say where all stand, newest first."""
        queued = await self.queue_states()
        found: list[tuple[float, ScenarioStatus]] = []
        async for plan in self.plans():
            there = queued.get(plan.scenario_id, QueueState())
            found.append((plan.queued_at, status_of(plan.scenario_id, plan, there, conditions)))
        return [status for _, status in sorted(found, key=lambda pair: pair[0], reverse=True)]

    async def sent(self) -> list[SentPart]:
        """What has left the vehicle and under which consent, newest first."""
        sent = [part async for plan in self.plans() for part in sent_parts(plan)]
        return sorted(sent, key=lambda part: part.sent_at, reverse=True)

    # --- whose turn it is ---

    async def claim(self) -> OutboxItem | None:
        """Take the item whose turn it is, or None where none is due."""
        return await self._outbox.claim_in_turn(KIND, HEAD_START)

    async def unannounced(self) -> list[str]:
        """Scenarios that are queued, and of which the backend has not been told."""
        return [scenario_id for scenario_id, summary in (await self.summaries()).items() if summary.unannounced]

    async def claim_one(self, scenario_id: str) -> OutboxItem | None:
        """Take the item of one scenario, or None where it is not due, or is being sent."""
        return await self._outbox.claim_one(key_of(scenario_id))

    async def is_overtaken(self, item: OutboxItem) -> bool:
        """Whether another item is due that goes before one that was claimed."""
        first = await self._outbox.first_in_turn(KIND, HEAD_START)
        return first is not None and turn(first.created_at, first.priority) < turn(item.created_at, item.priority)

    # --- changes ---

    async def take(self, path: str | Path, priority: Priority, *, consent: Consent | None, policy_version: str) -> str:
        """Queue a recording that somebody names; returns its id once that is on disk.

        Args:
            consent: The driver's decision.
            policy_version: The policy in force.

        Raises:
            ConsentError: The driver has not consented.
            ScenarioError: It cannot be uploaded as it is; the reason is kept.
            StoreError: It cannot be written; nothing was queued.
        """
        if missing := missing_consent(consent, policy_version):
            raise ConsentError(f"a scenario was not queued: {missing}")
        folder = await run_to_end(absolute, path)
        try:
            recording = await run_to_end(read_recording, folder)
        except ScenarioError as error:
            await self.refuse(folder, str(error))
            raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
        try:
            await self.queue(recording, priority)
        except ScenarioError as error:
            raise ScenarioError(f"scenario {folder.name!a} was not queued: {error}") from None
        return recording.scenario_id

    async def queue(self, recording: Recording, priority: Priority) -> bool:
        """Put a recording into the outbox; returns once it is on disk, False where nothing was to be done.

        What has arrived of it stays so, as far as its files are the same.

        Raises:
            ScenarioError: Another folder of this name was queued before.
            StoreError: It cannot be written.
        """
        async with self._queueing:
            return await self._queue(recording, priority, priority.rank)

    async def request(self, outgoing_id: str, files: tuple[str, ...]) -> None:
        """Put a recording that the backend asks for before everything else; nothing where the backend has it.

        Args:
            outgoing_id: As the backend knows it.
            files: As the backend knows them; none of them means all.

        Raises:
            ScenarioError: It cannot be given.
            StoreError: It cannot be written.
        """
        plan = await self.known_as(outgoing_id)
        if plan is None:
            raise ScenarioError("it is not known on this vehicle")
        if plan.uploaded_at is not None:
            return
        for why in (plan.dropped, plan.refused, DELETED_UNSENT if plan.deleted_at is not None else None):
            if why is not None:
                raise ScenarioError(why)
        if plan.asked_for(files).next_part() is None:
            return  # the backend has what it asks for
        recording = await run_to_end(read_recording, Path(plan.folder))
        async with self._queueing:
            known = await self.plan(plan.scenario_id) or plan
            await self.save(known.asked_for(files))
            if await self._queue(recording, known.priority, ASKED_FOR_RANK):
                wanted = ", ".join(map(ascii, files)) or "all of it"
                logger.info("scenario.wanted: %s: %s", plan.scenario_id, wanted)

    async def _queue(self, recording: Recording, priority: Priority, rank: int) -> bool:
        known, item = await self.plan(recording.scenario_id), await self.item(recording.scenario_id)
        plan = ScenarioPlan(
            recording.scenario_id,
            str(recording.folder),
            priority,
            self._clock.now(),
            recording.parts,
            in_queue=False,
            warning=recording.warning,
        )
        if known is not None and known.refused is None:
            if known.folder != plan.folder and (known.uploaded_at is not None or item is not None):
                await self.save(replace(known, warning=_TWIN))
                raise ScenarioError("another folder of this name was queued before")
            if known.uploaded_at is not None or (item is not None and not _is_to_be_replaced(item, rank)):
                return False
            plan = plan.going_on_from(known)
        await self.save(plan)
        if item is not None:
            await self._outbox.drop([item.key], reason=REPLACED)
        body = _QUEUED.dump_json(QueuedScenario(plan.scenario_id, recording.metadata))
        await self._outbox.put(NewItem(KIND, key_of(plan.scenario_id), body, priority=rank))
        await self.save(replace(plan, in_queue=True))
        logger.info("scenario.queued: %s, %s, %d bytes", plan.scenario_id, priority, plan.size_bytes)
        return True

    async def look_again(self, item: OutboxItem, plan: ScenarioPlan, reason: str) -> None:
        """Have a recording that changed looked at again: it is queued anew once it is whole and at rest."""
        # In this order: of what a power cut leaves in between, the scan makes the same.
        await self.save(replace(plan, in_queue=False, warning=reason))
        await self._outbox.drop([item.key], reason=REPLACED)
        logger.info("scenario.changed: %s: %s: it is looked at again", plan.scenario_id, reason)

    async def refuse(self, folder: Path, reason: str, fingerprint: str | None = None) -> None:
        """Keep the reason for the status, but never over a scenario that is known to be good."""
        scenario_id = storable(folder.name)
        known = await self.plan(scenario_id)
        if known is None or known.refused is not None or not ScenarioSummary.of(known).settled:
            await self.save(replace(bare_plan(folder, self._clock.now()), refused=reason, fingerprint=fingerprint))
        logger.warning("scenario.refused: %s: %s", ascii(scenario_id), reason)

    async def decline(self, folder: Path, reason: str) -> None:
        """Note that a folder is not to be queued by itself."""
        plan = replace(bare_plan(folder, self._clock.now()), dropped=reason)
        await self.save(plan)
        logger.info("scenario.declined: %s: %s", ascii(plan.scenario_id), reason)

    async def drop_all(self, reason: str) -> int:
        """Take everything out of the queue that is not being sent; returns how much that was."""
        items = [item for item in await self.items() if item.state is not ItemState.SENDING]
        dropped = await self._outbox.drop([item.key for item in items], reason="consent") if items else 0
        waiting = [name for name, summary in (await self.summaries()).items() if summary.waits_for_request]
        names = [*map(id_of, items), *waiting]
        plans = [replace(plan.without_files(), dropped=reason) async for plan in self.plans(names)]
        for some in _batched(plans, _CHUNK):
            await asyncio.gather(*(self.save(plan) for plan in some))
        return dropped

    async def drop(self, scenario_id: str, *, reason: str) -> bool:
        """Take one out of the queue; False where it was not there, or is being sent."""
        return await self._outbox.drop([key_of(scenario_id)], reason=reason) > 0

    async def id_secret(self) -> bytes:
        """A random key of this state folder, made at first use: for names where the fleet has no pseudonym key."""
        secret = await self._documents.load(_SECRETS, _ID_SECRET, _TEXT)
        if secret is None:
            secret = secrets.token_hex(32)
            await self._documents.save(_SECRETS, _ID_SECRET, secret, _TEXT)
        return bytes.fromhex(secret)

    async def derived_names(self) -> Collection[str]:
        """Files made of recordings that are still to be sent."""
        names: set[str] = set()
        async for plan in self.plans(map(id_of, await self.items())):
            names |= plan.derived_names
        return names


def bare_plan(folder: Path, now: float) -> ScenarioPlan:
    """A plan of a recording of which nothing is to be sent."""
    return ScenarioPlan(storable(folder.name), storable(str(folder)), Priority.NORMAL, now, (), in_queue=False)


def queued_of(item: OutboxItem) -> QueuedScenario | None:
    """Read an item's body; None where it is not as it was written."""
    try:
        return _QUEUED.validate_json(item.body)
    except ValidationError:
        return None


def key_of(scenario_id: str) -> str:
    """The key of a scenario's item: with a prefix, because a folder may be called like a trip."""
    return f"{KIND}:{storable(scenario_id)}"


def id_of(item: OutboxItem) -> str:
    """The scenario that an item is about."""
    return item.key.removeprefix(f"{KIND}:")


def _batched(things: Sequence[Thing], size: int) -> Iterator[Sequence[Thing]]:
    """Parts of a list, one after the other."""
    for start in range(0, len(things), size):
        yield things[start : start + size]


def _whereabouts(item: OutboxItem | None) -> QueueState:
    if item is None:
        return QueueState()
    return QueueState(queued=True, set_aside=item.state is ItemState.SET_ASIDE, reason=item.reason)


def _is_to_be_replaced(item: OutboxItem, rank: int) -> bool:
    """Whether queueing an item's scenario again changes anything: it was set aside, or matters more or less now."""
    if item.state is ItemState.WAITING:
        return item.priority not in {rank, ASKED_FOR_RANK}
    return item.state is ItemState.SET_ASIDE
