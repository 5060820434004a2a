"""The figures of a large fleet on PostgreSQL: 100,000 vehicles with 10 million trips, asked over HTTP."""

import asyncio
import tempfile
import time
from datetime import UTC, date, datetime
from pathlib import Path

import httpx
import psycopg

from benchmarks.report import Figure, percentile
from sentinel_sync.backend.scoring import METRICS
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.backend.trip_store import ADD_UP_ALL
from tests.servers.postgresql import postgresql_server

VEHICLES, TRIPS_EACH, DRIVERS = 100_000, 100, 60_000
MONTHS = 12
ROUNDS = 20
BAR = 50.0
_FLEET = "/fleet/fleet"
_HEADERS = {
    "Authorization": "Bearer key",
    "X-Fleet-ID": "fleet",
    "X-Vehicle-ID": "desk",
    "X-Request-ID": "0190a7a0-0000-7000-8000-000000000000",
}
_FILL = """
INSERT INTO trips
SELECT 'fleet', 'vehicle_' || lpad(v::text, 6, '0'), 'trip_' || v || '_' || t, 0.0, d, d || 'T10:00:00.000+00:00',
    600 + (v * 7 + t * 13) %% 3000, 1000.0 + (v * 31 + t * 17) %% 60000,
    ((v + t) %% 19 = 0)::int, (v + t) %% 3, (v * t) %% 4, ((v * 3 + t) %% 100) / 100.0, 0.9, (v * 11 + t) %% 100,
    'd_' || (v + t) %% %s, '{}'
FROM generate_series(1, %s) v, generate_series(1, %s) t,
    LATERAL (SELECT to_char(now() - (t * %s / %s) * interval '1 day', 'YYYY-MM-DD') AS d) days
"""


async def measure() -> list[Figure]:
    """Each question's 95th percentile, one at a time."""
    with tempfile.TemporaryDirectory(prefix="figures-") as name:
        folder = Path(name)
        await asyncio.to_thread(folder.chmod, 0o755)
        with postgresql_server(folder / "server", durable=True) as server:
            address = server.fresh()
            took = await asyncio.to_thread(_fill, address)
            settings = BackendSettings(folder=folder / "backend", database=address, api_keys=("key",))
            async with running_server(settings) as url, httpx.AsyncClient(base_url=url, headers=_HEADERS) as client:
                return await _ask_all(client, f"{VEHICLES:,} vehicles, {VEHICLES * TRIPS_EACH:,} trips in {took:.0f} s")


def _fill(address: str) -> float:
    began = time.monotonic()
    with psycopg.connect(address, autocommit=True) as connection:
        month = datetime.now(UTC).date().replace(day=1)
        after = date(month.year + month.month // 12, month.month % 12 + 1, 1)
        for _ in range(MONTHS + 1):
            bounds = f"FOR VALUES FROM ('{month}') TO ('{after}')"
            connection.execute(f"CREATE TABLE trips_{month:%Y_%m} PARTITION OF trips {bounds}".encode())
            after, month = month, date(month.year - (month.month == 1), (month.month - 2) % 12 + 1, 1)
        connection.execute(_FILL.encode(), (DRIVERS, VEHICLES, TRIPS_EACH, MONTHS * 30 - 31, TRIPS_EACH))
        connection.execute(b"INSERT INTO trip_ids SELECT fleet_id, trip_id, vehicle_id FROM trips")
        for statement in ADD_UP_ALL.split(";"):
            connection.execute(statement.encode())
        connection.execute(
            b"INSERT INTO vehicles SELECT fleet_id, name, extract(epoch FROM now()), 'x' FROM totals"
            b" WHERE kind = 'vehicle'"
        )
        connection.execute(b"VACUUM ANALYZE")
    return time.monotonic() - began


async def _ask_all(client: httpx.AsyncClient, how: str) -> list[Figure]:
    questions = {
        "rankings": [f"{_FLEET}/rankings?metric={metric}&limit=100" for metric in METRICS],
        "drivers' leaderboard": [f"{_FLEET}/drivers/leaderboard?metric={metric}&limit=100" for metric in METRICS],
        "statistics": [f"{_FLEET}/statistics"],
        "trends": [f"{_FLEET}/trends?metric={metric}&days=366" for metric in METRICS],
        "alerts": [f"{_FLEET}/alerts?limit=100", f"{_FLEET}/alerts?severity=critical"],
        "comparison of 10": [f"{_FLEET}/comparison?vehicle_ids=" + ",".join(f"vehicle_{n:06}" for n in range(1, 11))],
        "a vehicle's status": ["/vehicles/vehicle_000077/status"],
    }
    figures = []
    for name, urls in questions.items():
        times: list[float] = []
        for _ in range(ROUNDS):
            for url in urls:
                began = time.perf_counter()
                answer = await client.get(url)
                times.append((time.perf_counter() - began) * 1000.0)
                answer.raise_for_status()
        detail = f"median {percentile(times, 0.5):.1f} ms, worst {max(times):.1f} ms; {how}"
        figures.append(
            Figure(f"{name}, 95th percentile", percentile(times, 0.95), "ms", BAR, at_least=False, how=detail)
        )
    return figures
