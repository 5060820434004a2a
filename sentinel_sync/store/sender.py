"""Drains one kind of the outbox: a bounded number in flight, acknowledgements written in groups."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Coroutine, Iterator, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Protocol

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import Clock, wait_first
from sentinel_sync.base.errors import CloudError, SentinelSyncError, StoreError
from sentinel_sync.base.tasks import in_own_task
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.store.outbox import Outbox, OutboxItem
from sentinel_sync.store.rules import Defer, RetryPolicy, SetAside

logger: logging.Logger = logging.getLogger(__name__)

#: Items claimed at once: their claim is one commit, and so many wait again at once if the network goes.
CLAIM = 128
#: With fewer than this left in stock, the next are claimed while these are sent.
LOW = CLAIM // 2
#: Acknowledgements are written in groups of so many, or …
ACKNOWLEDGE = 32
#: … when the oldest has waited for so many seconds: a kill before that sends the item again, under the same key.
ACKNOWLEDGE_WITHIN = 0.25
#: While requests hang, whoever has nothing to send looks for new work every so many seconds.
LOOK_AGAIN = 1.0

#: In batches goes first what was put within the last hour (wire contract, `trips-batch`), seconds.
HEAD_START = 3600.0

Send = Callable[[OutboxItem], Awaitable[None]]
BlockedReason = Callable[[], Awaitable[str | None]]


@dataclass(frozen=True, slots=True)
class BatchOutcome:
    """What became of items that were sent together.

    Attributes:
        taken: Acknowledged by the backend.
        failed: Not, and why.
        left: To be sent one by one: the backend takes them in no batch.
    """

    taken: list[OutboxItem] = field(default_factory=list)
    failed: list[tuple[OutboxItem, CloudError]] = field(default_factory=list)
    left: list[OutboxItem] = field(default_factory=list)


class Batches(Protocol):
    """A way to send several items in one request."""

    @property
    def size(self) -> int:
        """So many items may go together now; 0 where none may."""
        ...

    async def send(self, items: Sequence[OutboxItem]) -> BatchOutcome:
        """Send items together; never raises for what the network does."""
        ...


class OutboxSender:
    """Sends what is due, until nothing is, the gate closes or it is held.

    Args:
        client: Bounds what is in flight, and holds the gate.
        outbox: Where the items lie.
        kind: Which of them.
        send: Sends one; raises CloudError where it was not taken, ValueError where it cannot be sent at all.
        clock: For the age of acknowledgements.
        batches: A way to send several together, where there is one; one item alone goes by itself.
        blocked_reason: Says why nothing of this kind may go now, or None where it may; asked once per drain, and again
            after `ask_again`.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        outbox: Outbox,
        kind: str,
        send: Send,
        *,
        clock: Clock,
        rng: Random,
        blocked_reason: BlockedReason | None = None,
        batches: Batches | None = None,
    ) -> None:
        self._client = client
        self._outbox = outbox
        self._kind = kind
        self._send = send
        self._clock = clock
        self._rng = rng
        self._retry = RetryPolicy(rng)
        self._blocked_reason = blocked_reason
        self._batches = batches
        self._draining = asyncio.Lock()
        self._asking = asyncio.Lock()
        self._must_ask, self._blocked = True, False
        self._claimed: deque[OutboxItem] = deque()
        self._in_flight: set[int] = set()
        self._exhausted = False
        self._refill: asyncio.Task[None] | None = None
        self._claiming: asyncio.Future[list[OutboxItem]] | None = None
        self._left: set[int] = set()
        self._landed = asyncio.Event()
        self._watching: asyncio.Task[None] | None = None
        self._taken: list[int] = []
        self._taken_since = 0.0

    def ask_again(self) -> None:
        """Ask whether items may go before the next one does: something has changed; a plain call."""
        self._must_ask = True

    async def drain(self) -> int:
        """Send what is due; returns how many items the backend took. Concurrent calls take turns.

        Raises:
            StoreError: The outbox could not be read or written; what the backend took is sent again under its key.
        """
        return await in_own_task(self._drain())

    async def _drain(self) -> int:
        async with self._draining:
            self._exhausted, self._refill, self._watching = False, None, None
            try:
                sent = 0 if self._batches is None else await self._send_batches(self._batches)
                # Workers only send: claims and acknowledgements are written beside them, so that the disk's latency
                # leaves no connection idle.
                async with asyncio.TaskGroup() as group:
                    count = self._client.settings.max_in_flight
                    workers = [group.create_task(self._work(group)) for _ in range(count)]
                return sent + sum(worker.result() for worker in workers)
            except* SentinelSyncError as errors:
                # The caller wants the error, not the group it came in.
                raise next(leaves(errors)) from None
            finally:
                self._must_ask = True
                # Shielded, because a caller in a hurry may cancel twice, and what is left marked as being sent would
                # lie there until the next start.
                await asyncio.shield(self._give_back())

    async def _send_batches(self, batches: Batches) -> int:
        """Send together what is due, the newest first, while there is more than one item; returns how many went."""
        sent = 0
        while batches.size and self._client.gate.passage(self._clock.monotonic()).open and not await self.is_blocked():
            await self._claim_for(self._outbox.claim_newest(self._kind, batches.size, HEAD_START), batches.size)
            if len(self._claimed) < 2:
                break
            items = list(self._claimed)
            self._in_flight.update(item.seq for item in items)
            self._claimed.clear()
            try:
                outcome = await batches.send(items)
            except SentinelSyncError:
                raise
            except Exception:  # a fault of our own with a batch must keep nobody from going alone
                logger.exception("outbox.fault: %d %ss could not be sent together", len(items), self._kind)
                self._claimed.extend(items)
                self._in_flight.clear()
                break
            self._taken.extend(item.seq for item in outcome.taken)
            await self._acknowledge()
            decisions = [(item, self._retry.decision(item.key, error, item.attempts)) for item, error in outcome.failed]
            await self._outbox.settle_all(decisions)
            alone = [await self._send_one(item) for item in outcome.left]
            self._taken.extend(item.seq for item, went in zip(outcome.left, alone, strict=True) if went)
            await self._acknowledge()
            self._in_flight.clear()
            sent += len(outcome.taken) + sum(alone)
        return sent

    async def _work(self, group: asyncio.TaskGroup) -> int:
        sent = 0
        while (item := await self._next(group)) is not None:
            self._in_flight.add(item.seq)
            if await self._send_one(item):
                sent += 1
                self._take(item, group)
            self._in_flight.discard(item.seq)
            if not self._in_flight:
                self._landed.set()
        return sent

    async def _send_one(self, item: OutboxItem) -> bool:
        """Send an item by itself; True where the backend took it, else it is settled.

        Raises:
            SentinelSyncError: It is not about this item: no key, no disk.
        """
        try:
            await self._send(item)
        except CloudError as error:
            await self._outbox.settle(item, self._retry.decision(item.key, error, item.attempts))
        except ValueError as error:
            await self._outbox.settle(item, SetAside(f"cannot be sent as it is stored: {error}"))
        except SentinelSyncError:
            raise
        except Exception as error:  # a fault of our own with this item must not block those behind it
            logger.exception("outbox.fault: %s %s could not be sent", item.kind, item.key)
            wait = full_jitter(item.attempts, self._rng)
            await self._outbox.settle(item, Defer(wait, f"{type(error).__name__}: {error}", connectivity=False))
        else:
            return True
        return False

    async def _next(self, group: asyncio.TaskGroup) -> OutboxItem | None:
        while self._client.gate.passage(self._clock.monotonic()).open:
            if await self.is_blocked():
                return None
            idle = self._refill is None or self._refill.done()
            if idle and not self._exhausted and len(self._claimed) < LOW:
                self._refill = group.create_task(self._claim())
                idle = False
            if self._claimed:
                return self._claimed.popleft()
            if self._refill is not None and not idle:
                await asyncio.wait({self._refill})
            elif self._in_flight:
                if self._watching is None or self._watching.done():
                    self._landed.clear()
                    self._watching = group.create_task(self._watch())
                await asyncio.wait({self._watching})
            else:
                return None
        return None

    async def is_blocked(self) -> bool:
        """Ask whether nothing may go now; the answer holds for the drain that follows."""
        if self._blocked_reason is None:
            return False
        async with self._asking:
            while self._must_ask:
                self._must_ask = False  # what changes while this is asked is asked once more
                self._blocked = await self._blocked_reason() is not None
        return self._blocked

    async def _watch(self) -> None:
        """Wait until nothing is under way, but not for one that hangs: what was put meanwhile may go.

        One for all workers that have nothing to do: each by itself would keep the loop busy.
        """
        await wait_first(self._clock, LOOK_AGAIN, self._landed)
        if not self._landed.is_set():
            self._exhausted = False
            await self._acknowledge()

    async def _claim(self) -> None:
        await self._claim_for(self._outbox.claim(self._kind, CLAIM), CLAIM)

    async def _claim_for(self, claim: Coroutine[object, None, list[OutboxItem]], limit: int) -> None:
        self._claiming = claiming = asyncio.ensure_future(claim)
        # Cancelled, it happens all the same; then `_give_back` lets go of what it marked.
        claimed = await asyncio.shield(claiming)
        self._claiming = None
        self._exhausted = len(claimed) < limit
        self._claimed.extend(claimed)

    def _take(self, item: OutboxItem, group: asyncio.TaskGroup) -> None:
        now = self._clock.monotonic()
        if not self._taken:
            self._taken_since = now
        self._taken.append(item.seq)
        if len(self._taken) >= ACKNOWLEDGE or now - self._taken_since > ACKNOWLEDGE_WITHIN:
            group.create_task(self._acknowledge())

    async def _acknowledge(self) -> None:
        taken, self._taken = self._taken, []
        if not taken:
            return
        try:
            await self._outbox.acknowledge(self._kind, taken)
        except StoreError:
            # Still marked as being sent, so nobody sends them again: acknowledged the next time.
            self._taken = taken + self._taken
            raise

    async def _give_back(self) -> None:
        """Write what was taken and let wait what was not tried; what cannot be written is written the next time."""
        claiming, self._claiming = self._claiming, None
        self._left.update(self._in_flight, (item.seq for item in self._claimed))
        self._claimed.clear()
        self._in_flight.clear()
        try:
            if claiming is not None:
                self._left.update(item.seq for item in await claiming)
            await self._acknowledge()
        finally:
            left, self._left = self._left, set()
            try:
                await self._outbox.release(left)
            except StoreError:
                self._left |= left
                raise


def leaves(group: BaseExceptionGroup[SentinelSyncError]) -> Iterator[SentinelSyncError]:
    """The errors in a group, however deep they lie."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
