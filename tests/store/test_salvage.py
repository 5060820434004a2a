"""Damaged files: the agent starts, the file is moved aside, what can be read is saved, and somebody is told."""

import asyncio
import logging
import os
import shutil
import sqlite3
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from random import Random

import pytest
from pydantic import TypeAdapter

from sentinel_sync.base.errors import StoreError
from sentinel_sync.store import salvage as salvage_module
from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.store.salvage import finish, is_sound, repair, salvage
from sentinel_sync.store.schema import connect
from sentinel_sync.store.store import DATABASE_NAME, Store
from tests.fakes.clock import FakeClock
from tests.fakes.disk_journal import keep_journal

ITEMS = 2_000
PAGE = 4_096
TEXT = TypeAdapter(str)


def body(number: int) -> bytes:
    return f"trip number {number} ".encode() * 20


async def filled(folder: Path, clock: FakeClock, items: int = ITEMS) -> Path:
    """A state folder with something of everything in it; returns its database."""
    async with Store(folder, clock=clock) as store:
        await store.outbox.put_all([NewItem("trip", f"trip-{number}", body(number)) for number in range(items)])
        await store.documents.save("open_trip", "", "a fact", TEXT)
        first, second, *_ = await store.outbox.claim("trip", 10)
        await store.outbox.set_aside(first.seq, "422")
        await store.outbox.acknowledge("trip", [second.seq])
    return folder / DATABASE_NAME


@contextmanager
def opened(path: Path) -> Iterator[bytearray]:
    """A file's bytes, to be damaged."""
    content = bytearray(path.read_bytes())
    yield content
    path.write_bytes(content)


async def survivors(folder: Path, clock: FakeClock) -> tuple[dict[str, bytes], Store]:
    async with Store(folder, clock=clock) as store:
        assert await store.outbox.verify() == []
        assert await store.outbox.put(NewItem("trip", "afterwards", b"{}")), "and it works"
        items = await store.outbox.items(limit=100_000)
        return {item.key: item.body for item in items if item.key != "afterwards"}, store


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


def all_true(found: dict[str, bytes]) -> bool:
    return all(content == body(int(key.partition("-")[2])) for key, content in found.items())


async def test_a_sound_file_is_left_alone(tmp_path: Path, clock: FakeClock) -> None:
    await filled(tmp_path, clock)
    found, store = await survivors(tmp_path, clock)
    assert len(found) == ITEMS - 1
    assert store.salvaged is None
    assert names(tmp_path) == ["agent.lock", "headroom", DATABASE_NAME]


async def test_zeroed_pages_in_the_middle_cost_only_what_lay_in_them(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    path = await filled(tmp_path, clock)
    with opened(path) as content:
        middle = len(content) // PAGE // 2
        content[middle * PAGE : (middle + 4) * PAGE] = bytes(4 * PAGE)
    found, store = await survivors(tmp_path, clock)
    assert ITEMS - 60 <= len(found) < ITEMS
    assert all_true(found)
    assert store.salvaged is not None
    assert store.salvaged.saved["item"] == len(found)
    assert store.salvaged.moved_to.name == "outbox.db.damaged-20260528T202640Z"
    assert bytes(4 * PAGE) in store.salvaged.moved_to.read_bytes(), "the damaged file itself is kept"
    assert "store.damaged" in caplog.text


async def test_damage_in_two_places_does_not_cost_what_lies_between(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock, 4_000)
    pages = leaf_pages(path)
    with opened(path) as content:
        for place in (len(pages) // 4, 3 * len(pages) // 4):
            content[pages[place] * PAGE : (pages[place] + 1) * PAGE] = os.urandom(PAGE)
    found, _ = await survivors(tmp_path, clock)
    assert 4_000 - 60 <= len(found) < 4_000
    assert all_true(found)


def leaf_pages(path: Path) -> list[int]:
    """Pages that hold items, in their order; counted from 0."""
    content = path.read_bytes()
    pages = [number for number in range(1, len(content) // PAGE) if content[number * PAGE] == 0x0D]
    return [number for number in pages if b"trip number" in content[number * PAGE : (number + 1) * PAGE]]


async def test_a_garbage_header_costs_nothing(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock)
    with opened(path) as content:
        content[:PAGE] = os.urandom(PAGE)
    found, store = await survivors(tmp_path, clock)
    assert len(found) == ITEMS - 1
    assert all_true(found)
    assert store.salvaged is not None
    assert store.salvaged.saved["document"] == 1


async def test_a_truncated_file_keeps_what_is_left_of_it(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock)
    pages = leaf_pages(path)
    with opened(path) as content:
        del content[pages[len(pages) * 2 // 3] * PAGE + 100 :]
    found, store = await survivors(tmp_path, clock)
    assert ITEMS // 2 < len(found) < ITEMS * 3 // 4
    assert all_true(found)
    assert store.salvaged is not None


@pytest.mark.parametrize("content", [b"\0" * 20_000, b"<html>Not Found</html>" * 1_000])
async def test_what_is_no_database_at_all_is_moved_aside(content: bytes, tmp_path: Path, clock: FakeClock) -> None:
    (tmp_path / DATABASE_NAME).write_bytes(content)
    found, store = await survivors(tmp_path, clock)
    assert found == {}
    assert store.salvaged is not None
    assert store.salvaged.moved_to.read_bytes() == content
    assert set(store.salvaged.saved.values()) == {0}


async def test_a_fact_that_damage_cut_off_does_not_keep_the_items(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock)
    connection = connect(path)
    (root,) = connection.execute("SELECT rootpage FROM sqlite_master WHERE name = 'document'").fetchone()
    connection.close()
    with opened(path) as content:
        content[(root - 1) * PAGE : root * PAGE] = bytes(PAGE)
    found, store = await survivors(tmp_path, clock)
    assert len(found) == ITEMS - 1
    assert store.salvaged is not None
    assert store.salvaged.saved["document"] == 0


async def test_states_counts_and_facts_are_saved_too(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock)
    with opened(path) as content:
        pages = leaf_pages(path)
        content[pages[-3] * PAGE : pages[-2] * PAGE] = bytes(PAGE)
    async with Store(tmp_path, clock=clock) as store:
        assert store.salvaged is not None
        aside = await store.outbox.items(state=ItemState.SET_ASIDE)
        assert [(item.key, item.reason) for item in aside] == [("trip-0", "422")]
        counts = await store.outbox.counts()
        assert (counts.sending, counts.acknowledged) == (0, 1), "what was being sent waits again"
        assert await store.documents.load("open_trip", "", TEXT) == "a fact"


def unclosed(folder: Path) -> tuple[Path, Path]:
    """A database whose last commits are only in its log, as a power cut leaves it; returns it and the log."""
    path = folder / DATABASE_NAME
    connection = connect(path)
    connection.execute("PRAGMA wal_autocheckpoint = 0")
    for number in range(10_000, 10_100):
        connection.execute(
            "INSERT INTO item (kind, key, priority, created_at, due_at, body) VALUES ('trip', ?, 0, 0, 0, ?)",
            (f"trip-{number}", body(number)),
        )
    kept = {name: path.with_name(name).read_bytes() for name in (DATABASE_NAME, f"{DATABASE_NAME}-wal")}
    connection.close()
    for name, content in kept.items():
        path.with_name(name).write_bytes(content)
    return path, path.with_name(f"{DATABASE_NAME}-wal")


async def test_a_log_cut_off_in_the_middle_keeps_the_commits_before(tmp_path: Path, clock: FakeClock) -> None:
    await filled(tmp_path, clock, 10)
    _, log = unclosed(tmp_path)
    with opened(log) as content:
        del content[len(content) // 2 :]
    found, _ = await survivors(tmp_path, clock)
    assert 40 <= len(found) < 109
    assert all_true(found)


async def test_a_log_of_garbage_does_not_keep_the_agent_from_starting(tmp_path: Path, clock: FakeClock) -> None:
    await filled(tmp_path, clock, 10)
    _, log = unclosed(tmp_path)
    log.write_bytes(os.urandom(50_000))
    found, _ = await survivors(tmp_path, clock)
    assert len(found) == 9


async def test_what_only_the_log_holds_is_saved_from_a_damaged_file(tmp_path: Path, clock: FakeClock) -> None:
    await filled(tmp_path, clock)
    path, log = unclosed(tmp_path)
    evidence = log.read_bytes()
    pages = leaf_pages(path)
    with opened(path) as content:
        content[pages[5] * PAGE : (pages[5] + 1) * PAGE] = bytes(PAGE)
    async with Store(tmp_path, clock=clock) as store:
        keys = {item.key for item in await store.outbox.items(limit=100_000)}
        assert store.salvaged is not None
        aside = store.salvaged.moved_to
    assert {f"trip-{number}" for number in range(10_000, 10_100)} <= keys
    assert aside.with_name(f"{aside.name}-wal").read_bytes() == evidence, "the evidence is as it was"


async def test_a_power_cut_after_the_new_file_was_whole_is_made_up_for(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock)
    path.rename(tmp_path / f"{DATABASE_NAME}.salvaged")
    path.write_bytes(b"damaged")
    path.with_name(f"{DATABASE_NAME}-wal").write_bytes(b"an old log, which must not be played into the new file")
    found, store = await survivors(tmp_path, clock)
    assert len(found) == ITEMS - 1
    assert store.salvaged is None


async def test_a_power_cut_while_the_new_file_was_built_loses_nothing(tmp_path: Path, clock: FakeClock) -> None:
    path = await filled(tmp_path, clock)
    (tmp_path / f"{DATABASE_NAME}.salvaging").write_bytes(b"half")
    pages = leaf_pages(path)
    with opened(path) as content:
        content[pages[5] * PAGE : (pages[5] + 1) * PAGE] = bytes(PAGE)
    found, _ = await survivors(tmp_path, clock)
    assert len(found) > ITEMS - 40


async def test_two_damages_in_one_second_are_both_kept(tmp_path: Path, clock: FakeClock) -> None:
    for _ in range(2):
        (tmp_path / DATABASE_NAME).write_bytes(b"no database" * 100)
        await survivors(tmp_path, clock)
    assert len([name for name in names(tmp_path) if ".damaged-" in name]) == 2


def test_salvaging_works_where_the_file_system_has_no_links(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    def no_links(*_: object) -> None:
        raise OSError("no links on this file system")

    monkeypatch.setattr(os, "link", no_links)
    path = tmp_path / "outbox.db"
    path.write_bytes(b"no database" * 100)
    assert not is_sound(path)
    result = salvage(path, 0.0)
    assert result.moved_to.read_bytes() == b"no database" * 100
    assert is_sound(path)
    finish(path)  # nothing left to be done


@pytest.mark.parametrize("below", ["state", "state/deeper"])
async def test_a_state_folder_that_is_a_file_is_refused_clearly(below: str, tmp_path: Path) -> None:
    (tmp_path / "state").write_text("not a folder")
    with pytest.raises(StoreError, match=r"state folder .*cloud\.state_dir"):
        await Store(tmp_path / below).open()


async def test_a_killed_writers_leftovers_are_cleared_away(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    caplog.set_level(logging.DEBUG)
    (tmp_path / ".status.json.0a1b2c3d.new").write_text("half a")
    async with Store(tmp_path):
        assert not [name for name in names(tmp_path) if name.endswith(".new")]


class TestOpening:
    """Whatever instant the power went, and whatever was done to the files: the next start succeeds."""

    async def test_a_rollback_journal_of_the_first_start_is_played_back(self, tmp_path: Path, clock: FakeClock) -> None:
        """A kill between the first page and the end of the journal leaves both; a check that only reads fails on it."""
        building, path = tmp_path / "building.db", tmp_path / "state" / DATABASE_NAME
        path.parent.mkdir()
        connection = sqlite3.connect(building, isolation_level=None)
        connection.execute("PRAGMA cache_spill=1")
        connection.execute("PRAGMA cache_size=1")
        connection.execute("CREATE TABLE early (body)")
        connection.execute("BEGIN")
        connection.executemany("INSERT INTO early VALUES (?)", [(bytes(4_000),)] * 200)
        shutil.copyfile(building, path)
        shutil.copyfile(f"{building}-journal", f"{path}-journal")
        connection.close()
        found, _ = await survivors(path.parent, clock)
        assert found == {}
        assert [name for name in names(path.parent) if "damaged" in name and name.endswith("Z")] != []
        assert f"{DATABASE_NAME}-journal" not in names(path.parent)

    async def test_an_empty_file_of_a_first_start_is_no_damage(self, tmp_path: Path, clock: FakeClock) -> None:
        (tmp_path / DATABASE_NAME).touch()
        found, store = await survivors(tmp_path, clock)
        assert (found, store.salvaged) == ({}, None)

    async def test_but_one_that_had_data_is(self, tmp_path: Path, clock: FakeClock) -> None:
        path = await filled(tmp_path, clock, 5)
        path.write_bytes(b"")
        _, store = await survivors(tmp_path, clock)
        assert store.salvaged is not None

    async def test_a_folder_in_its_place_is_put_aside(self, tmp_path: Path, clock: FakeClock) -> None:
        (tmp_path / DATABASE_NAME / "something").mkdir(parents=True)
        _, store = await survivors(tmp_path, clock)
        assert store.salvaged is not None
        assert (store.salvaged.moved_to / "something").is_dir()

    @pytest.mark.parametrize(
        ("old", "new"),
        [
            (b"CREATE TABLE item", b"CREATE TABLE \xe9tem"),
            (b"CREATE TABLE item", b"CRE\xc1TE TABLE item"),
            (b"attempts   INTEGER", b"attem\xf0ts   INTEGER"),
            (b"CREATE TABLE document", b"CREATE TABLE dOcumenu"),
            (b"UNIQUE (key, kind)", b"UNIQUE (key, kinl)"),
            (b"CREATE INDEX item_due", b"CREATE INDEX item_du\xff"),
        ],
    )
    async def test_a_flipped_bit_in_the_text_of_the_schema(
        self, tmp_path: Path, clock: FakeClock, old: bytes, new: bytes
    ) -> None:
        path = await filled(tmp_path, clock, 50)
        with opened(path) as content:
            at = content.index(old)
            content[at : at + len(old)] = new
        found, store = await survivors(tmp_path, clock)
        assert store.salvaged is not None
        assert all_true(found)

    def test_a_damaged_file_that_cannot_be_opened_is_not_held_open(self, tmp_path: Path, clock: FakeClock) -> None:
        path = asyncio.run(filled(tmp_path, clock, 5))
        with opened(path) as content:
            content[content.index(b"CREATE TABLE item") + 3] = 0xC1
        with pytest.raises(UnicodeDecodeError) as raised:
            connect(path, writable=False)
        held = [link.resolve() for link in Path("/proc/self/fd").iterdir()]
        assert path.resolve() not in held, raised

    @pytest.mark.parametrize("version", [0, 1, 1 << 20, -5])
    async def test_a_flipped_bit_in_the_version_of_the_schema(
        self, tmp_path: Path, clock: FakeClock, version: int
    ) -> None:
        path = await filled(tmp_path, clock, 50)
        with opened(path) as content:
            content[60:64] = version.to_bytes(4, signed=True)  # sqlite.org/fileformat2.html, section 1.3
        found, store = await survivors(tmp_path, clock)
        assert store.salvaged is not None
        assert len(found) == 49

    def test_every_single_flipped_bit_of_the_first_page_is_survived(self, tmp_path: Path, clock: FakeClock) -> None:
        """Of each a start either finds nothing wrong or salvages; none raises."""
        path = asyncio.run(filled(tmp_path / "made", clock, 20))
        sound = path.read_bytes()
        rng = Random(7)
        for number in range(120):
            folder = tmp_path / str(number)
            folder.mkdir()
            content = bytearray(sound)
            bit = rng.randrange(PAGE * 8)
            content[bit // 8] ^= 1 << (bit % 8)
            (folder / DATABASE_NAME).write_bytes(content)
            repair(folder / DATABASE_NAME, 0.0, is_new=False)
            assert is_sound(folder / DATABASE_NAME)

    async def test_a_file_of_the_version_before_is_brought_up_to_date(self, tmp_path: Path, clock: FakeClock) -> None:
        path = await filled(tmp_path, clock, 5)
        connection = sqlite3.connect(path)
        connection.execute("ALTER TABLE item DROP COLUMN checksum")
        connection.execute("DROP TABLE sent")
        connection.execute("PRAGMA user_version = 1")
        connection.close()
        found, store = await survivors(tmp_path, clock)
        assert (len(found), store.salvaged) == (4, None)


async def test_each_step_of_a_salvage_is_on_disk_before_the_next(tmp_path: Path, clock: FakeClock) -> None:
    """A11, H: a disk may keep whichever it likes of two steps that nobody fsync'd between."""
    path = await filled(tmp_path, clock)
    with opened(path) as content:
        content[:PAGE] = os.urandom(PAGE)
    path.with_name(f"{DATABASE_NAME}-wal").write_bytes(b"an old log")
    with keep_journal() as journal:
        assert await asyncio.to_thread(repair, path, clock.now(), is_new=False) is not None
    folder = f"sync {tmp_path.name}"
    wanted = ("rename outbox.db.salvaged", "unlink outbox.db-wal", "rename outbox.db", folder)
    journal.steps = journal.steps[journal.steps.index(wanted[0]) :]
    assert journal.order(*wanted) == [wanted[0], folder, wanted[1], folder, wanted[2], folder]


@pytest.mark.parametrize("finished", ["rename outbox.db.salvaged", "unlink outbox.db-wal", "rename outbox.db"])
async def test_a_salvage_cut_off_after_any_step_is_ended_by_the_next_start(
    tmp_path: Path, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, finished: str
) -> None:
    path = await filled(tmp_path, clock)
    with opened(path) as content:
        content[:PAGE] = os.urandom(PAGE)
    path.with_name(f"{DATABASE_NAME}-wal").write_bytes(b"an old log")
    with keep_journal() as journal, monkeypatch.context() as patched:

        def power_cut(folder: Path) -> None:
            if finished in journal.steps:
                raise InterruptedError

        patched.setattr(salvage_module, "sync_folder", power_cut)
        with pytest.raises(InterruptedError):
            await asyncio.to_thread(repair, path, clock.now(), is_new=False)
    await asyncio.to_thread(repair, path, clock.now(), is_new=False)
    found, _ = await survivors(tmp_path, clock)
    assert len(found) == ITEMS - 1
