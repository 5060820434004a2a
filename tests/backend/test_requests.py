"""What holds for every request: credentials, headers, problems, the OpenAPI document."""

from dataclasses import replace
from typing import Any

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.database import DatabaseUnavailableError
from sentinel_sync.backend.settings import BackendSettings
from tests.backend.vehicle import KEY, Vehicle, make_trip, problem

REFERENCE_ONLY = ["/trips", "/scenarios"]


async def test_health_needs_nothing(backend: httpx.AsyncClient) -> None:
    response = await backend.get("/health", headers={"User-Agent": ""})
    assert response.status_code == 200
    assert response.json() == {
        "status": "ok",
        "time": "2026-11-23T08:00:00.000+00:00",
        "extensions": ["trips-batch", "vehicle-report"],
    }


async def test_refuses_a_bad_credential(vehicle: Vehicle) -> None:
    for credential in (None, "", "Bearer wrong", "Basic dGhlLWtleQ==", KEY, "Bearer "):
        for url in ("/models", "/fleet/f/statistics", *REFERENCE_ONLY):
            response = await vehicle.get(url, {"Authorization": credential})
            problem(response, 401, "credential")
            assert response.headers["www-authenticate"].startswith("Bearer")


async def test_accepts_each_of_its_keys(vehicle: Vehicle) -> None:
    for key in (KEY, "another-key", "publisher-key"):
        response = await vehicle.get("/models", {"Authorization": f"bearer {key}"})
        assert response.status_code == 200


async def test_requires_the_headers_of_the_contract(vehicle: Vehicle) -> None:
    for header, value in (
        ("X-Fleet-ID", None),
        ("X-Vehicle-ID", None),
        ("X-Vehicle-ID", "a" * 256),
        ("X-Request-ID", None),
        ("X-Request-ID", "not-a-uuid"),
        ("User-Agent", ""),
        ("Idempotency-Key", None),
    ):
        body = problem(await vehicle.post_trip(make_trip(), **{header: value}), 400, "headers")
        assert [error["field"] for error in body["errors"]] == [header]


async def test_names_every_missing_header_at_once(vehicle: Vehicle) -> None:
    body = problem(await vehicle.get("/models", {"X-Fleet-ID": None, "X-Vehicle-ID": None}), 400, "headers")
    assert "X-Fleet-ID, X-Vehicle-ID" in body["detail"]


async def test_an_idempotency_key_is_not_asked_of_other_methods(vehicle: Vehicle) -> None:
    assert (await vehicle.get("/models")).status_code == 200


async def test_unknown_addresses_and_methods_are_problems(vehicle: Vehicle) -> None:
    problem(await vehicle.get("/nothing"), 404, "not-found")
    response = await vehicle.send("PUT", "/trips")
    problem(response, 405, "method-not-allowed")
    assert response.headers["allow"]


async def test_a_body_must_be_json_and_say_so(vehicle: Vehicle) -> None:
    trip = make_trip()
    key = {"Idempotency-Key": trip["trip_id"]}
    problem(await vehicle.send("POST", "/trips", key, data={"a": "b"}), 415, "not-json")
    json_type = {**key, "Content-Type": "application/json; charset=utf-8"}
    problem(await vehicle.send("POST", "/trips", json_type, content=b"{"), 400, "malformed-json")
    problem(await vehicle.send("POST", "/trips", json_type, content=b'{"trip_id": "\xff"}'), 400, "malformed-json")


async def test_a_packing_that_it_does_not_know_is_refused_with_the_one_that_it_does(vehicle: Vehicle) -> None:
    answer = await vehicle.send(
        "POST", "/trips/batch", {"Content-Encoding": "br", "Content-Type": "application/json"}, content=b"{}"
    )
    problem(answer, 415, "content-encoding")
    assert answer.headers["Accept-Encoding"] == "gzip"


async def test_health_tells_how_often_it_wants_to_be_asked(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, health_min_interval=30.0))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        assert (await client.get("/health")).json()["min_interval"] == 30.0


async def test_a_large_body_is_refused_announced_or_not(vehicle: Vehicle) -> None:
    async def chunks() -> Any:
        for _ in range(30):
            yield b" " * 1000

    headers = {"Content-Type": "application/json"}
    problem(await vehicle.send("POST", "/trips", headers, content=b" " * 20_001), 413, "too-large")
    problem(await vehicle.send("POST", "/trips", headers, content=chunks()), 413, "too-large")


async def test_the_document_describes_every_route(backend: httpx.AsyncClient) -> None:
    document = (await backend.get("/openapi.json")).json()
    operations = {
        f"{method.upper()} {path}": operation
        for path, methods in document["paths"].items()
        for method, operation in methods.items()
    }
    contract = {
        "GET /health",
        "POST /trips",
        "POST /scenarios",
        "POST /scenarios/{scenario_id}/videos",
        "POST /scenarios/{scenario_id}/annotations",
        "GET /models",
        "GET /models/{name}/download",
        "GET /drivers/{driver_id}/profile",
        "PUT /drivers/{driver_id}/profile",
        "GET /fleet/{fleet_id}/statistics",
        "GET /fleet/{fleet_id}/rankings",
        "GET /fleet/{fleet_id}/trends",
        "GET /fleet/{fleet_id}/comparison",
        "GET /fleet/{fleet_id}/alerts",
        "GET /fleet/{fleet_id}/drivers/leaderboard",
        "GET /vehicles/{vehicle_id}/status",
    }
    extensions = {
        "POST /trips/batch",
        "PUT /vehicles/{vehicle_id}/status",
        "OPTIONS /scenarios/{scenario_id}/videos",
        "OPTIONS /scenarios/{scenario_id}/annotations",
        "HEAD /uploads/{upload_id}",
        "PATCH /uploads/{upload_id}",
        "DELETE /uploads/{upload_id}",
        "DELETE /drivers/{driver_id}/profile",
        "GET /model-deltas/{old_checksum}/{new_checksum}",
    }
    reference_only = {
        "GET /ready",
        "GET /trips",
        "GET /trips/{trip_id}",
        "GET /scenarios",
        "GET /scenarios/{scenario_id}",
        "GET /scenarios/{scenario_id}/parts/{name}",
        "PUT /models/{name}/versions/{version}",
        "DELETE /models/{name}/versions/{version}",
        "GET /model-files/{name}/{version}/{filename}",
        "GET /rollouts",
        "GET /rollouts/{name}/versions/{version}",
        "PUT /rollouts/{name}/versions/{version}",
        "POST /rollouts/{name}/versions/{version}/{action}",
    }
    assert set(operations) == contract | extensions | reference_only
    for name in extensions:
        assert operations[name]["description"].find("**Extension**") >= 0
    for name in reference_only - {"GET /model-files/{name}/{version}/{filename}"}:
        assert operations[name]["description"].startswith("**Reference only**")
    schemas = document["components"]["schemas"]
    references = {part.split('"')[0] for part in str(document).replace("'", '"').split("#/components/schemas/")[1:]}
    assert references <= set(schemas)
    assert "HTTPValidationError" not in schemas
    trip = operations["POST /trips"]
    assert trip["security"] == [{"bearer": []}]
    assert {parameter["name"] for parameter in trip["parameters"]} >= {"X-Request-ID", "Idempotency-Key"}
    assert set(trip["responses"]) == {"201", "400", "401", "403", "409", "413", "415", "422", "429"}


@pytest.mark.parametrize(
    ("error", "status", "kind"),
    [
        (DatabaseUnavailableError("database or disk is full"), 503, "storage-unavailable"),
        (OSError(28, "No space left on device"), 503, "storage-unavailable"),
        (LookupError("a mistake with a-secret in it"), 500, "internal-error"),
    ],
)
async def test_what_goes_wrong_inside_is_a_problem_too(
    backend_settings: BackendSettings, monkeypatch: pytest.MonkeyPatch, error: Exception, status: int, kind: str
) -> None:
    async def fail(*_: object) -> None:
        raise error

    app = create_app(backend_settings)
    transport = httpx.ASGITransport(app, raise_app_exceptions=False)
    async with app.router.lifespan_context(app), httpx.AsyncClient(transport=transport, base_url="http://b") as client:
        with monkeypatch.context() as patched:
            patched.setattr(app.state.backend.database.__class__, "write", fail)
            response = await Vehicle(client).post_trip(make_trip())
        problem(response, status, kind)
        assert "a-secret" not in response.text
        assert response.headers.get("retry-after") == ("5" if status == 503 else None)
        assert (await Vehicle(client).post_trip(make_trip())).status_code == 201


def test_settings_need_a_key_and_never_show_it(backend_settings: BackendSettings) -> None:
    assert KEY not in repr(backend_settings)
    with pytest.raises(ValueError, match="API key"):
        BackendSettings(folder=backend_settings.folder, api_keys=())
    with pytest.raises(ValueError, match="API key"):
        BackendSettings(folder=backend_settings.folder, api_keys=("",))
