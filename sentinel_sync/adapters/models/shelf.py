"""Installs versions and remembers it: the models folder and the store's records kept in step, whenever the power goes.

The order of a switch: intent on disk, the new version under the live name (one rename), the registry, the record. A
start that finds an intent finishes it; until then the runtime opens the whole old or the whole new file. The registry
comes before the record because a registry that says something else than the record was written by somebody else.
"""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.adapters.models.files import ModelFiles, ModelFolderError, RegistryEntry
from sentinel_sync.adapters.store.documents import Documents
from sentinel_sync.adapters.threads import run_to_end
from sentinel_sync.clock import Clock
from sentinel_sync.errors import StoreFullError, VerificationError
from sentinel_sync.rules.releases.installed import KeptVersion, ModelRecord
from sentinel_sync.rules.releases.releases import UNKNOWN_VERSION, check_name, check_version, live_name

logger = logging.getLogger(__name__)

_KIND = "model"
_SHAPE = TypeAdapter(ModelRecord)


class ModelShelf:
    """The models of this vehicle.

    Args:
        folder: `models_dir`.
        documents: Where the records are kept.
        clock: For the time of an installation.
    """

    def __init__(self, folder: Path, documents: Documents, clock: Clock) -> None:
        self._folder = folder
        self._documents = documents
        self._clock = clock
        self._records: dict[str, ModelRecord] = {}
        self._changing = asyncio.Lock()
        self.files = ModelFiles(folder)

    @property
    def records(self) -> dict[str, ModelRecord]:
        """All that is known, by name."""
        return dict(self._records)

    def record(self, name: str) -> ModelRecord:
        """What is known of one model; an empty record where nothing is."""
        return self._records.get(name) or ModelRecord(name)

    async def open(self) -> None:
        """Read the records, finish what was cut off, and take over what an older module installed.

        A folder that cannot be used is reported, and keeps nobody from starting: what is installed stays in use.
        """
        for name in await self._documents.keys(_KIND):
            record = await self._documents.load(_KIND, name, _SHAPE)
            if record is not None:
                self._records[name] = record
        try:
            await self._take_over()
            for record in self.records.values():
                await self._recover(record)
            await self._write_registry()
        except (ModelFolderError, StoreFullError) as error:
            logger.error("models.folder: %s", error)

    async def change(self, name: str, changed: Callable[[ModelRecord], ModelRecord]) -> ModelRecord:
        """Put what `changed` makes of a record in its place; returns it once it is on disk. One change at a time."""
        async with self._changing:
            record = changed(self.record(name))
            if record != self._records.get(name):
                await self._documents.save(_KIND, name, record, _SHAPE)
                self._records[name] = record
            return record

    async def install(self, name: str, version: KeptVersion) -> None:
        """Let the runtime open `version`, which lies whole and verified among the versions.

        Raises:
            ModelFolderError: The folder cannot be written; the old version stays in use.
            StoreFullError: Its disk is full; the same.
        """
        # What lay there before anybody kept a record.
        found = await self._found(version.live_name) if self.record(name).installed is None else None
        await self.change(
            name, lambda record: replace(record, installed=record.installed or found, switching_to=version)
        )
        await self._switch(name)

    async def roll_back(self, name: str) -> KeptVersion:
        """Let the runtime open the previous version; the present one is not taken again by itself.

        Raises:
            VerificationError: No previous version is kept, or its file is not what it was.
            ModelFolderError: The folder cannot be written.
            StoreFullError: Its disk is full.
        """
        record = self.record(name)
        target = record.previous
        if target is None or record.installed is None:
            raise VerificationError(f"{name} cannot be rolled back: no previous version is kept")
        if not await self._is_kept(name, target):
            raise VerificationError(f"{name} cannot be rolled back: the file of {target.version} is missing or damaged")
        skipped = tuple(dict.fromkeys((*record.skipped, record.installed.version)))
        target = replace(target, installed_at=self._clock.now())
        await self.change(name, lambda record: replace(record, switching_to=target, skipped=skipped))
        await self._switch(name)
        return target

    async def clean(self, staging: Collection[Path]) -> None:
        """Delete versions that nothing leads to any more, and staging files other than these."""
        kept = {
            self.files.version(record.name, version.version, version.live_name)
            for record in self._records.values()
            for version in record.kept
        }
        try:
            await run_to_end(self.files.clean, kept | set(staging))
        except ModelFolderError as error:
            logger.error("models.folder: %s", error)

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
        previous = await self._keep_previous(intent)
        kept = self.files.version(name, target.version, target.live_name)
        await run_to_end(self.files.switch, kept, self.files.live(target.live_name))
        await self._write_registry(intent.switched(previous))
        await self.change(name, lambda record: record.switched(previous))
        logger.info("model.installed: %s %s", name, target.version)

    async def _keep_previous(self, intent: ModelRecord) -> KeptVersion | None:
        """Keep what the runtime opens now, with its checksum; None where there is nothing."""
        old, target = intent.installed, intent.switching_to
        if old is None or target is None or old.version == target.version:
            return intent.previous
        kept = self.files.version(intent.name, old.version, old.live_name)
        await run_to_end(self.files.keep_live, self.files.live(old.live_name), kept)
        # Of what is kept, not of the live file: after a cut in the middle that may be the new one already.
        measured = await run_to_end(self.files.checksum, kept)
        if measured is None:
            return None
        size, checksum = measured
        if old.checksum not in {None, checksum}:
            logger.warning("model.altered: %s %s was changed on this vehicle", intent.name, old.version)
        return replace(old, size=size, checksum=checksum)

    async def _recover(self, record: ModelRecord) -> None:
        """Finish a switch that was cut off; put back a live file that is gone."""
        if (target := record.switching_to) is not None:
            if await self._is_kept(record.name, target):
                logger.warning("model.recovered: %s %s: a switch was cut off", record.name, target.version)
                await self._switch(record.name)
            else:
                await self.change(record.name, lambda record: replace(record, switching_to=None))
            return
        installed = record.installed
        if installed is None or await run_to_end(self.files.live(installed.live_name).exists):
            return
        if await self._is_kept(record.name, installed):
            logger.warning("model.restored: %s %s was missing", record.name, installed.version)
            kept = self.files.version(record.name, installed.version, installed.live_name)
            await run_to_end(self.files.switch, kept, self.files.live(installed.live_name))
        else:
            logger.error("model.missing: %s %s is gone", record.name, installed.version)
            await self.change(record.name, lambda record: replace(record, installed=None))

    async def _is_kept(self, name: str, version: KeptVersion) -> bool:
        """Whether a version lies whole among the versions; reads all of it."""
        kept = self.files.version(name, version.version, version.live_name)
        return version.checksum is not None and await run_to_end(self.files.holds, kept, version.size, version.checksum)

    async def _take_over(self) -> None:
        """Believe registry.json where it says something new: an older module wrote it, or a person did."""
        for name, entry in (await run_to_end(self.files.read_registry)).items():
            record = self.record(name)
            if record.switching_to is not None or record.standing.installed == entry.version:
                continue
            try:
                check_name(name, "the model's name")
                check_version(entry.version)
                live = live_name(name, Path(entry.path).name or None)
            except VerificationError as error:
                logger.warning("models.registry: an entry is left alone: %s", error)
                continue
            found = await self._found(live)
            if found is None:
                continue
            installed = replace(found, version=entry.version, installed_at=entry.installed_at)
            await self.change(name, partial(replace, installed=installed))
            logger.info("model.taken_over: %s %s", name, entry.version)

    async def _found(self, live: str) -> KeptVersion | None:
        """A live file that nobody kept a record of."""
        measured = await run_to_end(self.files.checksum, self.files.live(live))
        if measured is None:
            return None
        size, checksum = measured
        return KeptVersion(UNKNOWN_VERSION, live, self._clock.now(), size, checksum)

    async def _write_registry(self, *newer: ModelRecord) -> None:
        """Make registry.json say what is installed, where it does not; `newer` are records about to be kept."""
        records = self._records | {record.name: record for record in newer}
        entries = {
            name: RegistryEntry(installed.version, installed.installed_at, str(self.files.live(installed.live_name)))
            for name, record in records.items()
            if (installed := record.installed) is not None
        }
        said = await run_to_end(self.files.read_registry)
        if any(said.get(name) != entry for name, entry in entries.items()):
            await run_to_end(self.files.write_registry, entries)
