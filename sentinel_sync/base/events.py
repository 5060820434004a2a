"""Tells whoever listens how something goes, without ever waiting for them."""

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Generic, TypeVar

logger: logging.Logger = logging.getLogger(__name__)

Item = TypeVar("Item")


@dataclass(slots=True)
class _Subscription(Generic[Item]):
    """A listener, the newest that it has not been told, and the task that is telling it."""

    listener: Callable[[Item], Any]
    newest: Item | None = None
    telling: "asyncio.Task[None] | None" = None


class EventPublisher(Generic[Item]):
    """A listener that is slow misses what came meanwhile, but never the newest; one that raises is told on.

    A listener that is an `async def` runs on the loop; a plain function in a thread of its own, where it may block.

    Args:
        what: Names it in logs and tasks, as `model.progress`.
    """

    def __init__(self, what: str) -> None:
        self._what = what
        self._subscriptions: list[_Subscription[Item]] = []

    def subscribe(self, listener: Callable[[Item], Any]) -> None:
        """Have `listener(item)` told from now on."""
        self._subscriptions.append(_Subscription(listener))

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._subscriptions)

    def tell(self, item: Item) -> None:
        """Pass something on; returns at once. Call it on the loop."""
        for subscription in self._subscriptions:
            subscription.newest = item
            if subscription.telling is None or subscription.telling.done():
                subscription.telling = asyncio.create_task(self._tell(subscription), name=f"sync.{self._what}")

    async def close(self) -> None:
        """End what is being told; a thread that a listener blocks is left to itself."""
        # A listener may be the one that closes: it does not wait for itself.
        telling = [
            subscription.telling
            for subscription in self._subscriptions
            if subscription.telling is not None and subscription.telling is not asyncio.current_task()
        ]
        for task in telling:
            task.cancel()
        await asyncio.gather(*telling, return_exceptions=True)

    async def _tell(self, subscription: _Subscription[Item]) -> None:
        while (item := subscription.newest) is not None:
            subscription.newest = None
            try:
                if inspect.iscoroutinefunction(subscription.listener):
                    await subscription.listener(item)
                else:
                    await _in_thread_of_its_own(subscription.listener, item)
            except Exception:  # the host's code: its faults are its own, and must not reach a transfer
                logger.exception("%s: the listener %r raised", self._what, subscription.listener)


async def _in_thread_of_its_own(listener: Callable[[Item], Any], item: Item) -> None:
    """Not in the loop's pool, where slow listeners would use up every thread. Nobody waits for it at the end."""
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[None] = loop.create_future()

    def settle(fault: Exception | None) -> None:
        if not outcome.done():
            if fault is None:
                outcome.set_result(None)
            else:
                outcome.set_exception(fault)

    def run() -> None:
        fault: Exception | None = None
        try:
            listener(item)
        except Exception as error:  # handed over to whoever waits
            fault = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, fault)

    threading.Thread(target=run, name="sentinel-sync-news", daemon=True).start()
    await outcome
