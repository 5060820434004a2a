"""SQLite behind one thread, with group commit: callers that wait at the same time share one fsync.

Leaves to others what the tables mean (`outbox.py`, `documents.py`) and what to do with a damaged file (`salvage.py`).
"""

import asyncio
import contextlib
import errno
import logging
import os
import sqlite3
import threading
from collections.abc import Callable
from pathlib import Path
from queue import Empty, SimpleQueue
from typing import Any, NamedTuple, TypeVar

from sentinel_sync.base.errors import StoreError, StoreFullError
from sentinel_sync.base.tasks import run_to_end
from sentinel_sync.store.headroom import Headroom
from sentinel_sync.store.schema import BUSY_TIMEOUT, connect, is_busy, migrate

logger: logging.Logger = logging.getLogger(__name__)

Result = TypeVar("Result")
Operation = Callable[[sqlite3.Connection], Result]

#: Once so many operations are gathered they are committed: bounds how long the first of them waits.
MAX_GROUP = 256


#: A disk with less than this counts as full, bytes.
_FULL_BELOW_BYTES = 256 << 10
#: How SQLite names a disk without space: ENOSPC in the file, in a quota, or in the log's index.
_FULL = frozenset({"SQLITE_FULL", "SQLITE_IOERR_WRITE", "SQLITE_IOERR_SHMSIZE", "SQLITE_IOERR_SHMOPEN"})


class _Operation(NamedTuple):
    """One operation that somebody waits for.

    Attributes:
        writes: False for queries: they need no transaction, so no fsync.
        frees: True where the operation gives space back, so it may use the headroom when the disk is full.
    """

    operation: Operation[Any]
    writes: bool
    frees: bool
    future: "asyncio.Future[Any]"


_Outcome = tuple["asyncio.Future[Any]", Any, BaseException | None]


class Database:
    """One connection on one thread. `run` gives an operation to it and waits until its effect is on disk.

    A cancelled wait does not undo the operation: it happens whole or not at all, so it can be repeated.

    Args:
        path: The database file; its folder exists.
        writable: False for a look from outside: nothing is migrated or created.
        headroom: The reserve for a full disk; by default a file beside the database.
        rebuild: Writes an open database to its place again, and closes the connection; True where what lies there is
            its own file, and not to be kept.
    """

    def __init__(
        self,
        path: Path,
        *,
        writable: bool = True,
        headroom: Headroom | None = None,
        rebuild: Callable[[sqlite3.Connection, Path, bool], None] | None = None,
    ) -> None:
        self._path = path
        self._writable = writable
        self._headroom = headroom or Headroom(path.with_name("headroom"))
        self._rebuild = rebuild or _refuse
        self._handed_over: SimpleQueue[list[_Operation] | None] = SimpleQueue()
        self._gathered: list[_Operation] = []
        self._thread: threading.Thread | None = None
        self._connection: sqlite3.Connection | None = None
        #: An fsync has failed: what the system says it holds may never have reached the disk (Rebello et al., "Can
        #: Applications Recover from fsync Failures?", USENIX ATC 2020), so all of it is written anew.
        self._is_doubtful = False
        self._watched = (str(path), f"{path}-wal")
        #: Device and inode of each of these, as they were opened.
        self._opened: dict[str, tuple[int, int]] = {}

    async def open(self) -> None:
        """Open the file, set its durability, and bring its schema up to date.

        Raises:
            StoreError: The file cannot be opened, is damaged, or was written by a newer version.
        """
        try:
            await run_to_end(self._open)
        except BaseException:
            # Cancelled: the thread may have opened the file all the same.
            await run_to_end(self._close)
            raise
        self._thread = threading.Thread(target=self._serve, name="sentinel-sync-store", daemon=True)
        self._thread.start()

    async def close(self) -> None:
        """Finish what was asked for, then close the file."""
        thread, self._thread = self._thread, None
        if thread is None:
            return
        self._hand_over()
        self._handed_over.put(None)
        await run_to_end(thread.join)

    async def run(self, operation: Operation[Result], *, writes: bool = True, frees: bool = False) -> Result:
        """Run `operation(connection)` on the thread; return its result once its effect is on disk.

        Raises:
            StoreFullError: The disk is full; nothing of the operation remains.
            StoreError: The database is closed, damaged or locked by somebody else.
        """
        return await self.submit(operation, writes=writes, frees=frees)

    def submit(
        self,
        operation: Operation[Result],
        *,
        writes: bool = True,
        frees: bool = False,
    ) -> "asyncio.Future[Result]":
        """Like `run`, without waiting: operations take effect in the order of their submission."""
        loop = asyncio.get_running_loop()
        if self._thread is None:
            raise StoreError(f"the store {self._path.name} is not open")
        future: asyncio.Future[Result] = loop.create_future()
        if not self._gathered:
            # What is submitted within one turn of the loop crosses to the thread together.
            loop.call_soon(self._hand_over)
        self._gathered.append(_Operation(operation, writes, frees, future))
        return future

    def _hand_over(self) -> None:
        if self._gathered:
            self._handed_over.put(self._gathered)
            self._gathered = []

    async def look(self, operation: Operation[Result]) -> Result:
        """Run a query that takes long on a connection of its own, so that nobody waits for it.

        Raises:
            StoreError: The database cannot be read.
        """

        def ask() -> Result:
            try:
                with contextlib.closing(connect(self._path, writable=False)) as connection:
                    return operation(connection)
            except sqlite3.Error as error:
                raise translated(error, self._path) from error

        return await asyncio.to_thread(ask)

    def _open(self) -> None:
        # Even opening takes some space: the log's index.
        self._headroom.spend(self._open_or_raise)

    def _open_or_raise(self) -> None:
        try:
            self._connection = connect(self._path, writable=self._writable)
            if self._writable:
                migrate(self._connection)
                self._headroom.reserve()
                self._opened = self._identities()
        except BaseException as error:
            self._close()
            raise self._told(error) from error

    def _close(self) -> None:
        connection, self._connection = self._connection, None
        if connection is not None:
            connection.close()

    def _serve(self) -> None:
        stopping = False
        while not stopping:
            group: list[_Operation] = []
            requests = self._handed_over.get()
            while requests is not None:
                group += requests
                if len(group) >= MAX_GROUP:
                    break
                try:
                    requests = self._handed_over.get_nowait()
                except Empty:
                    break
            else:
                stopping = True
            if group:
                _report(self._outcomes(group))
        self._close()

    def _outcomes(self, group: list[_Operation]) -> list[_Outcome]:
        try:
            connection = self._present()
        except (OSError, sqlite3.Error) as error:
            why = "has lost a write" if self._is_doubtful else "was deleted or replaced under the running agent"
            gone = StoreError(
                f"{self._path.name} {why}, and cannot be written again ({error}): nothing is acknowledged "
                "until it can be"
            )
            return [(request.future, None, gone) for request in group]
        return self._commit_group(connection, group)

    def _identities(self) -> dict[str, tuple[int, int]]:
        found: dict[str, tuple[int, int]] = {}
        for name in self._watched:
            with contextlib.suppress(FileNotFoundError):
                status = os.stat(name)  # noqa: PTH116 - asked before each group: pathlib takes longer than the system
                found[name] = (status.st_dev, status.st_ino)
        return found

    def _present(self) -> sqlite3.Connection:
        """The connection to the file that has the name; made again where somebody took the file away under us.

        Without this look SQLite would go on acknowledging into a file without a name.
        """
        connection = self._connection
        if connection is None:
            raise StoreError("the store's file is not open")
        if not self._opened:
            return connection
        found = self._identities()
        if all(found.get(suffix) == identity for suffix, identity in self._opened.items()):
            self._opened = found | self._opened
            if not self._is_doubtful:
                return connection
            logger.error("store.doubtful: %s: an fsync has failed: all of it is written again", self._path)
        else:
            logger.error("store.replaced: %s was deleted or replaced under the agent: written again", self._path)
        self._rebuild(connection, self._path, self._is_doubtful)
        self._connection = connect(self._path)
        self._opened = self._identities()
        self._is_doubtful = False
        return self._connection

    def _commit_group(self, connection: sqlite3.Connection, group: list[_Operation]) -> list[_Outcome]:
        """Run a group in one transaction; who fails is taken out, and the others are run again without it."""
        outcomes: list[_Outcome] = []
        while group:
            if not any(request.writes for request in group):
                return outcomes + [self._attempt(connection, request) for request in group]
            results: list[Any] = []
            try:
                connection.execute("BEGIN IMMEDIATE")
                results.extend(request.operation(connection) for request in group)
                connection.execute("COMMIT")
            except BaseException as error:  # handed to the caller who waits for it
                begun = connection.in_transaction
                _roll_back(connection)
                if isinstance(error, sqlite3.Error):
                    self._doubt(error)
                    if self._is_doubtful or (not begun and is_busy(error)):
                        # Somebody else holds the lock: having each wait for it in turn would take minutes.
                        return outcomes + [self._turned_away(connection, request, error) for request in group]
                    return outcomes + [self._alone(connection, request) for request in group]
                culprit = group.pop(len(results))
                outcomes.append((culprit.future, None, error))
                continue
            if not self._headroom.held:
                self._headroom.restore()
            outcomes += [(request.future, result, None) for request, result in zip(group, results, strict=True)]
            return outcomes
        return outcomes

    def _turned_away(self, connection: sqlite3.Connection, request: _Operation, error: sqlite3.Error) -> _Outcome:
        if request.writes:
            return request.future, None, self._told(error)
        return self._attempt(connection, request)

    def _alone(self, connection: sqlite3.Connection, request: _Operation) -> _Outcome:
        run = self._spend if request.frees else self._transaction
        outcome = run(connection, request)
        if outcome[2] is None and request.writes and not self._headroom.held:
            self._headroom.restore()
        return outcome

    def _spend(self, connection: sqlite3.Connection, request: _Operation) -> _Outcome:
        def attempt() -> _Outcome:
            outcome = self._transaction(connection, request)
            if isinstance(outcome[2], StoreFullError):
                raise outcome[2]
            return outcome

        try:
            return self._headroom.spend(attempt)
        except StoreFullError as error:
            return request.future, None, error

    def _transaction(self, connection: sqlite3.Connection, request: _Operation) -> _Outcome:
        if not request.writes:
            return self._attempt(connection, request)
        try:
            connection.execute("BEGIN IMMEDIATE")
            result = request.operation(connection)
            connection.execute("COMMIT")
        except BaseException as error:  # handed to the caller, who waits for it
            _roll_back(connection)
            self._doubt(error)
            return request.future, None, self._told(error)
        return request.future, result, None

    def _attempt(self, connection: sqlite3.Connection, request: _Operation) -> _Outcome:
        try:
            return request.future, request.operation(connection), None
        except BaseException as error:  # handed to the caller, who waits for it
            return request.future, None, self._told(error)

    def _doubt(self, error: BaseException) -> None:
        name = getattr(error, "sqlite_errorname", "")
        self._is_doubtful = self._is_doubtful or name.startswith(("SQLITE_IOERR_FSYNC", "SQLITE_IOERR_DIR_FSYNC"))

    def _told(self, error: BaseException) -> BaseException:
        """Put SQLite's errors into ours; any other is the caller's own."""
        return translated(error, self._path) if isinstance(error, sqlite3.Error) else error


def translated(error: sqlite3.Error, path: Path) -> StoreError:
    """Say what an SQLite error means to the caller."""
    name = getattr(error, "sqlite_errorname", "") or type(error).__name__
    if name in _FULL and not (name == "SQLITE_IOERR_WRITE" and _has_space(path)):
        return StoreFullError(
            f"the disk that holds {path.name} is full or cannot be written ({name}); nothing was written: "
            "free some space"
        )
    if "decode to UTF-8" in str(error) or "JSON cannot hold BLOB" in str(error):  # neither has a code of its own
        return UnreadableError(f"a row of {path.name} cannot be read: {error}")
    if name.startswith(("SQLITE_CORRUPT", "SQLITE_NOTADB")):
        return DamagedError(f"{path.name} is damaged ({name}): it is set aside and saved from at the next start")
    if is_busy(error):
        return StoreError(f"{path.name} is held by another process for longer than {BUSY_TIMEOUT:.0f} s ({name})")
    if name.startswith(("SQLITE_CANTOPEN", "SQLITE_READONLY", "SQLITE_PERM")):
        return StoreError(
            f"{path.name} cannot be opened for writing ({name}): does {path.parent} exist, on a disk that is not "
            "read-only, and may this user write there?"
        )
    if name.startswith("SQLITE_IOERR"):
        return StoreError(
            f"{path.name} cannot be read or written ({name}, an error of the disk): nothing was acknowledged; check "
            "the disk and its file system"
        )
    return StoreError(f"{path.name}: {error} ({name})")


def _has_space(path: Path) -> bool:
    """Whether the disk has room: a write that fails all the same failed for another reason."""
    try:
        disk = os.statvfs(path.parent)
    except OSError:
        return True
    return disk.f_bavail * disk.f_frsize > _FULL_BELOW_BYTES


class UnreadableError(StoreError):
    """A row holds text that is none, or what no version ever wrote there."""


class DamagedError(StoreError):
    """The file is not, or no longer, a whole database."""


def _refuse(_: sqlite3.Connection, path: Path, __: bool) -> None:
    raise FileNotFoundError(errno.ENOENT, os.strerror(errno.ENOENT), path.name)


def _roll_back(connection: sqlite3.Connection) -> None:
    # SQLite has rolled back by itself after a full disk or an I/O error. Where it cannot, the next BEGIN says so to its
    # caller; raised here it would end the thread, and everybody would wait for ever.
    with contextlib.suppress(sqlite3.Error):
        if connection.in_transaction:
            connection.execute("ROLLBACK")


def _report(outcomes: list[_Outcome]) -> None:
    """Wake the waiting callers: one call into the loop for a whole group."""
    try:
        outcomes[0][0].get_loop().call_soon_threadsafe(_resolve, outcomes)
    except RuntimeError:
        # The loop was closed while we worked: nobody waits any more, and what was asked for is done.
        logger.info("store.unawaited: %d operations finished after their loop had closed", len(outcomes))


def _resolve(outcomes: list[_Outcome]) -> None:
    for future, result, error in outcomes:
        if future.done():  # its caller was cancelled
            continue
        if error is None:
            future.set_result(result)
        else:
            future.set_exception(error)
