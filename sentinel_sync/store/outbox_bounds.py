"""The outbox's bounds, in bytes and in age: what is dropped, counted with its reason."""

import logging
import sqlite3

from sentinel_sync.base.timekeeping import ClockObservation, ClockStamp
from sentinel_sync.store.outbox_counts import count
from sentinel_sync.store.outbox_items import kinds, priorities
from sentinel_sync.store.rules.eviction import Shelf, eviction_order, is_too_old

logger = logging.getLogger(__name__)

#: What was dropped, as (kind, reason, how many).
Drops = list[tuple[str, str, int]]

#: The byte bound may be passed by so many bytes between two measurements, and so much room is made at once: so that not
#: every insert has to measure, nor every further one to drop something.
SLACK_BYTES = 64 << 10
#: Rows looked at in one go when room is made, and …
_CHUNK = 256
#: … how often that is done for one insert; more would hold up the callers that share its commit.
_ROUNDS = 16
#: What a row takes beside its body, with its entries in the indexes, bytes (measured: 150 to 250).
_ROW_OVERHEAD = 200


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes in use: SQLite keeps freed pages for itself, so the file does not shrink."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def drop_for_size(connection: sqlite3.Connection, max_bytes: int) -> Drops:
    """Make room, in the order of `store/rules/eviction.py`, where more than `max_bytes` are in use."""
    dropped: Drops = []
    for _ in range(_ROUNDS):
        excess = used_bytes(connection) - max_bytes
        if excess <= 0:
            break
        victims = _first_to_go(connection, excess + SLACK_BYTES)
        if not victims:
            break
        dropped += _delete(connection, victims, "size")
    return dropped


def drop_for_age(
    connection: sqlite3.Connection,
    after: int,
    limit: int,
    max_age: float,
    seen: dict[str, ClockObservation],
    current: ClockStamp,
    now: float,
) -> tuple[int | None, Drops]:
    """Drop what is too old among the `limit` items behind `after`; returns where to go on, or None at the end."""
    rows = connection.execute(
        "SELECT seq, kind, state, created_at, boot_id, clock_offset FROM item WHERE seq > ? ORDER BY seq LIMIT ?",
        (after, limit),
    ).fetchall()
    victims = []
    for seq, kind, state, created_at, boot_id, offset in rows:
        stamp = None if boot_id is None or offset is None else ClockStamp(boot_id, offset)
        sighting = None if stamp is None else seen.get(stamp.boot_id)
        if state != "sending" and is_too_old(created_at, stamp, sighting, current, now, max_age):
            victims.append((seq, kind))
    return rows[-1][0] if len(rows) == limit else None, _delete(connection, victims, "age")


def report(dropped: Drops) -> None:
    """Say what was given up."""
    for kind, reason, number in dropped:
        logger.warning("outbox.dropped: %d items (%s.%s): the bound was reached", number, kind, reason)


def _first_to_go(connection: sqlite3.Connection, wanted: int) -> list[tuple[int, str]]:
    """Rows that free about `wanted` bytes, as (seq, kind)."""
    victims: list[tuple[int, str]] = []
    found = 0
    shelves = [Shelf(kind, state) for state in ("waiting", "set_aside") for kind in kinds(connection, state)]
    for shelf in eviction_order(shelves):
        for priority in reversed(priorities(connection, shelf.state, shelf.kind)):
            rows = connection.execute(
                "SELECT seq, length(body) FROM item WHERE state = ? AND kind = ? AND priority = ?"
                " ORDER BY due_at LIMIT ?",
                (shelf.state, shelf.kind, priority, _CHUNK),
            )
            for seq, size in rows:
                victims.append((seq, shelf.kind))
                found += size + _ROW_OVERHEAD
                if found >= wanted or len(victims) >= _CHUNK:
                    return victims
    return victims


def _delete(connection: sqlite3.Connection, victims: list[tuple[int, str]], reason: str) -> Drops:
    connection.executemany("DELETE FROM item WHERE seq = ?", [(seq,) for seq, _ in victims])
    tally: dict[str, int] = {}
    for _, kind in victims:
        tally[kind] = tally.get(kind, 0) + 1
    for kind, number in tally.items():
        count(connection, f"dropped.{kind}.{reason}", number)
    return [(kind, reason, number) for kind, number in tally.items()]
