"""Gets releases into use and keeps them so: remembers what waits and why, what failed, and goes on by itself."""

import logging
from collections.abc import Collection, Sequence
from dataclasses import replace

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import (
    CloudError,
    ConfigurationError,
    FileError,
    HeldError,
    SentinelSyncError,
    StoreError,
    StoreFullError,
    VerificationError,
)
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.cloud.download import FileHostError
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.installer import HealthCheck, ModelInstaller
from sentinel_sync.models.releases import ReleaseSelector
from sentinel_sync.models.rules.installed import (
    LEAST_SHARE,
    CommitSchedule,
    Failed,
    InstallResult,
    KeptVersion,
    Passed,
    Untried,
    is_passing,
)
from sentinel_sync.models.rules.status import (
    DownloadStatus,
    InstalledModel,
    ModelStatus,
    download_status,
    installed_model,
    model_shown,
)
from sentinel_sync.network.policy import TransferPolicy

logger: logging.Logger = logging.getLogger(__name__)

#: Where a trial taught nothing the model is tried again after so many seconds.
_TRIAL_AGAIN = 30.0
#: Seconds until the next look at what is ready and waits for the end of a trip, where nobody wakes us: the ignition
#: goes off soon after it.
_READY_AGAIN = 2.0
#: What could not be repaired or switched to is tried again after so many seconds.
_AGAIN = 60.0
#: Where nothing is to be done.
_IDLE = 300.0


class CommitWindow:
    """Sees to all models on probation: each is tried at once, then every so often, and after a restart again.

    Args:
        installed: The models of this vehicle.
        health_check: Tries them.
        clock: Only time that it has seen pass counts.
    """

    def __init__(self, installed: InstalledModels, health_check: HealthCheck, clock: Clock) -> None:
        self._installed = installed
        self._validation = health_check
        self._clock = clock
        #: When what is installed was last found good in this life: its checksum, and time since boot.
        self._found_good: dict[str, tuple[str | None, float]] = {}

    async def step(self) -> float:
        """Try what is due; returns the seconds until the next trial, infinity where nothing is on probation."""
        wait = float("inf")
        for name, record in self._installed.records.items():
            if record.probation is not None and record.installed is not None:
                try:
                    wait = min(wait, await self._check_one(name, record.installed, record.probation))
                except StoreError as error:
                    logger.error("model.probation: %s: %s", name, error)
                    wait = min(wait, _TRIAL_AGAIN)
        return wait

    async def _check_one(self, name: str, installed: KeptVersion, probation: CommitSchedule) -> float:
        if not self._validation.wanted:
            logger.warning("model.probation: %s %s: nobody is there to try it any more", name, installed.version)
            await self._installed.change(name, lambda record: replace(record, probation=None))
            return float("inf")
        checksum, since = self._found_good.get(name, (None, 0.0))
        elapsed = self._clock.monotonic() - since if checksum == installed.checksum else None
        if elapsed is not None and elapsed < probation.next_trial():
            return probation.next_trial() - elapsed
        verdict = await self._validation.of(self._installed.files.live(installed.live_name), name, installed.version)
        present = self._installed.record(name)
        if present.installed != installed or present.probation is None or present.switching_to is not None:
            return 0.0  # the operator was faster
        match verdict:
            case Untried(reason):
                logger.warning("model.probation: %s %s could not be tried: %s", name, installed.version, reason)
                return _TRIAL_AGAIN
            case Failed(reason):
                await self._take_back(name, installed, reason)
                return 0.0
            case Passed():
                return await self._go_on(name, installed, probation.after(elapsed or 0.0))

    async def _go_on(self, name: str, installed: KeptVersion, probation: CommitSchedule) -> float:
        if probation.is_over:
            await self._installed.change(name, lambda record: replace(record, probation=None))
            self._found_good.pop(name, None)
            logger.info("model.proven: %s %s", name, installed.version)
            return float("inf")
        await self._installed.change(name, lambda record: replace(record, probation=probation))
        self._found_good[name] = (installed.checksum, self._clock.monotonic())
        return probation.next_trial()

    async def _take_back(self, name: str, installed: KeptVersion, reason: str) -> None:
        self._found_good.pop(name, None)
        former = await self._installed.mark_bad(name, reason)
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


class ModelUpdater:
    """Installs, and looks after what is installed.

    Args:
        installed: The models of this vehicle.
        releases: What may be taken.
        installer: Brings it into use.
        probation: Tries what is new.
        traffic: Knows of trips.
        interval: Seconds between checks: so long nothing is fetched again that was refused.
    """

    def __init__(
        self,
        installed: InstalledModels,
        releases: ReleaseSelector,
        installer: ModelInstaller,
        probation: CommitWindow,
        traffic: TransferPolicy,
        *,
        interval: float,
        clock: Clock,
    ) -> None:
        self._installed = installed
        self._releases = releases
        self._installer = installer
        self._probation = probation
        self._policy = traffic
        self._interval = interval
        self._clock = clock
        #: Why a download waits (the network's price, the budget, a quiet trip, a gate that is closed), by model.
        self._held: dict[str, str] = {}
        #: Why what is staged waits (a trip, a validator that cannot be run), by model.
        self._ready: dict[str, str] = {}

    @property
    def holds_downloads(self) -> bool:
        """Whether a download waits for a cheaper network."""
        return bool(self._held)

    def blocked_reason(self, name: str) -> str | None:
        """Why what is wanted of a model waits, or None."""
        return self._ready.get(name) or self._held.get(name)

    def release_held(self, wanted: Collection[str] = ()) -> None:
        """Nobody waits any more for a download of other models than these."""
        self._held = {name: why for name, why in self._held.items() if name in wanted}

    async def install(
        self,
        name: str,
        version: str,
        expected_checksum: str | None,
        signature: str | None,
        *,
        is_asked_for: bool = True,
    ) -> InstallResult:
        """Find a release, fetch it and let the runtime open it, as far as that may be now.

        Raises:
            ConfigurationError: A trusted key cannot be read.
            StoreError: The state folder cannot be used.
        """
        checksum = note = None
        try:
            release = await self._releases.find(name, version, expected_checksum, signature)
            version, checksum = release.version, release.checksum  # v2.0 may be listed as v2.0.0
            note = self._releases.overridden(release) if is_asked_for else None
            record = self._installed.record(name)
            if record.standing.installed != version or record.damage is not None:
                await self._installer.stage(release, is_asked_for=is_asked_for)
                self._held.pop(name, None)
                if (why := await self._activate(name)) is not None:
                    return InstallResult(False, name, version, why, waiting=True, note=note)
        except (CloudError, VerificationError, FileError, StoreFullError) as error:
            await self._failed(name, version, checksum, error)
            return InstallResult(False, name, version, str(error), error)
        return InstallResult(True, name, version, note=note)

    async def take(self, releases: Sequence[ModelRelease]) -> tuple[int, SentinelSyncError | None]:
        """Install what may be installed by itself.

        Returns:
            How many the runtime opens now that it did not before, and an error for whose sake to try again soon.

        Raises:
            ConfigurationError: A trusted key cannot be read.
            StoreError: The state folder cannot be used.
        """
        before, now = self._in_use(), self._clock.now()
        await self._switch_to_what_is_ready()
        self.release_held({release.name for release in releases} | self._installed.damaged)
        passing: SentinelSyncError | None = None
        for release in releases:
            record = self._installed.record(release.name)
            is_ready = record.staged is not None and record.staged.release.checksum == release.checksum
            if is_ready or record.is_given_up(release.checksum, now, LEAST_SHARE * self._interval):
                self._held.pop(release.name, None)
                continue
            result = await self.install(release.name, release.version, release.checksum, None, is_asked_for=False)
            # A file's host has a pace of its own: a listing that comes well says nothing about it, nor it about that.
            error = None if isinstance(result.error, HeldError | FileHostError) else result.error
            if passing is None and error is not None and is_passing(error):
                passing = error
        return len(self._in_use() - before), passing

    async def fetch_damaged(self) -> SentinelSyncError | None:
        """Fetch again what was damaged on this vehicle; returns an error for whose sake to try again soon.

        Raises:
            ConfigurationError: A trusted key cannot be read.
            StoreError: The state folder cannot be used.
        """
        passing: SentinelSyncError | None = None
        for name, record in self._installed.records.items():
            installed = record.installed
            if record.damage is None or installed is None or installed.checksum is None:
                continue
            if record.is_given_up(installed.checksum, self._clock.now(), LEAST_SHARE * self._interval):
                continue
            result = await self.install(name, installed.version, installed.checksum, None, is_asked_for=False)
            if result.error is not None and not isinstance(result.error, HeldError | FileHostError):
                passing = result.error if is_passing(result.error) else passing
        return passing

    async def inspect(self) -> bool:
        """Look whether what is in use is whole; True where something is to be fetched again that was not before."""
        return bool(await self._installed.inspect(is_idle=not self._policy.trip_under_way))

    async def maintain(self) -> float:
        """Finish, switch to what is ready, try what is on probation; returns the seconds until the next look.

        Raises:
            StoreError: The state folder cannot be used.
        """
        before = self._in_use()
        wait = min(await self._repair(), await self._switch_to_what_is_ready(), await self._probation.step(), _IDLE)
        if self._in_use() != before:
            await self.clean()
        return wait

    async def clean(self) -> None:
        """Keep what a listed release has of half-done files, and nothing else that is half done."""
        # A thousand listed releases take some 50 ms, which is more than a loop can spare.
        await self._installer.clean(self._releases.partial_files)

    def _in_use(self) -> set[tuple[str, str | None]]:
        return {(name, record.standing.installed) for name, record in self._installed.records.items()}

    async def _activate(self, name: str) -> str | None:
        """Switch to what is staged; returns why that waits, or None where the runtime opens it."""
        why = await self._installer.activate(name)
        if why is None:
            self._ready.pop(name, None)
            await self.clean()
        elif self._ready.get(name) != why:
            self._ready[name] = why
            logger.info("model.ready: %s", why)
        return why

    async def _failed(self, name: str, version: str, checksum: str | None, error: SentinelSyncError) -> None:
        what = (ascii(name), ascii(version), error)
        if isinstance(error, HeldError):
            if self._held.get(name) != str(error):  # once, not at each look
                logger.info("model.held: %s %s: %s", *what)
                self._held[name] = str(error)
            return
        if isinstance(error, FileHostError):
            logger.warning("model.failed: %s %s: %s", *what)
            self._held[name] = str(error)
            if name in self._installed.records:
                await self._installed.change(name, lambda record: replace(record, failure=str(error)))
            else:
                self._releases.refuse(name, str(error))
            return
        level = logging.ERROR if isinstance(error, VerificationError) else logging.WARNING
        logger.log(level, "model.failed: %s %s: %s", *what)
        self._held.pop(name, None)
        self._ready.pop(name, None)
        if name not in self._installed.records:
            self._releases.refuse(name, str(error))
            return
        given_up = None if is_passing(error) else checksum
        now = self._clock.now()
        await self._installed.change(
            name, lambda record: replace(record, failure=str(error), given_up=given_up, given_up_at=now)
        )
        if given_up is not None:
            await self.clean()

    async def _repair(self) -> float:
        """Finish a switch that failed half-way; the runtime opens the new model then, and the records do not know."""
        if not self._installed.needs_repair:
            return _IDLE
        try:
            await self._installed.repair()
        except StoreError as error:
            logger.error("model.mend: %s", error)
        return _AGAIN

    async def _switch_to_what_is_ready(self) -> float:
        """Switch to all that is staged, where no trip is under way; returns the seconds until the next look."""
        wait = _IDLE
        for name, record in self._installed.records.items():
            if record.staged is None:
                self._ready.pop(name, None)
                continue
            release = record.staged.release
            try:
                if await self._activate(name) is not None:
                    wait = min(wait, _READY_AGAIN if self._policy.trip_under_way else _AGAIN)
            except ConfigurationError as error:
                # It says nothing about this release, and must not keep what is on probation from being tried.
                self._ready[name] = str(error)
                logger.error("model.ready: %s", error)
                wait = min(wait, _AGAIN)
            except (VerificationError, FileError, StoreFullError) as error:
                await self._failed(name, release.version, release.checksum, error)
                wait = min(wait, _AGAIN)
        return wait


class ModelStatusView:
    """All that is known of the models now; plain calls.

    Args:
        installed: What is installed.
        releases: What is offered, and what was refused.
        installer: What is being done.
        updater: What waits.
    """

    def __init__(
        self, installed: InstalledModels, releases: ReleaseSelector, installer: ModelInstaller, updater: ModelUpdater
    ) -> None:
        self._installed = installed
        self._releases = releases
        self._installer = installer
        self._updater = updater

    def installed(self) -> dict[str, InstalledModel]:
        """What the runtime opens, by name."""
        return {
            name: installed_model(record, installed, str(self._installed.files.live(installed.live_name)))
            for name, record in self._installed.records.items()
            if (installed := record.installed) is not None
        }

    def status(self, name: str) -> DownloadStatus:
        """What is being done about a model, or what became of it."""
        return download_status(
            self._installed.records.get(name),
            name,
            progress=self._installer.progress(name),
            refusal=self._releases.refusal(name),
            held=self._updater.blocked_reason(name),
        )

    def shown(self) -> list[ModelStatus]:
        """What the agent's status shows, also of a model that only its refusal is known of."""
        return [
            model_shown(
                self._installed.record(name),
                self.status(name),
                self._installer.progress(name),
                self._releases.available(name),
                self._releases.offered(name),
                self._releases.refused_versions(name),
            )
            for name in sorted({*self._installed.records, *self._releases.refused(), *self._releases.offered_names()})
        ]
