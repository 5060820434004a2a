"""The parts of a scenario, however they came: what is awaited, what is here, and how one is stored exactly once."""

import gzip
import hashlib
import json
import os
import zlib
from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path
from typing import Any

from sentinel_sync.backend.callers import Caller
from sentinel_sync.backend.context import Backend
from sentinel_sync.backend.database import Connection, Row, Work
from sentinel_sync.backend.privacy import CoordinateScanner
from sentinel_sync.backend.problems import FieldError, Problem
from sentinel_sync.backend.storage import BLOCK, ReceivedFile, fresh_name, sync_folder
from sentinel_sync.backend.trip_store import record_events

ANNOTATIONS = "annotations.json"
"""The name under which annotations are stored, whatever they were called on the way."""


class PartKind(StrEnum):
    """What a part is."""

    VIDEO = "video"
    ANNOTATIONS = "annotations"


@dataclass(frozen=True, slots=True)
class StoredPart:
    """A part that is about to be recorded."""

    name: str
    kind: PartKind
    file: ReceivedFile
    received_size: int
    received_sha256: str


def find_scenario(connection: Connection, caller: Caller, scenario_id: str) -> Row:
    """The row of this vehicle's scenario.

    Raises:
        Problem: 404, its metadata has not arrived.
    """
    row: Row | None = connection.execute(
        "SELECT * FROM scenarios WHERE fleet_id = ? AND vehicle_id = ? AND scenario_id = ?",
        (caller.fleet_id, caller.vehicle_id, scenario_id),
    ).fetchone()
    if row is None:
        raise Problem(404, "no-such-scenario", "send the metadata of this scenario first")
    return row


def awaited_videos(scenario: Row) -> frozenset[str]:
    """The file names of the videos that the metadata announces."""
    metadata: dict[str, Any] = json.loads(scenario["metadata"])
    return frozenset(metadata["files"].values())


def check_video_name(scenario: Row, name: str) -> None:
    """Refuses a video that the metadata does not announce.

    Raises:
        Problem: 422.
    """
    if name not in awaited_videos(scenario):
        wrong = FieldError("filename", "must be one of the files that the metadata names")
        raise Problem(422, "unknown-part", "the metadata of this scenario names no such file", errors=[wrong])


def require_absent(connection: Connection, scenario: Row, name: str) -> None:
    """Refuses a part that is already here.

    Raises:
        Problem: 409.
    """
    here = connection.execute("SELECT 1 FROM parts WHERE scenario = ? AND name = ?", (scenario["id"], name)).fetchone()
    if here:
        raise Problem(409, "part-exists", "this part is already here")


def use_key(connection: Connection, caller: Caller, work: str, now: float) -> None:
    """Marks the request's `Idempotency-Key` as used for `work`, in the transaction that does it.

    Raises:
        Problem: 409, this work was done before; 422, the key belongs to other work.
    """
    whose = (caller.fleet_id, caller.vehicle_id, caller.idempotency_key)
    added = connection.execute(
        "INSERT INTO idempotency_keys VALUES (?, ?, ?, ?, ?) ON CONFLICT DO NOTHING", (*whose, work, now)
    )
    if added.rowcount:
        return
    before = connection.execute(
        "SELECT work FROM idempotency_keys WHERE fleet_id = ? AND vehicle_id = ? AND idempotency_key = ?", whose
    ).fetchone()
    if before["work"] == work:
        raise Problem(409, "key-used", "the work of this Idempotency-Key is already done")
    # 409 would tell the vehicle that something arrived which never did.
    raise Problem(422, "key-reused", "this Idempotency-Key belongs to other work: each work needs its own")


def record_part(
    connection: Connection, scenario: int, part: StoredPart, now: float, *, with_events: bool = False
) -> None:
    """Writes the row of a part whose file is already durable, and the event that tells of it.

    Raises:
        Problem: 409, the part came another way meanwhile.
    """
    added = connection.execute(
        "INSERT INTO parts VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT DO NOTHING",
        (
            scenario,
            part.name,
            part.kind,
            part.file.path.name,
            part.file.size,
            part.file.sha256,
            part.received_size,
            part.received_sha256,
            now,
        ),
    )
    if not added.rowcount:
        raise Problem(409, "part-exists", "this part is already here")
    if with_events:
        fleet, vehicle, scenario_id = connection.execute(
            "SELECT fleet_id, vehicle_id, scenario_id FROM scenarios WHERE id = ?", (scenario,)
        ).fetchone()
        fact = {"scenario_id": scenario_id, "name": part.name, "size": part.file.size, "sha256": part.file.sha256}
        record_events(connection, "part", [(fleet, vehicle, json.dumps(fact), now)])


async def keep_and_record(part: StoredPart, record: Work[bool], backend: Backend) -> None:
    """Keeps a part's file where parts are kept, and then records it.

    Args:
        part: As `keep` gave it.
        record: False where the part came another way meanwhile: this file is not needed.
        backend: Its database and its parts.

    Raises:
        Problem: As `record` refuses it; the file is removed then. After any other error it stays: whether its row was
            stored is not known then.
    """
    await backend.parts.keep(part.file.path)
    try:
        is_needed = await backend.database.write(record)
    except Problem:
        await backend.parts.remove(part.file.path.name)
        raise
    if not is_needed:
        await backend.parts.remove(part.file.path.name)


def keep(
    file: ReceivedFile, part_name: str, kind: PartKind, folder: Path, limit: int, *, compressed: bool
) -> StoredPart:
    """Makes a received file ready to be recorded as a part; `file` itself stays where it is. Blocks.

    Annotations are decompressed, and their text is looked through for coordinates that must not be in it.

    Raises:
        Problem: 413 the annotations unpack to more than `limit` bytes, 422 they are damaged, no JSON object, or
            carry fine coordinates.
    """
    target = folder / fresh_name()
    if kind is PartKind.ANNOTATIONS:
        try:
            size, sha256 = _unpack(file.path, target, limit, compressed=compressed)
        except BaseException:
            target.unlink(missing_ok=True)
            raise
        stored = ReceivedFile(target, size, sha256)
    else:
        os.link(file.path, target)
        stored = ReceivedFile(target, file.size, file.sha256)
    sync_folder(folder)
    return StoredPart(part_name, kind, stored, file.size, file.sha256)


def _unpack(source: Path, target: Path, limit: int, *, compressed: bool) -> tuple[int, str]:
    size, digest, scanner = 0, hashlib.sha256(), CoordinateScanner()
    first, last = b"", b""
    with gzip.open(source, "rb") if compressed else source.open("rb") as reading, target.open("xb") as writing:
        while True:
            try:
                block = reading.read(BLOCK)
            except (EOFError, zlib.error, gzip.BadGzipFile):
                raise Problem(422, "damaged-gzip", "the compressed annotations are damaged or cut off") from None
            if not block:
                break
            size += len(block)
            if size > limit:
                raise Problem(413, "too-large", f"annotations may unpack to at most {limit} bytes")
            if scanner.has_fine(block):
                wrong = FieldError(ANNOTATIONS, "has a coordinate finer than two decimals")
                raise Problem(422, "privacy-violation", "the annotations carry a fine coordinate", errors=[wrong])
            first = first or block.lstrip()[:1]
            last = block.rstrip()[-1:] or last
            digest.update(block)
            writing.write(block)
        writing.flush()
        os.fsync(writing.fileno())
    if (first, last) != (b"{", b"}"):
        raise Problem(422, "invalid-annotations", "the annotations must be a JSON object")
    return size, digest.hexdigest()
