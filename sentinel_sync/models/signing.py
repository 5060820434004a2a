"""The release side: makes private keys, and signs what a vehicle will verify. Blocks; nothing of it runs in a vehicle.

`cryptography` is imported where it is used: see models/rules/releases.py.
"""

import base64
import os
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Protocol

from sentinel_sync.base.errors import ConfigurationError, VerificationError
from sentinel_sync.base.files import sync_folder
from sentinel_sync.base.payloads import ModelRelease, ModelSignature
from sentinel_sync.models.files import checksum_of
from sentinel_sync.models.rules.releases import check_version, key_id, live_name, manifest

#: What a file of signing keys may have: more is something else.
_LARGEST_FILE = 64 << 10
_ENCRYPTED = b"ENCRYPTED PRIVATE KEY"


class SigningKey(Protocol):
    """What `cryptography`'s Ed25519PrivateKey does for us."""

    def sign(self, data: bytes) -> bytes:
        """The signature over `data`."""
        ...


@dataclass(frozen=True, slots=True)
class PublicKey:
    """What a vehicle is told of a key.

    Attributes:
        text: Base64 of the raw 32 bytes, as `model_trusted_keys` takes it.
        key_id: Its name, as in `model_revoked_keys`.
    """

    text: str
    key_id: str

    @classmethod
    def of(cls, raw: bytes) -> "PublicKey":
        """The key of these 32 bytes."""
        return cls(base64.b64encode(raw).decode(), key_id(raw))


@dataclass(frozen=True, slots=True)
class Signer:
    """A private key, opened, and what is public of it."""

    key: SigningKey
    public: PublicKey


def make_key(path: Path, passphrase: bytes | None) -> PublicKey:
    """Make an Ed25519 key: the private one in `path` (PEM, 0600), the public one beside it as `.pub` (base64).

    Args:
        path: Must not exist: a key that is overwritten is lost with every release that it would have signed.
        passphrase: Encrypts the private key; None leaves it in the clear.

    Raises:
        ConfigurationError: One of the files is there already, or cannot be written.
    """
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 - see the top
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415

    key = Ed25519PrivateKey.generate()
    sealing = serialization.BestAvailableEncryption(passphrase) if passphrase else serialization.NoEncryption()
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, sealing)
    public = PublicKey.of(key.public_key().public_bytes_raw())
    beside = public_path(path)
    if beside.exists():
        raise ConfigurationError(f"{beside} is there already: a key is never overwritten; choose another name")
    _create(path, pem, 0o600)
    _create(beside, f"{public.text}\n".encode(), 0o644)
    return public


def public_path(path: Path) -> Path:
    """Where the public part of a key is put."""
    return path.with_suffix(".pub")


def read_key(path: Path, passphrase: Callable[[], bytes]) -> Signer:
    """Open a private key.

    Args:
        path: Of a PEM file.
        passphrase: Asked only where the key is encrypted.

    Raises:
        ConfigurationError: It cannot be read, is no Ed25519 key, or the passphrase is not its own.
    """
    from cryptography.exceptions import UnsupportedAlgorithm  # noqa: PLC0415 - see the top
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey  # noqa: PLC0415
    from cryptography.hazmat.primitives.serialization import load_pem_private_key  # noqa: PLC0415

    pem = _read(path)
    encrypted = _ENCRYPTED in pem
    try:
        key = load_pem_private_key(pem, passphrase() if encrypted else None)
    except (ValueError, TypeError, UnsupportedAlgorithm):
        why = "is not opened by this passphrase" if encrypted else "is no PEM of a private key"
        raise ConfigurationError(f"{path} {why}") from None
    if not isinstance(key, Ed25519PrivateKey):
        raise ConfigurationError(f"{path} is no Ed25519 key")
    return Signer(key, PublicKey.of(key.public_key().public_bytes_raw()))


def sign_release(
    file: Path, name: str, version: str, *, filename: str | None = None, signers: Sequence[Signer]
) -> ModelRelease:
    """Sign a model's file with every one of the keys; the first is also the release's only `signature`.

    Args:
        file: The model; it stays where it is.
        name: Of the model.
        version: Like v2.1.0.
        filename: What the listing calls the file; None leaves the ending to the contract's rule.
        signers: At least one.

    Raises:
        VerificationError: A name or version that no vehicle would take, or an empty file.
        OSError: The file cannot be read.
    """
    live_name(name, filename)
    check_version(version)
    size = file.stat().st_size
    if not size:
        raise VerificationError(f"{file.name} is empty: no vehicle would take it")
    checksum = checksum_of(file)
    signed = manifest(name, version, size, checksum)
    signatures = tuple(
        ModelSignature(signature=base64.b64encode(signer.key.sign(signed)).decode(), key_id=signer.public.key_id)
        for signer in signers
    )
    first = signatures[0]
    return ModelRelease(
        name=name,
        version=version,
        size=size,
        checksum=checksum,
        signature=first.signature,
        key_id=first.key_id,
        signatures=signatures,
        filename=filename,
    )


def check_file(file: Path, release: ModelRelease) -> None:
    """Let a file pass that has the size and the bytes that its manifest names.

    Raises:
        VerificationError: It has not.
        OSError: It cannot be read.
    """
    size = file.stat().st_size
    if size != release.size:
        raise VerificationError(f"{file.name} has {size} bytes, and {release.size} are signed")
    if checksum_of(file) != release.checksum:
        raise VerificationError(f"{file.name} is not what was signed: its checksum is another")


def _create(path: Path, content: bytes, mode: int) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_NOFOLLOW, mode)
        with os.fdopen(descriptor, "wb") as file:
            file.write(content)
            file.flush()
            os.fsync(file.fileno())
        sync_folder(path.parent)
    except FileExistsError:
        raise ConfigurationError(f"{path} is there already: a key is never overwritten; choose another name") from None
    except OSError as error:
        raise ConfigurationError(f"cannot write {path}: {error.strerror}") from None


def _read(path: Path) -> bytes:
    try:
        with path.open("rb") as file:
            return file.read(_LARGEST_FILE)
    except OSError as error:
        raise ConfigurationError(f"cannot read {path}: {error.strerror}") from None
