"""Small durable facts: whole or absent, and one that cannot be read harms nobody."""

from pathlib import Path

import pytest
from pydantic import TypeAdapter

from sentinel_sync.base.clock import ClockObservation
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock

SIGHTING = TypeAdapter(ClockObservation)
TEXT = TypeAdapter(str)
FACT = ClockObservation("boot-1", 1.5, 0.25)


async def test_a_fact_survives_a_restart(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.documents.save("clock", "boot-1", FACT, SIGHTING)
    async with Store(tmp_path) as store:
        assert await store.documents.load("clock", "boot-1", SIGHTING) == FACT
        assert await store.documents.load("clock", "boot-2", SIGHTING) is None


async def test_the_last_word_counts(store: Store) -> None:
    await store.documents.save("note", "a", "first", TEXT)
    await store.documents.save("note", "a", "second", TEXT)
    assert await store.documents.load("note", "a", TEXT) == "second"
    assert await store.documents.keys("note") == ["a"]


async def test_a_deleted_fact_is_gone(store: Store) -> None:
    await store.documents.save("note", "a", "text", TEXT)
    assert await store.documents.delete("note", "a")
    assert not await store.documents.delete("note", "a")
    assert await store.documents.keys("note") == []


async def test_keys_are_listed_by_kind_and_sorted(store: Store) -> None:
    for key in "cab":
        await store.documents.save("note", key, key, TEXT)
    await store.documents.save("other", "z", "z", TEXT)
    assert await store.documents.keys("note") == ["a", "b", "c"]


async def test_a_fact_of_another_shape_is_moved_aside_and_reported(
    store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    await store.documents.save("clock", "boot-1", "driver_123 drives here", TEXT)
    assert await store.documents.load("clock", "boot-1", SIGHTING) is None
    assert "store.unreadable" in caplog.text
    assert "driver_123" not in caplog.text
    assert await store.documents.keys("clock") == []
    assert await store.documents.load("unreadable.clock", "boot-1", TEXT) == "driver_123 drives here"
