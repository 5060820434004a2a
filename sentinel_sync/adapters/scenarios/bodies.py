"""Files as bodies of requests: streamed from disk in constant memory, with their length known before the first byte."""

import contextlib
import os
import secrets
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path
from types import TracebackType
from typing import BinaryIO, Self

import aiofiles.threadpool
from aiofiles.threadpool.binary import AsyncBufferedReader

from sentinel_sync.adapters.scenarios.recordings import open_part
from sentinel_sync.adapters.threads import run_to_end
from sentinel_sync.errors import ScenarioError
from sentinel_sync.rules.scenarios.annotations import AnnotationFilter
from sentinel_sync.rules.scenarios.plan import Part

#: Read at once: below it the hop to a thread costs more than the read, above it nothing is gained.
CHUNK_BYTES = 256 << 10
#: zlib's window bits for "with a gzip header"; the header holds no time, so the same file is the same bytes.
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6


class FileBody:
    """One open file as a request's body. An async context manager; iterate it once, within.

    Args:
        file: Open, at its start; it is closed on leaving.
        name: For errors.
        size_bytes: What it has; the request promises as much.
        headers: What the request says of the body.
        before: What goes before the file.
        after: What goes after it.
        on_progress: Told how many of the file's bytes have been handed to the network, at every read.
    """

    def __init__(
        self,
        file: BinaryIO,
        name: str,
        size_bytes: int,
        headers: Mapping[str, str],
        *,
        before: bytes = b"",
        after: bytes = b"",
        on_progress: Callable[[int], None],
    ) -> None:
        self._file: AsyncBufferedReader = aiofiles.threadpool.wrap(file)
        self._name = name
        self._size_bytes = size_bytes
        self._before = before
        self._after = after
        self._on_progress = on_progress
        self.headers = {**headers, "Content-Length": str(len(before) + size_bytes + len(after))}

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, _kind: type[BaseException] | None, _error: BaseException | None, _trace: TracebackType | None
    ) -> None:
        await self._file.close()

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the body in pieces.

        Raises:
            ScenarioError: The file has become shorter, or cannot be read any more.
        """
        if self._before:
            yield self._before
        sent = 0
        while sent < self._size_bytes:
            try:
                piece = await self._file.read(min(CHUNK_BYTES, self._size_bytes - sent))
            except OSError as error:
                raise ScenarioError(f"{self._name} cannot be read ({error.strerror})") from None
            if not piece:
                raise ScenarioError(f"{self._name} became shorter while it was sent")
            yield piece
            sent += len(piece)
            self._on_progress(sent)
        if self._after:
            yield self._after


async def video_body(folder: Path, part: Part, on_progress: Callable[[int], None]) -> FileBody:
    """A video as `multipart/form-data` of one part, whose field name and file name are the file's (wire contract).

    Raises:
        ScenarioError: The file is not what was queued.
    """
    file = await run_to_end(open_part, folder, part)
    boundary = secrets.token_hex(16)
    # Names have no quotation marks, slashes or control characters (rules/scenarios/plan.py), so they need no escaping.
    before = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{part.name}"; filename="{part.name}"\r\n'
        "Content-Type: video/mp4\r\n\r\n"
    ).encode()
    return FileBody(
        file,
        part.name,
        part.size_bytes,
        {"Content-Type": f"multipart/form-data; boundary={boundary}"},
        before=before,
        after=f"\r\n--{boundary}--\r\n".encode(),
        on_progress=on_progress,
    )


async def annotations_body(folder: Path, part: Part, packed: Path, on_progress: Callable[[int], None]) -> FileBody:
    """Annotations as gzip of what may leave of them, made once at `packed` so that the length is known.

    Raises:
        ScenarioError: The file is not what was queued, or not JSON.
        OSError: `packed` cannot be written.
    """
    await _pack(folder, part, packed)
    file = await run_to_end(_open, packed)
    size = os.fstat(file.fileno()).st_size
    headers = {"Content-Type": "application/json", "Content-Encoding": "gzip"}
    return FileBody(file, part.name, size, headers, on_progress=on_progress)


def _open(path: Path) -> BinaryIO:
    return path.open("rb")


async def _pack(folder: Path, part: Part, packed: Path) -> None:
    """Piece by piece, so that a cancelled upload ends at once and leaves nothing half made."""
    packer = await run_to_end(_Packer, folder, part, packed)
    try:
        more = True
        while more:
            more = await run_to_end(packer.step)
    except BaseException:
        await run_to_end(packer.give_up)
        raise
    await run_to_end(packer.close)


class _Packer:
    """Reads, filters and packs a file, a piece per step. Blocks: call it off the loop."""

    def __init__(self, folder: Path, part: Part, packed: Path) -> None:
        self._packed = packed
        self._source = open_part(folder, part)
        try:
            packed.parent.mkdir(mode=0o700, exist_ok=True)
            self._target = packed.open("wb")
        except BaseException:
            self._source.close()
            raise
        self._filter = AnnotationFilter()
        self._gzip = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW)

    def step(self) -> bool:
        """Do the next piece; False once all is done."""
        block = self._source.read(CHUNK_BYTES)
        passed = self._filter.feed(block) if block else self._filter.finish()
        self._target.write(self._gzip.compress(passed))
        if not block:
            self._target.write(self._gzip.flush())
        return bool(block)

    def close(self) -> None:
        """Close both files."""
        self._source.close()
        self._target.close()

    def give_up(self) -> None:
        """Leave nothing behind."""
        self._source.close()
        self._packed.unlink(missing_ok=True)
        with contextlib.suppress(OSError):  # a full disk: what could not be written is not wanted
            self._target.close()
