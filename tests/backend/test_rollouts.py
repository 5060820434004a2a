"""Roll-outs: a good release reaches all, a bad one is stopped before many have it, and nobody is waited for long."""

import sqlite3
from collections.abc import Callable, Iterator
from pathlib import Path
from random import Random
from typing import Any

import pytest

from sentinel_sync.backend.bodies import VehicleReport
from sentinel_sync.backend.callers import Caller
from sentinel_sync.backend.database import Connection
from sentinel_sync.backend.keys import EVERYTHING, Grant
from sentinel_sync.backend.rollout_steps import (
    DAY,
    Rollout,
    RolloutPlan,
    RolloutState,
    Tally,
    aborted,
    advanced,
    begun,
    is_failure,
    paused,
    resumed,
)
from sentinel_sync.backend.rollouts import note_report
from sentinel_sync.backend.sqlite import connect, migrate
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.models.rules.releases import in_rollout
from tests.backend.test_models import PUBLISHER, publish
from tests.backend.vehicle import SettableClock, Vehicle, problem, report_body

PATH = "/rollouts/yolov8m/versions/v2.1.0"
HOUR = 3600.0
PLAN = RolloutPlan()


# --- the decision ---


@pytest.mark.parametrize(
    ("tally", "after_seconds", "state", "step"),
    [
        (Tally(1000, 8, 0, 2), HOUR, "running", 1),
        (Tally(1000, 7, 0, 3), HOUR, "running", 0),
        (Tally(1000, 10, 0, 0), HOUR - 1, "running", 0),
        # Too few ever report: after three days it goes on, if anybody has it at all.
        (Tally(1000, 1, 0, 0), 3 * DAY, "running", 1),
        (Tally(1000, 0, 0, 1), 30 * DAY, "running", 0),
        (Tally(0, 0, 0, 0), 30 * DAY, "running", 0),
        # One failure may be a vehicle's own; two of ten are the release's.
        (Tally(1000, 9, 1, 0), HOUR, "running", 0),
        (Tally(1000, 9, 1, 0), 3 * DAY, "running", 1),
        (Tally(1000, 90, 1, 0), HOUR, "running", 1),
        (Tally(1000, 8, 2, 0), 1.0, "stopped", 0),
        # Of a fleet so small that a step reaches nobody, the step is one that only lasts.
        (Tally(20, 1, 0, 0), HOUR, "running", 1),
    ],
)
def test_a_step_goes_on_and_stops_by_what_is_reported(
    tally: Tally, after_seconds: float, state: str, step: int
) -> None:
    rollout = advanced(begun(PLAN, 0.0), tally, after_seconds)
    assert (rollout.state, rollout.step) == (state, step)
    assert rollout.share == (0.0 if state == "stopped" else PLAN.steps[step])


def test_the_last_step_ends_it_and_it_may_still_stop() -> None:
    last = Rollout(PLAN, RolloutState.RUNNING, 3, 0.0, "")
    done = advanced(last, Tally(1000, 800, 3, 100), HOUR)
    assert (done.state, done.share) == (RolloutState.DONE, 1.0)
    assert advanced(done, Tally(1000, 900, 3, 0), DAY) is done
    assert advanced(done, Tally(1000, 900, 19, 0), DAY).state is RolloutState.STOPPED


def test_a_person_pauses_resumes_and_aborts() -> None:
    rollout = begun(PLAN, 0.0)
    held = paused(rollout)
    assert (held.share, advanced(held, Tally(1000, 900, 0, 0), DAY)) == (0.0, held)
    again = resumed(held, DAY)
    assert (again.share, again.step_began_at) == (0.01, DAY)
    stopped = advanced(again, Tally(1000, 0, 5, 0), DAY)
    assert resumed(stopped, DAY).state is RolloutState.RUNNING
    over = aborted(stopped)
    for change in (paused, lambda one: resumed(one, 0.0)):
        with pytest.raises(ValueError, match="this one is aborted"):
            change(over)


@pytest.mark.parametrize(
    ("state", "reason", "expected"),
    [
        ("rolled_back", "probation", True),
        ("rolled_back", "validator", True),
        ("failed", "damaged", True),
        ("refused", "validator", True),
        ("rolled_back", "operator", False),
        ("failed", "attempt", False),
        ("installed", None, False),
        ("on_probation", None, False),
    ],
)
def test_only_what_speaks_against_the_release_is_a_failure(state: str, reason: str | None, expected: bool) -> None:
    assert is_failure(state, reason) is expected


@pytest.mark.parametrize("steps", [[], [0.5, 0.1], [0.1, 0.1], [0.0, 1.0], [0.5, 1.5]])
def test_a_plan_that_makes_no_sense_is_refused(steps: list[float]) -> None:
    with pytest.raises(ValueError, match="steps"):
        RolloutPlan(steps=steps)


# --- over HTTP ---


async def asked(vehicle: Vehicle, method: str, more: str = "", **body: Any) -> Any:
    return await vehicle.send(method, PATH + more, PUBLISHER, **body)


async def offered(vehicle: Vehicle) -> float:
    (model,) = (await vehicle.get("/models")).json()["models"]
    return float(model["rollout"])


def report_of(state: str, reason: str | None = None, version: str = "v2.1.0") -> dict[str, Any]:
    outcome = {"name": "yolov8m", "version": version, "state": state, "since": "2026-11-28T10:00:00Z"}
    return report_body(outcome if reason is None else {**outcome, "reason": reason})


async def test_it_is_begun_watched_paused_resumed_and_aborted(vehicle: Vehicle, server_clock: SettableClock) -> None:
    problem(await asked(vehicle, "PUT", json={}), 404, "no-such-model")
    await publish(vehicle)
    problem(await asked(vehicle, "GET"), 404, "no-such-rollout")
    begun_now = await asked(vehicle, "PUT", json={"steps": [0.5, 1.0]})
    assert begun_now.status_code == 201
    assert await offered(vehicle) == 0.5
    problem(await asked(vehicle, "PUT", json={}), 409, "rollout-exists")
    assert (await asked(vehicle, "POST", "/pause")).json()["state"] == "paused"
    assert await offered(vehicle) == 0.0
    problem(await asked(vehicle, "POST", "/pause"), 409, "rollout-state")
    assert (await asked(vehicle, "POST", "/resume")).json()["share"] == 0.5

    server_clock.now += 2 * HOUR
    answer = await vehicle.send("PUT", "/vehicles/vehicle_001/status", json=report_of("installed"))
    assert answer.status_code == 200
    shown = (await asked(vehicle, "GET")).json()
    assert (shown["state"], shown["share"], shown["installed"], shown["active"]) == ("running", 1.0, 1, 1)
    assert await offered(vehicle) == 1.0
    (listed,) = (await vehicle.send("GET", "/rollouts", PUBLISHER)).json()["rollouts"]
    assert listed == shown

    assert (await asked(vehicle, "POST", "/abort")).json()["state"] == "aborted"
    assert await offered(vehicle) == 0.0
    problem(await asked(vehicle, "POST", "/resume"), 409, "rollout-state")


@pytest.mark.parametrize("actions", [[], ["pause"], ["abort"]])
async def test_a_withdrawn_version_is_rolled_out_no_more(vehicle: Vehicle, actions: list[str]) -> None:
    await publish(vehicle)
    await asked(vehicle, "PUT", json={})
    for action in actions:
        await asked(vehicle, "POST", f"/{action}")
    url = "/models/yolov8m/versions/v2.1.0"
    assert (await vehicle.send("DELETE", url, PUBLISHER)).status_code == 204
    shown = (await asked(vehicle, "GET")).json()
    why = "aborted by an operator" if actions == ["abort"] else "aborted: the version was withdrawn"
    assert (shown["state"], shown["share"], shown["why"]) == ("aborted", 0.0, why)
    problem(await asked(vehicle, "POST", "/resume"), 409, "rollout-state")
    problem(await asked(vehicle, "PUT", json={}), 404, "no-such-model")


async def test_only_who_may_publish_may_roll_out(vehicle: Vehicle) -> None:
    await publish(vehicle)
    problem(await vehicle.send("PUT", PATH, json={}), 403, "may-not-publish")
    problem(await vehicle.send("GET", "/rollouts"), 403, "may-not-publish")
    problem(await asked(vehicle, "PUT", json={"steps": [2.0]}), 422, "invalid-body")
    assert await offered(vehicle) == 1.0


# --- a fleet ---


class Fleet:
    """A thousand vehicles that look for models once a day and report; each hour is one step of time."""

    def __init__(self, connection: Connection, failing: float, seed: int = 1) -> None:
        rng = Random(seed)
        self.connection = connection
        self.names = [f"vehicle_{number:04d}" for number in range(1000)]
        self.hour_of = {name: rng.randrange(24) for name in self.names}
        self.fails = {name for name in self.names if rng.random() < failing}
        self.never_reports = set(rng.sample(self.names, 50))
        self.off_until: dict[str, int] = {}
        self.taken: dict[str, int] = {}
        self.judged_at: dict[tuple[str, str], float] = {}
        self.hour = 0

    def offered(self) -> float:
        (share,) = self.connection.execute("SELECT rollout FROM models").fetchone()
        return float(share)

    def state(self) -> str:
        (state,) = self.connection.execute("SELECT state FROM rollouts").fetchone()
        return str(state)

    def live(self, hours: int, until: Callable[[], bool] = lambda: False) -> Iterator[int]:
        for _ in range(hours):
            self.hour += 1
            for name in self.names:
                if self.hour >= self.off_until.get(name, 0):
                    self._lives(name)
            yield self.hour
            if until():
                return

    def _lives(self, name: str) -> None:
        taken_at = self.taken.get(name)
        if taken_at is not None and self.hour == taken_at + 1:  # its probation is over, one way or the other
            self._report(name, "rolled_back" if name in self.fails else "installed")
        elif self.hour % 24 == self.hour_of[name]:
            release = ModelRelease(
                name="yolov8m", version="v2.1.0", size=1, checksum="0" * 64, signature=None, rollout=self.offered()
            )
            if taken_at is None and in_rollout(release, name):
                self.taken[name] = self.hour
                self._report(name, "on_probation")
            else:
                self._report(name, None)

    def _report(self, name: str, state: str | None) -> None:
        if name in self.never_reports:
            return
        now = self.hour * HOUR
        body = report_of(state or "installed", "probation" if state == "rolled_back" else None)
        report = VehicleReport.model_validate({**body, "models": body["models"] if state else []})
        row = ("fleet", name, now, "{}")
        self.connection.execute("INSERT OR REPLACE INTO reports VALUES (?, ?, ?, ?)", row)
        note_report(self.connection, Caller("fleet", name, "r", "", Grant(EVERYTHING)), report, now, self.judged_at)


@pytest.fixture
def fleet_of(tmp_path: Path) -> Iterator[Callable[[float], Fleet]]:
    connection = connect(tmp_path / "backend.db")
    migrate(connection)
    connection.execute("PRAGMA synchronous = OFF")
    connection.execute("BEGIN")

    def make(failing: float) -> Fleet:
        rollout = begun(PLAN, 0.0)
        model = ("yolov8m", "v2.1.0", "f.pt", "f", 1, "0" * 64, "[]", rollout.share, "2026-11-28T00:00:00Z", 0.0)
        connection.execute("INSERT INTO models VALUES (?, ?, ?, ?, ?, ?, ?, ?, ?, ?, NULL)", model)
        row = ("yolov8m", "v2.1.0", PLAN.model_dump_json(), rollout.state, rollout.step, 0.0, rollout.why, 0.0)
        connection.execute("INSERT INTO rollouts VALUES (?, ?, ?, ?, ?, ?, ?, ?)", row)
        return Fleet(connection, failing)

    yield make
    connection.close()


def test_a_release_that_fails_on_five_of_a_hundred_is_stopped_before_ten_of_a_hundred_have_it(
    fleet_of: Callable[[float], Fleet],
) -> None:
    fleet = fleet_of(0.05)
    for _ in fleet.live(30 * 24, until=lambda: fleet.state() == "stopped"):
        continue
    assert fleet.state() == "stopped"
    assert 0 < len(fleet.taken) < 100
    assert fleet.offered() == 0.0
    touched = len(fleet.taken)
    for _ in fleet.live(3 * 24):
        continue
    assert len(fleet.taken) == touched, "it is offered to nobody any more"


def test_a_good_one_reaches_all_late_comers_too_and_waits_for_nobody_who_never_reports(
    fleet_of: Callable[[float], Fleet],
) -> None:
    fleet = fleet_of(0.0)
    late = fleet.names[0]
    fleet.off_until[late] = 30 * 24
    for _ in fleet.live(10 * 24, until=lambda: fleet.state() == "done"):
        continue
    assert fleet.state() == "done"
    for _ in fleet.live(26):
        continue
    assert set(fleet.names) - set(fleet.taken) == {late}
    fleet.hour = 30 * 24
    for _ in fleet.live(26):
        continue
    assert late in fleet.taken


def test_reports_without_news_do_not_count_the_fleet_again_before_some_time_has_passed(
    fleet_of: Callable[[float], Fleet],
) -> None:
    fleet = fleet_of(0.0)
    statements = list[str]()
    assert isinstance(fleet.connection, sqlite3.Connection)
    fleet.connection.set_trace_callback(statements.append)
    judged_at = dict[tuple[str, str], float]()

    def report(name: str, now: float, state: str = "installed") -> int:
        statements.clear()
        body = VehicleReport.model_validate(report_of(state, None))
        note_report(fleet.connection, Caller("fleet", name, "r", "", Grant(EVERYTHING)), body, now, judged_at)
        return sum("count(*) FROM reports" in statement for statement in statements)

    assert report("vehicle_1", 0.0) == 1
    assert report("vehicle_1", 1.0) == 0
    assert report("vehicle_2", 1.0) == 1, "it has not said so before"
    assert report("vehicle_2", 2.0, "rolled_back") == 1
    assert report("vehicle_1", 11.9) == 0
    assert report("vehicle_1", 12.0) == 1, "a step lasts so long, and somebody has to see that it is over"
    assert report("vehicle_1", 3.0) == 1, "a clock that was put back keeps nobody waiting"
