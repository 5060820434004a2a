"""A backend that costs next to nothing: answers 201 to any POST and 200 to any GET, after a fixed delay.

It takes batches of trips where it is to, and `/health` says so; its answers to them are packed, as is asked for.

Runs as a process of its own, so that the client under test has its core to itself.
"""

import asyncio
import gzip
import re
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager

_BODY = b'{"status":"ok"}'
_HEAD = b"\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(_BODY)
_CREATED = b"HTTP/1.1 201 Created" + _HEAD + _BODY
_WITH_BATCHES = b'{"status":"ok","extensions":["trips-batch"]}'
_OK_HEAD = b"HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n"
_OK = {True: _OK_HEAD % len(_WITH_BATCHES) + _WITH_BATCHES, False: _OK_HEAD % len(_BODY) + _BODY}
_TRIP_ID = re.compile(rb'"trip_id":"([^"]+)"')


class _Connection(asyncio.Protocol):
    def __init__(self, delay: float, *, batches: bool) -> None:
        self._delay = delay
        self._batches = batches
        self._buffer = bytearray()
        self._transport: asyncio.Transport | None = None

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        assert isinstance(transport, asyncio.Transport)
        self._transport = transport

    def data_received(self, data: bytes) -> None:
        self._buffer += data
        while (end := self._buffer.find(b"\r\n\r\n")) >= 0:
            head = bytes(self._buffer[:end]).lower()
            length = 0
            at = head.find(b"content-length:")
            if at >= 0:
                length = int(head[at + 15 :].split(b"\r\n", 1)[0])
            if len(self._buffer) < end + 4 + length:
                return
            body = bytes(self._buffer[end + 4 : end + 4 + length])
            del self._buffer[: end + 4 + length]
            answer = _OK[self._batches] if head.startswith(b"get") else _CREATED
            if head.startswith(b"post /trips/batch"):
                answer = _batch(body)
            if self._delay:
                asyncio.get_running_loop().call_later(self._delay, self._answer, answer)
            else:
                self._answer(answer)

    def _answer(self, answer: bytes) -> None:
        if self._transport is not None and not self._transport.is_closing():
            self._transport.write(answer)


def _batch(body: bytes) -> bytes:
    results = b",".join(b'{"trip_id":"%s","status":201}' % name for name in _TRIP_ID.findall(gzip.decompress(body)))
    answer = gzip.compress(b'{"results":[%s]}' % results, mtime=0)
    return _OK_HEAD.replace(b"\r\n\r\n", b"\r\nContent-Encoding: gzip\r\n\r\n") % len(answer) + answer


async def _serve(delay: float, *, batches: bool) -> None:
    loop = asyncio.get_running_loop()
    server = await loop.create_server(lambda: _Connection(delay, batches=batches), "127.0.0.1", 0)
    print(server.sockets[0].getsockname()[1], flush=True)
    await server.serve_forever()


@contextmanager
def backend(delay: float = 0.0, *, batches: bool = False) -> Iterator[str]:
    """Start the server; gives its base URL."""
    process = subprocess.Popen(
        [sys.executable, "-m", "benchmarks.server", str(delay), "batches" if batches else ""],
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
    asyncio.run(_serve(float(sys.argv[1]), batches=bool(sys.argv[2])))
