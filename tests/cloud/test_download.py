"""A file comes whole from any host, or not at all: hostile hosts, resumption, the credential to nobody else."""

import asyncio
import hashlib
import tracemalloc
from collections.abc import AsyncIterator, Callable, Iterator
from pathlib import Path
from random import Random

import pytest
from blockbuster import blockbuster_ctx
from pydantic import SecretStr

from sentinel_sync.base.errors import HeldError, SentinelSyncError, UnreachableError, VerificationError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.download import BUFFER_BYTES, FileDownload, FileHostError, StaleAddressError, Target
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud, closed_port, portal, redirect
from tests.fakes.wire_rules import Seen

MODEL = Random(1).randbytes(3 * BUFFER_BYTES + 12_345)
ETAG = '"the-model"'


@pytest.fixture(autouse=True)
def _no_blocking_call_on_the_loop() -> Iterator[None]:
    with blockbuster_ctx("sentinel_sync"):
        yield


@pytest.fixture
async def client(cloud: FakeCloud, tmp_path: Path, clock: FakeClock) -> AsyncIterator[CloudAPIClient]:
    settings = CloudSettings(
        api_url=cloud.url,
        api_key=SecretStr(API_KEY),
        vehicle_id=VEHICLE,
        fleet_id=FLEET,
        rate_limit=0.0,
        timeout=2.0,
        state_dir=tmp_path / "state",
    )
    async with CloudAPIClient(settings=settings, clock=clock, rng=Random(1)) as opened:
        yield opened


@pytest.fixture
def target(tmp_path: Path) -> Target:
    return Target(tmp_path / ".v1.pt.part", len(MODEL), hashlib.sha256(MODEL).hexdigest())


def download(client: CloudAPIClient, target: Target, clock: FakeClock) -> FileDownload:
    return FileDownload(client, target, clock=clock, on_progress=lambda _: None)


@pytest.mark.parametrize("fault", [Answer(cut=0), Answer(cut=0, reset=True)])
async def test_a_kept_connection_that_ends_without_a_byte_is_followed_by_a_fresh_one(
    client: CloudAPIClient, cloud: FakeCloud, target: Target, clock: FakeClock, fault: Answer
) -> None:
    for script in ((), (fault,)):
        cloud.handler = serving()
        cloud.script("GET", "/files/m", *script)
        await download(client, target, clock).fetch(f"{cloud.url}/files/m")
        target.staging.unlink()
    assert len(cloud.to("GET")) == 3
    assert len({seen.headers["x-request-id"] for seen in cloud.requests}) == 3


def serving(content: bytes = MODEL, etag: str | None = ETAG, *, ranges: bool = True) -> Callable[[Seen], Answer]:
    """A file host as it should be."""

    def answer(seen: Seen) -> Answer:
        headers = {} if etag is None else {"ETag": etag}
        wanted = seen.headers.get("range")
        if not ranges or wanted is None or seen.headers.get("if-range", etag) != etag:
            return Answer(200, content, headers)
        start = int(wanted.removeprefix("bytes=").removesuffix("-"))
        return Answer(
            206, content[start:], headers | {"Content-Range": f"bytes {start}-{len(content) - 1}/{len(content)}"}
        )

    return answer


def cut_after(answer: Answer, body_bytes: int) -> Answer:
    """The same, broken off after so many bytes of its body."""
    lines = [f"HTTP/1.1 {answer.status} x", f"Content-Length: {len(answer.body)}"]
    lines += [f"{name}: {value}" for name, value in answer.headers.items()]
    return Answer(raw="\r\n".join([*lines, "", ""]).encode() + answer.body[:body_bytes])


class TestWhole:
    @pytest.mark.parametrize("address", ["/files/m", "files/m", "{url}/files/m"])
    async def test_it_comes_from_a_relative_or_absolute_address(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock, address: str
    ) -> None:
        cloud.handler = serving()
        await download(client, target, clock).fetch(address.format(url=cloud.url))
        assert target.staging.read_bytes() == MODEL
        assert cloud.requests[0].path == "/files/m"

    async def test_memory_does_not_grow_with_the_file(
        self, client: CloudAPIClient, tmp_path: Path, clock: FakeClock
    ) -> None:
        size, piece = 64 << 20, bytes(1 << 16)
        checksum = hashlib.sha256(bytes(size)).hexdigest()

        async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            await reader.readuntil(b"\r\n\r\n")
            writer.write(f"HTTP/1.1 200 OK\r\nContent-Length: {size}\r\n\r\n".encode())
            for _ in range(size // len(piece)):
                writer.write(piece)
                await writer.drain()
            writer.close()
            await writer.wait_closed()

        async with await asyncio.start_server(serve, "127.0.0.1", 0) as server:
            port = server.sockets[0].getsockname()[1]
            tracemalloc.start()
            try:
                large = download(client, Target(tmp_path / ".large.part", size, checksum), clock)
                await large.fetch(f"http://127.0.0.1:{port}/m")
                _, peak = tracemalloc.get_traced_memory()
            finally:
                tracemalloc.stop()
        assert peak < 8 * BUFFER_BYTES


class TestTheCredential:
    async def test_another_host_never_sees_it(
        self, cloud: FakeCloud, stranger: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        stranger.handler = serving()
        await download(client, target, clock).fetch(f"{stranger.url}/bucket/m")
        assert target.staging.read_bytes() == MODEL
        assert "authorization" not in stranger.requests[0].headers

    async def test_nor_does_one_that_the_backend_redirects_to(
        self, cloud: FakeCloud, stranger: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        stranger.handler = serving()
        cloud.handler = lambda _: redirect(f"http://thief:secret@{stranger.url.removeprefix('http://')}/bucket/m")
        await download(client, target, clock).fetch("/files/m")
        assert cloud.requests[0].headers["authorization"] == f"Bearer {API_KEY}"
        assert "authorization" not in stranger.requests[0].headers

    @pytest.mark.parametrize(
        "address", ["file:///etc/passwd", "ftp://127.0.0.1/m", "data:,x", "http://[", "javascript:x", "\n"]
    )
    @pytest.mark.parametrize("redirected", [False, True])
    async def test_only_http_is_followed(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock, address: str, redirected: bool
    ) -> None:
        if redirected:
            cloud.handler = lambda _: redirect(address.strip() or "http://[")
        with pytest.raises(UnreachableError):
            await download(client, target, clock).fetch("/files/m" if redirected else address)
        assert target.staging.stat().st_size == 0

    async def test_a_circle_of_redirects_ends(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        cloud.handler = lambda _: redirect("/files/m")
        with pytest.raises(UnreachableError, match="more than 5 times"):
            await download(client, target, clock).fetch("/files/m")
        assert len(cloud.requests) == 6


class TestResumption:
    @pytest.mark.parametrize("etag", [ETAG, None, 'W/"weak"'])
    async def test_a_cut_download_goes_on_where_it_stopped_also_in_another_process(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock, etag: str | None
    ) -> None:
        usual = serving(etag=etag)
        cloud.handler = lambda seen: cut_after(usual(seen), 700_000)
        for fetched in (1, 2):
            with pytest.raises(UnreachableError):
                await download(client, target, clock).fetch("/files/m")
            assert target.staging.stat().st_size == fetched * 700_000
        cloud.handler = usual
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL
        assert [seen.headers.get("range") for seen in cloud.requests] == [None, "bytes=700000-", "bytes=1400000-"]
        assert cloud.requests[1].headers.get("if-range") == (etag if etag == ETAG else None)

    async def test_a_host_without_ranges_sends_all_again(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        target.staging.write_bytes(MODEL[:1000])
        cloud.handler = serving(ranges=False)
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL

    async def test_a_host_that_ignores_if_range_is_seen_through(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        old = serving(b"x" * len(MODEL), '"old"')
        cloud.handler = lambda seen: cut_after(old(seen), 1000)
        with pytest.raises(UnreachableError):
            await download(client, target, clock).fetch("/files/m")
        new = serving()

        def ignoring(seen: Seen) -> Answer:
            seen.headers.pop("if-range", None)
            return new(seen)

        cloud.handler = ignoring
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL
        assert [seen.headers.get("range") for seen in cloud.requests] == [None, "bytes=1000-", None]

    async def test_what_was_spoilt_on_disk_is_fetched_again_once(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        # As a power cut leaves it: the length is there, the bytes are not.
        target.staging.write_bytes(bytes(len(MODEL) // 2))
        cloud.handler = serving(etag=None)
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL
        assert len(cloud.requests) == 2

    @pytest.mark.parametrize("there", [MODEL, MODEL + b"more"], ids=["whole", "too long"])
    async def test_what_is_there_already(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock, there: bytes
    ) -> None:
        target.staging.write_bytes(there)
        cloud.handler = serving()
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL
        assert len(cloud.requests) == int(there != MODEL)

    async def test_parts_that_are_shorter_than_asked_for_are_put_together(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        def piecemeal(seen: Seen) -> Answer:
            start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            end = min(start + 1_000_000, len(MODEL))
            return Answer(
                206, MODEL[start:end], {"Content-Range": f"bytes {start}-{end - 1}/{len(MODEL)}", "ETag": ETAG}
            )

        cloud.handler = piecemeal
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL
        assert len(cloud.requests) == 2


class TestHostileHosts:
    @pytest.mark.parametrize(
        "answer",
        [
            Answer(200, b"x" * len(MODEL)),
            Answer(200, MODEL + b"x"),
            Answer(200, MODEL[:-1]),
            Answer(endless=b"x" * 65_536),
            Answer(206, MODEL, {"Content-Range": f"bytes 0-{len(MODEL)}/{len(MODEL) + 1}"}),
        ],
        ids=["other bytes", "longer", "shorter", "endless", "part of a longer one"],
    )
    async def test_other_bytes_than_the_signed_ones_are_refused_and_deleted(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock, answer: Answer
    ) -> None:
        cloud.handler = lambda _: answer
        whole = answer.body == b"x" * len(MODEL)
        with pytest.raises(VerificationError if whole else FileHostError):
            await download(client, target, clock).fetch("/files/m")
        assert list(target.staging.parent.glob(".v1*")) == []
        # What the kernel holds on its way, not what a host can send.
        assert cloud.pushed < len(MODEL) + (16 << 20)

    @pytest.mark.parametrize(
        ("answer", "error"),
        [
            (portal(), UnreachableError),
            (Answer(200, MODEL, {"Content-Encoding": "gzip"}), UnreachableError),
            (Answer(503), UnreachableError),
            (Answer(cut=0), UnreachableError),
            (Answer(raw=b"\0" * 100), UnreachableError),
            (Answer(silent=True), UnreachableError),
            (Answer(404), FileHostError),
            (Answer(200, b'{"error": "not found"} ..'), FileHostError),
            (Answer(200, MODEL + b"x"), FileHostError),
            (Answer(endless=b"x" * 65_536), FileHostError),
            (Answer(raw=b"HTTP/1.1 200 OK\r\n\r\n" + b"x" * 4000), FileHostError),
            (Answer(206, b"", {"Content-Range": f"bytes 0-{len(MODEL)}/{len(MODEL) + 1}"}), FileHostError),
            (Answer(403), StaleAddressError),
            (Answer(410), StaleAddressError),
            (Answer(206, b"", {"Content-Range": f"bytes 5000-{len(MODEL) - 1}/{len(MODEL)}"}), UnreachableError),
        ],
    )
    async def test_what_is_no_file_leaves_what_is_there(
        self,
        cloud: FakeCloud,
        client: CloudAPIClient,
        target: Target,
        clock: FakeClock,
        answer: Answer,
        error: type[SentinelSyncError],
    ) -> None:
        target.staging.write_bytes(MODEL[:5000])
        cloud.handler = lambda _: answer
        with pytest.raises(error):
            await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL[:5000]

    async def test_a_body_that_begins_again_takes_the_place_of_what_is_there_once_it_is_longer(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        target.staging.write_bytes(MODEL[:5000])
        usual = serving(ranges=False)
        for sent, kept in ((4000, 5000), (9000, 9000), (9000, 9000)):
            cloud.handler = lambda seen, sent=sent: cut_after(usual(seen), sent)  # type: ignore[misc]
            with pytest.raises(FileHostError):
                await download(client, target, clock).fetch("/files/m")
            assert target.staging.read_bytes() == MODEL[:kept]
            assert [path.name for path in target.staging.parent.glob("*restart*")] == []
        cloud.handler = usual
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL

    async def test_a_host_that_ends_in_order_too_soon_gets_nowhere(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        """Seen: 4.36 GB in 75 s, no pause, no end."""
        cloud.handler = lambda _: Answer(raw=b"HTTP/1.1 200 OK\r\nConnection: close\r\n\r\n" + MODEL[:1_000_000])
        fetching = download(client, target, clock)
        with pytest.raises(FileHostError, match="nothing new came, 1000000 of"):
            await fetching.fetch("/files/m")
        assert len(cloud.requests) == 2
        assert fetching.received_bytes <= 2 * 1_000_000

    async def test_its_hosts_retry_after_is_told(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        cloud.handler = lambda _: Answer(503, headers={"Retry-After": "600"})
        with pytest.raises(FileHostError) as caught:
            await download(client, target, clock).fetch("/files/m")
        assert caught.value.retry_after == 600.0

    async def test_a_drip_is_given_up(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        usual = serving()(Seen("GET", "/files/m", {}, b"", 0.0))
        cloud.handler = lambda _: Answer(200, usual.body, drip=0.001)
        slow = FileDownload(client, target, clock=_Dripping(clock), on_progress=lambda _: None)
        with pytest.raises(UnreachableError, match="only"):
            await slow.fetch("/files/m")
        assert 0 < target.staging.stat().st_size < 1000

    async def test_nor_do_many_short_answers_keep_us_busy(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        def byte_by_byte(seen: Seen) -> Answer:
            clock.tick(2.0)
            start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            part = {"Content-Range": f"bytes {start}-{start}/{len(MODEL)}"}
            return Answer(206, MODEL[start : start + 1], part)

        cloud.handler = byte_by_byte
        with pytest.raises(UnreachableError, match="too slow"):
            await download(client, target, clock).fetch("/files/m")
        assert len(cloud.requests) <= 31

    async def test_nobody_listens(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        with pytest.raises(UnreachableError):
            await download(client, target, clock).fetch(f"http://127.0.0.1:{closed_port()}/m")

    async def test_a_halt_cuts_it_off(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        cloud.handler = serving()
        halting = FileDownload(client, target, clock=clock, on_progress=lambda _: client.halt("power", "battery low"))
        with pytest.raises(HeldError, match="battery low"):
            await halting.fetch("/files/m")
        client.resume("power")
        await download(client, target, clock).fetch("/files/m")
        assert target.staging.read_bytes() == MODEL

    async def test_it_moves_no_gate(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock
    ) -> None:
        for status in (401, 403, 503):
            cloud.handler = lambda _, status=status: Answer(status)  # type: ignore[misc]
            with pytest.raises(SentinelSyncError):
                await download(client, target, clock).fetch("/files/m")
        assert client.gate.passage(clock.monotonic()).open

    async def test_a_link_in_the_staging_files_place_is_not_followed(
        self, cloud: FakeCloud, client: CloudAPIClient, target: Target, clock: FakeClock, tmp_path: Path
    ) -> None:
        (tmp_path / "precious").write_bytes(b"precious")
        target.staging.symlink_to(tmp_path / "precious")
        cloud.handler = serving()
        with pytest.raises(SentinelSyncError):
            await download(client, target, clock).fetch("/files/m")
        assert (tmp_path / "precious").read_bytes() == b"precious"


class _Dripping:
    """Each reading of the clock is a second later."""

    def __init__(self, clock: FakeClock) -> None:
        self._clock = clock
        self.now, self.boot_id, self.sleep = clock.now, clock.boot_id, clock.sleep

    def monotonic(self) -> float:
        self._clock.tick(1.0)
        return self._clock.monotonic()
