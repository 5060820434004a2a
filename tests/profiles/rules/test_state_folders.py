"""Under which name a state folder contributes, from where on, and when it takes over what a former one left."""

from dataclasses import replace
from typing import Any

import pytest

from sentinel_sync.profiles.rules.descent import Known, PriorFolder, base_of, profile_digest
from sentinel_sync.profiles.rules.fields import Number, ProfileTime, read_profile
from sentinel_sync.profiles.rules.merge import (
    Ancestor,
    Contribution,
    ProfileState,
    Register,
    Stamp,
    join,
)
from sentinel_sync.profiles.rules.state_folders import (
    Cloud,
    acknowledged,
    begun,
    name_of,
    plain_cloud,
    plain_contributor,
    renamed,
    shared_vehicle_ids,
)

Profile = dict[str, Any]
#: The statistics were reset at this time.
RESET = Stamp(9, 1, "v3#c")


def past(distance: Number, **fields: Any) -> Ancestor:
    return base_of(read_profile({"total_distance": distance, **fields}, None))


def part(*left: Ancestor, sequence: int = 1, totals: dict[str, Number] | None = None, **more: Any) -> Contribution:
    return Contribution(sequence, {} if totals is None else totals, {}, left, **more)


def counted(
    state: ProfileState, bases: tuple[Ancestor, ...], totals: dict[str, Number] | None = None, **more: Any
) -> Known:
    """What a new state folder of v1 knows where it adds only what comes on top of the last of these."""
    mine = Contribution(1, totals or {}, {}, bases[-1:], state.reset)
    return Known(join(state, ProfileState({"v1#new": mine})), bases, contributor="v1#new", **more)


def test_a_plain_profile_has_one_name_of_sixteen_digits_and_a_state_folder_its_own_or_the_vehicle_s() -> None:
    assert plain_contributor({"b": 1, "a": [2]}) == plain_contributor({"a": [2], "b": 1}) == "plain:63c9663de90ee828"
    assert name_of(Known(ProfileState(), contributor="v1#a"), "v1") == "v1#a"
    assert name_of(Known(ProfileState()), "v1") == "v1"


def test_a_state_folder_begins_after_the_others_of_its_vehicle_and_with_nothing_where_nothing_tells() -> None:
    state = ProfileState({"v1#b": part(), "v1": part(), "v2#a": part(past(90)), "v1#a": part()})
    fresh = Known(state, contributor="v1#new", elders=("v1", "v1#a", "v1#b"))
    assert begun(Cloud(state), None, "v1", "new") == fresh
    assert begun(Cloud(state), {"total_distance": 100}, "v1", "new") == fresh
    # The same numbers, and no time that tells them from another's by chance.
    untimed = replace(state, lineage=((5, profile_digest(past(100))),))
    assert begun(Cloud(untimed), {"total_distance": 100}, "v1", "new") == replace(fresh, state=untimed)


@pytest.mark.parametrize(
    ("local", "is_part"),
    [
        ({"total_distance": 99.5, "session_count": 1}, True),
        ({"total_distance": 99.49, "session_count": 1}, False),
        ({"total_distance": 200, "session_count": 0}, False),
        ({"total_distance": 200}, False),
    ],
)
def test_an_older_copy_of_the_vehicle_s_own_is_part_of_a_local_profile_that_reaches_it(
    local: Profile, is_part: bool
) -> None:
    plain = {"total_distance": 100, "total_time": 0, "session_count": 1}
    own, others = plain_cloud(plain, "d", own=True), plain_cloud(plain, "d", own=False)
    apart = Known(own.state, contributor="v1#new")
    older = past(100, total_time=0, session_count=1)
    assert begun(own, local, "v1", "new") == (counted(own.state, (older,)) if is_part else apart)
    assert begun(others, local, "v1", "new") == apart


LEFT = (past(100), past(300, style="calm"))


@pytest.mark.parametrize("found", LEFT)
def test_a_profile_that_a_former_state_folder_left_is_counted_up_to_what_that_one_was_left_with(
    found: Ancestor,
) -> None:
    local = {"total_distance": 100} if found == LEFT[0] else {"total_distance": 300, "style": "calm"}
    state = ProfileState({"v1#a": part(), "v1#b": part(*LEFT, reset=RESET), "v2#a": part(past(1))}, reset=RESET)
    expected = counted(state, LEFT, written=LEFT[0], elders=("v1#a", "v1#b"))
    assert begun(Cloud(state), local, "v1", "new") == expected
    assert expected.state.contributions["v1#new"] == Contribution(1, {}, {}, LEFT[1:], RESET)


def test_a_copy_of_what_the_backend_holds_is_counted_already() -> None:
    plain = {"total_distance": 100, "style": "calm"}
    here, this = past(100, style="calm"), Cloud(plain_cloud(plain, "d", own=False).state)
    assert begun(this, plain, "v1", "new") == counted(this.state, (here,))
    assert begun(this, {"total_distance": 100}, "v1", "new") == Known(this.state, contributor="v1#new")
    merged = Cloud(
        ProfileState(
            {"v2": part(totals={"total_distance": 60}), "v3": part(totals={"total_distance": 40})},
            {"style": Register(Stamp(5, 0, "v2"), "calm")},
        )
    )
    assert begun(merged, plain, "v1", "new") == counted(merged.state, (here,))
    for other in ({"style": "calm"}, plain | {"total_distance": 101}, plain | {"seat": 1}):
        assert begun(merged, other, "v1", "new") == Known(merged.state, contributor="v1#new")
    timed = replace(merged.state, updated=ProfileTime(5_000_000, 5))
    same = plain | {"last_updated": "1970-01-01T00:00:05Z"}  # the vehicle's own form of the same time
    assert begun(Cloud(timed), same, "v1", "new") == counted(timed, (here._replace(updated=5_000_000),))
    empty = ProfileState(registers=merged.state.registers)
    assert begun(Cloud(empty), {"style": "calm"}, "v1", "new") == Known(empty, contributor="v1#new")


def test_a_profile_whose_digest_travels_is_counted_already() -> None:
    local = {"total_distance": 100, "last_updated": 5}
    state = ProfileState({"v2#a": part()}, lineage=((5, profile_digest(past(100, last_updated=5))),))
    assert begun(Cloud(state), local, "v1", "new") == counted(state, (past(100, last_updated=5),))


@pytest.mark.parametrize(
    ("readings", "distance", "found"),
    [
        ([1, 2, 3], 99.5, 100),
        ([1, 2, 3, 4], 150, 100),
        ([1, 2, 3], 99.49, 60),
        ([1, 2, 3], 49.49, None),
        ([1, 2], 150, None),
        ([1, 2, 4, 3], 150, None),
        ([0, 1, 2, 3], 150, None),
        ([5, 6, 7], 150, None),
        (None, 150, None),
    ],
)
def test_a_file_goes_on_from_another_vehicle_s_where_three_readings_tell_it(
    readings: list[int] | None, distance: float, found: int | None
) -> None:
    copies = [past(number, metrics={"gap": [1, 2, 3], "speed": [8, 8]}) for number in (50, 100, 60)]
    short = past(120, metrics={"gap": [5, 6], "speed": []})
    state = ProfileState({f"v{number}": part(base) for number, base in enumerate([*copies, short], 2)})
    local: Profile = {"total_distance": distance, "metrics": {} if readings is None else {"gap": readings}}
    expected = Known(state, contributor="v1#new")
    if found is not None:
        expected = counted(state, (past(found, metrics={"gap": [1, 2, 3], "speed": [8, 8]}),))
    assert begun(Cloud(state), local, "v1", "new") == expected


def heir(distance: Number, parts: dict[str, Contribution], reset: Stamp | None = None) -> Known:
    state = ProfileState(parts, reset=reset)
    return begun(Cloud(state), {"total_distance": distance, "total_time": 7, "session_count": 2}, "v1", "new")


def test_an_heir_shares_what_was_left_until_the_former_folder_answers() -> None:
    wrote, base = past(100), past(300, session_count=2.5)
    parts = {"v1#a": part(wrote, base, reset=RESET)}
    shared: dict[str, Number] = {"total_distance": 300, "total_time": 0, "session_count": 2}
    assert heir(320, parts, RESET) == counted(
        ProfileState(parts, reset=RESET), (base,), written=wrote, elders=("v1#a",), prior=PriorFolder("v1#a", shared)
    )


@pytest.mark.parametrize(
    ("parts", "distance", "name", "base"),
    [
        ({"v1#a": part(past(300)), "v1#b": part(past(200))}, 400, "v1#a", 300),
        ({"v1#a": part(past(300)), "v1#b": part(past(200))}, 299, "v1#b", 200),
        ({"v1#a": part(past(200)), "v1#b": part(past(200))}, 400, "v1#b", 200),
        # The latest reset comes first.
        ({"v1#a": part(past(200), reset=RESET), "v1#b": part(past(300))}, 400, "v1#a", 200),
        # The last that was left, and the one that the manager wrote only where no last one is reached.
        ({"v1#a": part(past(150), past(300)), "v1#b": part(past(100), past(110))}, 200, "v1#b", 110),
        ({"v1#a": part(past(150), past(300)), "v1#b": part(past(100), past(210))}, 200, "v1#a", 150),
    ],
)
def test_of_what_former_folders_left_the_farthest_that_is_reached_is_gone_on_from(
    parts: dict[str, Contribution], distance: Number, name: str, base: int
) -> None:
    known = heir(distance, parts)
    assert known.bases == (past(base),)
    assert known.written == parts[name].left[0]
    assert known.prior == PriorFolder(name, {"total_distance": base, "total_time": 0, "session_count": 0})


@pytest.mark.parametrize(
    ("sequences", "latest"), [((2, 1), "v1#a"), ((1, 2), "v1#b"), ((2, 2), "v1#b"), ((10, 9), "v1#a")]
)
def test_less_than_any_former_folder_left_is_ascribed_to_the_latest_of_them(
    sequences: tuple[int, int], latest: str
) -> None:
    first, second = sequences
    parts = {"v1#a": part(past(900), sequence=first), "v1#b": part(past(800), sequence=second)}
    parts["v1#c"] = part(sequence=99)
    here = past(50, total_time=7, session_count=2)
    assert heir(50, parts) == counted(
        ProfileState(parts), (here,), elders=("v1#a", "v1#b", "v1#c"), prior=PriorFolder(latest, here.totals)
    )


BASE = past(200, session_count=4)
MINE = part(past(200), sequence=3)


def own(mine: Contribution | None, *bases: Ancestor, contributor: str = "v1#old", **more: Any) -> Known:
    parts = {"v3": part(past(400)), "v1#elder": part(past(1), past(245))}
    parts |= {} if mine is None else {contributor or "v1": mine}
    return Known(ProfileState(parts, reset=RESET), bases, contributor=contributor, elders=("v1#elder",), **more)


def met(known: Known, cloud: ProfileState) -> ProfileState:
    """What is known when the state folder gives up its former name."""
    return join(replace(known.state, contributions=own(None).state.contributions), cloud)


def taken_over(known: Known, cloud: ProfileState, local: Profile) -> Known:
    return renamed(known, cloud, read_profile(local, None), "v1", "new")


@pytest.mark.parametrize(
    ("mine", "contributor", "theirs", "is_renamed"),
    [
        (MINE, "v1#old", {}, False),
        (MINE, "v1#old", {"v1": part(sequence=9), "v1#other": part(sequence=9)}, False),
        (MINE, "v1#old", {"v1#old": MINE}, False),
        (MINE, "v1#old", {"v1#old": part(sequence=2, writer="z")}, False),
        (MINE, "v1#old", {"v1#old": replace(MINE, writer="z")}, True),
        (MINE, "v1#old", {"v1#old": part(sequence=4)}, True),
        (None, "v1#old", {"v1#old": part(sequence=0)}, True),
        (MINE, "", {"v1": part(sequence=4)}, True),
        (MINE, "", {"v1#old": part(sequence=4)}, False),
    ],
)
def test_a_state_folder_keeps_its_name_while_nobody_else_has_contributed_under_it(
    mine: Contribution | None, contributor: str, theirs: dict[str, Contribution], is_renamed: bool
) -> None:
    known = own(mine, contributor=contributor)
    found = taken_over(known, ProfileState(theirs), {"total_distance": 200})
    assert (found is not known) is is_renamed
    assert found.contributor == ("v1#new" if is_renamed else contributor)


@pytest.mark.parametrize(
    ("mine", "arrived", "unsent"),
    [
        (part(totals={"a": 100, "b": 5}, reset=RESET), {"a": 60}, {"a": 40, "b": 5}),
        (part(totals={"a": 100, "b": 5}, reset=RESET), {"a": 100, "b": 5, "c": 1}, {"a": 0, "b": 0}),
        (part(totals={"a": 100}, reset=RESET), None, {}),
        (part(totals={"a": 100}), {"a": 60}, {}),
        (part(totals={"a": 100}, reset=Stamp(9, 0, "v3#c")), {"a": 60}, {}),
        (None, {"a": 60}, {}),
    ],
)
def test_what_the_backend_never_got_since_the_reset_goes_on_under_the_new_name(
    mine: Contribution | None, arrived: dict[str, Number] | None, unsent: dict[str, Number]
) -> None:
    """All else that the state folder knew stays, but what was its former name's only."""
    pending = past(260)
    kept: dict[str, Any] = {"pending": pending, "removed": 5, "written": past(190), "resolved": "r"}
    known = own(mine, past(100), BASE, arrived=arrived, prior=PriorFolder("v1#elder", {"a": 1}), **kept)
    cloud = ProfileState({"v1#old": part(past(300), sequence=7), "v1#other": part(), "v2#a": part()})
    state = met(known, cloud)
    expected = counted(state, (past(100), BASE), unsent, elders=("v1#elder", "v1#old", "v1#other"), **kept)
    assert taken_over(known, cloud, {"total_distance": 200, "session_count": 4}) == expected
    assert expected.state.contributions["v1#old"] == cloud.contributions["v1#old"]


def test_a_profile_that_was_driven_on_here_and_that_nobody_else_left_goes_on_from_its_own() -> None:
    """What elders left, and those that were noted, is no sign that somebody else has written under the name."""
    mine = part(sequence=3, totals={"total_distance": 9}, reset=RESET, seen=("v1#seen",))
    known = own(mine, BASE, pending=past(999), arrived={})
    cloud = ProfileState({"v1#old": part(past(260), sequence=3), "v1#seen": part(past(240)), "v1#none": part()})
    state = met(known, cloud)
    elders = ("v1#elder", "v1#none", "v1#old", "v1#seen")
    for distance in (240, 245, 250):  # left by one that was noted, by an elder, by nobody
        found = taken_over(known, cloud, {"total_distance": distance, "session_count": 4})
        assert found == counted(state, (BASE,), {"total_distance": 9}, pending=past(999), elders=elders)


@pytest.mark.parametrize("name", ["v1#old", "v1#other"])
@pytest.mark.parametrize("is_last", [True, False])
def test_a_profile_that_another_copy_of_the_state_folder_left_is_counted_there(name: str, is_last: bool) -> None:
    here = past(250, session_count=5)
    left = (past(7), here) if is_last else (here, past(300))
    known = own(part(sequence=3), BASE, pending=past(999), written=past(3))
    parts = {"v1#old": part(sequence=4), "v1#aside": part(past(249)), name: part(*left, sequence=4)}
    cloud = ProfileState(parts)
    expected = counted(met(known, cloud), (here,), written=left[0], elders=tuple(sorted({"v1#elder", *parts})))
    assert taken_over(known, cloud, {"total_distance": 250, "session_count": 5}) == expected


def test_a_profile_that_travelled_meanwhile_is_counted_already_under_the_new_name() -> None:
    here = past(250, last_updated=5)
    known = own(part(sequence=3), BASE, pending=past(999), written=past(3))
    cloud = ProfileState({"v1#old": part(past(240), sequence=5)}, lineage=((5, profile_digest(here)),))
    state = met(known, cloud)
    expected = counted(state, (here,), written=here, elders=("v1#elder", "v1#old"))
    assert taken_over(known, cloud, {"total_distance": 250, "last_updated": 5}) == expected


@pytest.mark.parametrize(
    ("distance", "arrived", "prior"),
    [
        # 50 were driven since the former profile of its own, 10 had not arrived; 20 since what the other left.
        (250, {"total_distance": 90}, {"total_distance": 40, "total_time": 7, "session_count": 0}),
        (250, None, {"total_distance": 30, "total_time": 0, "session_count": 0}),
        (250, {"total_distance": 130}, {"total_distance": 0, "total_time": 7, "session_count": 0}),
    ],
)
def test_a_state_that_was_put_back_holds_apart_what_is_more_than_the_other_left(
    distance: Number, arrived: dict[str, Number] | None, prior: dict[str, Number]
) -> None:
    mine = part(sequence=3, totals={"total_distance": 100, "total_time": 7}, reset=RESET)
    wrote, left = past(210), past(230, session_count=1)
    known = own(mine, BASE, pending=past(999), written=past(3), arrived=arrived)
    others = {"v1#near": part(past(225)), "v1#far": part(past(260))}
    cloud = ProfileState({"v1#old": part(wrote, left, sequence=5)} | others)
    state = met(known, cloud)
    assert taken_over(known, cloud, {"total_distance": distance, "total_time": 3, "session_count": 5}) == counted(
        state,
        (left,),
        written=wrote,
        elders=("v1#elder", "v1#far", "v1#near", "v1#old"),
        prior=PriorFolder("v1#old", prior),
    )


def test_what_counts_nothing_of_its_own_holds_apart_only_what_had_not_arrived() -> None:
    mine = part(sequence=3, totals={"total_distance": 100}, reset=RESET)
    cloud = ProfileState({"v1#old": part(past(48, total_time=2), sequence=5)})
    found = taken_over(own(mine, BASE, arrived={"total_distance": 90}), cloud, {"total_distance": 50, "total_time": 3})
    assert found.prior == PriorFolder("v1#old", {"total_distance": 8, "total_time": 0})


def acknowledging(mine: Contribution, others: dict[str, Contribution], **more: Any) -> tuple[Known, Known]:
    state = ProfileState({"v2#z": part(seen=("v1#me",)), "v1#me": mine} | others, reset=RESET)
    known = Known(state, contributor="v1#me", **more)
    return known, acknowledged(known, "v1", "token")


def test_state_folders_that_came_up_or_that_an_heir_finds_alive_are_noted_once() -> None:
    mine = part(past(1), sequence=4, totals={"total_distance": 10}, seen=("v1#seen",), writer="w", reset=RESET)
    others = {
        "v1#z": part(),
        "v1#elder": part(seen=("v1#seen",)),
        "v1#alive": part(seen=("v1#x", "v1#me")),
        "v1#seen": part(seen=("v1#me",)),
        "v1": part(),
    }
    known, noted = acknowledging(mine, others, elders=("v1#alive", "v1#elder"))
    seen = replace(mine, sequence=5, seen=("v1#seen", "v1", "v1#alive", "v1#z"), writer="token")
    changed = known.state.contributions | {"v1#me": seen}
    assert noted == replace(known, state=replace(known.state, contributions=changed))
    assert acknowledged(noted, "v1", "again") is noted


def test_a_folder_that_has_contributed_nothing_notes_nothing() -> None:
    known = Known(ProfileState({"v1#a": part(), "v1#b": part()}), contributor="v1#c")
    assert acknowledged(known, "v1", "token") is known
    nameless = Known(ProfileState({"v1": part(), "v1#a": part()}))
    assert acknowledged(nameless, "v1", "token").state.contributions["v1"] == part(
        sequence=2, seen=("v1#a",), writer="token"
    )


@pytest.mark.parametrize(
    ("prior", "reset", "seen", "totals"),
    [
        ({"total_distance": 5, "total_time": 2}, RESET, ("v1#me",), {"total_distance": 15, "total_time": 2, "x": 1}),
        ({"total_distance": 5}, None, ("v1#me",), None),
        ({"total_distance": 5}, RESET, ("v1#other",), None),
        ({"total_distance": 5}, RESET, (), None),
    ],
)
def test_what_was_held_apart_is_added_once_the_former_folder_has_noted_its_heir(
    prior: dict[str, Number], reset: Stamp | None, seen: tuple[str, ...], totals: dict[str, Number] | None
) -> None:
    mine = part(sequence=4, totals={"total_distance": 10, "x": 1}, reset=reset, seen=("v1#former",))
    held = PriorFolder("v1#former", prior)
    known, noted = acknowledging(mine, {"v1#former": part(seen=seen)}, prior=held)
    if totals is None:
        assert noted is known
        return
    changed = known.state.contributions | {"v1#me": replace(mine, sequence=5, totals=totals, writer="token")}
    assert noted == replace(known, state=replace(known.state, contributions=changed), prior=None)
    assert acknowledged(noted, "v1", "again") is noted


def test_an_answer_about_nothing_changes_no_contribution() -> None:
    mine = part(sequence=4, seen=("v1#former",), reset=RESET)
    held = PriorFolder("v1#former", {})
    known, noted = acknowledging(mine, {"v1#former": part(seen=("v1#me",))}, prior=held)
    assert noted == replace(known, prior=None)
    known, noted = acknowledging(mine, {}, prior=PriorFolder("v1#gone", {"total_distance": 5}))
    assert noted is known


def test_a_vehicle_id_is_shared_where_two_state_folders_have_noted_each_other() -> None:
    parts = {
        "v9#a": part(seen=("v9#b", "v9#c")),
        "v9#b": part(seen=("v9#gone", "v9#a")),
        "v2": part(seen=("v2#a",)),
        "v2#a": part(seen=("v2",)),
        "v3#a": part(seen=("v3#b",)),
        "v3#b": part(seen=("v3#gone",)),
        "v4#a": part(),
    }
    assert shared_vehicle_ids(ProfileState(parts)) == ["v2", "v9"]
    assert shared_vehicle_ids(ProfileState()) == []
