"""Waits for a fact that a thread or another process brings about, and says which one never came."""

import asyncio
from collections.abc import Awaitable, Callable

#: Seconds that a fact may take on a busy machine before it is called missing.
PATIENCE = 30.0
_LOOK_EVERY = 0.002


async def until(fact: Callable[[], bool], what: str = "the fact waited for") -> None:
    """Return once `fact()` is true."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not fact():  # noqa: ASYNC110 - threads and processes set no event
                await asyncio.sleep(_LOOK_EVERY)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about") from None


async def until_true(fact: Callable[[], Awaitable[bool]], what: str = "the fact waited for") -> None:
    """Return once `await fact()` is true."""
    try:
        async with asyncio.timeout(PATIENCE):
            while not await fact():  # noqa: ASYNC110 - threads and processes set no event
                await asyncio.sleep(_LOOK_EVERY)
    except TimeoutError:
        raise AssertionError(f"{what} did not come about") from None
