"""The only seam for time: wall time for stamps, time since boot for durations, sleeping for pace; and times as texts.

And which time was it really? Vehicles boot without a clock; the backend's time or a later sync tells by how much. Every
stamp is kept as wall time *and* time since boot. Time since boot never steps, so once the true wall time is known for
any instant of a boot, it is known for all of that boot.
"""

import asyncio
import time
from dataclasses import dataclass
from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from pathlib import Path
from typing import Protocol
from uuid import uuid4

#: Linux counts suspended time here; elsewhere the ordinary monotonic clock has to do.
_SINCE_BOOT = getattr(time, "CLOCK_BOOTTIME", time.CLOCK_MONOTONIC)
_BOOT_ID_FILE = Path("/proc/sys/kernel/random/boot_id")
#: A difference below this is latency and drift, not a wrong clock (seconds).
TOLERANCE = 30.0
#: 2025-01-01: this software did not exist before, so a clock that says so is wrong.
EARLIEST_PLAUSIBLE = 1_735_689_600.0
#: 2100-01-01: a clock that says later is broken, be it a backend's.
LATEST_PLAUSIBLE = 4_102_444_800.0


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


def moment(seconds: float) -> datetime:
    """Seconds since the epoch as a time in UTC, to the millisecond."""
    return datetime.fromtimestamp(round(seconds, 3), UTC)


def http_date(text: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date (RFC 9110 section 5.6.7), or None where it is none."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def rfc3339(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time with an offset, or None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows `t` and `z`, Python does not
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None


@dataclass(frozen=True, slots=True)
class ClockStamp:
    """What the clocks said when something was recorded.

    Attributes:
        offset: Wall time minus time since boot, seconds: constant within a boot while nobody sets the clock.
    """

    boot_id: str
    offset: float


@dataclass(frozen=True, slots=True)
class ClockObservation:
    """The backend's time was seen.

    Attributes:
        offset: The backend's wall time minus this boot's time since boot, seconds.
        uncertainty: Half the round trip plus the reading's resolution, seconds.
    """

    boot_id: str
    offset: float
    uncertainty: float


def is_plausible(wall_time: float | None) -> bool:
    """Whether a wall time, seconds since the epoch, is one that a working clock can show."""
    return wall_time is not None and EARLIEST_PLAUSIBLE <= wall_time < LATEST_PLAUSIBLE


def clock_observation(
    boot_id: str, server_time: float, sent: float, received: float, resolution: float
) -> ClockObservation:
    """Read the backend's clock as NTP does (RFC 5905 section 8): it was read halfway between sending and receiving.

    Args:
        boot_id: This boot.
        server_time: The backend's wall time, seconds since the epoch.
        sent: Time since boot when the request was sent, seconds.
        received: Time since boot when the answer came, seconds.
        resolution: Of `server_time`, seconds.
    """
    return ClockObservation(boot_id, server_time - (sent + received) / 2.0, (received - sent) / 2.0 + resolution)


def correction(stamp: ClockStamp, seen: ClockObservation | None, current: ClockStamp) -> float:
    """Seconds to add to the wall times recorded under `stamp`.

    Args:
        stamp: The clocks when the times were recorded.
        seen: The backend's time in the stamp's boot, or None where it was never seen in that boot.
        current: The clocks now.

    Returns:
        0.0 where the recorded times are right as far as anybody knows.
    """
    if seen is not None and seen.boot_id == stamp.boot_id:
        shift = seen.offset - stamp.offset
        return shift if abs(shift) > TOLERANCE + seen.uncertainty else 0.0
    if current.boot_id == stamp.boot_id:
        # The clock was set since. Whoever sets a clock means to put it right, so the later reading counts.
        shift = current.offset - stamp.offset
        return shift if abs(shift) > TOLERANCE else 0.0
    return 0.0


def skew(seen: ClockObservation | None, current: ClockStamp) -> float | None:
    """Seconds by which this machine's wall clock is ahead of the backend's, or None where that is not known."""
    if seen is None or seen.boot_id != current.boot_id:
        return None
    return current.offset - seen.offset


def is_trusted(seen: ClockObservation | None, current: ClockStamp) -> bool:
    """Whether the wall clock agrees with the backend's: only then may age decide that something is dropped."""
    ahead = skew(seen, current)
    return ahead is not None and abs(ahead) <= TOLERANCE
