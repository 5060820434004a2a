"""The doctor's checks that need no network: settings, secrets, state folder, outbox, ffmpeg. They block."""

import asyncio
import os
import shutil
import stat
import tempfile
import time
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime
from importlib import import_module
from importlib.util import find_spec
from pathlib import Path

from sentinel_sync.base.clock import EARLIEST_PLAUSIBLE
from sentinel_sync.base.errors import ConfigurationError, StoreError
from sentinel_sync.cli.arguments import program
from sentinel_sync.cli.findings import Finding, fail, ok, warn
from sentinel_sync.cli.offline import last_said, opened, runs
from sentinel_sync.cli.ui.status_text import drop_reason, dropped, given_up
from sentinel_sync.cli.ui.text import count, duration, moment, size
from sentinel_sync.cloud.http import FileCredential
from sentinel_sync.settings import CloudSettings, Settings
from sentinel_sync.store.database import DamagedError
from sentinel_sync.store.rules import OutboxStatus
from sentinel_sync.store.store import DATABASE_NAME

_PREFIX = "SENTINEL_CLOUD__"
#: What configuration templates carry instead of a key.
_PLACEHOLDER_KEYS = frozenset({"your_api_key", "changeme"})
#: Keys of the settings that are secrets themselves.
_SECRETS = ("api_key", "pseudonym_key", "profile_keys", "proxy")
#: With less free disk nothing can be relied upon, bytes.
_LEAST_DISK = 32 << 20
#: By why something was dropped; a driver's or an operator's decision needs none.
_DROP_REMEDIES = {
    "size": "raise cloud.outbox_max_bytes",
    "age": "raise cloud.outbox_max_age",
    "retention": "raise cloud.keep_unsent_days",
    "disk_reserve": "free some space, or set cloud.disk_reserve_unsent to false",
}
_OTHERS = stat.S_IRWXG | stat.S_IRWXO
_CHECK = "models"


def check_settings(path: Path | None, settings: Settings, environment: Mapping[str, str]) -> Iterator[Finding]:
    """What the settings say, and whether they are fit to be switched on."""
    overrides = sorted(name for name in environment if name.upper().startswith(_PREFIX))
    source = "built-in defaults" if path is None else str(path)
    cloud = settings.cloud
    yield ok("settings", source + (f", and from the environment {', '.join(overrides)}" if overrides else ""))
    if not cloud.enabled:
        yield warn(
            "switch",
            "cloud.enabled is false: trips are kept, nothing is sent",
            "set cloud.enabled: true when this vehicle may send",
        )
    yield from _check_key(path, cloud)
    if cloud.vehicle_id == CloudSettings.model_fields["vehicle_id"].default:
        yield warn(
            "vehicle",
            f"vehicle_id is the example's, {cloud.vehicle_id}",
            "give each vehicle an id of its own: the backend tells vehicles apart by it",
        )
    else:
        yield ok("vehicle", f"{cloud.vehicle_id} of {cloud.fleet_id}")
    yield from _check_secrets(path, cloud, environment)


def _check_key(path: Path | None, cloud: CloudSettings) -> Iterator[Finding]:
    """Whether there is a key at all; whether it is the right one only the backend knows."""
    advice = "put the backend's key into a file that only this user can read, and its path into cloud.api_key_file"
    if cloud.api_key_file is not None:
        try:
            asyncio.run(FileCredential(cloud.api_key_file).refresh())
        except ConfigurationError as error:
            yield fail("api key", str(error), advice)
    elif cloud.api_key.get_secret_value() in _PLACEHOLDER_KEYS:
        yield warn("api key", "cloud.api_key is still the example's", advice)
    elif not cloud.enabled:
        try:
            Settings.load(path, enabled=True)
        except ConfigurationError as error:
            yield warn("api key", f"not fit to be switched on: {error}", advice)


def _check_secrets(path: Path | None, cloud: CloudSettings, environment: Mapping[str, str]) -> Iterator[Finding]:
    files: dict[str, Path | None] = {
        name: getattr(cloud, name) for name in CloudSettings.model_fields if name.endswith(("_key_file", "_keys_file"))
    }
    given = {name.upper() for name in environment}
    if any(getattr(cloud, name) and f"{_PREFIX}{name.upper()}" not in given for name in _SECRETS):
        files["settings file"] = path
    open_to_others = [
        f"{name} {file}" for name, file in files.items() if file is not None and _readable_by_others(file)
    ]
    if open_to_others:
        yield warn(
            "secrets",
            f"can be read by other users of this machine: {', '.join(open_to_others)}",
            "chmod 600 each of them",
        )
    elif cloud.enabled:
        yield ok("secrets", "no file that holds a key can be read by other users")
    yield _check_pseudonym_key(cloud)


def _readable_by_others(path: Path) -> bool:
    try:
        return bool(path.stat().st_mode & _OTHERS & 0o444)
    except OSError:
        return False


def _check_pseudonym_key(cloud: CloudSettings) -> Finding:
    try:
        key = asyncio.run(cloud.read_pseudonym_key())
    except ConfigurationError as error:
        return fail("pseudonym key", str(error), "make the file readable for this user, or set cloud.pseudonym_key")
    if key is None:
        return warn(
            "pseudonym key",
            "none is set: trips carry no driver at all",
            "set cloud.pseudonym_key_file, the same key in all vehicles of the fleet, to tell drivers apart",
        )
    return ok("pseudonym key", "present: drivers become pseudonyms")


def check_clock(now: float) -> Finding:
    """Whether the wall clock can be right at all; `now` is in seconds since the epoch."""
    if now < EARLIEST_PLAUSIBLE:
        return warn(
            "clock",
            f"it is {moment(now)} here: the clock was never set",
            "start a time service (chrony, systemd-timesyncd), or fit a battery-backed clock",
        )
    return ok("clock", moment(now))


def check_state_folder(cloud: CloudSettings) -> Iterator[Finding]:
    """Whether the state folder can be written to, has room, and is somebody's."""
    folder = cloud.state_dir
    existing = folder if folder.exists() else next(above for above in folder.absolute().parents if above.exists())
    yield _check_writable(folder, existing)
    yield _check_room(cloud, existing)
    if not folder.is_dir():
        return
    if runs(cloud):
        said = last_said(cloud)
        yield ok(
            "agent", f"running{'' if said is None else f' (process {said.process_id})'}; it holds the folder's lock"
        )
    else:
        yield ok("agent", "not running; the folder is free")
    damaged = sorted(folder.glob(f"{DATABASE_NAME}.damaged-*"))
    mains = [file.name for file in damaged if not file.name.endswith(("-wal", "-shm"))]
    if mains:
        yield warn(
            "damage",
            f"an outbox was damaged before and moved aside: {', '.join(mains)}",
            "what could be read was saved; keep the files for a closer look or delete them, and check the disk",
        )


def _check_writable(folder: Path, existing: Path) -> Finding:
    advice = "set cloud.state_dir to a folder on a local disk that this user may write to"
    if not existing.is_dir():
        return fail("state folder", f"{existing} is not a folder", advice)
    if not os.access(existing, os.W_OK | os.X_OK):
        return fail("state folder", f"this user may not write to {existing}", advice)
    if existing != folder:
        return ok("state folder", f"{folder} does not exist yet; it can be made")
    try:
        # Permissions tell nothing of a read-only or full disk.
        with tempfile.NamedTemporaryFile(dir=folder, prefix=".doctor-") as file:
            file.write(b"\0")
            file.flush()
            os.fsync(file.fileno())
    except OSError as error:
        return fail("state folder", f"{folder} cannot be written to: {error.strerror}", advice)
    return ok("state folder", f"{folder} can be written to")


def _check_room(cloud: CloudSettings, existing: Path) -> Finding:
    try:
        free = shutil.disk_usage(existing).free
        taken = sum(file.stat().st_size for file in cloud.state_dir.glob(f"{DATABASE_NAME}*"))
    except OSError as error:
        return fail("disk", f"{existing} cannot be looked at: {error.strerror}", "check the disk")
    may_grow = max(0, cloud.outbox_max_bytes - taken)
    facts = f"{size(free)} free; the outbox takes {size(taken)} of at most {size(cloud.outbox_max_bytes)}"
    if free < _LEAST_DISK:
        return fail("disk", facts, "free some space now: new trips cannot be kept on a full disk")
    if free < may_grow:
        return warn("disk", facts, "free some space, or lower cloud.outbox_max_bytes below what is free")
    return ok("disk", facts)


def check_outbox(cloud: CloudSettings) -> Iterator[Finding]:
    """Whether the outbox is whole, and whether anything in it needs a person."""
    if not (cloud.state_dir / DATABASE_NAME).is_file():
        yield ok("outbox", "none yet")
        return
    mend = "stop the agent and start it again: it moves the file aside and saves what can be read; then check the disk"
    try:
        problems, counts = asyncio.run(_look_into(cloud))
    except DamagedError as error:
        yield fail("outbox", str(error), mend)
        return
    except StoreError as error:
        yield fail("outbox", str(error), "check who else uses the file, and its permissions")
        return
    if problems:
        yield fail("outbox", f"damaged: {problems[0]} ({count(len(problems), 'problem')})", mend)
        return
    yield ok("outbox", f"sound; {counts.unsent:,} to send, {counts.acknowledged:,} sent so far")
    if counts.set_aside:
        yield warn(
            "set aside",
            f"{count(counts.set_aside, 'item')} the backend would not take",
            f"`{program()} queue list --state set_aside` tells why; then `queue retry` or `queue drop`",
        )
    if given := given_up(counts):
        yield _dropped(given)


def _dropped(given: Mapping[str, int]) -> Finding:
    """What was given up, by "kind.reason"; what somebody decided on is nothing to be mended."""
    found = f"{count(sum(given.values()), 'item')} given up so far: {dropped(given)}"
    reasons = {drop_reason(name) for name in given}
    mends = [mend for reason, mend in _DROP_REMEDIES.items() if reason in reasons]
    return warn("dropped", found, f"if that was not meant: {'; '.join(mends)}") if mends else ok("dropped", found)


async def _look_into(cloud: CloudSettings) -> tuple[list[str], OutboxStatus]:
    async with opened(cloud, writable=False) as folder:
        return await folder.outbox.verify(), await folder.outbox.counts()


def check_ffmpeg(cloud: CloudSettings) -> Finding:
    """Where the program that makes videos smaller is."""
    if not cloud.upload_scenarios:
        return ok("ffmpeg", "not needed: upload_scenarios is false")
    found = shutil.which("ffmpeg")
    if found is None and find_spec("imageio_ffmpeg") is not None:
        try:
            found = str(import_module("imageio_ffmpeg").get_ffmpeg_exe())
        except RuntimeError:
            found = None
    if found is None:
        return warn(
            "ffmpeg",
            "not found: recordings wait, because nothing goes with what a recorder wrote into it",
            "install it (apt install ffmpeg), or the extra: pip install 'sentinel-sync[video]'",
        )
    return ok("ffmpeg", found)


def check_client_certificate(cloud: CloudSettings) -> Finding | None:
    """How long the vehicle's own certificate holds; None where it has none."""
    if cloud.client_cert_file is None:
        return None
    # Loaded here only: few vehicles have one, and it takes its time.
    x509 = import_module("cryptography.x509")
    try:
        certificate = x509.load_pem_x509_certificate(cloud.client_cert_file.read_bytes())
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "no PEM certificate in it"
        return fail("client certificate", f"{cloud.client_cert_file} cannot be read: {why}", "check client_cert_file")
    ends: datetime = certificate.not_valid_after_utc
    return expiry("client certificate", (ends - datetime.now(UTC)).total_seconds(), ends.timestamp(), "it")


#: A certificate that ends sooner gets a warning, seconds: renewals are made a month ahead, and sometimes fail.
_SOON = 14 * 86_400.0


def expiry(check: str, left: float, ends: float, what: str) -> Finding:
    """How long a certificate holds: `left` seconds from now, until wall time `ends`."""
    if left <= 0.0:
        return fail(
            check, f"{what} expired {duration(-left)} ago ({moment(ends)})", "renew it, or set this machine's clock"
        )
    if left < _SOON:
        return warn(check, f"{what} expires in {duration(left)} ({moment(ends)})", "renew it in time")
    return ok(check, f"{what} is valid until {moment(ends)}")


def now() -> float:
    """Wall time, seconds since the epoch."""
    return time.time()


def check_model_source(cloud: CloudSettings) -> Iterator[Finding]:
    """Whether a TUF repository can be verified; nothing where models come from the backend's listing."""
    source = cloud.models
    if source.source != "tuf" or source.root_file is None:
        return
    if find_spec("tuf") is None:
        yield fail(_CHECK, "source tuf needs python-tuf", "pip install 'sentinel-sync[tuf]'")
        return
    # It loads python-tuf, which most vehicles do without.
    from sentinel_sync.models.tuf.refresh import root_version  # noqa: PLC0415 - see above

    try:
        version = root_version(source.root_file)
    except ConfigurationError as error:
        yield fail(_CHECK, str(error), "deliver the repository's root.json with the vehicle (docs/tuf.md)")
    else:
        yield ok(_CHECK, f"from a TUF repository; trust begins with version {version} of its root")
