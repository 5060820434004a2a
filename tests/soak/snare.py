"""A wire between vehicle and backend that kills the vehicle at a chosen point of a conversation.

It relays bytes, and knows of HTTP only how a request begins: whatever the vehicle's client is made of, it is killed
when the request is on the wire, in its body, or when the answer is.
"""

import asyncio
import contextlib
import os
import signal
from dataclasses import dataclass
from typing import Literal, Self
from urllib.parse import urlsplit

#: A request's beginning may be cut in two by the pieces in which it arrives.
_OVERLAP = 64
_PIECE = 4096


@dataclass(slots=True)
class Trap:
    """When to kill.

    Attributes:
        mark: How the request begins.
        where: Before it reaches the backend; within its body; or once the backend has answered, before that arrives.
        after_bytes: So much of the body is let through, where it is within.
        skip: So many such requests are let through before.
    """

    mark: bytes
    where: Literal["request", "body", "answer"]
    after_bytes: int = 0
    skip: int = 0


class Snare:
    """A proxy on a port of its own. An async context manager."""

    def __init__(self, url: str) -> None:
        parts = urlsplit(url)
        self._host, self._port = parts.hostname or "", parts.port or 80
        self._server: asyncio.Server | None = None
        self._relays: set[asyncio.Task[None]] = set()
        self._trap: Trap | None = None
        self._process: int | None = None
        self._let_through: int | None = None
        self._awaits_answer = False
        self.sprung = asyncio.Event()
        self.url = ""

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", 0)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._server is not None:
            self._server.close()
        for relay in self._relays:
            relay.cancel()
        await asyncio.gather(*self._relays, return_exceptions=True)

    def set(self, trap: Trap | None, process: int) -> None:
        """Lie in wait for a process."""
        self._trap, self._process = trap, process
        self._let_through, self._awaits_answer = None, False
        self.sprung.clear()

    def kill(self) -> None:
        """Kill it now."""
        if self._process is not None and not self.sprung.is_set():
            self.sprung.set()
            with contextlib.suppress(ProcessLookupError):  # it had ended by itself, which is found out elsewhere
                os.kill(self._process, signal.SIGKILL)

    async def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        if task is not None:
            self._relays.add(task)
            task.add_done_callback(self._relays.discard)
        with contextlib.suppress(OSError, asyncio.IncompleteReadError):
            up_reader, up_writer = await asyncio.open_connection(self._host, self._port)
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._up(reader, up_writer))
                    group.create_task(self._down(up_reader, writer))
            except* OSError:
                pass  # one side has gone
            finally:
                up_writer.close()
        writer.close()

    async def _up(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        seen = b""
        while piece := await reader.read(_PIECE):
            if not self.sprung.is_set():
                self._notice(seen[-_OVERLAP:] + piece)
                seen = piece
                if self._let_through is not None:
                    passed = piece[: self._let_through]
                    self._let_through -= len(passed)
                    writer.write(passed)
                    await writer.drain()
                    if self._let_through == 0:
                        self.kill()
                    continue
            if self.sprung.is_set():
                break
            writer.write(piece)
            await writer.drain()
        writer.close()

    def _notice(self, text: bytes) -> None:
        trap = self._trap
        if trap is None or self._let_through is not None or trap.mark not in text:
            return
        if trap.skip:
            trap.skip -= 1
        elif trap.where == "request":
            self.kill()
        elif trap.where == "body":
            self._let_through = max(1, trap.after_bytes)
        else:
            self._awaits_answer = True

    async def _down(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(_PIECE):
            if self._awaits_answer:
                self.kill()
            if self.sprung.is_set():
                break
            writer.write(piece)
            await writer.drain()
        writer.close()
