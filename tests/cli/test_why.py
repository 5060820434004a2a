"""`why` and `health`: what waits and for what, and whether somebody has to do something."""

import asyncio
import json
import shutil
from collections.abc import Iterator
from datetime import UTC, datetime, timedelta
from pathlib import Path

import pytest

from sentinel_sync.cli.why import _remedy_of
from sentinel_sync.status import STATUS_NAME, AgentStatus
from sentinel_sync.store.store import StateLock
from tests.cli.vehicle import Vehicle
from tests.conftest import FIXTURES

RECORDING = "20241117_103045"


@pytest.fixture
def locked(vehicle: Vehicle) -> Iterator[None]:
    """The folder as while an agent runs on it."""
    vehicle.queue_trips(0)
    lock = StateLock(vehicle.state)
    asyncio.run(asyncio.to_thread(lock.acquire))
    yield
    lock.release()


def said(state: Path, **changes: object) -> AgentStatus:
    """Write down what an agent says of itself."""
    connectivity = {
        "status": "online",
        "message": "online",
        "unauthorized": False,
        "offline_duration": 0.0,
        "since": 60.0,
        "gate": "open",
        "gate_reason": "",
        "clock_skew": 0.0,
    }
    facts = {
        "version": "0.1.0",
        "process_id": 4711,
        "vehicle_id": "vehicle_7",
        "fleet_id": "fleet_alpha",
        "api_url": "https://api.example.com",
        "enabled": True,
        "power": "normal",
        "trip_id": None,
        "connectivity": connectivity | changes.pop("connectivity", {}),  # type: ignore[operator]
        "outbox": {"waiting": 0, "sending": 0, "set_aside": 0, "size_bytes": 1, "acknowledged": 0, "dropped": {}},
        "duties": [],
        "salvaged_from": None,
        "updated_at": datetime.now(UTC).isoformat(),
    }
    status = AgentStatus.model_validate(facts | changes)
    (state / STATUS_NAME).write_text(status.model_dump_json())
    return status


class TestHealth:
    def test_where_no_agent_ever_ran_that_is_said(self, vehicle: Vehicle) -> None:
        answer = vehicle.run("health")
        assert (answer.code, "no agent has run on it yet" in answer.err) == (1, True)

    def test_without_an_agent_it_is_one_line_with_a_remedy(self, vehicle: Vehicle) -> None:
        (key,) = vehicle.queue_trips(1)
        vehicle.set_aside(key, "answered 422")
        answer = vehicle.run("health")
        assert answer.code == 1
        (line,) = answer.out.splitlines()
        assert line.startswith("2 troubles: no agent is running (start one: `")
        assert "1 item was set aside (`queue list --state set_aside` says why" in line

    @pytest.mark.parametrize(("days", "what"), [(-3.0, "ended 3 days ago"), (10.0, "ends in 10 days"), (90.0, None)])
    def test_a_certificate_that_ends_is_said_in_time(
        self, days: float, what: str | None, vehicle: Vehicle, locked: None
    ) -> None:
        said(vehicle.state, certificate_expires_at=(datetime.now(UTC) + timedelta(days=days)).isoformat())
        answer = vehicle.run("health")
        assert answer.code == (0 if what is None else 1)
        assert what is None or f"the vehicle's certificate {what}" in answer.out

    def test_all_is_well(self, vehicle: Vehicle, locked: None) -> None:
        said(vehicle.state)
        assert (vehicle.run("health").code, vehicle.run("health").out) == (0, "well: online; 0 items to send\n")
        assert vehicle.run("health", "--json").json == {"healthy": True, "troubles": []}

    @pytest.mark.parametrize(
        ("changes", "part", "what"),
        [
            ({"enabled": False}, "agent", "nothing is sent"),
            ({"connectivity": {"unauthorized": True, "gate": "refused"}}, "connection", "refuses the credential"),
            ({"connectivity": {"status": "offline", "offline_duration": 2e5}}, "connection", "no backend for 56 hours"),
            ({"connectivity": {"clock_skew": -7200.0}}, "clock", "wrong by 120 minutes"),
            ({"salvaged_from": "outbox.db.damaged"}, "store", "outbox.db.damaged"),
            (
                {
                    "scenarios": {"consent": True, "consent_at": None, "policy_version": "1", "held": None, "queued": 0}
                    | {"under_way": None, "uploaded": 0, "set_aside": 1, "dropped": 0}
                },
                "recordings",
                "recordings that cannot be sent as they are: 1",
            ),
            (
                {
                    "scenarios": {"consent": True, "consent_at": None, "policy_version": "1", "held": None, "queued": 0}
                    | {"under_way": None, "uploaded": 0, "set_aside": 0, "dropped": 0, "disk_is_short": True}
                },
                "store",
                "less room than cloud.disk_reserve",
            ),
            (
                {"duties": [{"name": "models.check", "crashes": 2, "total_crashes": 2, "last_error": "OSError"}]},
                "agent",
                "models.check keeps failing",
            ),
            (
                {
                    "models": [
                        {"name": "yolo", "status": "failed", "installed": "v1", "available": None, "previous": None}
                        | {"pinned": None, "reason": "its signature is wrong", "under_way": None}
                    ]
                },
                "model",
                "model yolo is failed: its signature is wrong",
            ),
            (
                {
                    "models": [
                        {"name": "yolo", "status": "installed", "installed": "v1", "available": None, "previous": None}
                        | {"pinned": "v9", "reason": None, "under_way": None, "offered": [{"version": "v1"}]}
                    ]
                },
                "model",
                "model yolo is pinned to v9, which nobody offers",
            ),
        ],
    )
    def test_each_trouble_has_its_remedy(
        self, vehicle: Vehicle, locked: None, changes: dict[str, object], part: str, what: str
    ) -> None:
        said(vehicle.state, **changes)
        answer = vehicle.run("health", "--json")
        (trouble,) = answer.json["troubles"]
        assert (answer.code, trouble["part"]) == (1, part)
        assert what in trouble["what"]
        assert trouble["remedy"]
        assert what in vehicle.run("health").out

    def test_what_waits_for_the_network_alone_is_no_trouble(self, vehicle: Vehicle, locked: None) -> None:
        shown = {"status": "offline", "message": "offline: no route", "offline_duration": 3600.0, "gate": "paused"}
        said(vehicle.state, connectivity=shown)
        vehicle.queue_trips(2)
        assert vehicle.run("health").out == "well: offline: no route; 2 items to send\n"


class TestWhy:
    def test_nothing_waits(self, vehicle: Vehicle) -> None:
        vehicle.queue_trips(0)
        assert (vehicle.run("why").code, vehicle.run("why").out) == (0, "nothing waits\n")

    def test_all_that_waits_is_told_with_what_to_do(self, vehicle: Vehicle) -> None:
        trip, refused = vehicle.queue_trips(2)
        vehicle.set_aside(refused, "answered 422")
        shutil.copytree(FIXTURES / "scenarios" / RECORDING, vehicle.folder / "scenarios" / RECORDING)
        waiting = {it["name"]: it for it in vehicle.run("why", "--json").json["waiting"]}
        assert waiting.keys() == {trip, refused, RECORDING}
        assert waiting[trip]["reason"] == "an agent: none is running"
        assert "once" in waiting[trip]["remedy"]
        assert datetime.fromisoformat(waiting[trip]["since"]).tzinfo is not None
        assert (waiting[refused]["reason"], waiting[refused]["next_try"]) == ("answered 422", "when retried")
        assert f"queue retry {refused}" in waiting[refused]["remedy"]
        assert waiting[RECORDING]["reason"] == "the driver has not consented to sending recordings"
        assert "consent grant" in waiting[RECORDING]["remedy"]

    def test_where_no_agent_ever_ran_that_is_said(self, vehicle: Vehicle) -> None:
        answer = vehicle.run("why")
        assert (answer.code, "no agent has run on it yet" in answer.err) == (0, True)

    def test_each_recording_that_was_queued_waits_for_something_else(self, vehicle: Vehicle) -> None:
        folder = vehicle.folder / "recordings"
        shutil.copytree(FIXTURES / "scenarios", folder)
        whole, lacking = sorted(folder.iterdir())
        (lacking / "bev.mp4").unlink()
        vehicle.run("consent", "grant")
        assert vehicle.run("scenarios", "queue", str(whole)).code == 0
        assert vehicle.run("scenarios", "queue", str(lacking)).code == 1
        waiting = {it["name"]: it for it in vehicle.run("why", "--json").json["waiting"]}
        assert waiting.keys() == {whole.name, lacking.name}, "each once, though the queue knows one of them as well"
        assert (waiting[whole.name]["reason"], waiting[whole.name]["next_try"]) == ("no agent is running", "now")
        assert waiting[whole.name]["remedy"].startswith("start one: ")
        assert (waiting[lacking.name]["reason"], waiting[lacking.name]["next_try"]) == (
            "bev.mp4 is missing",
            "when retried",
        )
        assert f"scenarios retry {lacking.name}` once that is mended" in waiting[lacking.name]["remedy"]
        vehicle.configure(upload_scenarios=False)
        waiting = {it["name"]: it for it in vehicle.run("why", "--json").json["waiting"]}
        assert waiting[whole.name]["reason"] == "cloud.upload_scenarios is false"
        assert "consent grant" in waiting[whole.name]["remedy"], "a person has decided that, and may decide otherwise"
        vehicle.run("consent", "withdraw")
        assert whole.name not in [it["name"] for it in vehicle.run("why", "--json").json["waiting"]]

    def test_a_recording_that_goes_when_it_is_asked_for_needs_nobody(self, vehicle: Vehicle) -> None:
        vehicle.configure(scenario_upload="on_request")
        vehicle.run("consent", "grant")
        assert vehicle.run("scenarios", "queue", str(FIXTURES / "scenarios" / RECORDING)).code == 0
        (waits,) = vehicle.run("why", "--json").json["waiting"]
        assert waits["remedy"].startswith("start one: "), "its metadata goes by itself"

    def test_a_recording_that_lacks_something_is_not_said_to_go_by_itself(self, vehicle: Vehicle) -> None:
        vehicle.queue_trips(0)
        vehicle.run("consent", "grant")
        (vehicle.folder / "scenarios" / "broken").mkdir(parents=True)
        (vehicle.folder / "scenarios" / "broken" / "metadata.json").write_text("{}")
        (waiting,) = vehicle.run("why", "--json").json["waiting"]
        assert "not complete yet: " in waiting["reason"]
        assert waiting["remedy"].endswith("mend what is said")

    def test_what_a_condition_holds_is_not_said_to_go_now(self, vehicle: Vehicle, locked: None) -> None:
        (key,) = vehicle.queue_trips(1)
        traffic = {"link": "cellular", "metered": True, "source": "the host says so", "budgets": [], "usage": []}
        said(vehicle.state, traffic={**traffic, "held": {"trips": "the data budget is used up"}})
        (waiting,) = vehicle.run("why", key, "--json").json["waiting"]
        assert (waiting["reason"], waiting["next_try"]) == ("the data budget is used up", "once that ends")
        said(vehicle.state, traffic={**traffic, "held": {}})
        (waiting,) = vehicle.run("why", key, "--json").json["waiting"]
        assert waiting["next_try"] == "now"

    def test_while_offline_it_waits_for_that(self, vehicle: Vehicle, locked: None) -> None:
        (key,) = vehicle.queue_trips(1)
        said(vehicle.state, connectivity={"status": "offline", "message": "offline: no route"})
        (waiting,) = vehicle.run("why", key, "--json").json["waiting"]
        assert waiting["reason"] == "offline: no route"
        assert waiting["remedy"].startswith("nothing: ")

    @pytest.mark.parametrize(
        ("changes", "remedy"),
        [
            ({"connectivity": {"unauthorized": True, "gate": "refused"}}, "put the right key where cloud.api_key"),
            ({"enabled": False}, "set cloud.enabled to true"),
        ],
    )
    def test_what_a_person_has_to_end_is_not_said_to_go_by_itself(
        self, vehicle: Vehicle, locked: None, changes: dict[str, object], remedy: str
    ) -> None:
        (key,) = vehicle.queue_trips(1)
        said(vehicle.state, **changes)
        (waiting,) = vehicle.run("why", key, "--json").json["waiting"]
        assert waiting["remedy"].startswith(remedy)

    def test_one_is_asked_for_by_its_name(self, vehicle: Vehicle) -> None:
        (key,) = vehicle.queue_trips(1)
        answer = vehicle.run("why", key)
        names = [line.split()[0] for line in answer.out.splitlines()]
        assert names == ["what", "name", "waits", "since", "next", "what"]
        assert vehicle.run("why", f"trip:{key}").out == answer.out

    def test_what_does_not_wait_is_said_so(self, vehicle: Vehicle) -> None:
        vehicle.queue_trips(1)
        answer = vehicle.run("why", "yesterday")
        assert (answer.code, "nothing by the name 'yesterday' waits" in answer.err) == (1, True)

    def test_a_running_agents_word_on_models_counts(self, vehicle: Vehicle, locked: None) -> None:
        held = {"name": "yolo", "status": "held", "installed": "v1", "available": "v2", "previous": None}
        rest = {"pinned": None, "reason": "the network is metered", "under_way": None}
        free, bad = {"name": "free", "reason": None}, [{"version": "v2", "reason": "it crashed"}]
        newest = free | {"name": "newest", "available": "v1"}
        failed = free | {"name": "failed", "bad_versions": bad}
        said(vehicle.state, models=[held | rest | one for one in ({}, free, newest, failed)])
        waiting = {it["name"]: it for it in vehicle.run("why", "--json").json["waiting"]}
        assert waiting["yolo"]["reason"] == "the network is metered"
        assert "models install free v2" in waiting["free"]["remedy"]
        assert "newest" not in waiting
        assert "models clear-bad failed v2`, to try it again" in waiting["failed"]["remedy"]


def test_what_an_agent_says_of_troubles_is_for_whoever_reads_the_file(vehicle: Vehicle) -> None:
    vehicle.queue_trips(0)
    said(vehicle.state, enabled=False)
    written = json.loads((vehicle.state / STATUS_NAME).read_text())
    assert [trouble["part"] for trouble in written["troubles"]] == ["agent"]


@pytest.mark.parametrize(
    ("reason", "remedy"),
    [
        ("the driver has not consented to sending recordings", "`consent grant`"),
        ("cloud.upload_scenarios is false", "`consent grant`"),
        ("cloud.upload_window is closed: recordings wait for it", "nothing: it goes by itself once that is over"),
        ("the network is metered (the host says so): recordings wait", "nothing: it goes by itself once that is over"),
    ],
)
def test_only_what_a_person_decides_is_left_to_a_person(reason: str, remedy: str) -> None:
    assert _remedy_of(reason).startswith(remedy)
