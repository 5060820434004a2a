"""Switches between versions and remembers it: the models folder and the records kept in step, whenever the power goes.

The order of a switch: intent on disk, the new version under the live name (one rename), the registry, the record, and
at last the live file of the version before, where that has another name. A start that finds an intent finishes it, and
so does `mend`; until then the runtime opens the whole old or the whole new file. The registry comes before the record
because a registry that says something else than the record was written by somebody else.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import FileError, StoreFullError, VerificationError
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.models.files import FileStamp, ModelFiles, Registry, RegistryEntry
from sentinel_sync.models.rules.installed import BadVersion, CommitSchedule, KeptVersion, ModelRecord
from sentinel_sync.models.rules.releases import check_name, check_version, live_name, same_version
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)


_KIND = "model"
_SHAPE = TypeAdapter(ModelRecord)


class ModelRecords:
    """What is remembered of every model: written before what it says is done, or right after, and never half.

    Args:
        documents: Where they are kept.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents
        self._records: dict[str, ModelRecord] = {}
        self._changing = asyncio.Lock()

    async def load(self) -> None:
        """Read them.

        Raises:
            StoreError: They cannot be read.
        """
        for name in await self._documents.keys(_KIND):
            record = await self._documents.load(_KIND, name, _SHAPE)
            if record is not None:
                self._records[name] = record

    @property
    def all(self) -> dict[str, ModelRecord]:
        """All that is known, by name."""
        return dict(self._records)

    def of(self, name: str) -> ModelRecord:
        """What is known of one model; an empty record where nothing is."""
        return self._records.get(name) or ModelRecord(name)

    async def change(self, name: str, changed: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        """Put what `changed` makes of a record in its place; returns it once it is on disk. One change at a time.

        Raises:
            StoreError: It cannot be written; the record is as it was.
        """
        async with self._changing:
            record = changed(self.of(name))
            if record != self._records.get(name):
                await self._documents.save(_KIND, name, record, _SHAPE)
                self._records[name] = record
            return record


class InstalledModels:
    """The models of this vehicle.

    Args:
        folder: `models_dir`.
        documents: Where the records are kept.
        clock: For the time of an installation.

    Methods that switch raise FileError where the models folder cannot be written, StoreFullError where its disk
    or the store's is full. The runtime then opens what it opened before, unless only the records are behind: `mend`
    sets that right.
    """

    def __init__(self, folder: Path, documents: Documents, clock: Clock) -> None:
        self._clock = clock
        self._records = ModelRecords(documents)
        self._registry = Registry(folder)
        self._switching = asyncio.Lock()
        #: What a live file was when it was read whole last, by model: it is not read again before it changes.
        self._inspected: dict[str, tuple[KeptVersion, FileStamp]] = {}
        self.files: ModelFiles = ModelFiles(folder)

    @property
    def records(self) -> dict[str, ModelRecord]:
        """All that is known, by name."""
        return self._records.all

    def record(self, name: str) -> ModelRecord:
        """What is known of one model; an empty record where nothing is."""
        return self._records.of(name)

    async def change(self, name: str, changed: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        """Put what `changed` makes of a record in its place; returns it once it is on disk. One change at a time."""
        return await self._records.change(name, changed)

    async def open(self) -> None:
        """Read the records, finish what was cut off, and take over what an older module installed.

        A folder that cannot be used is reported, and keeps nobody from starting: what is installed stays in use.
        """
        await self._records.load()
        try:
            await self._recall_bad()
            await self._take_over()
            await self.repair()
            await self._write_registry()
        except (FileError, StoreFullError) as error:
            logger.error("models.folder: %s", error)

    # --- switching ---

    async def install(self, name: str, version: KeptVersion, probation: CommitSchedule | None = None) -> None:
        """Let the runtime open `version`, which lies whole and verified among the versions; on probation, perhaps."""
        async with self._switching:
            # What lay there before anybody kept a record.
            is_first = self.record(name).installed is None
            there = await run_to_end(self.files.found, version.live_name, self._clock) if is_first else None
            await self.change(
                name,
                lambda record: replace(
                    record,
                    installed=record.installed or there,
                    switching_to=replace(version, installed_at=self._clock.now()),
                    next_probation=probation,
                ),
            )
            await self._switch(name)

    async def roll_back(self, name: str, order: str | None = None) -> KeptVersion:
        """Let the runtime open the previous version; the present one is not taken again by itself.

        Args:
            name: Of the model.
            order: Key of the order that asks for it; one that was carried out before a power cut is so only once.

        Raises:
            VerificationError: No previous version is kept, or its file is not what it was.
        """
        async with self._switching:
            record = self.record(name)
            if order is not None and record.last_order == order and record.installed is not None:
                return record.installed
            target = record.previous
            if target is None or record.installed is None:
                raise VerificationError(f"{name} cannot be rolled back: no previous version is kept")
            if not await self.is_kept(name, target):
                raise VerificationError(
                    f"{name} cannot be rolled back: the file of {target.version} is missing or damaged"
                )
            skipped = tuple(dict.fromkeys((*record.skipped, record.installed.version)))
            await self._go_back(name, target, lambda record: replace(record, skipped=skipped, last_order=order))
            return target

    async def mark_bad(self, name: str, reason: str) -> KeptVersion | None:
        """What is installed has failed: never again, and back to the version before; None where there is none whole.

        Then the failed one stays in use: to take the only model away is not for us to decide.
        """
        async with self._switching:
            record = self.record(name)
            if record.installed is None or record.installed.checksum is None:
                return None
            bad = BadVersion(
                record.installed.version, record.installed.checksum, reason, self._clock.now(), was_in_use=True
            )
            await self._remember_bad(name, (*record.bad, bad))
            target = record.previous
            if target is None or not await self.is_kept(name, target):
                await self.change(name, lambda record: replace(record.marked_bad(bad), probation=None))
                return None
            await self._go_back(name, target, lambda record: replace(record.marked_bad(bad), probation=None))
            return target

    async def repair(self) -> None:
        """Finish switches that were cut off or failed half-way, put back a live file that is gone."""
        async with self._switching:
            for record in self.records.values():
                try:
                    await self._recover(record)
                except FileError as error:  # the others are none the worse, and it is looked at again
                    logger.error("model.repair: %s: %s", record.name, error)

    async def inspect(self, *, is_idle: bool) -> set[str]:
        """Look whether the runtime still opens what was installed, and put a whole copy back where one is kept.

        A file whose size is right is read when it is new to us or was written since, and only when `is_idle`: a
        hundred megabytes take the disk for a second.

        Returns:
            Names of models whose damage was found just now: they are to be fetched again.

        Raises:
            StoreError: The result cannot be written down.
        """
        damaged: set[str] = set()
        for name, record in self.records.items():
            if record.installed is None or record.installed.checksum is None or record.switching_to is not None:
                continue
            try:
                if await self._is_damaged(record, record.installed, is_idle=is_idle):
                    damaged.add(name)
            except (FileError, StoreFullError) as error:
                logger.error("model.inspect: %s: %s", name, error)
        return damaged

    @property
    def damaged(self) -> set[str]:
        """Names of models that the runtime opens damaged."""
        return {name for name, record in self.records.items() if record.damage is not None}

    @property
    def needs_repair(self) -> bool:
        """Whether a switch was begun and is not finished."""
        return any(record.switching_to is not None or record.superseded for record in self.records.values())

    # --- bad versions ---

    async def mark_staged_bad(self, name: str, reason: str) -> None:
        """What is staged has failed before it was ever in use: never again."""
        async with self._switching:
            record = self.record(name)
            if record.staged is None:
                return
            release = record.staged.release
            bad = BadVersion(release.version, release.checksum, reason, self._clock.now())
            await self._remember_bad(name, (*record.bad, bad))
            await self.change(name, lambda record: record.marked_bad(bad))

    async def clear_bad(self, name: str, version: str) -> bool:
        """Let a version be tried again; False where it is not bad."""
        async with self._switching:
            before = self.record(name).bad
            left = tuple(bad for bad in before if not same_version(bad.version, version))
            if left == before:
                return False
            await self.change(name, lambda record: replace(record, bad=left, failure=None))
            await self._remember_bad(name, left)
            return True

    # --- what is there ---

    async def is_kept(self, name: str, version: KeptVersion) -> bool:
        """Whether a version lies whole among the versions; reads all of it."""
        kept = self.files.version(name, version.version, version.live_name)
        return version.checksum is not None and await run_to_end(self.files.holds, kept, version.size, version.checksum)

    async def clean(self, wanted: Collection[Path]) -> None:
        """Delete versions that nothing leads to any more, and what is half done, but for these."""
        async with self._switching:  # what a switch has in hand looks half done
            kept = {
                self.files.version(record.name, version.version, version.live_name)
                for record in self.records.values()
                for version in record.kept
            }
            try:
                await run_to_end(self.files.clean, kept, set(wanted))
                await run_to_end(self._registry.clean)
            except FileError as error:
                logger.error("models.folder: %s", error)

    # --- how ---

    async def _recall_bad(self) -> None:
        """Take over what the models folder knows of bad versions, and a lost store does not."""
        for name, versions in (await run_to_end(self._registry.read_bad)).items():
            await self.change(name, partial(_recalling, versions))

    async def _take_over(self) -> None:
        """Believe registry.json where it says something new: an older module wrote it, or a person did."""
        for name, entry in (await run_to_end(self._registry.read)).items():
            record = self.record(name)
            if record.switching_to is not None or record.standing.installed == entry.version:
                continue
            try:
                check_name(name, "the model's name")
                check_version(entry.version)
                live = live_name(name, Path(entry.path).name or None)
                there = await run_to_end(self.files.found, live, self._clock)
            except VerificationError as error:
                logger.warning("models.registry: an entry is left alone: %s", error)
                continue
            except FileError as error:  # the others are none the worse
                logger.error("models.registry: %s: %s", name, error)
                continue
            if there is None:
                continue
            installed = replace(there, version=entry.version, installed_at=entry.installed_at)
            await self.change(name, partial(replace, installed=installed, probation=None))
            logger.info("model.taken_over: %s %s", name, entry.version)

    async def _go_back(self, name: str, target: KeptVersion, changed: Callable[[ModelRecord], ModelRecord]) -> None:
        target = replace(target, installed_at=self._clock.now())
        await self.change(name, lambda record: replace(changed(record), switching_to=target, next_probation=None))
        await self._switch(name)

    async def _switch(self, name: str) -> None:
        """Carry out the intent that is on disk, to its end: whoever is cancelled meanwhile is cancelled then."""
        work = asyncio.ensure_future(self._carry_out(name))
        try:
            await asyncio.shield(work)
        except asyncio.CancelledError:
            # A few renames and fsyncs: done sooner than undone.
            await asyncio.wait({work})
            if not work.cancelled() and (error := work.exception()) is not None:
                logger.error("model.switch: %s: %s", name, error)
            raise

    async def _carry_out(self, name: str) -> None:
        intent = self.record(name)
        target = intent.switching_to
        if target is None:
            return
        previous = await self._keep_previous(intent, target)
        kept = self.files.version(name, target.version, target.live_name)
        await run_to_end(self.files.switch, kept, self.files.live(target.live_name))
        await self._write_registry(intent.switched(previous))
        await self.change(name, lambda record: record.switched(previous))
        logger.info("model.installed: %s %s", name, target.version)
        await self._take_away_superseded(name)

    async def _keep_previous(self, intent: ModelRecord, target: KeptVersion) -> KeptVersion | None:
        """Keep what the runtime opens now, with its checksum; None where there is nothing."""
        old = intent.installed
        if old is None or old.version == target.version:
            return intent.previous
        if intent.probation is not None and intent.previous is not None and intent.previous.version != target.version:
            # What is not proven is nothing to go back to, where something is.
            return intent.previous
        return await run_to_end(self._kept_whole, intent.name, old) or intent.previous

    def _kept_whole(self, name: str, old: KeptVersion) -> KeptVersion | None:
        """Keep a version that is in use; None where no whole copy of it is left. Blocks."""
        live, kept = self.files.live(old.live_name), self.files.version(name, old.version, old.live_name)
        # The one that is kept comes first: after a cut in the middle the live file may be the new one already.
        for is_kept in (True, False):
            measured = self.files.checksum(kept if is_kept else live, like=old.checksum)
            if measured is not None and old.checksum in {None, measured[1]}:
                if not is_kept:
                    self.files.keep_live(live, kept)
                return replace(old, size=measured[0], checksum=measured[1])
        logger.error("model.damaged: %s %s was changed on this vehicle: nothing to go back to", name, old.version)
        return None

    async def _take_away_superseded(self, name: str) -> None:
        """Take away live files of other names: the model's one live file is the one that the registry names."""
        for live in self.record(name).superseded:
            try:
                await run_to_end(self.files.remove, self.files.live(live))
            except FileError as error:
                logger.warning("model.superseded: %s: %s", name, error)
                return
        await self.change(name, lambda record: replace(record, superseded=()))

    async def _recover(self, record: ModelRecord) -> None:
        """Finish a switch that was cut off; put back a live file that is gone."""
        if (target := record.switching_to) is not None:
            if await self.is_kept(record.name, target):
                logger.warning("model.recovered: %s %s: a switch was cut off", record.name, target.version)
                await self._switch(record.name)
            else:
                await self.change(record.name, lambda record: replace(record, switching_to=None, next_probation=None))
            return
        if record.superseded:
            await self._take_away_superseded(record.name)
        installed = record.installed
        if installed is None or await run_to_end(self.files.is_there, self.files.live(installed.live_name)):
            return
        await self._put_back(record.name, installed)

    async def _is_damaged(self, record: ModelRecord, installed: KeptVersion, *, is_idle: bool) -> bool:
        name, live = record.name, self.files.live(installed.live_name)
        stamp = await run_to_end(self.files.stamp, live)
        if stamp is not None:
            if self._inspected.get(name) == (installed, stamp):
                return False
            has_size = stamp.size == installed.size
            if has_size and not is_idle:
                return False
            if has_size and await run_to_end(self.files.holds, live, installed.size, installed.checksum or ""):
                self._inspected[name] = (installed, stamp)
                if record.damage is not None:
                    await self.change(name, lambda record: replace(record, damage=None))
                return False
        async with self._switching:
            if self.record(name) != record:
                return False  # somebody was faster
            if stamp is None or await self.is_kept(name, installed):
                await self._put_back(name, installed)
                return False
            damage = f"{name} {installed.version} was changed on this vehicle since it was installed"
            self._inspected[name] = (installed, stamp)
            if record.damage is None:
                logger.error("model.damaged: %s: it is fetched again", damage)
            await self.change(name, lambda record: replace(record, damage=damage))
            return True

    async def _put_back(self, name: str, installed: KeptVersion) -> None:
        """Let the runtime open the copy that is kept of what is installed; without one nothing is installed."""
        if await self.is_kept(name, installed):
            logger.warning("model.restored: %s %s was missing or damaged", name, installed.version)
            kept = self.files.version(name, installed.version, installed.live_name)
            await run_to_end(self.files.switch, kept, self.files.live(installed.live_name))
            await self.change(name, lambda record: replace(record, damage=None))
        else:
            logger.error("model.missing: %s %s is gone", name, installed.version)
            await self.change(name, lambda record: replace(record, installed=None, probation=None, damage=None))

    async def _write_registry(self, *newer: ModelRecord) -> None:
        """Make registry.json say what is installed, where it does not; `newer` are records about to be kept."""
        records = self.records | {record.name: record for record in newer}
        entries = {
            name: RegistryEntry(installed.version, installed.installed_at, str(self.files.live(installed.live_name)))
            for name, record in records.items()
            if (installed := record.installed) is not None
        }
        said = await run_to_end(self._registry.read)
        if any(said.get(name) != entry for name, entry in entries.items()):
            await run_to_end(self._registry.write, entries)

    async def _remember_bad(self, name: str, bad: Collection[BadVersion]) -> None:
        """Write it beside the models: before the record where a version has failed, so that no kill forgets it."""
        listed = {record.name: record.bad for record in self.records.values()} | {name: tuple(bad)}
        try:
            await run_to_end(self._registry.write_bad, listed)
        except (FileError, StoreFullError) as error:
            # The record knows it as well, and what follows is more urgent.
            logger.error("models.bad: %s", error)


def _recalling(versions: Collection[BadVersion], record: ModelRecord) -> ModelRecord:
    return replace(record, bad=(*record.bad, *(bad for bad in versions if not record.is_bad(bad.checksum))))
