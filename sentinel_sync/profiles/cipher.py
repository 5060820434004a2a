"""Seals and opens driver profiles: Fernet, several keys while they are rotated. Blocks: call it off the loop.

`cryptography` is imported at first use: it takes 6 MB, which a vehicle without profiles need not hold.
"""

import asyncio
import base64
import hmac
from dataclasses import dataclass
from typing import Protocol

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.keys import KeyProvider, LegacyKeys

#: A sealed profile is not read beyond this (characters): many times what a real one has.
MAX_SEALED = 4 << 20
#: Sets the keys that drivers are named with apart from those that profiles are sealed with.
_NAMING = b"sentinel-sync profile names"
#: The version byte 0x80 and the first bytes of any time before 2106, in base64 (the Fernet specification).
_FERNET_START = "gAAAAA"


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
        from cryptography.fernet import Fernet, MultiFernet  # noqa: PLC0415 - see the module's first lines

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
        from cryptography.fernet import InvalidToken  # noqa: PLC0415 - see the module's first lines

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
