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
    UnreachableError,
)
from sentinel_sync.store.rules.outbox import Defer, Release, SetAside, retry_decision


@pytest.mark.parametrize("error", [HeldError("closed"), CredentialError("refused", status=401)])
def test_what_says_nothing_about_the_item_spends_nothing_of_it(error: CloudError) -> None:
    assert retry_decision(error, 7, Random(1)) == Release()


@pytest.mark.parametrize("error", [RejectedError("answered 422 (No)", status=422), PreconditionError("p", status=412)])
def test_what_cannot_succeed_is_set_aside_with_its_reason(error: CloudError) -> None:
    assert retry_decision(error, 1, Random(1)) == SetAside(str(error))


@pytest.mark.parametrize(
    ("error", "connectivity"),
    [
        (NotNowError("answered 503", status=503, retry_after=7200.0), False),
        (UnreachableError("cannot connect"), True),
        (CloudError("something new"), False),
    ],
)
def test_what_may_succeed_later_waits(error: CloudError, connectivity: bool) -> None:
    for attempts in (1, 5, 10_000):  # no outage is too long
        decision = retry_decision(error, attempts, Random(attempts))
        assert isinstance(decision, Defer)
        assert decision.reason == str(error)
        assert decision.connectivity is connectivity
        assert 0.0 <= decision.seconds <= min(CAP, 2.0 ** min(attempts - 1, 20))
