"""How fast a backlog goes: against a bare httpx client with the same bodies, and against the older module's way."""

import asyncio
import tempfile
import time
from dataclasses import dataclass
from pathlib import Path
from random import Random
from statistics import median

import aiohttp
import httpx
import requests

from benchmarks.report import Figure, spread
from benchmarks.server import backend
from benchmarks.work import summary, trip_settings
from sentinel_sync.base.clock import moment
from sentinel_sync.base.payloads import Location, TripSummary
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.http import build_http_client
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from sentinel_sync.trips.rules.trip import new_trip_id
from sentinel_sync.trips.trip_uploader import TripUploader

ROUNDS = 3
TRIPS = 10_000
SLOW_TRIPS = 400
SLOW_ONE_BY_ONE = 60
SLOW_DELAY = 0.05

HEADERS = {
    "Authorization": "Bearer benchmark",
    "Content-Type": "application/json",
    "X-Fleet-ID": "fleet_alpha",
    "X-Vehicle-ID": "vehicle_001",
    "X-Request-ID": "00000000-0000-4000-8000-000000000000",
    "Idempotency-Key": "trip_00000000000000000000000000000000",
}


def bodies(count: int) -> list[bytes]:
    return [summary(number).model_dump_json().encode() for number in range(count)]


def driven(count: int) -> list[bytes]:
    """Trips that differ as real ones do: packed together, alike ones would take next to nothing."""
    rng = Random(1)
    made = []
    for number in range(count):
        begin, duration, speed = 1.795e9 + 3600.0 * number, rng.uniform(120.0, 5400.0), rng.uniform(4.0, 28.0)
        alerts = [rng.randint(0, most) for most in (1, 3, 9)]
        made.append(
            TripSummary(
                trip_id=new_trip_id(begin, rng.randbytes(10)),
                start_time=moment(begin + rng.random()),
                end_time=moment(begin + duration),
                duration=duration,
                distance=duration * speed,
                average_speed=speed,
                max_speed=speed * rng.uniform(1.1, 1.7),
                alert_count=sum(alerts),
                critical_alert_count=alerts[0],
                warning_alert_count=alerts[1],
                info_alert_count=alerts[2],
                average_risk_score=rng.uniform(0.0, 0.4),
                max_risk_score=rng.random(),
                driver_id=f"d_{rng.choice((3, 5)) * 7**44:032x}"[:34],
                start_location=Location(lat=rng.uniform(48.0, 49.0), lon=rng.uniform(11.0, 12.0)),
                end_location=Location(lat=rng.uniform(48.0, 49.0), lon=rng.uniform(11.0, 12.0)),
                interrupted=False,
            )
        )
    return [one.model_dump_json().encode() for one in made]


async def bare(settings: CloudSettings, work: list[bytes]) -> float:
    """Requests per second of the client alone: same transport, same concurrency, no disk."""
    url = f"{settings.api_url}/trips"
    left = iter(work)

    async def worker(client: httpx.AsyncClient) -> None:
        for body in left:
            response = await client.post(url, content=body, headers=HEADERS)
            response.raise_for_status()

    async with build_http_client(settings) as client:
        began = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(settings.max_in_flight)))
        return len(work) / (time.perf_counter() - began)


@dataclass(frozen=True, slots=True)
class Drained:
    """What draining a backlog took.

    Attributes:
        rate: Trips per second, from disk to acknowledged on disk.
        cpu_ms: Processor time of the whole process for a trip, milliseconds.
        wire_bytes: Heads and bodies of HTTP for a trip, in both directions.
    """

    rate: float
    cpu_ms: float
    wire_bytes: float


async def ours(folder: Path, settings: CloudSettings, work: list[bytes]) -> float:
    """Trips per second of the agent's uploader, one by one, from disk to acknowledged on disk."""
    return (await drained(folder, settings, work)).rate


async def drained(folder: Path, settings: CloudSettings, work: list[bytes]) -> Drained:
    """What it takes, in batches where the backend offers them."""
    async with Store(folder, max_bytes=settings.outbox_max_bytes) as store, CloudAPIClient(settings=settings) as client:
        uploader = TripUploader(client, foundation=Foundation.of(client, store, supervised=True))
        items = [NewItem("trip", TripSummary.model_validate_json(body).trip_id, body) for body in work]
        await store.outbox.put_all(items)
        await client.probe()
        moved = 0

        def count(sent_bytes: int, received_bytes: int) -> None:
            nonlocal moved
            moved += sent_bytes + received_bytes

        client.on_traffic(count)
        began, worked = time.perf_counter(), time.process_time()
        sent = await uploader.sync_now()
        took, cpu = time.perf_counter() - began, time.process_time() - worked
        if sent != len(work):
            raise RuntimeError(f"only {sent} of {len(work)} trips were sent")
        return Drained(sent / took, cpu / sent * 1000, moved / sent)


async def by_aiohttp(url: str, work: list[bytes]) -> float:
    """Requests per second of aiohttp, eight in flight."""
    left = iter(work)

    async def worker(session: aiohttp.ClientSession) -> None:
        for body in left:
            async with session.post(f"{url}/trips", data=body, headers=HEADERS) as response:
                await response.read()
                response.raise_for_status()

    async with aiohttp.ClientSession() as session:
        began = time.perf_counter()
        await asyncio.gather(*(worker(session) for _ in range(8)))
        return len(work) / (time.perf_counter() - began)


async def by_httpx(url: str, work: list[bytes]) -> float:
    """Requests per second of httpx with its own pool, eight in flight."""
    left = iter(work)

    async def worker(client: httpx.AsyncClient) -> None:
        for body in left:
            (await client.post(f"{url}/trips", content=body, headers=HEADERS)).raise_for_status()

    async with httpx.AsyncClient(limits=httpx.Limits(max_connections=8), trust_env=False) as client:
        began = time.perf_counter()
        await asyncio.gather(*(worker(client) for _ in range(8)))
        return len(work) / (time.perf_counter() - began)


def one_by_one(url: str, work: list[bytes]) -> float:
    """Requests per second of a `requests.Session` that posts one after the other, as the older module does."""
    with requests.Session() as session:
        began = time.perf_counter()
        for body in work:
            session.post(f"{url}/trips", data=body, headers=HEADERS, timeout=30).raise_for_status()
        return len(work) / (time.perf_counter() - began)


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        return [await _fast(Path(folder)), await _slow(Path(folder)), *await _in_batches(Path(folder))]


async def _in_batches(folder: Path) -> list[Figure]:
    work = driven(TRIPS)
    batches, alone, requests_rates, aiohttp_rates, httpx_rates = [], [], [], [], []
    with backend() as url, backend(batches=True) as offering:
        for number in range(ROUNDS):
            settings = trip_settings(folder / f"alone-{number}", url)
            requests_rates.append(await asyncio.to_thread(one_by_one, url, work[: TRIPS // 5]))
            aiohttp_rates.append(await by_aiohttp(url, work))
            httpx_rates.append(await by_httpx(url, work[: TRIPS // 5]))
            alone.append(await drained(settings.state_dir, settings, work[: TRIPS // 5]))
            settings = trip_settings(folder / f"batches-{number}", offering)
            batches.append(await drained(settings.state_dir, settings, work))
    rates, single = [one.rate for one in batches], [one.rate for one in alone]
    return [
        Figure(
            f"{TRIPS:,} trips in batches, against requests one by one",
            median(a / b for a, b in zip(rates, requests_rates, strict=True)),
            "×",
            10.0,
            at_least=True,
            how=f"ours {spread(rates)}/s, requests {spread(requests_rates)}/s",
        ),
        Figure(
            f"{TRIPS:,} trips in batches, against aiohttp with eight in flight",
            median(a / b for a, b in zip(rates, aiohttp_rates, strict=True)),
            "×",
            1.0,
            at_least=True,
            how=f"aiohttp {spread(aiohttp_rates)}/s",
        ),
        Figure(
            "trips one by one, against requests",
            median(a / b for a, b in zip(single, requests_rates, strict=True)),
            "×",
            1.0,
            at_least=True,
            how=f"ours {spread(single)}/s",
        ),
        Figure(
            "trips one by one, against httpx with its own pool, eight in flight",
            median(a / b for a, b in zip(single, httpx_rates, strict=True)),
            "×",
            1.0,
            at_least=True,
            how=f"httpx {spread(httpx_rates)}/s",
        ),
        Figure(
            "bytes of HTTP for a trip in a batch, against one by one",
            median(a.wire_bytes / b.wire_bytes for a, b in zip(batches, alone, strict=True)),
            "×",
            0.15,
            at_least=False,
            how=f"{batches[0].wire_bytes:.0f} B, one by one {alone[0].wire_bytes:.0f} B; TLS adds some 25 B a record",
        ),
        Figure(
            "processor time for a trip in a batch",
            median(one.cpu_ms for one in batches),
            "ms",
            0.1,
            at_least=False,
            how=f"one by one {median(one.cpu_ms for one in alone):.2f} ms",
        ),
    ]


async def _fast(folder: Path) -> Figure:
    work = bodies(TRIPS)
    rates, bare_rates = [], []
    with backend() as url:
        for number in range(ROUNDS):
            settings = trip_settings(folder / f"fast-{number}", url)
            bare_rates.append(await bare(settings, work))
            rates.append(await ours(settings.state_dir, settings, work))
    return Figure(
        f"draining {TRIPS:,} trips, against bare httpx",
        median(a / b for a, b in zip(rates, bare_rates, strict=True)),
        "×",
        0.8,
        at_least=True,
        how=f"ours {spread(rates)}/s, bare {spread(bare_rates)}/s, 8 in flight",
    )


async def _slow(folder: Path) -> Figure:
    rates, old_rates = [], []
    with backend(SLOW_DELAY) as url:
        for number in range(ROUNDS):
            settings = trip_settings(folder / f"slow-{number}", url)
            old_rates.append(await asyncio.to_thread(one_by_one, url, bodies(SLOW_ONE_BY_ONE)))
            rates.append(await ours(settings.state_dir, settings, bodies(SLOW_TRIPS)))
    return Figure(
        f"a backend that takes {SLOW_DELAY * 1000:.0f} ms, against a requests.Session one by one",
        median(a / b for a, b in zip(rates, old_rates, strict=True)),
        "×",
        6.0,
        at_least=True,
        how=f"ours {spread(rates)}/s, one by one {spread(old_rates)}/s",
    )
