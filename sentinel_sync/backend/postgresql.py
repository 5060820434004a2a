"""PostgreSQL, for a fleet: several processes on one database, by psycopg 3 and a pool of connections."""

import asyncio
import contextlib
import functools
import logging
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from datetime import UTC, date, datetime
from typing import Any

import psycopg
from psycopg import errors
from psycopg_pool import ConnectionPool, PoolTimeout

from sentinel_sync.backend.database import DatabaseUnavailableError, Result, UnstorableError, Work

REVISION = "0003"
"""The newest of `migrations/versions`: what this version of the backend works on."""
CONNECTIONS = 8
"""Of one process; PostgreSQL allows 100 in all where it is not told otherwise."""
CONNECTION_TIMEOUT = 5.0
"""Seconds until a connection must be made, or be free."""
STATEMENT_TIMEOUT = 30.0
"""Seconds after which a statement is given up: by then the vehicle has, too."""
ATTEMPTS = 5
"""How often work is tried that another transaction got in the way of."""
SIGHTINGS_INTERVAL = 1.0
"""Seconds between writes of when vehicles were heard."""
MONTHS_AHEAD = 3
"""Partitions of `trips` that are made before they are needed."""

logger = logging.getLogger(__name__)

_UNAVAILABLE = (psycopg.OperationalError, psycopg.InterfaceError, PoolTimeout)


class _Row(tuple[Any, ...]):  # noqa: SLOT001  # a tuple has none but empty ones
    """A row by name or place, as sqlite3's is."""

    places: dict[str, int]

    def __getitem__(self, key: Any, /) -> Any:
        return super().__getitem__(self.places[key] if isinstance(key, str) else key)


def _rows(cursor: psycopg.Cursor[Any]) -> Callable[[Sequence[Any]], _Row]:
    places = {column.name: place for place, column in enumerate(cursor.description or ())}

    def row(values: Sequence[Any]) -> _Row:
        made = _Row(values)
        made.places = places
        return made

    return row


@functools.lru_cache(maxsize=512)
def _statement(statement: str) -> bytes:
    return statement.replace("%", "%%").replace("?", "%s").encode()


class _Transaction:
    """What `Connection` asks for, over a connection of psycopg."""

    def __init__(self, connection: psycopg.Connection[_Row]) -> None:
        self._connection = connection

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> psycopg.Cursor[_Row]:
        return self._connection.execute(_statement(statement), values)

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> None:
        self._connection.cursor().executemany(_statement(statement), rows)

    def lock(self, subject: str, /) -> None:
        self._connection.execute(b"SELECT pg_advisory_xact_lock(hashtextextended(%s, 0))", (subject,))


class PostgresqlDatabase:
    """The rows on a PostgreSQL server; see `Database`."""

    def __init__(self, address: str) -> None:
        self._pool: ConnectionPool[psycopg.Connection[_Row]] = ConnectionPool(
            address,
            kwargs={
                "row_factory": _rows,
                "application_name": "sentinel_sync backend",
                "connect_timeout": round(CONNECTION_TIMEOUT),
                # To compile a statement takes longer than any of these runs.
                "options": f"-c statement_timeout={STATEMENT_TIMEOUT * 1000:.0f} -c jit=off",
            },
            min_size=1,
            max_size=CONNECTIONS,
            timeout=CONNECTION_TIMEOUT,
            open=False,
        )
        self._threads = ThreadPoolExecutor(CONNECTIONS, thread_name_prefix="backend-database")
        self._upkeep: asyncio.Task[None] | None = None
        self._sightings: Work[None] | None = None

    async def open(self, sightings: Work[None] | None = None) -> None:
        """Connects, and checks that the tables are of this version; see `Database.open`.

        Raises:
            RuntimeError: There are no tables, or they are of another version.
            DatabaseUnavailableError: It cannot be reached.
        """
        self._sightings = sightings
        await self._in_thread(self._pool.open)
        revision = await self.read(_revision)
        if revision != REVISION:
            state = f"is at revision {revision}" if revision else "has no tables"
            raise RuntimeError(
                f"the database {state}, this backend needs {REVISION}: python -m sentinel_sync backend migrate"
            )
        await self.write(make_partitions)
        self._upkeep = asyncio.create_task(self._keep_up(), name="backend.database")

    async def close(self) -> None:
        """Writes when vehicles were last heard, and closes all connections."""
        if self._upkeep is not None:
            self._upkeep.cancel()
            await asyncio.wait([self._upkeep])
            if self._sightings is not None:
                with contextlib.suppress(DatabaseUnavailableError):  # it must not keep anybody from stopping
                    await self.write(self._sightings)
        await self._in_thread(self._pool.close)
        self._threads.shutdown(wait=False)

    async def write(self, work: Work[Result]) -> Result:
        """Runs `work` in a transaction of its own, again where another got in its way; see `Database.write`.

        Raises:
            DatabaseUnavailableError: Nothing was stored, or it is not known whether it was.
            UnstorableError: A text holds a character that PostgreSQL cannot store.
        """
        return await self._in_thread(self._run, work)

    async def read(self, work: Work[Result]) -> Result:
        """Runs `work` on what has been committed; see `Database.read`.

        Raises:
            DatabaseUnavailableError: It cannot be reached.
        """
        return await self._in_thread(self._run, work)

    async def scrub(self) -> None:
        """Nothing here: old row versions go with autovacuum, and the log with its archive (docs/deploy.md)."""

    async def _in_thread(self, work: Callable[..., Result], *arguments: Any) -> Result:
        return await asyncio.get_running_loop().run_in_executor(self._threads, work, *arguments)

    def _run(self, work: Work[Result]) -> Result:
        with _translated_errors():
            for attempt in range(ATTEMPTS):
                try:
                    with self._pool.connection() as connection:
                        return work(_Transaction(connection))
                except (errors.SerializationFailure, errors.DeadlockDetected):
                    if attempt == ATTEMPTS - 1:
                        raise
        raise AssertionError  # the loop returns or raises

    async def _keep_up(self) -> None:
        """Writes sightings every second, and makes partitions every day."""
        made_on = datetime.now(UTC).date()
        while True:
            await asyncio.sleep(SIGHTINGS_INTERVAL)
            try:
                if self._sightings is not None:
                    await self.write(self._sightings)
                if made_on != (today := datetime.now(UTC).date()):
                    await self.write(make_partitions)
                    made_on = today
            except (DatabaseUnavailableError, psycopg.Error) as error:  # whatever it is, the next second tries again
                logger.warning(
                    "when vehicles were heard, or partitions, could not be written: %s", type(error).__name__
                )


@contextmanager
def _translated_errors() -> Iterator[None]:
    try:
        yield
    except psycopg.DataError as error:
        raise UnstorableError(str(error).splitlines()[0]) from error
    except _UNAVAILABLE as error:
        raise DatabaseUnavailableError(str(error).splitlines()[0]) from error


def _revision(connection: Any) -> str | None:
    (is_there,) = connection.execute("SELECT to_regclass('alembic_version') IS NOT NULL").fetchone()
    row = connection.execute("SELECT version_num FROM alembic_version").fetchone() if is_there else None
    return row[0] if row else None


def make_partitions(connection: Any) -> None:
    """Makes the partitions of `trips` for this month and those ahead; what is of no such month goes to the default.

    Args:
        connection: As work gets it.
    """
    connection.lock("partitions of trips")
    first = datetime.now(UTC).date().replace(day=1)
    for _ in range(MONTHS_AHEAD + 1):
        after = date(first.year + first.month // 12, first.month % 12 + 1, 1)
        name = f"trips_{first:%Y_%m}"
        (is_there,) = connection.execute("SELECT to_regclass(?) IS NOT NULL", (name,)).fetchone()
        (is_taken,) = connection.execute(
            "SELECT EXISTS (SELECT 1 FROM trips_default WHERE day >= ? AND day < ?)", (str(first), str(after))
        ).fetchone()
        if is_taken and not is_there:
            logger.warning(
                "trips of %s stay in the default partition: vehicles sent them ahead of time", f"{first:%Y-%m}"
            )
        elif not is_there:
            connection.execute(f"CREATE TABLE {name} PARTITION OF trips FOR VALUES FROM ('{first}') TO ('{after}')")
        first = after
