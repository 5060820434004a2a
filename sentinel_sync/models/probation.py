"""Keeps trying what is new until it is proven; what fails is taken back."""

import logging
from dataclasses import replace

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import StoreError
from sentinel_sync.models.health_check import Validation
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.rules.installed import KeptVersion
from sentinel_sync.models.rules.trial import Failed, Passed, Probation, Untried

logger = logging.getLogger(__name__)

#: Where nothing was learned the model is tried again after so many seconds.
_AGAIN = 30.0


class CommitWindow:
    """Sees to all models on probation: each is tried at once, then every so often, and after a restart again.

    Args:
        shelf: The models of this vehicle.
        validation: Tries them.
        clock: Only time that it has seen pass counts.
    """

    def __init__(self, shelf: InstalledModels, validation: Validation, clock: Clock) -> None:
        self._shelf = shelf
        self._validation = validation
        self._clock = clock
        #: When what is installed was last found good in this life: its checksum, and time since boot.
        self._found_good: dict[str, tuple[str | None, float]] = {}

    async def step(self) -> float:
        """Try what is due; returns the seconds until the next trial, infinity where nothing is on probation."""
        wait = float("inf")
        for name, record in self._shelf.records.items():
            if record.probation is not None and record.installed is not None:
                try:
                    wait = min(wait, await self._see_to(name, record.installed, record.probation))
                except StoreError as error:
                    logger.error("model.probation: %s: %s", name, error)
                    wait = min(wait, _AGAIN)
        return wait

    async def _see_to(self, name: str, installed: KeptVersion, probation: Probation) -> float:
        if not self._validation.wanted:
            logger.warning("model.probation: %s %s: nobody is there to try it any more", name, installed.version)
            await self._shelf.change(name, lambda record: replace(record, probation=None))
            return float("inf")
        checksum, since = self._found_good.get(name, (None, 0.0))
        elapsed = self._clock.monotonic() - since if checksum == installed.checksum else None
        if elapsed is not None and elapsed < probation.next_trial():
            return probation.next_trial() - elapsed
        verdict = await self._validation.of(self._shelf.files.live(installed.live_name), name, installed.version)
        present = self._shelf.record(name)
        if present.installed != installed or present.probation is None or present.switching_to is not None:
            return 0.0  # the operator was faster
        match verdict:
            case Untried(reason):
                logger.warning("model.probation: %s %s could not be tried: %s", name, installed.version, reason)
                return _AGAIN
            case Failed(reason):
                await self._take_back(name, installed, reason)
                return 0.0
            case Passed():
                return await self._go_on(name, installed, probation.after(elapsed or 0.0))

    async def _go_on(self, name: str, installed: KeptVersion, probation: Probation) -> float:
        if probation.is_over:
            await self._shelf.change(name, lambda record: replace(record, probation=None))
            self._found_good.pop(name, None)
            logger.info("model.proven: %s %s", name, installed.version)
            return float("inf")
        await self._shelf.change(name, lambda record: replace(record, probation=probation))
        self._found_good[name] = (installed.checksum, self._clock.monotonic())
        return probation.next_trial()

    async def _take_back(self, name: str, installed: KeptVersion, reason: str) -> None:
        self._found_good.pop(name, None)
        former = await self._shelf.condemn(name, reason)
        if former is None:
            logger.error(
                "model.bad: %s %s: %s; it stays in use: no whole version is there to go back to",
                name,
                installed.version,
                reason,
            )
        else:
            logger.error(
                "model.bad: %s %s: %s; taken back to %s, and never tried again",
                name,
                installed.version,
                reason,
                former.version,
            )
