"""The extension `vehicle-report`: what the backend is told of a vehicle, when, and what it asks for in answer."""

import json
import shutil
from collections.abc import AsyncIterator, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from typing import Any

import httpx
import pytest

from sentinel_sync.agent import SyncAgent
from sentinel_sync.backend import BackendSettings
from sentinel_sync.backend.bodies import VehicleReport
from sentinel_sync.backend.settings import Extensions
from sentinel_sync.base.tasks import Supervisor
from sentinel_sync.composition import Components, build
from sentinel_sync.settings import CloudSettings, Settings
from sentinel_sync.status_reporter import StatusReporter
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.vehicle_report import REPORT_INTERVAL, VehicleReporter
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud, json_answer, problem, settings_for
from tests.fakes.patience import until_true
from tests.fakes.reference_backend import reference_backend
from tests.fakes.wire_rules import Seen

FIRST = min((FIXTURES / "scenarios").iterdir())
PATH = f"/vehicles/{VEHICLE}/status"


def offering(answer: Callable[[], Answer], *, extensions: tuple[str, ...] = ("vehicle-report",)) -> Any:
    def handler(seen: Seen) -> Answer:
        if (seen.method, seen.path) == ("GET", "/health"):
            return json_answer(200, {"status": "ok", "extensions": list(extensions)})
        return answer() if seen.path == PATH else json_answer(201, {})

    return handler


class Reporting:
    """The parts of an agent, and its reporter, by hand."""

    def __init__(self, parts: Components, clock: FakeClock, seed: int = 1) -> None:
        self.parts = parts
        self.clock = clock
        self.board = StatusReporter(parts, Supervisor(clock, Random(1)), lambda: "normal", clock)
        self.reporter = VehicleReporter(parts, self.board.look, clock, Random(seed))
        self.board.subscribe(self.reporter.note)

    async def seconds_later(self, seconds: float) -> float:
        self.clock.tick(seconds)
        await self.board.write()
        return await self.reporter.step()


@pytest.fixture
async def vehicle(tmp_path: Path, clock: FakeClock, cloud: FakeCloud) -> AsyncIterator[Reporting]:
    cloud.handler = offering(lambda: json_answer(200, {}))
    made = settings_for(cloud, **folders(tmp_path))
    async with AsyncExitStack() as stack:
        parts = await build(made, stack, http=None, clock=clock, rng=Random(1))
        reporting = Reporting(parts, clock)
        await reporting.board.begin()
        yield reporting


def folders(tmp_path: Path) -> dict[str, Any]:
    return {
        "enabled": True,
        "state_dir": tmp_path / "state",
        "trip_queue_file": tmp_path / "trip_queue.json",
        "scenarios_dir": tmp_path / "scenarios",
        "profiles_dir": tmp_path / "profiles",
        "models_dir": tmp_path / "models",
        "compress_videos": False,
        "scenario_settle_time": 0.0,
        "scenario_scan_interval": 1.0,
        "reconnect_spread": 0.0,
    }


def reports(cloud: FakeCloud) -> list[dict[str, Any]]:
    return [seen.json for seen in cloud.to("PUT", PATH)]


async def test_nothing_is_reported_to_a_backend_that_does_not_ask(vehicle: Reporting, cloud: FakeCloud) -> None:
    cloud.handler = offering(lambda: json_answer(200, {}), extensions=())
    await vehicle.parts.foundation.client.probe()
    await vehicle.seconds_later(1.0)
    assert reports(cloud) == []


async def test_a_report_is_as_the_contract_has_it(vehicle: Reporting, cloud: FakeCloud) -> None:
    outbox = vehicle.parts.foundation.store.outbox
    await outbox.put(NewItem("trip", "one", b"{}"))
    vehicle.clock.tick(30.0)
    await outbox.put(NewItem("trip", "two", b"{}"))
    item = await outbox.find("two")
    assert item is not None
    await outbox.set_aside(item.seq, "422")
    await vehicle.parts.foundation.client.probe()
    await vehicle.reporter.step()
    (report,) = reports(cloud)
    VehicleReport.model_validate_json(json.dumps(report))
    assert report["schema_version"] == 1
    assert (report["agent"]["starts"], report["agent"]["last_stop"]) == (1, "unknown")
    assert (report["outbox"]["waiting"], report["outbox"]["set_aside"]) == (1, 1)
    assert report["outbox"]["oldest_age"] == pytest.approx(30.0)
    assert report["scenarios"] == {"waiting": 0, "on_request": 0, "set_aside": 0, "uploaded": 0}
    assert report["disk"]["free"] > 0
    assert set(report["data_used"]) == {"day", "month"}
    assert "certificate_expires_at" not in report


async def test_news_is_told_at_most_once_a_minute_and_without_news_once_an_hour(
    vehicle: Reporting, cloud: FakeCloud
) -> None:
    await vehicle.parts.foundation.client.probe()
    await vehicle.reporter.step()
    outbox = vehicle.parts.foundation.store.outbox
    await outbox.put(NewItem("trip", "one", b"{}"))
    wait = await vehicle.seconds_later(10.0)
    assert 50.0 <= wait <= 65.0
    assert len(reports(cloud)) == 1
    await vehicle.seconds_later(wait)
    assert len(reports(cloud)) == 2
    wait = await vehicle.seconds_later(76.0)
    assert len(reports(cloud)) == 2, "nothing has changed since"
    assert 0.75 * REPORT_INTERVAL <= wait + 76.0 <= REPORT_INTERVAL
    await vehicle.seconds_later(wait)
    assert len(reports(cloud)) == 3


async def test_the_backend_says_how_often_and_what_time_it_is(vehicle: Reporting, cloud: FakeCloud) -> None:
    said = {"report_interval": 600, "probe_interval": 120, "time": "2030-01-01T00:00:00Z", "wanted": [7, {"x": 1}]}
    cloud.handler = offering(lambda: json_answer(200, said))
    await vehicle.parts.foundation.client.probe()
    assert 450.0 <= await vehicle.reporter.step() <= 600.0
    assert vehicle.parts.foundation.timekeeper.skew() is not None
    assert vehicle.parts.connectivity._state._interval == 120


async def test_vehicles_that_started_together_do_not_report_in_step(vehicle: Reporting, cloud: FakeCloud) -> None:
    await vehicle.parts.foundation.client.probe()
    waits = [await Reporting(vehicle.parts, vehicle.clock, seed).reporter.step() for seed in range(8)]
    assert max(waits) - min(waits) > 60.0


@pytest.mark.parametrize("body", [{"report_interval": 0}, {"report_interval": 1e12}, {"report_interval": "soon"}, {}])
async def test_an_interval_that_makes_no_sense_is_bounded_or_ignored(
    body: dict[str, object], vehicle: Reporting, cloud: FakeCloud
) -> None:
    cloud.handler = offering(lambda: json_answer(200, body))
    await vehicle.parts.foundation.client.probe()
    assert 60.0 <= await vehicle.reporter.step() <= 86_400.0


async def test_a_list_of_wishes_without_end_is_taken_up_a_hundred_at_a_time(
    vehicle: Reporting, cloud: FakeCloud
) -> None:
    wanted = [{"scenario_id": f"{number}"} for number in range(5_000)]
    cloud.handler = offering(lambda: json_answer(200, {"wanted": wanted}))
    await vehicle.parts.foundation.client.probe()
    await vehicle.reporter.step()
    assert len(vehicle.parts.scenarios._wanted) == 100


@pytest.mark.parametrize("status", [404, 405, 501])
async def test_a_backend_that_has_it_no_more_is_not_asked_again(
    status: int, vehicle: Reporting, cloud: FakeCloud
) -> None:
    cloud.handler = offering(lambda: problem(status))
    await vehicle.parts.foundation.client.probe()
    await vehicle.reporter.step()
    await vehicle.seconds_later(7200.0)
    assert len(reports(cloud)) == 1
    assert vehicle.parts.foundation.client.gate.passage(vehicle.clock.monotonic()).open
    cloud.handler = offering(lambda: json_answer(200, {}))
    await vehicle.parts.foundation.client.probe()
    await vehicle.seconds_later(1.0)
    assert len(reports(cloud)) == 2, "until /health lists it again"


@pytest.mark.parametrize("answer", [problem(503), problem(422), Answer(200, b"<html>", {"Content-Type": "text/html"})])
async def test_what_fails_is_tried_again_later_and_not_at_once(
    answer: Answer, vehicle: Reporting, cloud: FakeCloud
) -> None:
    cloud.handler = offering(lambda: answer)
    await vehicle.parts.foundation.client.probe()
    assert await vehicle.reporter.step() >= 60.0
    cloud.handler = offering(lambda: json_answer(200, {}))
    await vehicle.seconds_later(7200.0)
    assert len(reports(cloud)) == 2


async def test_a_life_says_how_the_one_before_ended(vehicle: Reporting) -> None:
    lives = [Reporting(vehicle.parts, vehicle.clock) for _ in range(3)]
    await lives[0].board.begin()  # the one of the fixture never ended: a crash
    await lives[0].board.end()
    await lives[1].board.begin()
    vehicle.clock.reboot("boot-2")
    await lives[2].board.begin()  # nor did the one before, and the machine was started anew
    said = [(await life.board.look()).life for life in lives]
    assert [(life.starts, life.last_stop) for life in said if life is not None] == [
        (2, "crash"), (3, "clean"), (4, "power"),
    ]  # fmt: skip


@pytest.mark.parametrize("once", [False, True])
async def test_what_was_asked_for_while_the_vehicle_was_off_goes_at_its_next_start(tmp_path: Path, once: bool) -> None:
    backend = BackendSettings(
        folder=tmp_path / "backend", api_keys=(API_KEY,), extensions=Extensions(scenario_catalogue=True)
    )
    shutil.copytree(FIRST, tmp_path / "scenarios" / FIRST.name)
    with reference_backend(backend) as url:
        cloud = CloudSettings.model_validate(
            {"api_url": url, "api_key": API_KEY, "vehicle_id": VEHICLE, "fleet_id": FLEET} | folders(tmp_path)
        )
        async with httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {API_KEY}"}) as operator:

            async def shown() -> dict[str, Any]:
                answer: dict[str, Any] = (await operator.get(f"/scenarios/{FIRST.name}")).json()
                return answer

            async with SyncAgent(Settings(cloud=cloud)) as agent:
                await agent.scenarios.set_consent(True)
                statistics = agent.scenarios.get_statistics

                async def is_announced() -> bool:
                    return (await statistics())["on_request"] == 1

                await until_true(is_announced)
            assert (await shown())["parts"] == []
            assert (await operator.put(f"/scenarios/{FIRST.name}/wanted")).status_code == 204
            assert (await operator.put("/scenarios/20990101_000000/wanted")).status_code == 404
            async with SyncAgent(Settings(cloud=cloud)) as agent:

                async def is_there() -> bool:
                    return bool((await shown())["complete"])

                if once:  # one run has heard and given
                    await agent.run_once()
                    assert await is_there()
                await until_true(is_there)
            caller = {"X-Fleet-ID": FLEET, "X-Vehicle-ID": "desk", "X-Request-ID": "0" * 32}
            status = (await operator.get(PATH, headers=caller)).json()
            assert status["report"]["agent"]["last_stop"] == "clean"
            assert status["report"]["agent"]["starts"] == 2
