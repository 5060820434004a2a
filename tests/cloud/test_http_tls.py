"""TLS over a real socket: a private CA, a client certificate, a proxy, and what is refused."""

import asyncio
import logging
import shutil
import ssl
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

import httpcore
import httpx
import pytest
import trustme
from pydantic import ValidationError

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.http import RESUMABLE_HOSTS, RenewableContext, build_http_client, timeouts
from sentinel_sync.cloud.transport import KeptConnections, PoolTransport, PriorityTransport
from sentinel_sync.settings import CloudSettings
from tests.fakes.cloud import Answer, FakeCloud, PrivateCA, settings_for
from tests.fakes.recording_clock import RecordingClock

#: What OpenSSL says on a machine without a store of certificates.
_NOWHERE: dict[str, Any] = {"cafile": None, "capath": None}


async def ask(cloud: FakeCloud, **settings: object) -> str | None:
    """Make one request; returns what went wrong."""
    async with CloudAPIClient(
        settings=settings_for(cloud, max_retries=0, **settings), clock=RecordingClock()
    ) as client:
        return (await client.get("/models")).error


async def test_a_private_ca_is_trusted_where_it_is_named(private_ca: PrivateCA) -> None:
    async with FakeCloud(tls=private_ca.server()) as cloud:
        assert await ask(cloud, ca_file=private_ca.ca_file) is None
        assert len(cloud.requests) == 1


async def test_and_not_where_it_is_not(private_ca: PrivateCA) -> None:
    async with FakeCloud(tls=private_ca.server()) as cloud:
        error = await ask(cloud)
        assert error is not None
        assert "CERTIFICATE_VERIFY_FAILED" in error
        assert not cloud.requests


async def test_nobody_else_is_trusted_beside_a_private_ca(private_ca: PrivateCA, tmp_path: Path) -> None:
    (tmp_path / "other").mkdir()
    other = PrivateCA.in_folder(tmp_path / "other")
    async with FakeCloud(tls=other.server()) as cloud:
        assert "CERTIFICATE_VERIFY_FAILED" in str(await ask(cloud, ca_file=private_ca.ca_file))


async def test_a_certificate_for_another_name_is_refused(private_ca: PrivateCA) -> None:
    async with FakeCloud(tls=private_ca.server("other.example")) as cloud:
        assert "CERTIFICATE_VERIFY_FAILED" in str(await ask(cloud, ca_file=private_ca.ca_file))


class TestRenewal:
    """Certificates and authorities are taken up from their files while the agent runs."""

    async def test_a_new_certificate_is_used_for_the_next_connection(
        self, private_ca: PrivateCA, tmp_path: Path, caplog: pytest.LogCaptureFixture
    ) -> None:
        (tmp_path / "other").mkdir()
        other = PrivateCA.in_folder(tmp_path / "other")
        files = {
            "ca_file": private_ca.ca_file,
            "client_cert_file": private_ca.client_cert_file,
            "client_key_file": private_ca.client_key_file,
        }
        server = private_ca.server("localhost")
        other.authority.configure_trust(server)
        server.verify_mode = ssl.CERT_REQUIRED  # it takes none but the other authority's
        async with FakeCloud(tls=server, host="localhost") as cloud, client_of(cloud, **files) as client:
            assert not await client.check_connectivity()
            assert client.certificate_expires_at is not None
            shutil.copy(other.client_cert_file, private_ca.client_cert_file)
            with caplog.at_level(logging.INFO):
                await client.refresh_credential()
                await client.refresh_credential()
            assert caplog.text.count("the files before stay in use") == 1, "the key is still the old one's"
            assert not await client.check_connectivity()
            shutil.copy(other.client_key_file, private_ca.client_key_file)
            with caplog.at_level(logging.INFO):
                await client.refresh_credential()
            assert "new certificates are in use" in caplog.text
            assert await client.check_connectivity()

    async def test_a_new_authority_is_believed(self, private_ca: PrivateCA, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        other = PrivateCA.in_folder(tmp_path / "other")
        async with (
            FakeCloud(tls=other.server(), host="localhost") as new,
            client_of(new, ca_file=private_ca.ca_file) as client,
        ):
            assert not await client.check_connectivity()
            shutil.copy(other.ca_file, private_ca.ca_file)
            await client.refresh_credential()
            assert await client.check_connectivity()

    async def test_and_the_old_one_no_more(self, private_ca: PrivateCA, tmp_path: Path) -> None:
        (tmp_path / "other").mkdir()
        other = PrivateCA.in_folder(tmp_path / "other")
        closing = Answer(200, b'{"status": "ok"}', {"Connection": "close"})
        async with (
            FakeCloud(tls=private_ca.server(), host="localhost") as old,
            client_of(old, ca_file=private_ca.ca_file) as client,
        ):
            old.handler = lambda _: closing
            assert await client.check_connectivity()
            shutil.copy(other.ca_file, private_ca.ca_file)
            await client.refresh_credential()
            assert not await client.check_connectivity()

    async def test_what_is_under_way_goes_on_under_the_one_it_began_with(
        self, private_ca: PrivateCA, tmp_path: Path
    ) -> None:
        gate = asyncio.Event()
        async with (
            FakeCloud(tls=private_ca.server(), host="localhost") as cloud,
            client_of(cloud, ca_file=private_ca.ca_file) as client,
        ):
            cloud.handler = lambda _: Answer(200, b'{"status": "ok"}', before_body=gate)
            asking = asyncio.create_task(client.check_connectivity())
            await cloud.received(method="GET", path="/health")
            (tmp_path / "other").mkdir()
            shutil.copy(PrivateCA.in_folder(tmp_path / "other").ca_file, private_ca.ca_file)
            await client.refresh_credential()
            gate.set()
            assert await asking


class TestResumption:
    """No certificates travel where a host was spoken to before, under the same files."""

    async def test_the_second_connection_resumes_the_session_of_the_first(self, private_ca: PrivateCA) -> None:
        async with closing_server(private_ca) as (url, resumed), client_at(url, private_ca) as client:
            for _ in range(3):
                assert await client.check_connectivity()
        assert resumed == [False, True, True]

    async def test_nothing_is_resumed_under_new_files(self, private_ca: PrivateCA) -> None:
        async with closing_server(private_ca) as (url, resumed), client_at(url, private_ca) as client:
            assert await client.check_connectivity()
            private_ca.ca_file.write_bytes(private_ca.ca_file.read_bytes() + b"\n")
            await client.refresh_credential()
            assert await client.check_connectivity()
        assert resumed == [False, False]

    async def test_a_server_that_forgot_the_session_is_spoken_to_anew(self, private_ca: PrivateCA) -> None:
        """As after its restart, or behind a balancer: of one name, with keys of its own."""
        settings = CloudSettings(ca_file=private_ca.ca_file)
        async with (
            closing_server(private_ca) as (url, resumed),
            closing_server(private_ca) as (other_url, other_resumed),
            await asyncio.to_thread(build_http_client, settings) as http,
        ):
            assert (await http.get(f"{url}/health")).status_code == 200
            assert (await http.get(f"{other_url}/health")).status_code == 200
        assert (resumed, other_resumed) == ([False], [False])

    def test_sessions_of_few_hosts_are_kept(self, private_ca: PrivateCA) -> None:
        context = RenewableContext(ssl.create_default_context(cafile=str(private_ca.ca_file)))
        for number in range(RESUMABLE_HOSTS + 3):
            context.wrap_bio(ssl.MemoryBIO(), ssl.MemoryBIO(), server_hostname=f"host-{number}.example")
        assert list(context._latest) == [f"host-{number}.example" for number in range(3, RESUMABLE_HOSTS + 3)]


@asynccontextmanager
async def closing_server(private_ca: PrivateCA) -> AsyncIterator[tuple[str, list[bool]]]:
    """A backend that closes each connection: its URL, and whether each connection's TLS session was resumed."""
    resumed: list[bool] = []

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        resumed.append(writer.get_extra_info("ssl_object").session_reused)
        await reader.readuntil(b"\r\n\r\n")
        writer.write(b'HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Length: 16\r\n\r\n{"status": "ok"}')
        await writer.drain()
        writer.close()

    async with await asyncio.start_server(serve, "127.0.0.1", 0, ssl=private_ca.server("localhost")) as server:
        yield f"https://localhost:{server.sockets[0].getsockname()[1]}", resumed


@asynccontextmanager
async def client_at(url: str, private_ca: PrivateCA) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=CloudSettings(api_url=url, ca_file=private_ca.ca_file)) as client:
        yield client


@asynccontextmanager
async def client_of(cloud: FakeCloud, **files: Any) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=settings_for(cloud, timeout=5.0, **files)) as client:
        yield client


async def test_old_protocols_are_refused(private_ca: PrivateCA) -> None:
    assert build_context(private_ca).minimum_version >= ssl.TLSVersion.TLSv1_2


async def test_mutual_tls(private_ca: PrivateCA) -> None:
    async with FakeCloud(tls=private_ca.server(mutual=True), host="localhost") as cloud:
        with_certificate = await ask(
            cloud,
            ca_file=private_ca.ca_file,
            client_cert_file=private_ca.client_cert_file,
            client_key_file=private_ca.client_key_file,
        )
        assert with_certificate is None
        assert await ask(cloud, ca_file=private_ca.ca_file) is not None
        assert len(cloud.requests) == 1


@pytest.mark.parametrize("broken", ["ca_file", "client_cert_file", "client_key_file"])
@pytest.mark.parametrize("how", ["missing", "garbage"])
async def test_files_that_cannot_be_used_are_named(
    private_ca: PrivateCA, tmp_path: Path, broken: str, how: str
) -> None:
    bad = tmp_path / "bad.pem"
    if how == "garbage":
        bad.write_text("-----BEGIN NOTHING-----")
    files = {
        "ca_file": private_ca.ca_file,
        "client_cert_file": private_ca.client_cert_file,
        "client_key_file": private_ca.client_key_file,
        broken: bad,
    }
    with pytest.raises(ConfigurationError, match=r"bad\.pem"):
        await asyncio.to_thread(build_http_client, CloudSettings.model_validate(files))


async def test_a_key_with_a_password_is_an_error_not_a_question(private_ca: PrivateCA, tmp_path: Path) -> None:
    from cryptography.hazmat.primitives import serialization  # noqa: PLC0415 only this test needs it

    plain = serialization.load_pem_private_key(private_ca.client_key_file.read_bytes(), None)
    locked = tmp_path / "locked.key"
    locked.write_bytes(
        plain.private_bytes(
            serialization.Encoding.PEM,
            serialization.PrivateFormat.PKCS8,
            serialization.BestAvailableEncryption(b"secret"),
        )
    )
    settings = CloudSettings(client_cert_file=private_ca.client_cert_file, client_key_file=locked)
    with pytest.raises(ConfigurationError, match=r"locked\.key"):
        await asyncio.to_thread(build_http_client, settings)


async def test_a_machine_without_certificates_uses_those_of_httpx(monkeypatch: pytest.MonkeyPatch) -> None:
    nowhere = ssl.get_default_verify_paths()._replace(**_NOWHERE)
    monkeypatch.setattr(ssl, "get_default_verify_paths", lambda: nowhere)
    async with await asyncio.to_thread(build_http_client, CloudSettings()) as http:
        assert context_of(http).cert_store_stats()["x509_ca"] > 50


async def test_a_proxy_is_used_and_sees_no_key(private_ca: PrivateCA) -> None:
    async with FakeCloud(tls=private_ca.server()) as cloud, tunnel() as (proxy_url, seen):
        assert await ask(cloud, ca_file=private_ca.ca_file, proxy=f"{proxy_url.replace('//', '//user:pw@')}") is None
        assert len(cloud.requests) == 1
    assert seen[0].startswith(f"CONNECT {cloud.url.removeprefix('https://')}")
    assert "Bearer" not in seen[0]
    assert "Proxy-Authorization: Basic" in seen[0]


async def test_a_proxy_that_refuses_is_told_without_its_password(private_ca: PrivateCA) -> None:
    async with FakeCloud(tls=private_ca.server()) as cloud, tunnel(refuse=True) as (proxy_url, _):
        settings = {"ca_file": private_ca.ca_file, "proxy": proxy_url.replace("//", "//user:hush@")}
        error = await ask(cloud, **settings)
    assert error is not None
    assert "the proxy does not let it pass (407" in error
    assert "hush" not in error


@pytest.mark.parametrize(
    "proxy", ["gateway", "ftp://gateway.example:21", "socks5://gateway.example:1080", "http://[::bad"]
)
async def test_a_proxy_that_is_none_is_an_error_that_hides_it(proxy: str) -> None:
    """Refused when the settings are read, but for what takes a package that we do not bring."""
    with pytest.raises((ConfigurationError, ValidationError), match="proxy") as caught:
        await asyncio.to_thread(build_http_client, CloudSettings.model_validate({"proxy": proxy}))
    assert proxy not in str(caught.value)


async def test_the_environment_takes_no_part(monkeypatch: pytest.MonkeyPatch, cloud: FakeCloud, tmp_path: Path) -> None:
    for name in ("HTTP_PROXY", "http_proxy", "ALL_PROXY", "all_proxy"):
        monkeypatch.setenv(name, "http://127.0.0.1:1")
    netrc = tmp_path / "netrc"
    netrc.write_text("machine 127.0.0.1 login me password mine\n")
    monkeypatch.setenv("NETRC", str(netrc))
    assert await ask(cloud) is None


def test_time_outs_are_one_for_each_phase() -> None:
    assert timeouts(30.0) == httpx.Timeout(connect=10.0, read=30.0, write=30.0, pool=120.0)
    assert timeouts(2.0).connect == 2.0


def test_the_fake_authority_is_a_real_one(private_ca: PrivateCA) -> None:
    assert isinstance(private_ca.authority, trustme.CA)
    assert private_ca.ca_file.read_text().startswith("-----BEGIN CERTIFICATE-----")


def build_context(private_ca: PrivateCA) -> ssl.SSLContext:
    return context_of(build_http_client(CloudSettings(ca_file=private_ca.ca_file)))


def context_of(http: httpx.AsyncClient) -> ssl.SSLContext:
    """The TLS context of a client, the same for both of its lanes: httpx has no public way to it."""
    lanes = http._transport
    assert isinstance(lanes, PriorityTransport)
    assert isinstance(lanes.quick.kept, PoolTransport)
    assert isinstance(lanes.bulk.kept, PoolTransport)
    kept, pool = lanes.quick.kept._pool, lanes.bulk.kept._pool
    assert isinstance(kept, KeptConnections)
    assert isinstance(pool, httpcore.AsyncConnectionPool)
    context = kept._context
    assert pool._ssl_context is context
    assert isinstance(context, RenewableContext)
    return context._current


@asynccontextmanager
async def tunnel(*, refuse: bool = False) -> AsyncIterator[tuple[str, list[str]]]:
    """An HTTP proxy: gives its URL and the heads of what it was asked."""
    seen: list[str] = []
    tasks: set[asyncio.Task[None]] = set()

    async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        while piece := await reader.read(65_536):
            writer.write(piece)
            await writer.drain()
        writer.close()

    async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        head = (await reader.readuntil(b"\r\n\r\n")).decode()
        seen.append(head)
        if refuse:
            writer.write(b"HTTP/1.1 407 Proxy Authentication Required\r\nContent-Length: 0\r\n\r\n")
            await writer.drain()
            writer.close()
            return
        host, _, port = head.split(" ")[1].partition(":")
        theirs, ours = await asyncio.open_connection(host, int(port))
        writer.write(b"HTTP/1.1 200 Connected\r\n\r\n")
        await asyncio.gather(pump(reader, ours), pump(theirs, writer), return_exceptions=True)
        ours.close()

    def accept(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.get_running_loop().create_task(serve(reader, writer))
        tasks.add(task)
        task.add_done_callback(lambda _: writer.close())

    server = await asyncio.start_server(accept, "127.0.0.1", 0)
    try:
        yield f"http://127.0.0.1:{server.sockets[0].getsockname()[1]}", seen
    finally:
        server.close()
        await asyncio.wait(tasks, timeout=5.0)
