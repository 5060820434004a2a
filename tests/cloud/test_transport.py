"""The connections that videos travel on: marked, heard while they speak, apart from all that is urgent."""

import asyncio
import gc
import socket
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from http import HTTPMethod
from random import Random
from uuid import uuid4

import httpx
import pytest

from sentinel_sync.base.errors import CredentialError, HeldError, RejectedError, UnreachableError
from sentinel_sync.cloud.bulk import BACKGROUND, UNSENT_BYTES
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.http import build_http_client
from sentinel_sync.cloud.response import Response
from sentinel_sync.cloud.transport import BULK
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import FLEET, VEHICLE, Answer, FakeCloud, PrivateCA, problem, settings_for
from tests.fakes.fault_proxy import fault_proxy
from tests.fakes.patience import PATIENCE
from tests.fakes.wire_rules import Seen, WireRules

PIECE = bytes(256 << 10)
#: More pieces than lie in buffers on the way.
MANY = 96
HEALTHY = b'HTTP/1.1 200 OK\r\nContent-Length: 15\r\nConnection: close\r\n\r\n{"status":"ok"}'
CREATED = b"HTTP/1.1 201 Created\r\nContent-Length: 2\r\n\r\n{}"


class Pieces:
    """A body of so many pieces; before the last one it waits for a word, where there is one to wait for."""

    def __init__(self, count: int = MANY, word: asyncio.Event | None = None) -> None:
        self.count = count
        self.taken = 0
        self._word = word

    async def __aiter__(self) -> AsyncIterator[bytes]:
        for number in range(self.count):
            if self._word is not None and number == self.count - 1:
                await self._word.wait()
            self.taken += 1
            yield PIECE

    @property
    def headers(self) -> dict[str, str]:
        return {"Content-Type": "video/mp4", "Content-Length": str(self.count * len(PIECE))}


@asynccontextmanager
async def client_of(cloud: FakeCloud, **settings: object) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(
        settings=settings_for(cloud, max_retries=0, timeout=PATIENCE, **settings), clock=FakeClock(), rng=Random(1)
    ) as client:
        yield client


async def upload(client: CloudAPIClient, body: Pieces, path: str = "/scenarios/s/videos") -> Response:
    return await client.request(
        HTTPMethod.POST, path, content=body, headers=body.headers, idempotency_key=str(uuid4()), bulk=True
    )


@asynccontextmanager
async def raw_server(
    converse: Callable[[asyncio.StreamReader, asyncio.StreamWriter], Awaitable[None]],
) -> AsyncIterator[str]:
    """A server that is nothing but what a test says."""

    async def conversation(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            await converse(reader, writer)
        finally:
            writer.close()

    server = await asyncio.start_server(conversation, "127.0.0.1", 0)
    async with server:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"


class TestMark:
    """DSCP CS1, where it is asked for, on what is bulk alone: asked of the socket itself."""

    @staticmethod
    async def socket_of(cloud: FakeCloud, *, bulk: bool, **settings: object) -> int:
        async with (
            build_http_client(settings_for(cloud, **settings)) as http,
            http.stream("GET", cloud.url, extensions={BULK: bulk}) as response,
        ):
            opened: socket.socket = response.extensions["network_stream"].get_extra_info("socket")
            await response.aread()
            assert (opened.getsockopt(socket.IPPROTO_TCP, socket.TCP_NOTSENT_LOWAT) == UNSENT_BYTES) is bulk
            if opened.family == socket.AF_INET6:
                return opened.getsockopt(socket.IPPROTO_IPV6, socket.IPV6_TCLASS)
            return opened.getsockopt(socket.IPPROTO_IP, socket.IP_TOS)

    @pytest.mark.parametrize(("bulk", "asked", "mark"), [(True, True, 0x20), (True, False, 0), (False, True, 0)])
    async def test_is_cs1(self, *, bulk: bool, asked: bool, mark: int) -> None:
        async with _any() as cloud:
            assert await self.socket_of(cloud, bulk=bulk, mark_background=asked) == mark
        assert BACKGROUND == 0x20

    async def test_is_there_under_tls(self, private_ca: PrivateCA) -> None:
        async with _any(tls=private_ca) as cloud:
            known = {"mark_background": True, "ca_file": private_ca.ca_file}
            assert await self.socket_of(cloud, bulk=True, **known) == BACKGROUND
            assert await self.socket_of(cloud, bulk=False, **known) == 0

    @pytest.mark.parametrize(("bulk", "mark"), [(True, BACKGROUND), (False, 0)])
    async def test_is_there_on_ipv6(self, *, bulk: bool, mark: int) -> None:
        cloud = _any()
        try:
            listening = await asyncio.start_server(cloud._accept, "::1", 0)
        except OSError as error:
            pytest.skip(f"this machine has no IPv6 loopback: {error}")
        async with listening:
            cloud._port, cloud._host = listening.sockets[0].getsockname()[1], "[::1]"
            assert await self.socket_of(cloud, bulk=bulk, mark_background=True) == mark
        await cloud.stop()


def _any(tls: PrivateCA | None = None) -> FakeCloud:
    """A server that asks for nothing."""
    cloud = FakeCloud(tls=None if tls is None else tls.server())
    cloud.rules = _NoRules(VEHICLE, FLEET, None)
    return cloud


class _NoRules(WireRules):
    def violations(self, _: Seen) -> list[str]:
        return []


class TestHeard:
    """An answer that comes before all is sent ends the sending, and is read."""

    @pytest.mark.parametrize("tls", [False, True])
    @pytest.mark.parametrize(("status", "error"), [(413, RejectedError), (401, CredentialError), (201, None)])
    async def test_an_early_answer(
        self, private_ca: PrivateCA, *, tls: bool, status: int, error: type[Exception] | None
    ) -> None:
        async with FakeCloud(tls=private_ca.server() if tls else None) as cloud:
            refusal = problem(status, "Too large", "at most a gigabyte")
            answer = Answer(status, refusal.body, refusal.headers, early=True)
            cloud.script("POST", "/scenarios/s/videos", answer)
            body = Pieces()
            async with client_of(cloud, **({"ca_file": private_ca.ca_file} if tls else {})) as client:
                if error is None:
                    assert (await upload(client, body)).status == status
                else:
                    with pytest.raises(error, match=f"answered {status}"):
                        await upload(client, body)
            assert body.taken < MANY

    async def test_again_and_again(self, cloud: FakeCloud) -> None:
        """It is no matter of luck who is first."""
        refusal = problem(413)
        rounds = 30
        cloud.script("POST", "/scenarios/s/videos", *[Answer(413, refusal.body, refusal.headers, early=True)] * rounds)
        async with client_of(cloud) as client:
            for _ in range(rounds):
                with pytest.raises(RejectedError, match="answered 413"):
                    await upload(client, Pieces())

    async def test_one_that_comes_while_nothing_can_be_written(self) -> None:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            if (await reader.readuntil(b"\r\n\r\n")).startswith(b"GET /health"):
                writer.write(HEALTHY)
                return
            full.set()
            await told.wait()
            writer.write(b"HTTP/1.1 413 Too Large\r\nContent-Length: 0\r\nConnection: close\r\n\r\n")
            await writer.drain()

        full, told = asyncio.Event(), asyncio.Event()
        async with raw_server(converse) as url, client_of(_at(url)) as client:
            body = Pieces()
            sending = asyncio.create_task(upload(client, body))
            await full.wait()
            told.set()
            with pytest.raises(RejectedError, match="answered 413"):
                async with asyncio.timeout(PATIENCE):
                    await sending
            assert body.taken < MANY

    @pytest.mark.parametrize("interim", [b"HTTP/1.1 100 Continue\r\n\r\n", b"HTTP/1.1 102 Processing\r\n\r\n"])
    async def test_an_interim_answer_is_none_yet(self, interim: bytes) -> None:
        received = 0

        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            nonlocal received
            await reader.readuntil(b"\r\n\r\n")
            writer.write(interim)
            while received < MANY * len(PIECE):
                received += len(await reader.read(1 << 16))
            writer.write(CREATED)
            await writer.drain()

        async with raw_server(converse) as url, client_of(_at(url)) as client:
            assert (await upload(client, Pieces())).status == 201
        assert received == MANY * len(PIECE)

    @pytest.mark.parametrize("after", [0, 5_000_000])
    async def test_a_connection_that_breaks_is_that(self, after: int) -> None:
        async def converse(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            left = after
            while left > 0:
                left -= len(await reader.read(1 << 16))
            writer.transport.abort()

        async with raw_server(converse) as url, client_of(_at(url)) as client:
            with pytest.raises(UnreachableError):
                await upload(client, Pieces())
        gc.collect()  # an exception that nobody fetched would be reported here, and fail the test

    @pytest.mark.parametrize("tls", [False, True])
    async def test_connections_are_used_again(self, private_ca: PrivateCA, *, tls: bool) -> None:
        known = {"ca_file": private_ca.ca_file} if tls else {}
        async with FakeCloud(tls=private_ca.server() if tls else None) as cloud, client_of(cloud, **known) as client:
            for _ in range(5):
                body = Pieces(12)
                assert (await upload(client, body)).status == 201
                assert len(cloud.requests[-1].body) == body.count * len(PIECE)
            assert cloud.connections == 1

    async def test_one_that_the_server_closed_while_it_was_idle_is_opened_anew(self, cloud: FakeCloud) -> None:
        async with client_of(cloud) as client:
            await upload(client, Pieces(2))
            await cloud.stop()
            await cloud.start()
            assert (await upload(client, Pieces(2))).status == 201
        assert cloud.connections == 2


async def test_what_is_cut_off_sends_no_more_than_was_on_its_way() -> None:
    """A withdrawn consent: what waits in this machine's kernel does not go either."""
    here, cut, reset = asyncio.Event(), asyncio.Event(), asyncio.Event()

    async def converse(reader: asyncio.StreamReader, _: asyncio.StreamWriter) -> None:
        await reader.readuntil(b"\r\n\r\n")
        here.set()
        await cut.wait()
        try:
            while await reader.read(1 << 16):
                pass
        except ConnectionResetError:
            reset.set()

    async with raw_server(converse) as url, client_of(_at(url)) as client:
        sending = asyncio.create_task(upload(client, Pieces()))
        await here.wait()
        client.halt("consent", "consent was withdrawn")
        with pytest.raises(HeldError, match="consent was withdrawn"):
            await sending
        cut.set()
        async with asyncio.timeout(PATIENCE):
            await reset.wait()


class TestLanes:
    async def test_a_trip_passes_while_videos_are_under_way(self, cloud: FakeCloud) -> None:
        word = asyncio.Event()
        async with client_of(cloud, max_in_flight=1) as client, asyncio.TaskGroup() as group:
            bodies = [Pieces(4, word) for _ in range(3)]
            videos = [group.create_task(upload(client, body)) for body in bodies]
            async with asyncio.timeout(PATIENCE):
                for number in range(20):
                    answer = await client.post("/trips", {"trip_id": f"t{number}"})
                    assert answer.success
            assert not any(video.done() for video in videos)
            # Two at once; the third waits for a place of its own kind.
            assert min(body.taken for body in bodies) == 0
            word.set()
        assert len(cloud.to("POST", "/trips")) == 20
        assert [task.result().status for task in videos] == [201] * 3

    async def test_a_trip_does_not_share_a_videos_connection(self, cloud: FakeCloud) -> None:
        async with client_of(cloud) as client:
            await upload(client, Pieces(1))
            await client.post("/trips", {"trip_id": "t"})
            await upload(client, Pieces(1))
            await client.post("/trips", {"trip_id": "u"})
        assert cloud.connections == 2


async def test_the_meter_counts_what_goes_over_the_wire(cloud: FakeCloud) -> None:
    sent = received = 0

    def count(sent_bytes: int, received_bytes: int) -> None:
        nonlocal sent, received
        sent, received = sent + sent_bytes, received + received_bytes

    async with fault_proxy(cloud.url) as proxy, client_of(_at(proxy.url)) as client:
        client.on_traffic(count)
        await upload(client, Pieces(3))
        await client.post("/trips", {"trip_id": "t"})
        await client.get("/models")
        assert sent == proxy.from_client
        assert received > 0


def _at(url: str) -> FakeCloud:
    """Settings for an address of a test's own."""
    cloud = FakeCloud()
    cloud._port = httpx.URL(url).port or 80
    return cloud
