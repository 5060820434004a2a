"""The folder of derived files: names for anything, a budget, and nothing left that nobody keeps."""

import re
import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from sentinel_sync.base.errors import StoreError
from sentinel_sync.scenarios import preparation as derived_module
from sentinel_sync.scenarios.preparation import DISK_RESERVE, DerivedFiles


class Disk(NamedTuple):
    """As `shutil.disk_usage` says it."""

    total: int
    used: int
    free: int


def filled(folder: Path, **sizes: int) -> DerivedFiles:
    folder.mkdir()
    for name, size in sizes.items():
        (folder / name).write_bytes(b"x" * size)
    return DerivedFiles(folder, 1000)


@pytest.mark.parametrize("scenario", ["20241117_103045", "..", "a/b", "x" * 5000, "ü\n\0", "\ud800", ""])
def test_a_name_is_one_that_any_file_system_takes(tmp_path: Path, scenario: str) -> None:
    name = DerivedFiles(tmp_path, 0).name_for(scenario, "front_left.mp4", ".mp4")
    assert re.fullmatch(r"[0-9a-f]{32}\.mp4", name)


def test_a_name_is_the_same_every_time_and_another_for_another_part(tmp_path: Path) -> None:
    derived = DerivedFiles(tmp_path, 0)
    names = {derived.name_for(*of, ".mp4") for of in (("a", "b"), ("a", "c"), ("ab", ""), ("", "ab"), ("b", "a"))}
    assert len(names) == 5
    assert derived.name_for("a", "b", ".mp4") == DerivedFiles(tmp_path / "other", 9).name_for("a", "b", ".mp4")
    assert derived.path("name") == tmp_path / "name"


def test_the_budget_counts_all_that_is_there(tmp_path: Path) -> None:
    derived = filled(tmp_path / "derived", whole=300, **{".half.new": 200})
    assert derived.size_bytes() == 500
    assert derived.room_for(500)
    assert not derived.room_for(501)


def test_the_folder_need_not_exist(tmp_path: Path) -> None:
    derived = DerivedFiles(tmp_path / "state" / "derived", 1000)
    assert derived.size_bytes() == 0
    assert derived.room_for(1000)
    assert not derived.room_for(1001)
    assert derived.sweep(()) == 0
    assert list(tmp_path.iterdir()) == []


def test_some_of_the_disk_is_left_to_others(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    asked: list[Path] = []

    def disk_usage(path: Path) -> Disk:
        asked.append(path)
        return Disk(1 << 40, 0, DISK_RESERVE + 100)

    monkeypatch.setattr(shutil, "disk_usage", disk_usage)
    derived = DerivedFiles(tmp_path / "state" / "derived", 1 << 30)
    assert derived.room_for(100)
    assert not derived.room_for(101)
    assert set(asked) == {tmp_path}


def test_a_sweep_leaves_what_is_kept_and_nothing_else(tmp_path: Path) -> None:
    outside = tmp_path / "recording.mp4"
    outside.write_bytes(b"the recorder's")
    derived = filled(tmp_path / "derived", kept=10, swept=20, **{".kept.0a1b2c3d.new": 30})
    folder = tmp_path / "derived"
    (folder / "link").symlink_to(outside)
    (folder / "folder").mkdir()
    (folder / "folder" / "file").write_bytes(b"stray")
    assert derived.sweep({"kept", "never made"}) >= 50
    assert [entry.name for entry in folder.iterdir()] == ["kept"]
    assert outside.read_bytes() == b"the recorder's"
    derived.sweep(())
    assert list(folder.iterdir()) == []


def test_what_cannot_be_deleted_is_said_once_all_else_is_gone(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = filled(tmp_path / "derived", stuck=10, other=20)
    unlink = Path.unlink

    def stubborn(path: Path, missing_ok: bool = False) -> None:
        if path.name == "stuck":
            raise PermissionError(1, "Operation not permitted")
        unlink(path, missing_ok=missing_ok)

    monkeypatch.setattr(Path, "unlink", stubborn)
    with pytest.raises(StoreError, match="Operation not permitted") as told:
        derived.sweep(())
    assert str(tmp_path) not in str(told.value)
    assert [entry.name for entry in (tmp_path / "derived").iterdir()] == ["stuck"]


def test_a_folder_that_is_none_is_the_stores_trouble(tmp_path: Path) -> None:
    (tmp_path / "derived").write_bytes(b"a file")
    derived = DerivedFiles(tmp_path / "derived", 1000)
    for ask in (derived.size_bytes, lambda: derived.room_for(1), lambda: derived.sweep(())):
        with pytest.raises(StoreError, match="cannot be read"):
            ask()


def test_deletion_is_made_durable(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    derived = filled(tmp_path / "derived", swept=1)
    synced: list[tuple[Path, list[Path]]] = []
    monkeypatch.setattr(derived_module, "sync_folder", lambda folder: synced.append((folder, [*folder.iterdir()])))
    derived.sweep(())
    assert synced == [(tmp_path / "derived", [])]
