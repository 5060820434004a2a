"""Puts trips on disk: the one under way as a checkpoint, the closed ones into the outbox."""

import logging

from pydantic import TypeAdapter

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from sentinel_sync.trips.rules.trip import OpenTrip

logger = logging.getLogger(__name__)

#: Where the checkpoint lies.
OPEN_TRIP = ("open_trip", "")
_SHAPE = TypeAdapter(OpenTrip)


class TripLog:
    """The trips of one vehicle, as a power cut leaves them.

    What is asked for takes effect in the order in which it was asked for, also where the caller is cancelled.

    Args:
        store: The open store.
        kind: Of closed trips in the outbox.
        recoverable: False where no checkpoint is to be written, and none that lies there touched.
    """

    def __init__(self, store: Store, kind: str, *, recoverable: bool) -> None:
        self._store = store
        self._kind = kind
        self._recoverable = recoverable

    async def checkpoint(self, trip: OpenTrip) -> None:
        """Write the trip under way."""
        if self._recoverable:
            await self._store.documents.save(*OPEN_TRIP, trip, _SHAPE)

    async def forget(self) -> None:
        """Delete the checkpoint of a trip that has not begun."""
        if self._recoverable:
            await self._store.documents.delete(*OPEN_TRIP)

    async def close(self, trip: OpenTrip, summary: TripSummary) -> None:
        """Queue a closed trip and delete its checkpoint, in one transaction.

        Raises:
            StoreFullError: The disk is full; the checkpoint stays.
        """
        await self._put(trip, summary, from_headroom=False)

    async def recover(self) -> None:
        """Close the trip that was open when the power went: it is what its last checkpoint says."""
        if not self._recoverable:
            return
        trip = await self._store.documents.load(*OPEN_TRIP, _SHAPE)
        if trip is None:
            return
        try:
            summary = trip.summary(interrupted=True)
        except (ValueError, OverflowError) as error:
            logger.error("trip.unreadable: the checkpoint of %s is no trip (%s)", trip.trip_id, type(error).__name__)
            await self._store.documents.set_aside(*OPEN_TRIP)
            return
        # A full disk must not keep the agent from starting, and the next trip would overwrite the checkpoint.
        await self._put(trip, summary, from_headroom=True)
        logger.warning(
            "trip.interrupted: %s closed as of its last checkpoint, after %.0f s", trip.trip_id, summary.duration
        )

    async def _put(self, trip: OpenTrip, summary: TripSummary, *, from_headroom: bool) -> None:
        body = summary.model_dump_json().encode()
        item = NewItem(self._kind, trip.trip_id, body, stamp=trip.closing_stamp())
        instead_of = OPEN_TRIP if self._recoverable else None
        await self._store.outbox.put(item, instead_of=instead_of, from_headroom=from_headroom)
