"""Releases out of a repository of The Update Framework, instead of the backend's listing (docs/tuf.md).

What the repository says is verified as a whole by python-tuf, in a thread; a release needs no signature of its own.
"""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from urllib.parse import urljoin

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock, rfc3339
from sentinel_sync.base.errors import ConfigurationError, VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.models.rules.tuf import FoundModel, RepositoryState, Verified, models_among, passed
from sentinel_sync.models.sources import FileAddress, ReleaseListing
from sentinel_sync.models.tuf.refresh_request import (
    Fetch,
    RefreshRequest,
    RefreshResult,
    anchor_of,
    read_anchor,
    run_fetching,
)
from sentinel_sync.settings import ModelSource
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.timekeeper import Timekeeper

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "models.tuf"
_MEMORY_KEY = "memory"
_LISTING_KEY = "listing"
#: More releases than this are no fleet's; they would only fill the store.
_MOST_RELEASES = 1000
#: So many targets are named in the log that cannot be taken.
_MOST_LINES = 20


@dataclass(frozen=True, slots=True)
class _Listing:
    """What the repository of an anchor offered, and until when that holds."""

    anchor: str
    found: tuple[FoundModel, ...]
    checked_at: float
    expires: float

    @property
    def offer(self) -> ReleaseListing:
        return ReleaseListing(tuple(found.release for found in self.found), self.checked_at)


_MEMORY_SHAPE = TypeAdapter(RepositoryState)
_LISTING_SHAPE = TypeAdapter(_Listing)


class TufReleases:
    """Asks a TUF repository, and remembers what it said and how new that was.

    Args:
        client: Fetches; its credential goes to the origin of `api_url` only.
        documents: Where the listing and the memory are kept.
        clock: The machine's clock.
        source: `models` of the settings, with `source: tuf`.
        folder: For python-tuf's cache; this object's alone.
        timekeeper: Knows the backend's time; by default the machine's clock stands alone.

    Raises:
        ConfigurationError: The source lacks its URL or its root file.
    """

    #: Each release was signed for by the repository's targets role.
    vouches = True

    def __init__(
        self,
        client: CloudAPIClient,
        documents: Documents,
        clock: Clock,
        *,
        source: ModelSource,
        folder: Path,
        timekeeper: Timekeeper | None = None,
    ) -> None:
        if source.metadata_url is None or source.root_file is None:
            raise ConfigurationError("cloud.models: source tuf needs metadata_url and root_file")
        self._client = client
        self._documents = documents
        self._clock = clock
        self._metadata_url = source.metadata_url
        self._targets_url = source.targets_url or urljoin(source.metadata_url, "../targets/")
        self._root_file = source.root_file
        self._folder = folder
        self._timekeeper = timekeeper
        self._asking = asyncio.Lock()
        self._memory: RepositoryState | None = None
        self._listing: _Listing | None = None
        self.last: ReleaseListing | None = None

    async def open(self) -> None:
        """Read what was last seen. What was offered under another root file is forgotten: that may be why it changed.

        Raises:
            StoreError: It cannot be read.
        """
        self._memory = await self._documents.load(_KIND, _MEMORY_KEY, _MEMORY_SHAPE)
        listing = await self._documents.load(_KIND, _LISTING_KEY, _LISTING_SHAPE)
        same = listing is not None and await run_to_end(_is_anchor, self._root_file, listing.anchor)
        self._listing = listing if same else None
        self.last = None if self._listing is None else self._listing.offer

    async def ask(self) -> ReleaseListing:
        """Verify the repository's metadata anew; returns the models among its targets.

        Raises:
            CloudError: It did not come.
            VerificationError: It is refused: forged, from the past, mixed, or expired. What was seen before stays.
            ConfigurationError: python-tuf is not installed, or the root file cannot be used.
            StoreError: What was learned cannot be written down.
        """
        async with self._asking:
            listing = await self._refresh()
            await self._documents.save(_KIND, _LISTING_KEY, listing, _LISTING_SHAPE)
            self._listing, self.last = listing, listing.offer
            return self.last

    async def address(self, release: ModelRelease, have: str | None = None) -> FileAddress:  # noqa: ARG002 - as any source
        """Say where a release's file is; where the metadata has expired since, the repository is asked first.

        Args:
            release: Which.
            have: Of no use here: a TUF repository has no deltas.

        Raises:
            CloudError: The repository had to be asked, and did not answer.
            VerificationError: The repository does not offer just this release, or is refused.
            ConfigurationError: As `ask`.
            StoreError: As `ask`.
        """
        now = max(self._times())
        if self._memory is not None:
            now = self._memory.reference(now)
        if self._listing is None or self._listing.expires <= now:
            await self.ask()
        wanted = (release.name, release.version, release.size, release.checksum)
        for found in () if self._listing is None else self._listing.found:
            offered = found.release
            if (offered.name, offered.version, offered.size, offered.checksum) == wanted:
                return FileAddress(self._targets_url + found.path)
        raise VerificationError(
            f"{release.name} {release.version} is refused: it is not among the repository's targets"
        )

    def _times(self) -> tuple[float, float]:
        """The machine's time and the backend's; the machine's twice where that is not known."""
        now = self._clock.now()
        skew = None if self._timekeeper is None else self._timekeeper.skew()
        return now, now - (skew or 0.0)

    async def _refresh(self) -> _Listing:
        machine, backend = self._times()
        request = RefreshRequest(
            self._metadata_url,
            self._root_file,
            self._folder,
            self._memory,
            now=max(machine, backend),
            trusted_now=min(machine, backend),
        )
        refreshed, found, left_aside = await run_fetching(self._client, self._clock, partial(_carry_out, request))
        stamps = [stamp for each in found if (stamp := rfc3339(each.release.released_at)) is not None]
        memory, verified = refreshed.memory, refreshed.verified
        if verified is not None:
            memory = replace(memory, time=max(memory.time, passed(verified, refreshed.reference, stamps)))
        if memory != self._memory:
            await self._documents.save(_KIND, _MEMORY_KEY, memory, _MEMORY_SHAPE)
            self._memory = memory
        if refreshed.error is not None:
            raise refreshed.error
        if verified is None:
            raise VerificationError("the TUF repository is refused: nothing of it was verified")
        _report(refreshed, verified, found, left_aside)
        return _Listing(memory.anchor, found[:_MOST_RELEASES], self._clock.now(), refreshed.expires)


def _is_anchor(root_file: Path, anchor: str) -> bool:
    """Whether the root file is still the one of this anchor. Blocks."""
    try:
        return anchor_of(read_anchor(root_file)) == anchor
    except ConfigurationError:
        return False  # the next check says so


def _carry_out(request: RefreshRequest, fetch: Fetch) -> tuple[RefreshResult, tuple[FoundModel, ...], tuple[str, ...]]:
    """Refresh, and read the targets. Blocks."""
    try:
        # In the thread and not before the first check: it loads python-tuf.
        from sentinel_sync.models.tuf.refresh import refresh  # noqa: PLC0415 - see above
    except ImportError as error:
        raise ConfigurationError(
            f"cloud.models.source is tuf, which needs python-tuf: install sentinel-sync[tuf] ({error.name} is missing)"
        ) from None
    refreshed = refresh(request, fetch)
    found, left_aside = models_among(refreshed.targets, consistent=refreshed.consistent)
    return refreshed, found, (*refreshed.left_aside, *left_aside)


def _report(
    refreshed: RefreshResult, verified: Verified, found: Sequence[FoundModel], left_aside: Sequence[str]
) -> None:
    for reason in left_aside[:_MOST_LINES]:
        logger.warning("models.entry: left aside: %s", reason)
    if len(left_aside) > _MOST_LINES:
        logger.warning("models.entry: %d more are left aside", len(left_aside) - _MOST_LINES)
    versions = ", ".join(f"{role} {mark.version}" for role, mark in verified.marks.items())
    logger.info("models.tuf: %s: %d models among %d targets", versions, len(found), len(refreshed.targets))
