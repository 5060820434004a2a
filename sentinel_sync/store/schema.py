"""The tables, versioned by `PRAGMA user_version`: each migration is one transaction, run once, in order."""

import sqlite3

from sentinel_sync.base.errors import StoreError

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # One row per piece of outgoing work. Times are wall time in seconds since the epoch; `boot_id` and
        # `clock_offset` say by which clocks, so that they can be put right later (base/timekeeping.py). `offline`
        # marks an item that only the network held up. Acknowledged work has no row: `counter` keeps the totals.
        """
        CREATE TABLE item (
            seq        INTEGER PRIMARY KEY,
            kind       TEXT    NOT NULL,
            key        TEXT    NOT NULL,
            priority   INTEGER NOT NULL,
            state      TEXT    NOT NULL DEFAULT 'waiting' CHECK (state IN ('waiting', 'sending', 'set_aside')),
            created_at REAL    NOT NULL,
            due_at     REAL    NOT NULL,
            attempts   INTEGER NOT NULL DEFAULT 0,
            offline    INTEGER NOT NULL DEFAULT 0,
            reason     TEXT,
            body       BLOB    NOT NULL,
            boot_id    TEXT,
            clock_offset REAL,
            UNIQUE (key, kind)
        )
        """,
        # Every question that is asked while much is queued is a range of this index, one priority at a time.
        "CREATE INDEX item_due ON item (state, kind, priority, due_at)",
        # Holds only the few that were tried and found the network gone, so putting an item does not pay for it.
        "CREATE INDEX item_offline ON item (due_at) WHERE offline = 1",
        """
        CREATE TABLE document (
            kind       TEXT NOT NULL,
            key        TEXT NOT NULL,
            body       BLOB NOT NULL,
            updated_at REAL NOT NULL,
            PRIMARY KEY (kind, key)
        ) WITHOUT ROWID
        """,
        """
        CREATE TABLE counter (
            name  TEXT PRIMARY KEY,
            value INTEGER NOT NULL
        ) WITHOUT ROWID
        """,
    ),
)

VERSION = len(_MIGRATIONS)


def migrate(connection: sqlite3.Connection) -> None:
    """Bring the file's schema up to date.

    Raises:
        StoreError: The file was written by a newer version; it is left as it is.
    """
    (found,) = connection.execute("PRAGMA user_version").fetchone()
    if found > VERSION:
        raise StoreError(
            f"the store has schema {found}, written by a newer sentinel_sync; this one knows up to {VERSION}: "
            "install the newer version again, or give this one another state_dir"
        )
    for version in range(found, VERSION):
        connection.execute("BEGIN IMMEDIATE")
        try:
            # Another process may have been faster.
            (now,) = connection.execute("PRAGMA user_version").fetchone()
            if now == version:
                for statement in _MIGRATIONS[version]:
                    connection.execute(statement)
                connection.execute(f"PRAGMA user_version = {version + 1}")
            connection.execute("COMMIT")
        except BaseException:
            if connection.in_transaction:
                connection.execute("ROLLBACK")
            raise
