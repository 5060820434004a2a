"""What is known of each model, in the store; read once, then in memory as well."""

import asyncio
from collections.abc import Callable

from pydantic import TypeAdapter

from sentinel_sync.models.rules.installed import ModelRecord
from sentinel_sync.store.documents import Documents

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
