"""Serves the console inside the agent's own event loop, on loopback only; who may ask it for what.

Its own page may look, and only whoever holds the token may change anything. A page of another origin cannot read
answers (same-origin policy); a name that somebody points at this address (DNS rebinding) is refused by the Host header;
a form or script elsewhere cannot change anything, because it has neither the token nor this origin (Fetch standard,
`Origin`).
"""

import asyncio
import contextlib
import hmac
import os
import secrets
import socket
from collections.abc import AsyncIterator, Iterable, Iterator
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from http import HTTPStatus
from pathlib import Path

import uvicorn
from starlette.datastructures import Headers, MutableHeaders
from starlette.responses import JSONResponse
from starlette.types import ASGIApp, Message, Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.base.files import replace_file
from sentinel_sync.console.app import ConsoleApp
from sentinel_sync.settings import is_loopback

#: In the state folder, for its owner alone: kept over a restart, so that an open page goes on working.
TOKEN_FILE_NAME = "console.token"  # noqa: S105 # the name of its file
_TOKEN_BYTES = 32
#: Seconds that an answer under way gets when the agent stops: a stream of events would go on for ever.
_GRACE = 1
_KEEP_ALIVE = 30
#: Open connections; a page takes two, and each of its streams of events one.
_MOST_CONNECTIONS = 64
#: Seconds that the head of a request may take.
_HEAD_SECONDS = 10.0
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


@dataclass(frozen=True, slots=True)
class ConsoleAddress:
    """Where a console is.

    Attributes:
        url: Of the page, to look.
        url_with_token: To change things too. The token stands behind `#`, which browsers send to nobody.
        token_file: Holds the token; readable by its owner only.
    """

    url: str
    url_with_token: str
    token_file: Path


class _Server(uvicorn.Server):
    """Uvicorn's server that leaves signals to the agent's own process, and says when it is ready."""

    def __init__(self, config: uvicorn.Config) -> None:
        super().__init__(config)
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        yield


class _BoundedProtocol(H11Protocol):
    """Uvicorn's HTTP/1.1, of which only so many are open, and none without a request for long.

    Else whoever can reach the port, token or not, takes the agent's file descriptors from it.
    """

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]
        super().connection_made(transport)
        self._head_due: asyncio.TimerHandle | None = None
        if len(self.connections) > _MOST_CONNECTIONS:
            transport.abort()
        else:
            self._await_head()

    def data_received(self, data: bytes) -> None:
        super().data_received(data)
        under_way = getattr(self, "cycle", None)  # None before the first head is whole
        if under_way is not None and not under_way.response_complete:
            self._stop_waiting()
        elif self._head_due is None:
            self._await_head()

    def connection_lost(self, exc: Exception | None) -> None:
        self._stop_waiting()
        super().connection_lost(exc)

    def _await_head(self) -> None:
        self._head_due = self.loop.call_later(_HEAD_SECONDS, self.transport.abort)

    def _stop_waiting(self) -> None:
        if self._head_due is not None:
            self._head_due.cancel()
            self._head_due = None


@asynccontextmanager
async def running_console(agent: SyncAgent, host: str, port: int) -> AsyncIterator[ConsoleAddress]:
    """Serve the console of a running agent until the block is left.

    Args:
        agent: It must be running.
        host: A loopback address.
        port: 0 takes a free one.

    Raises:
        ConfigurationError: The address is not this machine's own, or is taken.
        OSError: The token's file cannot be written.
    """
    token_file = agent.settings.cloud.state_dir / TOKEN_FILE_NAME
    token = await asyncio.to_thread(_token, token_file)
    console = ConsoleApp(agent)
    with _bound(host, port) as listening:
        name = f"[{host}]" if ":" in host else host
        address: int = listening.getsockname()[1]
        hosts = {f"{known}:{address}" for known in (name, "localhost", "127.0.0.1", "[::1]")}
        config = uvicorn.Config(
            Guard(console.app, hosts, token),
            http=_BoundedProtocol,
            ws="none",
            lifespan="off",
            loop="none",
            log_config=None,
            access_log=False,
            server_header=False,
            proxy_headers=False,
            timeout_keep_alive=_KEEP_ALIVE,
            timeout_graceful_shutdown=_GRACE,
        )
        server = _Server(config)
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="console.server")
        ready = asyncio.create_task(server.ready.wait(), name="console.ready")
        try:
            await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
            url = f"http://{name}:{address}/"
            await agent.show_console_address(url)
            yield ConsoleAddress(url, f"{url}#token={token}", token_file)
        finally:
            await agent.show_console_address(None)
            ready.cancel()
            await console.feed.close()
            server.should_exit = True
            await asyncio.wait([serving, ready])
            # What had not ended in time: it would go on talking to an agent that has stopped.
            for connection in [*server.server_state.connections]:
                if connection.transport is not None:
                    connection.transport.abort()


def _token(path: Path) -> str:
    """The token of last time, or a new one. Blocks."""
    with contextlib.suppress(OSError, UnicodeDecodeError):
        known = path.read_text(encoding="ascii").strip()
        if len(known) >= _TOKEN_BYTES and path.stat().st_mode & 0o077 == 0:
            return known
    token = secrets.token_urlsafe(_TOKEN_BYTES)
    replace_file(path, f"{token}\n".encode(), durable=False, mode=0o600)
    return token


@contextmanager
def _bound(host: str, port: int) -> Iterator[socket.socket]:
    if not is_loopback(host):
        raise ConfigurationError(f"the console is for this machine alone: {host} is not a loopback address")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            listening.bind((host, port))
        except OSError as error:
            raise ConfigurationError(
                f"the console cannot listen on {host}:{port} ({os.strerror(error.errno or 0)}): name another port"
            ) from None
        yield listening
