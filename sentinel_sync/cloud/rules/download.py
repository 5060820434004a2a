"""What an answer to a download says: go on, begin again, ask for another address, or come back later.

None is final: only the whole bytes say whether this is the file that was signed.

`If-Range` alone is not relied upon: servers are known to answer 206 although it did not match, so the ETag and the
range of every answer are compared here (RFC 9110 sections 13.1.5, 14.4).
"""

import re
from collections.abc import Mapping
from dataclasses import dataclass

_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")
_NOT_NOW = frozenset({408, 425, 429})
#: The address has expired (wire contract, Models).
_EXPIRED = frozenset({403, 410})


@dataclass(frozen=True, slots=True)
class PartialFile:
    """How much of a file is on disk.

    Attributes:
        offset: Bytes on disk.
        etag: What the server called the file that they are of, or None where it did not say.
    """

    offset: int = 0
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class TakeBody:
    """The body belongs at `offset`, and what comes after it on disk goes; the file is called `etag`."""

    offset: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class AskForAll:
    """What is on disk may be of another file: ask again, for the whole."""


@dataclass(frozen=True, slots=True)
class AskForAddress:
    """The address has expired."""


@dataclass(frozen=True, slots=True)
class IsWhole:
    """All of it is on disk."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Not now, or no file: what is on disk stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no file at this address, or not yet: a CDN may not have it."""

    reason: str


Step = TakeBody | AskForAll | AskForAddress | IsWhole | RetryLater | NotFound


def range_headers(progress: PartialFile) -> dict[str, str]:
    """Request headers that ask for the rest."""
    # Packed bytes could not be counted against the signed size, nor appended to.
    headers = {"Accept-Encoding": "identity"}
    if progress.offset:
        headers["Range"] = f"bytes={progress.offset}-"
        if progress.etag is not None and not _is_weak(progress.etag):
            headers["If-Range"] = progress.etag
    return headers


def next_step(status: int, headers: Mapping[str, str], progress: PartialFile, size: int) -> Step:
    """Read an answer.

    Args:
        status: Its status, redirects followed.
        headers: Its headers; looked up in any case.
        progress: What was asked from.
        size: Bytes that the signature promises.
    """
    if status in _EXPIRED:
        return AskForAddress()
    if status in _NOT_NOW or status >= 500:
        return RetryLater(f"answered {status}")
    if status == 416:
        if progress.offset == size:
            return IsWhole()
        return AskForAll() if progress.offset else NotFound("answered 416 to a request for the whole")
    if status not in {200, 206}:
        return NotFound(f"answered {status}")
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        return RetryLater("answered with a packed body, which was not asked for")
    if headers.get("Content-Type", "").strip().lower().startswith("text/html"):
        return RetryLater("answered with a page: a login page in between?")
    return _whole(headers, size) if status == 200 else _partial(headers, progress, size)


def _whole(headers: Mapping[str, str], size: int) -> Step:
    length = headers.get("Content-Length")
    if length is not None and (not length.isdecimal() or int(length) != size):
        return RetryLater(f"offers {length[:20]} bytes, where {size} are signed")
    return TakeBody(0, headers.get("ETag"))


def _partial(headers: Mapping[str, str], progress: PartialFile, size: int) -> Step:
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return AskForAll() if progress.offset else RetryLater("answered with a part that it does not name")
    first, last, total = match.groups()
    if total != "*" and int(total) != size:
        # Of another file, or of this one changed: asked for the whole it says so, or mends itself.
        return AskForAll() if progress.offset else RetryLater(f"offers {total} bytes, where {size} are signed")
    if int(first) != progress.offset or not int(first) <= int(last) < size:
        return AskForAll() if progress.offset else RetryLater("answered with a part that was not asked for")
    etag = headers.get("ETag")
    if progress.etag is not None and etag is not None and _opaque(etag) != _opaque(progress.etag):
        return AskForAll()
    return TakeBody(progress.offset, etag if etag is not None else progress.etag)


def _is_weak(etag: str) -> bool:
    return etag.startswith("W/")


def _opaque(etag: str) -> str:
    return etag.removeprefix("W/")
