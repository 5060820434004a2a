"""The API key: from the settings, or from a file that may be rotated under a running agent."""

import asyncio
from pathlib import Path
from typing import Protocol

import aiofiles

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.settings import CloudSettings, is_key


class Credential(Protocol):
    """Gives the API key."""

    def key(self) -> str:
        """The key as last read."""
        ...

    async def refresh(self) -> bool:
        """Look whether the key has changed; True where it has."""
        ...


class FixedCredential:
    """A key that stays as it is."""

    def __init__(self, key: str) -> None:
        self._key = key

    def key(self) -> str:
        """The key."""
        return self._key

    async def refresh(self) -> bool:
        """Never changes."""
        return False

    def __repr__(self) -> str:
        return "FixedCredential(***)"


class FileCredential:
    """A key in a file, read again when the file changes (also by a rename, as secret stores do it)."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._key = ""
        self._signature: tuple[int, int, int] | None = None

    def key(self) -> str:
        """The key as last read; empty before the first `refresh`."""
        return self._key

    async def refresh(self) -> bool:
        """Read the file where it changed; True where the key did.

        A file that is missing, empty or half-written for a moment, as while it is rotated, leaves the key as it was.

        Raises:
            ConfigurationError: There is no key at all: the file has never been readable.
        """
        before = self._key
        await asyncio.to_thread(self._read)
        return self._key != before

    def _read(self) -> None:
        try:
            status = self._path.stat()
            signature = (status.st_ino, status.st_mtime_ns, status.st_size)
            if signature == self._signature:
                return
            text = self._path.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            if not self._key:
                why = error.strerror if isinstance(error, OSError) else "not UTF-8"
                raise ConfigurationError(f"cannot read the API key from {self._path}: {why}") from None
            return
        if is_key(text):
            self._key, self._signature = text, signature
        elif not self._key:
            what = "is empty" if not text else "holds more than one key: visible ASCII without spaces is one"
            raise ConfigurationError(f"the API key file {self._path} {what}")

    def __repr__(self) -> str:
        return f"FileCredential({str(self._path)!r})"


def credential_of(settings: CloudSettings) -> Credential:
    """The credential that the settings name: the file where there is one, else the key."""
    path = settings.api_key_file
    return FileCredential(path) if path is not None else FixedCredential(settings.api_key.get_secret_value())


async def read_pseudonym_key(value: str | None, path: Path | None) -> bytes | None:
    """The fleet's pseudonym key as bytes: the text given, or the file's text without the white space around it.

    Raises:
        ConfigurationError: The file cannot be read or is empty: sending no pseudonyms by accident would go unnoticed.
    """
    if path is None:
        return value.strip().encode() if value else None
    try:
        async with aiofiles.open(path, encoding="utf-8") as file:
            text = (await file.read()).strip()
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise ConfigurationError(f"cannot read the pseudonym key from {path}: {why}") from None
    if not text:
        raise ConfigurationError(f"the pseudonym key file {path} is empty")
    return text.encode()
