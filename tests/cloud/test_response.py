"""One exchange over a real socket: redirects, bodies of every kind and size, cookies, the transport's own log."""

import gzip
import logging
import resource
import zlib
from collections.abc import AsyncIterator
from functools import cache
from http import HTTPMethod

import httpx
import pytest

from sentinel_sync.base.errors import NotNowError, RejectedError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.request import Origin
from sentinel_sync.cloud.response import (
    ERROR_BODY_TIMEOUT,
    MAX_ANSWER_BYTES,
    MAX_ERROR_BYTES,
    MAX_VALUES,
    ElsewhereError,
    fault,
)
from tests.fakes.cloud import (
    Answer,
    FakeCloud,
    PrivateCA,
    closed_port,
    gzipped,
    json_answer,
    problem,
    redirect,
    settings_for,
)
from tests.fakes.recording_clock import RecordingClock

#: What a client that reads a bounded part may still have been pushed: its receive buffer and our send buffer.
_BUFFERS = 16 << 20
_BOMB_BYTES = 256 << 20


@pytest.fixture
async def client(cloud: FakeCloud) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=settings_for(cloud), clock=RecordingClock()) as opened:
        yield opened


class TestRedirects:
    @pytest.mark.parametrize("status", [301, 302, 303, 307, 308])
    async def test_a_get_is_followed(self, client: CloudAPIClient, cloud: FakeCloud, status: int) -> None:
        cloud.script("GET", "/models", redirect("/v2/models", status))
        cloud.script("GET", "/v2/models", json_answer(200, {"models": []}))
        assert (await client.get("/models")).data == {"models": []}

    async def test_at_most_five_times(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        for hop in range(5):
            cloud.script("GET", f"/{hop}", redirect(f"/{hop + 1}"))
        assert (await client.request(HTTPMethod.GET, "/0")).status == 200
        cloud.script("GET", "/6", redirect("/0"))
        for hop in range(5):
            cloud.script("GET", f"/{hop}", redirect(f"/{hop + 1}"))
        with pytest.raises(UnreachableError, match="redirected more than 5 times"):
            await client.request(HTTPMethod.GET, "/6")

    @pytest.mark.parametrize(
        "method", [HTTPMethod.POST, HTTPMethod.PUT, HTTPMethod.PATCH, HTTPMethod.DELETE, HTTPMethod.HEAD]
    )
    @pytest.mark.parametrize("status", [302, 307, 308])
    async def test_nothing_but_a_get_is_followed(
        self, client: CloudAPIClient, cloud: FakeCloud, method: HTTPMethod, status: int
    ) -> None:
        cloud.script(method, "/x", redirect("/y", status))
        key = "k" if method == HTTPMethod.POST else None
        with pytest.raises(UnreachableError, match="neither done nor followed"):
            await client.request(method, "/x", idempotency_key=key)
        assert [seen.path for seen in cloud.requests] == ["/x"]

    async def test_never_from_https_to_http(self, private_ca: PrivateCA, cloud: FakeCloud) -> None:
        async with FakeCloud(tls=private_ca.server()) as secure:
            secure.script("GET", "/models", redirect(f"{cloud.url}/models"))
            settings = settings_for(secure, ca_file=private_ca.ca_file)
            async with CloudAPIClient(settings=settings) as client:
                with pytest.raises(UnreachableError, match="from https to http"):
                    await client.request(HTTPMethod.GET, "/models")
        assert not cloud.requests

    @pytest.mark.parametrize(
        "location",
        [
            "",
            "ftp://example.com/x",
            "file:///etc/passwd",
            "javascript:alert(1)",
            "http://[::bad",
            "http://",
            "https:///x",
            "http://\x01/",
            "http://h:999999/",
            f"http://{'a' * 70}.invalid/",
            "x" * 70_000,
        ],
    )
    async def test_what_is_no_address_ends_in_an_answer_not_in_an_exception(
        self, client: CloudAPIClient, cloud: FakeCloud, location: str
    ) -> None:
        cloud.handler = lambda _: redirect(location)
        with pytest.raises(UnreachableError):
            await client.request(HTTPMethod.GET, "/models")

    async def test_another_host_that_is_down_does_not_count_as_the_backend_being_down(
        self, client: CloudAPIClient, cloud: FakeCloud
    ) -> None:
        cloud.script("GET", "/models", redirect(f"http://127.0.0.1:{closed_port()}/models"))
        with pytest.raises(ElsewhereError):
            await client.request(HTTPMethod.GET, "/models")
        assert (await client.request(HTTPMethod.GET, "/health")).status == 200

    def test_an_origin_is_scheme_host_and_port(self) -> None:
        of = [
            Origin.of(httpx.URL(url))
            for url in ("https://A.example", "https://a.example:443/x", "http://a.example", "https://a.example:8443")
        ]
        assert of[0] == of[1]
        assert len(set(of)) == 3


class TestErrorBodies:
    async def test_a_problem_is_told(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", problem(400, "Bad Request", "no such metric"))
        with pytest.raises(RejectedError, match="Bad Request: no such metric"):
            await client.request(HTTPMethod.GET, "/x")

    @pytest.mark.parametrize(
        "body",
        [
            b"",
            b"<html><h1>Bad Request</h1>",
            b"plain words",
            b"\x00\xff\xfe",
            b"null",
            b"[]",
            b'"text"',
            b"17",
            b'{"title": 5, "detail": {"a": 1}, "status": "x"}',
            b"[" * 100_000,
            b'{"title": "\\ud800"}',
        ],
    )
    async def test_anything_at_all_is_no_matter(self, client: CloudAPIClient, cloud: FakeCloud, body: bytes) -> None:
        cloud.script("GET", "/x", Answer(422, body, {"Content-Type": "application/problem+json"}))
        with pytest.raises(RejectedError, match="answered 422"):
            await client.request(HTTPMethod.GET, "/x")

    async def test_a_wrong_field_does_not_hide_the_others(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(422, b'{"title": "No", "status": "four", "detail": ["a"]}'))
        with pytest.raises(RejectedError, match=r"answered 422 \(No\)"):
            await client.request(HTTPMethod.GET, "/x")

    async def test_a_long_reason_is_cut_to_one_line(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", problem(422, "No", "a\r\n\x1b[31m" * 1000))
        with pytest.raises(RejectedError) as caught:
            await client.request(HTTPMethod.GET, "/x")
        assert len(str(caught.value)) < 300
        assert str(caught.value).isprintable()

    @pytest.mark.parametrize("status", [400, 503])
    async def test_only_64_kib_are_read(self, client: CloudAPIClient, cloud: FakeCloud, status: int) -> None:
        assert MAX_ERROR_BYTES == 64 * 1024
        cloud.script("GET", "/x", Answer(status, endless=bytes(32 << 10)))
        with pytest.raises((RejectedError, NotNowError)):
            await client.request(HTTPMethod.GET, "/x")
        await cloud.stop()
        assert cloud.pushed < _BUFFERS

    async def test_a_packed_reason_is_read(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", gzipped(problem(400, "Packed")))
        with pytest.raises(RejectedError, match="Packed"):
            await client.request(HTTPMethod.GET, "/x")

    async def test_a_bomb_is_not_unpacked(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(400, _bomb(), {"Content-Encoding": "gzip"}))
        before = _peak_memory()
        with pytest.raises(RejectedError):
            await client.request(HTTPMethod.GET, "/x")
        assert _peak_memory() - before < _BOMB_BYTES // 4

    async def test_one_that_drips_does_not_hold_up_what_the_status_says(
        self, cloud: FakeCloud, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        assert ERROR_BODY_TIMEOUT <= 5.0
        monkeypatch.setattr("sentinel_sync.cloud.response.ERROR_BODY_TIMEOUT", 0.1)
        cloud.script("GET", "/x", Answer(401, b" " * 1000, drip=0.01))
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            response = await client.get("/x")
        assert response.status_code == 401


class TestAnswers:
    async def test_gzip_is_asked_for_and_unpacked(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        data = {"vehicles": {f"vehicle_{number}": {"safety_score": number} for number in range(2000)}}
        cloud.script("GET", "/x", gzipped(json_answer(200, data)))
        assert (await client.get("/x")).data == data
        assert cloud.requests[0].headers["accept-encoding"] == "gzip"

    async def test_a_packed_answer_that_was_cut_off_is_none(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        packed = gzip.compress(b'{"a": 1}')
        cloud.script("GET", "/x", Answer(200, packed[:-4], {"Content-Encoding": "gzip"}))
        with pytest.raises(UnreachableError, match="cut off"):
            await client.request(HTTPMethod.GET, "/x")

    async def test_a_huge_one_is_given_up(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(200, endless=bytes(64 << 10)))
        with pytest.raises(UnreachableError, match=f"larger than {MAX_ANSWER_BYTES} bytes"):
            await client.request(HTTPMethod.GET, "/x")
        await cloud.stop()
        assert cloud.pushed < MAX_ANSWER_BYTES + _BUFFERS

    async def test_a_bomb_is_given_up(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(200, _bomb(), {"Content-Encoding": "gzip"}))
        before = _peak_memory()
        with pytest.raises(UnreachableError, match="larger than"):
            await client.request(HTTPMethod.GET, "/x")
        assert _peak_memory() - before < _BOMB_BYTES // 4

    async def test_one_that_takes_long_to_parse_is_given_up(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        crowded = b"[" + b"{}," * MAX_VALUES + b"{}]"
        cloud.script("GET", "/x", Answer(200, crowded))
        with pytest.raises(UnreachableError, match="more than 100,000 values"):
            await client.request(HTTPMethod.GET, "/x")

    async def test_one_with_as_many_values_as_may_be_is_taken(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(200, b"[" + b"1," * (MAX_VALUES - 1) + b"1]"))
        assert len((await client.get("/x")).data) == MAX_VALUES

    async def test_one_of_the_largest_size_is_taken(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(200, b'"' + b"a" * (MAX_ANSWER_BYTES - 2) + b'"'))
        assert len((await client.get("/x")).data) == MAX_ANSWER_BYTES - 2

    async def test_an_endless_head_is_given_up(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(raw=b"HTTP/1.1 200 OK\r\n" + b"X-A: b\r\n" * 200_000))
        with pytest.raises(UnreachableError):
            await client.request(HTTPMethod.GET, "/x")


class TestTheSharedClientTakesNoPart:
    async def test_cookies_are_neither_kept_nor_sent(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/models", json_answer(200, {}, {"Set-Cookie": "session=1; Path=/"}))
        await client.get("/models")
        await client.get("/models")
        assert all("cookie" not in seen.headers for seen in cloud.requests)
        assert client._http is not None
        assert not list(client._http.cookies.jar)

    async def test_an_embedders_cookies_headers_auth_and_redirects_stay_his(
        self, cloud: FakeCloud, stranger: FakeCloud
    ) -> None:
        cloud.script("GET", "/models", redirect(f"{stranger.url}/m"))
        cloud.script("POST", "/trips", redirect("/elsewhere"))
        async with (
            httpx.AsyncClient(
                cookies={"mine": "1"}, headers={"Authorization": "mine"}, auth=("me", "mine"), follow_redirects=True
            ) as http,
            CloudAPIClient(settings=settings_for(cloud, max_retries=0), http=http) as client,
        ):
            assert (await client.get("/models")).success
            assert not (await client.post("/trips", {})).success
        assert [seen.path for seen in cloud.requests] == ["/models", "/trips"]


class TestTheTransportsLog:
    async def test_is_silent_about_our_requests(
        self, client: CloudAPIClient, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        cloud.script("GET", "/drivers/driver_123/profile", problem(404, headers={"Location": "/drivers/driver_123/x"}))
        await client.get("/drivers/driver_123/profile", {"lat": 37.774929})
        await client.check_connectivity()
        assert not [record.name for record in caplog.records if record.name.startswith(("httpx", "httpcore"))]
        assert "driver_123" not in caplog.text
        assert "37.77" not in caplog.text
        assert "cloud.attempt: GET /drivers/{id}/profile" in caplog.text

    async def test_is_left_as_it_was_for_the_embedders_own(
        self, client: CloudAPIClient, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
    ) -> None:
        caplog.set_level(logging.DEBUG)
        await client.get("/models")
        async with FakeCloud() as other, httpx.AsyncClient() as theirs:
            await theirs.get(f"{other.url}/theirs")
            other.violations.clear()  # a request of somebody else's
        assert any(record.name == "httpx" and "/theirs" in record.getMessage() for record in caplog.records)


@pytest.mark.parametrize(
    ("error", "words"),
    [
        (httpx.ConnectTimeout(""), "no connection within the time-out"),
        (httpx.PoolTimeout(""), "no free connection within the time-out"),
        (httpx.ReadTimeout(""), "no answer within the time-out"),
        (httpx.ConnectError("All connection attempts failed"), "cannot connect (All connection attempts failed)"),
        (httpx.ConnectError(""), "cannot connect (ConnectError)"),
        (httpx.ProxyError("407 Proxy Authentication Required"), "the proxy does not let it pass (407"),
        (httpx.RemoteProtocolError("x"), "the answer was cut off or garbled"),
        (httpx.ReadError("x"), "the connection broke (ReadError)"),
    ],
)
def test_faults_are_put_into_words(error: Exception, words: str) -> None:
    assert words in fault(error)


@cache
def _bomb() -> bytes:
    """A gzip file of some hundred kilobytes that unpacks to `_BOMB_BYTES`."""
    packer = zlib.compressobj(6, zlib.DEFLATED, 16 + zlib.MAX_WBITS)
    megabyte = bytes(1 << 20)
    return b"".join(packer.compress(megabyte) for _ in range(_BOMB_BYTES >> 20)) + packer.flush()


def _peak_memory() -> int:
    """The most memory that this process has held, bytes."""
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss << 10
