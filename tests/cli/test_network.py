"""`network` on a real state folder, without an agent and beside one."""

import asyncio
import json
from datetime import UTC, datetime
from typing import Any

import pytest

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import Link, TrafficClass
from sentinel_sync.settings import CloudSettings
from sentinel_sync.status import STATUS_NAME
from sentinel_sync.store.store import StateLock, Store
from tests.cli.vehicle import Vehicle

MEGABYTE = 1_000_000
BUDGET = {"cellular": {"day": 50 * MEGABYTE, "month": 1000 * MEGABYTE}}


@pytest.fixture(autouse=True)
def no_bus(monkeypatch: pytest.MonkeyPatch) -> None:
    """The network of the machine that tests is not to be seen."""
    monkeypatch.setenv("DBUS_SYSTEM_BUS_ADDRESS", "unix:path=/nowhere/bus")


@pytest.fixture
def used(vehicle: Vehicle) -> Vehicle:
    """A vehicle that has used 46 MB over its modem and 2 MB over Wi-Fi today."""
    vehicle.queue_trips(0)

    async def use() -> None:
        async with Store(vehicle.state) as store:
            policy = TransferPolicy(store.documents, CloudSettings(network="unmetered"), clock=SystemClock())
            for link, used_bytes in ((Link.CELLULAR, 46 * MEGABYTE), (Link.WIFI, 2 * MEGABYTE)):
                await policy.set_network("auto", link)
                policy.count(0, used_bytes)
            await policy.prepare()
            await policy.close()

    asyncio.run(use())
    return vehicle


def lines(text: str) -> list[list[str]]:
    return [line.split() for line in text.splitlines()]


def test_where_no_agent_ever_ran_it_says_so_and_makes_nothing(vehicle: Vehicle) -> None:
    for action in ("show", "metered"):
        said = vehicle.run("network", action)
        assert (said.code, said.out) == (1, "")
        assert "no agent has run on it yet" in said.err
    assert not vehicle.state.exists()


def test_it_shows_the_network_what_was_used_and_what_waits(used: Vehicle) -> None:
    used.configure(data_budget=BUDGET)
    used.run("network", "unmetered", "--link", "cellular")
    out = used.run("network", "show").out
    assert "network  not metered (the command line says so)" in out
    assert "link     cellular" in out
    assert "not running: as this command sees it" in out
    assert "46 MB of the 50 MB per day for the cellular link are used, and recordings stop at 90%" in out
    assert "trips wait" not in out
    shown = lines(out)
    assert ["LINK", "PERIOD", "USED", "BUDGET", "LEFT", "BEGINS", "ANEW"] in shown
    day = next(row for row in shown if row[:2] == ["cellular", "day"])
    assert day[2:9] == ["46", "MB", "50", "MB", "4", "MB", "in"]
    assert ["wifi", "month", "2", "MB", "none"] in shown


def test_as_json_it_has_all_of_it(used: Vehicle) -> None:
    used.configure(data_budget=BUDGET)
    used.run("network", "metered", "--link", "cellular")
    said = used.run("network", "show", "--json").json
    assert (said["agent_running"], said["metered"], said["link"]) == (False, True, "cellular")
    assert said["source"] == "the command line says so"
    assert said["word"] == {"metering": "metered", "link": "cellular"}
    assert set(said["held"]) == {"scenarios", "models"}
    day = next(use for use in said["budgets"] if use["period"] == "day")
    assert (day["used_bytes"], day["limit_bytes"]) == (46 * MEGABYTE, 50 * MEGABYTE)
    assert 0.0 < day["resets_at"] - datetime.now(UTC).timestamp() <= 86_400.0
    assert {use["link"]: use["day_bytes"] for use in said["usage"]} == {
        "cellular": 46 * MEGABYTE,
        "wifi": 2 * MEGABYTE,
    }


def test_where_nothing_was_used_and_nothing_is_set_it_says_that(vehicle: Vehicle) -> None:
    vehicle.queue_trips(0)
    out = vehicle.run("network", "show").out
    assert "not metered (nobody says otherwise)" in out
    assert "waits    nothing has to" in out
    assert "no data was used in this month" in out


def test_a_word_stands_until_it_is_taken_back(used: Vehicle) -> None:
    said = used.run("network", "metered")
    assert "the network counts as metered, until `" in said.out
    assert "the next agent goes by it" in said.out
    assert "recordings wait for an unmetered one" in used.run("network", "show").out
    assert "taken back" in used.run("network", "auto").out
    assert used.run("network", "show", "--json").json["word"] is None
    said = used.run("network", "auto", "--link", "ethernet")
    assert "nothing is said of its price, the link as ethernet, until" in said.out
    assert used.run("network", "show", "--json").json["link"] == "ethernet"
    assert used.run("network", "auto", "--json").json == {"metering": "auto", "link": None, "agent_running": False}


def test_showing_changes_nothing(used: Vehicle) -> None:
    before = durable(used)
    used.run("network", "show")
    assert durable(used) == before


def durable(vehicle: Vehicle) -> dict[str, bytes]:
    """The state folder without what SQLite makes and removes as it pleases."""
    return {
        path.name: path.read_bytes() for path in vehicle.state.iterdir() if path.suffix not in {".db-wal", ".db-shm"}
    }


def test_a_link_that_is_none_is_refused_in_one_line(used: Vehicle) -> None:
    said = used.run("network", "metered", "--link", "pigeon")
    assert said.code == 2
    assert "invalid choice: 'pigeon' (choose from" in said.err
    assert len(said.err.splitlines()) == 1


def test_with_an_agent_its_own_view_is_shown(used: Vehicle) -> None:
    _say(
        used,
        {
            "link": "wifi",
            "metered": True,
            "source": "the host says so",
            "budgets": [],
            "held": {"scenarios": "a trip is under way", "a kind of years to come": "?"},
        },
    )
    lock = StateLock(used.state)
    lock.acquire()
    try:
        out = used.run("network", "show").out
        assert "network  metered (the host says so)" in out
        assert "waits    a trip is under way" in out
        assert "agent    running" in out
        assert "the running agent notices at once" in used.run("network", "auto").out
    finally:
        lock.release()


async def test_a_running_agents_desk_hears_the_command(used: Vehicle) -> None:
    async with Store(used.state) as store:
        clock = SystemClock()
        policy = TransferPolicy(store.documents, CloudSettings(), clock=clock)
        assert await policy.blocked_reason(TrafficClass.MODELS) is None
        said = await asyncio.to_thread(used.run, "network", "metered")
        assert said.code == 0
        await policy.step()
        assert "the command line says so" in (await policy.blocked_reason(TrafficClass.MODELS) or "")
        await policy.close()


def _say(vehicle: Vehicle, traffic: dict[str, Any]) -> None:
    """What a running agent says of itself."""
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
            "status": "online",
            "message": "online",
            "unauthorized": False,
            "offline_duration": 0.0,
            "since": 60.0,
            "gate": "open",
            "gate_reason": "",
            "clock_skew": None,
        },
        "outbox": {"waiting": 0, "sending": 0, "set_aside": 0, "size_bytes": 1, "acknowledged": 0, "dropped": {}},
        "duties": [],
        "salvaged_from": None,
        "updated_at": datetime.now(UTC).isoformat(),
        "traffic": traffic,
    }
    (vehicle.state / STATUS_NAME).write_text(json.dumps(said))
