"""What goes over the wire of a recording: files made ready once, and bodies of requests that stream them."""

import contextlib
import hashlib
import os
import secrets
import zlib
from collections.abc import AsyncIterator, Callable, Mapping
from pathlib import Path

from sentinel_sync.base.errors import StoreError
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.scenarios.bandwidth import BandwidthLimit
from sentinel_sync.scenarios.part_file import OpenPart
from sentinel_sync.scenarios.recordings import open_part
from sentinel_sync.scenarios.rules.annotations import AnnotationFilter
from sentinel_sync.scenarios.rules.plan import Part, PartFile

#: Read and packed at once.
BLOCK_BYTES = 256 << 10
#: Hashed in one go off the loop: a cancelled caller waits for no more.
_HASH_BYTES = 8 << 20
#: zlib's window bits for "with a gzip header"; the header holds no time, so the same file is the same bytes.
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
_GZIP_LEVEL = 6


class FileBody:
    """A range of an open file as a request's body; iterate it once.

    Args:
        source: The file.
        begin: Its first byte that goes.
        end: The first that does not.
        before: What goes before the file's bytes.
        after: What goes after them.
        pace: How fast they may go.
        on_progress: Told up to where the file's bytes have been handed to the network.

    Attributes:
        size_bytes: Of the whole body.
        reached: Up to where the file's bytes were taken out of it.
    """

    def __init__(
        self,
        source: OpenPart,
        begin: int,
        end: int,
        *,
        before: bytes = b"",
        after: bytes = b"",
        pace: BandwidthLimit,
        on_progress: Callable[[int], None],
    ) -> None:
        self._source = source
        self._begin = begin
        self._end = end
        self._before = before
        self._after = after
        self._pace = pace
        self._on_progress = on_progress
        self.size_bytes = len(before) + end - begin + len(after)
        self.reached = begin

    async def __aiter__(self) -> AsyncIterator[bytes]:
        """Give the body in pieces.

        Raises:
            ScenarioError: The file has become shorter, or cannot be read any more.
        """
        if self._before:
            yield self._before
        async for block in self._source.pieces(self._begin, self._end):
            for piece in self._pace.cut(block):
                await self._pace.wait(len(piece))
                self.reached += len(piece)
                yield piece
                self._on_progress(self.reached)
        if self._after:
            yield self._after


def multipart_around(name: str) -> tuple[dict[str, str], bytes, bytes]:
    """What goes around a video as `multipart/form-data` of one part, whose field and file name are the video's.

    Returns:
        Headers of the request, what goes before the file, and what goes after it.
    """
    boundary = secrets.token_hex(16)
    # Names have no quotation marks, slashes or control characters (scenarios/rules/plan.py), so they need no escaping.
    before = (
        f"--{boundary}\r\n"
        f'Content-Disposition: form-data; name="{name}"; filename="{name}"\r\n'
        "Content-Type: video/mp4\r\n\r\n"
    )
    headers = {"Content-Type": f"multipart/form-data; boundary={boundary}"}
    return headers, before.encode(), f"\r\n--{boundary}--\r\n".encode()


def plain_headers(encoding: str | None) -> Mapping[str, str]:
    """Headers of a request whose body is the annotations as they are."""
    headers = {"Content-Type": "application/json"}
    return headers if encoding is None else {**headers, "Content-Encoding": encoding}


async def original_file(folder: Path, part: Part, note: str | None) -> PartFile:
    """Make a video ready to go as it was recorded.

    Args:
        folder: The recording.
        part: The video.
        note: Why it goes so, although it was to be compressed; or None.

    Raises:
        ScenarioError: The file is not what was queued.
    """
    file = await run_to_end(open_part, folder, part)
    source = OpenPart(file, part.name, part.size_bytes)
    async with source:
        digest = hashlib.sha256()
        for begin in range(0, part.size_bytes, _HASH_BYTES):
            await run_to_end(source.feed, digest, begin, min(part.size_bytes, begin + _HASH_BYTES))
    return PartFile(None, part.size_bytes, digest.hexdigest(), note=note)


async def annotations_file(folder: Path, part: Part, path: Path, *, packed: bool = True) -> PartFile:
    """Make what may leave of the annotations, at `path`; it is there whole or not at all.

    Args:
        folder: The recording.
        part: Its annotations.
        path: In the derived folder.
        packed: Whether as gzip.

    Raises:
        ScenarioError: The file is not what was queued, or not JSON.
        StoreError: `path` cannot be written.
    """
    beside = path.with_name(f".{path.name}.{secrets.token_hex(4)}.new")
    try:
        maker = _AnnotationsMaker(folder, part, beside, packed=packed)
        try:
            await run_to_end(maker.open)
            # Piece by piece, so that a cancelled caller leaves at once and nothing half made.
            while await run_to_end(maker.step):
                pass
            size_bytes = await run_to_end(maker.finish, path)
        except BaseException:
            await run_to_end(maker.give_up)
            raise
    except OSError as error:
        raise StoreError(f"the annotations of a scenario cannot be packed on disk ({error.strerror})") from None
    return PartFile(path.name, size_bytes, maker.digest.hexdigest(), "gzip" if packed else None)


class _AnnotationsMaker:
    """Reads, filters, packs and hashes a file, a piece per step. Its methods block: call them off the loop."""

    def __init__(self, folder: Path, part: Part, beside: Path, *, packed: bool) -> None:
        self._folder = folder
        self._part = part
        self._beside = beside
        # Opened by a call of its own: whoever is cancelled while it is made could give up nothing that he never got.
        self._files = contextlib.ExitStack()
        self._filter = AnnotationFilter()
        self._gzip = zlib.compressobj(_GZIP_LEVEL, zlib.DEFLATED, _GZIP_WINDOW) if packed else None
        self.digest = hashlib.sha256()

    def open(self) -> None:
        """Open both files."""
        self._source = self._files.enter_context(open_part(self._folder, self._part))
        self._beside.parent.mkdir(mode=0o700, exist_ok=True)
        self._target = self._files.enter_context(self._beside.open("xb"))

    def step(self) -> bool:
        """Do the next piece; False once all is done."""
        block = self._source.read(BLOCK_BYTES)
        passed = self._filter.feed(block) if block else self._filter.finish()
        self._write(passed if self._gzip is None else self._gzip.compress(passed))
        if not block and self._gzip is not None:
            self._write(self._gzip.flush())
        return bool(block)

    def finish(self, path: Path) -> int:
        """Put it in its place, also for after a power cut: its hash will be on disk too. Returns its size."""
        self._target.flush()
        os.fsync(self._target.fileno())
        size_bytes = self._target.tell()
        self._files.close()
        self._beside.replace(path)
        return size_bytes

    def give_up(self) -> None:
        """Leave nothing behind."""
        with contextlib.suppress(OSError):  # a full disk, or no folder: what could not be written is not wanted
            self._beside.unlink(missing_ok=True)
        with contextlib.suppress(OSError):
            self._files.close()

    def _write(self, piece: bytes) -> None:
        self._target.write(piece)
        self.digest.update(piece)
