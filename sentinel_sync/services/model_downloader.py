"""`ModelDownloader`: signed releases of driving models, installed whole or not at all, and taken back when asked."""

import asyncio
import logging
from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial
from pathlib import Path
from random import Random, SystemRandom

import httpx

from sentinel_sync.adapters.cloud.cloud_api_client import CloudAPIClient
from sentinel_sync.adapters.cloud.download import FileDownload, StaleAddressError, Target
from sentinel_sync.adapters.models.catalogue import ModelOffers
from sentinel_sync.adapters.models.files import ModelFolderError
from sentinel_sync.adapters.models.keys import read_trust
from sentinel_sync.adapters.models.shelf import ModelShelf
from sentinel_sync.adapters.store.store import Store
from sentinel_sync.adapters.threads import run_to_end
from sentinel_sync.adapters.traffic.desk import TrafficDesk
from sentinel_sync.clock import Clock, SystemClock
from sentinel_sync.errors import (
    CloudError,
    ConfigurationError,
    HeldError,
    SentinelSyncError,
    StoreFullError,
    VerificationError,
)
from sentinel_sync.payloads import ModelRelease
from sentinel_sync.rules.releases.choice import Choice, check_genuine, choose, is_history
from sentinel_sync.rules.releases.installed import (
    DownloadStatus,
    InstalledModel,
    InstallResult,
    KeptVersion,
    ModelRecord,
    ModelUpdate,
)
from sentinel_sync.rules.releases.releases import (
    Trust,
    check_name,
    check_version,
    check_version_allowed,
    live_name,
    newest,
)
from sentinel_sync.rules.releases.schedule import CheckSchedule, is_passing
from sentinel_sync.rules.traffic import Traffic
from sentinel_sync.services.standalone import desk_of, store_of
from sentinel_sync.settings import is_loopback
from sentinel_sync.supervisor import Duty, Supervisor

logger = logging.getLogger(__name__)

#: A step that could do nothing is not repeated at once, seconds.
_SHORTEST_WAIT = 1.0
#: An address may expire while it is used; a backend that gives out only expired ones is given up.
_MOST_ADDRESSES = 3


@dataclass(slots=True)
class _Activity:
    """What is being done about a model now."""

    status: str
    version: str
    total_bytes: int
    received_bytes: int = 0

    def progress(self, received_bytes: int) -> None:
        """Note how much is on disk."""
        self.received_bytes = received_bytes


class ModelDownloader:
    """Checks for releases, verifies them, fetches them, and lets the runtime open them.

    Args:
        api_client: The backend.
        auto_install: Install what a background check finds; by default as the settings say.
        store: Where records lie; by default as `TripUploader`.
        models_dir: Where models lie; by default as the settings say.
        trusted_keys: Base64 of the raw public keys that may sign, instead of the settings'.
        allow_unsigned: For a bench: take what nobody has signed; by default as the settings say.
        traffic: Says whether models may be fetched now; by default the client's own.
        supervised: True where somebody else (the agent) sees to `check`.
        clock: The seam for time.
        rng: The seam for chance.

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
        traffic: TrafficDesk | None = None,
        supervised: bool = False,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        settings = api_client.settings
        self._client = api_client
        self._settings = settings
        self._auto_install = settings.auto_install_models if auto_install is None else auto_install
        self._trusted_keys = settings.model_trusted_keys if trusted_keys is None else tuple(trusted_keys)
        self._allow_unsigned = settings.allow_unsigned if allow_unsigned is None else allow_unsigned
        if self._allow_unsigned and not is_loopback(httpx.URL(settings.api_url).host):
            raise ConfigurationError("allow_unsigned is for a bench: api_url must then be a loopback address")
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._store = store or store_of(api_client, self._clock)
        self._traffic = traffic or desk_of(api_client, self._store, self._clock)
        self._offers = ModelOffers(api_client, self._store.documents, self._clock)
        self._shelf = ModelShelf(models_dir or settings.models_dir, self._store.documents, self._clock)
        self._supervised = supervised
        self._background = Supervisor(self._clock, self._rng)
        self._prepared = False
        self._preparing = asyncio.Lock()
        self._checking = asyncio.Lock()
        self._changing = asyncio.Lock()
        self._activities: dict[str, _Activity] = {}
        #: Of models that this vehicle knows nothing else of; those of known ones are in their records.
        self._refusals: dict[str, str] = {}
        self._schedule = CheckSchedule(settings.model_check_interval, self._rng)
        self.check = Duty("models.check", self.step)
        self._traffic.subscribe(self.check.wake.set)

    async def prepare(self) -> None:
        """Open what is needed and finish an installation that was cut off; done by itself at first use.

        Raises:
            StoreError: The state folder cannot be used.
        """
        async with self._preparing:
            if self._prepared:
                return
            await self._store.open()
            await self._offers.open()
            await self._shelf.open()
            await self._clean()
            if self._allow_unsigned:
                logger.critical("models.unsigned: allow_unsigned is on: whoever speaks for the backend drives this car")
            if not self._supervised:
                self._client.close_with(self._close)
            self._prepared = True

    # --- the specification's face ---

    async def check_for_updates(self) -> list[ModelUpdate]:
        """Ask the backend for its releases; returns those that are genuine, newer, and meant for this vehicle.

        Raises:
            CloudError: The backend gave no listing.
            ConfigurationError: A trusted key cannot be read.
            StoreError: The result cannot be written down.
        """
        await self.prepare()
        async with self._checking:
            offer = await self._offers.ask()
            updates = await self._choose(offer.releases)
        if not self._changing.locked():
            await self._clean()
        return updates

    async def download_and_install_model(
        self, name: str, version: str, expected_checksum: str | None = None, signature: str | None = None
    ) -> InstallResult:
        """Fetch a release and let the runtime open it; until the very end the old one stays in use.

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
        async with self._changing:
            try:
                release = await self._release(name, version, expected_checksum, signature)
                await self._install(release)
            except (CloudError, VerificationError, ModelFolderError, StoreFullError) as error:
                await self._failed(name, version, error)
                return InstallResult(False, name, version, str(error), error)
            finally:
                self._activities.pop(name, None)
        return InstallResult(True, name, version)

    async def get_installed_models(self) -> dict[str, InstalledModel]:
        """What the runtime opens, by name."""
        await self.prepare()
        return {
            name: InstalledModel(
                version=installed.version,
                installed_at=installed.installed_at,
                path=str(self._shelf.files.live(installed.live_name)),
                checksum=installed.checksum,
                previous_version=None if record.previous is None else record.previous.version,
                pinned_version=record.pinned,
            )
            for name, record in self._shelf.records.items()
            if (installed := record.installed) is not None
        }

    async def get_download_status(self, name: str) -> DownloadStatus:
        """Say what is being done about a model, or what became of it."""
        await self.prepare()
        record, activity = self._shelf.record(name), self._activities.get(name)
        installed = record.standing.installed
        if activity is not None:
            status, reason = activity.status, None
        elif (failure := record.failure or self._refusals.get(name)) is not None:
            status, reason = "failed", failure
        else:
            known = name in self._shelf.records
            status, reason = ("installed" if installed else "idle" if known else "unknown"), None
        return DownloadStatus(
            name=name,
            status=status,
            version=installed if activity is None else activity.version,
            installed_version=installed,
            received_bytes=0 if activity is None else activity.received_bytes,
            total_bytes=0 if activity is None else activity.total_bytes,
            reason=reason,
        )

    def start_background_checks(self) -> "asyncio.Future[None]":
        """Check every `model_check_interval` seconds, in the running loop; may be awaited."""
        return self._background.start([self.check])

    async def stop_background_checks(self) -> None:
        """End what `start_background_checks` began; a download goes on where it was, the next time."""
        await self._background.stop(grace=self._settings.shutdown_timeout)

    # --- the operator's word ---

    async def rollback(self, name: str) -> InstallResult:
        """Let the runtime open the previous version again; the present one is not taken again by itself.

        Raises:
            StoreError: The state folder cannot be used.
        """
        await self.prepare()
        async with self._changing:
            try:
                version = await self._shelf.roll_back(name)
            except (VerificationError, ModelFolderError, StoreFullError) as error:
                present = self._shelf.record(name).standing.installed
                return InstallResult(False, name, present or "", str(error), error)
        return InstallResult(True, name, version.version)

    async def pin(self, name: str, version: str | None) -> None:
        """Want just this version of a model, older or newer, until `pin(name, None)`; it must be signed all the same.

        Raises:
            VerificationError: The name or version cannot be one.
            StoreError: The state folder cannot be used.
        """
        check_name(name, "the model's name")
        if version is not None:
            check_version(version)
        await self.prepare()
        async with self._changing:
            await self._shelf.change(name, lambda record: replace(record, pinned=version))
        self._schedule.expedite()
        self.check.wake.set()

    # --- by itself ---

    async def sync_now(self) -> int:
        """Check where a check is due, and install what it finds where that is wanted; returns how many were installed.

        Raises:
            CloudError: The backend gave no listing.
            ConfigurationError: A trusted key cannot be read.
            StoreError: The state folder cannot be used.
        """
        await self.prepare()
        if not self._schedule.may_try(self._clock.now(), self._clock.monotonic(), self._checked_at):
            return 0
        try:
            updates = await self.check_for_updates()
        except CloudError as error:
            self._schedule.failed(error, self._clock.monotonic())
            raise
        results = [await self._take(update) for update in updates] if self._auto_install else []
        passing = [result.error for result in results if result.error is not None and is_passing(result.error)]
        if passing:
            self._schedule.failed(passing[0], self._clock.monotonic())
        else:
            self._schedule.succeeded()
        return sum(map(bool, results))

    async def step(self) -> float:
        """Check where one is due; returns the seconds until the next is."""
        try:
            await self.sync_now()
        except CloudError as error:
            logger.info("models.check: %s", error)
        return max(_SHORTEST_WAIT, self._schedule.due_in(self._clock.now(), self._clock.monotonic(), self._checked_at))

    @property
    def _checked_at(self) -> float | None:
        return None if self._offers.last is None else self._offers.last.checked_at

    async def _take(self, update: ModelUpdate) -> InstallResult:
        return await self.download_and_install_model(update["name"], update["version"], update["checksum"])

    # --- which ---

    async def _trust(self) -> Trust:
        # Read each time: keys are rotated under a running agent.
        return await run_to_end(
            read_trust, self._trusted_keys, self._settings.model_trusted_keys_dir, self._settings.model_revoked_keys
        )

    async def _choose(self, releases: Sequence[ModelRelease]) -> list[ModelUpdate]:
        trust = await self._trust()
        by_name: dict[str, list[ModelRelease]] = {}
        for release in releases:
            by_name.setdefault(release.name, []).append(release)
        updates: list[ModelUpdate] = []
        self._refusals = {}
        for name, group in by_name.items():
            record = self._shelf.record(name)
            choice = choose(
                group, record.standing, trust, self._settings.vehicle_id, allow_unsigned=self._allow_unsigned
            )
            for refusal in choice.refusals:
                logger.error("model.refused: %s", refusal)
            if choice.update is not None:
                updates.append(_update(choice.update, record.standing.installed))
            elif choice.refusals:
                self._refusals[name] = choice.refusals[0]
            # Only what somebody trusted has named: others could fill the store with names.
            if choice.newest_seen != record.newest_seen or (choice.update is None and record.failure is not None):
                await self._shelf.change(name, partial(_noting, choice))
        return updates

    async def _release(
        self, name: str, version: str, expected_checksum: str | None, signature: str | None
    ) -> ModelRelease:
        """The release that was asked for, verified, and allowed on this vehicle."""
        check_name(name, "the model's name")
        check_version(version)
        release = self._listed(name, version)
        if release is None:
            await self._offers.ask()
            release = self._listed(name, version)
        if release is None:
            raise VerificationError(f"{name} {version} is not in the backend's listing")
        if expected_checksum is not None and expected_checksum.lower() != release.checksum:
            raise VerificationError(f"{name} {version} is refused: the listed checksum is not the expected one")
        if signature is not None and signature != release.signature:
            release = release.model_copy(update={"signature": signature, "key_id": None})
        check_genuine(release, await self._trust(), allow_unsigned=self._allow_unsigned)
        if release.signature is None:
            logger.critical("model.unsigned: %s %s is taken although nobody signed it", name, version)
        record = self._shelf.record(name)
        installed = record.installed
        if installed is None or (installed.version, installed.checksum) != (version, release.checksum):
            check_version_allowed(name, version, record.standing)
        return release

    def _listed(self, name: str, version: str) -> ModelRelease | None:
        releases = () if self._offers.last is None else self._offers.last.releases
        return next((release for release in releases if (release.name, release.version) == (name, version)), None)

    # --- getting it ---

    async def _install(self, release: ModelRelease) -> None:
        record = self._shelf.record(release.name)
        if record.installed is not None and record.installed.version == release.version:
            return
        live, files = live_name(release.name, release.filename), self._shelf.files
        kept = files.version(release.name, release.version, live)
        self._activities[release.name] = activity = _Activity("downloading", release.version, release.size)
        # It may be here already: a switch that failed, or a version that was rolled back from.
        if not await run_to_end(files.holds, kept, release.size, release.checksum):
            staging = files.staging(release.name, release.version, live)
            await run_to_end(files.make_room, staging, release.size)
            await self._fetch(release, staging, activity)
            await run_to_end(files.keep, staging, kept)
        activity.status = "installing"
        version = KeptVersion(release.version, live, self._clock.now(), release.size, release.checksum)
        await self._shelf.install(release.name, version)
        await self._clean()

    async def _fetch(self, release: ModelRelease, staging: Path, activity: _Activity) -> None:
        if (held := await self._traffic.why_held(Traffic.MODELS)) is not None:
            raise HeldError(f"{release.name} {release.version}: not fetched: {held}")
        target = Target(staging, release.size, release.checksum)
        download = FileDownload(self._client, target, clock=self._clock, on_progress=activity.progress)
        for attempt in range(1, _MOST_ADDRESSES + 1):
            address = await self._offers.address(release)
            try:
                await download.fetch(address)
                return
            except StaleAddressError:
                if attempt == _MOST_ADDRESSES:
                    raise

    async def _failed(self, name: str, version: str, error: SentinelSyncError) -> None:
        refused = isinstance(error, VerificationError)
        logger.log(
            logging.ERROR if refused else logging.WARNING, "model.failed: %s %s: %s", ascii(name), ascii(version), error
        )
        if name in self._shelf.records:
            await self._shelf.change(name, lambda record: replace(record, failure=str(error)))
        else:
            self._refusals[name] = str(error)

    async def _clean(self) -> None:
        """Keep what a listed release has of staging files, and nothing else that is half done."""
        wanted: list[Path] = []
        for release in () if self._offers.last is None else self._offers.last.releases:
            standing = self._shelf.record(release.name).standing
            try:
                if release.version == standing.pinned or not is_history(release.version, standing.installed):
                    live = live_name(release.name, release.filename)
                    wanted.append(self._shelf.files.staging(release.name, release.version, live))
            except VerificationError:
                continue  # it was refused, and said so, when it was listed
        await self._shelf.clean(wanted)

    async def _close(self) -> None:
        await self.stop_background_checks()
        self._prepared = False


def _noting(choice: Choice, record: ModelRecord) -> ModelRecord:
    """The record once a listing was read; where there is nothing to take, an earlier failure is history."""
    failure = record.failure if choice.update is not None else None
    return replace(record, newest_seen=newest((record.newest_seen, choice.newest_seen)), failure=failure)


def _update(release: ModelRelease, installed: str | None) -> ModelUpdate:
    return ModelUpdate(
        name=release.name,
        version=release.version,
        current_version=installed,
        size=release.size,
        checksum=release.checksum,
        signature=release.signature,
        key_id=release.key_id,
        released_at=release.released_at,
    )
