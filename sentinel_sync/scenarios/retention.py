"""Which recordings are deleted on the vehicle, and why: kept long enough, or the recorder finds too little room."""

import contextlib
import logging
import os
import stat
from collections.abc import Callable, Collection, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.base.files import Room, room_of
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.preparation import DerivedFiles
from sentinel_sync.scenarios.recordings import absolute, folder_names, is_inside, open_file, snapshot_of, storable
from sentinel_sync.scenarios.records import ScenarioRecords, bare_plan
from sentinel_sync.scenarios.rules.lifecycle import DELETED_FOR_ROOM, is_past
from sentinel_sync.scenarios.rules.metadata import LARGEST_METADATA, read_metadata, videos
from sentinel_sync.scenarios.rules.plan import ANNOTATIONS_NAME, METADATA_NAME, Part, PartKind, ScenarioPlan
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: The room is looked at so often, seconds: a recorder writes some ten megabytes a second.
LOOK_INTERVAL = 5.0
#: A folder is only opened itself, never what a link of its name leads to.
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: Why an item goes whose recording is deleted by its age.
REASON = "retention"


def own_files(folder: Path) -> tuple[Part, ...]:
    """The files of a recording that are there, whole or not; nothing else in the folder is the recorder's."""
    names = [(PartKind.METADATA, METADATA_NAME), (PartKind.ANNOTATIONS, ANNOTATIONS_NAME)]
    with contextlib.suppress(ScenarioError), open_file(folder, METADATA_NAME) as file:
        names += [(PartKind.VIDEO, name) for name in videos(read_metadata(file.read(LARGEST_METADATA + 1)))]
    found: list[Part] = []
    for kind, name in names:
        with contextlib.suppress(OSError):
            status = (folder / name).lstat()
            if stat.S_ISREG(status.st_mode):
                found.append(Part(kind, name, status.st_size, status.st_mtime_ns))
    return tuple(found)


def delete_files(folder: Path, parts: Sequence[Part]) -> bool:
    """Delete a recording's files, as far as they are still what they were, then the folder where nothing is left.

    Returns:
        Whether none of the files is there any more.
    """
    with _opened(folder) as descriptor:
        if descriptor is None:
            return not folder.is_symlink()
        # What tells of the others goes last: a power cut in between leaves nothing that nobody can name.
        for part in sorted(parts, key=lambda part: part.kind is PartKind.METADATA):
            with contextlib.suppress(OSError):
                status = os.stat(part.name, dir_fd=descriptor, follow_symlinks=False)
                if stat.S_ISREG(status.st_mode) and part.is_of(status.st_size, status.st_mtime_ns):
                    os.unlink(part.name, dir_fd=descriptor)
        with os.scandir(descriptor) as entries:
            left = {part.name for part in parts} & {entry.name for entry in entries}
        os.fsync(descriptor)
    with contextlib.suppress(OSError):  # something else is in it
        folder.rmdir()
    return not left


@contextmanager
def _opened(folder: Path) -> Iterator[int | None]:
    try:
        descriptor = os.open(folder, _FOLDER_FLAGS)
    except OSError:
        yield None
        return
    try:
        yield descriptor
    finally:
        os.close(descriptor)


class Retention:
    """Goes through the recordings in `scenarios_dir`.

    A plan is marked before its files go, so that a power cut in between is made up for, and stays as the record.

    Args:
        records: What is known of them.
        settings: The folder, `keep_uploaded_days` and `keep_unsent_days`.
        trusted: Whether the wall clock is right; by an untrusted one nothing is deleted, and without anybody to ask
            neither.
    """

    def __init__(
        self, records: ScenarioRecords, settings: CloudSettings, clock: Clock, trusted: Callable[[], bool] | None
    ) -> None:
        self._records = records
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
        plan = await self._records.plan(folder.name)
        if plan is not None and plan.folder != storable(str(folder)):
            return False  # another folder of this name: nothing is known of this one
        if plan is None or (plan.uploaded_at is None and plan.deleted_at is None):
            return await self._judge_unsent(folder, plan)
        if plan.deleted_at is None:
            if not is_past(plan.uploaded_at, self._settings.keep_uploaded_days, self._clock.now()):
                return False
            plan = replace(plan, deleted_at=self._clock.now())
            await self._records.save(plan)
        return await self._delete(folder, plan)

    async def _judge_unsent(self, folder: Path, plan: ScenarioPlan | None) -> bool:
        if self._settings.keep_unsent_days is None:
            return False
        appearance = await run_to_end(snapshot_of, folder)
        now = self._clock.now()
        if appearance is None or not is_past(appearance.changed_at, self._settings.keep_unsent_days, now):
            return False
        parts = await run_to_end(own_files, folder)
        if not parts:
            return False  # a folder of somebody else's
        if await self._records.item(folder.name) is not None and not await self._records.drop(
            folder.name, reason=REASON
        ):
            return False  # it is being sent just now
        known = plan or bare_plan(folder, now)
        # The files as they are now go; what had arrived of them stays on record.
        plan = replace(known, parts=parts).going_on_from(known).without_files()
        plan = replace(plan, deleted_at=now)
        await self._records.save(plan)
        logger.warning("scenario.deleted_unsent: %s: older than keep_unsent_days", ascii(plan.scenario_id))
        return await self._delete(folder, plan)

    async def _delete(self, folder: Path, plan: ScenarioPlan) -> bool:
        gone = await run_to_end(delete_files, folder, plan.parts)
        if gone:
            logger.info("scenario.deleted: %s: %d bytes", ascii(plan.scenario_id), plan.size_bytes)
        else:
            logger.info("scenario.kept: %s: its files were changed", ascii(plan.scenario_id))
        return gone


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
