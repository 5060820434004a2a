"""Keeps what is known about the true time: one sighting of the backend's clock per boot, on disk."""

import logging

from pydantic import TypeAdapter

from sentinel_sync.base.clock import (
    Clock,
    ClockObservation,
    ClockStamp,
    clock_observation,
    correction,
    is_trusted,
    rfc3339,
    skew,
)
from sentinel_sync.cloud.client import Probe
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

_KIND = "clock"
_SHAPE = TypeAdapter(ClockObservation)
#: A `Date` header counts whole seconds (RFC 9110 section 5.6.7).
_DATE_RESOLUTION = 1.0
#: A sighting is written again only when it differs by so many seconds: every probe brings one, and flash wears out.
_WORTH_WRITING = 2.0
#: Boots that are remembered: more than a year of two drives a day.
_BOOTS = 1000


class Timekeeper:
    """Knows by how much the wall clock was wrong, boot by boot.

    Args:
        documents: Where sightings are kept.
        clock: The machine's clocks.
    """

    def __init__(self, documents: Documents, clock: Clock) -> None:
        self._documents = documents
        self._clock = clock
        self._seen: dict[str, ClockObservation] = {}

    async def load(self) -> None:
        """Read what earlier runs saw."""
        for boot_id in await self._documents.keys(_KIND):
            seen = await self._documents.load(_KIND, boot_id, _SHAPE)
            if seen is not None:
                self._seen[boot_id] = seen

    def stamp(self) -> ClockStamp:
        """The clocks now."""
        return ClockStamp(self._clock.boot_id(), self._clock.now() - self._clock.monotonic())

    def correction(self, stamp: ClockStamp) -> float:
        """Seconds to add to wall times recorded under `stamp`."""
        return correction(stamp, self._seen.get(stamp.boot_id), self.stamp())

    def skew(self) -> float | None:
        """Seconds by which this machine's clock is ahead of the backend's, or None where not known."""
        current = self.stamp()
        return skew(self._seen.get(current.boot_id), current)

    @property
    def has_observation(self) -> bool:
        """Whether the backend's time has been seen in this boot."""
        return self._clock.boot_id() in self._seen

    @property
    def trusted(self) -> bool:
        """Whether the wall clock agrees with the backend's."""
        current = self.stamp()
        return is_trusted(self._seen.get(current.boot_id), current)

    @property
    def observations(self) -> dict[str, ClockObservation]:
        """All that was seen, by boot."""
        return dict(self._seen)

    async def observe(self, probe: Probe) -> None:
        """Learn from an answered health request."""
        boot_id = self._clock.boot_id()
        exact, date = rfc3339(probe.server_time), probe.date
        if exact is not None:
            seen = clock_observation(boot_id, exact, probe.sent, probe.received, 0.0)
        elif date is not None:
            seen = clock_observation(
                boot_id, date + _DATE_RESOLUTION / 2, probe.sent, probe.received, _DATE_RESOLUTION / 2
            )
        else:
            return
        before = self._seen.get(boot_id)
        if before is not None and abs(before.offset - seen.offset) <= _WORTH_WRITING + seen.uncertainty:
            return
        self._seen[boot_id] = seen
        ahead = self.skew() or 0.0
        if abs(ahead) > _WORTH_WRITING:
            logger.warning("clock.skew: this clock is %+.1f s ahead of the backend's", ahead)
        await self._documents.save(_KIND, boot_id, seen, _SHAPE)
        await self._forget_unused(boot_id)

    async def _forget_unused(self, boot_id: str) -> None:
        # One row per boot for ever would grow. A sighting's offset is when its boot began, so the oldest go.
        oldest = sorted(self._seen, key=lambda known: self._seen[known].offset)[: max(0, len(self._seen) - _BOOTS)]
        for known in oldest:
            if known == boot_id:
                continue
            del self._seen[known]
            await self._documents.delete(_KIND, known)
