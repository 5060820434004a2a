"""The state folder as a whole: opened, closed, shared, refused."""

import asyncio
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

from sentinel_sync.base.errors import StateLockedError, StoreError
from sentinel_sync.store.database import Database
from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.store.schema import connect
from sentinel_sync.store.store import DATABASE_NAME, HEADROOM_NAME, LOCK_NAME, Store, is_locked


def item(key: str) -> NewItem:
    return NewItem("trip", key, b"{}")


def mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


async def test_the_folder_is_made_for_its_owner_alone(tmp_path: Path) -> None:
    async with Store(tmp_path / "var" / "state"):
        assert mode(tmp_path / "var" / "state") == 0o700


async def test_it_can_be_opened_again_after_it_was_closed(tmp_path: Path) -> None:
    store = Store(tmp_path)
    for number in range(3):
        async with store:
            await store.open()  # open already: nothing happens
            await store.outbox.put(item(str(number)))
    assert not is_locked(tmp_path)
    await store.close()
    async with store:
        assert (await store.outbox.counts()).waiting == 3


async def test_a_commit_survives_a_power_cut_as_far_as_sqlite_is_concerned(store: Store, tmp_path: Path) -> None:
    """FULL also syncs the log at each commit; NORMAL would lose the last ones (sqlite.org/wal.html, section 2)."""
    for writable in (True, False):
        connection = connect(tmp_path / "state" / DATABASE_NAME, writable=writable)
        assert connection.execute("PRAGMA journal_mode").fetchone() == ("wal",)
        assert connection.execute("PRAGMA synchronous").fetchone() == (2,)
        connection.close()


async def test_what_was_being_sent_waits_again_at_the_next_start(tmp_path: Path) -> None:
    async with Store(tmp_path) as store:
        await store.outbox.put(item("a"))
        (claimed,) = await store.outbox.claim("trip", 1)
    async with Store(tmp_path) as store:
        (again,) = await store.outbox.claim("trip", 1)
        assert (again.key, again.seq, again.attempts) == ("a", claimed.seq, 2)


async def test_a_store_that_could_not_be_opened_gives_everything_back(tmp_path: Path) -> None:
    async with Store(tmp_path):
        pass
    connection = connect(tmp_path / DATABASE_NAME)
    connection.execute("PRAGMA user_version = 99")
    connection.close()
    store = Store(tmp_path)
    with pytest.raises(StoreError, match="schema 99"):
        await store.open()
    assert not is_locked(tmp_path)
    with pytest.raises(StoreError, match="not open"):
        await store.outbox.put(item("a"))
    connection = connect(tmp_path / DATABASE_NAME)
    connection.execute("PRAGMA user_version = 1")
    connection.close()
    async with store:
        assert await store.outbox.put(item("a"))


async def test_a_database_that_another_process_holds_is_refused_in_words(tmp_path: Path) -> None:
    database = Database(tmp_path / "outbox.db")
    await database.open()
    await database.run(lambda connection: connection.execute("PRAGMA busy_timeout = 20"), writes=False)
    other = connect(tmp_path / "outbox.db")
    other.execute("BEGIN IMMEDIATE")
    with pytest.raises(StoreError, match=r"outbox\.db is held by another process"):
        await database.run(lambda connection: connection.execute("DELETE FROM item"))
    other.close()
    await database.close()


@pytest.mark.parametrize("turns", range(0, 40, 3))
async def test_an_opening_cancelled_at_any_moment_leaves_the_folder_free(turns: int, tmp_path: Path) -> None:
    opening = asyncio.create_task(Store(tmp_path).open())
    for _ in range(turns):
        await asyncio.sleep(0.0003)
    opening.cancel()
    result, *_ = await asyncio.gather(opening, return_exceptions=True)
    if isinstance(result, Store):  # it was faster
        await result.close()
    async with Store(tmp_path) as store:
        await store.outbox.put(item("a"))


async def test_a_closing_that_was_cancelled_has_written_everything_and_frees_the_folder(tmp_path: Path) -> None:
    store = await Store(tmp_path).open()
    putting = [asyncio.ensure_future(store.outbox.put(item(str(number)))) for number in range(50)]
    await asyncio.sleep(0)
    closing = asyncio.create_task(store.close())
    await asyncio.sleep(0)
    closing.cancel()
    await asyncio.gather(closing, return_exceptions=True)
    await asyncio.gather(*putting)
    async with Store(tmp_path) as again:
        assert (await again.outbox.counts()).waiting == 50


class TestTheFileUnderARunningAgent:
    """Nothing is acknowledged into a file without a name."""

    @pytest.mark.parametrize("suffixes", [("",), ("-wal",), ("", "-wal", "-shm")])
    async def test_deleted_it_is_written_again_whole(
        self, tmp_path: Path, suffixes: tuple[str, ...], caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Store(tmp_path) as store:
            await store.outbox.put(item("before"))
            for suffix in suffixes:
                (tmp_path / f"{DATABASE_NAME}{suffix}").unlink()
            assert await store.outbox.put(item("after"))
        assert "store.replaced" in caplog.text
        async with Store(tmp_path) as store:
            assert {found.key for found in await store.outbox.items()} == {"before", "after"}
            assert store.salvaged is None

    async def test_replaced_ours_counts_and_the_other_is_kept(self, tmp_path: Path) -> None:
        async with Store(tmp_path / "other") as other:
            await other.outbox.put(item("of a backup"))
        async with Store(tmp_path / "state") as store:
            await store.outbox.put(item("before"))
            (tmp_path / "other" / DATABASE_NAME).replace(tmp_path / "state" / DATABASE_NAME)
            assert await store.outbox.put(item("after"))
        async with Store(tmp_path / "state") as store:
            assert {found.key for found in await store.outbox.items()} == {"before", "after"}
        assert list((tmp_path / "state").glob(f"{DATABASE_NAME}.replaced-*"))

    async def test_where_it_cannot_be_written_nothing_is_acknowledged(self, tmp_path: Path) -> None:
        async with Store(tmp_path / "state") as store:
            await store.outbox.put(item("before"))
            shutil.rmtree(tmp_path / "state")
            with pytest.raises(StoreError, match="deleted or replaced"):
                await store.outbox.put(item("after"))

    async def test_the_lock_is_on_the_folder_not_only_on_a_name_in_it(self, tmp_path: Path) -> None:
        async with Store(tmp_path):
            (tmp_path / LOCK_NAME).unlink()
            assert is_locked(tmp_path)
            with pytest.raises(StateLockedError):
                await Store(tmp_path).open()


class TestAlteredItems:
    @pytest.mark.parametrize("change", ["body = x'7b7c'", "key = 'bae'", "checksum = checksum + 1"])
    async def test_what_a_failing_disk_changed_is_never_sent(self, tmp_path: Path, change: str) -> None:
        async with Store(tmp_path) as store:
            await store.outbox.put(item("good"))
            await store.outbox.put(item("bad"))
        connection = connect(tmp_path / DATABASE_NAME)
        connection.execute(f"UPDATE item SET {change} WHERE key = 'bad'")
        connection.close()
        async with Store(tmp_path) as store:
            assert [found.key for found in await store.outbox.claim("trip", 10)] == ["good"]
            (aside,) = await store.outbox.items(state=ItemState.SET_ASIDE)
            assert "altered on disk" in str(aside.reason)

    async def test_nor_by_turns(self, tmp_path: Path) -> None:
        async with Store(tmp_path) as store:
            await store.outbox.put(item("bad"))
            await store.outbox.put(item("good"))
            connection = connect(tmp_path / DATABASE_NAME)
            connection.execute("UPDATE item SET body = x'7b7c' WHERE key = 'bad'")
            connection.close()
            claimed = await store.outbox.claim_in_turn("trip", 0.0)
            assert claimed is not None
            assert claimed.key == "good"

    async def test_nor_by_its_key(self, tmp_path: Path) -> None:
        async with Store(tmp_path) as store:
            await store.outbox.put(item("bad"))
            connection = connect(tmp_path / DATABASE_NAME)
            connection.execute("UPDATE item SET body = x'7b7c' WHERE key = 'bad'")
            connection.close()
            assert await store.outbox.claim_one("bad") is None
            (aside,) = await store.outbox.items(state=ItemState.SET_ASIDE)
            assert "altered on disk" in str(aside.reason)


def circle(path: Path) -> None:
    path.symlink_to(path)


def dangling(path: Path) -> None:
    path.symlink_to(path.with_name("nowhere"))


def put_aside(folder: Path, name: str) -> list[Path]:
    return [found for found in folder.iterdir() if found.name.startswith(f"{name}.damaged-")]


@pytest.mark.parametrize("make", [Path.mkdir, os.mkfifo, circle, dangling])
@pytest.mark.parametrize(
    "name", [DATABASE_NAME, *(f"{DATABASE_NAME}{suffix}" for suffix in ("-wal", "-shm", "-journal")), HEADROOM_NAME,
             LOCK_NAME],
)  # fmt: skip
async def test_what_stands_where_a_file_of_ours_belongs_is_put_aside(
    tmp_path: Path, name: str, make: Callable[[Path], None]
) -> None:
    make(tmp_path / name)
    async with asyncio.timeout(10.0), Store(tmp_path) as store:
        await store.outbox.put(item("1"))
        assert (await store.outbox.counts()).waiting == 1
        assert is_locked(tmp_path)
    assert len(put_aside(tmp_path, name)) == 1
