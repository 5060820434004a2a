"""The outbox: all outgoing work, on disk before it is acknowledged to the caller, until the backend acknowledges it.

An item is waiting, sending, or set aside; acknowledged items are gone and counted. Only the bounds in bytes and age
drop anything, in the order of `rules/eviction.py`, and each drop is counted with its reason.
"""

import logging
import sqlite3
from collections.abc import Iterable, Sequence
from dataclasses import dataclass, field
from enum import StrEnum

from sentinel_sync.adapters.database import Database
from sentinel_sync.adapters.documents import delete_document
from sentinel_sync.clock import Clock
from sentinel_sync.rules.backoff import CAP
from sentinel_sync.rules.eviction import Shelf, eviction_order, is_too_old
from sentinel_sync.rules.timekeeping import ClockStamp, Sighting

logger = logging.getLogger(__name__)

#: Rows dropped at once when the byte bound is reached, so that not every further insert has to drop one.
_EVICTION_CHUNK = 64
#: How often a chunk is dropped for one insert; more would hold up the callers that share its commit.
_EVICTION_ROUNDS = 16

#: The bound may be passed by so many bytes between two measurements.
_MEASURE_EVERY = 64 << 10

_COLUMNS = "seq, kind, key, priority, state, created_at, due_at, attempts, reason, body, boot_id, clock_offset"


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
class OutboxCounts:
    """How much there is.

    Attributes:
        waiting: Items that will be sent.
        sending: Items being sent now.
        set_aside: Items that need a person.
        size_bytes: What the items and facts take on disk.
        acknowledged: Items the backend took, ever.
        dropped: Items given up, ever, by "kind.reason".
    """

    waiting: int = 0
    sending: int = 0
    set_aside: int = 0
    size_bytes: int = 0
    acknowledged: int = 0
    dropped: dict[str, int] = field(default_factory=dict)

    @property
    def unsent(self) -> int:
        """Items that are still to be sent."""
        return self.waiting + self.sending


class Outbox:
    """Durable work over one database.

    Args:
        database: Where it lies.
        clock: For stamps.
        max_bytes: Bound of what items and facts take.
    """

    def __init__(self, database: Database, clock: Clock, max_bytes: int) -> None:
        self._database = database
        self._clock = clock
        self._max_bytes = max_bytes
        self._unmeasured = float("inf")  # so that the first insert measures; used on the database's thread only

    async def put(self, item: NewItem, *, instead_of: tuple[str, str] | None = None) -> bool:
        """Take an item; returns when it is on disk. False where its key is already there.

        Args:
            item: The work.
            instead_of: Kind and key of a document that this item replaces: deleted in the same transaction.

        Raises:
            StoreFullError: The disk is full; the item was not taken.
        """
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> tuple[bool, list[tuple[str, int]]]:
            taken = insert(connection, item, now)
            if instead_of is not None:
                delete_document(connection, *instead_of)
            return taken, self._keep_bound(connection, len(item.body))

        taken, dropped = await self._database.submit(operation)
        _log_drops(dropped)
        return taken

    async def put_all(self, items: Sequence[NewItem]) -> int:
        """Take many items in one transaction; returns how many were new."""
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> tuple[int, list[tuple[str, int]]]:
            taken = sum(insert(connection, item, now) for item in items)
            return taken, self._keep_bound(connection, sum(len(item.body) for item in items))

        taken, dropped = await self._database.run(operation)
        _log_drops(dropped)
        return taken

    async def claim(self, kind: str, limit: int) -> list[OutboxItem]:
        """Mark up to `limit` due items as being sent, most important and longest due first; counts their attempt."""
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> list[OutboxItem]:
            claimed = _claim(connection, kind, "due_at <= ?", now, limit)
            if len(claimed) < limit:
                # No backoff is longer than CAP: an item due later than that was stamped before the clock was set back.
                claimed += _claim(connection, kind, "due_at > ?", now + CAP, limit - len(claimed))
            return claimed

        return await self._database.run(operation)

    async def acknowledge(self, kind: str, seqs: Sequence[int]) -> None:
        """Forget items that the backend has taken; returns when that is on disk."""

        def operation(connection: sqlite3.Connection) -> None:
            connection.executemany("DELETE FROM item WHERE seq = ?", [(seq,) for seq in seqs])
            _count(connection, f"acknowledged.{kind}", len(seqs))

        await self._database.run(operation, frees=True)

    async def defer(self, seq: int, seconds: float, reason: str, *, connectivity: bool) -> None:
        """Let an item wait for so many seconds; `connectivity` where only the network stood in its way."""
        due_at = self._clock.now() + seconds
        await self._change(
            "UPDATE item SET state = 'waiting', due_at = ?, reason = ?, offline = ? WHERE seq = ?",
            (due_at, reason, int(connectivity), seq),
        )

    async def release(self, seqs: Iterable[int]) -> None:
        """Give claimed items back untried: their attempt does not count."""
        rows = [(seq,) for seq in seqs]

        def operation(connection: sqlite3.Connection) -> None:
            connection.executemany(
                "UPDATE item SET state = 'waiting', attempts = max(attempts - 1, 0)"
                " WHERE seq = ? AND state = 'sending'",
                rows,
            )

        if rows:
            await self._database.run(operation, frees=True)

    async def set_aside(self, seq: int, reason: str) -> None:
        """Keep an item that can't succeed, with its reason, until somebody decides."""
        await self._change("UPDATE item SET state = 'set_aside', reason = ? WHERE seq = ?", (reason, seq))

    async def release_all(self) -> int:
        """At start: what a killed agent was sending waits again, at once; returns how many there were."""
        return await self._change("UPDATE item SET state = 'waiting', due_at = created_at WHERE state = 'sending'", ())

    async def make_due(self) -> int:
        """The backend is back: what only the network held up is due now; returns how many."""
        return await self._change(
            "UPDATE item SET due_at = ?, offline = 0 WHERE state = 'waiting' AND offline = 1",
            (self._clock.now(),),
        )

    async def retry(self, keys: Sequence[str] | None = None) -> int:
        """Let items that were set aside, or that wait for their backoff, be tried now; all where `keys` is None."""
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> int:
            update = (
                "UPDATE item SET state = 'waiting', attempts = 0, due_at = ?, reason = NULL WHERE state != 'sending'"
            )
            if keys is None:
                return connection.execute(update, (now,)).rowcount
            return sum(connection.execute(f"{update} AND key = ?", (now, key)).rowcount for key in keys)

        return await self._database.run(operation, frees=True)

    async def drop(self, keys: Sequence[str]) -> int:
        """Delete items by an operator's will; what is being sent stays. Returns how many were deleted."""

        def operation(connection: sqlite3.Connection) -> int:
            dropped = 0
            for key in keys:
                rows = connection.execute(
                    "DELETE FROM item WHERE key = ? AND state != 'sending' RETURNING kind", (key,)
                )
                for (kind,) in rows.fetchall():
                    _count(connection, f"dropped.{kind}.operator", 1)
                    dropped += 1
            return dropped

        return await self._database.run(operation, frees=True)

    async def drop_too_old(self, max_age: float, seen: dict[str, Sighting], current: ClockStamp) -> int:
        """Drop what is older than `max_age` seconds; call it only while the wall clock is trusted."""
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> list[tuple[str, int]]:
            # A wrong clock may have stamped an item early or late: the rule decides, the query only narrows down.
            rows = connection.execute(
                f"SELECT {_COLUMNS} FROM item WHERE state != 'sending' AND created_at < ?",
                (now - max_age,),
            )
            old = [
                item
                for item in map(_item, rows)
                if is_too_old(
                    item.created_at,
                    item.stamp,
                    seen.get(item.stamp.boot_id) if item.stamp else None,
                    current,
                    now,
                    max_age,
                )
            ]
            return _delete(connection, [(item.seq, item.kind) for item in old], "age")

        dropped = await self._database.run(operation, frees=True)
        _log_drops(dropped)
        return sum(count for _, count in dropped)

    async def next_due(self, kind: str) -> float | None:
        """Seconds until the next item of a kind is due (0.0 where one is), or None where none waits."""
        query = "SELECT min(due_at) FROM item WHERE state = 'waiting' AND kind = ?"
        due = await self._database.run(
            lambda connection: connection.execute(query, (kind,)).fetchone()[0], writes=False
        )
        return None if due is None else min(CAP, max(0.0, due - self._clock.now()))

    async def items(
        self, *, state: ItemState | None = None, kind: str | None = None, limit: int = 1000
    ) -> list[OutboxItem]:
        """List items, oldest first."""
        query = (
            f"SELECT {_COLUMNS} FROM item"
            " WHERE (? IS NULL OR state = ?) AND (? IS NULL OR kind = ?) ORDER BY seq LIMIT ?"
        )
        parameters = (state, state, kind, kind, limit)
        return await self._database.run(
            lambda connection: [_item(row) for row in connection.execute(query, parameters)],
            writes=False,
        )

    async def find(self, key: str) -> OutboxItem | None:
        """Show one item by its key, or None."""
        query = f"SELECT {_COLUMNS} FROM item WHERE key = ?"
        row = await self._database.run(lambda connection: connection.execute(query, (key,)).fetchone(), writes=False)
        return None if row is None else _item(row)

    async def counts(self, kind: str | None = None) -> OutboxCounts:
        """Count what there is, of one kind or of all."""
        return await self._database.run(lambda connection: _counts(connection, kind), writes=False)

    async def data_version(self) -> int:
        """A number that changes when another process has written."""
        return await self._database.run(
            lambda connection: int(connection.execute("PRAGMA data_version").fetchone()[0]),
            writes=False,
        )

    async def verify(self) -> list[str]:
        """Check the whole file; returns what is wrong with it, empty where nothing is."""

        def operation(connection: sqlite3.Connection) -> list[str]:
            return [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]

        return await self._database.run(operation, writes=False)

    def _keep_bound(self, connection: sqlite3.Connection, added_bytes: int) -> list[tuple[str, int]]:
        """Evict where the byte bound is passed. Measured once per `_MEASURE_EVERY` bytes, not at every insert."""
        self._unmeasured += added_bytes
        if self._unmeasured < _MEASURE_EVERY:
            return []
        self._unmeasured = 0.0
        return _evict_for_size(connection, self._max_bytes)

    async def _change(self, statement: str, parameters: tuple[float | str | int, ...]) -> int:
        # Changing a state never adds a row, and must work on a full disk too: it may use the headroom.
        return await self._database.run(
            lambda connection: connection.execute(statement, parameters).rowcount,
            frees=True,
        )


def insert(connection: sqlite3.Connection, item: NewItem, now: float) -> bool:
    """Insert one item within the caller's transaction; False where its key is already there."""
    boot_id, offset = (item.stamp.boot_id, item.stamp.offset) if item.stamp else (None, None)
    return (
        connection.execute(
            "INSERT INTO item (kind, key, priority, created_at, due_at, body, boot_id, clock_offset)"
            " VALUES (?, ?, ?, ?, ?, ?, ?, ?) ON CONFLICT (kind, key) DO NOTHING",
            (item.kind, item.key, item.priority, now, now, item.body, boot_id, offset),
        ).rowcount
        > 0
    )


def _claim(connection: sqlite3.Connection, kind: str, due: str, bound: float, limit: int) -> list[OutboxItem]:
    rows = connection.execute(
        "UPDATE item SET state = 'sending', attempts = attempts + 1 WHERE seq IN ("
        f" SELECT seq FROM item WHERE state = 'waiting' AND kind = ? AND {due} ORDER BY priority, due_at LIMIT ?)"
        f" RETURNING {_COLUMNS}",
        (kind, bound, limit),
    ).fetchall()
    return sorted(map(_item, rows), key=lambda item: (item.priority, item.due_at, item.seq))


def _item(
    row: tuple[int, str, str, int, str, float, float, int, str | None, bytes, str | None, float | None],
) -> OutboxItem:
    *head, body, boot_id, offset = row
    seq, kind, key, priority, state, created_at, due_at, attempts, reason = head
    stamp = None if boot_id is None or offset is None else ClockStamp(boot_id, offset)
    return OutboxItem(seq, kind, key, priority, ItemState(state), created_at, due_at, attempts, reason, body, stamp)  # type: ignore[arg-type]


def _used_bytes(connection: sqlite3.Connection) -> int:
    # Pages in use, not the file's size: SQLite keeps freed pages for itself, so the file does not shrink.
    pages = (
        connection.execute("PRAGMA page_count").fetchone()[0]
        - connection.execute("PRAGMA freelist_count").fetchone()[0]
    )
    return int(pages * connection.execute("PRAGMA page_size").fetchone()[0])


def _evict_for_size(connection: sqlite3.Connection, max_bytes: int) -> list[tuple[str, int]]:
    dropped: list[tuple[str, int]] = []
    for _ in range(_EVICTION_ROUNDS):
        if _used_bytes(connection) <= max_bytes:
            break
        shelves = [Shelf(*row) for row in connection.execute("SELECT DISTINCT kind, state FROM item")]
        victims: list[tuple[int, str]] = []
        for shelf in eviction_order(shelves):
            rows = connection.execute(
                "SELECT seq FROM item WHERE state = ? AND kind = ? ORDER BY priority DESC, due_at LIMIT ?",
                (shelf.state, shelf.kind, _EVICTION_CHUNK - len(victims)),
            )
            victims += [(seq, shelf.kind) for (seq,) in rows]
            if len(victims) == _EVICTION_CHUNK:
                break
        if not victims:
            break
        dropped += _delete(connection, victims, "size")
    return dropped


def _delete(connection: sqlite3.Connection, victims: list[tuple[int, str]], reason: str) -> list[tuple[str, int]]:
    connection.executemany("DELETE FROM item WHERE seq = ?", [(seq,) for seq, _ in victims])
    tally: dict[str, int] = {}
    for _, kind in victims:
        name = f"dropped.{kind}.{reason}"
        tally[name] = tally.get(name, 0) + 1
    for name, count in tally.items():
        _count(connection, name, count)
    return list(tally.items())


def _count(connection: sqlite3.Connection, name: str, by: int) -> None:
    connection.execute(
        "INSERT INTO counter (name, value) VALUES (?, ?)"
        " ON CONFLICT (name) DO UPDATE SET value = value + excluded.value",
        (name, by),
    )


def _counts(connection: sqlite3.Connection, kind: str | None) -> OutboxCounts:
    states = dict(
        connection.execute(
            "SELECT state, count(*) FROM item WHERE ? IS NULL OR kind = ? GROUP BY state",
            (kind, kind),
        ).fetchall()
    )
    counters = dict(connection.execute("SELECT name, value FROM counter").fetchall())
    acknowledged = sum(
        value for name, value in counters.items() if name.startswith("acknowledged.") and name.endswith(kind or "")
    )
    dropped = {
        name.removeprefix("dropped."): value
        for name, value in counters.items()
        if name.startswith(f"dropped.{kind}." if kind else "dropped.")
    }
    return OutboxCounts(
        waiting=states.get("waiting", 0),
        sending=states.get("sending", 0),
        set_aside=states.get("set_aside", 0),
        size_bytes=_used_bytes(connection),
        acknowledged=acknowledged,
        dropped=dropped,
    )


def _log_drops(dropped: list[tuple[str, int]]) -> None:
    for name, count in dropped:
        logger.warning("outbox.dropped: %d items (%s): the bound was reached", count, name.removeprefix("dropped."))
