"""`trips replay`: a recorded drive becomes one trip with the recording's own times, beside whatever agent runs."""

import asyncio
import json
import time
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_sync.agent import SyncAgent
from sentinel_sync.backend import BackendSettings, Fault, FaultPlan, running_server
from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.main import main
from sentinel_sync.cli.replay import replay
from sentinel_sync.settings import Settings
from sentinel_sync.store.outbox import ItemState
from sentinel_sync.store.store import Store
from sentinel_sync.trips.drive_file import read_drives
from sentinel_sync.trips.rules.drive import Drive
from tests.fakes.patience import until_true

KEY = "a-key-for-tests"
#: Ten minutes at 10 m/s, on a morning long ago.
START = 1_600_000_000.0


def csv_of(*, seconds: int = 600, every: float = 1.0, speed: str = "10.0") -> str:
    rows = (
        f"{START + number * every!r},{37.77 + number * every * 10.0 / 111_195.08:.7f},-122.41,{speed}"
        for number in range(round(seconds / every) + 1)
    )
    return "\n".join(("time,lat,lon,speed", *rows)) + "\n"


@pytest.fixture
def drive(tmp_path: Path) -> Drive:
    path = tmp_path / "drive.csv"
    path.write_text(csv_of(), encoding="utf-8")
    (drive,) = read_drives(path).drives
    return drive


def settings_for(tmp_path: Path, url: str | None = None, **further: object) -> Settings:
    cloud: dict[str, Any] = {
        "enabled": url is not None,
        "api_url": url or "http://127.0.0.1:9",
        "api_key": KEY,
        "state_dir": tmp_path / "state",
        "trip_queue_file": tmp_path / "none.json",
        "scenarios_dir": tmp_path / "scenarios",
        "profiles_dir": tmp_path / "profiles",
        "models_dir": tmp_path / "models",
        "rate_limit": 0,
        **further,
    }
    return Settings.load(None, **cloud)


@asynccontextmanager
async def backend(tmp_path: Path, *, ahead: float = 0.0, faults: FaultPlan | None = None) -> AsyncIterator[str]:
    settings = BackendSettings(folder=tmp_path / "backend", api_keys=(KEY,), clock=lambda: time.time() + ahead)
    async with running_server(settings, faults=faults) as url:
        yield url


async def stored_at(url: str) -> dict[str, dict[str, Any]]:
    headers = {"Authorization": f"Bearer {KEY}"}
    async with httpx.AsyncClient(base_url=url, headers=headers, trust_env=False) as http:
        return {trip["trip_id"]: trip for trip in (await http.get("/trips")).json()["trips"]}


async def test_the_trip_has_the_recordings_times_distance_and_speeds(tmp_path: Path, drive: Drive) -> None:
    (replayed,) = await replay([drive], settings_for(tmp_path))
    trip = replayed.trip
    assert (trip.start_time.timestamp(), trip.end_time.timestamp()) == (START, START + 600.0)
    assert trip.duration == 600.0
    assert trip.distance == pytest.approx(6000.0, rel=1e-4)
    assert trip.average_speed == pytest.approx(10.0, rel=1e-4)
    assert trip.max_speed == 10.0
    assert trip.start_location is not None
    assert (trip.start_location.lat, trip.start_location.lon) == (37.77, -122.41)
    assert trip.end_location is not None
    assert trip.end_location.lat == 37.82
    assert not trip.interrupted
    assert replayed.item is not None
    assert TripSummary.model_validate_json(replayed.item.body) == trip


async def test_a_driver_is_kept_as_a_pseudonym_only(tmp_path: Path, drive: Drive) -> None:
    (replayed,) = await replay([drive], settings_for(tmp_path, pseudonym_key="secret"), driver="driver_0815")
    assert replayed.trip.driver_id == pseudonym("driver_0815", b"secret")
    for path in (tmp_path / "state").iterdir():
        assert b"driver_0815" not in path.read_bytes()


async def test_the_trip_is_sent_at_once_where_the_backend_can_be_reached(tmp_path: Path, drive: Drive) -> None:
    async with backend(tmp_path) as url:
        (replayed,) = await replay([drive], settings_for(tmp_path, url))
        assert replayed.item is None
        assert not replayed.joined
        stored = await stored_at(url)
    assert list(stored) == [replayed.trip.trip_id]


async def test_a_wrong_clock_of_this_machine_shifts_no_replayed_trip(tmp_path: Path, drive: Drive) -> None:
    # The backend's clock is three days ahead, so the agent puts the times of its own trips right by as much.
    async with backend(tmp_path, ahead=3 * 86_400.0) as url:
        settings = settings_for(tmp_path, url)
        async with SyncAgent(settings) as agent:
            await agent.connectivity.probe_now()
            await agent.trips.start_trip()
            own = await agent.trips.end_trip()
            assert own is not None
            (joined,) = await replay([drive], settings)
            await agent.flush(10.0)
        (replayed,) = await replay([drive], settings)
        stored = await stored_at(url)
    shifted = TripSummary.model_validate({name: stored[own.trip_id][name] for name in TripSummary.model_fields})
    assert (shifted.start_time - own.start_time).total_seconds() == pytest.approx(3 * 86_400.0, abs=5.0)
    for trip in (joined.trip, replayed.trip):
        assert stored[trip.trip_id]["start_time"].startswith("2020-09-13T12:26:40")
        assert stored[trip.trip_id]["duration"] == 600.0


async def test_an_agent_that_runs_sends_it_and_keeps_its_own_trip_under_way(tmp_path: Path, drive: Drive) -> None:
    async with backend(tmp_path) as url:
        settings = settings_for(tmp_path, url)
        async with SyncAgent(settings) as agent:
            own = await agent.trips.start_trip("driver_1", (1.0, 2.0))
            agent.trips.update_trip(distance_delta=123.0)
            (replayed,) = await replay([drive], settings)
            assert replayed.joined
            assert agent.trips.trip_id == own
            ended = await agent.trips.end_trip()
            assert ended is not None
            assert (ended.trip_id, ended.distance) == (own, 123.0)
            await agent.flush(10.0)
        stored = await stored_at(url)
    assert stored.keys() == {own, replayed.trip.trip_id}
    assert [trip["interrupted"] for trip in stored.values()] == [False, False]


async def test_a_running_agent_notices_the_trip_by_itself(tmp_path: Path, drive: Drive) -> None:
    async with backend(tmp_path) as url:
        settings = settings_for(tmp_path, url)
        async with SyncAgent(settings) as agent:
            (replayed,) = await replay([drive], settings)

            async def sent() -> bool:
                return await agent.store.outbox.find(replayed.trip.trip_id) is None

            await until_true(sent, "the trip's acknowledgement")
        assert replayed.trip.trip_id in await stored_at(url)


async def test_a_trip_that_a_crash_left_open_is_not_touched_by_an_addition_from_outside(
    tmp_path: Path, drive: Drive
) -> None:
    settings = settings_for(tmp_path)
    async with SyncAgent(settings) as agent:
        own = await agent.trips.start_trip()
        agent.trips.update_trip(distance_delta=77.0)
        await agent.trips.checkpoint_step()
        await replay([drive], settings)
        async with Store(tmp_path / "state", exclusive=False) as store:
            assert await store.documents.keys("open_trip") == [""]
            assert await store.outbox.find(own) is None


async def test_a_paced_replay_takes_its_time_and_tells_how_far_it_is(tmp_path: Path) -> None:
    path = tmp_path / "short.csv"
    path.write_text(csv_of(seconds=2, every=0.5), encoding="utf-8")
    told: list[tuple[float, float]] = []
    loop = asyncio.get_running_loop()
    began = loop.time()
    (replayed,) = await replay(
        read_drives(path).drives,
        settings_for(tmp_path),
        pace=10.0,
        tell=lambda elapsed, driven: told.append((elapsed, driven)),
    )
    assert loop.time() - began >= 0.2
    assert replayed.trip.duration == 2.0
    assert [elapsed for elapsed, _ in told] == [0.5, 1.0, 1.5, 2.0]
    assert [driven for _, driven in told] == sorted(driven for _, driven in told)


async def test_a_replay_that_is_stopped_in_the_middle_records_nothing(tmp_path: Path, drive: Drive) -> None:
    began = asyncio.Event()
    task = asyncio.create_task(
        replay([drive], settings_for(tmp_path), pace=1.0, tell=lambda _elapsed, _driven: began.set())
    )
    await began.wait()
    task.cancel()
    with pytest.raises(asyncio.CancelledError):
        await task
    async with Store(tmp_path / "state") as store:
        assert await store.outbox.items() == []
        assert await store.documents.keys("open_trip") == []


async def test_a_trip_that_the_backend_refuses_is_shown_as_set_aside(tmp_path: Path, drive: Drive) -> None:
    refusing = FaultPlan([Fault(kind="status", status=422, method="POST", path="/trips")])
    async with backend(tmp_path, faults=refusing) as url:
        (replayed,) = await replay([drive], settings_for(tmp_path, url))
    assert replayed.item is not None
    assert replayed.item.state is ItemState.SET_ASIDE


def command(tmp_path: Path, content: str | None, *further: str) -> list[str]:
    config = tmp_path / "config.yaml"
    cloud = settings_for(tmp_path).cloud.model_dump(mode="json", include={"state_dir", "trip_queue_file"})
    config.write_text(json.dumps({"cloud": cloud}), encoding="utf-8")
    path = tmp_path / "drive.csv"
    if content is not None:
        path.write_text(content, encoding="utf-8")
    return ["--config", str(config), "trips", "replay", str(path), *further]


def test_the_command_says_what_it_recorded_in_words_a_person_uses(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TZ", "UTC")
    assert main(command(tmp_path, csv_of())) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "is recorded as trip_" in said
    assert "2020-09-13 12:26 to 12:36 (UTC): 10 min, 6.0 km, 36 km/h on average, 36 km/h at most" in said
    assert "601 positions" in said
    assert "sending is switched off" in said


def test_what_of_a_drive_could_not_be_used_is_said(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    head, *rows = csv_of(speed="36.0").splitlines()
    rows[50] = rows[50].replace(",37.77", ",91.77")
    rows[100] = rows[100].replace(",37.77", ",47.77")
    content = "\n".join((head, *rows[:200], *rows[400:])) + "\n"
    assert main(command(tmp_path, content)) == ExitCode.DONE
    said = capsys.readouterr().out
    assert "399 positions; 1 left out (jumps, or times that repeat or go back); 1 gap, up to 3 min" in said
    assert "  note: " in said
    assert "3.6 times" in said
    assert "note: 1 position could not be used, so left out (line 52: the latitude" in said


def test_the_command_gives_json_to_programs(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(command(tmp_path, csv_of(speed="36.0"), "--json", "--speed-factor", "1e6")) == ExitCode.DONE
    said = json.loads(capsys.readouterr().out)
    assert said["trip"]["duration"] == 600.0
    assert (said["state"], said["positions"], said["left_out"], said["gaps"]) == ("waiting", 601, 0, 0)
    assert "3.6 times" in said["doubt"]


@pytest.mark.parametrize(
    ("content", "further", "code", "why"),
    [
        (None, (), ExitCode.FAILED, "cannot read"),
        ("time,lat,lon\n1,2\n", (), ExitCode.FAILED, "line 2"),
        (csv_of(), ("--speed-factor", "0"), ExitCode.USAGE, "--speed-factor"),
        (csv_of(), ("--speed-factor", "nan"), ExitCode.USAGE, "--speed-factor"),
        (csv_of(), ("--wait", "-1"), ExitCode.USAGE, "--wait"),
        (csv_of(), ("--wait", "soon"), ExitCode.USAGE, "--wait"),
    ],
)
def test_what_cannot_be_replayed_is_one_line_and_an_exit_code(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    content: str | None,
    further: tuple[str, ...],
    code: ExitCode,
    why: str,
) -> None:
    assert main(command(tmp_path, content, *further)) == code
    said = capsys.readouterr()
    assert said.out == ""
    assert len(said.err.strip().splitlines()) == 1
    assert why in said.err
    assert not (tmp_path / "state").exists()
