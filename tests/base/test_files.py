"""A reader of a replaced file sees the old whole or the new whole, also where the writer is killed."""

import re
import stat
import threading
from pathlib import Path

import pytest

from sentinel_sync.base.files import LEFTOVERS, make_folder, remove_leftovers, replace_file
from tests.fakes.disk_journal import keep_journal


@pytest.mark.parametrize("durable", [True, False])
def test_the_new_content_takes_the_olds_place(durable: bool, tmp_path: Path) -> None:
    path = tmp_path / "status.json"
    replace_file(path, b"old", durable=durable)
    replace_file(path, b"new", durable=durable)
    assert path.read_bytes() == b"new"
    assert [found.name for found in tmp_path.iterdir()] == ["status.json"]
    assert stat.S_IMODE(path.stat().st_mode) == 0o600


def test_a_reader_never_sees_half_a_file(tmp_path: Path) -> None:
    path, done = tmp_path / "status.json", threading.Event()
    whole = {bytes([number]) * 100_000 for number in range(4)}
    replace_file(path, min(whole), durable=False)

    def write() -> None:
        for _ in range(50):
            for content in whole:
                replace_file(path, content, durable=False)
        done.set()

    writer = threading.Thread(target=write)
    writer.start()
    seen = set()
    while not done.is_set():
        seen.add(path.read_bytes())
    writer.join()
    assert seen <= whole


def test_a_failed_write_leaves_the_old_file_and_nothing_beside_it(tmp_path: Path) -> None:
    path = tmp_path / "folder"
    path.mkdir()
    (path / "in the way").touch()
    with pytest.raises(OSError, match="folder"):
        replace_file(path, b"new", durable=True)
    assert [found.name for found in tmp_path.iterdir()] == ["folder"]


def test_a_durable_file_is_on_disk_before_its_name_and_the_name_after(tmp_path: Path) -> None:
    with keep_journal() as journal:
        replace_file(tmp_path / "a", b"content", durable=True)
    file, *after = journal.steps
    assert re.fullmatch(r"sync \.a\.[0-9a-f]{8}\.new", file)
    assert after == ["rename a", f"sync {tmp_path.name}"]


def test_what_a_killed_writer_leaves_is_known_by_its_name(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    names: list[str] = []

    def note(self: Path, target: Path) -> Path:
        names.extend(found.name for found in tmp_path.glob(LEFTOVERS))
        return target

    monkeypatch.setattr(Path, "replace", note)
    replace_file(tmp_path / "status.json", b"content", durable=False)
    assert len(names) == 1


def test_each_folder_that_is_made_is_on_disk(tmp_path: Path) -> None:
    """A11: on a file system that keeps only what was fsync'd, a folder is lost with its parent's entry."""
    with keep_journal() as journal:
        make_folder(tmp_path / "a" / "b" / "c", 0o700)
        make_folder(tmp_path / "a" / "b" / "c")
    assert journal.steps == [f"sync {tmp_path.name}", "sync a", "sync b"]
    assert (tmp_path / "a" / "b" / "c").stat().st_mode & 0o777 == 0o700


def test_a_folder_named_like_a_leftover_is_in_nobodys_way(tmp_path: Path) -> None:
    (tmp_path / ".status.json.0123abcd.new").mkdir()
    (tmp_path / ".status.json.00000000.new").touch()
    remove_leftovers(tmp_path)
    assert [path.name for path in tmp_path.iterdir()] == [".status.json.0123abcd.new"]
