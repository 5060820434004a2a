"""Sending trips: each once by its id, with its times put right, and nobody held up by anybody else."""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path

import pytest

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.trips.trip_uploader import TripUploader
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, json_answer, portal, problem, settings_for
from tests.fakes.patience import until_true
from tests.fakes.wire_rules import Seen
from tests.scenarios.recording import COARSE, DRIVER, FINE, Vehicle, vehicle


async def drive(car: Vehicle, clock: FakeClock, seconds: float = 60.0) -> TripSummary:
    await car.trips.start_trip(driver_id=DRIVER, location=FINE)
    clock.tick(seconds)
    car.trips.update_trip(500.0, 20.0, 0.25, "warning")
    summary = await car.trips.end_trip(location=FINE)
    assert summary is not None
    return summary


def sent(cloud: FakeCloud) -> list[Seen]:
    return cloud.to("POST", "/trips")


async def test_a_trip_arrives_as_the_contract_has_it(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        summary = await drive(car, clock)
        assert await car.trips.sync_now() == 1
        (post,) = sent(cloud)
        assert post.key == summary.trip_id
        body = post.json
        times = {name: datetime.fromisoformat(body.pop(name)) for name in ("start_time", "end_time")}
        assert times["end_time"] - times["start_time"] == summary.end_time - summary.start_time
        assert all(moment.tzinfo is not None for moment in times.values())
        assert body == {
            "trip_id": summary.trip_id,
            "duration": 60.0,
            "distance": 500.0,
            "average_speed": pytest.approx(500.0 / 60.0),
            "max_speed": 20.0,
            "alert_count": 1,
            "critical_alert_count": 0,
            "warning_alert_count": 1,
            "info_alert_count": 0,
            "average_risk_score": 0.25,
            "max_risk_score": 0.25,
            "driver_id": car.trips.pseudonym_of(DRIVER),
            "start_location": COARSE,
            "end_location": COARSE,
            "interrupted": False,
            "schema_version": 1,
        }


@pytest.mark.parametrize(
    "answer", [json_answer(201), json_answer(200), problem(409, "Conflict")], ids=["201", "200", "409"]
)
async def test_done_and_there_already_are_both_an_acknowledgement(
    answer: Answer, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    cloud.script("POST", "/trips", answer)
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock)
        await car.trips.sync_now()
        statistics = await car.trips.get_statistics()
        assert (statistics["queued"], statistics["uploaded"]) == (0, 1)


async def test_lost_answers_are_asked_for_again_under_the_same_key_across_restarts(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    cloud.script("POST", "/trips", Answer(201, b"{}", cut=5), Answer(201, b"{}", cut=5, reset=True))
    async with vehicle(tmp_path, clock, cloud) as car:
        summary = await drive(car, clock)
        await car.trips.sync_now()
    for _ in range(2):
        clock.tick(600.0)
        async with vehicle(tmp_path, clock, cloud) as car:
            await car.trips.sync_now()
    assert [post.key for post in sent(cloud)] == [summary.trip_id] * 3
    assert len({post.body for post in sent(cloud)}) == 1, "and with the same content"


async def test_one_refused_trip_is_set_aside_and_the_others_go(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        trips = [await drive(car, clock) for _ in range(5)]
        poison = trips[0].trip_id
        cloud.handler = lambda seen: (
            problem(422, "Unprocessable", "no") if seen.key == poison else json_answer(201, {"status": "ok"})
        )
        assert await car.trips.sync_now() == 4
        statistics = await car.trips.get_statistics()
        assert (statistics["uploaded"], statistics["set_aside"], statistics["queued"]) == (4, 1, 0)
        clock.tick(86_400.0)
        assert await car.trips.sync_now() == 0
        assert len(sent(cloud)) == 5, "what can't succeed is not tried again"


@pytest.mark.parametrize("body", [b"", b"{", b"[]", b'{"trip_id": 1}', b"\xff\xfe"])
async def test_a_poisoned_entry_never_blocks_the_others(
    body: bytes, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    clock.set_wall(1_000_000.0)  # so that each body has to be read, to put its times right
    cloud.handler = with_time(lambda: TRUE_TIME)
    async with vehicle(tmp_path, clock, cloud) as car:
        await car.store.outbox.put(NewItem("trip", "poison", body, stamp=car.timekeeper.stamp()))
        good = [await drive(car, clock) for _ in range(3)]
        assert await car.trips.sync_now() == 3
        assert {post.key for post in sent(cloud)} == {trip.trip_id for trip in good}
        (left,) = await car.store.outbox.items()
        assert (left.key, left.state) == ("poison", ItemState.SET_ASIDE)


async def test_upload_trips_false_holds_them_and_does_not_spin(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud, upload_trips=False) as car:
        await drive(car, clock)
        assert await car.trips.sync_now() == 0
        assert await car.trips.step() == 300.0
        assert cloud.requests == []
        assert (await car.trips.get_statistics())["queued"] == 1
    async with vehicle(tmp_path, clock, cloud) as car:
        assert await car.trips.sync_now() == 1


async def test_an_idle_uploader_comes_back_after_the_sync_interval(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        assert await car.trips.step() == 300.0
        assert cloud.requests == [], "and asks nobody anything"
    async with vehicle(tmp_path, clock, cloud, sync_interval=42.0) as car:
        assert await car.trips.step() == 42.0


async def test_a_paused_backend_is_asked_again_when_it_said(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    cloud.script("POST", "/trips", problem(429, headers={"Retry-After": "70"}))
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock)
        wait = await car.trips.step()
        assert 70.0 <= wait <= 77.0, "and a random part on top"
        clock.tick(wait)
        assert await car.trips.step() == 300.0
        assert (await car.trips.get_statistics())["uploaded"] == 1


# --- times ---

TRUE_TIME = 1_790_000_000.0


def with_time(now: Callable[[], float], header: str = "time") -> Callable[[Seen], Answer]:
    """A backend that knows what time it is."""

    def answer(seen: Seen) -> Answer:
        moment = datetime.fromtimestamp(now(), UTC)
        if seen.path == "/health":
            if header == "time":
                return json_answer(200, {"status": "ok", "time": moment.isoformat()})
            return json_answer(200, {"status": "ok"}, {"Date": moment.strftime("%a, %d %b %Y %H:%M:%S GMT")})
        return json_answer(201)

    return answer


def times(post: Seen) -> tuple[float, float]:
    start, end = (datetime.fromisoformat(post.json[name]).timestamp() for name in ("start_time", "end_time"))
    return start, end


@pytest.mark.parametrize("header", ["time", "Date"])
@pytest.mark.parametrize("wrong", [1_000_000.0, TRUE_TIME - 3_600.0, TRUE_TIME + 86_400.0], ids=["1970", "-1h", "+1d"])
async def test_times_are_put_right_by_the_backends_before_they_go(
    header: str, wrong: float, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    began = clock.monotonic()
    cloud.handler = with_time(lambda: TRUE_TIME + clock.monotonic() - began, header)
    clock.set_wall(wrong)
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock, 60.0)
        clock.tick(500.0)
        assert await car.trips.sync_now() == 1
        start, end = times(sent(cloud)[0])
        assert start == pytest.approx(TRUE_TIME, abs=1.5)
        assert end == pytest.approx(TRUE_TIME + 60.0, abs=1.5)
        assert [seen.path for seen in cloud.requests] == ["/health", "/trips"], "asked first, and once"


async def test_a_clock_that_was_set_later_puts_times_right_too(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    """No time in any answer: NTP came, and whoever sets a clock means to put it right."""
    clock.set_wall(1_000_000.0)
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock, 60.0)
        clock.tick(100.0)
        clock.set_wall(TRUE_TIME)
        await car.trips.sync_now()
        start, end = times(sent(cloud)[0])
        assert start == pytest.approx(TRUE_TIME - 160.0, abs=0.01)
        assert end == pytest.approx(TRUE_TIME - 100.0, abs=0.01)


async def test_times_of_an_earlier_boot_are_put_right_by_what_was_seen_in_it(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    began = clock.monotonic()
    cloud.handler = with_time(lambda: TRUE_TIME + clock.monotonic() - began)
    clock.set_wall(1_000_000.0)
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock, 60.0)
        await car.trips.sync_now()
        await drive(car, clock, 60.0)  # and off before it could be sent
        driven = clock.monotonic() - began
    clock.reboot("boot-2")
    clock.set_wall(1_000_500.0)
    cloud.handler = with_time(lambda: TRUE_TIME + 5_000.0)
    async with vehicle(tmp_path, clock, cloud) as car:
        await car.trips.sync_now()
    start, end = times(sent(cloud)[1])
    assert end == pytest.approx(TRUE_TIME + driven, abs=1.0)
    assert start == pytest.approx(TRUE_TIME + driven - 60.0, abs=1.0)


async def test_right_times_are_left_as_they_are(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    cloud.handler = with_time(lambda: clock.now() + 5.0)
    async with vehicle(tmp_path, clock, cloud) as car:
        summary = await drive(car, clock)
        await car.trips.sync_now()
        assert TripSummary.model_validate_json(sent(cloud)[0].body) == summary


async def test_a_backend_that_names_no_time_is_asked_once_not_before_every_sync(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        for _ in range(3):
            await drive(car, clock)
            await car.trips.sync_now()
        assert [seen.path for seen in cloud.requests] == ["/health", *["/trips"] * 3]


async def test_a_login_page_gets_no_trip(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    cloud.handler = lambda _: portal()
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock)
        assert await car.trips.sync_now() == 0
        assert sent(cloud) == []
        assert (await car.trips.get_statistics())["queued"] == 1


@pytest.mark.parametrize("time", ["0001-01-01T00:00:00+23:59", "9999-12-31T23:59:59Z", "1970-01-01T00:00:00Z", "soon"])
async def test_a_backend_with_a_broken_clock_puts_nothing_wrong(
    time: str, tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    cloud.handler = lambda seen: json_answer(200 if seen.path == "/health" else 201, {"status": "ok", "time": time})
    async with vehicle(tmp_path, clock, cloud) as car:
        summary = await drive(car, clock)
        assert await car.trips.sync_now() == 1
        assert TripSummary.model_validate_json(sent(cloud)[0].body) == summary


# --- in the background ---


async def test_the_background_upload_sends_each_trip_as_it_ends(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    settings = settings_for(cloud, state_dir=tmp_path / "state")
    async with CloudAPIClient(settings=settings, clock=clock) as client:
        trips = TripUploader(client, clock=clock)
        trips.start_background_upload()
        for count in (1, 2):
            await trips.start_trip()
            await trips.end_trip()
            await cloud.received(count, path="/trips")
        await trips.stop_background_upload()
        await trips.start_trip()
        await trips.end_trip()
        assert (await trips.get_statistics())["queued"] >= 1, "what is queued stays queued"
        assert len(sent(cloud)) == 2


async def test_the_background_upload_tries_again_after_the_interval(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        await drive(car, clock)
    settings = settings_for(cloud, state_dir=tmp_path / "state")
    async with CloudAPIClient(settings=settings, clock=clock) as client:
        trips = TripUploader(client, clock=clock)
        await trips.start_background_upload()
        await cloud.received(1, path="/trips")

        async def sent_and_waiting() -> bool:
            return (await trips.get_statistics())["uploaded"] == 1 and clock.sleepers == 1

        await until_true(sent_and_waiting)
        await trips._store.outbox.put(NewItem("trip", "from another process", b"{}"))
        await clock.advance(299.0)
        assert len(sent(cloud)) == 1
        await clock.advance(1.5)
        await cloud.received(2, path="/trips")


async def test_closing_the_client_ends_a_background_upload(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    settings = settings_for(cloud, state_dir=tmp_path / "state")
    async with CloudAPIClient(settings=settings, clock=clock) as client:
        TripUploader(client, clock=clock).start_background_upload()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sync.")]


async def test_under_an_agent_the_background_upload_is_already_there(
    tmp_path: Path, clock: FakeClock, cloud: FakeCloud
) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        await car.trips.start_background_upload()
        await drive(car, clock)
        await car.trips.stop_background_upload()
        assert cloud.requests == []


async def test_a_trip_put_by_another_process_is_sent_too(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> None:
    async with vehicle(tmp_path, clock, cloud) as car:
        await car.store.outbox.put(NewItem("trip", "theirs", b"{}"))
        assert await car.trips.sync_now() == 1

        async def gone() -> bool:
            return (await car.store.outbox.counts()).unsent == 0

        await until_true(gone)
