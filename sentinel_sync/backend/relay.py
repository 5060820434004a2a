"""The outbox relay: takes events from the backend's own database to a stream, at least once, in a vehicle's order.

An event is written in the transaction that stores what it tells of, so there is one exactly where there is the other
("transactional outbox"). It is deleted after the stream has acknowledged it: a relay that is killed in between sends
it again, with the same id, by which the stream or its readers drop it.
"""

import asyncio
import json
import logging
import secrets
import time
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any, Protocol

from sentinel_sync.backend.database import Connection, Database, DatabaseUnavailableError

BATCH = 200
IDLE_INTERVAL = 1.0
"""Seconds between looks at an outbox that is empty."""
LEASE = 30.0
"""Seconds for which one relay has the outbox to itself; it is renewed with each batch."""

logger = logging.getLogger(__name__)


class StreamUnavailableError(Exception):
    """The stream cannot be reached, or did not take an event: it is sent again."""


@dataclass(frozen=True, slots=True)
class Event:
    """Something that happened, once."""

    id: int
    """Grows in the order of a vehicle's events."""
    fleet_id: str
    vehicle_id: str
    kind: str
    """`trip`, `scenario`, `part` or `report`."""
    body: str
    """JSON."""
    recorded_at: float
    """Seconds since the epoch."""

    def message(self) -> bytes:
        """What readers of the stream get, as JSON."""
        facts = {
            "id": self.id,
            "fleet_id": self.fleet_id,
            "vehicle_id": self.vehicle_id,
            "kind": self.kind,
            "recorded_at": self.recorded_at,
            "body": json.loads(self.body),
        }
        return json.dumps(facts, ensure_ascii=False, separators=(",", ":")).encode()


class Stream(Protocol):
    """Where events go: NATS JetStream (`jetstream.py`), or whatever keeps the order of one vehicle's messages.

    For Kafka, `publish` is `producer.send_and_wait(topic, event.message(), key=f"{fleet}/{vehicle}")` of a producer
    with `enable.idempotence`: the key puts a vehicle's events into one partition, in order.
    """

    async def publish(self, event: Event) -> None:
        """Returns once the event is durable there.

        Raises:
            StreamUnavailableError: It may not be.
        """


class Relay:
    """Moves events until it is cancelled. Several may run: one works, the others wait for its lease to end."""

    def __init__(self, database: Database, stream: Stream, *, clock: Callable[[], float] = time.time) -> None:
        self._database = database
        self._stream = stream
        self._clock = clock
        self._name = secrets.token_hex(8)

    async def run(self) -> None:
        """Goes on through outages of the database and of the stream."""
        while True:
            try:
                moved = await self.move()
            except (DatabaseUnavailableError, StreamUnavailableError) as error:
                logger.warning("events wait: %s", error)
                moved = 0
            if not moved:
                await asyncio.sleep(IDLE_INTERVAL)

    async def move(self) -> int:
        """Moves the next batch; how many events that were.

        Raises:
            DatabaseUnavailableError: They stay, or come again.
            StreamUnavailableError: The same.
        """
        events = await self._database.write(self._take)
        moved: list[tuple[int]] = []
        try:
            async with asyncio.timeout(LEASE / 2):
                for event in events:
                    await self._stream.publish(event)
                    moved.append((event.id,))
        except TimeoutError:
            logger.info("the stream is slow: %d of %d events were moved in time", len(moved), len(events))
        finally:
            if moved:
                await self._database.write(
                    lambda connection: connection.executemany("DELETE FROM events WHERE id = ?", moved)
                )
        return len(moved)

    def _take(self, connection: Connection) -> list[Event]:
        now = self._clock()
        lease = connection.execute(
            "INSERT INTO leases (name, holder, ends_at) VALUES ('relay', ?, ?) ON CONFLICT (name) DO UPDATE"
            " SET holder = excluded.holder, ends_at = excluded.ends_at"
            " WHERE leases.holder = excluded.holder OR leases.ends_at < ?",
            (self._name, now + LEASE, now),
        )
        if not lease.rowcount:
            return []
        rows: list[Any] = connection.execute("SELECT * FROM events ORDER BY id LIMIT ?", (BATCH,)).fetchall()
        return [Event(*row) for row in rows]
