"""Wire contract, "Every request": each header, row by row. The rules themselves are checked by FakeCloud."""

import asyncio
import re
from collections.abc import AsyncIterator
from http import HTTPMethod
from pathlib import Path
from random import Random
from uuid import UUID

import pytest

from sentinel_sync import __version__
from sentinel_sync.base.errors import RejectedError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE, Answer, FakeCloud, json_answer, problem, redirect, settings_for
from tests.fakes.wire_rules import Seen, WireRules


@pytest.fixture
async def client(cloud: FakeCloud, clock: FakeClock, rng: Random) -> AsyncIterator[CloudAPIClient]:
    async with CloudAPIClient(settings=settings_for(cloud, max_retries=0), clock=clock, rng=rng) as opened:
        yield opened


async def send_one_of_each(client: CloudAPIClient) -> None:
    await client.get("/fleet/fleet_alpha/statistics")
    await client.post("/trips", {"trip_id": "t"})
    await client.put("/drivers/driver_123/profile", {"driver_id": "driver_123"})
    await client.delete("/scenarios/s1")
    await client.check_connectivity()


async def test_row_authorization_is_bearer_api_key_on_every_request(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await send_one_of_each(client)
    assert len(cloud.requests) == 5
    assert {seen.headers["authorization"] for seen in cloud.requests} == {f"Bearer {API_KEY}"}


async def test_row_authorization_never_goes_to_another_host(
    client: CloudAPIClient, cloud: FakeCloud, stranger: FakeCloud
) -> None:
    cloud.script("GET", "/models", redirect(f"{stranger.url}/models"))
    stranger.script("GET", "/models", json_answer(200, {"models": []}))
    response = await client.get("/models")
    assert response.success
    assert len(stranger.requests) == 1
    assert "authorization" not in stranger.requests[0].headers


async def test_row_authorization_comes_back_with_the_own_host(
    client: CloudAPIClient, cloud: FakeCloud, stranger: FakeCloud
) -> None:
    cloud.script("GET", "/models", redirect(f"{stranger.url}/there"))
    stranger.script("GET", "/there", redirect(f"{cloud.url}/back"))
    response = await client.get("/models")
    assert response.success
    assert cloud.to("GET", "/back")[0].headers["authorization"] == f"Bearer {API_KEY}"


async def test_a_redirect_cannot_put_a_credential_of_its_own_into_the_request(
    client: CloudAPIClient, cloud: FakeCloud, stranger: FakeCloud
) -> None:
    cloud.script("GET", "/models", redirect(stranger.url.replace("http://", "http://user:password@") + "/models"))
    assert (await client.get("/models")).success
    assert "authorization" not in stranger.requests[0].headers


async def test_row_user_agent(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await send_one_of_each(client)
    assert {seen.headers["user-agent"] for seen in cloud.requests} == {
        f"sentinel-sync/{__version__} (vehicle {VEHICLE})"
    }


async def test_row_fleet_and_vehicle_ids(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await send_one_of_each(client)
    assert {(seen.headers["x-fleet-id"], seen.headers["x-vehicle-id"]) for seen in cloud.requests} == {(FLEET, VEHICLE)}


async def test_row_request_id_is_a_fresh_uuid_per_attempt_and_in_its_log_line(
    cloud: FakeCloud, clock: FakeClock, rng: Random, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("DEBUG", "sentinel_sync")
    cloud.script("POST", "/trips", problem(503), problem(503), json_answer(201))
    async with CloudAPIClient(settings=settings_for(cloud), clock=clock, rng=rng) as client:
        posting = asyncio.create_task(client.post("/trips", {"trip_id": "t"}))
        while not posting.done():
            await clock.advance(1.0)
            await asyncio.wait({posting}, timeout=0.001)  # the answer comes over a real socket
    response = posting.result()
    ids = [seen.headers["x-request-id"] for seen in cloud.requests]
    assert len(set(ids)) == 3
    assert all(UUID(request_id).version == 4 for request_id in ids)
    attempts = [record for record in caplog.records if record.getMessage().startswith("cloud.attempt")]
    assert [request_id for record in attempts for request_id in ids if request_id in record.getMessage()] == ids
    assert [getattr(record, "request_id", None) for record in attempts] == ids
    assert response.request_id == ids[-1]


async def test_row_request_id_is_in_the_log_line_of_an_attempt_that_reached_nobody(
    client: CloudAPIClient, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO", "sentinel_sync")
    await cloud.stop()
    response = await client.get("/health")
    assert response.request_id is not None
    assert response.request_id in caplog.text


async def test_row_idempotency_key_is_on_every_post(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await client.post("/trips", {}, idempotency_key="trip_0")
    await client.post("/trips", {})
    await client.post("/trips", {})
    first, second, third = (seen.key for seen in cloud.requests)
    assert first == "trip_0"
    assert second
    assert third
    assert second != third


async def test_row_idempotency_key_is_required_of_our_own_services(client: CloudAPIClient, cloud: FakeCloud) -> None:
    with pytest.raises(ValueError, match="idempotency_key"):
        await client.request(HTTPMethod.POST, "/trips", content=b"{}")
    assert not cloud.requests


async def test_row_idempotency_key_is_not_on_a_patch(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await client.request(HTTPMethod.PATCH, "/scenarios/s1/videos/1", content=b"{}")
    assert cloud.requests[0].key is None


async def test_headers_of_a_caller_replace_ours_whatever_their_case(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await client.request(
        HTTPMethod.POST, "/x", content=b"a,b", headers={"content-type": "text/csv"}, idempotency_key="k"
    )
    assert cloud.requests[0].headers["content-type"] == "text/csv"


async def test_json_is_utf_8(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await client.post("/x", {"name": "Zoë"})
    assert cloud.requests[0].body == '{"name":"Zoë"}'.encode()
    assert cloud.requests[0].headers["content-type"] == "application/json"


async def test_an_id_with_every_character_stays_one_segment(client: CloudAPIClient, cloud: FakeCloud) -> None:
    await client.request(HTTPMethod.GET, f"/drivers/{quote_id('a/b?c#d é%.')}/profile")
    await client.request(HTTPMethod.GET, f"/drivers/{quote_id('..')}/profile")
    assert [seen.target for seen in cloud.requests] == [
        "/drivers/a%2Fb%3Fc%23d%20%C3%A9%25./profile",
        "/drivers/%2E%2E/profile",
    ]


async def test_a_base_url_with_a_path_is_kept(cloud: FakeCloud, clock: FakeClock) -> None:
    settings = settings_for(cloud, api_url=f"{cloud.url}/api/v1/")
    async with CloudAPIClient(settings=settings, clock=clock) as client:
        await client.get("fleet/f/rankings?metric=a%20b&limit=1", {"limit": 5, "severity": None})
    assert cloud.requests[0].path == "/api/v1/fleet/f/rankings"
    assert cloud.requests[0].query == {"metric": "a b", "limit": "5"}


async def test_error_words_hold_the_backends_reason_but_no_driver(client: CloudAPIClient, cloud: FakeCloud) -> None:
    cloud.script("PUT", "/drivers/driver_123/profile", problem(422, "Bad", "see /drivers/driver_123/profile\nnow"))
    response = await client.put("/drivers/driver_123/profile", {"driver_id": "driver_123"})
    assert response.error == ("PUT /drivers/{id}/profile: answered 422 (Bad: see /drivers/{id}/profile now)")


async def test_a_missing_api_key_claims_none(cloud: FakeCloud, clock: FakeClock) -> None:
    cloud.rules.api_keys = None
    cloud.script("GET", "/models", problem(401))
    async with CloudAPIClient(settings=settings_for(cloud, api_key=""), clock=clock) as client:
        response = await client.get("/models")
    assert response.status_code == 401
    assert "authorization" not in cloud.requests[0].headers


async def test_the_key_comes_from_a_file_where_the_settings_name_one(
    cloud: FakeCloud, tmp_path: Path, clock: FakeClock
) -> None:
    key_file = tmp_path / "key"
    key_file.write_text(f"  {API_KEY}\n")
    async with CloudAPIClient(settings=settings_for(cloud, api_key="", api_key_file=key_file), clock=clock) as client:
        assert (await client.get("/models")).success


GOOD = {
    "authorization": f"Bearer {API_KEY}",
    "user-agent": f"sentinel-sync/{__version__} (vehicle {VEHICLE})",
    "x-fleet-id": FLEET,
    "x-vehicle-id": VEHICLE,
    "x-request-id": "6f7a1c1e-5a52-4d7e-9d6b-0c9b8ed6f0aa",
    "idempotency-key": "k",
}


@pytest.mark.parametrize(
    ("change", "target", "body", "complaint"),
    [
        ({"authorization": "Bearer other"}, "/trips", b"", "not the credential"),
        ({"user-agent": "python-httpx/0.28"}, "/trips", b"", "User-Agent"),
        ({"x-fleet-id": "x"}, "/trips", b"", "ids"),
        ({"x-request-id": "1"}, "/trips", b"", "no UUID"),
        ({"idempotency-key": ""}, "/trips", b"", "Idempotency-Key"),
        ({"cookie": "a=b"}, "/trips", b"", "cookie"),
        ({}, "/near/37.774929,-122.419416", b"", "path"),
        ({}, "/x?lat=37.774", b"", "query"),
        ({"x-place": "37.774929,-122.419416"}, "/x", b"", "header"),
        ({}, "/trips", b'{"start_location": {"lat": 37.774929, "lon": 1}}', "body"),
        ({}, "/trips", b'{"metadata": {"location": "37.774,-122.41"}}', "body"),
        ({}, "/trips", b'{"gpsLongitude": 1.2345}', "body"),
        ({}, "/trips", b'{"driver_id": "driver_123"}', "pseudonym"),
        ({}, "/trips", b'{"file": "/home/sentinel/x.mp4"}', "file system"),
        ({}, "/trips", b'{"note": "driver_123"}', "driver_123"),
    ],
)
def test_the_fake_backend_sees_what_breaks_the_contract(
    change: dict[str, str], target: str, body: bytes, complaint: str
) -> None:
    rules = WireRules(VEHICLE, FLEET, {API_KEY}, forbidden={"driver_123"})
    assert (
        rules.violations(Seen("POST", "/trips", {**GOOD, "x-request-id": GOOD["x-request-id"][:-1] + "b"}, b"", 0))
        == []
    )
    assert any(complaint in wrong for wrong in rules.violations(Seen("POST", target, GOOD | change, body, 0)))


async def test_the_fake_backend_does_not_let_a_broken_rule_pass(clock: FakeClock) -> None:
    cloud = FakeCloud()
    await cloud.start()
    async with CloudAPIClient(settings=settings_for(cloud, api_key="another"), clock=clock) as client:
        await client.get("/models")
    with pytest.raises(AssertionError, match="credential"):
        await cloud.__aexit__(None)


async def test_errors_carry_the_request_id(client: CloudAPIClient, cloud: FakeCloud) -> None:
    cloud.script("GET", "/models", problem(404))
    with pytest.raises(RejectedError) as rejected:
        await client.request(HTTPMethod.GET, "/models")
    assert rejected.value.request_id == cloud.requests[0].headers["x-request-id"]
    await cloud.stop()
    with pytest.raises(UnreachableError) as unreachable:
        await client.request(HTTPMethod.GET, "/models")
    assert UUID(unreachable.value.request_id)


async def test_another_host_learns_neither_the_vehicle_nor_the_fleet(
    cloud: FakeCloud, stranger: FakeCloud, clock: FakeClock
) -> None:
    async with CloudAPIClient(settings=settings_for(cloud), clock=clock) as client:
        cloud.script("GET", "/models", Answer(302, headers={"Location": f"{stranger.url}/m"}))
        await client.get("/models")
        async with client.download(f"{stranger.url}/file", {}) as download:
            await download.response.aread()
    for seen in stranger.requests:
        assert re.fullmatch(r"sentinel-sync/[\w.]+", seen.headers["user-agent"])
        assert not {"x-vehicle-id", "x-fleet-id", "authorization"} & seen.headers.keys()
    assert len(stranger.requests) == 2
