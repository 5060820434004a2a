"""Merging is a join, renders what was driven, and takes from a vehicle's file only what was driven there."""

import json
from dataclasses import replace
from itertools import count
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.rules.descent import Known, confirmed
from sentinel_sync.profiles.rules.envelope import (
    MAX_BYTES,
    detached,
    envelope,
    known_bytes,
    known_from,
    opened,
    parse_profile,
    profile_in,
    state_digest,
)
from sentinel_sync.profiles.rules.fields import MAX_READINGS, ProfileTime, read_profile
from sentinel_sync.profiles.rules.history import Merged, MergeInput
from sentinel_sync.profiles.rules.history import merge as merge_as_told
from sentinel_sync.profiles.rules.merge import (
    Contribution,
    MetricReading,
    ProfileState,
    Register,
    Stamp,
    average,
    from_plain,
    join,
    render,
    total,
    vehicle_of,
)
from sentinel_sync.profiles.rules.state_folders import Cloud, plain_cloud, plain_contributor

NOW = 1_800_000_000_000_000
TOKENS = count()
Profile = dict[str, Any]

contributors = st.sampled_from(["v1", "v2", "v3", "plain:0a"])
numbers = st.one_of(st.integers(0, 10**6), st.floats(0, 1e6, allow_nan=False))
values = st.one_of(st.none(), st.booleans(), st.integers(-5, 5), st.text(max_size=3))
stamps = st.builds(Stamp, st.integers(0, 3), st.integers(0, 2), contributors)
resets = st.none() | stamps
contributions = st.builds(
    Contribution,
    st.integers(0, 3),
    st.dictionaries(st.sampled_from(["total_distance", "session_count"]), numbers),
    st.dictionaries(st.sampled_from(["safety_score", "avg_speed"]), numbers),
    reset=resets,
    writer=st.sampled_from(["a", "b"]),
)
moments = st.none() | st.builds(ProfileTime, st.integers(0, 3), values)
states = st.builds(
    ProfileState,
    st.dictionaries(contributors, contributions),
    st.dictionaries(st.sampled_from(["driving_style", "new"]), st.builds(Register, stamps, values)),
    st.dictionaries(
        st.sampled_from(["reaction", "gap"]),
        st.lists(st.builds(MetricReading, st.integers(0, 3), contributors, st.integers(0, 3), values)).map(
            lambda entries: join(ProfileState(metrics={"x": tuple(entries)}), ProfileState(metrics={"x": ()})).metrics[
                "x"
            ]
        ),
    ),
    moments,
    moments,
    reset=resets,
    lineage=st.lists(st.tuples(st.integers(0, 3), st.text("ab", max_size=2)), max_size=3, unique=True).map(
        lambda entries: tuple(sorted(entries))
    ),
).map(lambda state: join(state, ProfileState(reset=state.reset)))  # no reading from before its own reset


@given(states, states, states)
def test_merging_is_commutative_associative_and_idempotent(a: ProfileState, b: ProfileState, c: ProfileState) -> None:
    assert join(a, b) == join(b, a)
    assert join(join(a, b), c) == join(a, join(b, c))
    assert join(a, a) == a
    assert join(join(a, b), b) == join(a, b)
    assert render(join(join(a, b), c)) == render(join(c, join(b, a)))


@given(states, states, st.integers(1, 9), st.integers(0, 9))
def test_what_was_known_before_a_driver_was_forgotten_is_gone(
    before: ProfileState, after: ProfileState, later: int, earlier: int
) -> None:
    """A tombstone wins over all that was begun before it, from whichever side it comes, and over no later one."""
    tombstone = ProfileState(forgotten=earlier + later)
    before = replace(before, forgotten=earlier)
    assert join(tombstone, before) == join(before, tombstone) == tombstone
    after = replace(after, forgotten=tombstone.forgotten)
    assert join(after, before) == join(before, after) == after
    assert join(join(before, tombstone), after) == after


@given(states, states)
def test_a_state_reads_back_as_it_was_written_and_has_one_digest(a: ProfileState, b: ProfileState) -> None:
    merged = join(a, b)
    cloud = opened(envelope(merged, "d"), "d", own=False)
    assert cloud.state == merged
    assert state_digest(cloud.state) == state_digest(join(b, a))


@given(st.lists(st.lists(st.integers(), min_size=1, max_size=200), min_size=1, max_size=5))
def test_lists_are_bounded_however_they_are_merged(parts: list[list[int]]) -> None:
    merged = ProfileState()
    for number, part in enumerate(parts):
        merged = join(merged, from_plain(read_profile({"metrics": {"a": part}}, None), f"v{number}"))
    assert len(render(merged)["metrics"]["a"]) == min(MAX_READINGS, sum(map(len, parts)))


def merge(
    known: Known | None, cloud: Cloud | None, local: Profile, *, driver_id: str, vehicle: str, now: int, **told: Any
) -> Merged:
    token = f"{next(TOKENS):x}"
    return merge_as_told(
        known, cloud, local, MergeInput(driver_id=driver_id, vehicle=vehicle, now=now, token=token, **told)
    )


def synced(
    known: Known | None, cloud: Cloud | None, local: Profile, vehicle: str, now: int = NOW
) -> tuple[Known, Profile]:
    merged = merge(known, cloud, local, driver_id="d", vehicle=vehicle, now=now)
    return confirmed(merged.known), merged.profile


def test_profiles_that_never_met_merge_as_documented() -> None:
    local = {
        "total_distance": 1000.0,
        "total_time": 10.0,
        "safety_score": 80.0,
        "driving_style": "calm",
        "last_updated": 5,
    }
    other = {
        "total_distance": 2000.0,
        "total_time": 20.0,
        "safety_score": 90.0,
        "driving_style": "sporty",
        "last_updated": 9,
    }
    _, merged = synced(None, plain_cloud(other, "d", own=False), local, "v1")
    assert merged["total_distance"] == 3000.0
    assert merged["total_time"] == 30.0
    assert merged["safety_score"] == 85.0
    assert merged["driving_style"] == "sporty"
    assert merged["last_updated"] == 9


def test_the_older_local_style_gives_way_and_the_newer_one_stays() -> None:
    other = plain_cloud({"driving_style": "sporty", "last_updated": 2}, "d", own=False)
    assert synced(None, other, {"driving_style": "calm", "last_updated": 3}, "v1")[1]["driving_style"] == "calm"
    assert synced(None, other, {"driving_style": "calm", "last_updated": 1}, "v1")[1]["driving_style"] == "sporty"


def test_scores_weigh_by_the_sessions_they_rest_on() -> None:
    local = {"safety_score": 80, "session_count": 30}
    _, merged = synced(None, plain_cloud({"safety_score": 90, "session_count": 10}, "d", own=False), local, "v1")
    assert merged == {"safety_score": 82.5, "session_count": 40}


def test_syncing_again_and_again_changes_nothing() -> None:
    known, merged = synced(None, plain_cloud({"total_distance": 2000}, "d", own=False), {"total_distance": 1000}, "v1")
    for _ in range(5):
        before = known
        known, merged = synced(known, Cloud(known.state), merged, "v1")
        assert merged["total_distance"] == 3000
        assert known == before


def test_only_what_was_driven_since_the_last_sync_is_added() -> None:
    known, mine = synced(None, None, {"total_distance": 1000}, "v1")
    other, theirs = synced(None, Cloud(known.state), {"total_distance": 500}, "v2")
    assert theirs["total_distance"] == 1500
    mine["total_distance"] += 100
    known, mine = synced(known, Cloud(other.state), mine, "v1")
    assert mine["total_distance"] == 1600
    assert {vehicle_of(name): part.totals for name, part in known.state.contributions.items()} == {
        "v1": {"total_distance": 1100},
        "v2": {"total_distance": 500},
    }


def test_a_manager_that_writes_what_it_had_in_memory_counts_nothing_twice() -> None:
    known, mine = synced(None, None, {"total_distance": 1000, "session_count": 1, "driving_style": "calm"}, "v1")
    in_memory = dict(mine)
    others = {"total_distance": 5000, "session_count": 40, "driving_style": "sporty"}
    other, _ = synced(None, Cloud(known.state), others, "v2")
    known, mine = synced(known, Cloud(other.state), mine, "v1")
    assert mine["total_distance"] == 6000
    in_memory["total_distance"] += 10  # it never looked at the file again
    in_memory["session_count"] += 1
    known, mine = synced(known, None, in_memory, "v1")
    assert mine["total_distance"] == 6010
    assert mine["session_count"] == 42


def test_a_file_that_was_never_replaced_is_recognised() -> None:
    local = {"total_distance": 1000, "driving_style": "calm"}
    known, _ = synced(None, None, local, "v1")
    other, _ = synced(
        None, Cloud(known.state), {"total_distance": 5000, "driving_style": "sporty", "last_updated": 9}, "v2"
    )
    # The power goes before the merged profile is written.
    pending = merge(known, Cloud(other.state), local, driver_id="d", vehicle="v1", now=NOW).known
    assert pending.pending is not None
    known, merged = synced(known_from(known_bytes(pending)), None, local, "v1")
    assert merged["total_distance"] == 6000
    assert merged["driving_style"] == "sporty"


def test_an_older_copy_put_back_counts_nothing() -> None:
    known, _ = synced(None, None, {"total_distance": 1000, "last_updated": 20}, "v1")
    known, mine = synced(known, None, {"total_distance": 1200, "last_updated": 30}, "v1")
    known, mine = synced(known, None, {"total_distance": 300, "last_updated": 10}, "v1")
    assert mine["total_distance"] == 1200


def test_a_driver_enrolled_anew_adds_to_what_is_known() -> None:
    known, _ = synced(None, None, {"total_distance": 1000, "created_at": 100, "last_updated": 200}, "v1")
    known, mine = synced(known, None, {"total_distance": 7, "created_at": 300, "last_updated": 300}, "v1")
    assert mine["total_distance"] == 1007
    assert mine["created_at"] == 100


def test_a_manager_that_rounds_adds_nothing() -> None:
    known, _ = synced(None, None, {"total_distance": 1000.04}, "v1")
    other, _ = synced(None, Cloud(known.state), {"total_distance": 2000.02}, "v2")
    known, mine = synced(known, Cloud(other.state), {"total_distance": 1000.04}, "v1")
    known, mine = synced(known, None, {"total_distance": round(mine["total_distance"])}, "v1")
    assert mine["total_distance"] == pytest.approx(3000.06)


def test_a_vehicle_whose_state_was_lost_finds_its_part_at_the_backend() -> None:
    known, mine = synced(None, None, {"total_distance": 1000}, "v1")
    mine["total_distance"] += 50
    _, again = synced(None, Cloud(known.state), mine, "v1")
    assert again["total_distance"] == 1050


def test_a_copy_of_the_merged_profile_adds_nothing_in_another_vehicle() -> None:
    known, mine = synced(None, None, {"total_distance": 1000, "driving_style": "calm", "last_updated": 5}, "v1")
    copy, merged = synced(None, Cloud(known.state), dict(mine), "v2")
    assert merged["total_distance"] == 1000
    merged["total_distance"] += 10
    copy, merged = synced(copy, None, merged, "v2")
    assert merged["total_distance"] == 1010


def test_the_same_plain_profile_read_by_two_vehicles_counts_once() -> None:
    plain = {"total_distance": 2000, "last_updated": 3}
    one, _ = synced(None, plain_cloud(plain, "d", own=False), {"total_distance": 10}, "v1")
    two, _ = synced(None, plain_cloud(plain, "d", own=False), {"total_distance": 20}, "v2")
    three, _ = synced(None, plain_cloud(plain, "d", own=False), dict(plain), "v3")
    assert total(join(join(one.state, two.state), three.state), "total_distance") == 2030
    late, _ = synced(None, Cloud(join(one.state, two.state)), dict(plain), "v4")
    assert total(late.state, "total_distance") == 2030


def test_the_own_older_copy_of_a_profile_is_part_of_the_local_one() -> None:
    _, merged = synced(None, plain_cloud({"total_distance": 1000}, "d", own=True), {"total_distance": 1200}, "v1")
    assert merged["total_distance"] == 1200
    _, apart = synced(None, plain_cloud({"total_distance": 2000}, "d", own=True), {"total_distance": 1200}, "v1")
    assert apart["total_distance"] == 3200


def test_a_backend_copy_that_lost_its_merge_state_is_refused() -> None:
    known, mine = synced(None, None, {"total_distance": 1000}, "v1")
    with pytest.raises(ProfileError, match="without merge state"):
        merge(known, plain_cloud({"total_distance": 1}, "d", own=False), mine, driver_id="d", vehicle="v1", now=NOW)


def test_a_change_made_knowing_another_wins_over_it_whatever_the_clocks_say() -> None:
    decades = 10 * 365 * 86_400
    ahead = {"driving_style": "sporty", "last_updated": 1_700_000_000 + decades}
    fast, _ = synced(None, None, ahead, "v1", now=NOW * 2)
    slow, mine = synced(None, Cloud(fast.state), {"driving_style": "calm", "last_updated": 1_700_000_000}, "v2")
    assert mine["driving_style"] == "sporty"
    mine["driving_style"] = "normal"
    slow, mine = synced(slow, None, mine, "v2")
    assert mine["driving_style"] == "normal"
    assert synced(fast, Cloud(slow.state), ahead, "v1")[1]["driving_style"] == "normal"


def test_no_time_in_a_local_profile_counts_as_later_than_now() -> None:
    known, mine = synced(None, None, {"driving_style": "calm", "last_updated": "2099-01-01T00:00:00Z"}, "v1")
    assert mine["last_updated"] == "2027-01-15T08:00:00Z"
    assert known.state.registers["driving_style"].stamp.us == NOW


def test_unknown_fields_survive_and_the_order_of_the_file_stays() -> None:
    known, _ = synced(None, None, {"b": {"x": [1]}, "a": 1, "last_updated": 5}, "v1")
    _, mine = synced(None, Cloud(known.state), {"z": 0, "last_updated": 4, "a": 2}, "v2")
    assert list(mine) == ["z", "last_updated", "a", "b"]
    assert mine == {"z": 0, "last_updated": 5, "a": 1, "b": {"x": [1]}}


def test_each_file_keeps_its_own_form_of_times() -> None:
    known, _ = synced(None, None, {"last_updated": "2026-11-17T18:22:31.5+00:00"}, "v1")
    assert synced(None, Cloud(known.state), {"last_updated": 5.0}, "v2")[1]["last_updated"] == 1794939751.5
    assert synced(None, Cloud(known.state), {"last_updated": "2026-01-01T00:00:00Z"}, "v2")[1]["last_updated"] == (
        "2026-11-17T18:22:31.500000Z"
    )


def test_appended_readings_are_added_once() -> None:
    known, mine = synced(None, None, {"metrics": {"gap": [1, 1, 1]}}, "v1")
    other, _ = synced(None, Cloud(known.state), {"metrics": {"gap": [7], "speed": [3]}}, "v2")
    mine["metrics"]["gap"].append(1)
    known, mine = synced(known, Cloud(other.state), mine, "v1")
    assert sorted(mine["metrics"]["gap"]) == [1, 1, 1, 1, 7]
    assert mine["metrics"]["speed"] == [3]
    again, mine = synced(known, Cloud(other.state), mine, "v1")
    assert again == known


def test_a_score_that_one_vehicle_moves_stays_as_it_moved_it() -> None:
    start = plain_cloud({"safety_score": 90.0, "session_count": 10}, "d", own=False)
    known, mine = synced(None, start, {"safety_score": 80.0, "session_count": 10}, "v1")
    assert mine["safety_score"] == 85.0
    mine |= {"safety_score": 84.0, "session_count": 21}
    known, mine = synced(known, None, mine, "v1")
    assert mine["safety_score"] == pytest.approx(84.0)
    known, mine = synced(known, None, mine, "v1")
    assert mine["safety_score"] == pytest.approx(84.0)


@given(st.lists(st.tuples(st.sampled_from(["v1", "v2", "v3"]), st.floats(0, 100), st.integers(0, 9)), max_size=20))
def test_no_score_leaves_its_range_however_managers_move_it(moves: list[tuple[str, float, int]]) -> None:
    cloud: ProfileState | None = None
    knowns: dict[str, Known] = {}
    for vehicle, score, sessions in moves:
        known = knowns.get(vehicle)
        shown = {} if known is None else render(known.state)
        local = {"safety_score": score, "session_count": shown.get("session_count", 0) + sessions}
        knowns[vehicle], _ = synced(known, None if cloud is None else Cloud(cloud), local, vehicle)
        cloud = knowns[vehicle].state
        assert 0.0 <= (average(cloud, "safety_score") or 0.0) <= 100.0


def test_a_state_of_the_first_form_is_read() -> None:
    """It knew no resets, and its contributors were vehicle ids; what such a vehicle drives on still counts once."""
    written = {
        "contributions": {"v1": {"sequence": 3, "totals": {"total_distance": 70}, "averages": {}, "left": []}},
        "registers": {"driving_style": [[5, 0, "v1"], "calm"]},
        "metrics": {},
        "created": None,
        "updated": [5, 0.000005],
        "forgotten": 0,
    }
    cloud = opened(json.dumps({"sentinel_profile": 1, "driver_id": "d", "state": written}).encode(), "d", own=False)
    known = known_from(
        json.dumps({"state": written, "bases": [[{"total_distance": 70}, {}, {}, {}, None, 5]]}).encode()
    )
    assert known.state == cloud.state
    known, mine = synced(known, cloud, {"total_distance": 75}, "v1")
    assert mine["total_distance"] == 75
    _, theirs = synced(None, Cloud(known.state), {"total_distance": 5}, "v2")
    assert theirs["total_distance"] == 80


def test_an_envelope_is_bound_to_its_driver_and_its_version() -> None:
    sealed = envelope(ProfileState(), "d")
    with pytest.raises(ProfileError, match="another driver"):
        opened(sealed, "e", own=False)
    with pytest.raises(ProfileError, match="newer sentinel_sync"):
        opened(b'{"sentinel_profile": 3}', "d", own=False)
    with pytest.raises(ProfileError, match="not of the expected form"):
        opened(b'{"sentinel_profile": 1, "driver_id": "d", "state": {"contributions": 5}}', "d", own=False)
    with pytest.raises(ProfileError, match="another driver"):
        opened(b'{"driver_id": "e"}', "d", own=False)


@pytest.mark.parametrize("content", [b"", b"{", b"[1]", b"null", b'{"a": NaN}', b"[" * 100_000, b"\xff\xfe", b'"text"'])
def test_what_is_no_json_object_is_refused(content: bytes) -> None:
    with pytest.raises(ProfileError):
        parse_profile(content)


@pytest.mark.parametrize("value", [object(), float("nan"), {1, 2}, b"x"])
def test_what_json_cannot_hold_is_refused(value: object) -> None:
    with pytest.raises(ProfileError, match="JSON cannot"):
        detached({"a": value})


def test_a_profile_too_large_to_sync_is_refused() -> None:
    with pytest.raises(ProfileError, match="larger than"):
        detached({"a": "x" * MAX_BYTES})


def test_a_plain_profile_reads_as_it_is_and_an_envelope_as_its_profile() -> None:
    plain = {"total_distance": 5, "last_updated": 3.0, "x": [1]}
    assert profile_in(b'{"a": 1}') == {"a": 1}
    assert profile_in(envelope(from_plain(read_profile(plain, None), plain_contributor(plain)), "d")) == plain


def test_joining_keeps_the_greater_total_of_one_vehicle() -> None:
    part = Contribution(2, {"total_distance": 5}, {})
    merged = join(
        ProfileState({"v1": part}), ProfileState({"v1": replace(part, sequence=1, totals={"total_distance": 9})})
    )
    assert total(merged, "total_distance") == 9


def test_a_clock_that_may_be_wrong_turns_back_no_time() -> None:
    local = {"total_distance": 1, "created_at": 1_780_000_000, "last_updated": 1_790_000_000}
    ten_years_behind = 1_470_000_000_000_000
    merged = merge(None, None, local, driver_id="d", vehicle="v1", now=ten_years_behind, is_true=False)
    assert merged.profile == local
    # Where the true time is known, nothing was updated after it.
    merged = merge(None, None, local, driver_id="d", vehicle="v1", now=1_785_000_000_000_000)
    assert merged.profile == local | {"last_updated": 1_785_000_000}
