"""What lies in the outbox: the items, and the SQL that puts, claims and finds them."""

import json
import logging
import sqlite3
import zlib
from collections.abc import Iterator
from dataclasses import dataclass, replace
from enum import StrEnum

from sentinel_sync.base.backoff import CAP
from sentinel_sync.base.clock import ClockObservation, ClockStamp
from sentinel_sync.store.database import UnreadableError
from sentinel_sync.store.rules import EvictionGroup, OutboxStatus, eviction_order, is_too_old

logger: logging.Logger = logging.getLogger(__name__)

COLUMNS = "seq, kind, key, priority, state, created_at, due_at, attempts, reason, body, boot_id, clock_offset"

#: All due items as one row of JSON, in the order of `COLUMNS`. SQLite lets go of the interpreter at each row, and this
#: thread may wait for the host's loop, up to 5 ms, to get it back (sys.getswitchinterval). JSON keeps 15 digits: a time
#: to 10 µs.
_DUE = """
SELECT json_group_array(json_array(
    seq, kind, key, priority, 'sending', created_at, due_at, attempts + 1, reason, hex(body), boot_id, clock_offset,
    checksum
)) FROM (
    SELECT * FROM item WHERE state = 'waiting' AND kind = ? AND priority = ? AND due_at > ? AND due_at <= ?
    ORDER BY due_at LIMIT ?
)
"""
_DUE_NEWEST = _DUE.replace("ORDER BY due_at", "AND created_at > ? ORDER BY due_at DESC")
_CLAIM = """
UPDATE item SET state = 'sending', attempts = attempts + 1 WHERE seq IN (SELECT value FROM json_each(?))
"""
#: The one whose turn it is, where importance is an advantage in time and not a rule: a kind has few items that are
#: sent so, and all of them are looked at.
_IN_TURN = f"""
SELECT {COLUMNS}, checksum FROM item
WHERE state = 'waiting' AND kind = ? AND (due_at <= ? OR due_at > ?)
ORDER BY created_at + priority * ?, seq LIMIT 1
"""  # noqa: S608 # the columns are a constant
_DUE_BY_KEY = f"""
SELECT {COLUMNS}, checksum FROM item WHERE key = ? AND state = 'waiting' AND (due_at <= ? OR due_at > ?)
"""  # noqa: S608 # the columns are a constant

_UNREADABLE = "it cannot be read any more: the disk may be failing"
_ALTERED = "its content was altered on disk (its checksum does not fit): the disk may be failing"

#: Below SQLite's smallest integer but one.
_BELOW_ALL = -(1 << 63)

_Row = tuple[int, str, str, int, str, float, float, int, str | None, bytes, str | None, float | None]
_TYPES = (int, str, str, int, str, float, float, int, str | None, bytes, str | None, float | None)
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


class ItemState(StrEnum):
    """Where an item stands."""

    WAITING = "waiting"
    SENDING = "sending"
    SET_ASIDE = "set_aside"


@dataclass(frozen=True, slots=True)
class NewItem:
    """Work to be sent.

    Attributes:
        key: Its `Idempotency-Key`, unique within its kind: putting the same key twice keeps the first.
        priority: 0 is the most important.
        stamp: The clocks by which the times in `body` are given.
    """

    kind: str
    key: str
    body: bytes
    priority: int = 0
    stamp: ClockStamp | None = None


@dataclass(frozen=True, slots=True)
class OutboxItem:
    """Work as it lies in the outbox. Times are wall time, seconds since the epoch."""

    seq: int
    kind: str
    key: str
    priority: int
    state: ItemState
    created_at: float
    due_at: float
    attempts: int
    reason: str | None
    body: bytes
    stamp: ClockStamp | None


@dataclass(frozen=True, slots=True)
class SentItem:
    """Something that the backend has acknowledged.

    Attributes:
        kind: "trip", "profile", or a kind of the host's own.
        key: Its `Idempotency-Key`; of a profile the keyed reference that logs name it by, never the driver's id.
        at: When it was acknowledged, seconds since the epoch.
        size_bytes: Of its body, before any compression on the way.
    """

    kind: str
    key: str
    at: float
    size_bytes: int


def item_of(row: _Row) -> OutboxItem:
    """Read a row of `COLUMNS`.

    Raises:
        UnreadableError: It holds what nobody ever wrote: the disk has altered it.
    """
    if not all(map(isinstance, row, _TYPES)):
        raise UnreadableError(f"row {row[0]} of the outbox cannot be read")
    seq, kind, key, priority, state, created_at, due_at, attempts, reason, body, boot_id, offset = row
    stamp = None if boot_id is None or offset is None else ClockStamp(boot_id, offset)
    return OutboxItem(seq, kind, key, priority, ItemState(state), created_at, due_at, attempts, reason, body, stamp)


def set_aside_unreadable(connection: sqlite3.Connection) -> None:
    """Set aside, as such, each row that cannot be decoded, so that those beside it go on. Reads all rows."""
    text = connection.text_factory
    connection.text_factory = bytes
    try:
        rows = connection.execute(
            "SELECT seq, kind, key, priority, state, created_at, due_at, attempts, reason,"
            " CASE typeof(body) WHEN 'blob' THEN x'' END, boot_id, clock_offset,"
            " 'blob' IN (typeof(kind), typeof(key), typeof(state), typeof(reason), typeof(boot_id)) FROM item"
        ).fetchall()
    finally:
        connection.text_factory = text
    for *row, is_altered in rows:
        try:
            if is_altered:
                raise UnreadableError("bytes in the place of text")
            item_of(tuple(value.decode() if isinstance(value, bytes) and value else value for value in row))  # type: ignore[arg-type]
        except (UnreadableError, UnicodeDecodeError):
            _set_aside_unreadable(connection, *row[:6])


def _set_aside_unreadable(
    connection: sqlite3.Connection, seq: int, kind: object, key: object, priority: object, _: object, created: object
) -> None:
    kind, key = (
        value.decode(errors="backslashreplace") if isinstance(value, bytes) else str(value) for value in (kind, key)
    )
    logger.error("outbox.unreadable: row %d (%s %s): %s", seq, ascii(kind), ascii(key), _UNREADABLE)
    priority = priority if isinstance(priority, int) else 0
    created = created if isinstance(created, float) else 0.0
    for name in (key, f"{key}-{seq}"):  # what is left of a key may be another one's
        changed = connection.execute(
            "UPDATE OR IGNORE item SET kind = ?, key = ?, priority = ?, state = 'set_aside', created_at = ?,"
            " due_at = 0.0, attempts = 0, offline = 0, reason = ?, body = CAST(body AS BLOB), boot_id = NULL,"
            " clock_offset = NULL WHERE seq = ?",
            (kind, name, priority, created, _UNREADABLE, seq),
        ).rowcount
        if changed:
            return


def insert(connection: sqlite3.Connection, item: NewItem, now: float) -> bool:
    """Insert one item within the caller's transaction; False where its key is already there."""
    boot_id, offset = (item.stamp.boot_id, item.stamp.offset) if item.stamp else (None, None)
    return (
        connection.execute(
            "INSERT INTO item (kind, key, priority, created_at, due_at, body, boot_id, clock_offset, checksum)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (key, kind) DO NOTHING",
            (item.kind, item.key, item.priority, now, now, item.body, boot_id, offset, _checksum(item)),
        ).rowcount
        > 0
    )


def claim_due(connection: sqlite3.Connection, kind: str, now: float, limit: int) -> list[OutboxItem]:
    """Mark up to `limit` due items as being sent, most important and longest due first; counts their attempt.

    No backoff is longer than `CAP`, so an item due later than that was stamped before the clock was set back: it is
    due as well.
    """
    claimed: list[OutboxItem] = []
    for priority in priorities(connection, "waiting", kind):
        for earliest, latest in ((float("-inf"), now), (now + CAP, float("inf"))):
            if len(claimed) < limit:
                claimed += _claim(connection, (kind, priority, earliest, latest, limit - len(claimed)))
    return claimed


def claim_newest(
    connection: sqlite3.Connection, kind: str, now: float, limit: int, head_start: float
) -> list[OutboxItem]:
    """As `claim_due`, but what was put within the last `head_start` seconds first, and always the newest first."""
    claimed: list[OutboxItem] = []
    for priority in priorities(connection, "waiting", kind):
        # Nothing is due before it was put: so what is new is found within a range of the index.
        for earliest, latest, put_after in (
            (now - head_start, now, now - head_start),
            (_BELOW_ALL, now, _BELOW_ALL),
            (now + CAP, float("inf"), _BELOW_ALL),
        ):
            if (left := limit - len(claimed)) > 0:
                claimed += _claim(connection, (kind, priority, earliest, latest, put_after, left), _DUE_NEWEST)
    return claimed


def first_in_turn(connection: sqlite3.Connection, kind: str, now: float, head_start: float) -> OutboxItem | None:
    """Find the due item whose turn it is, as `Outbox.claim_in_turn` says."""
    row = connection.execute(_IN_TURN, (kind, now, now + CAP, head_start)).fetchone()
    return None if row is None else item_of(row[:-1])


def claim_in_turn(connection: sqlite3.Connection, kind: str, now: float, head_start: float) -> OutboxItem | None:
    """Mark that item as being sent; counts its attempt."""
    while (row := connection.execute(_IN_TURN, (kind, now, now + CAP, head_start)).fetchone()) is not None:
        if (item := _claimed(connection, item_of(row[:-1]), row[-1])) is not None:
            return item
    return None


def claim_one(connection: sqlite3.Connection, key: str, now: float) -> OutboxItem | None:
    """Mark the item of this key as being sent, where it is due; counts its attempt."""
    row = connection.execute(_DUE_BY_KEY, (key, now, now + CAP)).fetchone()
    return None if row is None else _claimed(connection, item_of(row[:-1]), row[-1])


def _claimed(connection: sqlite3.Connection, item: OutboxItem, checksum: int | None) -> OutboxItem | None:
    """Claim an item; None where it is not as it was put."""
    if not _is_whole(connection, item, checksum):
        return None
    connection.execute(_CLAIM, (json.dumps([item.seq]),))
    return replace(item, state=ItemState.SENDING, attempts=item.attempts + 1)


def _checksum(item: "NewItem | OutboxItem") -> int:
    return zlib.crc32(item.body, zlib.crc32(f"{item.kind}\0{item.key}\0".encode()))


def _is_whole(connection: sqlite3.Connection, item: OutboxItem, checksum: int | None) -> bool:
    """Whether an item is as it was put; one that is not is set aside, so that nothing altered is ever sent."""
    if checksum is None or checksum == _checksum(item):  # a file of an earlier version has none
        return True
    connection.execute("UPDATE item SET state = 'set_aside', reason = ? WHERE seq = ?", (_ALTERED, item.seq))
    logger.error("%s.altered: %s: %s", item.kind, item.key, _ALTERED)
    return False


def next_due_in(connection: sqlite3.Connection, kind: str, now: float) -> float | None:
    """Seconds until the next item of a kind may be claimed (0.0 where one may), or None where none waits."""
    waits: list[float] = []
    for priority in priorities(connection, "waiting", kind):
        first, last = connection.execute(
            "SELECT (SELECT min(due_at) FROM item WHERE state = 'waiting' AND kind = :kind AND priority = :priority),"
            " (SELECT max(due_at) FROM item WHERE state = 'waiting' AND kind = :kind AND priority = :priority)",
            {"kind": kind, "priority": priority},
        ).fetchone()
        if first <= now or last > now + CAP:
            return 0.0
        waits.append(first - now)
    return min(waits, default=None)


def kinds(connection: sqlite3.Connection, state: str) -> Iterator[str]:
    """Walk the kinds in a state: a step in the index for each, however many items there are."""
    query = "SELECT min(kind) FROM item WHERE state = ? AND kind > ?"
    kind: str | None = ""
    while (kind := connection.execute(query, (state, kind)).fetchone()[0]) is not None:
        yield kind


def priorities(connection: sqlite3.Connection, state: str, kind: str) -> list[int]:
    """List the priorities of a kind in a state, the most important first: a step in the index for each."""
    found: list[int] = []
    query = "SELECT min(priority) FROM item WHERE state = ? AND kind = ? AND priority > ?"
    while True:
        above = found[-1] if found else _BELOW_ALL
        (priority,) = connection.execute(query, (state, kind, above)).fetchone()
        if priority is None:
            return found
        found.append(priority)


def _claim(connection: sqlite3.Connection, parameters: tuple[str | float, ...], query: str = _DUE) -> list[OutboxItem]:
    (text,) = connection.execute(query, parameters).fetchone()
    claimed: list[OutboxItem] = []
    for *head, body, boot_id, offset, checksum in json.loads(text):
        item = item_of((*head, bytes.fromhex(body), boot_id, offset))
        if _is_whole(connection, item, checksum):
            claimed.append(item)
    if claimed:
        connection.execute(_CLAIM, (json.dumps([item.seq for item in claimed]),))
    return sorted(claimed, key=lambda item: (item.due_at, item.seq), reverse=query is _DUE_NEWEST)


def note_acknowledged(connection: sqlite3.Connection, seqs: str, now: float) -> None:
    """Put items that are about to leave (a JSON array of their `seq`) on record.

    Recordings are not among them: their plans say more, part by part (`scenarios/rules/plan.py`).
    """
    connection.execute(
        "INSERT INTO sent (kind, key, at, size_bytes) SELECT kind, key, ?, length(body) FROM item"
        " WHERE seq IN (SELECT value FROM json_each(?)) AND kind != 'scenario'",
        (now, seqs),
    )


def sent_since(connection: sqlite3.Connection, since: float) -> list[SentItem]:
    """What was acknowledged since then (seconds since the epoch), newest first."""
    if connection.execute("SELECT 1 FROM sqlite_master WHERE name = 'sent'").fetchone() is None:
        return []  # a look at what an agent of an earlier version left
    query = "SELECT kind, key, at, size_bytes FROM sent WHERE at >= ? ORDER BY seq DESC"
    return [SentItem(*row) for row in connection.execute(query, (since,))]


def count(connection: sqlite3.Connection, name: str, by: int) -> None:
    """Add to a running total."""
    connection.execute(
        "INSERT INTO counter (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, by),
    )


def read_counts(connection: sqlite3.Connection, kind: str | None, size_bytes: int) -> OutboxStatus:
    """Count the items of one kind, or of all."""
    if kind is None:
        rows = connection.execute("SELECT state, count(*) FROM item GROUP BY state")
    else:
        rows = connection.execute("SELECT state, count(*) FROM item WHERE kind = ? GROUP BY state", (kind,))
    states = dict(rows.fetchall())
    # CAST: what the disk has altered is no reason not to tell the rest.
    counters = connection.execute("SELECT CAST(name AS BLOB), value FROM counter WHERE typeof(value) = 'integer'")
    totals = [(*name.decode(errors="backslashreplace").partition(".")[::2], value) for name, value in counters]
    dropped = {of: value for what, of, value in totals if what == "dropped"}
    return OutboxStatus(
        waiting=states.get("waiting", 0),
        sending=states.get("sending", 0),
        set_aside=states.get("set_aside", 0),
        size_bytes=size_bytes,
        acknowledged=sum(value for what, of, value in totals if what == "acknowledged" and kind in {None, of}),
        dropped={of: value for of, value in dropped.items() if kind in {None, of.rpartition(".")[0]}},
        oldest_at=_oldest(connection) if kind is None else None,
    )


def _oldest(connection: sqlite3.Connection) -> float | None:
    row = connection.execute("SELECT created_at FROM item WHERE state != 'set_aside' ORDER BY seq LIMIT 1").fetchone()
    return None if row is None or not isinstance(row[0], float) else row[0]


def used_bytes(connection: sqlite3.Connection) -> int:
    """Bytes in use: SQLite keeps freed pages for itself, so the file does not shrink."""
    (pages,) = connection.execute("PRAGMA page_count").fetchone()
    (free,) = connection.execute("PRAGMA freelist_count").fetchone()
    (size,) = connection.execute("PRAGMA page_size").fetchone()
    return int((pages - free) * size)


def drop_for_size(connection: sqlite3.Connection, max_bytes: int) -> Drops:
    """Make room, in the order of `store/rules.py`, where more than `max_bytes` are in use."""
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
    groups = [EvictionGroup(kind, state) for state in ("waiting", "set_aside") for kind in kinds(connection, state)]
    for group in eviction_order(groups):
        for priority in reversed(priorities(connection, group.state, group.kind)):
            rows = connection.execute(
                "SELECT seq, length(body) FROM item WHERE state = ? AND kind = ? AND priority = ?"
                " ORDER BY due_at LIMIT ?",
                (group.state, group.kind, priority, _CHUNK),
            )
            for seq, size in rows:
                victims.append((seq, group.kind))
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
