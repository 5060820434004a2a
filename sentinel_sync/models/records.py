"""What is remembered of every model: written before what it says is done, or right after, and never half."""

import asyncio
import logging
from collections.abc import Callable, Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import FileError, VerificationError
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.models.files import ModelFiles, Registry
from sentinel_sync.models.rules.installed import BadVersion, KeptVersion, ModelRecord
from sentinel_sync.models.rules.releases import UNKNOWN_VERSION, check_name, check_version, live_name
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "model"
_SHAPE = TypeAdapter(ModelRecord)


class ModelRecords:
    """The records of all models.

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


async def take_over(registry: Registry, records: ModelRecords, files: ModelFiles, clock: Clock) -> None:
    """Believe registry.json where it says something new: an older module wrote it, or a person did.

    Raises:
        StoreError: The models folder cannot be read, or the store not be written.
    """
    for name, entry in (await run_to_end(registry.read)).items():
        record = records.of(name)
        if record.switching_to is not None or record.standing.installed == entry.version:
            continue
        try:
            check_name(name, "the model's name")
            check_version(entry.version)
            live = live_name(name, Path(entry.path).name or None)
        except VerificationError as error:
            logger.warning("models.registry: an entry is left alone: %s", error)
            continue
        try:
            there = await found(files, live, clock)
        except FileError as error:  # the others are none the worse
            logger.error("models.registry: %s: %s", name, error)
            continue
        if there is None:
            continue
        installed = replace(there, version=entry.version, installed_at=entry.installed_at)
        await records.change(name, partial(replace, installed=installed, probation=None))
        logger.info("model.taken_over: %s %s", name, entry.version)


async def found(files: ModelFiles, live: str, clock: Clock) -> KeptVersion | None:
    """A live file that nobody kept a record of, or None where there is none.

    Raises:
        StoreError: It cannot be read.
    """
    measured = await run_to_end(files.checksum, files.live(live))
    if measured is None:
        return None
    size, checksum = measured
    return KeptVersion(UNKNOWN_VERSION, live, clock.now(), size, checksum)


async def recall_bad(registry: Registry, records: ModelRecords) -> None:
    """Take over what the models folder knows of bad versions, and a lost store does not.

    Raises:
        StoreError: It cannot be read, or not be written.
    """
    for name, versions in (await run_to_end(registry.read_bad)).items():
        await records.change(name, partial(_recalling, versions))


def _recalling(versions: Collection[BadVersion], record: ModelRecord) -> ModelRecord:
    return replace(record, bad=(*record.bad, *(bad for bad in versions if not record.is_bad(bad.checksum))))
