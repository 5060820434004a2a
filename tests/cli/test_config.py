"""`config`: a settings file to begin with, whether one can be used, what counts and why."""

import json
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest

from sentinel_sync.cli.main import main
from sentinel_sync.settings import CloudSettings
from tests.cli.vehicle import PSEUDONYM_KEY, Vehicle

ROOT = Path(__file__).parents[2]


def test_what_init_writes_can_be_used_and_says_why(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "vehicle.yaml"
    assert main(["config", "init", str(path)]) == 0
    assert path.stat().st_mode & 0o777 == 0o600
    assert path.read_text() == (ROOT / "configs" / "default.yaml").read_text()
    assert main(["config", "check", "--config", str(path)]) == 0
    path.write_text("mine")
    assert main(["config", "init", str(path)]) == 1
    assert path.read_text() == "mine"
    assert main(["config", "init", str(tmp_path / "nowhere" / "vehicle.yaml")]) == 1
    assert "is there already" in capsys.readouterr().err


def test_what_cannot_be_used_is_told_by_its_line(vehicle: Vehicle) -> None:
    vehicle.config.write_text("cloud:\n  enabled: true\n  timeout: never\n")
    answer = vehicle.run("config", "check")
    assert (answer.code, "line 3: cloud.timeout" in answer.err) == (2, True)


def test_each_key_is_shown_with_where_it_comes_from(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle.config.write_text(f"cloud:\n  enabled: true\n  api_key: key-1\n  pseudonym_key: {PSEUDONYM_KEY}\n")
    monkeypatch.setenv("SENTINEL_CLOUD__TIMEOUT", "7")
    shown = {it["key"]: (it["value"], it["from"]) for it in vehicle.run("config", "show", "--json").json}
    assert shown["cloud.enabled"] == (True, "line 2")
    assert shown["cloud.timeout"] == (7.0, "SENTINEL_CLOUD__TIMEOUT")
    assert shown["cloud.vehicle_id"] == (CloudSettings().vehicle_id, "default")
    assert shown["cloud.api_key"] == ("**********", "line 3")
    assert PSEUDONYM_KEY not in json.dumps(shown)
    set_keys = {line.split()[0] for line in vehicle.run("config", "show", "--set").out.splitlines()[1:]}
    assert set_keys == {f"cloud.{name}" for name in ("enabled", "api_key", "timeout", "pseudonym_key")}


def test_what_is_set_is_what_differs_from_its_default(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    vehicle.config.unlink()
    main(["config", "init", str(vehicle.config)])
    placeholder = {"cloud.api_key"}
    assert {it["key"] for it in vehicle.run("config", "show", "--set", "--json").json} == placeholder
    text = vehicle.config.read_text().replace("timeout: 30", "timeout: 12").replace("[interior]", "[bev]")
    vehicle.config.write_text(text.replace("data_budget: {}", "data_budget: {any: {day: 5}}"))
    monkeypatch.setenv("SENTINEL_CLOUD__MODELS", '{"metadata_url": "https://m.example"}')
    monkeypatch.setenv("SENTINEL_CLOUD", '{"fleet_id": "north", "rate_limit": 10}')
    shown = {it["key"]: it["from"] for it in vehicle.run("config", "show", "--set", "--json").json}
    assert shown.pop("cloud.models.metadata_url") == "SENTINEL_CLOUD__MODELS"
    assert shown.pop("cloud.fleet_id") == "SENTINEL_CLOUD"
    assert all(origin.startswith("line ") for origin in shown.values())
    assert shown.keys() == {"cloud.timeout", "cloud.drop_audio.bev", "cloud.data_budget.any.day"} | placeholder
    every = vehicle.run("config", "show", "--json").json
    assert {it["key"]: it["from"] for it in every}["cloud.rate_limit"] == "SENTINEL_CLOUD"
    said = vehicle.run("config", "check")
    assert f"{len(shown) + 2} keys set, all others have their defaults" in said.out
    assert vehicle.run("config", "check", "--json").json["changed"] == len(shown) + 2


def test_a_key_by_its_older_name_and_one_that_is_empty_are_shown(vehicle: Vehicle) -> None:
    vehicle.config.write_text("cloud:\n  trip_upload_interval: 20\n")
    shown = {it["key"]: (it["value"], it["from"]) for it in vehicle.run("config", "show", "--json").json}
    assert shown["cloud.sync_interval"] == (20.0, "line 2")
    assert shown["cloud.data_budget"] == ({}, "default")
    vehicle.config.write_text("cloud: {}\n")
    assert vehicle.run("config", "show", "--set").out == "nothing is set to something else than its default\n"


def test_the_schema_knows_every_key(vehicle: Vehicle) -> None:
    schema = vehicle.run("config", "schema").json
    assert schema["$defs"]["CloudSettings"]["properties"].keys() >= CloudSettings.model_fields.keys()
    for reference in json.dumps(schema).split('"$ref": "#/$defs/')[1:]:
        assert reference.split('"')[0] in schema["$defs"]


def test_the_wheel_carries_the_template(tmp_path: Path) -> None:
    build = [sys.executable, "-m", "hatchling", "build", "-t", "wheel", "-d", str(tmp_path)]
    subprocess.run(build, cwd=ROOT, check=True, capture_output=True, timeout=60)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as archive:
        template = archive.read("sentinel_sync/settings/default.yaml")
        assert "sentinel_sync/console/static/index.html" in archive.namelist()
    assert template == (ROOT / "configs" / "default.yaml").read_bytes()
