"""The agent lives inside somebody's vehicle runtime: not one call of its own blocks that loop, the whole day long."""

import asyncio
import time
from pathlib import Path

import pytest
import yaml
from blockbuster import BlockingError, blockbuster_ctx

from sentinel_sync.agent import SyncAgent
from sentinel_sync.store.store import DATABASE_NAME
from tests.conftest import FIXTURES
from tests.fakes.cloud import Answer, FakeCloud, problem
from tests.fakes.patience import until


def prepare(folder: Path, cloud: FakeCloud) -> Path:
    """A vehicle with an old queue, a damaged store and a key in a file; returns its configuration."""
    (folder / "state").mkdir()
    (folder / "state" / DATABASE_NAME).write_bytes(b"damaged" * 5_000)
    (folder / "trip_queue.json").write_bytes((FIXTURES / "data" / "trip_queue.json").read_bytes())
    (folder / "api_key").write_text("key-of-the-tests\n")
    (folder / "pseudonym_key").write_text("the fleet's own secret\n")
    cloud_block = {
        "enabled": True,
        "api_url": cloud.url,
        "api_key_file": str(folder / "api_key"),
        "pseudonym_key_file": str(folder / "pseudonym_key"),
        "vehicle_id": "vehicle_001",
        "fleet_id": "fleet_alpha",
        "rate_limit": 0,
        "connectivity_check_interval": 0.1,
        "checkpoint_interval": 0.05,
        "reconnect_spread": 0.05,
        "shutdown_timeout": 1.0,
        "state_dir": str(folder / "state"),
        "trip_queue_file": str(folder / "trip_queue.json"),
        "scenarios_dir": str(folder / "scenarios"),
        "profiles_dir": str(folder / "profiles"),
        "models_dir": str(folder / "models"),
    }
    config = folder / "vehicle.yaml"
    config.write_text(yaml.safe_dump({"cloud": cloud_block}))
    return config


async def drive(agent: SyncAgent) -> None:
    await agent.trips.start_trip(driver_id="driver_123", location=(37.774929, -122.419416))
    for _ in range(50):
        agent.trips.update_trip(distance_delta=10.0, speed=15.0, risk_score=0.3, alert_urgency="info")
        await asyncio.sleep(0)
    await agent.trips.end_trip()


async def day(config: Path, cloud: FakeCloud, told: list[str]) -> None:
    """Start on a damaged store, drive, meet every kind of trouble, stop, and start again."""

    def on_change(status: object) -> None:
        time.sleep(0.01)  # the host's callbacks may block: they are not on the loop
        told.append(str(status))

    cloud.script("POST", "/trips", problem(422), problem(503), Answer(201, b"{}", cut=3))
    for _ in range(2):
        async with SyncAgent.from_config(config) as agent:
            agent.connectivity.register_connectivity_callback(on_change)
            for _ in range(3):
                await drive(agent)
            await agent.flush(timeout=0.5)
            await cloud.stop()
            await drive(agent)
            await until(lambda: not agent.connectivity.is_online())
            await cloud.start()
            await until(agent.connectivity.is_online)
            agent.set_power("low")
            await drive(agent)
            agent.set_power("normal")
            await agent.status()
            await agent.store.outbox.verify()
            await agent.store.outbox.retry()
            await agent.drain(1.0)
            await agent.trips.start_trip()
            assert {duty.name: duty.last_error for duty in (await agent.status()).duties if duty.total_crashes} == {}


async def test_not_one_call_of_a_whole_day_blocks_the_loop(
    tmp_path: Path, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    config, told = prepare(tmp_path, cloud), list[str]()
    with blockbuster_ctx():
        await day(config, cloud, told)
    assert "BlockingError" not in caplog.text, "not even one that somebody caught"
    await until(lambda: "offline" in told)
    assert len({seen.key for seen in cloud.to("POST", "/trips")}) >= 17


async def test_the_watch_for_blocking_calls_does_see_them(tmp_path: Path) -> None:
    (tmp_path / "file").touch()
    with blockbuster_ctx():
        with pytest.raises(BlockingError):
            time.sleep(0.001)  # noqa: ASYNC251 - that is the point
        with pytest.raises(BlockingError):
            (tmp_path / "file").read_bytes()
