"""ETags: what a client already has need not travel again, and what somebody else changed is not overwritten."""

import hashlib
import json
from typing import Any

from fastapi import Request
from fastapi.responses import Response

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
