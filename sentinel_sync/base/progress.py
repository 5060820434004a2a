"""How far a transfer is, how fast it goes, and how long it will still take."""

import math
from dataclasses import dataclass

#: Seconds after which an old rate counts for 1/e: long enough to read steadily, short enough to show a tunnel.
_MEMORY = 5.0
#: Between two looks closer together than this, seconds, a rate would be noise.
_SHORTEST_LOOK = 0.05


@dataclass(frozen=True, slots=True)
class TransferProgress:
    """A transfer at one instant.

    Attributes:
        done_bytes: What the other side has, or was given.
        total_bytes: What there is.
        rate: Bytes per second of late, or None where nothing was seen yet.
        time_left: Seconds, or None where nothing can be said.
    """

    done_bytes: int
    total_bytes: int
    rate: float | None
    time_left: float | None


class RateMeter:
    """Turns counts of bytes into a steady rate (exponentially weighted moving average).

    Args:
        total_bytes: What there is to move.
        done_bytes: What was moved before: it says nothing about the rate.
        now: Monotonic seconds.
    """

    def __init__(self, total_bytes: int, done_bytes: int, now: float) -> None:
        self._total_bytes = total_bytes
        self._done_bytes = self._seen_bytes = done_bytes
        self._seen_at = now
        self._rate: float | None = None

    def moved(self, done_bytes: int, now: float) -> None:
        """Note how much is done altogether; less than before is a transfer that had to go back."""
        self._done_bytes = done_bytes
        if done_bytes < self._seen_bytes:
            self._seen_bytes, self._seen_at = done_bytes, now
            return
        self._look(now)

    def progress(self, now: float) -> TransferProgress:
        """How it stands; where nothing moves the rate sinks."""
        self._look(now)
        left = self._total_bytes - self._done_bytes
        time_left = None if not self._rate or self._rate < 1.0 else left / self._rate
        return TransferProgress(self._done_bytes, self._total_bytes, self._rate, 0.0 if left <= 0 else time_left)

    def _look(self, now: float) -> None:
        elapsed = now - self._seen_at
        if elapsed < _SHORTEST_LOOK:
            return
        rate = (self._done_bytes - self._seen_bytes) / elapsed
        weight = 1.0 if self._rate is None else 1.0 - math.exp(-elapsed / _MEMORY)
        self._rate = rate if self._rate is None else self._rate + weight * (rate - self._rate)
        self._seen_bytes, self._seen_at = self._done_bytes, now
