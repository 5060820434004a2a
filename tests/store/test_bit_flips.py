"""A bit of a stopped store is altered: whatever was acknowledged is there, or it is said that it is not.

`make test` alters some, `make powercut` (SENTINEL_POWERCUT=all) a thousand of each file.
"""

import os
import shutil
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.store.log_repair import mended
from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.store.store import DATABASE_NAME, Store
from tests.fakes.clock import FakeClock

FLIPS = 1_000 if os.environ.get("SENTINEL_POWERCUT") == "all" else 25
BODIES = {f"trip-{number}": f"trip number {number} ".encode() * 20 for number in range(40)}
LOG = f"{DATABASE_NAME}-wal"


@pytest.fixture
async def stopped(tmp_path: Path, clock: FakeClock) -> dict[str, Path]:
    """One that was closed, which is one file, and one whose process was killed: nearly all of it is in the log."""
    async with Store(tmp_path / "closed", clock=clock) as store:
        for key, body in BODIES.items():
            await store.outbox.put(NewItem("trip", key, body))
        shutil.copytree(tmp_path / "closed", tmp_path / "killed", ignore=shutil.ignore_patterns("*-shm"))
    return {DATABASE_NAME: tmp_path / "closed", LOG: tmp_path / "killed"}


async def what_is_left(folder: Path, clock: FakeClock) -> tuple[dict[str, bytes], int, bool]:
    """What can be sent, how many are set aside, and whether the file was salvaged."""
    async with Store(folder, clock=clock) as store:
        sent: dict[str, bytes] = {}
        while claimed := await store.outbox.claim("trip", 100):
            sent |= {item.key: item.body for item in claimed}
        aside = await store.outbox.items(state=ItemState.SET_ASIDE)
        assert await store.outbox.verify() == []
        return sent, len(aside), store.salvaged is not None


@pytest.mark.timeout(600)
@pytest.mark.parametrize("name", [DATABASE_NAME, LOG])
async def test_a_flipped_bit_loses_nothing_in_silence(
    stopped: dict[str, Path], tmp_path: Path, clock: FakeClock, name: str
) -> None:
    rng = Random(1)
    for _ in range(FLIPS):
        work = tmp_path / "work"
        shutil.copytree(stopped[name], work)
        file = work / name
        content = bytearray(file.read_bytes())
        # The log's header and its last transaction: nobody can tell such damage from a power cut's.
        at, bit = rng.randrange(32 if name == LOG else 0, len(content)), rng.randrange(8)
        content[at] ^= 1 << bit
        file.write_bytes(content)
        sent, aside, is_salvaged = await what_is_left(work, clock)
        where = f"bit {bit} of byte {at} of {len(content)}"
        assert all(BODIES.get(key) == body for key, body in sent.items()), f"{where}: altered, and sent"
        missing = BODIES.keys() - sent.keys()
        if name == LOG:
            missing -= {"trip-39"}
        assert len(missing) <= aside or is_salvaged, f"{where}: {sorted(missing)} are gone, and nobody is told"
        shutil.rmtree(work)


async def test_a_log_that_was_altered_in_the_middle_is_kept_and_mended(
    stopped: dict[str, Path], clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    log = stopped[LOG] / LOG
    content = bytearray(log.read_bytes())
    content[len(content) // 2] ^= 1
    log.write_bytes(content)
    sent, aside, _ = await what_is_left(stopped[LOG], clock)
    assert len(sent) + aside >= len(BODIES)
    (kept,) = stopped[LOG].glob(f"{LOG}.damaged-*")
    assert kept.read_bytes() == content
    assert "store.log_damaged" in caplog.text


@pytest.mark.parametrize("torn_at", [-1, -5_000, -4_200])
def test_the_last_transaction_that_a_power_cut_tore_stays_as_it_is(stopped: dict[str, Path], torn_at: int) -> None:
    log = stopped[LOG] / LOG
    content = bytearray(log.read_bytes())
    assert mended(log) is None, "a whole one needs nothing"
    content[torn_at - 512 : torn_at] = b"\xff" * len(content[torn_at - 512 : torn_at])
    log.write_bytes(content)
    assert mended(log) is None
    log.write_bytes(content[:torn_at])
    assert mended(log) is None


async def test_what_two_power_cuts_tore_is_not_taken_for_altered(tmp_path: Path, clock: FakeClock) -> None:
    """A long transaction is torn; a short one is written over its beginning, and torn too: the rest has its end."""
    async with Store(tmp_path / "one", clock=clock) as store:
        await store.outbox.put(NewItem("trip", "kept", b"x"))
        shutil.copytree(tmp_path / "one", tmp_path / "two", ignore=shutil.ignore_patterns("*-shm"))
        begin = (tmp_path / "one" / LOG).stat().st_size
        await store.outbox.put_all([NewItem("trip", key, body * 9) for key, body in BODIES.items()])
        long_one = (tmp_path / "one" / LOG).read_bytes()
    async with Store(tmp_path / "two", clock=clock) as store:
        await store.outbox.put(NewItem("trip", "short", b"y"))
        short_one = (tmp_path / "two" / LOG).read_bytes()
    frame = 24 + 4096
    assert long_one[:32] == short_one[:32], "one and the same log"
    assert len(long_one) > len(short_one) + 4 * frame
    for torn_frame in range((len(short_one) - begin) // frame):
        both = bytearray(short_one + long_one[len(short_one) :])
        at = begin + torn_frame * frame
        both[at + 1_000 : at + 2_000] = b"\xff" * 1_000
        (tmp_path / LOG).write_bytes(both)
        assert mended(tmp_path / LOG) is None


@pytest.mark.parametrize("damage", [b"", b"x" * 10, b"x" * 100_000])
def test_what_is_no_log_is_left_to_sqlite(tmp_path: Path, damage: bytes) -> None:
    (tmp_path / LOG).write_bytes(damage)
    assert mended(tmp_path / LOG) is None
    assert mended(tmp_path / "none") is None
