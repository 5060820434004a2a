"""Files in an object store: the contract as it is, models fetched and recordings put without passing through here."""

import hashlib
import os
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.check import findings
from sentinel_sync.backend.context import kept_files
from sentinel_sync.backend.engines import database_at
from sentinel_sync.backend.object_store import object_store_at
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings, Extensions
from sentinel_sync.backend.storage import Folders
from sentinel_sync.conformance.judge import judge
from sentinel_sync.conformance.run import Verdict
from tests.backend.vehicle import KEY, Vehicle, problem
from tests.fakes.cloud import closed_port
from tests.servers.s3 import ACCESS_KEY, BUCKET, REGION, SECRET_KEY, ObjectStore, object_store

FILES = f"s3://{BUCKET}/backend"
OPERATOR = {"Authorization": f"Bearer {KEY}"}
MODEL = bytes(range(256)) * 100
VIDEO = os.urandom(9 << 20)  # more than one part


@pytest.fixture
def store(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[ObjectStore]:
    (tmp_path / "store").mkdir()
    with object_store("nanio", tmp_path / "store") as running:  # it checks signatures; others don't
        monkeypatch.setenv("AWS_ACCESS_KEY_ID", ACCESS_KEY)
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", SECRET_KEY)
        monkeypatch.setenv("AWS_REGION", REGION)
        monkeypatch.setenv("AWS_ENDPOINT_URL", running.url)
        yield running


@pytest.fixture
def settings(tmp_path: Path, store: ObjectStore) -> BackendSettings:
    assert store.url
    every = Extensions(direct_uploads=True, scenario_catalogue=True)
    return BackendSettings(folder=tmp_path / "backend", files=FILES, api_keys=(KEY,), extensions=every)


class Counted:
    """An application, and the bytes of bodies that it has read."""

    def __init__(self, app: Any) -> None:
        self.app = app
        self.received = 0

    async def __call__(self, scope: Any, receive: Any, send: Any) -> None:
        async def counted() -> Any:
            message = await receive()
            self.received += len(message.get("body", b""))
            return message

        await self.app(scope, counted, send)


@pytest.fixture
async def counted(settings: BackendSettings) -> AsyncIterator[Counted]:
    app = create_app(settings)
    async with app.router.lifespan_context(app):
        yield Counted(app)


@pytest.fixture
async def client(counted: Counted) -> AsyncIterator[httpx.AsyncClient]:
    async with httpx.AsyncClient(transport=httpx.ASGITransport(counted), base_url="http://backend") as made:
        yield made


async def test_the_contract_holds(settings: BackendSettings) -> None:
    async with running_server(settings) as url:
        async with httpx.AsyncClient(base_url=url) as client:
            path, signed = "/models/yolov8m/versions/v1.0.0", {"signature": "A" * 86 + "=="}
            published = await client.put(path, params=signed, content=MODEL, headers=OPERATOR)
            assert published.status_code == 201
        found = await judge(url, KEY)
    assert [(it.name, it.why) for it in found if it.verdict is not Verdict.MET] == []
    assert await look(settings) == []


async def look(settings: BackendSettings) -> list[str]:
    folders = Folders(settings.folder)
    database = database_at(None, folders.database)
    await database.open()
    try:
        return await findings(database, *kept_files(settings.files, folders))
    finally:
        await database.close()


async def test_a_model_is_fetched_from_the_store(client: httpx.AsyncClient, store: ObjectStore) -> None:
    path = "/models/yolov8m/versions/v1.0.0"
    assert (await client.put(path, content=MODEL, headers=OPERATOR)).status_code == 201
    assert (await client.put(path, content=MODEL, headers=OPERATOR)).status_code == 200
    assert (await client.put(path, content=b"other", headers=OPERATOR)).status_code == 409
    address = (await Vehicle(client).get("/models/yolov8m/download")).json()["download_url"]
    assert address.startswith(store.url)
    async with httpx.AsyncClient() as outside:
        assert (await outside.get(address)).content == MODEL
        part = await outside.get(address, headers={"Range": "bytes=100-199"})
        assert (part.status_code, part.content) == (206, MODEL[100:200])


async def test_a_delta_between_models_in_the_store(client: httpx.AsyncClient, settings: BackendSettings) -> None:
    base = os.urandom(400_000)
    versions = {"v1.0.0": base, "v1.1.0": base[:200_000] + b"changed" + base[200_007:]}
    for version, content in versions.items():
        path = f"/models/yolov8m/versions/{version}"
        assert (await client.put(path, content=content, headers=OPERATOR)).status_code == 201
    has = hashlib.sha256(versions["v1.0.0"]).hexdigest()
    offered = (await Vehicle(client).get("/models/yolov8m/download", params={"from": has})).json()
    assert offered["delta"]["size"] < len(base) / 10
    assert list((settings.folder / "models").iterdir()) == []  # copies were removed


async def test_a_recording_goes_to_the_store_and_not_through_here(
    client: httpx.AsyncClient, counted: Counted, settings: BackendSettings, store: ObjectStore
) -> None:
    vehicle, key = Vehicle(client), {"Idempotency-Key": "complete-1"}
    await vehicle.register()
    told = (await vehicle.get("/scenarios/20241117_103045/uploads")).json()["uploads"]["bev.mp4"]
    size, parts = told["part_size"], []
    async with httpx.AsyncClient() as outside:
        for part in told["parts"][: -(-len(VIDEO) // size)]:
            assert part["url"].startswith(store.url)
            content = VIDEO[(part["number"] - 1) * size : part["number"] * size]
            put = await outside.put(part["url"], content=content)
            assert put.status_code == 200
            parts.append({"number": part["number"], "etag": put.headers["ETag"]})
    again = (await vehicle.get("/scenarios/20241117_103045/uploads")).json()["uploads"]["bev.mp4"]
    assert again["done"] == parts
    url = "/scenarios/20241117_103045/videos/bev.mp4/complete"
    said = {"size": len(VIDEO), "sha256": hashlib.sha256(VIDEO).hexdigest(), "parts": parts}
    lacking = {**said, "parts": [*parts, {"number": 3, "etag": '"none"'}]}
    problem(await vehicle.send("POST", url, key, json=lacking), 422, "missing-parts")
    assert (await vehicle.send("POST", url, key, json=said)).status_code == 201
    problem(await vehicle.send("POST", url, key, json=said), 409, "part-exists")
    assert counted.received < 10_000
    shown = await client.get("/scenarios/20241117_103045/parts/bev.mp4", headers=OPERATOR)
    assert shown.status_code == 307
    async with httpx.AsyncClient() as outside:
        assert (await outside.get(shown.headers["Location"])).content == VIDEO
    problem(await client.put("/direct/1/abc/1", content=b"x"), 403, "token")
    assert list((settings.folder / "parts").iterdir()) == []
    assert await look(settings) == []


async def test_other_bytes_than_were_said_are_removed(client: httpx.AsyncClient, settings: BackendSettings) -> None:
    vehicle = Vehicle(client)
    await vehicle.register()
    told = (await vehicle.get("/scenarios/20241117_103045/uploads")).json()["uploads"]["bev.mp4"]
    async with httpx.AsyncClient() as outside:
        put = await outside.put(told["parts"][0]["url"], content=b"video")
    said = {"size": 5, "sha256": "0" * 64, "parts": [{"number": 1, "etag": put.headers["ETag"]}]}
    url = "/scenarios/20241117_103045/videos/bev.mp4/complete"
    problem(await vehicle.send("POST", url, json=said), 422, "other-bytes")
    again = (await vehicle.get("/scenarios/20241117_103045/uploads")).json()["uploads"]["bev.mp4"]
    assert again["done"] == []
    assert list((settings.folder / "incoming").iterdir()) == []


async def test_a_lost_object_is_found(client: httpx.AsyncClient, settings: BackendSettings) -> None:
    path = "/models/yolov8m/versions/v1.0.0"
    assert (await client.put(path, content=MODEL, headers=OPERATOR)).status_code == 201
    there = object_store_at(FILES)
    (model,) = [entry["path"] for page in there.list("models/") for entry in page]
    await there.delete_async(model)
    (lost,) = await look(settings)
    assert lost.endswith(f"of models is not there, {len(MODEL)} bytes were stored")


async def test_nothing_is_listed_that_the_store_did_not_take(
    tmp_path: Path, store: ObjectStore, monkeypatch: pytest.MonkeyPatch
) -> None:
    assert store.url
    settings = BackendSettings(folder=tmp_path / "backend", files="s3://no-such-bucket/x", api_keys=(KEY,))
    monkeypatch.setenv("AWS_ENDPOINT_URL", f"http://127.0.0.1:{closed_port()}")
    await nothing_is_stored(settings)
    monkeypatch.setenv("AWS_ENDPOINT_URL", store.url)
    await nothing_is_stored(settings)
    with pytest.raises(ValueError, match="s3://bucket"):
        object_store_at("https://elsewhere")


async def nothing_is_stored(settings: BackendSettings) -> None:
    async with running_server(settings) as url, httpx.AsyncClient(base_url=url) as client:
        path = "/models/yolov8m/versions/v1.0.0"
        problem(await client.put(path, content=MODEL, headers=OPERATOR), 503, "storage-unavailable")
        assert (await Vehicle(client).get("/models")).json()["models"] == []
