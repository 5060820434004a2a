"""Counts bytes as they go out and come in, for whoever keeps account of them."""

from collections.abc import AsyncIterator, Callable

import httpx

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
