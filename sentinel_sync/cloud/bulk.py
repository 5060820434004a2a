"""Connections for videos and models: marked as a background transfer where that is wanted, heard while they send.

A server that refuses an upload says so before its end; who only sends would learn nothing but that it broke.
"""

import asyncio
import logging
import socket
import struct
from contextlib import suppress

import httpcore

from sentinel_sync.cloud.transport import SocketBackend, SocketStream

logger: logging.Logger = logging.getLogger(__name__)

#: DSCP class selector 1, "low-priority data" (RFC 4594 section 4.10): the upper six bits of IP's traffic class.
BACKGROUND = 8 << 2
#: So much waits in the kernel, beyond what is on its way: what is cut off, or held by a withdrawn consent, is no more.
UNSENT_BYTES = 256 << 10
#: An answer that says "go on" (1xx) is none yet.
_INTERIM = (b"HTTP/1.1 1", b"HTTP/1.0 1")
#: `struct linger`: on, no time: closing discards what has not left and resets the connection.
_AT_ONCE = struct.pack("ii", 1, 0)
_EARLY = "answered before all was sent"


class BulkStream(SocketStream):
    """A connection on which an answer that comes before all is sent ends the sending, and is read."""

    def __init__(self) -> None:
        super().__init__()
        self._is_unanswered = False

    async def write(self, buffer: bytes, timeout: float | None = None) -> None:
        """Send, unless an answer comes first.

        Raises:
            httpcore.WriteTimeout: It was not taken in time.
            httpcore.WriteError: An answer came, which httpcore then reads, or the connection is no more.
        """
        self._is_unanswered = True
        await asyncio.sleep(0)  # a socket that takes all at once would let nobody else have a turn, nor hear
        await super().write(buffer, timeout)

    async def read(self, max_bytes: int, timeout: float | None = None) -> bytes:
        """Receive, as any other."""
        piece = await super().read(max_bytes, timeout)
        self._is_unanswered = False
        return piece

    async def aclose(self) -> None:
        """Close it; what was handed to the kernel for a request that is given up goes no more."""
        if self._is_unanswered and (opened := self.get_extra_info("socket")) is not None:
            with suppress(OSError):  # it is gone already
                opened.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
        await super().aclose()

    def data_received(self, data: bytes) -> None:
        """Something came: an answer, perhaps."""
        super().data_received(data)
        self._end_writing()

    def eof_received(self) -> bool:
        """The other side has said its last word."""
        goes_on = super().eof_received()
        self._end_writing()
        return goes_on

    @property
    def _is_answered(self) -> bool:
        return self._is_over or (bool(self._held) and not _is_interim(bytes(self._held)))

    def _end_writing(self) -> None:
        if self._is_answered:
            self._may_write.set()  # whoever waits for room looks, and finds that nobody listens

    def _check_writable(self) -> None:
        if self._is_answered:
            raise httpcore.WriteError(_EARLY)
        super()._check_writable()


class BulkBackend(SocketBackend):
    """Opens connections, and prepares them.

    Args:
        marked: Whether they carry DSCP CS1.
    """

    stream_type = BulkStream

    def __init__(self, *, marked: bool) -> None:
        self._marked = marked

    def prepare(self, opened: socket.socket) -> None:
        """Mark it, and let little wait in the kernel."""
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


def _is_interim(piece: bytes) -> bool:
    """Whether it is nothing but answers that say "go on"."""
    if not piece:
        return False
    while piece.startswith(_INTERIM):
        piece = piece.partition(b"\r\n\r\n")[2]
    return not piece
