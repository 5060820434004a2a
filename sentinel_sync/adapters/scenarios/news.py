"""Tells whoever listens how a transfer goes, without ever waiting for them."""

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from sentinel_sync.rules.scenarios.status import UploadProgress

logger = logging.getLogger(__name__)

#: An `async def` runs on the loop; a plain function runs in a thread of its own, where it may block.
ProgressListener = Callable[[UploadProgress], Any]


@dataclass(slots=True)
class _Subscription:
    """A listener, the newest that it has not been told, and the task that is telling it."""

    listener: ProgressListener
    newest: UploadProgress | None = None
    telling: "asyncio.Task[None] | None" = None


class ProgressNews:
    """A listener that is slow misses what came meanwhile, but never the newest; one that raises is told on."""

    def __init__(self) -> None:
        self._subscriptions: list[_Subscription] = []

    def subscribe(self, listener: ProgressListener) -> None:
        """Have `listener(progress)` told from now on."""
        self._subscriptions.append(_Subscription(listener))

    @property
    def wanted(self) -> bool:
        """Whether anybody listens."""
        return bool(self._subscriptions)

    def tell(self, progress: UploadProgress) -> None:
        """Pass something on; returns at once. Call it on the loop."""
        for subscription in self._subscriptions:
            subscription.newest = progress
            if subscription.telling is None or subscription.telling.done():
                subscription.telling = asyncio.create_task(_tell(subscription), name="sync.scenarios.progress")

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


async def _tell(subscription: _Subscription) -> None:
    while (progress := subscription.newest) is not None:
        subscription.newest = None
        try:
            if inspect.iscoroutinefunction(subscription.listener):
                await subscription.listener(progress)
            else:
                await _in_thread_of_its_own(subscription.listener, progress)
        except Exception:  # the host's code: its faults are its own, and must not reach a transfer
            logger.exception("scenario.progress: the listener %r raised", subscription.listener)


async def _in_thread_of_its_own(listener: ProgressListener, progress: UploadProgress) -> None:
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
            listener(progress)
        except Exception as error:  # handed over to whoever waits
            fault = error
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, fault)

    threading.Thread(target=run, name="sentinel-sync-progress", daemon=True).start()
    await outcome
