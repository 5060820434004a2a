"""The whole agent in a host's loop, over a real socket: trips arrive, whatever happens to the network or the power."""

import asyncio
import errno
import json
import logging
import sqlite3
import threading
from pathlib import Path
from typing import Any

import pytest
import yaml

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import ConfigurationError, SentinelSyncError, StateLockedError, StoreError
from sentinel_sync.base.tasks import PeriodicTaskStatus
from sentinel_sync.settings import Settings
from sentinel_sync.status import AgentStatus
from sentinel_sync.store import schema
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import DATABASE_NAME, Store, is_locked
from tests.conftest import FIXTURES
from tests.fakes.cloud import API_KEY, Answer, FakeCloud, json_answer, problem, refused, settings_for, well_behaved
from tests.fakes.patience import until, until_true
from tests.fakes.wire_rules import Seen


def settings(folder: Path, cloud: FakeCloud, **overrides: Any) -> Settings:
    known = {
        "enabled": True,
        "state_dir": folder / "state",
        "trip_queue_file": folder / "data" / "trip_queue.json",
        "scenarios_dir": folder / "scenarios",
        "profiles_dir": folder / "profiles",
        "models_dir": folder / "models",
        "reconnect_spread": 0.05,
        "pseudonym_key": "the fleet's own secret",
    }
    return Settings(cloud=settings_for(cloud, **(known | overrides)))


async def drive(agent: SyncAgent) -> str:
    trip_id = await agent.trips.start_trip(driver_id="driver_123", location={"lat": 37.774929, "lon": -122.419416})
    agent.trips.update_trip(distance_delta=100.0, speed=15.0, risk_score=0.3, alert_urgency="warning")
    summary = await agent.trips.end_trip()
    assert summary is not None
    assert summary.trip_id == trip_id
    return trip_id


def posted(cloud: FakeCloud) -> list[str]:
    return [seen.key or "" for seen in cloud.to("POST", "/trips")]


def refuse_inotify() -> None:
    raise OSError(errno.EMFILE, "Too many open files")


def passed() -> float:
    return asyncio.get_running_loop().time()


# --- the main job ---


async def test_the_documented_snippet_brings_a_trip_to_the_backend(tmp_path: Path, cloud: FakeCloud) -> None:
    config = tmp_path / "vehicle.yaml"
    cloud_block = {
        "enabled": True,
        "api_url": cloud.url,
        "api_key": API_KEY,
        "vehicle_id": "vehicle_001",
        "fleet_id": "fleet_alpha",
        "state_dir": str(tmp_path / "state"),
        "trip_queue_file": str(tmp_path / "trip_queue.json"),
    }
    config.write_text(yaml.safe_dump({"cloud": cloud_block, "camera": {"fps": 30}}))
    async with SyncAgent.from_config(config) as agent:
        await agent.trips.start_trip(driver_id="driver_123", location={"lat": 37.774929, "lon": -122.419416})
        agent.trips.update_trip(distance_delta=100.0, speed=15.0, risk_score=0.3, alert_urgency="warning")
        summary = await agent.trips.end_trip()
        counts = await agent.flush(timeout=30)
    assert summary is not None
    assert counts.unsent == 0
    assert posted(cloud) == [summary.trip_id]


async def test_settings_are_read_off_the_loop(
    tmp_path: Path, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    threads: list[int] = []

    def load(path: Path) -> Settings:
        threads.append(threading.get_ident())
        return settings(tmp_path, cloud)

    monkeypatch.setattr(Settings, "load", load)
    async with SyncAgent.from_config("configs/default.yaml"):
        assert threads
        assert threads != [threading.get_ident()]


async def test_a_configuration_that_cannot_be_used_is_refused_and_leaves_nothing(tmp_path: Path) -> None:
    agent = SyncAgent.from_config(tmp_path / "missing.yaml")
    with pytest.raises(ConfigurationError, match=r"missing\.yaml"):
        await agent.start()
    await agent.aclose()


async def test_an_agent_that_is_not_entered_says_so(tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    with pytest.raises(SentinelSyncError, match="async with agent"):
        _ = agent.trips
    with pytest.raises(SentinelSyncError, match="not read its settings"):
        _ = SyncAgent.from_config("x.yaml").settings


async def test_disabled_keeps_trips_and_sends_nothing(
    tmp_path: Path, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    async with SyncAgent(settings(tmp_path, cloud, enabled=False)) as agent:
        await drive(agent)
        began = passed()
        counts = await agent.flush(timeout=20)
        assert passed() - began < 5.0, "waiting can't help"
        assert counts.waiting == 1
        assert (await agent.run_once()).waiting == 1
        assert (await agent.status()).enabled is False
    assert cloud.requests == []
    assert "agent.disabled" in caplog.text
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await agent.flush()
    assert len(posted(cloud)) == 1


async def test_the_old_modules_queue_is_taken_over_and_sent(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.rules.forbidden |= {"driver_123", "driver_77"}
    old = tmp_path / "data" / "trip_queue.json"
    old.parent.mkdir()
    old.write_bytes((FIXTURES / "data" / "trip_queue.json").read_bytes())
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await agent.flush()
    assert len(set(posted(cloud))) == len(posted(cloud)) == 7


# --- flush and drain ---


async def test_a_part_whose_folder_cannot_be_used_is_down_by_itself_and_comes_back(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    broken = tmp_path / "profiles"
    broken.write_text("a file where the folder of profiles belongs")
    async with SyncAgent(settings(tmp_path, cloud, profiles_dir=broken)) as agent:
        await drive(agent)
        assert (await agent.flush()).unsent == 0

        async def profiles() -> PeriodicTaskStatus:
            return next(duty for duty in (await agent.status()).duties if duty.name == "profiles.synchronize")

        async def is_shown() -> bool:
            return "Not a directory" in str((await profiles()).last_error)

        async def is_back() -> bool:
            return not (await profiles()).crashes

        await until_true(is_shown)
        broken.unlink()
        await until_true(is_back)


async def test_a_host_whose_sync_meets_a_locked_database_is_not_left_half_cancelled(
    tmp_path: Path, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
) -> None:
    """python/cpython#116720: a TaskGroup that a child's error ends may leave the task around it half-cancelled."""
    monkeypatch.setattr(schema, "BUSY_TIMEOUT", 0.2)
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await drive(agent)
        other = sqlite3.connect(tmp_path / "state" / DATABASE_NAME, isolation_level=None)
        other.execute("BEGIN IMMEDIATE")
        with pytest.raises(StoreError, match="held by another process"):
            await agent.trips.sync_now()
        task = asyncio.current_task()
        assert task is not None
        assert task.cancelling() == 0
        with pytest.raises(TimeoutError):
            async with asyncio.timeout(0.0):
                await asyncio.Event().wait()
        other.execute("ROLLBACK")
        other.close()
        assert (await agent.flush()).unsent == 0


async def test_flush_says_what_is_left_and_what_was_set_aside(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.script("POST", "/trips", problem(422))
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        for _ in range(3):
            await drive(agent)
        counts = await agent.flush()
        assert (counts.unsent, counts.set_aside, counts.acknowledged) == (0, 1, 2)


async def test_flush_does_not_wait_where_the_credential_is_refused(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.handler = lambda seen: well_behaved(seen) if seen.path == "/health" else refused()
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await drive(agent)
        began = passed()
        counts = await agent.flush(timeout=20)
        assert passed() - began < 5.0
        assert counts.waiting == 1
        status = await agent.status()
        assert status.connectivity.unauthorized
        assert "api_key" in status.connectivity.message


async def test_flush_does_not_wait_for_what_may_not_be_sent(tmp_path: Path, cloud: FakeCloud) -> None:
    async with SyncAgent(settings(tmp_path, cloud, upload_trips=False)) as agent:
        await drive(agent)
        began = passed()
        assert (await agent.flush(timeout=20)).waiting == 1
        assert passed() - began < 5.0
    assert posted(cloud) == []


async def test_drain_returns_by_its_deadline_from_a_server_that_never_answers(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.handler = lambda seen: well_behaved(seen) if seen.path == "/health" else Answer(silent=True)
    agent = SyncAgent(settings(tmp_path, cloud, shutdown_timeout=0.5))
    agent.set_power("low")
    async with agent:
        for _ in range(12):
            await drive(agent)
        agent.set_power("normal")
        await cloud.received(7, path="/trips")  # of eight places one may be held by the check for models
        began = passed()
        left = await agent.drain(0.5)
        assert passed() - began < 1.5
        assert left.unsent == 12, "and knows what is left"


async def test_drain_returns_by_its_deadline_where_nobody_listens(tmp_path: Path, cloud: FakeCloud) -> None:
    await cloud.stop()
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await drive(agent)
        began = passed()
        left = await agent.drain(0.4)
        assert passed() - began < 1.4
        assert left.unsent == 1


async def test_drain_sends_what_fits(tmp_path: Path, cloud: FakeCloud) -> None:
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        for _ in range(30):
            await drive(agent)
        assert (await agent.drain(10.0)).unsent == 0
    assert len(set(posted(cloud))) == 30


async def test_run_once_gives_up_at_once_where_nobody_listens(tmp_path: Path, cloud: FakeCloud) -> None:
    await cloud.stop()
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await drive(agent)
        began = passed()
        assert (await agent.run_once(timeout=30)).unsent == 1
        assert passed() - began < 5.0


# --- the network ---


async def test_a_network_that_has_changed_is_tried_although_no_probe_is_due(tmp_path: Path, cloud: FakeCloud) -> None:
    """What NetworkManager says comes the same way."""
    cloud.handler = lambda _: json_answer(200, {"status": "ok", "min_interval": 3600})
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await until(agent.connectivity.is_online)
        cloud.handler = lambda _: Answer(cut=0, reset=True)
        assert not await agent.connectivity.probe_now()
        cloud.handler = well_behaved
        await agent.set_network("unmetered", "wifi")
        await until(agent.connectivity.is_online)


# --- power ---


async def test_a_low_battery_stops_all_sending_at_once_also_what_is_in_flight(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.handler = lambda seen: well_behaved(seen) if seen.path == "/health" else Answer(silent=True)
    agent = SyncAgent(settings(tmp_path, cloud))
    agent.set_power("low")
    async with agent:
        for _ in range(20):
            await drive(agent)
        agent.set_power("normal")
        # On a busy machine a check for models may have taken one of the eight places.
        await cloud.received(7, path="/trips")
        agent.set_power("low")
        await until(lambda: cloud.open_now == 0, "every connection is let go")
        asked = len(cloud.requests)

        async def all_waiting() -> bool:
            return (await agent.store.outbox.counts()).waiting == 20

        await until_true(all_waiting)
        await drive(agent)
        assert (await agent.flush(timeout=20)).waiting == 21, "recorded all the same"
        agent.connectivity.network_changed()
        await agent.connectivity.probe_now()
        assert len(cloud.requests) == asked
        status = await agent.status()
        assert (status.power, status.connectivity.gate) == ("low", "halted")
        cloud.handler = well_behaved
        agent.set_power("normal")
        assert (await agent.flush()).unsent == 0
    assert len(set(posted(cloud))) == 21


async def test_a_low_battery_before_the_start_counts_from_the_start(tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    agent.set_power("low")
    async with agent:
        await drive(agent)
        assert (await agent.flush(timeout=20)).waiting == 1
        assert cloud.requests == []
        agent.set_power("normal")
        assert (await agent.flush()).unsent == 0


async def test_a_word_that_is_none_is_refused(tmp_path: Path, cloud: FakeCloud) -> None:
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        with pytest.raises(ValueError, match="high"):
            agent.set_power("high")
        assert (await agent.status()).power == "normal"


# --- outages ---


async def test_after_an_outage_trips_are_sent_at_once(tmp_path: Path, cloud: FakeCloud) -> None:
    async with SyncAgent(settings(tmp_path, cloud, connectivity_check_interval=0.2)) as agent:
        await until(agent.connectivity.is_online)
        await cloud.stop()
        trips = [await drive(agent) for _ in range(5)]
        await until(lambda: not agent.connectivity.is_online())
        assert posted(cloud) == []
        await cloud.start()
        await cloud.received(5, path="/trips")
    assert set(posted(cloud)) == set(trips)


async def test_a_backend_that_was_never_there_at_the_start_is_found_later(tmp_path: Path, cloud: FakeCloud) -> None:
    await cloud.stop()
    async with SyncAgent(settings(tmp_path, cloud, connectivity_check_interval=0.2)) as agent:
        trip_id = await drive(agent)
        await until(lambda: agent.connectivity.get_offline_duration() > 0.0)
        await cloud.start()
        await cloud.received(1, path="/trips")
    assert set(posted(cloud)) == {trip_id}


@pytest.mark.parametrize("noticed_by_traffic", [False, True], ids=["by the watch", "by other traffic"])
async def test_a_rotated_key_is_used_without_a_restart(
    noticed_by_traffic: bool, tmp_path: Path, cloud: FakeCloud
) -> None:
    key_file = tmp_path / "api_key"
    key_file.write_text("old-key")
    assert cloud.rules.api_keys is not None
    cloud.rules.api_keys |= {"old-key", "new-key"}

    def handler(seen: Seen) -> Answer:
        if seen.path == "/health" or seen.headers["authorization"] == "Bearer new-key":
            return well_behaved(seen)
        return refused()

    cloud.handler = handler
    made = settings(tmp_path, cloud, api_key="", api_key_file=key_file)
    async with SyncAgent(made) as agent:
        trip_id = await drive(agent)
        await until(lambda: agent.connectivity.report().unauthorized)
        tried = len(posted(cloud))
        key_file.write_text("new-key")
        if noticed_by_traffic:
            await agent.connectivity.probe_now()
        await until_sent(cloud, trip_id, "Bearer new-key")
        await until(lambda: not agent.connectivity.report().unauthorized)
    assert set(posted(cloud)) == {trip_id}
    assert tried <= 2, "a refused key is not tried over and over"


async def until_sent(cloud: FakeCloud, trip_id: str, authorization: str) -> None:
    def arrived() -> bool:
        return any(
            seen.key == trip_id and seen.headers["authorization"] == authorization
            for seen in cloud.to("POST", "/trips")
        )

    await until(arrived, "the trip with the new key")


# --- ends and beginnings ---


async def test_closing_with_a_hanging_server_takes_no_longer_than_it_may_and_loses_nothing(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    cloud.handler = lambda seen: well_behaved(seen) if seen.path == "/health" else Answer(silent=True)
    agent = SyncAgent(settings(tmp_path, cloud, shutdown_timeout=1.0))
    agent.set_power("low")
    await agent.start()
    trips = [await drive(agent) for _ in range(10)]
    agent.set_power("normal")
    await agent.trips.start_trip()
    agent.trips.update_trip(distance_delta=42.0)
    await cloud.received(8, path="/trips")
    began = passed()
    await agent.aclose()
    assert passed() - began < 1.0
    assert not is_locked(tmp_path / "state")
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith(("sync.", "connectivity."))]
    cloud.handler = well_behaved
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        assert (await agent.flush()).unsent == 0
    arrived = {seen.key: seen.json for seen in cloud.to("POST", "/trips")}
    assert set(trips) <= set(arrived)
    (open_trip,) = set(arrived) - set(trips)
    assert (arrived[open_trip]["interrupted"], arrived[open_trip]["distance"]) == (True, 42.0)


async def test_a_request_under_way_may_end_in_the_grace(tmp_path: Path, cloud: FakeCloud) -> None:
    may_answer = asyncio.Event()
    cloud.script("POST", "/trips", Answer(201, b"{}", {"Content-Type": "application/json"}, after=may_answer))
    agent = SyncAgent(settings(tmp_path, cloud))
    await agent.start()
    await drive(agent)
    await cloud.received(1, path="/trips")
    closing = asyncio.create_task(agent.aclose())
    await until(lambda: not agent.client.gate.passage(0.0).open, "the beginning of the stop")
    may_answer.set()
    await closing
    async with Store(tmp_path / "state") as store:
        assert (await store.outbox.counts()).acknowledged == 1


async def test_what_a_killed_agent_was_sending_is_sent_by_the_next(tmp_path: Path, cloud: FakeCloud) -> None:
    async with Store(tmp_path / "state") as store:
        await store.outbox.put(NewItem("trip", "trip_in_flight", b"{}"))
        await store.outbox.claim("trip", 1)  # and here the power goes
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        assert (await agent.flush()).unsent == 0
    assert posted(cloud) == ["trip_in_flight"]


async def test_a_second_agent_on_the_same_folder_is_refused_and_the_first_goes_on(
    tmp_path: Path, cloud: FakeCloud
) -> None:
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        second = SyncAgent(settings(tmp_path, cloud))
        with pytest.raises(StateLockedError, match="state_dir of its own"):
            await second.start()
        await second.aclose()
        await drive(agent)
        assert (await agent.flush()).unsent == 0


async def test_two_agents_on_two_folders_get_along(tmp_path: Path, cloud: FakeCloud) -> None:
    async with (
        SyncAgent(settings(tmp_path / "one", cloud)) as one,
        SyncAgent(settings(tmp_path / "two", cloud)) as two,
    ):
        trips = {await drive(one), await drive(two)}
        await asyncio.gather(one.flush(), two.flush())
    assert set(posted(cloud)) == trips


async def test_an_agent_can_be_entered_again(tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    for _ in range(2):
        async with agent:
            with pytest.raises(SentinelSyncError, match="running already"):
                await agent.start()
            await drive(agent)
            await agent.flush()
        await agent.aclose()
    assert len(posted(cloud)) == 2


async def test_run_ends_when_it_is_told_to(tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    for _ in range(2):
        running = asyncio.create_task(agent.run())
        await cloud.received(1, path="/health")
        agent.stop()
        async with asyncio.timeout(6.0):
            await running


@pytest.mark.parametrize("turns", [0, 1, 10, 100, 1000])
async def test_a_stop_that_comes_while_it_starts_is_not_lost(turns: int, tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    running = asyncio.create_task(agent.run())
    for _ in range(turns):
        await asyncio.sleep(0)
    agent.stop()
    async with asyncio.timeout(6.0):
        await running


@pytest.mark.parametrize("turns", [0, 1, 4, 16, 64, 256, 1024])
async def test_a_start_that_is_cancelled_leaves_nothing_behind(turns: int, tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    starting = asyncio.create_task(agent.start())
    for _ in range(turns):
        await asyncio.sleep(0)
    starting.cancel()
    await asyncio.gather(starting, return_exceptions=True)
    if starting.cancelled():
        assert not is_locked(tmp_path / "state")
        assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sync.")]
    await agent.aclose()
    async with agent:
        await drive(agent)


async def test_closing_that_is_cancelled_still_closes(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.handler = lambda seen: well_behaved(seen) if seen.path == "/health" else Answer(silent=True)
    agent = SyncAgent(settings(tmp_path, cloud))
    await agent.start()
    await drive(agent)
    await cloud.received(1, path="/trips")
    closing = asyncio.create_task(agent.aclose())
    await until(lambda: not agent.client.gate.passage(0.0).open, "the beginning of the stop")
    closing.cancel()
    with pytest.raises(asyncio.CancelledError):
        await closing
    assert not is_locked(tmp_path / "state")
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sync.")]


async def test_two_who_close_at_once_close_once(tmp_path: Path, cloud: FakeCloud) -> None:
    agent = SyncAgent(settings(tmp_path, cloud))
    await agent.start()
    await asyncio.gather(agent.aclose(), agent.aclose())
    assert not is_locked(tmp_path / "state")


# --- what it says of itself ---


def read_status(folder: Path) -> AgentStatus:
    return AgentStatus.model_validate_json((folder / "state" / "status.json").read_bytes())


async def test_status_is_kept_in_a_file_for_others(tmp_path: Path, cloud: FakeCloud) -> None:
    path = tmp_path / "state" / "status.json"
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await until(path.exists)
        assert read_status(tmp_path).enabled
        await drive(agent)
        await agent.flush()
        trip_id = await agent.trips.start_trip()
    shown = read_status(tmp_path)
    assert (shown.outbox.acknowledged, shown.trip_id) == (1, trip_id)
    assert shown.connectivity.status == "online"
    assert {duty.name for duty in shown.duties} >= {"connectivity", "trips.upload", "trips.checkpoint", "watch"}
    text = path.read_text()
    assert not [secret for secret in (API_KEY, "fleet's own secret", "driver_123", "37.77") if secret in text]


async def test_a_damaged_store_is_reported_in_the_status(tmp_path: Path, cloud: FakeCloud) -> None:
    (tmp_path / "state").mkdir()
    (tmp_path / "state" / DATABASE_NAME).write_bytes(b"no database" * 500)
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        salvaged = (await agent.status()).salvaged_from
        assert salvaged is not None
        assert salvaged.startswith("outbox.db.damaged-")
        await drive(agent)
        assert (await agent.flush()).unsent == 0


async def test_a_part_that_crashes_is_shown_and_the_others_go_on(
    tmp_path: Path, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.CRITICAL, logger="sentinel_sync.base.tasks")
    async with SyncAgent(settings(tmp_path, cloud)) as agent:

        async def broken() -> float:
            raise RuntimeError("a bug in the probe")

        agent.connectivity.monitor.step = broken
        agent.connectivity.monitor.wake.set()

        def crashes() -> int:
            return agent.connectivity.monitor.crashes

        await until(lambda: crashes() > 0)
        (shown,) = [duty for duty in (await agent.status()).duties if duty.name == "connectivity"]
        assert shown.crashes >= 1
        assert shown.last_error == "RuntimeError: a bug in the probe"
        await drive(agent)
        await cloud.received(1, path="/trips")


@pytest.mark.parametrize("is_told", [True, False])
async def test_what_another_process_puts_is_sent_soon(
    tmp_path: Path, cloud: FakeCloud, is_told: bool, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Nobody looks within the hour where the kernel tells of it, and nobody tells where it has no inotify."""
    if is_told:
        monkeypatch.setattr("sentinel_sync.agent.WATCHED_INTERVAL", 3600.0)
        monkeypatch.setattr("sentinel_sync.agent.WATCH_INTERVAL", 3600.0)
    else:
        monkeypatch.setattr("sentinel_sync.base.folder_watch._open", refuse_inotify)
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await until(agent.connectivity.is_online)
        async with Store(tmp_path / "state", exclusive=False) as other:
            await other.outbox.put(NewItem("trip", "from the command line", b"{}"))
        await cloud.received(1, path="/trips")
    assert posted(cloud) == ["from the command line"]


async def test_its_json_names_every_number_a_person_asks_for(tmp_path: Path, cloud: FakeCloud) -> None:
    cloud.script("POST", "/trips", problem(422), json_answer(201))
    async with SyncAgent(settings(tmp_path, cloud)) as agent:
        await drive(agent)
        await drive(agent)
        await agent.flush()
        shown = json.loads((await agent.status()).model_dump_json())
    assert shown["outbox"]["set_aside"] == 1
    assert shown["outbox"]["acknowledged"] == 1
    assert shown["process_id"] > 0
