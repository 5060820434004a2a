"""A TCP proxy on loopback that cuts connections as a bad network does: after so many bytes, with RST."""

import asyncio
import socket
import struct
from collections import deque
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager, suppress
from urllib.parse import urlsplit

_AT_ONCE = struct.pack("ii", 1, 0)
_PIECE = 64 << 10
#: What lies in buffers on the way is lost with a cut; a real link has little of it.
_BUFFER = 64 << 10


class FaultProxy:
    """Passes bytes on between whoever connects and one server.

    Attributes:
        url: Where it listens.
        cuts: Each takes the next number of bytes from the client's side, over all connections, then cuts what is open.
        from_client: Bytes that came from the client's side.
        struck: How often it has cut.
    """

    def __init__(self, target: str) -> None:
        parts = urlsplit(target)
        self._target = (parts.hostname or "", parts.port or 80)
        self._writers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self.url = ""
        self.cuts: deque[int] = deque()
        self.from_client = 0
        self.struck = 0

    def connected(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        # A task of our own: asyncio's would complain of being cancelled.
        task = asyncio.create_task(self._converse(reader, writer))
        self._tasks.add(task)
        task.add_done_callback(self._tasks.discard)
        # Also where the task was cancelled before it began.
        task.add_done_callback(lambda _: writer.close())

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self._writers.add(writer)
        try:
            theirs, ours = await asyncio.open_connection(*self._target)
        except OSError:
            writer.transport.abort()
            return
        ours.get_extra_info("socket").setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, _BUFFER)
        ours.transport.set_write_buffer_limits(0)
        self._writers.add(ours)
        try:
            async with asyncio.TaskGroup() as group:
                group.create_task(self._pass_on(reader, ours, counted=True))
                group.create_task(self._pass_on(theirs, writer, counted=False))
        finally:
            for end in (writer, ours):
                self._writers.discard(end)
                end.close()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, counted: bool) -> None:
        with suppress(ConnectionError):
            while piece := await reader.read(_PIECE):
                if counted:
                    piece = self._taken(piece)
                writer.write(piece)
                await writer.drain()
                if counted and self.cuts and self.cuts[0] <= 0:
                    self.cuts.popleft()
                    self.cut()
                    return
        with suppress(OSError):
            writer.write_eof()

    def _taken(self, piece: bytes) -> bytes:
        if self.cuts:
            piece = piece[: self.cuts[0]]
            self.cuts[0] -= len(piece)
        self.from_client += len(piece)
        return piece

    def cut(self) -> None:
        """Reset all that is open."""
        self.struck += 1
        for writer in list(self._writers):
            bare = writer.get_extra_info("socket")
            with suppress(OSError):
                bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, _AT_ONCE)
            writer.transport.abort()

    async def stop(self) -> None:
        self.cut()
        for task in list(self._tasks):
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)


@asynccontextmanager
async def fault_proxy(target: str) -> AsyncIterator[FaultProxy]:
    """Stand between a client and `target` (a URL)."""
    proxy = FaultProxy(target)
    listening = socket.socket()
    listening.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, _BUFFER)
    listening.bind(("127.0.0.1", 0))
    server = await asyncio.start_server(proxy.connected, sock=listening, limit=_PIECE)
    proxy.url = f"http://127.0.0.1:{listening.getsockname()[1]}"
    try:
        yield proxy
    finally:
        server.close()
        await proxy.stop()
