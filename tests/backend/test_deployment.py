"""The example of a deployment, as it stands in examples/fleet-backend: processes behind nginx, restarted in turn."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
from collections.abc import AsyncIterator, Iterator
from contextlib import AsyncExitStack, asynccontextmanager, contextmanager
from pathlib import Path

import httpx
import pytest

from sentinel_sync.conformance.judge import judge
from sentinel_sync.conformance.run import Verdict
from tests.backend.vehicle import KEY, Vehicle, make_trip
from tests.fakes.cloud import closed_port
from tests.servers.postgresql import PostgresqlServer

DRIVERS = 6
EXAMPLE = Path(__file__).parents[2] / "examples" / "fleet-backend"


def procfile() -> dict[str, str]:
    lines = (EXAMPLE / "Procfile").read_text(encoding="utf-8").splitlines()
    named = (line.partition(": ") for line in lines if line and not line.startswith("#"))
    return {name: command.replace("python ", f"{sys.executable} ", 1) for name, _, command in named}


@contextmanager
def nginx(folder: Path, ports: dict[str, int]) -> Iterator[str]:
    """The example's nginx, on other ports."""
    program = shutil.which("nginx", path="/usr/sbin:/usr/bin:/sbin:/bin")
    if program is None:
        pytest.skip("no nginx: apt install nginx-light")
    settings = (EXAMPLE / "nginx.conf").read_text(encoding="utf-8")
    for written, port in ports.items():
        assert settings.count(f"127.0.0.1:{written}") == 1
        settings = settings.replace(f"127.0.0.1:{written}", f"127.0.0.1:{port}")
    if os.geteuid() == 0:
        settings = "user root;\n" + settings
    folder.mkdir()
    (folder / "nginx.conf").write_text(settings, encoding="utf-8")
    command = [program, "-p", str(folder), "-c", str(folder / "nginx.conf"), "-e", str(folder / "error.log")]
    subprocess.run(command, check=True, capture_output=True, timeout=20)
    try:
        yield f"http://127.0.0.1:{ports['8080']}"
    finally:
        subprocess.run([*command, "-s", "stop"], check=True, capture_output=True, timeout=20)


@asynccontextmanager
async def web(environment: dict[str, str], port: int) -> AsyncIterator[asyncio.subprocess.Process]:
    running = await asyncio.create_subprocess_shell(
        f"exec {procfile()['web']}", env={**environment, "PORT": str(port)}, stdout=subprocess.PIPE
    )
    assert running.stdout is not None
    async with asyncio.timeout(20):
        assert b"ready" in await running.stdout.readline()
    try:
        yield running
    finally:
        if running.returncode is None:
            running.kill()
        await running.communicate()


async def test_it_conforms_and_a_rolling_restart_costs_nobody_an_error(
    tmp_path: Path, postgresql: PostgresqlServer
) -> None:
    environment = {
        **os.environ,
        "SENTINEL_BACKEND_DATABASE": postgresql.fresh(empty=True),
        "SENTINEL_BACKEND_API_KEY": KEY,
        "DATA": str(tmp_path / "data"),
    }
    release = await asyncio.create_subprocess_shell(procfile()["release"], env=environment)
    assert await release.wait() == 0
    ports = {"5000": closed_port(), "5001": closed_port(), "8080": closed_port()}
    async with AsyncExitStack() as stack:
        running = {port: await stack.enter_async_context(web(environment, ports[port])) for port in ("5000", "5001")}
        url = stack.enter_context(nginx(tmp_path / "nginx", ports))
        headers = {"Authorization": f"Bearer {KEY}"}
        client = await stack.enter_async_context(httpx.AsyncClient(base_url=url, timeout=30.0))
        published = await client.put(
            "/models/yolo/versions/v1.0.0",
            params={"signature": "A" * 86 + "=="},
            content=b"model" * 99,
            headers=headers,
        )
        assert published.status_code == 201
        found = await judge(url, KEY)
        assert [(it.name, it.why) for it in found if it.verdict is Verdict.MISSED] == []

        is_over, answered, sent = asyncio.Event(), asyncio.Event(), []

        async def drive(vehicle: Vehicle) -> None:
            while not is_over.is_set():
                trip = make_trip()
                answer = await vehicle.post_trip(trip)
                # 409: the process that had it stored it and died before it could say so.
                assert answer.status_code in {201, 409}, answer.text
                sent.append(trip["trip_id"])
                answered.set()

        driving = asyncio.gather(*(drive(Vehicle(client, f"vehicle_{number}")) for number in range(DRIVERS)))
        for port, how in (("5000", signal.SIGTERM), ("5001", signal.SIGTERM), ("5000", signal.SIGKILL)):
            running[port].send_signal(how)
            await running[port].wait()
            running[port] = await stack.enter_async_context(web(environment, ports[port]))
            # What was under way may have found this one down already: it is to be over before the other goes.
            has_settled = len(sent) + 3 * DRIVERS
            while len(sent) < has_settled and not driving.done():
                await answered.wait()
                answered.clear()
        is_over.set()
        await driving
        listed = (
            await client.get("/trips", params={"limit": 10_000, "fleet_id": "fleet_alpha"}, headers=headers)
        ).json()
    assert len(sent) > 50
    assert sorted(trip["trip_id"] for trip in listed["trips"]) == sorted(sent)


def test_the_container_file_has_no_fault_that_a_linter_knows() -> None:
    program = Path(sys.executable).with_name("hadolint")
    subprocess.run([str(program), str(EXAMPLE / "Containerfile")], check=True, timeout=60)


def test_the_unit_is_one() -> None:
    program = shutil.which("systemd-analyze")
    if program is None:
        pytest.skip("no systemd-analyze")
    unit = EXAMPLE / "sentinel-backend@.service"
    checked = subprocess.run(
        [program, "verify", "--man=no", str(unit)], capture_output=True, text=True, timeout=60, check=False
    )
    lines = [line for line in checked.stderr.splitlines() if unit.name in line and "is not executable" not in line]
    assert lines == []
