"""Resumable uploads over the client: tus 1.0.0, as `cloud/rules/tus.py` reads it."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Mapping
from dataclasses import dataclass
from http import HTTPMethod
from typing import Self
from uuid import UUID, uuid5

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import NotNowError, RejectedError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.request import Request
from sentinel_sync.cloud.response import ElsewhereError
from sentinel_sync.cloud.rules.tus import (
    ABOUT_THE_UPLOAD,
    NOT_OFFERED,
    VERSION,
    Arrived,
    AskOffset,
    ComeBack,
    Create,
    Damaged,
    GiveUp,
    Offer,
    PatchSize,
    SendFrom,
    Upload,
    creation_headers,
    offer_of,
    patch_headers,
)
from sentinel_sync.scenarios.bandwidth import BandwidthLimit
from sentinel_sync.scenarios.bodies import FileBody
from sentinel_sync.scenarios.part_file import OpenPart

logger = logging.getLogger(__name__)

#: An answer to OPTIONS holds for so many seconds: a backend that learns or forgets resumable uploads is a rare event.
OFFER_LIFETIME = 3600.0
#: That there is none is asked sooner: it may have been somebody else who said so.
NO_OFFER_LIFETIME = 600.0

_DONE = frozenset(range(200, 300))
#: An upload's address may hold a token, so errors and logs do not have it.
_ASK = "HEAD an upload"
_SEND = "PATCH an upload"


class UnworkableError(RejectedError):
    """The backend offers resumable uploads, but does not do what it offers."""


@dataclass(frozen=True, slots=True)
class Sending:
    """What is to be sent.

    Attributes:
        path: Where parts of its kind go, below `api_url`.
        key: `Idempotency-Key` of its creation; a UUID.
        source: The file.
        metadata: For `Upload-Metadata`.
        address: Of an upload that was begun before, or None.
        ask: Asked before each request: raises HeldError where nothing may be sent any more.
        remember: Keeps the address, or None for "there is none"; awaited before the first byte goes there.
        on_progress: Told how many bytes have arrived or were handed over.
    """

    path: str
    key: str
    source: OpenPart
    metadata: Mapping[str, str]
    address: str | None
    ask: Callable[[], Awaitable[object]]
    remember: Callable[[str | None], Awaitable[None]]
    on_progress: Callable[[int], None]


class ResumableUploads:
    """Sends files so that a cut upload goes on where it stopped.

    Args:
        client: The backend.
        pace: How fast.
        clock: The seam for time.
    """

    def __init__(self, client: CloudAPIClient, pace: BandwidthLimit, *, clock: Clock) -> None:
        self._client = client
        self._pace = pace
        self._clock = clock
        self._offers: dict[str, tuple[float, Offer | None]] = {}
        self._patch_size = PatchSize()
        self._cut: tuple[str, FileBody] | None = None

    async def offer(self, path: str) -> Offer | None:
        """What the backend offers for parts that go to `path`; None where it has no resumable uploads.

        Raises:
            CloudError: It does not say now.
        """
        kind = path.rpartition("/")[2]
        until, known = self._offers.get(kind, (float("-inf"), None))
        if self._clock.monotonic() < until:
            return known
        asked = Request.of(HTTPMethod.OPTIONS, path, takes=_DONE | NOT_OFFERED, proof=())
        reply = await self._client.ask(asked)
        offer = offer_of(reply.status, reply.headers)
        self._know(kind, offer)
        return offer

    def forget(self, path: str) -> None:
        """Ask again next time."""
        self._offers.pop(path.rpartition("/")[2], None)

    def do_without(self, path: str) -> None:
        """Take it for a while that there is no such offer."""
        self._know(path.rpartition("/")[2], None)

    async def send(self, sending: Sending, offer: Offer) -> None:
        """Send a file, or what the backend has not got of it; returns once it has arrived.

        Raises:
            UnworkableError: The backend does not do what it offers.
            CloudError: It has not arrived whole.
            HeldError: It may not be sent any more.
            ScenarioError: The file is not what was queued.
        """
        upload = Upload(sending.source.size_bytes, sending.address)
        async with _Checksums(sending.source, offer.algorithm) as checksums:
            while True:
                step = upload.next_step()
                if isinstance(step, Create | AskOffset | SendFrom):
                    await sending.ask()
                match step:
                    case Create(instead_of):
                        if not await self._create(upload, sending, instead_of):
                            return
                    case AskOffset():
                        await self._ask(upload, sending)
                    case SendFrom(offset):
                        await self._send_from(upload, offset, sending, checksums)
                    case Arrived():
                        return
                    case GiveUp(reason):
                        raise UnworkableError(f"{_SEND}: the backend's resumable uploads lead nowhere: {reason}")

    async def _create(self, upload: Upload, sending: Sending, instead_of: str | None) -> bool:
        """Create an upload; False where the backend has the part already."""
        headers = creation_headers(sending.source.size_bytes, sending.metadata)
        # Work of its own, though the same each time: the first key would be answered with the old address again.
        key = sending.key if instead_of is None else str(uuid5(UUID(sending.key), instead_of))
        asked = Request.of(
            HTTPMethod.POST, sending.path, headers=headers, idempotency_key=key, proof=("Location",), bulk=True
        )
        reply = await self._client.ask(asked)
        if reply.status not in _DONE:
            return False
        address = self._client.address_of(sending.path, reply.headers["Location"])
        if address is None:
            raise UnworkableError(
                f"{asked.what}: gave an address that must not be followed", request_id=reply.request_id
            )
        upload.created(address)
        if upload.address is not None:
            await sending.remember(upload.address)
        return True

    async def _ask(self, upload: Upload, sending: Sending) -> None:
        address = upload.address or ""
        headers = {"Tus-Resumable": VERSION}
        asked = Request(
            HTTPMethod.HEAD,
            address,
            _ASK,
            headers=headers,
            takes=ABOUT_THE_UPLOAD,
            proof=("Upload-Offset",),
            bulk=True,
        )
        reply = await self._client.ask(asked)
        _end_where_said(upload.asked(reply.status, reply.headers), _ASK, reply.request_id)
        match upload.next_step():
            case SendFrom(offset):
                sending.on_progress(offset)
            case Arrived():
                offset = sending.source.size_bytes
                sending.on_progress(offset)
            case _:
                offset = 0
        self._learn_from_cut(address, offset)

    async def _send_from(self, upload: Upload, offset: int, sending: Sending, checksums: "_Checksums") -> None:
        end = checksums.planned_end(offset) or self._end_of(offset, sending.source)
        checksum = await checksums.of(offset, end)
        if end < sending.source.size_bytes:
            checksums.plan(end, self._end_of(end, sending.source))
        body = FileBody(sending.source, offset, end, pace=self._pace, on_progress=sending.on_progress)
        asked = Request(
            HTTPMethod.PATCH,
            upload.address or "",
            _SEND,
            body,
            headers=patch_headers(offset, end - offset, checksum),
            takes=ABOUT_THE_UPLOAD,
            proof=("Upload-Offset",),
            bulk=True,
        )
        self._cut = (asked.path, body)
        try:
            reply = await self._client.ask(asked)
        except ElsewhereError as error:
            if upload.is_new and body.reached == 0:
                # The backend answered just now: it gave an address that is good inside its own walls only.
                raise UnworkableError(f"the address that it gave cannot be reached: {error}") from None
            raise
        self._cut = None
        if reply.status in _DONE:
            self._patch_size.went_through(end - offset, reply.received - reply.sent)
        _end_where_said(upload.patched(end - offset, reply.status, reply.headers), _SEND, reply.request_id)

    def _end_of(self, offset: int, source: OpenPart) -> int:
        return min(source.size_bytes, offset + self._patch_size.next_bytes())

    def _learn_from_cut(self, address: str, offset: int) -> None:
        cut, self._cut = self._cut, None
        if cut is not None and cut[0] == address:
            self._patch_size.was_cut(max(0, cut[1].reached - offset))

    def _know(self, kind: str, offer: Offer | None) -> None:
        lifetime = NO_OFFER_LIFETIME if offer is None else OFFER_LIFETIME
        self._offers[kind] = (self._clock.monotonic() + lifetime, offer)


class _Checksums:
    """Checksums of ranges: that of the next range is computed while the one before is sent."""

    def __init__(self, source: OpenPart, algorithm: str | None) -> None:
        self._source = source
        self._algorithm = algorithm
        self._planned: tuple[int, int] | None = None
        self._ahead: asyncio.Task[bytes] | None = None

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(self, *_: object) -> None:
        await self._drop()

    def plan(self, begin: int, end: int) -> None:
        """Begin with the next range, where there is anything to compute."""
        if self._algorithm is None:
            return
        self._planned = (begin, end)
        self._ahead = asyncio.create_task(self._source.digest(self._algorithm, begin, end), name="sync.checksum")

    def planned_end(self, begin: int) -> int | None:
        """Where the range that was planned from `begin` ends; None where there is none."""
        return self._planned[1] if self._planned is not None and self._planned[0] == begin else None

    async def of(self, begin: int, end: int) -> tuple[str, bytes] | None:
        """The algorithm and the checksum of a range; None where none is wanted."""
        if self._algorithm is None:
            return None
        if self._planned == (begin, end) and self._ahead is not None:
            digest = await asyncio.shield(self._ahead)
        else:
            await self._drop()
            digest = await self._source.digest(self._algorithm, begin, end)
        await self._drop()
        return self._algorithm, digest

    async def _drop(self) -> None:
        ahead, self._ahead, self._planned = self._ahead, None, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def _end_where_said(step: ComeBack | Damaged | None, what: str, request_id: str) -> None:
    match step:
        case ComeBack(reason):
            raise NotNowError(f"{what}: {reason}", request_id=request_id)
        case Damaged(reason):
            raise RejectedError(f"{what}: {reason}", request_id=request_id)
