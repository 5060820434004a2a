"""What it costs to take a trip durably: against a bare blocking `sqlite3` with the same rows and durability."""

import asyncio
import sqlite3
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, spread
from benchmarks.work import summary, trip_settings
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.outbox import NewItem, insert
from sentinel_sync.store.schema import connect, migrate
from sentinel_sync.store.store import Store
from sentinel_sync.trips.trip_uploader import TripUploader

ROUNDS = 5
ALONE = 200
CALLERS = 50
EACH = 40
QUEUED = 100_000


def items(prefix: str, count: int) -> list[NewItem]:
    body = summary().model_dump_json().encode()
    return [NewItem("trip", f"{prefix}-{number}", body) for number in range(count)]


def bare(connection: sqlite3.Connection, work: list[NewItem], group: int) -> float:
    """Seconds that blocking commits of `group` rows take."""
    began = time.perf_counter()
    for start in range(0, len(work), group):
        connection.execute("BEGIN IMMEDIATE")
        for item in work[start : start + group]:
            insert(connection, item, time.time())
        connection.execute("COMMIT")
    return time.perf_counter() - began


async def ours(store: Store, work: list[NewItem], callers: int) -> float:
    """Seconds that `callers` at once take to put everything, one by one."""

    async def call(share: list[NewItem]) -> None:
        for item in share:
            await store.outbox.put(item)

    began = time.perf_counter()
    await asyncio.gather(*(call(work[caller::callers]) for caller in range(callers)))
    return time.perf_counter() - began


async def end_trips(uploader: TripUploader, count: int) -> list[float]:
    """Seconds of each of `count` calls of `end_trip`."""
    costs = []
    for _ in range(count):
        await uploader.start_trip()
        uploader.update_trip(100.0, 15.0, 0.3)
        began = time.perf_counter()
        await uploader.end_trip()
        costs.append(time.perf_counter() - began)
    return costs


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        return [*await _against_sqlite(Path(folder)), await _against_itself(Path(folder))]


async def _against_sqlite(folder: Path) -> list[Figure]:
    connection = connect(folder / "bare.db")
    migrate(connection)
    alone, bare_alone, together, bare_together = [], [], [], []
    async with Store(folder / "ours") as store:
        for number in range(ROUNDS):
            bare_alone.append(bare(connection, items(f"a{number}", ALONE), 1) / ALONE)
            alone.append(await ours(store, items(f"a{number}", ALONE), 1) / ALONE)
            count = CALLERS * EACH
            bare_together.append(count / bare(connection, items(f"t{number}", count), CALLERS))
            together.append(count / await ours(store, items(f"t{number}", count), CALLERS))
    connection.close()
    return [
        Figure(
            "one caller alone waits, against a bare commit",
            median(a / b for a, b in zip(alone, bare_alone, strict=True)),
            "×",
            2.0,
            at_least=False,
            how=f"ours {spread(alone, 1e6)} µs, bare {spread(bare_alone, 1e6)} µs",
        ),
        Figure(
            f"{CALLERS} callers at once, rate against bare groups of {CALLERS}",
            median(a / b for a, b in zip(together, bare_together, strict=True)),
            "×",
            0.5,
            at_least=True,
            how=f"ours {spread(together)}/s, bare {spread(bare_together)}/s",
        ),
    ]


async def _against_itself(folder: Path) -> Figure:
    settings = trip_settings(folder / "trips", "http://127.0.0.1:1")
    async with (
        Store(folder / "trips") as store,
        Store(folder / "empty") as empty,
        CloudAPIClient(settings=settings) as client,
    ):
        full = TripUploader(client, foundation=Foundation.of(client, store, supervised=True))
        none = TripUploader(client, foundation=Foundation.of(client, empty, supervised=True))
        work = items("queued", QUEUED)
        for start in range(0, QUEUED, 10_000):
            await store.outbox.put_all(work[start : start + 10_000])
        costs, costs_empty = [], []
        for _ in range(ROUNDS):
            costs_empty.append(median(await end_trips(none, ALONE)))
            costs.append(median(await end_trips(full, ALONE)))
    return Figure(
        f"end_trip() with {QUEUED:,} trips queued, against none",
        median(a / b for a, b in zip(costs, costs_empty, strict=True)),
        "×",
        1.2,
        at_least=False,
        how=f"{spread(costs, 1e6)} µs, with none {spread(costs_empty, 1e6)} µs",
    )
