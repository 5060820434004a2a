"""`demo`: shown as promised, found out where it is not, and leaving nothing behind."""

import json
import os
import re
import shutil
import signal
import subprocess
import sys
from collections.abc import Iterator
from importlib.resources import files
from importlib.util import find_spec
from itertools import pairwise
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.clock import moment
from sentinel_sync.base.payloads import Location, TripSummary
from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.demo.city import ACCELERATION, DAY, LIMIT, Moment, moments
from sentinel_sync.demo.processes import DemoError
from sentinel_sync.demo.recording import check_recording
from sentinel_sync.demo.witness import CutTrip, raw_ids_in, verify
from sentinel_sync.trips.rules.drive import haversine
from sentinel_sync.trips.rules.trip import new_trip_id
from tests.conftest import FIXTURES

COMMAND = [sys.executable, "-m", "sentinel_sync", "demo"]
PSEUDONYM_KEY = "a key"


def environment(tmp_path: Path) -> dict[str, str]:
    # A vehicle's own settings in the environment must not become the demo's.
    return {**os.environ, "TMPDIR": str(tmp_path), "SENTINEL_CLOUD__VEHICLE_ID": "somebody_else"}


def children_in(folder: Path) -> list[str]:
    """Command lines of processes that were started with a path in a folder."""
    found = []
    for process in Path("/proc").glob("[0-9]*"):
        try:
            line = (process / "cmdline").read_bytes().replace(b"\0", b" ").decode()
        except OSError:  # it ended meanwhile
            continue
        if str(folder) in line:
            found.append(line)
    return found


def test_the_demo_shows_what_it_promises_and_leaves_nothing_behind(tmp_path: Path) -> None:
    run = subprocess.run(
        COMMAND,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        capture_output=True,
        text=True,
        timeout=100,
        check=False,
    )
    assert (run.returncode, run.stderr) == (0, "")
    assert "\x1b" not in run.stdout  # a pipe gets plain lines
    lines = run.stdout.splitlines()
    assert re.search(r"drive 1: the depot to the ferry building, 2\.2 km in 3 min", run.stdout)
    assert any("the backend was killed" in line for line in lines)
    assert any("the vehicle's process was killed" in line for line in lines)
    assert "All is as promised." in lines
    assert any(re.fullmatch(r"  arrived +13 of 13, each exactly once, as it was recorded", line) for line in lines)
    # One lost answer may be that of several trips in a batch: then there is no third to be lost.
    assert any(re.fullmatch(r"  lost answers +[1-3]: .*", line) for line in lines)
    if ffmpeg_is_here():
        share = re.search(r"it arrived whole: its video compressed to (\d+) %", run.stdout)
        assert share is not None
        assert 0 < int(share[1]) < 100
    else:
        assert "without a recording: there is no ffmpeg" in run.stdout
    assert list(tmp_path.iterdir()) == []
    assert children_in(tmp_path) == []


def ffmpeg_is_here() -> bool:
    return shutil.which("ffmpeg") is not None or find_spec("imageio_ffmpeg") is not None


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_demo_that_is_stopped_takes_its_processes_and_its_folder_with_it(
    tmp_path: Path, number: signal.Signals
) -> None:
    with subprocess.Popen(
        COMMAND,
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        assert process.stdout is not None
        assert process.stderr is not None
        try:
            for line in process.stdout:
                if "the vehicle runs" in line:
                    break
            assert len(children_in(tmp_path)) == 2
            process.send_signal(number)
            assert process.wait(20.0) == ExitCode.INTERRUPTED
            assert "Traceback" not in process.stderr.read()
        finally:
            process.kill()
    assert list(tmp_path.iterdir()) == []
    assert children_in(tmp_path) == []


def test_a_demo_that_goes_wrong_says_so_in_one_line_and_keeps_what_was_written(tmp_path: Path) -> None:
    with subprocess.Popen(
        [*COMMAND, "--json"],
        env=environment(tmp_path),
        stdin=subprocess.DEVNULL,
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    ) as process:
        try:
            vehicle = next(iter(_processes(tmp_path, "sentinel_sync.demo.vehicle", process)))
            os.kill(vehicle, signal.SIGKILL)
            out, err = process.communicate(timeout=60)
        finally:
            process.kill()
    assert process.returncode == ExitCode.FAILED
    assert out == ""
    assert len(err.splitlines()) == 1
    assert "not as promised: the vehicle ended by itself (-9)" in err
    (kept,) = tmp_path.iterdir()
    assert str(kept) in err
    assert (kept / "vehicle" / "config.yaml").stat().st_mode & 0o077 == 0  # it holds a key


def _processes(folder: Path, module: str, parent: "subprocess.Popen[str]") -> Iterator[int]:
    """Ids of the processes that run a module for a folder; looks until there is one."""
    while parent.poll() is None:
        for process in Path("/proc").glob("[0-9]*"):
            try:
                line = (process / "cmdline").read_bytes().decode()
            except OSError:
                continue
            if module in line and str(folder) in line:
                yield int(process.name)


# --- the city ---


@pytest.mark.parametrize("drive", DAY, ids=lambda drive: drive.name)
def test_a_drive_is_plausible_and_the_same_every_time(drive: Any) -> None:
    driven = list(moments(drive))
    assert driven == list(moments(drive))
    assert [second.elapsed for second in driven] == list(range(1, len(driven) + 1))
    assert max(second.speed for second in driven) <= LIMIT * 1.03
    for before, after in pairwise(driven):
        assert after.speed - before.speed <= ACCELERATION + 1e-9
        assert 0.0 <= after.risk <= 1.0
        assert _apart(before, after) == pytest.approx(after.distance, abs=0.5) or _turned(before, after)
    assert _far(driven[-1], drive.destination) < 3.0
    assert sum(second.speed == 0.0 for second in driven) > 5  # it stopped somewhere
    assert {second.alert for second in driven} > {None}


def _apart(before: Moment, after: Moment) -> float:
    return haversine(before.lat, before.lon, after.lat, after.lon)


def _turned(before: Moment, after: Moment) -> bool:
    return before.lat != after.lat and before.lon != after.lon


def _far(moment_: Moment, place: Any) -> float:
    return haversine(moment_.lat, moment_.lon, place.lat, place.lon)


# --- the check at the end ---


OLD: list[dict[str, Any]] = json.loads((FIXTURES / "data" / "trip_queue.json").read_text(encoding="utf-8"))


def recorded(drive: int, **changed: object) -> TripSummary:
    summary = TripSummary(
        trip_id=new_trip_id(1.79e9 + drive, bytes(10)),
        start_time=moment(1.79e9 + drive),
        end_time=moment(1.79e9 + drive + 600),
        duration=600.0,
        distance=5000.25,
        average_speed=8.3,
        max_speed=13.9,
        alert_count=0,
        critical_alert_count=0,
        warning_alert_count=0,
        info_alert_count=0,
        average_risk_score=0.2,
        max_risk_score=0.4,
        driver_id=pseudonym(DAY[drive].driver, PSEUDONYM_KEY.encode()),
        start_location=Location(lat=37.77, lon=-122.39),
        end_location=None,
        interrupted=False,
    )
    return summary.model_copy(update=changed)


RECORDED = {drive: recorded(drive) for drive in (0, 1)}
CUT = CutTrip(drive=2, trip_id=recorded(2).trip_id, on_disk=3000.0)


def arrived() -> list[dict[str, Any]]:
    """All that should be there, as the backend shows it."""
    cut = recorded(2, interrupted=True, distance=3100.0)
    taken_over = [
        recorded(3 + number % 3, trip_id=new_trip_id(1.0 + number, bytes(10)), distance=trip["distance"])
        for number, trip in enumerate(OLD)
    ]
    trips = [*RECORDED.values(), cut, *taken_over]
    return [{**trip.model_dump(mode="json"), "received_at": "now", "repeats": 0} for trip in trips]


ARRIVED = {
    "complete": True,
    "missing": [],
    "metadata": {"location": "37.77,-122.42"},
    "parts": [{"name": "front_left.mp4", "size": 7}],
}


def test_the_check_of_a_recording_finds_nothing_where_all_is_well() -> None:
    assert check_recording(ARRIVED) == 7


@pytest.mark.parametrize(
    ("change", "why"),
    [
        ({"complete": False, "missing": ["front_left.mp4"]}, "front_left.mp4 has not arrived"),
        ({"metadata": {"location": "37.774929,-122.419416"}}, "another place"),
        ({"metadata": {}}, "another place"),
    ],
)
def test_the_check_of_a_recording_finds_what_is_not_as_promised(change: dict[str, Any], why: str) -> None:
    with pytest.raises(DemoError, match=why):
        check_recording(ARRIVED | change)


def test_the_check_finds_nothing_where_all_is_well() -> None:
    verify(arrived(), RECORDED, CUT, OLD, PSEUDONYM_KEY)


@pytest.mark.parametrize(
    ("change", "why"),
    [
        (lambda trips: trips.append(dict(trips[0])), "1 trips arrived twice"),
        (lambda trips: trips.pop(0), "1 trips have not arrived"),
        (lambda trips: trips.pop(2), "1 trips have not arrived"),
        (lambda trips: trips.pop(), "the older module's 7 trips, 6"),
        (lambda trips: trips[-1].update(distance=1.0), "the older module's 7 trips, 7"),
        (lambda trips: trips[0].update(distance=5000.0), "other figures"),
        (lambda trips: trips[0].update(start_time="2026-01-01T00:00:00Z"), "other figures"),
        (lambda trips: trips[2].update(distance=2999.0), "lost what had been on disk"),
        (lambda trips: trips[2].update(interrupted=False), "not marked as interrupted"),
        (lambda trips: trips[5].update(interrupted=True), "another trip than the one that was cut off"),
        (lambda trips: trips[5].update(start_location={"lat": 37.771, "lon": 1.0}), "finer than two decimals"),
        (lambda trips: trips[5].update(driver_id="driver_23"), "something else than a pseudonym"),
        (lambda trips: trips[5].update(note="driver_23"), "a driver's own id"),
    ],
)
def test_the_check_finds_what_is_not_as_promised(change: Any, why: str) -> None:
    trips = arrived()
    change(trips)
    with pytest.raises(DemoError, match=why):
        verify(trips, RECORDED, CUT, OLD, PSEUDONYM_KEY)


def test_the_check_finds_a_wrong_pseudonym() -> None:
    with pytest.raises(DemoError, match="another pseudonym"):
        verify(arrived(), RECORDED, CUT, OLD, "another key")


def test_the_check_finds_a_drivers_own_id_on_disk(tmp_path: Path) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "outbox.db").write_bytes(b"\x00driver_123\x00")
    (tmp_path / "clean.db").write_bytes(b"d_0123")
    assert list(raw_ids_in(tmp_path, OLD)) == ["outbox.db"]


def test_the_demos_older_queue_is_what_deployed_vehicles_wrote() -> None:
    shipped = files("sentinel_sync.demo").joinpath("trip_queue.json").read_bytes()
    assert shipped == (FIXTURES / "data" / "trip_queue.json").read_bytes()
