"""Blocking work in a thread, to its end: a caller that is cancelled leaves nothing going on behind its back."""

import asyncio
from collections.abc import Callable
from typing import ParamSpec, TypeVar

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
