"""When the next attempt at a transfer may follow (wire contract, Progress): what it costs at worst with nothing won."""

from itertools import count
from random import Random

import pytest

from sentinel_sync.base.transfer import WASTE_BYTES_PER_DAY, WORTHWHILE_BYTES, TransferAttempts

NOW = 1_800_000_000.0
PIECE = 1_000_000


def ended(attempts: TransferAttempts, now: float, **more: object) -> TransferAttempts:
    facts = {"host": "cdn", "furthest_bytes": 0, "spent_bytes": PIECE, "rng": Random(1)} | more
    return attempts.ended("cut", now=now, **facts)  # type: ignore[arg-type]


def test_after_real_progress_the_next_follows_at_once() -> None:
    attempts = TransferAttempts()
    for number in range(1, 50):
        attempts = ended(attempts, NOW, furthest_bytes=number * WORTHWHILE_BYTES, spent_bytes=WORTHWHILE_BYTES)
        assert attempts.wait(NOW) == 0.0
    assert (attempts.fruitless, attempts.wasted_bytes) == (0, 0)


def test_without_progress_the_wait_grows_up_to_its_ceiling() -> None:
    attempts, waits = TransferAttempts(), []
    for _ in range(20):
        attempts = ended(attempts, NOW, spent_bytes=0)
        waits.append(attempts.wait(NOW))
    assert all(15.0 * 2**n <= wait <= 30.0 * 2**n for n, wait in enumerate(waits[:7]))
    assert all(1800.0 <= wait <= 3600.0 for wait in waits[7:])


def test_only_the_furthest_point_ever_reached_counts() -> None:
    attempts = ended(TransferAttempts(), NOW, furthest_bytes=PIECE)
    again = ended(attempts, NOW, furthest_bytes=PIECE)
    behind = ended(again, NOW, furthest_bytes=PIECE // 2)
    assert (again.fruitless, behind.fruitless, behind.furthest_bytes) == (1, 2, PIECE)


def test_a_byte_with_each_answer_keeps_nobody_busy() -> None:
    attempts = TransferAttempts()
    for number in range(1, 10):
        attempts = ended(attempts, NOW, furthest_bytes=number)
        assert 15.0 <= attempts.wait(NOW) <= 30.0


def test_another_host_is_met_without_prejudice() -> None:
    attempts = TransferAttempts()
    for _ in range(5):
        attempts = ended(attempts, NOW)
    assert ended(attempts, NOW, host="another").wait(NOW) <= 30.0


def test_a_retry_after_is_kept_and_spread() -> None:
    waits = [ended(TransferAttempts(), NOW, retry_after=600.0, rng=Random(seed)).wait(NOW) for seed in range(50)]
    assert min(waits) >= 600.0
    assert 640.0 < max(waits) <= 660.0


def test_a_clock_that_was_set_back_keeps_nobody_for_longer_than_a_day() -> None:
    assert TransferAttempts(next_at=NOW).wait(0.0) == 86_400.0


@pytest.mark.parametrize("ahead", [80_000.0, 400_000_000.0])
def test_a_clock_that_is_set_right_keeps_nobody_waiting_for_its_error(ahead: float) -> None:
    """Found by the simulation: an attempt failed while the clock was a day ahead, and the next was a day later."""
    failed = ended(TransferAttempts(wasted_bytes=PIECE, wasted_on=int((NOW + ahead) // 86_400)), NOW + ahead)
    right = failed.as_of(NOW)
    assert 0.0 < right.wait(NOW) <= 30.0
    assert right.as_of(NOW + 1.0) is right, "it begins anew once"
    assert right.wait(NOW + 30.0) == 0.0
    assert ended(right, NOW + 30.0).wasted_bytes == 3 * PIECE, "what the day has cost still counts"


@pytest.mark.parametrize("piece", [64 << 10, PIECE, 8 << 20, 100_000_000])
@pytest.mark.parametrize("seed", range(5))
def test_what_a_day_costs_with_nothing_won_is_bounded(piece: int, seed: int) -> None:
    attempts, now, spent, in_the_first_minute = TransferAttempts(), NOW, 0, 0
    rng = Random(seed)
    for _ in count():
        if now - NOW >= 86_400.0 - NOW % 86_400.0:
            break
        spent += piece
        in_the_first_minute += piece if now - NOW < 60.0 else 0
        attempts = ended(attempts, now, spent_bytes=piece, rng=rng)
        now += attempts.wait(now)
    assert spent < WASTE_BYTES_PER_DAY + piece
    assert in_the_first_minute <= 3 * piece
