"""What each step makes of what is known, of the file and of what the backend holds: whole values, and where they turn.

The properties in test_history.py say that all of it together loses nothing.
"""

from dataclasses import replace
from typing import Any, ClassVar

import pytest

from sentinel_sync.base.errors import ProfileError, UndecidedProfileError
from sentinel_sync.profiles.rules.descent import (
    Keep,
    Known,
    Origin,
    PriorFolder,
    Resolution,
    base_of,
    profile_digest,
)
from sentinel_sync.profiles.rules.fields import MAX_READINGS, Number, ProfileTime, read_profile
from sentinel_sync.profiles.rules.history import Merged, MergeInput, absorb, merge, taken_in
from sentinel_sync.profiles.rules.merge import (
    MAX_LINEAGE,
    Ancestor,
    Contribution,
    MetricReading,
    ProfileState,
    Register,
    Stamp,
)
from sentinel_sync.profiles.rules.state_folders import Cloud

Profile = dict[str, Any]

#: In microseconds; the profiles below are of some minutes after the epoch.
NOW = 1_800_000_000_000_000
SECOND = 1_000_000
#: The contributors: this state folder, one of another vehicle, and a former one of this vehicle's.
ME, OTHER, FORMER = "v1#a", "v2#b", "v1#z"
#: The first profile of most tests, and what it is like later.
FIRST: Profile = {"total_distance": 100, "session_count": 4, "created_at": 50, "last_updated": 1000}
MINE = Contribution(7, {"total_distance": 60}, {}, writer="s")


def told(**changes: Any) -> MergeInput:
    return replace(MergeInput(driver_id="d", vehicle="v1", now=NOW, token="t"), **changes)


def ancestor(profile: Profile) -> Ancestor:
    return base_of(read_profile(profile, None))


def line(profile: Profile) -> tuple[int, str]:
    """What the lineage says of a profile."""
    this = ancestor(profile)
    return this.updated or 0, profile_digest(this)


def knowing(*bases: Profile, state: ProfileState | None = None, **changes: Any) -> Known:
    """What a vehicle knows that had these profiles."""
    state = ProfileState({ME: MINE}) if state is None else state
    return Known(state, tuple(map(ancestor, bases)), **{"contributor": ME} | changes)


def absorbed(known: Known, profile: Profile, cloud: ProfileState | None = None, **changes: Any) -> tuple[Known, Origin]:
    return absorb(known, read_profile(profile, None), told(**changes), cloud or ProfileState())


class TestProfileThatIsNoMore:
    def test_nothing_is_known_where_nobody_holds_anything(self) -> None:
        known = Known(ProfileState(), contributor="v1#t")
        assert taken_in(None, None, "v1", "t") == Merged(known, known, {})

    def test_what_the_backend_holds_is_shown_and_its_own_former_folders_are_noted(self) -> None:
        state = ProfileState({FORMER: Contribution(1, {"total_distance": 3}, {}), OTHER: MINE})
        known = Known(state, contributor="v1#t", elders=(FORMER,))
        assert taken_in(None, Cloud(state), "v1", "t") == Merged(known, known, {"total_distance": 63})

    def test_what_is_known_stays_where_the_backend_has_nothing_new(self) -> None:
        known = knowing(FIRST, pending=ancestor(FIRST), removed=5)
        assert taken_in(known, None, "v1", "t") == Merged(known, replace(known, pending=None), {"total_distance": 60})

    def test_what_is_known_is_joined_with_what_the_backend_holds(self) -> None:
        known = knowing(FIRST, pending=ancestor(FIRST), removed=5)
        joined = replace(known, state=ProfileState({ME: MINE, OTHER: MINE}))
        merged = taken_in(known, Cloud(ProfileState({OTHER: MINE})), "v1", "t")
        assert merged == Merged(joined, replace(joined, pending=None), {"total_distance": 120})

    def test_a_profile_without_merge_state_begins_what_is_known(self) -> None:
        state = ProfileState({"plain:0": MINE})
        known = Known(state, contributor="v1#t")
        assert taken_in(None, Cloud(state, {"total_distance": 60}), "v1", "t") == Merged(
            known, known, {"total_distance": 60}
        )


@pytest.mark.parametrize("call", ["merge", "taken_in"])
def test_a_copy_that_lost_its_merge_state_is_refused_with_what_to_do(call: str) -> None:
    cloud = Cloud(ProfileState(), {"total_distance": 1})
    with pytest.raises(ProfileError) as caught:
        merge(knowing(FIRST), cloud, FIRST, told()) if call == "merge" else taken_in(knowing(), cloud, "v1", "t")
    assert str(caught.value) == (
        "the backend's copy was replaced by one without merge state, by an older module perhaps: merging it could count"
        " twice, so nothing was changed; update the vehicle that wrote it"
    )


class TestNewProfile:
    @pytest.mark.parametrize("ahead", [0, 30])
    def test_all_of_it_counts_and_is_stamped_by_its_own_time(self, ahead: int) -> None:
        profile = FIRST | {"safety_score": 80.5, "style": "calm", "metrics": {"gap": [8, 9]}}
        seen = ancestor(profile)
        assert absorbed(Known(ProfileState(), contributor=ME), profile, ahead=ahead) == (
            Known(
                ProfileState(
                    {
                        ME: Contribution(
                            1, {"total_distance": 100, "session_count": 4}, {"safety_score": 80.5}, writer="t"
                        )
                    },
                    {"style": Register(Stamp(1000 * SECOND, 1, ME), "calm")},
                    {
                        "gap": (
                            MetricReading(1000 * SECOND - ahead, ME, 0, 8),
                            MetricReading(1000 * SECOND - ahead, ME, 1, 9),
                        )
                    },
                    ProfileTime(50 * SECOND, 50),
                    ProfileTime(1000 * SECOND, 1000),
                    lineage=((1000 * SECOND, profile_digest(seen)),),
                ),
                (seen,),
                contributor=ME,
                written=seen,
            ),
            Origin.NEW,
        )

    @pytest.mark.parametrize(("ahead", "taken"), [(0, 0), (1, -1), (2, -1)])
    def test_where_it_has_no_time_it_is_older_than_all(self, ahead: int, taken: int) -> None:
        known, _ = absorbed(Known(ProfileState(), contributor=ME), {"a": 1, "metrics": {"b": [2]}}, ahead=ahead)
        assert known.state.registers == {"a": Register(Stamp(0, 1, ME), 1)}
        assert known.state.metrics == {"b": (MetricReading(taken, ME, 0, 2),)}
        assert known.state.lineage == ((0, profile_digest(ancestor({"a": 1, "metrics": {"b": [2]}}))),)
        assert (known.state.created, known.state.updated) == (None, None)

    def test_what_it_has_of_the_downloaded_one_counts_no_more(self) -> None:
        state = ProfileState({OTHER: Contribution(1, FIRST, {"safety_score": 9})})
        file = FIRST | {"safety_score": 9}
        known, origin = absorbed(knowing(state=state, pending=ancestor(file)), file)
        assert origin is Origin.NEW
        assert known.state.contributions == state.contributions | {ME: Contribution(1, {}, {}, writer="t")}
        assert (known.bases, known.pending) == ((ancestor(file),), None)

    def test_a_copy_of_one_that_only_the_backend_knows_adds_nothing(self) -> None:
        known, origin = absorbed(knowing(state=ProfileState()), FIRST, ProfileState(lineage=(line(FIRST),)))
        assert origin is Origin.COPY
        assert known.state.contributions == {ME: Contribution(1, {}, {}, writer="t")}
        assert known.written == ancestor(FIRST)

    @pytest.mark.parametrize(
        ("updated", "ahead", "counted"),
        [
            (1000, 0, 0),
            (1000.000001, 0, 100),
            (1000.000001, 1, 0),
            (999.999999, -1, 0),
            (1000.000001, -1, 100),
            (999.999999, 0, 0),
            (None, 0, 100),
        ],
    )
    def test_it_counts_where_it_was_written_after_the_reset(
        self, updated: float | None, ahead: int, counted: int
    ) -> None:
        reset = Stamp(1000 * SECOND, 3, OTHER)
        file = {"total_distance": 100, "safety_score": 70, "last_updated": updated, "metrics": {"gap": [1]}}
        known, origin = absorbed(knowing(state=ProfileState(reset=reset)), file, ahead=ahead)
        part = Contribution(1, {"total_distance": counted}, {"safety_score": 70}, reset=reset, writer="t")
        assert (known.state.contributions, origin) == ({ME: part}, Origin.NEW)
        assert known.state.reset == reset
        taken = max(round((updated or 0) * SECOND) - ahead, reset.us)
        assert known.state.metrics == {"gap": (MetricReading(taken, ME, 0, 1),)}

    @pytest.mark.parametrize(("earlier", "stamp"), [((999, 5), (1000, 1)), ((1000, 0), (1000, 1)), ((1000, 2), None)])
    def test_its_fields_win_over_older_ones(self, earlier: tuple[int, int], stamp: tuple[int, int] | None) -> None:
        held = Register(Stamp(earlier[0] * SECOND, earlier[1], OTHER), "calm")
        known, _ = absorbed(
            knowing(state=ProfileState(registers={"style": held})), {"style": "sporty", "last_updated": 1000}
        )
        mine = None if stamp is None else Register(Stamp(stamp[0] * SECOND, stamp[1], ME), "sporty")
        assert known.state.registers == {"style": mine or held}


class TestTimes:
    @pytest.mark.parametrize(
        ("written", "is_true", "kept"),
        [
            ("2027-01-15T07:59:59.999999Z", True, "2027-01-15T07:59:59.999999Z"),
            ("2027-01-15T08:00:00Z", True, "2027-01-15T08:00:00Z"),
            ("2027-01-15T08:00:00.000001Z", True, "2027-01-15T08:00:00Z"),
            ("2027-01-15T08:00:00.000001Z", False, "2027-01-15T08:00:00.000001Z"),
        ],
    )
    def test_none_is_later_than_the_true_one(self, written: str, is_true: bool, kept: str) -> None:
        known, _ = absorbed(knowing(state=ProfileState()), {"a": 1, "last_updated": written}, is_true=is_true)
        late = 1 if kept.endswith("1Z") else -1 if kept.endswith("9Z") else 0
        assert known.state.updated == ProfileTime(NOW + late, kept)
        assert known.state.registers["a"].stamp == Stamp(NOW + late, 1, ME)
        assert known.state.lineage[0][0] == NOW + late

    @pytest.mark.parametrize(
        ("created", "kept"),
        [
            ("1970-01-01T00:16:40Z", "1970-01-01T00:16:40.000001Z"),
            ("1970-01-01T00:16:40.000001Z", "1970-01-01T00:16:40.000001Z"),
            ("1970-01-01 00:16:40.000001Z", "1970-01-01 00:16:40.000001Z"),  # to the letter
            ("1970-01-01T00:16:40.000002Z", "1970-01-01T00:16:40.000002Z"),
            ("1970-01-01T02:00:00+02:00", "1970-01-01T02:16:40.000001+02:00"),
            (7, 1000.000001),
        ],
    )
    def test_what_was_begun_after_the_forgetting_says_so(self, created: Any, kept: Any) -> None:
        state = ProfileState(forgotten=1000 * SECOND)
        known, _ = absorbed(knowing(state=state), {"created_at": created, "total_distance": 1})
        us = 1000 * SECOND + (2 if kept == "1970-01-01T00:16:40.000002Z" else 1)
        assert known.state.created == ProfileTime(us, kept)
        assert known.state.forgotten == 1000 * SECOND

    def test_a_later_profile_without_a_time_is_stamped_now(self) -> None:
        known, origin = absorbed(
            knowing({"total_distance": 1}), {"total_distance": 1, "style": "calm", "metrics": {"gap": [5]}}, ahead=10
        )
        assert origin is Origin.CONTINUED
        assert known.state.registers == {"style": Register(Stamp(NOW, 1, ME), "calm")}
        assert known.state.metrics == {"gap": (MetricReading(NOW - 10, ME, 0, 5),)}
        assert known.state.lineage[0][0] == NOW
        assert known.state.contributions == {ME: MINE}


class TestProfileThatGoesOn:
    def test_only_what_it_adds_counts(self) -> None:
        mine = replace(MINE, left=(ancestor(FIRST),), seen=(FORMER,))
        known = knowing(FIRST, state=ProfileState({ME: mine, OTHER: MINE}), removed=3, arrived={}, elders=(FORMER,))
        later = FIRST | {"total_distance": 130, "total_time": 5.5, "last_updated": 2000}
        grown = replace(mine, sequence=8, totals={"total_distance": 90, "total_time": 5.5}, writer="t")
        assert absorbed(known, later) == (
            replace(
                known,
                state=ProfileState(
                    {ME: grown, OTHER: MINE},
                    created=ProfileTime(50 * SECOND, 50),
                    updated=ProfileTime(2000 * SECOND, 2000),
                    lineage=(line(later),),
                ),
                bases=(ancestor(FIRST), ancestor(later)),
                written=ancestor(later),
            ),
            Origin.CONTINUED,
        )

    @pytest.mark.parametrize("pending", [None, FIRST | {"total_distance": 500, "last_updated": 900}])
    def test_one_that_the_vehicle_had_changes_nothing(self, pending: Profile | None) -> None:
        known = knowing(FIRST, pending=None if pending is None else ancestor(pending), written=ancestor({}))
        assert absorbed(known, FIRST) == (replace(known, pending=None), Origin.CONTINUED)

    def test_one_that_it_was_about_to_be_left_with_becomes_a_former_one(self) -> None:
        pending = FIRST | {"total_distance": 500, "last_updated": 1500}
        known = knowing(FIRST, pending=ancestor(pending), written=ancestor(FIRST))
        settled = replace(known, bases=(ancestor(FIRST), ancestor(pending)), pending=None)
        assert absorbed(known, pending) == (settled, Origin.CONTINUED)

    @pytest.mark.parametrize(("distance", "is_left_with"), [(499, False), (500, True), (501, True)])
    def test_it_goes_on_from_the_pending_one_where_it_reaches_it(self, distance: int, is_left_with: bool) -> None:
        pending = FIRST | {"total_distance": 500, "last_updated": 1500}
        file = FIRST | {"total_distance": distance, "last_updated": 2000}
        known, _ = absorbed(knowing(FIRST, pending=ancestor(pending)), file)
        former = (FIRST, pending, file) if is_left_with else (FIRST, file)
        assert (known.bases, known.pending) == (tuple(map(ancestor, former)), None)
        counted = 60 + distance - (500 if is_left_with else 100)
        assert known.state.contributions[ME].totals == {"total_distance": counted}

    def test_each_changed_field_is_stamped_later_than_what_it_replaces(self) -> None:
        at = 2000 * SECOND
        held = {
            "unchanged": Register(Stamp(1, 0, OTHER), "theirs"),
            "agreed": Register(Stamp(1, 0, OTHER), "same"),
            "older": Register(Stamp(at - 1, 4, OTHER), "x"),
            "tied": Register(Stamp(at, 4, OTHER), "x"),
            "newer": Register(Stamp(at + 1, 4, OTHER), "x"),
        }
        base = FIRST | {"unchanged": "mine", "agreed": "x", "older": "x", "tied": "x", "newer": "x"}
        changed = {"agreed": "same", "older": "y", "tied": "y", "newer": "y", "added": "z", "last_updated": 2000}
        known, _ = absorbed(knowing(base, state=ProfileState({ME: MINE}, held)), base | changed)
        assert known.state.registers == held | {
            "older": Register(Stamp(at, 0, ME), "y"),
            "tied": Register(Stamp(at, 5, ME), "y"),
            "newer": Register(Stamp(at + 1, 5, ME), "y"),
            "added": Register(Stamp(at, 1, ME), "z"),
        }

    def test_readings_that_were_appended_are_numbered_on(self) -> None:
        """Each contributor numbers its own, of each metric; what the reading is does not matter."""
        held = {
            "gap": (
                MetricReading(1, ME, 6, "a"),
                MetricReading(2, OTHER, 9, "b"),
                MetricReading(3, ME, 4, "a"),
            ),
            "speed": (MetricReading(2, OTHER, 9, "b"),),
            "left": (MetricReading(2, OTHER, 9, "b"),),
        }
        base = FIRST | {"metrics": {"gap": ["a", "b", "a"], "left": ["b"]}}
        file = FIRST | {
            "metrics": {"gap": ["b", "a", "a", "c"], "left": ["b"], "speed": ["d"], "new": ["e"]},
            "last_updated": 2000,
        }
        known, _ = absorbed(knowing(base, state=ProfileState({ME: MINE}, metrics=held)), file, ahead=7)
        at = 2000 * SECOND - 7
        assert known.state.metrics == held | {
            "gap": (*held["gap"], MetricReading(at, ME, 7, "a"), MetricReading(at, ME, 8, "c")),
            "speed": (*held["speed"], MetricReading(at, ME, 0, "d")),
            "new": (MetricReading(at, ME, 0, "e"),),
        }

    def test_only_the_newest_readings_stay(self) -> None:
        base, file = ({"metrics": {"gap": list(range(start, start + MAX_READINGS))}} for start in (0, 300))
        held = tuple(MetricReading(1, ME, number, number) for number in range(MAX_READINGS))
        known, _ = absorbed(knowing(base, state=ProfileState({ME: MINE}, metrics={"gap": held})), file)
        expected = [MetricReading(NOW, ME, MAX_READINGS + index, 300 + index) for index in range(MAX_READINGS)]
        assert known.state.metrics == {"gap": tuple(expected)}

    def test_the_first_part_since_a_reset_begins_at_nothing(self) -> None:
        reset = Stamp(5, 0, OTHER)
        mine = replace(MINE, averages={"eco_score": 50, "safety_score": 1}, left=(ancestor(FIRST),))
        base = FIRST | {"eco_score": 50}
        known, _ = absorbed(
            knowing(base, state=ProfileState({ME: mine}, reset=reset)),
            base | {"total_distance": 110, "last_updated": 2000},
        )
        fresh = replace(
            mine, sequence=8, totals={"total_distance": 10}, averages={"eco_score": 50}, reset=reset, writer="t"
        )
        assert known.state.contributions == {ME: fresh}

    def test_an_older_copy_adds_nothing_but_the_averages_it_changes(self) -> None:
        base = FIRST | {"eco_score": 50, "avg_speed": 9}
        copy = base | {"total_distance": 50, "session_count": 10, "last_updated": 500}
        mine = replace(MINE, averages={"eco_score": 50, "avg_speed": 9})
        state = ProfileState({ME: mine})
        known, origin = absorbed(knowing(base, state=state), copy)
        assert (known.state.contributions, origin) == ({ME: mine}, Origin.OLDER_COPY)
        assert known.bases == (ancestor(base), ancestor(copy))
        known, _ = absorbed(knowing(base, state=state), copy | {"eco_score": 51})
        grown = replace(mine, sequence=8, averages={"eco_score": 51, "avg_speed": 9}, writer="t")
        assert known.state.contributions == {ME: grown}


@pytest.mark.parametrize(
    ("name", "mine", "other", "base", "file", "own"),
    [
        # Alone, what was written is the part.
        ("safety_score", 80, None, (80, 10), (90, 10), 90),
        ("safety_score", 80, None, (80, 10), (120.0, 10), 120.0),
        ("safety_score", None, None, (80, 10), (82, 10), 82),
        ("safety_score", None, None, (None, 10), (82, 10), 82),
        ("avg_speed", 80, None, (80, 10), (130, 10), 130),
        ("avg_reaction_time", 1, None, (1, 10), (-5, 10), -5),
        # With another one of weight 30, the mean becomes what was written.
        ("safety_score", 80, 90, (87.5, 40), (85.0, 50), 77.5),
        ("safety_score", 80, 90, (87.5, 40), (87.5, 50), 83.75),
        ("safety_score", 80, 90, (None, 40), (85.0, 40), 70.0),
        ("safety_score", None, 90, (90, 40), (89, 40), 86.0),
        # Or moves as far as it moved from what the manager had read.
        ("safety_score", 80, 90, (80, 40), (82, 40), 88.0),
        ("safety_score", 80, 90, (80, 40), (79, 40), 76.0),
        # No part leaves the range of its kind.
        ("safety_score", 80, 90, (87.5, 40), (92.5, 40), 100.0),
        ("safety_score", 80, 90, (87.5, 40), (92.75, 40), 100.0),
        ("safety_score", 80, 90, (87.5, 40), (120, 40), 120),
        ("safety_score", 80, 90, (87.5, 40), (67.75, 40), 1.0),
        ("safety_score", 80, 90, (87.5, 40), (60, 40), 0),
        ("safety_score", 80, 90, (87.5, 40), (-2, 40), -2),
        ("avg_speed", 80, 90, (87.5, 40), (100, 40), 130.0),
        ("avg_reaction_time", 80, 90, (87.5, 40), (-5, 40), -5),
        ("avg_reaction_time", 80, 90, (87.5, 40), (60, 40), 0),
        # Neither moved nor driven: nothing is new.
        ("safety_score", 80, 90, (87.5, 40), (87.5, 40), 80),
    ],
)
def test_the_own_part_of_an_average_is_such_that_the_mean_is_what_was_written(
    name: str,
    mine: float | None,
    other: float | None,
    base: tuple[float | None, int],
    file: tuple[float, int],
    own: float,
) -> None:
    def part(value: float | None, sessions: int) -> Contribution:
        return Contribution(1, {"session_count": sessions}, {} if value is None else {name: value})

    def profile(value: float | None, sessions: int) -> Profile:
        return {name: value, "session_count": sessions}

    others = {"v3#c": part(None, 500), "v4#d": replace(part(1, 500), reset=Stamp(1, 0, ""))}
    state = ProfileState({ME: part(mine, 10), OTHER: part(other, 30), **others})
    known, origin = absorbed(knowing(profile(*base), state=state), profile(*file))
    assert origin is Origin.CONTINUED
    grown = known.state.contributions[ME]
    assert grown.averages == {name: own}
    assert grown.totals == {"session_count": 10 + file[1] - base[1]}
    assert grown.sequence == (1 if own == mine else 2)


class TestReset:
    LOCAL = Resolution("r", Keep.LOCAL)

    @pytest.mark.parametrize(
        ("before", "ahead", "stamp"),
        [
            (None, 0, (2000 * SECOND, 0)),
            (None, 5, (2000 * SECOND - 5, 0)),
            (1, 1, (2000 * SECOND - 1, 4)),
            (1, 0, (2000 * SECOND, 0)),
            (0, 0, (2000 * SECOND, 4)),
            (-1, 0, (2000 * SECOND + 1, 4)),
        ],
    )
    def test_the_totals_of_the_file_are_all_there_is(
        self, before: int | None, ahead: int, stamp: tuple[int, int]
    ) -> None:
        """And it is later than any reset that was known, whatever the clocks say."""
        earlier = None if before is None else Stamp(2000 * SECOND - before, 3, OTHER)
        mine = replace(MINE, averages={"eco_score": 5, "avg_speed": 6}, left=(ancestor(FIRST),), reset=earlier)
        others = Contribution(2, {"total_time": 9.5, "session_count": 3}, {"avg_speed": 6}, reset=earlier)
        base = FIRST | {"style": "calm", "metrics": {"gap": [1, 2]}}
        state = ProfileState(
            {ME: mine, OTHER: others},
            {"style": Register(Stamp(3000 * SECOND, 2, OTHER), "calm")},
            {"gap": (MetricReading(1500 * SECOND, ME, 3, 1), MetricReading(1500 * SECOND, OTHER, 0, 2))},
            reset=earlier,
        )
        file = base | {"total_distance": 7, "eco_score": 70, "style": "sporty", "last_updated": 2000}
        del file["session_count"]
        known = knowing(base, state=state, prior=PriorFolder(FORMER, {"total_distance": 1}), elders=(FORMER,))
        reset = Stamp(*stamp, ME)
        totals: dict[str, Number] = {"total_distance": 7, "total_time": 0, "session_count": 0}
        assert absorbed(known, file, ahead=ahead) == (
            replace(
                known,
                state=ProfileState(
                    {ME: replace(mine, sequence=8, totals=totals, averages={"eco_score": 70}, reset=reset, writer="t")}
                    | {OTHER: others},
                    {"style": Register(Stamp(3000 * SECOND, 3, ME), "sporty")},
                    {"gap": tuple(MetricReading(reset.us, ME, 4 + index, 1 + index) for index in range(2))},
                    ProfileTime(50 * SECOND, 50),
                    ProfileTime(2000 * SECOND, 2000),
                    reset=reset,
                    lineage=(line(file),),
                ),
                bases=(ancestor(base), ancestor(file)),
                written=ancestor(file),
                prior=None,
            ),
            Origin.RESET,
        )

    def test_a_decision_for_a_file_without_a_time_resets_now(self) -> None:
        known, origin = absorbed(
            knowing({"total_distance": 100, "a": 1}),
            {"total_distance": 50, "a": 1},
            resolution=self.LOCAL,
            ahead=4,
        )
        reset = Stamp(NOW - 4, 0, ME)
        assert origin is Origin.RESET
        assert known.state == ProfileState(
            {ME: Contribution(8, {"total_distance": 50}, {}, reset=reset, writer="t")},
            reset=reset,
            lineage=((NOW, profile_digest(ancestor({"total_distance": 50, "a": 1}))),),
        )

    def test_a_decision_resets_also_to_what_the_vehicle_had(self) -> None:
        known, origin = absorbed(knowing(FIRST), FIRST, resolution=self.LOCAL)
        assert origin is Origin.RESET
        assert known.state.contributions[ME].totals == {"total_distance": 100, "session_count": 4}
        assert known.bases == (ancestor(FIRST),)
        assert known.resolved == "r"


class TestDecision:
    HIGH: ClassVar[Profile] = {"total_distance": 100, "eco_score": 5}
    LOW: ClassVar[Profile] = {"total_distance": 50, "eco_score": 5}

    @pytest.mark.parametrize("resolution", [None, Resolution("done", Keep.LOCAL), Resolution("done", Keep.SUM)])
    def test_nothing_is_changed_where_nothing_tells_or_the_decision_is_an_old_one(
        self, resolution: Resolution | None
    ) -> None:
        with pytest.raises(UndecidedProfileError) as caught:
            absorbed(knowing(self.HIGH, resolved="done"), self.LOW, resolution=resolution)
        assert str(caught.value) == (
            "its totals are not what they were, and nothing tells whether they were reset, or go on from an older copy:"
            " nothing is changed until `profiles resolve DRIVER --keep local|fleet|sum` decides"
        )

    @pytest.mark.parametrize(
        ("keep", "of", "origin", "counted"),
        [
            (Keep.LOCAL, None, Origin.RESET, 50),
            (Keep.SUM, None, Origin.NEW, 110),
            (Keep.FLEET, None, Origin.COPY, 60),
            (Keep.FLEET, {"total_distance": 30}, Origin.COPY, 80),
            (Keep.FLEET, {"total_distance": 50.5}, Origin.COPY, 60),
            (Keep.FLEET, {"total_distance": 51}, Origin.COPY, 60),
        ],
    )
    def test_it_says_what_the_totals_mean(self, keep: Keep, of: Profile | None, origin: Origin, counted: int) -> None:
        resolution = Resolution("r", keep, None if of is None else ancestor(of))
        known, found = absorbed(knowing(self.HIGH, resolved="done"), self.LOW, resolution=resolution)
        assert found is origin
        assert known.state.contributions[ME].totals == {"total_distance": counted}
        assert known.bases == (ancestor(self.HIGH), ancestor(self.LOW))
        assert known.resolved == "r"

    @pytest.mark.parametrize(
        ("resolution", "resolved"),
        [
            (Resolution("r", Keep.FLEET), "r"),
            (Resolution("r", Keep.SUM), "r"),
            (Resolution("done", Keep.LOCAL), "done"),
            (None, "done"),
        ],
    )
    def test_where_there_is_nothing_to_decide_any_more_what_was_driven_counts(
        self, resolution: Resolution | None, resolved: str
    ) -> None:
        known, origin = absorbed(
            knowing(self.HIGH, resolved="done"), {"total_distance": 101, "eco_score": 5}, resolution=resolution
        )
        assert (origin, known.resolved) == (Origin.CONTINUED, resolved)
        assert known.state.contributions[ME].totals == {"total_distance": 61}


class TestMerge:
    THEIRS = ProfileState(
        {OTHER: Contribution(1, {"total_distance": 5}, {})}, {"style": Register(Stamp(9, 0, OTHER), "calm")}
    )
    #: What FIRST is once it has met THEIRS.
    BOTH: ClassVar[Profile] = {"total_distance": 65, "session_count": 4, "created_at": 50, "last_updated": 1000}

    def known(self, **changes: Any) -> Known:
        """A vehicle that had FIRST, and whose store and file are as its last sync left them."""
        state = ProfileState(
            {ME: replace(MINE, totals={"total_distance": 60, "session_count": 4}, left=(ancestor(FIRST),))},
            created=ProfileTime(50 * SECOND, 50),
            updated=ProfileTime(1000 * SECOND, 1000),
            lineage=(line(FIRST),),
        )
        return replace(knowing(FIRST, state=state, written=ancestor(FIRST)), **changes)

    def test_the_first_one_of_all_is_what_the_file_says(self) -> None:
        this = ancestor(FIRST)
        totals: dict[str, Number] = {"total_distance": 100, "session_count": 4}
        known = Known(
            ProfileState(
                {"v1#t": Contribution(1, totals, {}, (this,), writer="t")},
                created=ProfileTime(50 * SECOND, 50),
                updated=ProfileTime(1000 * SECOND, 1000),
                lineage=(line(FIRST),),
            ),
            (this,),
            contributor="v1#t",
            written=this,
            arrived=totals,
        )
        assert merge(None, None, FIRST, told()) == Merged(known, replace(known, arrived=None), FIRST, Origin.NEW)

    @pytest.mark.parametrize("known", [None, Known(ProfileState(), contributor=ME)])
    def test_what_a_former_folder_left_counts_no_more(self, known: Known | None) -> None:
        state = ProfileState({FORMER: replace(MINE, left=(ancestor(FIRST),))})
        merged = merge(known, Cloud(state), FIRST, told())
        assert merged.origin is Origin.CONTINUED
        assert merged.known.state.contributions["v1#t"].totals == {}
        assert merged.known.written == ancestor(FIRST)
        assert merged.profile["total_distance"] == 60

    def test_another_drivers_profile_is_refused(self) -> None:
        with pytest.raises(ProfileError, match="belongs to another driver"):
            merge(None, None, {"driver_id": "e"}, told())

    @pytest.mark.parametrize("keeps_local", [False, True])
    def test_what_came_from_elsewhere_is_in_the_file_from_now_on(self, keeps_local: bool) -> None:
        """Unless the vehicle stays with its own; fields that only others have are shown, and not left in the file."""
        start = self.known(arrived={"total_distance": 1})
        left = FIRST if keeps_local else self.BOTH
        part = start.state.contributions[ME]
        if not keeps_local:
            part = replace(part, sequence=8, left=(ancestor(FIRST), ancestor(left)), writer="t")
        known = replace(
            start,
            state=replace(
                start.state,
                contributions={ME: part} | self.THEIRS.contributions,
                registers=self.THEIRS.registers,
                lineage=tuple(sorted({line(FIRST), line(left)})),
            ),
            pending=None if keeps_local else ancestor(left),
            arrived={"total_distance": 60, "session_count": 4},
        )
        # FIRST has counted 100 where only 60 were driven here: the merged file need not reach it.
        profile = self.BOTH | {"style": "calm"}
        before = replace(known, pending=None, arrived={"total_distance": 1})
        merged = merge(start, Cloud(self.THEIRS), FIRST, told(keeps_local=keeps_local))
        assert merged == Merged(known, before, profile, Origin.CONTINUED)
        assert list(merged.profile) == [*FIRST, "style"]

    def test_doing_it_again_while_the_file_is_not_replaced_says_nothing_more(self) -> None:
        once = merge(self.known(), Cloud(self.THEIRS), FIRST, told())
        again = merge(once.before, Cloud(self.THEIRS), FIRST, told(token="later"))
        assert again == once

    def test_what_the_backend_has_of_this_folder_has_arrived(self) -> None:
        start = self.known(arrived={"total_distance": 1})
        sent = replace(start.state.contributions[ME], sequence=6, totals={"total_distance": 44})
        merged = merge(start, Cloud(ProfileState({ME: sent})), FIRST, told())
        assert merged.before.arrived == {"total_distance": 44}
        assert merged.known.arrived == {"total_distance": 60, "session_count": 4}

    def test_a_folder_without_a_name_of_its_own_has_the_vehicles(self) -> None:
        start = knowing(FIRST, state=ProfileState({"v1": MINE}), contributor="")
        later = FIRST | {"total_distance": 110, "last_updated": 2000}
        merged = merge(start, None, later, told())
        assert merged.known.state.contributions["v1"].totals == {"total_distance": 70}
        assert merged.known.arrived == {"total_distance": 70}
        assert (merged.known.written, merged.known.pending) == (
            ancestor(later),
            ancestor(later | {"total_distance": 70}),
        )
        assert merged.known.state.contributions["v1"].left == (ancestor(later), merged.known.pending)

    def test_such_a_folder_does_not_begin_anew_where_it_has_contributed(self) -> None:
        start = Known(ProfileState({"v1": MINE}))
        merged = merge(start, None, FIRST, told())
        assert (merged.known.contributor, merged.origin) == ("", Origin.NEW)
        assert merged.known.state.contributions.keys() == {"v1"}
        assert merged.profile["total_distance"] == 160

    def test_one_that_is_known_to_the_backend_under_this_name_with_other_content_takes_a_new_name(self) -> None:
        start = self.known()
        copied = replace(start.state.contributions[ME], sequence=9)
        merged = merge(start, Cloud(ProfileState({ME: copied})), FIRST, told())
        assert merged.known.contributor == "v1#t"
        assert merged.known.state.contributions[ME] == copied
        assert merged.known.elders == (ME,)

    def test_a_driver_who_was_known_without_a_profile_begins_with_all_that_is_known(self) -> None:
        start = Known(ProfileState({FORMER: MINE}), removed=5, contributor=ME, resolved="r", elders=("x",))
        merged = merge(start, Cloud(self.THEIRS), FIRST, told())
        parts = merged.known.state.contributions
        assert (merged.known.contributor, merged.known.removed, merged.known.resolved) == ("v1#t", 5, "r")
        assert merged.known.elders == (FORMER,)
        assert parts.keys() == {FORMER, OTHER, "v1#t"}
        assert parts["v1#t"].totals == {"total_distance": 100, "session_count": 4}
        assert merged.profile == FIRST | {"total_distance": 165, "style": "calm"}

    def test_a_downloaded_profile_is_gone_on_from_under_the_name_that_there_is(self) -> None:
        start = Known(self.THEIRS, contributor=ME, pending=ancestor({"total_distance": 5}))
        merged = merge(start, None, {"total_distance": 8}, told())
        assert merged.known.contributor == ME
        assert merged.known.state.contributions[ME] == Contribution(
            1, {"total_distance": 3}, {}, (ancestor({"total_distance": 8}),), writer="t"
        )
        assert merged.profile == {"total_distance": 8, "style": "calm"}

    def test_another_folder_of_the_same_vehicle_id_is_noted(self) -> None:
        start = self.known()
        namesake = Contribution(1, {"total_distance": 1}, {}, seen=(ME,))
        merged = merge(start, Cloud(ProfileState({FORMER: namesake})), FIRST, told())
        assert merged.known.state.contributions[ME].seen == (FORMER,)
        assert merged.known.state.contributions[ME].writer == "t"

    def test_a_copy_of_what_only_the_backend_knows_is_counted_there(self) -> None:
        start = Known(ProfileState(), (ancestor({"total_distance": 1}),), contributor=ME)
        merged = merge(start, Cloud(replace(self.THEIRS, lineage=(line(FIRST),))), FIRST, told())
        assert merged.origin is Origin.COPY
        assert merged.profile["total_distance"] == 5

    def test_of_a_driver_who_was_forgotten_elsewhere_nothing_is_left(self) -> None:
        start, tombstone = self.known(arrived={"total_distance": 1}), ProfileState(forgotten=3)
        merged = merge(start, Cloud(tombstone), FIRST, told())
        known = replace(start, state=tombstone, arrived=None)
        assert merged == Merged(known, replace(known, arrived={"total_distance": 1}), FIRST, Origin.CONTINUED)

    def test_what_others_began_since_the_forgetting_is_left_to_the_vehicle(self) -> None:
        begun = replace(self.THEIRS, forgotten=3)
        merged = merge(self.known(), Cloud(begun), FIRST, told())
        assert merged.known.state == begun
        assert merged.known.pending == ancestor(FIRST | {"total_distance": 5})
        assert merged.before.pending is None

    @pytest.mark.parametrize(
        ("written", "left"), [(None, (FIRST, BOTH)), ({"a": 1}, ({"a": 1}, BOTH)), (BOTH, (BOTH,))]
    )
    def test_it_notes_what_the_manager_wrote_and_what_the_vehicle_is_left_with(
        self, written: Profile | None, left: tuple[Profile, ...]
    ) -> None:
        start = self.known(written=None if written is None else ancestor(written))
        merged = merge(start, Cloud(self.THEIRS), FIRST, told())
        assert merged.known.state.contributions[ME].left == tuple(map(ancestor, left))
        assert merged.known.state.contributions[ME].sequence == 8

    def test_the_lineage_is_of_the_newest_profiles(self) -> None:
        old = tuple((999 * SECOND + index, f"{index:02}") for index in range(MAX_LINEAGE))
        start = self.known()
        start = replace(start, state=replace(start.state, lineage=old))
        merged = merge(start, Cloud(self.THEIRS), FIRST, told())
        assert merged.known.state.lineage == (*old[1:], line(self.BOTH))

    def test_a_profile_without_a_time_is_the_oldest_of_the_lineage(self) -> None:
        start = knowing({"total_distance": 60}, state=ProfileState({ME: MINE}, lineage=((1, "x"),)))
        merged = merge(start, Cloud(self.THEIRS), {"total_distance": 60}, told())
        assert merged.known.state.lineage == (line({"total_distance": 65}), (1, "x"))

    def test_an_own_change_is_marked_once(self) -> None:
        later = FIRST | {"total_distance": 103, "last_updated": 2000}
        left = later | {"total_distance": 68}
        merged = merge(self.known(), Cloud(self.THEIRS), later, told())
        part = merged.known.state.contributions[ME]
        assert (part.sequence, part.writer, part.left) == (8, "t", (ancestor(later), ancestor(left)))
        assert merged.known.pending == ancestor(left)
        assert set(merged.known.state.lineage) == {line(FIRST), line(later), line(left)}


class TestResetElsewhere:
    RESET = Stamp(900 * SECOND, 0, OTHER)

    def merged(
        self,
        arrived: Contribution | None,
        *,
        reset: Stamp | None = RESET,
        mine: Stamp | None = None,
        **changes: Any,
    ) -> Merged:
        """Merge what came, where this folder had counted 100 in 4 sessions, and 9 of something else."""
        totals: dict[str, Number] = {"total_distance": 100, "total_time": 9, "session_count": 4}
        part = Contribution(3, totals, {"eco_score": 5}, (ancestor(FIRST),), mine)
        known = knowing(
            FIRST | {"eco_score": 5},
            state=ProfileState({ME: part}, reset=mine),
            prior=PriorFolder(FORMER, {"total_distance": 1}),
        )
        theirs = {} if arrived is None else {ME: arrived}
        theirs |= {OTHER: Contribution(1, {"total_distance": 7}, {}, reset=reset)}
        return merge(known, Cloud(ProfileState(theirs, reset=reset)), FIRST | {"eco_score": 5}, told(**changes))

    @pytest.mark.parametrize(
        ("sent", "kept"),
        [
            (None, {"total_distance": 100, "total_time": 9, "session_count": 4}),
            ({}, {"total_distance": 100, "total_time": 9, "session_count": 4}),
            ({"total_distance": 99, "total_time": 9, "session_count": 5}, {"total_distance": 1}),
            ({"total_distance": 90}, {"total_distance": 10, "total_time": 9, "session_count": 4}),
        ],
    )
    def test_what_this_folder_had_not_sent_counts_after_it(
        self, sent: dict[str, float] | None, kept: dict[str, float]
    ) -> None:
        merged = self.merged(None if sent is None else Contribution(2, sent, {}))
        part = merged.known.state.contributions[ME]
        assert (part.totals, part.averages, part.reset) == (kept, {"eco_score": 5}, self.RESET)
        assert (part.sequence, part.writer) == (4, "t")
        assert merged.known.prior is None
        assert merged.profile["total_distance"] == 7 + kept["total_distance"]

    def test_what_was_sent_before_an_earlier_reset_is_no_part_of_it(self) -> None:
        merged = self.merged(Contribution(2, {"total_distance": 90}, {}), mine=Stamp(1, 0, OTHER))
        assert merged.known.state.contributions[ME].totals["total_distance"] == 100

    def test_nothing_of_what_had_been_sent_counts_after_it(self) -> None:
        merged = self.merged(Contribution(2, {"total_distance": 100, "total_time": 9.5, "session_count": 4}, {}))
        assert merged.known.state.contributions[ME].reset is None
        assert merged.profile["total_distance"] == 7
        assert merged.known.prior is None

    @pytest.mark.parametrize(("seconds", "ahead", "counts"), [(1000, 0, 0), (999, 0, 1), (999, SECOND, 0)])
    def test_what_was_written_before_it_is_part_of_what_was_reset(self, seconds: int, ahead: int, counts: int) -> None:
        merged = self.merged(None, reset=Stamp(seconds * SECOND, 0, OTHER), ahead=ahead)
        assert merged.profile["total_distance"] == 7 + 100 * counts
        assert merged.known.prior is None

    def test_where_there_was_none_all_stays(self) -> None:
        merged = self.merged(Contribution(2, {"total_distance": 90}, {}), reset=None)
        assert merged.profile["total_distance"] == 107
        assert merged.known.prior == PriorFolder(FORMER, {"total_distance": 1})
