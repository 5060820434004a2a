"""What every route may ask of a database, whichever engine it is: rows by name, work in a transaction, one lock.

Statements are written once, in the SQL that SQLite and PostgreSQL share, with `?` where a value goes.
"""

from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any, Protocol, TypeVar

Result = TypeVar("Result")


class DatabaseUnavailableError(Exception):
    """The database cannot be reached or cannot store just now. Nothing was stored; the same may succeed later."""


class UnstorableError(Exception):
    """A text holds what this database cannot store, e.g. the character U+0000: whoever sent it sends it otherwise."""


class Row(Protocol):
    """One row: by the column's name or place, and in the columns' order."""

    def __getitem__(self, key: str | int, /) -> Any:
        """The value of one column."""

    def __iter__(self) -> Iterator[Any]:
        """All values."""


class Cursor(Protocol):
    """What a statement gave."""

    @property
    def rowcount(self) -> int:
        """Rows that were changed."""

    def fetchone(self) -> Any:
        """The next row, None after the last."""

    def fetchall(self) -> list[Any]:
        """All rows that are left."""

    def __iter__(self) -> Iterator[Any]:
        """The rows, one by one."""


class Connection(Protocol):
    """One transaction's way to the rows."""

    def execute(self, statement: str, values: Sequence[Any] = (), /) -> Cursor:
        """Runs one statement."""

    def executemany(self, statement: str, rows: Iterable[Sequence[Any]], /) -> object:
        """Runs one statement for each row of values."""

    def lock(self, subject: str, /) -> None:
        """Waits until no other transaction holds this subject; held until this one ends.

        For work that reads before it writes, where two processes must not decide on the same row. SQLite has one
        writer at a time and needs no more.
        """


Work = Callable[[Connection], Result]


class Database(Protocol):
    """The one way to the stored rows. Open it and use it within one event loop."""

    async def open(self, sightings: Work[None] | None = None) -> None:
        """Connects, and makes sure that the tables are those that this version knows.

        Args:
            sightings: Writes when vehicles were last heard. Called now and then in a transaction, not for each.

        Raises:
            RuntimeError: The tables are of another version.
            DatabaseUnavailableError: It cannot be reached.
        """

    async def close(self) -> None:
        """Waits for what was asked so far, then closes all connections."""

    async def write(self, work: Work[Result]) -> Result:
        """Runs `work` in a transaction and returns its result once that is durable.

        `work` may run again where two transactions got in each other's way: it does nothing but use its connection.
        An exception that it raises undoes what it did, harms no other, and is raised here. A cancelled wait does
        not undo the work.

        Raises:
            DatabaseUnavailableError: Nothing was stored.
        """

    async def read(self, work: Work[Result]) -> Result:
        """Runs `work` in a thread, on what has been committed.

        Raises:
            DatabaseUnavailableError: It cannot be reached.
        """

    async def scrub(self) -> None:
        """Makes what was deleted unreadable in the database's own files, as far as its engine can."""
