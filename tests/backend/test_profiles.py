"""Driver profiles: opaque, one writer wins, and a forgotten driver stays forgotten."""

from dataclasses import replace
from email.utils import parsedate_to_datetime
from typing import Any
from urllib.parse import quote

import httpx

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.settings import BackendSettings, Extensions
from tests.backend.vehicle import Vehicle, fernet_token, problem, stored_bytes

URL = "/drivers/driver_123/profile"


def profile(driver_id: str = "driver_123", **changed: Any) -> dict[str, Any]:
    return {"driver_id": driver_id, "encrypted_data": fernet_token(), "updated_at": 1_795_420_000.25, **changed}


async def put(
    vehicle: Vehicle, content: dict[str, Any] | None = None, at: str = URL, headers: dict[str, str | None] | None = None
) -> httpx.Response:
    return await vehicle.send("PUT", at, headers, json=content or profile())


async def test_put_and_get(vehicle: Vehicle) -> None:
    problem(await vehicle.get(URL), 404, "no-such-profile")
    assert (await put(vehicle)).status_code == 201
    response = await vehicle.get(URL)
    assert response.json() == profile()
    newer = profile(encrypted_data=fernet_token(b"newer"), updated_at=1_795_420_001)
    assert (await put(vehicle, content=newer)).status_code == 200
    assert (await vehicle.get(URL)).json() == newer


async def test_the_slower_vehicle_is_told(backend: httpx.AsyncClient) -> None:
    first, second = Vehicle(backend), Vehicle(backend, "vehicle_002")
    created = await put(first, headers={"If-None-Match": "*"})
    assert created.status_code == 201
    taken = await put(second, headers={"If-None-Match": "*"})
    problem(taken, 412, "profile-changed")
    etag = (await second.get(URL)).headers["etag"]
    assert etag == created.headers["etag"] == taken.headers["etag"]
    assert (await second.get(URL, {"If-None-Match": etag})).status_code == 304
    written = await put(second, headers={"If-Match": etag})
    assert written.status_code == 200
    assert written.headers["etag"] != etag
    problem(await put(first, headers={"If-Match": etag}), 412, "profile-changed")
    assert (await first.get(URL)).headers["etag"] == written.headers["etag"]


async def test_if_match_where_there_is_nothing(vehicle: Vehicle) -> None:
    problem(await put(vehicle, headers={"If-Match": '"anything"'}), 412, "profile-changed")
    problem(await put(vehicle, headers={"If-Match": "*"}), 412, "profile-changed")


async def test_a_forgotten_driver_stays_forgotten(
    backend: httpx.AsyncClient, backend_settings: BackendSettings
) -> None:
    first, second = Vehicle(backend), Vehicle(backend, "vehicle_002")
    body = profile(encrypted_data=fernet_token(b"a face " * 30))
    etag = (await put(first, content=body)).headers["etag"]
    is_sqlite = backend_settings.database is None  # what a server's files hold is not ours to say
    assert not is_sqlite or body["encrypted_data"].encode() in stored_bytes(backend_settings.folder)
    problem(await first.send("DELETE", URL, {"If-Match": '"other"'}), 412, "profile-changed")
    assert (await first.send("DELETE", URL)).status_code == 204
    problem(await second.get(URL), 410, "driver-forgotten")
    problem(await put(second, headers={"If-Match": etag}), 410, "driver-forgotten")
    problem(await put(second), 410, "driver-forgotten")
    assert (await first.send("DELETE", URL)).status_code == 204
    left = stored_bytes(backend_settings.folder)
    assert body["encrypted_data"].encode() not in left
    assert b"driver_123" not in left


async def test_fleets_do_not_share_profiles(backend: httpx.AsyncClient) -> None:
    mine, other = Vehicle(backend), Vehicle(backend, "vehicle_009", "other_fleet")
    assert (await put(mine)).status_code == 201
    problem(await other.get(URL), 404, "no-such-profile")
    assert (await other.send("DELETE", URL)).status_code == 204
    assert (await mine.get(URL)).status_code == 200


async def test_any_id_works_when_encoded(vehicle: Vehicle) -> None:
    for driver_id in ("a/b", "../..", "50% of Ada", "x/profile", "Zoë?#", "a" * 1024):
        url = f"/drivers/{quote(driver_id, safe='')}/profile"
        assert (await put(vehicle, profile(driver_id), url)).status_code == 201
        assert (await vehicle.get(url)).json()["driver_id"] == driver_id


async def test_refuses_a_bad_profile(vehicle: Vehicle) -> None:
    token = fernet_token()
    for changed in (
        {"driver_id": "somebody_else"},
        {"driver_id": ""},
        {"encrypted_data": '{"driver_id": "driver_123", "total_distance": 1000}'},
        {"encrypted_data": token[:-8]},
        {"encrypted_data": "A" + token[1:]},
        {"encrypted_data": None},
        {"updated_at": "2026-11-23T08:00:00Z"},
        {"updated_at": -1},
        {"name": "Ada"},
    ):
        response = await put(vehicle, content=profile(**changed))
        problem(response, 422, "invalid-body")
        assert "total_distance" not in response.text
    large = profile(encrypted_data=fernet_token(bytes(30_000)))
    problem(await put(vehicle, content=large), 413, "too-large")
    problem(await vehicle.get(URL), 404, "no-such-profile")


async def test_a_backend_without_the_extensions(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, extensions=Extensions(profile_etags=False, profile_deletion=False)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        vehicle = Vehicle(client)
        created = await put(vehicle, headers={"If-Match": '"unheeded"'})
        assert created.status_code == 201
        assert "etag" not in created.headers
        assert "etag" not in (await vehicle.get(URL)).headers
        problem(await vehicle.send("DELETE", URL), 405, "method-not-allowed")


async def test_a_driver_who_returns_begins_anew_knowingly(backend: httpx.AsyncClient) -> None:
    first, second = Vehicle(backend), Vehicle(backend, "vehicle_002")
    etag = (await put(first)).headers["etag"]
    assert (await second.get(URL, {"If-None-Match": '"forgotten"'})).status_code == 200
    assert (await first.send("DELETE", URL)).status_code == 204
    gone = await second.get(URL, {"If-None-Match": '"forgotten"'})
    assert (gone.status_code, gone.headers["etag"]) == (304, '"forgotten"')
    assert parsedate_to_datetime(gone.headers["last-modified"]).tzinfo is not None
    # Whoever does not know of it, or knows of something else, brings nothing back.
    strangers: list[dict[str, str | None]] = [{"If-Match": etag}, {"If-None-Match": "*"}, {"If-Match": "*"}, {}]
    for unknowing in strangers:
        problem(await put(second, headers=unknowing), 410, "driver-forgotten")
    anew = await put(second, profile(encrypted_data=fernet_token(b"anew")), headers={"If-Match": '"forgotten"'})
    assert anew.status_code == 201
    assert (await first.get(URL)).json()["encrypted_data"] == (await second.get(URL)).json()["encrypted_data"]
    problem(await put(first, headers={"If-Match": '"forgotten"'}), 412, "profile-changed")
    assert (await first.send("DELETE", URL, {"If-Match": anew.headers["etag"]})).status_code == 204
    problem(await second.get(URL), 410, "driver-forgotten")
