"""Full jitter and the retry budget."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.backoff import BASE, CAP, full_jitter
from sentinel_sync.cloud.rules.answers import RetryBudget


@pytest.mark.parametrize(
    ("attempt", "ceiling"),
    [(-3, 1.0), (0, 1.0), (1, 1.0), (2, 2.0), (3, 4.0), (9, 256.0), (10, 300.0), (100, 300.0), (10**9, 300.0)],
)
def test_waits_are_uniform_from_zero_to_a_doubling_ceiling(attempt: int, ceiling: float) -> None:
    rng = Random(1)
    waits = [full_jitter(attempt, rng) for _ in range(2000)]
    assert min(waits) >= 0.0
    assert max(waits) <= ceiling
    assert min(waits) < 0.01 * ceiling
    assert max(waits) > 0.99 * ceiling
    assert sum(waits) / len(waits) == pytest.approx(ceiling / 2, rel=0.05)


@given(st.integers(), st.floats(0.0, 1e3), st.floats(0.0, 1e6), st.integers())
def test_never_beyond_the_cap(attempt: int, base: float, cap: float, seed: int) -> None:
    assert 0.0 <= full_jitter(attempt, Random(seed), base=base, cap=cap) <= cap


def test_the_scale_is_that_of_outages() -> None:
    assert BASE == 1.0
    assert CAP == 300.0


def test_a_budget_is_spent_by_failures_and_given_back_by_successes() -> None:
    budget = RetryBudget(tokens=4.0, ratio=0.5)
    budget.on_failure()
    assert budget.allows_retry
    budget.on_failure()
    assert not budget.allows_retry
    budget.on_success()
    assert budget.allows_retry


def test_a_budget_overdrawn_comes_back_no_later_than_one_spent_to_the_end() -> None:
    budget = RetryBudget(tokens=4.0, ratio=1.0)
    for _ in range(1000):
        budget.on_failure()
    for _ in range(3):
        budget.on_success()
    assert budget.allows_retry


def test_a_budget_does_not_save_up() -> None:
    budget = RetryBudget(tokens=4.0, ratio=1.0)
    for _ in range(1000):
        budget.on_success()
    budget.on_failure()
    budget.on_failure()
    assert not budget.allows_retry


@given(st.lists(st.booleans(), max_size=400))
def test_retries_stay_in_proportion_to_successes(outcomes: list[bool]) -> None:
    """However failures and successes come: retries are at most what the bucket held and a tenth of the successes."""
    budget = RetryBudget()
    retries = successes = 0
    for succeeded in outcomes:
        if succeeded:
            successes += 1
            budget.on_success()
        else:
            budget.on_failure()
            retries += budget.allows_retry
    assert retries <= 10 + 0.1 * successes + 1
