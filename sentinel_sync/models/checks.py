"""Asks the source for its releases at the right times, and remembers what came of that."""

import asyncio
from datetime import UTC, datetime
from random import Random

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.releases import ReleaseSelector
from sentinel_sync.models.rules.schedule import CheckSchedule
from sentinel_sync.models.rules.status import ModelCheckStatus


class ReleaseChecks:
    """The checks of one vehicle; when the last one was outlives the process.

    Args:
        releases: Asks the source.
        interval: Seconds between checks.
        clock: Says whether one is due.
        rng: Spreads them.
    """

    def __init__(self, releases: ReleaseSelector, *, interval: float, clock: Clock, rng: Random) -> None:
        self._releases = releases
        self._clock = clock
        self._schedule = CheckSchedule(interval, rng)
        self._asking = asyncio.Lock()
        self._failure: str | None = None

    @property
    def is_due(self) -> bool:
        """Whether to ask now: it is time, or somebody woke us after the network had failed."""
        return self._schedule.may_try(self._clock.now(), self._clock.monotonic(), self._releases.checked_at)

    def due_in(self) -> float:
        """Seconds until the next check is due; 0.0 where one is."""
        return self._schedule.due_in(self._clock.now(), self._clock.monotonic(), self._releases.checked_at)

    def expedite(self) -> None:
        """The operator wants something: the next check is due now."""
        self._schedule.expedite()

    async def ask(self) -> list[ModelRelease]:
        """Ask the source, and choose: one release per model at most.

        Raises:
            CloudError: There was no answer.
            VerificationError: The answer is not to be believed.
            ConfigurationError: A trusted key cannot be read.
            StoreError: The result cannot be written down.
        """
        async with self._asking:
            releases = await self._releases.ask()
        self._schedule.succeeded()
        self._failure = None
        return releases

    def failed(self, error: SentinelSyncError) -> None:
        """There was no check: try again later, and say why until one succeeds."""
        self._failure = str(error)
        self.try_again(error)

    def try_again(self, error: SentinelSyncError) -> None:
        """What the check led to came to nothing: check again sooner than in an interval."""
        self._schedule.failed(error, self._clock.monotonic())

    def shown(self) -> ModelCheckStatus:
        """When the source last answered, and why it could not be asked after that."""
        at = self._releases.checked_at
        return ModelCheckStatus(
            checked_at=None if at is None else datetime.fromtimestamp(at, UTC), failure=self._failure
        )
