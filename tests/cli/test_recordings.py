"""`fleet recordings|want`: what a backend lead sees of what vehicles announced, and asks for."""

from collections.abc import Iterator
from pathlib import Path
from uuid import uuid4

import httpx
import pytest

from sentinel_sync.backend.settings import BackendSettings, Extensions
from sentinel_sync.cli.exit_codes import ExitCode
from tests.backend.vehicle import registration
from tests.cli.backend import KEY, Backend
from tests.cli.vehicle import Vehicle
from tests.fakes.reference_backend import reference_backend

FIRST, SECOND = "20241117_103045", "20241118_103045"


@pytest.fixture
def desk(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> Iterator[Vehicle]:
    """A backend that two recordings were announced to, and one video of the older one."""
    sent = {"Authorization": f"Bearer {KEY}", "X-Fleet-ID": "fleet_alpha", "X-Vehicle-ID": "vehicle_7"}
    extensions = Extensions(scenario_catalogue=True)
    settings = BackendSettings(folder=tmp_path / "backend", api_keys=(KEY,), extensions=extensions)
    with reference_backend(settings) as url, httpx.Client(base_url=url, headers=sent) as client:

        def post(path: str, **body: object) -> int:
            headers = {"X-Request-ID": str(uuid4()), "Idempotency-Key": str(uuid4())}
            return client.request("POST", path, headers=headers, **body).status_code  # type: ignore[arg-type]

        assert [post("/scenarios", json=registration(name)) for name in (FIRST, SECOND)] == [201, 201]
        video = {"bev.mp4": ("bev.mp4", b"x" * 2500, "video/mp4")}
        assert post(f"/scenarios/{FIRST}/videos", files=video) == 201
        vehicle = Vehicle(tmp_path, url, capsys)
        vehicle.configure(fleet_id="fleet_alpha")
        yield vehicle


def test_ids_states_files_and_sizes_are_listed_newest_first(desk: Vehicle) -> None:
    lines = desk.run("fleet", "recordings", "vehicle_7").out.splitlines()
    assert lines[0].split() == ["RECORDING", "ANNOUNCED", "STATE", "SIZE", "HERE", "FILES"]
    files = "annotations.json, bev.mp4, interior.mp4"
    assert [line.split()[0] for line in lines[1:]] == [SECOND, FIRST]
    assert lines[1].endswith(f"announced          0 of 3  {files}")
    assert lines[2].endswith(f"partial    2.5 kB  1 of 3  {files}")
    second, first = desk.run("fleet", "recordings", "--json").json
    assert (second["scenario_id"], second["state"], second["size"]) == (SECOND, "announced", 0)
    assert first["announced_at"].endswith("+00:00")
    assert first["files"] == [
        {"name": "annotations.json", "size": None},
        {"name": "bev.mp4", "size": 2500},
        {"name": "interior.mp4", "size": None},
    ]
    assert [one["scenario_id"] for one in desk.run("fleet", "recordings", "--json", "--limit", "1").json] == [SECOND]
    nobody = desk.run("fleet", "recordings", "nobody")
    assert (nobody.code, nobody.out) == (0, "vehicle nobody of fleet fleet_alpha has announced no recording\n")


def test_a_recording_is_asked_for_whole_or_by_file(desk: Vehicle) -> None:
    said = desk.run("fleet", "want", "vehicle_7", SECOND, "--file", "bev.mp4", "--file", "interior.mp4")
    told = "is wanted (bev.mp4, interior.mp4): vehicle vehicle_7 is told at its next report"
    assert (said.code, said.out) == (0, f"{SECOND} {told}\n")
    assert desk.run("fleet", "want", "vehicle_7", SECOND, "--json").json["files"] is None
    assert [one["state"] for one in desk.run("fleet", "recordings", "--json").json] == ["wanted", "partial"]
    for words, why in (
        (("vehicle_8", SECOND), "404 no scenario of this id has arrived"),
        (("vehicle_7", SECOND, "--file", "rear.mp4"), "422 this scenario has annotations.json, bev.mp4"),
    ):
        wrong = desk.run("fleet", "want", *words)
        assert (wrong.code, why in wrong.err) == (ExitCode.FAILED, True)


@pytest.mark.parametrize(
    ("status", "body", "why"),
    [
        (403, b'{"detail": "this key may not look at what has arrived"}', "scope `read`"),
        (404, b"<html>nothing</html>", "the reference backend alone has this"),
        (200, b'{"scenarios": null}', "no list of recordings"),
    ],
)
def test_what_keeps_it_from_being_told_is_said_with_what_to_do(
    backend: Backend, vehicle: Vehicle, status: int, body: bytes, why: str
) -> None:
    backend.answers["/scenarios"] = (status, body)
    said = vehicle.run("fleet", "recordings")
    assert (said.code, why in said.err) == (ExitCode.FAILED, True)


def test_what_a_backend_lists_is_shown_without_its_control_characters(backend: Backend, vehicle: Vehicle) -> None:
    listed = (
        b'{"scenarios": [7, {"scenario_id": 8}, {"scenario_id": "\\u001b[31m1", "received_at": "soon", "parts": [1]}]}'
    )
    backend.answers["/scenarios"] = (200, listed)
    lines = vehicle.run("fleet", "recordings").out.splitlines()
    assert len(lines) == 2
    assert "\x1b" not in lines[1]
    assert "soon" in lines[1]
