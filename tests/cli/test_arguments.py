"""The command line itself: where options may stand, what is said of a wrong one."""

import json
import os
from pathlib import Path

import pytest

from sentinel_sync.cli import run
from sentinel_sync.cli.arguments import COMMANDS, parse, program
from sentinel_sync.cli.main import main
from tests.cli.vehicle import Vehicle


@pytest.mark.parametrize(
    "words",
    [
        ["--config", "a.yaml", "--json", "status"],
        ["status", "--json", "--config", "a.yaml"],
        ["--config=a.yaml", "status", "--json"],
    ],
)
def test_shared_options_may_stand_before_and_after_the_command(words: list[str]) -> None:
    arguments = parse(words)
    assert (arguments.command, arguments.config, arguments.json) == ("status", Path("a.yaml"), True)


def test_the_shared_options_also_follow_an_action() -> None:
    arguments = parse(["--log-level", "debug", "queue", "list", "--json", "--limit", "3"])
    assert (arguments.log_level, arguments.json, arguments.limit) == ("debug", True, 3)


@pytest.mark.parametrize("words", [[], ["--config", "a.yaml"], ["--log-level=error"], ["run"]])
def test_without_a_command_the_agent_runs(words: list[str]) -> None:
    assert parse(words).execute is run.execute


def test_the_default_settings_file_is_read_only_where_it_exists(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    assert parse(["status"]).config is None
    (tmp_path / "configs").mkdir()
    (tmp_path / "configs" / "default.yaml").touch()
    assert parse(["status"]).config == Path("configs/default.yaml")


@pytest.mark.parametrize(
    ("words", "complaint"),
    [
        (["stauts"], "there is no command 'stauts'; did you mean 'status'?"),
        (["status", "--frob"], "unrecognized arguments: --frob"),
        (["queue"], "the following arguments are required: ACTION"),
        (["queue", "list", "--state", "lost"], "argument --state: must be one of waiting, sending, set_aside"),
        (["queue", "frobnicate"], "argument ACTION: invalid choice: 'frobnicate'"),
        (["once", "--timeout", "0"], "argument --timeout: must be more than 0"),
        (["once", "--timeout", "soon"], "argument --timeout: "),
        (["--log-level", "loud", "status"], "argument --log-level: invalid choice: 'loud'"),
        (["--config"], "argument --config: expected one argument"),
    ],
)
def test_bad_usage_is_one_line_and_2(words: list[str], complaint: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith(f"sentinel-sync: error: {complaint}")
    assert err.count("\n") == 1


@pytest.mark.parametrize(
    ("words", "meant"),
    [
        ("scenarios quee", "queue"),
        ("models chek", "check"),
        ("models forgve", "forgive"),
        ("rollouts lst", "list"),
        ("backend add-kye", "add-key"),
        ("fleet ranking", "rankings"),
        ("config shwo", "show"),
        ("status --log-level warn", "warning"),
    ],
)
def test_the_near_word_is_named_for_a_misspelt_one(words: str, meant: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(words.split()) == 2
    assert f"); did you mean '{meant}'? (see " in capsys.readouterr().err
    assert main(["queue", "frobnicate"]) == 2
    assert "did you mean" not in capsys.readouterr().err


def test_help_lists_every_command(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["--help"]) == 0
    out = capsys.readouterr().out
    assert all(f"    {name} " in out for name in COMMANDS)


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_of_the_table_has_its_help(command: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main([command, "--help"]) == 0
    out = capsys.readouterr().out
    assert f" {command} " in out
    assert "--config PATH" in out


def test_a_settings_file_that_is_missing_is_one_line_and_2(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["status", "--config", str(tmp_path / "none.yaml")]) == 2
    assert "cannot read the settings file" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("words", "shown"),
    [
        ("queue list", "the queue is empty"),
        ("models list", "no model is known on this vehicle"),
        ("scenarios list", "no recording was ever queued"),
        ("sent", "nothing was sent"),
        ("why", "nothing waits"),
    ],
)
def test_a_list_of_nothing_is_no_error_where_no_agent_ever_ran(vehicle: Vehicle, words: str, shown: str) -> None:
    said = vehicle.run(*words.split())
    assert (said.code, said.out) == (0, f"{shown}\n")
    assert (said.err.count("\n"), "no agent has run on it yet" in said.err) == (1, True)
    told = vehicle.run(*words.split(), "--json")
    assert (told.code, [value for value in told.json.values() if value]) == (0, [])
    assert not vehicle.state.exists()


@pytest.mark.parametrize("words", ["status", "queue list", "sent", "why", "models list", "scenarios retry x", "health"])
def test_the_built_in_defaults_are_told_on_standard_error(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def line() -> list[str]:
        main([*words.split(), "--json"])
        out, err = capsys.readouterr()
        assert "defaults" not in out
        return [told for told in err.splitlines() if "the built-in defaults count" in told]

    monkeypatch.chdir(tmp_path)
    for name in [name for name in os.environ if name.startswith("SENTINEL_")]:
        monkeypatch.delenv(name)
    assert len(line()) == 1
    monkeypatch.setenv("INVOCATION_ID", "under systemd")
    monkeypatch.delenv("JOURNAL_STREAM", raising=False)
    is_quiet = words in {"why", "scenarios retry x"}  # their log begins with errors
    assert [json.loads(told)["event"] for told in line()] == ([] if is_quiet else ["settings.defaults"])
    monkeypatch.setenv("SENTINEL_CLOUD__STATE_DIR", "here")
    assert line() == []


@pytest.mark.parametrize("words", ["config show", "config check", "doctor", "config schema", "queue --help"])
def test_what_needs_no_settings_or_tells_of_them_does_not_tell_of_defaults(
    words: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.chdir(tmp_path)
    main(words.split())
    assert "the built-in defaults count" not in capsys.readouterr().err


def test_an_unforeseen_error_is_one_line_and_70_and_debug_shows_where(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(COMMANDS, "status", COMMANDS["status"].__class__("tests.cli.broken_command", "breaks"))
    assert main(["status"]) == 70
    err = capsys.readouterr().err
    assert err == (
        "sentinel-sync: error: internal error: ZeroDivisionError: nothing foreseen; `--log-level debug` shows where\n"
    )
    assert main(["status", "--log-level", "debug"]) == 70
    assert "Traceback" in capsys.readouterr().err


def test_advice_names_the_settings_file_that_was_named() -> None:
    parse(["--config", "/etc/my vehicle.yaml", "status"])
    assert program().endswith(" --config '/etc/my vehicle.yaml'")
    parse(["status"])
    assert "--config" not in program()
