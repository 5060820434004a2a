"""The extension `trips-batch`: together where the backend offers it, each acknowledged by itself, none lost by it."""

import gzip
import hashlib
import json
import logging
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.store.outbox import ItemState, NewItem
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, json_answer, portal, problem
from tests.fakes.wire_rules import Seen
from tests.scenarios.recording import Vehicle, vehicle

HEALTH = json_answer(200, {"status": "ok", "extensions": ["trips-batch", 7, "something-new"]})


def trips_of(seen: Seen) -> list[dict[str, Any]]:
    body = gzip.decompress(seen.body) if seen.headers.get("content-encoding") == "gzip" else seen.body
    trips: list[dict[str, Any]] = json.loads(body)["trips"]
    return trips


def ids_of(seen: Seen) -> list[str]:
    return [trip["trip_id"] for trip in trips_of(seen)]


def offering(
    batch: Callable[[Seen], Answer], single: Callable[[Seen], Answer] | None = None
) -> Callable[[Seen], Answer]:
    """A backend that has the extension."""

    def handler(seen: Seen) -> Answer:
        match seen.method, seen.path:
            case "GET", "/health":
                return HEALTH
            case "POST", "/trips/batch":
                return batch(seen)
        return json_answer(201, {}) if single is None else single(seen)

    return handler


def taking(seen: Seen) -> Answer:
    return json_answer(200, {"results": [{"trip_id": name, "status": 201} for name in reversed(ids_of(seen))]})


async def drive(car: Vehicle, clock: FakeClock, number: int) -> list[str]:
    made = []
    for _ in range(number):
        await car.trips.start_trip()
        clock.tick(30.0)
        summary = await car.trips.end_trip()
        assert isinstance(summary, TripSummary)
        made.append(summary.trip_id)
    return made


def batches(cloud: FakeCloud) -> list[Seen]:
    return cloud.to("POST", "/trips/batch")


async def left(car: Vehicle) -> dict[str, ItemState]:
    return {item.key: item.state for item in await car.store.outbox.items()}


async def test_a_backlog_goes_together_packed_and_newest_first(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    cloud.handler = offering(taking)
    async with vehicle(tmp_path, clock, cloud) as car:
        old = await drive(car, clock, 3)
        clock.tick(7200.0)
        new = await drive(car, clock, 2)
        assert await car.trips.sync_now() == 5
        (batch,) = batches(cloud)
        assert ids_of(batch) == [*reversed(new), *reversed(old)]
        assert batch.headers["content-encoding"] == "gzip"
        assert batch.key == hashlib.sha256("\n".join(ids_of(batch)).encode()).hexdigest()
        assert cloud.to("POST", "/trips") == []
        assert await left(car) == {}
        assert [item.key for item in await car.store.outbox.sent()] != []


async def test_what_ended_within_the_hour_goes_first_also_where_older_trips_were_tried_since(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    cloud.handler = offering(taking)
    async with vehicle(tmp_path, clock, cloud) as car:
        old = await drive(car, clock, 2)
        clock.tick(7200.0)
        new = await drive(car, clock, 2)
        for item in await car.store.outbox.items():
            if item.key in old:
                await car.store.outbox.defer(item.seq, 0.0, "tried", connectivity=False)
        clock.tick(1.0)
        await car.trips.sync_now()
        assert set(ids_of(batches(cloud)[0])[:2]) == set(new)


async def test_without_the_extension_and_for_one_trip_alone_it_is_as_before(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock, 3)
        assert await car.trips.sync_now() == 3
        assert batches(cloud) == []
        cloud.handler = offering(taking)
        await car.client.probe()
        await drive(car, clock, 1)
        assert await car.trips.sync_now() == 1
        assert batches(cloud) == []
        assert len(cloud.to("POST", "/trips")) == 4


async def test_a_batch_has_at_most_500_trips_and_one_mebibyte(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    cloud.handler = offering(taking)
    async with vehicle(tmp_path, clock, cloud) as car:
        large = json.dumps({"trip_id": "x", "pad": "p" * 2_900}).encode()
        await car.store.outbox.put_all([NewItem("trip", f"large-{n}", large) for n in range(400)])
        cloud.handler = offering(
            lambda seen: json_answer(200, {"results": [{"trip_id": f"large-{n}", "status": 201} for n in range(400)]})
        )
        assert await car.trips.sync_now() == 400
        assert all(len(gzip.decompress(batch.body)) <= 1 << 20 for batch in batches(cloud))
        assert len(batches(cloud)) == 2
        cloud.handler = offering(taking)
        small = [NewItem("trip", f"s{n}", b'{"trip_id":"s%d"}' % n) for n in range(1_100)]
        await car.store.outbox.put_all(small)
        assert await car.trips.sync_now() == 1_100
        assert [len(ids_of(batch)) for batch in batches(cloud)[2:]] == [500, 500, 100]


async def test_each_result_means_what_it_would_alone(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        taken, there, never, later, unsaid, odd, twice = await drive(car, clock, 7)
        cloud.handler = offering(
            lambda seen: json_answer(
                207,
                {
                    "results": [
                        {"trip_id": taken, "status": 201},
                        {"trip_id": there, "status": 409},
                        {"trip_id": never, "status": 422, "detail": "no such driver"},
                        {"trip_id": later, "status": 503},
                        {"trip_id": odd, "status": 302},
                        {"trip_id": twice, "status": 201},
                        {"trip_id": twice, "status": 500},
                        {"trip_id": "of somebody else", "status": 201},
                        {"trip_id": unsaid, "status": "201"},
                        "nonsense",
                    ]
                },
            )
        )
        assert await car.trips.sync_now() == 2
        assert await left(car) == {
            never: ItemState.SET_ASIDE,
            later: ItemState.WAITING,
            unsaid: ItemState.WAITING,
            odd: ItemState.WAITING,
            twice: ItemState.WAITING,
        }
        aside = await car.store.outbox.find(never)
        assert aside is not None
        assert "no such driver" in str(aside.reason)
        cloud.handler = offering(taking)
        for _ in range(3):
            clock.tick(600.0)
            await car.client.probe()
            await car.trips.sync_now()
        assert await left(car) == {never: ItemState.SET_ASIDE}


@pytest.mark.parametrize("status", [413, 400, 422])
async def test_a_batch_that_is_refused_is_halved(
    status: int, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        made = await drive(car, clock, 8)
        poison = made[5]
        cloud.handler = offering(
            lambda seen: problem(status, "no") if poison in ids_of(seen) else taking(seen),
            lambda seen: problem(422, "Unprocessable") if seen.key == poison else json_answer(201, {}),
        )
        assert await car.trips.sync_now() == 7
        assert await left(car) == {poison: ItemState.SET_ASIDE}, "its own request says what it is"
        alone = [post.key for post in cloud.to("POST", "/trips")]
        assert set(alone) <= {poison, made[4]}, "and that of its neighbour, at the last halving"
        assert poison in alone


async def test_what_was_too_large_is_remembered(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        cloud.handler = offering(lambda seen: problem(413, "no") if len(ids_of(seen)) > 8 else taking(seen))
        await drive(car, clock, 16)
        assert await car.trips.sync_now() == 16
        first = len(batches(cloud))
        await drive(car, clock, 16)
        assert await car.trips.sync_now() == 16
        assert [len(ids_of(batch)) for batch in batches(cloud)[first:]] == [8, 8]


@pytest.mark.parametrize("status", [404, 405, 501, 406, 410, 415, 431])
async def test_a_backend_that_has_it_no_more_gets_them_one_by_one_until_health_lists_it_again(
    status: int, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        cloud.handler = offering(lambda _: problem(status, "no"))
        await drive(car, clock, 4)
        assert await car.trips.sync_now() == 4
        await drive(car, clock, 4)
        assert await car.trips.sync_now() == 4
        assert (len(batches(cloud)), len(cloud.to("POST", "/trips"))) == (1, 8)
        await car.client.probe()
        cloud.handler = offering(taking)
        await drive(car, clock, 4)
        assert await car.trips.sync_now() == 4
        assert (len(batches(cloud)), len(cloud.to("POST", "/trips"))) == (2, 8)


@pytest.mark.parametrize(
    "answer",
    [
        json_answer(200, {}),
        json_answer(200, {"results": []}),
        json_answer(200, {"results": "none"}),
        json_answer(200, [1]),
        json_answer(200, {"error": "no"}),
        Answer(204),
        Answer(201, b"created"),
        problem(409, "Conflict"),
        portal(),
        Answer(200, b'{"results": [', {"Content-Type": "application/json"}),
        Answer(200, b'{"results": []}', cut=30),
        Answer(200, b'{"results": []}', cut=0, reset=True),
        problem(503, "later"),
        problem(429, "later", headers={"Retry-After": "5"}),
    ],
    ids=lambda answer: f"{answer.status}-{answer.body[:14]!r}-{answer.cut}",
)
async def test_what_names_no_trip_acknowledges_none(
    answer: Answer, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        made = await drive(car, clock, 3)
        cloud.handler = offering(lambda _: answer, lambda _: problem(503, "later"))
        assert await car.trips.sync_now() == 0
        assert await left(car) == dict.fromkeys(made, ItemState.WAITING)
        cloud.handler = offering(taking)
        for _ in range(4):
            clock.tick(3600.0)
            await car.trips.sync_now()
        assert await left(car) == {}


async def test_a_refused_credential_holds_all_and_costs_no_try(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock, 3)
        cloud.handler = offering(lambda _: problem(401, "who?"))
        with caplog.at_level(logging.ERROR):
            assert await car.trips.sync_now() == 0
        assert {item.attempts for item in await car.store.outbox.items()} == {0}
        assert not car.client.gate.passage(clock.monotonic()).open


async def test_a_trip_that_is_damaged_on_disk_is_set_aside_and_the_others_go(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        cloud.handler = offering(
            lambda seen: problem(400, "no JSON") if b"{broken" in gzip.decompress(seen.body) else taking(seen),
            lambda seen: problem(400, "no JSON") if seen.key == "broken" else json_answer(201, {}),
        )
        await drive(car, clock, 3)
        await car.store.outbox.put(NewItem("trip", "broken", b"{broken"))
        assert await car.trips.sync_now() == 3
        assert await left(car) == {"broken": ItemState.SET_ASIDE}


async def test_a_fault_of_our_own_with_a_batch_keeps_nobody_from_going_alone(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        cloud.handler = offering(taking)

        def broken(_: object) -> bytes:
            raise RuntimeError("out of luck")

        monkeypatch.setattr("sentinel_sync.trips.batch._packed", broken)
        await drive(car, clock, 3)
        assert await car.trips.sync_now() == 3
        assert (batches(cloud), len(cloud.to("POST", "/trips"))) == ([], 3)
