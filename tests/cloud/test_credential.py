"""Where the key comes from, and how it changes under a running agent."""

import asyncio
import os
from pathlib import Path

import pytest

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.cloud.http import (
    Credential,
    FileCredential,
    FixedCredential,
    credential_of,
)
from sentinel_sync.settings import CloudSettings


@pytest.fixture
def key_file(tmp_path: Path) -> Path:
    path = tmp_path / "key"
    path.write_text("first-key\n")
    return path


def put(path: Path, content: str | bytes) -> None:
    """What somebody else does to the file."""
    path.write_bytes(content.encode() if isinstance(content, str) else content)


def remove(path: Path) -> None:
    path.unlink()


def replace_in_the_same_instant(path: Path, text: str) -> None:
    """Rename another file over it that is as old and as large."""
    fresh = path.with_name("fresh")
    fresh.write_text(text)
    status = path.stat()
    os.utime(fresh, ns=(status.st_atime_ns, status.st_mtime_ns))
    fresh.rename(path)


async def test_a_fixed_key_never_changes() -> None:
    credential = FixedCredential("the-key")
    assert credential.key() == "the-key"
    assert not await credential.refresh()


async def test_a_file_is_read_at_the_first_refresh(key_file: Path) -> None:
    credential = FileCredential(key_file)
    assert credential.key() == ""
    assert await credential.refresh()
    assert credential.key() == "first-key"
    assert not await credential.refresh()


async def test_a_rewritten_file_is_read_again(key_file: Path) -> None:
    credential = FileCredential(key_file)
    await credential.refresh()
    put(key_file, "another-key")
    assert await credential.refresh()
    assert credential.key() == "another-key"


async def test_a_file_renamed_over_it_is_read_again_though_size_and_time_are_the_same(key_file: Path) -> None:
    credential = FileCredential(key_file)
    await credential.refresh()
    replace_in_the_same_instant(key_file, "other-key\n")
    assert await credential.refresh()
    assert credential.key() == "other-key"


async def test_a_link_that_is_turned_is_read_again(tmp_path: Path) -> None:
    """As container platforms mount secrets: a link to a folder of the day."""
    for day in ("1", "2"):
        (tmp_path / day).mkdir()
        (tmp_path / day / "key").write_text(f"key-of-{day}")
    current = tmp_path / "current"
    current.symlink_to("1")
    credential = FileCredential(current / "key")
    await credential.refresh()
    current.unlink()
    current.symlink_to("2")
    assert await credential.refresh()
    assert credential.key() == "key-of-2"


@pytest.mark.parametrize("text", ["", "  \n", "half a key", "line-1\nline-2", "schlüssel", "\x00"])
async def test_a_file_that_holds_no_key_for_a_moment_leaves_the_old_one(key_file: Path, text: str) -> None:
    credential = FileCredential(key_file)
    await credential.refresh()
    put(key_file, text)
    assert not await credential.refresh()
    assert credential.key() == "first-key"
    put(key_file, "second-key")
    assert await credential.refresh()


async def test_a_file_that_is_gone_for_a_moment_leaves_the_old_one(key_file: Path) -> None:
    credential = FileCredential(key_file)
    await credential.refresh()
    remove(key_file)
    assert not await credential.refresh()
    assert credential.key() == "first-key"


@pytest.mark.parametrize("text", [b"", b"two keys", b"\xff\xfe"])
async def test_no_key_at_all_is_an_error_that_names_the_file_and_not_its_text(key_file: Path, text: bytes) -> None:
    put(key_file, text)
    with pytest.raises(ConfigurationError, match=str(key_file)) as caught:
        await FileCredential(key_file).refresh()
    assert "two keys" not in str(caught.value)


async def test_a_missing_file_is_an_error(tmp_path: Path) -> None:
    with pytest.raises(ConfigurationError, match="No such file"):
        await FileCredential(tmp_path / "none").refresh()


async def test_many_refreshes_at_once_agree(key_file: Path) -> None:
    credential = FileCredential(key_file)
    await asyncio.gather(*(credential.refresh() for _ in range(20)))
    assert credential.key() == "first-key"


async def test_reprs_hide_the_key(key_file: Path) -> None:
    from_file = FileCredential(key_file)
    await from_file.refresh()
    assert "first-key" not in repr(from_file)
    assert "the-key" not in repr(FixedCredential("the-key"))


def test_the_settings_file_wins_over_the_settings_key(key_file: Path) -> None:
    chosen: Credential = credential_of(CloudSettings.model_validate({"api_key": "k", "api_key_file": key_file}))
    assert isinstance(chosen, FileCredential)
    assert credential_of(CloudSettings.model_validate({"api_key": "k"})).key() == "k"
