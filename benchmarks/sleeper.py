"""What the host's loop feels: how late a task that sleeps 1 ms at a time wakes while 10,000 trips go in and out."""

import asyncio
import tempfile
import time
from pathlib import Path

from benchmarks.report import Figure, percentile
from benchmarks.server import backend
from benchmarks.work import trip_settings
from sentinel_sync import Settings, SyncAgent

TRIPS = 10_000
PLACE = {"lat": 37.774929, "lon": -122.419416}
NAP = 0.001
#: The limit that this machine sets: a bare loop that does nothing else, measured for so many seconds in the same run.
QUIET_SECONDS = 5.0


async def sleeper(lateness: list[float], stop: asyncio.Event) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        await asyncio.sleep(NAP)
        lateness.append(time.perf_counter() - began - NAP)


async def measure() -> list[Figure]:
    quiet = await bare_naps(QUIET_SECONDS)
    busy = await _busy()
    limit = f"a bare loop: {percentile(quiet, 0.999) * 1e3:.2f} ms, worst {max(quiet) * 1e3:.2f} ms; {len(busy):,} naps"
    worst = max(busy) * 1e3
    return [
        Figure("stall at the 99.9th percentile", percentile(busy, 0.999) * 1e3, "ms", 10.0, at_least=False, how=limit),
        Figure("worst stall", worst, "ms", 25.0, at_least=False, how=limit),
    ]


async def bare_naps(seconds: float) -> list[float]:
    """How late a loop that does nothing else wakes."""
    lateness: list[float] = []
    stop = asyncio.Event()
    task = asyncio.create_task(sleeper(lateness, stop))
    await asyncio.sleep(seconds)
    stop.set()
    await task
    return lateness


async def _busy() -> list[float]:
    """A host whose drives end as fast as the disk takes them, while its agent sends them."""
    lateness: list[float] = []
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder, backend() as url:
        settings = Settings(cloud=trip_settings(Path(folder), url))
        async with SyncAgent(settings) as agent:
            # From here on the loop is the host's: the agent has started, as it has in a vehicle long before.
            task = asyncio.create_task(sleeper(lateness, stop))
            for _ in range(TRIPS):
                await agent.trips.start_trip(driver_id="driver_123", location=PLACE)
                agent.trips.update_trip(distance_delta=100.0, speed=15.0, risk_score=0.3, alert_urgency="warning")
                await agent.trips.end_trip()
            left = await agent.flush(timeout=300.0)
            stop.set()
            await task
            if left.unsent or left.acknowledged != TRIPS:
                raise RuntimeError(f"{left.acknowledged} of {TRIPS} trips were sent, {left.unsent} are left")
    return lateness
