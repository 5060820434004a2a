"""Whose turn it is where importance is an advantage in time: nobody waits for ever, and what is not due not at all."""

from sentinel_sync.base.backoff import CAP
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock

HEAD_START = 3600.0


async def put(store: Store, key: str, priority: int) -> None:
    await store.outbox.put(NewItem("scenario", key, b"{}", priority))


async def claimed(store: Store) -> list[str]:
    """Claim one after the other until none is due."""
    keys = []
    while (item := await store.outbox.claim_in_turn("scenario", HEAD_START)) is not None:
        keys.append(item.key)
    return keys


async def test_the_important_first_then_the_older(store: Store, clock: FakeClock) -> None:
    for key, priority in (("late", 1), ("urgent", 0), ("later", 1), ("whenever", 2)):
        await put(store, key, priority)
        clock.tick(1.0)
    assert await claimed(store) == ["urgent", "late", "later", "whenever"]


async def test_who_has_waited_for_a_head_start_longer_goes_first(store: Store, clock: FakeClock) -> None:
    await put(store, "whenever", 2)
    clock.tick(HEAD_START)
    await put(store, "late", 1)
    clock.tick(HEAD_START + 1.0)
    await put(store, "urgent", 0)
    assert await claimed(store) == ["whenever", "late", "urgent"]


async def test_one_that_waits_for_its_backoff_is_passed_over(store: Store, clock: FakeClock) -> None:
    await put(store, "a", 0)
    item = await store.outbox.claim_in_turn("scenario", HEAD_START)
    assert item is not None
    assert (item.state, item.attempts) == ("sending", 1)
    await store.outbox.defer(item.seq, 60.0, "answered 503", connectivity=False)
    await put(store, "b", 2)
    assert await claimed(store) == ["b"]
    clock.tick(60.0)
    assert await claimed(store) == ["a"]


async def test_a_clock_that_was_set_back_holds_nothing_up(store: Store, clock: FakeClock) -> None:
    await put(store, "a", 0)
    clock.set_wall(clock.now() - 10 * CAP)
    assert await claimed(store) == ["a"]


async def test_one_is_claimed_by_its_key_where_it_is_due_and_nobody_has_it(store: Store, clock: FakeClock) -> None:
    for key in ("a", "b"):
        await put(store, key, 1)
    item = await store.outbox.claim_one("b")
    assert item is not None
    assert (item.key, item.state, item.attempts) == ("b", "sending", 1)
    assert await store.outbox.claim_one("b") is None
    await store.outbox.defer(item.seq, 60.0, "answered 503", connectivity=False)
    assert await store.outbox.claim_one("b") is None
    clock.tick(60.0)
    assert await store.outbox.claim_one("b") is not None
    assert await store.outbox.claim_one("c") is None
    assert await claimed(store) == ["a"]


async def test_looking_claims_nothing_and_other_kinds_do_not_count(store: Store) -> None:
    await store.outbox.put(NewItem("trip", "t", b"{}"))
    assert await store.outbox.first_in_turn("scenario", HEAD_START) is None
    await put(store, "a", 0)
    for _ in range(2):
        first = await store.outbox.first_in_turn("scenario", HEAD_START)
        assert first is not None
        assert (first.key, first.state, first.attempts) == ("a", "waiting", 0)
    assert await claimed(store) == ["a"]
