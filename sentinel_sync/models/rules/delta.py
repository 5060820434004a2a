"""What a delta may be, and how its blocks lead from the old file to the new one (docs/deltas.md has the format).

Nothing of this is trusted: what comes out counts by the signed size and checksum alone. The bounds here keep a delta
from taking more memory, disk or time than the file that it saves.
"""

import struct
from dataclasses import dataclass
from enum import IntEnum
from functools import lru_cache

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import DeltaOffer

#: The format that this vehicle reads.
FORMAT = "zstd-blocks"
#: What each such file begins with; the last byte is the format's version.
MAGIC = b"SSDELTA1"
#: Bytes of a block's header, little-endian: method, element width, zero, packed length, length, source length, offset.
HEADER = struct.Struct("<BBHIIIQ")
#: A block makes at most so many bytes …
MAX_BLOCK = 1 << 20
#: … out of at most so many of the old file. Both bound the memory, and for how long the interpreter is held at once.
MAX_SOURCE = 4 << 20
#: Every block but the last makes at least so many bytes, …
SMALLEST_BLOCK = 4 << 10
#: … out of at most so many times as many: else a delta of many little blocks with large sources would take hours.
SOURCE_PER_BYTE = 32
#: zstd takes no shorter one; a block that is made of nothing old has a source of 0 bytes.
SMALLEST_PREFIX = 8
#: Packing what cannot be packed adds a little (zstd: a header, and 3 bytes per 128 KiB).
_PACKING = 1 << 10
#: A window that reaches over block and source: log2 of 8 MiB.
MAX_WINDOW_LOG = 23
#: A delta that saves less than a tenth is not worth the work.
LARGEST_SHARE = 0.9
#: So much of a block is worked on at once: what the processor's cache holds.
_AT_ONCE = 64 << 10
_WIDTHS = frozenset({1, 2, 4, 8})
_METHODS = frozenset({1, 2, 3})


class Method(IntEnum):
    """How a block was made.

    Attributes:
        PREFIX: A zstd frame for which the source lies just before the content.
        XOR: The exclusive or of content and source, sorted by place within an element, in a zstd frame.
        DIFFERENCE: The same with the difference of each element, folded so that little ones of either sign are little.
    """

    PREFIX = 1
    XOR = 2
    DIFFERENCE = 3


@dataclass(frozen=True, slots=True)
class Block:
    """A piece of the new file.

    Attributes:
        width: Bytes of an element: 4 for float32; 0 for PREFIX.
        packed: Bytes of the frame that follows.
        length: Bytes of the new file that it makes.
        source_length: Bytes of the old file that it is made of …
        source_offset: … from here on.
    """

    method: Method
    width: int
    packed: int
    length: int
    source_length: int
    source_offset: int


def why_not(offer: DeltaOffer, size: int) -> str | None:
    """Why an offer is not taken for a file of `size` bytes, or None where it is."""
    if offer.format != FORMAT:
        return f"its format {offer.format[:40]!a} is not known here"
    if offer.size > size * LARGEST_SHARE:
        return f"its {offer.size} bytes are no gain over {size}"
    return None


def read_block(header: bytes, *, old_size: int, missing: int) -> Block:
    """Read a block's header.

    Args:
        header: `HEADER.size` bytes.
        old_size: Of the old file.
        missing: Bytes that the new file still lacks: it never becomes larger than was signed.

    Raises:
        VerificationError: It is cut off, or leads outside of either file or of the bounds above.
    """
    if len(header) != HEADER.size:
        raise VerificationError("the delta is refused: it ends within a block's header")
    number, width, zero, packed, length, source_length, source_offset = HEADER.unpack(header)
    known = number in _METHODS and not zero
    if not known or (number == Method.PREFIX and width):
        raise VerificationError("the delta is refused: a block of an unknown kind")
    method = Method(number)
    if not 0 < length <= min(MAX_BLOCK, missing):
        raise VerificationError("the delta is refused: a block makes more than may be made")
    if length < missing and (length < SMALLEST_BLOCK or source_length > length * SOURCE_PER_BYTE):
        raise VerificationError("the delta is refused: a block takes more work than it is worth")
    if not 0 < packed <= length + _PACKING:
        raise VerificationError("the delta is refused: a block is larger than what it makes")
    if source_length > MAX_SOURCE or source_offset + source_length > old_size:
        raise VerificationError("the delta is refused: a block is made of what is not there")
    if method is not Method.PREFIX and (width not in _WIDTHS or source_length != length):
        raise VerificationError("the delta is refused: a difference that fits no source")
    if method is Method.DIFFERENCE and length % width:
        raise VerificationError("the delta is refused: a difference of something else than whole elements")
    if method is Method.PREFIX and 0 < source_length < SMALLEST_PREFIX:
        raise VerificationError("the delta is refused: a source that is too short for zstd")
    return Block(method, width, packed, length, source_length, source_offset)


def restored(method: Method, planes: bytes, width: int, source: bytes) -> bytes:
    """Undo XOR or DIFFERENCE: what `source` was changed to.

    Args:
        method: Which of them.
        planes: First all bytes that came first in their element, then all that came second, and so on.
        width: Bytes of an element.
        source: As long as `planes`.
    """
    sorted_back = bytearray(len(planes))
    begin = 0
    for place in range(width):
        # One assignment per place: a loop over bytes would take a hundred times as long.
        end = begin + len(range(place, len(planes), width))
        sorted_back[place::width] = planes[begin:end]
        begin = end
    pieces = []
    for begin in range(0, len(source), _AT_ONCE):
        # As one large number each, which is the fastest that the standard library offers: 4 ms per MiB.
        here = slice(begin, begin + _AT_ONCE)
        change, before = int.from_bytes(sorted_back[here], "little"), int.from_bytes(source[here], "little")
        length = min(_AT_ONCE, len(source) - begin)
        after = change ^ before if method is Method.XOR else _sum(change, before, width, length // width)
        pieces.append(after.to_bytes(length, "little"))
    return b"".join(pieces)


def _sum(folded: int, before: int, width: int, count: int) -> int:
    """Add to each of `count` elements its difference, which is folded: 0, -1, 1, -2 … are 0, 1, 2, 3 …."""
    lowest, others, highest = _bits_of(width, count)
    negative = folded & lowest
    change = ((folded >> 1) & others) ^ ((negative << 8 * width) - negative)
    # The highest bits are added apart, so that no element carries over into the next.
    return ((before & others) + (change & others)) ^ ((before ^ change) & highest)


@lru_cache(maxsize=2)
def _bits_of(width: int, count: int) -> tuple[int, int, int]:
    """The lowest bit of each of `count` elements, all but the highest, and the highest."""
    lowest = int.from_bytes((b"\1" + bytes(width - 1)) * count, "little")
    highest = lowest << (8 * width - 1)
    return lowest, highest - lowest, highest
