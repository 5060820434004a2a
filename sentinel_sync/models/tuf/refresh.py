"""One refresh of a TUF repository's metadata by python-tuf, from its cache and the network. Blocks.

Imported in the thread that runs it: python-tuf takes some 0.4 s and 12 MB, which a vehicle without a TUF repository
need not spend.
"""

import errno
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Protocol

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata
from tuf.api.serialization import DeserializationError
from tuf.ngclient.config import UpdaterConfig
from tuf.ngclient.fetcher import FetcherInterface
from tuf.ngclient.updater import Updater

from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    SentinelSyncError,
    StoreError,
    StoreFullError,
    UnreachableError,
    VerificationError,
)
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.models.rules.tuf import ROLES, RepositoryState, SeenMetadata, SignedTarget, Verified, utc_text
from sentinel_sync.models.tuf.refresh_request import (
    LARGEST_FILE,
    Fetch,
    RefreshRequest,
    RefreshResult,
    anchor_of,
    read_anchor,
)

#: The folder of one repository's cache, below the one that is given: the first digits of its anchor.
_CACHE_NAME = re.compile(r"[0-9a-f]{16}")
#: What python-tuf leaves when it is killed between writing a file and renaming it (`tempfile`'s names).
_LEFTOVERS = "tmp*"
#: A timestamp names one file, and has a few hundred bytes.
_BOUNDS = UpdaterConfig(
    root_max_length=LARGEST_FILE,
    timestamp_max_length=16 << 10,
    snapshot_max_length=LARGEST_FILE,
    targets_max_length=LARGEST_FILE,
)
_NOTHING_IS_TOUCHED = "nothing new is taken, what is installed stays in use"
_NO_ROOM = frozenset({errno.ENOSPC, errno.EDQUOT})


def refresh(request: RefreshRequest, fetch: Fetch) -> RefreshResult:
    """Bring the cache up to date and say what the repository's targets are.

    Args:
        request: What to refresh.
        fetch: Fetches a URL's bytes, at most so many; raises CloudError and VerificationError.

    Raises:
        ConfigurationError: The root file cannot be used.
        StoreError: The cache cannot be written.
    """
    anchor = read_anchor(request.root_file)
    digest = anchor_of(anchor)
    memory = (
        request.memory if request.memory is not None and request.memory.anchor == digest else RepositoryState(digest)
    )
    memory = memory.aged(request.trusted_now)
    reference = memory.reference(request.now)
    try:
        cache = _prepare(request.folder, digest[:16])
        updater = _updater(anchor, cache, request.metadata_url, fetch, reference)
        return _refresh(updater, memory, reference, memory.reference(request.trusted_now))
    except OSError as error:
        kind = StoreFullError if error.errno in _NO_ROOM else StoreError
        raise kind(f"the cache of TUF metadata in the state folder cannot be written: {error.strerror}") from None


def root_version(root_file: Path) -> int:
    """The version of the root metadata that the vehicle was delivered with. Blocks.

    Raises:
        ConfigurationError: It cannot be read, or is no root metadata that signs itself.
    """
    anchor = read_anchor(root_file)
    try:
        metadata: Metadata[Any] = Metadata.from_bytes(anchor)
        metadata.signed.verify_delegate("root", metadata.signed_bytes, metadata.signatures)
        version: int = metadata.signed.version
    except (RepositoryError, AttributeError, ValueError) as error:
        raise _no_root(error) from None
    return version


def _no_root(error: Exception) -> ConfigurationError:
    return ConfigurationError(
        f"cloud.models.root_file is no root metadata that signs itself: {loggable_text(str(error))}"
    )


def _prepare(folder: Path, name: str) -> Path:
    """Make the cache's folder, and remove what nobody needs any more: other roots' caches, files never renamed."""
    cache = folder / name
    cache.mkdir(parents=True, exist_ok=True)
    for other in folder.iterdir():
        if other != cache and _CACHE_NAME.fullmatch(other.name):
            shutil.rmtree(other)
    for leftover in cache.glob(_LEFTOVERS):
        leftover.unlink()
    return cache


def _updater(anchor: bytes, cache: Path, metadata_url: str, fetch: Fetch, reference: float) -> "_DatedUpdater":
    try:
        return _DatedUpdater(anchor, cache, metadata_url, _BridgedFetcher(fetch), reference)
    except RepositoryError as error:
        raise _no_root(error) from None


def _refresh(updater: "_DatedUpdater", memory: RepositoryState, reference: float, trusted_now: float) -> RefreshResult:
    try:
        updater.refresh()
        verified = updater.verified()
        memory.check(verified)
    except DownloadError as error:
        return RefreshResult(memory.learned(updater.verified()), reference, error=_download_fault(error))
    except ExpiredMetadataError:
        role, mark = updater.expired()
        verified = updater.verified()
        verified = replace(verified, marks={**verified.marks, role: mark})
        learned = memory.learned(verified, {role} if mark.expires <= trusted_now else ())
        return RefreshResult(learned, reference, error=_expiry(role, mark, reference))
    except RepositoryError as error:
        return RefreshResult(memory.learned(updater.verified()), reference, error=_refusal(error))
    except VerificationError as error:  # older than what the memory holds: nothing to learn from it
        return RefreshResult(memory, reference, error=error)
    return RefreshResult(
        memory.learned(verified),
        reference,
        verified,
        tuple(updater.targets()),
        updater.consistent,
        updater.delegates,
    )


class _Signed(Protocol):
    """What all roles' metadata has."""

    version: int
    expires: datetime


class _BridgedFetcher(FetcherInterface):
    """python-tuf's network."""

    def __init__(self, fetch: Fetch) -> None:
        self._fetch_bytes = fetch

    def _fetch(self, url: str) -> Iterator[bytes]:
        yield self.download_bytes(url, LARGEST_FILE)

    def download_bytes(self, url: str, max_length: int) -> bytes:
        """Fetch a file; overridden, because here the bound is known before the first byte is asked for."""
        try:
            return self._fetch_bytes(url, max_length)
        except VerificationError as error:
            raise DownloadLengthMismatchError(str(error)) from error
        except CloudError as error:
            if error.status is not None and error.status >= 400:
                raise DownloadHTTPError(str(error), error.status) from error
            raise DownloadError(str(error)) from error


class _DatedUpdater(Updater):
    """An updater that judges by a time that it is given.

    python-tuf takes the machine's clock in the constructor of its trusted set, and has no argument for another time
    (looked up in 6.0 and 7.0.1); nor can its targets be listed but through that set. Its `reference_time` is a public
    name within a protected attribute: here is the one place that touches it.
    """

    def __init__(
        self, anchor: bytes, cache: Path, metadata_url: str, fetcher: FetcherInterface, reference: float
    ) -> None:
        super().__init__(str(cache), metadata_url, fetcher=fetcher, config=_BOUNDS, bootstrap=anchor)
        self._trusted_set.reference_time = datetime.fromtimestamp(reference, UTC)

    @property
    def consistent(self) -> bool:
        """Whether files lie under their hashes."""
        return self._trusted_set.root.consistent_snapshot is True

    @property
    def delegates(self) -> bool:
        """Whether the targets role names further ones."""
        return self._trusted_set.targets.delegations is not None

    def verified(self) -> Verified:
        """What was verified so far."""
        roles, trusted = self._trusted_set.root.roles, self._trusted_set
        marks = {role: _mark(trusted[role]) for role in ROLES if role in trusted}
        return Verified(tuple(sorted({*roles["timestamp"].keyids, *roles["snapshot"].keyids})), marks)

    def expired(self) -> tuple[str, SeenMetadata]:
        """Which role's metadata has expired: the error does not say, but a refresh goes by this order."""
        trusted = self._trusted_set
        for role in ("root", "timestamp", "snapshot"):
            if role in trusted and trusted[role].is_expired(trusted.reference_time):
                return role, _mark(trusted[role])
        # Targets that have expired do not come into the set. What was verified before them says which they were.
        version = trusted.snapshot.meta["targets.json"].version
        return "targets", SeenMetadata(version, trusted.reference_time.timestamp())

    def targets(self) -> Iterator[SignedTarget]:
        """What the top-level role has signed, sorted by path."""
        for path, target in sorted(self._trusted_set.targets.targets.items()):
            yield SignedTarget(path, target.length, target.hashes, target.custom)


def _mark(signed: _Signed) -> SeenMetadata:
    return SeenMetadata(signed.version, signed.expires.timestamp())


def _download_fault(error: DownloadError) -> SentinelSyncError:
    # Ours, on its way through python-tuf.
    if isinstance(error.__cause__, SentinelSyncError):
        return error.__cause__
    return UnreachableError(f"GET TUF metadata: {loggable_text(str(error))}")


def _expiry(role: str, mark: SeenMetadata, reference: float) -> VerificationError:
    return VerificationError(
        f"the TUF repository is refused: its {role} version {mark.version} has expired, for it is {utc_text(reference)}"
        f" here; {_NOTHING_IS_TOUCHED}. Have it signed anew, or set this vehicle's clock if it is ahead"
    )


def _refusal(error: RepositoryError) -> SentinelSyncError:
    if isinstance(error, DeserializationError):
        # Not yet an attack: a login page, a proxy's error, half a file.
        return UnreachableError("GET TUF metadata: the answer is none")
    return VerificationError(f"the TUF repository is refused: {loggable_text(str(error))}; {_NOTHING_IS_TOUCHED}")
