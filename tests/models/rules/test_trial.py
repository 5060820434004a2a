"""What a validator's end says of a model, and when one on probation is tried again."""

import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.models.rules.installed import CommitSchedule, Failed, Passed, Untried, verdict_of_exit


@pytest.mark.parametrize(
    ("code", "kind"),
    [
        (0, Passed),
        (1, Failed),
        (2, Failed),
        (255, Failed),
        (126, Untried),
        (127, Untried),
        (-signal.SIGSEGV, Failed),
        (-signal.SIGABRT, Failed),
        (-signal.SIGTERM, Untried),
        (-signal.SIGKILL, Untried),
        (-signal.SIGINT, Untried),
        (128 + signal.SIGTERM, Untried),
        (128 + signal.SIGHUP, Untried),
        (128 + signal.SIGSEGV, Failed),
    ],
)
def test_only_what_the_model_did_counts_against_it(code: int, kind: type) -> None:
    verdict = verdict_of_exit(code, "try-model")
    assert isinstance(verdict, kind)
    assert isinstance(verdict, Passed) or "try-model" in verdict.reason


class TestProbation:
    @given(st.floats(min_value=0.0, max_value=30 * 86_400.0))
    def test_it_ends_after_its_time_with_trials_far_enough_apart(self, seconds: float) -> None:
        probation, passed, trials = CommitSchedule(seconds), 0.0, 0
        while not probation.is_over:
            wait = probation.next_trial()
            assert 0.0 < wait <= 900.0
            assert wait >= 10.0 or wait == probation.left
            probation, passed, trials = probation.after(wait), passed + wait, trials + 1
        assert passed == pytest.approx(seconds)
        assert trials <= max(11, seconds / 900.0 + 2)

    def test_a_clock_that_goes_back_proves_nothing(self) -> None:
        assert CommitSchedule(100.0).after(30.0).after(-50.0).left == 70.0

    def test_no_time_is_over_at_once(self) -> None:
        assert CommitSchedule(0.0).is_over
        assert not CommitSchedule(1.0).is_over
