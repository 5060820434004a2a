"""Several trips in one request: the extension `trips-batch` of the wire contract."""

import asyncio
import gzip
import hashlib
import logging
from collections.abc import Callable, Iterator, Sequence
from http import HTTPMethod, HTTPStatus

from pydantic import ValidationError

from sentinel_sync.base.errors import CloudError, UnacknowledgedError
from sentinel_sync.base.payloads import TripBatchReceipt
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient, Response
from sentinel_sync.cloud.request import Request
from sentinel_sync.store.outbox import OutboxItem
from sentinel_sync.store.sender import BatchOutcome

logger: logging.Logger = logging.getLogger(__name__)

EXTENSION = "trips-batch"
#: The contract's bounds of one batch: trips, and bytes before compression.
MOST_TRIPS = 500
MOST_BYTES = 1 << 20
#: A backend that finds so few trips too large means one of them, and that is not to be remembered of all.
_LEAST_REMEMBERED = 8
#: So many trips are made ready in one turn of the loop.
_TURN = 25
_FRAME = (b'{"trips":[', b"]}")
#: Of a batch of 500 as vehicles make them level 4 leaves 137 bytes a trip in 6 ms (6: 127 in 9 ms; 9: 122 in 15 ms).
_GZIP_LEVEL = 4
#: The whole is at fault, or one in it: the halves tell.
_HALVED = frozenset(
    {HTTPStatus.BAD_REQUEST, HTTPStatus.REQUEST_ENTITY_TOO_LARGE, HTTPStatus.UNPROCESSABLE_ENTITY}
)  # fmt: skip
_ABOUT_ALL = frozenset({401, 403, 408, 409, 425, 429})
#: The backend takes no batches (any more): what it would say of each trip, it says of the trip alone.
_GONE = frozenset({*range(400, 500), HTTPStatus.NOT_IMPLEMENTED}) - _HALVED - _ABOUT_ALL


class TripBatches:
    """Sends trips together where the backend offers that.

    Args:
        client: The backend.
        body_of: Gives a trip as it goes.
    """

    def __init__(self, client: CloudAPIClient, body_of: Callable[[OutboxItem], bytes]) -> None:
        self._client = client
        self._body_of = body_of
        self._most = MOST_TRIPS

    @property
    def size(self) -> int:
        """So many trips may go in one batch now; 0 where the backend takes none."""
        return self._most if self._client.offers(EXTENSION) else 0

    async def send(self, items: Sequence[OutboxItem]) -> BatchOutcome:
        """Send trips together; never raises for what the network does."""
        outcome = BatchOutcome()
        trips: list[tuple[OutboxItem, bytes]] = []
        for number, item in enumerate(items, 1):
            if number % _TURN == 0:
                await asyncio.sleep(0)  # a trip whose times are put right goes through pydantic twice
            try:
                trips.append((item, self._body_of(item)))
            except ValueError:  # not as it was stored: by itself it is set aside for that
                outcome.left.append(item)
        for batch in self._cut(trips):
            await self._send(batch, outcome)
        return outcome

    def _cut(self, trips: Sequence[tuple[OutboxItem, bytes]]) -> Iterator[list[tuple[OutboxItem, bytes]]]:
        batch: list[tuple[OutboxItem, bytes]] = []
        size_bytes = empty = sum(map(len, _FRAME))
        for trip in trips:
            if batch and (len(batch) == self._most or size_bytes + len(trip[1]) + 1 > MOST_BYTES):
                yield batch
                batch, size_bytes = [], empty
            batch.append(trip)
            size_bytes += len(trip[1]) + 1
        if batch:
            yield batch

    async def _send(self, batch: Sequence[tuple[OutboxItem, bytes]], outcome: BatchOutcome) -> None:
        items = [item for item, _ in batch]
        if len(batch) == 1 or not self._client.offers(EXTENSION):
            outcome.left.extend(items)
            return
        asked = Request.of(
            HTTPMethod.POST,
            "/trips/batch",
            content=await run_to_end(_packed, [body for _, body in batch]),
            headers={"Content-Encoding": "gzip"},
            idempotency_key=hashlib.sha256("\n".join(item.key for item in items).encode()).hexdigest(),
            takes=_HALVED | _GONE,
        )
        try:
            reply = await self._client.ask(asked)
        except CloudError as error:
            outcome.failed.extend((item, error) for item in items)
            return
        if reply.status in _GONE:
            logger.warning("trips.batch: answered %d: trips go one by one", reply.status)
            self._client.withdraw(EXTENSION)
            outcome.left.extend(items)
        elif reply.status in _HALVED:
            half = len(batch) // 2
            if reply.status == HTTPStatus.REQUEST_ENTITY_TOO_LARGE:
                self._most = min(self._most, max(half, _LEAST_REMEMBERED))
            await self._send(batch[:half], outcome)
            await self._send(batch[half:], outcome)
        else:
            self._read(asked, reply, items, outcome)

    def _read(self, asked: Request, reply: Response, items: Sequence[OutboxItem], outcome: BatchOutcome) -> None:
        results = _results(reply)
        if not any(item.key in results for item in items):
            # As unknown as the contract says of each of them. One by one there is an answer to be had, also where the
            # backend says only that it has seen this batch (409).
            logger.warning("trips.batch: answered %d without a word of any trip: they go one by one", reply.status)
            self._client.withdraw(EXTENSION)
        for item in items:
            result = results.get(item.key)
            if result is None:
                why = f"{asked.what}: answered {reply.status}, and says nothing of this trip"
                unknown = UnacknowledgedError(why, status=reply.status, request_id=reply.request_id)
                outcome.failed.append((item, unknown))
            elif (error := self._client.item_error(asked, reply, *result)) is None:
                outcome.taken.append(item)
            else:
                outcome.failed.append((item, error))


def _packed(bodies: Sequence[bytes]) -> bytes:
    begin, end = _FRAME
    return gzip.compress(begin + b",".join(bodies) + end, _GZIP_LEVEL, mtime=0)


def _results(reply: Response) -> dict[str, tuple[int, str | None]]:
    """Status and detail by trip. One that is told of twice, and differently, is not told of."""
    try:
        receipt = TripBatchReceipt.model_validate(reply.data)
    except ValidationError:
        return {}
    found: dict[str, tuple[int, str | None]] = {}
    ambiguous: set[str] = set()
    for result in receipt.read():
        before = found.setdefault(result.trip_id, (result.status, result.detail))
        if before[0] != result.status:
            ambiguous.add(result.trip_id)
    return {trip_id: result for trip_id, result in found.items() if trip_id not in ambiguous}
