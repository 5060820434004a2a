"""Events out: one for each thing that was stored, in each vehicle's order, whoever is killed on the way."""

import asyncio
import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import httpx
import nats
import pytest

from sentinel_sync.backend.engines import database_at
from sentinel_sync.backend.jetstream import STREAM, jetstream, subject_of
from sentinel_sync.backend.relay import BATCH, LEASE, Event, Relay, StreamUnavailableError
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from tests.backend.vehicle import KEY, SettableClock, Vehicle, make_trip, report_body
from tests.fakes.cloud import closed_port
from tests.servers.nats import nats_server_at


class Kept:
    """A stream in memory, which refuses as often as it is told."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.refuses_after: int | None = None

    async def publish(self, event: Event) -> None:
        if self.refuses_after is not None and len(self.events) >= self.refuses_after:
            raise StreamUnavailableError("on purpose")
        self.events.append(event)


@pytest.fixture
def with_events(backend_settings: BackendSettings) -> BackendSettings:
    return BackendSettings(
        folder=backend_settings.folder,
        database=backend_settings.database,
        api_keys=(KEY,),
        with_events=True,
    )


async def test_each_thing_that_is_stored_is_told_once_and_in_order(with_events: BackendSettings) -> None:
    async with running_server(with_events) as url, httpx.AsyncClient(base_url=url) as client:
        first, second = Vehicle(client), Vehicle(client, "vehicle_002")
        trips = [make_trip() for _ in range(6)]
        for number, trip in enumerate(trips):
            whose = (first, second)[number % 2]
            assert (await whose.post_trip(trip)).status_code == 201
            assert (await whose.post_trip(trip)).status_code == 409
        assert (await first.register()).status_code == 201
        path, annotations = "/scenarios/20241117_103045/annotations", {"Content-Type": "application/json"}
        assert (await first.send("POST", path, annotations, content=b'{"frames": []}')).status_code == 201
        assert (await first.send("PUT", "/vehicles/vehicle_001/status", json=report_body())).status_code == 200
        database = database_at(with_events.database, with_events.folder / "backend.sqlite3")
        await database.open()
        stream = Kept()
        assert await Relay(database, stream).move() == 9
        assert await Relay(database, stream, clock=lambda: 9e9).move() == 0
        await database.close()
    kinds = [(event.vehicle_id, event.kind) for event in stream.events]
    assert kinds.count(("vehicle_002", "trip")) == 3
    assert kinds[6:] == [("vehicle_001", "scenario"), ("vehicle_001", "part"), ("vehicle_001", "report")]
    ids = [json.loads(event.body)["trip_id"] for event in stream.events if event.kind == "trip"]
    assert ids == [trip["trip_id"] for trip in trips]
    message = json.loads(stream.events[7].message())
    assert message["body"]["name"] == "annotations.json"
    assert (message["fleet_id"], message["kind"], message["id"]) == ("fleet_alpha", "part", stream.events[7].id)


async def test_what_the_stream_refuses_stays_and_one_relay_works_at_a_time(with_events: BackendSettings) -> None:
    clock = SettableClock()
    async with running_server(with_events) as url, httpx.AsyncClient(base_url=url) as client:
        for _ in range(5):
            await Vehicle(client).post_trip(make_trip())
    database = database_at(with_events.database, with_events.folder / "backend.sqlite3")
    await database.open()
    stream = Kept()
    stream.refuses_after = 2
    one, other = Relay(database, stream, clock=clock), Relay(database, stream, clock=clock)
    with pytest.raises(StreamUnavailableError):
        await one.move()
    stream.refuses_after = None
    assert await other.move() == 0
    clock.now += LEASE + 1.0
    assert await other.move() == 3
    assert await one.move() == 0
    await database.close()
    assert len({event.id for event in stream.events}) == len(stream.events) == 5


async def test_a_relay_that_is_killed_anywhere_loses_nothing(with_events: BackendSettings, tmp_path: Path) -> None:
    total = 3 * BATCH
    async with (
        running_server(with_events) as url,
        nats_server_at(tmp_path / "nats") as stream_url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        vehicles = [Vehicle(client, f"vehicle.{number} *") for number in range(4)]
        sent: dict[str, list[str]] = {vehicle.vehicle_id: [] for vehicle in vehicles}

        async def drive(vehicle: Vehicle) -> None:
            for _ in range(total // len(vehicles)):
                trip = make_trip()
                assert (await vehicle.post_trip(trip)).status_code == 201
                sent[vehicle.vehicle_id].append(trip["trip_id"])

        async with jetstream(stream_url):
            reader = await nats.connect(stream_url)
        driving = asyncio.gather(*(drive(vehicle) for vehicle in vehicles))
        subscription = await reader.jetstream().subscribe("sentinel.events.>", ordered_consumer=True)
        messages: list[dict[str, Any]] = []
        # A relay after another, each killed once it has moved some more; the last one is left alone.
        while True:
            relay = await start_relay(with_events, stream_url)
            try:
                aim = total if driving.done() else min(total, len(messages) + 40)
                while len(messages) < aim:
                    messages.append(json.loads((await subscription.next_msg(timeout=30)).data))
            finally:
                relay.kill()
                await relay.communicate()
            if len(messages) >= total:
                break
        await driving
        stored = (await reader.jetstream().stream_info(STREAM)).state.messages
        await reader.close()
    assert stored == total  # what came again was dropped by its id
    for vehicle_id, trips in sent.items():
        mine = [message for message in messages if message["vehicle_id"] == vehicle_id]
        assert [message["body"]["trip_id"] for message in mine] == trips


async def start_relay(settings: BackendSettings, url: str) -> asyncio.subprocess.Process:
    environment = {**os.environ, "SENTINEL_BACKEND_DATABASE": settings.database or ""}
    words = ("backend", "relay", "--folder", str(settings.folder), "--nats", url)
    return await asyncio.create_subprocess_exec(
        sys.executable, "-c", RELAY, *words, env=environment, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )


#: The command, with a lease that its successor need not wait for: that wait is a minute's fact, not this test's.
RELAY = """
import sys
from sentinel_sync.backend import relay
relay.LEASE = 0.4
from sentinel_sync.cli.main import main
sys.exit(main())
"""


async def test_nobody_at_the_address_and_ids_with_a_meaning_to_nats() -> None:
    with pytest.raises(StreamUnavailableError, match="cannot be reached"):
        async with jetstream(f"nats://127.0.0.1:{closed_port()}", patience=0.5):
            raise AssertionError
    event = Event(1, "fleet a", "v.1>*", "trip", "{}", 0.0)
    assert subject_of(event) == "sentinel.events.fleet%20a.v%2E1%3E%2A.trip"
