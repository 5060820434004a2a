"""`disk_reserve`: the recorder finds room before anything is kept for its own sake."""

import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.files import Room, room_of
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.preparation import DerivedFiles
from sentinel_sync.scenarios.recordings import absolute
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.lifecycle import DELETED_FOR_ROOM
from sentinel_sync.scenarios.rules.plan import ScenarioPlan
from sentinel_sync.scenarios.scan import delete_files, is_inside
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: The room is looked at so often, seconds: a recorder writes some ten megabytes a second.
LOOK_INTERVAL = 5.0


class DiskReserve:
    """Makes room where it runs short: first what was derived, then what was uploaded, then, if allowed, the unsent.

    Args:
        records: What is known of recordings.
        derived: What was made of them.
        settings: `disk_reserve`, `disk_reserve_unsent` and the folder.
        room: Looks at the folder's file system; blocks.
    """

    def __init__(
        self,
        records: ScenarioRecords,
        derived: DerivedFiles,
        settings: CloudSettings,
        clock: Clock,
        room: Callable[[Path, int | str], Room] = room_of,
    ) -> None:
        self._records = records
        self._derived = derived
        self._settings = settings
        self._clock = clock
        self._room = room
        #: Whether less is free than is to be, although all that may go has gone.
        self.is_short: bool = False

    async def keep(self, busy: str | None, under_way: Collection[str]) -> int:
        """Make room where it is short; returns how many recordings went for it.

        Args:
            busy: The scenario that is being sent: it is left alone.
            under_way: Derived files that are left alone.
        """
        if not await self._is_short():
            return 0
        freed = await run_to_end(self._derived.sweep, under_way)
        if freed:
            logger.warning("scenario.disk_reserve: %d bytes of derived files were deleted; they are made again", freed)
        deleted = 0
        for plan in await self._candidates(busy):
            if not await self._is_short():
                break
            deleted += await self._delete(plan)
        else:
            await self._is_short()
        return deleted

    async def _is_short(self) -> bool:
        reserve = self._settings.disk_reserve
        if reserve is None:
            return False
        try:
            room = await run_to_end(self._room, self._settings.scenarios_dir, reserve)
        except OSError as error:
            logger.error("scenario.disk_reserve: the disk cannot be looked at (%s)", error.strerror)
            return False
        self.is_short = room.is_short
        return room.is_short

    async def _candidates(self, busy: str | None) -> list[ScenarioPlan]:
        """What may go, first what goes first: uploaded ones by age, then the unsent by rank and age."""
        directory = await run_to_end(absolute, self._settings.scenarios_dir)
        uploaded: list[ScenarioPlan] = []
        unsent: list[ScenarioPlan] = []
        async for plan in self._records.plans():
            # One that is marked and still there was cut off by a power cut.
            is_over = plan.deleted_at is not None and plan.warning != DELETED_FOR_ROOM
            if is_over or plan.scenario_id == busy or not plan.parts:
                continue
            if plan.uploaded_at is None and not self._settings.disk_reserve_unsent:
                continue
            if not await run_to_end(is_inside, Path(plan.folder), directory):
                continue
            (unsent if plan.uploaded_at is None else uploaded).append(plan)
        uploaded.sort(key=lambda plan: plan.uploaded_at or 0.0)
        unsent.sort(key=lambda plan: (-plan.priority.rank, plan.queued_at))
        return [*uploaded, *unsent]

    async def _delete(self, plan: ScenarioPlan) -> bool:
        is_unsent = plan.uploaded_at is None
        if is_unsent and await self._records.item(plan.scenario_id) is not None:
            if not await self._records.drop(plan.scenario_id, reason="disk_reserve"):
                return False  # it is being sent just now
            plan = plan.without_files()
        # Marked before its files go, so that a power cut in between is made up for by the retention.
        await self._records.save(replace(plan, deleted_at=self._clock.now(), warning=DELETED_FOR_ROOM))
        gone = await run_to_end(delete_files, Path(plan.folder), plan.parts)
        unsent = " unsent" if is_unsent else ""
        logger.warning("scenario.disk_reserve: %s%s: %d bytes", ascii(plan.scenario_id), unsent, plan.size_bytes)
        return gone
