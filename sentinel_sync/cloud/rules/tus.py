"""What an answer of a tus 1.0.0 server says, and what goes next (https://tus.io/protocols/resumable-upload).

Only the server knows how much it has: its offset is taken as it is, also where it went back, as after a power cut of
the server's own. What may not be is a conversation without an end, so whatever leads nowhere is counted.
"""

from base64 import b64encode
from collections.abc import Mapping
from dataclasses import dataclass

VERSION = "1.0.0"
PATCH_TYPE = "application/offset+octet-stream"
#: Statuses of HEAD and PATCH that are about this upload, not about us or everybody (wire contract, "Scenarios"). 401
#: counts only where another host says it; 423 is a server that has not noticed yet that an older connection is dead;
#: 413 is about the piece.
ABOUT_THE_UPLOAD = frozenset({401, 403, 404, 409, 410, 413, 423, 460})
#: A HEAD that is refused so tells nothing of the upload: some gateway does not pass it.
HEAD_REFUSED = frozenset({405, 501})
#: Statuses of OPTIONS that say that there is nothing of the kind: all of 4xx that are not "not now", and "no such
#: method" (RFC 9110 section 15.6.2), which a server may well answer that never heard of OPTIONS.
NOT_OFFERED = frozenset(range(400, 500)) - {408, 425, 429} | {501}

#: Checksums that can be computed here, best first.
_ALGORITHMS = ("sha256", "sha1")
_GONE = frozenset({401, 403, 404, 410})
#: So many uploads are created within one attempt at one part: the stored one may be gone, and the next be a bad one.
_MOST_CREATIONS = 3
#: So often in a row an answer may leave the offset where it was.
_MOST_FRUITLESS = 4
#: A server that still holds an upload for a connection that is gone is waited for, seconds: so long at first, twice as
#: long each time, and so long in all before another upload is begun.
_FIRST_LOCK_WAIT, _LONGEST_LOCK_WAIT, _LOCK_PATIENCE = 1.0, 30.0, 120.0
#: So often in a row a piece may arrive damaged: by then it is no bad luck.
_MOST_DAMAGED = 3
#: More than so many times its length is not sent for one part in one attempt.
_MOST_TIMES = 4
#: A tiny part may be sent more often.
_SPARE_BYTES = 1 << 20


@dataclass(frozen=True, slots=True)
class TusOffer:
    """What a backend offers for parts of one kind.

    Attributes:
        algorithm: Of `Upload-Checksum`; None where it checks none that is known here.
        largest: Bytes that an upload may have, or None.
        takes_gzip: Whether a packed file may come as `application/gzip` (RFC 7694).
    """

    algorithm: str | None = None
    largest: int | None = None
    takes_gzip: bool = False

    def takes(self, size_bytes: int, encoding: str | None) -> bool:
        """Whether a file of this size and packing can come so."""
        if encoding is not None and not (encoding == "gzip" and self.takes_gzip):
            return False
        return self.largest is None or size_bytes <= self.largest


def offer_of(status: int, headers: Mapping[str, str]) -> TusOffer | None:
    """Read the answer to OPTIONS; None where resumable uploads are not offered."""
    if not 200 <= status < 300 or headers.get("Tus-Resumable", "").strip() != VERSION:
        return None
    extensions = _words(headers.get("Tus-Extension"))
    if "creation" not in extensions:
        return None
    listed = _words(headers.get("Tus-Checksum-Algorithm")) if "checksum" in extensions else frozenset()
    return TusOffer(
        next((algorithm for algorithm in _ALGORITHMS if algorithm in listed), None),
        _number(headers.get("Tus-Max-Size")) or None,
        "gzip" in {word.partition(";")[0].strip() for word in _words(headers.get("Accept-Encoding"))},
    )


def creation_headers(size_bytes: int, metadata: Mapping[str, str]) -> dict[str, str]:
    """Headers of the request that creates an upload."""
    pairs = (f"{name} {b64encode(value.encode()).decode()}" for name, value in metadata.items())
    return {"Tus-Resumable": VERSION, "Upload-Length": str(size_bytes), "Upload-Metadata": ",".join(pairs)}


def patch_headers(offset: int, size_bytes: int, checksum: tuple[str, bytes] | None) -> dict[str, str]:
    """Headers of the request that sends the next bytes."""
    headers = {
        "Tus-Resumable": VERSION,
        "Upload-Offset": str(offset),
        "Content-Type": PATCH_TYPE,
        "Content-Length": str(size_bytes),
    }
    if checksum is not None:
        algorithm, digest = checksum
        headers["Upload-Checksum"] = f"{algorithm} {b64encode(digest).decode()}"
    return headers


@dataclass(frozen=True, slots=True)
class Create:
    """Ask for a new upload.

    Attributes:
        instead_of: The address that was given although it leads nowhere any more, or None.
    """

    instead_of: str | None = None


@dataclass(frozen=True, slots=True)
class AskOffset:
    """Ask how much has arrived."""


@dataclass(frozen=True, slots=True)
class SendFrom:
    """Send what comes at `offset`."""

    offset: int


@dataclass(frozen=True, slots=True)
class Arrived:
    """All of it has arrived."""


@dataclass(frozen=True, slots=True)
class WaitForLock:
    """The server still holds the upload for a connection that is gone: wait for so many seconds, then ask again."""

    seconds: float


@dataclass(frozen=True, slots=True)
class TooLarge:
    """The piece was, not the file: send a smaller one."""


@dataclass(frozen=True, slots=True)
class AskAgainLater:
    """Not now; what has arrived stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class GiveUp:
    """It leads nowhere: the backend does not do what it offers."""

    reason: str


@dataclass(frozen=True, slots=True)
class Damaged:
    """What is sent does not arrive as it was sent, again and again."""

    reason: str


class TusState:
    """One attempt at one part: where it stands, and what goes next.

    Args:
        length: Bytes of the part.
        address: Of the upload that was begun before, or None.
    """

    def __init__(self, length: int, address: str | None) -> None:
        self._length = length
        self.address = address
        self._offset: int | None = None
        self._farthest = -1
        self._creations = 0
        self._dead: set[str] = set()
        self._revenant: str | None = None
        self._fruitless = 0
        self._damaged = 0
        self._sent = 0
        self._why = ""
        #: The offset at which a piece was refused, until the server has said again where it stands.
        self._refused_at: int | None = None
        self._lock_wait = 0.0
        self._waited = 0.0

    @property
    def is_new(self) -> bool:
        """Whether it was created within this attempt."""
        return self._creations > 0

    def next_step(self) -> Create | AskOffset | SendFrom | WaitForLock | Arrived | GiveUp:
        """What goes next."""
        if self._lock_wait > 0.0:
            return WaitForLock(self._lock_wait)
        if self.address is None:
            if self._creations >= _MOST_CREATIONS:
                return GiveUp(self._why)
            return Create(self._revenant)
        if self._offset is None:
            return AskOffset()
        if self._offset == self._length:
            return Arrived()
        if self._sent > _MOST_TIMES * self._length + _SPARE_BYTES:
            return GiveUp(f"it has {self._offset} of {self._length} bytes, after {self._sent} were sent")
        return SendFrom(self._offset)

    def created(self, address: str) -> None:
        """Take the address of a new upload."""
        self._creations += 1
        if address in self._dead:
            # Somebody answers a repeated Idempotency-Key with what was said then.
            self._revenant = address
            return
        self.address, self._offset = address, 0
        self._farthest = 0

    def cut(self) -> None:
        """The connection broke while a piece was sent: some of it may have arrived."""
        self._offset = None

    def waited(self) -> None:
        """The wait for the lock is over."""
        self._waited += self._lock_wait
        self._lock_wait = 0.0

    def asked(self, status: int, headers: Mapping[str, str]) -> AskAgainLater | None:
        """Read the answer to HEAD; what ends this attempt, if it does."""
        if status == 423:
            self._locked()
            return None
        if status in _GONE or status in HEAD_REFUSED:
            self._abandon(f"the upload is gone (answered {status})")
            return None
        if not 200 <= status < 300:
            return _come_back(status)
        offset = _number(headers.get("Upload-Offset"))
        length = headers.get("Upload-Length")
        if offset is None or offset > self._length:
            self._abandon(f"it says that {headers.get('Upload-Offset', '')[:20]!a} of {self._length} bytes are there")
        elif length is not None and _number(length) != self._length:
            self._abandon(f"it takes the part for {length[:20]!a} bytes long, not {self._length}")
        elif offset == self._refused_at:
            self._offset = offset
            self._locked()
        else:
            self._refused_at = None
            self._stands_at(offset)
        return None

    def _locked(self) -> None:
        """The offset is what it was, and yet the server does not take what comes there."""
        self._refused_at = None
        if self._waited >= _LOCK_PATIENCE:
            self._abandon("an earlier request still holds the upload")
            return
        doubled = max(_FIRST_LOCK_WAIT, self._waited)
        self._lock_wait = min(doubled, _LONGEST_LOCK_WAIT, _LOCK_PATIENCE - self._waited)

    def patched(
        self, sent_bytes: int, status: int, headers: Mapping[str, str]
    ) -> AskAgainLater | Damaged | TooLarge | None:
        """Read the answer to a PATCH of so many bytes; what ends this attempt, if it does."""
        begin = self._offset or 0
        if status == 413:
            return TooLarge()
        self._sent += sent_bytes
        if status in _GONE:
            self._abandon(f"the upload is gone (answered {status})")
            return None
        if status == 460:
            self._damaged += 1
            if self._damaged > _MOST_DAMAGED:
                return Damaged(f"bytes {begin} to {begin + sent_bytes} do not arrive as they were sent (answered 460)")
            return None
        if status in {409, 423}:
            # It stands elsewhere, or still holds the upload: the offset tells.
            self._offset, self._refused_at = None, begin
            return None
        if not 200 <= status < 300:
            return _come_back(status)
        self._damaged = 0
        offset = _number(headers.get("Upload-Offset"))
        if offset is None or not begin < offset <= begin + sent_bytes:
            said = headers.get("Upload-Offset", "")[:20]
            self._ask_again(f"after bytes {begin} to {begin + sent_bytes} it says that it has {said!a}")
        else:
            self._stands_at(offset)
        return None

    def _stands_at(self, offset: int) -> None:
        self._offset = offset
        if offset > self._farthest:
            self._farthest, self._fruitless, self._waited = offset, 0, 0.0
        else:
            self._count_fruitless(f"it stays at {self._farthest} of {self._length} bytes")

    def _ask_again(self, why: str) -> None:
        self._offset = None
        self._count_fruitless(why)

    def _count_fruitless(self, why: str) -> None:
        self._fruitless += 1
        if self._fruitless > _MOST_FRUITLESS:
            self._abandon(why)

    def _abandon(self, why: str) -> None:
        """Create another one, as far as that makes sense."""
        if self.address is not None:
            self._dead.add(self.address)
        self._why = why
        self.address = self._offset = None
        self._farthest, self._fruitless, self._damaged = -1, 0, 0
        self._refused_at, self._lock_wait, self._waited = None, 0.0, 0.0


def _come_back(status: int) -> AskAgainLater:
    return AskAgainLater(f"answered {status}")


def _words(header: str | None) -> frozenset[str]:
    return frozenset(word.strip().lower() for word in (header or "").split(","))


def _number(header: str | None) -> int | None:
    text = (header or "").strip()
    return int(text) if text.isascii() and text.isdecimal() and len(text) < 19 else None  # below 2**63


#: The first one: small, because nothing is known yet.
FIRST_BYTES = 1 << 20
SMALLEST_BYTES = 64 << 10
#: A piece that went through says something about the rate if it had so many bytes: less is a file's rest.
_TELLING_BYTES = 256 << 10
#: More gains nothing even on loopback.
LARGEST_BYTES = 64 << 20
#: A PATCH takes about so long, seconds: a round trip is little beside it, and losing it would be too.
_SECONDS = 2.0
#: Times that one may be as long as the one before: a first rate is soon wrong.
_GROWTH = 4
#: A cut that cost no more is cheap: twenty of them in a gigabyte are one per cent.
_CHEAP_BYTES = 512 << 10
#: After one that cost more …
CAREFUL_BYTES = 1 << 20
#: … until so many bytes have gone through without another; then twice as much is dared.
_TRUST_BYTES = 64 << 20


class PatchSize:
    """Learns from what goes through, and from what is cut.

    Args:
        ceiling_bytes: No larger one passes the server, as it showed earlier; None where nothing is known of that.

    Attributes:
        ceiling_bytes: What is known of that now; None where no piece was too large.
    """

    def __init__(self, ceiling_bytes: int | None = None) -> None:
        self._last = FIRST_BYTES // _GROWTH
        self._rate = float("inf")
        self._limit = LARGEST_BYTES
        self.ceiling_bytes: int | None = ceiling_bytes
        self._through = 0

    def next_bytes(self) -> int:
        """How much goes in the next one, where there is as much."""
        ceiling = LARGEST_BYTES if self.ceiling_bytes is None else self.ceiling_bytes
        wanted = min(self._rate * _SECONDS, self._last * _GROWTH, self._limit, ceiling)
        return int(max(wanted, SMALLEST_BYTES))

    def went_through(self, size_bytes: int, seconds: float) -> None:
        """One was answered, after so long."""
        if size_bytes >= min(
            _TELLING_BYTES, self._last * _GROWTH
        ):  # the rest at a file's end says nothing about the rate
            self._last, self._rate = size_bytes, size_bytes / max(seconds, 1e-6)
        self._through += size_bytes
        if self._through >= _TRUST_BYTES and self._limit < LARGEST_BYTES:
            self._limit, self._through = min(2 * self._limit, LARGEST_BYTES), 0

    def was_too_large(self, size_bytes: int) -> bool:
        """The server refused a piece for its size (413): half as much at most from now on; False where none is."""
        self.ceiling_bytes = max(SMALLEST_BYTES, size_bytes // 2)
        return size_bytes > SMALLEST_BYTES

    def won_nothing(self, size_bytes: int) -> None:
        """One of so many bytes was sent, and none of them arrived: half as much next time."""
        self._last = max(SMALLEST_BYTES, size_bytes // 2) // _GROWTH
        self._through = 0

    def was_cut(self, lost_bytes: int) -> None:
        """One was cut, and so much of it goes again."""
        self._through = 0
        if lost_bytes > _CHEAP_BYTES:
            self._limit = CAREFUL_BYTES
