"""The transport of the shared client: a lane for what is small and urgent, and one for videos and models beside it.

Each lane has its own connections, so that a video never stands before a trip or a probe, and so that only what is bulk
carries the mark of a background transfer.
"""

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import AsyncIterator, Callable, Iterable, Iterator, Mapping
from contextlib import AsyncExitStack, contextmanager, suppress
from contextvars import ContextVar
from typing import Any, NamedTuple

import httpcore

from sentinel_sync.base.http_library import httpx

logger: logging.Logger = logging.getLogger(__name__)

#: A request's extension (httpx.Request.extensions) that sends it down the second lane; any other transport ignores it.
BULK = "sentinel_sync.bulk"
#: One that sends it over a connection of its own that nothing else has used.
FRESH = "sentinel_sync.fresh"
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


class ConnectionTrace:
    """Follows one request through httpcore ("trace" among its request extensions).

    Args:
        refusal: Says of an address that was connected to, and whether its certificate was, why nothing may go there.
    """

    def __init__(self, refusal: Callable[[str, bool], str | None]) -> None:
        self._refusal = refusal
        self._opened = self._sent = self._answered = False

    @property
    def is_reused_and_unanswered(self) -> bool:
        """Whether it went over a connection that others had used, and no answer's head came."""
        return self._sent and not self._opened and not self._answered

    async def note(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take in an event; raises httpx.ConnectError where nothing may be sent to an address, before anything is."""
        stream = facts.get("return_value")
        if isinstance(stream, httpcore.AsyncNetworkStream):
            address, *_ = stream.get_extra_info("server_addr") or ("",)
            if (why := self._refusal(str(address), event.endswith("start_tls.complete"))) is not None:
                await stream.aclose()
                raise httpx.ConnectError(why)
        if event.startswith("connection.connect_"):
            self._opened = True
        elif event.endswith("send_request_headers.started"):
            self._sent = True
        elif event.endswith("receive_response_headers.complete"):
            self._answered = True


class BulkTransport(httpx.AsyncBaseTransport):
    """Connections that are marked as background and listened to while they send.

    httpx's own transport has no argument for a network backend; the pool below it, httpcore's, has.

    Args:
        context: TLS.
        connections: So many at most.
        keep: So many of them are kept while they are idle.
        keepalive_expiry: Idle seconds after which one is given up.
        proxy: Or None.
        marked: Whether they carry DSCP CS1.
    """

    def __init__(
        self,
        context: ssl.SSLContext,
        *,
        connections: int,
        keep: int,
        keepalive_expiry: float,
        proxy: httpcore.Proxy | None,
        marked: bool,
    ) -> None:
        self._pool = httpcore.AsyncConnectionPool(
            ssl_context=context,
            proxy=proxy,
            max_connections=connections,
            max_keepalive_connections=keep,
            keepalive_expiry=keepalive_expiry,
            network_backend=BulkBackend(httpcore.AnyIOBackend(), marked=marked),
        )

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


#: DSCP class selector 1, "low-priority data" (RFC 4594 section 4.10): the upper six bits of IP's traffic class.
BACKGROUND = 8 << 2
#: So much waits in the kernel, beyond what is on its way: what is cut off, or held by a withdrawn consent, is no more.
UNSENT_BYTES = 256 << 10
#: As much as httpcore reads at once.
_READ_BYTES = 64 << 10
#: An answer that says "go on" (1xx) is none yet.
_INTERIM = (b"HTTP/1.1 1", b"HTTP/1.0 1")
#: `struct linger`: on, no time: closing discards what has not left and resets the connection.
_AT_ONCE = struct.pack("ii", 1, 0)
_EARLY = "answered before all was sent"


class BulkBackend(httpcore.AsyncNetworkBackend):
    """Opens connections through another backend, and prepares them.

    Args:
        backend: Opens them.
        marked: Whether they carry DSCP CS1.
    """

    def __init__(self, backend: httpcore.AsyncNetworkBackend, *, marked: bool) -> None:
        self._backend = backend
        self._marked = marked

    async def connect_tcp(
        self,
        host: str,
        port: int,
        timeout: float | None = None,
        local_address: str | None = None,
        socket_options: Iterable[Any] | None = None,
    ) -> httpcore.AsyncNetworkStream:
        """Open one."""
        stream = await self._backend.connect_tcp(host, port, timeout, local_address, socket_options)
        if (opened := stream.get_extra_info("socket")) is not None:
            self._prepare(opened)
        return BulkStream(stream)

    async def sleep(self, seconds: float) -> None:
        """As the other backend does."""
        await self._backend.sleep(seconds)

    def _prepare(self, opened: socket.socket) -> None:
        try:
            opened.setsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT, UNSENT_BYTES)
            if not self._marked:
                return
            if opened.family == socket.AF_INET6:
                opened.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS, BACKGROUND)
            else:
                opened.setsockopt(socket.IPPROTO_IP, socket.IP_TOS, BACKGROUND)
        except OSError as error:
            # A courtesy to others on the link: no reason not to send.
            logger.info("cloud.background: the connection cannot be marked (%s)", error.strerror)


class BulkStream(httpcore.AsyncNetworkStream):
    """One connection."""

    def __init__(self, stream: httpcore.AsyncNetworkStream) -> None:
        self._stream = stream
        self._listening: asyncio.Task[bool] | None = None
        self._writing: asyncio.Timeout | None = None
        self._heard = bytearray()
        self._news = asyncio.Event()
        self._answered = False
        self._unanswered = False

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, unless an answer comes first.

        Raises:
            httpcore.WriteError: It did; httpcore then reads it.
        """
        self._unanswered = True
        self._listen()
        if self._answered:
            raise httpcore.WriteError(_EARLY)
        try:
            async with asyncio.timeout(None) as self._writing:
                await self._stream.write(buffer, timeout)
        except TimeoutError:
            raise httpcore.WriteError(_EARLY) from None
        finally:
            self._writing = None

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive what was heard meanwhile, or wait for it."""
        if not self._heard and self._is_listening():
            await self._wait_for_news(timeout)
        self._unanswered = False
        if self._heard:
            heard = bytes(self._heard[:max_bytes])
            del self._heard[:max_bytes]
            return heard
        if self._listening is not None and self._listening.result():
            return b""
        return await self._stream.read(max_bytes, timeout)

    async def aclose(self) -> None:
        """Close it; what was handed to the kernel for a request that is given up goes no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait({listening})
        if self._unanswered and (opened := self._stream.get_extra_info("socket")) is not None:
            with suppress(OSError):  # it is gone already
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        await self._stream.aclose()

    async def start_tls(
        self, ssl_context: ssl.SSLContext, server_hostname: str | None = None, timeout: float | None = None
    ) -> httpcore.AsyncNetworkStream:
        """Go on under TLS."""
        return BulkStream(await self._stream.start_tls(ssl_context, server_hostname, timeout))

    def get_extra_info(self, info: str) -> Any:
        """As the connection below."""
        return self._stream.get_extra_info(info)

    def _is_listening(self) -> bool:
        return self._listening is not None and not self._listening.done()

    def _listen(self) -> None:
        """Begin to listen, unless that goes on already, or what was heard has not been read."""
        if self._heard or (self._listening is not None and (not self._listening.done() or _is_over(self._listening))):
            return
        self._answered = False
        self._listening = asyncio.create_task(self._hear(), name="sync.cloud.listen")
        self._listening.add_done_callback(self._stopped_listening)

    async def _hear(self) -> bool:
        """Hear an answer's beginning, and where it comes too early, what follows; returns whether nothing more comes.

        Whatever is left unread when writing fails is lost, so there reading never rests.
        """
        while len(self._heard) < _READ_BYTES:
            piece = await self._stream.read(_READ_BYTES)
            self._heard += piece
            if not self._answered and _is_interim(piece):
                continue
            too_early = self._answered or self._writing is not None
            self._stop_writing()
            if not piece or not too_early:
                return not piece
        return False

    async def _wait_for_news(self, timeout: float | None) -> None:
        self._news.clear()
        try:
            async with asyncio.timeout(timeout):
                await self._news.wait()
        except TimeoutError:
            raise httpcore.ReadTimeout from None

    def _stopped_listening(self, listening: asyncio.Task[bool]) -> None:
        if not listening.cancelled():
            listening.exception()  # seen: perhaps nobody asks for it any more
        self._stop_writing()

    def _stop_writing(self) -> None:
        """The other side has said its last word, or gone."""
        self._answered = True
        self._news.set()
        if self._writing is not None and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())


def _is_interim(piece: bytes) -> bool:
    """Whether it is nothing but answers that say "go on"."""
    if not piece:
        return False
    while piece.startswith(_INTERIM):
        piece = piece.partition(b"\r\n\r\n")[2]
    return not piece


def _is_over(listening: asyncio.Task[bool]) -> bool:
    """Whether nothing more comes; `read` says why."""
    return listening.cancelled() or listening.exception() is not None or listening.result()


#: What one header line has besides name and value: a colon, a space, a line's end.
_PER_LINE = 4
#: What a request's or a status line has besides method, target or reason: two spaces, the version, the line's end.
_PER_START = 12

TrafficListener = Callable[[int, int], None]


class TrafficMeter:
    """Tells its listeners of traffic: heads as they are written in HTTP/1.1, bodies as they travel.

    What TLS, TCP and IP put around them is not seen here: some 3 % for a video, more for small requests.
    """

    def __init__(self) -> None:
        self._listeners: list[TrafficListener] = []

    def follow(self, listener: TrafficListener) -> None:
        """Have `listener(sent_bytes, received_bytes)` called as traffic happens: a plain function, quick."""
        self._listeners.append(listener)

    def count(self, sent_bytes: int, received_bytes: int) -> None:
        """Tell of traffic."""
        for listener in self._listeners:
            listener(sent_bytes, received_bytes)

    def count_request(self, request: httpx.Request, body_bytes: int) -> None:
        """Tell of a request's head, and of its body where that went in one piece."""
        if self._listeners:
            start = len(request.method) + len(request.url.raw_path) + _PER_START
            self.count(start + _lines(request.headers) + body_bytes, 0)

    def count_answer(self, response: httpx.Response, body_bytes: int) -> None:
        """Tell of an answer's head, and of what was read of its body."""
        if self._listeners:
            self.count(0, len(response.reason_phrase) + _PER_START + _lines(response.headers) + body_bytes)


class CountedStream(httpx.AsyncByteStream):
    """A body that is counted while it is read: of a large file somebody wants to know before its end."""

    def __init__(self, stream: httpx.AsyncByteStream, meter: TrafficMeter) -> None:
        self._stream = stream
        self._meter = meter

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Pass the pieces on."""
        async for piece in self._stream:
            self._meter.count(0, len(piece))
            yield piece

    async def aclose(self) -> None:
        """Close what is below."""
        await self._stream.aclose()


def _lines(headers: httpx.Headers) -> int:
    return sum(len(name) + len(value) + _PER_LINE for name, value in headers.raw) + 2


#: A filter counts only on the very logger that a record is made with, so each is named (httpx 0.28, httpcore 1.0).
_LOGGERS = ("httpx", "httpcore.connection", "httpcore.http11", "httpcore.http2", "httpcore.proxy", "httpcore.socks")
_ours: ContextVar[bool] = ContextVar("sentinel_sync_request", default=False)


def _is_theirs(_record: logging.LogRecord) -> bool:
    return not _ours.get()


def mute() -> None:
    """Install the filter; again is once."""
    for name in _LOGGERS:
        logging.getLogger(name).addFilter(_is_theirs)


@contextmanager
def unlogged() -> Iterator[None]:
    """Drop what httpx and httpcore log in this task meanwhile."""
    token = _ours.set(True)
    try:
        yield
    finally:
        _ours.reset(token)
