"""`status`: from outside, whether or not an agent runs."""

import asyncio
import json
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sentinel_sync import CloudAPIClient, TripUploader
from sentinel_sync.settings import Settings
from sentinel_sync.status import STATUS_NAME
from sentinel_sync.store.store import DATABASE_NAME, StateLock, Store
from tests.cli.vehicle import Vehicle


@pytest.fixture
def made(vehicle: Vehicle) -> None:
    """A state folder with an outbox."""
    vehicle.queue_trips(0)


@pytest.fixture
def locked(vehicle: Vehicle, made: None) -> Iterator[None]:
    """The folder as while an agent runs on it."""
    lock = StateLock(vehicle.state)
    asyncio.run(asyncio.to_thread(lock.acquire))
    yield
    lock.release()


def _say(state: Path, **changes: object) -> None:
    """What an agent said of itself two hours ago."""
    said = {
        "version": "0.1.0",
        "process_id": 4711,
        "vehicle_id": "vehicle_7",
        "fleet_id": "fleet_alpha",
        "api_url": "https://api.example.com",
        "enabled": True,
        "power": "normal",
        "trip_id": None,
        "connectivity": {
            "status": "offline",
            "message": "offline: cannot connect",
            "unauthorized": False,
            "offline_duration": 60.0,
            "since": 60.0,
            "gate": "paused",
            "gate_reason": "cannot connect",
            "clock_skew": -90.0,
        },
        "outbox": {"waiting": 1, "sending": 0, "set_aside": 0, "size_bytes": 1, "acknowledged": 0, "dropped": {}},
        "duties": [
            {"name": "trips.upload", "crashes": 2, "total_crashes": 3, "last_error": "KeyError: 'x'"},
            {"name": "watch", "crashes": 0, "total_crashes": 0, "last_error": None},
        ],
        "salvaged_from": None,
        "updated_at": (datetime.now(UTC) - timedelta(hours=2)).isoformat(),
        "parts": {},
    }
    (state / STATUS_NAME).write_text(json.dumps({**said, **changes}))


def test_where_no_agent_ever_ran_it_says_so_and_makes_nothing(vehicle: Vehicle) -> None:
    said = vehicle.run("status")
    assert (said.code, said.out) == (1, "")
    assert "no agent has run on it yet" in said.err
    assert not vehicle.state.exists()


def test_without_an_agent_it_counts_what_waits_and_tells_how_old_the_last_word_is(vehicle: Vehicle) -> None:
    vehicle.queue_trips(3)
    _say(vehicle.state)
    out = vehicle.run("status").out
    assert "not running, last heard of 2 h ago (" in out
    assert "3 waiting, 0 being sent, 0 set aside" in out
    assert "offline" not in out, "what was two hours ago is not now"
    picture = vehicle.run("--json", "status").json
    assert (picture["running"], picture["outbox"]["waiting"]) == (False, 3)
    assert picture["age"] == pytest.approx(7200, abs=60)


def test_a_trip_that_was_cut_off_is_told_of(vehicle: Vehicle) -> None:
    async def begin() -> None:
        async with (
            Store(vehicle.state) as store,
            CloudAPIClient(settings=Settings.load(vehicle.config).cloud) as client,
        ):
            await TripUploader(client, store).start_trip()

    asyncio.run(begin())
    assert "one was cut off; it is closed and queued when an agent starts" in vehicle.run("status").out
    assert vehicle.run("status", "--json").json["open_trip"] is True


@pytest.mark.parametrize("seconds", ["0.05", "100000", "often"])
def test_an_interval_that_is_none_is_refused(vehicle: Vehicle, seconds: str) -> None:
    assert vehicle.run("status", "--watch", seconds).code == 2


@pytest.mark.usefixtures("locked")
def test_with_an_agent_durations_go_on_since_it_spoke_and_counts_are_of_now(vehicle: Vehicle) -> None:
    vehicle.queue_trips(5)
    _say(vehicle.state, trip_id="trip_1")
    facts = dict(line.split("  ", 1) for line in vehicle.run("status").out.splitlines())
    shown = {name: value.strip() for name, value in facts.items()}
    assert shown["agent"] == "running (process 4711), no change for 2 h"
    assert shown["connectivity"] == "offline: cannot connect (for 2 h 1 min)"
    assert shown["sending"] == "paused: cannot connect"
    assert shown["queue"].startswith("5 waiting")
    assert shown["trip"] == "trip_1 is under way"
    assert shown["parts"] == "trips.upload keeps crashing (3 times, last: KeyError: 'x')"
    assert shown["clock"] == "1 min 30 s behind the backend's"


@pytest.mark.usefixtures("locked")
def test_an_agent_that_has_not_spoken_yet_is_still_seen(vehicle: Vehicle) -> None:
    assert "running; it has said nothing of itself yet" in vehicle.run("status").out


@pytest.mark.usefixtures("made")
def test_a_status_file_of_another_time_is_ignored(vehicle: Vehicle) -> None:
    (vehicle.state / STATUS_NAME).write_text('{"half": ')
    said = vehicle.run("status")
    assert said.code == 0
    assert "not running: start it" in said.out


def test_a_damaged_outbox_is_shown_as_trouble(vehicle: Vehicle) -> None:
    vehicle.queue_trips(1)
    (vehicle.state / DATABASE_NAME).write_bytes(b"no database" * 1000)
    said = vehicle.run("status")
    assert said.code == 0
    assert "the outbox cannot be read: outbox.db is damaged" in said.out


def test_a_look_leaves_the_folder_as_it_was(vehicle: Vehicle) -> None:
    vehicle.queue_trips(1)
    before = {path.name: path.read_bytes() for path in vehicle.state.iterdir()}
    vehicle.run("status")
    vehicle.run("queue", "list")
    after = {
        path.name: path.read_bytes() for path in vehicle.state.iterdir() if path.suffix not in {".db-wal", ".db-shm"}
    }
    assert after == before
