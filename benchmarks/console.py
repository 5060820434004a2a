"""What the console costs: processor time and memory with one viewer, and what the host's loop feels with twenty."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
import urllib.request
from contextlib import AsyncExitStack
from pathlib import Path

from benchmarks.footprint import cpu_seconds, resident_bytes
from benchmarks.report import Figure, percentile
from benchmarks.server import backend
from benchmarks.sleeper import PLACE, sleeper
from benchmarks.work import trip_settings
from sentinel_sync import Settings, SyncAgent
from sentinel_sync.console import running_console

WATCHED_SECONDS = 30.0
SETTLING_SECONDS = 5.0
VIEWERS = 20
TRIPS = 3_000

_AGENT = """
import asyncio, sys
from contextlib import AsyncExitStack
from sentinel_sync import Settings, SyncAgent
async def main():
    settings = Settings.load(None, enabled=True, api_url=sys.argv[1], api_key="benchmark", state_dir=sys.argv[2])
    async with SyncAgent(settings) as agent, AsyncExitStack() as stack:
        url = "none"
        if sys.argv[3] == "console":
            from sentinel_sync.console import running_console
            url = (await stack.enter_async_context(running_console(agent, "127.0.0.1", 0))).url
        print(url, flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def measure() -> list[Figure]:
    (bare_share, bare_bytes), (share, resident) = await asyncio.to_thread(lambda: (_cost("bare"), _cost("console")))
    naps = await _busy()
    return [
        Figure(
            "console with one viewer: added share of one core",
            (share - bare_share) * 100,
            "%",
            0.5,
            at_least=False,
            how=f"{share:.2%} with it, {bare_share:.2%} without, over {WATCHED_SECONDS:.0f} s",
        ),
        Figure(
            "console with one viewer: added memory",
            (resident - bare_bytes) / 1e6,
            "MB",
            10.0,
            at_least=False,
            how=f"VmRSS {resident / 1e6:.1f} MB with it, {bare_bytes / 1e6:.1f} MB without",
        ),
        Figure(
            f"stall at the 99.9th percentile, {VIEWERS} viewers during a sync",
            percentile(naps, 0.999) * 1e3,
            "ms",
            10.0,
            at_least=False,
            how=f"worst {max(naps) * 1e3:.1f} ms; {len(naps):,} naps while {TRIPS:,} trips went in and out",
        ),
    ]


def _cost(what: str) -> tuple[float, int]:
    """Share of a core and memory of an idle agent, with or without a console that one viewer watches."""
    with tempfile.TemporaryDirectory() as folder, backend() as url:
        process = subprocess.Popen(
            [sys.executable, "-c", _AGENT, url, folder, what],
            stdout=subprocess.PIPE,
            text=True,
            env={**os.environ, "SENTINEL_CLOUD__TRIP_QUEUE_FILE": f"{folder}/none.json"},
        )
        assert process.stdout is not None
        try:
            page = process.stdout.readline().strip()
            viewer = None if page == "none" else urllib.request.urlopen(f"{page}api/events")
            time.sleep(SETTLING_SECONDS)
            before = cpu_seconds(process.pid)
            time.sleep(WATCHED_SECONDS)
            share = (cpu_seconds(process.pid) - before) / WATCHED_SECONDS
            resident = resident_bytes(process.pid)
            if viewer is not None:
                viewer.close()
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
    return share, resident


async def _busy() -> list[float]:
    """A host whose drives end as fast as the disk takes them, while its agent sends them and twenty people watch."""
    lateness: list[float] = []
    stop = asyncio.Event()
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder, backend() as url:
        async with AsyncExitStack() as stack:
            agent = await stack.enter_async_context(SyncAgent(Settings(cloud=trip_settings(Path(folder), url))))
            address = await stack.enter_async_context(running_console(agent, "127.0.0.1", 0))
            watching = await asyncio.to_thread(viewers, address.url)
            stack.callback(_end, watching)
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


def viewers(url: str) -> "subprocess.Popen[str]":
    """Twenty viewers in a process of their own; each has had its first event."""
    process = subprocess.Popen([sys.executable, "-c", _VIEWERS, url, str(VIEWERS)], stdout=subprocess.PIPE, text=True)
    assert process.stdout is not None
    process.stdout.readline()
    return process


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


_VIEWERS = """
import asyncio, sys, httpx
async def watch(client, ready):
    async with client.stream("GET", "api/events") as stream:
        async for line in stream.aiter_lines():
            if line.startswith("data:"):
                ready.release()
async def main():
    ready = asyncio.Semaphore(0)
    limits = httpx.Limits(max_connections=None)
    async with httpx.AsyncClient(base_url=sys.argv[1], timeout=None, trust_env=False, limits=limits) as client:
        tasks = [asyncio.create_task(watch(client, ready)) for _ in range(int(sys.argv[2]))]
        for _ in tasks:
            await ready.acquire()
        print("watching", flush=True)
        await asyncio.gather(*tasks)
asyncio.run(main())
"""
