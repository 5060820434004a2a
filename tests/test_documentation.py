"""The documentation: what it tells people to type works, what it names is there, what is made from code is whole."""

import json
import os
import re
import shlex
import signal
import socket
import subprocess
import sys
from contextlib import suppress
from pathlib import Path
from typing import cast

import pytest
from starlette.routing import Route

from sentinel_sync.agent import SyncAgent
from sentinel_sync.cli.arguments import COMMANDS
from sentinel_sync.console.app import ConsoleApp
from sentinel_sync.settings import CloudSettings

ROOT = Path(__file__).parent.parent
PAGES = sorted((ROOT / "docs").glob("*.md"))


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The pages that are made from the code."""
    folder = tmp_path_factory.mktemp("documentation") / "docs"
    subprocess.run([sys.executable, ROOT / "docs" / "generate.py", folder], check=True, cwd=ROOT)
    return folder / "reference"


def test_every_setting_is_in_its_reference_with_a_reason(made: Path) -> None:
    rows = re.findall(r"^\| `(\w+)` \| (.+?) \| (.+) \| (.*) \|$", (made / "settings.md").read_text(), re.MULTILINE)
    assert {row[0] for row in rows} == set(CloudSettings.model_fields)
    assert [row[0] for row in rows if not row[3].strip()] == []


def test_every_command_and_public_name_is_in_its_reference(made: Path) -> None:
    commands = (made / "commands.md").read_text()
    assert [name for name in COMMANDS if f"\n## {name}\n" not in commands] == []
    assert "usage: sentinel-sync models pin" in commands
    assert "::: sentinel_sync.agent.SyncAgent" in (made / "api.md").read_text()


def test_the_wire_reference_tells_of_every_extension(made: Path) -> None:
    document = json.loads((ROOT / "docs" / "openapi.json").read_text())
    for path in ("/trips/batch", "/vehicles/{vehicle_id}/status", "/uploads"):
        assert any(known.startswith(path) for known in document["paths"]), path
    assert "`POST /trips`" in (made / "wire.md").read_text()


def test_the_openapi_document_is_the_backends_own() -> None:
    made = subprocess.run(
        [sys.executable, ROOT / "docs" / "openapi.py"], check=True, cwd=ROOT, capture_output=True
    ).stdout
    assert made.decode() == (ROOT / "docs" / "openapi.json").read_text(), "run: make openapi"


def test_each_command_of_getting_started_works_as_it_stands(tmp_path: Path) -> None:
    page = (ROOT / "docs" / "getting-started.md").read_text(encoding="utf-8")
    lines = [
        line.removeprefix("$ ")
        for block in re.findall(r"^```console\n(.*?)^```$", page, re.DOTALL | re.MULTILINE)
        for line in block.splitlines()
    ]
    assert len(lines) > 15
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    program = tmp_path / "bin" / "sentinel-sync"
    program.parent.mkdir()
    program.write_text(f'#!/bin/sh\nexec {shlex.quote(sys.executable)} -m sentinel_sync "$@"\n')
    program.chmod(0o755)
    script = "\n".join(["set -eux", *lines])
    environment = {name: value for name, value in os.environ.items() if not name.startswith("SENTINEL_")}
    shell = subprocess.Popen(
        ["bash", "-c", script.replace("8700", str(port))],
        cwd=tmp_path,
        env={**environment, "PYTHONPATH": str(ROOT), "PATH": f"{program.parent}:{environment['PATH']}"},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )
    try:
        shown, log = shell.communicate(timeout=100)
    finally:
        with suppress(ProcessLookupError):  # what it began must not outlive it, whatever became of it
            os.killpg(shell.pid, signal.SIGKILL)
        shell.wait()
    said = shown + log
    assert shell.returncode == 0, said
    assert "nothing is left" in shown, said
    assert "2 of 2 shown" in log, said


def test_every_route_of_the_console_is_documented_and_no_other() -> None:
    page = (ROOT / "docs" / "console-api.md").read_text(encoding="utf-8")
    documented = {(method, path) for method, path in re.findall(r"^\| `(GET|POST) (/[\w/]+)`", page, re.MULTILINE)}
    routes = {
        (method, route.path)
        for route in ConsoleApp(cast("SyncAgent", None)).app.routes
        if isinstance(route, Route) and (route.path.startswith("/api/") or route.path == "/metrics")
        for method in (route.methods or set()) - {"HEAD"}
    }
    assert documented == routes


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_what_only_the_site_has_is_said_to_readers_of_the_page(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    included = re.findall(r'^--8<-- "(.+)"$', text, re.MULTILINE)
    links = [link for link in re.findall(r"\]\(([^)#\s]+)", text) if "://" not in link]
    absent = [link for link in links if not (page.parent / link).exists()]
    assert [path for path in included if f"`{path}`" not in text] == []
    assert not (included or absent) or "`make docs`" in text, absent


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_each_setting_and_command_that_a_page_names_is_there(page: Path) -> None:
    text = page.read_text(encoding="utf-8")
    commands = re.findall(r"`(?:python -m sentinel_sync|sentinel-sync)(?: --config \S+)? ([a-z][a-z-]+)", text)
    assert [name for name in commands if name not in COMMANDS] == []
    settings = re.findall(r"`cloud\.(\w+)`", text)
    assert [name for name in settings if name not in CloudSettings.model_fields] == []
