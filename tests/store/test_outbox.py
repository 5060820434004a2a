"""What becomes of items: put, claimed, acknowledged, deferred, set aside, retried, dropped; whatever the clock does."""

import asyncio
import sqlite3
from pathlib import Path

import pytest

from sentinel_sync.base.backoff import CAP
from sentinel_sync.base.clock import ClockStamp
from sentinel_sync.store.database import Database
from sentinel_sync.store.outbox import ItemState, NewItem, Outbox, OutboxItem
from sentinel_sync.store.rules import OutboxStatus
from sentinel_sync.store.schema import connect
from sentinel_sync.store.store import DATABASE_NAME, Store
from tests.fakes.clock import FakeClock

HOUR = 3600.0
DAY = 24 * HOUR


def trip(key: str, *, priority: int = 0, kind: str = "trip", body: bytes = b"{}") -> NewItem:
    return NewItem(kind, key, body, priority)


async def put(store: Store, *keys: str, kind: str = "trip") -> None:
    for key in keys:
        await store.outbox.put(trip(key, kind=kind))


def keys(items: list[OutboxItem]) -> list[str]:
    return [item.key for item in items]


async def claimed(store: Store, limit: int = 100, kind: str = "trip") -> list[str]:
    return keys(await store.outbox.claim(kind, limit))


async def test_an_item_comes_back_as_it_was_put(store: Store, clock: FakeClock) -> None:
    stamp = ClockStamp("boot-1", 12.5)
    assert await store.outbox.put(NewItem("trip", "a", b'{"x": 1}', 2, stamp))
    (item,) = await store.outbox.claim("trip", 10)
    assert item == OutboxItem(
        item.seq, "trip", "a", 2, ItemState.SENDING, clock.now(), clock.now(), 1, None, b'{"x": 1}', stamp
    )


async def test_the_same_key_put_twice_is_kept_once_and_the_first_stays(store: Store) -> None:
    assert await store.outbox.put(trip("a", body=b"first"))
    assert not await store.outbox.put(trip("a", body=b"second"))
    assert await store.outbox.put(trip("a", kind="scenario", body=b"another kind"))
    found = await store.outbox.items(kind="trip")
    assert [item.body for item in found] == [b"first"]


async def test_many_are_put_at_once_and_only_the_new_ones_counted(store: Store) -> None:
    await put(store, "7")
    assert await store.outbox.put_all([trip(str(number)) for number in range(1_203)]) == 1_202
    assert (await store.outbox.counts()).waiting == 1_203


async def test_the_most_important_is_claimed_first_then_the_longest_due(store: Store, clock: FakeClock) -> None:
    for key, priority in (("late", 1), ("urgent", 0), ("later", 1), ("whenever", 5)):
        await store.outbox.put(trip(key, priority=priority))
        clock.tick(1.0)
    assert await claimed(store, 2) == ["urgent", "late"]
    assert await claimed(store) == ["later", "whenever"]
    assert await claimed(store) == []


async def test_what_is_claimed_is_claimed_by_nobody_else(store: Store) -> None:
    await put(store, *"abcdef")
    claims = await asyncio.gather(*(store.outbox.claim("trip", 2) for _ in range(4)))
    assert sorted(key for claim in claims for key in keys(claim)) == list("abcdef")


async def test_one_kind_is_not_claimed_for_another(store: Store) -> None:
    await put(store, "a", kind="scenario")
    assert await claimed(store) == []


async def test_acknowledged_items_are_gone_and_counted_once(store: Store) -> None:
    await put(store, "a", "b")
    seqs = [item.seq for item in await store.outbox.claim("trip", 10)]
    await store.outbox.acknowledge("trip", seqs)
    await store.outbox.acknowledge("trip", seqs)  # written again after an answer that got lost on the way to us
    counts = await store.outbox.counts("trip")
    assert (counts.unsent, counts.acknowledged) == (0, 2)
    assert (await store.outbox.counts("rip")).acknowledged == 0, "another kind, however alike"


async def test_backoff_is_each_items_own_and_survives_a_restart(tmp_path: Path, clock: FakeClock) -> None:
    async with Store(tmp_path, clock=clock) as store:
        await put(store, "a", "b")
        first, second = await store.outbox.claim("trip", 10)
        await store.outbox.defer(first.seq, 60.0, "503", connectivity=False)
        await store.outbox.defer(second.seq, 10.0, "no answer", connectivity=True)
    async with Store(tmp_path, clock=clock) as store:
        assert await claimed(store) == []
        assert await store.outbox.next_due("trip") == pytest.approx(10.0)
        clock.tick(10.0)
        (item,) = await store.outbox.claim("trip", 10)
        assert (item.key, item.attempts, item.reason) == ("b", 2, "no answer")
        assert await store.outbox.next_due("trip") == pytest.approx(50.0)
        clock.tick(50.0)
        assert await claimed(store) == ["a"]


async def test_coming_online_makes_due_only_what_the_network_held_up(store: Store, clock: FakeClock) -> None:
    await put(store, "network", "backend", "neither")
    network, backend, _ = await store.outbox.claim("trip", 10)
    await store.outbox.defer(network.seq, 200.0, "no route", connectivity=True)
    await store.outbox.defer(backend.seq, 200.0, "503", connectivity=False)
    assert await store.outbox.make_due() == 1
    assert await store.outbox.make_due() == 0
    assert await claimed(store) == ["network"]


async def test_no_backoff_is_longer_than_its_ceiling(store: Store, clock: FakeClock) -> None:
    await put(store, "a")
    (item,) = await store.outbox.claim("trip", 1)
    await store.outbox.defer(item.seq, DAY, "told so", connectivity=False)
    assert await claimed(store) == []
    assert await store.outbox.next_due("trip") == pytest.approx(CAP)


async def test_released_items_wait_again_and_their_attempt_does_not_count(store: Store) -> None:
    await put(store, "a", "b")
    first, second = await store.outbox.claim("trip", 10)
    await store.outbox.release([first.seq])
    await store.outbox.release([])
    again = await store.outbox.claim("trip", 10)
    assert [(item.key, item.attempts) for item in again] == [("a", 1)]
    await store.outbox.set_aside(second.seq, "422")
    await store.outbox.release([second.seq])
    assert keys(await store.outbox.items(state=ItemState.SET_ASIDE)) == ["b"], "only what is being sent is released"


async def test_the_clock_set_back_an_hour_leaves_nothing_stuck(store: Store, clock: FakeClock) -> None:
    await put(store, "before")
    clock.set_wall(clock.now() - HOUR)
    await put(store, "after")
    assert await store.outbox.next_due("trip") == 0.0
    assert sorted(await claimed(store)) == ["after", "before"]


async def test_a_backoff_is_not_prolonged_by_the_clock_set_back_a_day(store: Store, clock: FakeClock) -> None:
    await put(store, "a")
    (item,) = await store.outbox.claim("trip", 1)
    await store.outbox.defer(item.seq, 100.0, "503", connectivity=False)
    clock.set_wall(clock.now() - DAY)
    assert await store.outbox.next_due("trip") == 0.0
    assert await claimed(store) == ["a"]


async def test_the_clock_set_forward_a_day_drops_nothing(store: Store, clock: FakeClock) -> None:
    await put(store, "a")
    clock.set_wall(clock.now() + DAY)
    await put(store, "b")
    assert await claimed(store) == ["a", "b"]
    assert (await store.outbox.counts()).dropped == {}


async def test_an_item_set_aside_keeps_its_reason_until_it_is_retried(store: Store, clock: FakeClock) -> None:
    await put(store, "bad", "good")
    bad, good = await store.outbox.claim("trip", 10)
    await store.outbox.set_aside(bad.seq, "422: distance is missing")
    await store.outbox.acknowledge("trip", [good.seq])
    assert await claimed(store) == []
    (kept,) = await store.outbox.items(state=ItemState.SET_ASIDE)
    assert (kept.key, kept.reason) == ("bad", "422: distance is missing")
    assert await store.outbox.counts() == OutboxStatus(
        set_aside=1, acknowledged=1, size_bytes=(await store.outbox.counts()).size_bytes
    )
    assert await store.outbox.retry(["bad"]) == 1
    (again,) = await store.outbox.claim("trip", 10)
    assert (again.key, again.attempts, again.reason) == ("bad", 1, None)


async def test_retry_of_all_ends_every_wait_but_touches_nothing_under_way(store: Store) -> None:
    await put(store, "aside", "waits", "flies")
    aside, waits, flies = await store.outbox.claim("trip", 10)
    await store.outbox.set_aside(aside.seq, "404")
    await store.outbox.defer(waits.seq, 200.0, "503", connectivity=False)
    assert await store.outbox.retry() == 2
    assert sorted(await claimed(store)) == ["aside", "waits"]
    assert flies.key == "flies"


async def test_drop_deletes_by_an_operators_will_and_counts_it(store: Store) -> None:
    await put(store, "a", "b", "c")
    await put(store, "a", kind="scenario")
    (sending,) = await store.outbox.claim("trip", 1)
    assert sending.key == "a"
    assert await store.outbox.drop(["a", "b", "unknown"]) == 2, "the trip a is being sent and stays"
    counts = await store.outbox.counts()
    assert counts.dropped == {"scenario.operator": 1, "trip.operator": 1}
    assert sorted(keys(await store.outbox.items())) == ["a", "c"]


async def test_counts_are_told_by_kind_and_state(store: Store) -> None:
    await put(store, "1", "2", "3")
    await put(store, "s", kind="scenario")
    first, second = await store.outbox.claim("trip", 2)
    await store.outbox.set_aside(second.seq, "422")
    trips, all_kinds = await store.outbox.counts("trip"), await store.outbox.counts()
    assert (trips.waiting, trips.sending, trips.set_aside, trips.unsent) == (1, 1, 1, 2)
    assert (all_kinds.waiting, all_kinds.sending, all_kinds.set_aside) == (2, 1, 1)
    assert all_kinds.size_bytes > 0
    await store.outbox.acknowledge("trip", [first.seq])
    assert (await store.outbox.counts("trip")).sending == 0, "counted again after a change"


async def test_counts_see_what_another_process_wrote(store: Store, tmp_path: Path) -> None:
    assert (await store.outbox.counts()).waiting == 0
    other = connect(tmp_path / "state" / DATABASE_NAME)
    other.execute("INSERT INTO item (kind, key, priority, created_at, due_at, body) VALUES ('trip', 'x', 0, 0, 0, '')")
    other.close()
    assert (await store.outbox.counts()).waiting == 1


async def test_an_item_is_found_by_its_key(store: Store) -> None:
    await put(store, "a")
    found = await store.outbox.find("a")
    assert found is not None
    assert found.kind == "trip"
    assert await store.outbox.find("b") is None


async def test_items_are_listed_oldest_first(store: Store) -> None:
    await put(store, *"cab")
    await put(store, "s", kind="scenario")
    assert keys(await store.outbox.items(kind="trip")) == list("cab")
    assert keys(await store.outbox.items(limit=2)) == list("ca")


async def test_an_item_takes_a_documents_place_in_one_transaction(store: Store, tmp_path: Path) -> None:
    def both(connection: sqlite3.Connection) -> tuple[int, int]:
        counts = "SELECT (SELECT count(*) FROM item), (SELECT count(*) FROM document)"
        items, documents = connection.execute(counts).fetchone()
        return items, documents

    other = connect(tmp_path / "state" / DATABASE_NAME, writable=False)
    writer = connect(tmp_path / "state" / DATABASE_NAME)
    writer.execute("INSERT INTO document VALUES ('open_trip', '', '{}', 0)")
    writer.close()
    seen = {both(other)}
    putting = asyncio.create_task(store.outbox.put(trip("a"), instead_of=("open_trip", "")))
    while not putting.done():
        seen.add(both(other))
        await asyncio.sleep(0)
    seen.add(both(other))
    other.close()
    assert seen == {(0, 1), (1, 0)}, "never both, never neither"


async def test_asking_with_much_queued_touches_only_a_range_of_the_index(tmp_path: Path, clock: FakeClock) -> None:
    """What is asked at every step must not read every item: the plan says so, whatever the machine's speed."""
    database = Database(tmp_path / "outbox.db")
    await database.open()
    outbox = Outbox(database, clock, 1 << 30)
    await outbox.put_all([trip(str(number)) for number in range(3_000)])
    statements: list[str] = []
    await database.run(lambda connection: connection.set_trace_callback(statements.append), writes=False)
    (first,) = await outbox.claim("trip", 1)
    await outbox.next_due("trip")
    await outbox.make_due()
    await outbox.defer(first.seq, 1.0, "later", connectivity=True)
    await outbox.put(trip("new"))
    await outbox.drop(["new"])
    await outbox.find("7")
    await outbox.retry(["7"])
    await outbox.acknowledge("trip", [first.seq])

    def plans(connection: sqlite3.Connection) -> dict[str, list[str]]:
        connection.set_trace_callback(None)
        asked = {statement.replace("Inf", "9e999") for statement in statements}  # as SQL spells it
        return {
            statement: [row[3] for row in connection.execute(f"EXPLAIN QUERY PLAN {statement}")]
            for statement in asked
            if statement.lstrip().startswith(("SELECT", "UPDATE", "DELETE", "INSERT", "WITH"))
        }

    explained = await database.run(plans, writes=False)
    await database.close()
    assert len(explained) >= 10
    scans = {statement: plan for statement, plan in explained.items() if any("SCAN item" in step for step in plan)}
    assert not scans


async def test_verify_finds_nothing_wrong_with_a_sound_file(store: Store) -> None:
    await put(store, "a")
    assert await store.outbox.verify() == []
