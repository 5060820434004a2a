"""Wire contract, "Answers, and what the agent does with them": each row of the table, over a real socket."""

import asyncio
from collections.abc import AsyncIterator
from datetime import UTC, datetime
from email.utils import format_datetime
from http import HTTPMethod
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.base.errors import (
    CloudError,
    CredentialError,
    HeldError,
    NotNowError,
    PreconditionError,
    RejectedError,
    UnacknowledgedError,
    UnreachableError,
)
from sentinel_sync.cloud.client import AttemptOutcome, CloudAPIClient
from sentinel_sync.cloud.rules.answers import GateState
from tests.fakes.cloud import API_KEY, Answer, FakeCloud, json_answer, portal, problem, refused, settings_for
from tests.fakes.recording_clock import RecordingClock

TRIP = b'{"trip_id":"trip_0"}'


@pytest.fixture
def ticking() -> RecordingClock:
    return RecordingClock()


@pytest.fixture
async def client(cloud: FakeCloud, ticking: RecordingClock, rng: Random) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=settings_for(cloud), clock=ticking, rng=rng) as opened:
        yield opened


async def post_trip(client: CloudAPIClient) -> object:
    """One attempt, as the outbox makes it."""
    return (await client.request(HTTPMethod.POST, "/trips", content=TRIP, idempotency_key="trip_0")).data


def http_date(seconds: float) -> str:
    return format_datetime(datetime.fromtimestamp(seconds, UTC), usegmt=True)


class TestRow2xx:
    @pytest.mark.parametrize("status", [200, 201, 202, 203, 299])
    async def test_is_done(self, client: CloudAPIClient, cloud: FakeCloud, status: int) -> None:
        cloud.script("POST", "/trips", json_answer(status, {"trip_id": "trip_0", "more": [1]}))
        response = await client.post("/trips", {})
        assert (response.success, response.status_code, response.error) == (True, status, None)
        assert response.data == {"trip_id": "trip_0", "more": [1]}
        assert len(cloud.requests) == 1

    @pytest.mark.parametrize("answer", [Answer(204), Answer(205), Answer(201)])
    async def test_is_done_without_a_body_where_none_is_due(
        self, client: CloudAPIClient, cloud: FakeCloud, answer: Answer
    ) -> None:
        cloud.script("POST", "/trips", answer)
        response = await client.post("/trips", {})
        assert (response.success, response.data) == (True, None)

    @pytest.mark.parametrize("method", [HTTPMethod.OPTIONS, HTTPMethod.HEAD])
    async def test_is_done_where_the_answer_is_in_the_headers(
        self, client: CloudAPIClient, cloud: FakeCloud, method: HTTPMethod
    ) -> None:
        cloud.script(method, "/scenarios/s/videos", Answer(200, headers={"Tus-Resumable": "1.0.0"}))
        reply = await client.request(method, "/scenarios/s/videos")
        assert reply.headers["Tus-Resumable"] == "1.0.0"

    async def test_unknown_fields_and_missing_ones_are_no_matter(
        self, client: CloudAPIClient, cloud: FakeCloud
    ) -> None:
        cloud.script("GET", "/health", json_answer(200, {"news": 1}))
        assert await client.check_connectivity()


class TestRow409:
    async def test_on_a_post_is_done(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("POST", "/trips", problem(409, "Conflict", "trip_0 is already there"))
        response = await client.post("/trips", {})
        assert (response.success, response.status_code) == (True, 409)
        assert len(cloud.requests) == 1

    async def test_on_a_post_is_done_whatever_its_body(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("POST", "/trips", Answer(409, b"<html>"))
        assert await post_trip(client) is None

    @pytest.mark.parametrize("method", [HTTPMethod.PUT, HTTPMethod.PATCH, HTTPMethod.DELETE])
    async def test_on_anything_else_is_refused(
        self, client: CloudAPIClient, cloud: FakeCloud, method: HTTPMethod
    ) -> None:
        cloud.script(method, "/x", problem(409))
        with pytest.raises(RejectedError):
            await client.request(method, "/x")


class TestRow401And403:
    @pytest.mark.parametrize("status", [401, 403])
    async def test_stops_everything_but_the_health_probe(
        self, client: CloudAPIClient, cloud: FakeCloud, status: int
    ) -> None:
        cloud.script("POST", "/trips", refused(status))
        with pytest.raises(CredentialError, match="credential is refused"):
            await post_trip(client)
        for method in ("GET", "POST", "PUT", "DELETE"):
            with pytest.raises(HeldError):
                await client.request(HTTPMethod(method), "/x", idempotency_key="k")
        assert not (await client.get("/models")).success
        assert await client.check_connectivity()
        with pytest.raises(HeldError):  # the probe needs no credential, so it proves nothing about ours
            await post_trip(client)
        assert [seen.target for seen in cloud.requests] == ["/trips", "/health"]

    async def test_spends_no_retry(self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock) -> None:
        cloud.script("POST", "/trips", refused())
        response = await client.post("/trips", {})
        assert (response.success, response.status_code) == (False, 401)
        assert response.error is not None
        assert "check cloud.api_key" in response.error
        assert len(cloud.requests) == 1
        assert ticking.slept == []

    async def test_is_said_once(
        self, client: CloudAPIClient, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
    ) -> None:
        told: list[AttemptOutcome] = []
        client.subscribe(lambda contact, _: told.append(contact))
        cloud.handler = lambda _: refused()
        results = await asyncio.gather(*(post_trip(client) for _ in range(5)), return_exceptions=True)
        assert all(isinstance(result, CredentialError) for result in results)
        assert sum(record.levelname == "ERROR" for record in caplog.records) == 1
        assert AttemptOutcome.UNAUTHORIZED in told

    async def test_goes_on_when_the_key_file_changes_without_a_restart(
        self, cloud: FakeCloud, tmp_path: Path, ticking: RecordingClock
    ) -> None:
        key_file = tmp_path / "key"
        key_file.write_text("revoked-key")
        cloud.rules.api_keys = {"revoked-key", API_KEY}
        cloud.handler = lambda seen: json_answer(201) if seen.headers["authorization"].endswith(API_KEY) else refused()
        settings = settings_for(cloud, api_key="", api_key_file=key_file)
        async with CloudAPIClient(settings=settings, clock=ticking) as client:
            with pytest.raises(CredentialError):
                await post_trip(client)
            with pytest.raises(HeldError):
                await post_trip(client)
            # As secret stores do it: a rename over the old one.
            (tmp_path / "new").write_text(API_KEY)
            (tmp_path / "new").rename(key_file)
            await post_trip(client)
        assert [seen.headers["authorization"] for seen in cloud.requests] == [
            "Bearer revoked-key",
            f"Bearer {API_KEY}",
        ]

    async def test_a_key_that_was_changed_meanwhile_closes_nothing(
        self, cloud: FakeCloud, tmp_path: Path, ticking: RecordingClock
    ) -> None:
        key_file = tmp_path / "key"
        key_file.write_text("old-key")
        cloud.rules.api_keys = {"old-key", API_KEY}
        held = asyncio.Event()
        cloud.script("POST", "/trips", Answer(401, after=held), json_answer(201))
        settings = settings_for(cloud, api_key="", api_key_file=key_file)
        async with CloudAPIClient(settings=settings, clock=ticking) as client:
            posting = asyncio.create_task(client.post("/trips", {}))
            await cloud.received()
            key_file.write_text(API_KEY)
            held.set()
            response = await posting
        assert response.success
        assert [seen.headers["authorization"][7:] for seen in cloud.requests] == ["old-key", API_KEY]

    async def test_goes_on_after_the_long_interval(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        cloud.script("POST", "/trips", refused())
        with pytest.raises(CredentialError):
            await post_trip(client)
        ticking.tick(client.settings.credential_retry_interval - 1.0)
        with pytest.raises(HeldError):
            await post_trip(client)
        ticking.tick(1.0)
        await post_trip(client)
        assert client.gate.passage(ticking.monotonic()).open

    async def test_what_was_sent_before_and_succeeds_after_lifts_nothing(
        self, client: CloudAPIClient, cloud: FakeCloud
    ) -> None:
        late = asyncio.Event()
        cloud.script("GET", "/models", Answer(200, b"{}", after=late))
        cloud.script("POST", "/trips", refused())
        getting = asyncio.create_task(client.get("/models"))
        await cloud.received(path="/models")
        with pytest.raises(CredentialError):
            await post_trip(client)
        late.set()
        assert (await getting).success
        with pytest.raises(HeldError):
            await post_trip(client)

    async def test_of_the_health_probe_counts_too(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("GET", "/health", refused())
        with pytest.raises(CredentialError):
            await client.probe()
        with pytest.raises(HeldError):
            await post_trip(client)

    async def test_of_another_host_says_nothing_about_the_credential(
        self, client: CloudAPIClient, cloud: FakeCloud, stranger: FakeCloud
    ) -> None:
        cloud.script("GET", "/models/m/download", Answer(302, headers={"Location": f"{stranger.url}/m"}))
        stranger.script("GET", "/m", Answer(403))
        with pytest.raises(RejectedError):
            await client.request(HTTPMethod.GET, "/models/m/download")
        await post_trip(client)


NOT_NOW = [408, 425, 429, 500, 502, 503, 504]


class TestRowNotNow:
    @pytest.mark.parametrize("status", [*NOT_NOW, 501, 507, 511, 599])
    async def test_backs_off_with_full_jitter_and_tries_again(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, status: int
    ) -> None:
        cloud.script("POST", "/trips", problem(status), problem(status), json_answer(201))
        response = await client.post("/trips", {})
        assert response.success
        assert len(ticking.slept) == 2
        assert 0.0 <= ticking.slept[0] < 2.0
        assert 0.0 <= ticking.slept[1] < 4.0
        assert len({seen.key for seen in cloud.requests}) == 1

    @pytest.mark.parametrize("status", NOT_NOW)
    async def test_honours_retry_after_in_seconds(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, status: int
    ) -> None:
        cloud.script("POST", "/trips", problem(status, headers={"Retry-After": "17"}), json_answer(201))
        begun = ticking.monotonic()
        assert (await client.post("/trips", {})).success
        assert 17.0 <= ticking.monotonic() - begun < 17.0 + 3.0 + 0.1  # at least that, and a random part on top

    @pytest.mark.parametrize("status", NOT_NOW)
    async def test_honours_retry_after_as_an_http_date(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, status: int
    ) -> None:
        at = http_date(ticking.now() + 20.0)
        cloud.script("POST", "/trips", problem(status, headers={"Retry-After": at}))
        with pytest.raises(NotNowError) as caught:
            await post_trip(client)
        assert caught.value.retry_after == pytest.approx(20.0, abs=1.0)

    @pytest.mark.parametrize("wrong_by", [-3_600.0, 86_400.0, -1.7e9])
    async def test_honours_an_http_date_also_where_the_vehicles_clock_is_wrong(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, wrong_by: float
    ) -> None:
        true = ticking.now()
        headers = {"Retry-After": http_date(true + 20.0), "Date": http_date(true)}
        cloud.script("POST", "/trips", problem(503, headers=headers))
        ticking.set_wall(true + wrong_by)
        with pytest.raises(NotNowError) as caught:
            await post_trip(client)
        assert caught.value.retry_after == pytest.approx(20.0)

    @pytest.mark.parametrize("asked", ["86400", "99999999999999999999999", "Sat, 01 Jan 2050 00:00:00 GMT"])
    async def test_retry_after_is_capped(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, asked: str
    ) -> None:
        cloud.script("POST", "/trips", problem(503, headers={"Retry-After": asked}))
        with pytest.raises(NotNowError) as caught:
            await post_trip(client)
        assert caught.value.retry_after == client.settings.max_retry_after
        ticking.tick(client.settings.max_retry_after * 1.1)
        await post_trip(client)

    @pytest.mark.parametrize("nonsense", ["soon", "-5", "1.5", "", "Wed, 21 Oct 99999999999999 07:28:00 GMT", "\xbd"])
    async def test_a_retry_after_that_makes_no_sense_is_as_none(
        self, client: CloudAPIClient, cloud: FakeCloud, nonsense: str
    ) -> None:
        cloud.script("POST", "/trips", problem(503, headers={"Retry-After": nonsense}))
        with pytest.raises(NotNowError) as caught:
            await post_trip(client)
        assert caught.value.retry_after is None

    async def test_the_whole_client_waits_not_only_that_item(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        cloud.script("POST", "/trips", problem(429, headers={"Retry-After": "600"}))
        with pytest.raises(NotNowError):
            await post_trip(client)
        for attempt in (client.request(HTTPMethod.GET, "/models"), post_trip(client), client.probe()):
            with pytest.raises(HeldError):
                await attempt
        ticking.tick(500.0)
        assert not (await client.get("/models")).success
        assert len(cloud.requests) == 1
        ticking.tick(160.0)
        assert (await client.get("/models")).success

    async def test_what_succeeds_meanwhile_does_not_lift_it(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        late = asyncio.Event()
        cloud.script("GET", "/models", Answer(200, b"{}", after=late))
        cloud.script("POST", "/trips", problem(503, headers={"Retry-After": "600"}))
        getting = asyncio.create_task(client.get("/models"))
        await cloud.received(path="/models")
        with pytest.raises(NotNowError):
            await post_trip(client)
        late.set()
        assert (await getting).success
        assert 600.0 <= (client.gate.passage(ticking.monotonic()).wait or 0.0) <= 660.0

    async def test_a_call_does_not_wait_longer_than_a_caller_would(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        cloud.script("GET", "/models", problem(503, headers={"Retry-After": "3600"}))
        response = await client.get("/models")
        assert (response.success, response.status_code) == (False, 503)
        assert ticking.slept == []

    async def test_of_another_host_holds_nobody(
        self, client: CloudAPIClient, cloud: FakeCloud, stranger: FakeCloud
    ) -> None:
        cloud.script("GET", "/models", Answer(302, headers={"Location": f"{stranger.url}/m"}))
        stranger.script("GET", "/m", Answer(503, headers={"Retry-After": "600"}))
        with pytest.raises(NotNowError):
            await client.request(HTTPMethod.GET, "/models")
        await post_trip(client)


class TestRowOther4xx:
    @pytest.mark.parametrize("status", [400, 404, 410, 413, 415, 418, 422, 402, 405, 406, 411, 414, 416, 421, 431, 451])
    async def test_cannot_succeed_and_others_go_on(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, status: int
    ) -> None:
        cloud.script("POST", "/trips", problem(status, "No", "never"))
        with pytest.raises(RejectedError, match=f"answered {status} \\(No: never\\)") as caught:
            await post_trip(client)
        assert caught.value.status == status
        await post_trip(client)
        assert client.gate.passage(ticking.monotonic()).open

    async def test_is_not_tried_again(self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock) -> None:
        cloud.script("POST", "/trips", problem(422))
        response = await client.post("/trips", {})
        assert (response.success, response.status_code) == (False, 422)
        assert [seen.path for seen in cloud.requests] == ["/trips", "/health"]
        assert ticking.slept == []

    async def test_412_tells_that_another_was_faster(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("PUT", "/drivers/d/profile", problem(412))
        with pytest.raises(PreconditionError):
            await client.request(HTTPMethod.PUT, "/drivers/d/profile", content=b"{}")

    async def test_413_that_comes_before_the_body_was_sent_is_seen(
        self, client: CloudAPIClient, cloud: FakeCloud
    ) -> None:
        cloud.script("POST", "/trips", Answer(413, early=True))
        with pytest.raises(RejectedError):
            await client.request(HTTPMethod.POST, "/trips", content=bytes(300_000), idempotency_key="k")


TRUNCATED = json_answer(201, {"trip_id": "trip_0", "status": "uploaded"})
UNKNOWN = {
    "reset before an answer": Answer(cut=0, reset=True),
    "closed before an answer": Answer(cut=0),
    "reset in the head": Answer(201, b"{}", cut=20, reset=True),
    "closed in the head": Answer(201, b"{}", cut=20),
    "reset in the body": Answer(201, b'{"a": 1}', declared=4096, cut=90, reset=True),
    "closed in the body": Answer(TRUNCATED.status, TRUNCATED.body, TRUNCATED.headers, cut=110),
    "shorter than declared": Answer(201, b'{"a": 1}', declared=4096),
    "no answer": Answer(silent=True),
    "half an answer, then nothing": Answer(201, b'{"a": 1}', before_body=asyncio.Event()),
    "one byte now and then": Answer(201, b'{"status": "uploaded"' + b" " * 500 + b"}", drip=0.05),
    "garbage": Answer(raw=b"\x16\x03\x01\x02\x00 this is no HTTP\r\n\r\n"),
    "an old protocol": Answer(raw=b"220 ftp.example.com ready\r\n"),
    "a redirect of a POST": Answer(302, b"", {"Location": "/elsewhere"}),
    "a redirect of a POST that keeps the method": Answer(307, b"", {"Location": "/elsewhere"}),
    "not modified, which nobody asked": Answer(304),
}


UNACKNOWLEDGED = {
    "no JSON": Answer(200, b"<xml/>", {"Content-Type": "application/json"}),
    "half of a JSON": Answer(200, b'{"status": "upl', {"Content-Type": "application/json"}),
    "not UTF-8": Answer(200, b'{"status": "\xff\xfe"}', {"Content-Type": "application/json"}),
    "a word": Answer(200, b"OK", {"Content-Type": "text/plain"}),
    "a login page": portal(),
    "a login page, created": portal(201),
    "packed, but not so": Answer(200, b"not gzip", {"Content-Encoding": "gzip"}),
    "packed in a way not asked for": Answer(200, b"{}", {"Content-Encoding": "br"}),
    "more values than any answer has": Answer(200, b"[" + b"0," * 100_000 + b"0]"),
    "an error inside": json_answer(200, {"error": {"code": 503, "message": "not stored"}}),
    "a status of failure": json_answer(200, {"status": "error"}),
    "another trip": json_answer(201, {"trip_id": "trip_1", "status": "uploaded"}),
    "an array": json_answer(200, ["trip_0"]),
    "a scalar": json_answer(201, "trip_0"),
}
#: Those that are JSON and say otherwise.
CONTRADICTING = {"an error inside", "a status of failure", "another trip", "an array", "a scalar"}
ACKNOWLEDGED = {
    "an empty object": json_answer(200, {}),
    "nothing, with 200": Answer(200),
    "nothing, with 202": Answer(202),
    "a BOM before the JSON": Answer(201, b'\xef\xbb\xbf{"trip_id": "trip_0", "status": "uploaded"}'),
    "only a BOM": Answer(200, b"\xef\xbb\xbf"),
    "a word, created": Answer(201, b"Created", {"Content-Type": "text/html"}),
    "nothing, said to be packed": Answer(201, b"", {"Content-Encoding": "gzip"}),
    "null where it could be left out": json_answer(200, {"trip_id": None, "status": None, "error": None}),
    "numbers that no float holds": Answer(201, b'{"trip_id": "trip_0", "stored_at": NaN, "size": 1e999}'),
}


async def post_named_trip(client: CloudAPIClient) -> object:
    names = {"trip_id": "trip_0"}
    return await client.request(HTTPMethod.POST, "/trips", content=TRIP, idempotency_key="trip_0", names=names)


class TestAcknowledgement:
    @pytest.mark.parametrize("name", UNACKNOWLEDGED)
    async def test_what_acknowledges_nothing_holds_back_that_item_alone(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, name: str
    ) -> None:
        told: list[AttemptOutcome] = []
        client.subscribe(lambda contact, _: told.append(contact))
        cloud.script("POST", "/trips", UNACKNOWLEDGED[name])
        with pytest.raises(UnacknowledgedError) as caught:
            await post_named_trip(client)
        assert caught.value.contradicts is (name in CONTRADICTING)
        assert not told
        assert client.gate.passage(ticking.monotonic()).open

    # The face does not know what an answer names the work by.
    @pytest.mark.parametrize("name", [name for name in UNACKNOWLEDGED if name != "another trip"])
    async def test_it_is_tried_again_under_the_same_key(
        self, client: CloudAPIClient, cloud: FakeCloud, name: str
    ) -> None:
        answer = UNACKNOWLEDGED[name]
        cloud.script("POST", "/trips", answer, answer)
        assert (await client.post("/trips", {"trip_id": "trip_0"})).success
        assert len({(seen.key, seen.body) for seen in cloud.requests}) == 1

    @pytest.mark.parametrize("answer", ACKNOWLEDGED.values(), ids=ACKNOWLEDGED)
    async def test_what_does_not_contradict_acknowledges(
        self, client: CloudAPIClient, cloud: FakeCloud, answer: Answer
    ) -> None:
        cloud.script("POST", "/trips", answer)
        await post_named_trip(client)
        assert len(cloud.requests) == 1

    async def test_what_was_asked_for_with_get_is_in_the_body(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        for answer in (Answer(200), portal(), Answer(200, b"\xef\xbb\xbf")):
            cloud.script("GET", "/models", answer)
            with pytest.raises(UnreachableError):
                await client.request(HTTPMethod.GET, "/models")
            client.gate.on_reachable()


class TestSomethingInBetween:
    @pytest.mark.parametrize("status", [400, 404, 405, 410, 413, 422, 451])
    async def test_a_4xx_is_not_about_the_item_where_health_answers_none(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock, status: int
    ) -> None:
        told: list[AttemptOutcome] = []
        client.subscribe(lambda contact, _: told.append(contact))
        page = Answer(status, b"<html>nginx</html>", {"Content-Type": "text/html"})
        cloud.script("POST", "/trips", page)
        cloud.script("GET", "/health", page)
        with pytest.raises(UnreachableError, match=r"the address is wrong: check cloud\.api_url"):
            await post_trip(client)
        assert told[-1] is AttemptOutcome.UNREACHABLE
        assert AttemptOutcome.AUTHORIZED not in told
        assert client.gate.passage(ticking.monotonic()).state is GateState.PAUSED

    @pytest.mark.parametrize("health", [portal(), json_answer(200, ["ok"]), Answer(200), Answer(503), Answer(cut=0)])
    async def test_whatever_health_answers_instead(
        self, client: CloudAPIClient, cloud: FakeCloud, health: Answer
    ) -> None:
        cloud.script("POST", "/trips", problem(404))
        cloud.script("GET", "/health", health, health)
        with pytest.raises(UnreachableError):
            await post_trip(client)

    async def test_several_that_are_rejected_together_ask_once(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("POST", "/trips", *[problem(422)] * 4)
        answers = await asyncio.gather(*(post_trip(client) for _ in range(4)), return_exceptions=True)
        assert [type(answer) for answer in answers] == [RejectedError] * 4
        assert 1 <= len([seen for seen in cloud.requests if seen.path == "/health"]) <= 4


class TestReusedConnection:
    async def test_one_that_ended_before_a_byte_is_followed_by_a_fresh_one_at_once(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        told: list[AttemptOutcome] = []
        client.subscribe(lambda contact, _: told.append(contact))
        for fault in (Answer(cut=0), Answer(cut=0, reset=True)):
            await post_trip(client)
            cloud.script("POST", "/trips", fault)
            await post_trip(client)
        assert set(told) == {AttemptOutcome.AUTHORIZED}
        assert ticking.slept == []
        first, cut, again = cloud.requests[:3]
        assert cut.key == again.key == first.key
        assert len({seen.headers["x-request-id"] for seen in cloud.requests}) == len(cloud.requests)

    async def test_the_fresh_one_is_tried_once(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await post_trip(client)
        cloud.script("POST", "/trips", Answer(cut=0), Answer(cut=0))
        with pytest.raises(UnreachableError):
            await post_trip(client)
        assert len(cloud.requests) == 3

    async def test_a_first_connection_is_no_reused_one(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        cloud.script("POST", "/trips", Answer(cut=0))
        with pytest.raises(UnreachableError):
            await post_trip(client)
        assert len(cloud.requests) == 1

    async def test_one_that_ended_in_the_answer_is_not(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        await post_trip(client)
        cloud.script("POST", "/trips", Answer(201, b'{"a": 1}', declared=4096, cut=90))
        with pytest.raises(UnreachableError):
            await post_trip(client)
        assert len(cloud.requests) == 2


class TestRowUnknownWhetherDone:
    @pytest.mark.parametrize("fault", UNKNOWN.values(), ids=UNKNOWN)
    async def test_is_tried_again_under_the_same_key(
        self, cloud: FakeCloud, ticking: RecordingClock, fault: Answer
    ) -> None:
        cloud.script("POST", "/trips", fault, fault)
        async with CloudAPIClient(settings=settings_for(cloud, timeout=0.15), clock=ticking) as client:
            response = await client.post("/trips", {"trip_id": "trip_0"})
        assert response.success
        assert [seen.path for seen in cloud.requests] == ["/trips"] * 3
        assert len({seen.key for seen in cloud.requests}) == 1
        assert len({seen.body for seen in cloud.requests}) == 1

    @pytest.mark.parametrize("fault", UNKNOWN.values(), ids=UNKNOWN)
    async def test_is_told_as_out_of_reach(self, cloud: FakeCloud, ticking: RecordingClock, fault: Answer) -> None:
        told: list[AttemptOutcome] = []
        cloud.script("POST", "/trips", fault)
        async with CloudAPIClient(settings=settings_for(cloud, timeout=0.15), clock=ticking) as client:
            client.subscribe(lambda contact, _: told.append(contact))
            with pytest.raises(UnreachableError):
                await post_trip(client)
        assert told == [AttemptOutcome.UNREACHABLE]

    async def test_connection_refused(self, cloud: FakeCloud, ticking: RecordingClock) -> None:
        await cloud.stop()
        async with CloudAPIClient(settings=settings_for(cloud), clock=ticking) as client:
            with pytest.raises(UnreachableError, match="cannot connect"):
                await post_trip(client)
            await cloud.start()
            ticking.tick(60.0)
            await post_trip(client)

    async def test_a_name_that_is_none(self, cloud: FakeCloud, ticking: RecordingClock) -> None:
        settings = settings_for(cloud, api_url=f"https://{'a' * 64}.invalid", max_retries=0)
        async with CloudAPIClient(settings=settings, clock=ticking) as client:
            response = await client.get("/models")
        assert (response.success, response.status_code) == (False, 0)

    async def test_a_failure_pauses_the_client_until_the_probe_finds_it_back(
        self, client: CloudAPIClient, cloud: FakeCloud, ticking: RecordingClock
    ) -> None:
        cloud.script("POST", "/trips", Answer(cut=0))
        with pytest.raises(UnreachableError):
            await post_trip(client)
        assert client.gate.passage(ticking.monotonic()).state is GateState.PAUSED
        assert await client.check_connectivity()
        await post_trip(client)

    async def test_a_portal_at_health_is_out_of_reach(self, client: CloudAPIClient, cloud: FakeCloud) -> None:
        for answer in (portal(), Answer(200), Answer(302, headers={"Location": "/login"}), json_answer(200, ["ok"])):
            cloud.script("GET", "/health", answer)
            cloud.script("GET", "/login", portal())
            with pytest.raises(CloudError):
                await client.probe()

    async def test_an_error_counts_by_its_status_even_if_its_body_is_cut_off(
        self, client: CloudAPIClient, cloud: FakeCloud
    ) -> None:
        cloud.script("POST", "/trips", Answer(422, b'{"title": "No"', declared=4096))
        with pytest.raises(RejectedError):
            await post_trip(client)
        cloud.script("POST", "/trips", Answer(422, b"not gzip", {"Content-Encoding": "gzip"}))
        with pytest.raises(RejectedError):
            await post_trip(client)
