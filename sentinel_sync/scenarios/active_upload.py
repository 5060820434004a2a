"""The scenario that is being prepared or sent: how far it is, and how it is ended at once."""

import asyncio
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from enum import StrEnum

from sentinel_sync.base.clock import Clock, wait_first
from sentinel_sync.base.errors import HeldError, StoreError
from sentinel_sync.base.events import EventPublisher
from sentinel_sync.base.progress import RateMeter
from sentinel_sync.scenarios.rules.status import UploadProgress

#: While a scenario is under way it is asked so often whether it still may be, seconds: the CLI may withdraw consent.
ASK_AGAIN = 0.5
#: Seconds between two pieces of news: more would only be for machines.
_NEWS_INTERVAL = 0.2


class Phase(StrEnum):
    """What is done with a part."""

    PREPARING = "preparing"  # packed or hashed
    COMPRESSING = "compressing"
    UPLOADING = "uploading"


class ActiveUpload:
    """One scenario at work.

    Args:
        scenario_id: Which.
        scope: Ends the work when it is rescheduled.
        news: Who wants to know.
        clock: For rates.

    Attributes:
        phase: What is done now.
        total_bytes: Of the part under way, in that phase.
        why_cut: Why it was ended, or None.
    """

    def __init__(
        self, scenario_id: str, scope: asyncio.Timeout, news: EventPublisher[UploadProgress], clock: Clock
    ) -> None:
        self.scenario_id = scenario_id
        self.phase = Phase.PREPARING
        self.why_cut: str | None = None
        self._scope = scope
        self._news = news
        self._clock = clock
        self._part: str | None = None
        self.total_bytes = 0
        self._meter: RateMeter | None = None
        self._told_at = float("-inf")

    def begin(self, phase: Phase, part: str, total_bytes: int) -> None:
        """The next part, or the next phase of it."""
        self.phase, self._part, self.total_bytes = phase, part, total_bytes
        self._meter = None
        self._told_at = float("-inf")

    def moved(self, done_bytes: int) -> None:
        """Note how much of it is done; a plain call, made often."""
        now = self._clock.monotonic()
        if self._meter is None:
            # The first word of a resumed upload is where it goes on: that was not sent just now.
            self._meter = RateMeter(self.total_bytes, done_bytes, now)
        self._meter.moved(done_bytes, now)
        if self._news.wanted and (now - self._told_at >= _NEWS_INTERVAL or done_bytes >= self.total_bytes):
            self._told_at = now
            if (progress := self.progress()) is not None:
                self._news.tell(progress)

    def moved_share(self, share: float) -> None:
        """Note how much of it is done, from 0 to 1."""
        self.moved(int(share * self.total_bytes))

    def progress(self) -> UploadProgress | None:
        """How it goes, or None where nothing was begun."""
        if self._part is None:
            return None
        now = self._clock.monotonic()
        meter = self._meter or RateMeter(self.total_bytes, 0, now)
        return UploadProgress.of(self.scenario_id, self._part, self.phase.value, meter.progress(now))

    def cut(self, why: str) -> None:
        """End it now."""
        if self.why_cut is None and not self._scope.expired():
            self.why_cut = why
            self._scope.reschedule(asyncio.get_running_loop().time())


@asynccontextmanager
async def under_way(
    scenario_id: str,
    blocked_reason: Callable[[ActiveUpload], Awaitable[str | None]],
    asked_again: asyncio.Event,
    *,
    news: EventPublisher[UploadProgress],
    clock: Clock,
) -> AsyncIterator[ActiveUpload]:
    """Work on a scenario that ends at once when it may not go on.

    Args:
        scenario_id: Which.
        blocked_reason: Asked every `ASK_AGAIN` seconds; its answer ends the work.
        asked_again: Set by whoever has a reason to ask at once.
        news: Who wants to know how it goes.
        clock: For pace.

    Raises:
        HeldError: It was ended so.
    """
    scope = asyncio.timeout(None)
    work = ActiveUpload(scenario_id, scope, news, clock)

    async def keep_asking() -> None:
        try:
            while (why := await blocked_reason(work)) is None:
                asked_again.clear()
                await wait_first(clock, ASK_AGAIN, asked_again)
        except StoreError as error:
            why = f"whether it may be sent cannot be read: {error}"  # without an answer it is a no
        work.cut(why)

    def stop_where_nobody_asks(guard: asyncio.Task[None]) -> None:
        if not guard.cancelled() and guard.exception() is not None:
            work.cut("whether it may be sent is not asked any more")

    fault: BaseException | None = None
    try:
        async with scope:
            guard = asyncio.create_task(keep_asking(), name="sync.scenarios.guard")
            guard.add_done_callback(stop_where_nobody_asks)
            try:
                yield work
            finally:
                guard.cancel()
                (fault,) = await asyncio.gather(guard, return_exceptions=True)
    except TimeoutError:
        if not scope.expired():
            raise
        if isinstance(fault, Exception):
            raise fault from None
        raise HeldError(f"scenario {scenario_id}: cut off: {work.why_cut}") from None
