"""A vehicle in a folder: its settings, its queue, and the command line run on it."""

import asyncio
import contextlib
import json
import os
import queue
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import IO, Any

import pytest

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.cli.main import main
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store
from sentinel_sync.trips.rules.trip import new_trip_id
from tests.cli.backend import KEY

PSEUDONYM_KEY = "pseudonym-key-that-must-not-be-shown"
SECRETS = (KEY, PSEUDONYM_KEY)
#: So many seconds a process is given for anything: far more than it needs, so that a slow machine fails no test.
PATIENCE = 30.0
#: By which `make cover` has the program counted that a test starts.
MEASURED = {name: value for name, value in os.environ.items() if name.startswith("COVERAGE_")}


@dataclass(frozen=True, slots=True)
class Said:
    """What a command came to."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)


class Vehicle:
    """`run(...)` calls the command line in this process; `start(...)` starts a process of its own."""

    def __init__(self, folder: Path, url: str, capsys: pytest.CaptureFixture[str] | None = None) -> None:
        self.folder = folder
        self.config = folder / "vehicle.yaml"
        self.state = folder / "state"
        self._capsys = capsys
        self.configure(api_url=url)

    def configure(self, **keys: object) -> None:
        """Write the settings file; keys replace the usual ones."""
        usual: dict[str, object] = {
            "enabled": True,
            "api_key": KEY,
            "pseudonym_key": PSEUDONYM_KEY,
            "vehicle_id": "vehicle_7",
            "state_dir": str(self.state),
            "scenarios_dir": str(self.folder / "scenarios"),
            "trip_queue_file": str(self.folder / "trip_queue.json"),
            "rate_limit": 0,
            "timeout": 5,
        }
        if self.config.exists():
            usual = json.loads(self.config.read_text())["cloud"]
        # JSON is YAML.
        self.config.write_text(json.dumps({"cloud": {**usual, **keys}}))
        self.config.chmod(0o600)

    def run(self, *words: str) -> Said:
        """Call `main`."""
        assert self._capsys is not None
        self._capsys.readouterr()
        code = main([*words, "--config", str(self.config)])
        out, err = self._capsys.readouterr()
        assert not any(secret in out + err for secret in SECRETS)
        assert "Traceback" not in out + err
        return Said(code, out, err)

    def status_when(self, condition: Callable[[Any], bool]) -> Any:
        """Look at the status until `condition` holds: a running agent writes it down every other second."""
        deadline = time.monotonic() + PATIENCE
        while not condition(picture := self.run("status", "--json").json):
            assert time.monotonic() < deadline, picture
            time.sleep(0.05)
        return picture

    def queue_trips(self, number: int) -> list[str]:
        """Put trips into the outbox, as another process may; returns their keys."""
        keys = [new_trip_id(1_795_000_000.0, index.to_bytes(10)) for index in range(number)]

        async def put() -> None:
            async with Store(self.state, exclusive=False) as store:
                await store.outbox.put_all([NewItem("trip", key, trip(key)) for key in keys])

        asyncio.run(put())
        return keys

    def set_aside(self, key: str, reason: str) -> None:
        """Set an item aside, as the agent does with what the backend will never take."""

        async def change() -> None:
            async with Store(self.state, exclusive=False) as store:
                item = await store.outbox.find(key)
                assert item is not None
                await store.outbox.set_aside(item.seq, reason)

        asyncio.run(change())

    def claim_all(self) -> None:
        """Leave all trips as an agent does that is killed while it sends them."""

        async def claim() -> None:
            async with Store(self.state, exclusive=False) as store:
                assert await store.outbox.claim("trip", 1000)

        asyncio.run(claim())


class Process:
    """A running `python -m sentinel_sync …`; its output is read by threads, line by line."""

    def __init__(self, process: "subprocess.Popen[str]") -> None:
        self._process = process
        self.out = _Lines(process.stdout)
        self.err = _Lines(process.stderr)

    def signal(self, number: signal.Signals) -> None:
        self._process.send_signal(number)

    def wait(self, seconds: float = PATIENCE) -> int:
        """Wait for its end; returns its exit code (minus the signal that killed it)."""
        return self._process.wait(seconds)

    def everything(self) -> str:
        """All that it has written; call it after its end."""
        return "\n".join([*self.out.all(), *self.err.all()])


class _Lines:
    def __init__(self, stream: IO[str] | None) -> None:
        self._waiting: queue.Queue[str | None] = queue.Queue()
        self._seen: list[str] = []
        self._thread: threading.Thread | None = None
        if stream is not None:
            self._thread = threading.Thread(target=self._read, args=(stream,))
            self._thread.start()

    def until(self, condition: Callable[[str], bool]) -> str:
        """The next line for which `condition` holds."""
        while (line := self._waiting.get(timeout=PATIENCE)) is not None:
            if condition(line):
                return line
        raise AssertionError("the process ended without the expected line; it said:\n" + "\n".join(self._seen))

    def all(self) -> list[str]:
        if self._thread is not None:
            self._thread.join(PATIENCE)
        return self._seen

    def _read(self, stream: IO[str]) -> None:
        with stream:
            for line in stream:
                self._seen.append(line.rstrip("\n"))
                self._waiting.put(line)
        self._waiting.put(None)


@contextlib.contextmanager
def started(
    *words: str,
    folder: Path,
    environment: Mapping[str, str] | None = None,
    stdout: int = subprocess.PIPE,
    stderr: int = subprocess.PIPE,
) -> Iterator[Process]:
    """Start the real program in `folder`; killed at the end of the block if it still runs."""
    root = str(Path(__file__).parents[2])
    with subprocess.Popen(
        [sys.executable, "-m", "sentinel_sync", *words],
        cwd=folder,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root, **MEASURED, **(environment or {})},
        stdin=subprocess.DEVNULL,
        stdout=stdout,
        stderr=stderr,
        text=True,
    ) as process:
        try:
            yield Process(process)
        finally:
            process.kill()


def trip(key: str) -> bytes:
    """A trip's body."""
    return (
        TripSummary(
            trip_id=key,
            start_time=datetime(2026, 11, 23, 8, 0, tzinfo=UTC),
            end_time=datetime(2026, 11, 23, 8, 30, tzinfo=UTC),
            duration=1800.0,
            distance=20_000.0,
            average_speed=11.1,
            max_speed=30.0,
            alert_count=0,
            critical_alert_count=0,
            warning_alert_count=0,
            info_alert_count=0,
            average_risk_score=0.1,
            max_risk_score=0.2,
            driver_id=None,
            start_location=None,
            end_location=None,
            interrupted=False,
        )
        .model_dump_json()
        .encode()
    )
