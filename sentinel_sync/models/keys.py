"""Reads the public keys that may sign models: from the settings, and from files, rotated under a running agent."""

import base64
import binascii
from collections.abc import Collection, Sequence
from pathlib import Path

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.models.rules.releases import Trust, raw_key

#: A key's file is a line or a few; a larger one is something else.
_LARGEST_FILE = 8 << 10


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
    return raw_key(key)


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
