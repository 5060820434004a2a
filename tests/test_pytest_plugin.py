"""The fixture for hosts' own tests, in a pytest of its own as a host would run it; and the examples, run as hosts."""

import os
import runpy
import signal
import subprocess
import sys
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path

import httpx
import pytest
import yaml

from sentinel_sync.backend import BackendSettings
from sentinel_sync.backend.settings import Limits
from sentinel_sync.pytest_plugin import RunningBackend
from tests.fakes.reference_backend import reference_backend

ROOT = Path(__file__).parent.parent
_HOST_TEST = """
import asyncio
from sentinel_sync import SyncAgent


def test_a_trip_arrives(sentinel_backend, tmp_path):
    async def drive():
        async with SyncAgent(sentinel_backend.settings(tmp_path)) as agent:
            await agent.trips.start_trip(driver_id="driver_123")
            await agent.trips.end_trip()
            return await agent.flush(timeout=20.0)

    assert asyncio.run(drive()).left == 0
    assert any(sentinel_backend.folder.iterdir())
"""


_NO_PLUGINS = {"PYTEST_ADDOPTS": "", "PYTHONPATH": str(ROOT), "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"}


def test_a_hosts_own_test_runs_against_the_reference_backend(tmp_path: Path) -> None:
    (tmp_path / "test_host.py").write_text(_HOST_TEST)
    (tmp_path / "pytest.ini").write_text("[pytest]\naddopts = -p no:cacheprovider\n")
    (queue := tmp_path / "data" / "trip_queue.json").parent.mkdir()
    queue.write_text("[]")  # of the vehicle that the test runs on
    vehicles_own = {"SENTINEL_CLOUD__API_KEY_FILE": "key", "SENTINEL_CLOUD__ENABLED": "false"}
    ran = subprocess.run(
        [sys.executable, "-m", "pytest", "-q", "-p", "sentinel_sync.pytest_plugin"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
        check=False,
        env={**os.environ, **vehicles_own, **_NO_PLUGINS},
    )
    assert ran.returncode == 0, ran.stdout + ran.stderr
    assert [path.name for path in queue.parent.iterdir()] == [queue.name]
    assert "1 passed" in ran.stdout


def test_a_backends_own_test_judges_it(
    sentinel_backend: RunningBackend, sentinel_conformance: Callable[..., None], tmp_path: Path
) -> None:
    sentinel_conformance(sentinel_backend.url, api_key=sentinel_backend.api_key)
    with pytest.raises(pytest.fail.Exception, match=r"does not accept the key \(401\)"):
        sentinel_conformance(sentinel_backend.url, api_key="another")
    narrow = BackendSettings(folder=tmp_path / "narrow", api_keys=("key",), limits=Limits(part=10))
    with (
        reference_backend(narrow) as url,
        pytest.raises(pytest.fail.Exception, match=r"(?s)it does not conform.*video: answered 413.*< 413 "),
    ):
        sentinel_conformance(url, api_key="key", fleet_id="bench", vehicle_id="bench_1")


def _config(folder: Path, backend: RunningBackend) -> Path:
    cloud = {
        "enabled": True,
        "api_url": backend.url,
        "api_key": backend.api_key,
        "pseudonym_key": "the fleet's own secret",
        **{name: str(folder / name) for name in ("state_dir", "scenarios_dir", "profiles_dir", "models_dir")},
        "trip_queue_file": str(folder / "trip_queue.json"),
    }
    path = folder / "vehicle.yaml"
    path.write_text(yaml.safe_dump({"cloud": cloud}))
    return path


@pytest.mark.parametrize("loop", ["asyncio", "uvloop"])
def test_the_host_of_the_documentation_drives_and_stops(
    tmp_path: Path, sentinel_backend: RunningBackend, loop: str
) -> None:
    if loop == "uvloop" and find_spec("uvloop") is None:
        pytest.skip("uvloop is not installed")
    program = "import runpy, sys; sys.argv = sys.argv[1:]\n"
    if loop == "uvloop":
        program += "import uvloop; uvloop.install()\n"
    program += "runpy.run_path(sys.argv[0], run_name='__main__')"
    with subprocess.Popen(
        [sys.executable, "-W", "ignore", "-c", program, ROOT / "examples/host.py", _config(tmp_path, sentinel_backend)],
        stdout=subprocess.PIPE,
        text=True,
    ) as host:
        assert host.stdout is not None
        assert host.stdout.readline() == "driving\n"
        host.send_signal(signal.SIGTERM)
        rest = host.stdout.read()
    assert (host.returncode, rest) == (0, "left for the next start: 0\n")
    shown = httpx.get(
        f"{sentinel_backend.url}/fleet/fleet_alpha/statistics",
        headers={
            "Authorization": f"Bearer {sentinel_backend.api_key}",
            "X-Fleet-ID": "fleet_alpha",
            "X-Vehicle-ID": "vehicle_001",
            "X-Request-ID": "00000000-0000-4000-8000-000000000000",
        },
        trust_env=False,
    )
    assert '"total_trips":1' in shown.text.replace(" ", "")


async def test_the_web_host_of_the_documentation_says_how_the_agent_is(
    tmp_path: Path, sentinel_backend: RunningBackend, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("VEHICLE_CONFIG", str(_config(tmp_path, sentinel_backend)))
    example = runpy.run_path(str(ROOT / "examples" / "web.py"))
    app, lifespan = example["app"], example["lifespan"]
    transport = httpx.ASGITransport(app)
    async with lifespan(app), httpx.AsyncClient(transport=transport, base_url="http://host") as client:
        said = (await client.get("/sync")).json()
    assert set(said) == {"status", "waiting"}
    assert said["waiting"] == 0
