"""Putting a model into a backend's folder: file first, row after, and a version never changes its bytes.

`publish_model` works on the folder itself, also while a backend runs on it; the route in `models.py` does the
same over HTTP.
"""

import base64
import binascii
import hashlib
import json
import os
import re
import time
from collections.abc import Sequence
from contextlib import closing
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from sentinel_sync.backend.database import Connection, Row
from sentinel_sync.backend.sqlite import connect, migrate
from sentinel_sync.backend.storage import BLOCK, Folders, ReceivedFile, fresh_name, sync_folder

EXTENSIONS = (".pt", ".pth", ".onnx", ".engine", ".tflite", ".safetensors", ".bin")
SIGNATURE_BYTES = 64
KEY_ID_DIGITS = 16

_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,127}")
_VERSION = re.compile(r"v?[0-9]{1,9}(\.[0-9]{1,9}){0,3}(?P<suffix>[-+][0-9A-Za-z.-]{1,60})?")
_KEY_ID = re.compile(r"[0-9a-f]{16}")


class ModelExistsError(Exception):
    """This version was published before, with other bytes. A version never changes: publish a new one."""


@dataclass(frozen=True, slots=True)
class ModelSignature:
    """One Ed25519 signature over the contract's manifest of the model.

    Raises:
        ValueError: It is not base64 of 64 bytes, or the key id is not 16 hex digits.
    """

    signature: str
    """Base64."""
    key_id: str | None = None
    """The first 16 hex digits of the SHA-256 of the raw public key."""

    def __post_init__(self) -> None:
        try:
            raw = base64.b64decode(self.signature, validate=True)
        except (binascii.Error, ValueError):
            raw = b""
        if len(raw) != SIGNATURE_BYTES:
            raise ValueError(f"a signature must be base64 of {SIGNATURE_BYTES} bytes")
        if self.key_id is not None and not _KEY_ID.fullmatch(self.key_id):
            raise ValueError(f"a key id must be {KEY_ID_DIGITS} lower-case hex digits")


@dataclass(frozen=True, slots=True, kw_only=True)
class ModelRelease:
    """What is said about a model that is being published.

    Raises:
        ValueError: A name, version, file name or rollout that the contract does not allow.
    """

    name: str
    version: str
    filename: str | None = None
    """None: the name with the ending that the contract gives where the listing has none."""
    signatures: Sequence[ModelSignature] = ()
    """None at all is stored as it is: vehicles refuse it, which a bench may want to see."""
    rollout: float | None = None
    """The share of vehicles, 0…1, that should take it; None: all, but of what is published already as it is."""
    released_at: str | None = None
    """RFC 3339; None: now."""

    def __post_init__(self) -> None:
        if not _NAME.fullmatch(self.name):
            raise ValueError("a model's name must be letters, digits, dots, dashes and underscores, a letter first")
        if not _VERSION.fullmatch(self.version):
            raise ValueError("a version must look like v2.1.0")
        filename = self.file_name()
        if not _NAME.fullmatch(filename) or not filename.endswith(EXTENSIONS):
            raise ValueError("a model's file name must end with one of " + " ".join(EXTENSIONS))
        if self.rollout is not None and not 0 <= self.rollout <= 1:
            raise ValueError("a rollout must be a share from 0 to 1")
        if self.released_at is not None and datetime.fromisoformat(self.released_at).tzinfo is None:
            raise ValueError("released_at must have an offset")

    def file_name(self) -> str:
        """The file name that vehicles are told."""
        return self.filename or self.name + (".pt" if "yolo" in self.name.lower() else ".pth")


def publish_model(folder: Path, file: Path, release: ModelRelease) -> str:
    """Copies a model file into a backend's folder and lists it; returns its SHA-256 in hex.

    Publishing the same bytes again changes the signatures and the date, and the rollout and the file name where they
    are given; what was withdrawn is offered again. Blocks; takes about as long as copying the file.

    Args:
        folder: The backend's folder; it is made if missing.
        file: The model; it stays where it is.
        release: What the listing says of it.

    Raises:
        FileNotFoundError: There is no such file.
        ModelExistsError: This version is listed with other bytes.
    """
    folders = Folders(folder)
    folders.create()
    target = folders.models / fresh_name()
    recorded = False
    try:
        received = _copy(file, target)
        with closing(connect(folders.database)) as connection:
            migrate(connection)
            connection.execute("BEGIN IMMEDIATE")
            recorded = record_model(connection, release, received, time.time())
            connection.execute("COMMIT")
    finally:
        if not recorded:
            target.unlink(missing_ok=True)
    return received.sha256


def record_model(connection: Connection, release: ModelRelease, file: ReceivedFile, now: float) -> bool:
    """Lists a model whose file is durable; False where its bytes are known, so the file is not needed.

    What was withdrawn is offered again.

    Raises:
        ModelExistsError: As for `publish_model`.
    """
    signatures = json.dumps([asdict(signature) for signature in release.signatures])
    released_at = release.released_at or datetime.fromtimestamp(now, UTC).isoformat(timespec="seconds")
    connection.lock(f"model {release.name} {release.version}")
    before: Row | None = connection.execute(
        "SELECT checksum FROM models WHERE name = ? AND version = ?", (release.name, release.version)
    ).fetchone()
    if before is None:
        connection.execute(
            "INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)",
            (
                release.name,
                release.version,
                release.file_name(),
                file.path.name,
                file.size,
                file.sha256,
                signatures,
                1.0 if release.rollout is None else release.rollout,
                released_at,
                now,
            ),
        )
        return True
    if before["checksum"] != file.sha256:
        raise ModelExistsError(f"{release.name} {release.version} is published with other bytes: take a new version")
    connection.execute(
        # What is not named stays: a release at a tenth of the fleet must not go to all because its date was corrected.
        "UPDATE models SET filename = coalesce(?, filename), signatures = ?, rollout = coalesce(?, rollout),"
        " released_at = ?, withdrawn_at = NULL WHERE name = ? AND version = ?",
        (release.filename, signatures, release.rollout, released_at, release.name, release.version),
    )
    return False


def withdraw_model(connection: Connection, name: str, version: str, now: float) -> bool:
    """Offers a version to no vehicle any more; False where it never was published.

    Its row stays, as a version never changes its bytes, and so does its file: from it a delta leads on.
    """
    connection.lock(f"model {name} {version}")
    changed = connection.execute(
        "UPDATE models SET withdrawn_at = coalesce(withdrawn_at, ?) WHERE name = ? AND version = ?",
        (now, name, version),
    )
    return changed.rowcount > 0


def version_order(version: str) -> tuple[tuple[int, ...], bool, str]:
    """A key that sorts versions from old to new; `v2.0.0-rc1` comes before `v2.0.0`."""
    match = _VERSION.fullmatch(version)
    suffix = (match["suffix"] or "") if match else ""
    numbers = tuple(int(number) for number in version.removesuffix(suffix).removeprefix("v").split("."))
    return numbers, not suffix.startswith("-"), suffix


def _copy(source: Path, target: Path) -> ReceivedFile:
    digest, size = hashlib.sha256(), 0
    with source.open("rb") as reading, target.open("xb") as writing:
        while block := reading.read(BLOCK):
            digest.update(block)
            writing.write(block)
            size += len(block)
        writing.flush()
        os.fsync(writing.fileno())
    sync_folder(target.parent)
    return ReceivedFile(target, size, digest.hexdigest())
