"""Reads an answer's body, never more of it than is wanted: also of one that unpacks to a thousand times its size."""

import asyncio
import zlib
from collections.abc import AsyncIterator

import httpx

#: So much of an error body is read (wire contract, "Answers").
MAX_ERROR_BYTES = 64 << 10
#: So much of any other answer: the largest that the contract knows is a catalogue or a year's trend, well below it.
MAX_ANSWER_BYTES = 8 << 20
#: And so many values in it. Parsing holds the interpreter, in whatever thread: two million empty objects fit into six
#: megabytes and took 0.3 s, these take some 15 ms. A comparison of a thousand vehicles by twenty metrics has 20,000.
MAX_VALUES = 100_000
#: Seconds for an error's body: its status says what to do already, the reason in it is a courtesy.
ERROR_BODY_TIMEOUT = 5.0
#: What `read_answer` can unpack.
ACCEPT_ENCODING = "gzip"

_IDENTITY = frozenset({"", "identity"})
_GZIP = frozenset({"gzip", "x-gzip"})
#: zlib's window bits for "a gzip header and trailer".
_GZIP_WINDOW = 16 + zlib.MAX_WBITS


class OversizedError(ValueError):
    """The answer is larger than any that the contract knows."""


class UnreadableError(ValueError):
    """The answer is packed in a way that was not asked for, or is damaged."""


async def read_answer(response: httpx.Response) -> bytes:
    """Read the whole body of an answer that counts.

    Raises:
        OversizedError: It is larger than MAX_ANSWER_BYTES.
        UnreadableError: It cannot be unpacked.
        httpx.HTTPError: It was cut off.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in _unpacked(response, MAX_ANSWER_BYTES + 1):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise OversizedError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return b"".join(chunks)


def refuse_crowded(body: bytes) -> None:
    """Refuse JSON that is small but would take long to parse.

    Raises:
        OversizedError: It may hold more than MAX_VALUES values.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise OversizedError(f"the answer holds more than {MAX_VALUES:,} values")


async def read_reason(response: httpx.Response) -> bytes:
    """Read what an answer that is no success says, as far as it comes: its status counts without it.

    A body that is cut off, drips, or cannot be unpacked is what was read of it until then.
    """
    body = bytearray()
    try:
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            async for chunk in _unpacked(response, MAX_ERROR_BYTES):
                body += chunk
                if len(body) >= MAX_ERROR_BYTES:
                    break
    except (httpx.HTTPError, UnreadableError, TimeoutError):
        return bytes(body)
    return bytes(body[:MAX_ERROR_BYTES])


async def _unpacked(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at most `limit` bytes each."""
    if response.is_stream_consumed:  # a transport that answers from memory has unpacked it already
        yield response.content
        return
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in _IDENTITY:
        async for raw in response.aiter_raw():
            yield raw
        return
    if encoding not in _GZIP:
        raise UnreadableError("the answer is packed in a way that was not asked for")
    unpacker = zlib.decompressobj(_GZIP_WINDOW)
    try:
        async for raw in response.aiter_raw():
            packed = raw
            while packed:
                yield unpacker.decompress(packed, limit)
                packed = unpacker.unconsumed_tail
    except zlib.error:
        raise UnreadableError("the answer cannot be unpacked") from None
    if not unpacker.eof:
        raise UnreadableError("the answer was cut off")
