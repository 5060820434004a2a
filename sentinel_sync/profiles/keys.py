"""Where the fleet's profile keys come from: the settings, a file, a command, or (by default) the vehicle's id."""

import asyncio
import base64
import hashlib
import hmac
import logging
import os
import sys
import threading
from collections.abc import Iterable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import ConfigurationError, ProfileError
from sentinel_sync.settings import CloudSettings

logger: logging.Logger = logging.getLogger(__name__)

#: PBKDF2-HMAC-SHA256 (OWASP Password Storage Cheat Sheet, as of 2025).
ITERATIONS = 600_000
_SALT = "sentinel-sync profile v1 "
#: The older module's constants: its key came from the vehicle's id, with this salt on every vehicle of the world.
LEGACY_ITERATIONS = 100_000
LEGACY_SALT = b"sentinel_salt"
#: A command is asked again after so many seconds, so that a rotated key needs no restart.
COMMAND_INTERVAL = 3600.0
#: A command that takes longer (a person at a token, perhaps) is given up, seconds.
COMMAND_TIMEOUT = 30.0
#: Of the thread that derives keys: it goes behind the host's own threads, but is not starved by a busy machine.
_NICENESS = 5
#: Keys are 44 characters; this is room for a thousand.
_MAX_TEXT = 64 << 10


#: What the vehicle-derived key cannot do.
DERIVED_WARNING = (
    "profiles are encrypted with a key from vehicle_id: no other vehicle can read them, and anyone who knows vehicle_id"
    " and fleet_id can. Set cloud.profile_keys_file to share them safely within the fleet."
)
#: A sealed profile is not read beyond this (characters): many times what a real one has.
MAX_SEALED = 4 << 20
#: Sets the keys that drivers are named with apart from those that profiles are sealed with.
_NAMING = b"sentinel-sync profile names"
#: The version byte 0x80 and the first bytes of any time before 2106, in base64 (the Fernet specification).
_FERNET_START = "gAAAAA"


class KeyProvider(Protocol):
    """Gives Fernet keys.

    Attributes:
        source: Where they come from, for a person.
        warning: What they cannot do, or None.
    """

    source: str
    warning: str | None

    async def keys(self) -> tuple[bytes, ...]:
        """The keys as they are now, newest first: the first encrypts, all decrypt.

        Raises:
            ConfigurationError: There are none to be had.
        """
        ...


class GivenKeys:
    """Keys from the settings or the environment."""

    source = "cloud.profile_keys"
    warning: str | None = None

    def __init__(self, keys: Iterable[str]) -> None:
        self._keys = tuple(checked(keys, "cloud.profile_keys"))

    async def keys(self) -> tuple[bytes, ...]:
        """The keys."""
        return self._keys

    def __repr__(self) -> str:
        return "GivenKeys(***)"


class KeyFile:
    """Keys in a file, one per line, read again when it changes (also by a rename, as secret stores do it)."""

    source = "cloud.profile_keys_file"
    warning: str | None = None

    def __init__(self, path: Path) -> None:
        self._path = path
        self._keys: tuple[bytes, ...] = ()
        self._signature: tuple[int, int, int] | None = None

    async def keys(self) -> tuple[bytes, ...]:
        """The keys as the file has them. While it cannot be read, as for a moment in a rotation, the ones before.

        Raises:
            ConfigurationError: It has never been readable.
        """
        try:
            await asyncio.to_thread(self._read)
        except ConfigurationError as error:
            if not self._keys:
                raise
            logger.warning("profiles.keys: the former keys stay in use: %s", error)
        return self._keys

    def _read(self) -> None:
        try:
            found = self._path.stat()
            signature = (found.st_mtime_ns, found.st_size, found.st_ino)
            if signature == self._signature:
                return
            with self._path.open(encoding="ascii") as file:
                text = file.read(_MAX_TEXT)
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not ASCII"
            raise ConfigurationError(f"cannot read the profile keys from {self._path}: {why}") from None
        self._keys = checked(_lines(text), str(self._path))
        self._signature = signature

    def __repr__(self) -> str:
        return f"KeyFile({str(self._path)!r})"


class KeyCommand:
    """Keys that a command prints, one per line; asked once an hour.

    Args:
        command: The program and its arguments; no shell is involved.
        clock: For the hour.
    """

    source = "cloud.profile_keys_command"
    warning: str | None = None

    def __init__(self, command: tuple[str, ...], clock: Clock) -> None:
        self._command = command
        self._clock = clock
        self._keys: tuple[bytes, ...] = ()
        self._asked_at = 0.0
        self._asking = asyncio.Lock()

    async def keys(self) -> tuple[bytes, ...]:
        """The keys as the command last printed them. Where it fails later, the ones before.

        Raises:
            ConfigurationError: It has never printed any.
        """
        async with self._asking:
            now = self._clock.monotonic()
            if not self._keys or now - self._asked_at >= COMMAND_INTERVAL:
                try:
                    self._keys = checked(_lines(await self._run()), "cloud.profile_keys_command")
                except ConfigurationError as error:
                    if not self._keys:
                        raise
                    logger.warning("profiles.keys: the former keys stay in use: %s", error)
                self._asked_at = now
        return self._keys

    async def _run(self) -> str:
        what = f"cloud.profile_keys_command ({self._command[0]})"
        try:
            process = await asyncio.create_subprocess_exec(
                *self._command,
                stdin=asyncio.subprocess.DEVNULL,
                stdout=asyncio.subprocess.PIPE,
                stderr=asyncio.subprocess.DEVNULL,
            )
        except OSError as error:
            raise ConfigurationError(f"{what} cannot be started: {error.strerror}") from None
        try:
            async with asyncio.timeout(COMMAND_TIMEOUT):
                output, _ = await process.communicate()
        except TimeoutError:
            raise ConfigurationError(f"{what} took longer than {COMMAND_TIMEOUT:.0f} s") from None
        finally:
            if process.returncode is None:
                process.kill()
                await process.wait()
        if process.returncode != 0:
            # Neither output nor error output is repeated: either may hold a key.
            raise ConfigurationError(f"{what} ended with exit code {process.returncode}")
        return output[:_MAX_TEXT].decode("ascii", "replace")

    def __repr__(self) -> str:
        return f"KeyCommand({self._command[0]!r})"


class DerivedKey:
    """The specification's default: a key from the vehicle's id. Better than nothing, and it says so."""

    source = "derived from cloud.vehicle_id"
    warning: str | None = DERIVED_WARNING

    def __init__(self, vehicle_id: str, fleet_id: str) -> None:
        self._vehicle_id = vehicle_id
        self._fleet_id = fleet_id
        self._keys: tuple[bytes, ...] = ()
        self._deriving = asyncio.Lock()

    async def keys(self) -> tuple[bytes, ...]:
        """The key; derived once, off the loop."""
        async with self._deriving:
            if not self._keys:
                logger.warning("profiles.derived_key: %s", DERIVED_WARNING)
                salt = (_SALT + self._fleet_id).encode()
                self._keys = (await _derived(self._vehicle_id, salt, ITERATIONS),)
        return self._keys

    def __repr__(self) -> str:
        return "DerivedKey(***)"


class LegacyKeys:
    """The keys of the older module, derived only when something asks for them."""

    def __init__(self, vehicle_ids: Iterable[str]) -> None:
        self._vehicle_ids = tuple(dict.fromkeys(vehicle_ids))
        self._keys: tuple[bytes, ...] = ()
        self._deriving = asyncio.Lock()

    async def keys(self) -> tuple[bytes, ...]:
        """The keys, in the order of the vehicles' ids."""
        async with self._deriving:
            if len(self._keys) != len(self._vehicle_ids):
                self._keys = tuple(
                    [await _derived(vehicle_id, LEGACY_SALT, LEGACY_ITERATIONS) for vehicle_id in self._vehicle_ids]
                )
        return self._keys

    def __repr__(self) -> str:
        return "LegacyKeys(***)"


def key_provider(settings: CloudSettings, clock: Clock) -> KeyProvider:
    """The source that the settings name; the first of list (or environment), file and command counts."""
    if settings.profile_keys:
        return GivenKeys(key.get_secret_value() for key in settings.profile_keys)
    if settings.profile_keys_file is not None:
        return KeyFile(settings.profile_keys_file)
    if settings.profile_keys_command:
        return KeyCommand(settings.profile_keys_command, clock)
    return DerivedKey(settings.vehicle_id, settings.fleet_id)


def checked(keys: Iterable[str], source: str) -> tuple[bytes, ...]:
    """Check that keys are Fernet keys.

    Raises:
        ConfigurationError: One is not, or there are none; the message holds no key.
    """
    found = tuple(key.encode() for key in keys)
    if not found:
        raise ConfigurationError(f"{source} holds no profile key")
    for number, key in enumerate(found, 1):
        try:
            size = len(base64.b64decode(key, altchars=b"-_", validate=True))
        except ValueError:
            size = 0
        if size != 32:
            raise ConfigurationError(f"{source}: key {number} is no Fernet key (32 bytes in URL-safe base64)")
    return found


def _lines(text: str) -> list[str]:
    lines = (line.strip() for line in text.splitlines())
    return [line for line in lines if line and not line.startswith("#")]


async def _derived(vehicle_id: str, salt: bytes, iterations: int) -> bytes:
    """Derive a key in a thread of its own that lets others go first: it takes a good part of a second of one core."""
    thread = ThreadPoolExecutor(1, "sentinel-sync-key", _yield_to_others)
    try:
        return await asyncio.get_running_loop().run_in_executor(thread, _derive, vehicle_id, salt, iterations)
    finally:
        thread.shutdown(wait=False)


def _yield_to_others() -> None:
    # Only Linux has a priority for each thread. It cannot be raised again, so the thread is used for nothing else.
    if sys.platform == "linux":
        os.setpriority(os.PRIO_PROCESS, threading.get_native_id(), _NICENESS)


def _derive(vehicle_id: str, salt: bytes, iterations: int) -> bytes:
    return base64.urlsafe_b64encode(hashlib.pbkdf2_hmac("sha256", vehicle_id.encode(), salt, iterations))


class Fernets(Protocol):
    """What `cryptography.fernet.MultiFernet` does for us."""

    def encrypt(self, msg: bytes) -> bytes:
        """Seal with the newest key."""
        ...

    def decrypt(self, msg: bytes) -> bytes:
        """Open with any key."""
        ...


@dataclass(frozen=True, slots=True, repr=False)
class Keyring:
    """Keys in use: seals with the newest, opens with any.

    Attributes:
        fernet: The keys.
        naming: What drivers are named with, one for each key, the newest first.
    """

    fernet: Fernets
    naming: tuple[bytes, ...]

    @classmethod
    def of(cls, keys: tuple[bytes, ...]) -> "Keyring":
        """The keys, newest first. Blocks: imports."""
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - not before there is a profile

        naming = tuple(hmac.digest(key, _NAMING, "sha256") for key in keys)
        return cls(MultiFernet([Fernet(key) for key in keys]), naming)

    def references(self, driver_id: str) -> tuple[str, ...]:
        """What stands for a driver in the store and in logs: by the newest key, then by those before it.

        Without a key nobody can try ids until one fits, and ids are easily guessed.
        """
        return tuple(hmac.new(key, driver_id.encode(), "sha256").hexdigest() for key in self.naming)

    def reference(self, driver_id: str) -> str:
        """What stands for a driver, by the newest key."""
        return self.references(driver_id)[0]

    def seal(self, content: bytes) -> str:
        """Encrypt and authenticate."""
        return self.fernet.encrypt(content).decode("ascii")

    def open(self, sealed: str) -> bytes:
        """Check and decrypt.

        Raises:
            ProfileError: Tampered with, truncated, no token at all, or sealed with a key that is not here.
        """
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - not before there is a profile

        if len(sealed) > MAX_SEALED:
            raise ProfileError(f"the encrypted profile is longer than {MAX_SEALED} characters: it is not used")
        try:
            return self.fernet.decrypt(_token(sealed))
        except (InvalidToken, ValueError):
            raise ProfileError(
                "the encrypted profile cannot be opened: it was tampered with, cut off, or sealed with a key that this"
                " vehicle does not have (cloud.profile_keys must be the same in the whole fleet); nothing was changed"
            ) from None


class ProfileCipher:
    """Gives the keyring in use, and the older module's for what it left behind.

    Args:
        provider: Where keys come from.
        legacy: The older module's keys, this vehicle's first.
    """

    def __init__(self, provider: KeyProvider, legacy: LegacyKeys) -> None:
        self._provider = provider
        self._legacy = legacy
        self._keys: tuple[bytes, ...] = ()
        self._keyring: Keyring | None = None
        self._legacy_keyrings: tuple[Keyring, ...] | None = None

    @property
    def source(self) -> str:
        """Where the keys come from."""
        return self._provider.source

    @property
    def warning(self) -> str | None:
        """What these keys cannot do, or None."""
        return self._provider.warning

    async def keyring(self) -> Keyring:
        """The keys as they are now.

        Raises:
            ConfigurationError: There are none to be had.
        """
        keys = await self._provider.keys()
        if self._keyring is None or keys != self._keys:
            self._keyring = await asyncio.to_thread(Keyring.of, keys)
            self._keys = keys
        return self._keyring

    async def legacy_keyrings(self) -> tuple[Keyring, ...]:
        """One for each vehicle whose older module's profiles may be read; this vehicle's first."""
        if self._legacy_keyrings is None:
            keys = await self._legacy.keys()
            self._legacy_keyrings = await asyncio.to_thread(lambda: tuple(Keyring.of((key,)) for key in keys))
        return self._legacy_keyrings

    def __repr__(self) -> str:
        return f"ProfileCipher({self._provider!r})"


def _token(sealed: str) -> bytes:
    """The Fernet token; the older module wrapped it in base64 once more."""
    token = sealed.strip().encode("ascii")
    if sealed.startswith(_FERNET_START):
        return token
    return base64.b64decode(token, validate=True)
