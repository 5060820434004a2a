"""How much goes in one PATCH of a resumable upload.

Between two of them the line is idle for a round trip and for as long as the server takes to put the bytes away, so they
should be long. But what a server keeps of a PATCH that was cut is the server's affair: some keep all that came, some
nothing, and that goes again, so they should be short. Measured against tus's own server on loopback: 1 MiB at a time
reached half the rate of one PATCH for all, 8 MiB four fifths, 64 MiB all of it.
"""

#: The first one: small, because nothing is known yet.
FIRST_BYTES = 1 << 20
SMALLEST_BYTES = 256 << 10
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
    """Learns from what goes through, and from what is cut."""

    def __init__(self) -> None:
        self._last = FIRST_BYTES // _GROWTH
        self._rate = float("inf")
        self._limit = LARGEST_BYTES
        self._through = 0

    def next_bytes(self) -> int:
        """How much goes in the next one, where there is as much."""
        wanted = min(self._rate * _SECONDS, self._last * _GROWTH, self._limit)
        return int(max(wanted, SMALLEST_BYTES))

    def went_through(self, size_bytes: int, seconds: float) -> None:
        """One was answered, after so long."""
        if size_bytes >= SMALLEST_BYTES:  # the rest at a file's end says nothing about the rate
            self._last, self._rate = size_bytes, size_bytes / max(seconds, 1e-6)
        self._through += size_bytes
        if self._through >= _TRUST_BYTES and self._limit < LARGEST_BYTES:
            self._limit, self._through = min(2 * self._limit, LARGEST_BYTES), 0

    def was_cut(self, lost_bytes: int) -> None:
        """One was cut, and so much of it goes again."""
        self._through = 0
        if lost_bytes > _CHEAP_BYTES:
            self._limit = CAREFUL_BYTES
