"""Fetches a release's file: by what changed or whole, from a fresh address where one has expired, while it may be."""

import asyncio
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Any

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import HeldError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.download import FileDownload, StaleAddressError, Target
from sentinel_sync.models.catalogue import ReleaseSource
from sentinel_sync.models.delta import DeltaFiles, fetch_by_delta
from sentinel_sync.models.files import ModelFiles
from sentinel_sync.models.rules.installed import KeptVersion
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import TrafficClass

#: During a download it is asked so often whether it may go on, seconds.
ASK_AGAIN = 0.5
#: An address may expire while it is used; a backend that gives out only expired ones is given up.
_MOST_ADDRESSES = 3


class ReleaseFetch:
    """Fetches files of releases.

    Args:
        client: Opens addresses.
        source: Says where files are.
        files: The models folder.
        desk: Whether models may be fetched now.
        deltas: Whether to fetch only what changed, where that is offered.
        clock: For pace and rates.
    """

    def __init__(
        self,
        client: CloudAPIClient,
        source: ReleaseSource,
        files: ModelFiles,
        desk: TransferPolicy,
        *,
        deltas: bool,
        clock: Clock,
    ) -> None:
        self._client = client
        self._source = source
        self._files = files
        self._desk = desk
        self._deltas = deltas
        self._clock = clock

    async def fetch(
        self, release: ModelRelease, staging: Path, base: KeptVersion | None, on_progress: Callable[[int], None]
    ) -> None:
        """Put a release's file into its staging file: whole, and of the signed checksum.

        Args:
            release: Which.
            staging: Where it is put together; what is there is gone on from.
            base: What is installed of the same model, or None.
            on_progress: Told how many bytes are there.

        Raises:
            HeldError: It may not be fetched now: the network's price, the budget or a trip forbids it; what came stays.
            CloudError: The network, the backend or the file's host failed.
            VerificationError: What came is not what was signed; nothing of it stays.
            StoreError: The models folder has no room or cannot be written.
        """
        why = await self._desk.blocked_reason(TrafficClass.MODELS)
        if why is not None:
            raise HeldError(f"{release.name} {release.version} is not fetched: {why}")
        on_progress(min(release.size, await run_to_end(self._files.make_room, staging, release.size)))
        await self._while_allowed(self._fetch(release, staging, base, on_progress), release)

    async def _fetch(
        self, release: ModelRelease, staging: Path, base: KeptVersion | None, on_progress: Callable[[int], None]
    ) -> None:
        target = Target(staging, release.size, release.checksum)
        download = FileDownload(self._client, target, clock=self._clock, on_progress=on_progress)
        have = base.checksum if base is not None and self._deltas else None
        for attempt in range(1, _MOST_ADDRESSES + 1):
            address = await self._source.address(release, have)
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

    async def _while_allowed(self, work: Coroutine[Any, Any, None], release: ModelRelease) -> None:
        """Do it, and cut it off when it may not be any more."""
        fetching = asyncio.create_task(work, name="sync.models.fetch")
        guard = asyncio.create_task(self._until_held(), name="sync.models.guard")
        try:
            await asyncio.wait({fetching, guard}, return_when=asyncio.FIRST_COMPLETED)
        finally:
            was_cut = not fetching.done()
            for task in (fetching, guard):
                task.cancel()
            # What came is written down before anybody goes on.
            await asyncio.gather(fetching, guard, return_exceptions=True)
        if was_cut:
            raise HeldError(f"{release.name} {release.version} was cut off: {guard.result()}")
        fetching.result()

    async def _until_held(self) -> str:
        while (why := await self._desk.blocked_reason(TrafficClass.MODELS)) is None:
            await self._clock.sleep(ASK_AGAIN)
        return why


def leftovers_of(staging: Path) -> tuple[Path, ...]:
    """What a download that broke off may leave, to be gone on from."""
    files = DeltaFiles.beside(staging)
    return staging, files.delta, files.result
