"""What a reading costs at sensor rate: time of one `update_trip()`, and whether memory grows."""

import gc
import tempfile
import time
import tracemalloc
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, spread
from benchmarks.work import trip_settings
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.store import Store
from sentinel_sync.trips.trip_uploader import TripUploader

ROUNDS = 5
CALLS = 200_000


def update(uploader: TripUploader, calls: int) -> None:
    for _ in range(calls):
        uploader.update_trip(distance_delta=0.5, speed=15.0, risk_score=0.3, alert_urgency="warning")


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory() as folder:
        settings = trip_settings(Path(folder), "http://127.0.0.1:1")
        async with Store(Path(folder)) as store, CloudAPIClient(settings=settings) as client:
            uploader = TripUploader(client, foundation=Foundation.of(client, store, supervised=True))
            await uploader.start_trip()
            costs = []
            for _ in range(ROUNDS):
                began = time.perf_counter()
                update(uploader, CALLS)
                costs.append((time.perf_counter() - began) / CALLS)
            grown = _growth(uploader)
            await uploader.end_trip()
    return [
        Figure("update_trip(), mean", median(costs) * 1e6, "µs", 3.0, at_least=False, how=f"{spread(costs, 1e6)} µs"),
        Figure(
            f"memory that {CALLS:,} update_trip() leave behind",
            grown,
            "bytes",
            4096,
            at_least=False,
            how="tracemalloc, the measuring itself included",
        ),
    ]


def _growth(uploader: TripUploader) -> int:
    update(uploader, 1000)
    gc.collect()
    tracemalloc.start()
    before, _ = tracemalloc.get_traced_memory()
    update(uploader, CALLS)
    gc.collect()
    after, _ = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    return after - before
