"""Nothing leaves without the driver's consent, and not a second after it was withdrawn."""

import asyncio
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync import ConsentError
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.scenarios.consent import ConsentRecord
from sentinel_sync.scenarios.preparation import Preparation
from sentinel_sync.scenarios.upload import PartSender
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud
from tests.fakes.wire_rules import Seen
from tests.scenarios.service import EVERYTHING, FIRST, SECOND, Build, fail_once, is_video, paths

pytestmark = pytest.mark.usefixtures("no_blocking")


class TestConsent:
    async def test_it_is_off_by_default(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        uploader = build(consent=False)
        with pytest.raises(ConsentError):
            await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.get_consent() is None
        assert (await uploader.get_upload_status(FIRST))["status"] == "unknown"
        assert await uploader.sync_now() == 0
        assert cloud.requests == []

    async def test_a_decision_is_kept_with_its_time_and_policy(self, build: Build, clock: FakeClock) -> None:
        await build(consent=False).set_consent(True)
        clock.tick(3600.0)
        consent = await build(consent=False).get_consent()
        assert consent is not None
        assert (consent.granted, consent.at, consent.policy_version) == (True, clock.now() - 3600.0, "1")

    async def test_a_withdrawal_outlasts_the_hosts_word(self, recordings: Path, build: Build) -> None:
        await build(consent=True).set_consent(False)
        with pytest.raises(ConsentError, match="withdrawn"):
            await build(consent=True).queue_scenario(recordings / FIRST)
        await (uploader := build(consent=True)).set_consent(True)
        assert await uploader.queue_scenario(recordings / FIRST)

    async def test_a_new_policy_needs_a_new_consent(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        await build().queue_scenario(recordings / FIRST)
        asked_again = build(consent=False, policy_version="2")
        assert await asked_again.sync_now() == 0
        status = await asked_again.get_upload_status(FIRST)
        assert (status["status"], "policy 2" in str(status["reason"])) == ("held", True)
        await asked_again.set_consent(True)
        assert await asked_again.sync_now() == 1
        assert cloud.to("POST", "/scenarios")[0].json["consent"]["policy_version"] == "2"

    async def test_withdrawing_stops_the_transfer_drops_the_queue_and_leaves_the_recordings(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        fail_once(cloud, is_video, Answer(silent=True))
        uploader = build()
        for name in (FIRST, SECOND):
            await uploader.queue_scenario(recordings / name)
        await uploader.start_background_upload()
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        async with asyncio.timeout(1.0):
            await uploader.set_consent(False)
        assert (await uploader.get_statistics())["queued"] == 0
        assert (await uploader.get_statistics())["dropped"] == 2
        status = await uploader.get_upload_status(FIRST)
        assert status["status"] == "dropped"
        assert status["policy_version"] == "1"  # under which its beginning went
        assert await uploader.sync_now() == 0
        await uploader.stop_background_upload()
        assert len(cloud.to("POST")) == 2
        assert {path.name for path in (recordings / FIRST).iterdir()} == EVERYTHING

    async def test_another_process_can_withdraw_it(
        self, cloud: FakeCloud, recordings: Path, build: Build, clock: FakeClock, tmp_path: Path
    ) -> None:
        fail_once(cloud, is_video, Answer(silent=True))
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        sending = asyncio.create_task(uploader.sync_now())
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        async with Store(tmp_path / "state", clock=clock, exclusive=False) as elsewhere:
            await ConsentRecord(elsewhere.documents, clock).record(granted=False, policy_version="1")
        while not sending.done():
            await clock.advance(0.5)
        assert await sending == 0
        assert (await uploader.get_upload_status(FIRST))["status"] == "dropped"
        assert len(cloud.to("POST")) == 2

    async def test_it_is_asked_again_before_every_request(
        self, cloud: FakeCloud, recordings: Path, build: Build, store: Store, clock: FakeClock
    ) -> None:
        elsewhere = ConsentRecord(store.documents, clock)
        usual = cloud.handler
        withdrawing: list[asyncio.Task[Any]] = []

        def withdraw(seen: Seen) -> Answer:
            if seen.path == "/scenarios":
                withdrawing.append(asyncio.create_task(elsewhere.record(granted=False, policy_version="1")))
            return usual(seen)

        cloud.handler = withdraw
        await (uploader := build()).queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        await asyncio.gather(*withdrawing)
        assert paths(cloud) in (["/scenarios"], ["/scenarios", f"/scenarios/{FIRST}/videos"])

    async def test_it_is_asked_again_when_the_video_has_been_made(
        self, recordings: Path, build: Build, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        """Making it takes minutes. Whoever sends asks by himself as well, so he is not in the way here."""
        elsewhere, sent = ConsentRecord(store.documents, clock), []
        file_of = Preparation.file_of

        async def slow(preparation: Preparation, plan: Any, part: Any, *more: Any) -> Any:
            made = await file_of(preparation, plan, part, *more)
            if part.name == "interior.mp4":
                await elsewhere.record(granted=False, policy_version="1")
            return made

        async def send(_: PartSender, plan: Any, part: Any, *__: Any, **___: Any) -> None:
            sent.append(part.name)

        monkeypatch.setattr(Preparation, "file_of", slow)
        monkeypatch.setattr(PartSender, "send", send)
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        assert sent == ["metadata.json"]

    async def test_uploads_switched_off_hold_what_is_queued(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        uploader = build(upload_scenarios=False)
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        assert await uploader.step() == 300.0
        status = await uploader.get_upload_status(FIRST)
        assert (status["status"], status["reason"]) == ("held", "cloud.upload_scenarios is false")
        assert await build().sync_now() == 1


class TestWhatWasSent:
    async def test_it_can_be_shown_under_which_consent_each_part_went(
        self, recordings: Path, build: Build, clock: FakeClock
    ) -> None:
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 1
        clock.tick(60.0)
        renewed = build(consent=False, policy_version="2")
        await renewed.set_consent(True)
        await renewed.queue_scenario(recordings / SECOND)
        assert await renewed.sync_now() == 1
        clock.tick(60.0)
        await renewed.set_consent(False)
        first, second, withdrawn = await renewed.get_consent_history()
        assert [(past.granted, past.policy_version) for past in (first, second, withdrawn)] == [
            (True, "1"),
            (True, "2"),
            (False, "2"),
        ]
        sent = await renewed.get_uploads()
        assert {(part.scenario_id, part.granted_at, part.policy_version) for part in sent} == {
            (FIRST, first.at, "1"),
            (SECOND, second.at, "2"),
        }
        assert {part.part for part in sent if part.scenario_id == FIRST} == EVERYTHING
        assert all(part.acknowledged and part.sent_at >= part.granted_at for part in sent)

    async def test_also_of_a_part_that_was_cut_off(self, cloud: FakeCloud, recordings: Path, build: Build) -> None:
        fail_once(cloud, is_video, Answer(silent=True))
        uploader = build()
        await uploader.queue_scenario(recordings / FIRST)
        await uploader.start_background_upload()
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        await uploader.set_consent(False)
        sent = {part.part: part.acknowledged for part in await uploader.get_uploads()}
        assert sent == {"metadata.json": True, "interior.mp4": False}


class TestTheNetworksCost:
    async def test_on_a_metered_network_recordings_wait_and_go_when_it_ends(
        self, cloud: FakeCloud, recordings: Path, build: Build
    ) -> None:
        uploader = build(network="metered")
        await uploader.queue_scenario(recordings / FIRST)
        assert await uploader.sync_now() == 0
        status = await uploader.get_upload_status(FIRST)
        assert (status["status"], "metered" in str(status["reason"])) == ("held", True)
        # It is asked again soon: nobody says when the network changes.
        assert await uploader.step() < 60.0
        assert cloud.requests == []
        assert await build().sync_now() == 1

    async def test_a_network_that_becomes_metered_in_the_middle_stops_the_transfer(
        self, cloud: FakeCloud, recordings: Path, build: Build, store: Store, clock: FakeClock
    ) -> None:
        fail_once(cloud, is_video, Answer(silent=True))
        uploader = build()
        policy = Foundation.of(uploader._client, store, clock=clock).policy
        await uploader.queue_scenario(recordings / FIRST)
        sending = asyncio.create_task(uploader.sync_now())
        await cloud.received(method="POST", path=f"/scenarios/{FIRST}/videos")
        await policy.set_network("metered")
        while not sending.done():
            await clock.advance(0.5)
        assert await sending == 0
        (item,) = await store.outbox.items(kind="scenario")
        assert (item.state, item.attempts) == ("waiting", 0)
        await policy.set_network("unmetered")
        assert await uploader.sync_now() == 1
