"""A fleet in a box: real agents in processes of their own at a real backend, and what is made of what they saw."""

import subprocess
import sys
from collections import Counter
from pathlib import Path
from xml.etree import ElementTree as ET

import pytest

from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.main import main
from sentinel_sync.fleet_simulation.protocol import SCRIPTS, Second, kind_of, percentile
from sentinel_sync.fleet_simulation.report import ERRORS, LATE, SLOW, breaks, facts, figures, page, picture
from sentinel_sync.fleet_simulation.run import Order, Outcome, SimulationError, simulate


def outcome(script: str = "steady", seconds: int = 30, vehicles: int = 10) -> Outcome:
    """A run in which each second had ten requests that took 10 ms."""
    made = Outcome(Order(vehicles, script, float(seconds)), "simulated_1", [Second() for _ in range(seconds)])
    for second in made.seconds:
        for _ in range(10):
            second.count("trips", "201", 0.01)
    return made


async def test_a_release_reaches_real_agents_and_nothing_is_lost() -> None:
    told: list[str] = []
    made = await simulate(Order(4, "release", 6.0, trip_interval=2.0, processes=2), told.append)
    assert made.acknowledged > 4
    assert (made.lost, made.doubled, made.left, made.problems) == (0, 0, 0, [])
    assert made.installed == 4
    kinds: Counter[str] = sum((second.requests for second in made.seconds), Counter())
    assert kinds["trips"] > 0
    assert kinds["model file"] >= 4
    assert sum(second.errors for second in made.seconds) == 0
    assert made.backend_cpu is not None
    assert made.backend_cpu > 0
    assert len(told) == 3


async def test_light_vehicles_probe_and_report_to_a_backend_that_is_named(tmp_path: Path) -> None:
    async with running_server(BackendSettings(folder=tmp_path, api_keys=("key",))) as url:
        order = Order(3000, "outage", 6.0, url=url, api_key="key", is_light=True, processes=1)
        made = await simulate(order, lambda _: None)
    rates = [second.requests.total() for second in made.seconds]
    assert sum(rates[:2]) > 5  # 3,000 vehicles, each every five minutes
    assert rates[3] == 0
    statuses: Counter[str] = sum((second.outcomes for second in made.seconds), Counter())
    assert set(statuses) == {"200"}
    assert made.backend_cpu is None


async def test_a_key_that_is_refused_is_said_so(tmp_path: Path) -> None:
    async with running_server(BackendSettings(folder=tmp_path, api_keys=("key",))) as url:
        with pytest.raises(SimulationError, match=r"refuses the key \(401\)"):
            await simulate(Order(vehicles=1, script="steady", duration=6.0, url=url, api_key="other"), lambda _: None)


async def test_a_key_that_may_not_publish_is_said_so(tmp_path: Path) -> None:
    settings = BackendSettings(folder=tmp_path, api_keys=("key",), publisher_keys=("other",))
    async with running_server(settings) as url:
        with pytest.raises(SimulationError, match="403"):
            await simulate(Order(1, "release", 6.0, url=url, api_key="key"), lambda _: None)


def test_nothing_breaks_where_all_is_well() -> None:
    made = outcome()
    assert breaks(made) == []
    told = figures(made)
    assert (told.requests, told.mean_rate, told.peak_rate, told.recovery, told.errors) == (300, 10.0, 10, None, 0)
    assert told.p50 == told.p99 == pytest.approx(0.01, rel=0.1)
    assert "Nothing broke" in page(made)


def test_what_broke_first_is_first() -> None:
    made = outcome()
    made.seconds[20].lag = LATE + 0.1
    for _ in range(5):
        made.seconds[12].count("trips", "503", 0.02)
        made.seconds[16].count("report", "200", SLOW * 2)
    made.seconds[14].waiting = 21
    assert [one.second for one in breaks(made)] == [12, 14, 16, 20]
    assert breaks(made)[0].what == "the backend refused: 5 of 55 requests"
    shown = page(made)
    assert "What broke first:</strong> the backend refused" in shown
    assert "second 14: the backend fell behind: 21 trips waited" in shown


def test_bounds_are_bounds() -> None:
    made = outcome(seconds=5)
    made.seconds[1].lag = LATE
    made.seconds[2].waiting = 20
    for second in made.seconds:
        second.outcomes["404"] += 5  # a refusal, but not for load
    assert breaks(made) == []
    worse = outcome(seconds=5)
    worse.seconds[0].outcomes["429"] += 1
    assert ERRORS < 1 / 10
    assert [one.second for one in breaks(worse)] == [0]


def test_what_piles_up_in_a_tunnel_is_explained_and_its_end_ends_the_recovery() -> None:
    made = outcome("tunnel")
    for place in range(10, 20):
        made.seconds[place] = Second(waiting=30)
    made.seconds[20].waiting = made.seconds[21].waiting = 25
    for _ in range(30):
        made.seconds[20].count("trips", "201", 0.01)
    assert breaks(made) == []
    assert figures(made).recovery == (40, 25.0)
    shown = dict(facts(made))
    assert shown["after the return"] == "40 requests a second at most, 25.0 on average: 1.6 x"


def test_seconds_of_several_processes_are_one() -> None:
    one, other = Second(waiting=2, lag=0.1), Second(waiting=3, lag=0.3)
    one.count("trips", "201", 0.001)
    other.count("probe", "no connection", None)
    one.add(Second.from_json(other.to_json()))
    assert (one.requests, one.outcomes) == (Counter(trips=1, probe=1), Counter({"201": 1, "no connection": 1}))
    assert (one.waiting, one.lag) == (5, 0.3)
    assert percentile([one], 0.99) == pytest.approx(0.001, rel=0.1)
    assert percentile([other], 0.5) is None


@pytest.mark.parametrize(
    ("method", "path", "kind"),
    [
        ("GET", "/health", "probe"),
        ("POST", "/trips", "trips"),
        ("POST", "/trips/batch", "trips"),
        ("PUT", "/vehicles/v/status", "report"),
        ("GET", "/vehicles/v/status", "other"),
        ("GET", "/models", "listing"),
        ("GET", "/models/yolo/download", "listing"),
        ("GET", "/model-files/yolo/v1/yolo.pt", "model file"),
        ("GET", "/fleet/f/statistics", "other"),
    ],
)
def test_what_a_request_is_for(method: str, path: str, kind: str) -> None:
    assert kind_of(method, path) == kind


def test_the_picture_is_whole_and_gaps_are_gaps() -> None:
    made = outcome("outage", 12)
    made.seconds[5] = Second()
    root = ET.fromstring(picture(made))
    paths = [it.attrib["d"] for it in root.iter("{http://www.w3.org/2000/svg}path")]
    assert len(paths) == 7
    assert paths[1].count("M") == 2  # no time in the second in which nothing was answered
    assert len(list(root.iter("{http://www.w3.org/2000/svg}rect"))) == 4  # the outage, on each panel
    assert set(SCRIPTS) == {"steady", "tunnel", "outage", "release"}


def test_the_command_writes_a_page_and_refuses_what_it_cannot_do(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["simulate-fleet", "--vehicles", "2", "--duration", "6", "--trip-interval", "6", "--processes", "1"]
    assert main([*words, "--page", str(tmp_path / "page.html")]) == ExitCode.DONE
    assert "what broke first" in capsys.readouterr().out
    assert "<svg" in (tmp_path / "page.html").read_text()
    ET.fromstring((tmp_path / "page.svg").read_text())
    assert main(["simulate-fleet", "--url", "http://elsewhere.example", "--api-key", "key"]) == ExitCode.USAGE
    assert main(["simulate-fleet", "--duration", "1"]) == ExitCode.USAGE
    assert main(["simulate-fleet", "--url", "http://127.0.0.1:9", "--api-key", "key"]) == ExitCode.FAILED
    assert "no backend answers at http://127.0.0.1:9" in capsys.readouterr().err


def test_a_process_ends_with_whoever_started_it() -> None:
    """Its standard input is closed before there was a plan, and it does not go on for ever."""
    command = [sys.executable, "-m", "sentinel_sync.fleet_simulation.vehicles"]
    ended = subprocess.run(command, input=b"", capture_output=True, timeout=30, check=False)
    assert ended.returncode != 0
