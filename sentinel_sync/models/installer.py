"""From a verified release to what the runtime opens: fetched, staged, tried, switched; each step on disk by itself."""

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.events import EventPublisher
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.threads import run_to_end
from sentinel_sync.models.activity import Activity, Phase
from sentinel_sync.models.fetch import ReleaseFetch, leftovers_of
from sentinel_sync.models.health_check import Validation
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.rules.answers import DownloadProgress
from sentinel_sync.models.rules.installed import StagedVersion
from sentinel_sync.models.rules.releases import live_name
from sentinel_sync.models.rules.trial import Failed, Passed, Probation, Untried
from sentinel_sync.network.policy import TransferPolicy

logger = logging.getLogger(__name__)

#: Asked whether a release is genuine and allowed now: keys are revoked, and operators speak, while one waits.
Check = Callable[[ModelRelease], Awaitable[None]]


class ModelInstaller:
    """Brings releases onto the vehicle and into use.

    Args:
        shelf: The models of this vehicle.
        fetch: Fetches files.
        validation: Tries models.
        desk: Knows of trips.
        check: Raises VerificationError where a release is not to be used.
        probation: Seconds that a new model is on probation; only where there is somebody to try it.
        clock: For rates.
    """

    def __init__(
        self,
        shelf: InstalledModels,
        fetch: ReleaseFetch,
        validation: Validation,
        desk: TransferPolicy,
        *,
        check: Check,
        probation: float,
        clock: Clock,
    ) -> None:
        self._shelf = shelf
        self._fetch = fetch
        self._validation = validation
        self._desk = desk
        self._check = check
        self._probation = probation
        self._clock = clock
        self._fetching = asyncio.Lock()
        self._installing = asyncio.Lock()
        self._activities: dict[str, Activity] = {}
        self._in_hand: set[Path] = set()
        #: Checksums of what was hashed while it came, and has not lain about since.
        self._fresh: set[str] = set()
        self.news = EventPublisher[DownloadProgress]("model.progress")

    # --- how it goes ---

    def progress(self, name: str) -> DownloadProgress | None:
        """What is being done about a model now, or None."""
        activity = self._activities.get(name)
        return None if activity is None else activity.progress()

    def why_waiting(self, name: str) -> str | None:
        """Why what is staged is not switched to now, or None."""
        staged = self._shelf.record(name).staged
        if staged is None or not self._desk.trip_under_way:
            return None
        return f"{name} {staged.release.version} is ready: it is switched to when the trip under way has ended"

    @property
    def in_hand(self) -> frozenset[Path]:
        """Files that are being worked on: nobody else's to delete."""
        return frozenset(self._in_hand)

    # --- onto the vehicle ---

    async def bring(self, release: ModelRelease) -> None:
        """Get a release's file, and stage it. One at a time.

        Raises:
            CloudError: The network failed, or a download may not be now (HeldError); what came stays.
            VerificationError: What came is not what was signed; nothing of it stays.
            StoreError: The models folder or the store cannot be written.
        """
        live, files = live_name(release.name, release.filename), self._shelf.files
        kept = files.version(release.name, release.version, live)
        staging = files.staging(release.name, release.version, live)
        async with self._fetching:
            staged = self._shelf.record(release.name).staged
            if staged is not None and staged.release.checksum == release.checksum and staged.live_name == live:
                return
            with self._working(release, Phase.DOWNLOADING, kept, *leftovers_of(staging)) as activity:
                # It may be here already: a switch that failed, or a version that was rolled back from.
                if not await run_to_end(files.holds, kept, release.size, release.checksum):
                    base = self._shelf.record(release.name).installed
                    await self._fetch.fetch(release, staging, base, activity.moved)
                    await run_to_end(files.keep, staging, kept)
                staged = StagedVersion(release, live)
                await self._shelf.change(release.name, lambda record: replace(record, staged=staged, failure=None))
                self._fresh.add(release.checksum)

    # --- into use ---

    async def put_in_use(self, name: str) -> str | None:
        """Try what is staged and let the runtime open it; returns why that waits, or None where nothing does.

        Raises:
            VerificationError: It is refused, by its signature, by the operator or by the validator.
            StoreError: The models folder or the store cannot be written.
        """
        async with self._installing:
            staged = self._shelf.record(name).staged
            if staged is None:
                return None
            hashed = staged.release.checksum in self._fresh
            self._fresh.discard(staged.release.checksum)
            if (why := self.why_waiting(name)) is not None:
                return why
            with self._working(staged.release, Phase.INSTALLING) as activity:
                await self._look_at(name, staged, hashed=hashed)
                if self._validation.wanted and not staged.tried:
                    activity.enter(Phase.VALIDATING)
                    if (why := await self._try(name, staged)) is not None:
                        return why
                    activity.enter(Phase.INSTALLING)
                    # Trying takes its time, in which a trip may have begun and the operator spoken.
                    if (why := self.why_waiting(name)) is not None:
                        return why
                    await self._look_at(name, staged, hashed=True)
                await self._shelf.install(name, staged.kept, self._new_probation())
        return None

    async def _look_at(self, name: str, staged: StagedVersion, *, hashed: bool) -> None:
        """Let what is staged pass where it is still genuine, wanted and whole (`hashed`: that is known)."""
        try:
            await self._check(staged.release)
            if not hashed and not await self._shelf.is_kept(name, staged.kept):
                raise VerificationError(
                    f"{name} {staged.release.version} is refused: its file on this vehicle is missing or damaged"
                )
        except VerificationError:
            await self._shelf.change(name, lambda record: replace(record, staged=None))
            raise

    async def _try(self, name: str, staged: StagedVersion) -> str | None:
        """Have what is staged tried; why that came to nothing, or None where it passed."""
        release = staged.release
        path = self._shelf.files.version(name, release.version, staged.live_name)
        match await self._validation.of(path, name, release.version):
            case Passed():
                tried = replace(staged, tried=True)
                await self._shelf.change(
                    name, lambda record: replace(record, staged=tried if record.staged == staged else record.staged)
                )
                return None
            case Untried(reason):
                return f"{name} {release.version} could not be tried: {reason}"
            case Failed(reason):
                await self._shelf.mark_staged_bad(name, reason)
                logger.error("model.bad: %s %s: %s; it is never tried again", name, release.version, reason)
                raise VerificationError(f"{name} {release.version} is bad: {reason}")

    def _new_probation(self) -> Probation | None:
        return Probation(self._probation) if self._probation > 0.0 and self._validation.wanted else None

    @contextmanager
    def _working(self, release: ModelRelease, phase: Phase, *files: Path) -> Iterator[Activity]:
        activity = self._activities[release.name] = Activity(release, phase, self.news, self._clock)
        self._in_hand.update(files)
        try:
            yield activity
        finally:
            self._in_hand.difference_update(files)
            if self._activities.get(release.name) is activity:
                del self._activities[release.name]
