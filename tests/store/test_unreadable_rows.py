"""A row that the disk has altered is set aside as such; the rows beside it, and new ones, go on."""

import sqlite3
from contextlib import closing
from pathlib import Path

import pytest
from pydantic import TypeAdapter

from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.store.store import DATABASE_NAME, Store
from tests.fakes.clock import FakeClock

TEXT = TypeAdapter(str)

#: What a flipped bit or a wild write makes of a column: the column, and an SQL expression for its new value.
ALTERED = {
    "key is no text": ("key", "CAST(x'74ff69' AS TEXT)"),
    "key is another type": ("key", "x'00'"),
    "kind is no text": ("kind", "CAST(x'ff' AS TEXT)"),
    "kind and a NUL": ("kind", "CAST(x'7400ff' AS TEXT)"),
    "reason is no text": ("reason", "CAST(x'c328' AS TEXT)"),
    "boot id is no text": ("boot_id", "CAST(x'a0' AS TEXT)"),
    "boot id is bytes": ("boot_id", "x'a0'"),
    "offset is text": ("clock_offset", "'abc'"),
    "body is text": ("body", "'abc'"),
    "body is a number": ("body", "7"),
    "created at is text": ("created_at", "'abc'"),
    "created at is bytes": ("created_at", "x'aa'"),
}


def alter(path: Path, column: str, value: str) -> None:
    with closing(sqlite3.connect(path)) as connection, connection:
        connection.execute(f"UPDATE item SET {column} = {value} WHERE key = 'bad'")


async def test_a_row_of_another_kind_is_counted_although_its_kind_is_none(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.put(NewItem("trip", "bad", b"{}"))
        alter(tmp_path / DATABASE_NAME, *ALTERED["kind is no text"])
        assert (await store.outbox.counts()).waiting + (await store.outbox.counts()).set_aside == 1


@pytest.mark.parametrize("alteration", ALTERED)
async def test_the_rows_beside_it_go(tmp_path: Path, clock: FakeClock, alteration: str) -> None:
    async with Store(tmp_path, clock=clock) as store:
        for key in ("first", "bad", "last"):
            await store.outbox.put(NewItem("trip", key, b"{}"))
    alter(tmp_path / DATABASE_NAME, *ALTERED[alteration])
    async with Store(tmp_path, clock=clock) as store:
        claimed = {item.key for item in await store.outbox.claim("trip", 10)}
        shown = await store.outbox.items()
        assert {"first", "last"} <= claimed
        assert claimed <= {"first", "last"}
        (odd,) = [item for item in shown if item.key not in claimed]
        assert odd.state is ItemState.SET_ASIDE
        assert "the disk may be failing" in str(odd.reason)
        assert await store.outbox.put(NewItem("trip", "new", b"{}"))
        assert (await store.outbox.counts()).set_aside == 1
        assert await store.outbox.drop([odd.key]) == 1


async def test_what_is_left_of_its_key_may_be_anothers(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.put(NewItem("trip", "bad", b"{}"))
        await store.outbox.put(NewItem("trip", "same", b"{}"))
    alter(tmp_path / DATABASE_NAME, "key", "x'73616d65'")  # "same", as bytes
    async with Store(tmp_path, clock=clock) as store:
        (item,) = await store.outbox.claim("trip", 10)
        (odd,) = await store.outbox.items(state=ItemState.SET_ASIDE)
        assert item.key == "same"
        assert odd.key == f"same-{odd.seq}"


async def test_in_turn_and_under_the_bound_as_well(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock, max_bytes=1) as store:
        for key in ("bad", "good"):
            await store.outbox.put(NewItem("scenario", key, b"{}"))
        alter(tmp_path / DATABASE_NAME, "boot_id", "CAST(x'ff' AS TEXT)")
        item = await store.outbox.claim_in_turn("scenario", 60.0)
        assert item is not None
        assert item.key == "good"
        alter(tmp_path / DATABASE_NAME, "kind", "CAST(x'ff' AS TEXT)")
        # So large that room has to be made, for which all kinds are looked at.
        await store.outbox.put(NewItem("trip", "large", bytes(100_000)))


async def test_a_number_of_attempts_that_is_none_does_not_keep_an_item(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await store.outbox.put(NewItem("trip", "bad", b"{}"))
        alter(tmp_path / DATABASE_NAME, "attempts", "'many'")
        (item,) = await store.outbox.claim("trip", 1)
        assert item.attempts == 1


async def test_facts_counters_and_their_names(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        for key in ("a", "b", "c"):
            await store.documents.save("model", key, "a fact", TEXT)
        await store.outbox.put(NewItem("trip", "t", b"{}"))
        (item,) = await store.outbox.claim("trip", 1)
        await store.outbox.acknowledge("trip", [item.seq])
    with closing(sqlite3.connect(tmp_path / DATABASE_NAME)) as connection, connection:
        connection.execute("UPDATE document SET key = CAST(x'62ff' AS TEXT) WHERE key = 'b'")
        connection.execute("INSERT INTO counter VALUES (CAST(x'ff' AS TEXT), 1), ('dropped.trip.size', 'abc')")
    async with Store(tmp_path, clock=clock) as store:
        assert await store.documents.keys("model") == ["a", "c"]
        assert await store.documents.keys("model") == ["a", "c"], "said once"
        assert (await store.outbox.counts()).acknowledged == 1
