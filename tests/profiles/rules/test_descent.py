"""From which former profile one descends, and whether what it adds counts: each row of the table, at its bounds."""

from dataclasses import replace

import pytest

from sentinel_sync.profiles.rules.descent import (
    Descent,
    Known,
    Origin,
    added,
    base_of,
    confirmed,
    descent,
    dropped,
    is_of,
    overlap,
    profile_digest,
    reaches,
    remembered,
)
from sentinel_sync.profiles.rules.fields import Number, digest, read_profile
from sentinel_sync.profiles.rules.merge import Ancestor, Contribution, ProfileState

ME = "v1#me"
NOBODY = ProfileState()


def profile(
    distance: Number,
    style: str | None = None,
    *,
    marks: dict[str, str] | None = None,
    score: Number | None = None,
    gap: list[str] | None = None,
    created: int | None = None,
    updated: int | None = None,
) -> Ancestor:
    return Ancestor(
        totals={"total_distance": distance},
        averages={} if score is None else {"safety_score": score},
        marks=(marks or {}) | ({} if style is None else {"style": style}),
        readings={} if gap is None else {"gap": gap},
        created=created,
        updated=updated,
    )


def knows(
    *bases: Ancestor, pending: Ancestor | None = None, written: Ancestor | None = None, elders: tuple[str, ...] = ()
) -> Known:
    """A vehicle that has contributed, and had these profiles."""
    mine = Contribution(1, {}, {}, seen=("v1#seen",))
    return Known(ProfileState({ME: mine}), bases, pending, written=written, elders=elders)


def undecided(base: Ancestor) -> Descent:
    return Descent(Origin.UNDECIDED, base, counts=False)


DOWNLOADED = profile(10, "calm", marks={"of the fleet": "x"}, created=7)


@pytest.mark.parametrize(
    ("this", "is_copy"),
    [
        (DOWNLOADED, True),
        (profile(9.5, "calm", created=7), True),  # rounded, by a manager that leaves out what it does not know
        (profile(11, "calm", created=7), True),
        (profile(9.49, "calm", created=7), False),
        (profile(11, "calm", created=8), False),
        (profile(11, "calm"), False),
        (profile(11, "sporty", created=7), False),
        (profile(11, "calm", marks={"of the fleet": "y"}, created=7), False),
        (profile(11, "calm", marks={"of its own": "x"}, created=7), False),
    ],
)
def test_the_first_profile_of_a_vehicle_is_what_was_downloaded_or_its_own(this: Ancestor, is_copy: bool) -> None:
    fresh = Known(NOBODY, pending=DOWNLOADED)
    assert descent(fresh, this, ME, NOBODY) == Descent(Origin.NEW, DOWNLOADED if is_copy else None)


def test_the_first_profile_of_a_vehicle_counts_nothing_where_it_is_a_copy_of_a_known_one() -> None:
    this = profile(10, updated=5)
    held = ProfileState(lineage=((3, "0a"), (5, profile_digest(this))))
    copy = Descent(Origin.COPY, this, counts=False)
    assert descent(Known(held), this, ME, NOBODY) == descent(Known(NOBODY), this, ME, held) == copy
    assert descent(Known(NOBODY, pending=DOWNLOADED), this, ME, held) == copy
    assert descent(knows(), this, ME, NOBODY) == descent(Known(NOBODY), this, ME, NOBODY) == Descent(Origin.NEW, None)


def test_only_a_profile_with_a_time_of_its_own_is_told_to_be_a_former_one() -> None:
    timed, untimed = profile(10, updated=5), profile(10)
    lineage = ((5, profile_digest(timed)), (5, profile_digest(untimed)))
    assert is_of(timed, lineage)
    assert not is_of(timed, lineage[1:])
    assert not is_of(untimed, lineage)
    assert profile_digest(timed) == digest([{"total_distance": 10}, {}, {}, {}, None, 5], 16)


def test_a_file_that_was_not_replaced_goes_on_from_itself() -> None:
    this, merged = profile(10, "calm"), profile(10, "sporty")
    goes_on = Descent(Origin.CONTINUED, this)
    assert descent(knows(profile(3), profile(5), this, pending=merged), this, ME, NOBODY) == goes_on
    # Where nothing is about to be written, the latest that it reaches is what it goes on from.
    assert descent(knows(this, merged), this, ME, NOBODY) == Descent(Origin.CONTINUED, merged)
    assert descent(knows(this, profile(5), pending=merged), this, ME, NOBODY) == Descent(Origin.CONTINUED, merged)


def test_a_former_profile_with_a_time_goes_on_from_itself_and_one_without_from_an_older_one() -> None:
    timed, untimed, last = profile(10, "calm", updated=5), profile(10, "calm"), profile(20, "sporty", updated=6)
    assert descent(knows(timed, last), timed, ME, NOBODY) == Descent(Origin.CONTINUED, timed)
    assert descent(knows(untimed, last), untimed, ME, NOBODY) == Descent(Origin.CONTINUED_OLDER, untimed)
    later = timed._replace(updated=7)
    assert descent(knows(timed, last), later, ME, NOBODY) == Descent(Origin.CONTINUED_OLDER, timed)


THIS = profile(20)


@pytest.mark.parametrize(
    ("contributor", "left", "found"),
    [
        ("v1#new", (profile(5), THIS), Descent(Origin.COPY, THIS)),
        ("v1#new", (THIS,), Descent(Origin.COPY, THIS)),
        ("v1#new", (profile(5), profile(20.5, "calm")), undecided(THIS)),
        ("v1#new", (THIS, profile(20.51)), Descent(Origin.CONTINUED, profile(10))),  # the first is another's past
        ("v1#new", (), Descent(Origin.CONTINUED, profile(10))),
        ("v1#elder", (THIS,), Descent(Origin.CONTINUED, profile(10))),
        ("v1#seen", (THIS,), Descent(Origin.CONTINUED, profile(10))),
        (ME, (THIS,), Descent(Origin.CONTINUED, profile(10))),
        ("v2#new", (THIS,), Descent(Origin.CONTINUED, profile(10))),
    ],
)
def test_what_an_unheard_state_folder_of_the_same_vehicle_was_left_with_is_not_counted_here(
    contributor: str, left: tuple[Ancestor, ...], found: Descent
) -> None:
    cloud = ProfileState({contributor: Contribution(1, {}, {}, left)})
    assert descent(knows(profile(10), elders=("v1#elder",)), THIS, ME, cloud) == found


@pytest.mark.parametrize(
    ("updated", "former", "is_copy"),
    [
        (2_000_001, 5, True),
        (1_999_999, None, True),
        (2_000_000, 5, False),  # a manager that writes whole seconds
        (1_000_000, 5, False),
        (2_000_001, 2_000_001, False),
        (None, 5, False),
    ],
)
def test_a_profile_known_to_others_is_a_copy_where_its_time_cannot_be_from_here(
    updated: int | None, former: int | None, is_copy: bool
) -> None:
    this, base = profile(20, updated=updated), profile(10, updated=former)
    known, cloud = knows(profile(5, updated=3), base), ProfileState(lineage=((9, profile_digest(this)),))
    expected = Descent(Origin.COPY, this) if is_copy else Descent(Origin.CONTINUED, base)
    assert descent(known, this, ME, cloud) == expected
    assert descent(known, this, ME, NOBODY) == Descent(Origin.CONTINUED, base)


OLDEST = profile(0, "first")


@pytest.mark.parametrize(
    ("older", "last", "this", "has_read"),
    [
        (profile(10, "calm"), profile(50, "sporty"), profile(20, "sporty"), True),
        (profile(10, "calm"), profile(50, "sporty"), profile(20, "calm"), False),
        (profile(10, "calm"), profile(50, "sporty"), profile(20, "normal"), None),
        (profile(10, "calm"), profile(50, "calm"), profile(20, "calm"), None),
        (profile(10, "calm"), profile(50), profile(20), None),
        (profile(10), profile(50, "calm"), profile(20), None),
        (profile(10), profile(50), profile(20, "calm"), None),
        (profile(10, score=70), profile(50, score=90), profile(20, score=90), True),
        # A manager may come to the same average once more.
        (profile(10, score=70), profile(50, score=90), profile(20, score=70), None),
        (profile(10, "calm", score=70), profile(50, "sporty", score=90), profile(20, "calm", score=90), None),
        (profile(10, gap=["a"]), profile(50, gap=["a", "b"]), profile(20, gap=["b", "c"]), True),
        (profile(10, gap=["a"]), profile(50, gap=["a", "b"]), profile(20, gap=["a", "c"]), False),
        (profile(10), profile(50, gap=["b"]), profile(20, gap=["b"]), True),
        (profile(10, gap=["a"]), profile(50, gap=["a"]), profile(20, gap=["a"]), None),
        (profile(10, gap=["a"]), profile(50, gap=["a", "b"]), profile(20), None),
        (profile(10, gap=["a"]), profile(50, gap=["a", "b"]), profile(20, gap=[]), None),
        (profile(10, "calm", gap=["a"]), profile(50, "sporty", gap=["b"]), profile(20, "sporty", gap=["a"]), None),
    ],
)
def test_a_profile_that_reaches_only_an_older_one_goes_on_from_it_unless_the_manager_has_read_the_last(
    older: Ancestor, last: Ancestor, this: Ancestor, has_read: bool | None
) -> None:
    expected = {True: undecided(last), False: Descent(Origin.CONTINUED_OLDER, older), None: undecided(older)}[has_read]
    assert descent(knows(OLDEST, older, last), this, ME, NOBODY) == expected
    assert descent(knows(OLDEST, older, profile(30), pending=last), this, ME, NOBODY) == expected
    # The manager goes on from none that is older than what it wrote.
    before, after = profile(20.5, "written"), profile(20.51, "written")
    written = {True: undecided(before), False: expected, None: expected}[has_read]
    assert descent(knows(OLDEST, older, last, written=before), this, ME, NOBODY) == written
    assert descent(knows(OLDEST, older, last, written=after), this, ME, NOBODY) == undecided(after)


def test_while_a_profile_is_about_to_be_written_the_file_goes_on_from_the_one_before_it() -> None:
    before, pending, this = profile(10, "calm"), profile(50, "sporty"), profile(20, "sporty")
    for written in (None, before, profile(40)):
        known = knows(OLDEST, profile(5), before, pending=pending, written=written)
        assert descent(known, this, ME, NOBODY) == Descent(Origin.CONTINUED, before)
    assert descent(knows(before, pending=profile(20)), this, ME, NOBODY) == Descent(Origin.CONTINUED, profile(20))


@pytest.mark.parametrize(
    ("this", "written", "found"),
    [
        (profile(60, "sporty"), profile(50, "calm"), Origin.CONTINUED),
        (profile(60, "calm"), profile(50, "calm"), Origin.UNDECIDED),
        (profile(60), profile(50, "calm"), Origin.UNDECIDED),
        (profile(49.5, "calm"), profile(50, "calm"), Origin.UNDECIDED),
        (profile(49.49, "calm"), profile(50, "calm"), Origin.CONTINUED),  # behind what it wrote: it read the reset
        (profile(60, "calm"), profile(10.5, "calm"), Origin.CONTINUED),
        (profile(60, "calm"), profile(10.51, "calm"), Origin.UNDECIDED),
        (profile(60, "calm"), None, Origin.CONTINUED),
    ],
)
def test_a_profile_as_far_on_as_before_a_reset_elsewhere_goes_on_where_the_manager_has_read_the_reset(
    this: Ancestor, written: Ancestor | None, found: Origin
) -> None:
    base = profile(10, "sporty")
    known = knows(profile(50, "calm"), base, written=written)
    assert descent(known, this, ME, NOBODY) == Descent(found, base, counts=found is Origin.CONTINUED)


# Three former profiles, of which the one in the middle has the latest creation, and what the manager wrote.
FORMER = (
    profile(60, "a", created=100, updated=10),
    profile(70, "b", created=300, updated=30),
    profile(80, "c", created=200, updated=15),
)
WROTE = profile(90, "d", gap=["1", "2", "3"], created=300, updated=20)


@pytest.mark.parametrize(
    ("this", "origin"),
    [
        (profile(5, created=301), Origin.NEW),
        (profile(5, created=301, updated=19), Origin.NEW),
        (profile(5, created=300), Origin.UNDECIDED),
        (profile(5, created=299), Origin.OLDER_COPY),
        (profile(5), Origin.UNDECIDED),
        (profile(5, created=300, updated=19), Origin.OLDER_COPY),
        (profile(5, updated=19), Origin.OLDER_COPY),
        (profile(5, created=300, updated=20), Origin.UNDECIDED),
        (profile(5, created=300, updated=21), Origin.RESET),
        (profile(5, "e", created=300, updated=40), Origin.RESET),
        (profile(5, created=300, updated=30), Origin.UNDECIDED),  # only the numbers were changed
        (profile(5, updated=40), Origin.UNDECIDED),
        (profile(0, created=300, updated=19), Origin.UNDECIDED),
        (profile(0, created=300, updated=20), Origin.RESET),
        (profile(0, created=300), Origin.RESET),
        (profile(0, created=299), Origin.OLDER_COPY),
        (profile(0), Origin.UNDECIDED),
        # Of readings from before, the last must be among them.
        (profile(5, gap=["1", "2"], created=300, updated=40), Origin.UNDECIDED),
        (profile(0, gap=["2", "4"], created=300), Origin.UNDECIDED),
        (profile(5, gap=["3"], created=300, updated=40), Origin.RESET),
        (profile(5, gap=["1", "2", "3", "4"], created=300, updated=40), Origin.RESET),
        (profile(5, gap=["4"], created=300, updated=40), Origin.RESET),
        (profile(5, gap=[], created=300, updated=40), Origin.RESET),
    ],
)
def test_totals_that_fell_were_reset_put_back_enrolled_anew_or_are_for_a_person_to_decide(
    this: Ancestor, origin: Origin
) -> None:
    expected = {
        Origin.NEW: Descent(Origin.NEW, None),
        Origin.OLDER_COPY: Descent(Origin.OLDER_COPY, FORMER[-1], counts=False),
        Origin.RESET: Descent(Origin.RESET, WROTE),
        Origin.UNDECIDED: undecided(WROTE),
    }
    assert descent(knows(*FORMER, written=WROTE), this, ME, NOBODY) == expected[origin]


@pytest.mark.parametrize(
    ("this", "origin"),
    [
        (profile(5, "c", updated=31), Origin.RESET),
        (profile(0, "c"), Origin.RESET),
        (profile(0, "a"), Origin.RESET),
        (profile(0, "e"), Origin.UNDECIDED),
        (profile(0), Origin.UNDECIDED),
        (profile(5, "e", updated=31), Origin.UNDECIDED),
        (profile(5, "c"), Origin.UNDECIDED),
        (profile(5, "c", updated=30), Origin.UNDECIDED),
        (profile(5, "c", updated=29), Origin.OLDER_COPY),
        (profile(0, "c", created=1), Origin.UNDECIDED),
        (profile(0, "c", gap=["9"]), Origin.RESET),
    ],
)
def test_where_nobody_says_what_was_written_or_created_the_last_profile_and_the_marks_tell(
    this: Ancestor, origin: Origin
) -> None:
    former = (profile(60, "a", updated=10), profile(70, "b", updated=20), profile(80, "c", updated=30))
    expected = Descent(origin, former[-1], counts=origin is Origin.RESET)
    assert descent(knows(*former), this, ME, NOBODY) == expected
    assert descent(knows(*former[:-1], pending=former[-1]), this, ME, NOBODY) == expected


def test_the_marks_of_what_the_manager_wrote_tell_too_and_times_that_one_side_lacks_tell_nothing() -> None:
    known = knows(profile(60, "a", updated=10), profile(70, "b", updated=20), written=profile(80, "c"))
    assert descent(known, profile(0, "c", updated=5), ME, NOBODY) == Descent(Origin.RESET, profile(80, "c"))
    assert descent(known, profile(5, "c", updated=5), ME, NOBODY) == undecided(profile(80, "c"))
    assert descent(known, profile(5, "c", updated=50), ME, NOBODY) == undecided(profile(80, "c"))


def test_of_several_former_profiles_the_latest_that_is_reached_is_gone_on_from() -> None:
    former = (profile(10), profile(30), profile(20))
    assert descent(knows(*former), profile(30), ME, NOBODY) == Descent(Origin.CONTINUED, profile(20))
    known = knows(*former, pending=profile(30.5, "calm"))
    assert descent(known, profile(30), ME, NOBODY) == Descent(Origin.CONTINUED, profile(30.5, "calm"))
    assert known.former == (*former, profile(30.5, "calm"))


def test_eight_former_profiles_are_remembered_each_change_once() -> None:
    eight = tuple(profile(number) for number in range(8))
    assert remembered(eight[:7], eight[7]) == remembered(eight, eight[7]) == eight
    assert remembered(eight, eight[0]) == (*eight[1:], eight[0])
    assert remembered((), eight[0]) == eight[:1]


def test_what_was_about_to_be_written_is_there_or_is_dropped() -> None:
    known = knows(profile(1), pending=profile(2))
    settled = knows(profile(1), profile(2))
    assert confirmed(known) == confirmed(settled) == settled
    assert confirmed(replace(known, bases=(profile(2),))) == knows(profile(2))
    assert dropped(known) == dropped(knows(profile(1))) == knows(profile(1))


def test_a_profile_is_reduced_to_its_numbers_its_times_and_digests_of_all_else() -> None:
    written = {
        "total_distance": 5,
        "safety_score": 80.5,
        "style": "calm",
        "seat": [1, 2],
        "metrics": {"gap": [0.5, None], "speed": []},
        "created_at": 1,
        "last_updated": 2.5,
    }
    assert base_of(read_profile(written, None)) == Ancestor(
        totals={"total_distance": 5},
        averages={"safety_score": 80.5},
        marks={"style": digest("calm", 12), "seat": digest([1, 2], 12)},
        readings={"gap": [digest(0.5, 6), digest(None, 6)], "speed": []},
        created=1_000_000,
        updated=2_500_000,
    )
    assert base_of(read_profile({}, None)) == Ancestor({}, {}, {}, {}, None, None)


@pytest.mark.parametrize(
    ("now", "before", "is_reached"),
    [
        ({"a": 9.5, "b": 7}, {"a": 10, "b": 7}, True),
        ({"a": 9.49, "b": 7}, {"a": 10, "b": 7}, False),
        ({"b": 8, "a": 9.49}, {"a": 10, "b": 7}, False),
        ({"a": 0}, {}, True),
        ({}, {"a": 10}, True),
    ],
)
def test_totals_reach_others_where_none_of_them_fell_by_more_than_half(
    now: dict[str, Number], before: dict[str, Number], is_reached: bool
) -> None:
    this, base = profile(0)._replace(totals=now), profile(0)._replace(totals=before)
    assert reaches(this, base) is is_reached


def test_what_totals_add_is_never_negative_and_all_of_it_where_there_was_nothing() -> None:
    this = profile(0)._replace(totals={"a": 9, "b": 5, "c": 3})
    base = profile(0)._replace(totals={"a": 4, "b": 6, "d": 2})
    assert added(this, base) == {"a": 5, "b": 0, "c": 3}
    assert added(this, None) == this.totals


@pytest.mark.parametrize(
    ("before", "now", "size"),
    [
        ("", "ab", 0),
        ("ab", "", 0),
        ("ab", "cd", 0),
        ("ab", "bc", 1),
        ("ab", "ab", 2),
        ("ab", "abc", 2),
        ("abc", "bc", 2),
        ("aa", "aaa", 2),
        ("ba", "ab", 1),
    ],
)
def test_as_many_of_the_first_readings_as_can_be_are_the_last_from_before(before: str, now: str, size: int) -> None:
    assert overlap(list(before), list(now)) == size
