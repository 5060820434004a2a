"""Running the backend on a real socket: by itself until a signal, or inside a test's or demo's event loop."""

import asyncio
import contextlib
import ipaddress
import signal
import socket
import ssl
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path

import uvicorn
from starlette.types import Receive, Scope, Send
from uvicorn.protocols.http.h11_impl import H11Protocol

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.faults import SEVER, FaultPlan
from sentinel_sync.backend.settings import BackendSettings

SHUTDOWN_GRACE = 5
"""Seconds that requests under way get to end; what a cut upload has received is kept."""
KEEP_ALIVE = 75
"""Seconds for which an idle connection stays open: longer than clients keep theirs."""
ASKED_EVERY = 0.1
"""Seconds between two requests to connections to end, while a process stops."""
BACKLOG = 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Tls:
    """What serving https takes."""

    certificate: Path
    private_key: Path
    client_authority: Path | None = None
    """Where set, clients must show a certificate of this authority (mutual TLS)."""


def _print_line(line: str) -> None:
    sys.stdout.write(line + "\n")
    sys.stdout.flush()  # whoever started this process waits for the line, through a pipe


def serve(
    host: str = "127.0.0.1",
    port: int = 8080,
    *,
    folder: Path,
    api_keys: Sequence[str],
    settings: BackendSettings | None = None,
    faults: FaultPlan | None = None,
    tls: Tls | None = None,
    allow_plain_http: bool = False,
    announce: Callable[[str], None] = _print_line,
) -> None:
    """Runs the backend until SIGINT or SIGTERM, then ends in order; a second signal ends it at once.

    Args:
        host: Loopback by default. Keys travel in the clear over plain HTTP, so another address needs `tls` or,
            said explicitly, `allow_plain_http` (behind a proxy that does TLS).
        port: 0 takes a free one.
        folder: All that it keeps.
        api_keys: Keys that are accepted.
        settings: Everything else that can be set; `folder` and `api_keys` are ignored where this is given.
        faults: Switches fault injection on.
        tls: Serves https.
        allow_plain_http: See `host`.
        announce: Called once with a line that has the real address, when requests are answered.

    Raises:
        ValueError: The host is not loopback and neither TLS nor `allow_plain_http` was given; or no API key.
        OSError: The address can't be bound.
        RuntimeError: Another backend runs on the folder.
    """
    chosen = settings or BackendSettings(folder=folder, api_keys=tuple(api_keys))

    async def run() -> None:
        with _bound(host, port, tls, allow_plain_http=allow_plain_http) as listening:
            url = _url(listening, host, tls)
            async with _started(chosen, listening, faults, tls, signals=True) as (server, serving):
                if server.started:
                    announce(f"reference backend ready at {url}")
                await serving

    asyncio.run(run())


@asynccontextmanager
async def running_server(
    settings: BackendSettings,
    *,
    host: str = "127.0.0.1",
    port: int = 0,
    faults: FaultPlan | None = None,
    tls: Tls | None = None,
) -> AsyncIterator[str]:
    """Runs the backend in the current event loop and gives its URL; leaving the block stops it.

    Raises:
        ValueError: As for `serve`.
        OSError: As for `serve`.
        RuntimeError: As for `serve`.
    """
    with _bound(host, port, tls, allow_plain_http=False) as listening:
        async with _started(settings, listening, faults, tls, signals=False) as (server, serving):
            try:
                yield _url(listening, host, tls)
            finally:
                server.should_exit = True
                await serving


class _SeverableProtocol(H11Protocol):
    """Gives the application a way to cut its connection, as `faults` needs it."""

    def connection_made(self, transport: asyncio.Transport) -> None:  # type: ignore[override]  # as its parent
        super().connection_made(transport)
        application = self.app

        def sever(flush: bool) -> None:
            if flush:
                transport.close()
            else:
                transport.abort()

        async def with_sever(scope: Scope, receive: Receive, send: Send) -> None:
            scope.setdefault("extensions", {})[SEVER] = sever
            await application(scope, receive, send)

        self.app = with_sever


class _Server(uvicorn.Server):
    """Uvicorn's server that says when it is ready, and ends by a signal without dying of it."""

    def __init__(self, config: uvicorn.Config, *, signals: bool) -> None:
        super().__init__(config)
        self._signals = signals
        self.ready = asyncio.Event()

    async def startup(self, sockets: list[socket.socket] | None = None) -> None:
        await super().startup(sockets=sockets)
        self.ready.set()

    async def shutdown(self, sockets: list[socket.socket] | None = None) -> None:
        ending = asyncio.create_task(self._end_latecomers(), name="backend.latecomers")
        try:
            await super().shutdown(sockets=sockets)
        finally:
            ending.cancel()

    async def _end_latecomers(self) -> None:
        """Ask connections to end, again and again while this one stops.

        Uvicorn asks once, and one that is accepted in that moment is not asked: a proxy would keep it busy until the
        grace is over, and the request under way then would be answered with 500.
        """
        while True:
            await asyncio.sleep(ASKED_EVERY)
            for connection in [*self.server_state.connections]:
                if not connection.transport.is_closing():
                    connection.shutdown()

    @contextmanager
    def capture_signals(self) -> Iterator[None]:
        in_main_thread = threading.current_thread() is threading.main_thread()  # Python allows it nowhere else
        handled = (signal.SIGINT, signal.SIGTERM) if self._signals and in_main_thread else ()
        before = {number: signal.signal(number, self.handle_exit) for number in handled}
        try:
            yield
        finally:
            for number, handler in before.items():
                signal.signal(number, handler)


@asynccontextmanager
async def _started(
    settings: BackendSettings, listening: socket.socket, faults: FaultPlan | None, tls: Tls | None, *, signals: bool
) -> AsyncIterator[tuple[_Server, asyncio.Task[None]]]:
    app = create_app(settings, faults=faults)
    config = uvicorn.Config(
        app,
        http=_SeverableProtocol if faults is not None else "httptools",
        ws="none",
        lifespan="off",  # entered below, where its errors reach the caller as they are
        loop="none",
        log_config=None,
        access_log=False,  # addresses hold driver ids and download tokens
        server_header=False,
        proxy_headers=False,
        timeout_keep_alive=KEEP_ALIVE,
        timeout_graceful_shutdown=SHUTDOWN_GRACE,
        backlog=BACKLOG,
        ssl_certfile=tls.certificate if tls else None,
        ssl_keyfile=tls.private_key if tls else None,
        ssl_ca_certs=str(tls.client_authority) if tls and tls.client_authority else None,
        ssl_cert_reqs=ssl.CERT_REQUIRED if tls and tls.client_authority else ssl.CERT_NONE,
    )
    async with app.router.lifespan_context(app):
        server = _Server(config, signals=signals)
        serving = asyncio.create_task(server.serve(sockets=[listening]), name="backend.server")
        ready = asyncio.create_task(server.ready.wait(), name="backend.ready")
        try:
            await asyncio.wait([serving, ready], return_when=asyncio.FIRST_COMPLETED)
            yield server, serving
        finally:
            ready.cancel()
            server.should_exit = True
            await asyncio.wait([serving, ready])


@contextmanager
def _bound(host: str, port: int, tls: Tls | None, *, allow_plain_http: bool) -> Iterator[socket.socket]:
    if tls is None and not allow_plain_http and not _is_loopback(host):
        raise ValueError(f"{host} is not loopback: keys would travel in the clear; use TLS, or allow plain HTTP")
    family = socket.AF_INET6 if ":" in host else socket.AF_INET
    # The protocol is named because asyncio switches Nagle's algorithm off only where it is: without, an answer's
    # body would wait some 40 ms for the client to acknowledge its headers.
    with contextlib.closing(socket.socket(family, socket.SOCK_STREAM, socket.IPPROTO_TCP)) as listening:
        listening.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        listening.bind((host, port))
        yield listening


def _is_loopback(host: str) -> bool:
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _url(listening: socket.socket, host: str, tls: Tls | None) -> str:
    port: int = listening.getsockname()[1]
    shown = f"[{host}]" if ":" in host else host
    return f"{'https' if tls else 'http'}://{shown}:{port}"
