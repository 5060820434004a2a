"""The reference backend under load: trips a second on each engine, and how long who is let in waits at three times."""

import asyncio
import contextlib
import hashlib
import json
import os
import subprocess
import sys
import tempfile
import time
import uuid
from collections import Counter
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import asynccontextmanager
from pathlib import Path

from benchmarks.report import Figure, percentile
from tests.backend.vehicle import make_trip
from tests.servers.postgresql import postgresql_server

SECONDS = 10.0
CONNECTIONS = 64
OVERLOAD_CONNECTIONS = 1500
BATCH = 100
#: Of who is let in at three times capacity, against who is alone at a tenth of it: bounded, not unchanged.
BAR = 1000.0


async def measure() -> list[Figure]:
    """Each storage's capacity, then three times as much."""
    figures: list[Figure] = []
    with tempfile.TemporaryDirectory(prefix="load-") as name:
        folder = Path(name)
        await asyncio.to_thread(folder.chmod, 0o755)
        with postgresql_server(folder / "server", durable=True) as server:
            for engine, address in (("SQLite", None), ("PostgreSQL", server.fresh())):
                async with _backend(folder / engine, address) as port:
                    figures += await _load(engine, port)
    return figures


async def _load(engine: str, port: int) -> list[Figure]:
    alone, _ = await _closed(port, 1, _one)
    times, statuses = await _closed(port, CONNECTIONS, _one)
    capacity = statuses["201"] / SECONDS
    batch_times, _ = await _closed(port, 8, _batch)
    per_batch = len(batch_times) * BATCH / SECONDS
    over, told = await _open(port, 3.0 * capacity)
    refused = told["429"] / max(1, told.total())
    how = f"median {percentile(times, 0.5):.0f} ms, 99 % within {percentile(times, 0.99):.0f} ms"
    return [
        Figure(f"{engine}: trips one by one, {CONNECTIONS} at once", capacity, "/s", None, at_least=True, how=how),
        Figure(f"{engine}: trips in batches of {BATCH}", per_batch, "/s", None, at_least=True, how="8 at once"),
        Figure(
            f"{engine}: at 3 x capacity, 99th percentile of those let in",
            percentile(over, 0.99),
            "ms",
            BAR,
            at_least=False,
            how=f"median {percentile(over, 0.5):.0f} ms; {told['201'] / SECONDS:.0f}/s stored, {refused:.0%} answered"
            f" with 429; alone 99 % within {percentile(alone, 0.99):.1f} ms",
        ),
    ]


@asynccontextmanager
async def _backend(folder: Path, address: str | None) -> AsyncIterator[int]:
    process = await asyncio.create_subprocess_exec(
        *(sys.executable, "-m", "sentinel_sync", "serve", "--port", "0", "--folder", str(folder), "--api-key", "key"),
        env={**os.environ, "SENTINEL_BACKEND_DATABASE": address or ""},
        stdout=subprocess.PIPE,
    )
    assert process.stdout is not None
    line = (await process.stdout.readline()).decode()
    try:
        yield int(line.rpartition(":")[2])
    finally:
        process.terminate()
        await process.wait()


def _one(vehicle: str) -> bytes:
    trip = make_trip()
    return _post(vehicle, "/trips", trip["trip_id"], json.dumps(trip).encode())


def _batch(vehicle: str) -> bytes:
    trips = [make_trip() for _ in range(BATCH)]
    key = hashlib.sha256("\n".join(trip["trip_id"] for trip in trips).encode()).hexdigest()
    return _post(vehicle, "/trips/batch", key, json.dumps({"trips": trips}).encode())


def _post(vehicle: str, path: str, key: str, body: bytes) -> bytes:
    head = (
        f"POST {path} HTTP/1.1\r\nHost: b\r\nAuthorization: Bearer key\r\nUser-Agent: load\r\nX-Fleet-ID: fleet\r\n"
        f"X-Vehicle-ID: {vehicle}\r\nX-Request-ID: {uuid.uuid4()}\r\nIdempotency-Key: {key}\r\n"
        f"Content-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n"
    )
    return head.encode() + body


async def _closed(port: int, connections: int, make: Callable[[str], bytes]) -> tuple[list[float], Counter[str]]:
    """Each connection asks again once it is answered: milliseconds and statuses of `SECONDS`."""
    times: list[float] = []
    statuses: Counter[str] = Counter()
    end = time.perf_counter() + SECONDS

    async def drive(number: int) -> None:
        async with _connection(port) as ask:
            while time.perf_counter() < end:
                status, took = await ask(make(f"vehicle_{number}"))
                statuses[status] += 1
                times.append(took)

    await asyncio.gather(*(drive(number) for number in range(connections)))
    return times, statuses


async def _open(port: int, rate: float) -> tuple[list[float], Counter[str]]:
    """Requests begin at a rate, whatever becomes of them: milliseconds of those that were stored, and all statuses."""
    times: list[float] = []
    statuses: Counter[str] = Counter()
    began = time.perf_counter()
    schedule: Iterator[float] = (began + number / rate for number in range(round(rate * SECONDS)))

    async def drive(number: int) -> None:
        async with _connection(port) as ask:
            for due in schedule:
                await asyncio.sleep(max(0.0, due - time.perf_counter()))
                status, took = await ask(_one(f"vehicle_{number}"))
                statuses[status] += 1
                if status == "201":
                    times.append(took)

    await asyncio.gather(*(drive(number) for number in range(OVERLOAD_CONNECTIONS)))
    return times, statuses


@asynccontextmanager
async def _connection(port: int) -> AsyncIterator[Callable[[bytes], "asyncio.Task[tuple[str, float]]"]]:
    reader, writer = await asyncio.open_connection("127.0.0.1", port)

    async def ask(request: bytes) -> tuple[str, float]:
        began = time.perf_counter()
        writer.write(request)
        head = await reader.readuntil(b"\r\n\r\n")
        took = (time.perf_counter() - began) * 1000.0
        lower = head.lower()
        place = lower.index(b"content-length:") + 15
        await reader.readexactly(int(lower[place : lower.index(b"\r\n", place)]))
        return head[9:12].decode(), took

    try:
        yield lambda request: asyncio.ensure_future(ask(request))
    finally:
        writer.close()
        with contextlib.suppress(OSError):
            await writer.wait_closed()
