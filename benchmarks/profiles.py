"""Driver profiles: 1,000 of them brought to the backend, against bare httpx, and what the loop feels meanwhile."""

import asyncio
import gc
import json
import logging
import tempfile
import time
from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from random import Random
from statistics import median

import httpx

from benchmarks.drain import HEADERS
from benchmarks.profile_server import profile_backend
from benchmarks.report import Figure, percentile, spread
from benchmarks.sleeper import sleeper
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.http import build_http_client
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.profiles.keys import DerivedKey
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store

ROUNDS = 3
PROFILES = 1_000
#: As long as a face recogniser's vector.
EMBEDDING = 128
#: A bare loop that does nothing else is looked at for so many seconds.
QUIET_SECONDS = 3.0


def settings_for(folder: Path, url: str) -> CloudSettings:
    return CloudSettings.model_validate({
        "enabled": True,
        "api_url": url,
        "api_key": "benchmark",
        "rate_limit": 0,
        "state_dir": folder / "state",
        "profiles_dir": folder / "profiles",
    })  # fmt: skip


def write_profiles(folder: Path, count: int = PROFILES) -> None:
    """Profiles as the vehicle's manager writes them: the fields of tests/fixtures/profiles."""
    rng = Random(1)
    folder.mkdir(parents=True, exist_ok=True)
    for number in range(count):
        profile = {
            "driver_id": f"driver_{number}",
            "face_embedding": [round(rng.gauss(0.0, 0.09), 6) for _ in range(EMBEDDING)],
            "total_distance": round(rng.uniform(0.0, 1e6), 1),
            "total_time": rng.uniform(0.0, 1e5),
            "driving_style": "normal",
            "avg_reaction_time": 0.82,
            "avg_following_distance": 27.4,
            "avg_lane_change_freq": 0.6,
            "avg_speed": 14.1,
            "risk_tolerance": 0.41,
            "safety_score": 86.5,
            "attention_score": 88.0,
            "eco_score": 79.5,
            "session_count": 41,
            "last_updated": "2026-11-17T18:22:31.104233",
            "created_at": "2026-03-02T07:55:10.000012",
        }
        (folder / f"driver_{number}.json").write_text(json.dumps(profile, indent=2))


async def bare(settings: CloudSettings, body: bytes) -> float:
    """Profiles per second of the client alone: GET and PUT of each, same transport, same concurrency, no disk."""
    left = iter(range(PROFILES))

    async def worker(client: httpx.AsyncClient) -> None:
        for number in left:
            url = f"{settings.api_url}/drivers/driver_{number}/profile"
            if (await client.get(url, headers=HEADERS)).status_code != 404:
                raise RuntimeError("the backend was not empty")
            (await client.put(url, content=body, headers=HEADERS | {"If-None-Match": "*"})).raise_for_status()

    async with build_http_client(settings) as client:
        gc.collect()
        began = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(settings.max_in_flight)))
        return PROFILES / (time.perf_counter() - began)


async def ours(settings: CloudSettings, lateness: list[float] | None = None) -> tuple[float, bytes]:
    """Profiles per second, from file to settled record; also the last body that was sent.

    Args:
        settings: Without profile keys: the one from the vehicle's id is derived before, as once in a vehicle's day.
        lateness: Where given, the loop's naps go here, and further keys are derived all the time.
    """
    async with Store(settings.state_dir) as store, CloudAPIClient(settings=settings) as client:
        profiles = ProfileSynchronizer(client, foundation=Foundation.of(client, store, supervised=True))
        await profiles.prepare()
        await profiles.encrypt_profile({})
        async with AsyncExitStack() as stack:
            if lateness is not None:
                await stack.enter_async_context(watched(lateness))
                await stack.enter_async_context(_deriving())
            gc.collect()  # what importing left would be collected in somebody's time, theirs or ours
            began = time.perf_counter()
            synced = await profiles.sync_all_profiles()
            rate = synced / (time.perf_counter() - began)
        if synced != PROFILES:
            raise RuntimeError(f"only {synced} of {PROFILES} profiles were synced")
        reply = await client.get("/drivers/driver_0/profile")
        return rate, json.dumps(reply.data).encode()


@asynccontextmanager
async def watched(lateness: list[float]) -> AsyncIterator[None]:
    stop = asyncio.Event()
    task = asyncio.create_task(sleeper(lateness, stop))
    try:
        yield
    finally:
        stop.set()
        await task


@asynccontextmanager
async def _deriving() -> AsyncIterator[None]:
    """Keys are derived without a pause while the profiles go: once is what a vehicle does."""
    logging.getLogger("sentinel_sync.profiles.keys").setLevel(logging.ERROR)  # each would warn

    async def derive() -> None:
        number = 0
        while True:
            await DerivedKey(f"vehicle_{number}", "fleet_alpha").keys()
            number += 1

    task = asyncio.create_task(derive())
    try:
        yield
    finally:
        task.cancel()
        await asyncio.gather(task, return_exceptions=True)


async def measure() -> list[Figure]:
    rates, bare_rates, lateness, quiet = [], [], list[float](), list[float]()
    async with watched(quiet):
        await asyncio.sleep(QUIET_SECONDS)
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        for number in range(ROUNDS):
            path = Path(folder) / f"{number}"
            await asyncio.to_thread(write_profiles, path / "profiles")
            with profile_backend() as url:
                rate, body = await ours(settings_for(path, url))
            with profile_backend() as url:
                bare_rates.append(await bare(settings_for(path, url), body))
            rates.append(rate)
            with profile_backend() as url:
                await ours(settings_for(path, url).model_copy(update={"state_dir": path / "again"}), lateness)
    limit = f"a bare loop: {percentile(quiet, 0.999) * 1e3:.2f} ms, worst {max(quiet) * 1e3:.2f} ms"
    return [
        Figure(
            f"syncing {PROFILES:,} profiles, against bare httpx with the same requests",
            median(a / b for a, b in zip(rates, bare_rates, strict=True)),
            "×",
            0.5,
            at_least=True,
            how=f"ours {spread(rates)}/s, bare {spread(bare_rates)}/s; their key was derived before",
        ),
        Figure(
            "stall at the 99.9th percentile while profiles are synced and keys derived",
            percentile(lateness, 0.999) * 1e3,
            "ms",
            10.0,
            at_least=False,
            how=f"{limit}; worst {max(lateness) * 1e3:.1f} ms of {len(lateness):,} naps",
        ),
    ]
