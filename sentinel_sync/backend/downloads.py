"""What leaves: ETags, ranges of files, and addresses that work for a while without any other credential."""

import asyncio
import hashlib
import hmac
import json
import os
import re
from collections.abc import AsyncIterator
from pathlib import Path
from typing import Any

from fastapi import Request
from fastapi.responses import Response, StreamingResponse

from sentinel_sync.backend.problems import Problem

BLOCK = 512 * 1024
_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})")


REVALIDATE = "private, no-cache"
"""May be kept, but must be asked about: these answers change with the next trip."""


def matches(header: str | None, etag: str) -> bool:
    """Whether an `If-Match` or `If-None-Match` header names this ETag (`*` names every one)."""
    if header is None:
        return False
    candidates = [candidate.strip() for candidate in header.split(",")]
    return "*" in candidates or etag in (candidate.removeprefix("W/") for candidate in candidates)


def revalidated(request: Request, answer: Any) -> Response:
    """A JSON answer with an ETag made of its content, or 304 where the client has just that."""
    body = json.dumps(answer, ensure_ascii=False, allow_nan=False, separators=(",", ":")).encode()
    etag = f'"{hashlib.sha256(body).hexdigest()[:32]}"'
    headers = {"ETag": etag, "Cache-Control": REVALIDATE}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    return Response(body, 200, headers, "application/json")


async def send_file(request: Request, path: Path, etag: str, *, cache_control: str = "private, no-cache") -> Response:
    """Answers a GET or HEAD with a file that never changes.

    One range is served, several at once or a malformed one are not and get the whole file, as RFC 9110 allows.

    Raises:
        Problem: 416, the range starts after the end.
    """
    size = (await asyncio.to_thread(path.stat)).st_size
    headers = {"ETag": etag, "Accept-Ranges": "bytes", "Cache-Control": cache_control}
    if matches(request.headers.get("if-none-match"), etag):
        return Response(status_code=304, headers=headers)
    start, end, status = 0, size, 200
    chosen = _chosen_range(request, etag, size)
    if chosen is not None:
        start, end = chosen
        status = 206
        headers["Content-Range"] = f"bytes {start}-{end - 1}/{size}"
    headers["Content-Length"] = str(end - start)
    if request.method == "HEAD":
        return Response(status_code=status, headers=headers, media_type="application/octet-stream")
    return StreamingResponse(_blocks(path, start, end), status, headers, "application/octet-stream")


def sign(secret: bytes, *subject: str) -> str:
    """A token that nobody without the secret can make for this subject."""
    message = "".join(f"{len(word)}:{word}" for word in subject)
    return hmac.new(secret, message.encode(), hashlib.sha256).hexdigest()


def check_signature(secret: bytes, token: str, *, expires: float, now: float, subject: tuple[str, ...]) -> None:
    """Lets only a genuine, unexpired token pass.

    Raises:
        Problem: 403 for a token that was not made here for this, 410 for one that has expired.
    """
    # As bytes: `compare_digest` raises at text that is not ASCII.
    if not hmac.compare_digest(sign(secret, *subject).encode(), token.encode(errors="replace")):
        raise Problem(403, "token", "this address was not given out by the backend; ask for a new one")
    if now > expires:
        raise Problem(410, "address-expired", "this address has expired; ask for a new one")


def _chosen_range(request: Request, etag: str, size: int) -> tuple[int, int] | None:
    """The half-open range to send, None for all of it."""
    match = _RANGE.fullmatch(request.headers.get("range", "").strip())
    condition = request.headers.get("if-range")
    if match is None or (condition is not None and condition.strip() != etag):
        return None
    first, last = match.groups()
    if not first:
        if not last:
            return None
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(size, int(last) + 1) if last else size
        if last and int(last) < start:
            return None
    if start >= size:
        raise Problem(416, "range", "the range lies outside of the file", headers={"Content-Range": f"bytes */{size}"})
    return start, end


async def _blocks(path: Path, start: int, end: int) -> AsyncIterator[bytes]:
    descriptor = await asyncio.to_thread(os.open, path, os.O_RDONLY)
    try:
        while start < end:
            block = await asyncio.to_thread(os.pread, descriptor, min(BLOCK, end - start), start)
            if not block:
                raise OSError(f"a stored file is shorter than it was: {path.name}")
            start += len(block)
            yield block
    finally:
        os.close(descriptor)
