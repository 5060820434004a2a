"""A clock for what was recorded earlier: it shows the recording's own time and moves only when told."""

import asyncio
from uuid import uuid4


class RecordedClock:
    """Wall time and elapsed time of a recording, for the `TripUploader` that it is played into, and for nothing else.

    Its boot is nobody's: no sighting of the backend's time and no later reading of this machine's clock is about it, so
    the recording's times are never "put right" by what is learnt about this machine's clock.

    Args:
        start: Of the recording, seconds since the epoch.
    """

    def __init__(self, start: float) -> None:
        self._start = start
        self._elapsed = 0.0
        self._boot_id = f"recording-{uuid4()}"

    def show(self, elapsed: float) -> None:
        """Move on to so many seconds after the start; never back."""
        self._elapsed = max(self._elapsed, elapsed)

    def now(self) -> float:
        """Wall time in the recording, seconds since the epoch."""
        return self._start + self._elapsed

    def monotonic(self) -> float:
        """Seconds since the recording began."""
        return self._elapsed

    def boot_id(self) -> str:
        """One of its own."""
        return self._boot_id

    async def sleep(self, seconds: float) -> None:
        """Wait for so many real seconds: a retry must not be over at once because a recording is played fast."""
        await asyncio.sleep(seconds)
