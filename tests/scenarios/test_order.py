"""High before normal before low, without starving low; a more important one does not wait for the whole of another."""

import asyncio
import shutil
from pathlib import Path

import pytest

from sentinel_sync.scenarios.rules.lifecycle import HEAD_START
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, problem
from tests.fakes.wire_rules import Seen
from tests.scenarios.service import FIRST, SECOND, Build, announced, fail_once, is_video

pytestmark = pytest.mark.usefixtures("no_blocking")


async def test_more_important_ones_go_first(cloud: FakeCloud, recordings: Path, build: Build) -> None:
    shutil.copytree(recordings / FIRST, recordings / "20241118_000000")
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST, priority="low")
    await uploader.queue_scenario(recordings / SECOND)
    await uploader.queue_scenario(recordings / "20241118_000000", priority="high")
    assert await uploader.sync_now() == 3
    assert announced(cloud) == ["20241118_000000", SECOND, FIRST]


async def test_low_does_not_starve(cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock) -> None:
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST, priority="low")
    clock.tick(2 * HEAD_START + 1.0)
    await uploader.queue_scenario(recordings / SECOND, priority="high")
    await uploader.sync_now()
    assert announced(cloud) == [FIRST, SECOND]


async def test_a_more_important_one_goes_between_two_parts_and_nothing_is_repeated(
    cloud: FakeCloud, recordings: Path, build: Build
) -> None:
    uploader = build()
    usual = cloud.handler
    queued = asyncio.Event()
    held: list[bool] = []

    def hold_the_first(seen: Seen) -> Answer:
        if is_video(seen) and not held:
            held.append(True)
            return Answer(201, b"{}", after=queued)
        return usual(seen)

    cloud.handler = hold_the_first
    await uploader.queue_scenario(recordings / FIRST)
    sending = asyncio.create_task(uploader.sync_now())
    await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
    await uploader.queue_scenario(recordings / SECOND, priority="high")
    queued.set()
    assert await sending == 2
    assert announced(cloud) == [FIRST, SECOND]
    order = [seen.path.split("/")[2] for seen in cloud.to("POST") if seen.path != "/scenarios"]
    assert order == [FIRST] + [SECOND] * 5 + [FIRST] * 4
    assert len({seen.key for seen in cloud.to("POST")}) == len(cloud.to("POST")) == 12


async def test_one_that_waits_for_its_backoff_does_not_hold_up_the_others(
    cloud: FakeCloud, recordings: Path, build: Build, store: Store
) -> None:
    fail_once(cloud, is_video, problem(422))
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST, priority="high")
    await uploader.queue_scenario(recordings / SECOND, priority="low")
    assert await uploader.sync_now() == 1
    assert (await uploader.get_upload_status(SECOND))["status"] == "uploaded"


async def test_queueing_again_with_another_priority_moves_it(cloud: FakeCloud, recordings: Path, build: Build) -> None:
    uploader = build()
    await uploader.queue_scenario(recordings / FIRST)
    await uploader.queue_scenario(recordings / SECOND)
    await uploader.queue_scenario(recordings / SECOND, priority="high")
    assert (await uploader.get_upload_status(SECOND))["priority"] == "high"
    assert await uploader.sync_now() == 2
    assert announced(cloud) == [SECOND, FIRST]
    assert (await uploader.get_statistics())["dropped"] == 0


async def test_a_window_that_closes_ends_what_is_under_way(
    cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock
) -> None:
    uploader = build(upload_window=[{"when": "parked"}])
    uploader._permission._policy.set_conditions(["parked"])
    never = asyncio.Event()
    usual = cloud.handler
    cloud.handler = lambda seen: Answer(201, b"{}", after=never) if is_video(seen) else usual(seen)
    await uploader.queue_scenario(recordings / FIRST)
    sending = asyncio.create_task(uploader.sync_now())
    await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
    uploader._permission._policy.set_conditions([])
    while not sending.done():
        await clock.advance(0.5)
        await asyncio.wait({sending}, timeout=0.01)
    assert await sending == 0
    status = await uploader.get_upload_status(FIRST)
    assert (status["status"], status["reason"]) == ("held", "cloud.upload_window is closed: recordings wait for it")
