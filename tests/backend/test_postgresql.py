"""A fleet's backend: several processes on one PostgreSQL, any of which may be killed, and no work is done twice."""

import asyncio
import contextlib
import hashlib
import itertools
import os
import signal
import sqlite3
import subprocess
import sys
from collections.abc import AsyncIterator, Sequence
from contextlib import AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any, Literal

import httpx
import psycopg
import pytest
from alembic.config import Config
from alembic.script import ScriptDirectory

from sentinel_sync.backend import migrations
from sentinel_sync.backend.check import findings, recounted
from sentinel_sync.backend.context import kept_files
from sentinel_sync.backend.database import Connection, DatabaseUnavailableError
from sentinel_sync.backend.engines import database_at
from sentinel_sync.backend.fleet import alerts_query, ranking_query
from sentinel_sync.backend.postgresql import ATTEMPTS, REVISION, PostgresqlDatabase
from sentinel_sync.backend.scoring import METRICS
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings, Extensions
from sentinel_sync.backend.sqlite import connect, migrate
from sentinel_sync.backend.storage import Folders
from sentinel_sync.conformance.judge import judge
from sentinel_sync.conformance.run import Verdict
from tests.backend.vehicle import KEY, Vehicle, fernet_token, make_trip, upload_metadata
from tests.servers.postgresql import PostgresqlServer

PROCESSES = 4


@pytest.fixture
def address(postgresql: PostgresqlServer) -> str:
    return postgresql.fresh()


class Process:
    """One process of the backend."""

    def __init__(self, running: asyncio.subprocess.Process, url: str) -> None:
        self.running = running
        self.url = url

    async def stop(self, how: signal.Signals) -> None:
        self.running.send_signal(how)
        await self.running.wait()


@asynccontextmanager
async def process(folder: Path, address: str, port: int = 0) -> AsyncIterator[Process]:
    running = await asyncio.create_subprocess_exec(
        sys.executable,
        *("-m", "sentinel_sync", "serve", "--folder", str(folder), "--port", str(port), "--api-key", KEY),
        env={**os.environ, "SENTINEL_BACKEND_DATABASE": address},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
    )
    try:
        assert running.stdout is not None
        async with asyncio.timeout(20):
            line = (await running.stdout.readline()).decode()
        yield Process(running, line.split()[-1])
    finally:
        with contextlib.suppress(ProcessLookupError):
            running.kill()
        await running.communicate()


@asynccontextmanager
async def processes(folder: Path, address: str, number: int) -> AsyncIterator[list[Process]]:
    async with AsyncExitStack() as stack:
        yield await asyncio.gather(*(stack.enter_async_context(process(folder, address)) for _ in range(number)))


@asynccontextmanager
async def clients(running: Sequence[Process]) -> AsyncIterator[list[httpx.AsyncClient]]:
    async with AsyncExitStack() as stack:
        limits = httpx.Limits(max_connections=20)
        yield [
            await stack.enter_async_context(httpx.AsyncClient(base_url=one.url, limits=limits, timeout=30.0))
            for one in running
        ]


async def look(address: str, folder: Path) -> list[str]:
    """What does not fit together."""
    database = database_at(address, folder)
    await database.open()
    try:
        return await findings(database, *kept_files(None, Folders(folder)))
    finally:
        await database.close()


async def test_the_contract_holds(tmp_path: Path, address: str) -> None:
    every = Extensions(direct_uploads=True, scenario_catalogue=True)
    settings = BackendSettings(folder=tmp_path, database=address, api_keys=(KEY,), extensions=every)
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url) as client:
        signature = "A" * 86 + "=="
        publishing = "/models/yolov8m/versions/v1.0.0"
        published = await client.put(
            publishing,
            params={"signature": signature},
            content=b"model" * 999,
            headers={"Authorization": f"Bearer {KEY}"},
        )
        assert published.status_code == 201
        found = await judge(url, KEY)
    assert [(it.name, it.why) for it in found if it.verdict is not Verdict.MET] == []
    assert await look(address, tmp_path) == []


async def test_four_processes_do_each_work_once(tmp_path: Path, address: str) -> None:
    async with processes(tmp_path, address, PROCESSES) as running, clients(running) as https:
        vehicles = [Vehicle(http) for http in https]
        # Fifty times one trip at once.
        trip = make_trip()
        answers = await asyncio.gather(*(vehicles[one % PROCESSES].post_trip(trip) for one in range(50)))
        assert sorted(answer.status_code for answer in answers) == [201] + [409] * 49
        listed = (await vehicles[0].get("/trips")).json()
        assert (listed["total"], listed["repeats"], len(listed["trips"])) == (1, 49, 1)

        # One id, claimed by several vehicles.
        disputed = make_trip()
        claims = await asyncio.gather(
            *(Vehicle(https[one % PROCESSES], f"vehicle_{one}").post_trip(disputed) for one in range(8))
        )
        assert sorted(answer.status_code for answer in claims) == [201] + [422] * 7

        # One announcement, one profile that several merge at once.
        announced = await asyncio.gather(*(vehicles[one % PROCESSES].register() for one in range(12)))
        assert sorted(answer.status_code for answer in announced) == [201] + [409] * 11
        url, body = (
            "/drivers/driver_1/profile",
            {"driver_id": "driver_1", "encrypted_data": fernet_token(), "updated_at": 1.0},
        )
        etag = (await vehicles[0].send("PUT", url, json=body)).headers["ETag"]
        merged = await asyncio.gather(
            *(vehicles[one % PROCESSES].send("PUT", url, {"If-Match": etag}, json=body) for one in range(12))
        )
        assert sorted(answer.status_code for answer in merged) == [200] + [412] * 11

        # Batches with the same trips in another order: nobody waits in a circle.
        trips = [make_trip(driver_id=None) for _ in range(40)]
        batches = await asyncio.gather(
            *(send_batch(vehicles[one % PROCESSES], trips[::-1] if one % 2 else trips) for one in range(8))
        )
        statuses = [result["status"] for batch in batches for result in batch]
        assert sorted(statuses) == [201] * 40 + [409] * 280
        seen = (await vehicles[1].get("/fleet/fleet_alpha/statistics")).json()
        assert seen["total_trips"] == 42
    assert await look(address, tmp_path) == []


async def send_batch(vehicle: Vehicle, trips: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    key = hashlib.sha256("\n".join(trip["trip_id"] for trip in trips).encode()).hexdigest()
    answer = await vehicle.send("POST", "/trips/batch", {"Idempotency-Key": key}, json={"trips": list(trips)})
    assert answer.status_code == 200, answer.text
    results: list[dict[str, Any]] = answer.json()["results"]
    return results


async def test_a_rolling_restart_and_a_kill_lose_and_double_nothing(tmp_path: Path, address: str) -> None:
    trips = [make_trip() for _ in range(240)]
    acknowledged: set[str] = set()
    under_way = asyncio.Event()

    async def send(mine: Sequence[dict[str, Any]], https: list[httpx.AsyncClient], first: int) -> None:
        for trip in mine:
            for attempt in range(200):
                try:
                    answer = await Vehicle(https[(first + attempt) % 2]).post_trip(trip)
                except httpx.TransportError:
                    await asyncio.sleep(0.02)  # as a vehicle waits before it tries again
                    continue
                if answer.status_code in {201, 409}:
                    acknowledged.add(trip["trip_id"])
                    break
            if len(acknowledged) > 20:
                under_way.set()

    async with AsyncExitStack() as stack:
        running = [await stack.enter_async_context(process(tmp_path, address)) for _ in range(2)]
        https = await stack.enter_async_context(clients(running))
        senders = asyncio.gather(*(send(trips[one::6], https, one) for one in range(6)))
        await under_way.wait()
        for number, how in enumerate((signal.SIGTERM, signal.SIGKILL)):
            old = running[number]
            await old.stop(how)
            port = int(old.url.rpartition(":")[2])
            running[number] = await stack.enter_async_context(process(tmp_path, address, port))
        await senders
        listed = (await Vehicle(https[0]).get("/trips", params={"limit": 1000})).json()
    assert acknowledged == {trip["trip_id"] for trip in trips}
    assert sorted(trip["trip_id"] for trip in listed["trips"]) == sorted(acknowledged)
    assert await look(address, tmp_path) == []


async def test_an_upload_goes_on_at_another_process(tmp_path: Path, address: str) -> None:
    content = os.urandom(300_000)
    settings = BackendSettings(folder=tmp_path, database=address, api_keys=(KEY,))
    async with AsyncExitStack() as stack:
        urls = [await stack.enter_async_context(running_server(settings)) for _ in range(2)]
        one, other = [await stack.enter_async_context(httpx.AsyncClient(base_url=url)) for url in urls]
        here, there = Vehicle(one), Vehicle(other)
        await here.register()
        tus = {"Tus-Resumable": "1.0.0"}
        created = await here.send(
            "POST",
            "/scenarios/20241117_103045/videos",
            {**tus, "Upload-Length": str(len(content)), "Upload-Metadata": upload_metadata(content, "bev.mp4")},
        )
        assert created.status_code == 201, created.text
        url, patch = created.headers["Location"], {**tus, "Content-Type": "application/offset+octet-stream"}
        offsets = [0, 100_000, 200_000, 300_000]
        for number, (begin, end) in enumerate(itertools.pairwise(offsets)):
            whose = (here, there, here)[number]
            if number == 1:  # the first still holds it for a connection that hangs
                await hold(here, url, patch | {"Upload-Offset": str(begin)}, content[begin : begin + 1], there)
                begin += 1  # noqa: PLW2901  # that byte was kept
            sent = await whose.send("PATCH", url, {**patch, "Upload-Offset": str(begin)}, content=content[begin:end])
            assert (sent.status_code, sent.headers.get("Upload-Offset")) == (204, str(end)), sent.text
        asked = await there.send("HEAD", url, tus)
        assert asked.headers["Upload-Offset"] == str(len(content))
        stored = await there.get("/scenarios/20241117_103045/parts/bev.mp4")
        assert stored.content == content
    assert await look(address, tmp_path) == []


async def hold(vehicle: Vehicle, url: str, headers: dict[str, str], first: bytes, other: Vehicle) -> None:
    """Begin a PATCH that does not end, see that the other process says so, then cut it."""
    has_begun, may_end = asyncio.Event(), asyncio.Event()

    async def body() -> AsyncIterator[bytes]:
        yield first
        has_begun.set()
        await may_end.wait()
        raise ConnectionAbortedError

    hanging = asyncio.create_task(vehicle.send("PATCH", url, headers, content=body()))
    await has_begun.wait()
    async with asyncio.timeout(10):
        while (answer := await other.send("HEAD", url, {"Tus-Resumable": "1.0.0"})).status_code == 200:  # noqa: ASYNC110
            await asyncio.sleep(0)  # until the first piece has been read there
    assert answer.status_code == 423
    may_end.set()
    with pytest.raises(ConnectionAbortedError):
        await hanging
    async with asyncio.timeout(10):
        while (answer := await other.send("HEAD", url, {"Tus-Resumable": "1.0.0"})).status_code == 423:  # noqa: ASYNC110
            await asyncio.sleep(0)  # until it has noticed that the connection is gone
    assert answer.headers["Upload-Offset"] == "100001"


async def test_tables_are_those_of_sqlite_and_of_this_version(
    tmp_path: Path, postgresql: PostgresqlServer, address: str
) -> None:
    empty = postgresql.fresh(empty=True)
    database = PostgresqlDatabase(empty)
    with pytest.raises(RuntimeError, match="backend migrate"):
        await database.open()
    await database.close()
    migrations.migrate(empty)
    migrations.migrate(empty)
    config = Config()
    config.set_main_option("script_location", str(Path(migrations.__file__).parent))
    assert ScriptDirectory.from_config(config).get_current_head() == REVISION
    with psycopg.connect(address) as connection:
        rows = connection.execute(
            "SELECT table_name, column_name FROM information_schema.columns WHERE table_schema = 'public'"
        ).fetchall()
        partitions = connection.execute("SELECT relid::text FROM pg_partition_tree('trips') WHERE isleaf").fetchall()
    leaves = {name for (name,) in partitions} | {"alembic_version"}
    there = {row for row in rows if row[0] not in leaves}
    with contextlib.closing(connect(tmp_path / "db")) as file:
        migrate(file)
        names = [name for (name,) in file.execute("SELECT name FROM sqlite_master WHERE type = 'table'")]
        sqlite = {
            (name, row["name"])
            for name in names
            if not name.startswith("sqlite_")
            for row in file.execute(f"PRAGMA table_info({name})")
        }
    assert there == sqlite


@pytest.mark.parametrize("kind", ["vehicle", "driver"])
@pytest.mark.parametrize("name", METRICS)
def test_a_leaderboard_is_read_in_the_order_of_an_index(
    address: str, kind: Literal["vehicle", "driver"], name: str
) -> None:
    plan = plan_of(address, ranking_query(kind, METRICS[name]), "fleet", 10)
    assert f"totals_by_{name}" in plan
    assert "Sort" not in plan


def test_alerts_are_read_in_the_order_of_an_index(address: str) -> None:
    """Each severity's newest in each month: those alone are merged and sorted."""
    plan = plan_of(address, alerts_query(["critical", "warning", "info"]), *(["fleet", 10] * 3), 10)
    assert plan.count("Index Scan Backward using trips_default_fleet_id_end_time_trip_id_idx") == 3
    assert plan.count("Sort Key") == 1 + plan.count("Merge Append")


def plan_of(address: str, query: str, *values: object) -> str:
    with psycopg.connect(address, autocommit=True) as connection:
        connection.execute("SET enable_seqscan = off")  # which it prefers while a table is empty
        connection.execute("SET enable_bitmapscan = off")
        statement = f"EXPLAIN {query.replace('?', '%s')}".encode()
        return "\n".join(line for (line,) in connection.execute(statement, values))


async def test_trips_are_kept_by_month_and_a_wild_clock_has_a_place(tmp_path: Path, address: str) -> None:
    async with (
        running_server(BackendSettings(folder=tmp_path, database=address, api_keys=(KEY,))) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        vehicle = Vehicle(client)
        with psycopg.connect(address) as connection:
            (month,) = connection.execute("SELECT to_char(now() AT TIME ZONE 'UTC', 'YYYY_MM')").fetchone() or ("",)
        today, wild = month.replace("_", "-") + "-01", "2099-01-01"
        for day in (today, wild):
            trip = make_trip(start_time=f"{day}T06:00:00Z", end_time=f"{day}T07:00:00Z")
            assert (await vehicle.post_trip(trip)).status_code == 201
            assert (await vehicle.post_trip(trip)).status_code == 409
    with psycopg.connect(address) as connection:
        rows = connection.execute("SELECT tableoid::regclass::text, day FROM trips ORDER BY day").fetchall()
    assert rows == [(f"trips_{month}", today), ("trips_default", wild)]


async def test_a_server_that_goes_away_is_said_so_and_comes_back(tmp_path: Path, address: str) -> None:
    async with (
        running_server(BackendSettings(folder=tmp_path, database=address, api_keys=(KEY,))) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        vehicle, trip = Vehicle(client), make_trip()
        assert (await client.get("/ready")).json() == {"status": "ready"}
        with psycopg.connect(address, autocommit=True) as connection:
            connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND pid <> pg_backend_pid()"
            )
        statuses: list[int] = []
        while not statuses or statuses[-1] != 201:
            answer = await vehicle.post_trip(trip)
            statuses.append(answer.status_code)
            assert answer.status_code == 201 or answer.headers["Retry-After"]
        assert set(statuses[:-1]) <= {503}
        assert (await client.get("/ready")).status_code == 200


async def test_what_cannot_be_stored_is_refused_and_no_mistake_of_ours(tmp_path: Path, address: str) -> None:
    async with (
        running_server(BackendSettings(folder=tmp_path, database=address, api_keys=(KEY,))) as url,
        httpx.AsyncClient(base_url=url) as client,
    ):
        answer = await Vehicle(client).get("/drivers/%00/profile")
        assert answer.status_code in {404, 422}
        answer = await Vehicle(client).get("/trips", params={"vehicle_id": "a\0b"})
        assert answer.status_code == 422


async def test_work_that_got_in_anothers_way_is_done_again_and_not_for_ever(address: str) -> None:
    database = PostgresqlDatabase(address)
    await database.open()
    tries = 0

    def unlucky(times: int, connection: Connection) -> int:
        nonlocal tries
        tries += 1
        connection.execute("INSERT INTO leases VALUES (?, 'me', 0)", (str(tries),))
        if tries <= times:
            raise psycopg.errors.DeadlockDetected("on purpose")
        return tries

    assert await database.write(lambda it: unlucky(2, it)) == 3
    names = await database.read(lambda it: [row["name"] for row in it.execute("SELECT name FROM leases")])
    await database.write(lambda it: it.execute("DELETE FROM leases").rowcount)
    tries = 0
    with pytest.raises(DatabaseUnavailableError):
        await database.write(lambda it: unlucky(99, it))
    await database.close()
    assert names == ["3"]
    assert tries == ATTEMPTS


async def test_nobody_at_the_address(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sentinel_sync.backend.postgresql.CONNECTION_TIMEOUT", 0.5)
    database = database_at(f"postgresql://nobody@/none?host={tmp_path}", tmp_path)
    with pytest.raises(DatabaseUnavailableError):
        await database.open()
    await database.close()
    with pytest.raises(ValueError, match="postgresql://"):
        database_at("mysql://nobody", tmp_path)


def test_sqlites_file_of_the_version_before_keeps_its_trips_and_repeats(tmp_path: Path) -> None:
    from sentinel_sync.backend import sqlite  # noqa: PLC0415  # its steps are what this is about

    with contextlib.closing(sqlite3.connect(tmp_path / "backend.sqlite3", isolation_level=None)) as old:
        for number in range(1, 4):
            for statement in filter(str.strip, (sqlite.SCHEMA if number == 1 else sqlite.ADDITIONS[number]).split(";")):
                old.execute(statement)
        old.execute("PRAGMA user_version = 3")
        row = ("fleet", "v1", "t1", 1.0, "2026-11-23", "2026-11-23T07:00:00", 3600.0, 5000.0, 1, 2, 3, 0.1, 0.2, 90.0)
        marks = ", ".join("?" * 17)
        old.execute(f"INSERT INTO trips VALUES ({marks})", (*row, "d_1", "{}", 4))
        old.execute(f"INSERT INTO trips VALUES ({marks})", (*row[:1], "v2", *row[2:3], 2.0, *row[4:], None, "{}", 0))
    with contextlib.closing(connect(tmp_path / "backend.sqlite3")) as file:
        migrate(file)
        ids = [tuple(row) for row in file.execute("SELECT * FROM trip_ids")]
        trips = file.execute("SELECT count(*) FROM trips").fetchone()[0]
        assert (ids, trips) == ([("fleet", "t1", "v1", 4)], 2)
        assert list(recounted(file)) == []
        file.execute("UPDATE totals SET distance = distance + 1 WHERE kind = 'day'")
        assert list(recounted(file)) == ["the sums of day 2026-11-23 in fleet fleet are not what its trips add up to"]
