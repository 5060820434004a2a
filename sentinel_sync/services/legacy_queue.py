"""Takes over `trip_queue.json`, the queue file of the module that this one succeeds: each trip once."""

import asyncio
import json
import logging
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from sentinel_sync.adapters.outbox import NewItem
from sentinel_sync.adapters.store import Store
from sentinel_sync.clock import Clock
from sentinel_sync.rules.legacy_trips import adopt

logger = logging.getLogger(__name__)

#: A queue file larger than this is no queue file (bytes): the old module slowed to a crawl long before.
_MAX_BYTES = 256 << 20


@dataclass(frozen=True, slots=True)
class Takeover:
    """What became of the old queue.

    Attributes:
        taken: Trips that are in the outbox now.
        unreadable: Entries that are no trips; they stay in the renamed file.
        moved_to: The file's new name.
    """

    taken: int
    unreadable: int
    moved_to: Path


async def take_over(
    path: Path,
    store: Store,
    *,
    kind: str,
    vehicle_id: str,
    pseudonym_of: Callable[[str | None], str | None],
    clock: Clock,
) -> Takeover | None:
    """Move the old queue's trips into the outbox, then rename the file; None where there is none.

    A crash in between takes the same trips over again, under the same ids, so none is there twice.
    """
    text = await asyncio.to_thread(_read, path)
    if text is None:
        return None
    stamp = datetime.fromtimestamp(clock.now(), UTC).strftime("%Y%m%dT%H%M%SZ")
    try:
        entries = await asyncio.to_thread(json.loads, text)
        if not isinstance(entries, list):
            raise ValueError("not a list of trips")
    except (ValueError, RecursionError) as error:
        moved_to = await asyncio.to_thread(_move, path, f"broken-{stamp}")
        logger.error("trips.takeover: %s is no trip queue (%s); set aside as %s", path, _place(error), moved_to.name)
        return Takeover(0, 0, moved_to)
    items, unreadable = await asyncio.to_thread(_adopt_all, entries, kind, vehicle_id, pseudonym_of)
    taken = await store.outbox.put_all(items)
    moved_to = await asyncio.to_thread(_move, path, f"imported-{stamp}")
    logger.info(
        "trips.takeover: %d trips of %s are queued, %d unreadable; kept as %s", taken, path, unreadable, moved_to.name
    )
    return Takeover(taken, unreadable, moved_to)


def _adopt_all(
    entries: list[object],
    kind: str,
    vehicle_id: str,
    pseudonym_of: Callable[[str | None], str | None],
) -> tuple[list[NewItem], int]:
    items: list[NewItem] = []
    unreadable = 0
    for number, entry in enumerate(entries):
        try:
            trip = adopt(entry, vehicle_id, pseudonym_of)
        except ValueError as error:
            unreadable += 1
            logger.error("trips.takeover: entry %d is no trip (%s); it stays in the renamed file", number, error)
            continue
        items.append(NewItem(kind, trip.trip_id, trip.model_dump_json().encode()))
    return items, unreadable


def _read(path: Path) -> bytes | None:
    try:
        if path.stat().st_size > _MAX_BYTES:
            logger.error("trips.takeover: %s is larger than %d bytes; left alone", path, _MAX_BYTES)
            return None
        return path.read_bytes()
    except FileNotFoundError:
        return None
    except OSError as error:
        logger.error("trips.takeover: %s cannot be read (%s); left alone until the next start", path, error.strerror)
        return None


def _move(path: Path, suffix: str) -> Path:
    target = path.with_name(f"{path.name}.{suffix}")
    number = 1
    while target.exists():
        number += 1
        target = path.with_name(f"{path.name}.{suffix}-{number}")
    try:
        path.rename(target)
    except OSError as error:
        # It is read again at the next start; its trips keep their ids, so none is there twice.
        logger.error("trips.takeover: %s cannot be renamed (%s): move it away by hand", path, error.strerror)
        return path
    return target


def _place(error: Exception) -> str:
    """Where the file is broken, without repeating what it says."""
    if isinstance(error, json.JSONDecodeError):
        return f"line {error.lineno}, column {error.colno}"
    return "bytes that are no text" if isinstance(error, UnicodeDecodeError) else str(error)
