"""Models: listed, found at addresses that expire, sent in ranges, and published without ever changing."""

from base64 import b64encode
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.publishing import (
    ModelExistsError,
    ModelRelease,
    ModelSignature,
    publish_model,
    version_order,
)
from sentinel_sync.backend.settings import BackendSettings
from tests.backend.vehicle import SQLITE_ONLY, SettableClock, Vehicle, problem

MODEL = bytes(range(256)) * 400
SIGNATURE = b64encode(bytes(64)).decode()
OTHER_SIGNATURE = b64encode(bytes([1]) * 64).decode()
PUBLISHER = {"Authorization": "Bearer publisher-key"}


async def publish(
    vehicle: Vehicle, version: str = "v2.1.0", content: bytes = MODEL, name: str = "yolov8m", **query: Any
) -> httpx.Response:
    params = {"signature": SIGNATURE, "key_id": "0123456789abcdef", **query}
    url = f"/models/{name}/versions/{version}"
    return await vehicle.send("PUT", url, PUBLISHER, content=content, params=params)


async def download_url(vehicle: Vehicle, version: str = "v2.1.0") -> str:
    answer = await vehicle.get("/models/yolov8m/download", params={"version": version})
    assert answer.status_code == 200
    return str(answer.json()["download_url"])


async def test_publish_list_download(vehicle: Vehicle, backend: httpx.AsyncClient) -> None:
    checksum = sha256(MODEL).hexdigest()
    published = await publish(vehicle, checksum=checksum, rollout=0.5, released_at="2026-11-01T00:00:00Z")
    assert published.status_code == 201
    assert published.json() == {"name": "yolov8m", "version": "v2.1.0", "checksum": checksum, "size": len(MODEL)}
    listing = await vehicle.get("/models")
    assert listing.json()["models"] == [
        {
            "name": "yolov8m",
            "version": "v2.1.0",
            "size": len(MODEL),
            "checksum": checksum,
            "signature": SIGNATURE,
            "key_id": "0123456789abcdef",
            "signatures": [{"signature": SIGNATURE, "key_id": "0123456789abcdef"}],
            "released_at": "2026-11-01T00:00:00Z",
            "rollout": 0.5,
            "filename": "yolov8m.pt",
        }
    ]
    assert (await vehicle.get("/models", {"If-None-Match": listing.headers["etag"]})).status_code == 304
    answer = (await vehicle.get("/models/yolov8m/download")).json()
    assert (answer["version"], answer["checksum"]) == ("v2.1.0", checksum)
    file = await backend.get(answer["download_url"])  # no credential, no header
    assert file.content == MODEL
    assert file.headers["etag"] == f'"{checksum}"'
    assert file.headers["content-length"] == str(len(MODEL))


async def test_versions_are_listed_newest_first(vehicle: Vehicle) -> None:
    for version in ("v2.0.0", "v10.0.0", "v2.1.0-rc1", "v2.1.0"):
        assert (await publish(vehicle, version)).status_code == 201
    assert (await publish(vehicle, "v1.0", name="another")).status_code == 201
    listing = (await vehicle.get("/models")).json()["models"]
    assert [(model["name"], model["version"]) for model in listing] == [
        ("another", "v1.0"),
        ("yolov8m", "v10.0.0"),
        ("yolov8m", "v2.1.0"),
        ("yolov8m", "v2.1.0-rc1"),
        ("yolov8m", "v2.0.0"),
    ]
    assert (await vehicle.get("/models/yolov8m/download")).json()["version"] == "v10.0.0"


async def test_a_version_never_changes_its_bytes(vehicle: Vehicle, backend_settings: BackendSettings) -> None:
    assert (await publish(vehicle)).status_code == 201
    problem(await publish(vehicle, content=b"other"), 409, "model-exists")
    assert (await publish(vehicle, rollout=0.1)).status_code == 200
    assert (await vehicle.get("/models")).json()["models"][0]["rollout"] == 0.1
    assert (await publish(vehicle)).status_code == 200, "what is not named stays"
    assert (await vehicle.get("/models")).json()["models"][0]["rollout"] == 0.1
    assert len(list((backend_settings.folder / "models").iterdir())) == 1


async def test_ranges(vehicle: Vehicle, backend: httpx.AsyncClient) -> None:
    await publish(vehicle)
    url = await download_url(vehicle)
    size = len(MODEL)
    etag = (await backend.head(url)).headers["etag"]
    for header, start, end in (
        ("bytes=0-0", 0, 1),
        ("bytes=100-", 100, size),
        ("bytes=-5", size - 5, size),
        (f"bytes=5-{size + 10}", 5, size),
        (f"bytes=-{size + 10}", 0, size),
    ):
        response = await backend.get(url, headers={"Range": header})
        assert response.status_code == 206
        assert response.headers["content-range"] == f"bytes {start}-{end - 1}/{size}"
        assert response.content == MODEL[start:end]
    for whole in ("bytes=5-4", "bytes=-", "bytes=a-b", "lines=1-2", "bytes=0-1,3-4", "bytes=" + "9" * 5000 + "-"):
        response = await backend.get(url, headers={"Range": whole})
        assert (response.status_code, len(response.content)) == (200, size)
    response = await backend.get(url, headers={"Range": f"bytes={size}-"})
    problem(response, 416, "range")
    assert response.headers["content-range"] == f"bytes */{size}"
    fits = await backend.get(url, headers={"Range": "bytes=7-", "If-Range": etag})
    assert (fits.status_code, fits.content) == (206, MODEL[7:])
    changed = await backend.get(url, headers={"Range": "bytes=7-", "If-Range": '"other"'})
    assert (changed.status_code, changed.content) == (200, MODEL)
    assert (await backend.get(url, headers={"If-None-Match": etag})).status_code == 304


async def test_addresses_expire_and_cant_be_made_up(
    vehicle: Vehicle, backend: httpx.AsyncClient, server_clock: SettableClock
) -> None:
    await publish(vehicle)
    await publish(vehicle, "v3.0.0", content=b"another")
    url = await download_url(vehicle)
    later = url.replace("expires=179542", "expires=279542")
    assert later != url
    for wrong in (later, url.replace("/v2.1.0/", "/v3.0.0/"), url[:-1], url.partition("?")[0]):
        problem(await backend.get(wrong), 403, "token")
    server_clock.now += 901
    problem(await backend.get(url), 410, "address-expired")
    assert (await backend.get(await download_url(vehicle))).status_code == 200


async def test_addresses_may_be_on_another_host(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, public_url="https://cdn.example/"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        vehicle = Vehicle(client)
        await publish(vehicle)
        assert (await download_url(vehicle)).startswith("https://cdn.example/model-files/yolov8m/v2.1.0/yolov8m.pt?")


async def test_publishing_needs_its_own_key(vehicle: Vehicle) -> None:
    url = "/models/yolov8m/versions/v1.0.0"
    problem(await vehicle.send("PUT", url, content=b"model"), 403, "may-not-publish")
    problem(await vehicle.send("PUT", url, {"Authorization": None}, content=b"model"), 401, "credential")


async def withdraw(vehicle: Vehicle, version: str = "v2.1.0") -> httpx.Response:
    return await vehicle.send("DELETE", f"/models/yolov8m/versions/{version}", PUBLISHER)


async def test_what_is_withdrawn_is_offered_no_more_and_its_bytes_stay_its_own(
    vehicle: Vehicle, backend: httpx.AsyncClient
) -> None:
    await publish(vehicle, rollout=0.5)
    await publish(vehicle, "v2.0.0", content=b"older")
    url = await download_url(vehicle)
    etag = (await vehicle.get("/models")).headers["etag"]
    for _ in range(2):  # whoever lost the answer asks again
        assert (await withdraw(vehicle)).status_code == 204
        listing = await vehicle.get("/models", {"If-None-Match": etag})
        assert [model["version"] for model in listing.json()["models"]] == ["v2.0.0"]
    problem(await vehicle.get("/models/yolov8m/download", params={"version": "v2.1.0"}), 410, "model-withdrawn")
    problem(await backend.get(url), 410, "model-withdrawn")
    assert (await vehicle.get("/models/yolov8m/download")).json()["version"] == "v2.0.0"
    problem(await publish(vehicle, content=b"other"), 409, "model-exists")
    assert (await publish(vehicle)).status_code == 200
    assert (await vehicle.get("/models")).json()["models"][0]["rollout"] == 0.5, "as it was"
    assert (await backend.get(url)).content == MODEL


async def test_only_who_may_publish_withdraws_and_only_what_was_published(vehicle: Vehicle) -> None:
    await publish(vehicle)
    url = "/models/yolov8m/versions/v2.1.0"
    problem(await vehicle.send("DELETE", url), 403, "may-not-publish")
    problem(await vehicle.send("DELETE", url, {"Authorization": None}), 401, "credential")
    problem(await withdraw(vehicle, "v2.1"), 404, "no-such-model")
    assert len((await vehicle.get("/models")).json()["models"]) == 1


async def test_refuses_what_cant_be_published(vehicle: Vehicle, backend_settings: BackendSettings) -> None:
    for changed in (
        {"version": "newest"},
        {"name": ".hidden"},
        {"filename": "model.exe"},
        {"filename": "../up.pt"},
        {"rollout": 2},
        {"signature": "short"},
        {"key_id": "XYZ"},
        {"key_id": ["0123456789abcdef", "0123456789abcdef"]},
        {"released_at": "2026-11-01T00:00:00"},
        {"released_at": "yesterday"},
    ):
        problem(await publish(vehicle, **changed), 422, "invalid-parameters")
    problem(await publish(vehicle, rollout="half"), 422, "invalid-parameters")
    problem(await publish(vehicle, checksum="0" * 64), 422, "model-checksum")
    problem(await publish(vehicle, content=b""), 422, "empty-model")
    problem(await publish(vehicle, content=b"x" * 1_000_001), 413, "too-large")
    assert (await vehicle.get("/models")).json()["models"] == []
    assert list((backend_settings.folder / "models").iterdir()) == []


async def test_unknown_models_are_404(vehicle: Vehicle) -> None:
    problem(await vehicle.get("/models/nothing/download"), 404, "no-such-model")
    await publish(vehicle)
    problem(await vehicle.get("/models/yolov8m/download", params={"version": "v9.9.9"}), 404, "no-such-model")


@SQLITE_ONLY
async def test_publishing_into_the_folder_of_a_running_backend(
    vehicle: Vehicle, backend: httpx.AsyncClient, backend_settings: BackendSettings, tmp_path: Path
) -> None:
    file = tmp_path / "model.bin"
    file.write_bytes(MODEL)
    signatures = [ModelSignature(SIGNATURE, "0123456789abcdef"), ModelSignature(OTHER_SIGNATURE)]
    release = ModelRelease(name="yolov8m", version="v2.1.0", signatures=signatures, filename="yolov8m.onnx")
    assert publish_model(backend_settings.folder, file, release) == sha256(MODEL).hexdigest()
    listed = (await vehicle.get("/models")).json()["models"][0]
    assert listed["filename"] == "yolov8m.onnx"
    assert listed["signature"] == SIGNATURE
    assert [signature["signature"] for signature in listed["signatures"]] == [SIGNATURE, OTHER_SIGNATURE]
    assert (await backend.get(await download_url(vehicle))).content == MODEL
    file.write_bytes(b"other")
    with pytest.raises(ModelExistsError, match=r"v2\.1\.0"):
        publish_model(backend_settings.folder, file, release)
    assert len(list((backend_settings.folder / "models").iterdir())) == 1


def test_publishing_into_an_empty_folder(tmp_path: Path) -> None:
    file = tmp_path / "model.pth"
    file.write_bytes(MODEL)
    release = ModelRelease(name="drowsiness", version="v1.0.0")
    assert release.file_name() == "drowsiness.pth"
    publish_model(tmp_path / "fresh", file, release)
    with pytest.raises(FileNotFoundError):
        publish_model(tmp_path / "fresh", tmp_path / "missing", release)


def test_versions_sort_by_number() -> None:
    shuffled = ["2.0.0", "v1.10.0", "v1", "v1.10.0+build", "v1.2.1", "v1.10.0-beta", "v1.2"]
    assert sorted(shuffled, key=version_order) == [
        "v1",
        "v1.2",
        "v1.2.1",
        "v1.10.0-beta",
        "v1.10.0",
        "v1.10.0+build",
        "2.0.0",
    ]


@pytest.mark.parametrize("path", ["/model-files/a/b/c", "/model-deltas/a/b/c", "/models", "/models/a/download"])
@pytest.mark.parametrize(
    "query",
    [
        "expires=9999999999&token=%C3%A9",
        "expires=9999999999&token=%FF%FE",
        "expires=9999999999&token=%00",
        f"expires={'9' * 5000}&token=x",
        "expires=-1&token=x",
        "expires=1e400&token=x",
        "expires=NaN&token=",
        "expires[]=1&token[]=2",
        "limit=%F0%9F%9A%97&since=%E2%80%AE",
        "version=%00&from=%C3%A9",
        "token=a&token=b&expires=1&expires=2",
        "%ZZ=%",
    ],
)
async def test_no_query_makes_a_500(vehicle: Vehicle, path: str, query: str) -> None:
    """G15."""
    answer = await vehicle.get(f"{path}?{query}")
    assert 200 <= answer.status_code < 500
    assert answer.status_code == 403 or not query.endswith("%C3%A9") or "files" not in path
