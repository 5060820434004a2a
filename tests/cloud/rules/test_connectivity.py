"""Online, offline, unknown; since when; and when to look again."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.cloud.rules.connectivity import Connectivity, ConnectivityStatus, Transition

UNKNOWN, ONLINE, OFFLINE = ConnectivityStatus.UNKNOWN, ConnectivityStatus.ONLINE, ConnectivityStatus.OFFLINE


@pytest.fixture
def state(rng: Random) -> Connectivity:
    return Connectivity(30.0, rng, 1000.0)


def test_nothing_is_known_at_first_and_a_probe_is_due(state: Connectivity) -> None:
    assert state.status is UNKNOWN
    assert state.probe_in(1000.0) == 0.0
    assert state.offline_duration(2000.0) == 0.0
    assert not state.unauthorized


def test_values_are_those_of_the_specification() -> None:
    assert [status.value for status in ConnectivityStatus] == ["unknown", "online", "offline"]


def test_each_change_is_told_once(state: Connectivity) -> None:
    assert state.on_contact(1001.0) == Transition(UNKNOWN, ONLINE)
    assert state.on_contact(1002.0) is None
    assert state.on_no_contact("x", 1003.0) == Transition(ONLINE, OFFLINE)
    assert state.on_no_contact("x", 1004.0) is None
    assert state.on_contact(1005.0) == Transition(OFFLINE, ONLINE)
    assert state.since == 1005.0


def test_offline_duration_counts_from_the_first_failure(state: Connectivity) -> None:
    state.on_contact(1000.0)
    state.on_no_contact("cannot connect", 1010.0)
    state.on_no_contact("cannot connect", 1050.0)
    assert state.offline_duration(1110.0) == 100.0
    assert state.message == "offline: cannot connect"
    state.on_contact(1111.0)
    assert state.offline_duration(1200.0) == 0.0


def test_real_traffic_makes_probes_needless(state: Connectivity) -> None:
    for now in range(1000, 1200, 5):
        state.on_contact(float(now))
        assert state.probe_in(float(now)) >= 30.0 * 0.75


def test_intervals_are_spread(state: Connectivity) -> None:
    waits = []
    for _ in range(300):
        state.on_contact(0.0)
        waits.append(state.probe_in(0.0))
    assert 22.5 <= min(waits) < 25.0
    assert 35.0 < max(waits) <= 37.5


def test_probes_after_a_loss_are_soon_and_then_rarer(state: Connectivity) -> None:
    state.on_contact(0.0)
    now, waits = 0.0, list[float]()
    while now < 3600.0:
        state.on_no_contact("x", now)
        waits.append(state.probe_in(now))
        now += waits[-1]
    assert waits[0] <= 2.0
    later = waits[10:]
    assert sum(later) / len(later) > 40.0, "in a long outage fewer than while online"
    assert max(waits) <= 120.0


def test_failures_of_requests_in_flight_do_not_put_the_probe_off(state: Connectivity) -> None:
    state.on_contact(0.0)
    state.on_no_contact("x", 10.0)
    due = state.probe_in(10.0)
    for _ in range(8):
        state.on_no_contact("x", 10.0 + due / 2)
    assert state.probe_in(10.0 + due / 2) == pytest.approx(due / 2)


class TestUnauthorized:
    def test_is_online_and_told_apart(self, state: Connectivity) -> None:
        assert state.on_unauthorized("answered 401", 1000.0) == Transition(UNKNOWN, ONLINE)
        assert state.unauthorized
        assert state.message == "online, but unauthorized: answered 401"

    def test_a_probe_does_not_end_it_a_request_with_the_credential_does(self, state: Connectivity) -> None:
        state.on_unauthorized("answered 401", 1000.0)
        state.on_contact(1001.0)
        assert state.unauthorized
        state.on_authorized()
        assert not state.unauthorized
        assert state.message == "online"

    def test_its_message_comes_back_after_an_outage(self, state: Connectivity) -> None:
        state.on_unauthorized("answered 401", 1000.0)
        state.on_no_contact("cannot connect", 1001.0)
        assert state.message == "offline: cannot connect"
        state.on_contact(1002.0)
        assert state.message == "online, but unauthorized: answered 401"

    def test_without_words_it_is_one_all_the_same(self, state: Connectivity) -> None:
        state.on_unauthorized("", 1000.0)
        assert state.unauthorized


class TestWhatTheBackendWants:
    def test_min_interval_is_kept(self, state: Connectivity) -> None:
        state.set_min_interval(120.0)
        state.on_contact(0.0)
        assert state.probe_in(0.0) >= 120.0
        state.on_no_contact("x", 1000.0)
        assert state.probe_in(1000.0) >= 120.0

    def test_nobody_comes_back_on_the_second(self) -> None:
        waits = []
        for vehicle in range(100):
            state = Connectivity(30.0, Random(vehicle), 0.0, reconnect_spread=3.0)
            state.set_min_interval(600.0)
            state.on_contact(0.0)
            waits.append(state.probe_in(0.0))
        assert 600.0 <= min(waits) < 610.0
        assert 650.0 < max(waits) <= 660.0

    @pytest.mark.parametrize(("asked", "least", "most"), [(-5.0, 22.5, 37.5), (1e12, 3600.0, 3960.0)])
    def test_within_reason(self, state: Connectivity, asked: float, least: float, most: float) -> None:
        state.set_min_interval(asked)
        state.on_contact(0.0)
        assert least <= state.probe_in(0.0) <= most


def test_a_host_that_saw_the_network_change_gets_a_probe_now(state: Connectivity) -> None:
    state.on_contact(0.0)
    state.probe_soon(1.0)
    assert state.probe_in(1.0) == 0.0


def test_vehicles_that_have_a_network_again_in_the_same_instant_do_not_probe_in_it(rng: Random) -> None:
    states = [Connectivity(3600.0, rng, 0.0, reconnect_spread=3.0) for _ in range(300)]
    for state in states:
        state.on_no_contact("out", 0.0)
        state.on_no_contact("out", 10_000.0)
        state.probe_soon(10_000.0)
    waits = [state.probe_in(10_000.0) for state in states]
    assert 0.0 <= min(waits) < 0.5
    assert 2.5 < max(waits) <= 3.0
    for state in states:
        state.probe_soon(10_000.0)
    again = [state.probe_in(10_000.0) for state in states]
    assert all(now <= before for now, before in zip(again, waits, strict=True)), "told again, none waits longer"


@given(st.lists(st.tuples(st.sampled_from("caun"), st.floats(0.0, 500.0)), max_size=50), st.integers())
def test_whatever_happens_its_parts_agree(events: list[tuple[str, float]], seed: int) -> None:
    state, now = Connectivity(30.0, Random(seed), 0.0), 0.0
    for event, passed in events:
        now += passed
        before = state.status
        transition: Transition | None = None
        match event:
            case "c":
                transition = state.on_contact(now)
            case "a":
                state.on_authorized()
            case "u":
                transition = state.on_unauthorized("no", now)
            case _:
                transition = state.on_no_contact("x", now)
        assert (transition is not None) == (before is not state.status)
        assert (state.offline_duration(now + 1.0) > 0.0) == (state.status is OFFLINE)
        if state.status is not UNKNOWN:
            assert state.message.startswith(state.status.value)
            assert ("unauthorized" in state.message) == (state.unauthorized and state.status is ONLINE)
        assert 0.0 <= state.probe_in(now) <= 120.0


class TestQuiet:
    def test_after_ten_minutes_without_work_probes_are_rare(self, state: Connectivity) -> None:
        state.note_activity(1000.0, is_busy=False)
        state.on_contact(1500.0)
        assert state.probe_in(1500.0) <= 37.5
        for now in (1600.0, 4599.0):
            state.note_activity(now, is_busy=False)
            state.on_contact(now)
            assert 225.0 <= state.probe_in(now) <= 375.0

    def test_after_an_hour_they_are_rarer(self, state: Connectivity) -> None:
        state.note_activity(1000.0, is_busy=False)
        state.on_contact(4600.0)
        assert 450.0 <= state.probe_in(4600.0) <= 750.0

    def test_work_brings_them_back(self, state: Connectivity) -> None:
        state.note_activity(1000.0, is_busy=False)
        state.note_activity(2000.0, is_busy=True)
        state.on_contact(2500.0)
        assert state.probe_in(2500.0) <= 37.5

    def test_where_nobody_says_what_the_vehicle_does_they_stay(self, state: Connectivity) -> None:
        state.on_contact(99_000.0)
        assert state.probe_in(99_000.0) <= 37.5

    def test_a_longer_interval_of_the_settings_counts(self, rng: Random) -> None:
        state = Connectivity(900.0, rng, 1000.0)
        state.note_activity(1000.0, is_busy=False)
        state.on_contact(2000.0)
        assert state.probe_in(2000.0) >= 675.0

    def test_a_parked_vehicle_does_not_probe_more_often_out_of_reach_than_within(self, rng: Random) -> None:
        """And one at work hurries as ever: it may be in a tunnel."""
        for is_busy, least, most in ((False, 300.0, 600.0), (True, 0.0, 2.0)):
            waits = []
            for _ in range(500):
                state = Connectivity(30.0, rng, 0.0)
                state.note_activity(0.0, is_busy=True)
                state.note_activity(1000.0, is_busy=is_busy)
                state.on_contact(1000.0)
                state.on_no_contact("out", 1400.0)
                waits.append(state.probe_in(1400.0))
            assert least <= min(waits) <= max(waits) <= most
            assert 0.4 * (most - least) < sum(waits) / len(waits) - least < 0.6 * (most - least)

    def test_a_parked_fleet_comes_back_as_it_went(self) -> None:
        """2,000 vehicles out of an outage of an hour; benchmarks/fleet_return.py has 100,000."""
        rng, back = Random(1), 1800.0 + 3600.0
        probes: dict[int, int] = {}
        for number in range(2000):
            state, now = Connectivity(30.0, rng, 0.0), number * 0.15
            state.note_activity(0.0, is_busy=True)
            while now < back + 3600.0:
                probes[int(now // 60.0)] = probes.get(int(now // 60.0), 0) + 1
                state.note_activity(now, is_busy=False)
                if 1800.0 <= now < back:
                    state.on_no_contact("out", now)
                else:
                    state.on_contact(now)
                now += max(state.probe_in(now), 0.1)
        steady = sum(probes[minute] for minute in range(20, 30)) / 10
        assert max(probes[minute] for minute in range(91, 150)) <= 1.3 * steady  # 1.2, and the chance of a small fleet
        assert max(probes[minute] for minute in range(30, 90)) <= 1.3 * steady

    def test_an_hour_into_an_outage_the_mean_interval_is_five_minutes(self, rng: Random) -> None:
        """Twelve probes an hour at most, and none of them by a clock that all vehicles share."""
        state, now, waits = Connectivity(30.0, rng, 0.0), 0.0, list[float]()
        while now < 400 * 3600.0:
            state.on_no_contact("no route", now)
            if now >= 3600.0:
                waits.append(state.probe_in(now))
            now += state.probe_in(now)
        assert 270.0 <= sum(waits) / len(waits) <= 330.0
        assert max(waits) <= 600.0


@pytest.mark.parametrize(("told", "holds"), [(60.0, 60.0), (0.0, 5.0), (1e9, 3600.0)])
def test_the_backends_interval_holds_for_a_parked_vehicle_too_and_is_bounded(
    state: Connectivity, told: float, holds: float
) -> None:
    state.note_activity(1000.0, is_busy=False)
    state.set_interval(told)
    state.on_contact(5000.0)
    assert holds * 0.75 <= state.probe_in(5000.0) <= holds * 1.25
