"""The demo's vehicle: software that embeds the agent, as a vehicle's own does, in a process of its own.

`python -m sentinel_sync.demo.vehicle CONFIG` takes orders as JSON lines on standard input, tells what happens as JSON
lines on standard output, and ends when its orders do. An order is `{"drive": number in city.DAY, "start": seconds since
the epoch}`. A drive of many minutes is driven in well under a second, on a clock that shows the drive's own time.
"""

import asyncio
import json
import logging
import sys
from collections.abc import AsyncIterator
from typing import ClassVar

from pydantic import BaseModel, ConfigDict, ValidationError

from sentinel_sync.agent import SyncAgent
from sentinel_sync.demo.city import DAY, moments
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.store.timekeeper import Timekeeper
from sentinel_sync.trips.drive_file import RecordedClock
from sentinel_sync.trips.trip_uploader import TripUploader

#: Seconds of driving between two checkpoints, and what one such stretch takes here, at least, seconds.
STRETCH, STRETCH_TAKES = 30, 0.02


class Order(BaseModel):
    """One drive to be driven."""

    model_config: ClassVar[ConfigDict] = ConfigDict(frozen=True, extra="forbid")

    drive: int
    start: float


async def serve_orders(config: str) -> None:
    """Run the agent and drive as ordered."""
    async with SyncAgent.from_config(config) as agent:
        waiting = (await agent.store.outbox.counts()).unsent
        _tell("ready", waiting=waiting, process_id=(await agent.status()).process_id)
        async for line in _lines():
            try:
                order = Order.model_validate_json(line)
            except ValidationError as error:
                _tell("refused", errors=error.error_count())
                continue
            await drive(agent, order)


async def drive(agent: SyncAgent, order: Order) -> None:
    """Record one drive as a trip; tells when it begins, each stretch once it is on disk, and the end."""
    journey = DAY[order.drive]
    clock = RecordedClock(order.start)
    recorder = TripUploader(
        agent.client,
        foundation=Foundation.of(
            agent.client, agent.store, timekeeper=Timekeeper(agent.store.documents, clock), clock=clock, supervised=True
        ),
    )
    trip_id = await recorder.start_trip(journey.driver, (journey.origin.lat, journey.origin.lon))
    _tell("started", drive=order.drive, trip_id=trip_id)
    driven = 0.0
    for moment in moments(journey):
        clock.show(moment.elapsed)
        driven += moment.distance
        recorder.update_trip(
            distance_delta=moment.distance,
            speed=moment.speed,
            risk_score=moment.risk,
            alert_urgency=moment.alert,
            location=(moment.lat, moment.lon),
        )
        if moment.elapsed % STRETCH == 0:
            await recorder.checkpoint_step()
            _tell("stretch", trip_id=trip_id, distance=driven, progress=moment.progress)
            await asyncio.sleep(STRETCH_TAKES)
    trip = await recorder.end_trip((journey.destination.lat, journey.destination.lon))
    if trip is not None:
        agent.trips.upload.wake.set()
        _tell("ended", trip=trip.model_dump(mode="json"), waiting=(await agent.store.outbox.counts()).unsent)


def _tell(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


async def _lines() -> AsyncIterator[bytes]:
    reader = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(reader), sys.stdin)
    async for line in reader:
        yield line


if __name__ == "__main__":
    logging.basicConfig(level=logging.INFO, format="%(asctime)s %(levelname)-7s %(message)s")
    logging.getLogger("httpx").setLevel(logging.WARNING)
    asyncio.run(serve_orders(sys.argv[1]))
