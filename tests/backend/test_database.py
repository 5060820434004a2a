"""SQLite's writer: commits shared, failures kept apart, nothing acknowledged that is not on disk."""

import asyncio
from contextlib import closing
from functools import partial
from pathlib import Path

import pytest

from sentinel_sync.backend.database import Connection, DatabaseUnavailableError
from sentinel_sync.backend.sightings import Sightings
from sentinel_sync.backend.sqlite import (
    ADDITIONS,
    LARGEST_GROUP,
    SCHEMA,
    SCHEMA_VERSION,
    SqliteDatabase,
    connect,
    migrate,
)

SEEN = "INSERT INTO vehicles VALUES ('f', ?, 0, '')"


def insert(vehicle_id: str, connection: Connection) -> int:
    return connection.execute(SEEN, (vehicle_id,)).rowcount


async def opened(path: Path) -> SqliteDatabase:
    database = SqliteDatabase(path)
    await database.open()
    return database


async def test_waiting_writes_share_commits(tmp_path: Path) -> None:
    commits = 0

    def count(_: Connection) -> None:
        nonlocal commits
        commits += 1

    database = SqliteDatabase(tmp_path / "db")
    await database.open(count)
    many = 4 * LARGEST_GROUP
    await asyncio.gather(*(database.write(partial(insert, str(number))) for number in range(many)))
    stored = await database.read(lambda connection: connection.execute("SELECT count(*) FROM vehicles").fetchone()[0])
    await database.close()
    assert stored == many
    assert commits < many / 4


async def test_one_failure_harms_no_other(tmp_path: Path) -> None:
    def fails(connection: Connection) -> None:
        connection.execute(SEEN, ("half done",))
        raise LookupError("on purpose")

    database = await opened(tmp_path / "db")
    results = await asyncio.gather(
        database.write(lambda connection: connection.execute(SEEN, ("a",)).rowcount),
        database.write(fails),
        database.write(lambda connection: connection.execute(SEEN, ("b",)).rowcount),
        return_exceptions=True,
    )
    names = await database.read(
        lambda connection: [row[0] for row in connection.execute("SELECT vehicle_id FROM vehicles ORDER BY 1")]
    )
    await database.close()
    assert results[0] == results[2] == 1
    assert isinstance(results[1], LookupError)
    assert names == ["a", "b"]


async def test_a_full_disk_is_told_to_everybody_who_waits(tmp_path: Path) -> None:
    database = await opened(tmp_path / "db")
    await database.write(lambda connection: connection.execute("PRAGMA max_page_count = 40").fetchone())
    big = "x" * 400_000
    results = await asyncio.gather(
        *(database.write(partial(insert, f"{number}{big}")) for number in range(3)),
        return_exceptions=True,
    )
    assert all(isinstance(result, DatabaseUnavailableError) for result in results)
    assert await database.write(lambda connection: connection.execute(SEEN, ("small",)).rowcount) == 1
    await database.close()


async def test_a_cancelled_wait_does_not_undo_the_work(tmp_path: Path) -> None:
    database = await opened(tmp_path / "db")
    waiting = asyncio.create_task(database.write(lambda connection: connection.execute(SEEN, ("a",)).rowcount))
    await asyncio.sleep(0)
    waiting.cancel()
    await asyncio.gather(waiting, return_exceptions=True)
    count = await database.write(lambda connection: connection.execute("SELECT count(*) FROM vehicles").fetchone()[0])
    await database.close()
    assert count == 1


@pytest.mark.parametrize("before", range(1, SCHEMA_VERSION))
def test_an_older_schema_is_brought_up_to_date_and_keeps_its_models(tmp_path: Path, before: int) -> None:
    path = tmp_path / "db"
    with closing(connect(path)) as connection:
        for number in range(1, before + 1):
            connection.executescript(SCHEMA if number == 1 else ADDITIONS[number])
        connection.execute("INSERT INTO models VALUES ('yolo', 'v1', 'yolo.pt', 'f', 5, 'c', '[]', 0.5, 't', 1.0)")
        connection.execute(f"PRAGMA user_version = {before}")
        migrate(connection)
        migrate(connection)
        (row,) = connection.execute("SELECT * FROM models").fetchall()
        assert (row["name"], row["rollout"], row["withdrawn_at"]) == ("yolo", 0.5, None)


async def test_a_newer_schema_is_refused(tmp_path: Path) -> None:
    connection = connect(tmp_path / "db")
    connection.execute(f"PRAGMA user_version = {SCHEMA_VERSION + 1}")
    connection.close()
    database = SqliteDatabase(tmp_path / "db")
    with pytest.raises(RuntimeError, match="upgrade"):
        await database.open()
    await database.close()


async def test_sightings_are_written_along_and_read_back(tmp_path: Path) -> None:
    sightings = Sightings()
    database = SqliteDatabase(tmp_path / "db")
    await database.open(sightings.flush)
    sightings.note("fleet", "vehicle", "agent/1", 5.0)
    sightings.note("fleet", "vehicle", "agent/2", 6.0)
    await database.close()
    again = Sightings()
    database = await opened(tmp_path / "db")
    seen = await database.read(lambda connection: again.find(connection, "fleet", "vehicle"))
    again.note("fleet", "vehicle", "agent/2", 9.0)
    again.note("fleet", "other", "agent/2", 4.0)
    census = await database.read(lambda connection: again.census(connection, "fleet", 8.0))
    elsewhere = await database.read(lambda connection: again.census(connection, "another", 0.0))
    await database.close()
    assert seen is not None
    assert (seen.last_seen, seen.user_agent) == (6.0, "agent/2")
    assert census == (2, 1)
    assert elsewhere == (0, 0)
