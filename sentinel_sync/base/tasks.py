"""Tasks: duties under a supervisor, which stops them in three phases, work apart from its caller, and listeners."""

import asyncio
import contextlib
import inspect
import logging
import threading
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, Generic, ParamSpec, TypeVar

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import Clock, wait_first
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.payloads import StatusModel

logger: logging.Logger = logging.getLogger(__name__)

#: Ceiling of the wait before a crashed duty is tried again, seconds.
MAX_RESTART_DELAY = 60.0
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")
Item = TypeVar("Item")


class PeriodicTaskStatus(StatusModel):
    """A part of the agent: how often it crashed, and why at last."""

    name: str
    crashes: int
    total_crashes: int
    last_error: str | None


@dataclass(slots=True)
class PeriodicTask:
    """Something to be done again and again.

    Attributes:
        name: For logs and the status.
        step: Does what is due and returns the seconds until it wants to be asked again.
        wake: Set by whoever has a reason for the duty to come early.
        crashes: Crashes in a row; 0 after a step that ended well.
        total_crashes: Crashes since the start.
        last_error: What the last crash was, or None.
    """

    name: str
    step: Callable[[], Awaitable[float]]
    wake: asyncio.Event = field(default_factory=asyncio.Event)
    crashes: int = 0
    total_crashes: int = 0
    last_error: str | None = None

    def status(self) -> PeriodicTaskStatus:
        """How often it crashed, and why at last."""
        return PeriodicTaskStatus(
            name=self.name, crashes=self.crashes, total_crashes=self.total_crashes, last_error=self.last_error
        )


class Supervisor:
    """One task per duty in one TaskGroup. A duty that crashes never reaches a sibling."""

    def __init__(self, clock: Clock, rng: Random) -> None:
        self._clock = clock
        self._rng = rng
        self._stopping = asyncio.Event()
        self._task: asyncio.Task[None] | None = None
        self.duties: tuple[PeriodicTask, ...] = ()

    @property
    def running(self) -> bool:
        """Whether duties are being done."""
        return self._task is not None and not self._task.done()

    def start(self, duties: Sequence[PeriodicTask]) -> asyncio.Future[None]:
        """Begin, in the running loop; the returned future may be awaited and is done once every duty has its task."""
        started: asyncio.Future[None] = asyncio.get_running_loop().create_future()
        if self.running:
            started.set_result(None)
            return started
        self.duties = tuple(duties)
        self._stopping.clear()
        self._task = asyncio.create_task(self._run(started), name="sync.supervisor")
        return started

    async def stop(self, grace: float) -> None:
        """Ask every duty to end, grant `grace` seconds for the step under way, then take it: cancel and collect."""
        task = self._task
        if task is None:
            return
        self._stopping.set()
        try:
            await asyncio.wait({task}, timeout=grace)
        finally:
            # Also where the one who stops is cancelled: nothing of ours goes on behind its back.
            self._task = None
            if not task.done():
                logger.info("supervisor.taken: a step was cut off after %.1f s of grace", grace)
                task.cancel()
                await asyncio.wait({task})
        if not task.cancelled() and (error := task.exception()) is not None:
            raise error

    async def _run(self, started: asyncio.Future[None]) -> None:
        async with asyncio.TaskGroup() as group:
            for task in self.duties:
                group.create_task(self._keep(task), name=f"sync.{task.name}")
            if not started.done():
                started.set_result(None)

    async def _keep(self, task: PeriodicTask) -> None:
        while not self._stopping.is_set():
            task.wake.clear()
            try:
                delay = await task.step()
            except asyncio.CancelledError as error:
                if _is_cancelled():
                    raise
                # Something that the step awaited was cancelled, not the step: a task group would let it end in silence.
                await self._after_crash(task, error)
            except Exception as error:  # one part must not take the others down: it is counted, shown and restarted
                await self._after_crash(task, error)
            else:
                task.crashes = 0
                await wait_first(self._clock, delay, task.wake, self._stopping)

    async def _after_crash(self, task: PeriodicTask, error: BaseException) -> None:
        task.crashes += 1
        task.total_crashes += 1
        task.last_error = f"{type(error).__name__}: {error}"
        delay = full_jitter(task.crashes, self._rng, cap=MAX_RESTART_DELAY)
        logger.error(
            "supervisor.crash: %s crashed (%d in a row); again in %.1f s: %s",
            task.name,
            task.crashes,
            delay,
            task.last_error,
            # Our own errors say what to do; where in our code they were raised helps nobody with a full disk.
            exc_info=None if isinstance(error, SentinelSyncError) else error,
        )
        # A wake does not shorten this: whoever wakes a duty that crashes would have it crash in a circle.
        await wait_first(self._clock, delay, self._stopping)


def _is_cancelled() -> bool:
    task = asyncio.current_task()
    return task is None or task.cancelling() > 0


async def run_to_end(
    function: Callable[Parameters, Result], /, *args: Parameters.args, **kwargs: Parameters.kwargs
) -> Result:
    """Run a blocking function in a thread, and wait for it as `wait_to_end` does: a thread cannot be cancelled."""
    return await wait_to_end(asyncio.to_thread(function, *args, **kwargs))


async def wait_to_end(work: Coroutine[Any, Any, Result], on_cancel: Callable[[], object] | None = None) -> Result:
    """Wait for work that must come to its end; a caller who is cancelled waits for it, too, and is cancelled then.

    What the caller undoes next (a lock, a file) is not taken again by a thread that comes too late.

    Args:
        work: It runs in a task of its own.
        on_cancel: Called when the caller is cancelled, to bring the work to its end sooner.
    """
    task = asyncio.ensure_future(work)
    try:
        return await asyncio.shield(task)
    except asyncio.CancelledError:
        if on_cancel is not None:
            on_cancel()
        if not task.done():
            await asyncio.wait({task})
        if not task.cancelled():
            task.exception()  # seen: the cancellation is what the caller gets
        raise


async def in_own_task(work: Coroutine[Any, Any, Result]) -> Result:
    """Do work that uses a TaskGroup on behalf of a caller; a caller who is cancelled waits until it has ended.

    Up to Python 3.12 a TaskGroup that ends by a child's error may leave its parent half-cancelled: `cancelling()` stays
    raised, and the parent's own `asyncio.timeout` then raises CancelledError (python/cpython#116720). The parent
    is our task here, never the host's.
    """
    return await asyncio.create_task(work)


async def call_listener(listener: Callable[..., Any], *arguments: object) -> None:
    """Call what the host has registered: what is async on the loop, anything else in a thread, where it may block.

    Raises:
        Exception: Whatever it raises; a RuntimeError for what is no Exception.
    """
    if inspect.iscoroutinefunction(listener) or inspect.iscoroutinefunction(getattr(listener, "__call__", None)):  # noqa: B004
        await listener(*arguments)
        return
    result = await _in_thread_of_its_own(listener, arguments)
    if inspect.isawaitable(result):  # a plain function that hands back a coroutine, such as a lambda
        await result


async def _in_thread_of_its_own(listener: Callable[..., Any], arguments: tuple[object, ...]) -> Any:
    """Run a plain function of the host's: not in the loop's pool, where slow ones would use up every thread.

    Nobody waits for it when the process ends.
    """
    loop = asyncio.get_running_loop()
    outcome: asyncio.Future[Any] = loop.create_future()

    def settle(result: Any, fault: Exception | None) -> None:
        if outcome.done():
            return
        if fault is None:
            outcome.set_result(result)
        else:
            outcome.set_exception(fault)

    def run() -> None:
        result, fault = None, None
        try:
            result = listener(*arguments)
        except BaseException as error:  # handed over to whoever waits
            fault = error if isinstance(error, Exception) else RuntimeError(f"{type(error).__name__} in a listener")
        with contextlib.suppress(RuntimeError):  # the loop was closed meanwhile: nobody waits
            loop.call_soon_threadsafe(settle, result, fault)

    threading.Thread(target=run, name="sentinel-sync-listener", daemon=True).start()
    return await outcome


@dataclass(slots=True)
class _Subscription(Generic[Item]):
    """A listener, the newest that it has not been told, and the task that is telling it."""

    listener: Callable[[Item], Any]
    newest: Item | None = None
    telling: "asyncio.Task[None] | None" = None


class EventPublisher(Generic[Item]):
    """A listener that is slow misses what came meanwhile, but never the newest; one that raises is told on.

    A listener that is async runs on the loop; a plain function in a thread of its own, where it may block.

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
                await call_listener(subscription.listener, item)
            except Exception:  # the host's code: its faults are its own, and must not reach a transfer
                logger.exception("%s: the listener %r raised", self._what, subscription.listener)
