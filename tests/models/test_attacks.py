"""The attacks that the TUF specification lists (section 1.5.2), made on the backend's listing and its files.

Each is refused: what is installed stays in use, and nothing of the attack stays on the vehicle.
"""

import asyncio
import base64
import json
import ssl
from collections.abc import AsyncIterator, Callable
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync import CloudError, VerificationError
from sentinel_sync.models.rules.releases import key_id
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import Answer, FakeCloud, PrivateCA, json_answer, redirect
from tests.fakes.wire_rules import Seen
from tests.models.vehicle import (
    KEY,
    NAME,
    OLD,
    OTHER_KEY,
    TRUSTED,
    Build,
    ModelHost,
    content_of,
    fetched,
    leftovers,
    listed,
    live,
    registry,
    sign,
)

pytestmark = pytest.mark.usefixtures("off_the_loop")

NEW = "v2.1.0"
Spoil = Callable[[Seen], Answer | None]


@pytest.fixture(autouse=True)
def _nothing_came_of_it(models: Path) -> Any:
    """After each attack: the old model, a registry that says so, and nothing that lies about for ever."""
    yield
    assert live(models) == OLD
    assert registry(models)[NAME]["version"] == "v2.0.0"
    assert [name for name in leftovers(models) if not name.startswith(f".{NEW}.pt.part")] == []
    assert sorted(path.name for path in models.iterdir() if path.is_file() and path.name[0] != ".") == [
        "registry.json",
        f"{NAME}.pt",
    ]


def files(answer: Answer) -> Spoil:
    """This for every file."""
    return lambda seen: answer if "/files/" in seen.path else None


async def attacked(build: Build, version: str = NEW, **more: Any) -> str:
    """Have a vehicle take a release, by itself and when asked; returns why it did not."""
    downloader = build(auto_install=True, **more)
    await downloader.step()
    result = await downloader.download_and_install_model(NAME, version)
    assert not result
    assert not result.waiting
    status = await downloader.get_download_status(NAME)
    assert status["reason"] == result.reason
    return str(result.reason)


class TestArbitrarySoftware:
    async def test_a_file_of_the_attackers(self, host: ModelHost, models: Path, build: Build) -> None:
        host.entries = [listed(NEW)]
        host.spoil = files(Answer(200, bytes(300_000)))
        assert "not those that were signed" in await attacked(build)
        assert leftovers(models) == []

    async def test_a_listing_of_the_attackers(self, cloud: FakeCloud, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW, by=None), listed("v2.2.0", by=OTHER_KEY)]
        assert "not signed" in await attacked(build)
        assert fetched(cloud) == []

    async def test_a_page_where_the_file_should_be(self, host: ModelHost, build: Build) -> None:
        page = b"<!doctype html><title>Log in</title>".ljust(300_000)
        host.entries = [listed(NEW)]
        host.spoil = files(Answer(200, page, {"Content-Type": "text/html; charset=utf-8"}))
        assert "login page" in await attacked(build)
        host.spoil = files(Answer(200, page))
        assert "not those that were signed" in await attacked(build)


class TestWrongKey:
    async def test_another_key(self, cloud: FakeCloud, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW, by=OTHER_KEY)]
        assert "signature is not one of a trusted key" in await attacked(build)
        assert fetched(cloud) == []

    async def test_another_key_that_claims_to_be_ours(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW, by=OTHER_KEY, key_id=key_id(KEY.public_key().public_bytes_raw()))]
        assert "signature is not one of a trusted key" in await attacked(build)

    async def test_a_revoked_key(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW)]
        assert "no key is trusted" in await attacked(
            build, model_revoked_keys=(key_id(KEY.public_key().public_bytes_raw()),)
        )

    @pytest.mark.parametrize("extra", [[], [KEY], [KEY, KEY, KEY]], ids=["one", "listed twice", "listed often"])
    async def test_one_key_does_not_count_for_two(self, host: ModelHost, build: Build, extra: list[Any]) -> None:
        others = [{"signature": sign(NAME, NEW, content_of(NEW), by)} for by in extra]
        host.entries = [listed(NEW, signatures=others)]
        keys = (TRUSTED, base64.b64encode(OTHER_KEY.public_key().public_bytes_raw()).decode())
        reason = await attacked(build, model_trusted_keys=keys, model_signature_threshold=2)
        assert "1 of the trusted keys signed it, and 2 must" in reason

    async def test_nor_does_a_strangers_signature(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW, signatures=[{"signature": sign(NAME, NEW, content_of(NEW), OTHER_KEY)}])]
        assert "2 must" in await attacked(build, model_signature_threshold=2)

    async def test_a_listing_full_of_signatures_costs_no_time(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW, signatures=[{"signature": "AA==", "key_id": str(n)} for n in range(1000)])]
        assert "1001 signatures" in await attacked(build)


class TestEndlessData:
    @pytest.mark.parametrize("head", [{}, {"Content-Type": "application/octet-stream"}])
    async def test_a_body_without_end(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, head: dict[str, str]
    ) -> None:
        host.entries = [listed(NEW)]
        host.spoil = files(Answer(200, headers=head, endless=b"x" * 65_536))
        assert "more than the 300000 signed bytes" in await attacked(build)
        # What the kernel holds on its way, not what a host can send.
        assert cloud.pushed < 32 << 20
        assert leftovers(models) == []

    async def test_a_listing_without_end(self, cloud: FakeCloud, host: ModelHost, build: Build) -> None:
        host.spoil = lambda _: Answer(200, headers={"Content-Type": "application/json"}, endless=b" " * 65_536)
        with pytest.raises(CloudError):
            await build().check_for_updates()
        assert cloud.pushed < 64 << 20

    async def test_a_size_that_no_disk_holds(self, cloud: FakeCloud, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW) | {"size": 1 << 60}]
        assert "signature" in await attacked(build)
        assert fetched(cloud) == []


class TestFastForward:
    async def test_a_version_from_the_future_that_nobody_signed(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v999.0.0", by=OTHER_KEY), listed("v999.0.1", by=None)]
        await attacked(build, "v999.0.0")
        host.entries = [listed(NEW)]
        # It did not move what counts as seen: the genuine one is still wanted.
        assert [update["version"] for update in await build().check_for_updates()] == [NEW]

    async def test_a_signed_file_under_a_later_number(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW) | {"version": "v999.0.0"}]
        await attacked(build, "v999.0.0")
        host.entries = [listed(NEW)]
        assert [update["version"] for update in await build().check_for_updates()] == [NEW]


class TestRollback:
    async def test_an_older_version(self, cloud: FakeCloud, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v1.9.0")]
        assert "not newer than v2.0.0" in await attacked(build, "v1.9.0")
        assert fetched(cloud) == []

    async def test_one_that_is_newer_than_ours_and_older_than_what_was_offered(
        self, cloud: FakeCloud, host: ModelHost, build: Build
    ) -> None:
        host.entries = [listed("v2.2.0")]
        assert len(await build().check_for_updates()) == 1
        host.entries = [listed(NEW)]
        assert "v2.2.0 was offered before" in await attacked(build)
        assert [seen.target for seen in cloud.requests if seen.query.get("version") == NEW] == []

    @pytest.mark.parametrize("version", ["v2.0.0-rc1", "v2.0", "2.0.0", "v2.0.0+7"])
    async def test_the_same_by_another_name(self, host: ModelHost, build: Build, version: str) -> None:
        host.entries = [listed(version)]
        assert "not newer than v2.0.0" in await attacked(build, version)

    async def test_other_bytes_for_what_is_installed(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed("v2.0.0")]
        downloader = build()
        result = await downloader.download_and_install_model(NAME, "v2.0.0")
        assert isinstance(result.error, VerificationError)
        await downloader.pin(NAME, "v2.0.0")
        result = await downloader.download_and_install_model(NAME, "v2.0.0")
        assert "in use with other bytes" in str(result.reason)


class TestFreeze:
    async def test_an_old_listing_is_seen_through_also_after_a_restart(
        self, host: ModelHost, build: Build, caplog: pytest.LogCaptureFixture
    ) -> None:
        host.entries = [listed("v2.0.0"), listed(NEW), listed("v2.2.0")]
        await build().check_for_updates()
        for old in ([listed("v2.0.0")], [listed("v2.0.0"), listed(NEW)]):
            host.entries = old
            caplog.clear()
            downloader = build()
            assert await downloader.check_for_updates() == []
            assert "v2.2.0 was offered before" in caplog.text
        host.entries = [listed("v2.0.0"), listed(NEW), listed("v2.2.0")]
        assert [update["version"] for update in await build().check_for_updates()] == ["v2.2.0"]

    async def test_a_backend_that_says_nothing_has_changed_is_still_asked_each_day(
        self, cloud: FakeCloud, host: ModelHost, build: Build, clock: FakeClock
    ) -> None:
        downloader = build()
        for _ in range(3):
            # A wait that was rounded ends a moment early, and is followed by another of a second.
            clock.tick(await downloader.step() + 1.0)
        assert len(cloud.to("GET", "/models")) == 3


class TestMixAndMatch:
    @pytest.mark.parametrize("field", ["name", "version", "size", "checksum"])
    async def test_parts_of_two_genuine_releases(
        self, cloud: FakeCloud, host: ModelHost, build: Build, field: str
    ) -> None:
        other = listed("v2.2.0", name="other_model", size=299_999)
        host.entries = [listed(NEW) | {field: other[field]} | {"name": NAME}]
        if field == "name":
            host.entries = [other | {"name": NAME, "version": NEW}]
        await attacked(build, host.entries[0]["version"])
        assert fetched(cloud) == []

    async def test_an_address_of_another_release(self, cloud: FakeCloud, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW)]
        address = {"download_url": "/files/v2.2.0/1", "version": "v2.2.0", "checksum": "ab" * 32}
        host.spoil = lambda seen: json_answer(200, address) if seen.path.endswith("/download") else None
        assert "another release's" in await attacked(build)

    async def test_the_file_of_another_release(self, host: ModelHost, models: Path, build: Build) -> None:
        host.entries = [listed(NEW)]
        host.spoil = files(Answer(200, content_of("v2.2.0")))
        assert "not those that were signed" in await attacked(build)
        assert leftovers(models) == []

    async def test_content_that_changes_under_one_address(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build
    ) -> None:
        host.entries = [listed(NEW)]
        evil = bytes(300_000)

        def changing(seen: Seen) -> Answer | None:
            """Half of the genuine file, and then the rest of another, under the same ETag and whatever is asked."""
            if "/files/" not in seen.path:
                return None
            start = int(seen.headers.get("range", "bytes=0-").removeprefix("bytes=").removesuffix("-"))
            if start == 0:
                head = b'HTTP/1.1 200 OK\r\nContent-Length: 300000\r\nETag: "one"\r\n\r\n'
                return Answer(raw=head + content_of(NEW)[:150_000])
            part = {"Content-Range": f"bytes {start}-299999/300000", "ETag": '"one"'}
            return Answer(206, evil[start:], part)

        host.spoil = changing
        downloader = build()
        for _ in range(4):
            assert not await downloader.download_and_install_model(NAME, NEW)
        assert [name for name in leftovers(models) if not name.endswith((".part", ".etag"))] == []

    async def test_a_wrong_range(self, host: ModelHost, models: Path, build: Build) -> None:
        host.entries = [listed(NEW)]
        head = b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
        host.spoil = files(Answer(raw=head + content_of(NEW)[:150_000]))
        assert not await build().download_and_install_model(NAME, NEW)
        # The first half once more, said to be the second: asked for as a whole, it has to be the file.
        wrong = Answer(206, content_of(NEW)[:150_000], {"Content-Range": "bytes 150000-299999/300000"})
        host.spoil = files(wrong)
        assert not await build().download_and_install_model(NAME, NEW)
        assert leftovers(models) in ([], [f".{NEW}.pt.part"])


class TestSlowRetrieval:
    async def test_a_drip_is_broken_off_and_gone_on_from(
        self, cloud: FakeCloud, host: ModelHost, models: Path, build: Build, clock: FakeClock
    ) -> None:
        host.entries = [listed(NEW)]
        content, head = content_of(NEW), b"HTTP/1.1 200 OK\r\nContent-Length: 300000\r\n\r\n"
        stop = asyncio.Event()

        async def drip(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
            """A byte a second, by the vehicle's clock."""
            await reader.readuntil(b"\r\n\r\n")
            writer.write(head)
            for byte in content:
                writer.write(bytes([byte]))
                try:
                    await writer.drain()
                except ConnectionError:
                    break
                clock.tick(1.0)
                await asyncio.sleep(0)
            writer.close()
            stop.set()

        async with await asyncio.start_server(drip, "127.0.0.1", 0) as server:
            host.base = f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}"
            downloader = build()
            async with asyncio.timeout(20):
                result = await downloader.download_and_install_model(NAME, NEW)
                await stop.wait()
        assert isinstance(result.error, CloudError)
        assert "too slow" in str(result.reason)
        part = models / "versions" / NAME / f".{NEW}.pt.part"
        assert 0 < len(part.read_bytes()) < 300_000


class TestHostileHosts:
    async def test_a_token_thief(self, cloud: FakeCloud, host: ModelHost, stranger: FakeCloud, build: Build) -> None:
        """Every way that leads elsewhere; the stranger itself fails the test where a credential comes."""
        host.entries, host.base = [listed(NEW)], stranger.url
        stranger.handler = lambda seen: redirect(f"{stranger.url}/again") if "again" not in seen.path else Answer(404)
        await attacked(build)
        host.base = ""
        thief = stranger.url.removeprefix("http://")
        for location in (f"{stranger.url}/again", f"//{thief}/again", f"http://user:secret@{thief}/again"):
            host.spoil = lambda seen, to=location: redirect(to) if "/files/" in seen.path else None  # type: ignore[misc]
            await attacked(build)
            stolen = json_answer(200, {"download_url": location, "version": NEW})
            host.spoil = lambda seen, to=stolen: to if seen.path.endswith("/download") else None  # type: ignore[misc]
            await attacked(build)
        assert len(stranger.requests) >= 8
        assert all("authorization" not in seen.headers for seen in stranger.requests)
        assert all("cookie" not in seen.headers for seen in stranger.requests)

    @pytest.mark.parametrize("location", ["file:///etc/passwd", "ftp://127.0.0.1/m", "gopher://x", "data:,x"])
    async def test_redirects_to_what_is_not_the_web(self, host: ModelHost, build: Build, location: str) -> None:
        host.entries = [listed(NEW)]
        host.spoil = files(redirect(location))
        assert "not followed" in await attacked(build)
        address = json_answer(200, {"download_url": location, "version": NEW})
        host.spoil = lambda seen: address if seen.path.endswith("/download") else None
        assert "not followed" in await attacked(build)

    async def test_a_circle(self, host: ModelHost, build: Build) -> None:
        host.entries = [listed(NEW)]
        host.spoil = lambda seen: redirect(seen.path) if "/files/" in seen.path else None
        assert "more than 5 times" in await attacked(build)


class TestBehindTls:
    @pytest.fixture
    async def secure(self, private_ca: PrivateCA) -> AsyncIterator[FakeCloud]:
        context: ssl.SSLContext = private_ca.server()
        async with FakeCloud(tls=context) as cloud:
            yield cloud

    @pytest.mark.parametrize("way", ["address", "redirect"])
    async def test_never_from_https_to_http(
        self, secure: FakeCloud, stranger: FakeCloud, build: Build, private_ca: PrivateCA, way: str
    ) -> None:
        secure.handler = host = ModelHost([listed(NEW)])
        if way == "address":
            host.base = stranger.url
        else:
            host.spoil = files(redirect(f"{stranger.url}/m"))
        reason = await attacked(build, url=secure.url, ca_file=private_ca.ca_file)
        assert "not followed" in reason
        assert stranger.requests == []


def test_the_listing_is_what_it_says() -> None:
    """The attacks above differ from this one by what they are about: without them it would be taken."""
    assert json.loads(json.dumps(listed(NEW)))["signature"] == sign(NAME, NEW, content_of(NEW))
