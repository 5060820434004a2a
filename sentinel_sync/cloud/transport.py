"""The transport of the shared client: a lane for what is small and urgent, and one for videos and models beside it.

Each lane has its own connections, so that a video never stands before a trip or a probe, and so that only what is bulk
carries the mark of a background transfer.
"""

import asyncio
import socket
import ssl
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from functools import partial
from typing import Any, NamedTuple, cast

import httpcore
from aiohappyeyeballs import start_connection

from sentinel_sync.base.http_library import httpx

#: A request's extension (httpx.Request.extensions) that sends it down the second lane; any other transport ignores it.
BULK = "sentinel_sync.bulk"
#: One that sends it over a connection of its own that nothing else has used.
FRESH = "sentinel_sync.fresh"
#: Seconds between two looks for idle connections that have ended.
SWEPT_EVERY = 1.0
#: Seconds after which the next address is tried beside the one before it (RFC 8305, 5).
_NEXT_ADDRESS_AFTER = 0.25
#: So much is held of what nobody has read; then the other side has to wait.
_HELD_BYTES = 256 << 10
_HTTPCORE_ERRORS = (
    httpcore.TimeoutException,
    httpcore.NetworkError,
    httpcore.ProtocolError,
    httpcore.ProxyError,
    httpcore.UnsupportedProtocol,
)


class Lane(NamedTuple):
    """Connections of one kind.

    Attributes:
        kept: Keeps them, and uses them again.
        fresh: Keeps none: for what met one that had ended.
    """

    kept: httpx.AsyncBaseTransport
    fresh: httpx.AsyncBaseTransport


class PriorityTransport(httpx.AsyncBaseTransport):
    """Sends each request down its lane.

    Args:
        quick: For all that is small.
        bulk: For the rest.
    """

    def __init__(self, quick: Lane, bulk: Lane) -> None:
        self.quick = quick
        self.bulk = bulk

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one."""
        lane = self.bulk if request.extensions.get(BULK) else self.quick
        transport = lane.fresh if request.extensions.get(FRESH) else lane.kept
        return await transport.handle_async_request(request)

    async def aclose(self) -> None:
        """Close all connections."""
        async with AsyncExitStack() as stack:
            for transport in (*self.quick, *self.bulk):
                stack.push_async_callback(transport.aclose)


class PoolTransport(httpx.AsyncBaseTransport):
    """Connections of httpcore's under httpx: httpx's own transport has no argument for what keeps them."""

    def __init__(self, pool: "httpcore.AsyncConnectionPool | KeptConnections") -> None:
        self._pool = pool

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """Send one."""
        url = request.url
        with _as_httpx(request):
            response = await self._pool.handle_async_request(
                httpcore.Request(
                    request.method,
                    httpcore.URL(scheme=url.raw_scheme, host=url.raw_host, port=url.port, target=url.raw_path),
                    headers=request.headers.raw,
                    content=request.stream,
                    extensions=request.extensions,
                )
            )
        return httpx.Response(
            response.status, headers=response.headers, stream=_Body(response, request), extensions=response.extensions
        )

    async def aclose(self) -> None:
        """Close all connections."""
        await self._pool.aclose()


class _Body(httpx.AsyncByteStream):
    def __init__(self, response: httpcore.Response, request: httpx.Request) -> None:
        self._response = response
        self._request = request

    async def __aiter__(self) -> AsyncIterator[bytes]:
        with _as_httpx(self._request):
            async for piece in self._response.aiter_stream():
                yield piece

    async def aclose(self) -> None:
        with _as_httpx(self._request):
            await self._response.aclose()


@contextmanager
def _as_httpx(request: httpx.Request) -> Iterator[None]:
    """Raise httpx's error for httpcore's: they have the same names."""
    try:
        yield
    except _HTTPCORE_ERRORS as error:
        kind = getattr(httpx, type(error).__name__, httpx.TransportError)
        raise kind(str(error), request=request) from error


class KeptConnections:
    """Connections that are kept: one request at a time over each, the one used last is the next.

    Instead of httpcore's pool, which looks at each connection it has, and polls each idle one's socket, at the
    beginning and the end of each request: with eight a third of a small request's time (docs/measurements.md).
    For HTTP/1.1 without a proxy.

    Args:
        context: TLS.
        connections: So many requests at once, at most.
        keep: So many connections are kept for each origin while they are idle; others are closed after their request.
        keepalive_expiry: Idle seconds after which one is given up.
        backend: Opens them; by default asyncio's sockets.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        connections: int,
        keep: int,
        keepalive_expiry: float,
        backend: httpcore.AsyncNetworkBackend | None = None,
    ) -> None:
        self._context = context
        self._keep = keep
        self._keepalive_expiry = keepalive_expiry
        self._backend = backend or SocketBackend()
        self._places = asyncio.Semaphore(connections)
        #: By origin, which itself cannot be looked up; the one that was used last stands last.
        self._idle: dict[str, list[httpcore.AsyncHTTPConnection]] = {}
        self._busy: set[httpcore.AsyncHTTPConnection] = set()
        self._swept_at = float("-inf")

    async def handle_async_request(self, request: httpcore.Request) -> httpcore.Response:
        """Send one.

        Raises:
            httpcore.PoolTimeout: No place was free within the request's time-out for that.
        """
        if self._places.locked():
            try:
                async with asyncio.timeout(request.extensions.get("timeout", {}).get("pool")):
                    await self._places.acquire()
            except TimeoutError:
                raise httpcore.PoolTimeout("no free connection") from None
        else:
            await self._places.acquire()  # at once
        connection: httpcore.AsyncHTTPConnection | None = None
        try:
            connection = await self._take(request.url.origin)
            self._busy.add(connection)
            response = await connection.handle_async_request(request)
        except BaseException:
            self._places.release()
            if connection is not None:
                self._busy.discard(connection)
                await connection.aclose()
            raise
        body = _KeptBody(response, partial(self._give_back, connection, request.url.origin))
        return httpcore.Response(
            response.status, headers=response.headers, content=body, extensions=response.extensions
        )

    async def _give_back(self, connection: httpcore.AsyncHTTPConnection, origin: httpcore.Origin) -> None:
        """Take a connection back from a request that is over."""
        self._places.release()
        idle = self._idle.setdefault(str(origin), [])
        is_kept = connection in self._busy and connection.is_idle() and len(idle) < self._keep
        self._busy.discard(connection)
        if is_kept:
            idle.append(connection)
        else:
            await connection.aclose()
        # Those at the bottom are used again by a burst alone: what the server has ended of them is not to pile up. To
        # look takes a system call, which a small request is not to pay for.
        if (now := asyncio.get_running_loop().time()) - self._swept_at >= SWEPT_EVERY:
            self._swept_at = now
            while idle and idle[0].has_expired():
                await idle.pop(0).aclose()

    async def aclose(self) -> None:
        """Close all, those too that are in use: their requests end with an error."""
        connections = [*(one for kept in self._idle.values() for one in kept), *self._busy]
        self._idle.clear()
        self._busy.clear()
        async with AsyncExitStack() as stack:
            for connection in connections:
                stack.push_async_callback(connection.aclose)

    async def _take(self, origin: httpcore.Origin) -> httpcore.AsyncHTTPConnection:
        idle = self._idle.get(str(origin), [])
        while idle:
            connection = idle.pop()
            if connection.is_available() and not connection.has_expired():
                return connection
            await connection.aclose()
        return httpcore.AsyncHTTPConnection(
            origin,
            ssl_context=self._context,
            keepalive_expiry=self._keepalive_expiry,
            network_backend=self._backend,
        )


class _KeptBody:
    """An answer's body, which gives its connection back once it is closed."""

    def __init__(self, response: httpcore.Response, give_back: Callable[[], Awaitable[None]]) -> None:
        self._response = response
        self._give_back = give_back
        self._is_over = False

    def __aiter__(self) -> AsyncIterator[bytes]:
        return self._response.aiter_stream()

    async def aclose(self) -> None:
        if not self._is_over:
            self._is_over = True
            try:
                await self._response.aclose()
            finally:
                await self._give_back()


class SocketStream(asyncio.Protocol, httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(self) -> None:
        self._held = bytearray()
        self._is_over = False
        self._error: Exception | None = None
        self._reader: asyncio.Future[None] | None = None
        self._may_write = asyncio.Event()
        self._may_write.set()
        self._transport: asyncio.Transport

    # --- for httpcore ---

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive what is there, or wait for it; nothing at the end.

        Raises:
            httpcore.ReadTimeout: Nothing came in time.
            httpcore.ReadError: The connection broke.
        """
        if not self._held and not self._is_over:
            self._reader = asyncio.get_running_loop().create_future()
            try:
                async with _errors(timeout, httpcore.ReadTimeout, httpcore.ReadError):
                    await self._reader
            finally:
                self._reader = None
        if self._held:
            piece = bytes(self._held[:max_bytes])
            del self._held[:max_bytes]
            if not self._is_over and len(self._held) < _HELD_BYTES:
                self._transport.resume_reading()  # again is no harm
            return piece
        if self._error is not None:
            raise httpcore.ReadError(str(self._error)) from self._error
        return b""

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send; returns once all of it is in the kernel's hands.

        Raises:
            httpcore.WriteTimeout: It was not taken in time.
            httpcore.WriteError: The connection is no more.
        """
        if not buffer:
            return
        self._check_writable()
        self._transport.write(buffer)
        if not self._may_write.is_set():
            async with _errors(timeout, httpcore.WriteTimeout, httpcore.WriteError):
                await self._may_write.wait()
            self._check_writable()

    async def aclose(self) -> None:
        """Let go of the connection; what the kernel has not taken goes no more."""
        self._transport.abort()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on under TLS.

        Raises:
            httpcore.ConnectTimeout: The handshake was not over in time.
            httpcore.ConnectError: It failed; the text is OpenSSL's.
        """
        loop = asyncio.get_running_loop()
        try:
            async with _errors(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
                under_tls = await loop.start_tls(self._transport, self, ssl_context, server_hostname=server_hostname)
        except BaseException:
            self._transport.abort()
            raise
        if under_tls is None:  # uvloop's way to say that the connection went meanwhile
            raise httpcore.ConnectError("the connection was closed in the handshake")
        self._use(under_tls)
        return self

    def get_extra_info(self, info: str) -> Any:
        """What httpcore asks of a connection."""
        match info:
            case "is_readable":  # of an idle one: it has ended, or what it says is no answer to anything
                return bool(self._held) or self._is_over
            case "server_addr":
                return self._transport.get_extra_info("peername")
            case "client_addr":
                return self._transport.get_extra_info("sockname")
            case "socket" | "ssl_object":
                return self._transport.get_extra_info(info)
        return None

    # --- for asyncio ---

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        """It is open."""
        self._use(cast("asyncio.Transport", transport))

    def data_received(self, data: bytes) -> None:
        """Something came."""
        self._held += data
        if len(self._held) >= _HELD_BYTES:
            self._transport.pause_reading()
        self._wake_reader()

    def eof_received(self) -> bool:
        """Nothing more comes; without TLS what is being sent may still go."""
        self._is_over = True
        self._wake_reader()
        return self._transport.get_extra_info("sslcontext") is None

    def connection_lost(self, exc: Exception | None) -> None:
        """It is no more."""
        self._is_over, self._error = True, exc
        self._wake_reader()
        self._may_write.set()

    def pause_writing(self) -> None:
        """The kernel does not take as much as is written."""
        self._may_write.clear()

    def resume_writing(self) -> None:
        """It does again."""
        self._may_write.set()

    def _use(self, transport: asyncio.Transport) -> None:
        self._transport = transport
        # What is said to be sent is the kernel's. Not 0: under TLS asyncio takes an empty buffer for a full one then.
        transport.set_write_buffer_limits(high=1, low=0)

    def _wake_reader(self) -> None:
        if self._reader is not None and not self._reader.done():
            self._reader.set_result(None)

    def _check_writable(self) -> None:
        if self._transport.is_closing():
            raise httpcore.WriteError(str(self._error or "the connection is closed")) from self._error


class SocketBackend(httpcore.AsyncNetworkBackend):
    """Opens connections for httpcore, straight on asyncio's transports.

    httpcore's own stream stands on anyio, whose cancel scopes, attribute look-ups and polls are a quarter of what a
    small request costs (docs/measurements.md).
    """

    stream_type: type[SocketStream] = SocketStream

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open one.

        Raises:
            httpcore.ConnectTimeout: Nobody answered in time.
            httpcore.ConnectError: Nobody answers, or there is no such name.
        """
        loop = asyncio.get_running_loop()
        async with _errors(timeout, httpcore.ConnectTimeout, httpcore.ConnectError):
            there = await loop.getaddrinfo(host, port, type=socket.SOCK_STREAM)
            here = await loop.getaddrinfo(local_address, 0, type=socket.SOCK_STREAM) if local_address else None
            opened = await start_connection(
                there, local_addr_infos=here, happy_eyeballs_delay=_NEXT_ADDRESS_AFTER, interleave=1
            )
            try:
                for option in socket_options or ():
                    opened.setsockopt(*option)
                self.prepare(opened)
                _, stream = await loop.create_connection(self.stream_type, sock=opened)
            except BaseException:
                opened.close()
                raise
        return stream

    async def sleep(self, seconds: float) -> None:
        """Wait."""
        await asyncio.sleep(seconds)

    def prepare(self, opened: socket.socket) -> None:
        """Set what connections of a kind want of their socket; by default nothing."""


@asynccontextmanager
async def _errors(timeout: float | None, late: type[Exception], broken: type[Exception]) -> AsyncIterator[None]:
    """A time limit in seconds, and httpcore's errors for those of sockets."""
    try:
        async with asyncio.timeout(timeout):
            yield
    except TimeoutError as error:
        raise late(str(error)) from error
    except (OSError, UnicodeError) as error:  # a name that is none cannot be encoded
        raise broken(str(error)) from error
