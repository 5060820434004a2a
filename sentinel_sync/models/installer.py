"""From a verified release to what the runtime opens: fetched, staged, tried, switched; each step on disk by itself."""

import asyncio
import logging
import os
import signal
from collections.abc import AsyncIterator, Awaitable, Callable, Iterator, Sequence
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import replace
from enum import StrEnum
from pathlib import Path

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import VerificationError
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.base.tasks import EventPublisher, run_to_end
from sentinel_sync.base.transfer import ActiveTransfer, TransferStatus
from sentinel_sync.models.fetch import ReleaseFetch, leftovers_of
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.rules.installed import (
    CommitSchedule,
    Failed,
    Passed,
    StagedVersion,
    Untried,
    Verdict,
    verdict_of_exit,
)
from sentinel_sync.models.rules.releases import live_name
from sentinel_sync.network.policy import TransferPolicy

logger: logging.Logger = logging.getLogger(__name__)

#: Given the file, the model's name and its version; False, or anything raised, means that the model has failed.
Validator = Callable[[Path, str, str], Awaitable[bool]]

#: Our own settings may come by these; the credential is nobody else's business.
_OURS = "SENTINEL_"
#: Asked whether a release is genuine and allowed now: keys are revoked, and operators speak, while one waits.
Check = Callable[[ModelRelease], Awaitable[None]]
WithdrawnReason = Callable[[StagedVersion], str | None]


class InstallPhase(StrEnum):
    """What is being done."""

    DOWNLOADING = "downloading"
    VALIDATING = "validating"
    INSTALLING = "installing"


class HealthCheck:
    """Tries models, one at a time.

    Args:
        validator: The host's, or None.
        command: Program and arguments, followed by file, name and version; no shell is involved. Empty is none.
        timeout: Seconds that each of them may take; a model that takes longer has failed.
    """

    def __init__(self, validator: Validator | None, command: Sequence[str], timeout: float) -> None:
        self._validator = validator
        self._command = tuple(command)
        self._timeout = timeout
        self._trying = asyncio.Lock()

    @property
    def wanted(self) -> bool:
        """Whether there is anybody to try a model."""
        return self._validator is not None or bool(self._command)

    async def of(self, path: Path, name: str, version: str) -> Verdict:
        """Try a model; whoever is cancelled meanwhile leaves no process behind."""
        # Not the loop's work: a relative path asks for the working directory.
        absolute = await asyncio.to_thread(path.absolute)
        async with self._trying:
            verdict: Verdict = Passed()
            if self._validator is not None:
                verdict = await self._ask(self._validator, absolute, name, version)
            if self._command and isinstance(verdict, Passed):
                verdict = await self._run(absolute, name, version)
        logger.info("model.tried: %s %s: %s", name, version, type(verdict).__name__.lower())
        return verdict

    async def _ask(self, validator: Validator, path: Path, name: str, version: str) -> Verdict:
        scope = asyncio.timeout(self._timeout)
        try:
            async with scope:
                good = await validator(path, name, version)
        except TimeoutError as error:
            if scope.expired():
                return Failed(f"the validator took longer than {self._timeout:g} s")
            return _raised(error)
        except Exception as error:  # raising is how a validator may say no
            return _raised(error)
        return Passed() if good else Failed("the validator says no")

    async def _run(self, path: Path, name: str, version: str) -> Verdict:
        command = Path(self._command[0]).name
        environment = {name: value for name, value in os.environ.items() if not name.startswith(_OURS)}
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                str(path),
                name,
                version,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.DEVNULL,
                stderr=asyncio.subprocess.DEVNULL,
                env=environment,
                # A group of its own: what it starts is ended with it, and a Ctrl-C is not for it.
                start_new_session=True,
            )
        except OSError as error:
            return Untried(f"the validator ({command}) could not be run: {error.strerror}")
        try:
            async with asyncio.timeout(self._timeout):
                code = await process.wait()
        except TimeoutError:
            return Failed(f"the validator ({command}) took longer than {self._timeout:g} s")
        finally:
            if process.returncode is None:
                with suppress(ProcessLookupError):
                    os.killpg(process.pid, signal.SIGKILL)
                await process.wait()
        return verdict_of_exit(code, command)


def _raised(error: Exception) -> Failed:
    return Failed(f"the validator raised {type(error).__name__}: {loggable_text(str(error))}")


class ModelInstaller:
    """Brings releases onto the vehicle and into use.

    Args:
        installed: The models of this vehicle.
        fetch: Fetches files.
        health_check: Tries models.
        policy: Knows of trips.
        check: Raises VerificationError where a release is not to be used.
        withdrawn_reason: Says why the last good listing does not offer what is staged, or None; asked last.
        probation: Seconds that a new model is on probation; only where there is somebody to try it.
    """

    def __init__(
        self,
        installed: InstalledModels,
        fetch: ReleaseFetch,
        health_check: HealthCheck,
        policy: TransferPolicy,
        *,
        check: Check,
        withdrawn_reason: WithdrawnReason,
        probation: float,
        clock: Clock,
    ) -> None:
        self._installed = installed
        self._fetch = fetch
        self._validation = health_check
        self._policy = policy
        self._check = check
        self._withdrawn_reason = withdrawn_reason
        self._probation = probation
        self._clock = clock
        self._fetching = asyncio.Lock()
        self._installing = asyncio.Lock()
        self._transfers: dict[str, ActiveTransfer] = {}
        #: Files that are being worked on: nobody else's to delete. None is begun while others are deleted.
        self._active_files: set[Path] = set()
        self._beginning = asyncio.Lock()
        #: Checksums of what was hashed while it came, and has not lain about since.
        self._fresh: set[str] = set()
        self.events: EventPublisher[TransferStatus] = EventPublisher[TransferStatus]("model.progress")

    # --- how it goes ---

    def progress(self, name: str) -> TransferStatus | None:
        """What is being done about a model now, or None."""
        transfer = self._transfers.get(name)
        return None if transfer is None else transfer.status()

    def waiting_reason(self, name: str) -> str | None:
        """Why what is staged is not switched to now, or None."""
        staged = self._installed.record(name).staged
        if staged is None:
            return None
        if (why := self._withdrawn_reason(staged)) is not None:
            return f"{name} {staged.release.version} is ready, but not switched to: {why}"
        if not self._policy.trip_under_way:
            return None
        return f"{name} {staged.release.version} is ready: it is switched to when the trip under way has ended"

    async def clean(self, partial_files: Callable[[], list[Path]]) -> None:
        """Delete what is half done, but for what is being worked on and what `partial_files`, in a thread, names."""
        async with self._beginning:
            wanted = await run_to_end(partial_files)
            await self._installed.clean({*wanted, *self._active_files})

    # --- onto the vehicle ---

    async def stage(self, release: ModelRelease, *, is_asked_for: bool = False) -> None:
        """Get a release's file, and stage it. One at a time.

        Args:
            release: Which.
            is_asked_for: A person asks: earlier attempts that won nothing do not keep it waiting.

        Raises:
            CloudError: The network failed, or a download may not be now (HeldError); what came stays.
            VerificationError: What came is not what was signed; nothing of it stays.
            StoreError: The models folder or the store cannot be written.
        """
        live, files = live_name(release.name, release.filename), self._installed.files
        kept = files.version(release.name, release.version, live)
        staging = files.staging(release.name, release.version, live)
        async with self._fetching:
            staged = self._installed.record(release.name).staged
            if staged is not None and staged.release.checksum == release.checksum and staged.live_name == live:
                return
            async with self._writing(kept, *leftovers_of(staging)):
                with self._working(release, InstallPhase.DOWNLOADING) as transfer:
                    # It may be here already: a switch that failed, or a version that was rolled back from.
                    if not await run_to_end(files.holds, kept, release.size, release.checksum):
                        base = self._installed.record(release.name).installed
                        await self._fetch.fetch(release, staging, base, transfer.moved, is_asked_for=is_asked_for)
                        await run_to_end(files.keep, staging, kept)
                staged = StagedVersion(release, live, asked_for=is_asked_for)
                await self._installed.change(release.name, lambda record: replace(record, staged=staged, failure=None))
                self._fresh.add(release.checksum)

    # --- into use ---

    async def activate(self, name: str) -> str | None:
        """Try what is staged and let the runtime open it; returns why that waits, or None where nothing does.

        Raises:
            VerificationError: It is refused, by its signature, by the operator or by the validator.
            StoreError: The models folder or the store cannot be written.
        """
        async with self._installing:
            staged = self._installed.record(name).staged
            if staged is None:
                return None
            hashed = staged.release.checksum in self._fresh
            self._fresh.discard(staged.release.checksum)
            if (why := self.waiting_reason(name)) is not None:
                return why
            with self._working(staged.release, InstallPhase.INSTALLING) as transfer:
                await self._verify_staged(name, staged, hashed=hashed)
                if self._validation.wanted and not staged.tried:
                    _enter(transfer, staged.release, InstallPhase.VALIDATING)
                    if (why := await self._health_check(name, staged)) is not None:
                        return why
                    _enter(transfer, staged.release, InstallPhase.INSTALLING)
                    # Trying takes its time, in which a trip may have begun and the operator spoken.
                    if (why := self.waiting_reason(name)) is not None:
                        return why
                    # Whoever tried it could write to it: what is switched to is what was signed.
                    await self._verify_staged(name, staged, hashed=False)
                await self._installed.install(name, staged.kept, self._new_probation())
        return None

    async def _verify_staged(self, name: str, staged: StagedVersion, *, hashed: bool) -> None:
        """Let what is staged pass where it is still genuine, wanted and whole (`hashed`: that is known)."""
        try:
            await self._check(staged.release)
            if not hashed and not await self._installed.is_kept(name, staged.kept):
                raise VerificationError(
                    f"{name} {staged.release.version} is refused: its file on this vehicle is missing or damaged"
                )
        except VerificationError:
            await self._installed.change(name, lambda record: replace(record, staged=None))
            raise

    async def _health_check(self, name: str, staged: StagedVersion) -> str | None:
        """Have what is staged tried; why that came to nothing, or None where it passed."""
        release = staged.release
        path = self._installed.files.version(name, release.version, staged.live_name)
        match await self._validation.of(path, name, release.version):
            case Passed():
                tried = replace(staged, tried=True)
                await self._installed.change(
                    name, lambda record: replace(record, staged=tried if record.staged == staged else record.staged)
                )
                return None
            case Untried(reason):
                return f"{name} {release.version} could not be tried: {reason}"
            case Failed(reason):
                await self._installed.mark_staged_bad(name, reason)
                logger.error("model.bad: %s %s: %s; it is never tried again", name, release.version, reason)
                raise VerificationError(f"{name} {release.version} is bad: {reason}")

    def _new_probation(self) -> CommitSchedule | None:
        return CommitSchedule(self._probation) if self._probation > 0.0 and self._validation.wanted else None

    @asynccontextmanager
    async def _writing(self, *files: Path) -> AsyncIterator[None]:
        async with self._beginning:
            self._active_files.update(files)
        try:
            yield
        finally:
            self._active_files.difference_update(files)

    @contextmanager
    def _working(self, release: ModelRelease, phase: InstallPhase) -> Iterator[ActiveTransfer]:
        transfer = self._transfers[release.name] = ActiveTransfer(release.name, self.events, self._clock)
        _enter(transfer, release, phase)
        try:
            yield transfer
        finally:
            if self._transfers.get(release.name) is transfer:
                del self._transfers[release.name]


def _enter(transfer: ActiveTransfer, release: ModelRelease, phase: InstallPhase) -> None:
    """Go on to the next phase; all bytes are there but while they are fetched."""
    transfer.begin(phase, release.version, release.size, 0 if phase is InstallPhase.DOWNLOADING else release.size)
    if phase is not InstallPhase.DOWNLOADING:
        transfer.tell()
