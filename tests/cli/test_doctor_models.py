"""`doctor` on a vehicle whose models come from a TUF repository."""

import sys
import time
from pathlib import Path

import pytest

from tests.cli.vehicle import Vehicle
from tests.fakes.tuf_repository import TufRepository


@pytest.fixture
def root_file(vehicle: Vehicle, tmp_path: Path) -> Path:
    """The root metadata that the vehicle was delivered with."""
    root_file = tmp_path / "root.json"
    root_file.write_bytes(TufRepository(time.time()).anchor)
    vehicle.configure(models={"source": "tuf", "metadata_url": "https://m.example.com/", "root_file": str(root_file)})
    return root_file


def found(vehicle: Vehicle) -> dict[str, str]:
    said = vehicle.run("doctor", "--json")
    check: dict[str, str] = next(check for check in said.json["checks"] if check["check"] == "models")
    assert said.code == (1 if check["level"] == "fail" else 0)
    return check


@pytest.mark.usefixtures("root_file")
def test_a_root_that_signs_itself_is_well(vehicle: Vehicle) -> None:
    check = found(vehicle)
    assert (check["level"], check["advice"]) == ("ok", "")
    assert "trust begins with version 1 of its root" in check["message"]


@pytest.mark.parametrize("content", [None, b"", b"root", b"[]", b'{"signatures": [], "signed": {}}', "another"])
def test_one_that_does_not_fails(vehicle: Vehicle, root_file: Path, content: bytes | str | None) -> None:
    match content:
        case None:
            root_file.unlink()
        case str():
            root_file.write_bytes(root_file.read_bytes().replace(b'"version":1', b'"version":2'))
        case _:
            root_file.write_bytes(content)
    check = found(vehicle)
    assert check["level"] == "fail"
    assert "cloud.models.root_file" in check["message"]
    assert "docs/tuf.md" in check["advice"]


@pytest.mark.usefixtures("root_file")
def test_the_missing_extra_is_named(vehicle: Vehicle, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "tuf", None)
    check = found(vehicle)
    assert (check["level"], check["advice"]) == ("fail", "pip install 'sentinel-sync[tuf]'")


def test_nothing_is_said_where_models_come_from_the_backend(vehicle: Vehicle) -> None:
    said = vehicle.run("doctor", "--json")
    assert not [check for check in said.json["checks"] if check["check"] == "models"]
