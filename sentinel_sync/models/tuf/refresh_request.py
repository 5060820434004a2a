"""What is asked of a refresh of a TUF repository, and what comes of it; without python-tuf, which is large."""

import asyncio
import hashlib
from collections.abc import Callable, Coroutine
from concurrent.futures import CancelledError as ThreadCancelledError
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TypeVar

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    HeldError,
    NotNowError,
    RejectedError,
    SentinelSyncError,
    UnreachableError,
    VerificationError,
)
from sentinel_sync.base.tasks import wait_to_end
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.response import Download
from sentinel_sync.models.rules.tuf import RepositoryState, SignedTarget, Verified

#: Fetches the file at a URL, of at most so many bytes. Blocks; raises CloudError and VerificationError.
Fetch = Callable[[str, int], bytes]
#: No metadata file may be larger, whatever length somebody has signed for it. json.loads holds the interpreter until it
#: is done, and with it a host's loop: on the machine that this was written on for 5 ms with 1 MB, for 1 ms with this
#: much. It is room for more than a thousand targets.
LARGEST_FILE = 256 << 10
#: A host that is slower than `download_min_rate`, and at any rate than this, only keeps us busy ("slow retrieval"):
#: bytes per second, over …
LOWEST_RATE = 256
#: … so many seconds.
RATE_WINDOW = 60.0
_NOT_NOW = frozenset({408, 425, 429})

Result = TypeVar("Result")


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
        wanted: Paths of targets to look up; None for all that there are.
    """

    metadata_url: str
    root_file: Path
    folder: Path
    memory: RepositoryState | None
    now: float
    trusted_now: float
    wanted: tuple[str, ...] | None = None


@dataclass(frozen=True, slots=True)
class RefreshResult:
    """What came of it.

    Attributes:
        memory: To be kept, whether it failed or not.
        reference: The time by which expiry was judged.
        verified: What was verified, where it did not fail.
        targets: Those of all roles, each as the first says that may speak for it.
        consistent: Whether files lie under their hashes.
        expires: When the first of what they rest on expires, seconds since the epoch.
        left_aside: Roles and targets that cannot be used, each with the reason.
        error: Why it failed, or None.
    """

    memory: RepositoryState
    reference: float
    verified: Verified | None = None
    targets: tuple[SignedTarget, ...] = ()
    consistent: bool = False
    expires: float = 0.0
    left_aside: tuple[str, ...] = ()
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


async def run_fetching(client: CloudAPIClient, clock: Clock, function: Callable[[Fetch], Result]) -> Result:
    """Run a blocking function in a thread, and give it the means to fetch through the client on this loop.

    A caller that is cancelled ends the fetch under way and those to come, waits for the thread, and is cancelled then.
    """
    fetches = _Fetches(client, clock, asyncio.get_running_loop())
    return await wait_to_end(asyncio.to_thread(function, fetches.fetch), on_cancel=fetches.abandon)


class _Fetches:
    """The fetches of one such run: `fetch` is called in the thread, all else on the loop."""

    def __init__(self, client: CloudAPIClient, clock: Clock, loop: asyncio.AbstractEventLoop) -> None:
        self._client = client
        self._clock = clock
        self._loop = loop
        self._lowest_rate = max(client.settings.download_min_rate, LOWEST_RATE)
        self._task: asyncio.Task[Any] | None = None
        self._abandoned = False

    def fetch(self, url: str, limit: int) -> bytes:
        """Fetch one file of at most `limit` bytes.

        Raises:
            VerificationError: It is larger.
            NotNowError: The host asked to come back later.
            RejectedError: There is no such file for us; `status` says why.
            UnreachableError: It did not come, or too slowly.
            HeldError: It was not asked for: the gate is closed, or the refresh was abandoned.
        """
        what = f"GET {url.rpartition('/')[2]}"
        work: Coroutine[Any, Any, bytes] = self._in_task(url, min(limit, LARGEST_FILE), what)
        try:
            future = asyncio.run_coroutine_threadsafe(work, self._loop)
        except RuntimeError:
            work.close()
            raise HeldError(f"{what}: not sent: the event loop is closed") from None
        try:
            return future.result()
        except ThreadCancelledError:
            raise HeldError(f"{what}: cut off: the refresh was abandoned") from None

    def abandon(self) -> None:
        """End the fetch under way; those after it fail at once, so that the thread soon comes to its end."""
        self._abandoned = True
        if self._task is not None:
            self._task.cancel()

    async def _in_task(self, url: str, limit: int, what: str) -> bytes:
        if self._abandoned:
            raise HeldError(f"{what}: not sent: the refresh was abandoned")
        self._task = asyncio.current_task()
        try:
            async with self._client.download(url, {"Accept-Encoding": "identity"}) as download:
                _check_head(download, limit, what)
                return await self._body(download, limit, what)
        finally:
            self._task = None

    async def _body(self, download: Download, limit: int, what: str) -> bytes:
        body = bytearray()
        since, before = self._clock.monotonic(), 0
        async for chunk in download.response.aiter_raw():
            body += chunk
            if len(body) > limit:
                raise _too_large(what, limit)
            now = self._clock.monotonic()
            if now - since >= RATE_WINDOW:
                if len(body) - before < self._lowest_rate * (now - since):
                    raise UnreachableError(f"{what}: only {len(body) - before} bytes came in {now - since:.0f} s")
                since, before = now, len(body)
            download.deadline.extend()
        return bytes(body)


def _check_head(download: Download, limit: int, what: str) -> None:
    """Let an answer pass whose body may be the file."""
    status, headers = download.response.status_code, download.response.headers
    if status != 200:
        raise _told(f"{what}: answered {status}", status)
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        raise UnreachableError(f"{what}: answered with a packed body, which was not asked for", status=status)
    if headers.get("Content-Type", "").strip().lower().startswith("text/html"):
        raise UnreachableError(f"{what}: answered with a page: a login page in between?", status=status)
    length = headers.get("Content-Length", "0")
    if length.isdecimal() and int(length) > limit:
        raise _too_large(what, limit)


def _too_large(what: str, limit: int) -> VerificationError:
    name = what.removeprefix("GET ")
    return VerificationError(f"the TUF repository is refused: {name} has more than the {limit} bytes that it may have")


def _told(message: str, status: int) -> CloudError:
    # Not CredentialError: that would be the backend's word on our key, and the key does not go to this host.
    if status in _NOT_NOW or status >= 500:
        return NotNowError(message, status=status)
    if 400 <= status < 500:
        return RejectedError(message, status=status)
    return UnreachableError(message, status=status)
