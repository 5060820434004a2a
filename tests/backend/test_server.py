"""The backend as a process: its one line, its end, its lock, and what a kill leaves."""

import asyncio
import json
import signal
import socket
import sqlite3
import subprocess
import sys
import threading
from collections import deque
from collections.abc import AsyncIterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import asynccontextmanager, suppress
from pathlib import Path

import httpx
import pytest

from sentinel_sync.backend.server import running_server, serve
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.backend.storage import Folders
from tests.backend.vehicle import KEY, SQLITE_ONLY, Vehicle, make_trip

PROGRAM = """
import json, pathlib, sys
from sentinel_sync.backend import serve
serve(port=0, folder=pathlib.Path(sys.argv[1]), api_keys=[sys.argv[2]])
"""


@asynccontextmanager
async def process(folder: Path) -> AsyncIterator[tuple[asyncio.subprocess.Process, str]]:
    running = await asyncio.create_subprocess_exec(
        sys.executable, "-c", PROGRAM, str(folder), KEY, stdout=subprocess.PIPE, stderr=subprocess.PIPE
    )
    try:
        assert running.stdout is not None
        async with asyncio.timeout(20):
            line = (await running.stdout.readline()).decode()
        yield running, line.split()[-1]
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def test_says_its_address_and_ends_in_order(tmp_path: Path) -> None:
    async with process(tmp_path) as (running, url):
        assert url.startswith("http://127.0.0.1:")
        async with httpx.AsyncClient(base_url=url) as client:
            assert (await Vehicle(client).post_trip(make_trip())).status_code == 201
            running.send_signal(signal.SIGTERM)
            out, err = await running.communicate()
        assert running.returncode == 0
        assert (out, err) == (b"", b"")


async def test_a_kill_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    trips = [make_trip() for _ in range(200)]
    acknowledged: list[str] = []
    async with process(tmp_path) as (running, url):

        async def send(vehicle: Vehicle, mine: list[dict[str, object]]) -> None:
            for trip in mine:
                if (await vehicle.post_trip(trip)).status_code == 201:
                    acknowledged.append(str(trip["trip_id"]))
                if len(acknowledged) == 60:
                    running.kill()

        async with httpx.AsyncClient(base_url=url) as client:
            senders = [send(Vehicle(client), trips[start::8]) for start in range(8)]
            await asyncio.gather(*senders, return_exceptions=True)
    assert 60 <= len(acknowledged) < 200
    with sqlite3.connect(tmp_path / "backend.sqlite3") as connection:
        stored = {row[0] for row in connection.execute("SELECT trip_id FROM trips")}
    connection.close()
    assert set(acknowledged) <= stored


def test_processes_that_start_at_once_have_one_secret(tmp_path: Path) -> None:
    folders = Folders(tmp_path)
    folders.create()
    together = threading.Barrier(8)

    def load(_: int) -> bytes:
        together.wait()
        return folders.load_secret()

    with ThreadPoolExecutor(8) as threads:
        secrets = set(threads.map(load, range(8)))
    assert secrets == {folders.load_secret()}
    assert [path.name for path in folders.incoming.iterdir()] == []


@SQLITE_ONLY
async def test_one_backend_for_a_folder(backend_settings: BackendSettings) -> None:
    async with running_server(backend_settings):
        with pytest.raises(RuntimeError, match="another backend"):
            async with running_server(backend_settings):
                pass
    async with running_server(backend_settings) as url, httpx.AsyncClient() as client:
        assert (await client.get(f"{url}/health")).status_code == 200


async def test_requests_are_answered_without_nagles_delay(backend_settings: BackendSettings) -> None:
    """An answer goes out in two writes; with Nagle's algorithm the second would wait for some 40 ms."""
    async with running_server(backend_settings) as url, httpx.AsyncClient(base_url=url) as client:
        started = asyncio.get_running_loop().time()
        for _ in range(20):
            assert (await client.get("/health")).status_code == 200
        assert asyncio.get_running_loop().time() - started < 20 * 0.03


def test_keys_do_not_travel_in_the_clear(tmp_path: Path) -> None:
    for host in ("0.0.0.0", "::", "192.0.2.1", "vehicle.example"):
        with pytest.raises(ValueError, match="not loopback"):
            serve(host, 0, folder=tmp_path, api_keys=[KEY])
    assert list(tmp_path.iterdir()) == []


def test_a_port_that_is_taken_is_an_os_error(tmp_path: Path) -> None:
    with socket.create_server(("127.0.0.1", 0)) as taken, pytest.raises(OSError, match="in use"):
        serve(port=taken.getsockname()[1], folder=tmp_path, api_keys=[KEY])


def test_the_package_is_cheap_to_import() -> None:
    program = "import sys, json, sentinel_sync.backend; print(json.dumps([n for n in sys.modules]))"
    loaded = json.loads(subprocess.run([sys.executable, "-c", program], capture_output=True, check=True).stdout)
    assert not {"fastapi", "uvicorn", "sqlite3", "starlette"} & set(loaded)


async def test_who_comes_as_it_stops_does_not_hold_it_up(
    backend_settings: BackendSettings, caplog: pytest.LogCaptureFixture
) -> None:
    """Uvicorn asks connections to end once: one that a proxy opened in that moment was served until the grace ended."""
    came, many = deque[socket.socket](maxlen=20), threading.Event()

    def come(host: str, port: int) -> None:
        while True:
            if len(came) == came.maxlen:
                many.set()
                came.popleft().close()
            try:
                came.append(socket.create_connection((host, port), timeout=5.0))
            except OSError:
                return

    for _ in range(5):  # it was no matter of every time
        many.clear()
        async with running_server(backend_settings) as url:
            coming = asyncio.create_task(asyncio.to_thread(come, httpx.URL(url).host, httpx.URL(url).port or 0))
            assert await asyncio.to_thread(many.wait, 5.0)
        await coming
        while came:
            with came.popleft() as one, suppress(ConnectionResetError):
                assert await asyncio.to_thread(one.recv, 1) == b""
    assert "graceful shutdown exceeded" not in caplog.text
