"""Drains one kind of the outbox: a bounded number in flight, acknowledgements written in groups."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable, Iterator
from random import Random

from sentinel_sync.adapters.cloud_api_client import CloudAPIClient
from sentinel_sync.adapters.outbox import Outbox, OutboxItem
from sentinel_sync.clock import Clock
from sentinel_sync.errors import CloudError, StoreError
from sentinel_sync.rules.verdict import Defer, Release, SetAside, Verdict, verdict_on

logger = logging.getLogger(__name__)

#: Items claimed at once: their claim is one commit, and so many wait again at once if the network goes.
CLAIM = 128
#: Acknowledgements are written in groups of so many, or …
ACKNOWLEDGE = 32
#: … when the oldest has waited for so many seconds: a kill before that sends the item again, under the same key.
ACKNOWLEDGE_WITHIN = 0.25

Send = Callable[[OutboxItem], Awaitable[None]]


class OutboxSender:
    """Sends what is due, until nothing is or the gate closes.

    Args:
        client: Bounds what is in flight, and holds the gate.
        outbox: Where the items lie.
        kind: Which of them.
        send: Sends one; raises CloudError where it was not taken, ValueError where it cannot be sent at all.
        clock: For the age of acknowledgements.
        rng: For backoff.
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
    ) -> None:
        self._client = client
        self._outbox = outbox
        self._kind = kind
        self._send = send
        self._clock = clock
        self._rng = rng
        self._draining = asyncio.Lock()
        self._refilling = asyncio.Lock()
        self._claimed: deque[OutboxItem] = deque()
        self._in_flight: set[int] = set()
        self._exhausted = False
        self._taken: list[int] = []
        self._taken_since = 0.0

    async def drain(self) -> int:
        """Send what is due; returns how many items the backend took. Concurrent calls take turns."""
        async with self._draining:
            self._exhausted = False
            sent = 0
            try:
                async with asyncio.TaskGroup() as group:
                    workers = [group.create_task(self._work()) for _ in range(self._client.settings.max_in_flight)]
                sent = sum(worker.result() for worker in workers)
            except* StoreError as errors:  # the caller wants the error, not the group it came in
                raise next(leaves(errors)) from None
            finally:
                await self._give_back()
            return sent

    async def _work(self) -> int:
        sent = 0
        while (item := await self._next()) is not None:
            self._in_flight.add(item.seq)
            try:
                await self._send(item)
            except CloudError as error:
                await self._settle(item, verdict_on(error, item.attempts, self._rng))
            except ValueError as error:
                await self._settle(item, SetAside(f"cannot be sent as it is stored: {error}"))
            else:
                sent += 1
                self._in_flight.discard(item.seq)
                await self._took(item)
            self._in_flight.discard(item.seq)
        return sent

    async def _next(self) -> OutboxItem | None:
        if not self._client.gate.passage(self._clock.monotonic()).open:
            return None
        low = len(self._claimed) < self._client.settings.max_in_flight
        # Whoever finds the stock low refills it while the others go on; only an empty stock makes them wait.
        if low and not self._exhausted and (not self._claimed or not self._refilling.locked()):
            async with self._refilling:
                if len(self._claimed) < self._client.settings.max_in_flight and not self._exhausted:
                    claimed = await self._outbox.claim(self._kind, CLAIM)
                    self._exhausted = len(claimed) < CLAIM
                    self._claimed.extend(claimed)
        return self._claimed.popleft() if self._claimed else None

    async def _took(self, item: OutboxItem) -> None:
        now = self._clock.monotonic()
        if not self._taken:
            self._taken_since = now
        self._taken.append(item.seq)
        if len(self._taken) >= ACKNOWLEDGE or now - self._taken_since > ACKNOWLEDGE_WITHIN:
            await self._acknowledge()

    async def _acknowledge(self) -> None:
        taken, self._taken = self._taken, []
        if not taken:
            return
        try:
            await self._outbox.acknowledge(self._kind, taken)
        except StoreError:
            self._taken = taken + self._taken
            raise

    async def _give_back(self) -> None:
        """Write what was taken and let wait what was not tried."""
        left = [*self._in_flight, *(item.seq for item in self._claimed)]
        self._claimed.clear()
        self._in_flight.clear()
        await self._acknowledge()
        await self._outbox.release(left)

    async def _settle(self, item: OutboxItem, verdict: Verdict) -> None:
        match verdict:
            case Release():
                await self._outbox.release([item.seq])
            case Defer(seconds, reason, connectivity):
                await self._outbox.defer(item.seq, seconds, reason, connectivity=connectivity)
            case SetAside(reason):
                logger.warning("outbox.set_aside: %s %s: %s", item.kind, item.key, reason)
                await self._outbox.set_aside(item.seq, reason)


def leaves(group: BaseExceptionGroup[StoreError]) -> Iterator[StoreError]:
    """The errors in a group, however deep they lie."""
    for error in group.exceptions:
        if isinstance(error, BaseExceptionGroup):
            yield from leaves(error)
        else:
            yield error
