"""`scenarios`: recordings listed, shown, queued and retried, with and without a running agent."""

import shutil
import signal
from pathlib import Path

import pytest

from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cli.scenarios import _now
from sentinel_sync.scenarios.rules.plan import Part, PartKind, Priority, ScenarioPlan
from sentinel_sync.scenarios.rules.status import QueueState, UploadConditions, status_of
from tests.cli.backend import Backend
from tests.cli.vehicle import Vehicle, started
from tests.conftest import FIXTURES

FIRST, SECOND = sorted((FIXTURES / "scenarios").iterdir())


@pytest.fixture
def consenting(vehicle: Vehicle) -> Vehicle:
    assert vehicle.run("consent", "grant").code == 0
    return vehicle


def test_without_consent_nothing_is_queued_and_it_is_said_how(vehicle: Vehicle) -> None:
    said = vehicle.run("scenarios", "queue", str(FIRST))
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith("sentinel-sync: error: a scenario was not queued: the driver has not consented")
    assert "consent grant" in said.err
    assert len(said.err.splitlines()) == 1


def test_a_recording_is_queued_listed_and_shown(consenting: Vehicle) -> None:
    said = consenting.run("scenarios", "queue", str(FIRST), "--priority", "high")
    assert said.code == 0
    assert said.out.startswith(f"{FIRST.name} is queued, high priority: ")
    head, row = consenting.run("scenarios", "list").out.splitlines()
    assert head.split() == ["SCENARIO", "STATUS", "PRIORITY", "SIZE", "SENT", "NOW", "REASON"]
    assert row.split()[:3] == [FIRST.name, "queued", "high"]
    assert row.endswith("no agent is running")
    shown = consenting.run("scenarios", "show", FIRST.name)
    assert f"folder    {FIRST}\n" in shown.out
    assert "consent   nothing was sent\n" in shown.out
    assert {path.name for path in FIRST.iterdir()} <= set(shown.out.split())
    told = consenting.run("scenarios", "show", FIRST.name, "--json").json
    assert (told["status"], told["priority"], len(told["files"])) == ("queued", "high", 6)
    assert consenting.run("scenarios", "list", "--json").json["total"] == 1
    assert consenting.run("scenarios", "list", "--status", "uploaded").out == "nothing there\n"


def test_a_relative_path_and_a_second_time(consenting: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(FIRST.parent)
    for _ in range(2):
        assert consenting.run("scenarios", "queue", FIRST.name, "--json").json["scenario_id"] == FIRST.name
    assert consenting.run("queue", "list", "--json").json["total"] == 1


def test_a_bad_recording_is_one_line_and_kept_with_its_reason_and_can_be_retried(
    consenting: Vehicle, tmp_path: Path
) -> None:
    folder = tmp_path / "recordings" / FIRST.name
    shutil.copytree(FIRST, folder)
    (folder / "bev.mp4").rename(folder / "aside")
    said = consenting.run("scenarios", "queue", str(folder))
    assert (said.code, said.out) == (1, "")
    assert said.err == f"sentinel-sync: error: scenario '{FIRST.name}' was not queued: bev.mp4 is missing\n"
    (row,) = consenting.run("scenarios", "list").out.splitlines()[1:]
    assert "set aside" in row
    assert row.endswith("bev.mp4 is missing")
    again = consenting.run("scenarios", "retry", FIRST.name)
    assert again.code == 1
    assert "bev.mp4 is missing" in again.out
    (folder / "aside").rename(folder / "bev.mp4")
    assert consenting.run("scenarios", "retry", "--all", "--json").json["retried"] == 1
    assert consenting.run("scenarios", "show", FIRST.name, "--json").json["status"] == "queued"


def test_retry_brings_back_what_the_backend_refused(consenting: Vehicle) -> None:
    consenting.run("scenarios", "queue", str(FIRST))
    consenting.set_aside(f"scenario:{FIRST.name}", "POST /scenarios: answered 422")
    assert consenting.run("scenarios", "show", FIRST.name, "--json").json["status"] == "set_aside"
    assert consenting.run("scenarios", "retry", FIRST.name).code == 0
    assert consenting.run("scenarios", "show", FIRST.name, "--json").json["status"] == "queued"


@pytest.mark.parametrize("words", [("show", "nobody"), ("retry", "nobody")])
def test_an_unknown_scenario_is_one_line_and_1(consenting: Vehicle, words: tuple[str, ...]) -> None:
    said = consenting.run("scenarios", *words)
    assert (said.code, said.out) == (1, "")
    assert said.err.startswith(
        "sentinel-sync: error: there is no scenario 'nobody' on record: never queued, or mistyped? `"
    )
    assert said.err.endswith(" scenarios list` has those that were\n")


def test_one_in_the_recorders_folder_is_queued_by_its_name(consenting: Vehicle) -> None:
    shutil.copytree(FIRST, consenting.folder / "scenarios" / FIRST.name)
    assert "is queued" in consenting.run("scenarios", "queue", FIRST.name).out
    assert "does not exist" in consenting.run("scenarios", "queue", "another").err


def test_a_folder_that_is_not_queued_yet_is_told_of_with_the_reason(consenting: Vehicle, tmp_path: Path) -> None:
    folder = tmp_path / "recordings"
    shutil.copytree(FIRST, folder / "whole")
    shutil.copytree(FIRST, folder / "half", copy_function=shutil.copyfile)
    (folder / "half" / "metadata.json").unlink()
    consenting.configure(scenarios_dir=str(folder))
    listed = consenting.run("scenarios", "list")
    assert (listed.code, listed.out) == (0, "no recording was ever queued\n")
    assert listed.err.startswith("2 folders in cloud.scenarios_dir not queued yet: ")
    said = consenting.run("scenarios", "show", "half")
    assert said.code == 1
    assert said.err.endswith("it is in cloud.scenarios_dir, but not complete yet: metadata.json is missing\n")
    said = consenting.run("scenarios", "show", "whole")
    assert said.err.endswith("and complete: with the consent, a running agent queues it\n")
    assert consenting.run("scenarios", "list", "--json").err == ""


@pytest.mark.parametrize("words", [("retry",), ("retry", "--all", "x"), ("queue", "x", "--priority", "urgent")])
def test_bad_usage_is_2(consenting: Vehicle, words: tuple[str, ...]) -> None:
    assert consenting.run("scenarios", *words).code == 2


def test_looking_where_no_agent_ever_ran_says_so_and_makes_nothing(vehicle: Vehicle) -> None:
    said = vehicle.run("scenarios", "show", "x")
    assert said.code == 1
    assert said.err.startswith("sentinel-sync: error: there is no outbox in the state folder ")
    assert not vehicle.state.exists()


def test_a_running_agent_takes_up_a_grant_and_what_is_queued_and_stops_at_a_withdrawal(
    vehicle: Vehicle, backend: Backend
) -> None:
    backend.trip_status = 422
    vehicle.configure(
        scenarios_dir=str(vehicle.folder / "none"), compress_videos=False, sync_interval=3600, reconnect_spread=0
    )
    with started("run", "--config", str(vehicle.config), "--log-level", "info", folder=vehicle.folder) as process:
        process.err.until(lambda line: "agent.started" in line)
        assert vehicle.run("consent", "grant", "--json").json["agent_running"]
        assert vehicle.run("scenarios", "queue", str(FIRST), "--json").json["agent_running"]
        # The running agent has tried.
        process.err.until(lambda line: "scenario.set_aside" in line)
        said = vehicle.run("consent", "withdraw")
        # Also where nobody is looking: the queue is empty when the command returns.
        assert said.out == (
            "withdrawn: the running agent stops what it is sending, 1 recording left the queue;"
            " the recordings stay where they are\n"
        )
        process.signal(signal.SIGTERM)
        assert process.wait() == 0
    status = vehicle.run("scenarios", "show", FIRST.name, "--json").json
    assert (status["status"], status["reason"]) == ("dropped", "the driver withdrew the consent")


def test_control_characters_in_a_name_do_not_reach_the_terminal(consenting: Vehicle, tmp_path: Path) -> None:
    folder = tmp_path / "two\nlines\x1b[2J"
    shutil.copytree(FIRST, folder)
    said = consenting.run("scenarios", "queue", str(folder))
    assert said.code == 1
    assert "\x1b" not in said.err
    out = consenting.run("scenarios", "list").out
    assert "\x1b" not in out
    assert len(out.splitlines()) == 2


def test_the_progress_that_a_running_agent_tells_is_shown() -> None:
    plan = ScenarioPlan("s1", "/s1", Priority.LOW, 0.0, (Part(PartKind.VIDEO, "bev.mp4", 10, 1),))
    going = TransferStatus(
        name="s1",
        part="bev.mp4",
        phase="uploading",
        done_bytes=4 << 20,
        total_bytes=10 << 20,
        rate=2.0 * (1 << 20),
        time_left=3.0,
    )
    assert _now(status_of("s1", plan, QueueState(queued=True), UploadConditions(going=going))) == (
        "uploading bev.mp4 40 %, 2.1 MB/s, 3 s left"
    )
