"""Resumable uploads, each answer of the wire contract's extension by itself, and servers that lie."""

import asyncio
import gzip
import hashlib
from base64 import b64encode
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    CutError,
    HeldError,
    NotNowError,
    RejectedError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.cloud.response_policy import AttemptOutcome
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, closed_port, portal, problem, refused
from tests.fakes.tus import GONE, VERSION, FakeTus
from tests.fakes.wire_rules import Seen
from tests.scenarios.recorded_part import ANNOTATIONS, SCENARIO, VIDEOS, RecordedPart, noise
from tests.scenarios.sending import MEBIBYTE, PAUSE, Sender, vehicle

pytestmark = pytest.mark.usefixtures("no_blocking")

#: Two PATCHes: the first is 1 MiB.
VIDEO = noise(MEBIBYTE + 777_777)


@pytest.fixture
def tus(cloud: FakeCloud) -> FakeTus:
    handler = FakeTus()
    cloud.handler = handler
    return handler


@pytest.fixture
async def sender(cloud: FakeCloud, tmp_path: Path) -> AsyncIterator[Sender]:
    async with vehicle(cloud.url, tmp_path) as running:
        yield running


@pytest.fixture
async def recorded(tmp_path: Path) -> RecordedPart:
    return await RecordedPart.video(tmp_path, VIDEO)


def begun(recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, content: bytes) -> None:
    """As after a restart: of an upload with a stored address, so much is there."""
    tus.begin("1", len(VIDEO), content)
    recorded.part = replace(recorded.part, upload_url=f"{cloud.url}/uploads/1")


def once(*answers: Answer) -> Callable[[Seen], Answer | None]:
    """Give these to the first PATCHes; then the server has the word."""
    left: Iterator[Answer] = iter(answers)
    return lambda _: next(left, None)


def offsets(cloud: FakeCloud) -> list[int]:
    return [int(seen.headers["upload-offset"]) for seen in cloud.to("PATCH")]


async def test_it_is_asked_before_each_request_whether_it_still_may_be_sent(
    sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
) -> None:
    recorded.may_be_sent_until = 1  # the creation
    with pytest.raises(HeldError, match="withdrew"):
        await sender.send(recorded)
    assert [seen.method for seen in cloud.requests] == ["OPTIONS", "POST"]
    recorded.may_be_sent_until = None
    await sender.send(recorded)
    assert tus.contents() == [VIDEO]
    # Each request but OPTIONS, which whoever calls has asked for; one more no came before.
    assert recorded.asked == len(cloud.requests)


class TestRowOptions:
    async def test_is_asked_once_for_many_parts(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        for _ in range(2):
            recorded.part = replace(recorded.part, upload_url=None)
            await sender.send(recorded)
        assert len(cloud.to("OPTIONS", VIDEOS)) == 1
        assert tus.contents() == [VIDEO, VIDEO]

    @pytest.mark.parametrize(
        "answer",
        [
            Answer(405),
            problem(404),
            Answer(501),
            Answer(204, headers={"Tus-Resumable": "1.0.0", "Tus-Extension": "termination"}),
            Answer(204, headers={"Tus-Resumable": "0.2.2", "Tus-Extension": "creation"}),
            Answer(204, headers={"Allow": "POST"}),
            Answer(200, headers={**VERSION, "Tus-Extension": "creation", "Tus-Max-Size": str(len(VIDEO) - 1)}),
        ],
        ids=["405", "404", "501", "no creation", "another version", "plain", "too small"],
    )
    async def test_without_the_offer_it_goes_in_one_request(
        self, sender: Sender, recorded: RecordedPart, cloud: FakeCloud, answer: Answer
    ) -> None:
        cloud.script("OPTIONS", VIDEOS, answer)
        await sender.send(recorded)
        (post,) = cloud.to("POST", VIDEOS)
        assert VIDEO in post.body
        assert "tus-resumable" not in post.headers
        assert [seen.method for seen in cloud.requests] == ["OPTIONS", "POST"]

    @pytest.mark.parametrize("status", [408, 429, 500, 502, 503, 504])
    async def test_not_now_is_no_no(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, status: int
    ) -> None:
        cloud.script("OPTIONS", VIDEOS, problem(status))
        with pytest.raises(NotNowError):
            await sender.send(recorded)
        assert not cloud.to("POST")
        sender.clock.tick(PAUSE)
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]

    async def test_a_refused_credential_is_that(self, sender: Sender, recorded: RecordedPart, cloud: FakeCloud) -> None:
        cloud.script("OPTIONS", VIDEOS, refused())
        with pytest.raises(CredentialError):
            await sender.send(recorded)
        assert not cloud.to("POST")

    async def test_a_login_page_is_not_believed_for_long(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        cloud.script("OPTIONS", VIDEOS, portal())
        cloud.script("POST", VIDEOS, portal())
        with pytest.raises(UnacknowledgedError):
            await sender.send(recorded)
        sender.clock.tick(PAUSE)
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]

    async def test_an_offer_that_has_ended_is_asked_for_again(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        await sender.send(recorded)
        recorded.part = replace(recorded.part, upload_url=None)
        cloud.script("POST", VIDEOS, problem(415))
        cloud.script("OPTIONS", VIDEOS, Answer(405))
        await sender.send(recorded)
        assert VIDEO in cloud.to("POST", VIDEOS)[-1].body
        assert recorded.part.upload_url is None


class TestRowCreation:
    async def test_says_length_and_metadata(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        await sender.send(recorded)
        (upload,) = tus.uploads.values()
        assert upload.length == len(VIDEO)
        assert upload.metadata == {
            "filename": "bev.mp4",
            "filetype": "video/mp4",
            "sha256": hashlib.sha256(VIDEO).hexdigest(),
        }
        (post,) = cloud.to("POST", VIDEOS)
        assert post.headers["tus-resumable"] == "1.0.0"
        assert post.body == b""

    async def test_annotations_say_how_they_are_packed(
        self, sender: Sender, tmp_path: Path, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.options = {"Accept-Encoding": "gzip"}
        assert await sender.parts.packs_annotations(SCENARIO)
        recorded = await RecordedPart.annotations(tmp_path, b'{"frames": []}')
        await sender.send(recorded)
        (upload,) = tus.uploads.values()
        assert gzip.decompress(bytes(upload.content)) == b'{"frames": []}'
        assert (upload.metadata["filename"], upload.metadata["filetype"]) == ("annotations.json", "application/gzip")
        assert len(cloud.to("POST", ANNOTATIONS)) == 1

    async def test_packed_annotations_go_in_one_request_where_the_offer_is_for_raw_ones(
        self, sender: Sender, tmp_path: Path, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        assert not await sender.parts.packs_annotations(SCENARIO)
        recorded = await RecordedPart.annotations(tmp_path, b'{"frames": []}', packed=True)
        await sender.send(recorded)
        (post,) = cloud.to("POST", ANNOTATIONS)
        assert post.headers["content-encoding"] == "gzip"
        assert post.json == {"frames": []}
        assert not tus.uploads

    async def test_the_address_is_kept_before_the_first_byte_goes(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        kept_at_first: list[list[str | None]] = []

        def look(_: Seen) -> None:
            kept_at_first.append(list(recorded.remembered))

        tus.on_patch = look
        await sender.send(recorded)
        assert kept_at_first[0] == [f"{cloud.url}/uploads/1"]

    async def test_repeated_after_a_lost_answer_it_has_the_same_key(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        cloud.script("POST", VIDEOS, Answer(201, cut=5))
        await sender.send_until_there(recorded)
        first, second = cloud.to("POST", VIDEOS)
        assert first.key == second.key
        assert tus.contents() == [VIDEO]

    async def test_409_is_there_already(self, sender: Sender, recorded: RecordedPart, tus: FakeTus) -> None:
        tus.on_create = lambda _: problem(409)
        await sender.send(recorded)
        assert not tus.uploads

    async def test_413_is_the_parts_fault_and_it_is_not_sent(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_create = lambda _: problem(413)
        with pytest.raises(RejectedError, match="answered 413"):
            await sender.send(recorded)
        assert not any(seen.body for seen in cloud.requests)

    async def test_without_an_address_nothing_is_sent(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_create = once(Answer(201, headers=VERSION))
        with pytest.raises(UnreachableError):
            await sender.send(recorded)
        assert not cloud.to("PATCH")
        assert recorded.remembered == []


class TestRowTooLarge:
    """413 on a PATCH is about the piece."""

    async def test_the_piece_is_halved_until_it_passes_and_that_is_remembered_over_a_restart(
        self, tus: FakeTus, cloud: FakeCloud, store: Store, clock: FakeClock, tmp_path: Path
    ) -> None:
        most = 300_000
        tus.on_patch = lambda seen: problem(413) if int(seen.headers["content-length"]) > most else None
        records = ScenarioRecords(store.documents, store.outbox, clock)
        refused: list[int] = []
        for run in range(2):
            (folder := tmp_path / str(run)).mkdir()
            async with vehicle(cloud.url, folder, ceilings=records) as sender:
                await sender.send(await RecordedPart.video(folder, VIDEO))
            sizes = [int(seen.headers["content-length"]) for seen in cloud.to("PATCH")]
            refused.append(len([size for size in sizes if size > most]))
        assert refused == [2, 2]  # 1 MiB and its half, in the first run; none in the second
        assert tus.contents() == [VIDEO, VIDEO]
        server = cloud.url.removeprefix("http://")
        assert await records.patch_ceiling(server) == MEBIBYTE // 4
        clock.tick(8 * 86_400.0)
        assert await records.patch_ceiling(server) is None


class TestReusedConnection:
    """One that ends before a byte of the answer: asked how much is there, and once more at once."""

    @pytest.mark.parametrize("fault", [Answer(cut=0), Answer(cut=0, reset=True)])
    async def test_a_piece_goes_again_at_once(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, fault: Answer
    ) -> None:
        told: list[AttemptOutcome] = []
        sender.client.subscribe(lambda contact, _: told.append(contact))
        tus.on_patch = once(fault)
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]
        assert set(told) == {AttemptOutcome.AUTHORIZED}
        assert len(cloud.to("HEAD")) == 1

    async def test_a_second_time_it_is_cut(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_patch = once(*[Answer(cut=0)] * 9)
        with pytest.raises(CutError):
            await sender.send(recorded)
        first, second = [int(seen.headers["content-length"]) for seen in cloud.to("PATCH")]
        assert second <= first // 2


class TestRowLocation:
    @pytest.mark.parametrize("where", ["absolute", "/uploads/1", "../../uploads/1", "//host/uploads/1"])
    async def test_may_be_absolute_or_relative(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, where: str
    ) -> None:
        host = cloud.url.removeprefix("http:")
        tus.where = lambda _: f"{cloud.url}/uploads/1" if where == "absolute" else where.replace("//host", host)
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]
        assert recorded.part.upload_url == f"{cloud.url}/uploads/1"

    async def test_on_another_origin_gets_no_credential(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, stranger: FakeCloud
    ) -> None:
        stranger.handler = tus
        tus.where = lambda upload: f"{stranger.url}/uploads/{upload}"
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]
        patches = stranger.to("PATCH")
        assert len(patches) == 2
        assert all("authorization" not in seen.headers for seen in patches)
        assert not cloud.to("PATCH")

    @pytest.mark.parametrize("status", [401, 403])
    async def test_another_origins_refusal_closes_no_gate(
        self,
        sender: Sender,
        recorded: RecordedPart,
        tus: FakeTus,
        cloud: FakeCloud,
        stranger: FakeCloud,
        status: int,
    ) -> None:
        """An address may hold a token that expires: the next one holds another."""
        stranger.handler = tus
        tus.where = lambda upload: f"{stranger.url}/uploads/{upload}"
        tus.on_patch = once(problem(status))
        await sender.send(recorded)
        assert len(cloud.to("POST", VIDEOS)) == 2
        assert tus.contents() == [b"", VIDEO]

    @pytest.mark.parametrize(
        "where",
        ["", VIDEOS, "ftp://127.0.0.1/u", "file:///etc/passwd", "http://[", "http://127.0.0.1:CLOSED/u"],
    )
    async def test_that_leads_nowhere_is_done_without(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, where: str
    ) -> None:
        there = where.replace("CLOSED", str(closed_port()))
        tus.where = lambda _: there
        await sender.send(recorded)
        assert not cloud.to("PATCH")
        assert VIDEO in cloud.to("POST", VIDEOS)[-1].body
        assert recorded.part.upload_url is None

    async def test_elsewhere_that_is_gone_for_a_while_is_waited_for(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, stranger: FakeCloud
    ) -> None:
        stranger.handler = tus
        tus.where = lambda upload: f"{stranger.url}/uploads/{upload}"
        tus.on_patch = lambda seen: None if seen.headers["upload-offset"] == "0" else problem(503)
        with pytest.raises(NotNowError):
            await sender.send(recorded)
        await stranger.stop()
        with pytest.raises(UnreachableError, match="cannot connect"):
            await sender.send(recorded)
        await stranger.start()
        tus.on_patch = lambda _: None
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]


class TestRowHeadAndPatch:
    async def test_go_on_from_the_servers_offset(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        begun(recorded, tus, cloud, VIDEO[:123_456])
        await sender.send(recorded)
        assert offsets(cloud)[0] == 123_456
        assert tus.contents() == [VIDEO]
        assert sum(len(seen.body) for seen in cloud.to("PATCH")) == len(VIDEO) - 123_456
        assert not cloud.to("POST")
        assert sender.starts == [123_456]

    async def test_one_that_is_whole_is_not_sent_again(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        begun(recorded, tus, cloud, VIDEO)
        await sender.send(recorded)
        assert [seen.method for seen in cloud.requests] == ["OPTIONS", "HEAD"]
        assert recorded.progress == [len(VIDEO)]

    async def test_say_all_that_the_protocol_wants(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        begun(recorded, tus, cloud, b"")
        await sender.send(recorded)
        assert cloud.to("HEAD")[0].headers["tus-resumable"] == "1.0.0"
        for seen in cloud.to("PATCH"):
            assert seen.headers["tus-resumable"] == "1.0.0"
            assert seen.headers["content-type"] == "application/offset+octet-stream"
            assert int(seen.headers["content-length"]) == len(seen.body)

    async def test_a_server_that_takes_less_gets_the_rest(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus
    ) -> None:
        tus.keep = lambda size: max(1, size // 2)
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]

    async def test_nothing_goes_twice_where_nothing_went_wrong(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        await sender.send(recorded)
        assert sum(len(seen.body) for seen in cloud.requests) == len(VIDEO)
        assert recorded.progress[-1] == len(VIDEO)
        assert not cloud.to("HEAD")


class TestRowGone:
    @pytest.mark.parametrize("status", [403, 404, 410])
    async def test_a_stored_address_is_replaced(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, status: int
    ) -> None:
        recorded.part = replace(recorded.part, upload_url=f"{cloud.url}/uploads/old")
        cloud.script("HEAD", "/uploads/old", problem(status))
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]
        assert recorded.remembered == [f"{cloud.url}/uploads/1"]

    @pytest.mark.parametrize("status", [403, 404, 410])
    async def test_also_where_it_goes_in_the_middle(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, status: int
    ) -> None:
        tus.on_patch = once(problem(status))
        await sender.send(recorded)
        assert tus.contents() == [b"", VIDEO]

    async def test_one_that_a_repeated_key_brings_back_is_asked_for_under_another(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        recorded.part = replace(recorded.part, upload_url=f"{cloud.url}/uploads/old")
        tus.on_create = once(Answer(201, headers={**VERSION, "Location": "/uploads/old"}))
        await sender.send(recorded)
        first, second = (seen.key for seen in cloud.to("POST", VIDEOS))
        assert first != second
        assert tus.contents() == [VIDEO]

    async def test_a_backend_that_loses_every_upload_gets_it_in_one_request(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_patch = lambda _: GONE
        await sender.send(recorded)
        assert len(tus.uploads) == 3
        assert VIDEO in cloud.to("POST", VIDEOS)[-1].body
        assert recorded.remembered[-1] is None


class TestRowConflict:
    async def test_409_on_patch_asks_where_the_server_is(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_patch = once(Answer(409, headers=VERSION))
        await sender.send_over_time(recorded)
        assert [seen.method for seen in cloud.requests][:4] == ["OPTIONS", "POST", "PATCH", "HEAD"]
        assert tus.contents() == [VIDEO]

    @pytest.mark.parametrize("status", [409, 423])
    async def test_a_server_that_still_holds_the_upload_is_waited_for(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, status: int
    ) -> None:
        """Seen: three 409 in 0.1 s, then a new upload from 0: 44 MB for a 30 MB file."""
        begun(recorded, tus, cloud, VIDEO[:5])
        freed = sender.clock.monotonic() + 10.0

        def held(_: Seen) -> Answer | None:
            return Answer(status, headers=VERSION) if sender.clock.monotonic() < freed else None

        tus.on_patch = held
        assert await sender.send_over_time(recorded) >= 10.0
        # Under load the clock runs ahead of the requests; waits grow all the same.
        assert offsets(cloud)[0] == 5
        assert len(offsets(cloud)) <= 8
        assert cloud.to("POST", VIDEOS) == []
        assert tus.contents() == [VIDEO]

    async def test_for_no_longer_than_two_minutes_in_all(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        begun(recorded, tus, cloud, VIDEO[:5])
        tus.on_patch = lambda seen: Answer(409, headers=VERSION) if seen.path == "/uploads/1" else None
        assert await sender.send_over_time(recorded) >= 60.0
        (begun_anew,) = cloud.to("POST", VIDEOS)
        assert VIDEO in tus.contents() or VIDEO in begun_anew.body

    @pytest.mark.parametrize("status", [405, 501])
    async def test_a_head_that_is_refused_means_a_new_upload(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, status: int
    ) -> None:
        begun(recorded, tus, cloud, VIDEO[:5])
        cloud.script("HEAD", "/uploads/1", Answer(status))
        await sender.send(recorded)
        assert VIDEO in tus.contents()

    @pytest.mark.parametrize("largest", [64 << 10, 100_000, 300_000, 1 << 20])
    async def test_a_piece_that_is_too_large_is_halved_and_what_passed_is_remembered(
        self, sender: Sender, tmp_path: Path, tus: FakeTus, cloud: FakeCloud, largest: int
    ) -> None:
        """As nginx with `client_max_body_size` before a tus server."""
        content = noise(3 << 20)
        recorded = await RecordedPart.video(tmp_path, content)
        tus.on_patch = lambda seen: Answer(413) if len(seen.body) > largest else None
        await sender.send(recorded)
        refused = len([seen for seen in cloud.to("PATCH") if len(seen.body) > largest])
        assert refused <= 5
        recorded.part = replace(recorded.part, upload_url=None)
        await sender.send(recorded)
        assert len([seen for seen in cloud.to("PATCH") if len(seen.body) > largest]) == refused
        assert tus.contents() == [content, content]

    async def test_one_that_is_refused_at_64_kib_is_set_aside(
        self, sender: Sender, tmp_path: Path, tus: FakeTus
    ) -> None:
        recorded = await RecordedPart.video(tmp_path, noise(1 << 20))
        tus.on_patch = lambda _: Answer(413)
        with pytest.raises(RejectedError, match="answered 413 to 65536 bytes"):
            await sender.send(recorded)

    async def test_a_server_that_takes_nothing_gets_less_each_time(
        self, sender: Sender, tmp_path: Path, tus: FakeTus
    ) -> None:
        recorded = await RecordedPart.video(tmp_path, noise(3 << 20))
        tus.on_patch = lambda _: problem(500)
        for _ in range(10):
            with pytest.raises((NotNowError, HeldError)):
                await sender.send(recorded)
            sender.clock.tick(120.0)
        assert sender.sent_bytes <= 2 * (1 << 20) + 10 * (64 << 10) + 20_000

    @pytest.mark.parametrize("status", [500, 503])
    async def test_5xx_is_for_later(self, sender: Sender, recorded: RecordedPart, tus: FakeTus, status: int) -> None:
        tus.on_patch = once(problem(status))
        faults = await sender.send_until_there(recorded)
        assert [type(fault) for fault in faults] == [NotNowError]
        assert tus.contents() == [VIDEO]
        assert len(set(recorded.remembered)) == 1

    async def test_401_is_the_credential(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_patch = once(refused())
        with pytest.raises(CredentialError):
            await sender.send(recorded)
        assert recorded.part.upload_url == f"{cloud.url}/uploads/1"

    @pytest.mark.parametrize("asks", ["HEAD", "PATCH"])
    async def test_412_another_version_goes_in_one_request(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, asks: str
    ) -> None:
        """It says that it speaks 1.0.0, and then that it does not."""
        begun(recorded, tus, cloud, b"")
        if asks == "HEAD":
            cloud.script("HEAD", "/uploads/1", Answer(412, headers={"Tus-Version": "0.2.2"}))
        tus.on_patch = lambda _: Answer(412, headers={"Tus-Version": "0.2.2"})
        await sender.send(recorded)
        assert VIDEO in cloud.to("POST", VIDEOS)[-1].body
        assert recorded.part.upload_url is None


class TestRowChecksum:
    @pytest.mark.parametrize(
        ("listed", "used"), [("sha1,sha256", "sha256"), ("md5,sha1", "sha1"), ("crc32", None), ("", None)]
    )
    async def test_is_that_of_each_body(
        self,
        sender: Sender,
        recorded: RecordedPart,
        tus: FakeTus,
        cloud: FakeCloud,
        listed: str,
        used: str | None,
    ) -> None:
        tus.extensions, tus.algorithms = "creation,checksum", listed
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]
        for seen in cloud.to("PATCH"):
            if used is None:
                assert "upload-checksum" not in seen.headers
            else:
                expected = b64encode(hashlib.new(used, seen.body).digest()).decode()
                assert seen.headers["upload-checksum"] == f"{used} {expected}"

    async def test_460_sends_the_same_bytes_again(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.extensions, tus.algorithms = "creation,checksum", "sha1"
        tus.on_patch = once(Answer(460, headers=VERSION))
        await sender.send(recorded)
        assert offsets(cloud)[:2] == [0, 0]
        assert tus.contents() == [VIDEO]

    async def test_460_again_and_again_is_told(self, sender: Sender, recorded: RecordedPart, tus: FakeTus) -> None:
        tus.extensions, tus.algorithms = "creation,checksum", "sha1"
        tus.on_patch = lambda _: Answer(460, headers=VERSION)
        with pytest.raises(RejectedError, match="do not arrive as they were sent"):
            await sender.send(recorded)


def said(offset: object) -> Answer:
    return Answer(204, headers={**VERSION, "Upload-Offset": str(offset)})


class TestLies:
    """A server that says what cannot be is asked again, and in the end done without."""

    @pytest.mark.parametrize("offset", [len(VIDEO) + 1, 2**62, 0, -1, "all"])
    async def test_about_the_offset_after_a_patch(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, offset: object
    ) -> None:
        tus.on_patch = lambda _: said(offset)
        await sender.send(recorded)
        assert VIDEO in cloud.to("POST", VIDEOS)[-1].body
        assert len(cloud.to("PATCH")) < 20

    @pytest.mark.parametrize("offset", [len(VIDEO) + 1, "-3", "x"])
    async def test_about_the_offset_of_a_stored_upload(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud, offset: object
    ) -> None:
        begun(recorded, tus, cloud, b"")
        cloud.script("HEAD", "/uploads/1", said(offset))
        await sender.send(recorded)
        assert VIDEO in tus.contents()
        assert recorded.part.upload_url == f"{cloud.url}/uploads/2"

    async def test_about_the_length(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.begin("1", 5, b"")
        recorded.part = replace(recorded.part, upload_url=f"{cloud.url}/uploads/1")
        await sender.send(recorded)
        assert VIDEO in tus.contents()

    async def test_no_offset_at_all_is_no_answer(self, sender: Sender, recorded: RecordedPart, tus: FakeTus) -> None:
        tus.on_patch = once(Answer(204, headers=VERSION))
        with pytest.raises(UnreachableError, match="without Upload-Offset"):
            await sender.send(recorded)
        sender.clock.tick(PAUSE)
        await sender.send(recorded)
        assert tus.contents() == [VIDEO]

    async def test_after_them_the_next_parts_go_in_one_request_for_a_while(
        self, sender: Sender, recorded: RecordedPart, tus: FakeTus, cloud: FakeCloud
    ) -> None:
        tus.on_patch = lambda _: said(0)
        await sender.send(recorded)
        patches = len(cloud.to("PATCH"))
        await sender.send(recorded)
        assert len(cloud.to("PATCH")) == patches
        sender.clock.tick(3600.0)
        tus.on_patch = lambda _: None
        await sender.send(recorded)
        assert VIDEO in tus.contents()


class TestCutOff:
    async def test_halting_ends_it_and_what_was_there_stays(
        self, cloud: FakeCloud, tmp_path: Path, recorded: RecordedPart, tus: FakeTus
    ) -> None:
        """As when consent is withdrawn, or the network becomes one that must not be used."""
        answer = asyncio.Event()
        tus.on_patch = lambda seen: None if seen.headers["upload-offset"] == "0" else Answer(204, after=answer)
        async with vehicle(cloud.url, tmp_path) as sender:
            sending = asyncio.create_task(sender.send(recorded))
            await cloud.received(2, method="PATCH")
            sender.client.halt("test", "the network forbids it")
            with pytest.raises(CloudError, match="cut off: the network forbids it"):
                await sending
            tus.on_patch = lambda _: None
            sender.client.resume("test")
            await sender.send(recorded)
            assert sender.starts[-1] == MEBIBYTE
        assert tus.contents() == [VIDEO]

    async def test_no_address_and_no_path_gets_into_the_log(
        self,
        sender: Sender,
        recorded: RecordedPart,
        tus: FakeTus,
        cloud: FakeCloud,
        caplog: pytest.LogCaptureFixture,
    ) -> None:
        """An upload's address may hold a token."""
        caplog.set_level("DEBUG")
        tus.where = lambda upload: f"/uploads/{upload}?token=hunter2"
        tus.on_patch = once(problem(503), GONE)
        await sender.send_until_there(recorded)
        tus.on_patch = lambda _: said(0)
        recorded.part = replace(recorded.part, upload_url=None)
        await sender.send(recorded)
        logged = [record for record in caplog.records if record.name.startswith("sentinel_sync")]
        assert logged
        assert not any("hunter2" in record.getMessage() for record in logged)
        assert not any(str(recorded.folder) in record.getMessage() for record in logged)
