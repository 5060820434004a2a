"""Neither versions nor time go back."""

from dataclasses import replace

import pytest

from sentinel_sync.base.errors import VerificationError
from sentinel_sync.models.rules.tuf import ROLES, RepositoryState, SeenMetadata, Verified, passed

KEYS = ("k1", "k2")
NOW = 1_780_000_000.0


def verified(
    versions: dict[str, int] | None = None, *, keys: tuple[str, ...] = KEYS, expires: float = NOW + 100.0
) -> Verified:
    """A set of metadata: the root as version 1 and the rest as version 5, but where it is said."""
    numbers = {"root": 1, "timestamp": 5, "snapshot": 5, "targets": 5} | (versions or {})
    return Verified(keys, {role: SeenMetadata(version, expires) for role, version in numbers.items()})


@pytest.fixture
def memory() -> RepositoryState:
    return RepositoryState("anchor").learned(verified())


def test_nothing_is_known_of_a_new_repository() -> None:
    RepositoryState("anchor").check(verified({"timestamp": 1}))


@pytest.mark.parametrize("role", ROLES[1:])
def test_an_older_version_is_refused(memory: RepositoryState, role: str) -> None:
    memory.check(verified({role: 5}))
    memory.check(verified({role: 6}))
    with pytest.raises(VerificationError, match=f"its {role} is version 4, and version 5 was seen before"):
        memory.check(verified({role: 4}))


def test_an_older_root_is_refused_whatever_keys_it_names(memory: RepositoryState) -> None:
    memory = memory.learned(verified({"root": 3}))
    with pytest.raises(VerificationError, match="its root is version 2"):
        memory.check(verified({"root": 2}, keys=("others",)))


def test_new_keys_below_the_root_count_anew(memory: RepositoryState) -> None:
    others = verified({"root": 2, "timestamp": 1, "snapshot": 1, "targets": 1}, keys=("others",))
    memory.check(others)
    memory = memory.learned(others)
    assert memory.marks["timestamp"].version == 1
    with pytest.raises(VerificationError):
        memory.check(verified({"root": 1}, keys=("others",)))


def test_a_root_from_the_past_teaches_nothing(memory: RepositoryState) -> None:
    memory = memory.learned(verified({"root": 3}))
    assert memory.learned(verified({"root": 2, "timestamp": 1}, keys=("others",))) == memory


def test_what_was_verified_before_a_failure_counts(memory: RepositoryState) -> None:
    memory = memory.learned(Verified(KEYS, {"root": SeenMetadata(1, NOW), "timestamp": SeenMetadata(9, NOW)}))
    assert {role: mark.version for role, mark in memory.marks.items()} == {
        "root": 1,
        "timestamp": 9,
        "snapshot": 5,
        "targets": 5,
    }


@pytest.mark.parametrize("role", ROLES)
def test_what_was_seen_expired_needs_a_newer_version(memory: RepositoryState, role: str) -> None:
    memory = memory.learned(verified(), {role})
    with pytest.raises(VerificationError, match=f"its {role} version . was seen to have expired on 2026-05-2"):
        memory.check(verified())
    memory.check(verified({"root": 2, "timestamp": 6, "snapshot": 6, "targets": 6}))
    # Seen again, unexpired by a clock that was set back: it does not count.
    assert memory.learned(verified()) == memory


def test_an_older_version_that_has_expired_says_nothing_of_a_newer_one(memory: RepositoryState) -> None:
    assert memory.learned(verified({"timestamp": 4}), {"timestamp"}) == memory


def test_time_passes_without_the_repository(memory: RepositoryState) -> None:
    assert memory.aged(NOW + 99.0) is memory
    aged = memory.aged(NOW + 100.0)
    assert aged.marks["timestamp"].expired
    assert not any(aged.marks[role].expired for role in ("root", "snapshot", "targets"))
    assert aged.aged(NOW + 200.0) is aged
    assert RepositoryState("anchor").aged(NOW) == RepositoryState("anchor")


def test_the_reference_time_never_goes_back(memory: RepositoryState) -> None:
    memory = replace(memory, time=NOW)
    assert memory.reference(0.0) == NOW
    assert memory.reference(NOW + 1.0) == NOW + 1.0


def test_a_signed_date_in_the_past_has_passed_and_a_plan_has_not() -> None:
    assert passed(verified(), 0.0, [NOW - 5.0, NOW - 9.0]) == NOW - 5.0
    assert passed(verified(), NOW, [NOW - 5.0]) == NOW
    assert passed(verified(expires=NOW + 10.0), NOW, [NOW + 10.0]) == NOW
    assert passed(verified(), NOW, []) == NOW
