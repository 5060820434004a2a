"""Small durable facts by kind and key: the open trip, consent, the backend's clock, cached answers."""

import logging
import sqlite3
from collections.abc import Sequence
from functools import partial
from typing import TypeVar

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.base.clock import Clock
from sentinel_sync.store.database import Database

logger: logging.Logger = logging.getLogger(__name__)

Fact = TypeVar("Fact")


class Documents:
    """Facts as JSON, validated on the way out."""

    def __init__(self, database: Database, clock: Clock) -> None:
        self._database = database
        self._clock = clock

    async def load(self, kind: str, key: str, shape: TypeAdapter[Fact]) -> Fact | None:
        """Read one fact, or None where there is none.

        What does not fit `shape` is moved aside under the kind `unreadable.{kind}` and reported: one bad fact must not
        keep the agent from starting.
        """
        body = await self._database.run(lambda connection: _read(connection, kind, key), writes=False)
        if body is None:
            return None
        try:
            return shape.validate_json(body)
        except ValidationError as error:
            logger.error(
                "store.unreadable: %s %r is not of the expected shape (%d errors)", kind, key, error.error_count()
            )
            await self.set_aside(kind, key)
            return None

    async def set_aside(self, kind: str, key: str) -> None:
        """Keep a fact that is of no use where nobody stumbles over it again: under the kind `unreadable.{kind}`."""
        await self._database.run(partial(_move_aside, kind=kind, key=key.encode()), frees=True)

    async def save(self, kind: str, key: str, fact: Fact, shape: TypeAdapter[Fact]) -> None:
        """Write one fact; returns when it is on disk."""
        body, now = shape.dump_json(fact), self._clock.now()
        await self._database.run(lambda connection: write_document(connection, kind, key, body, now))

    async def save_all(
        self, facts: Sequence[tuple[str, str, Fact]], shape: TypeAdapter[Fact], *, urgent: bool = False
    ) -> None:
        """Write several facts of one shape by kind and key, all or none; returns when they are on disk.

        Args:
            facts: Kind, key and fact of each.
            shape: Of each fact.
            urgent: On a full disk the reserve may be used: a driver's no cannot wait until somebody makes room.
        """
        bodies, now = [(kind, key, shape.dump_json(fact)) for kind, key, fact in facts], self._clock.now()

        def write(connection: sqlite3.Connection) -> None:
            for kind, key, body in bodies:
                write_document(connection, kind, key, body, now)

        await self._database.run(write, frees=urgent)

    async def delete(self, kind: str, key: str) -> bool:
        """Remove one fact; False where there was none."""
        return await self._database.run(lambda connection: delete_document(connection, kind, key), frees=True)

    async def keys(self, kind: str) -> list[str]:
        """List the keys of a kind, sorted."""
        raw = await self._database.run(lambda connection: _keys(connection, kind), writes=False)
        keys: list[str] = []
        for key in raw:
            try:
                keys.append(key.decode())
            except UnicodeDecodeError:
                logger.error("store.unreadable: a key of %s cannot be read: %r", kind, key)
                await self._database.run(partial(_move_aside, kind=kind, key=key), frees=True)
        return keys


def write_document(connection: sqlite3.Connection, kind: str, key: str, body: bytes, now: float) -> None:
    """Insert or replace one document within the caller's transaction."""
    connection.execute(
        "INSERT INTO document (kind, key, body, updated_at) VALUES (?, ?, ?, ?)"
        " ON CONFLICT (kind, key) DO UPDATE SET body = excluded.body, updated_at = excluded.updated_at",
        (kind, key, body, now),
    )


def delete_document(connection: sqlite3.Connection, kind: str, key: str) -> bool:
    """Delete one document within the caller's transaction."""
    return connection.execute("DELETE FROM document WHERE kind = ? AND key = ?", (kind, key)).rowcount > 0


def _read(connection: sqlite3.Connection, kind: str, key: str) -> bytes | None:
    # CAST: a damaged file may have given it another type.
    query = "SELECT CAST(body AS BLOB) FROM document WHERE kind = ? AND key = ?"
    row = connection.execute(query, (kind, key)).fetchone()
    return None if row is None else bytes(row[0])


def _keys(connection: sqlite3.Connection, kind: str) -> list[bytes]:
    query = "SELECT CAST(key AS BLOB) FROM document WHERE kind = ? ORDER BY key"
    return [key for (key,) in connection.execute(query, (kind,))]


def _move_aside(connection: sqlite3.Connection, kind: str, key: bytes) -> None:
    connection.execute(
        "UPDATE OR REPLACE document SET kind = ? WHERE kind = ? AND CAST(key AS BLOB) = ?",
        (f"unreadable.{kind}", kind, key),
    )
