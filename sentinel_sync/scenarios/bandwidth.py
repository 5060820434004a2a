"""How fast recordings may go: `upload_bandwidth_limit`."""

from collections.abc import Iterator

from aiolimiter import AsyncLimiter

#: Seconds of the limit that may go at once: so much is the burst to begin with, and the unevenness later.
_BURST = 0.1
#: And no more bytes than this.
_LARGEST_BURST = 64 << 10


class BandwidthLimit:
    """Lets so many bytes pass in a second, in pieces small enough that nobody else's turn comes late.

    Args:
        bytes_per_second: 0 is no limit.
    """

    def __init__(self, bytes_per_second: int) -> None:
        self._burst = max(1, min(int(bytes_per_second * _BURST), _LARGEST_BURST))
        # aiolimiter lets a full bucket pass at once, and refuses what is larger than its bucket.
        limited = bytes_per_second > 0
        self._limiter = AsyncLimiter(self._burst, self._burst / bytes_per_second) if limited else None

    def cut(self, piece: bytes) -> Iterator[bytes]:
        """Cut a piece so that each part of it can pass."""
        if self._limiter is None or len(piece) <= self._burst:
            yield piece
            return
        for begin in range(0, len(piece), self._burst):
            yield piece[begin : begin + self._burst]

    async def wait(self, size_bytes: int) -> None:
        """Wait until so many bytes may go."""
        if self._limiter is not None:
            await self._limiter.acquire(size_bytes)
