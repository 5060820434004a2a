"""Deletes recordings that were kept for as long as the settings say, and nothing else."""

import logging
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.scenarios.recordings import absolute
from sentinel_sync.scenarios.records import ScenarioRecords, bare_plan, storable
from sentinel_sync.scenarios.rules.lifecycle import is_past
from sentinel_sync.scenarios.rules.plan import ScenarioPlan
from sentinel_sync.scenarios.scan import (
    appearance_of,
    delete_files,
    folder_names,
    is_inside,
    own_files,
)
from sentinel_sync.settings import CloudSettings

logger = logging.getLogger(__name__)

#: Why an item goes whose recording is deleted by its age.
REASON = "retention"


class Retention:
    """Goes through the recordings in `scenarios_dir`.

    A plan is marked before its files go, so that a power cut in between is made up for, and stays as the record.

    Args:
        ledger: What is known of them.
        settings: The folder, `keep_uploaded_days` and `keep_unsent_days`.
        clock: For ages.
        trusted: Whether the wall clock is right; by an untrusted one nothing is deleted, and without anybody to ask
            neither.
    """

    def __init__(
        self, ledger: ScenarioRecords, settings: CloudSettings, clock: Clock, trusted: Callable[[], bool] | None
    ) -> None:
        self._ledger = ledger
        self._settings = settings
        self._clock = clock
        self._trusted = trusted

    async def apply(self, busy: Callable[[], str | None]) -> int:
        """Delete what is due; returns how many recordings.

        Args:
            busy: The scenario that is under way: it is left alone.
        """
        settings = self._settings
        if settings.keep_uploaded_days is None and settings.keep_unsent_days is None:
            return 0
        if self._trusted is None or not self._trusted():
            return 0
        directory = await run_to_end(absolute, settings.scenarios_dir)
        deleted = 0
        for name in await run_to_end(folder_names, directory):
            folder = directory / name
            if storable(name) != busy() and await run_to_end(is_inside, folder, directory):
                deleted += await self._judge(folder)
        return deleted

    async def _judge(self, folder: Path) -> bool:
        plan = await self._ledger.plan(folder.name)
        if plan is not None and plan.folder != storable(str(folder)):
            return False  # another folder of this name: nothing is known of this one
        if plan is None or (plan.uploaded_at is None and plan.deleted_at is None):
            return await self._judge_unsent(folder, plan)
        if plan.deleted_at is None:
            if not is_past(plan.uploaded_at, self._settings.keep_uploaded_days, self._clock.now()):
                return False
            plan = replace(plan, deleted_at=self._clock.now())
            await self._ledger.save(plan)
        return await self._delete(folder, plan)

    async def _judge_unsent(self, folder: Path, plan: ScenarioPlan | None) -> bool:
        if self._settings.keep_unsent_days is None:
            return False
        appearance = await run_to_end(appearance_of, folder)
        now = self._clock.now()
        if appearance is None or not is_past(appearance.changed_at, self._settings.keep_unsent_days, now):
            return False
        parts = await run_to_end(own_files, folder)
        if not parts:
            return False  # a folder of somebody else's
        if await self._ledger.item(folder.name) is not None and not await self._ledger.drop(folder.name, reason=REASON):
            return False  # it is being sent just now
        known = plan or bare_plan(folder, now)
        # The files as they are now go; what had arrived of them stays on record.
        plan = replace(known, parts=parts).going_on_from(known).without_files()
        plan = replace(plan, deleted_at=now)
        await self._ledger.save(plan)
        logger.warning("scenario.deleted_unsent: %s: older than keep_unsent_days", ascii(plan.scenario_id))
        return await self._delete(folder, plan)

    async def _delete(self, folder: Path, plan: ScenarioPlan) -> bool:
        gone = await run_to_end(delete_files, folder, plan.parts)
        if gone:
            logger.info("scenario.deleted: %s: %d bytes", ascii(plan.scenario_id), plan.size_bytes)
        else:
            logger.info("scenario.kept: %s: its files were changed", ascii(plan.scenario_id))
        return gone
