"""Parts in one request each, to servers whose parsers of forms are not ours."""

import asyncio
import hashlib
import json
import time
import tracemalloc
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import pytest

from sentinel_sync.base.errors import CredentialError, CutError, RejectedError
from sentinel_sync.cloud.http import DEADLINE_FACTOR
from sentinel_sync.cloud.response_policy import AttemptOutcome
from tests.fakes.cloud import Answer, FakeCloud, problem
from tests.scenarios.recorded_part import VIDEOS, RecordedPart, noise
from tests.scenarios.sending import MEBIBYTE, vehicle
from tests.servers.form_servers import FORM_SERVERS, FormFile, Taken

pytestmark = pytest.mark.usefixtures("no_blocking")

#: With all that could be taken for the end of a part.
VIDEO = b"--\r\n\r\n--" + noise(3 * MEBIBYTE + 1234) + b"\r\n--\r\n--"
#: More than lies in buffers on the way.
LARGE = 16 * MEBIBYTE


@pytest.fixture(params=sorted(FORM_SERVERS))
async def server(request: pytest.FixtureRequest) -> AsyncIterator[Taken]:
    async with FORM_SERVERS[request.param]() as taken:
        yield taken


@pytest.mark.parametrize("name", ["bev.mp4", "vorne links ü.mp4"])
async def test_a_video_is_one_file_of_a_form(server: Taken, tmp_path: Path, name: str) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO, name)
    async with vehicle(server.url, tmp_path) as sender:
        await sender.send(recorded)
    assert server.files == [FormFile(name, name, "video/mp4", len(VIDEO), hashlib.sha256(VIDEO).hexdigest())]
    assert server.others == []
    assert recorded.progress[-1] == len(VIDEO)
    assert recorded.remembered == []


@pytest.mark.parametrize("packed", [True, False])
async def test_annotations_are_the_file_itself(server: Taken, tmp_path: Path, *, packed: bool) -> None:
    content = json.dumps({"frames": [{"risk": number} for number in range(2000)]}).encode()
    recorded = await RecordedPart.annotations(tmp_path, content, packed=packed)
    async with vehicle(server.url, tmp_path) as sender:
        await sender.send(recorded)
        assert (sender.sent_bytes < len(content) // 2) is packed
    assert server.annotations == [content]


async def test_one_that_is_cut_goes_again_whole_under_the_same_key(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.script("OPTIONS", VIDEOS, Answer(405), Answer(405))
    cloud.script("POST", VIDEOS, Answer(201, cut=10))
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with vehicle(cloud.url, tmp_path) as sender:
        faults = await sender.send_until_there(recorded)
    assert [type(fault) for fault in faults] == [CutError]
    first, second = cloud.to("POST", VIDEOS)
    assert first.key == second.key
    assert VIDEO in second.body


@pytest.mark.parametrize("fault", [Answer(cut=0), Answer(cut=0, reset=True), Answer(cut=0, early=True)])
async def test_on_a_kept_connection_that_ends_without_a_byte_it_goes_again_at_once(
    cloud: FakeCloud, tmp_path: Path, fault: Answer
) -> None:
    """Nobody is told of an outage: the second one goes over a connection of its own, under the same key."""
    cloud.script("OPTIONS", VIDEOS, Answer(405))
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with vehicle(cloud.url, tmp_path) as sender:
        told: list[AttemptOutcome] = []
        sender.client.subscribe(lambda contact, _: told.append(contact))
        await sender.send(recorded)
        cloud.script("POST", VIDEOS, fault)
        await sender.send(recorded)
    first, cut, again = cloud.to("POST", VIDEOS)
    assert cut.key == again.key == first.key
    assert VIDEO in again.body
    assert set(told) == {AttemptOutcome.AUTHORIZED}


async def test_a_second_one_that_ends_so_is_cut(cloud: FakeCloud, tmp_path: Path) -> None:
    cloud.script("OPTIONS", VIDEOS, Answer(405))
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with vehicle(cloud.url, tmp_path) as sender:
        await sender.send(recorded)
        cloud.script("POST", VIDEOS, Answer(cut=0), Answer(cut=0))
        with pytest.raises(CutError):
            await sender.send(recorded)
    assert len(cloud.to("POST", VIDEOS)) == 3


@pytest.mark.parametrize("status", [413, 422])
async def test_what_a_framework_refuses_early_is_refused(server: Taken, tmp_path: Path, status: int) -> None:
    """Not a broken connection: then a video that is too large would be sent again and again."""
    server.refuse = status
    recorded = await RecordedPart.video(tmp_path, bytes(LARGE))
    async with vehicle(server.url, tmp_path) as sender:
        with pytest.raises(RejectedError, match=f"answered {status}"):
            await sender.send(recorded)
    assert server.files == []


@pytest.mark.parametrize(("status", "error"), [(413, RejectedError), (401, CredentialError)])
async def test_an_answer_that_comes_first_is_seen_though_the_connection_closes(
    cloud: FakeCloud, tmp_path: Path, status: int, error: type[Exception]
) -> None:
    cloud.script("OPTIONS", VIDEOS, Answer(405))
    refusal = problem(status)
    cloud.script("POST", VIDEOS, Answer(status, refusal.body, refusal.headers, early=True))
    recorded = await RecordedPart.video(tmp_path, bytes(LARGE))
    async with vehicle(cloud.url, tmp_path) as sender:
        with pytest.raises(error):
            await sender.send(recorded)
        assert sender.sent_bytes < LARGE


async def test_the_bandwidth_limit_holds_and_moves_the_deadline(cloud: FakeCloud, tmp_path: Path) -> None:
    """A request may take three times the time-out, and one that is slow as it was told to be may take longer."""
    limit, timeout = MEBIBYTE, 0.5
    recorded = await RecordedPart.video(tmp_path, noise(2 * MEBIBYTE))
    async with vehicle(cloud.url, tmp_path, upload_bandwidth_limit=limit, timeout=timeout) as sender:
        began = time.monotonic()
        await sender.send(recorded)
        taken = time.monotonic() - began
    # A burst of 64 KiB at the beginning.
    assert taken >= (2 * MEBIBYTE - (64 << 10)) / limit
    assert taken > DEADLINE_FACTOR * timeout


@asynccontextmanager
async def sink() -> AsyncIterator[str]:
    """A server that throws away what it gets: no resumable uploads, and 201 for every part."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await converse(reader, writer)
        except asyncio.IncompleteReadError:
            return  # the client has nothing more to ask
        finally:
            writer.close()

    async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while head := (await reader.readuntil(b"\r\n\r\n")).decode("latin-1").lower():
            left = int(head.partition("content-length: ")[2].partition("\r\n")[0] or 0)
            while left > 0:
                left -= len(await reader.read(min(left, 1 << 16)))
            status = b"405 Method Not Allowed" if head.startswith("options") else b"201 Created"
            writer.write(b"HTTP/1.1 " + status + b"\r\nContent-Length: 2\r\n\r\n{}")
            if not head.startswith("options"):
                break
        await writer.drain()

    server = await asyncio.start_server(conversation, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


async def test_memory_does_not_grow_with_the_file(tmp_path: Path) -> None:
    size = 96 * MEBIBYTE
    recorded = await RecordedPart.video(tmp_path, b"")
    recorded.grow(size)
    async with sink() as url, vehicle(url, tmp_path) as sender:
        tracemalloc.start()
        try:
            await sender.send(recorded)
            _, peak = tracemalloc.get_traced_memory()
        finally:
            tracemalloc.stop()
        assert sender.sent_bytes > size
    assert peak < 8 * MEBIBYTE
