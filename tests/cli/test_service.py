"""`install-service`: the unit is one that systemd accepts, and says what the settings say."""

import shutil
import subprocess
from pathlib import Path

import pytest

from tests.cli.vehicle import Vehicle

ANALYZE = shutil.which("systemd-analyze")


def lines(text: str, name: str) -> list[str]:
    return [line.partition("=")[2] for line in text.splitlines() if line.startswith(f"{name}=")]


def test_it_runs_the_agent_of_this_environment_with_keys_that_nobody_else_reads(vehicle: Vehicle) -> None:
    key = vehicle.folder / "api key"
    key.write_text("a-key-in-a-file")
    vehicle.configure(api_key="", api_key_file=str(key))
    text = vehicle.run("install-service", "--print").out
    (command,) = lines(text, "ExecStart")
    assert command.endswith("-m sentinel_sync run --config ${CREDENTIALS_DIRECTORY}/settings.yaml")
    assert lines(text, "LoadCredential") == [f"settings.yaml:{vehicle.config}", f'"api_key_file:{key}"']
    assert lines(text, "Environment") == ["SENTINEL_CLOUD__API_KEY_FILE=%d/api_key_file"]
    assert (lines(text, "Type"), lines(text, "DynamicUser"), lines(text, "WatchdogSec")) == (
        ["notify"],
        ["yes"],
        ["60"],
    )
    assert "a-key-in-a-file" not in text


def test_a_user_of_ones_own_reads_files_where_they_are(vehicle: Vehicle) -> None:
    text = vehicle.run("install-service", "--print", "--user", "vehicle", "--console").out
    assert lines(text, "ExecStart")[0].endswith(f"run --config {vehicle.config} --console")
    assert lines(text, "User") == ["vehicle"]
    assert str(vehicle.state) in lines(text, "ReadWritePaths")
    assert lines(text, "DynamicUser") == lines(text, "LoadCredential") == []


def test_it_is_written_where_it_is_asked_for(vehicle: Vehicle, tmp_path: Path) -> None:
    unit = tmp_path / "agent.service"
    answer = vehicle.run("install-service", "--unit", str(unit))
    assert (answer.code, "systemctl enable --now agent" in answer.out) == (0, True)
    assert unit.read_text() == vehicle.run("install-service", "--print").out
    refused = vehicle.run("install-service", "--unit", str(tmp_path / "nowhere" / "agent.service"))
    assert (refused.code, "--print" in refused.err) == (1, True)


@pytest.mark.skipif(ANALYZE is None, reason="no systemd-analyze")
@pytest.mark.parametrize("words", [(), ("--user", "root")])
def test_systemd_finds_nothing_to_complain_of(words: tuple[str, ...], vehicle: Vehicle, tmp_path: Path) -> None:
    unit, key = tmp_path / "agent.service", vehicle.folder / "api key"
    key.write_text("a-key-in-a-file")
    vehicle.configure(api_key="", api_key_file=str(key))
    assert vehicle.run("install-service", "--unit", str(unit), *words).code == 0
    assert ANALYZE is not None
    found = subprocess.run([ANALYZE, "verify", str(unit)], capture_output=True, text=True, check=False, timeout=60)
    ours = [line for line in found.stderr.splitlines() if "agent.service" in line]
    assert ours == []
