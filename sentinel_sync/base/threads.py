"""Work apart from its caller: in a thread to its end, or in a task of its own."""

import asyncio
from collections.abc import Callable, Coroutine
from typing import Any, ParamSpec, TypeVar

Parameters = ParamSpec("Parameters")
Result = TypeVar("Result")


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
