"""One thread, one connection: callers share commits, nobody's failure is another's, and what was asked for is done."""

import asyncio
import sqlite3
import threading
from collections.abc import AsyncIterator
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from sentinel_sync.base.errors import StoreError, StoreFullError
from sentinel_sync.store import database as module
from sentinel_sync.store.database import MAX_GROUP, Database, translated
from sentinel_sync.store.schema import VERSION, connect, migrate


@pytest.fixture
async def database(tmp_path: Path) -> AsyncIterator[Database]:
    opened = Database(tmp_path / "outbox.db")
    await opened.open()
    yield opened
    await opened.close()


def note(name: str) -> module.Operation[None]:
    """An operation that leaves a row behind."""

    def operation(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO counter (name, value) VALUES (?, 1)", (name,))

    return operation


def noted(connection: sqlite3.Connection) -> set[str]:
    return {name for (name,) in connection.execute("SELECT name FROM counter")}


async def traced(database: Database) -> list[str]:
    """Every statement that SQLite runs from now on."""
    statements: list[str] = []
    await database.run(lambda connection: connection.set_trace_callback(statements.append), writes=False)
    return statements


async def test_callers_that_wait_at_the_same_time_share_one_commit(database: Database) -> None:
    statements = await traced(database)
    await asyncio.gather(*(database.run(note(f"caller-{number}")) for number in range(50)))
    assert statements.count("COMMIT") == 1
    assert len(await database.run(noted, writes=False)) == 50


async def test_queries_alone_need_no_transaction(database: Database) -> None:
    statements = await traced(database)
    await asyncio.gather(*(database.run(noted, writes=False) for _ in range(10)))
    assert not [statement for statement in statements if statement.startswith(("BEGIN", "COMMIT"))]


async def test_the_operation_of_a_cancelled_caller_happens_whole(database: Database) -> None:
    def two_rows(connection: sqlite3.Connection) -> None:
        note("first half")(connection)
        note("second half")(connection)

    waiting = asyncio.create_task(database.run(two_rows))
    await asyncio.sleep(0)  # it has asked
    waiting.cancel()
    with pytest.raises(asyncio.CancelledError):
        await waiting
    assert await database.run(noted, writes=False) == {"first half", "second half"}


async def test_an_operation_that_raises_fails_nobody_else_of_its_group(database: Database) -> None:
    def broken(connection: sqlite3.Connection) -> None:
        note("must not stay")(connection)
        raise LookupError("its own fault")

    statements = await traced(database)
    outcomes = await asyncio.gather(
        database.run(note("before")), database.run(broken), database.run(note("after")), return_exceptions=True
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), LookupError, type(None)]
    assert await database.run(noted, writes=False) == {"before", "after"}
    assert statements.count("COMMIT") == 1, "those that are well still share their commit"


async def test_an_operation_that_breaks_a_rule_of_the_tables_fails_nobody_else(database: Database) -> None:
    await database.run(note("there already"))
    outcomes = await asyncio.gather(
        database.run(note("one")),
        database.run(note("there already")),
        database.run(note("two")),
        return_exceptions=True,
    )
    assert [type(outcome) for outcome in outcomes] == [type(None), StoreError, type(None)]
    assert await database.run(noted, writes=False) == {"there already", "one", "two"}


async def test_a_query_that_fails_among_writers_fails_alone(database: Database) -> None:
    outcomes = await asyncio.gather(
        database.run(note("kept")),
        database.run(lambda connection: connection.execute("SELECT * FROM nowhere").fetchall(), writes=False),
        return_exceptions=True,
    )
    assert isinstance(outcomes[1], StoreError)
    assert await database.run(noted, writes=False) == {"kept"}


async def test_operations_take_effect_in_the_order_they_were_asked_for(database: Database) -> None:
    order: list[int] = []

    def remember(_: sqlite3.Connection, number: int) -> None:
        order.append(number)

    count = MAX_GROUP * 2 + 7
    await asyncio.gather(*(database.run(partial(remember, number=number)) for number in range(count)))
    assert order == list(range(count))


async def test_a_query_sees_what_was_asked_for_before_it(database: Database) -> None:
    writing = database.submit(note("just now"))
    assert await database.run(noted, writes=False) == {"just now"}
    await writing


async def test_close_finishes_what_was_asked_for(tmp_path: Path) -> None:
    database = Database(tmp_path / "outbox.db")
    await database.open()
    waiting = [asyncio.ensure_future(database.submit(note(f"{number}"))) for number in range(MAX_GROUP + 20)]
    await database.close()
    await asyncio.gather(*waiting)
    with connect(tmp_path / "outbox.db") as connection:
        assert len(noted(connection)) == MAX_GROUP + 20
    connection.close()
    with pytest.raises(StoreError, match="not open"):
        await database.run(note("too late"))


async def test_a_cancelled_close_still_finishes_what_was_asked_for(tmp_path: Path) -> None:
    database = Database(tmp_path / "outbox.db")
    await database.open()
    waiting = database.submit(note("asked"))
    closing = asyncio.create_task(database.close())
    await asyncio.sleep(0)
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    await waiting
    await database.open()
    assert await database.run(noted, writes=False) == {"asked"}
    await database.close()


async def test_an_opening_that_was_cancelled_leaves_nothing_open(tmp_path: Path) -> None:
    database = Database(tmp_path / "outbox.db")
    opening = asyncio.create_task(database.open())
    await asyncio.sleep(0)
    opening.cancel()
    with pytest.raises(asyncio.CancelledError):
        await opening
    assert not any(thread.name == "sentinel-sync-store" for thread in threading.enumerate())
    await database.open()  # and it can be opened all the same
    await database.close()


async def test_a_file_of_a_newer_version_is_refused_and_left_as_it_is(tmp_path: Path) -> None:
    path = tmp_path / "outbox.db"
    with connect(path) as connection:
        connection.execute("CREATE TABLE tomorrow (id)")
        connection.execute(f"PRAGMA user_version = {VERSION + 1}")
        connection.execute("PRAGMA journal_mode = DELETE")
    connection.close()
    before = path.read_bytes()
    with pytest.raises(StoreError, match=f"schema {VERSION + 1}.*newer"):
        await Database(path).open()
    with connect(path, writable=False) as connection:
        assert connection.execute("SELECT name FROM sqlite_master").fetchall() == [("tomorrow",)]
    connection.close()
    assert path.read_bytes()[100:] == before[100:], "but for the header's journal mode nothing is changed"


def test_migrations_run_once_however_many_open_at_the_same_time(tmp_path: Path) -> None:
    path, barrier = tmp_path / "outbox.db", threading.Barrier(8)
    faults: list[BaseException] = []

    def open_and_note(number: int) -> None:
        barrier.wait()
        try:
            connection = connect(path)
            migrate(connection)
            note(f"opener-{number}")(connection)
            connection.close()
        except BaseException as error:
            faults.append(error)

    openers = [threading.Thread(target=open_and_note, args=(number,)) for number in range(8)]
    for opener in openers:
        opener.start()
    for opener in openers:
        opener.join()
    assert not faults
    connection = connect(path)
    assert len(noted(connection)) == 8
    connection.close()


async def test_a_lock_held_by_another_process_is_waited_for_once_not_by_each(
    database: Database, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    await database.run(lambda connection: connection.execute("PRAGMA busy_timeout = 50"), writes=False)
    statements = await traced(database)
    other = connect(tmp_path / "outbox.db")
    other.execute("BEGIN IMMEDIATE")
    outcomes = await asyncio.gather(
        *(database.run(note(f"{number}")) for number in range(20)),
        database.run(noted, writes=False),
        return_exceptions=True,
    )
    assert all(isinstance(outcome, StoreError) and "another process" in str(outcome) for outcome in outcomes[:-1])
    assert outcomes[-1] == set(), "who only asks is answered"
    assert statements.count("BEGIN IMMEDIATE") == 1
    other.execute("ROLLBACK")
    other.close()
    await database.run(note("goes on"))


async def test_a_long_look_holds_up_nobody(database: Database) -> None:
    looking, may_end = threading.Event(), threading.Event()

    def look(connection: sqlite3.Connection) -> set[str]:
        looking.set()
        may_end.wait(10)
        return noted(connection)

    look_task = asyncio.create_task(database.look(look))
    await asyncio.to_thread(looking.wait, 10)
    await database.run(note("meanwhile"))
    may_end.set()
    assert await look_task == {"meanwhile"}


async def test_work_survives_the_loop_that_asked_for_it(tmp_path: Path) -> None:
    """A host that ends its loop without closing: the thread must not die of having nobody to tell."""
    path = tmp_path / "outbox.db"

    def run() -> Database:
        async def ask() -> Database:
            database = Database(path)
            await database.open()
            database.submit(note("asked and gone"))
            await asyncio.sleep(0)
            return database

        return asyncio.run(ask())

    database = await asyncio.to_thread(run)
    await database.close()
    with connect(path) as connection:
        assert noted(connection) == {"asked and gone"}
    connection.close()


@pytest.mark.parametrize(
    ("name", "kind", "what_to_do"),
    [
        ("SQLITE_IOERR_READ", StoreError, "nothing was acknowledged; check the disk"),
        ("SQLITE_FULL", StoreFullError, "free some space"),
        ("SQLITE_READONLY", StoreError, "may this user write there"),
    ],
)
def test_what_the_disk_does_is_told_apart(name: str, kind: type[StoreError], what_to_do: str, tmp_path: Path) -> None:
    error = sqlite3.OperationalError("as SQLite says it")
    error.sqlite_errorname = name
    told = translated(error, tmp_path / "outbox.db")
    assert type(told) is kind
    assert what_to_do in str(told)
    assert name in str(told)


def test_a_schema_that_cannot_be_made_is_left_as_it_was(tmp_path: Path) -> None:
    with closing(connect(tmp_path / "outbox.db")) as connection:
        connection.execute("CREATE TABLE item (another_program INTEGER)")
        with pytest.raises(sqlite3.OperationalError, match="already exists"):
            migrate(connection)
        assert not connection.in_transaction
        tables = [name for (name,) in connection.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        assert (tables, connection.execute("PRAGMA user_version").fetchone()) == (["item"], (0,))
