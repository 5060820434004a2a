"""Watches the recorder's folder: what is new and complete is queued, what is being written is left alone.

Complete is a recording whose metadata.json is there and valid, which has whole all files that it names, and in which
nothing has changed for `scenario_settle_time`. Only what is not settled yet is looked into: thousands of others cost
little.
"""

import asyncio
import logging
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ScenarioError, UnsettledError
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.recordings import absolute, folder_names, read_recording, snapshot_of, storable
from sentinel_sync.scenarios.records import ScenarioRecords, ScenarioSummary
from sentinel_sync.scenarios.rules.lifecycle import (
    MADE_WHILE_WITHDRAWN,
    FolderObservation,
    made_while_withdrawn,
    priority_of,
)
from sentinel_sync.scenarios.rules.plan import (
    Consent,
    missing_consent,
)
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: A refused folder is looked at again so often, seconds: there may be many, and nobody waits for them.
_REFUSED_INTERVAL = 60.0
_IS_LINK = "this is a link: only folders of the recorder's own are sent"


class Scan:
    """Remembers what it saw.

    Args:
        records: What is known already.
        record: The driver's decisions.
        settings: The folder, and the pace.
        clock: For how long something has been unchanged.
    """

    def __init__(self, records: ScenarioRecords, record: ConsentRecord, settings: CloudSettings, clock: Clock) -> None:
        self._records = records
        self._record = record
        self._settings = settings
        self._clock = clock
        self._sights: dict[str, FolderObservation] = {}
        self._refused_at: dict[str, float] = {}
        self._looking = asyncio.Lock()

    async def look(self) -> tuple[int, float]:
        """Look once; returns how many recordings were queued, and the seconds until the next look."""
        async with self._looking:  # whoever flushes looks beside the task that does so now and then
            return await self._look()

    async def _look(self) -> tuple[int, float]:
        interval = self._settings.scenario_scan_interval
        if not self._settings.upload_scenarios:
            return 0, interval
        consent = await self._record.load()
        directory = await run_to_end(absolute, self._settings.scenarios_dir)
        names = frozenset(await run_to_end(folder_names, directory))
        summaries = await self._records.summaries()
        unsettled = [name for name in sorted(names) if not _is_settled(summaries.get(storable(name)))]
        self._forget_others(unsettled)
        if missing_consent(consent, self._settings.policy_version) is not None:
            self._sights.clear()
            return 0, interval
        history, excluded = await self._record.history(), await self._record.made_while_withdrawn()
        queued, wait = 0, interval
        for name in unsettled:
            if storable(name) in excluded:
                await self._records.decline(directory / name, MADE_WHILE_WITHDRAWN)
                continue
            if not self._is_due(name, summaries.get(storable(name))):
                continue
            new, settles_in = await self._consider(directory / name, summaries.get(storable(name)), history)
            queued += new
            wait = min(wait, settles_in or interval)
        return queued, wait

    @property
    def unqueued(self) -> int:
        """Folders that may become recordings to be sent: still changing, or not whole yet; as of the last look."""
        return len(self._sights)

    def settles_in(self) -> float | None:
        """Seconds until the next folder has been unchanged for long enough; None where none is waited for so."""
        now, settle_time = self._clock.monotonic(), self._settings.scenario_settle_time
        waits = [sight.settles_in(now, settle_time) for sight in self._sights.values() if sight.fault is None]
        return min(waits, default=None)

    def _is_due(self, name: str, summary: ScenarioSummary | None) -> bool:
        if summary is None or summary.refused is None or name in self._sights:
            return True
        now = self._clock.monotonic()
        if now - self._refused_at.get(name, float("-inf")) < _REFUSED_INTERVAL:
            return False
        self._refused_at[name] = now
        return True

    async def _consider(
        self, folder: Path, summary: ScenarioSummary | None, history: list[Consent]
    ) -> tuple[bool, float]:
        """Whether a folder was queued now, and in how many seconds it is worth another look (0.0: as usual)."""
        appearance = await run_to_end(snapshot_of, folder)
        if appearance is None or (summary is not None and summary.fingerprint == appearance.fingerprint):
            self._sights.pop(folder.name, None)
            return False, 0.0
        now = self._clock.monotonic()
        observation = self._sights.get(folder.name)
        if observation is None or observation.fingerprint != appearance.fingerprint:
            observation = self._sights[folder.name] = FolderObservation(appearance.fingerprint, now)
        if settles_in := observation.settles_in(now, self._settings.scenario_settle_time):
            return False, settles_in
        if appearance.is_link:
            await self._records.refuse(folder, _IS_LINK, appearance.fingerprint)
            del self._sights[folder.name]
            return False, 0.0
        if made_while_withdrawn(history, appearance.changed_at):
            await self._records.decline(folder, MADE_WHILE_WITHDRAWN)
            del self._sights[folder.name]
            return False, 0.0
        if observation.fault is None:
            try:
                queued = await self._take(folder, observation)
            except UnsettledError as error:
                logger.debug("scenario.unsettled: %s: %s", ascii(folder.name), error)
                return False, self._settings.scenario_settle_time
            if observation.fault is None:
                del self._sights[folder.name]
            return queued, 0.0
        if observation.is_given_up(now):
            await self._records.refuse(folder, observation.fault, appearance.fingerprint)
        return False, 0.0

    async def _take(self, folder: Path, observation: FolderObservation) -> bool:
        try:
            recording = await run_to_end(read_recording, folder)
            return await self._records.queue(recording, priority_of(recording.metadata))
        except UnsettledError:
            # That whoever writes it has closed it shows nowhere.
            observation.since = self._clock.monotonic()
            raise
        except ScenarioError as error:
            # Perhaps it is still being written: it is asked again when it changes, and refused when it does not.
            observation.fault = str(error)
            logger.debug("scenario.incomplete: %s: %s", ascii(folder.name), observation.fault)
        return False

    def _forget_others(self, unsettled: list[str]) -> None:
        for memory in (self._sights, self._refused_at):
            for name in memory.keys() - set(unsettled):
                del memory[name]


def _is_settled(summary: ScenarioSummary | None) -> bool:
    return summary is not None and summary.settled
