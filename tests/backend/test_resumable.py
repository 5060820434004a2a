"""tus 1.0.0: creation, offsets, checksums, what is kept of a cut PATCH, expiration, termination."""

import asyncio
import gzip
import hashlib
import json
import os
from base64 import b64encode
from collections.abc import AsyncIterator
from dataclasses import replace

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.server import running_server
from sentinel_sync.backend.settings import BackendSettings, Extensions
from tests.backend.vehicle import SettableClock, Vehicle, problem, upload_metadata

SCENARIO = "20241117_103045"
CONTENT = os.urandom(2_500_000)
TUS = {"Tus-Resumable": "1.0.0"}


@pytest.fixture
async def recorded(vehicle: Vehicle) -> Vehicle:
    assert (await vehicle.register()).status_code == 201
    return vehicle


async def created(vehicle: Vehicle, content: bytes = CONTENT, filename: str = "bev.mp4") -> str:
    response = await vehicle.create_upload(content, filename)
    assert response.status_code == 201, response.text
    return response.headers["location"]


async def offset_of(vehicle: Vehicle, location: str) -> int:
    response = await vehicle.head(location)
    assert response.status_code == 200
    assert response.headers["cache-control"] == "no-store"
    return int(response.headers["upload-offset"])


async def stored(vehicle: Vehicle, name: str = "bev.mp4") -> bytes:
    return (await vehicle.get(f"/scenarios/{SCENARIO}/parts/{name}")).content


async def test_discovery(recorded: Vehicle) -> None:
    for kind in ("videos", "annotations"):
        response = await recorded.send("OPTIONS", f"/scenarios/{SCENARIO}/{kind}")
        assert response.status_code == 204
        assert response.headers["tus-resumable"] == "1.0.0"
        assert response.headers["tus-version"] == "1.0.0"
        assert response.headers["tus-extension"] == "creation,checksum,termination,expiration"
        assert response.headers["tus-checksum-algorithm"] == "sha256,sha1"
        assert response.headers["tus-max-size"] == "16000000"


async def test_an_upload_in_three_pieces(recorded: Vehicle, backend_settings: BackendSettings) -> None:
    location = await created(recorded)
    offset = 0
    for end in (1, 1_200_000, len(CONTENT)):
        response = await recorded.patch(location, offset, CONTENT[offset:end])
        assert response.status_code == 204
        assert response.headers["upload-offset"] == str(end)
        assert response.headers["tus-resumable"] == "1.0.0"
        offset = end
    assert await offset_of(recorded, location) == len(CONTENT)
    assert await stored(recorded) == CONTENT
    assert list((backend_settings.folder / "uploads").iterdir()) == []
    # The last answer may have been lost: asking and sending nothing again is fine, and so is starting over.
    assert (await recorded.patch(location, len(CONTENT), b"")).status_code == 204
    problem(await recorded.patch(location, 5, b"again"), 409, "upload-offset")
    problem(await recorded.create_upload(CONTENT), 409, "part-exists")
    again = await recorded.send("POST", f"/scenarios/{SCENARIO}/videos", files={"bev.mp4": ("bev.mp4", CONTENT)})
    problem(again, 409, "part-exists")


async def test_a_repeated_creation_gives_the_same_address(recorded: Vehicle) -> None:
    key = {"Idempotency-Key": "creation-1"}
    first = (await recorded.create_upload(CONTENT, **key)).headers["location"]
    assert (await recorded.patch(first, 0, CONTENT[:1000])).status_code == 204
    second = await recorded.create_upload(CONTENT, **key)
    assert (second.status_code, second.headers["location"]) == (201, first)
    assert await offset_of(recorded, first) == 1000
    other = await recorded.create_upload(CONTENT, **{"Idempotency-Key": "creation-2"})
    assert other.headers["location"] != first


async def test_annotations_may_travel_packed(recorded: Vehicle) -> None:
    annotations = json.dumps({"frames": list(range(1000))}).encode()
    packed = gzip.compress(annotations)
    metadata = upload_metadata(packed, "annotations.json", "application/gzip")
    created = await recorded.create_upload(packed, kind="annotations", **{"Upload-Metadata": metadata})
    assert (await recorded.patch(created.headers["location"], 0, packed)).status_code == 204
    assert await stored(recorded, "annotations.json") == annotations


async def test_annotations_that_cant_be_stored_end_the_upload(recorded: Vehicle) -> None:
    fine = b'{"lat": 37.774929}'
    metadata = upload_metadata(fine, "annotations.json", "application/json")
    created = await recorded.create_upload(fine, kind="annotations", **{"Upload-Metadata": metadata})
    location = created.headers["location"]
    problem(await recorded.patch(location, 0, fine), 422, "privacy-violation")
    assert (await recorded.head(location)).status_code == 404


async def test_a_wrong_offset_tells_the_right_one(recorded: Vehicle) -> None:
    location = await created(recorded)
    response = await recorded.patch(location, 7, b"x")
    problem(response, 409, "upload-offset")
    assert response.headers["upload-offset"] == "0"
    assert await offset_of(recorded, location) == 0


@pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
async def test_checksums_of_pieces(recorded: Vehicle, algorithm: str) -> None:
    def checksum(content: bytes) -> dict[str, str]:
        digest = hashlib.new(algorithm, content, usedforsecurity=False).digest()
        return {"Upload-Checksum": f"{algorithm} {b64encode(digest).decode()}"}

    location = await created(recorded)
    half = len(CONTENT) // 2
    assert (await recorded.patch(location, 0, CONTENT[:half], **checksum(CONTENT[:half]))).status_code == 204
    wrong = await recorded.patch(location, half, b"\0" * half, **checksum(CONTENT[half:]))
    assert problem(wrong, 460, "checksum-mismatch")["title"] == "Checksum Mismatch"
    assert await offset_of(recorded, location) == half
    assert (await recorded.patch(location, half, CONTENT[half:], **checksum(CONTENT[half:]))).status_code == 204
    assert await stored(recorded) == CONTENT


async def test_refuses_what_is_not_tus(recorded: Vehicle) -> None:
    location = await created(recorded)
    for headers, status, kind in (
        ({"Tus-Resumable": None}, 412, "tus-version"),
        ({"Tus-Resumable": "0.2.2"}, 412, "tus-version"),
        ({"Content-Type": "application/octet-stream"}, 415, "patch-type"),
        ({"Upload-Offset": None}, 400, "headers"),
        ({"Upload-Offset": "-1"}, 400, "headers"),
        ({"Upload-Offset": "1e3"}, 400, "headers"),
        ({"Upload-Checksum": "md5 AAAA"}, 400, "checksum-algorithm"),
        ({"Upload-Checksum": "sha1 ???"}, 400, "headers"),
    ):
        response = await recorded.patch(location, 0, b"x", **headers)
        problem(response, status, kind)
        assert response.headers["tus-resumable"] == "1.0.0"
    assert (await recorded.send("HEAD", location)).status_code == 412
    assert await offset_of(recorded, location) == 0


async def test_refuses_a_bad_creation(recorded: Vehicle) -> None:
    def metadata(filename: str = "bev.mp4", filetype: str = "video/mp4", digest: str = "0" * 64) -> dict[str, str]:
        pairs = {"filename": filename, "filetype": filetype, "sha256": digest}
        joined = ",".join(f"{name} {b64encode(value.encode()).decode()}" for name, value in pairs.items() if value)
        return {"Upload-Metadata": joined}

    for headers, status, kind in (
        ({"Upload-Length": None}, 400, "headers"),
        ({"Upload-Length": "many"}, 400, "headers"),
        ({"Upload-Length": "0"}, 422, "empty-part"),
        ({"Upload-Length": "16000001"}, 413, "too-large"),
        ({"Tus-Resumable": "2.0.0"}, 412, "tus-version"),
        ({"Upload-Metadata": None}, 400, "upload-metadata"),
        ({"Upload-Metadata": "filename ???"}, 400, "upload-metadata"),
        (metadata(filename=""), 400, "upload-metadata"),
        (metadata(filetype=""), 400, "upload-metadata"),
        (metadata(digest=""), 400, "upload-metadata"),
        (metadata(digest="z" * 64), 400, "upload-metadata"),
        (metadata(filename="../../etc/passwd"), 422, "unknown-part"),
    ):
        response = await recorded.create_upload(CONTENT, **headers)
        problem(response, status, kind)
        assert response.headers["tus-resumable"] == "1.0.0"


async def test_more_than_was_announced_is_refused(recorded: Vehicle) -> None:
    async def chunks() -> AsyncIterator[bytes]:
        for _ in range(20):
            yield b"x" * 10

    location = await created(recorded, b"x" * 100)
    problem(await recorded.patch(location, 0, b"x" * 101), 413, "too-large")
    headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
    problem(await recorded.send("PATCH", location, headers, content=chunks()), 413, "too-large")


async def test_a_whole_part_with_another_sha256_is_never_stored(recorded: Vehicle) -> None:
    location = await created(recorded)
    problem(await recorded.patch(location, 0, CONTENT[:-1] + b"?"), 422, "part-checksum")
    assert (await recorded.head(location)).status_code == 404
    assert (await recorded.get(f"/scenarios/{SCENARIO}")).json()["parts"] == []
    fresh = await created(recorded)
    assert (await recorded.patch(fresh, 0, CONTENT)).status_code == 204


async def test_termination_and_expiration(
    recorded: Vehicle, server_clock: SettableClock, backend_settings: BackendSettings
) -> None:
    location = await created(recorded)
    assert (await recorded.send("DELETE", location, TUS)).status_code == 204
    assert (await recorded.head(location)).status_code == 404
    old = await created(recorded)
    assert (await recorded.head(old)).headers["upload-expires"] == "Mon, 30 Nov 2026 08:00:00 GMT"
    server_clock.now += backend_settings.upload_lifetime + 1
    assert (await recorded.head(old)).status_code == 410
    fresh = await created(recorded)  # and clears up what has expired
    assert (await recorded.head(old)).status_code == 404
    assert [path.name for path in (backend_settings.folder / "uploads").iterdir()] == [fresh.rpartition("/")[2]]


async def test_an_upload_is_its_vehicles_own(recorded: Vehicle, backend: httpx.AsyncClient) -> None:
    location = await created(recorded)
    assert (await Vehicle(backend, "vehicle_002").head(location)).status_code == 404


async def test_goes_on_after_a_restart_even_from_the_last_byte(backend_settings: BackendSettings) -> None:
    async def run(offset: int, end: int, location: str = "") -> str:
        app = create_app(backend_settings)
        async with (
            app.router.lifespan_context(app),
            httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
        ):
            vehicle = Vehicle(client)
            if not location:
                assert (await vehicle.register()).status_code == 201
                location = await created(vehicle)
            assert await offset_of(vehicle, location) == offset
            if end > offset:
                assert (await vehicle.patch(location, offset, CONTENT[offset:end])).status_code == 204
            if end == len(CONTENT):
                assert await stored(vehicle) == CONTENT
            return location

    location = await run(0, 1_000_000)
    # As a crash leaves it that came after the last byte was written and before the part was recorded.
    with (backend_settings.folder / "uploads" / location.rpartition("/")[2]).open("ab") as file:
        file.write(CONTENT[1_000_000:])
    await run(len(CONTENT), len(CONTENT), location)


@pytest.mark.parametrize("with_checksum", [False, True])
async def test_what_a_cut_patch_brought_is_kept(backend_settings: BackendSettings, *, with_checksum: bool) -> None:
    async with running_server(backend_settings) as url, httpx.AsyncClient(base_url=url) as client:
        vehicle = Vehicle(client)
        assert (await vehicle.register()).status_code == 201
        location = await created(vehicle)
        changed = {
            "Tus-Resumable": "1.0.0",
            "Upload-Offset": "0",
            "Content-Type": "application/offset+octet-stream",
            "Content-Length": str(len(CONTENT)),
            "Host": "backend",
        }
        if with_checksum:
            digest = b64encode(hashlib.sha256(CONTENT).digest()).decode()
            changed["Upload-Checksum"] = f"sha256 {digest}"
        head = "".join(f"{name}: {value}\r\n" for name, value in vehicle.headers("PATCH", **changed).items())
        address = httpx.URL(url)
        _, writer = await asyncio.open_connection(address.host, address.port)
        writer.write(f"PATCH {location} HTTP/1.1\r\n{head}\r\n".encode() + CONTENT[:1_300_000])
        await writer.drain()
        writer.close()
        await writer.wait_closed()
        offset = 0
        async with asyncio.timeout(5):
            while offset < 1_300_000:
                offset = await offset_of(vehicle, location)
        assert offset == 1_300_000
        assert (await vehicle.patch(location, offset, CONTENT[offset:])).status_code == 204
        assert await stored(vehicle) == CONTENT


async def test_the_newest_patch_takes_over_from_one_that_hangs(backend_settings: BackendSettings) -> None:
    async with running_server(backend_settings) as url, httpx.AsyncClient(base_url=url) as client:
        vehicle = Vehicle(client)
        assert (await vehicle.register()).status_code == 201
        location = await created(vehicle)
        going_on = asyncio.Event()

        async def hanging() -> AsyncIterator[bytes]:
            yield CONTENT[:400_000]
            await going_on.wait()
            yield CONTENT[400_000:500_000]

        headers = {**TUS, "Upload-Offset": "0", "Content-Type": "application/offset+octet-stream"}
        old = asyncio.create_task(vehicle.send("PATCH", location, headers, content=hanging()))
        offset = 0
        async with asyncio.timeout(5):
            while offset < 400_000:
                offset = await offset_of(vehicle, location)
        assert (await vehicle.patch(location, offset, CONTENT[offset:])).status_code == 204
        going_on.set()
        problem(await old, 409, "superseded")
        assert await stored(vehicle) == CONTENT


async def test_a_backend_without_the_extension(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, extensions=Extensions(resumable_uploads=False)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        vehicle = Vehicle(client)
        assert (await vehicle.register()).status_code == 201
        response = await vehicle.send("OPTIONS", f"/scenarios/{SCENARIO}/videos")
        problem(response, 405, "method-not-allowed")
        assert "tus-resumable" not in response.headers
        problem(await vehicle.create_upload(CONTENT), 415, "not-multipart")
