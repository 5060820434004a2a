"""The host's loop while its agent does everything at once, beside a bare loop in a process of its own.

Trips at 100 readings a second, a recording of 200 MB through ffmpeg, a model as a delta, 500 driver profiles, a console
that is watched, a backend that drops and delays, and a disk that somebody else writes to without a pause.
"""

import asyncio
import gc
import json
import secrets
import subprocess
import sys
import tempfile
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager, suppress
from pathlib import Path
from random import Random

from benchmarks.console import viewers
from benchmarks.profiles import watched, write_profiles
from benchmarks.report import Figure, percentile
from benchmarks.sleeper import PLACE
from sentinel_sync import Settings, SyncAgent
from sentinel_sync.backend import publish_model
from sentinel_sync.backend.publishing import ModelRelease
from sentinel_sync.console import running_console
from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child
from tests.fakes.videos import any_ffmpeg, noisy_video
from tests.fakes.weights import some_tensors_replaced, weights

SECONDS = 60.0
VIDEO_BYTES, PIECES = 200_000_000, 10
WEIGHTS, TENSORS, REPLACED = 12_500_000, 200, 2
PROFILES = 500
MODEL = "perception"
#: Readings of a trip a second, and how many there are of one trip.
RATE, READINGS = 100, 200
_FAULTS = [
    {"kind": "drop", "fraction": 0.05},
    {"kind": "lose", "fraction": 0.03},
    {"kind": "status", "status": 503, "fraction": 0.03},
    {"kind": "delay", "delay": 0.05, "fraction": 0.3},
]

#: A bare loop that sleeps 1 ms at a time for as long as its standard input stays open.
_BARE = """
import asyncio, json, sys, threading
from benchmarks.sleeper import sleeper
async def main():
    lateness, stop, loop = [], asyncio.Event(), asyncio.get_running_loop()
    threading.Thread(target=lambda: (sys.stdin.read(), loop.call_soon_threadsafe(stop.set)), daemon=True).start()
    await sleeper(lateness, stop)
    print(json.dumps(lateness))
asyncio.run(main())
"""
#: Somebody else who writes to the same disk, each piece to its end.
_WRITER = """
import os, sys, threading
threading.Thread(target=lambda: (sys.stdin.read(), os._exit(0)), daemon=True).start()
with open(sys.argv[1], "wb", buffering=0) as file:
    while True:
        file.seek(0)
        file.write(bytes(4 << 20))
        os.fsync(file.fileno())
"""


async def measure() -> list[Figure]:
    ours, bare, done = await both(SECONDS)
    how = (
        f"{len(ours):,} naps of 1 ms in {SECONDS:.0f} s; the bare loop: {percentile(bare, 0.999) * 1e3:.1f} ms, worst "
        f"{max(bare) * 1e3:.1f} ms; meanwhile {done}"
    )
    return [
        Figure(
            "everything at once: stall at the 99.9th percentile, against a bare loop's beside it",
            percentile(ours, 0.999) / percentile(bare, 0.999),
            "×",
            2.0,
            at_least=False,
            how=f"{percentile(ours, 0.999) * 1e3:.1f} ms; {how}",
        ),
        Figure(
            "everything at once: worst stall beyond the bare loop's",
            (max(ours) - max(bare)) * 1e3,
            "ms",
            50.0,
            at_least=False,
            how=f"{max(ours) * 1e3:.1f} ms; {how}",
        ),
    ]


async def both(seconds: float) -> tuple[list[float], list[float], str]:
    """How late our loop and a bare one wake in the same time, and what was done in it."""
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as name:
        folder = Path(name)
        new = await asyncio.to_thread(_prepare, folder)
        async with AsyncExitStack() as stack:
            key = secrets.token_urlsafe(16)
            cloud = await Child.start(
                "sentinel_sync.demo.cloud",
                *(str(folder / "backend"), "0", json.dumps(_FAULTS)),
                name="the backend",
                log=folder / "backend.log",
                environment={KEY_VARIABLE: key},
            )
            stack.push_async_callback(cloud.kill)
            url = (await cloud.expect("ready"))["url"]
            agent = await stack.enter_async_context(SyncAgent(_settings(folder, url, key)))
            await _until_installed(agent, "v1.0.0")
            address = await stack.enter_async_context(running_console(agent, "127.0.0.1", 0))
            watching = await asyncio.to_thread(viewers, address.url)
            stack.callback(_end, watching)
            publish_model(folder / "backend", folder / "new.pt", new)
            write_profiles(folder / "profiles", PROFILES)
            (folder / "recorded").rename(folder / "scenarios" / "20261128_101500")
            await agent.scenarios.set_consent(granted=True)
            # As a host does that has read the README.
            gc.collect()
            gc.freeze()
            lateness: list[float] = []
            async with _writing(folder / "noise"), _bare() as bare, _driving(agent), watched(lateness):
                await asyncio.sleep(seconds)
            done = await _done(agent)
    return lateness, bare, done


def _prepare(folder: Path) -> ModelRelease:
    """The two versions of a model, the first published, and the recording."""
    content = weights(WEIGHTS, 1)
    (folder / "old.pt").write_bytes(content)
    (folder / "new.pt").write_bytes(some_tensors_replaced(content, TENSORS, REPLACED, 2))
    publish_model(folder / "backend", folder / "old.pt", ModelRelease(name=MODEL, version="v1.0.0"))
    recording = folder / "recorded"
    recording.mkdir()
    (folder / "scenarios").mkdir()
    noisy_video(folder / "piece.mp4", VIDEO_BYTES // PIECES)
    again = ("-stream_loop", str(PIECES - 1), "-i", str(folder / "piece.mp4"), "-c", "copy")
    command = [any_ffmpeg(), "-loglevel", "error", *again, str(recording / "front_left.mp4")]
    subprocess.run(command, check=True)
    frames = [{"index": number, "speed": 3.5, "boxes": [[1.0, 2.0, 3.0, 4.0]] * 8} for number in range(20_000)]
    (recording / "annotations.json").write_text(json.dumps({"frames": frames}))
    facts = {"timestamp": "2026-11-28T10:15:00", "duration": 120.0, "num_frames": 3600}
    trigger = {"type": "near_miss", "reason": "risk 0.9"}
    metadata = {**facts, "trigger": trigger, "files": {"front_left": "front_left.mp4"}}
    (recording / "metadata.json").write_text(json.dumps(metadata))
    return ModelRelease(name=MODEL, version="v1.1.0")


def _settings(folder: Path, url: str, key: str) -> Settings:
    folders = {f"{name}_dir": folder / name for name in ("state", "scenarios", "profiles", "models")}
    return Settings.model_validate({
        "cloud": {
            "enabled": True,
            "api_url": url,
            "api_key": key,
            "rate_limit": 0,
            "upload_scenarios": True,
            "allow_unsigned": True,
            "auto_install_models": True,
            "model_check_interval": 5.0,
            "sync_interval": 5.0,
            "trip_queue_file": folder / "none.json",
            **folders,
        }
    })  # fmt: skip


async def _until_installed(agent: SyncAgent, version: str) -> None:
    async with asyncio.timeout(60.0):
        while await _version(agent) != version:  # noqa: ASYNC110 - asked as a host would
            await asyncio.sleep(0.1)


async def _version(agent: SyncAgent) -> str | None:
    installed = (await agent.models.get_installed_models()).get(MODEL)
    return None if installed is None else installed["version"]


@asynccontextmanager
async def _bare() -> AsyncIterator[list[float]]:
    """A bare loop beside ours; its lateness is in the list at the end."""
    found: list[float] = []
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", _BARE, stdin=subprocess.PIPE, stdout=subprocess.PIPE, limit=1 << 26
    )
    yield found
    output, _ = await process.communicate(b"")
    found += json.loads(output)


@asynccontextmanager
async def _writing(file: Path) -> AsyncIterator[None]:
    process = await asyncio.create_subprocess_exec(sys.executable, "-c", _WRITER, str(file), stdin=subprocess.PIPE)
    try:
        yield
    finally:
        process.kill()
        await process.wait()


@asynccontextmanager
async def _driving(agent: SyncAgent) -> AsyncIterator[None]:
    """Trip after trip, at a sensor's rate."""
    rng = Random(1)

    async def drive() -> None:
        while True:
            await agent.trips.start_trip("driver_1", PLACE)
            for _ in range(READINGS):
                agent.trips.update_trip(rng.uniform(0.0, 0.3), rng.uniform(0.0, 30.0), rng.random(), location=PLACE)
                await asyncio.sleep(1.0 / RATE)
            await agent.trips.end_trip()

    task = asyncio.create_task(drive())
    try:
        yield
    finally:
        task.cancel()
        with suppress(asyncio.CancelledError):
            await task


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.communicate()


async def _done(agent: SyncAgent) -> str:
    trips, recordings = await agent.trips.get_statistics(), await agent.scenarios.get_scenarios()
    profiles = agent.profiles.snapshot()
    sent = sum(int(recording["sent_bytes"] or 0) for recording in recordings)
    unsynced = f"{profiles.unsent} of {profiles.profiles} profiles still unsynced"
    return f"{trips['uploaded']} trips, {sent:,} bytes of the recording, model {await _version(agent)}, {unsynced}"
