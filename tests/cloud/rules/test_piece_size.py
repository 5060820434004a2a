"""How long a PATCH is: grows while all goes through, and after a costly cut is careful until there is reason not to."""

from random import Random

import pytest

from sentinel_sync.cloud.rules.tus import CAREFUL_BYTES, FIRST_BYTES, LARGEST_BYTES, SMALLEST_BYTES, PatchSize

MEBIBYTE = 1 << 20


def go(size: PatchSize, total: int, rate: float) -> list[int]:
    """Send so much at a rate; returns the sizes."""
    sizes = []
    while total > 0:
        sizes.append(min(size.next_bytes(), total))
        size.went_through(sizes[-1], sizes[-1] / rate)
        total -= sizes[-1]
    return sizes


def test_grows_fourfold_to_the_largest_on_a_fast_line() -> None:
    assert go(PatchSize(), 300 * MEBIBYTE, 1e9)[:5] == [n * MEBIBYTE for n in (1, 4, 16, 64, 64)]


@pytest.mark.parametrize(("rate", "expected"), [(20_000, SMALLEST_BYTES), (1_000_000, 2_000_000), (5e6, 10_000_000)])
def test_takes_about_two_seconds_in_between(rate: float, expected: int) -> None:
    sizes = go(PatchSize(), 200 * MEBIBYTE, rate)
    assert sizes[0] == FIRST_BYTES
    assert sizes[len(sizes) // 2] == expected


def test_a_short_rest_says_nothing_about_the_rate() -> None:
    size = PatchSize()
    go(size, (1 + 4 + 16 + 64) * MEBIBYTE, 1e9)
    size.went_through(100, 0.5)
    assert size.next_bytes() == LARGEST_BYTES


def test_a_cheap_cut_changes_nothing() -> None:
    size = PatchSize()
    go(size, 200 * MEBIBYTE, 1e9)
    before = size.next_bytes()
    size.was_cut(SMALLEST_BYTES)
    assert size.next_bytes() == before


def test_a_costly_cut_makes_it_careful_until_much_has_gone_through() -> None:
    size = PatchSize()
    go(size, 200 * MEBIBYTE, 1e9)
    size.was_cut(10 * MEBIBYTE)
    assert set(go(size, 64 * MEBIBYTE, 1e9)) == {CAREFUL_BYTES}
    assert set(go(size, 64 * MEBIBYTE, 1e9)) == {2 * CAREFUL_BYTES}
    go(size, 1000 * MEBIBYTE, 1e9)
    assert size.next_bytes() == LARGEST_BYTES


@pytest.mark.parametrize("seed", range(20))
@pytest.mark.parametrize("kept", ["nothing", "all but 2 MB", "all but 100 kB"])
def test_a_gigabyte_cut_twenty_times_costs_little_more(seed: int, kept: str) -> None:
    """What a server keeps of a PATCH that is cut is its affair: where it is nothing, the first cut teaches that."""
    total = 1_000_000_000
    cuts = sorted(Random(seed).sample(range(total), 20))
    size, offset, sent = PatchSize(), 0, 0
    while offset < total:
        planned = min(size.next_bytes(), total - offset)
        if cuts and sent + planned > cuts[0]:
            handed = max(0, cuts.pop(0) - sent)
            lost = {"nothing": handed, "all but 2 MB": min(handed, 2_000_000), "all but 100 kB": min(handed, 100_000)}
            size.was_cut(lost[kept])
            sent += handed
            offset += handed - lost[kept]
        else:
            size.went_through(planned, planned / 5e8)
            sent, offset = sent + planned, offset + planned
    lesson = LARGEST_BYTES if kept == "nothing" else 0
    assert sent < 1.02 * total + lesson
