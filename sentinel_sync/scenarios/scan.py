"""Watches the recorder's folder: what is new and complete is queued, what is being written is left alone.

Complete is a recording whose metadata.json is there and valid, which has whole all files that it names, and in which
nothing has changed for `scenario_settle_time`. Only what is not settled yet is looked into: thousands of others cost
little.
"""

import logging
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.folders import appearance_of, folder_names
from sentinel_sync.scenarios.recordings import absolute, read_recording
from sentinel_sync.scenarios.records import Card, ScenarioRecords, storable
from sentinel_sync.scenarios.rules.arrival import Sight, priority_of
from sentinel_sync.scenarios.rules.consent import (
    MADE_WHILE_WITHDRAWN,
    appeared_while_withdrawn,
    made_while_withdrawn,
)
from sentinel_sync.scenarios.rules.plan import Consent, missing_consent
from sentinel_sync.settings import CloudSettings

logger = logging.getLogger(__name__)

#: A refused folder is looked at again so often, seconds: there may be many, and nobody waits for them.
_REFUSED_INTERVAL = 60.0
_IS_LINK = "this is a link: only folders of the recorder's own are sent"


class Scan:
    """Remembers what it saw.

    Args:
        ledger: What is known already.
        record: The driver's decisions.
        settings: The folder, and the pace.
        clock: For how long something has been unchanged.
    """

    def __init__(self, ledger: ScenarioRecords, record: ConsentRecord, settings: CloudSettings, clock: Clock) -> None:
        self._ledger = ledger
        self._record = record
        self._settings = settings
        self._clock = clock
        self._sights: dict[str, Sight] = {}
        self._refused_at: dict[str, float] = {}
        self._present: frozenset[str] | None = None

    async def look(self) -> tuple[int, float]:
        """Look once; returns how many recordings were queued, and the seconds until the next look."""
        interval = self._settings.scenario_scan_interval
        if not self._settings.upload_scenarios:
            return 0, interval
        consent = await self._record.load()
        directory = await run_to_end(absolute, self._settings.scenarios_dir)
        names = frozenset(await run_to_end(folder_names, directory))
        before, self._present = self._present, names
        cards = await self._ledger.cards()
        unsettled = [name for name in sorted(names) if not _is_settled(cards.get(storable(name)))]
        self._forget_others(unsettled)
        if missing_consent(consent, self._settings.policy_version) is not None:
            if consent is not None and not consent.granted and before is not None:
                await self._decline(directory, [name for name in unsettled if name not in before], consent)
            return 0, interval
        history = await self._record.history()
        queued, wait = 0, interval
        for name in unsettled:
            if not self._is_due(name, cards.get(storable(name))):
                continue
            new, settles_in = await self._consider(directory / name, cards.get(storable(name)), history)
            queued += new
            wait = min(wait, settles_in or interval)
        return queued, wait

    async def _decline(self, directory: Path, names: list[str], withdrawal: Consent) -> None:
        """Remember what came into sight while the consent stood withdrawn: its time may not be believed later."""
        for name in names:
            appearance = await run_to_end(appearance_of, directory / name)
            if appearance is not None and appeared_while_withdrawn(withdrawal, appearance.changed_at):
                await self._ledger.decline(directory / name, MADE_WHILE_WITHDRAWN)

    def _is_due(self, name: str, card: Card | None) -> bool:
        if card is None or card.refused is None or name in self._sights:
            return True
        now = self._clock.monotonic()
        if now - self._refused_at.get(name, float("-inf")) < _REFUSED_INTERVAL:
            return False
        self._refused_at[name] = now
        return True

    async def _consider(self, folder: Path, card: Card | None, history: list[Consent]) -> tuple[bool, float]:
        """Whether a folder was queued now, and in how many seconds it is worth another look (0.0: as usual)."""
        appearance = await run_to_end(appearance_of, folder)
        if appearance is None or (card is not None and card.fingerprint == appearance.fingerprint):
            self._sights.pop(folder.name, None)
            return False, 0.0
        now = self._clock.monotonic()
        sight = self._sights.get(folder.name)
        if sight is None or sight.fingerprint != appearance.fingerprint:
            sight = self._sights[folder.name] = Sight(appearance.fingerprint, now)
        if settles_in := sight.settles_in(now, self._settings.scenario_settle_time):
            return False, settles_in
        if appearance.is_link:
            await self._ledger.refuse(folder, _IS_LINK, appearance.fingerprint)
            return False, 0.0
        if made_while_withdrawn(history, appearance.changed_at):
            await self._ledger.decline(folder, MADE_WHILE_WITHDRAWN)
            return False, 0.0
        if sight.fault is None:
            return await self._take(folder, sight), 0.0
        if sight.is_given_up(now):
            await self._ledger.refuse(folder, sight.fault, appearance.fingerprint)
        return False, 0.0

    async def _take(self, folder: Path, sight: Sight) -> bool:
        try:
            recording = await run_to_end(read_recording, folder)
            return await self._ledger.queue(recording, priority_of(recording.metadata))
        except ScenarioError as error:
            # Perhaps it is still being written: it is asked again when it changes, and refused when it does not.
            sight.fault = str(error)
            logger.debug("scenario.incomplete: %s: %s", ascii(folder.name), sight.fault)
        return False

    def _forget_others(self, unsettled: list[str]) -> None:
        for memory in (self._sights, self._refused_at):
            for name in memory.keys() - set(unsettled):
                del memory[name]


def _is_settled(card: Card | None) -> bool:
    return card is not None and card.settled
