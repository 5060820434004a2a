"""An agent's status in words: lines, facts, and the display."""

import ast
from datetime import UTC, datetime
from io import StringIO
from pathlib import Path

import pytest
from rich.console import Console

from sentinel_sync.base.tasks import PeriodicTaskStatus
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.cli.ui.live import draw
from sentinel_sync.cli.ui.progress import Lines, Pace, Quiet, choose_view
from sentinel_sync.cli.ui.status_text import DROP_REASONS, facts_of, line_of
from sentinel_sync.cloud.rules.connectivity import ConnectivitySummary
from sentinel_sync.models.rules.status import BadVersionStatus, ModelCheckStatus, ModelStatus
from sentinel_sync.profiles.records import ProfilesStatus
from sentinel_sync.scenarios.rules.status import ScenariosStatus
from sentinel_sync.status import AgentStatus, RemainingWork

ONLINE = ConnectivitySummary(
    status="online",
    message="online",
    unauthorized=False,
    offline_duration=0.0,
    since=90.0,
    gate="open",
    gate_reason="",
    clock_skew=0.3,
)
OUTBOX = RemainingWork(waiting=3, sending=1, set_aside=0, size_bytes=4096, acknowledged=12, dropped={})
WELL = AgentStatus(
    version="0.1.0",
    process_id=1,
    vehicle_id="vehicle_7",
    fleet_id="fleet_alpha",
    api_url="https://api.example.com",
    enabled=True,
    power="normal",
    trip_id=None,
    connectivity=ONLINE,
    outbox=OUTBOX,
    duties=[PeriodicTaskStatus(name="watch", crashes=0, total_crashes=0, last_error=None)],
    salvaged_from=None,
    updated_at=datetime(2026, 11, 23, tzinfo=UTC),
)


def _with(**changes: object) -> AgentStatus:
    return WELL.model_copy(update=changes)


def test_facts_of_an_agent_that_is_well() -> None:
    assert facts_of(WELL, OUTBOX, age=30.0) == [
        ("backend", "https://api.example.com"),
        ("connectivity", "online (for 2 min)"),
        ("sending", "allowed"),
        ("queue", "3 waiting, 1 being sent, 0 set aside (4.1 kB on disk)"),
        ("sent so far", "12 items"),
        ("trip", "none under way"),
        ("parts", "all well"),
        ("clock", "agrees with the backend's"),
    ]


UPLOADING = TransferStatus(
    name="20241117_103045",
    part="bev.mp4",
    phase="uploading",
    done_bytes=400_000,
    total_bytes=1_000_000,
    rate=100_000.0,
    time_left=6.0,
)
RECORDINGS = ScenariosStatus(
    consent=True,
    consent_at=None,
    policy_version="1",
    held=None,
    under_way=UPLOADING,
    queued=2,
    uploaded=1,
    set_aside=3,
    dropped=0,
)


def test_recordings_and_what_is_under_way() -> None:
    facts = dict(facts_of(_with(scenarios=RECORDINGS), OUTBOX, age=0.0))
    assert facts["recordings"] == (
        "2 queued, 1 uploaded, 3 set aside; uploading 20241117_103045 bev.mp4, 400 kB of 1.0 MB, 100 kB/s, 6 s left"
    )


def test_why_recordings_wait_and_how_many_were_deleted_unsent() -> None:
    held = RECORDINGS.model_copy(update={"held": "the network is metered", "deleted_unsent": 4, "under_way": None})
    facts = dict(facts_of(_with(scenarios=held), OUTBOX, age=0.0))
    assert facts["recordings"] == (
        "2 queued, 1 uploaded, 3 set aside; 4 deleted unsent, by keep_unsent_days; the network is metered"
    )


def test_compressing_has_a_share_but_no_rate() -> None:
    compressing = UPLOADING.model_copy(update={"phase": "compressing", "time_left": None})
    facts = dict(facts_of(_with(scenarios=RECORDINGS.model_copy(update={"under_way": compressing})), OUTBOX, age=0.0))
    assert facts["recordings"].endswith("; compressing 20241117_103045 bev.mp4, 400 kB of 1.0 MB")


def test_what_is_not_well_is_said() -> None:
    said = _with(
        connectivity=ONLINE.model_copy(
            update={
                "status": "unknown",
                "message": "not asked yet",
                "gate": "refused",
                "gate_reason": "401",
                "clock_skew": 3600.0,
            }
        ),
        outbox=OUTBOX.model_copy(
            update={"dropped": {"trip.age": 1, "scenario.size": 20, "trip.new": 2, "scenario.replaced": 3}}
        ),
        duties=[PeriodicTaskStatus(name="watch", crashes=0, total_crashes=1, last_error="OSError: x")],
        salvaged_from="outbox.db.damaged-1",
    )
    facts = dict(facts_of(said, said.outbox, age=0.0))
    assert facts["connectivity"] == "not asked yet"
    assert facts["sending"] == "refused: 401"
    assert facts["dropped"] == (
        "20 scenarios to keep within outbox_max_bytes; 1 trip older than outbox_max_age; 2 trips new"
    )
    assert facts["parts"] == "watch crashed (1 time, last: OSError: x)"
    assert facts["clock"] == "1 h ahead of the backend's"
    assert facts["damage"] == "the outbox was damaged; the old file is outbox.db.damaged-1"


def test_each_reason_for_which_something_is_dropped_is_put_into_words() -> None:
    reasons: set[str] = set()
    for path in (Path(__file__).parents[3] / "sentinel_sync").rglob("*.py"):
        tree = ast.parse(path.read_text(encoding="utf-8"))
        named = {
            node.targets[0].id: node.value.value
            for node in tree.body
            if isinstance(node, ast.Assign) and isinstance(node.targets[0], ast.Name)
            if isinstance(node.value, ast.Constant)
        }
        for call in (node for node in ast.walk(tree) if isinstance(node, ast.Call)):
            if isinstance(call.func, ast.Attribute) and call.func.attr == "drop":
                given = [keyword.value for keyword in call.keywords if keyword.arg == "reason"]
            elif isinstance(call.func, ast.Name) and call.func.id == "_delete":
                given = call.args[2:]
            else:
                continue
            reasons |= {str(one.value) for one in given if isinstance(one, ast.Constant)}
            reasons |= {str(named[one.id]) for one in given if isinstance(one, ast.Name) and one.id in named}
    assert reasons | {"operator"} == DROP_REASONS.keys()


def test_a_line_for_a_pipe() -> None:
    assert line_of(WELL) == "online; 4 to send; 12 sent"
    halted = ONLINE.model_copy(update={"gate": "halted", "gate_reason": "the battery is low"})
    outbox = OUTBOX.model_copy(update={"set_aside": 2, "dropped": {"trip.age": 5}})
    assert line_of(_with(connectivity=halted, outbox=outbox, trip_id="trip_1")) == (
        "sending nothing: the battery is low; 4 to send; 12 sent; 2 set aside; 5 dropped; trip_1 under way"
    )


def test_a_pipe_gets_a_line_per_change(capsys: pytest.CaptureFixture[str]) -> None:
    view = Lines(as_json=False)
    for said in (WELL, WELL, _with(trip_id="trip_1")):
        view.show(said, 0.0)
    assert capsys.readouterr().out == "online; 4 to send; 12 sent\nonline; 4 to send; 12 sent; trip_1 under way\n"


def test_pace_is_that_of_the_last_looks() -> None:
    pace = Pace()
    assert pace.observe(0.0, 100) == 0.0
    assert pace.observe(2.0, 120) == 10.0
    assert pace.observe(2.0, 120) == 10.0


@pytest.mark.parametrize(
    ("sent", "left", "rate", "words"),
    [
        (12, 0, 0.0, "nothing waits; 12 sent since the start"),
        (10, 30, 2.0, "10 sent, 30 to go; 2.0 a second, about 15 s left"),
        (10, 30, 0.0, "10 sent, 30 to go"),
    ],
)
def test_the_display_shows_the_facts_and_how_far_it_is(sent: int, left: int, rate: float, words: str) -> None:
    console = Console(width=100, file=StringIO())
    with console.capture() as captured:
        console.print(draw(WELL, sent=sent, rate=rate, left=left))
    text = captured.get()
    assert "sentinel-sync 0.1.0: vehicle_7 of fleet_alpha" in text
    assert "online (for 1 min 30 s)" in text
    assert words in text


def test_views_fit_their_readers() -> None:
    """Standard output is no terminal in a test."""
    assert isinstance(choose_view(as_json=False, json_log=True, lines=True), Quiet), (
        "the journal needs no second account"
    )
    assert isinstance(choose_view(as_json=True, json_log=True, lines=False), Quiet)
    assert choose_view(as_json=True, json_log=True, lines=True).interval is not None
    assert choose_view(as_json=False, json_log=False, lines=True).interval is not None


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({}, "v2.0.0 in use"),
        ({"available": "v2.1.0"}, "v2.0.0 in use; v2.1.0 is available"),
        ({"installed": None, "status": "idle"}, "none in use"),
        (
            {"pinned": "v2.0.0", "probation_left": 90.0},
            "v2.0.0 in use; pinned to v2.0.0; on probation for 1 min 30 s more",
        ),
        ({"status": "held", "reason": "a trip is under way"}, "v2.0.0 in use; waits: a trip is under way"),
        (
            {
                "status": "downloading",
                "available": "v2.1.0",
                "under_way": TransferStatus(
                    name="detector",
                    part="v2.1.0",
                    phase="downloading",
                    done_bytes=2048,
                    total_bytes=8192,
                    rate=1024.0,
                    time_left=6.0,
                ),
            },
            "v2.0.0 in use; downloading v2.1.0, 2.0 kB of 8.2 kB, 1.0 kB/s, 6 s left",
        ),
        (
            {
                "status": "failed",
                "reason": "the validator says no",
                "bad_versions": [
                    BadVersionStatus(version="v2.1.0", reason="it crashed"),
                    BadVersionStatus(version="v2.2.0", reason="the validator says no"),
                ],
            },
            "v2.0.0 in use; the validator says no; v2.1.0 is bad: it crashed; v2.2.0 is bad: the validator says no",
        ),
    ],
)
def test_a_model_in_words(changes: dict[str, object], words: str) -> None:
    shown = ModelStatus(
        name="detector",
        status="installed",
        installed="v2.0.0",
        available=None,
        previous=None,
        pinned=None,
        reason=None,
        under_way=None,
    ).model_copy(update=changes)
    said = _with(models=[shown])
    assert dict(facts_of(said, said.outbox, age=0.0))["model detector"] == words


def test_a_check_that_failed_is_said() -> None:
    said = _with(model_check=ModelCheckStatus(checked_at=None, failure="the metadata has expired"))
    facts = dict(facts_of(said, said.outbox, age=0.0))
    assert facts["model check"] == "failed: the metadata has expired (last done: never)"


def test_profiles_are_said_where_there_are_any() -> None:
    calm = ProfilesStatus(
        profiles=2,
        unsent=0,
        failing=0,
        to_forget=0,
        held=None,
        reason=None,
        synced_at=None,
        keys="cloud.profile_keys_file",
        warning=None,
    )
    assert dict(facts_of(_with(profiles=calm), OUTBOX, age=0.0))["profiles"] == "2 driver profiles"
    none = calm.model_copy(update={"profiles": 0})
    assert "profiles" not in dict(facts_of(_with(profiles=none), OUTBOX, age=0.0))
    stuck = {"unsent": 3, "failing": 1, "to_forget": 1, "reason": "the profile is not JSON"}
    said = dict(facts_of(_with(profiles=calm.model_copy(update=stuck)), OUTBOX, age=0.0))["profiles"]
    assert said == (
        "2 driver profiles, 2 to be sent, 1 set aside, 1 driver to be forgotten at the backend: the profile is not JSON"
    )
