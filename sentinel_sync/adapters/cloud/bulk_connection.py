"""The connections that videos and models travel on: marked as background, and heard while they speak.

A server that refuses an upload at once answers, closes, and reads no further. httpcore asks for the answer only when
writing fails, and by then asyncio has thrown the connection away with the answer unread in it: a 413 came out as
ReadError, and the video would have been sent again and again. So whoever writes here listens meanwhile, and stops
where the answer comes first.
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

logger = logging.getLogger(__name__)

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
        self._listening: asyncio.Task[bytes] | None = None
        self._writing: asyncio.Timeout | None = None
        self._heard = b""
        self._unanswered = False

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, unless an answer comes first.

        Raises:
            httpcore.WriteError: It did; httpcore then reads it.
        """
        self._unanswered = True
        self._listen()
        if self._is_answered():
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
        if self._heard:
            heard, self._heard = self._heard[:max_bytes], self._heard[max_bytes:]
            return heard
        listening = self._listening
        if listening is None:
            return await self._stream.read(max_bytes, timeout)
        done, _ = await asyncio.wait({listening}, timeout=timeout)
        if not done:
            raise httpcore.ReadTimeout
        if self._listening is not listening:
            raise httpcore.ReadError("the connection was closed meanwhile")
        self._listening = None
        self._heard, self._unanswered = listening.result(), False
        return await self.read(max_bytes, timeout) if self._heard else b""

    async def aclose(self) -> None:
        """Close it; what was handed to the kernel for a request that is given up goes no more."""
        listening, self._listening = self._listening, None
        if listening is not None:
            listening.cancel()
            await asyncio.wait({listening})
            if not listening.cancelled():
                listening.exception()  # seen: nobody asks for it any more
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

    def _listen(self) -> None:
        if self._listening is None:
            self._listening = asyncio.create_task(self._stream.read(_READ_BYTES), name="sync.cloud.listen")
            self._listening.add_done_callback(self._stop_writing)

    def _stop_writing(self, _: asyncio.Task[bytes]) -> None:
        if self._writing is not None and self._is_answered() and not self._writing.expired():
            self._writing.reschedule(asyncio.get_running_loop().time())

    def _is_answered(self) -> bool:
        """Whether the other side has said its last word, or gone."""
        listening = self._listening
        if listening is None or not listening.done() or listening.cancelled():
            return False
        if listening.exception() is None and listening.result().startswith(_INTERIM):
            self._heard += listening.result()
            self._listening = None
            self._listen()
            return False
        return True
