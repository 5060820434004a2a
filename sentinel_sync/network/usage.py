"""How much data was used, kept over restarts and kills without writing to flash at every packet."""

import asyncio
import logging
from collections.abc import Sequence
from uuid import uuid4

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock, ClockStamp
from sentinel_sync.base.errors import StoreError
from sentinel_sync.network.rules.budget import ANY, Accounts, KeptAccounts, Limit, Period
from sentinel_sync.network.rules.traffic import Link
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.timekeeper import Timekeeper

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "data_usage"
_KEY = "accounts"
_SHAPE = TypeAdapter(KeptAccounts)
#: What processes used beside the agent (a command), until the agent books it.
_HANDED_IN = "data_usage.handed_in"
#: So many at most: a command that is run again and again while no agent is must not fill the disk.
_MOST_HANDED_IN = 1000
_HANDED_IN_SHAPE = TypeAdapter(dict[Link, int])
#: A kill may cost 1/256 of a link's smallest budget in accuracy, so using it up takes some 500 writes; …
_SHARE_AT_RISK = 256
#: … but no more than 1/128 of what the day has used: whoever looks, also from another process, sees it to one percent.
_SHARE_OF_DAY = 128
#: Not less than this, bytes, where there is a budget, or none: or each request would be a write.
_LEAST_AT_RISK = 1 << 10
_LEAST_OF_DAY = 16 << 10
#: Seconds before a write that failed is tried again: a full disk is not the better for being asked at each packet.
_RETRY = 60.0


class UsageRecord:
    """Counts in memory and writes now and then, so that a kill cannot hide what was used.

    What is written says how much more may be used over each link before the next write: 1/128 of what the day has
    used, at most 1/256 of its smallest budget.
    A write is due when half of that is used. After a kill the next start charges all of it: the accounts are then too
    high by that much at most, and never too low, unless more than the other half passes during a single write. After
    an orderly end they are exact.

    Args:
        documents: Where the accounts lie.
        limits: The budgets.
        timekeeper: What is known of the true time; without it days are the wall clock's.
        owner: Whether this process owns the state folder. Another one reads the accounts, and hands in what it used.
    """

    def __init__(
        self,
        documents: Documents,
        limits: Sequence[Limit],
        *,
        clock: Clock,
        timekeeper: Timekeeper | None,
        owner: bool,
    ) -> None:
        self._documents = documents
        self._clock = clock
        self._timekeeper = timekeeper
        self._owner = owner
        self._limited = {link: _at_risk(smallest) for link in Link if (smallest := _smallest(limits, link)) is not None}
        self._accounts: Accounts | None = None
        self._loaded = False
        self._unwritten: dict[Link, int] = {}
        # As long as nothing is promised, the first byte is a reason to write: what the last life promised is charged.
        self._promised: dict[Link, int] = {}
        self._is_due = False
        self._writing = asyncio.Lock()
        self._failed_at: float | None = None

    @property
    def accounts(self) -> Accounts:
        """What was used, as of the last `turn`."""
        if self._accounts is None:
            self._accounts = Accounts.opened(None, self._stamp(), self.now(), charge_risk=False)
        return self._accounts

    def now(self) -> float:
        """Wall time as far as it is known, seconds since the epoch."""
        ahead = None if self._timekeeper is None else self._timekeeper.skew()
        return self._clock.now() - (ahead or 0.0)

    async def load(self) -> None:
        """Go on with what was written; what was counted before counts too.

        Raises:
            StoreError: It cannot be read.
        """
        kept = await self._documents.load(_KIND, _KEY, _SHAPE)
        self._accounts = Accounts.opened(kept, self._stamp(), self.now(), charge_risk=self._owner)
        for link, used_bytes in self._unwritten.items():
            self._accounts.book(link, used_bytes)
        self._loaded = True
        self._is_due = self._owner and any(self._unwritten.values())

    def turn(self) -> None:
        """Follow the clock."""
        self.accounts.turn(self._stamp(), self.now())

    @property
    def is_due(self) -> bool:
        """Whether so much was used since the last write that it is to be written now."""
        return self._is_due

    def count(self, link: Link, used_bytes: int) -> bool:
        """Charge what was used; True where it is time to write."""
        self.turn()
        self.accounts.book(link, used_bytes)
        self._unwritten[link] = unwritten = self._unwritten.get(link, 0) + used_bytes
        if not self._is_due and self._owner and self._loaded and unwritten * 2 > self._promised.get(link, 0):
            self._is_due = self._failed_at is None or self._clock.monotonic() - self._failed_at >= _RETRY
        return self._is_due

    async def write(self) -> None:
        """Write the accounts; a full disk is said once, and the accounts go on in memory."""
        if self._owner and self._loaded:
            await self._write({link: self._at_risk(link) for link in self._unwritten})

    async def close(self) -> None:
        """Write the accounts for the last time: what is written is exact."""
        try:
            if not self._owner and any(self._unwritten.values()):
                await self._hand_in()
            elif self._owner and self._unwritten:
                if not self._loaded:
                    await self.load()
                await self._write({})
        except StoreError as error:
            logger.warning("traffic.usage: what was used at last is not known any more: %s", error)

    async def take_in(self) -> None:
        """Book what other processes handed in."""
        if not self._owner:
            return
        for key in await self._documents.keys(_HANDED_IN):
            used = await self._documents.load(_HANDED_IN, key, _HANDED_IN_SHAPE)
            for link, used_bytes in (used or {}).items():
                self.count(link, used_bytes)
            # Booked before it is deleted: a kill in between books it twice, never not at all.
            await self.write()
            await self._documents.delete(_HANDED_IN, key)

    async def _write(self, promised: dict[Link, int]) -> None:
        async with self._writing:
            self._is_due = False
            written = dict(self._unwritten)
            kept = self.accounts.kept(promised)
            try:
                await self._documents.save(_KIND, _KEY, kept, _SHAPE)
            except StoreError as error:
                if self._failed_at is None:
                    logger.error("traffic.usage: cannot be written, so a restart would forget it: %s", error)
                self._failed_at = self._clock.monotonic()
                return
            self._failed_at, self._promised = None, promised
            for link, used_bytes in written.items():
                self._unwritten[link] -= used_bytes

    def _at_risk(self, link: Link) -> int:
        of_day = max(_LEAST_OF_DAY, self.accounts.used(link, Period.DAY) // _SHARE_OF_DAY)
        return min(self._limited.get(link, of_day), of_day)

    async def _hand_in(self) -> None:
        used, self._unwritten = self._unwritten, {}
        if len(await self._documents.keys(_HANDED_IN)) >= _MOST_HANDED_IN:
            logger.warning("traffic.usage: not handed in: no agent has run for a long time to book it")
        else:
            await self._documents.save(_HANDED_IN, str(uuid4()), used, _HANDED_IN_SHAPE)

    def _stamp(self) -> ClockStamp:
        return ClockStamp(self._clock.boot_id(), self.now() - self._clock.monotonic())


def _smallest(limits: Sequence[Limit], link: Link) -> int | None:
    return min((limit.limit_bytes for limit in limits if limit.link in {link, ANY}), default=None)


def _at_risk(smallest_bytes: int) -> int:
    return max(smallest_bytes // _SHARE_AT_RISK, _LEAST_AT_RISK)
