"""The real program in a process of its own: signals, streams, terminals, an agent beside the other commands."""

import fcntl
import json
import os
import pty
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from tests.cli.backend import Backend
from tests.cli.vehicle import PATIENCE, SECRETS, Process, Vehicle, started


def _json_lines(process: Process) -> list[dict[str, object]]:
    return [json.loads(line) for line in process.err.all()]


@pytest.fixture
def config(vehicle: Vehicle) -> tuple[str, str]:
    return "--config", str(vehicle.config)


def test_an_agent_serves_beside_the_other_commands_and_ends_with_0(vehicle: Vehicle, backend: Backend) -> None:
    """One agent for many questions: starting a process is what takes time here."""
    backend.trip_status = 422
    keys = vehicle.queue_trips(2)
    service = {"INVOCATION_ID": "1"}  # as systemd starts it
    with started("run", "--json", "--config", str(vehicle.config), folder=vehicle.folder, environment=service) as agent:
        agent.out.until(lambda line: json.loads(line)["outbox"]["set_aside"] == 2)

        # It can be looked at from outside …
        picture = vehicle.status_when(lambda picture: picture["agent"]["connectivity"]["status"] == "online")
        assert (picture["running"], picture["outbox"]["set_aside"]) == (True, 2)
        assert "online (for " in vehicle.run("status").out
        assert vehicle.run("queue", "verify").code == 0

        # … has its folder for itself …
        assert vehicle.run("once").code == 73

        # … and takes up what another process decides, within a moment.
        backend.trip_status = 201
        assert vehicle.run("queue", "retry", keys[0], "--json").json == {"retried": 1, "agent_running": True}
        backend.wait_for(lambda: set(backend.received) == {keys[0]})
        assert vehicle.run("queue", "drop", keys[1], "--yes").code == 0
        agent.out.until(lambda line: json.loads(line)["outbox"]["set_aside"] == 0)

        agent.signal(signal.SIGHUP)
        agent.err.until(lambda line: json.loads(line).get("event") == "agent.hangup")

        agent.signal(signal.SIGTERM)
        began = time.monotonic()
        assert agent.wait() == 0
        assert time.monotonic() - began < 5.0

    assert not any(secret in agent.everything() for secret in SECRETS)
    log = _json_lines(agent)
    assert [line for line in log if "event" not in line] == []
    assert log[-1]["event"] == "agent.stopped"
    assert {"time", "level", "logger", "event", "message"} <= log[0].keys()
    assert not vehicle.run("status", "--json").json["running"]


def test_a_request_that_hangs_holds_up_the_end_no_longer_than_the_settings_say(
    vehicle: Vehicle, backend: Backend, config: tuple[str, str]
) -> None:
    backend.holds.set()
    vehicle.configure(shutdown_timeout=1)
    with started(*config, folder=vehicle.folder) as agent:
        agent.out.until(lambda line: line == "not asked yet; 0 to send; 0 sent\n")
        began = time.monotonic()
        agent.signal(signal.SIGINT)
        assert agent.wait() == 0
        assert time.monotonic() - began < 3.0


def test_a_second_signal_ends_it_at_once(vehicle: Vehicle, backend: Backend, config: tuple[str, str]) -> None:
    backend.holds.set()
    vehicle.configure(shutdown_timeout=60)
    with started("run", *config, folder=vehicle.folder) as agent:
        agent.err.until(lambda line: "agent.started" in line)
        agent.signal(signal.SIGTERM)
        agent.err.until(lambda line: "agent.stopping" in line)
        agent.signal(signal.SIGTERM)
        assert agent.wait() == -signal.SIGTERM


def test_once_ends_at_a_signal_and_says_what_is_left(
    vehicle: Vehicle, backend: Backend, config: tuple[str, str]
) -> None:
    backend.holds.set()
    vehicle.configure(shutdown_timeout=1)
    vehicle.queue_trips(2)
    with started("once", "--log-level", "info", *config, folder=vehicle.folder) as once:
        once.err.until(lambda line: "agent.started" in line)
        once.signal(signal.SIGTERM)
        assert once.wait() == 75
    assert once.out.all()[:2] == ["0 items sent; not all", "2 items still to be sent: not asked yet"]


def test_an_output_that_nobody_reads_holds_up_neither_the_agent_nor_its_end(
    vehicle: Vehicle, backend: Backend, config: tuple[str, str]
) -> None:
    keys = vehicle.queue_trips(3)
    with _full_pipe() as stuck, started("run", *config, folder=vehicle.folder, stdout=stuck, stderr=stuck) as agent:
        backend.wait_for(lambda: len(backend.received) == 3)
        assert sorted(backend.received) == keys
        agent.signal(signal.SIGTERM)
        assert agent.wait() == 0


def test_on_a_terminal_the_state_is_drawn_and_the_terminal_left_in_order(
    vehicle: Vehicle, config: tuple[str, str]
) -> None:
    vehicle.queue_trips(4)
    controller, terminal = pty.openpty()
    environment = {"TERM": "xterm-256color", "COLUMNS": "100", "LINES": "30"}
    with started(
        "run", *config, folder=vehicle.folder, environment=environment, stdout=terminal, stderr=terminal
    ) as agent:
        os.close(terminal)
        drawn = _read_until(controller, "4 sent since the start")
        agent.signal(signal.SIGINT)
        drawn += _read_until(controller, None)
        assert agent.wait() == 0
    os.close(controller)
    assert "vehicle_7 of fleet_alpha" in drawn
    assert "agent.started" in drawn
    assert drawn.rfind("\x1b[?25h") > drawn.rfind("\x1b[?25l"), "the cursor is shown again"


def test_a_reader_that_goes_away_is_no_error(vehicle: Vehicle, config: tuple[str, str]) -> None:
    vehicle.queue_trips(1)
    reader, writer = os.pipe()
    os.close(reader)
    with started("status", *config, folder=vehicle.folder, stdout=writer) as look:
        os.close(writer)
        assert look.wait() == 141
    assert look.err.all() == []


def test_closed_streams_are_made_do_with(vehicle: Vehicle) -> None:
    vehicle.queue_trips(1)
    shell = f"exec {sys.executable} -m sentinel_sync queue list --config {vehicle.config} >&- 2>&-"
    environment = {"PYTHONPATH": str(Path(__file__).parents[2])}
    assert subprocess.run(["/bin/sh", "-c", shell], env=environment, check=False, timeout=PATIENCE).returncode == 0


def test_broken_settings_are_one_line_and_2(vehicle: Vehicle, config: tuple[str, str]) -> None:
    vehicle.configure(vehicel_id="x")
    with started("run", *config, folder=vehicle.folder) as agent:
        assert agent.wait() == 2
    (line,) = agent.err.all()
    assert line.startswith("sentinel-sync: error: ")
    assert line.endswith("cloud.vehicel_id: unknown key; the nearest known one is `vehicle_id`")


def test_the_reference_backend_serves_an_agent_with_the_key_it_made(tmp_path: Path) -> None:
    with started("serve", "--port", "0", "--folder", "fleet", "--json", folder=tmp_path) as server:
        url = json.loads(server.out.until(lambda line: line.startswith("{")))["url"]
        vehicle = Vehicle(tmp_path, url)
        vehicle.configure(api_key="", api_key_file=str(tmp_path / "fleet" / "api_key"))
        vehicle.queue_trips(2)
        with started("once", "--config", str(vehicle.config), folder=tmp_path) as once:
            assert once.wait() == 0, once.everything()
        assert once.out.all() == ["2 items sent; nothing is left"]
        server.signal(signal.SIGTERM)
        assert server.wait() == 0
    key = (tmp_path / "fleet" / "api_key").read_text().strip()
    assert key not in server.everything()


def test_help_is_quick_because_nothing_heavy_is_imported(tmp_path: Path) -> None:
    code = (
        "import sys; from sentinel_sync.cli.main import main; main(['--help'])\n"
        "print('heavy:', sorted({'asyncio', 'pydantic', 'httpx', 'rich', 'sqlite3'} & set(sys.modules)))"
    )
    said = subprocess.run(
        [sys.executable, "-c", code],
        env={"PYTHONPATH": str(Path(__file__).parents[2])},
        capture_output=True,
        text=True,
        check=True,
        timeout=PATIENCE,
    )
    assert said.stdout.splitlines()[-1] == "heavy: []"


@contextmanager
def _full_pipe() -> Iterator[int]:
    """The writing end of a pipe that takes no further byte."""
    reader, writer = os.pipe()
    flags = fcntl.fcntl(writer, fcntl.F_GETFL)
    fcntl.fcntl(writer, fcntl.F_SETFL, flags | os.O_NONBLOCK)
    try:
        while True:
            os.write(writer, b"\0" * 4096)
    except BlockingIOError:
        fcntl.fcntl(writer, fcntl.F_SETFL, flags)
    try:
        yield writer
    finally:
        os.close(reader)
        os.close(writer)


def _read_until(controller: int, wanted: str | None) -> str:
    """Read a terminal until it has shown `wanted`, or until its last process has ended."""
    text = ""
    while wanted is None or wanted not in text:
        try:
            text += os.read(controller, 65536).decode(errors="replace")
        except OSError:  # EIO: nobody has the terminal open any more
            assert wanted is None, text
            break
    return text
