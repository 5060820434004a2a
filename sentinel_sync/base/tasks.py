"""Tasks: duties under a supervisor, which stops them in three phases, and work apart from its caller."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Coroutine, Sequence
from dataclasses import dataclass, field
from random import Random
from typing import Any, ParamSpec, TypeVar

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import Clock, wait_first
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.payloads import StatusModel

logger: logging.Logger = logging.getLogger(__name__)

#: Ceiling of the wait before a crashed duty is tried again, seconds.
MAX_RESTART_DELAY = 60.0
Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


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
    """Run a blocking function in a thread.

    A thread cannot be cancelled, so a cancelled caller waits for it and is cancelled then: what it undoes next
    (a lock, a file) is not taken again by a thread that comes too late.
    """
    work = asyncio.ensure_future(asyncio.to_thread(function, *args, **kwargs))
    try:
        return await asyncio.shield(work)
    except asyncio.CancelledError:
        if not work.done():
            await asyncio.wait({work})
        if not work.cancelled():
            work.exception()  # seen: the cancellation is what the caller gets
        raise


async def in_own_task(work: Coroutine[Any, Any, Result]) -> Result:
    """Do work that uses a TaskGroup on behalf of a caller; a caller who is cancelled waits until it has ended.

    Up to Python 3.12 a TaskGroup that ends by a child's error may leave its parent half-cancelled: `cancelling()` stays
    raised, and the parent's own `asyncio.timeout` then raises CancelledError (python/cpython#116720). The parent
    is our task here, never the host's.
    """
    return await asyncio.create_task(work)
