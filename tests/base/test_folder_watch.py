"""What changes in a folder is told at once; where nobody tells, the caller is told to look."""

import asyncio
import shutil
from pathlib import Path

import pytest
from blockbuster import blockbuster_ctx

from sentinel_sync.base.folder_watch import FolderWatch


@pytest.fixture
def told() -> asyncio.Event:
    return asyncio.Event()


async def seen(told: asyncio.Event) -> None:
    """Wait until something was told, and forget it."""
    async with asyncio.timeout(20.0):
        await told.wait()
    told.clear()


async def test_it_follows_nothing_before_it_is_open_and_after(tmp_path: Path, told: asyncio.Event) -> None:
    watch = FolderWatch()
    assert not await watch.follows(tmp_path, told.set)
    async with watch:
        assert await watch.follows(tmp_path, told.set)
    assert not await watch.follows(tmp_path, told.set)
    (tmp_path / "late").touch()
    await asyncio.sleep(0)
    assert not told.is_set()


async def test_each_kind_of_change_is_told(tmp_path: Path, told: asyncio.Event) -> None:
    with blockbuster_ctx("sentinel_sync"):
        async with FolderWatch() as watch:
            assert await watch.follows(tmp_path, told.set)
            await asyncio.to_thread((tmp_path / "new").write_bytes, b"1")
            await seen(told)
            with await asyncio.to_thread((tmp_path / "new").open, "ab", 0) as file:
                await asyncio.to_thread(file.write, b"2")  # a file that stays open, as SQLite's log does
                await seen(told)
            await asyncio.to_thread((tmp_path / "new").rename, tmp_path / "other")
            await seen(told)
            await asyncio.to_thread((tmp_path / "other").unlink)
            await seen(told)


async def test_only_names_that_begin_so_are_told_and_one_folder_may_have_several_names(
    tmp_path: Path, told: asyncio.Event
) -> None:
    (tmp_path / "folder").mkdir()
    (tmp_path / "link").symlink_to(tmp_path / "folder")
    other, all_of_it = asyncio.Event(), asyncio.Event()
    async with FolderWatch() as watch:
        assert await watch.follows(tmp_path / "folder", told.set, "outbox.db")
        assert await watch.follows(tmp_path / "folder", other.set, "status")
        assert await watch.follows(tmp_path / "link", all_of_it.set)
        (tmp_path / "folder" / "outbox.db-wal").touch()
        await seen(told)
        await seen(all_of_it)
        assert not other.is_set()


async def test_a_folder_that_goes_is_told_and_followed_again_once_it_is_back(
    tmp_path: Path, told: asyncio.Event
) -> None:
    folder = tmp_path / "recordings"
    async with FolderWatch() as watch:
        assert not await watch.follows(folder, told.set)
        folder.mkdir()
        assert await watch.follows(folder, told.set)
        shutil.rmtree(folder)
        await seen(told)
        async with asyncio.timeout(20.0):
            while await watch.follows(folder, told.set):  # the kernel's last word on it may still be on its way
                await seen(told)
        folder.mkdir()
        assert await watch.follows(folder, told.set)
        (folder / "20241117_103045").mkdir()
        await seen(told)


async def test_where_the_kernel_has_none_left_everybody_looks_for_himself(
    tmp_path: Path, told: asyncio.Event, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def refuse() -> None:
        raise OSError(24, "Too many open files")

    monkeypatch.setattr("sentinel_sync.base.folder_watch._open", refuse)
    with caplog.at_level("INFO"):
        async with FolderWatch() as watch:
            assert not await watch.follows(tmp_path, told.set)
    assert "folders.not_watched" in caplog.text
