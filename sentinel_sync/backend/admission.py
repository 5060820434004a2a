"""How many requests are worked on at once: beyond that, 429 at once, so that those that were let in are not slowed."""

import random

from starlette.types import ASGIApp, Receive, Scope, Send

from sentinel_sync.backend.problems import Problem

SMALL_BODY = 1 << 20
"""Bytes up to which a body counts as small: what is larger waits for a vehicle's link, not for the database."""
RETRY_AFTER = (2, 15)
"""Seconds, drawn for each refusal, so that those refused do not come back together."""
ALWAYS = frozenset({"/health", "/ready"})


class Admission:
    """Refuses small requests beyond a number under way.

    With at most N at once and a database that does R a second, who is let in waits some N/R seconds, however many
    knock. A queue without this bound grows until every request is answered too late to be of use
    (queueing by admission control, Welsh and Culler, "Adaptive Overload Control for Busy Internet Servers", 2003).
    """

    def __init__(self, app: ASGIApp, *, most: int) -> None:
        self._app = app
        self._most = most
        self._under_way = 0
        self._random = random.Random()  # noqa: S311  # spreads load, guards nothing
        # Made once: what is refused is not to cost what it is refused for.
        self._refusals = [
            Problem(429, "busy", "too many requests are under way", headers={"Retry-After": str(wait)}).response()
            for wait in range(RETRY_AFTER[0], RETRY_AFTER[1] + 1)
        ]

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answers one request, or lets it through."""
        if scope["type"] != "http" or scope["path"] in ALWAYS or not _is_small(scope):
            await self._app(scope, receive, send)
            return
        if self._under_way >= self._most:
            await self._refusals[self._random.randrange(len(self._refusals))](scope, receive, send)
            return
        self._under_way += 1
        try:
            await self._app(scope, receive, send)
        finally:
            self._under_way -= 1


def _is_small(scope: Scope) -> bool:
    headers: dict[bytes, bytes] = dict(scope["headers"])
    length = headers.get(b"content-length", b"0")
    return b"transfer-encoding" not in headers and length.isdigit() and int(length) <= SMALL_BODY
