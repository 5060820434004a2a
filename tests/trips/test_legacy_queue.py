"""Taking over the old module's queue: each trip once, pseudonymised, in local time; the file renamed, never deleted."""

import asyncio
import hashlib
import hmac
import json
import logging
import os
import shutil
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.store.outbox import ItemState
from sentinel_sync.store.store import Store
from sentinel_sync.trips.legacy_queue import LEFT, LegacyQueue, Takeover
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock

KEY = b"the fleet's own secret"
OLD = FIXTURES / "data" / "trip_queue.json"


@pytest.fixture
def queue_file(tmp_path: Path) -> Path:
    path = tmp_path / "data" / "trip_queue.json"
    path.parent.mkdir()
    shutil.copy(OLD, path)
    return path


@pytest.fixture
def in_california(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """The vehicle's local time: UTC-8 in November, UTC-7 in July."""
    monkeypatch.setenv("TZ", "America/Los_Angeles")
    time.tzset()
    yield
    monkeypatch.undo()
    time.tzset()


def old_queue(path: Path, store: Store, clock: FakeClock, key: bytes | None = KEY) -> LegacyQueue:
    return LegacyQueue(
        path,
        store,
        kind="trip",
        vehicle_id="vehicle_001",
        pseudonym_of=lambda driver: pseudonym(driver, key),
        clock=clock,
    )


async def take(path: Path, store: Store, clock: FakeClock, key: bytes | None = KEY) -> Takeover | None:
    return await old_queue(path, store, clock, key).take_over()


async def trips(store: Store) -> list[TripSummary]:
    items = await store.outbox.items(kind="trip", limit=1_000_000)
    assert all(item.stamp is None for item in items), "whose clocks gave these times is not known"
    return [TripSummary.model_validate_json(item.body) for item in items]


def old_entries() -> list[dict[str, Any]]:
    entries: list[dict[str, Any]] = json.loads(OLD.read_text())
    return entries


def write(path: Path, content: str | bytes) -> None:
    path.write_bytes(content if isinstance(content, bytes) else content.encode())


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


async def test_no_old_queue_is_nothing_to_do(tmp_path: Path, store: Store, clock: FakeClock) -> None:
    assert await take(tmp_path / "nowhere" / "trip_queue.json", store, clock) is None


async def test_every_old_trip_is_taken_over(
    queue_file: Path, store: Store, clock: FakeClock, in_california: None
) -> None:
    result = await take(queue_file, store, clock)
    assert result is not None
    assert (result.taken, result.unreadable) == (7, 0)
    taken, entries = await trips(store), old_entries()
    assert [trip.distance for trip in taken] == [entry["distance"] for entry in entries]
    first, old = taken[0], entries[0]
    assert old["start_time"] == "2026-11-23T08:15:42.668961"
    assert first.start_time.isoformat() == "2026-11-23T16:15:42.668961+00:00", "local time, eight hours behind"
    assert first.duration == old["duration"]
    assert (first.max_speed, first.average_risk_score) == (old["max_speed"], old["average_risk_score"])
    assert (first.alert_count, first.critical_alert_count) == (old["alert_count"], old["critical_alert_count"])
    assert first.model_dump()["start_location"] == old["start_location"]
    digest = hmac.new(KEY, b"driver_123", hashlib.sha256).hexdigest()[:32]
    assert first.driver_id == f"d_{digest}"
    assert not first.interrupted


async def test_the_old_file_is_renamed_and_not_changed(queue_file: Path, store: Store, clock: FakeClock) -> None:
    result = await take(queue_file, store, clock)
    assert result is not None
    assert names(queue_file.parent) == ["trip_queue.json.imported-20260528T202640Z"]
    assert result.moved_to.read_bytes() == OLD.read_bytes()
    assert await take(queue_file, store, clock) is None


async def test_no_raw_driver_id_gets_into_the_store(
    queue_file: Path, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.DEBUG)
    await take(queue_file, store, clock)
    drivers = {str(entry["driver_id"]) for entry in old_entries() if entry["driver_id"]}
    assert drivers
    bodies = b"".join(item.body for item in await store.outbox.items())
    assert not [driver for driver in drivers if driver.encode() in bodies or driver in caplog.text]


async def test_without_a_pseudonym_key_there_is_no_driver(queue_file: Path, store: Store, clock: FakeClock) -> None:
    await take(queue_file, store, clock, key=None)
    assert {trip.driver_id for trip in await trips(store)} == {None}


async def test_a_death_between_import_and_rename_takes_each_trip_once(
    queue_file: Path, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
) -> None:
    with monkeypatch.context() as death:

        def no_rename(self: Path, target: Path) -> Path:
            raise OSError(30, "Read-only file system")

        death.setattr(Path, "rename", no_rename)
        first = await take(queue_file, store, clock)
    assert first is not None
    assert (first.taken, first.moved_to) == (7, queue_file), "still where it was"
    second = await take(queue_file, store, clock)
    assert second is not None
    assert second.taken == 0
    assert len(await trips(store)) == 7


async def test_the_same_trip_has_the_same_id_whenever_it_is_taken_over(
    queue_file: Path, tmp_path: Path, clock: FakeClock
) -> None:
    ids = []
    for number in range(2):
        path = tmp_path / f"{number}" / "trip_queue.json"
        path.parent.mkdir()
        shutil.copy(OLD, path)
        clock.tick(86_400.0)
        async with Store(tmp_path / f"state-{number}", clock=clock) as store:
            await take(path, store, clock)
            ids.append([trip.trip_id for trip in await trips(store)])
    assert ids[0] == ids[1]
    assert len(set(ids[0])) == 7


async def test_a_time_with_an_offset_keeps_it(
    queue_file: Path, store: Store, clock: FakeClock, in_california: None
) -> None:
    entry = old_entries()[0] | {"start_time": "2026-07-01T10:00:00+02:00", "end_time": "2026-07-01T10:00:00"}
    write(queue_file, json.dumps([entry]))
    await take(queue_file, store, clock)
    (trip,) = await trips(store)
    assert trip.start_time.isoformat() == "2026-07-01T08:00:00+00:00"
    assert trip.end_time.isoformat() == "2026-07-01T17:00:00+00:00", "daylight saving time"


@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"null",
        b"not json",
        b"\xff\xfe\x00binary",
        b"[" * 100_000,
        b'"a string"',
        b"[,]",
    ],
    ids=["empty", "null", "text", "binary", "deep", "string", "comma"],
)
async def test_a_broken_file_is_set_aside_with_a_message(
    content: bytes, queue_file: Path, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    write(queue_file, content)
    result = await take(queue_file, store, clock)
    assert result is not None
    assert result.taken == 0
    assert names(queue_file.parent) == ["trip_queue.json.broken-20260528T202640Z"]
    assert result.moved_to.read_bytes() == content
    assert "trips.takeover" in caplog.text
    assert await trips(store) == []


async def test_a_file_that_breaks_off_gives_the_trips_before_the_break(
    queue_file: Path, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """The old module wrote it in place, so a power cut left half a file."""
    text = OLD.read_text()
    write(queue_file, text[: len(text) * 3 // 4])
    result = await take(queue_file, store, clock)
    assert result is not None
    assert result.taken == len(await trips(store)) == 5
    assert result.moved_to.name.startswith("trip_queue.json.broken-")
    assert "line " in caplog.text
    assert "driver_" not in caplog.text


BAD_ENTRIES: list[object] = [
    5,
    None,
    [],
    {},
    {"start_time": "yesterday"},
    {"start_time": "0001-01-01T00:00:00"},
    {"duration": -1.0},
    {"distance": "far"},
    {"distance": float("nan")},
    {"distance": float("inf")},
    {"start_location": {"lat": 91.0, "lon": 0.0}},
    {"end_location": "nowhere"},
    {"average_risk_score": 7},
    {"info_alert_count": -3},
    {"info_alert_count": 1.5},
    {"info_alert_count": True},
    {"driver_id": "\ud800"},
    {"trip_id": "\ud800"},
]


@pytest.mark.parametrize("bad", BAD_ENTRIES, ids=repr)
async def test_a_broken_entry_costs_only_itself(
    bad: object, queue_file: Path, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    entries = old_entries()
    write(queue_file, json.dumps([entries[0], entries[1] | bad if isinstance(bad, dict) and bad else bad, entries[2]]))
    result = await take(queue_file, store, clock)
    assert result is not None
    assert (result.taken, result.unreadable) == (2, 1)
    assert result.moved_to.name.startswith("trip_queue.json.imported-")
    assert "entry 1 is no trip" in caplog.text
    assert "driver_" not in caplog.text


@pytest.mark.parametrize(
    "odd",
    [
        {"start_location": {"lat": None, "lon": None}},
        {"start_location": {"lat": None, "lon": 1.0}, "end_location": None},
        {"end_location": {}},
        {"average_risk_score": None, "max_risk_score": float("nan")},
    ],
    ids=repr,
)
async def test_an_entry_without_a_place_or_a_measure_is_a_trip(
    odd: dict[str, object], queue_file: Path, store: Store, clock: FakeClock
) -> None:
    write(queue_file, json.dumps([old_entries()[0] | odd]))
    result = await take(queue_file, store, clock)
    assert result is not None
    assert (result.taken, result.unreadable) == (1, 0)


@pytest.mark.parametrize(
    ("shape", "taken", "unreadable"),
    [
        (lambda entries: "\n".join(map(json.dumps, entries)), 3, 0),
        (lambda entries: "\n".join([json.dumps(entries[0]), '{"trip_id": ', json.dumps(entries[2])]), 2, 1),
        (lambda entries: json.dumps(entries[0]), 1, 0),
        (lambda entries: json.dumps(entries[0], indent=2) + "\n" + json.dumps(entries[1], indent=2), 2, 0),
        (lambda entries: json.dumps(entries) + "\x00\x00 garbage", 3, 0),
        (lambda entries: json.dumps(entries) + json.dumps(entries), 3, 0),
    ],
    ids=["a line each", "a broken line", "a single object", "indented", "garbage after the list", "two lists"],
)
async def test_whatever_its_shape_what_can_be_read_is_taken(
    shape: Callable[[list[dict[str, object]]], str],
    taken: int,
    unreadable: int,
    queue_file: Path,
    store: Store,
    clock: FakeClock,
) -> None:
    write(queue_file, shape(old_entries()[:3]))
    result = await take(queue_file, store, clock)
    assert result is not None
    assert (result.taken, result.unreadable) == (taken, unreadable)
    assert len(await trips(store)) == taken


async def test_strange_but_harmless_entries_are_taken(queue_file: Path, store: Store, clock: FakeClock) -> None:
    entry = old_entries()[0]
    write(
        queue_file,
        "\ufeff"
        + json.dumps(
            [entry | {"driver_id": 77, "trip_id": None, "weather": "rain"}, entry | {"trip_id": {"nested": 1}}]
        ).replace('"weather": "rain"', f'"weather": {"9" * 6_000}'),
    )
    result = await take(queue_file, store, clock)
    assert result is not None
    assert (result.taken, result.unreadable) == (2, 0)
    first, second = await trips(store)
    assert first.trip_id != second.trip_id
    assert first.driver_id == pseudonym("77", KEY)


async def test_the_same_entry_twice_in_the_file_is_one_trip(queue_file: Path, store: Store, clock: FakeClock) -> None:
    entry = old_entries()[0]
    write(queue_file, json.dumps([entry, entry]))
    result = await take(queue_file, store, clock)
    assert result is not None
    assert result.taken == 1


async def test_a_large_queue_is_taken_over_whole_while_the_loop_goes_on(
    queue_file: Path, store: Store, clock: FakeClock
) -> None:
    entry = old_entries()[0]
    write(queue_file, json.dumps([entry | {"trip_id": f"trip_{number}"} for number in range(4_000)]))
    turns = 0

    async def count_turns() -> None:
        nonlocal turns
        while True:
            await asyncio.sleep(0.001)
            turns += 1

    counting = asyncio.create_task(count_turns())
    result = await take(queue_file, store, clock)
    counting.cancel()
    assert result is not None
    assert result.taken == 4_000
    assert turns > 10


async def test_many_broken_entries_do_not_flood_the_log(
    queue_file: Path, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    write(queue_file, json.dumps([1] * 5_000))
    result = await take(queue_file, store, clock)
    assert result is not None
    assert result.unreadable == 5_000
    assert len(caplog.records) < 20


async def test_a_file_too_large_to_be_a_queue_is_not_read(queue_file: Path, store: Store, clock: FakeClock) -> None:
    os.truncate(queue_file, 70 << 20)  # a hole: it takes no space
    result = await take(queue_file, store, clock)
    assert result is not None
    assert result.moved_to.name.startswith("trip_queue.json.broken-")


def as_folder(path: Path) -> None:
    path.unlink()
    path.mkdir()


def as_fifo(path: Path) -> None:
    path.unlink()
    os.mkfifo(path)


@pytest.mark.parametrize("make", [as_folder, as_fifo])
async def test_what_is_no_file_is_set_aside_and_not_waited_for(
    make: Callable[[Path], None], queue_file: Path, store: Store, clock: FakeClock
) -> None:
    make(queue_file)
    async with asyncio.timeout(5.0):
        result = await take(queue_file, store, clock)
    assert result is not None
    assert result.moved_to.name.startswith("trip_queue.json.broken-")


async def test_on_a_full_disk_it_waits_for_the_next_start(
    queue_file: Path, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    with monkeypatch.context() as disk:

        async def put_all(_: object) -> int:
            raise StoreFullError("the disk is full")

        disk.setattr(store.outbox, "put_all", put_all)
        assert await take(queue_file, store, clock) is None
    assert names(queue_file.parent) == ["trip_queue.json"]
    assert "waits for the next start" in caplog.text
    result = await take(queue_file, store, clock)
    assert result is not None
    assert result.taken == 7


async def test_two_takeovers_in_one_second_keep_both_files(queue_file: Path, store: Store, clock: FakeClock) -> None:
    await take(queue_file, store, clock)
    shutil.copy(OLD, queue_file)
    await take(queue_file, store, clock)
    assert len(names(queue_file.parent)) == 2


# --- what could not be read is to be found again ---


NO_TRIP = {"driver_id": "driver_zacharias", "start_location": {"lat": 48.137, "lon": 11.575}}
LEFT_OVER: dict[str, bytes] = {
    "an entry that is no trip": json.dumps([*json.loads(OLD.read_text())[:2], NO_TRIP]).encode(),
    "a broken line": b"\n".join([json.dumps(json.loads(OLD.read_text())[0]).encode(), b'{"trip_id": ']),
    "a list that breaks off": OLD.read_bytes()[:-40],
    "garbage after the list": OLD.read_bytes() + b" garbage",
    "no text": b"\xff\xfe\x00",
    "no list": b'"trips"',
    "only entries that are no trips": json.dumps([NO_TRIP] * 3).encode(),
}


@pytest.mark.parametrize("kind", LEFT_OVER)
async def test_it_is_shown_in_the_queue_with_its_reason(
    kind: str, queue_file: Path, store: Store, clock: FakeClock
) -> None:
    """I7."""
    write(queue_file, LEFT_OVER[kind])
    result = await take(queue_file, store, clock)
    assert result is not None
    (item,) = await store.outbox.items(kind=LEFT)
    assert (item.key, item.state) == (result.moved_to.name, ItemState.SET_ASIDE)
    assert "mend the file, then retry" in str(item.reason)
    assert b"zacharias" not in item.body
    assert "zacharias" not in str(item.reason)
    assert "48.1" not in str(item.reason)


async def test_retried_it_is_read_again_and_goes_once_it_is_mended(
    queue_file: Path, store: Store, clock: FakeClock
) -> None:
    entries = old_entries()
    write(queue_file, json.dumps([*entries[:2], NO_TRIP]))
    queue = old_queue(queue_file, store, clock)
    result = await queue.take_over()
    assert result is not None
    await queue.retry_step()
    assert len(await store.outbox.items(kind=LEFT)) == 1, "nobody has retried it"
    assert await store.outbox.retry([result.moved_to.name]) == 1
    await queue.retry_step()
    (item,) = await store.outbox.items(kind=LEFT)
    assert (item.state, "1 of its entries" in str(item.reason)) == (ItemState.SET_ASIDE, True)
    write(result.moved_to, json.dumps(entries[:3]))
    await store.outbox.retry([result.moved_to.name])
    await queue.retry_step()
    assert await store.outbox.items(kind=LEFT) == []
    assert len(await trips(store)) == 3, "each once"


async def test_one_whose_file_is_gone_stays_and_says_so(queue_file: Path, store: Store, clock: FakeClock) -> None:
    write(queue_file, LEFT_OVER["garbage after the list"])
    queue = old_queue(queue_file, store, clock)
    result = await queue.take_over()
    assert result is not None
    result.moved_to.unlink()
    await store.outbox.retry(None)
    await queue.retry_step()
    (item,) = await store.outbox.items(kind=LEFT)
    assert (item.state, "is gone" in str(item.reason)) == (ItemState.SET_ASIDE, True)


async def test_a_disk_that_has_no_room_for_the_word_of_it_keeps_nobody_from_starting(
    queue_file: Path, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    async def put(_: object) -> bool:
        raise StoreFullError("the disk is full")

    monkeypatch.setattr(store.outbox, "put", put)
    write(queue_file, LEFT_OVER["garbage after the list"])
    result = await take(queue_file, store, clock)
    assert result is not None
    assert "is not shown in the queue" in caplog.text
