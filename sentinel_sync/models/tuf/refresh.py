"""One refresh of a TUF repository's metadata by python-tuf, from its cache and the network. Blocks.

Imported in the thread that runs it: python-tuf takes some 0.4 s and 12 MB, which a vehicle without a TUF repository
need not spend.
"""

import errno
import re
import shutil
from collections.abc import Iterator, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from itertools import islice
from pathlib import Path
from typing import Any, Protocol

from tuf.api.exceptions import (
    DownloadError,
    DownloadHTTPError,
    DownloadLengthMismatchError,
    ExpiredMetadataError,
    RepositoryError,
)
from tuf.api.metadata import Metadata, Targets  # type: ignore[attr-defined]  # it is a public name there
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
_NOTHING_IS_TOUCHED = "nothing new is taken, what is in use stays"
#: A host that answers so does not have the file, and will not have it by itself.
_NOT_THERE = frozenset({403, 404, 410})
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
        return _refresh(updater, memory, reference, memory.reference(request.trusted_now), request.wanted)
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


def _refresh(
    updater: "_DatedUpdater",
    memory: RepositoryState,
    reference: float,
    trusted_now: float,
    wanted: Sequence[str] | None,
) -> RefreshResult:
    try:
        updater.refresh()
        verified = updater.verified()
        memory.check(verified)
        targets = tuple(updater.targets(wanted))
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
        targets,
        updater.consistent,
        min([verified.expires, *updater.expiries()]),
        tuple(f"{loggable_text(name, 80)}: {reason}" for name, reason in updater.left_aside.items()),
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
        self._refused_roles: dict[str, Exception] = {}
        self._delegated: list[Targets] = []
        #: Roles and targets that cannot be used, and why.
        self.left_aside: dict[str, str] = {}

    @property
    def consistent(self) -> bool:
        """Whether files lie under their hashes."""
        return self._trusted_set.root.consistent_snapshot is True

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

    def targets(self, wanted: Sequence[str] | None) -> Iterator[SignedTarget]:
        """Every target, or those that are wanted, as the first role says that may speak for it (TUF, 5.6.7).

        A role that cannot be used costs only what it might have spoken for: that is left aside.

        Raises:
            DownloadError: A role did not come; it may the next time.
        """
        if wanted is None:
            wanted = sorted({path for role in self._all_roles() for path in role.targets})
        for path in wanted:
            try:
                target = self.get_targetinfo(path)
            except RepositoryError as error:
                self.left_aside[path] = loggable_text(str(error))
                continue
            if target is not None:
                yield SignedTarget(path, target.length, target.hashes, target.custom)

    def expiries(self) -> list[float]:
        """When each of the delegated roles expires that could be used, seconds since the epoch."""
        return [_mark(role).expires for role in self._delegated]

    def _all_roles(self) -> Iterator[Targets]:
        """The targets role and all that it leads to, each once, as far as they can be used."""
        waiting, seen = [(Targets.type, "root")], set[str]()
        while waiting:
            name, parent = waiting.pop()
            if name in seen:
                continue
            if len(seen) > self.config.max_delegations:
                self.left_aside[name] = f"more than {self.config.max_delegations} delegated roles are not followed"
                return
            seen.add(name)
            try:
                role = self._load_targets(name, parent)
            except RepositoryError as error:
                self.left_aside[name] = loggable_text(str(error))
                continue
            if name != Targets.type:
                self._delegated.append(role)
            yield role
            waiting += [(child, name) for child in reversed(_children(role))]

    def _load_targets(self, role: str, parent_role: str) -> Targets:
        """As python-tuf, but a role that was refused is not fetched again for each target that it might speak for."""
        if role in self._refused_roles:
            raise self._refused_roles[role]
        try:
            return super()._load_targets(role, parent_role)
        except DownloadHTTPError as error:
            if role == Targets.type or error.status_code not in _NOT_THERE:
                raise
            refused: RepositoryError = RepositoryError(f"its metadata is not there (answered {error.status_code})")
        except RepositoryError as error:
            if role == Targets.type:
                raise
            refused = error
        self._refused_roles[role] = refused
        raise refused


def _children(role: Targets) -> list[str]:
    """The roles that one delegates to, in the order in which they are asked."""
    if role.delegations is None:
        return []
    if role.delegations.succinct_roles is not None:
        return list(islice(role.delegations.succinct_roles.get_roles(), _BOUNDS.max_delegations + 1))
    return list(role.delegations.roles or {})


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
