"""Plans and items: whatever is cut off, nothing is queued twice and nothing is lost."""

import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel_sync.base.errors import ScenarioError
from sentinel_sync.scenarios.recordings import Recording, read_recording
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.lifecycle import HEAD_START
from sentinel_sync.scenarios.rules.plan import Consent, Priority
from sentinel_sync.store.store import Store
from tests.conftest import FIXTURES
from tests.fakes.clock import FakeClock

FIRST, SECOND = sorted((FIXTURES / "scenarios").iterdir())


@pytest.fixture(name="records")
def records_fixture(store: Store, clock: FakeClock) -> ScenarioRecords:
    return ScenarioRecords(store.documents, store.outbox, clock)


@pytest.fixture(name="recording")
def recording_fixture() -> Recording:
    return read_recording(FIRST)


async def test_a_recording_is_queued_once(records: ScenarioRecords, recording: Recording) -> None:
    assert await records.queue(recording, Priority.NORMAL)
    assert not await records.queue(recording, Priority.NORMAL)
    assert len(await records.items()) == 1


async def test_what_was_cut_off_between_plan_and_item_is_told_apart_and_made_up_for(
    records: ScenarioRecords, recording: Recording, store: Store
) -> None:
    await records.queue(recording, Priority.NORMAL)
    plan = await records.plan(recording.scenario_id)
    assert plan is not None
    assert (await records.summaries())[recording.scenario_id].settled
    await store.outbox.drop([f"scenario:{recording.scenario_id}"])
    await records.save(replace(plan, in_queue=False))
    assert not (await records.summaries())[recording.scenario_id].settled
    assert await records.queue(recording, Priority.NORMAL)
    assert len(await records.items()) == 1


async def test_queueing_again_keeps_what_has_arrived_of_files_that_are_the_same(
    records: ScenarioRecords, recording: Recording, clock: FakeClock
) -> None:
    await records.queue(recording, Priority.NORMAL)
    plan = await records.plan(recording.scenario_id)
    assert plan is not None
    consent = Consent(True, clock.now(), "1")
    await records.save(plan.acknowledged(plan.parts[0], clock.now(), consent))
    await records.drop_all("the driver withdrew the consent")
    changed = replace(recording, parts=(*recording.parts[:1], replace(recording.parts[1], modified_ns=1)))
    assert await records.queue(changed, Priority.HIGH)
    again = await records.plan(recording.scenario_id)
    assert again is not None
    assert [part.acknowledged_at is not None for part in again.parts] == [True, False]
    assert (again.dropped, again.priority) == (None, Priority.HIGH)


async def test_another_folder_of_one_name_is_refused_and_the_first_says_so(
    records: ScenarioRecords, recording: Recording
) -> None:
    await records.queue(recording, Priority.NORMAL)
    with pytest.raises(ScenarioError, match="another folder of this name"):
        await records.queue(replace(recording, folder=Path("/elsewhere") / recording.scenario_id), Priority.NORMAL)
    plan = await records.plan(recording.scenario_id)
    assert plan is not None
    assert plan.folder == str(recording.folder)
    assert "another folder of this name" in str(plan.warning)


async def test_a_refusal_never_covers_what_is_known_to_be_good(records: ScenarioRecords, recording: Recording) -> None:
    await records.queue(recording, Priority.NORMAL)
    await records.refuse(recording.folder, "it is gone")
    plan = await records.plan(recording.scenario_id)
    assert plan is not None
    assert plan.refused is None
    await records.refuse(Path("/recordings/bad"), "empty", "f1")
    assert await records.reasons(10) == {"bad": "empty"}


async def test_what_another_process_queued_is_seen(
    records: ScenarioRecords, recording: Recording, clock: FakeClock, tmp_path: Path
) -> None:
    assert await records.summaries() == {}
    async with Store(tmp_path / "state", clock=clock, exclusive=False) as store:
        await ScenarioRecords(store.documents, store.outbox, clock).queue(recording, Priority.NORMAL)
    assert set(await records.summaries()) == {recording.scenario_id}


async def test_it_is_the_turn_of_the_important_and_of_who_has_waited_long(
    records: ScenarioRecords, recording: Recording, clock: FakeClock, tmp_path: Path
) -> None:
    await records.queue(recording, Priority.LOW)
    first = await records.claim()
    assert first is not None
    assert first.state == "sending"
    assert not await records.is_overtaken(first)
    clock.tick(60.0)
    await records.queue(read_recording(SECOND), Priority.NORMAL)
    assert await records.is_overtaken(first)
    second = await records.claim()
    assert second is not None
    assert second.key == f"scenario:{SECOND.name}"
    assert await records.claim() is None
    shutil.copytree(FIRST, tmp_path / "third")
    clock.tick(2 * HEAD_START)
    await records.queue(read_recording(tmp_path / "third"), Priority.HIGH)
    assert not await records.is_overtaken(first)


async def test_withdrawing_drops_many_at_once_and_says_why(
    records: ScenarioRecords, recording: Recording, store: Store
) -> None:
    for number in range(150):
        await records.queue(replace(recording, scenario_id=f"s{number}"), Priority.NORMAL)
    assert await records.drop_all("withdrawn") == 150
    assert await records.items() == []
    assert {plan.dropped async for plan in records.plans()} == {"withdrawn"}
    assert (await store.outbox.counts("scenario")).dropped == {"scenario.consent": 150}
