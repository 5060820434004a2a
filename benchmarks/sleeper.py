"""What the host's loop feels: how late a task that sleeps 1 ms at a time wakes while 10,000 trips go in and out."""

import asyncio
import tempfile
import time
from pathlib import Path
from random import Random

from benchmarks.report import Figure, percentile
from benchmarks.server import backend
from benchmarks.work import summary, trip_settings
from sentinel_sync.adapters.cloud_api_client import CloudAPIClient
from sentinel_sync.adapters.outbox import NewItem
from sentinel_sync.adapters.store import Store
from sentinel_sync.services.trip_uploader import TripUploader

TRIPS = 10_000
CALLERS = 50
NAP = 0.001
#: The limit that this machine sets: a bare loop that does nothing else, measured for so many seconds in the same run.
QUIET_SECONDS = 5.0


async def sleeper(lateness: list[float], stop: asyncio.Event) -> None:
    while not stop.is_set():
        began = time.perf_counter()
        await asyncio.sleep(NAP)
        lateness.append(time.perf_counter() - began - NAP)


async def measure() -> list[Figure]:
    quiet = await _quiet()
    busy = await _busy()
    limit = f"a bare loop: {percentile(quiet, 0.999) * 1e3:.2f} ms, worst {max(quiet) * 1e3:.2f} ms; {len(busy):,} naps"
    worst = max(busy) * 1e3
    return [
        Figure("stall at the 99.9th percentile", percentile(busy, 0.999) * 1e3, "ms", 10.0, at_least=False, how=limit),
        Figure("worst stall", worst, "ms", 25.0, at_least=False, how=limit),
    ]


async def _quiet() -> list[float]:
    lateness: list[float] = []
    stop = asyncio.Event()
    task = asyncio.create_task(sleeper(lateness, stop))
    await asyncio.sleep(QUIET_SECONDS)
    stop.set()
    await task
    return lateness


async def _busy() -> list[float]:
    lateness: list[float] = []
    stop = asyncio.Event()
    body = summary().model_dump_json().encode()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder, backend() as url:
        settings = trip_settings(Path(folder), url)
        async with Store(Path(folder)) as store, CloudAPIClient(settings=settings) as client:
            uploader = TripUploader(client, store, supervised=True, rng=Random(1))
            await uploader.prepare()
            numbers = iter(range(TRIPS))

            async def caller() -> None:
                for number in numbers:
                    await store.outbox.put(NewItem("trip", f"trip_{number:032x}", body))

            async def drainer() -> None:
                sent = 0
                while sent < TRIPS:
                    sent += await uploader.sync_now()

            task = asyncio.create_task(sleeper(lateness, stop))
            await asyncio.gather(drainer(), *(caller() for _ in range(CALLERS)))
            stop.set()
            await task
    return lateness
