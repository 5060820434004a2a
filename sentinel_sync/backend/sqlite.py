"""SQLite, the default: one file, one writer thread that groups commits, and a few threads that read.

A write is answered only after its commit has reached the disk (WAL with synchronous=FULL). Writes that wait
at the same time share one commit, which is what makes a thousand trips a second possible on one disk.
"""

import asyncio
import contextlib
import queue
import sqlite3
import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from sentinel_sync.backend.database import DatabaseUnavailableError, Result, Work
from sentinel_sync.backend.trip_store import ADD_UP_ALL

SCHEMA_VERSION = 5
LARGEST_GROUP = 256
READERS = 2
BUSY_TIMEOUT = 30.0
"""Seconds that a connection waits for another process, e.g. one that publishes a model."""

SCHEMA = """
CREATE TABLE trips (
    fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, trip_id TEXT NOT NULL,
    received_at REAL NOT NULL, day TEXT NOT NULL, end_time TEXT NOT NULL,
    duration REAL NOT NULL, distance REAL NOT NULL,
    critical_alerts INTEGER NOT NULL, warning_alerts INTEGER NOT NULL, info_alerts INTEGER NOT NULL,
    average_risk REAL NOT NULL, max_risk REAL NOT NULL, safety_score REAL NOT NULL,
    driver_id TEXT, body TEXT NOT NULL,
    repeats INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (fleet_id, vehicle_id, trip_id)
) WITHOUT ROWID;
CREATE INDEX trips_by_id ON trips (trip_id);

CREATE TABLE vehicles (
    fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, last_seen REAL NOT NULL, user_agent TEXT NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id)
) WITHOUT ROWID;

CREATE TABLE scenarios (
    id INTEGER PRIMARY KEY,
    fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, scenario_id TEXT NOT NULL,
    received_at REAL NOT NULL, priority TEXT NOT NULL, metadata TEXT NOT NULL, consent TEXT NOT NULL,
    UNIQUE (fleet_id, vehicle_id, scenario_id)
);
CREATE TABLE parts (
    scenario INTEGER NOT NULL REFERENCES scenarios (id), name TEXT NOT NULL, kind TEXT NOT NULL,
    file TEXT NOT NULL UNIQUE, size INTEGER NOT NULL, sha256 TEXT NOT NULL,
    received_size INTEGER NOT NULL, received_sha256 TEXT NOT NULL, received_at REAL NOT NULL,
    PRIMARY KEY (scenario, name)
) WITHOUT ROWID;
CREATE TABLE idempotency_keys (
    fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, idempotency_key TEXT NOT NULL,
    work TEXT NOT NULL, used_at REAL NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id, idempotency_key)
) WITHOUT ROWID;
CREATE TABLE uploads (
    upload_id TEXT PRIMARY KEY,
    scenario INTEGER NOT NULL REFERENCES scenarios (id), kind TEXT NOT NULL, name TEXT NOT NULL,
    length INTEGER NOT NULL, sha256 TEXT NOT NULL, compressed INTEGER NOT NULL,
    idempotency_key TEXT NOT NULL, expires_at REAL NOT NULL, completed INTEGER NOT NULL DEFAULT 0
) WITHOUT ROWID;

CREATE TABLE models (
    name TEXT NOT NULL, version TEXT NOT NULL, filename TEXT NOT NULL, file TEXT NOT NULL UNIQUE,
    size INTEGER NOT NULL, checksum TEXT NOT NULL, signatures TEXT NOT NULL,
    rollout REAL NOT NULL, released_at TEXT NOT NULL, published_at REAL NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;

CREATE TABLE profiles (
    fleet_id TEXT NOT NULL, driver_id TEXT NOT NULL,
    encrypted_data TEXT NOT NULL, updated_at REAL NOT NULL, revision TEXT NOT NULL,
    PRIMARY KEY (fleet_id, driver_id)
) WITHOUT ROWID;
CREATE TABLE forgotten_drivers (
    fleet_id TEXT NOT NULL, driver_digest BLOB NOT NULL, forgotten_at REAL NOT NULL,
    PRIMARY KEY (fleet_id, driver_digest)
) WITHOUT ROWID;
"""
#: What each later version added, by its number.
ADDITIONS = {
    2: """
CREATE TABLE reports (
    fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, received_at REAL NOT NULL, body TEXT NOT NULL,
    PRIMARY KEY (fleet_id, vehicle_id)
) WITHOUT ROWID;
CREATE TABLE wanted (
    scenario INTEGER PRIMARY KEY REFERENCES scenarios (id), files TEXT NOT NULL, asked_at REAL NOT NULL
);
""",
    3: """
CREATE TABLE rollouts (
    name TEXT NOT NULL, version TEXT NOT NULL, plan TEXT NOT NULL, state TEXT NOT NULL, step INTEGER NOT NULL,
    step_began_at REAL NOT NULL, why TEXT NOT NULL, created_at REAL NOT NULL,
    PRIMARY KEY (name, version)
) WITHOUT ROWID;
CREATE TABLE outcomes (
    name TEXT NOT NULL, version TEXT NOT NULL, fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, state TEXT NOT NULL,
    PRIMARY KEY (name, version, fleet_id, vehicle_id)
) WITHOUT ROWID;
CREATE INDEX reports_by_time ON reports (received_at);
""",
    4: f"""
CREATE TABLE trip_ids (
    fleet_id TEXT NOT NULL, trip_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, repeats INTEGER NOT NULL DEFAULT 0,
    PRIMARY KEY (fleet_id, trip_id)
) WITHOUT ROWID;
INSERT INTO trip_ids SELECT fleet_id, trip_id, vehicle_id, repeats FROM trips WHERE true ORDER BY received_at
    ON CONFLICT DO NOTHING;
ALTER TABLE trips DROP COLUMN repeats;
CREATE INDEX trips_with_alerts ON trips (fleet_id, end_time, trip_id)
    WHERE critical_alerts + warning_alerts + info_alerts > 0;
CREATE TABLE totals (
    fleet_id TEXT NOT NULL, kind TEXT NOT NULL, name TEXT NOT NULL, shard INTEGER NOT NULL,
    trips INTEGER NOT NULL, duration REAL NOT NULL, distance REAL NOT NULL,
    critical_alerts INTEGER NOT NULL, warning_alerts INTEGER NOT NULL, info_alerts INTEGER NOT NULL,
    weight REAL NOT NULL, weighted_score REAL NOT NULL, weighted_risk REAL NOT NULL, last_ended TEXT NOT NULL,
    PRIMARY KEY (fleet_id, kind, name, shard)
) WITHOUT ROWID;
{ADD_UP_ALL};
CREATE TABLE api_keys (
    digest TEXT PRIMARY KEY, name TEXT NOT NULL, scopes TEXT NOT NULL, fleet_id TEXT, vehicle_id TEXT,
    created_at REAL NOT NULL, expires_at REAL
) WITHOUT ROWID;
CREATE TABLE events (
    id INTEGER PRIMARY KEY AUTOINCREMENT, fleet_id TEXT NOT NULL, vehicle_id TEXT NOT NULL, kind TEXT NOT NULL,
    body TEXT NOT NULL, recorded_at REAL NOT NULL
);
CREATE TABLE leases (name TEXT PRIMARY KEY, holder TEXT NOT NULL, ends_at REAL NOT NULL);
""",  # noqa: S608  # constants of this package
    5: "ALTER TABLE models ADD COLUMN withdrawn_at REAL",
}


class SqliteConnection(sqlite3.Connection):
    """A connection as every part of the backend uses it."""

    def lock(self, subject: str, /) -> None:
        """As every connection has it: `BEGIN IMMEDIATE` has let only one writer in."""


@dataclass(slots=True)
class _Waiting:
    work: Work[Any]
    answer: asyncio.Future[Any]
    result: Any = None
    error: BaseException | None = None


def connect(path: Path) -> SqliteConnection:
    """A connection that is durable, and in autocommit until told otherwise. A new file is its owner's alone."""
    path.touch(mode=0o600)
    connection = sqlite3.connect(
        path, timeout=BUSY_TIMEOUT, isolation_level=None, check_same_thread=False, factory=SqliteConnection
    )
    connection.row_factory = sqlite3.Row
    connection.execute("PRAGMA journal_mode = WAL")
    connection.execute("PRAGMA synchronous = FULL")
    connection.execute("PRAGMA foreign_keys = ON")
    # What is deleted is overwritten: a forgotten profile must not linger in free pages.
    connection.execute("PRAGMA secure_delete = ON")
    return connection


def migrate(connection: sqlite3.Connection) -> None:
    """Brings the tables up to date, or creates them.

    Raises:
        RuntimeError: The file was written by a newer version.
    """
    connection.execute("BEGIN IMMEDIATE")
    try:
        (version,) = connection.execute("PRAGMA user_version").fetchone()
        if version > SCHEMA_VERSION:
            raise RuntimeError(f"the database has schema {version}, this backend knows {SCHEMA_VERSION}: upgrade it")
        for number in range(version + 1, SCHEMA_VERSION + 1):
            for statement in filter(str.strip, (SCHEMA if number == 1 else ADDITIONS[number]).split(";")):
                connection.execute(statement)
        connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION}")
    except BaseException:
        # SQLite ends a transaction by itself where the disk is full (sqlite.org/lang_transaction.html, 2.4).
        if connection.in_transaction:
            connection.execute("ROLLBACK")
        raise
    connection.execute("COMMIT")


class SqliteDatabase:
    """The rows in one file; see `Database`."""

    def __init__(self, path: Path) -> None:
        self._path = path
        self._queue: queue.SimpleQueue[_Waiting | None] = queue.SimpleQueue()
        self._sightings: Work[None] | None = None
        self._thread: threading.Thread | None = None
        self._readers = ThreadPoolExecutor(READERS, thread_name_prefix="backend-reader")
        self._reader = threading.local()
        self._connections: list[SqliteConnection] = []

    async def open(self, sightings: Work[None] | None = None) -> None:
        """Creates the tables if needed and starts the writer.

        Args:
            sightings: Called in the writer's thread before each commit: when a vehicle was heard joins a commit
                that happens anyway.

        Raises:
            RuntimeError: A newer version wrote the file.
        """
        self._sightings = sightings
        connection = await asyncio.to_thread(connect, self._path)
        self._connections.append(connection)
        await asyncio.to_thread(migrate, connection)
        loop = asyncio.get_running_loop()
        self._thread = threading.Thread(target=self._write_groups, args=(connection, loop), name="backend-writer")
        self._thread.start()

    async def close(self) -> None:
        """Waits for what was asked so far, then closes all connections."""
        if self._thread is not None:
            with contextlib.suppress(DatabaseUnavailableError):  # a full disk must not keep anybody from stopping
                await self.write(lambda _: None)
            self._queue.put(None)
            await asyncio.to_thread(self._thread.join)
        await asyncio.to_thread(self._readers.shutdown)
        for connection in self._connections:
            connection.close()

    async def write(self, work: Work[Result]) -> Result:
        """Runs `work` in a transaction, see `Database.write`; those that wait share one commit.

        Raises:
            DatabaseUnavailableError: The disk is full or broken; nothing was stored.
        """
        answer: asyncio.Future[Result] = asyncio.get_running_loop().create_future()
        self._queue.put(_Waiting(work, answer))
        return await answer

    async def read(self, work: Work[Result]) -> Result:
        """Runs `work` in a reader's thread on what has been committed."""
        return await asyncio.get_running_loop().run_in_executor(self._readers, self._read, work)

    async def scrub(self) -> None:
        """Empties the write-ahead log, where deleted rows could otherwise be found for a while."""
        await self.read(lambda connection: connection.execute("PRAGMA wal_checkpoint(TRUNCATE)").fetchone())

    def _read(self, work: Work[Result]) -> Result:
        connection: SqliteConnection | None = getattr(self._reader, "connection", None)
        if connection is None:
            connection = connect(self._path)
            self._reader.connection = connection
            self._connections.append(connection)
        try:
            return work(connection)
        except sqlite3.OperationalError as error:
            raise DatabaseUnavailableError(str(error)) from error

    def _write_groups(self, connection: SqliteConnection, loop: asyncio.AbstractEventLoop) -> None:
        going_on = True
        while going_on:
            group: list[_Waiting] = []
            with contextlib.suppress(queue.Empty):
                waiting = self._queue.get()
                while waiting is not None and len(group) < LARGEST_GROUP:
                    group.append(waiting)
                    waiting = self._queue.get_nowait()
                if waiting is None:
                    going_on = False
                else:
                    group.append(waiting)
            if group:
                self._commit(connection, group)
                loop.call_soon_threadsafe(_settle, group)

    def _commit(self, connection: SqliteConnection, group: Sequence[_Waiting]) -> None:
        try:
            connection.execute("BEGIN IMMEDIATE")
            for waiting in group:
                _run_one(connection, waiting)
            if self._sightings is not None:
                self._sightings(connection)
            connection.execute("COMMIT")
        except sqlite3.Error as error:
            with contextlib.suppress(sqlite3.Error):  # SQLite may have rolled back by itself
                connection.execute("ROLLBACK")
            for waiting in group:
                waiting.error = waiting.error or DatabaseUnavailableError(str(error))


def _run_one(connection: SqliteConnection, waiting: _Waiting) -> None:
    connection.execute("SAVEPOINT one")
    try:
        waiting.result = waiting.work(connection)
    except sqlite3.OperationalError as error:
        waiting.error = DatabaseUnavailableError(str(error))
        connection.execute("ROLLBACK TO one")
    except Exception as error:
        # Handed to the caller that asked, whatever it is; the others in the group go on.
        waiting.error = error
        connection.execute("ROLLBACK TO one")
    connection.execute("RELEASE one")


def _settle(group: Sequence[_Waiting]) -> None:
    for waiting in group:
        if waiting.answer.done():  # its caller has gone away
            continue
        if waiting.error is not None:
            waiting.answer.set_exception(waiting.error)
        else:
            waiting.answer.set_result(waiting.result)
