"""Makes the new file out of the old one and a delta. Blocks: call it off the loop.

It runs beside the host's loop, so it works in pieces of at most a MiB: what holds the interpreter (sums, the
copy that zstd's binding makes of a source) takes a few milliseconds at a time, the rest lets go of it.
"""

import hashlib
import os
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from threading import Event
from types import ModuleType
from typing import BinaryIO

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.files import file_error
from sentinel_sync.cloud.download import Target
from sentinel_sync.models.rules.delta import HEADER, MAGIC, MAX_WINDOW_LOG, Block, Method, read_block, restored

#: Seconds between blocks in which the host's loop gets its turn. Letting go of the interpreter for a moment only, as
#: reading, hashing and unpacking do, is not enough: this thread would have it back before the other is awake. On a
#: crowded machine the loop was late half as long (at the 99th percentile) as with 0.1 ms; 50 MB take 0.05 s longer.
_PAUSE = 500e-6


@dataclass(frozen=True, slots=True)
class _Inputs:
    """What a file is made of: descriptors, and the old file's size."""

    delta: int
    old: int
    old_size: int


def load_zstd() -> ModuleType:
    """Import the library: from Python 3.14 on the standard one, before it the same one from the package index.

    Raises:
        VerificationError: It is not installed.
    """
    try:
        return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")
    except ImportError:
        raise VerificationError("deltas need their extra: pip install 'sentinel-sync[delta]'") from None


def apply_delta(delta: Path, old: Path, result: Path, target: Target, stop: Event) -> None:
    """Write the new file, hashed on the way and durable in the end, to `result`; it takes less than 10 MB of memory.

    Args:
        delta: Whole and of the right checksum.
        old: The file that it was made against.
        result: Where the new file comes; overwritten.
        target: Its size and checksum, as signed.
        stop: Set where nobody waits for it any more.

    Raises:
        VerificationError: It cannot be applied, or what came out is not what was signed; nothing of it stays.
        StoreError: The disk is full or cannot be written; nothing of it stays.
    """
    zstd = load_zstd()
    try:
        _write(zstd, delta, old, result, target, stop)
    except BaseException as error:
        result.unlink(missing_ok=True)
        match error:
            case OSError():
                raise file_error(error, result) from None
            case MemoryError():
                raise VerificationError("the delta is refused: there is too little memory") from None
        raise


def _write(zstd: ModuleType, delta: Path, old: Path, result: Path, target: Target, stop: Event) -> None:
    digest, size = hashlib.sha256(), 0
    with delta.open("rb") as delta_file, old.open("rb") as old_file, _created(result) as writing:
        inputs = _Inputs(delta_file.fileno(), old_file.fileno(), os.fstat(old_file.fileno()).st_size)
        for piece in _pieces(zstd, inputs, target.size):
            if stop.wait(_PAUSE):
                raise VerificationError("the delta is not applied: the work was called off")
            digest.update(piece)
            writing.write(piece)
            size += len(piece)
        if size != target.size or digest.hexdigest() != target.checksum:
            raise VerificationError("the delta is refused: what it makes is not what was signed")
        writing.flush()
        os.fsync(writing.fileno())


def _created(path: Path) -> BinaryIO:
    path.unlink(missing_ok=True)
    flags = os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW | os.O_CLOEXEC
    return os.fdopen(os.open(path, flags, 0o600), "wb")


def _pieces(zstd: ModuleType, inputs: _Inputs, size: int) -> Iterator[bytes]:
    """The new file, block by block; never more than `size` bytes."""
    if os.pread(inputs.delta, len(MAGIC), 0) != MAGIC:
        raise VerificationError("the delta is refused: it is of another version of the format")
    place, missing = len(MAGIC), size
    while header := os.pread(inputs.delta, HEADER.size, place):
        block = read_block(header, old_size=inputs.old_size, missing=missing)
        place += HEADER.size
        packed = os.pread(inputs.delta, block.packed, place)
        source = os.pread(inputs.old, block.source_length, block.source_offset)
        if len(packed) != block.packed or len(source) != block.source_length:
            raise VerificationError("the delta is refused: it ends within a block")
        piece = _piece(zstd, block, packed, source)
        yield piece
        place += block.packed
        missing -= len(piece)


def _piece(zstd: ModuleType, block: Block, packed: bytes, source: bytes) -> bytes:
    prefix = None
    if block.method is Method.PREFIX and source:
        prefix = zstd.ZstdDict(source, is_raw=True).as_prefix
    options = {zstd.DecompressionParameter.window_log_max: MAX_WINDOW_LOG}
    frame = zstd.ZstdDecompressor(zstd_dict=prefix, options=options)
    try:
        # One byte more than announced, so that a frame that holds more is seen, however much more it holds.
        content: bytes = frame.decompress(packed, block.length + 1)
    except zstd.ZstdError:
        raise VerificationError("the delta is refused: a block cannot be unpacked") from None
    if len(content) != block.length or not frame.eof or frame.unused_data:
        raise VerificationError("the delta is refused: a block holds something else than it says")
    return content if block.method is Method.PREFIX else restored(block.method, content, block.width, source)
