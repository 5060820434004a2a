"""A full disk, for real: a tmpfs of a few megabytes, in a mount namespace of its own where we are not root."""

import asyncio
import logging
import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest

from sentinel_sync.base.clock import ClockStamp
from sentinel_sync.base.errors import StoreError, StoreFullError
from sentinel_sync.store.database import Database
from sentinel_sync.store.headroom import SIZE_BYTES, Headroom
from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.store.store import Store
from sentinel_sync.trips.rules.trip import OpenTrip, new_trip_id
from sentinel_sync.trips.trip_uploader import TripLog
from tests.fakes.clock import FakeClock

_INSIDE = "SENTINEL_TEST_NAMESPACE"
DISK_MIB = 16
BODY = b"x" * 600


def _can_mount() -> bool:
    return (
        os.geteuid() == 0
        and subprocess.run(["unshare", "-m", "true"], capture_output=True, check=False).returncode == 0
    )


def _can_unshare() -> bool:
    unshare = shutil.which("unshare")
    return (
        unshare is not None
        and subprocess.run([unshare, "-rm", "true"], capture_output=True, check=False).returncode == 0
    )


CAN_MOUNT = os.environ.get(_INSIDE) == "1" or _can_mount()
needs_a_disk = pytest.mark.skipif(not CAN_MOUNT, reason="may not mount here; run by test_the_others_in_a_namespace")


@pytest.mark.skipif(CAN_MOUNT, reason="mounts directly")
def test_the_others_in_a_namespace_where_mounting_is_allowed() -> None:
    if not _can_unshare():
        pytest.skip("neither root nor user namespaces: nothing here can be mounted, so no disk can be filled")
    subprocess.run(
        ["unshare", "-rm", sys.executable, "-m", "pytest", "-q", "-p", "no:cacheprovider", __file__],
        env=os.environ | {_INSIDE: "1"},
        cwd=Path(__file__).parents[2],
        check=True,
    )


class Disk:
    """A small file system that other things can fill."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.state = folder / "state"
        self._ballast = folder / "ballast"

    def fill(self) -> None:
        """Take every free byte."""
        with self._ballast.open("ab") as file:
            for size in (1 << 20, 1 << 12, 1):
                self._write_until_full(file.fileno(), bytes(size))

    def free(self) -> None:
        self._ballast.unlink()

    def remount(self, how: str) -> None:
        subprocess.run(["mount", "-o", f"remount,{how}", self.folder], check=True)

    @staticmethod
    def _write_until_full(descriptor: int, block: bytes) -> None:
        def write_for_ever() -> None:
            while True:
                os.write(descriptor, block)

        with pytest.raises(OSError, match="No space left"):
            write_for_ever()


@pytest.fixture
def disk(tmp_path: Path) -> Iterator[Disk]:
    folder = tmp_path / "disk"
    folder.mkdir()
    subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={DISK_MIB}m", "tmpfs", folder], check=True)
    try:
        yield Disk(folder)
    finally:
        subprocess.run(["umount", "-l", folder], check=True)


async def put_until_full(store: Store, prefix: str = "trip") -> list[str]:
    """Put until an error says that the disk is full; returns what was acknowledged before."""
    taken: list[str] = []
    while True:
        key = f"{prefix}-{len(taken)}"
        try:
            await store.outbox.put(NewItem("trip", key, BODY))
        except StoreFullError:
            return taken
        taken.append(key)


async def keys(store: Store) -> list[str]:
    return [item.key for item in await store.outbox.items(limit=100_000)]


@needs_a_disk
async def test_put_on_a_full_disk_is_an_error_and_loses_nothing_acknowledged(disk: Disk, clock: FakeClock) -> None:
    async with Store(disk.state, clock=clock) as store:
        await store.outbox.put(NewItem("trip", "first", BODY))
        disk.fill()
        taken = await put_until_full(store)
        with pytest.raises(StoreFullError, match="free some space"):
            await store.outbox.put_all([NewItem("trip", f"more-{number}", BODY) for number in range(5_000)])
        kept = set(await keys(store))
        assert {"first", *taken} <= kept
        disk.free()
        await store.outbox.put(NewItem("trip", "afterwards", BODY))
    async with Store(disk.state, clock=clock) as store:
        assert {"first", "afterwards", *taken} <= set(await keys(store))
        assert store.salvaged is None


@needs_a_disk
@pytest.mark.parametrize("queued", [200, 1_000, 3_000])
async def test_everything_queued_can_be_sent_off_a_full_disk(
    queued: int, disk: Disk, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    """Claims, deferrals and acknowledgements only ever free space in the end, so they may use the headroom."""
    caplog.set_level(logging.WARNING)
    async with Store(disk.state, clock=clock) as store:
        for number in range(queued):  # one by one, so that the log is as long as it gets
            await store.outbox.put(NewItem("trip", f"trip-{number}", BODY))
        disk.fill()
        extra = len(await put_until_full(store, "extra"))
        acknowledged = 0
        while claimed := await store.outbox.claim("trip", 128):
            first, second, *others = claimed
            await store.outbox.defer(first.seq, 0.0, "503", connectivity=False)
            await store.outbox.release([second.seq])
            for start in range(0, len(others), 32):
                group = [item.seq for item in others[start : start + 32]]
                await store.outbox.acknowledge("trip", group)
                acknowledged += len(group)
            if not others:
                await store.outbox.acknowledge("trip", [first.seq, second.seq])
                acknowledged += 2
            disk.fill()  # whoever filled it takes what came free
        counts = await store.outbox.counts()
        assert (counts.unsent, counts.acknowledged) == (0, acknowledged)
        assert acknowledged == queued + extra
    assert "a piece of the headroom was given back" in caplog.text


@needs_a_disk
async def test_setting_aside_retrying_and_dropping_work_on_a_full_disk(disk: Disk, clock: FakeClock) -> None:
    async with Store(disk.state, clock=clock) as store:
        await store.outbox.put_all([NewItem("trip", f"trip-{number}", BODY) for number in range(300)])
        disk.fill()
        await put_until_full(store, "extra")
        for item in await store.outbox.claim("trip", 50):
            await store.outbox.set_aside(item.seq, "422: a reason that takes some room as well")
        assert len(await store.outbox.items(state=ItemState.SET_ASIDE)) == 50
        assert await store.outbox.retry([f"trip-{number}" for number in range(50)]) == 50
        assert await store.outbox.drop([f"trip-{number}" for number in range(300)]) == 300
        assert not [key for key in await keys(store) if key.startswith("trip-")]


@needs_a_disk
async def test_the_headroom_is_reserved_again_once_there_is_space(
    disk: Disk, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level(logging.INFO)
    reserve = disk.state / "headroom"
    async with Store(disk.state, clock=clock) as store:
        assert reserve.stat().st_blocks * 512 >= SIZE_BYTES, "allocated, not only promised"
        await store.outbox.put_all([NewItem("trip", f"trip-{number}", BODY) for number in range(300)])
        disk.fill()
        await put_until_full(store, "extra")
        await store.outbox.drop([f"trip-{number}" for number in range(300)])
        assert not reserve.exists() or reserve.stat().st_size < SIZE_BYTES
        disk.free()
        await store.outbox.put(NewItem("trip", "afterwards", BODY))
        assert reserve.stat().st_size == SIZE_BYTES
        assert "store.headroom: there is space again" in caplog.text
        disk.fill()
        await put_until_full(store, "more")
        await store.outbox.drop(["afterwards"])


@needs_a_disk
async def test_an_agent_starts_on_a_full_disk(disk: Disk, clock: FakeClock) -> None:
    async with Store(disk.state, clock=clock) as store:
        await store.outbox.put(NewItem("trip", "a", BODY))
        await store.outbox.claim("trip", 1)
    disk.fill()
    async with Store(disk.state, clock=clock) as store:
        assert await keys(store) == ["a"]
        (item,) = await store.outbox.claim("trip", 1)
        await store.outbox.acknowledge("trip", [item.seq])
        assert await keys(store) == []


@needs_a_disk
async def test_a_trip_that_was_interrupted_is_queued_on_a_full_disk_too(disk: Disk, clock: FakeClock) -> None:
    trip = OpenTrip(new_trip_id(0.0, bytes(10)), None, ClockStamp("boot-1", 0.0), 0.0, 60.0, 1.7e9)
    async with Store(disk.state, clock=clock) as store:
        await TripLog(store, "trip", recoverable=True).checkpoint(trip)
        disk.fill()
        await put_until_full(store)
    async with Store(disk.state, clock=clock) as store:
        await TripLog(store, "trip", recoverable=True).recover()
        assert trip.trip_id in await keys(store)
        assert await store.documents.keys("open_trip") == []


@needs_a_disk
async def test_a_disk_without_any_space_from_the_start_is_refused_in_words(disk: Disk, clock: FakeClock) -> None:
    disk.state.mkdir()
    disk.fill()
    with pytest.raises(StoreFullError, match="free some space"):
        await Store(disk.state, clock=clock).open()
    disk.free()
    async with Store(disk.state, clock=clock) as store:
        assert await keys(store) == []


@needs_a_disk
async def test_a_damaged_file_on_a_full_disk_is_saved_once_there_is_space(disk: Disk, clock: FakeClock) -> None:
    async with Store(disk.state, clock=clock) as store:
        await store.outbox.put_all([NewItem("trip", f"trip-{number}", BODY) for number in range(8_000)])
    path = disk.state / "outbox.db"
    content = bytearray(path.read_bytes())
    content[len(content) // 2 : len(content) // 2 + 4096] = bytes(4096)
    path.write_bytes(content)
    disk.fill()
    with pytest.raises(StoreFullError, match="free some space"):
        await Store(disk.state, clock=clock).open()
    disk.free()
    async with Store(disk.state, clock=clock) as store:
        assert store.salvaged is not None
        assert len(await keys(store)) > 7_900


@needs_a_disk
async def test_a_disk_that_is_read_only_is_refused_in_words(disk: Disk, clock: FakeClock) -> None:
    async with Store(disk.state, clock=clock) as store:
        await store.outbox.put(NewItem("trip", "a", BODY))
    disk.remount("ro")
    with pytest.raises(StoreError, match=r"Read-only file system.*cloud\.state_dir"):
        await Store(disk.state, clock=clock).open()
    with pytest.raises(StoreError, match="read-only"):
        await Store(disk.state, clock=clock, exclusive=False).open()
    disk.remount("rw")
    async with Store(disk.state, clock=clock) as store:
        assert await keys(store) == ["a"]


def test_headroom_is_given_back_piece_by_piece(tmp_path: Path) -> None:
    headroom = Headroom(tmp_path / "headroom", 1 << 16)
    assert headroom.reserve()
    assert headroom.reserve()
    assert headroom.held
    pieces = 0
    while headroom.release():
        pieces += 1
        assert not headroom.held
    assert pieces == 8
    assert not (tmp_path / "headroom").exists()
    assert headroom.restore()
    assert headroom.held


def test_only_as_much_is_given_back_as_it_takes(tmp_path: Path) -> None:
    headroom = Headroom(tmp_path / "headroom", 1 << 16)
    headroom.reserve()
    attempts = iter([StoreFullError("full"), StoreFullError("full"), None])

    def attempt() -> str:
        error = next(attempts)
        if error is not None:
            raise error
        return "done"

    assert headroom.spend(attempt) == "done"
    assert (tmp_path / "headroom").stat().st_size == (1 << 16) * 6 // 8


def test_when_all_is_given_back_the_disk_is_full(tmp_path: Path) -> None:
    headroom = Headroom(tmp_path / "headroom", 1 << 16)
    headroom.reserve()

    def attempt() -> None:
        raise StoreFullError("still full")

    with pytest.raises(StoreFullError, match="still full"):
        headroom.spend(attempt)
    assert not (tmp_path / "headroom").exists()


def test_a_smaller_reserve_of_an_older_version_is_enlarged(tmp_path: Path) -> None:
    (tmp_path / "headroom").write_bytes(bytes(100))
    assert Headroom(tmp_path / "headroom", 1 << 16).reserve()
    assert (tmp_path / "headroom").stat().st_size == 1 << 16


def test_a_folder_that_is_gone_gives_no_headroom_and_no_error(tmp_path: Path) -> None:
    headroom = Headroom(tmp_path / "nowhere" / "headroom", 1 << 16)
    assert not headroom.reserve()
    assert not headroom.restore()
    assert not headroom.release()


async def test_it_is_taken_again_also_by_one_that_had_to_go_alone(tmp_path: Path) -> None:
    """A group that fails is run one by one: whoever succeeds then gives back what was borrowed."""
    headroom = Headroom(tmp_path / "headroom")
    database = Database(tmp_path / "outbox.db", headroom=headroom)
    await database.open()
    while headroom.release():
        assert not headroom.held

    def good(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO counter VALUES ('good', 1)")

    def bad(connection: sqlite3.Connection) -> None:
        connection.execute("INSERT INTO nowhere VALUES (1)")

    outcomes = await asyncio.gather(database.run(good), database.run(bad), return_exceptions=True)
    await database.close()
    assert (outcomes[0], isinstance(outcomes[1], StoreError)) == (None, True)
    assert headroom.held
