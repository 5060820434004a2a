"""The specification's face: what it gives back, what it raises for, what it never says."""

import asyncio
import logging
import traceback
from collections.abc import AsyncIterator
from http import HTTPMethod
from random import Random
from typing import Any, NamedTuple

import httpx
import pytest
import respx
from pydantic import BaseModel

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.errors import ConfigurationError, HeldError, NotNowError, UnreachableError
from sentinel_sync.cloud.client import APIResponse, AttemptOutcome, CloudAPIClient
from sentinel_sync.cloud.response import ElsewhereError
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud, json_answer, portal, problem, settings_for
from tests.fakes.recording_clock import RecordingClock

URL = "https://api.example.com"


@pytest.fixture
def ticking() -> RecordingClock:
    return RecordingClock()


@pytest.fixture
async def client(cloud: FakeCloud, ticking: RecordingClock, rng: Random) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=settings_for(cloud), clock=ticking, rng=rng) as opened:
        yield opened


class TestSpecification:
    async def test_its_snippet_works(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/fleet/fleet_alpha/statistics", json_answer(200, {"total_vehicles": 3}))
        client = CloudAPIClient(api_url=cloud.url, api_key=API_KEY, vehicle_id=VEHICLE, fleet_id=FLEET)
        assert await client.check_connectivity()
        response = await client.get("/fleet/fleet_alpha/statistics")
        assert response.success
        assert response.data == {"total_vehicles": 3}
        assert response.status_code == 200
        assert response.error is None
        await client.close()

    async def test_each_verb(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await client.get("/a", {"x": 1})
        await client.post("/b", {"y": 2}, params={"x": True})
        await client.put("/c", {"y": 3})
        response = await client.delete("/d", {"x": "é"})
        assert [(seen.method, seen.path, seen.query) for seen in cloud.requests] == [
            ("GET", "/a", {"x": "1"}),
            ("POST", "/b", {"x": "true"}),
            ("PUT", "/c", {}),
            ("DELETE", "/d", {"x": "é"}),
        ]
        assert [seen.json for seen in cloud.requests[1:3]] == [{"y": 2}, {"y": 3}]
        assert response == APIResponse(True, 204, None, None, cloud.requests[3].headers["x-request-id"])

    async def test_check_connectivity_says_no_and_does_not_raise(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        for fault in (portal(), problem(500), Answer(cut=0), Answer(404), problem(401)):
            cloud.script("GET", "/health", *[fault] * (2 if fault.cut == 0 else 1))  # a reused connection: once more
            assert not await client.check_connectivity()
            ticking.tick(1000.0)
        assert await client.check_connectivity()
        await cloud.stop()
        assert not await client.check_connectivity()

    async def test_a_probe_reads_the_backends_clock_and_wish(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        health = {"status": "ok", "time": "2026-11-23T08:00:00Z", "min_interval": 60}
        cloud.script("GET", "/health", json_answer(200, health, {"Date": "Mon, 23 Nov 2026 08:00:00 GMT"}))
        probe = await client.probe()
        assert probe.server_time == "2026-11-23T08:00:00Z"
        assert probe.date == 1_795_420_800.0
        assert probe.min_interval == 60.0

    @pytest.mark.parametrize(
        "health",
        [
            {"time": 5, "min_interval": "often", "status": []},
            {"time": "0001-01-01T00:00:00Z", "min_interval": -1},
            {"time": "9999-12-31T23:59:59Z"},
            {"time": "yesterday"},
        ],
    )
    async def test_what_a_backend_says_wrong_is_as_left_out(
        self, client: CloudAPIClient, cloud: FakeCloud, health: dict[str, Any]
    ) -> None:
        headers = {"Date": "Thu, 01 Jan 1970 00:00:00 GMT"}
        cloud.script("GET", "/health", json_answer(200, health, headers))
        probe = await client.probe()
        assert (probe.server_time, probe.date, probe.min_interval) == (None, None, None)


class TestRaisesForTheProgrammer:
    @pytest.mark.parametrize(
        "endpoint",
        ["https://evil.example/x", "//evil.example/x", "http://127.0.0.1/x", "/a/../../x", "..", "/./x", "/x#fragment"],
    )
    async def test_an_endpoint_that_is_no_path_below_the_base(
        self, client: CloudAPIClient, cloud: FakeCloud, endpoint: str
    ) -> None:
        for call in (client.get, client.post, client.put, client.delete):
            with pytest.raises(ValueError, match="endpoint"):
                await call(endpoint)
        assert not cloud.requests

    @pytest.mark.parametrize("data", [{"x": float("nan")}, {"x": float("inf")}, {"x": object()}, {"x": "\ud800"}])
    async def test_a_body_that_json_cannot_say(self, client: CloudAPIClient, cloud: FakeCloud, data: object) -> None:
        with pytest.raises(ValueError, match=r"."):
            await client.post("/x", data)
        assert not cloud.requests

    async def test_a_url_in_a_query_is_a_value(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await client.get("/x?next=https://example.com/y")
        assert cloud.requests[0].query == {"next": "https://example.com/y"}

    @pytest.mark.parametrize(
        "arguments",
        [
            {"api_url": "http://api.example.com"},
            {"api_url": "ftp://api.example.com"},
            {"api_url": "https://user:pass@api.example.com"},
            {"api_url": "https://"},
            {"api_url": "https://h:99999"},
            {"api_url": "http://local\thost"},
            {"api_key": "two words"},
            {"api_key": "schlüssel"},
            {"api_key": "a\nb"},
            {"vehicle_id": ""},
            {"vehicle_id": "a\r\nX-Evil: 1"},
            {"fleet_id": "fleet alpha"},
            {"timeout": 0.0},
            {"timeout": float("nan")},
            {"max_retries": -1},
            {"rate_limit": -1.0},
        ],
    )
    def test_arguments_that_cannot_be_used(self, arguments: dict[str, Any]) -> None:
        with pytest.raises(ConfigurationError) as caught:
            CloudAPIClient(**arguments)
        assert "pass@" not in str(caught.value)
        assert "two words" not in str(caught.value)

    def test_settings_and_arguments_at_once(self) -> None:
        with pytest.raises(ConfigurationError, match="api_url, not both"):
            CloudAPIClient(URL, settings=CloudSettings())


class ParkingClock(FakeClock):
    """Says when somebody sleeps."""

    def __init__(self) -> None:
        super().__init__()
        self.asleep = asyncio.Event()

    async def sleep(self, seconds: float) -> None:
        self.asleep.set()
        await super().sleep(seconds)


class Car(BaseModel):
    name: str
    location: dict[str, float]


class Spot(NamedTuple):
    lat: float
    lon: float


class TestPlacesLeaveCoarse:
    """That nothing finer left is asserted by FakeCloud on each request."""

    async def test_in_a_plain_body(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await client.post("/x", {"location": {"lat": 37.774929, "lon": -122.419416}, "distance": 12.34567})
        await client.put("/x", {"metadata": {"location": "37.774929,-122.419416"}, "tracks": [{"lat": 37.774929}]})
        assert cloud.requests[0].json == {"location": {"lat": 37.77, "lon": -122.42}, "distance": 12.34567}
        assert cloud.requests[1].json == {"metadata": {"location": "37.77,-122.42"}, "tracks": [{"lat": 37.77}]}

    async def test_in_objects_of_the_callers_own(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await client.post("/x", Car(name="a", location={"lat": 37.774929, "lon": -122.419416}))
        await client.post("/x", {"car": Car(name="a", location={"lat": 37.774929}), "spot": {"gps": Spot(1.2345, 2.3)}})
        assert cloud.requests[0].json["location"] == {"lat": 37.77, "lon": -122.42}
        assert cloud.requests[1].json == {
            "car": {"name": "a", "location": {"lat": 37.77}},
            "spot": {"gps": [1.23, 2.3]},
        }

    async def test_in_parameters_and_in_the_endpoint(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await client.get("/x", {"lat": 37.774929, "location": "37.774929,-122.419416"})
        await client.get("/x?lon=-122.419416&limit=1.2345")
        await client.get("/near/37.774929,-122.419416")
        await client.request(HTTPMethod.GET, "/x", params={"lat": 37.774929})
        assert [seen.query for seen in cloud.requests] == [
            {"lat": "37.77", "location": "37.77,-122.42"},
            {"lon": "-122.42", "limit": "1.2345"},
            {},
            {"lat": "37.77"},
        ]
        assert cloud.requests[2].path == "/near/37.77,-122.42"


class TestRetries:
    async def test_waits_are_full_jitter(self, client: CloudAPIClient, cloud: FakeCloud, rng: Random) -> None:
        settings = settings_for(cloud, max_retries=6)
        waits: list[float] = []
        for seed in range(30):
            clock = RecordingClock()
            cloud.script("GET", "/x", *[Answer(cut=0)] * 6)
            async with CloudAPIClient(settings=settings, clock=clock, rng=Random(seed)) as fresh:
                await fresh.get("/x")
            waits += clock.slept[:1]
        assert all(0.0 <= wait < 1.0 for wait in waits)
        assert min(waits) < 0.4  # from 0 on: equal jitter would start at half
        assert max(waits) > 0.6

    async def test_as_many_as_max_retries(self, cloud: FakeCloud, ticking: RecordingClock) -> None:
        cloud.handler = lambda _: problem(500)
        for allowed in (0, 1, 3):
            cloud.requests.clear()
            async with CloudAPIClient(settings=settings_for(cloud, max_retries=allowed), clock=ticking) as client:
                response = await client.get("/x")
            assert (response.success, response.status_code) == (False, 500)
            assert len(cloud.requests) == 1 + allowed

    async def test_a_budget_ends_a_storm(self, cloud: FakeCloud) -> None:
        """Against a dead backend 40 calls with 3 retries each make far less than 160 requests."""
        cloud.handler = lambda _: Answer(cut=0)
        clock = RecordingClock()
        async with CloudAPIClient(settings=settings_for(cloud), clock=clock) as client:
            for _ in range(40):
                assert not (await client.get("/x")).success
                clock.tick(60.0)
            assert len(cloud.requests) < 40 + 20
            cloud.handler = lambda _: json_answer(200)
            for _ in range(120):
                await client.get("/x")
            cloud.script("GET", "/x", problem(500), json_answer(200))
            assert (await client.get("/x")).success  # it is given back by what succeeds

    async def test_a_call_waits_out_a_short_pause(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("POST", "/trips", problem(503, headers={"Retry-After": "5"}))
        with pytest.raises(NotNowError):
            await client.request(HTTPMethod.POST, "/trips", content=b"{}", idempotency_key="k")
        assert (await client.get("/x")).success

    async def test_a_call_does_not_wait_for_an_operator(
        self, client: CloudAPIClient, ticking: RecordingClock, cloud: FakeCloud
    ) -> None:
        client.halt("power", "the battery is low")
        response = await client.get("/x")
        assert (response.success, response.status_code) == (False, 0)
        assert response.error == "GET /x: not sent: the battery is low"
        assert ticking.slept == []
        assert not await client.check_connectivity()
        assert not cloud.requests


class TestLife:
    async def test_close_twice_is_close_once(self, client: CloudAPIClient) -> None:
        await client.get("/x")
        await client.close()
        await client.close()

    async def test_close_unopened(self) -> None:
        await CloudAPIClient(URL, "k").close()

    async def test_a_closed_client_opens_again(self, cloud: FakeCloud) -> None:
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            assert (await client.get("/x")).success
        assert (await client.get("/x")).success
        await client.close()

    async def test_closing_while_a_request_is_under_way_ends_it(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(silent=True))
        client = CloudAPIClient(settings=settings_for(cloud, max_retries=0))
        getting = asyncio.create_task(client.get("/x"))
        await cloud.received()
        await client.close()
        async with asyncio.timeout(5.0):
            response = await getting
        assert not response.success

    async def test_an_injected_client_is_used_and_not_closed(self, cloud: FakeCloud) -> None:
        async with httpx.AsyncClient() as http:
            async with CloudAPIClient(settings=settings_for(cloud), http=http) as client:
                assert (await client.get("/x")).success
            assert not http.is_closed
            assert (await client.get("/x")).success

    async def test_an_injected_client_that_was_closed_is_an_answer_not_an_exception(self, cloud: FakeCloud) -> None:
        http = httpx.AsyncClient()
        await http.aclose()
        async with CloudAPIClient(settings=settings_for(cloud, max_retries=0), http=http) as client:
            response = await client.get("/x")
        assert response.error == "GET /x: the client was closed"

    async def test_companions_are_shared_and_closed_before_the_client(self, cloud: FakeCloud) -> None:
        closed: list[bool] = []

        class Companion:
            async def close(self) -> None:
                closed.append((await owner.get("/x")).success)

        owner = CloudAPIClient(settings=settings_for(cloud))
        assert owner.shared(Companion, Companion) is owner.shared(Companion, Companion)
        await owner.close()
        assert closed == [True]

    async def test_a_companion_that_raises_leaves_nothing_open(self, cloud: FakeCloud) -> None:
        async def broken() -> None:
            raise OSError("disk")

        client = CloudAPIClient(settings=settings_for(cloud))
        await client.get("/x")
        client.close_with(broken)
        with pytest.raises(OSError, match="disk"):
            await client.close()
        assert client._http is None

    async def test_cancellation_passes_and_gives_its_place_back(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", Answer(silent=True))
        async with CloudAPIClient(settings=settings_for(cloud, max_in_flight=1)) as client:
            getting = asyncio.create_task(client.get("/x"))
            await cloud.received()
            getting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting
            assert (await client.get("/y")).success

    async def test_cancellation_passes_while_it_waits_to_try_again(self, cloud: FakeCloud) -> None:
        cloud.script("GET", "/x", problem(503, headers={"Retry-After": "20"}))
        clock = ParkingClock()
        async with CloudAPIClient(settings=settings_for(cloud), clock=clock) as client:
            getting = asyncio.create_task(client.get("/x"))
            await clock.asleep.wait()
            getting.cancel()
            with pytest.raises(asyncio.CancelledError):
                await getting


class TestSecretsShowNowhere:
    async def test_not_in_a_repr_a_log_or_an_answer(self, cloud: FakeCloud, caplog: pytest.LogCaptureFixture) -> None:
        caplog.set_level(logging.DEBUG)
        asyncio.get_running_loop().set_debug(True)
        cloud.script("GET", "/x", problem(401), problem(500), Answer(cut=0), json_answer(200))
        said: list[object] = []
        client = CloudAPIClient(settings=settings_for(cloud, max_retries=0), clock=RecordingClock())
        for _ in range(4):
            said.append(await client.get("/x"))
            client.gate.on_credential_changed()
            client.gate.on_reachable()
        await cloud.stop()
        said.append(await client.get("/x"))
        said += [client, client.settings, client._credential, vars(client)["settings"]]
        await client.close()
        assert API_KEY not in caplog.text
        assert API_KEY not in repr(said) + str(said)

    async def test_not_in_a_traceback(self, cloud: FakeCloud) -> None:
        await cloud.stop()
        async with CloudAPIClient(settings=settings_for(cloud)) as client:
            with pytest.raises(UnreachableError) as caught:
                await client.request(HTTPMethod.GET, "/drivers/driver_123/profile")
        text = "".join(traceback.format_exception(caught.value))
        assert API_KEY not in text
        assert "driver_123/profile: " not in text
        assert "/drivers/{id}/profile: cannot connect" in text

    def test_not_in_a_configuration_error(self) -> None:
        key = "sk-secret value"
        with pytest.raises(ConfigurationError) as caught:
            CloudAPIClient("http://api.example.com", key, VEHICLE, FLEET)
        assert "sk-secret" not in "".join(traceback.format_exception(caught.value))


class TestWithRespx:
    """The client's own units on a mocked transport."""

    @pytest.mark.respx(base_url=URL)
    async def test_sends_and_reads_json(self, respx_mock: respx.MockRouter) -> None:
        route = respx_mock.post("/trips").respond(201, json={"trip_id": "trip_0"})
        async with CloudAPIClient(URL, API_KEY, VEHICLE, FLEET) as client:
            response = await client.post("/trips", {"a": 1}, idempotency_key="trip_0")
        assert response.data == {"trip_id": "trip_0"}
        assert route.calls.last.request.headers["Idempotency-Key"] == "trip_0"
        assert route.calls.last.request.content == b'{"a":1}'

    @pytest.mark.respx(base_url=URL)
    @pytest.mark.parametrize(
        "error",
        [
            httpx.ConnectTimeout("x"),
            httpx.ReadTimeout("x"),
            httpx.WriteTimeout("x"),
            httpx.PoolTimeout("x"),
            httpx.ConnectError("x"),
            httpx.ReadError("x"),
            httpx.WriteError("x"),
            httpx.CloseError("x"),
            httpx.ProxyError("x"),
            httpx.UnsupportedProtocol("x"),
            httpx.LocalProtocolError("x"),
            httpx.RemoteProtocolError("x"),
            httpx.DecodingError("x"),
            httpx.InvalidURL("x"),
        ],
        ids=lambda error: type(error).__name__,
    )
    async def test_no_fault_of_the_transport_is_raised(self, error: Exception, respx_mock: respx.MockRouter) -> None:
        route = respx_mock.get("/x").mock(side_effect=error)
        async with CloudAPIClient(URL, API_KEY, max_retries=1, settings=None, clock=RecordingClock()) as client:
            response = await client.get("/x")
        assert (response.success, response.status_code, response.data) == (False, 0, None)
        assert response.error
        assert route.call_count == 2

    @pytest.mark.respx(base_url=URL)
    async def test_every_attempt_teaches_who_listens(self, respx_mock: respx.MockRouter) -> None:
        told: list[AttemptOutcome] = []
        respx_mock.get("/x").mock(
            side_effect=[
                httpx.Response(200, json={}),
                httpx.Response(404),
                httpx.Response(503),
                httpx.ConnectError("x"),
            ]
        )
        respx_mock.get("/health").respond(200, json={"status": "ok"})
        async with CloudAPIClient(URL, API_KEY, max_retries=0, clock=RecordingClock()) as client:
            client.subscribe(lambda contact, _: told.append(contact))
            for _ in range(4):
                await client.get("/x")
                client.gate.on_reachable()
            await client.check_connectivity()
        assert told == [
            AttemptOutcome.AUTHORIZED,
            AttemptOutcome.AUTHORIZED,
            AttemptOutcome.UNREACHABLE,
            AttemptOutcome.REACHABLE,
        ]

    async def test_what_another_host_does_teaches_nothing(self, respx_mock: respx.MockRouter) -> None:
        told: list[AttemptOutcome] = []
        respx_mock.get(f"{URL}/x").respond(302, headers={"Location": "https://cdn.example.com/x"})
        respx_mock.get("https://cdn.example.com/x").mock(side_effect=httpx.ConnectError("x"))
        async with CloudAPIClient(URL, API_KEY, clock=RecordingClock()) as client:
            client.subscribe(lambda contact, _: told.append(contact))
            with pytest.raises(ElsewhereError):
                await client.request(HTTPMethod.GET, "/x")
        assert told == []

    @pytest.mark.respx(base_url=URL)
    async def test_a_304_counts_where_it_was_asked_for(self, respx_mock: respx.MockRouter) -> None:
        respx_mock.get("/models").respond(304)
        async with CloudAPIClient(URL, API_KEY, clock=RecordingClock()) as client:
            reply = await client.request(HTTPMethod.GET, "/models", headers={"If-None-Match": '"a"'})
            assert (reply.status, reply.data) == (304, None)
            with pytest.raises(UnreachableError):
                await client.request(HTTPMethod.GET, "/models")


def test_jitter_is_drawn_from_the_one_function() -> None:
    assert 0.0 <= full_jitter(1, Random(1)) < 1.0


async def test_held_requests_carry_no_request_id(client: CloudAPIClient) -> None:
    client.halt("x", "no")
    with pytest.raises(HeldError) as caught:
        await client.request(HTTPMethod.GET, "/x")
    assert caught.value.request_id is None
    client.resume("x")
    assert (await client.get("/x")).success
