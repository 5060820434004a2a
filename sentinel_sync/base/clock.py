"""The only seam for time: wall time for stamps, time since boot for durations, sleeping for pace."""

import asyncio
import time
from pathlib import Path
from typing import Protocol
from uuid import uuid4

#: Linux counts suspended time here; elsewhere the ordinary monotonic clock has to do.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")


class Clock(Protocol):
    """What the agent needs to know about time."""

    def now(self) -> float:
        """Wall time in seconds since the epoch; it may jump."""
        ...

    def monotonic(self) -> float:
        """Seconds since the machine booted, also while it was suspended; never steps."""
        ...

    def boot_id(self) -> str:
        """Name of this boot: two readings of `monotonic` compare only within one boot."""
        ...

    async def sleep(self, seconds: float) -> None:
        """Wait for so many seconds."""
        ...


def _read_boot_id() -> str:
    try:
        return _BOOT_ID_FILE.read_text(encoding="ascii").strip()
    except OSError:
        return f"process-{uuid4()}"


#: Read once, with the import: not on somebody's loop.
_BOOT_ID = _read_boot_id()


class SystemClock:
    """The machine's own clocks."""

    def now(self) -> float:
        """Wall time in seconds since the epoch."""
        return time.time()

    def monotonic(self) -> float:
        """Seconds since boot (CLOCK_BOOTTIME where there is one)."""
        return time.clock_gettime(_SINCE_BOOT)

    def boot_id(self) -> str:
        """The kernel's boot id; on systems without one, an id of this process (so no reading outlives it)."""
        return _BOOT_ID

    async def sleep(self, seconds: float) -> None:
        """Wait on the event loop."""
        await asyncio.sleep(seconds)


async def wait_first(clock: Clock, seconds: float, *events: asyncio.Event) -> None:
    """Return when `seconds` have passed on `clock` or one of `events` is set, whichever is first."""
    if any(event.is_set() for event in events):
        return
    waits: list[asyncio.Task[None]] = [asyncio.create_task(_sleep(clock, seconds))]
    waits += [asyncio.create_task(_wait(event)) for event in events]
    try:
        await asyncio.wait(waits, return_when=asyncio.FIRST_COMPLETED)
    finally:
        for wait in waits:
            wait.cancel()
        # Their cancellation is ours: collect it, so that none is reported as never retrieved.
        await asyncio.gather(*waits, return_exceptions=True)


async def _sleep(clock: Clock, seconds: float) -> None:
    await clock.sleep(max(0.0, seconds))


async def _wait(event: asyncio.Event) -> None:
    await event.wait()
