"""Fetches a release's file: by what changed or whole, from a fresh address where one has expired, while it may be."""

import asyncio
import logging
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event
from typing import Self
from urllib.parse import urlsplit

from pydantic import TypeAdapter

from sentinel_sync.base.backoff import RETURN_SPREAD
from sentinel_sync.base.clock import Clock, moment
from sentinel_sync.base.errors import (
    HeldError,
    RejectedError,
    StoreError,
    VerificationError,
)
from sentinel_sync.base.files import file_error
from sentinel_sync.base.payloads import DeltaOffer, ModelRelease
from sentinel_sync.base.tasks import run_to_end, wait_to_end
from sentinel_sync.base.transfer import TransferAttempts, TransferGuard
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.download import PART_ENDING, FileDownload, FileHostError, StaleAddressError, Target, discard
from sentinel_sync.models.delta_file import apply_delta, load_zstd
from sentinel_sync.models.files import ModelFiles, check_room, checksum_of
from sentinel_sync.models.rules.delta import why_not
from sentinel_sync.models.rules.installed import KeptVersion
from sentinel_sync.models.sources import ReleaseSource
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

#: Seconds without a single further byte after which a delta keeps the whole file waiting no longer.
PATIENCE = 900.0
#: What a host says of a delta that it has not: then the whole file is asked for at once.
_NO_DELTA = frozenset(range(400, 500)) - {403, 408, 410, 425, 429}
#: Kind of the documents that say what attempts at a release's file came to; their key is its checksum.
_KIND = "model.attempts"
_ATTEMPTS = TypeAdapter(TransferAttempts)
#: Kind of the documents that say until when a host is not to be asked; what lies further off was a wrong clock's.
_HELD_HOST_KIND = "model.held_host"
_HELD_AT_MOST = 1.2
_TIME = TypeAdapter(float)
#: An address may expire while it is used; a backend that gives out only expired ones is given up.
_MOST_ADDRESSES = 3


@dataclass(frozen=True, slots=True)
class DeltaFiles:
    """What lies beside a target while it is made. Blocks: call it off the loop.

    Attributes:
        delta: What has come of the delta.
        result: What has been made of it.
    """

    delta: Path
    result: Path

    @classmethod
    def beside(cls, staging: Path) -> Self:
        """Those of the target whose staging file this is."""
        name = staging.name.removesuffix(PART_ENDING)
        return cls(staging.with_name(f"{name}.delta{PART_ENDING}"), staging.with_name(f"{name}.patched{PART_ENDING}"))

    def discard(self) -> None:
        """Delete them; a folder that cannot be written is said where the whole file is to be written."""
        with suppress(OSError):
            discard(self.delta)
            self.result.unlink(missing_ok=True)

    def came_lately(self, now: float) -> bool:
        """Whether the delta has grown within the last `PATIENCE` seconds; `now` is wall time."""
        try:
            return now - self.delta.stat().st_mtime < PATIENCE
        except OSError:
            return False


async def fetch_by_delta(
    client: CloudAPIClient,
    offer: DeltaOffer | None,
    old: Path,
    old_checksum: str,
    target: Target,
    *,
    clock: Clock,
    on_progress: Callable[[int], None],
) -> bool:
    """Make the target's staging file out of an older file and a delta.

    Args:
        client: Opens addresses.
        offer: What the backend offered, or None.
        old: A file that the vehicle has.
        old_checksum: The SHA-256 in hex that was named to the backend as `from`.
        target: What is wanted, as signed.
        on_progress: Told for how many bytes of the target what has come stands.

    Returns:
        True where the staging file is whole, durable, and has the signed checksum. False where the whole file is to be
        fetched; why is logged, and nothing of the delta is left (but what may still be of use after an outage).

    Raises:
        FileHostError: The host failed, or the address has expired half-way (StaleAddressError: ask for a new one); what
            has come is gone on from at the next call.
        HeldError: Not sent: the gate is closed.
    """
    files = DeltaFiles.beside(target.staging)
    if offer is None:
        await run_to_end(files.discard)
        return False
    try:
        await run_to_end(_check, offer, old, old_checksum, target, files)
        await _fetch(client, offer, files.delta, target.size, clock, on_progress)
        await _apply(files, old, target)
    except FileHostError as error:
        if error.status in _NO_DELTA:
            await run_to_end(files.discard)
        elif error.status not in {200, 206} and await run_to_end(files.came_lately, clock.now()):
            raise
        _say(target, error)
        return False
    except (VerificationError, RejectedError, StoreError) as error:
        _say(target, error)
        await run_to_end(files.discard)
        return False
    logger.info("model.delta: %s: %d bytes came instead of %d", target.checksum[:12], offer.size, target.size)
    return True


def _say(target: Target, error: Exception) -> None:
    logger.warning("model.delta: %s: the whole file instead: %s", target.checksum[:12], error)


def _check(offer: DeltaOffer, old: Path, old_checksum: str, target: Target, files: DeltaFiles) -> None:
    """See whether this is worth a byte, and can come to anything. Blocks: reads the old file."""
    if (reason := why_not(offer, target.size)) is not None:
        raise VerificationError(f"the delta is refused: {reason}")
    load_zstd()
    try:
        whole_missing, delta_missing = target.size - _size(target.staging), max(0, offer.size - _size(files.delta))
        if whole_missing <= delta_missing:
            raise VerificationError(f"the delta is refused: only {whole_missing} bytes of the whole file are missing")
        if checksum_of(old) != old_checksum:
            raise VerificationError("the delta is refused: the file it starts from was changed on this vehicle")
        check_room(target.staging.parent, delta_missing + target.size)
    except OSError as error:
        raise file_error(error, old) from None


def _size(path: Path) -> int:
    return path.stat().st_size if path.exists() else 0


async def _fetch(
    client: CloudAPIClient,
    offer: DeltaOffer,
    staging: Path,
    whole_size: int,
    clock: Clock,
    on_progress: Callable[[int], None],
) -> None:
    came = False

    def tell(received: int) -> None:
        nonlocal came
        came = True
        on_progress(whole_size * received // offer.size)

    delta = Target(staging, offer.size, offer.checksum)
    try:
        await FileDownload(client, delta, clock=clock, on_progress=tell).fetch(offer.download_url)
    except StaleAddressError:
        if came:
            raise
        # It was given out a moment ago: whoever asks for another would get no better one.
        raise RejectedError("GET a file: its address has expired before it gave a byte") from None


async def _apply(files: DeltaFiles, old: Path, target: Target) -> None:
    stop = Event()
    # It sees `stop` within a block, some milliseconds; what is undone next must not be written to any more.
    await wait_to_end(asyncio.to_thread(_make, files, old, target, stop), on_cancel=stop.set)


def _make(files: DeltaFiles, old: Path, target: Target, stop: Event) -> None:
    apply_delta(files.delta, old, files.result, target, stop)
    try:
        discard(target.staging)  # with what is known of a part of the whole file
        files.result.replace(target.staging)
        discard(files.delta)
    except OSError as error:
        raise file_error(error, target.staging) from None


class ReleaseFetch:
    """Fetches files of releases.

    Args:
        client: Opens addresses.
        source: Says where files are.
        files: The models folder.
        policy: Whether models may be fetched now.
        documents: Where it is kept what attempts came to.
        deltas: Whether to fetch only what changed, where that is offered.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        source: ReleaseSource,
        files: ModelFiles,
        policy: TransferPolicy,
        documents: Documents,
        *,
        deltas: bool,
        clock: Clock,
        rng: Random,
    ) -> None:
        self._documents = documents
        self._rng = rng
        self._client = client
        self._source = source
        self._files = files
        self._policy = policy
        self._deltas = deltas
        self._clock = clock
        self._host = ""

    async def fetch(
        self,
        release: ModelRelease,
        staging: Path,
        base: KeptVersion | None,
        on_progress: Callable[[int], None],
        *,
        is_asked_for: bool = False,
    ) -> None:
        """Put a release's file into its staging file: whole, and of the signed checksum.

        Args:
            release: Which.
            staging: Where it is put together; what is there is gone on from.
            base: What is installed of the same model, or None.
            on_progress: Told how many bytes are there.
            is_asked_for: A person asks: earlier attempts that won nothing do not keep it waiting.

        Raises:
            HeldError: It may not be fetched now: the network's price, the budget or a trip forbids it, or earlier
                attempts won nothing; what came stays.
            CloudError: The network, the backend or the file's host failed.
            VerificationError: What came is not what was signed; nothing of it stays.
            StoreError: The models folder has no room or cannot be written.
        """
        why = await self._blocked_reason()
        if why is not None:
            raise HeldError(f"{release.name} {release.version} is not fetched: {why}")
        on_progress(min(release.size, await run_to_end(self._files.make_room, staging, release.size)))
        kept = await self._documents.load(_KIND, release.checksum, _ATTEMPTS) or TransferAttempts()
        attempts = kept.as_of(self._clock.now())
        if attempts is not kept:
            await self._documents.save(_KIND, release.checksum, attempts, _ATTEMPTS)
        if not is_asked_for and attempts.wait(self._clock.now()) > 0.0:
            until = moment(attempts.next_at).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise HeldError(f"{release.name} {release.version} is not fetched before {until}: {attempts.reason}")
        guard = TransferGuard(f"{release.name} {release.version}", self._blocked_reason, clock=self._clock)
        async with guard.watching():
            await self._fetch_on(attempts, release, staging, base, on_progress)
        await self._documents.delete(_KIND, release.checksum)

    async def _fetch_on(
        self,
        attempts: TransferAttempts,
        release: ModelRelease,
        staging: Path,
        base: KeptVersion | None,
        on_progress: Callable[[int], None],
    ) -> None:
        """Go on at once after each attempt that got further; the first that did not ends it."""
        target = Target(staging, release.size, release.checksum)
        download = FileDownload(self._client, target, clock=self._clock, on_progress=on_progress)
        while True:
            received_before = download.received_bytes
            try:
                await self._fetch(release, base, download, target, on_progress)
            except FileHostError as error:
                attempts = attempts.ended(
                    str(error),
                    host=self._host,
                    furthest_bytes=download.size_bytes,
                    spent_bytes=download.received_bytes - received_before,
                    now=self._clock.now(),
                    rng=self._rng,
                    retry_after=error.retry_after,
                )
                if error.retry_after:
                    asked = error.retry_after * (1.0 + self._rng.uniform(0.0, RETURN_SPREAD))
                    await self._documents.save(_HELD_HOST_KIND, self._host, self._clock.now() + asked, _TIME)
                if attempts.wait(self._clock.now()) > 0.0:
                    # Not after each cut that won something: what is on disk says that already.
                    await self._documents.save(_KIND, release.checksum, attempts, _ATTEMPTS)
                    raise
            else:
                return

    async def _blocked_reason(self) -> str | None:
        return await self._policy.blocked_reason(TrafficClass.MODELS)

    async def _refuse_if_held(self, release: ModelRelease, host: str) -> None:
        """A host that asked to come back later is not asked for another of its files either."""
        until = await self._documents.load(_HELD_HOST_KIND, host, _TIME)
        if until is None:
            return
        longest = self._client.settings.max_retry_after * _HELD_AT_MOST
        if 0.0 < until - self._clock.now() <= longest:
            at = moment(until).strftime("%Y-%m-%dT%H:%M:%SZ")
            raise HeldError(f"{release.name} {release.version} is not fetched before {at}: its host asked for that")
        await self._documents.delete(_HELD_HOST_KIND, host)

    async def _fetch(
        self,
        release: ModelRelease,
        base: KeptVersion | None,
        download: FileDownload,
        target: Target,
        on_progress: Callable[[int], None],
    ) -> None:
        # What came from a TUF repository may be known by another kind of checksum than a backend knows files by.
        known = base is not None and base.checksum is not None and len(base.checksum) == len(release.checksum)
        have = base.checksum if base is not None and known and self._deltas else None
        for attempt in range(1, _MOST_ADDRESSES + 1):
            address = await self._source.address(release, have)
            self._host = urlsplit(address.url).netloc
            await self._refuse_if_held(release, self._host)
            try:
                if base is not None and have is not None:
                    await fetch_by_delta(
                        self._client,
                        address.delta,
                        self._files.live(base.live_name),
                        have,
                        target,
                        clock=self._clock,
                        on_progress=on_progress,
                    )
                # Also after a delta: it finds the file whole then, and has the last word on its checksum.
                await download.fetch(address.url)
            except StaleAddressError:
                if attempt == _MOST_ADDRESSES:
                    raise
            else:
                return


def leftovers_of(staging: Path) -> tuple[Path, ...]:
    """What a download that broke off may leave, to be gone on from."""
    files = DeltaFiles.beside(staging)
    return staging, files.delta, files.result
