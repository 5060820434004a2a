"""`consent`: the driver's decision from the command line, with and without a running agent."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.settings import Settings
from sentinel_sync.store.store import Store
from tests.cli.vehicle import Vehicle
from tests.conftest import FIXTURES

FIRST, SECOND = sorted((FIXTURES / "scenarios").iterdir())


def queue(vehicle: Vehicle, *recordings: Path) -> None:
    """Queue recordings, as an agent does that consents."""

    async def work() -> None:
        settings = Settings.load(vehicle.config).cloud
        async with Store(vehicle.state) as store, CloudAPIClient(settings=settings) as client:
            uploader = ScenarioUploader(client, store=store)
            await uploader.set_consent(True)
            for recording in recordings:
                await uploader.queue_scenario(recording)

    asyncio.run(work())


def status_of(vehicle: Vehicle, recording: Path) -> Any:
    return vehicle.run("scenarios", "show", recording.name, "--json").json


def test_it_is_off_until_it_is_granted(vehicle: Vehicle) -> None:
    said = vehicle.run("consent", "show")
    assert said.code == 0
    assert "no decision was ever made: no recording is sent" in said.out
    assert vehicle.run("consent", "show", "--json").json["decision"] is None
    assert not vehicle.state.exists()
    granted = vehicle.run("consent", "grant")
    assert granted.code == 0
    assert granted.out.startswith("granted, to policy 1: ")
    shown = vehicle.run("consent", "show", "--json").json
    assert (shown["in_force"], shown["reason"], shown["decision"]["policy_version"]) == (True, None, "1")


def test_all_decisions_are_shown(vehicle: Vehicle) -> None:
    for action in ("grant", "withdraw", "grant"):
        assert vehicle.run("consent", action).code == 0
    history = vehicle.run("consent", "show", "--json").json["history"]
    assert [decision["granted"] for decision in history] == [True, False, True]
    lines = vehicle.run("consent", "show").out.splitlines()
    assert [word for line in lines for word in ("granted", "withdrawn") if f"  {word}  " in line] == [
        "granted",
        "withdrawn",
        "granted",
    ]


def test_a_grant_for_an_older_policy_is_not_in_force(vehicle: Vehicle) -> None:
    vehicle.run("consent", "grant")
    vehicle.configure(policy_version="2")
    shown = vehicle.run("consent", "show", "--json").json
    assert (shown["in_force"], "policy 2 is in force" in shown["reason"]) == (False, True)
    assert "in force  no: the driver consented to policy 1" in vehicle.run("consent", "show").out


def test_withdrawing_empties_the_queue_and_the_derived_files_and_leaves_the_recordings(vehicle: Vehicle) -> None:
    queue(vehicle, FIRST, SECOND)
    derived = vehicle.state / "derived"
    derived.mkdir()
    (derived / "made.mp4").write_bytes(b"x")
    before = {path: path.stat().st_mtime_ns for path in FIRST.iterdir()}
    said = vehicle.run("consent", "withdraw")
    assert said.code == 0
    assert said.out == "withdrawn: 2 recordings left the queue; the recordings stay where they are\n"
    assert list(derived.iterdir()) == []
    assert {path: path.stat().st_mtime_ns for path in FIRST.iterdir()} == before
    status = status_of(vehicle, FIRST)
    assert (status["status"], status["reason"]) == ("dropped", "the driver withdrew the consent")
    assert vehicle.run("queue", "list", "--json").json["total"] == 0


def test_what_was_sent_is_shown_with_its_consent(vehicle: Vehicle) -> None:
    queue(vehicle, FIRST)
    _acknowledge(vehicle, FIRST.name)
    shown = vehicle.run("consent", "show", "--json").json
    assert shown["sent_total"] == 1
    (sent,) = shown["sent"]
    assert (sent["scenario_id"], sent["part"], sent["acknowledged"]) == (FIRST.name, "metadata.json", True)
    assert sent["granted_at"] == shown["history"][0]["at"]
    out = vehicle.run("consent", "show").out
    assert "1 part, 381 B" in out
    assert "metadata.json" in out


class TestSent:
    """`sent`: what left the vehicle, also beside a running agent."""

    def test_all_that_left_is_listed_with_its_consent(self, vehicle: Vehicle) -> None:
        queue(vehicle, FIRST)
        _acknowledge(vehicle, FIRST.name)
        (trip,) = vehicle.queue_trips(1)
        _send_trips(vehicle)
        answer = vehicle.run("sent", "--json").json
        assert (answer["total"], answer["total_bytes"]) == (2, sum(one["size_bytes"] for one in answer["sent"]))
        newest, _ = sorted(answer["sent"], key=lambda one: one["kind"], reverse=True)
        assert (newest["kind"], newest["name"], newest["granted_at"]) == ("trip", trip, None)
        recording = next(one for one in answer["sent"] if one["kind"] == "recording")
        assert (recording["name"], recording["policy_version"]) == (f"{FIRST.name} metadata.json", "1")
        shown = vehicle.run("sent").out
        assert (trip in shown, "none needed" in shown, "policy 1" in shown) == (True, True, True)

    def test_a_period_and_a_spreadsheet_can_be_asked_for(self, vehicle: Vehicle) -> None:
        vehicle.queue_trips(2)
        _send_trips(vehicle)
        head, *rows = vehicle.run("sent", "--today", "--csv").out.splitlines()
        assert head == "kind,name,at,size_bytes,acknowledged,granted_at,policy_version"
        assert [row.split(",")[0] for row in rows] == ["trip", "trip"]
        assert vehicle.run("sent", "--since", "2100-01-01").out == "nothing was sent since then\n"
        assert vehicle.run("sent", "--limit", "1", "--json").json["total"] == 2

    def test_bad_times_are_refused_in_a_line(self, vehicle: Vehicle) -> None:
        answer = vehicle.run("sent", "--since", "yesterday")
        assert (answer.code, "is no date or time such as" in answer.err) == (2, True)


def _send_trips(vehicle: Vehicle) -> None:
    async def work() -> None:
        async with Store(vehicle.state) as store:
            items = await store.outbox.claim("trip", 100)
            await store.outbox.acknowledge("trip", [item.seq for item in items])

    asyncio.run(work())


@pytest.mark.parametrize("action", ["grant", "withdraw"])
def test_it_says_so_as_json_too(vehicle: Vehicle, action: str) -> None:
    told = vehicle.run("consent", action, "--json").json
    assert (told["granted"], told["policy_version"], told["agent_running"]) == (action == "grant", "1", False)


def _acknowledge(vehicle: Vehicle, scenario_id: str) -> None:
    async def work() -> None:
        settings = Settings.load(vehicle.config).cloud
        async with Store(vehicle.state) as store, CloudAPIClient(settings=settings) as client:
            uploader = ScenarioUploader(client, store=store)
            plan = await uploader._records.plan(scenario_id)
            consent = await uploader.get_consent()
            assert plan is not None
            assert consent is not None
            await uploader._records.save(plan.acknowledged(plan.parts[0], consent.at + 1.0, consent))

    asyncio.run(work())
