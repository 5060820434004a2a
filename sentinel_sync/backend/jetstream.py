"""Events on NATS JetStream: a subject for each vehicle and kind, deduplicated by the event's id."""

import asyncio
import logging
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from urllib.parse import quote

import nats
from nats.errors import Error as NatsError
from nats.js import JetStreamContext
from nats.js.api import StreamConfig
from nats.js.errors import APIError

from sentinel_sync.backend.relay import Event, StreamUnavailableError

STREAM = "SENTINEL"
SUBJECTS = "sentinel.events.>"
CONNECTED_WITHIN = 10.0
ACKNOWLEDGED_WITHIN = 5.0
"""Seconds for the stream to say that it has an event."""
DEDUPLICATED_WITHIN = 600.0
"""Seconds in which an event that comes again is dropped: longer than a relay takes to be started anew."""

logger = logging.getLogger(__name__)


async def _log_in_one_line(error: Exception) -> None:
    logger.warning("NATS: %s", error or type(error).__name__)


class JetStream:
    """A stream that exists."""

    def __init__(self, context: JetStreamContext) -> None:
        self._context = context

    async def publish(self, event: Event) -> None:
        """Returns once JetStream has stored it; see `Stream.publish`.

        Raises:
            StreamUnavailableError: It may not have.
        """
        try:
            await self._context.publish(
                subject_of(event),
                event.message(),
                timeout=ACKNOWLEDGED_WITHIN,
                headers={"Nats-Msg-Id": str(event.id)},
            )
        except (NatsError, OSError) as error:
            raise StreamUnavailableError(
                f"NATS did not take event {event.id}: {error or type(error).__name__}"
            ) from error


def subject_of(event: Event) -> str:
    """The subject of an event: ids are percent-encoded, as dots, stars and spaces have a meaning there."""
    words = (event.fleet_id, event.vehicle_id, event.kind)
    return "sentinel.events." + ".".join(quote(word, safe="").replace(".", "%2E") for word in words)


@asynccontextmanager
async def jetstream(url: str, *, patience: float = CONNECTED_WITHIN) -> AsyncIterator[JetStream]:
    """The stream at a NATS server, made where it is not there yet. A connection that breaks is made again.

    Args:
        url: `nats://…` or `tls://…`
        patience: Seconds until the first connection must be made.

    Raises:
        StreamUnavailableError: It cannot be reached, or has no JetStream.
    """
    try:
        async with asyncio.timeout(patience):
            client = await nats.connect(
                url, name="sentinel_sync relay", max_reconnect_attempts=-1, error_cb=_log_in_one_line
            )
    except (NatsError, OSError) as error:  # of which a time-out is one
        raise StreamUnavailableError(f"NATS at {url} cannot be reached: {error or type(error).__name__}") from error
    try:
        context = client.jetstream()
        config = StreamConfig(name=STREAM, subjects=[SUBJECTS], duplicate_window=DEDUPLICATED_WITHIN)
        try:
            await context.add_stream(config)
        except (APIError, NatsError) as error:
            raise StreamUnavailableError(f"no stream {STREAM} can be made at {url}: {error}") from error
        yield JetStream(context)
    finally:
        await client.close()
