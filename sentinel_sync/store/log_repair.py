"""Damage in the middle of SQLite's write-ahead log: what was committed behind it is not given up.

SQLite plays the log up to the first frame whose checksum is wrong (sqlite.org/fileformat2.html, section 4.4). That is
right where a power cut tore the last transaction, which nobody was told of. It is wrong where a disk has altered a bit
of an earlier one: everything that was acknowledged since is left out, and in silence. The two can be told apart: with
`synchronous=FULL` no transaction is begun in the log before the one before it is on disk.
"""

import struct
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

_HEADER_BYTES, _FRAME_HEADER_BYTES = 32, 24
#: Of the header's first number, the lowest bit says whether checksums are over big-endian words.
_MAGIC = 0x377F0682
#: A longer one is left to SQLite: to reckon it takes a second for 20 MB.
_MOST_BYTES = 16 << 20


@dataclass(slots=True)
class _Frame:
    """One page as it was written, and whether it is of this log or was left over from the one before."""

    head: bytes
    page: bytes
    is_of_this_log: bool

    @property
    def commits(self) -> bool:
        """Whether it ends a transaction."""
        return int.from_bytes(self.head[4:8]) > 0


@dataclass(frozen=True, slots=True)
class MendedLog:
    """A log in which what was committed behind an altered frame counts.

    Attributes:
        content: All of it.
        saved_frames: How many frames count that SQLite would leave out.
    """

    content: bytes
    saved_frames: int


def mended(log: Path) -> MendedLog | None:
    """The log as it should be, or None where there is nothing to mend. Blocks; changes nothing.

    An altered page keeps its alteration: whoever opens the database checks it, and each row has a checksum of its own.
    There is nothing to mend where the damage may be the last transaction's, or where the header is not whole.

    Raises:
        OSError: It cannot be read.
    """
    if not log.is_file() or not _HEADER_BYTES < log.stat().st_size <= _MOST_BYTES:
        return None
    content = log.read_bytes()
    magic, _, page_bytes = struct.unpack(">III", content[:12])
    if magic & ~1 != _MAGIC or not 512 <= page_bytes <= 65_536:
        return None
    order = ">" if magic & 1 else "<"
    checksum = _checksum(order, content[:24], (0, 0))
    if struct.pack(">II", *checksum) != content[24:32]:
        return None
    frames = list(_frames(content, page_bytes))
    first_wrong, last_good = _damage(order, frames, checksum)
    if first_wrong is None or last_good < first_wrong:
        return None
    whole = bytearray(content[:_HEADER_BYTES])
    for frame in frames[: last_good + 1]:
        checksum = _checksum(order, frame.head[:8] + frame.page, checksum)
        whole += frame.head[:8] + content[16:24] + struct.pack(">II", *checksum) + frame.page
    return MendedLog(bytes(whole), last_good + 1 - first_wrong)


def _frames(content: bytes, page_bytes: int) -> Iterator[_Frame]:
    size = _FRAME_HEADER_BYTES + page_bytes
    for at in range(_HEADER_BYTES, len(content) - size + 1, size):
        head = content[at : at + _FRAME_HEADER_BYTES]
        yield _Frame(head, content[at + _FRAME_HEADER_BYTES : at + size], head[8:16] == content[16:24])


def _damage(order: str, frames: list[_Frame], start: tuple[int, int]) -> tuple[int | None, int]:
    """The one frame that is not as it was written, and the last that ends a transaction begun after that one's.

    Each frame's checksum goes on from the one before, as it was written: so only the altered one is wrong. At a second
    one that is, others begin: transactions that power cuts tore leave their rest behind what is written over them.
    """
    first_wrong: int | None = None
    is_behind, last_good = False, -1
    starts = {start}
    for number, frame in enumerate(frames):
        time.sleep(0)  # a host's loop in another thread is not to wait for the interpreter
        stored = struct.unpack(">II", frame.head[16:24])
        reckoned = {_checksum(order, frame.head[:8] + frame.page, start) for start in starts}
        is_right = frame.is_of_this_log and stored in reckoned
        if not is_right and first_wrong is not None:
            break
        # Altered may be the frame, or the checksum that stands in it.
        starts = {stored} if is_right else {stored, *reckoned}
        if not is_right:
            first_wrong = number
        if first_wrong is None or not frame.is_of_this_log or not frame.commits:
            continue
        # The transaction of the altered frame ends with the first of these; what follows was begun when it was safe.
        if is_behind and is_right:
            last_good = number
        is_behind = True
    return first_wrong, last_good


def _checksum(order: str, data: bytes, start: tuple[int, int]) -> tuple[int, int]:
    """Go on with SQLite's checksum over pairs of 32-bit words (section 4.2)."""
    first, second = start
    words = struct.unpack(f"{order}{len(data) // 4}I", data)
    for even, odd in zip(words[::2], words[1::2], strict=True):
        first = (first + even + second) & 0xFFFFFFFF
        second = (second + odd + first) & 0xFFFFFFFF
    return first, second
