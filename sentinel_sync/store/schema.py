"""The database file: its tables through all versions, and how it is opened so that a commit survives a power cut."""

import sqlite3
import threading
from pathlib import Path

from sentinel_sync.base.errors import StoreError

_MIGRATIONS: tuple[tuple[str, ...], ...] = (
    (
        # One row per piece of outgoing work. Times are wall time in seconds since the epoch; `boot_id` and
        # `clock_offset` say by which clocks, so that they can be put right later (base/clock.py). `offline`
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
    # CRC-32 of an item's kind, key and body, checked before it is sent: a flipped bit on disk must not travel.
    ("ALTER TABLE item ADD COLUMN checksum INTEGER",),
    (
        # What the backend has acknowledged, for people. The types are checked, because after damage to the first page
        # another table's rows may be read as this one's.
        """
        CREATE TABLE sent (
            seq        INTEGER PRIMARY KEY,
            kind       TEXT    NOT NULL CHECK (typeof(kind) = 'text'),
            key        TEXT    NOT NULL CHECK (typeof(key) = 'text'),
            at         REAL    NOT NULL CHECK (typeof(at) = 'real'),
            size_bytes INTEGER NOT NULL CHECK (typeof(size_bytes) = 'integer')
        )
        """,
        # Bounded here, so that an acknowledgement takes no further statement: each is a wait for the interpreter.
        """
        CREATE TRIGGER sent_bound AFTER INSERT ON sent BEGIN
            DELETE FROM sent WHERE seq <= NEW.seq - 20000;
        END
        """,
    ),
)
#: Columns that older files do not have; NULL there.
ADDED_COLUMNS = frozenset({"checksum"})
#: The schema that brought them.
COLUMNS_ADDED = 2
#: Tables that older files do not have, by the schema that brought them.
ADDED_TABLES = {"sent": 3}

VERSION = len(_MIGRATIONS)

#: Another process (the CLI) may hold the write lock for a moment, seconds.
BUSY_TIMEOUT = 5.0
#: So often within it the switch of a new file to WAL is tried.
_WAL_TRIES = 100


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


def connect(path: Path, *, writable: bool = True, log: bool = True) -> sqlite3.Connection:
    """Open the file so that a commit survives a power cut.

    WAL with `synchronous=FULL`: NORMAL may lose the last commits when the power goes (sqlite.org/wal.html, section 2).

    Args:
        path: The file.
        writable: False for a look.
        log: False for a new file that is built and then renamed: nothing of it may lie in a log beside it, and what a
            power cut leaves of it counts for nothing. It never had a log, because leaving one may fail in silence.
    """
    mode = "rwc" if writable else "ro"
    connection = sqlite3.connect(
        f"{path.absolute().as_uri()}?mode={mode}",
        uri=True,
        timeout=BUSY_TIMEOUT,
        isolation_level=None,
        check_same_thread=False,
        cached_statements=256,
    )
    try:
        if writable and log:
            _keep_a_log(connection)
        elif writable:
            connection.execute("PRAGMA journal_mode=MEMORY")
        connection.execute("PRAGMA synchronous=FULL")
        connection.execute("PRAGMA foreign_keys=ON")
        # 1 MiB of page cache: an item is small, and the host's memory is not ours.
        connection.execute("PRAGMA cache_size=-1024")
    except BaseException:  # a damaged schema is a UnicodeDecodeError
        connection.close()
        raise
    return connection


def _keep_a_log(connection: sqlite3.Connection) -> None:
    """Switch a new file to WAL. Of several that do so at once SQLite turns all but one away without waiting for it."""
    pause = threading.Event()
    for left in reversed(range(_WAL_TRIES)):
        try:
            connection.execute("PRAGMA journal_mode=WAL")
        except sqlite3.OperationalError as error:
            if left == 0 or not is_busy(error):
                raise
            pause.wait(BUSY_TIMEOUT / _WAL_TRIES)
        else:
            return


def is_busy(error: sqlite3.Error) -> bool:
    """Whether somebody else holds the lock."""
    return getattr(error, "sqlite_errorname", "").startswith(("SQLITE_BUSY", "SQLITE_LOCKED"))
