"""Draining the outbox over a real socket: nothing stays claimed, nothing is sent twice without need, nothing blocks."""

import asyncio
import sqlite3
from collections.abc import AsyncIterator, Awaitable, Callable
from http import HTTPMethod
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.base.errors import ConfigurationError, StoreError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.store.outbox import ItemState, NewItem, OutboxItem
from sentinel_sync.store.sender import ACKNOWLEDGE, CLAIM, LOOK_AGAIN, OutboxSender, leaves
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, json_answer, problem, refused, settings_for
from tests.fakes.patience import until, until_true
from tests.fakes.wire_rules import Seen


@pytest.fixture
async def client(cloud: FakeCloud, clock: FakeClock, rng: Random) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=settings_for(cloud), clock=clock, rng=rng) as made:
        yield made


Send = Callable[[OutboxItem], Awaitable[None]]


def poster(client: CloudAPIClient) -> Send:
    async def send(item: OutboxItem) -> None:
        await client.request(HTTPMethod.POST, "/trips", content=item.body, idempotency_key=item.key)

    return send


@pytest.fixture
def sender(client: CloudAPIClient, store: Store, clock: FakeClock, rng: Random) -> OutboxSender:
    return OutboxSender(client, store.outbox, "trip", poster(client), clock=clock, rng=rng)


async def put(store: Store, *keys: str) -> None:
    await store.outbox.put_all([NewItem("trip", key, b'{"trip_id": "%s"}' % key.encode()) for key in keys])


def numbered(count: int) -> list[str]:
    return [f"trip-{number:04}" for number in range(count)]


async def states(store: Store) -> dict[str, ItemState]:
    return {item.key: item.state for item in await store.outbox.items(limit=100_000)}


async def test_everything_due_is_sent_once_under_its_own_key(
    cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    keys = numbered(3 * CLAIM + 5)
    await put(store, *keys)
    assert await sender.drain() == len(keys)
    assert sorted(seen.key or "" for seen in cloud.to("POST", "/trips")) == keys
    counts = await store.outbox.counts()
    assert (counts.unsent, counts.acknowledged) == (0, len(keys))


async def test_no_more_are_in_flight_than_the_settings_allow(
    cloud: FakeCloud, client: CloudAPIClient, sender: OutboxSender, store: Store
) -> None:
    await put(store, *numbered(100))
    await sender.drain()
    assert cloud.most_open <= client.settings.max_in_flight


async def test_acknowledgements_are_written_in_groups(store: Store, sender: OutboxSender) -> None:
    statements: list[str] = []
    await put(store, *numbered(4 * ACKNOWLEDGE))
    await store._database.run(lambda connection: connection.set_trace_callback(statements.append), writes=False)
    await sender.drain()
    commits = statements.count("COMMIT")
    assert 4 <= commits <= 14, "far fewer than items"


@pytest.mark.parametrize("status", [400, 404, 410, 413, 415, 422])
async def test_one_that_can_never_succeed_is_set_aside_and_the_others_go(
    status: int, cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    def answer(seen: Seen) -> Answer:
        if seen.key == "trip-0003":
            return problem(status, "Unprocessable", "distance is missing")
        return json_answer(201)

    cloud.handler = answer
    await put(store, *numbered(10))
    assert await sender.drain() == 9
    (aside,) = await store.outbox.items()
    assert (aside.key, aside.state) == ("trip-0003", ItemState.SET_ASIDE)
    assert "distance is missing" in (aside.reason or "")
    assert str(status) in (aside.reason or "")


@pytest.mark.parametrize("status", [200, 201, 204, 409])
async def test_done_and_already_there_both_acknowledge(
    status: int, cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    cloud.script("POST", "/trips", Answer(status) if status == 204 else json_answer(status))
    await put(store, "a")
    assert await sender.drain() == 1
    assert await states(store) == {}


async def test_a_lost_answer_is_asked_for_again_under_the_same_key(
    cloud: FakeCloud, sender: OutboxSender, store: Store, clock: FakeClock
) -> None:
    cloud.script("POST", "/trips", Answer(201, b"{}", cut=10))
    await put(store, "a")
    assert await sender.drain() == 0
    assert await states(store) == {"a": ItemState.WAITING}
    clock.tick(600.0)
    assert await sender.drain() == 1
    assert [seen.key for seen in cloud.to("POST", "/trips")] == ["a", "a"]


async def test_a_refused_credential_spends_nobodys_attempt(
    cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    cloud.handler = lambda _: refused()
    await put(store, *numbered(50))
    assert await sender.drain() == 0
    items = await store.outbox.items()
    assert {item.state for item in items} == {ItemState.WAITING}
    assert {item.attempts for item in items} == {0}
    assert len(cloud.to("POST", "/trips")) <= 8, "no more than were in flight"
    assert await sender.drain() == 0
    assert len(cloud.to("POST", "/trips")) <= 8


async def test_a_closed_gate_keeps_items_from_being_tried_at_all(
    client: CloudAPIClient, store: Store, clock: FakeClock, rng: Random
) -> None:
    """The sender asks by itself: the client, which would refuse each, is not in the way here."""
    tried: list[str] = []

    async def send(item: OutboxItem) -> None:
        tried.append(item.key)
        client.halt("power", "the battery is low")

    await put(store, *numbered(20))
    sender = OutboxSender(client, store.outbox, "trip", send, clock=clock, rng=rng)
    await sender.drain()
    assert 0 < len(tried) <= client.settings.max_in_flight
    count = len(tried)
    await sender.drain()
    assert len(tried) == count
    client.resume("power")
    await sender.drain()
    assert len(tried) > count


async def test_not_now_holds_everybody_but_the_wait_is_the_items_own(
    cloud: FakeCloud, sender: OutboxSender, store: Store, clock: FakeClock
) -> None:
    cloud.handler = lambda _: problem(503, headers={"Retry-After": "120"})
    await put(store, *numbered(40))
    await sender.drain()
    tried = len(cloud.requests)
    assert tried <= 8
    items = await store.outbox.items()
    assert sum(item.attempts > 0 for item in items) == tried
    clock.tick(100.0)
    await sender.drain()
    assert len(cloud.requests) == tried, "Retry-After holds"


async def test_a_fault_of_our_own_with_one_item_does_not_block_those_behind(
    client: CloudAPIClient, store: Store, clock: FakeClock, rng: Random, caplog: pytest.LogCaptureFixture
) -> None:
    post = poster(client)

    async def send(item: OutboxItem) -> None:
        if item.key == "trip-0000":
            raise KeyError("what nobody thought of")
        await post(item)

    sender = OutboxSender(client, store.outbox, "trip", send, clock=clock, rng=rng)
    await put(store, *numbered(20))
    assert await sender.drain() == 19
    (left,) = await store.outbox.items()
    assert (left.key, left.state, left.attempts) == ("trip-0000", ItemState.WAITING, 1)
    assert "KeyError" in (left.reason or "")
    assert "outbox.fault" in caplog.text


async def test_what_cannot_even_be_read_is_set_aside(
    client: CloudAPIClient, store: Store, clock: FakeClock, rng: Random
) -> None:
    async def send(item: OutboxItem) -> None:
        raise ValueError("not JSON")

    await put(store, "a")
    await OutboxSender(client, store.outbox, "trip", send, clock=clock, rng=rng).drain()
    (aside,) = await store.outbox.items()
    assert (aside.state, aside.reason) == (ItemState.SET_ASIDE, "cannot be sent as it is stored: not JSON")


async def test_an_error_that_is_about_no_item_is_the_callers_and_itself(
    client: CloudAPIClient, store: Store, clock: FakeClock, rng: Random
) -> None:
    async def send(item: OutboxItem) -> None:
        raise ConfigurationError("no key")

    await put(store, *numbered(20))
    with pytest.raises(ConfigurationError, match="no key"):
        await OutboxSender(client, store.outbox, "trip", send, clock=clock, rng=rng).drain()
    assert set((await states(store)).values()) == {ItemState.WAITING}


@pytest.mark.parametrize("after", [0, 1, 2, 5, 20])
async def test_a_drain_cancelled_at_any_moment_leaves_nothing_claimed(
    after: int, cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    await put(store, *numbered(90))
    draining = asyncio.create_task(sender.drain())
    for _ in range(after):
        await asyncio.sleep(0.001)
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    assert ItemState.SENDING not in set((await states(store)).values())
    await sender.drain()
    assert await states(store) == {}
    assert {seen.key for seen in cloud.to("POST", "/trips")} == set(numbered(90))


async def test_a_drain_cancelled_while_it_claims_gives_back_what_was_claimed_after_all(
    sender: OutboxSender, store: Store
) -> None:
    """The claim is on its way in the store's thread, and happens, whoever asked for it."""
    await put(store, *numbered(20))
    draining = asyncio.create_task(sender.drain())
    for _ in range(4):  # the claim is asked for, and not yet answered
        await asyncio.sleep(0)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    assert set((await states(store)).values()) == {ItemState.WAITING}
    assert {item.attempts for item in await store.outbox.items()} == {0}


async def test_a_drain_cancelled_twice_leaves_nothing_claimed(
    cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    may_answer = asyncio.Event()
    cloud.script("POST", "/trips", *[Answer(201, b"{}", after=may_answer) for _ in range(8)])
    await put(store, *numbered(50))
    draining = asyncio.create_task(sender.drain())
    await cloud.received(8, path="/trips")
    draining.cancel()
    await asyncio.sleep(0)
    draining.cancel()
    with pytest.raises(asyncio.CancelledError):
        await draining
    may_answer.set()

    async def all_waiting() -> bool:
        return set((await states(store)).values()) == {ItemState.WAITING}

    await until_true(all_waiting)


async def test_cutting_off_everything_gives_back_what_was_in_flight(
    cloud: FakeCloud, client: CloudAPIClient, sender: OutboxSender, store: Store
) -> None:
    cloud.script("POST", "/trips", *[Answer(silent=True) for _ in range(8)])
    await put(store, *numbered(20))
    draining = asyncio.create_task(sender.drain())
    await cloud.received(8, path="/trips")
    client.halt("power", "the battery is low")
    async with asyncio.timeout(5.0):
        assert await draining == 0
    items = await store.outbox.items()
    assert {item.state for item in items} == {ItemState.WAITING}
    assert {item.attempts for item in items} == {0}
    client.resume("power")
    assert await sender.drain() == 20


async def test_an_acknowledgement_that_cannot_be_written_is_written_the_next_time(
    cloud: FakeCloud, sender: OutboxSender, store: Store, tmp_path: Path
) -> None:
    """The disk fails between the backend's answer and our note of it."""

    def forbid(connection: sqlite3.Connection) -> None:
        connection.execute(
            "CREATE TEMP TRIGGER forbid BEFORE DELETE ON main.item BEGIN SELECT RAISE(ABORT, 'the disk fails'); END"
        )

    def allow(connection: sqlite3.Connection) -> None:
        connection.execute("DROP TRIGGER forbid")

    await put(store, *numbered(10))
    await store._database.run(forbid)
    with pytest.raises(StoreError, match="the disk fails"):
        await sender.drain()
    posted = len(cloud.to("POST", "/trips"))
    assert posted == 10
    await store._database.run(allow)
    await sender.drain()
    assert await states(store) == {}
    assert len(cloud.to("POST", "/trips")) == posted, "the backend was not asked again"


async def test_concurrent_drains_take_turns(cloud: FakeCloud, sender: OutboxSender, store: Store) -> None:
    await put(store, *numbered(60))
    counts = await asyncio.gather(*(sender.drain() for _ in range(4)))
    assert sum(counts) == 60
    assert len(cloud.to("POST", "/trips")) == 60


async def test_what_was_put_while_draining_is_sent_by_the_next_drain(
    cloud: FakeCloud, sender: OutboxSender, store: Store
) -> None:
    await put(store, "first")
    await asyncio.gather(sender.drain(), put(store, "second"))
    await sender.drain()
    assert sorted(seen.key or "" for seen in cloud.to("POST", "/trips")) == ["first", "second"]


async def test_one_request_that_hangs_holds_up_nobody(
    cloud: FakeCloud, sender: OutboxSender, store: Store, clock: FakeClock
) -> None:
    cloud.script("POST", "/trips", Answer(silent=True))
    await put(store, "hangs")
    draining = asyncio.create_task(sender.drain())
    await cloud.received(1, path="/trips")
    for number in range(3):  # put while it hangs
        await put(store, f"later-{number}")
        await until(lambda: clock.sleepers > 0)
        await clock.advance(LOOK_AGAIN)
        await cloud.received(2 + number, path="/trips")
    await clock.advance(LOOK_AGAIN)

    async def only_one_left() -> bool:
        await clock.advance(LOOK_AGAIN)
        return await states(store) == {"hangs": ItemState.SENDING}

    await until_true(only_one_left, "the acknowledgement of the others")
    draining.cancel()
    await asyncio.gather(draining, return_exceptions=True)
    assert await states(store) == {"hangs": ItemState.WAITING}


async def test_what_is_held_is_not_even_claimed(
    client: CloudAPIClient, cloud: FakeCloud, store: Store, clock: FakeClock, rng: Random
) -> None:
    why: list[str | None] = ["the data budget is used up"]

    async def blocked_reason() -> str | None:
        return why[0]

    sender = OutboxSender(
        client, store.outbox, "trip", poster(client), clock=clock, rng=rng, blocked_reason=blocked_reason
    )
    await put(store, *numbered(3))
    assert await sender.drain() == 0
    assert {(item.state, item.attempts) for item in await store.outbox.items()} == {(ItemState.WAITING, 0)}
    assert cloud.requests == []
    why[0] = None
    assert await sender.drain() == 3


async def test_what_is_held_in_the_middle_costs_no_attempt_and_overshoots_by_what_is_in_flight(
    client: CloudAPIClient, cloud: FakeCloud, store: Store, clock: FakeClock, rng: Random
) -> None:
    allowed, asked, told = 50, 0, False

    async def blocked_reason() -> str | None:
        nonlocal asked
        asked += 1
        return "the data budget is used up" if len(cloud.requests) >= allowed else None

    post = poster(client)

    sender: OutboxSender

    async def post_and_count(item: OutboxItem) -> None:
        nonlocal told
        await post(item)
        if len(cloud.requests) >= allowed and not told:
            told = True
            sender.ask_again()

    sender = OutboxSender(
        client, store.outbox, "trip", post_and_count, clock=clock, rng=rng, blocked_reason=blocked_reason
    )
    await put(store, *numbered(3 * CLAIM))
    sent = await sender.drain()
    assert allowed <= sent <= allowed + client.settings.max_in_flight
    assert asked == 2, "at the start, and when something had changed"
    left = await store.outbox.items(limit=10_000)
    assert len(left) == 3 * CLAIM - sent
    assert {(item.state, item.attempts) for item in left} == {(ItemState.WAITING, 0)}
    allowed = 10_000
    assert await sender.drain() == len(left)
    assert asked == 3
    assert len(cloud.requests) == 3 * CLAIM, "each was sent once"


async def test_whether_it_may_go_is_asked_once_for_a_drain(
    client: CloudAPIClient, store: Store, clock: FakeClock, rng: Random
) -> None:
    asked = 0

    async def blocked_reason() -> str | None:
        nonlocal asked
        asked += 1
        await asyncio.sleep(0)
        return None

    sender = OutboxSender(
        client, store.outbox, "trip", poster(client), clock=clock, rng=rng, blocked_reason=blocked_reason
    )
    await put(store, *numbered(20))
    assert await sender.drain() == 20
    assert asked == 1


async def test_every_error_of_a_group_is_found_however_deep() -> None:
    async def fail(name: str) -> None:
        raise StoreError(name)

    async def fail_below() -> None:
        async with asyncio.TaskGroup() as below:
            below.create_task(fail("two"))

    found: list[str] = []
    try:
        async with asyncio.TaskGroup() as above:
            above.create_task(fail("one"))
            above.create_task(fail_below())
    except* StoreError as group:
        found = [str(error) for error in leaves(group)]
    assert found == ["one", "two"]
