"""`once`: 0 all sent, 75 something is left."""

import asyncio
from pathlib import Path
from unittest.mock import AsyncMock, create_autospec

from sentinel_sync.agent import SyncAgent
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.once import _sync_all
from sentinel_sync.status import RemainingWork
from sentinel_sync.store.store import StateLock
from tests.cli.backend import Backend
from tests.cli.vehicle import Vehicle


def test_sends_all_and_exits_0(vehicle: Vehicle, backend: Backend) -> None:
    keys = vehicle.queue_trips(3)
    said = vehicle.run("once")
    assert (said.code, said.out, said.err) == (0, "3 items sent; nothing is left\n", "")
    assert sorted(backend.received) == keys


def test_exits_75_and_keeps_all_where_the_backend_is_down(vehicle: Vehicle) -> None:
    vehicle.queue_trips(2)
    vehicle.configure(api_url="http://127.0.0.1:1")
    said = vehicle.run("once")
    assert said.code == ExitCode.LEFT
    assert said.out.startswith("0 items sent; not all\n2 items still to be sent: ")
    assert "cannot connect" in said.out
    assert vehicle.run("queue", "list", "--json").json["total"] == 2


def test_a_refused_key_is_named_as_the_reason(vehicle: Vehicle, backend: Backend) -> None:
    vehicle.queue_trips(1)
    backend.key = "another"
    said = vehicle.run("once", "--json")
    assert said.code == ExitCode.LEFT
    assert said.json["left"] == said.json["waiting"] == 1
    assert "credential is refused" in said.json["why"]


def test_an_item_that_the_backend_rejects_is_left_and_said_to_be_set_aside(vehicle: Vehicle, backend: Backend) -> None:
    vehicle.queue_trips(1)
    backend.trip_status = 422
    said = vehicle.run("once")
    assert said.code == ExitCode.LEFT
    assert "1 item set aside" in said.out
    (item,) = vehicle.run("queue", "list", "--state", "set-aside", "--json").json["items"]
    assert "422" in item["reason"]


def test_gives_up_after_its_timeout(vehicle: Vehicle, backend: Backend) -> None:
    vehicle.queue_trips(1)
    backend.trip_status = 503
    said = vehicle.run("once", "--timeout", "0.5", "--json")
    assert (said.code, said.json["sent"], said.json["waiting"]) == (75, 0, 1)


async def test_goes_on_for_as_long_as_more_of_a_recording_is_taken_and_no_longer() -> None:
    agent = create_autospec(SyncAgent, instance=True)
    agent.run_once.return_value = RemainingWork(waiting=1)
    agent.store.outbox.counts = AsyncMock(return_value=RemainingWork(waiting=1))
    # It begins anew after the third look: what comes then came before.
    agent.scenarios.get_scenarios = AsyncMock(side_effect=[[{"sent_bytes": sent}] for sent in (0, 100, 300, 200, 250)])
    await _sync_all(agent, None)
    assert agent.run_once.await_count == 3


def test_while_switched_off_it_says_so_and_sends_nothing(vehicle: Vehicle, backend: Backend) -> None:
    vehicle.queue_trips(1)
    vehicle.configure(enabled=False)
    said = vehicle.run("once")
    assert said.code == ExitCode.LEFT
    assert "cloud.enabled is false" in said.err
    assert not backend.received


def test_a_folder_that_another_agent_holds_is_one_line_and_73(vehicle: Vehicle, tmp_path: Path) -> None:
    vehicle.queue_trips(1)
    lock = StateLock(vehicle.state)
    asyncio.run(asyncio.to_thread(lock.acquire))
    try:
        said = vehicle.run("once")
    finally:
        lock.release()
    assert said.code == ExitCode.OCCUPIED
    assert said.err.startswith("sentinel-sync: error: another agent (process ")
    assert said.err.count("\n") == 1
    assert str(tmp_path) in said.err
