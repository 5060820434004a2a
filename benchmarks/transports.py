"""What lies under httpx: the same client and bodies on httpcore and on aiohttp. Informs a choice; there is no bar."""

import asyncio
import time
from pathlib import Path
from statistics import median

import httpx
from httpx_aiohttp import AiohttpTransport

from benchmarks.drain import HEADERS, bodies
from benchmarks.report import Figure, spread
from benchmarks.server import backend
from benchmarks.work import trip_settings
from sentinel_sync.cloud.http import build_http_client

ROUNDS = 3
TRIPS = 3_000
IN_FLIGHT = 8


async def rate(client: httpx.AsyncClient, url: str, work: list[bytes]) -> float:
    left = iter(work)

    async def worker() -> None:
        for body in left:
            (await client.post(f"{url}/trips", content=body, headers=HEADERS)).raise_for_status()

    began = time.perf_counter()
    await asyncio.gather(*(worker() for _ in range(IN_FLIGHT)))
    return len(work) / (time.perf_counter() - began)


async def measure() -> list[Figure]:
    httpcore_rates, aiohttp_rates = [], []
    work = bodies(TRIPS)
    with backend() as url:
        for _ in range(ROUNDS):
            async with build_http_client(trip_settings(Path("unused"), url)) as client:
                httpcore_rates.append(await rate(client, url, work))
            async with httpx.AsyncClient(transport=AiohttpTransport()) as client:
                aiohttp_rates.append(await rate(client, url, work))
    return [
        Figure(
            "httpx on aiohttp, against httpx on httpcore",
            median(a / b for a, b in zip(aiohttp_rates, httpcore_rates, strict=True)),
            "×",
            None,
            at_least=True,
            how=f"aiohttp {spread(aiohttp_rates)}/s, httpcore {spread(httpcore_rates)}/s, {IN_FLIGHT} in flight",
        )
    ]
