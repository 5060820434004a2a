"""Resumable uploads against servers that are not ours: tus's own, one in Python, and the reference backend.

The wire contract's "Extension: resumable uploads", where the other side is somebody else's reading of tus 1.0.0.
"""

import asyncio
import gzip
import hashlib
import json
from collections.abc import AsyncIterator, Callable, Iterator
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass, replace
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings, Extensions
from sentinel_sync.base.errors import UnreachableError
from tests.fakes.cloud import API_KEY
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.patience import until
from tests.scenarios.recorded_part import SCENARIO, VIDEOS, RecordedPart, noise
from tests.scenarios.sending import MEBIBYTE, vehicle
from tests.servers.nginx import nginx
from tests.servers.node_tus import NodeTus, node_tus
from tests.servers.python_tus import python_tus

pytestmark = pytest.mark.usefixtures("no_blocking")

VIDEO = noise(6 * MEBIBYTE + 4321)
#: A head has well below so many bytes.
HEADS = 4 << 10
#: With each cut is lost what lay in buffers on the way.
ON_THE_WAY = MEBIBYTE


@dataclass(frozen=True, slots=True)
class Server:
    """Any of them: where it is, the SHA-256 of each thing that it has got, and whether it knows scenarios.

    Attributes:
        refused: So many bytes go in vain at most until it is known how large a piece may be.
    """

    url: str
    has: Callable[[], list[str]]
    knows_scenarios: bool = True
    refused: int = 0


def digest(content: bytes) -> str:
    return hashlib.sha256(content).hexdigest()


@pytest.fixture
def node(tmp_path: Path) -> Iterator[NodeTus]:
    with node_tus(tmp_path / "node") as server:
        yield server


@asynccontextmanager
async def _node(folder: Path) -> AsyncIterator[Server]:
    with node_tus(folder / "node") as server:
        yield Server(server.url, lambda: [digest(server.content(upload)) for upload in server.ids()])


def _python(algorithms: str) -> Callable[[Path], AbstractAsyncContextManager[Server]]:
    @asynccontextmanager
    async def running(folder: Path) -> AsyncIterator[Server]:
        with python_tus(folder, VIDEOS, algorithms=algorithms) as server:
            yield Server(server.url, lambda: [digest(content) for content in server.contents()], knows_scenarios=False)

    return running


def stored(folder: Path) -> list[str]:
    """What the reference backend keeps as parts."""
    return [digest(path.read_bytes()) for path in (folder / "parts").iterdir()]


@asynccontextmanager
async def _reference(folder: Path) -> AsyncIterator[Server]:
    async with running_server(BackendSettings(folder=folder / "backend", api_keys=(API_KEY,))) as url:
        yield Server(url, lambda: stored(folder / "backend"))


def _behind_nginx(
    kind: Callable[[Path], AbstractAsyncContextManager[Server]], *, buffers_requests: bool
) -> Callable[[Path], AbstractAsyncContextManager[Server]]:
    @asynccontextmanager
    async def running(folder: Path) -> AsyncIterator[Server]:
        async with kind(folder) as server:
            with nginx(folder / "nginx", server.url, buffers_requests=buffers_requests) as url:
                # A piece grows until one is refused: nginx reads no further, but what is on its way then is sent.
                yield replace(server, url=url, refused=6 * MEBIBYTE)

    return running


KINDS: dict[str, Callable[[Path], AbstractAsyncContextManager[Server]]] = {
    "node": _node,
    "python, sha1": _python("sha1"),
    "python, sha256": _python("sha256,sha1"),
    "reference": _reference,
    "reference behind nginx": _behind_nginx(_reference, buffers_requests=True),
    "node behind nginx": _behind_nginx(_node, buffers_requests=False),
}


@pytest.fixture(params=sorted(KINDS))
async def server(request: pytest.FixtureRequest, tmp_path: Path) -> AsyncIterator[Server]:
    async with KINDS[request.param](tmp_path) as running:
        yield running


async def announced(server: Server, recorded: RecordedPart, folder: Path) -> None:
    """Send the metadata where the server knows of scenarios."""
    if server.knows_scenarios:
        async with vehicle(server.url, folder) as sender:
            await recorded.announce(sender.parts)


async def test_a_video_arrives_whole(server: Server, tmp_path: Path) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    await announced(server, recorded, tmp_path)
    async with vehicle(server.url, tmp_path) as sender:
        await sender.send(recorded)
        assert sender.sent_bytes <= len(VIDEO) + 20 * HEADS + server.refused
    assert server.has() == [digest(VIDEO)]
    assert recorded.progress[-1] == len(VIDEO)
    assert len(recorded.remembered) == 1
    assert recorded.part.upload_url is not None


@pytest.mark.parametrize("seed", [1, 2])
async def test_one_that_is_cut_at_random_arrives_whole(server: Server, tmp_path: Path, seed: int) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    await announced(server, recorded, tmp_path)
    rng = Random(seed)
    async with fault_proxy(server.url) as proxy, vehicle(proxy.url, tmp_path) as sender:
        proxy.cuts.extend(rng.randrange(1, len(VIDEO) // 2) for _ in range(4))
        faults = await sender.send_until_there(recorded)
        # Where some of a piece has arrived, the same attempt goes on at once.
        assert proxy.struck == 4
        assert len(faults) <= proxy.struck
    assert server.has() == [digest(VIDEO)]
    assert [address for address in recorded.remembered if address is not None] == recorded.remembered
    assert len(set(recorded.remembered)) == 1


async def test_each_run_of_a_killed_vehicle_goes_on_where_the_server_is(server: Server, tmp_path: Path) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    await announced(server, recorded, tmp_path)
    rng = Random(3)
    async with fault_proxy(server.url) as proxy:
        for _ in range(3):
            proxy.cuts.append(rng.randrange(HEADS, len(VIDEO) // 4))
            async with vehicle(proxy.url, tmp_path, upload_bandwidth_limit=8 * MEBIBYTE) as sender:
                sending = asyncio.create_task(sender.send(recorded))
                struck = proxy.struck
                await until(lambda struck=struck: proxy.struck > struck, "a cut")  # type: ignore[misc]
                sending.cancel()
                await asyncio.gather(sending, return_exceptions=True)
        async with vehicle(proxy.url, tmp_path) as sender:
            await sender.send_until_there(recorded)
    assert server.has() == [digest(VIDEO)]


@pytest.mark.parametrize("kind", ["node", "reference"])
async def test_nothing_is_sent_twice_but_what_was_never_confirmed(kind: str, tmp_path: Path) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with KINDS[kind](tmp_path) as server:
        await announced(server, recorded, tmp_path)
        async with fault_proxy(server.url) as proxy, vehicle(proxy.url, tmp_path) as sender:
            proxy.cuts.extend([MEBIBYTE + 1000, 2 * MEBIBYTE, MEBIBYTE // 2, 3 * MEBIBYTE // 2])
            await sender.send_until_there(recorded)
            assert proxy.struck == 4
            assert proxy.from_client <= len(VIDEO) + 4 * ON_THE_WAY + 40 * HEADS
            assert sender.starts == sorted(sender.starts)
        assert server.has() == [digest(VIDEO)]


async def test_what_the_metadata_says_of_a_video(node: NodeTus, tmp_path: Path) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO[:1000])
    async with vehicle(node.url, tmp_path) as sender:
        await sender.send(recorded)
    (upload,) = node.ids()
    assert node.metadata(upload) == {"filename": "bev.mp4", "filetype": "video/mp4", "sha256": digest(VIDEO[:1000])}


async def test_an_upload_that_the_server_lost_is_created_anew(node: NodeTus, tmp_path: Path) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with fault_proxy(node.url) as proxy:
        proxy.cuts.append(2 * MEBIBYTE)
        async with vehicle(proxy.url, tmp_path) as sender:
            await asyncio.gather(sender.send(recorded), return_exceptions=True)
        (lost,) = node.ids()
        node.lose(lost)
        async with vehicle(proxy.url, tmp_path) as sender:
            await sender.send_until_there(recorded)
    (upload,) = node.ids()
    assert upload != lost
    assert digest(node.content(upload)) == digest(VIDEO)
    assert len(set(recorded.remembered)) == 2


async def test_a_server_that_dies_in_the_middle_and_comes_back_gets_the_rest(node: NodeTus, tmp_path: Path) -> None:
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    async with vehicle(node.url, tmp_path, upload_bandwidth_limit=20 * MEBIBYTE) as sender:
        sending = asyncio.create_task(sender.send(recorded))
        await until(lambda: bool(recorded.progress) and recorded.progress[-1] > 2 * MEBIBYTE, "the first bytes")
        node.kill()
        with pytest.raises(UnreachableError):
            await sending
        while_away: list[BaseException | None] = []
        for _ in range(2):
            sender.clock.tick(120.0)
            while_away += await asyncio.gather(sender.send(recorded), return_exceptions=True)
        assert all("cannot connect" in str(fault) for fault in while_away)
        node.start()
        sender.clock.tick(120.0)
        await sender.send_until_there(recorded)
        assert sender.starts[-1] > MEBIBYTE
    (upload,) = node.ids()
    assert digest(node.content(upload)) == digest(VIDEO)
    assert len(set(recorded.remembered)) == 1


class TestAnnotations:
    CONTENT = json.dumps({"frames": [{"risk": number} for number in range(5000)]}).encode()

    async def test_go_raw_where_the_server_takes_no_gzip(self, node: NodeTus, tmp_path: Path) -> None:
        async with vehicle(node.url, tmp_path) as sender:
            packed = await sender.parts.packs_annotations(SCENARIO)
            assert not packed
            recorded = await RecordedPart.annotations(tmp_path, self.CONTENT, packed=packed)
            await sender.send(recorded)
        (upload,) = node.ids()
        assert node.content(upload) == self.CONTENT
        assert node.metadata(upload)["filetype"] == "application/json"

    @pytest.mark.parametrize("resumable", [True, False])
    async def test_go_packed_to_a_backend_that_says_so(self, tmp_path: Path, *, resumable: bool) -> None:
        settings = BackendSettings(
            folder=tmp_path / "backend", api_keys=(API_KEY,), extensions=Extensions(resumable_uploads=resumable)
        )
        async with running_server(settings) as url, vehicle(url, tmp_path) as sender:
            packed = await sender.parts.packs_annotations(SCENARIO)
            assert packed
            recorded = await RecordedPart.annotations(tmp_path, self.CONTENT, packed=packed)
            await recorded.announce(sender.parts)
            await sender.send(recorded)
            assert sender.sent_bytes < len(self.CONTENT) // 2
        assert gzip.decompress(recorded.content) == self.CONTENT
        assert stored(settings.folder) == [digest(self.CONTENT)]
        assert bool(recorded.remembered) is resumable


async def test_a_part_whose_last_answer_was_lost_is_not_sent_again(tmp_path: Path) -> None:
    """The reference backend answers the creation with 409 then: the part is there."""
    recorded = await RecordedPart.video(tmp_path, VIDEO)
    settings = BackendSettings(folder=tmp_path / "backend", api_keys=(API_KEY,))
    async with running_server(settings) as url:
        async with vehicle(url, tmp_path) as sender:
            await recorded.announce(sender.parts)
            await sender.send(recorded)
        for address in (recorded.part.upload_url, None):
            recorded.part = replace(recorded.part, upload_url=address)
            async with vehicle(url, tmp_path) as sender:
                await sender.send(recorded)
                assert sender.sent_bytes < 3 * HEADS
    assert stored(settings.folder) == [digest(VIDEO)]
