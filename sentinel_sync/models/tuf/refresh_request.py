"""What is asked of a refresh of a TUF repository, and what comes of it; without python-tuf, which is large."""

import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync.base.errors import ConfigurationError, SentinelSyncError
from sentinel_sync.models.rules.tuf import Memory, SignedTarget, Verified

#: Fetches the file at a URL, of at most so many bytes. Blocks; raises CloudError and VerificationError.
Fetch = Callable[[str, int], bytes]


@dataclass(frozen=True, slots=True)
class RefreshRequest:
    """What to refresh.

    Attributes:
        metadata_url: Where the metadata is; ends with a slash.
        root_file: The root metadata that the vehicle was delivered with.
        folder: Where caches lie, one folder for each root file.
        memory: Of this repository, or of another one, or None.
        now: The time to judge expiry by, but for the memory's, seconds since the epoch.
        trusted_now: The time that nobody contradicts: what has expired by it stays expired.
    """

    metadata_url: str
    root_file: Path
    folder: Path
    memory: Memory | None
    now: float
    trusted_now: float


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """What came of it.

    Attributes:
        memory: To be kept, whether it failed or not.
        reference: The time by which expiry was judged.
        verified: What was verified, where it did not fail.
        targets: Those of the top-level role.
        consistent: Whether files lie under their hashes.
        delegates: Whether the repository has further roles, which are not asked.
        error: Why it failed, or None.
    """

    memory: Memory
    reference: float
    verified: Verified | None = None
    targets: tuple[SignedTarget, ...] = ()
    consistent: bool = False
    delegates: bool = False
    error: SentinelSyncError | None = None


def read_anchor(root_file: Path) -> bytes:
    """The root metadata that the vehicle was delivered with. Blocks.

    Raises:
        ConfigurationError: It cannot be read.
    """
    try:
        return root_file.read_bytes()
    except OSError as error:
        raise ConfigurationError(f"cloud.models.root_file cannot be read: {error.strerror}") from None


def anchor_of(root: bytes) -> str:
    """What a repository is known by here: the SHA-256 of that root metadata, in hex."""
    return hashlib.sha256(root).hexdigest()
