"""The extension `scenario-catalogue`: announcements first, files when the backend asks for them."""

import asyncio
import logging
import shutil
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel_sync import ScenarioUploader
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import PATIENCE, Answer, FakeCloud, json_answer, problem
from tests.fakes.wire_rules import Seen
from tests.scenarios.service import DAY, EVERYTHING, FIRST, SECOND, VIDEOS, Build, announced, backdate, is_video, paths

pytestmark = pytest.mark.usefixtures("no_blocking")


def catalogue(cloud: FakeCloud, *, again: Answer | None = None) -> None:
    """Have the backend take announcements alone; `again` is its answer to one that it has had."""
    usual, had = cloud.handler, set[str]()

    def handler(seen: Seen) -> Answer:
        if (seen.method, seen.path) == ("GET", "/health"):
            return json_answer(200, {"status": "ok", "extensions": ["scenario-catalogue"]})
        if (seen.method, seen.path) == ("POST", "/scenarios"):
            scenario_id = seen.json["scenario_id"]
            if scenario_id in had and again is not None:
                return again
            had.add(scenario_id)
            return json_answer(201, {"scenario_id": scenario_id, "status": "registered", "upload": "on_request"})
        return usual(seen)

    cloud.handler = handler


async def state(uploader: object, scenario_id: str) -> str:
    return str((await uploader.get_upload_status(scenario_id))["status"])  # type: ignore[attr-defined]


async def test_the_announcement_goes_and_the_files_stay(cloud: FakeCloud, recordings: Path, build: Build) -> None:
    catalogue(cloud)
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    assert await uploader.sync_now() == 0
    assert paths(cloud) == ["/scenarios"]
    assert await state(uploader, FIRST) == "on_request"
    statistics = await uploader.get_statistics()
    assert (statistics["on_request"], statistics["uploaded"], statistics["dropped"], statistics["queued"]) == (
        1, 0, 0, 0,
    )  # fmt: skip
    assert await uploader.sync_now() == 0
    assert len(paths(cloud)) == 1
    await uploader.scan_step()
    assert await state(uploader, FIRST) == "on_request", "the scan does not queue it anew"


async def test_what_is_asked_for_goes_first_and_whole(cloud: FakeCloud, recordings: Path, build: Build) -> None:
    catalogue(cloud)
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST, priority="low")
    await uploader.sync_now()
    shutil.copytree(recordings / SECOND, recordings / "20241118_000000")
    await uploader.queue_scenario(recordings / "20241118_000000", priority="high")
    uploader.want(FIRST)
    assert await uploader.sync_now() == 1
    assert announced(cloud) == [FIRST, "20241118_000000"], "announced once"
    assert [path.split("/")[2] for path in paths(cloud)[1:6]] == [FIRST] * 5, "its files go before everything else"
    assert await state(uploader, FIRST) == "uploaded"
    uploader.want(FIRST)
    assert await uploader.sync_now() == 0, "asked for again it is no work"
    assert len(paths(cloud)) == 7


async def test_only_the_files_that_are_named_go(cloud: FakeCloud, recordings: Path, build: Build) -> None:
    catalogue(cloud)
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.sync_now()
    uploader.want(FIRST, ("bev.mp4", "no-such-file.mp4"))
    assert await uploader.sync_now() == 0
    assert paths(cloud)[1:] == [f"/scenarios/{FIRST}/videos"]
    status = await uploader.get_upload_status(FIRST)
    assert {name for name, there in status["parts"].items() if there} == {"metadata.json", "bev.mp4"}
    assert status["status"] == "on_request"
    uploader.want(FIRST)
    assert await uploader.sync_now() == 1
    assert len(paths(cloud)) == 1 + len(VIDEOS) + 1, "what was there is not sent again"


async def test_it_is_remembered_over_a_restart(
    cloud: FakeCloud, recordings: Path, build: Build, store: Store, clock: FakeClock
) -> None:
    catalogue(cloud)
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.sync_now()
    again = build()
    assert await state(again, FIRST) == "on_request"
    assert await again.sync_now() == 0
    again.want(FIRST)
    assert await again.sync_now() == 1


@pytest.mark.parametrize(
    ("setting", "backend_says", "files_go"),
    [("all", "on_request", True), ("on_request", None, False), ("auto", None, True), ("auto", "something", True)],
)
async def test_the_setting_decides(
    setting: str, backend_says: str | None, files_go: bool, cloud: FakeCloud, recordings: Path, build: Build
) -> None:
    usual = cloud.handler

    def handler(seen: Seen) -> Answer:
        if (seen.method, seen.path) == ("POST", "/scenarios"):
            return json_answer(201, {"upload": backend_says} if backend_says else {})
        return usual(seen)

    cloud.handler = handler
    uploader = build(scenario_upload=setting)
    await uploader.queue_scenario(recordings / FIRST)
    assert await uploader.sync_now() == int(files_go)
    assert (len(paths(cloud)) > 1) is files_go


async def test_consent_is_asked_again_when_it_is_asked_for(cloud: FakeCloud, recordings: Path, build: Build) -> None:
    catalogue(cloud)
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.sync_now()
    await uploader.set_consent(False)
    assert await state(uploader, FIRST) == "dropped"
    uploader.want(FIRST)
    await uploader.sync_now()
    await uploader.set_consent(True)
    uploader.want(FIRST)
    await uploader.sync_now()
    assert paths(cloud) == ["/scenarios"], "what was recorded before a no stays here also after the next yes"


@pytest.mark.parametrize("case", ["unknown", "deleted", "damaged"])
async def test_what_cannot_be_given_is_said_and_harms_nothing(
    case: str, cloud: FakeCloud, recordings: Path, build: Build, caplog: pytest.LogCaptureFixture, clock: FakeClock
) -> None:
    catalogue(cloud)
    uploader = build(keep_unsent_days=7.0)
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.sync_now()
    if case == "deleted":
        backdate(recordings / FIRST, clock.now() - 8 * DAY)
        uploader._retention._trusted = lambda: True
        await uploader.retention_step()
        assert await state(uploader, FIRST) == "deleted"
    elif case == "damaged":
        (recordings / FIRST / "metadata.json").write_text("{")
    with caplog.at_level(logging.WARNING):
        uploader.want("20991231_235959" if case == "unknown" else FIRST)
        assert await uploader.sync_now() == 0
    assert "scenario.cannot_be_given" in caplog.text
    assert len(paths(cloud)) == 1


@pytest.mark.parametrize(
    ("shown", "files_go"),
    [
        (json_answer(200, {"upload": "all"}), True),
        (json_answer(200, {"upload": "on_request"}), False),
        (json_answer(200, {}), False),
        (problem(404), False),
        (problem(405), False),
    ],
)
async def test_where_the_store_was_lost_nothing_large_goes_twice(
    shown: Answer,
    files_go: bool,
    cloud: FakeCloud,
    recordings: Path,
    build: Build,
    store: Store,
) -> None:
    catalogue(cloud, again=problem(409, "Conflict"))
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    await uploader._client.probe()
    await uploader.sync_now()
    records: ScenarioRecords = uploader._records
    plan = await records.plan(FIRST)
    assert plan is not None
    await store.documents.delete("scenario", FIRST)  # as if it had never been known
    records._cards.clear()
    usual = cloud.handler
    cloud.handler = lambda seen: shown if (seen.method, seen.path) == ("GET", f"/scenarios/{FIRST}") else usual(seen)
    await uploader.queue_scenario(recordings / FIRST)
    assert await uploader.sync_now() == int(files_go)
    assert await state(uploader, FIRST) == ("uploaded" if files_go else "on_request")


async def test_a_recording_that_is_known_by_another_name_is_found(
    cloud: FakeCloud, recordings: Path, build: Build
) -> None:
    catalogue(cloud)
    shutil.move(recordings / FIRST, recordings / "trip to Anna")
    uploader = build()
    await uploader.queue_scenario(recordings / "trip to Anna")
    await uploader.sync_now()
    (known_as,) = announced(cloud)
    assert known_as.startswith("s_")
    uploader.want(known_as)
    assert await uploader.sync_now() == 1
    status = await uploader.get_upload_status("trip to Anna")
    assert {name for name, there in status["parts"].items() if there} == EVERYTHING


async def test_once_the_setting_says_all_what_is_queued_by_name_goes_whole(
    cloud: FakeCloud, recordings: Path, build: Build
) -> None:
    catalogue(cloud)
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.sync_now()
    again = build(scenario_upload="all")
    assert await again.sync_now() == 0
    await again.queue_scenario(recordings / FIRST)
    assert await again.sync_now() == 1
    assert announced(cloud) == [FIRST], "and is not announced anew"


class TestMeanwhile:
    """While one file takes its time, the backend hears of what else was recorded."""

    @pytest.fixture
    def slow(self, cloud: FakeCloud) -> asyncio.Event:
        """Until it is set, no video is acknowledged."""
        arrived = asyncio.Event()
        usual = cloud.handler
        cloud.handler = lambda seen: replace(usual(seen), after=arrived) if is_video(seen) else usual(seen)
        return arrived

    async def sending(self, uploader: ScenarioUploader, cloud: FakeCloud, recordings: Path) -> None:
        """Have a recording asked for, of which a video is under way."""
        await uploader._client.probe()
        await uploader.queue_scenario(recordings / FIRST)
        await uploader.sync_now()
        uploader.want(FIRST)
        await uploader.start_background_upload()
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")

    async def test_a_recording_is_announced_while_a_file_of_another_is_under_way(
        self, cloud: FakeCloud, recordings: Path, build: Build, slow: asyncio.Event
    ) -> None:
        catalogue(cloud)
        uploader = build()
        await self.sending(uploader, cloud, recordings)
        await uploader.queue_scenario(recordings / SECOND)
        await cloud.received(2, method="POST", path="/scenarios")
        assert announced(cloud) == [FIRST, SECOND]
        assert paths(cloud)[-2:] == [f"/scenarios/{FIRST}/videos", "/scenarios"], "beside the first file"
        slow.set()
        await uploader.stop_background_upload()
        uploader.want(FIRST)
        await uploader.sync_now()
        assert (await state(uploader, FIRST), await state(uploader, SECOND)) == ("uploaded", "on_request")

    async def test_what_is_asked_for_while_it_is_being_announced_goes(
        self, cloud: FakeCloud, recordings: Path, build: Build, slow: asyncio.Event
    ) -> None:
        catalogue(cloud)
        uploader = build()
        await self.sending(uploader, cloud, recordings)
        known, usual = asyncio.Event(), cloud.handler
        cloud.handler = lambda seen: replace(usual(seen), after=known) if seen.path == "/scenarios" else usual(seen)
        await uploader.queue_scenario(recordings / SECOND)
        await cloud.received(2, method="POST", path="/scenarios")
        uploader.want(SECOND)
        slow.set()
        async with asyncio.timeout(PATIENCE):
            while uploader._wanted:  # noqa: ASYNC110 # until it is looked up, of which nobody is told
                await asyncio.sleep(0)
        known.set()
        await cloud.received(1, method="POST", path=f"/scenarios/{SECOND}/annotations")
        await uploader.stop_background_upload()
        assert announced(cloud) == [FIRST, SECOND]

    async def test_a_withdrawal_stops_it(
        self, cloud: FakeCloud, recordings: Path, build: Build, slow: asyncio.Event
    ) -> None:
        catalogue(cloud)
        uploader = build()
        await self.sending(uploader, cloud, recordings)
        cloud.script("POST", "/scenarios", Answer(silent=True))
        await uploader.queue_scenario(recordings / SECOND)
        await cloud.received(2, method="POST", path="/scenarios")
        async with asyncio.timeout(1.0):
            await uploader.set_consent(False)
        assert (await state(uploader, FIRST), await state(uploader, SECOND)) == ("dropped", "dropped")
        assert await uploader.sync_now() == 0
        await uploader.stop_background_upload()
        assert len(paths(cloud)) == 3

    @pytest.mark.parametrize("setting", ["all", "auto"])
    async def test_without_the_catalogue_each_has_its_turn(
        self, setting: str, cloud: FakeCloud, recordings: Path, build: Build, slow: asyncio.Event
    ) -> None:
        if setting == "all":
            catalogue(cloud)
        uploader = build(scenario_upload=setting)
        await uploader._client.probe()
        await uploader.queue_scenario(recordings / FIRST)
        sending = asyncio.create_task(uploader.sync_now())
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        await uploader.queue_scenario(recordings / SECOND)
        await uploader.announce_step()
        assert announced(cloud) == [FIRST]
        slow.set()
        assert await sending == 2
        assert paths(cloud).index(f"/scenarios/{FIRST}/annotations") < paths(cloud).index(f"/scenarios/{SECOND}/videos")
