"""Keeps the last answers to GETs on disk, bounded, so that they can be shown while the backend is away."""

import asyncio
import hashlib
import logging
from collections import OrderedDict
from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreError
from sentinel_sync.store.store import Store

logger = logging.getLogger(__name__)

_KIND = "fleet_answer"
#: So many different questions are remembered; beyond it the one not asked for longest goes.
MAX_ANSWERS = 64
#: An answer larger than this (bytes of JSON) is given to whoever asked, but not kept: 64 of them make 16 MiB at most.
MAX_ANSWER_BYTES = 256 << 10


@dataclass(frozen=True, slots=True)
class KeptAnswer:
    """An answer as it came, and when the backend last said so.

    Attributes:
        body: JSON.
        etag: As the backend gave it, or None.
        fetched_at: Wall time, seconds since the epoch.
        boot_id: The boot that `since_boot` belongs to.
        since_boot: Time since boot, seconds: ages are right in this boot even if somebody sets the clock.
    """

    body: Any
    etag: str | None
    fetched_at: float
    boot_id: str
    since_boot: float

    def age(self, clock: Clock) -> float:
        """Seconds since the backend last said so."""
        if self.boot_id == clock.boot_id():
            return max(0.0, clock.monotonic() - self.since_boot)
        return max(0.0, clock.now() - self.fetched_at)


_SHAPE = TypeAdapter(KeptAnswer)


class AnswerCache:
    """The last answers, in memory and in the store. A store that cannot be used costs the disk's part only.

    Args:
        store: Where they lie.
        origin: The backend's base URL: what another backend said is none of this one's answers.
        clock: For ages.
    """

    def __init__(self, store: Store, origin: str, clock: Clock) -> None:
        self._store = store
        self._origin = hashlib.sha256(origin.encode()).hexdigest()[:12]
        self._clock = clock
        #: By key, the longest unasked first; None where it lies on disk and was not read yet.
        self._answers: OrderedDict[str, KeptAnswer | None] = OrderedDict()
        self._on_disk = False
        self._opened = False

    async def load(self, path: str, params: Mapping[str, object]) -> KeptAnswer | None:
        """The last answer to a question, however old, or None."""
        await self._open()
        key = self._key(path, params)
        if key not in self._answers:
            return None
        answer = self._answers[key]
        if answer is None and self._on_disk:
            try:
                answer = await self._store.documents.load(_KIND, key, _SHAPE)
            except StoreError as error:
                logger.warning("fleet.cache: cannot be read: %s", error)
        if answer is None:
            self._answers.pop(key, None)
        else:
            self._answers[key] = answer
            self._answers.move_to_end(key)
        return answer

    async def keep(self, path: str, params: Mapping[str, object], answer: KeptAnswer) -> None:
        """Remember what the backend just said or confirmed."""
        await self._open()
        key = self._key(path, params)
        # Not on the loop: nobody knows yet how large it is.
        if len(await asyncio.to_thread(_SHAPE.dump_json, answer)) > MAX_ANSWER_BYTES:
            logger.info("fleet.cache: an answer of more than %d bytes is not kept", MAX_ANSWER_BYTES)
            await self._drop(key)
            return
        self._answers[key] = answer
        self._answers.move_to_end(key)
        while len(self._answers) > MAX_ANSWERS:
            await self._drop(next(iter(self._answers)))
        if self._on_disk:
            try:
                await self._store.documents.save(_KIND, key, answer, _SHAPE)
            except StoreError as error:
                logger.warning("fleet.cache: not kept over a restart: %s", error)

    async def _open(self) -> None:
        if self._opened:
            return
        try:
            await self._store.open()
            keys = await self._store.documents.keys(_KIND)
        except StoreError as error:
            logger.warning("fleet.cache: answers are kept in memory only: %s", error)
        else:
            self._on_disk = True
            for key in keys:
                self._answers.setdefault(key, None)
        self._opened = True

    async def _drop(self, key: str) -> None:
        self._answers.pop(key, None)
        if self._on_disk:
            try:
                await self._store.documents.delete(_KIND, key)
            except StoreError as error:
                logger.warning("fleet.cache: cannot be trimmed: %s", error)

    def _key(self, path: str, params: Mapping[str, object]) -> str:
        query = "&".join(f"{name}={value}" for name, value in sorted(params.items()))
        return f"{self._origin} {path}?{query}"
