"""What lies in the models folder and the store does not know: an older module's models, and what is bad."""

import logging
from collections.abc import Collection
from dataclasses import replace
from functools import partial
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.models.files import ModelFiles
from sentinel_sync.models.records import ModelRecords
from sentinel_sync.models.registry import Registry
from sentinel_sync.models.rules.installed import BadVersion, KeptVersion, ModelRecord
from sentinel_sync.models.rules.releases import UNKNOWN_VERSION, check_name, check_version, live_name

logger = logging.getLogger(__name__)


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
        there = await found(files, live, clock)
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
