"""`ModelDownloader`: signed releases of driving models, installed whole or not at all, and taken back when asked."""

import asyncio
import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from sentinel_sync.base.errors import CloudError, ConfigurationError, StoreError, VerificationError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.base.tasks import PeriodicTask
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.models.commands import (
    LONG_COMMANDS,
    SHORT_COMMANDS,
    CommandOutcome,
    ModelCommand,
    ModelCommandQueue,
    ModelCommands,
)
from sentinel_sync.models.fetch import ReleaseFetch
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.installer import HealthCheck, ModelInstaller, Validator
from sentinel_sync.models.releases import ReleaseChecks, ReleaseSelector
from sentinel_sync.models.rules.installed import InstallResult, ModelUpdate, update_of
from sentinel_sync.models.rules.releases import check_name, check_version
from sentinel_sync.models.rules.status import DownloadStatus, InstalledModel, ModelCheckStatus, ModelStatus
from sentinel_sync.models.sources import BackendReleases, ReleaseSource
from sentinel_sync.models.updater import CommitWindow, ModelStatusView, ModelUpdater
from sentinel_sync.network.foundation import Foundation, Lifecycle
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.settings import is_loopback
from sentinel_sync.store.store import Store

logger: logging.Logger = logging.getLogger(__name__)

#: An `async def` runs on the loop; a plain function runs in a thread of its own, where it may block.
ProgressListener = Callable[[TransferStatus], Any]

#: A step that could do nothing is not repeated at once, seconds.
_SHORTEST_WAIT = 1.0
#: What waits for a cheaper network is looked at again after so many seconds, where nobody wakes us.
_HELD_AGAIN = 30.0
#: Orders that only the network or the disk held up are tried again after so many seconds.
_COMMANDS_AGAIN_SECONDS = 60.0
#: Folder within the state folder for what a TUF repository's metadata is kept in.
TUF_NAME = "tuf"


class ModelDownloader:
    """Checks for releases, verifies them, fetches them, and lets the runtime open them.

    Args:
        api_client: The backend.
        auto_install: Install what a background check finds; by default as the settings say.
        store: Where records lie; by default as `TripUploader`.
        models_dir: Where models lie; by default as the settings say.
        trusted_keys: Base64 of the raw public keys that may sign, instead of the settings'.
        allow_unsigned: For a bench: take what nobody has signed; by default as the settings say.
        validator: Tries a model before it is switched to, and while it is on probation: given the file, the name and
            the version; False, or anything raised, means that the model has failed. Beside the settings' command.
        foundation: What the agent's features share; by default what the client's components share.

    Attributes:
        check: Checks, downloads and installs.
        upkeep: Carries out orders, switches to what was ready, tries what is on probation.

    Raises:
        ConfigurationError: `allow_unsigned`, and the backend is not on this machine.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        auto_install: bool | None = None,
        store: Store | None = None,
        *,
        models_dir: Path | None = None,
        trusted_keys: Sequence[str] | None = None,
        allow_unsigned: bool | None = None,
        validator: Validator | None = None,
        foundation: Foundation | None = None,
    ) -> None:
        settings = api_client.settings
        self._client = api_client
        self._settings = settings
        self._auto_install = settings.auto_install_models if auto_install is None else auto_install
        self._allow_unsigned = settings.allow_unsigned if allow_unsigned is None else allow_unsigned
        if self._allow_unsigned and not is_loopback(httpx.URL(settings.api_url).host):
            raise ConfigurationError("allow_unsigned is for a bench: api_url must then be a loopback address")
        foundation = foundation or Foundation.of(api_client, store)
        self._clock = foundation.clock
        self._store = foundation.store
        self._policy = foundation.policy
        self._installed = InstalledModels(models_dir or settings.models_dir, self._store.documents, self._clock)
        self._source = source = _source_of(foundation)
        self._releases = ReleaseSelector(
            source,
            self._installed,
            settings,
            trusted_keys=settings.model_trusted_keys if trusted_keys is None else trusted_keys,
            allow_unsigned=self._allow_unsigned,
        )
        self._checks = ReleaseChecks(
            self._releases, interval=settings.model_check_interval, clock=self._clock, rng=foundation.rng
        )
        health_check = HealthCheck(validator, settings.model_validator_command, settings.model_validator_timeout)
        self._installer = ModelInstaller(
            self._installed,
            ReleaseFetch(
                api_client,
                source,
                self._installed.files,
                self._policy,
                self._store.documents,
                deltas=settings.model_deltas,
                clock=self._clock,
                rng=foundation.rng,
            ),
            health_check,
            self._policy,
            check=self._releases.check,
            withdrawn_reason=self._checks.withdrawn_reason,
            probation=settings.model_probation,
            clock=self._clock,
        )
        self._updater = ModelUpdater(
            self._installed,
            self._releases,
            self._installer,
            CommitWindow(self._installed, health_check, self._clock),
            self._policy,
            interval=settings.model_check_interval,
            clock=self._clock,
        )
        self._status_view = ModelStatusView(self._installed, self._releases, self._installer, self._updater)
        self._commands = ModelCommandQueue(ModelCommands(self._store.documents, self._clock))
        self._resuming = True
        self.check: PeriodicTask = PeriodicTask("models.check", self.step)
        self.upkeep: PeriodicTask = PeriodicTask("models.upkeep", self.upkeep_step)
        self._life = Lifecycle(
            foundation, [self.check, self.upkeep], opening=self._open, closing=self._installer.events.close
        )
        self._policy.subscribe(self.wake)

    @property
    def tasks(self) -> tuple[PeriodicTask, ...]:
        """What somebody must keep doing."""
        return self._life.tasks

    async def prepare(self) -> None:
        """Open what is needed and finish an installation that was cut off; done by itself at first use.

        Raises:
            StoreError: The state folder cannot be used.
        """
        await self._life.prepare()

    def wake(self) -> None:
        """Have both duties look now: a trip has ended, the network has changed; a plain call."""
        for duty in self.tasks:
            duty.wake.set()

    # --- the specification's face ---

    async def check_for_updates(self) -> list[ModelUpdate]:
        """Ask the source for its releases; returns those that are genuine, newer, and meant for this vehicle.

        Raises:
            CloudError: There was no listing.
            VerificationError: A TUF repository is refused as a whole.
            ConfigurationError: A trusted key cannot be read.
            StoreError: The result cannot be written down.
        """
        return [self._update(release) for release in await self._ask()]

    async def download_and_install_model(
        self, name: str, version: str, expected_checksum: str | None = None, signature: str | None = None
    ) -> InstallResult:
        """Fetch a release and let the runtime open it; until the very end the old one stays in use.

        While the network is too dear for models nothing is fetched (`error` is a HeldError). While a trip is under way
        it is fetched, and switched to by itself at the trip's end (`waiting`), where somebody sees to `tasks`.

        Args:
            name: Of the model.
            version: As listed.
            expected_checksum: SHA-256 in hex that it must have; by default the listed one.
            signature: Base64 of the signature to verify; by default the listed one.

        Returns:
            True where the runtime opens this version now; else what stands against it (`reason`, `error`).

        Raises:
            ConfigurationError: A trusted key cannot be read.
            StoreError: The state folder cannot be used.
        """
        await self.prepare()
        result = await self._updater.install(name, version, expected_checksum, signature)
        # Whatever came of it is the upkeep's next: it waits, or it is on probation.
        self.upkeep.wake.set()
        return result

    async def get_installed_models(self) -> dict[str, InstalledModel]:
        """What the runtime opens, by name."""
        await self.prepare()
        return self._status_view.installed()

    async def get_download_status(self, name: str) -> DownloadStatus:
        """Say what is being done about a model, or what became of it."""
        await self.prepare()
        return self._status_view.status(name)

    def start_background_checks(self) -> "asyncio.Future[None]":
        """Check every `model_check_interval` seconds, in the running loop; may be awaited."""
        return self._life.start()

    async def stop_background_checks(self) -> None:
        """End what `start_background_checks` began; a download goes on where it was, the next time."""
        await self._life.stop()

    async def close(self) -> None:
        """End the background and what listeners are being told; the store stays open."""
        await self._life.close()

    def on_progress(self, listener: ProgressListener) -> None:
        """Have `listener(progress)` told a few times a second how a download, and what follows, goes.

        An `async def` runs on the loop; a plain function runs in a thread, where it may block. One that is slow or
        raises disturbs nothing.
        """
        self._installer.events.subscribe(listener)

    # --- the operator's word ---

    async def rollback(self, name: str) -> InstallResult:
        """Let the runtime open the previous version again, at once; the present one is not taken again by itself.

        Raises:
            StoreError: The state folder cannot be used.
        """
        return await self._roll_back(name, None)

    async def pin(self, name: str, version: str | None) -> None:
        """Want just this version of a model, older or newer, until `pin(name, None)`; it must be signed all the same.

        Raises:
            VerificationError: The name or version cannot be one, or the version was found bad on this vehicle.
            StoreError: The state folder cannot be used.
        """
        check_name(name, "the model's name")
        if version is not None:
            check_version(version)
        await self.prepare()
        if version is not None:
            self._releases.check_pinnable(name, version)
        await self._installed.change(name, lambda record: record.pinned_to(version))
        self._checks.expedite()
        self.wake()

    async def clear_bad(self, name: str, version: str) -> bool:
        """Let a version be tried again that was found bad on this vehicle; False where it was not.

        Raises:
            StoreError: The state folder cannot be used.
        """
        await self.prepare()
        cleared = await self._installed.clear_bad(name, version)
        if cleared:
            logger.warning("model.forgiven: %s %s may be tried again", ascii(name), ascii(version))
            self._checks.expedite()
            self.wake()
        return cleared

    #: The name that it had first.
    forgive = clear_bad

    # --- by itself ---

    async def sync_now(self) -> int:
        """Check where a check is due, and install what it finds where that is wanted; returns how many were installed.

        Also goes on with what was begun in an earlier life, and with what waited for a cheaper network.

        Raises:
            CloudError: There was no listing.
            VerificationError: A TUF repository is refused as a whole.
            ConfigurationError: A trusted key cannot be read.
            StoreError: The state folder cannot be used.
        """
        await self.prepare()
        try:
            releases = await self._due_releases()
            return 0 if releases is None else await self._take(releases)
        except (CloudError, VerificationError, ConfigurationError) as error:
            self._checks.failed(error)
            raise

    async def step(self) -> float:
        """Check where one is due, download and install; returns the seconds until there is something to do again."""
        try:
            await self.sync_now()
        except CloudError as error:
            logger.info("models.check: %s", error)
        except (VerificationError, ConfigurationError) as error:
            logger.error("models.check: %s", error)
        waits = [self._checks.due_in()]
        if not await self._commands.carry_out(LONG_COMMANDS, self._carry_out):
            waits.append(_COMMANDS_AGAIN_SECONDS)
        if self._updater.holds_downloads:
            waits.append(_HELD_AGAIN)
        return max(_SHORTEST_WAIT, min(waits))

    async def upkeep_step(self) -> float:
        """Carry out orders, switch to what is ready, try what is on probation; returns the seconds until the next."""
        await self.prepare()
        done = await self._commands.carry_out(SHORT_COMMANDS, self._carry_out)
        if await self._commands.waiting(LONG_COMMANDS):
            self.check.wake.set()
        if await self._updater.inspect():
            self._resuming = True
            self.check.wake.set()
        wait = await self._updater.maintain()
        return max(_SHORTEST_WAIT, wait if done else min(wait, _COMMANDS_AGAIN_SECONDS))

    def snapshot(self) -> list[ModelStatus]:
        """What there is to show of each model, also of one that only its refusal is known of; a plain call."""
        return self._status_view.shown()

    async def command_outcomes(self) -> list[CommandOutcome]:
        """What became of the last orders that other processes placed, the newest last."""
        await self.prepare()
        return await self._commands.outcomes()

    async def commands_waiting(self) -> int:
        """Orders of other processes that wait to be carried out; opens no model, which may take long."""
        return await self._commands.count()

    def last_check(self) -> ModelCheckStatus:
        """When the source was last asked, and why the attempt after that failed; a plain call."""
        return self._checks.shown()

    # --- how ---

    async def _open(self) -> None:
        await self._source.open()
        await self._installed.open()
        await self._updater.clean()
        self._checks.ask_before(record.staged for record in self._installed.records.values())
        if self._allow_unsigned:
            logger.critical("models.unsigned: allow_unsigned is on: whoever speaks for the backend drives this car")

    async def _ask(self) -> list[ModelRelease]:
        await self.prepare()
        releases = await self._checks.ask()
        await self._updater.clean()
        return releases

    async def _due_releases(self) -> list[ModelRelease] | None:
        """What may be taken, where that is to be looked at now: a check is due, or something is to be gone on with."""
        if self._checks.is_due:
            return await self._ask()
        if self._resuming or (
            self._updater.holds_downloads and await self._policy.blocked_reason(TrafficClass.MODELS) is None
        ):
            return await self._releases.choose()
        return None

    async def _take(self, releases: Sequence[ModelRelease]) -> int:
        self._resuming = False
        failure = await self._updater.fetch_damaged()
        installed = 0
        if self._auto_install:
            installed, passing = await self._updater.take(releases)
            failure = failure or passing
        else:
            # Whoever asked for what was held asks again, now that it may be.
            self._updater.release_held(self._installed.damaged)
        if failure is None:
            self._checks.succeeded()
        else:
            self._checks.try_again(failure)
        self.upkeep.wake.set()
        return installed

    async def _roll_back(self, name: str, order: str | None) -> InstallResult:
        await self.prepare()
        try:
            version = await self._installed.roll_back(name, order)
        except (VerificationError, StoreError) as error:
            present = self._installed.record(name).standing.installed
            return InstallResult(False, name, present or "", str(error), error)
        return InstallResult(True, name, version.version)

    async def _carry_out(self, order: ModelCommand, key: str) -> InstallResult:
        """Carry out an order of another process."""
        name, version = order.name, order.version or ""
        match order.action:
            case "install":
                return await self.download_and_install_model(name, version)
            case "rollback":
                return await self._roll_back(name, key)
            case "pin":
                await self.pin(name, version)
            case "unpin":
                await self.pin(name, None)
            case "forgive":
                if not await self.clear_bad(name, version):
                    return InstallResult(False, name, version, f"{name} {version} was not found bad on this vehicle")
            case "check":
                self._checks.expedite()
                await self.sync_now()
        return InstallResult(True, name, version)

    def _update(self, release: ModelRelease) -> ModelUpdate:
        return update_of(release, self._installed.record(release.name).standing.installed)


def _source_of(foundation: Foundation) -> ReleaseSource:
    """The source that the settings name: another one is a line here, its settings in `ModelSource`, and its own file.

    Raises:
        ConfigurationError: A repository is not described whole.
    """
    client, store, source = foundation.client, foundation.store, foundation.client.settings.models
    if source.source == "api":
        return BackendReleases(client, store.documents, foundation.clock)
    # Not before it is wanted: a vehicle without a TUF repository need not have any of it.
    from sentinel_sync.models.tuf.source import TufReleases  # noqa: PLC0415

    return TufReleases(
        client,
        store.documents,
        foundation.clock,
        source=source,
        folder=store.state_dir / TUF_NAME,
        timekeeper=foundation.timekeeper,
    )
