"""Direct uploads: files go to addresses that the backend has signed, on an object store perhaps (wire contract)."""

import asyncio
import logging
import math
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass, field
from functools import partial
from http import HTTPMethod, HTTPStatus
from ipaddress import ip_address
from urllib.parse import urlsplit

from pydantic import JsonValue, ValidationError

from sentinel_sync.base.clock import rfc3339
from sentinel_sync.base.errors import NotNowError, SentinelSyncError
from sentinel_sync.base.payloads import DirectUploadComplete, DirectUploadPart, DirectUploadTarget, UploadTargets
from sentinel_sync.cloud.client import CloudAPIClient, Response
from sentinel_sync.cloud.request import Request
from sentinel_sync.cloud.rules.answers import Meaning, meaning_of
from sentinel_sync.cloud.upload import DIRECTLY, BandwidthLimit, FileBody, FileUpload

logger: logging.Logger = logging.getLogger(__name__)

EXTENSION = "direct-uploads"
#: An address is not begun with that expires within so many seconds.
_MARGIN = 5.0
#: Addresses of so many scenarios are remembered.
_KNOWN_SCENARIOS = 8
_ATTEMPTS = 3
#: The address does not hold any more, by its time or its signature: a fresh one does.
_STALE = frozenset({HTTPStatus.FORBIDDEN, HTTPStatus.GONE, HTTPStatus.UNAUTHORIZED})
_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})
_CLIENT_ERRORS = frozenset(status for status in range(400, 500) if status not in {408, 425, 429})
#: What came does not add up to the file: it goes another way, whole.
_NOT_COMPLETED = _GONE | (_CLIENT_ERRORS - {HTTPStatus.UNAUTHORIZED, HTTPStatus.FORBIDDEN, HTTPStatus.CONFLICT})
_WHAT = "PUT to a direct address"


class _StaleError(Exception):
    """An address has expired."""


class _UntakenError(Exception):
    """The store does not take the file so."""


@dataclass(slots=True)
class _Progress:
    """How far the parts of one upload are.

    Attributes:
        done: ETag of each part that is there, by its number.
        reached: Bytes of each part that were handed to the network.
    """

    done: dict[int, str] = field(default_factory=dict)
    reached: dict[int, int] = field(default_factory=dict)


class DirectUploads:
    """Sends files to addresses that take them without the credential, several parts side by side.

    Args:
        bandwidth: How fast, all parts together.
        parts_at_once: So many parts are sent side by side (`max_parallel_parts`).
        now: Wall time, seconds since the epoch.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        bandwidth: BandwidthLimit,
        *,
        parts_at_once: int,
        now: Callable[[], float],
    ) -> None:
        self._client = client
        self._bandwidth = bandwidth
        self._parts_at_once = parts_at_once
        self._now = now
        self._known: OrderedDict[str, UploadTargets] = OrderedDict()

    def note(self, scenario_path: str, uploads: Mapping[str, JsonValue]) -> None:
        """Keep the addresses that came with the answer to an announcement; `scenario_path` as in "/scenarios/{id}"."""
        self._keep(scenario_path, UploadTargets(uploads=dict(uploads)))

    def _keep(self, scenario_path: str, targets: UploadTargets) -> None:
        self._known[scenario_path] = targets
        while len(self._known) > _KNOWN_SCENARIOS:
            self._known.popitem(last=False)

    async def takes_encoding(self, path: str, encoding: str) -> bool | None:  # noqa: ARG002 - as the protocol has it
        """The contract allows gzip, and names it when the upload is completed."""
        return encoding == "gzip" if self._client.offers(EXTENSION) else None

    def forget(self, path: str) -> None:
        """Ask anew for addresses."""
        self._known.pop(_scenario(path), None)

    async def send(self, upload: FileUpload) -> bool:
        """Send a file, or the parts that are missing; False where the backend gives no address for it.

        Raises:
            CloudError: It has not arrived whole.
            HeldError: It may not be sent any more.
            SentinelSyncError: The file cannot be read.
        """
        if not self._client.offers(EXTENSION):
            return False
        target = None if upload.was_begun_directly else self._target(upload)
        is_begun, furthest, left = upload.was_begun_directly, 0, _ATTEMPTS
        while left and (target := target or await self._asked_anew(upload)) is not None:
            if not is_begun:
                await upload.remember(DIRECTLY)
                is_begun = True
            try:
                return await self._completed(upload, await self._put(upload, target))
            except _StaleError:
                there = len(target.there())
                furthest, left = max(furthest, there), _ATTEMPTS if there > furthest else left - 1
                target = None
            except _UntakenError as error:
                logger.warning("upload.direct: %s: another way is taken", error)
                break
        if not left:
            raise NotNowError(f"{_WHAT}: refused with a fresh address, {_ATTEMPTS} times")
        self.forget(upload.path)
        if is_begun:
            await upload.remember(None)
        return False

    # --- addresses ---

    def _target(self, upload: FileUpload) -> DirectUploadTarget | None:
        known = self._known.get(_scenario(upload.path))
        found = None if known is None else known.target(upload.name)
        if found is None or not all(map(_is_allowed, found.addresses())):
            return None
        return None if self._has_expired(found) else found

    def _has_expired(self, target: DirectUploadTarget) -> bool:
        expires_at = rfc3339(target.expires_at)
        return expires_at is not None and expires_at - _MARGIN <= self._now()

    async def _asked_anew(self, upload: FileUpload) -> DirectUploadTarget | None:
        await upload.may_send()
        scenario_path = _scenario(upload.path)
        takes = _GONE | (_CLIENT_ERRORS - _STALE | {HTTPStatus.GONE})
        reply = await self._client.ask(Request.of(HTTPMethod.GET, f"{scenario_path}/uploads", takes=takes))
        if reply.status in takes:
            # Whatever it thinks of the question, the file can go another way: nothing is set aside for that.
            if reply.status in _GONE:
                self._client.withdraw(EXTENSION)
            return None
        try:
            self._keep(scenario_path, UploadTargets.model_validate(reply.data))
        except ValidationError:
            return None
        return self._target(upload)

    # --- bytes ---

    async def _put(self, upload: FileUpload, target: DirectUploadTarget) -> list[DirectUploadPart] | None:
        """Send what is missing; returns the parts, None where the file went in one."""
        if target.url is not None:
            await self._put_range(upload, target.url, target.headers, 0, upload.source.size_bytes, upload.on_progress)
            upload.confirmed(upload.source.size_bytes)
            return None
        progress = _Progress(done=target.there())
        ranges = dict(_ranges(upload.source.size_bytes, target.part_size or 0))
        missing = [number for number in ranges if number not in progress.done]
        self._tell(upload, progress, ranges)
        waiting, is_stale = iter(missing), False

        async def work() -> None:
            nonlocal is_stale
            for number in waiting:
                address = target.part(number)
                is_stale = is_stale or address is None or self._has_expired(target)
                if is_stale or address is None:
                    return  # and what is under way beside it comes to its end
                begin, end = ranges[number]
                moved = partial(self._moved, upload, progress, ranges, number)
                try:
                    reply = await self._put_range(upload, address, {}, begin, end, moved)
                except _StaleError:
                    is_stale = True
                    return
                progress.done[number] = reply.headers.get("ETag", "")
                self._tell(upload, progress, ranges)

        try:
            async with asyncio.TaskGroup() as group:
                for _ in range(min(self._parts_at_once, len(missing))):
                    group.create_task(work())
        except ExceptionGroup as errors:
            raise _first(errors) from None
        if is_stale:
            raise _StaleError
        return [DirectUploadPart(number=number, etag=progress.done[number]) for number in ranges]

    async def _put_range(
        self,
        upload: FileUpload,
        address: str,
        headers: Mapping[str, str],
        begin: int,
        end: int,
        on_progress: Callable[[int], None],
    ) -> Response:
        await upload.may_send()
        body = FileBody(upload.source, begin, end, bandwidth=self._bandwidth, on_progress=on_progress)
        asked = Request(
            HTTPMethod.PUT,
            address,
            _WHAT,
            content=body,
            headers={**headers, "Content-Length": str(body.size_bytes)},
            takes=_CLIENT_ERRORS,
            proof=(),
            bulk=True,
            is_anonymous=True,
        )
        reply = await self._client.ask(asked)
        if reply.status in _STALE:
            raise _StaleError
        if meaning_of(reply.status, HTTPMethod.PUT) is not Meaning.DONE:
            raise _UntakenError(f"{_WHAT}: answered {reply.status}")
        return reply

    def _moved(
        self, upload: FileUpload, progress: _Progress, ranges: dict[int, tuple[int, int]], number: int, reached: int
    ) -> None:
        progress.reached[number] = reached - ranges[number][0]
        there = sum(ranges[done][1] - ranges[done][0] for done in progress.done if done in ranges)
        under_way = sum(size for part, size in progress.reached.items() if part not in progress.done)
        upload.on_progress(there + under_way)

    def _tell(self, upload: FileUpload, progress: _Progress, ranges: dict[int, tuple[int, int]]) -> None:
        upload.confirmed(sum(ranges[done][1] - ranges[done][0] for done in progress.done if done in ranges))

    async def _completed(self, upload: FileUpload, parts: list[DirectUploadPart] | None) -> bool:
        """Tell the backend that all bytes are there, which acknowledges the file."""
        await upload.may_send()
        kind = upload.path.rpartition("/")[2]
        where = f"{upload.path}/complete" if kind == "annotations" else f"{upload.path}/{upload.name}/complete"
        body = DirectUploadComplete(
            size=upload.source.size_bytes, sha256=upload.sha256, encoding=upload.encoding, parts=parts
        )
        asked = Request.of(
            HTTPMethod.POST,
            where,
            content=body.model_dump_json(exclude_none=True).encode(),
            idempotency_key=upload.key,
            takes=_NOT_COMPLETED,
        )
        reply = await self._client.ask(asked)
        if reply.status in _NOT_COMPLETED:
            raise _UntakenError(f"POST …/complete: answered {reply.status}")
        return True


def _scenario(path: str) -> str:
    return path.rpartition("/")[0]


def _ranges(size_bytes: int, part_size: int) -> Iterator[tuple[int, tuple[int, int]]]:
    """Numbers of parts, from 1, and the bytes that each has."""
    for number in range(math.ceil(size_bytes / part_size)):
        yield number + 1, (number * part_size, min(size_bytes, (number + 1) * part_size))


def _is_allowed(address: str) -> bool:
    """Whether a file may go there: https on any host, http to loopback alone (wire contract)."""
    try:
        parts = urlsplit(address)
        host = parts.hostname or ""
        is_loopback = host == "localhost" or ip_address(host).is_loopback if parts.scheme == "http" else False
    except ValueError:
        return False
    return bool(host) and (parts.scheme == "https" or is_loopback)


def _first(errors: ExceptionGroup[Exception]) -> Exception:
    """The error that tells most: one of our own kind, where there is one."""
    found = errors.exceptions
    return next((error for error in found if isinstance(error, SentinelSyncError | _UntakenError)), found[0])
