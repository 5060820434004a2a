"""One answer for the whole client: open, paused, refused, halted."""

from random import Random

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.cloud.rules.answers import MAX_PAUSE, Gate, GateState


@pytest.fixture
def gate(rng: Random) -> Gate:
    return Gate(rng, credential_retry_interval=900.0)


def test_is_open_at_first(gate: Gate) -> None:
    assert gate.passage(0.0).open
    assert gate.passage(0.0).wait is None
    assert gate.probe_passage(0.0).open


class TestPause:
    def test_a_failure_pauses_for_a_moment_and_says_why(self, gate: Gate) -> None:
        gate.on_unreachable("cannot connect", 100.0)
        passage = gate.passage(100.0)
        assert passage.state is GateState.PAUSED
        assert passage.why == "cannot connect"
        assert passage.wait is not None
        assert 0.0 < passage.wait <= 1.0
        assert gate.passage(100.0 + passage.wait).open

    def test_the_probe_passes_it(self, gate: Gate) -> None:
        gate.on_unreachable("x", 0.0)
        assert gate.probe_passage(0.0).open

    def test_failures_in_a_row_lengthen_it_up_to_a_minute(self, gate: Gate) -> None:
        now, waits = 0.0, []
        for _ in range(200):
            gate.on_unreachable("x", now)
            wait = gate.passage(now).wait or 0.0
            waits.append(wait)
            now += wait
        assert max(waits[:3]) <= 4.0
        assert max(waits) > 30.0
        assert max(waits) <= MAX_PAUSE

    def test_those_that_fail_together_count_once(self) -> None:
        one, many = Gate(Random(5)), Gate(Random(5))
        one.on_unreachable("x", 0.0)
        for _ in range(8):
            many.on_unreachable("x", 0.0)
        assert one.passage(0.0) == many.passage(0.0)

    @pytest.mark.parametrize("how", ["a success", "a probe"])
    def test_contact_ends_it(self, gate: Gate, how: str) -> None:
        for now in range(6):
            gate.on_unreachable("x", float(now * 100))
        if how == "a success":
            gate.on_success(500.0)
        else:
            gate.on_reachable()
        assert gate.passage(500.0).open
        gate.on_unreachable("x", 600.0)
        assert (gate.passage(600.0).wait or 0.0) <= 1.0  # and counting begins anew


class TestRetryAfter:
    def test_holds_everybody_for_as_long_as_was_asked_and_a_part_more(self, gate: Gate) -> None:
        gate.on_not_now("answered 429", 0.0, 600.0)
        for passage in (gate.passage(599.0), gate.probe_passage(599.0)):
            assert (passage.state, passage.why) == (GateState.PAUSED, "answered 429")
            assert 1.0 <= (passage.wait or 0.0) <= 61.0
        assert gate.passage(660.0).open
        assert gate.probe_passage(660.0).open

    @pytest.mark.parametrize(("asked", "within"), [(600.0, 60.0), (5.0, 3.0), (1e-3, 3.0)])
    def test_a_fleet_that_was_told_the_same_does_not_come_back_as_one(self, asked: float, within: float) -> None:
        """Seen: 300 of 300 vehicles within one second of the same `Retry-After`."""
        waits: list[float] = []
        for vehicle in range(300):
            gate = Gate(Random(vehicle), reconnect_spread=3.0)
            gate.on_not_now("answered 503", 0.0, asked)
            waits.append(gate.probe_passage(0.0).wait or 0.0)
        assert min(waits) >= asked
        assert asked + within * 0.9 < max(waits) <= asked + within
        tenth = within / 10.0
        assert all(sum(asked + tenth * n <= wait < asked + tenth * (n + 1) for wait in waits) >= 10 for n in range(10))

    def test_neither_success_nor_probe_lifts_it(self, gate: Gate) -> None:
        gate.on_not_now("x", 0.0, 600.0)
        gate.on_success(1.0)
        gate.on_reachable()
        assert not gate.passage(599.0).open

    def test_the_longest_counts(self, gate: Gate) -> None:
        gate.on_not_now("x", 0.0, 600.0)
        gate.on_not_now("x", 1.0, 5.0)
        gate.on_not_now("x", 2.0, None)
        gate.on_unreachable("x", 3.0)
        assert 596.0 <= (gate.passage(4.0).wait or 0.0) <= 656.0


class TestRefusal:
    def test_lets_only_the_probe_pass(self, gate: Gate) -> None:
        gate.on_refused("answered 401", 0.0)
        assert gate.passage(1.0).state is GateState.REFUSED
        assert gate.passage(1.0).wait == 899.0
        assert gate.passage(1.0).why == "answered 401"
        assert gate.probe_passage(1.0).open

    def test_ends_with_a_new_credential(self, gate: Gate) -> None:
        gate.on_refused("x", 0.0)
        gate.on_credential_changed()
        assert gate.passage(1.0).open

    def test_is_tried_again_after_the_long_interval(self, gate: Gate) -> None:
        gate.on_refused("x", 0.0)
        assert not gate.passage(899.9).open
        assert gate.passage(900.0).open
        gate.on_refused("x", 900.0)
        assert not gate.passage(1799.9).open

    def test_a_success_after_the_interval_ends_it_one_before_does_not(self, gate: Gate) -> None:
        gate.on_refused("x", 0.0)
        gate.on_success(1.0)  # sent before the refusal
        assert gate.passage(2.0).state is GateState.REFUSED
        gate.on_success(900.0)
        assert gate.passage(900.0).open

    def test_a_probe_does_not_end_it(self, gate: Gate) -> None:
        gate.on_refused("x", 0.0)
        gate.on_reachable()
        assert gate.passage(1.0).state is GateState.REFUSED


class TestHalt:
    def test_stops_all_even_the_probe(self, gate: Gate) -> None:
        gate.halt("power", "the battery is low")
        for passage in (gate.passage(0.0), gate.probe_passage(0.0)):
            assert (passage.state, passage.wait, passage.why) == (GateState.HALTED, None, "the battery is low")

    def test_each_cause_is_lifted_by_itself(self, gate: Gate) -> None:
        gate.halt("power", "low")
        gate.halt("stopping", "stopping")
        gate.resume("power")
        gate.resume("unknown")
        assert gate.passage(0.0).why == "stopping"
        gate.resume("stopping")
        assert gate.passage(0.0).open

    def test_nothing_else_lifts_it(self, gate: Gate) -> None:
        gate.halt("power", "low")
        gate.on_success(0.0)
        gate.on_reachable()
        gate.on_credential_changed()
        assert gate.passage(1e9).state is GateState.HALTED


EVENTS = st.sampled_from(["success", "reachable", "refused", "changed", "not now", "retry after", "unreachable"])


@given(st.lists(st.tuples(EVENTS, st.floats(0.0, 2000.0)), max_size=60), st.integers())
def test_whatever_happens_it_opens_again_by_itself(events: list[tuple[str, float]], seed: int) -> None:
    gate, now = Gate(Random(seed), credential_retry_interval=900.0), 0.0
    for event, passed in events:
        now += passed
        match event:
            case "success":
                gate.on_success(now)
            case "reachable":
                gate.on_reachable()
            case "refused":
                gate.on_refused("x", now)
            case "changed":
                gate.on_credential_changed()
            case "not now":
                gate.on_not_now("x", now, None)
            case "retry after":
                gate.on_not_now("x", now, 3600.0)
            case _:
                gate.on_unreachable("x", now)
    passage = gate.passage(now)
    assert passage.open == (passage.wait is None)
    for _ in range(3):  # at most: refused, then paused
        now += gate.passage(now).wait or 0.0
    assert gate.passage(now).open
    assert gate.probe_passage(now).open
