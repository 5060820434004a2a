"""The outbox: all outgoing work, on disk before it is acknowledged to the caller, until the backend acknowledges it.

An item is waiting, sending, or set aside; acknowledged items are gone and counted. Only the bounds in bytes and age
drop anything, in the order of `store/rules.py`, and each drop is counted with its reason.
"""

import json
import logging
import sqlite3
from collections.abc import Iterable, Sequence
from functools import partial

from sentinel_sync.base.backoff import CAP
from sentinel_sync.base.clock import Clock, ClockObservation, ClockStamp
from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.store.database import Database, Operation, Result, UnreadableError
from sentinel_sync.store.documents import delete_document
from sentinel_sync.store.outbox_items import (
    COLUMNS,
    SLACK_BYTES,
    Drops,
    ItemState,
    NewItem,
    OutboxItem,
    SentItem,
    claim_due,
    claim_in_turn,
    claim_newest,
    claim_one,
    count,
    drop_for_age,
    drop_for_size,
    first_in_turn,
    insert,
    item_of,
    next_due_in,
    note_acknowledged,
    read_counts,
    report,
    sent_since,
    set_aside_unreadable,
    used_bytes,
)
from sentinel_sync.store.rules import Defer, OutboxStatus, Release, RetryDecision, SetAside

logger: logging.Logger = logging.getLogger(__name__)

__all__ = ["ItemState", "NewItem", "Outbox", "OutboxItem", "OutboxStatus", "SentItem", "insert"]

#: Items put or looked at in one transaction where there are many: others get their turn in between.
_CHUNK = 500
_DEFER = "UPDATE item SET state = 'waiting', due_at = ?, reason = ?, offline = ? WHERE seq = ?"


class Outbox:
    """Durable work over one database.

    Args:
        database: Where it lies.
        max_bytes: Bound of what items and facts take.
    """

    def __init__(self, database: Database, clock: Clock, max_bytes: int) -> None:
        self._database = database
        self._clock = clock
        self._max_bytes = max_bytes
        # Both are used on the database's thread only. The first insert measures.
        self._unmeasured = float(SLACK_BYTES)
        self._counted: dict[str | None, tuple[tuple[int, int], OutboxStatus]] = {}

    async def put(
        self, item: NewItem, *, instead_of: tuple[str, str] | None = None, from_headroom: bool = False
    ) -> bool:
        """Take an item; returns when it is on disk. False where its key is already there.

        Args:
            item: The work.
            instead_of: Kind and key of a document that this item replaces: deleted in the same transaction.
            from_headroom: Whether it may use the headroom on a full disk: for what nobody could put again.

        Raises:
            StoreFullError: The disk is full; the item was not taken.
        """
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> tuple[bool, Drops]:
            taken = insert(connection, item, now)
            if instead_of is not None:
                delete_document(connection, *instead_of)
            return taken, self._keep_bound(connection, len(item.body))

        taken, dropped = await self._database.submit(operation, frees=from_headroom)
        report(dropped)
        return taken

    async def put_all(self, items: Sequence[NewItem]) -> int:
        """Take many items, in transactions of a few hundred each; returns how many were new.

        Raises:
            StoreFullError: The disk is full; some of the first may have been taken.
        """
        now, taken = self._clock.now(), 0

        def operation(connection: sqlite3.Connection, chunk: Sequence[NewItem]) -> tuple[int, Drops]:
            new = sum(insert(connection, item, now) for item in chunk)
            return new, self._keep_bound(connection, sum(len(item.body) for item in chunk))

        for start in range(0, len(items), _CHUNK):
            chunk = items[start : start + _CHUNK]
            new, dropped = await self._run(partial(operation, chunk=chunk))
            report(dropped)
            taken += new
        return taken

    async def claim(self, kind: str, limit: int) -> list[OutboxItem]:
        """Mark up to `limit` due items as being sent, most important and longest due first; counts their attempt."""
        now = self._clock.now()
        return await self._run(lambda connection: claim_due(connection, kind, now, limit), frees=True)

    async def claim_newest(self, kind: str, limit: int, head_start: float) -> list[OutboxItem]:
        """As `claim`, but what was put within the last `head_start` seconds first, and always the newest first."""
        now = self._clock.now()
        return await self._run(lambda connection: claim_newest(connection, kind, now, limit, head_start), frees=True)

    async def claim_in_turn(self, kind: str, head_start: float) -> OutboxItem | None:
        """Mark the due item whose turn it is as being sent; counts its attempt.

        Oldest first, but each priority is ahead of the next by `head_start` seconds: none waits for ever.
        """
        now = self._clock.now()
        return await self._run(lambda connection: claim_in_turn(connection, kind, now, head_start), frees=True)

    async def claim_one(self, key: str) -> OutboxItem | None:
        """Mark the item of this key as being sent, where it is due; counts its attempt."""
        now = self._clock.now()
        return await self._run(lambda connection: claim_one(connection, key, now), frees=True)

    async def first_in_turn(self, kind: str, head_start: float) -> OutboxItem | None:
        """Show the item that `claim_in_turn` would claim now, or None."""
        now = self._clock.now()
        return await self._run(lambda connection: first_in_turn(connection, kind, now, head_start), writes=False)

    async def acknowledge(self, kind: str, seqs: Sequence[int]) -> None:
        """Forget items that the backend has taken; returns when that is on disk."""
        now = self._clock.now()

        def operation(connection: sqlite3.Connection) -> None:
            # One statement for all: between two of them this thread would wait for the host's loop to let go of the
            # interpreter, up to 5 ms each time (sys.getswitchinterval).
            acknowledged = json.dumps(list(seqs))
            note_acknowledged(connection, acknowledged, now)
            gone = connection.execute(
                "DELETE FROM item WHERE seq IN (SELECT value FROM json_each(?))", (acknowledged,)
            ).rowcount
            count(connection, f"acknowledged.{kind}", gone)

        if seqs:
            await self._run(operation, frees=True)

    async def note_sent(self, kind: str, key: str, size_bytes: int) -> None:
        """Put on record what the backend has acknowledged without its having lain here."""
        row = (kind, key, self._clock.now(), size_bytes)
        insertion = "INSERT INTO sent (kind, key, at, size_bytes) VALUES (?, ?, ?, ?)"
        try:
            await self._run(lambda connection: connection.execute(insertion, row))
        except StoreFullError as error:  # it has gone all the same, and is not to go again for that
            logger.error("outbox.sent_not_noted: %s %s: %s", kind, key[:8], error)

    async def sent(self, since: float = 0.0) -> list[SentItem]:
        """What was acknowledged since then (seconds since the epoch), newest first: the last 20,000."""
        return await self._run(lambda connection: sent_since(connection, since), writes=False)

    async def forget_sent(self, kind: str, keys: Sequence[str]) -> None:
        """Take something off the record of what was sent."""
        rows = [(kind, key) for key in keys]
        deletion = "DELETE FROM sent WHERE kind = ? AND key = ?"
        await self._run(lambda connection: connection.executemany(deletion, rows), frees=True)

    async def defer(self, seq: int, seconds: float, reason: str, *, connectivity: bool) -> None:
        """Let an item wait for so many seconds, at most `CAP`; `connectivity` where only the network was in its way."""
        due_at = self._clock.now() + min(seconds, CAP)
        await self._change(_DEFER, (due_at, reason, int(connectivity), seq))

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
            await self._run(operation, frees=True)

    async def set_aside(self, seq: int, reason: str) -> None:
        """Keep an item that can't succeed, with its reason, until somebody decides."""
        await self._change("UPDATE item SET state = 'set_aside', reason = ? WHERE seq = ?", (reason, seq))

    async def settle(self, item: OutboxItem, decision: RetryDecision) -> None:
        """Do what follows for a claimed item whose attempt did not bring it to the backend."""
        match decision:
            case Release():
                await self.release([item.seq])
            case Defer(seconds, reason, connectivity):
                await self.defer(item.seq, seconds, reason, connectivity=connectivity)
            case SetAside(reason):
                logger.warning("%s.set_aside: %s: %s", item.kind, item.key, reason)
                await self.set_aside(item.seq, reason)

    async def settle_all(self, decisions: Sequence[tuple[OutboxItem, RetryDecision]]) -> None:
        """Do the same for many, what is alike in one transaction."""
        now = self._clock.now()
        deferred = [
            (now + min(decision.seconds, CAP), decision.reason, int(decision.connectivity), item.seq)
            for item, decision in decisions
            if isinstance(decision, Defer)
        ]
        await self.release(item.seq for item, decision in decisions if isinstance(decision, Release))
        if deferred:
            await self._run(lambda connection: connection.executemany(_DEFER, deferred), frees=True)
        for item, decision in decisions:
            if isinstance(decision, SetAside):
                await self.settle(item, decision)

    async def release_all(self) -> int:
        """At start: what a killed agent was sending waits again, at once; returns how many there were."""
        return await self._change(
            "UPDATE item SET state = 'waiting', due_at = min(created_at, ?) WHERE state = 'sending'",
            (self._clock.now(),),
        )

    async def make_due(self) -> int:
        """The backend is back: what only the network held up is due now; returns how many."""
        now = self._clock.now()
        return await self._change(
            "UPDATE item INDEXED BY item_offline SET due_at = ?, offline = 0"
            " WHERE offline = 1 AND due_at > ? AND state = 'waiting'",
            (now, now),
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

        return await self._run(operation, frees=True)

    async def drop(self, keys: Sequence[str], *, reason: str = "operator") -> int:
        """Delete items by somebody's will (`reason` says whose); what is being sent stays. Returns how many it were."""

        def operation(connection: sqlite3.Connection) -> int:
            dropped = 0
            for key in keys:
                rows = connection.execute(
                    "DELETE FROM item WHERE key = ? AND state != 'sending' RETURNING kind", (key,)
                )
                for (kind,) in rows.fetchall():
                    count(connection, f"dropped.{kind}.{reason}", 1)
                    dropped += 1
            return dropped

        return await self._run(operation, frees=True)

    async def drop_too_old(self, max_age: float, seen: dict[str, ClockObservation], current: ClockStamp) -> int:
        """Drop what is older than `max_age` seconds; call it only while the wall clock is trusted."""
        now, dropped = self._clock.now(), 0

        def operation(connection: sqlite3.Connection, start: int) -> tuple[int | None, Drops]:
            return drop_for_age(connection, start, _CHUNK, max_age, seen, current, now)

        more: int | None = 0
        while more is not None:
            more, drops = await self._run(partial(operation, start=more), frees=True)
            report(drops)
            dropped += sum(number for *_, number in drops)
        return dropped

    async def next_due(self, kind: str) -> float | None:
        """Seconds until the next item of a kind is due (0.0 where one is), or None where none waits."""
        now = self._clock.now()
        return await self._run(lambda connection: next_due_in(connection, kind, now), writes=False)

    async def items(
        self, *, state: ItemState | None = None, kind: str | None = None, limit: int = 1000
    ) -> list[OutboxItem]:
        """List items, oldest first."""
        query = (
            f"SELECT {COLUMNS} FROM item"
            " WHERE (? IS NULL OR state = ?) AND (? IS NULL OR kind = ?) ORDER BY seq LIMIT ?"
        )
        parameters = (state, state, kind, kind, limit)
        return await self._run(
            lambda connection: [item_of(row) for row in connection.execute(query, parameters)],
            writes=False,
        )

    async def search(self, state: ItemState, text: str, limit: int) -> tuple[list[OutboxItem], int]:
        """Items whose key or reason contains a text, in whatever case, oldest first; and how many there are."""
        found = "FROM item WHERE state = ? AND instr(lower(key || ' ' || coalesce(reason, '')), lower(?))"

        def ask(connection: sqlite3.Connection) -> tuple[list[OutboxItem], int]:
            rows = connection.execute(f"SELECT {COLUMNS} {found} ORDER BY seq LIMIT ?", (state, text, limit))
            (total,) = connection.execute(f"SELECT count(*) {found}", (state, text)).fetchone()
            return [item_of(row) for row in rows], total

        return await self._run(ask, writes=False)

    async def find(self, key: str) -> OutboxItem | None:
        """Show one item by its key, or None."""
        query = f"SELECT {COLUMNS} FROM item WHERE key = ?"
        row = await self._run(lambda connection: connection.execute(query, (key,)).fetchone(), writes=False)
        return None if row is None else item_of(row)

    async def counts(self, kind: str | None = None) -> OutboxStatus:
        """Count what there is, of one kind or of all."""
        return await self._run(lambda connection: self._count(connection, kind), writes=False)

    async def data_version(self) -> int:
        """A number that changes when another process has written."""
        return await self._run(_data_version, writes=False)

    async def verify(self) -> list[str]:
        """Check the whole file; returns what is wrong with it, empty where nothing is."""

        def operation(connection: sqlite3.Connection) -> list[str]:
            return [str(row[0]) for row in connection.execute("PRAGMA integrity_check(20)") if row[0] != "ok"]

        return await self._database.look(operation)

    def _count(self, connection: sqlite3.Connection, kind: str | None) -> OutboxStatus:
        """Count again only where something was written since: with much queued it takes milliseconds."""
        written = (connection.total_changes, _data_version(connection))
        before = self._counted.get(kind)
        if before is not None and before[0] == written:
            return before[1]
        counts = read_counts(connection, kind, used_bytes(connection))
        if not connection.in_transaction:  # else what is counted may be rolled back yet
            self._counted[kind] = (written, counts)
        return counts

    def _keep_bound(self, connection: sqlite3.Connection, added_bytes: int) -> Drops:
        """Evict where the byte bound is passed. Measured once per `SLACK_BYTES`, not at every insert."""
        self._unmeasured += added_bytes
        if self._unmeasured < SLACK_BYTES:
            return []
        self._unmeasured = 0.0
        return drop_for_size(connection, self._max_bytes)

    async def _run(self, operation: Operation[Result], *, writes: bool = True, frees: bool = False) -> Result:
        try:
            return await self._database.run(operation, writes=writes, frees=frees)
        except UnreadableError:
            # One row that the disk has altered must not keep the others, nor a new one, waiting.
            await self._database.run(set_aside_unreadable, frees=True)
            return await self._database.run(operation, writes=writes, frees=frees)

    async def _change(self, statement: str, parameters: tuple[float | str | int, ...]) -> int:
        # Changing a state never adds a row, and must work on a full disk too: it may use the headroom.
        return await self._run(
            lambda connection: connection.execute(statement, parameters).rowcount,
            frees=True,
        )


def _data_version(connection: sqlite3.Connection) -> int:
    return int(connection.execute("PRAGMA data_version").fetchone()[0])
