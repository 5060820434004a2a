"""`upload_bandwidth_limit`: the rate holds from the first byte, in small steps. On virtual time."""

import asyncio
from collections.abc import AsyncIterator

import pytest

from sentinel_sync.cloud.upload import BandwidthLimit
from tests.fakes.virtual_loop import run_virtually

SECONDS = 20.0


async def passed(pace: BandwidthLimit, piece: bytes, seconds: float) -> AsyncIterator[tuple[float, int]]:
    """When how much has passed, for so long."""
    loop = asyncio.get_running_loop()
    began, total = loop.time(), 0
    while loop.time() - began < seconds:
        for cut in pace.cut(piece):
            await pace.wait(len(cut))
            total += len(cut)
            yield loop.time() - began, total


@pytest.mark.parametrize("limit", [1, 700, 20_000, 1_000_000, 50_000_000])
def test_no_more_than_the_limit_passes_and_hardly_less(limit: int) -> None:
    async def check() -> None:
        total = 0
        async for elapsed, total in passed(BandwidthLimit(limit), bytes(256 << 10), SECONDS):
            # A burst of a tenth of a second to begin with; one byte where the limit is below ten.
            assert total <= limit * (elapsed + 0.101) + 1
            if elapsed >= SECONDS:
                break
        assert total >= 0.98 * limit * SECONDS

    run_virtually(check())


def test_pieces_are_cut_so_that_a_deadline_is_moved_often() -> None:
    assert [len(piece) for piece in BandwidthLimit(100_000).cut(bytes(25_000))] == [10_000, 10_000, 5_000]
    assert b"".join(BandwidthLimit(1000).cut(b"0123456789" * 55)) == b"0123456789" * 55


def test_without_a_limit_nothing_is_cut_and_nobody_waits() -> None:
    async def check() -> None:
        pace = BandwidthLimit(0)
        piece = bytes(512 << 10)
        assert [cut is piece for cut in pace.cut(piece)] == [True]
        await pace.wait(1 << 40)

    run_virtually(check())
