"""One file out of a `multipart/form-data` body, streamed to disk in constant memory."""

from collections.abc import Callable
from dataclasses import dataclass

from fastapi import Request
from python_multipart.exceptions import FormParserError
from python_multipart.multipart import MultipartParser, parse_options_header

from sentinel_sync.backend.callers import check_announced_size, too_large
from sentinel_sync.backend.problems import Problem
from sentinel_sync.backend.storage import IncomingFile

LARGEST_PART_HEADER = 4000
ENVELOPE = 64 * 1024
"""Bytes that boundaries and part headers may add to the file's own."""


@dataclass(frozen=True, slots=True)
class PartHeader:
    """What a part says of itself."""

    field_name: str
    filename: str


class _Parts:
    """Follows the parser, which calls back for each piece it has recognized."""

    def __init__(self, accept: Callable[[PartHeader], None]) -> None:
        self._accept = accept
        self._name = bytearray()
        self._value = bytearray()
        self._headers: dict[bytes, bytes] = {}
        self._header_size = 0
        self.parts = 0
        self.ended = False
        self.data: list[bytes] = []

    def on_part_begin(self) -> None:
        self.parts += 1
        if self.parts > 1:
            raise Problem(422, "multipart", "there must be one part only")

    def on_header_field(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._name += data[start:end]

    def on_header_value(self, data: bytes, start: int, end: int) -> None:
        self._count(end - start)
        self._value += data[start:end]

    def on_header_end(self) -> None:
        self._headers[bytes(self._name).lower()] = bytes(self._value)
        self._name.clear()
        self._value.clear()

    def on_headers_finished(self) -> None:
        disposition, options = parse_options_header(self._headers.get(b"content-disposition"))
        try:
            header = PartHeader(options.get(b"name", b"").decode(), options.get(b"filename", b"").decode())
        except UnicodeDecodeError:
            raise Problem(422, "multipart", "the names of a part must be UTF-8") from None
        if disposition != b"form-data" or not header.filename:
            raise Problem(422, "multipart", "the part must be form-data with a file name")
        self._accept(header)

    def on_part_data(self, data: bytes, start: int, end: int) -> None:
        self.data.append(data[start:end])

    def on_end(self) -> None:
        self.ended = True

    def _count(self, size: int) -> None:
        self._header_size += size
        if self._header_size > LARGEST_PART_HEADER:
            raise Problem(413, "too-large", "the headers of the part are too large")


async def receive_file(
    request: Request, into: IncomingFile, *, limit: int, accept: Callable[[PartHeader], None]
) -> None:
    """Streams the one file of the request's body into `into`.

    Args:
        request: The request; its body must not have been read.
        into: Where the bytes go.
        limit: The largest file, in bytes.
        accept: Called with the part's header before any of its bytes; raises to refuse it.

    Raises:
        Problem: 413 too large, 415 not multipart, 422 not exactly one whole file.
    """
    kind, options = parse_options_header(request.headers.get("content-type"))
    boundary = options.get(b"boundary", b"")
    if kind != b"multipart/form-data" or not boundary:
        raise Problem(415, "not-multipart", "the body must be multipart/form-data with a boundary")
    check_announced_size(request, limit + ENVELOPE)
    parts = _Parts(accept)
    parser = MultipartParser(
        boundary,
        {
            "on_part_begin": parts.on_part_begin,
            "on_header_field": parts.on_header_field,
            "on_header_value": parts.on_header_value,
            "on_header_end": parts.on_header_end,
            "on_headers_finished": parts.on_headers_finished,
            "on_part_data": parts.on_part_data,
            "on_end": parts.on_end,
        },
    )
    try:
        async for piece in request.stream():
            if piece:
                parser.write(piece)
            for data in parts.data:
                if into.size + len(data) > limit:
                    raise too_large(limit)
                await into.append(data)
            parts.data.clear()
        parser.finalize()
    except FormParserError as error:
        raise Problem(422, "multipart", f"the body is not well-formed multipart: {error}") from error
    if not parts.ended or not parts.parts:
        raise Problem(422, "multipart", "the body ends before its last boundary, or has no part")
