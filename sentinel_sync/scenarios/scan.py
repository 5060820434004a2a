"""Watches the recorder's folder: what is new and complete is queued, what is being written is left alone.

Complete is a recording whose metadata.json is there and valid, which has whole all files that it names, and in which
nothing has changed for `scenario_settle_time`. Only what is not settled yet is looked into: thousands of others cost
little.
"""

import asyncio
import contextlib
import logging
import os
import stat
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ScenarioError, UnsettledError
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.recordings import absolute, folder_names, open_file, read_recording, snapshot_of, storable
from sentinel_sync.scenarios.records import ScenarioRecords, ScenarioSummary, bare_plan
from sentinel_sync.scenarios.rules.lifecycle import (
    MADE_WHILE_WITHDRAWN,
    FolderObservation,
    is_past,
    made_while_withdrawn,
    priority_of,
)
from sentinel_sync.scenarios.rules.metadata import LARGEST_METADATA, read_metadata, videos
from sentinel_sync.scenarios.rules.plan import (
    ANNOTATIONS_NAME,
    METADATA_NAME,
    Consent,
    Part,
    PartKind,
    ScenarioPlan,
    missing_consent,
)
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: A folder is only opened itself, never what a link of its name leads to.
_FOLDER_FLAGS = os.O_RDONLY | os.O_DIRECTORY | os.O_NOFOLLOW | os.O_CLOEXEC
#: A refused folder is looked at again so often, seconds: there may be many, and nobody waits for them.
_REFUSED_INTERVAL = 60.0
_IS_LINK = "this is a link: only folders of the recorder's own are sent"
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


def is_inside(folder: Path, scenarios_dir: Path) -> bool:
    """Whether a folder lies in `scenarios_dir` itself, and is no link."""
    with contextlib.suppress(OSError):
        return folder.parent.resolve(strict=True) == scenarios_dir.resolve(strict=True) and stat.S_ISDIR(
            folder.lstat().st_mode
        )
    return False


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
