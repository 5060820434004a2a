"""Resumable uploads: tus 1.0.0 over the client, as `rules/tus.py` reads it."""

import asyncio
import logging
from http import HTTPMethod
from typing import Protocol, Self
from urllib.parse import urlsplit
from uuid import UUID, uuid5

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import CutError, NotNowError, PreconditionError, RejectedError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.request import Request
from sentinel_sync.cloud.response import ElsewhereError
from sentinel_sync.cloud.rules.tus import (
    ABOUT_THE_UPLOAD,
    HEAD_REFUSED,
    NOT_OFFERED,
    VERSION,
    Arrived,
    AskAgainLater,
    AskOffset,
    Create,
    Damaged,
    GiveUp,
    PatchSize,
    SendFrom,
    TooLarge,
    TusOffer,
    TusState,
    WaitForLock,
    creation_headers,
    offer_of,
    patch_headers,
)
from sentinel_sync.cloud.upload import BandwidthLimit, FileBody, FileUpload, OpenFile

logger: logging.Logger = logging.getLogger(__name__)

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


class PatchCeilings(Protocol):
    """Remembers over restarts how large a piece passes a server, by its host and port ("" is the API's own)."""

    async def patch_ceiling(self, server: str) -> int | None:
        """The largest that may pass, bytes; None where nothing is known."""
        ...

    async def save_patch_ceiling(self, server: str, ceiling_bytes: int) -> None:
        """Remember it."""
        ...


class TusUploads:
    """Sends files so that a cut upload goes on where it stopped.

    Args:
        bandwidth: How fast.
        ceilings: Remembers how large pieces may be; None forgets it with this object.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        bandwidth: BandwidthLimit,
        *,
        clock: Clock,
        ceilings: PatchCeilings | None = None,
    ) -> None:
        self._client = client
        self._bandwidth = bandwidth
        self._clock = clock
        self._offers: dict[str, tuple[float, TusOffer | None]] = {}
        self._ceilings = ceilings
        self._patch_sizes: dict[str, PatchSize] = {}
        self._cut: tuple[str, FileBody] | None = None

    async def offer(self, path: str) -> TusOffer | None:
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

    async def takes_encoding(self, path: str, encoding: str) -> bool | None:
        """Whether resumable uploads of that kind may be packed so; None where there are none."""
        offer = await self.offer(path)
        return None if offer is None else encoding == "gzip" and offer.takes_gzip

    async def send(self, upload: FileUpload) -> bool:
        """Send a file, or what the backend has not got of it; False where it does not take it so, or not as it says.

        Raises:
            CloudError: It has not arrived whole.
            HeldError: It may not be sent any more.
            SentinelSyncError: The file cannot be read.
        """
        offer = await self._offer_for(upload)
        if offer is not None and await self._sent(upload, offer):
            return True
        if upload.resume_address is not None or offer is not None:
            await upload.remember(None)
        return False

    async def _offer_for(self, upload: FileUpload) -> TusOffer | None:
        offer = await self.offer(upload.path)
        return offer if offer is not None and offer.takes(upload.source.size_bytes, upload.encoding) else None

    async def _sent(self, upload: FileUpload, offer: TusOffer) -> bool:
        try:
            await self._send(upload, offer)
        except (UnworkableError, PreconditionError) as error:
            # 412 says that the backend speaks another version than the one that it offered (tus, "Tus-Version").
            logger.warning("scenario.resumable: %s; sent in one request each for a while", error)
            self.do_without(upload.path)
            return False
        except RejectedError:
            # Perhaps the offer is an old one.
            self.forget(upload.path)
            if await self._offer_for(upload) is not None:
                raise
            return False
        return True

    async def _send(self, upload: FileUpload, offer: TusOffer) -> None:
        state = TusState(upload.source.size_bytes, upload.resume_address)
        async with _Checksums(upload.source, offer.algorithm) as checksums:
            while True:
                step = state.next_step()
                if isinstance(step, Create | AskOffset | SendFrom):
                    await upload.may_send()
                match step:
                    case Create(instead_of):
                        if not await self._create(state, upload, instead_of):
                            return
                    case AskOffset():
                        await self._ask(state, upload)
                    case WaitForLock(seconds):
                        await self._clock.sleep(seconds)
                        state.waited()
                    case SendFrom(offset):
                        await self._send_on(state, offset, upload, checksums)
                    case Arrived():
                        return
                    case GiveUp(reason):
                        raise UnworkableError(f"{_SEND}: the backend's resumable uploads lead nowhere: {reason}")

    async def _create(self, state: TusState, upload: FileUpload, instead_of: str | None) -> bool:
        """Create an upload; False where the backend has the part already."""
        headers = creation_headers(upload.source.size_bytes, _metadata(upload))
        # Work of its own, though the same each time: the first key would be answered with the old address again.
        key = upload.key if instead_of is None else str(uuid5(UUID(upload.key), instead_of))
        asked = Request.of(
            HTTPMethod.POST, upload.path, headers=headers, idempotency_key=key, proof=("Location",), bulk=True
        )
        reply = await self._client.ask(asked)
        if reply.status not in _DONE:
            return False
        address = self._client.address_of(upload.path, reply.headers["Location"])
        if address is None:
            raise UnworkableError(
                f"{asked.what}: gave an address that must not be followed", request_id=reply.request_id
            )
        state.created(address)
        if state.address is not None:
            await upload.remember(state.address)
        return True

    async def _ask(self, state: TusState, upload: FileUpload) -> None:
        address = state.address or ""
        headers = {"Tus-Resumable": VERSION}
        asked = Request(
            HTTPMethod.HEAD,
            address,
            _ASK,
            headers=headers,
            takes=ABOUT_THE_UPLOAD | HEAD_REFUSED,
            proof=("Upload-Offset",),
            bulk=True,
        )
        reply = await self._client.ask(asked)
        _end_where_said(state.asked(reply.status, reply.headers), _ASK, reply.request_id)
        match state.next_step():
            case SendFrom(offset):
                upload.confirmed(offset)
            case Arrived():
                offset = upload.source.size_bytes
                upload.confirmed(offset)
            case _:
                offset = 0
        self._learn_from_cut(address, offset)

    async def _send_on(
        self, state: TusState, offset: int, upload: FileUpload, checksums: "_Checksums", *, is_second: bool = False
    ) -> None:
        try:
            await self._send_from(state, offset, upload, checksums)
        except CutError as error:
            if await self._has_arrived(state, offset, upload):
                return
            if is_second or not error.was_reused:
                raise
            # The contract's "reused connection": once more at once, now that the upload's state is known.
            await checksums.forget()
            await self._send_on(state, offset, upload, checksums, is_second=True)

    async def _has_arrived(self, state: TusState, offset: int, upload: FileUpload) -> bool:
        """Whether some of a piece has arrived although it was cut: then this attempt goes on at once."""
        state.cut()
        await upload.may_send()
        await self._ask(state, upload)
        step = state.next_step()
        return not isinstance(step, SendFrom) or step.offset > offset

    async def _send_from(self, state: TusState, offset: int, upload: FileUpload, checksums: "_Checksums") -> None:
        sizes = await self._sizes_for(state.address or "")
        end = checksums.planned_end(offset) or _end_of(offset, upload.source, sizes)
        checksum = await checksums.of(offset, end)
        if end < upload.source.size_bytes:
            checksums.plan(end, _end_of(end, upload.source, sizes))
        body = FileBody(upload.source, offset, end, bandwidth=self._bandwidth, on_progress=upload.on_progress)
        asked = Request(
            HTTPMethod.PATCH,
            state.address or "",
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
            if state.is_new and body.reached == 0:
                # The backend answered just now: it gave an address that is good inside its own walls only.
                raise UnworkableError(f"the address that it gave cannot be reached: {error}") from None
            raise
        self._cut = None
        step = state.patched(end - offset, reply.status, reply.headers)
        if reply.status in _DONE:
            sizes.went_through(end - offset, reply.received - reply.sent)
            if isinstance(arrived := state.next_step(), SendFrom):
                upload.confirmed(arrived.offset)
        if isinstance(step, TooLarge):
            await checksums.forget()
            can_shrink = sizes.was_too_large(end - offset)
            if self._ceilings is not None and sizes.ceiling_bytes is not None:
                await self._ceilings.save_patch_ceiling(_server_of(asked.path), sizes.ceiling_bytes)
            if not can_shrink:
                raise RejectedError(f"{_SEND}: answered 413 to {end - offset} bytes", status=413)
            return
        _end_where_said(step, _SEND, reply.request_id)

    async def _sizes_for(self, address: str) -> PatchSize:
        server = _server_of(address)
        if server not in self._patch_sizes:
            ceiling = None if self._ceilings is None else await self._ceilings.patch_ceiling(server)
            self._patch_sizes[server] = PatchSize(ceiling)
        return self._patch_sizes[server]

    def _learn_from_cut(self, address: str, offset: int) -> None:
        cut, self._cut = self._cut, None
        if cut is not None and cut[0] == address and (sizes := self._patch_sizes.get(_server_of(address))) is not None:
            sizes.was_cut(max(0, cut[1].reached - offset))
            if offset <= cut[1].begin < cut[1].reached:
                sizes.won_nothing(cut[1].size_bytes)

    def _know(self, kind: str, offer: TusOffer | None) -> None:
        lifetime = NO_OFFER_LIFETIME if offer is None else OFFER_LIFETIME
        self._offers[kind] = (self._clock.monotonic() + lifetime, offer)


class _Checksums:
    """Checksums of ranges: that of the next range is computed while the one before is sent."""

    def __init__(self, source: OpenFile, algorithm: str | None) -> None:
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

    async def forget(self) -> None:
        """Ranges will be others than was planned."""
        await self._drop()

    async def _drop(self) -> None:
        ahead, self._ahead, self._planned = self._ahead, None, None
        if ahead is not None:
            ahead.cancel()
            await asyncio.gather(ahead, return_exceptions=True)


def _server_of(address: str) -> str:
    return urlsplit(address).netloc


def _end_of(offset: int, source: OpenFile, sizes: PatchSize) -> int:
    return min(source.size_bytes, offset + sizes.next_bytes())


def _end_where_said(step: AskAgainLater | Damaged | TooLarge | None, what: str, request_id: str) -> None:
    match step:
        case AskAgainLater(reason):
            raise NotNowError(f"{what}: {reason}", request_id=request_id)
        case Damaged(reason):
            raise RejectedError(f"{what}: {reason}", request_id=request_id)


def _metadata(upload: FileUpload) -> dict[str, str]:
    """`Upload-Metadata` of a file; packed, its type is that of the packing."""
    filetype = upload.content_type if upload.encoding is None else f"application/{upload.encoding}"
    return {"filename": upload.name, "filetype": filetype, "sha256": upload.sha256}
