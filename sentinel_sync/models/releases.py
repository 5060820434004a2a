"""What is offered to this vehicle, and what of it may be taken: the source's word against keys and records."""

import asyncio
import base64
import binascii
import logging
from collections.abc import Collection, Iterable, Mapping, Sequence
from dataclasses import replace
from datetime import UTC, datetime
from functools import partial
from itertools import islice
from pathlib import Path
from random import Random

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ConfigurationError, SentinelSyncError, VerificationError
from sentinel_sync.base.payloads import ModelReason, ModelRelease
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.models.fetch import leftovers_of
from sentinel_sync.models.installed import InstalledModels
from sentinel_sync.models.rules.installed import CheckSchedule, ModelRecord, StagedVersion
from sentinel_sync.models.rules.releases import (
    ReleaseChoice,
    Trust,
    check_genuine,
    check_name,
    check_not_bad,
    check_version,
    check_version_allowed,
    choose_each,
    in_rollout,
    is_history,
    live_name,
    meant_by,
    newest,
    same_version,
    why_not_for,
)
from sentinel_sync.models.rules.status import ModelCheckStatus, OfferedVersion
from sentinel_sync.models.sources import ReleaseSource
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: A key's file is a line or a few; a larger one is something else.
_LARGEST_FILE = 8 << 10
#: A listing that nobody signed may name any number of models; a person reads so many.
_MOST_SHOWN = 20


def read_trust(keys: Sequence[str], folder: Path | None, revoked: Collection[str], *, threshold: int = 1) -> Trust:
    """Read all trusted keys. Blocks: reads files.

    Args:
        keys: Base64 of 32 raw bytes each.
        folder: Of files that hold the same, or PEM; those that begin with a dot are left alone. None is none.
        revoked: Key ids, or keys in base64, that are trusted no more.
        threshold: So many different keys must have signed a release.

    Raises:
        ConfigurationError: A key or the folder cannot be read: a key that is silently missing would go unnoticed.
    """
    raw = [key_in_text(text, "cloud.model_trusted_keys") for text in keys]
    if folder is not None:
        try:
            files = sorted(path for path in folder.iterdir() if path.is_file() and not path.name.startswith("."))
            raw += [key_in_file(path) for path in files]
        except OSError as error:
            raise ConfigurationError(f"cannot read the trusted keys in {folder}: {error.strerror}") from None
    return Trust.of(raw, revoked, threshold=threshold)


def key_in_file(path: Path) -> bytes:
    """The 32 raw bytes of a public key out of a file, base64 or PEM.

    Raises:
        ConfigurationError: It cannot be read or is no Ed25519 public key.
    """
    try:
        with path.open("rb") as file:
            content = file.read(_LARGEST_FILE)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
    if b"-----BEGIN" not in content:
        return key_in_text(content.decode("ascii", "replace"), str(path))
    # Imported where a PEM is there to be read: see models/rules/releases.py.
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_public_key  # noqa: PLC0415

    try:
        key = load_pem_public_key(content)
    except ValueError:
        raise ConfigurationError(f"{path} is no PEM of a public key") from None
    if not isinstance(key, Ed25519PublicKey):
        raise ConfigurationError(f"{path} is no Ed25519 public key")
    return key.public_bytes_raw()


def key_in_text(text: str, where: str) -> bytes:
    """The 32 raw bytes of a public key out of its base64.

    Raises:
        ConfigurationError: It is none; `where` it stands.
    """
    try:
        raw = base64.b64decode(text.strip(), validate=True)
    except (binascii.Error, ValueError):
        raw = b""
    if len(raw) != 32:
        raise ConfigurationError(f"{where} holds something that is not base64 of a raw Ed25519 public key (32 bytes)")
    return raw


class ReleaseSelector:
    """Asks the source, and lets pass what is genuine and allowed.

    Args:
        source: Where releases come from.
        installed: What is known of each model.
        settings: Keys, threshold, the vehicle's id.
        trusted_keys: Base64 of raw public keys.
        allow_unsigned: For a bench.
    """

    def __init__(
        self,
        source: ReleaseSource,
        installed: InstalledModels,
        settings: CloudSettings,
        *,
        trusted_keys: Sequence[str],
        allow_unsigned: bool,
    ) -> None:
        self._source = source
        self._installed = installed
        self._settings = settings
        self._trusted_keys = tuple(trusted_keys)
        self._allow_unsigned = allow_unsigned
        self._refusals: dict[str, str] = {}
        self._refused: dict[str, dict[str, ModelReason | None]] = {}
        #: What was said of refused releases at the last check.
        self._told: frozenset[str] = frozenset()
        self._available: dict[str, str] = {}

    @property
    def checked_at(self) -> float | None:
        """When the source was last asked with success, seconds since the epoch, or None."""
        return None if self._source.last is None else self._source.last.checked_at

    def refusal(self, name: str) -> str | None:
        """Why what was offered of a model was refused at the last choice, or None."""
        return self._refusals.get(name)

    def offered(self, name: str) -> list[OfferedVersion]:
        """What the last listing has of a model; of very many the last."""
        listing, vehicle_id = self._source.last, self._settings.vehicle_id
        found = [] if listing is None else [one for one in listing.releases if one.name == name][-_MOST_SHOWN:]
        return [OfferedVersion(version=one.version, note=why_not_for(one, vehicle_id)) for one in found]

    def offered_names(self) -> set[str]:
        """Names of models that the last listing has; of very many the first few."""
        listing = self._source.last
        return set() if listing is None else set(sorted({one.name for one in listing.releases})[:_MOST_SHOWN])

    def refused(self) -> list[str]:
        """Names of models that something was refused of at the last choice; of very many the first few."""
        return sorted(self._refusals)[:_MOST_SHOWN]

    def refused_versions(self, name: str) -> Mapping[str, ModelReason | None]:
        """What of a model was refused at the last choice, as its vehicle's report says it."""
        return self._refused.get(name, {})

    def refuse(self, name: str, why: str) -> None:
        """Remember why, for a model that this vehicle knows nothing else of."""
        self._refusals[name] = why

    def available(self, name: str) -> str | None:
        """The version that may be taken, as of the last choice and what became of it since, or None."""
        version, standing = self._available.get(name), self._installed.record(name).standing
        if version is None or version in {standing.installed, *standing.skipped}:
            return None
        return version if standing.pinned is None or same_version(version, standing.pinned) else None

    # --- which ---

    async def ask(self) -> list[ModelRelease]:
        """Ask the source, and choose: one release per model at most.

        Raises:
            CloudError: There was no answer.
            VerificationError: The answer is not to be believed.
            ConfigurationError: A trusted key cannot be read.
            StoreError: The result cannot be written down.
        """
        await self._source.ask()
        return await self.choose()

    async def choose(self) -> list[ModelRelease]:
        """Choose from what was offered last.

        Raises:
            ConfigurationError: A trusted key cannot be read.
            StoreError: The result cannot be written down.
        """
        offer = self._source.last
        self._refusals = {} if offer is None else dict(offer.left_out)
        self._refused = {
            name: {version: None}
            for name, version in ({} if offer is None else offer.left_out_versions).items()
            if not is_history(version, self._installed.record(name).standing.installed)
        }
        if offer is None or not offer.releases:
            self._available = {}
            return []
        trust = await self._trust()
        standings = {name: record.standing for name, record in self._installed.records.items()}
        choices = await run_to_end(
            choose_each,
            offer.releases,
            standings,
            trust,
            self._settings.vehicle_id,
            allow_unsigned=self._allow_unsigned,
        )
        self._refusals, self._available = dict(offer.left_out), {}
        for name, choice in choices.items():
            self._refused.setdefault(name, {}).update(islice(choice.refused.items(), _MOST_SHOWN))
        updates = [update for name, choice in choices.items() if (update := await self._note(name, choice)) is not None]
        self._told = frozenset(refusal for choice in choices.values() for refusal in choice.refusals)
        return updates

    async def _note(self, name: str, choice: ReleaseChoice) -> ModelRelease | None:
        record = self._installed.record(name)
        for refusal in choice.refusals:
            if refusal not in self._told:  # at each check it would only bury what is new
                logger.error("model.refused: %s", refusal)
        if choice.withdrawn is not None:
            logger.warning("model.withdrawn: %s: %s", ascii(name), choice.withdrawn)
        if choice.update is not None:
            self._available[name] = choice.update.version
            self._refusals.pop(name, None)
        elif choice.refusals:
            self._refusals[name] = choice.refusals[0]
        # Only what somebody trusted has named: others could fill the store with names.
        if choice.newest_seen != record.newest_seen or (choice.update is None and record.failure is not None):
            await self._installed.change(name, partial(_noting, choice))
        return choice.update

    async def find(self, name: str, version: str, expected_checksum: str | None, signature: str | None) -> ModelRelease:
        """The release that was asked for, verified, and allowed on this vehicle.

        Raises:
            VerificationError: It is not.
            CloudError: It was not listed before, and there was no answer.
            ConfigurationError: A trusted key cannot be read.
        """
        check_name(name, "the model's name")
        check_version(version)
        release = self.listed(name, version, expected_checksum)
        if release is None:
            await self._source.ask()
            release = self.listed(name, version, expected_checksum)
        if release is None:
            raise VerificationError(f"{name} {version} is not in the backend's listing")
        if expected_checksum is not None and expected_checksum.lower() != release.checksum:
            raise VerificationError(f"{name} {version} is refused: the listed checksum is not the expected one")
        if signature is not None and signature != release.signature:
            release = release.model_copy(update={"signature": signature, "key_id": None})
        await self._check_genuine(release)
        if release.signature is None and not release.signatures and not self._source.vouches:
            logger.critical("model.unsigned: %s %s is taken although nobody signed it", name, version)
        record = self._installed.record(name)
        check_not_bad(release, record.standing)
        if not record.is_installed(release.version, release.checksum):
            check_version_allowed(name, release.version, record.standing)
            if release.version == record.standing.installed:
                raise VerificationError(
                    f"{name} {version} is refused: it is in use with other bytes, and a version never changes them"
                )
        return release

    async def check(self, release: ModelRelease) -> None:
        """Let a release pass that was found, and has waited since: keys are revoked, and operators speak, meanwhile.

        What was seen meanwhile does not count: a newer one that is offered makes this one no worse.

        Raises:
            VerificationError: It is no longer genuine, or no longer wanted.
            ConfigurationError: A trusted key cannot be read.
        """
        await self._check_genuine(release)
        record = self._installed.record(release.name)
        standing = replace(record.standing, newest_seen=None)
        check_not_bad(release, standing)
        if not _mends(release, record):
            check_version_allowed(release.name, release.version, standing)

    def withdrawn_reason(self, staged: StagedVersion) -> str | None:
        """Why the last good listing does not offer this vehicle what is staged, or None where it does."""
        release, name = staged.release, staged.release.name
        if self._source.last is None or self._source.vouches:  # where it vouches, `check` asks
            return None
        offered = self.listed(name, release.version, release.checksum)
        if offered is None or offered.checksum != release.checksum:
            return "it is not offered any more"
        record = self._installed.record(name)
        is_wanted = staged.asked_for or record.is_pinned_to(release.version) or _mends(release, record)
        if is_wanted or in_rollout(offered, self._settings.vehicle_id):
            return None
        return "its rollout does not reach this vehicle any more"

    def overridden(self, release: ModelRelease) -> str | None:
        """What a person's order for a release passes over, or None: a rollout that leaves this vehicle out."""
        is_pinned = self._installed.record(release.name).is_pinned_to(release.version)
        if is_pinned or release.rollout is None or in_rollout(release, self._settings.vehicle_id):
            return None
        share = 100.0 * release.rollout
        return f"it is rolled out to {share:g} % of vehicles and this one is outside: the order overrides that"

    def check_pinnable(self, name: str, version: str) -> None:
        """Raise VerificationError where a version was found bad on this vehicle, and is still what is offered."""
        bad = next((bad for bad in self._installed.record(name).bad if same_version(bad.version, version)), None)
        listed = self.listed(name, version)
        if bad is not None and (listed is None or listed.checksum == bad.checksum):
            raise VerificationError(
                f"{name} {version} is not pinned: it was found bad on this vehicle ({bad.reason}); to try it again,"
                " clear it first (models clear-bad)"
            )

    def listed(self, name: str, version: str, checksum: str | None = None) -> ModelRelease | None:
        """What the last listing says of a version, verified or not; of several entries the one with this checksum.

        v2.0 is v2.0.0, where it is not listed itself.
        """
        listing = () if self._source.last is None else self._source.last.releases
        named = [release for release in listing if release.name == name]
        meant = meant_by(version, (release.version for release in named))
        entries = [release for release in named if release.version == meant]
        expected = (release for release in entries if checksum is not None and release.checksum == checksum.lower())
        return next(expected, entries[0] if entries else None)

    async def _check_genuine(self, release: ModelRelease) -> None:
        # Many signatures by many keys, as a hostile listing may have, take longer than a loop can spare.
        await run_to_end(check_genuine, release, await self._trust(), allow_unsigned=self._allow_unsigned)
        if self._source.vouches and not self._is_vouched_for(release):
            raise VerificationError(f"{release.name} {release.version} is refused: it is not offered any more")

    def _is_vouched_for(self, release: ModelRelease) -> bool:
        """Whether the source still offers just these bytes: where it vouches, its listing is all the proof there is.

        What waits on disk may have come while another source, or another root file, was in the settings.
        """
        offered = self.listed(release.name, release.version, release.checksum)
        return offered is not None and (offered.size, offered.checksum) == (release.size, release.checksum)

    async def _trust(self) -> Trust | None:
        if self._source.vouches:
            return None
        # Read each time: keys are rotated under a running agent.
        return await run_to_end(
            read_trust,
            self._trusted_keys,
            self._settings.model_trusted_keys_dir,
            self._settings.model_revoked_keys,
            threshold=self._settings.model_signature_threshold,
        )

    # --- what may lie about ---

    def partial_files(self) -> list[Path]:
        """Where what was fetched of listed releases may lie, to be gone on from; of many it takes long."""
        paths: list[Path] = []
        for release in () if self._source.last is None else self._source.last.releases:
            record = self._installed.record(release.name)
            if record.is_bad(release.checksum):
                continue
            try:
                is_past = is_history(release.version, record.standing.installed) and not _mends(release, record)
                if record.is_pinned_to(release.version) or not is_past:
                    live = live_name(release.name, release.filename)
                    check_version(release.version)
                    paths += leftovers_of(self._installed.files.staging(release.name, release.version, live))
            except VerificationError:
                continue  # it was refused, and said so, when it was listed
        return paths


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
        #: Checksums of what an earlier life had ready, until the source was asked in this one, answered or not.
        self._asked_first: frozenset[str] = frozenset()

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

    def ask_before(self, staged: Iterable[StagedVersion | None]) -> None:
        """Have the fleet asked before anything is switched to that an earlier life had ready: that may be long ago."""
        self._asked_first = frozenset(it.release.checksum for it in staged if it is not None and not it.asked_for)
        if self._asked_first:
            self.expedite()

    def withdrawn_reason(self, staged: StagedVersion) -> str | None:
        """Why the fleet's last word is against a switch, or None; one from before this start is asked for again."""
        if staged.release.checksum in self._asked_first:
            return "the fleet is asked first whether it still is offered"
        return self._releases.withdrawn_reason(staged)

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
        self._schedule.answered()
        self._failure, self._asked_first = None, frozenset()
        return releases

    def succeeded(self) -> None:
        """All that the last check led to came to its end; what is gone on with after a check that failed is none."""
        if self._failure is None:
            self._schedule.succeeded()

    def failed(self, error: SentinelSyncError) -> None:
        """There was no check: try again later, and say why until one succeeds."""
        self._failure, self._asked_first = str(error), frozenset()
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


def _mends(release: ModelRelease, record: ModelRecord) -> bool:
    """Whether a release is just what is installed, and damaged: the fleet has nothing new to say of it."""
    return record.damage is not None and record.is_installed(release.version, release.checksum)


def _noting(choice: ReleaseChoice, record: ModelRecord) -> ModelRecord:
    """The record once a listing was read; where there is nothing to take, an earlier failure is history."""
    failure = record.failure if choice.update is not None else None
    return replace(record, newest_seen=newest((record.newest_seen, choice.newest_seen)), failure=failure)
