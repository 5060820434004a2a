"""What follows for an item of the outbox when its attempt failed."""

from dataclasses import dataclass
from random import Random

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    HeldError,
    NotNowError,
    RejectedError,
    UnreachableError,
)


@dataclass(frozen=True, slots=True)
class Release:
    """Nothing was tried that says anything about the item: it waits again, and the attempt is not counted."""


@dataclass(frozen=True, slots=True)
class Defer:
    """The item waits for so many seconds.

    Attributes:
        connectivity: True where only the network stood in the way, so that coming online makes the item due at once.
    """

    seconds: float
    reason: str
    connectivity: bool


@dataclass(frozen=True, slots=True)
class SetAside:
    """The item can't succeed; it is kept with its reason until somebody decides."""

    reason: str


RetryDecision = Release | Defer | SetAside


def retry_decision(error: CloudError, attempts: int, rng: Random) -> RetryDecision:
    """Decide what becomes of an item whose attempt number `attempts` ended in `error`."""
    match error:
        case HeldError() | CredentialError():
            return Release()
        case RejectedError():
            return SetAside(str(error))
        case NotNowError():
            return Defer(full_jitter(attempts, rng), str(error), connectivity=False)
        case UnreachableError():
            return Defer(full_jitter(attempts, rng), str(error), connectivity=True)
    return Defer(full_jitter(attempts, rng), str(error), connectivity=False)
