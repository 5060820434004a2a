"""Connections for videos and models: marked as a background transfer where that is wanted, heard while they send.

A server that refuses an upload says so before its end; who only sends would learn nothing but that it broke.
"""

import asyncio
import logging
import socket
import ssl
import struct
from collections.abc import Iterable
from contextlib import suppress
from typing import Any

import httpcore

logger: logging.Logger = logging.getLogger(__name__)

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
        await asyncio.sleep(0)  # a socket that takes all at once would let nobody else have a turn, nor hear
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
