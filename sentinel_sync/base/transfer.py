"""A transfer under way: how far it is and how fast it goes, and how it ends when it may not go on."""

import asyncio
import math
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, replace
from random import Random
from typing import Self

from sentinel_sync.base.backoff import RETURN_SPREAD
from sentinel_sync.base.clock import Clock, wait_first
from sentinel_sync.base.errors import HeldError, StoreError
from sentinel_sync.base.payloads import StatusModel
from sentinel_sync.base.tasks import EventPublisher

#: While a transfer is under way it is asked so often whether it may go on, seconds: the CLI may withdraw consent.
ASK_AGAIN_SECONDS = 0.5
#: Seconds between two events: more would only be for machines.
EVENT_INTERVAL_SECONDS = 0.2
#: Seconds after which an old rate counts for 1/e: long enough to read steadily, short enough to show a tunnel.
_MEMORY_SECONDS = 5.0
#: Between two looks closer together than this, seconds, a rate would be noise.
_SHORTEST_LOOK_SECONDS = 0.05


class TransferStatus(StatusModel):
    """A transfer at one instant: from the socket to the status file and the screen it is this.

    Attributes:
        name: Of the scenario or model.
        part: Of it: a file, a version.
        phase: `preparing`, `compressing`, `uploading`, `downloading`, `validating` or `installing`.
        done_bytes: What the other side has or was given, or what is on disk.
        total_bytes: What there is, in this phase.
        rate: Bytes per second of late, or None where nothing was seen yet.
        time_left: Seconds for this phase, or None where nothing can be said.
    """

    name: str
    part: str
    phase: str
    done_bytes: int
    total_bytes: int
    rate: float | None
    time_left: float | None

    @property
    def scenario_id(self) -> str:
        """Of a recording, its name."""
        return self.name

    @property
    def version(self) -> str:
        """Of a model, the part."""
        return self.part


#: After an attempt that won nothing the next waits for a random time between half of this and all of it, seconds, and
#: after each further one for twice as long, up to the second.
PATIENCE_SECONDS, LONGEST_PATIENCE_SECONDS = 30.0, 3600.0
#: So many bytes won are worth another attempt at once; after fewer it waits as after the first that won nothing: a host
#: that gives a byte with each answer does not keep anybody busy.
WORTHWHILE_BYTES = 16 << 10
#: So many bytes a day may be spent on one transfer for nothing.
WASTE_BYTES_PER_DAY = 20_000_000
_DAY_SECONDS = 86_400.0
#: More would only overflow.
_MOST_DOUBLINGS = 16


@dataclass(frozen=True, slots=True)
class TransferAttempts:
    """What the attempts at one transfer have come to, and when the next may follow (wire contract, Progress).

    Whoever owns the transfer keeps it, across restarts.

    Attributes:
        host: Whom the last attempt was made at: another one is met without prejudice.
        furthest_bytes: The furthest point ever reached: confirmed by the other side, or, of a download, on disk.
        fruitless: Attempts in a row that got no further.
        next_at: When the next may be made, seconds since the epoch.
        reason: What the last one ended with.
        wasted_bytes: What was spent for nothing on the day `wasted_on` (days since the epoch, UTC).
        ended_at: When the last attempt ended, seconds since the epoch.
    """

    host: str = ""
    furthest_bytes: int = 0
    fruitless: int = 0
    next_at: float = 0.0
    reason: str = ""
    wasted_bytes: int = 0
    wasted_on: int = 0
    ended_at: float = 0.0

    def as_of(self, now: float) -> Self:
        """The same, in the time of a clock that was set back behind the last attempt: the wait begins anew.

        How long ago that attempt was is not known then; what its day has cost counts for this one.
        """
        if now >= self.ended_at:
            return self
        wait = max(0.0, self.next_at - self.ended_at)
        return replace(self, ended_at=now, next_at=now + wait, wasted_on=int(now // _DAY_SECONDS))

    def wait(self, now: float) -> float:
        """Seconds until the next may be made; a clock that was set back keeps nobody waiting for longer than a day."""
        return min(max(0.0, self.next_at - now), _DAY_SECONDS)

    def ended(
        self,
        reason: str,
        *,
        host: str,
        furthest_bytes: int,
        spent_bytes: int,
        now: float,
        rng: Random,
        retry_after: float | None = None,
    ) -> Self:
        """Take in how an attempt ended that did not finish.

        Args:
            reason: In words.
            host: Whom it was made at.
            furthest_bytes: The furthest point reached now.
            spent_bytes: What travelled in it.
            now: Seconds since the epoch.
            retry_after: Seconds that the host asked for, or None.
        """
        won = max(0, furthest_bytes - self.furthest_bytes)
        fruitless = 0 if won else (self.fruitless if host == self.host else 0) + 1
        today = int(now // _DAY_SECONDS)
        wasted = max(0, spent_bytes - won) + (self.wasted_bytes if self.wasted_on == today else 0)
        doublings = min(max(fruitless - 1, 0), _MOST_DOUBLINGS)
        ceiling = min(LONGEST_PATIENCE_SECONDS, PATIENCE_SECONDS * 2.0**doublings)
        wait = 0.0 if won >= WORTHWHILE_BYTES else rng.uniform(ceiling / 2, ceiling)
        if not won and wasted >= WASTE_BYTES_PER_DAY:
            wait = max(wait, (today + 1) * _DAY_SECONDS - now + rng.uniform(0.0, LONGEST_PATIENCE_SECONDS))
        if retry_after is not None:
            wait = max(wait, retry_after * (1.0 + rng.uniform(0.0, RETURN_SPREAD)))
        return replace(
            self,
            host=host,
            furthest_bytes=max(self.furthest_bytes, furthest_bytes),
            fruitless=fruitless,
            next_at=now + wait,
            reason=reason,
            wasted_bytes=wasted,
            wasted_on=today,
            ended_at=now,
        )


@dataclass(frozen=True, slots=True)
class Rate:
    """How fast a transfer goes: bytes per second, and the seconds that it will still take."""

    rate: float | None
    time_left: float | None


class RateMeter:
    """Turns counts of bytes into a steady rate (exponentially weighted moving average).

    Args:
        total_bytes: What there is to move.
        done_bytes: What was moved before: it says nothing about the rate.
        now: Monotonic seconds.
    """

    def __init__(self, total_bytes: int, done_bytes: int, now: float) -> None:
        self._total_bytes = total_bytes
        self.done_bytes: int = done_bytes
        self._seen_bytes = done_bytes
        self._seen_at = now
        self._rate: float | None = None

    def moved(self, done_bytes: int, now: float) -> None:
        """Note how much is done altogether; less than before is a transfer that had to go back."""
        self.done_bytes = done_bytes
        if done_bytes < self._seen_bytes:
            self._seen_bytes, self._seen_at = done_bytes, now
            return
        self._look(now)

    def measured(self, now: float) -> Rate:
        """How fast it goes; where nothing moves the rate sinks."""
        self._look(now)
        left_bytes = self._total_bytes - self.done_bytes
        time_left = None if not self._rate or self._rate < 1.0 else left_bytes / self._rate
        return Rate(self._rate, 0.0 if left_bytes <= 0 else time_left)

    def _look(self, now: float) -> None:
        elapsed = now - self._seen_at
        if elapsed < _SHORTEST_LOOK_SECONDS:
            return
        rate = (self.done_bytes - self._seen_bytes) / elapsed
        weight = 1.0 if self._rate is None else 1.0 - math.exp(-elapsed / _MEMORY_SECONDS)
        self._rate = rate if self._rate is None else self._rate + weight * (rate - self._rate)
        self._seen_bytes, self._seen_at = self.done_bytes, now


class ActiveTransfer:
    """A transfer, phase by phase; calls are plain, and made often.

    Args:
        name: Of the scenario or model.
        events: Who is told.

    Attributes:
        phase: What is done now.
        total_bytes: Of the part, in that phase.
    """

    def __init__(self, name: str, events: EventPublisher[TransferStatus], clock: Clock) -> None:
        self.name = name
        self.phase = ""
        self.total_bytes = 0
        self._part: str | None = None
        self._done_bytes = 0
        self._events = events
        self._clock = clock
        self._meter: RateMeter | None = None
        self._told_at = float("-inf")

    def begin(self, phase: str, part: str, total_bytes: int, done_bytes: int = 0) -> None:
        """The next part, or the next phase of it."""
        self.phase, self._part, self.total_bytes, self._done_bytes = phase, part, total_bytes, done_bytes
        self._meter = None
        self._told_at = float("-inf")

    def moved(self, done_bytes: int) -> None:
        """Note how much of it is done."""
        now = self._clock.monotonic()
        if self._meter is None:
            # The first word of a resumed transfer is where it goes on: that was not moved just now.
            self._meter = RateMeter(self.total_bytes, done_bytes, now)
        self._meter.moved(done_bytes, now)
        if now - self._told_at >= EVENT_INTERVAL_SECONDS or done_bytes >= self.total_bytes:
            self.tell()

    def moved_share(self, share: float) -> None:
        """Note how much of it is done, from 0 to 1."""
        self.moved(int(share * self.total_bytes))

    def tell(self) -> None:
        """Tell who wants to know how it stands."""
        self._told_at = self._clock.monotonic()
        if self._events.wanted and (status := self.status()) is not None:
            self._events.tell(status)

    def status(self) -> TransferStatus | None:
        """How it stands, or None where nothing was begun."""
        if self._part is None:
            return None
        now = self._clock.monotonic()
        meter = self._meter or RateMeter(self.total_bytes, self._done_bytes, now)
        measured = meter.measured(now)
        return TransferStatus(
            name=self.name,
            part=self._part,
            phase=self.phase,
            done_bytes=meter.done_bytes,
            total_bytes=self.total_bytes,
            rate=measured.rate,
            time_left=measured.time_left,
        )


class TransferGuard:
    """Ends a transfer at once when it may not go on.

    Args:
        what: Names it in errors.
        blocked_reason: Asked every `ASK_AGAIN_SECONDS`; an answer ends the transfer.
        ask_again: Set by whoever has a reason to ask at once.
    """

    def __init__(
        self,
        what: str,
        blocked_reason: Callable[[], Awaitable[str | None]],
        *,
        clock: Clock,
        ask_again: asyncio.Event | None = None,
    ) -> None:
        self._what = what
        self._blocked_reason = blocked_reason
        self._clock = clock
        self._ask_again = ask_again or asyncio.Event()
        self._scope = asyncio.timeout(None)
        self._why_cut: str | None = None

    def cut(self, why: str) -> None:
        """End the transfer now."""
        if self._why_cut is None and not self._scope.expired():
            self._why_cut = why
            self._scope.reschedule(asyncio.get_running_loop().time())

    @asynccontextmanager
    async def watching(self) -> AsyncIterator[None]:
        """Do the transfer in here.

        Raises:
            HeldError: It was ended.
        """
        fault: BaseException | None = None
        try:
            async with self._scope:
                asking = asyncio.create_task(self._keep_asking(), name="sync.transfer.guard")
                asking.add_done_callback(self._stopped_asking)
                try:
                    yield
                finally:
                    asking.cancel()
                    (fault,) = await asyncio.gather(asking, return_exceptions=True)
        except TimeoutError:
            if not self._scope.expired():
                raise
            if isinstance(fault, Exception):
                raise fault from None
            raise HeldError(f"{self._what}: cut off: {self._why_cut}") from None

    async def _keep_asking(self) -> None:
        try:
            while (why := await self._blocked_reason()) is None:
                self._ask_again.clear()
                await wait_first(self._clock, ASK_AGAIN_SECONDS, self._ask_again)
        except StoreError as error:
            why = f"whether it may be sent cannot be read: {error}"  # without an answer it is a no
        self.cut(why)

    def _stopped_asking(self, asking: asyncio.Task[None]) -> None:
        if not asking.cancelled() and asking.exception() is not None:
            self.cut("whether it may be sent is not asked any more")
