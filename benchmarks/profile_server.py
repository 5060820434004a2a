"""A backend for profiles that costs next to nothing: keeps the last body of each address, with an ETag.

GET answers 200, 304 or 404, PUT 200, 201 or 412. Runs as a process of its own, so that the client under test has its
core to itself.
"""

import asyncio
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_REASONS = {200: "OK", 201: "Created", 304: "Not Modified", 404: "Not Found", 412: "Precondition Failed"}


class _Shelf:
    """What was put, by address: the version and the body."""

    def __init__(self) -> None:
        self._kept: dict[bytes, tuple[int, bytes]] = {}

    def answer(self, head: bytes, body: bytes) -> bytes:
        line, *fields = head.split(b"\r\n")
        method, address, _ = line.split(b" ", 2)
        headers = {name.lower(): value.strip() for name, _, value in (field.partition(b":") for field in fields)}
        version, kept = self._kept.get(address, (0, b""))
        if method == b"GET":
            if not version:
                return _written(404, 0, b"{}")
            if headers.get(b"if-none-match") == _etag(version):
                return _written(304, version, b"")
            return _written(200, version, kept)
        wanted = headers.get(b"if-match")
        if (wanted is not None and wanted != _etag(version)) or (version and headers.get(b"if-none-match") == b"*"):
            return _written(412, version, b"{}")
        self._kept[address] = version + 1, body
        return _written(200 if version else 201, version + 1, b"{}")


class _Connection(asyncio.Protocol):
    def __init__(self, shelf: _Shelf) -> None:
        self._shelf = shelf
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end])
            at = head.lower().find(b"content-length:")
            length = int(head[at + 15 :].split(b"\r\n", 1)[0]) if at >= 0 else 0
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            if self._transport is not None and not self._transport.is_closing():
                self._transport.write(self._shelf.answer(head, body))


def _etag(version: int) -> bytes:
    return b'"%d"' % version


def _written(status: int, version: int, body: bytes) -> bytes:
    head = [
        b"HTTP/1.1 %d %s" % (status, _REASONS[status].encode()),
        b"Content-Type: application/json",
        *([b"ETag: " + _etag(version)] if version else []),
        *([] if status == 304 else [b"Content-Length: %d" % len(body)]),
    ]
    return b"\r\n".join(head) + b"\r\n\r\n" + body


async def _serve() -> None:
    shelf = _Shelf()
    server = await asyncio.get_running_loop().create_server(lambda: _Connection(shelf), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def profile_backend() -> Iterator[str]:
    """Start the server, empty; gives its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.profile_server"],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    try:
        yield f"http://127.0.0.1:{int(process.stdout.readline())}"
    finally:
        process.terminate()
        process.wait()
        process.stdout.close()


if __name__ == "__main__":
    asyncio.run(_serve())
