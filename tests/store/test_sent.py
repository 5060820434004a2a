"""The record of what was acknowledged: one entry an item, bounded, and never in the way of an acknowledgement."""

import sqlite3
from contextlib import closing
from pathlib import Path

from sentinel_sync.store import schema
from sentinel_sync.store.database import Database
from sentinel_sync.store.outbox import NewItem, Outbox
from sentinel_sync.store.store import DATABASE_NAME, Store
from tests.fakes.clock import FakeClock


async def acknowledge_all(store: Store, kind: str) -> None:
    claimed = await store.outbox.claim(kind, 10_000)
    await store.outbox.acknowledge(kind, [item.seq for item in claimed])


async def test_what_is_acknowledged_is_on_record_and_what_is_dropped_is_not(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.put_all([NewItem("trip", "gone", b"x" * 7), NewItem("trip", "kept", b"x" * 9)])
        await store.outbox.drop(["gone"])
        await acknowledge_all(store, "trip")
        (item,) = await store.outbox.sent()
    assert (item.kind, item.key, item.at, item.size_bytes) == ("trip", "kept", clock.now(), 9)


async def test_recordings_are_told_of_by_their_plans_alone(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.put(NewItem("scenario", "scenario:a", b"{}"))
        await acknowledge_all(store, "scenario")
        assert await store.outbox.sent() == []


async def test_it_is_bounded_and_the_oldest_go(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.put_all([NewItem("trip", f"t{number}", b"{}") for number in range(20_010)])
        for _ in range(3):
            await acknowledge_all(store, "trip")
        keys = [item.key for item in await store.outbox.sent()]
    assert len(keys) == 20_000
    assert "t20009" in keys
    assert "t9" not in keys


async def test_since_when_can_be_said(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.note_sent("profile", "early", 1)
        await clock.advance(60.0)
        await store.outbox.note_sent("profile", "late", 2)
        assert [item.key for item in await store.outbox.sent(clock.now() - 30.0)] == ["late"]
        assert [item.key for item in await store.outbox.sent()] == ["late", "early"]


async def test_a_file_of_an_earlier_version_is_brought_up_to_date_and_can_be_looked_at_before(
    tmp_path: Path, clock: FakeClock
) -> None:
    path = tmp_path / DATABASE_NAME
    with closing(sqlite3.connect(path)) as connection:
        for statement in (*schema._MIGRATIONS[0], *schema._MIGRATIONS[1]):
            connection.execute(statement)
        connection.execute("PRAGMA user_version = 2")
    database = Database(path, writable=False)
    await database.open()
    assert await Outbox(database, clock, 1 << 20).sent() == []
    await database.close()
    async with Store(tmp_path, clock=clock) as store:
        assert store.salvaged is None
        await store.outbox.put(NewItem("trip", "t", b"{}"))
        await acknowledge_all(store, "trip")
        assert [item.key for item in await store.outbox.sent()] == ["t"]
