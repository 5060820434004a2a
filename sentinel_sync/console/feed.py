"""The agent's status as server-sent events: looked at once for all viewers, sent to each when it has changed."""

import asyncio
import logging
from collections.abc import AsyncIterator, Awaitable, Callable

from sentinel_sync.base.errors import SentinelSyncError

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds between two looks while something is under way, and while nothing is: a look costs about a millisecond.
_BUSY, _CALM = 1.0, 2.0
#: A comment after so many quiet seconds tells both ends that the connection still stands.
_HEARTBEAT = 15.0
#: A viewer that does not read gets the newest status when it does: older ones are of no use to it.
_WAITING = 1
#: What the browser waits before it connects again, milliseconds.
_RETRY = 2000

Look = Callable[[], Awaitable[tuple[str, bool]]]


class Feed:
    """Looks at the agent while anybody watches.

    Args:
        look: Gives the status as JSON in one line, and whether something is under way.
    """

    def __init__(self, look: Look) -> None:
        self._look = look
        self._viewers: set[asyncio.Queue[str | None]] = set()
        self._last: str | None = None
        self._looking: asyncio.Task[None] | None = None
        self._changed = asyncio.Event()

    @property
    def viewers(self) -> int:
        """How many watch now."""
        return len(self._viewers)

    def hurry(self) -> None:
        """Somebody has just changed something: look now."""
        self._changed.set()

    async def watch(self) -> AsyncIterator[str]:
        """Events for one viewer, the present status first, until it goes."""
        mailbox: asyncio.Queue[str | None] = asyncio.Queue(_WAITING)
        self._viewers.add(mailbox)
        try:
            if self._looking is None or self._looking.done():
                self._last = None
                self._looking = asyncio.create_task(self._keep_looking(), name="console.feed")
            elif self._last is not None:
                mailbox.put_nowait(self._last)
            yield f"retry: {_RETRY}\n\n"
            while True:
                try:
                    async with asyncio.timeout(_HEARTBEAT):
                        news = await mailbox.get()
                except TimeoutError:
                    yield ": still here\n\n"
                else:
                    if news is None:
                        return
                    yield f"event: status\ndata: {news}\n\n"
        finally:
            self._viewers.discard(mailbox)

    async def close(self) -> None:
        """Stop looking, and end every stream: a server that waits for its answers would wait for ever."""
        self._tell(None)
        if self._looking is not None:
            self._looking.cancel()
            await asyncio.gather(self._looking, return_exceptions=True)

    async def _keep_looking(self) -> None:
        while self._viewers:
            self._changed.clear()
            busy = False
            try:
                news, busy = await self._look()
            except SentinelSyncError as error:
                # A store that is busy or damaged concerns the agent, which reports it; the page shows the last known.
                logger.debug("console.status: %s", error)
            else:
                if news != self._last:
                    self._last = news
                    self._tell(news)
            try:
                async with asyncio.timeout(_BUSY if busy else _CALM):
                    await self._changed.wait()
            except TimeoutError:
                continue

    def _tell(self, news: str | None) -> None:
        for mailbox in self._viewers:
            if mailbox.full():
                mailbox.get_nowait()
            mailbox.put_nowait(news)
