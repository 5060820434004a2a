"""A backend on a real loopback socket that does as it is told, also what no backend should, and checks every request.

It speaks raw bytes, so that it can misbehave: answer late, never, in drips, cut off, with the wrong length or with
garbage. It keeps each request, and refuses to be left in peace where one broke the wire contract's header or privacy
rules: each test with it is a privacy test.
"""

import asyncio
import gzip
import json
import socket
import ssl
import struct
from collections import deque
from collections.abc import Callable, Mapping
from contextlib import suppress
from dataclasses import dataclass, field
from http import HTTPStatus
from pathlib import Path
from typing import Any, Self

import trustme

from sentinel_sync.settings import CloudSettings
from tests.fakes.wire_rules import Seen, WireRules

API_KEY = "key-of-the-tests"
VEHICLE = "vehicle_001"
FLEET = "fleet_alpha"
#: Seconds that a test waits for a request before it is called missing: a process starts in ten where others are busy.
PATIENCE = 30.0


@dataclass(frozen=True, slots=True)
class Answer:
    """One answer, and how it goes wrong.

    Attributes:
        after: Nothing is sent before this is set.
        before_body: The head goes out, the body only when this is set.
        declared: `Content-Length`, where it is not the body's length.
        cut: Only so many bytes of the whole answer go out before the connection ends; 0 is none.
        reset: The connection ends with RST rather than FIN.
        raw: These bytes instead of an HTTP answer.
        silent: Never answers.
        drip: Seconds between one byte of the body and the next.
        early: Answers without reading the request's body.
        endless: Sent over and over as the body, until the client hangs up; `FakeCloud.pushed` counts the bytes.
    """

    status: int = 200
    body: bytes = b""
    headers: Mapping[str, str] = field(default_factory=dict)
    after: asyncio.Event | None = None
    before_body: asyncio.Event | None = None
    declared: int | None = None
    cut: int | None = None
    reset: bool = False
    raw: bytes | None = None
    silent: bool = False
    drip: float | None = None
    early: bool = False
    endless: bytes | None = None


def json_answer(status: int = 200, data: Any = None, headers: Mapping[str, str] | None = None) -> Answer:
    """An answer with a JSON body."""
    body = json.dumps({} if data is None else data).encode()
    return Answer(status, body, {"Content-Type": "application/json", **(headers or {})})


def problem(status: int, title: str = "", detail: str = "", headers: Mapping[str, str] | None = None) -> Answer:
    """An error as RFC 9457 has it."""
    body = json.dumps({"type": "about:blank", "title": title, "status": status, "detail": detail}).encode()
    return Answer(status, body, {"Content-Type": "application/problem+json", **(headers or {})})


def portal(status: int = 200) -> Answer:
    """A login page in between."""
    return Answer(status, b"<!doctype html><title>Free WiFi</title><p>Log in", {"Content-Type": "text/html"})


def redirect(location: str, status: int = 302) -> Answer:
    """Go elsewhere."""
    return Answer(status, b"moved", {"Location": location})


def refused(status: int = 401) -> Answer:
    """The credential is refused."""
    return problem(status, "Unauthorized", "unknown key")


def gzipped(answer: Answer) -> Answer:
    """The same, packed."""
    return Answer(answer.status, gzip.compress(answer.body), {**answer.headers, "Content-Encoding": "gzip"})


Handler = Callable[[Seen], Answer]


class FakeCloud:
    """A scripted backend. Use as an async context manager; leaving it raises where a request broke the contract.

    Args:
        tls: A server's context; then `url` is https.
        stranger: It is not the host of `api_url`: no credential may come.
        host: The name in `url`.
    """

    def __init__(self, *, tls: ssl.SSLContext | None = None, stranger: bool = False, host: str = "127.0.0.1") -> None:
        self._tls = tls
        self._host = host
        self._server: asyncio.Server | None = None
        self._conversations: set[asyncio.Task[None]] = set()
        self._writers: set[asyncio.StreamWriter] = set()
        self._scripts: dict[tuple[str, str], deque[Answer]] = {}
        self._arrived = asyncio.Condition()
        self._port = 0
        self.rules = WireRules(VEHICLE, FLEET, None if stranger else {API_KEY}, is_stranger=stranger)
        self.handler: Handler = well_behaved
        self.requests: list[Seen] = []
        self.violations: list[str] = []
        self.connections = 0
        self.open_now = 0
        self.most_open = 0
        self.pushed = 0

    @property
    def url(self) -> str:
        return f"{'https' if self._tls else 'http'}://{self._host}:{self._port}"

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, kind: type[BaseException] | None, *_: object) -> None:
        await self.stop()
        if kind is None:
            assert not self.violations, "\n".join(self.violations)

    async def start(self) -> None:
        """Listen, on the same port as before where there was one."""
        self._server = await asyncio.start_server(self._accept, "127.0.0.1", self._port, ssl=self._tls, limit=1 << 20)
        self._port = self._server.sockets[0].getsockname()[1]

    async def stop(self) -> None:
        """Be gone: connections are refused, those that stand are cut."""
        if self._server is not None:
            self._server.close()
            self._server = None
        for writer in list(self._writers):
            writer.transport.abort()
        for conversation in list(self._conversations):
            conversation.cancel()
        await asyncio.gather(*self._conversations, return_exceptions=True)

    def script(self, method: str, path: str, *answers: Answer) -> None:
        """Give these answers to the next requests of this method and path; then `handler` has the word again."""
        self._scripts.setdefault((method, path), deque()).extend(answers)

    def to(self, method: str, path: str | None = None) -> list[Seen]:
        """The requests so far of a method, and path if given."""
        return [seen for seen in self.requests if seen.method == method and path in {None, seen.path}]

    async def received(self, count: int = 1, *, method: str | None = None, path: str | None = None) -> list[Seen]:
        """Wait until so many requests (of a method, of a path) have come in; returns them."""

        def matching() -> list[Seen]:
            return [seen for seen in self.requests if method in {None, seen.method} and path in {None, seen.path}]

        async with asyncio.timeout(PATIENCE), self._arrived:
            await self._arrived.wait_for(lambda: len(matching()) >= count)
        return matching()

    def _accept(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        self.connections += 1
        self._writers.add(writer)
        task = asyncio.get_running_loop().create_task(self._converse(reader, writer))
        self._conversations.add(task)
        task.add_done_callback(self._conversations.discard)
        # Also where the task was cancelled before it began.
        task.add_done_callback(lambda _: writer.close())

    async def _converse(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while await self._exchange(reader, writer):
                pass
        except (ConnectionError, asyncio.IncompleteReadError, ssl.SSLError):
            pass  # the client hung up
        finally:
            self._writers.discard(writer)
            writer.close()
            with suppress(ConnectionError, ssl.SSLError):
                await writer.wait_closed()

    async def _exchange(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> bool:
        head = (await reader.readuntil(b"\r\n\r\n")).decode("latin-1")
        start, *lines = head.rstrip("\r\n").split("\r\n")
        method, target, _ = start.split(" ")
        headers = {name.strip().lower(): value.strip() for name, _, value in (line.partition(":") for line in lines)}
        at = asyncio.get_running_loop().time()
        scripted = self._scripts.get((method, target.partition("?")[0]))
        answer = scripted.popleft() if scripted else None
        early = answer is not None and answer.early
        self.open_now += 1
        self.most_open = max(self.most_open, self.open_now)
        try:
            body = b"" if early else await _read_body(reader, headers)
            seen = Seen(method, target, headers, body, at)
            self.violations += self.rules.violations(seen)
            if answer is None:
                answer = self.handler(seen)
            async with self._arrived:
                self.requests.append(seen)
                self._arrived.notify_all()
            if 300 <= answer.status < 400:
                self.rules.expect_again(seen)
            return await self._give(answer, method, reader, writer)
        finally:
            self.open_now -= 1

    async def _give(
        self, answer: Answer, method: str, reader: asyncio.StreamReader, writer: asyncio.StreamWriter
    ) -> bool:
        """Send an answer; returns whether the connection goes on."""
        if answer.after is not None:
            await answer.after.wait()
        if answer.silent:
            await reader.read()  # until the client hangs up
            return False
        if answer.raw is not None:
            writer.write(answer.raw)
            await writer.drain()
            return False
        head, body = _head_of(answer), b"" if method == "HEAD" else answer.body
        if answer.cut is not None:
            writer.write((head + body)[: answer.cut])
            await writer.drain()
            if answer.reset:
                _reset(writer)
            return False
        writer.write(head)
        await writer.drain()
        if answer.before_body is not None:
            await answer.before_body.wait()
        await self._give_body(answer, body, writer)
        return not answer.early and answer.declared in {None, len(body)}

    async def _give_body(self, answer: Answer, body: bytes, writer: asyncio.StreamWriter) -> None:
        if answer.endless is not None:
            while True:
                writer.write(answer.endless)
                await writer.drain()
                self.pushed += len(answer.endless)
        if answer.drip is not None:
            for byte in body:
                writer.write(bytes([byte]))
                await writer.drain()
                await asyncio.sleep(answer.drip)
            return
        writer.write(body)
        await writer.drain()


def well_behaved(seen: Seen) -> Answer:
    """What a backend without a fault answers."""
    match seen.method, seen.path:
        case "GET", "/health":
            return json_answer(200, {"status": "ok"})
        case "POST", "/trips":
            return json_answer(201, {"trip_id": seen.json.get("trip_id"), "status": "uploaded"})
        case "POST", _:
            return json_answer(201)
        case "DELETE", _:
            return Answer(204)
    return json_answer(200)


def settings_for(cloud: FakeCloud, **overrides: Any) -> CloudSettings:
    """Settings that fit a fake backend: its address and its ids, no rate limit."""
    known = {"api_url": cloud.url, "api_key": API_KEY, "vehicle_id": VEHICLE, "fleet_id": FLEET, "rate_limit": 0}
    return CloudSettings.model_validate(known | overrides)


async def _read_body(reader: asyncio.StreamReader, headers: Mapping[str, str]) -> bytes:
    if headers.get("transfer-encoding") != "chunked":
        return await reader.readexactly(int(headers.get("content-length", "0")))
    body = b""
    while size := int((await reader.readuntil(b"\r\n")).strip(), 16):
        body += await reader.readexactly(size)
        await reader.readexactly(2)
    await reader.readexactly(2)
    return body


def _head_of(answer: Answer) -> bytes:
    lines = [f"HTTP/1.1 {answer.status} {_phrase(answer.status)}"]
    if answer.endless is None and answer.status not in {204, 304}:
        lines.append(f"Content-Length: {len(answer.body) if answer.declared is None else answer.declared}")
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    if answer.early or answer.endless is not None:
        lines.append("Connection: close")
    return "\r\n".join([*lines, "", ""]).encode("latin-1")


def _phrase(status: int) -> str:
    try:
        return HTTPStatus(status).phrase
    except ValueError:
        return "Unheard Of"


def _reset(writer: asyncio.StreamWriter) -> None:
    """End a connection with RST: what a rebooted or overrun host sends."""
    bare: socket.socket = writer.get_extra_info("socket")
    bare.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    writer.transport.abort()


def closed_port() -> int:
    """A port of this machine that refuses connections."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port: int = probe.getsockname()[1]
    return port


@dataclass(frozen=True, slots=True)
class PrivateCA:
    """A private CA, and a vehicle's certificate by it, in files."""

    authority: trustme.CA
    ca_file: Path
    client_cert_file: Path
    client_key_file: Path

    @classmethod
    def in_folder(cls, folder: Path) -> Self:
        """Make one."""
        authority = trustme.CA()
        files = cls(authority, folder / "ca.pem", folder / "vehicle.pem", folder / "vehicle.key")
        authority.cert_pem.write_to_path(files.ca_file)
        certificate = authority.issue_cert("vehicle-1.example")
        certificate.cert_chain_pems[0].write_to_path(files.client_cert_file)
        certificate.private_key_pem.write_to_path(files.client_key_file)
        return files

    def server(self, *identities: str, mutual: bool = False) -> ssl.SSLContext:
        """A server's context; `mutual` asks for a vehicle's certificate by this CA."""
        context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
        self.authority.issue_cert(*(identities or ("127.0.0.1", "localhost"))).configure_cert(context)
        if mutual:
            self.authority.configure_trust(context)
            context.verify_mode = ssl.CERT_REQUIRED
        return context
