"""What is on record of scenarios, opened from outside, whether or not an agent runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.cli.state_folder import last_said, opened, runs
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.plan import missing_consent
from sentinel_sync.scenarios.rules.status import UploadConditions
from sentinel_sync.scenarios.scenario_uploader import ScenarioOverview
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.outbox import Outbox
from sentinel_sync.store.store import Store


@dataclass(frozen=True, slots=True)
class Books:
    """The record of scenarios, and of the driver's decisions.

    Attributes:
        outbox: What is queued, of whatever kind.
        records: Plans and items.
        record: Decisions.
        overview: All of it for people.
    """

    outbox: Outbox
    records: ScenarioRecords
    record: ConsentRecord
    overview: ScenarioOverview

    @classmethod
    def of(cls, outbox: Outbox, documents: Documents) -> "Books":
        """Open them over a store."""
        clock = SystemClock()
        records = ScenarioRecords(documents, outbox, clock)
        return cls(outbox, records, ConsentRecord(documents, clock), ScenarioOverview(records))


@asynccontextmanager
async def read(settings: CloudSettings) -> AsyncIterator[Books]:
    """Open them for a look; nothing is made or changed.

    Raises:
        CommandError: No agent has ever run there.
    """
    async with opened(settings, writable=False) as folder:
        yield Books.of(folder.outbox, folder.documents)


@asynccontextmanager
async def changed(settings: CloudSettings) -> AsyncIterator[Books]:
    """Open them for a change, beside a running agent or before the first one."""
    async with Store(settings.state_dir, max_bytes=settings.outbox_max_bytes, exclusive=False) as store:
        yield Books.of(store.outbox, store.documents)


async def conditions(settings: CloudSettings, books: Books) -> UploadConditions:
    """What concerns all scenarios now: a running agent's word, or what the record says."""
    forbidden = missing_consent(await books.record.load(), settings.policy_version)
    if not settings.upload_scenarios:
        forbidden = "cloud.upload_scenarios is false"
    if not await asyncio.to_thread(runs, settings):
        return UploadConditions(held=forbidden, paused="no agent is running")
    said = await asyncio.to_thread(last_said, settings)
    if said is None:
        return UploadConditions(held=forbidden)
    shown = said.scenarios
    paused = said.connectivity.gate_reason or None
    if shown is None:
        return UploadConditions(held=forbidden, paused=paused)
    return UploadConditions(forbidden or shown.held, paused, shown.under_way)
