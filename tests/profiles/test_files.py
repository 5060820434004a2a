"""The profiles' folder: read whole, replaced in one step, never after a change that was not read."""

import json
import os
from pathlib import Path

import pytest

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.files import MAX_FILE_BYTES, ProfileFolder, nameable
from tests.conftest import FIXTURES


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    path = tmp_path / "profiles"
    path.mkdir()
    return path


@pytest.mark.parametrize("name", ["driver_123", "driver_77"])
def test_a_real_profile_is_written_back_byte_for_byte_where_nothing_changed(name: str, folder: Path) -> None:
    original = (FIXTURES / "profiles" / f"{name}.json").read_bytes()
    (folder / f"{name}.json").write_bytes(original)
    profiles = ProfileFolder(folder)
    file = profiles.read(name)
    assert file is not None
    assert profiles.replace(name, file.profile, file) is not None
    assert (folder / f"{name}.json").read_bytes() == original
    assert [path.name for path in folder.iterdir()] == [f"{name}.json"]


def test_the_form_of_the_file_stays(folder: Path) -> None:
    path = folder / "d.json"
    path.write_text('{"name":"Zoë","a":1}\n', encoding="utf-8")
    path.chmod(0o640)
    profiles = ProfileFolder(folder)
    file = profiles.read("d")
    assert file is not None
    profiles.replace("d", file.profile | {"a": 2}, file)
    assert path.read_text(encoding="utf-8") == '{"name": "Zoë", "a": 2}\n'
    assert path.stat().st_mode & 0o777 == 0o640


def test_a_file_that_changed_since_it_was_read_is_left_as_it_is(folder: Path) -> None:
    path = folder / "d.json"
    path.write_text('{"a": 1}')
    profiles = ProfileFolder(folder)
    file = profiles.read("d")
    assert file is not None
    path.write_text('{"a": 22}')
    assert profiles.replace("d", {"a": 3}, file) is None
    assert path.read_text() == '{"a": 22}'
    path.unlink()
    assert profiles.replace("d", {"a": 3}, file) is None
    assert not path.exists()


def test_what_is_removed_goes_with_what_a_killed_process_was_writing_of_it_alone(folder: Path) -> None:
    for name in ("d.json", "e.json", ".d.json.0123abcd.new", ".e.json.0123abcd.new"):
        (folder / name).write_text("{}")
    profiles = ProfileFolder(folder)
    assert profiles.remove("d")
    assert profiles.remove("d"), "again: it is not there"
    left = sorted(path.name for path in folder.iterdir())
    assert (left[-1], "d.json" in left) == ("e.json", False)
    assert not [name for name in left if name.startswith(".d.json.")]
    assert [name for name in left if name.startswith(".e.json.")], "somebody may be writing it"
    profiles.sweep()
    assert [path.name for path in folder.iterdir()] == ["e.json"]


def test_a_file_that_was_driven_on_since_it_was_read_is_not_removed(folder: Path) -> None:
    (folder / "d.json").write_text("{}")
    profiles = ProfileFolder(folder)
    file = profiles.read("d")
    (folder / "d.json").write_text('{"a": 1}')
    assert not profiles.remove("d", file)
    assert (folder / "d.json").read_text() == '{"a": 1}'


@pytest.mark.parametrize("driver_id", ["d", "a/b"], ids=["no folder", "an id that cannot be a file's name"])
def test_what_never_had_a_file_is_removed_already(driver_id: str, tmp_path: Path) -> None:
    assert ProfileFolder(tmp_path / "nowhere").remove(driver_id)


@pytest.mark.skipif(os.geteuid() != 0, reason="only root can give a file to somebody")
def test_a_replaced_file_stays_its_owners(folder: Path) -> None:
    path = folder / "d.json"
    path.write_text('{"a": 1}')
    os.chown(path, 4711, 4712)
    profiles = ProfileFolder(folder)
    file = profiles.read("d")
    assert file is not None
    assert profiles.replace("d", {"a": 2}, file) is not None
    assert (path.stat().st_uid, path.stat().st_gid) == (4711, 4712)


@pytest.mark.parametrize("content", [b"", b"{", b"[1, 2]", b"\x00\x01", b'{"a": Infinity}', b"[" * 5000])
def test_a_broken_file_is_an_error_and_stays(content: bytes, folder: Path) -> None:
    (folder / "d.json").write_bytes(content)
    with pytest.raises(ProfileError):
        ProfileFolder(folder).read("d")
    assert (folder / "d.json").read_bytes() == content


def test_a_huge_file_is_not_read(folder: Path) -> None:
    with (folder / "d.json").open("wb") as file:
        file.truncate(50 << 20)
    with pytest.raises(ProfileError, match=f"larger than {MAX_FILE_BYTES} bytes"):
        ProfileFolder(folder).read("d")


def test_neither_links_nor_pipes_nor_folders_are_followed(folder: Path, tmp_path: Path) -> None:
    outside = tmp_path / "outside.json"
    outside.write_text("{}")
    (folder / "link.json").symlink_to(outside)
    (folder / "folder.json").mkdir()
    os.mkfifo(folder / "pipe.json")
    (folder / "good.json").write_text("{}")
    (folder / ".good.json.0011.new").write_text("{}")
    (folder / "notes.txt").write_text("")
    profiles = ProfileFolder(folder)
    assert list(profiles.signatures()) == ["good"]
    for name in ("link", "folder", "pipe"):
        with pytest.raises(ProfileError):
            profiles.read(name)


def test_a_missing_folder_has_no_profiles_and_is_not_made(tmp_path: Path) -> None:
    profiles = ProfileFolder(tmp_path / "none")
    assert profiles.signatures() == {}
    assert profiles.read("d") is None
    assert not (tmp_path / "none").exists()


@pytest.mark.parametrize("driver_id", ["driver 1", "50%", "a.b", "Zoë", "x" * 200, "a..b"])
def test_ids_that_can_be_file_names(driver_id: str, folder: Path) -> None:
    (folder / f"{driver_id}.json").write_text(json.dumps({"driver_id": driver_id}))
    file = ProfileFolder(folder).read(driver_id)
    assert file is not None
    assert file.profile == {"driver_id": driver_id}
    assert list(ProfileFolder(folder).signatures()) == [driver_id]


@pytest.mark.parametrize(
    "driver_id", ["..", ".", ".hidden", "../x", "a/b", "a\\b", "", "x" * 300, "a\x00b", "a\nb", "\udc80"]
)
def test_ids_that_cannot_be_file_names_have_no_file(driver_id: str, folder: Path) -> None:
    (folder.parent / "x.json").write_text("{}")
    assert not nameable(driver_id)
    assert ProfileFolder(folder).read(driver_id) is None
