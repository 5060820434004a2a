"""A small HTTP/1.1 server on loopback whose answers a test writes itself: for what no decent backend would say."""

import asyncio
import json
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from http import HTTPStatus
from typing import Any
from urllib.parse import parse_qs, urlsplit


@dataclass(frozen=True, slots=True)
class Asked:
    """One request as it came; header names in lower case, the target as it was spelled."""

    method: str
    target: str
    headers: dict[str, str]
    body: bytes

    @property
    def path(self) -> str:
        return urlsplit(self.target).path

    @property
    def query(self) -> dict[str, str]:
        return {name: values[-1] for name, values in parse_qs(urlsplit(self.target).query).items()}


@dataclass(frozen=True, slots=True)
class Said:
    """An answer; `cut` closes the connection instead of answering."""

    status: int = 200
    body: bytes = b""
    headers: dict[str, str] = field(default_factory=dict)
    cut: bool = False

    @classmethod
    def json(cls, value: Any, status: int = 200, **headers: str) -> "Said":
        return cls(status, json.dumps(value).encode(), {"Content-Type": "application/json"} | headers)


Answerer = Callable[[Asked], Said | Awaitable[Said]]


@dataclass(slots=True)
class ScriptedServer:
    """Answers with whatever `answer` says; keeps what was asked."""

    answer: Answerer
    url: str = ""
    asked: list[Asked] = field(default_factory=list)

    async def serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while (asked := await _read(reader)) is not None:
                self.asked.append(asked)
                said = self.answer(asked)
                if not isinstance(said, Said):
                    said = await said
                if said.cut:
                    break
                writer.write(_written(said))
                await writer.drain()
        except ConnectionError:
            return  # the client went: nothing to tell
        finally:
            writer.close()


@asynccontextmanager
async def scripted(answer: Answerer) -> AsyncIterator[ScriptedServer]:
    """Serve on a free port until the block is left."""
    server = ScriptedServer(answer)
    connections: set[asyncio.Task[None]] = set()

    def connected(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.create_task(server.serve(reader, writer))
        connections.add(task)
        task.add_done_callback(connections.discard)
        # Also where the task was cancelled before it began.
        task.add_done_callback(lambda _: writer.close())

    listening = await asyncio.start_server(connected, "127.0.0.1", 0)
    server.url = f"http://127.0.0.1:{listening.sockets[0].getsockname()[1]}"
    try:
        yield server
    finally:
        listening.close()
        for task in list(connections):
            task.cancel()
        await asyncio.gather(*connections, return_exceptions=True)


async def _read(reader: asyncio.StreamReader) -> Asked | None:
    try:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").split("\r\n")
    except asyncio.IncompleteReadError:
        return None
    method, target, _ = head[0].split(" ", 2)
    headers = {name.lower(): value.strip() for name, _, value in (line.partition(":") for line in head[1:] if line)}
    body = await reader.readexactly(int(headers.get("content-length", "0")))
    return Asked(method, target, headers, body)


def _written(said: Said) -> bytes:
    lines = [f"HTTP/1.1 {said.status} {HTTPStatus(said.status).phrase}", f"Content-Length: {len(said.body)}"]
    lines += [f"{name}: {value}" for name, value in said.headers.items()]
    return "\r\n".join([*lines, "", ""]).encode("latin-1") + said.body
