"""`backend`: tables, keys, figures and a copy, with a file in a folder and with PostgreSQL, and with bad input."""

import asyncio
import os
import subprocess
from collections.abc import Callable
from pathlib import Path

import httpx
import pytest

from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings
from sentinel_sync.backend.sqlite import connect
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.main import main
from tests.backend.vehicle import KEY, Vehicle, make_trip
from tests.cli.vehicle import Said
from tests.servers.postgresql import PostgresqlServer

Run = Callable[..., Said]


@pytest.fixture
def run(capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch) -> Run:
    monkeypatch.delenv("SENTINEL_BACKEND_DATABASE", raising=False)

    def said(*words: object) -> Said:
        code = main(["backend", *map(str, words)])
        printed = capsys.readouterr()
        return Said(code, printed.out, printed.err)

    return said


@pytest.fixture
def folder(tmp_path: Path, run: Run) -> Path:
    made = tmp_path / "backend"
    assert run("migrate", "--folder", made).out == "the tables are up to date\n"
    return made


def test_keys_are_made_shown_once_rotated_and_revoked(run: Run, folder: Path) -> None:
    where = ("--folder", folder)
    assert run("list-keys", *where).out == "no key has been made\n"
    name, key = run(
        "add-key", "car", "--scope", "vehicle", "--fleet", "f", "--vehicle", "v", "--days", 30, *where
    ).out.split()
    assert name == "car"
    assert len(key) >= 40
    listed = run("list-keys", *where)
    assert "vehicle" in listed.out
    assert key not in listed.out
    rotated = run("rotate-keys", "car", "--json", *where).json
    assert set(rotated) == {"car"}
    assert rotated["car"] != key
    old, new = run("list-keys", "--json", *where).json
    assert old["expires_at"] - new["created_at"] == pytest.approx(7 * 86400.0, abs=60.0)
    assert (new["scopes"], new["fleet_id"], new["vehicle_id"], new["expires_at"]) == (["vehicle"], "f", "v", None)
    refused = run("rotate-keys", "car", "nobody", *where)
    assert refused.code == ExitCode.FAILED
    assert "there is no key nobody that still works: nothing was changed; `" in refused.err
    assert len(run("list-keys", "--json", *where).json) == 2
    assert run("revoke-key", "car", *where).out.startswith("2 keys ended")
    ended = run("revoke-key", "car", *where)
    assert (ended.code, "backend list-keys` has their names" in ended.err) == (ExitCode.FAILED, True)


def test_what_cannot_be_done_is_said_in_a_line(run: Run, folder: Path, tmp_path: Path) -> None:
    where = ("--folder", folder)
    assert run("add-key", "car", "--scope", "vehicle", "--vehicle", "v", *where).code == ExitCode.USAGE
    assert run("check", "--folder", tmp_path / "nothing").code == ExitCode.USAGE
    for days in ("0", "-3", "nan", "soon", "1e300"):
        said = run("add-key", "car", "--scope", "vehicle", f"--days={days}", *where)
        assert (said.code, said.err.count("\n")) == (ExitCode.USAGE, 1)
    assert run("rotate-keys", "car", "--grace-days=-1", *where).code == ExitCode.USAGE
    assert run("list-keys", "--json", *where).json == []
    wrong = run("check", "--database", "mysql://somewhere", *where)
    assert (wrong.code, "postgresql://" in wrong.err) == (ExitCode.USAGE, True)
    assert run("backup", folder, *where).code == ExitCode.STORE
    with connect(folder / "backend.sqlite3") as connection:
        connection.execute("PRAGMA user_version = 99")
    newer = run("list-keys", *where)
    assert (newer.code, "upgrade" in newer.err) == (ExitCode.FAILED, True)
    assert newer.err.count("\n") == 1


def fill(settings: BackendSettings) -> None:
    asyncio.run(_fill(settings))


async def _fill(settings: BackendSettings) -> None:
    """A trip, a model, a recording's annotations, and half of a video."""
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url) as client:
        vehicle = Vehicle(client)
        assert (await vehicle.post_trip(make_trip())).status_code == 201
        headers = {"Authorization": f"Bearer {KEY}"}
        assert (await client.put("/models/yolo/versions/v1.0.0", content=b"model", headers=headers)).status_code == 201
        assert (await vehicle.register()).status_code == 201
        path, kind = "/scenarios/20241117_103045/annotations", {"Content-Type": "application/json"}
        assert (await vehicle.send("POST", path, kind, content=b'{"frames": []}')).status_code == 201
        created = await vehicle.create_upload(VIDEO)
        assert (await vehicle.patch(created.headers["Location"], 0, VIDEO[:1000])).status_code == 204
        LOCATION.append(created.headers["Location"])


VIDEO = bytes(range(256)) * 10
LOCATION: list[str] = []


def is_whole(settings: BackendSettings) -> None:
    asyncio.run(_is_whole(settings))


async def _is_whole(settings: BackendSettings) -> None:
    """It goes on with all of it."""
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url) as client:
        vehicle = Vehicle(client)
        assert (await vehicle.get("/trips")).json()["total"] == 1
        listed = (await vehicle.get("/models")).json()["models"]
        assert [model["version"] for model in listed] == ["v1.0.0"]
        file = (await vehicle.get("/models/yolo/download")).json()["download_url"]
        assert (await client.get(file)).content == b"model"
        assert (await vehicle.patch(LOCATION[-1], 1000, VIDEO[1000:])).status_code == 204
        assert (await vehicle.get("/scenarios/20241117_103045/parts/bev.mp4")).content == VIDEO


def test_check_finds_what_does_not_fit_and_recounts(run: Run, folder: Path) -> None:
    fill(BackendSettings(folder=folder, api_keys=(KEY,)))
    assert run("check", "--folder", folder).out == "all fits together\n"
    with connect(folder / "backend.sqlite3") as connection:
        connection.execute("UPDATE totals SET trips = 7 WHERE kind = 'vehicle'")
        connection.execute("DELETE FROM totals WHERE kind = 'driver'")
        connection.execute("UPDATE totals SET name = 'nobody' WHERE kind = 'day'")
    (model,) = (folder / "models").iterdir()
    model.unlink()
    (part,) = (folder / "parts").iterdir()
    part.write_bytes(b"")
    found = run("check", "--json", "--folder", folder)
    assert found.code == ExitCode.FAILED
    assert len(found.json) == 6
    again = run("check", "--recount", "--folder", folder)
    assert again.code == ExitCode.FAILED
    assert [line.rpartition(" of ")[2] for line in again.out.splitlines()] == [
        "parts has 0 bytes, 14 bytes were stored",
        "models is not there, 5 bytes were stored",
    ]


def test_a_backup_of_a_folder_is_a_backend(run: Run, folder: Path, tmp_path: Path) -> None:
    settings = BackendSettings(folder=folder, api_keys=(KEY,))
    fill(settings)
    (folder / "api_key").write_text("made at the first start")

    async def while_it_runs() -> Said:
        async with running_server(settings):
            return await asyncio.to_thread(run, "backup", tmp_path / "copy", "--folder", folder)

    assert asyncio.run(while_it_runs()).out.startswith("3 files and all else copied")
    assert run("backup", tmp_path / "copy", "--folder", folder).code == ExitCode.STORE
    is_whole(BackendSettings(folder=tmp_path / "copy", api_keys=(KEY,)))
    for name in ("secret.key", "api_key", "backend.sqlite3"):
        assert oct((tmp_path / "copy" / name).stat().st_mode)[-3:] == "600"
    assert oct((folder / "backend.sqlite3").stat().st_mode)[-3:] == "600"


def test_a_backup_of_postgresql_is_its_dump_and_the_files(
    run: Run, tmp_path: Path, postgresql: PostgresqlServer
) -> None:
    empty = postgresql.fresh(empty=True)
    refused = run("check", "--database", empty, "--folder", tmp_path / "backend")
    assert (refused.code, "backend migrate" in refused.err) == (ExitCode.FAILED, True)
    assert run("migrate", "--database", empty).out == "the tables are up to date\n"
    settings = BackendSettings(folder=tmp_path / "backend", database=empty, api_keys=(KEY,))
    fill(settings)
    dump, restored = tmp_path / "dump", postgresql.fresh(empty=True)
    for program, *words in (["pg_dump", "-Fc", "-f", dump, empty], ["pg_restore", "-d", restored, dump]):
        command = [str(postgresql.programs / str(program)), *map(str, words)]
        subprocess.run(command, check=True, timeout=60, env={**os.environ, "LC_ALL": "C"})
    where = ("--folder", tmp_path / "backend", "--database", empty)
    assert "pg_dump" in run("backup", tmp_path / "copy", *where).out
    is_whole(BackendSettings(folder=tmp_path / "copy", database=restored, api_keys=(KEY,)))
    whole = ("--folder", tmp_path / "copy", "--database", restored)
    assert run("check", *whole).out == "all fits together\n"


async def _nobody(*_: object, **__: object) -> None:
    raise ConnectionRefusedError


def test_a_relay_needs_a_stream(run: Run, folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("nats.connect", _nobody)
    refused = run("relay", "--folder", folder, "--nats", "nats://127.0.0.1:1")
    assert (refused.code, "cannot be reached" in refused.err) == (ExitCode.UNAVAILABLE, True)
