"""What follows for an item, error by error."""

from random import Random

import pytest

from sentinel_sync.base.backoff import CAP
from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    HeldError,
    NotNowError,
    PreconditionError,
    RejectedError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.store.rules import MOST_CONTRADICTIONS, Defer, Release, RetryPolicy, SetAside


@pytest.mark.parametrize("error", [HeldError("closed"), CredentialError("refused", status=401)])
def test_what_says_nothing_about_the_item_spends_nothing_of_it(error: CloudError) -> None:
    assert RetryPolicy(Random(1)).decision("k", error, 7) == Release()


@pytest.mark.parametrize("error", [RejectedError("answered 422 (No)", status=422), PreconditionError("p", status=412)])
def test_what_cannot_succeed_is_set_aside_with_its_reason(error: CloudError) -> None:
    assert RetryPolicy(Random(1)).decision("k", error, 1) == SetAside(str(error))


@pytest.mark.parametrize(
    ("error", "connectivity"),
    [
        (NotNowError("answered 503", status=503, retry_after=7200.0), False),
        (UnreachableError("cannot connect"), True),
        (CloudError("something new"), False),
        (UnacknowledgedError("a login page"), False),
    ],
)
def test_what_may_succeed_later_waits(error: CloudError, connectivity: bool) -> None:
    for attempts in (1, 5, 10_000):  # no outage is too long
        decision = RetryPolicy(Random(attempts)).decision("k", error, attempts)
        assert isinstance(decision, Defer)
        assert decision.reason == str(error)
        assert decision.connectivity is connectivity
        assert 0.0 <= decision.seconds <= min(CAP, 2.0 ** min(attempts - 1, 20))


def test_what_is_contradicted_ten_times_is_set_aside_with_the_text() -> None:
    policy = RetryPolicy(Random(1))
    said = UnacknowledgedError("answered 200, but the body says failed", status=200, contradicts=True)
    for attempts in range(50, 50 + MOST_CONTRADICTIONS - 1):  # what failed before for other reasons does not count
        assert isinstance(policy.decision("trip_0", said, attempts), Defer)
        assert isinstance(policy.decision("trip_1", UnreachableError("no answer"), attempts), Defer)
        assert isinstance(policy.decision("trip_2", UnacknowledgedError("a login page"), attempts), Defer)
    assert policy.decision("trip_0", said, 60) == SetAside(str(said))
    assert isinstance(policy.decision("trip_1", said, 60), Defer)
