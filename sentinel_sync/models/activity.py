"""A model that something is being done about: how far it is, and who is told."""

from enum import StrEnum

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.events import EventPublisher
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.progress import RateMeter
from sentinel_sync.models.rules.answers import DownloadProgress

#: Seconds between two pieces of news: more would only be for machines.
_NEWS_INTERVAL = 0.2


class Phase(StrEnum):
    """What is being done."""

    DOWNLOADING = "downloading"
    VALIDATING = "validating"
    INSTALLING = "installing"


class Activity:
    """One release at work.

    Args:
        release: Which.
        phase: What is being done first.
        news: Who wants to know.
        clock: For the rate.
    """

    def __init__(
        self, release: ModelRelease, phase: Phase, news: EventPublisher[DownloadProgress], clock: Clock
    ) -> None:
        self._release = release
        self._phase = phase
        self._news = news
        self._clock = clock
        self._meter: RateMeter | None = None
        self._told_at = float("-inf")

    def enter(self, phase: Phase) -> None:
        """Go on to the next."""
        self._phase = phase
        self._tell(self._clock.monotonic())

    def moved(self, received_bytes: int) -> None:
        """Note how much of the file is there; a plain call, made often."""
        now = self._clock.monotonic()
        if self._meter is None:
            # The first word of a resumed download is where it goes on: that was not fetched just now.
            self._meter = RateMeter(self._release.size, received_bytes, now)
        self._meter.moved(received_bytes, now)
        if now - self._told_at >= _NEWS_INTERVAL or received_bytes >= self._release.size:
            self._tell(now)

    def progress(self) -> DownloadProgress:
        """How it goes."""
        release = self._release
        done = release.size if self._phase is not Phase.DOWNLOADING else 0
        meter = self._meter or RateMeter(release.size, done, self._clock.monotonic())
        progress = meter.progress(self._clock.monotonic())
        return DownloadProgress(
            release.name,
            release.version,
            self._phase.value,
            progress.done_bytes,
            progress.total_bytes,
            progress.rate,
            progress.time_left,
        )

    def _tell(self, now: float) -> None:
        self._told_at = now
        if self._news.wanted:
            self._news.tell(self.progress())
