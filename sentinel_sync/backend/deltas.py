"""Deltas between two published versions of a model (docs/deltas.md): made when first asked for, and kept.

Each piece of the new file is tried in two ways against the place in the old file where it probably was: as a zstd frame
that continues the old bytes, which suits what was replaced, inserted or moved, and as the difference of the two,
which suits weights that all moved a little. The smaller one is taken.
"""

import asyncio
import contextlib
import hashlib
import json
import logging
import mmap
import os
import struct
import sys
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import asdict, dataclass
from importlib import import_module
from pathlib import Path
from threading import Event
from types import ModuleType

from sentinel_sync.backend.storage import fresh_name, sync_folder

logger: logging.Logger = logging.getLogger("sentinel_sync.backend")

FORMAT = "zstd-blocks"
MAGIC = b"SSDELTA1"
HEADER = struct.Struct("<BBHIIIQ")
PREFIX, XOR, DIFFERENCE = 1, 2, 3
BLOCK = 512 << 10
"""Half of what a vehicle takes at once: it holds the interpreter half as long."""
SMALLEST_PREFIX = 8
"""zstd takes no shorter one."""
MARGIN = 512 << 10
"""How far before and after its probable place a piece is looked for."""
WINDOW_LOG = 22
"""4 MiB: reaches over a block and its source."""
LEVEL = 3
LARGEST_SHARE = 0.9
"""A delta that saves less than a tenth is not offered."""
LARGEST_MODEL = 2 << 30
"""A larger file is not compared: it would keep others waiting for minutes."""
PATIENCE = 15.0
"""Seconds that a vehicle's request waits for a delta to be made; without it the vehicle takes the whole file."""
CACHE_BYTES = 1 << 30

_WIDTHS = (4, 2, 1)
_SAMPLE = 64 << 10
_GOOD = 0.05
"""A piece that shrinks to this share of itself is not tried in further ways."""
_POOR = 0.5
"""A piece that does not shrink to this share has moved, perhaps: it is searched for."""
_PROBE = 64
_STRETCH = 16 << 20
"""Bytes that are searched at once."""
_MOST_SEARCHES = 8
"""Searches in a row that found nothing: after these nothing is searched for any more."""


@dataclass(frozen=True, slots=True)
class Delta:
    """A delta that may be offered; of size 0 where there is none worth it."""

    size: int
    checksum: str


class Deltas:
    """Makes deltas, one at a time in a thread of its own, and keeps them.

    Args:
        folder: Where they are kept; created when the first is made. What was not asked for longest is deleted when
            they take more than `CACHE_BYTES`.
    """

    def __init__(self, folder: Path) -> None:
        self._folder = folder
        self._thread = ThreadPoolExecutor(1, thread_name_prefix="backend-delta")
        self._stop = Event()
        self._making: dict[str, asyncio.Future[Delta | None]] = {}

    def path(self, old_checksum: str, new_checksum: str) -> Path:
        """Where the delta between two files lies, if it is there."""
        return self._folder / f"{old_checksum}-{new_checksum}.delta"

    async def between(self, old: Path, old_checksum: str, new: Path, new_checksum: str) -> Delta | None:
        """The delta from one file to another; None where it is no gain, cannot be made, or is not ready in time."""
        known = await self.kept(old_checksum, new_checksum)
        if known is not None:
            return known if known.size else None
        target = self.path(old_checksum, new_checksum)
        work = self._making.get(target.name)
        if work is None:
            loop = asyncio.get_running_loop()
            work = loop.run_in_executor(self._thread, self._make, old, new, target)
            self._making[target.name] = work
            work.add_done_callback(lambda _: self._making.pop(target.name, None))
        # A vehicle that hangs up, or does not want to wait, leaves it going on for the next one.
        await asyncio.wait({work}, timeout=PATIENCE)
        delta = work.result() if work.done() and not work.cancelled() else None
        return delta if delta is not None and delta.size else None

    async def kept(self, old_checksum: str, new_checksum: str) -> Delta | None:
        """A delta that was made before; None where none was, or it was deleted since."""
        return await asyncio.to_thread(_kept, self.path(old_checksum, new_checksum))

    async def close(self) -> None:
        """Stop what is being made; nothing half made stays."""
        self._stop.set()
        await asyncio.to_thread(self._thread.shutdown, cancel_futures=True)

    def _make(self, old: Path, new: Path, target: Path) -> Delta | None:
        try:
            self._folder.mkdir(mode=0o700, exist_ok=True)
            for leftover in self._folder.glob("*.new"):
                leftover.unlink()  # of a process that was killed; this thread is the only one that makes any
            return self._keep(old, new, target)
        except (OSError, ImportError, MemoryError) as error:
            # No vehicle goes without its model because the disk is full, or zstd is not installed.
            logger.error("deltas.failed: %s: %s", type(error).__name__, error)
            return None

    def _keep(self, old: Path, new: Path, target: Path) -> Delta | None:
        beside = target.with_name(f"{fresh_name()}.new")
        try:
            delta = make_delta(old, new, beside, self._stop)
            if self._stop.is_set():
                return None
            if delta.size:
                beside.replace(target)
            # The facts come last: where they are, so is the delta.
            facts = target.with_suffix(".json")
            beside.write_text(json.dumps(asdict(delta)), encoding="utf-8")
            beside.replace(facts)
            sync_folder(self._folder)
        finally:
            beside.unlink(missing_ok=True)
        _shrink(self._folder, CACHE_BYTES)
        return delta


def make_delta(old: Path, new: Path, target: Path, stop: Event) -> Delta:
    """Writes the delta from `old` to `new` to `target`; one of size 0, and no file, where it is no gain. Blocks.

    Args:
        old: The file that vehicles have.
        new: The file that they want.
        target: Where the delta comes.
        stop: Set where nobody wants it any more.

    Raises:
        OSError: A file cannot be read or written.
    """
    nothing = Delta(0, "")
    largest = new.stat().st_size * LARGEST_SHARE
    if max(old.stat().st_size, new.stat().st_size) > LARGEST_MODEL:
        return nothing
    digest, size = hashlib.sha256(MAGIC), len(MAGIC)
    with _mapped(old) as before, _mapped(new) as after, target.open("xb") as writing:
        writing.write(MAGIC)
        for record in _Maker(before, after).records():
            size += len(record)
            if size > largest or stop.is_set():
                break
            digest.update(record)
            writing.write(record)
        writing.flush()
        os.fsync(writing.fileno())
    if size > largest or stop.is_set():
        target.unlink()
        return nothing
    return Delta(size, digest.hexdigest())


class _Maker:
    """Goes through the new file block by block."""

    def __init__(self, old: mmap.mmap, new: mmap.mmap) -> None:
        self._zstd = _zstd()
        self._old = old
        self._new = new
        self._shift = 0
        self._fruitless = 0

    def records(self) -> Iterator[bytes]:
        """One record per block of the new file."""
        for place in range(0, len(self._new), BLOCK):
            yield self._smallest(self._new[place : place + BLOCK], place)

    def _smallest(self, piece: bytes, place: int) -> bytes:
        """Try the places where the piece may have been: moved as the one before, not at all, or as the file's end."""
        best = b""
        for shift in dict.fromkeys((self._shift, 0, len(self._old) - len(self._new))):
            best = self._smaller(best, piece, place, shift)
            if len(best) <= len(piece) * _GOOD:
                return best
        if len(best) > len(piece) * _POOR and (found := self._search(piece, place)) is not None:
            return self._smaller(best, piece, place, found)
        return best

    def _smaller(self, best: bytes, piece: bytes, place: int, shift: int) -> bytes:
        for record in (self._difference(piece, place + shift), self._continuation(piece, place + shift)):
            if record and (not best or len(record) < len(best)):
                best, self._shift = record, shift
        return best

    def _continuation(self, piece: bytes, begin: int) -> bytes:
        """A frame that may refer back to the old bytes around `begin`; to none where there are none."""
        first = max(0, begin - MARGIN)
        source = self._old[first : max(first, begin + len(piece) + MARGIN)]
        zstd = self._zstd
        options = {
            zstd.CompressionParameter.compression_level: LEVEL,
            zstd.CompressionParameter.window_log: WINDOW_LOG,
            # Without it zstd looks only a little way back into a prefix.
            zstd.CompressionParameter.enable_long_distance_matching: 1,
        }
        prefix = zstd.ZstdDict(source, is_raw=True).as_prefix if len(source) >= SMALLEST_PREFIX else None
        length = len(source) if prefix else 0
        packer = zstd.ZstdCompressor(options=options, zstd_dict=prefix)
        frame: bytes = packer.compress(piece, packer.FLUSH_FRAME)
        return HEADER.pack(PREFIX, 0, 0, len(frame), len(piece), length, first if length else 0) + frame

    def _difference(self, piece: bytes, begin: int) -> bytes:
        """The difference to the old bytes at `begin`; nothing where there are not as many."""
        if begin < 0 or begin + len(piece) > len(self._old):
            return b""
        source = self._old[begin : begin + len(piece)]
        middle = len(piece) // 2 & -_WIDTHS[0]
        sample, under = piece[middle : middle + _SAMPLE], source[middle : middle + _SAMPLE]
        ways = [
            (method, width)
            for method in (XOR, DIFFERENCE)
            for width in _WIDTHS
            if method == XOR or not len(piece) % width
        ]
        method, width = min(ways, key=lambda way: len(self._zstd.compress(_changes(sample, under, *way), 1)))
        frame: bytes = self._zstd.compress(_changes(piece, source, method, width), LEVEL)
        return HEADER.pack(method, width, 0, len(frame), len(piece), len(piece), begin) + frame

    def _search(self, piece: bytes, place: int) -> int | None:
        """How far a few bytes out of the middle of the piece have moved, or None where they are not found."""
        middle = len(piece) // 2
        probe = piece[middle : middle + _PROBE]
        if self._fruitless >= _MOST_SEARCHES or len(set(probe)) < _PROBE // 4:  # zeros would be found everywhere
            return None
        for begin in range(0, len(self._old), _STRETCH):
            found = self._old[begin : begin + _STRETCH + _PROBE].find(probe)
            if found >= 0:
                self._fruitless = 0
                return begin + found - (place + middle)
        self._fruitless += 1
        return None


def _changes(new: bytes, old: bytes, method: int, width: int) -> bytes:
    """What changed, first all bytes that come first in their element of `width` bytes, then all that come second …."""
    # As one large number each, which is the fastest that the standard library offers.
    after, before = int.from_bytes(new, "little"), int.from_bytes(old, "little")
    change = after ^ before if method == XOR else _folded_difference(after, before, width, len(new) // width)
    content = change.to_bytes(len(new), "little")
    return b"".join(content[place::width] for place in range(width))


def _folded_difference(after: int, before: int, width: int, count: int) -> int:
    """The difference of each of `count` elements, folded: 0, -1, 1, -2 … become 0, 1, 2, 3 …."""
    bits = 8 * width
    lowest = int.from_bytes((b"\1" + bytes(width - 1)) * count, "little")  # the lowest bit of each element
    highest = lowest << (bits - 1)
    others = highest - lowest
    # The highest bits are subtracted apart, so that no element borrows from the next.
    change = ((after | highest) - (before & others)) ^ (~(after ^ before) & highest)
    negative = (change >> (bits - 1)) & lowest
    return ((change & others) << 1) ^ ((negative << bits) - negative)


def _zstd() -> ModuleType:
    return import_module("compression.zstd" if sys.version_info >= (3, 14) else "backports.zstd")


@contextlib.contextmanager
def _mapped(path: Path) -> Iterator[mmap.mmap]:
    with path.open("rb") as file, mmap.mmap(file.fileno(), 0, access=mmap.ACCESS_READ) as mapped:
        yield mapped


def _kept(target: Path) -> Delta | None:
    """What was made before; None where nothing was, or it was deleted since."""
    facts = target.with_suffix(".json")
    try:
        delta = Delta(**json.loads(facts.read_bytes()))
        if delta.size:
            os.utime(target)  # it is wanted: others are deleted before it
        os.utime(facts)
    except (OSError, ValueError, TypeError):
        return None
    return delta


def _shrink(folder: Path, limit: int) -> None:
    """Deletes what was not asked for longest, until the rest takes at most `limit` bytes."""
    found = sorted(
        ((path.stat(), path) for path in folder.iterdir()), key=lambda entry: entry[0].st_mtime, reverse=True
    )
    total = 0
    for status, path in found:
        total += status.st_size
        if total > limit:
            path.unlink(missing_ok=True)
