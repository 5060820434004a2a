"""Who may ask the console for what: its own page may look, and only whoever holds the token may change anything.

A page of another origin cannot read answers (same-origin policy); a name that somebody points at this address (DNS
rebinding) is refused by the Host header; a form or script elsewhere cannot change anything, because it has neither the
token nor this origin (Fetch standard, `Origin`).
"""

import hmac
from collections.abc import Iterable
from http import HTTPStatus

from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send

_READING = frozenset({"GET", "HEAD"})
#: An action's body is a handful of words.
LARGEST_BODY = 4096
_HEADERS = {
    "Content-Security-Policy": (
        "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self'; connect-src 'self'; "
        "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
    ),
    "Cross-Origin-Opener-Policy": "same-origin",
    "Cross-Origin-Resource-Policy": "same-origin",
    "Referrer-Policy": "no-referrer",
    "X-Content-Type-Options": "nosniff",
    "X-Frame-Options": "DENY",
}


class Guard:
    """Stands before the application: checks each request, and says in each answer what a browser may do with it.

    Args:
        app: What is guarded.
        hosts: `Host` headers that this console goes by, such as `127.0.0.1:8765`.
        token: What whoever changes something must show.
    """

    def __init__(self, app: ASGIApp, hosts: Iterable[str], token: str) -> None:
        self._app = app
        self._hosts = frozenset(hosts)
        self._token = token.encode()

    async def __call__(self, scope: Scope, receive: Receive, send: Send) -> None:
        """Answer one request, or have it answered."""
        if scope["type"] != "http":
            return

        async def send_with_headers(message: Message) -> None:
            if message["type"] == "http.response.start":
                headers = MutableHeaders(raw=message.setdefault("headers", []))
                for name, value in _HEADERS.items():
                    headers[name] = value
                headers.setdefault("Cache-Control", "no-store")
            await send(message)

        refusal = self._refusal(scope["method"], Headers(scope=scope))
        app = self._app if refusal is None else refusal
        await app(scope, receive, send_with_headers)

    def _refusal(self, method: str, headers: Headers) -> JSONResponse | None:
        host = headers.get("Host", "")
        if host not in self._hosts:
            return _refused(HTTPStatus.MISDIRECTED_REQUEST, "this console does not go by that name")
        if method in _READING:
            return None
        if headers.get("Origin", f"http://{host}") != f"http://{host}":
            return _refused(HTTPStatus.FORBIDDEN, "only the console's own page may change anything")
        kind, _, shown = headers.get("Authorization", "").partition(" ")
        if kind.lower() != "bearer" or not hmac.compare_digest(shown.encode(), self._token):
            return _refused(
                HTTPStatus.UNAUTHORIZED, "changes take the token: open the address that the agent printed, or paste it"
            )
        length = headers.get("Content-Length", "")
        if not length.isdecimal() or int(length) > LARGEST_BODY:
            return _refused(HTTPStatus.REQUEST_ENTITY_TOO_LARGE, "an action is a few words of JSON")
        return None


def _refused(status: HTTPStatus, why: str) -> JSONResponse:
    headers = {"WWW-Authenticate": "Bearer"} if status is HTTPStatus.UNAUTHORIZED else None
    return JSONResponse({"error": why}, status, headers)
