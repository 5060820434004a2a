"""Scenarios: metadata, videos and annotations, each stored once and byte for byte."""

import gzip
import hashlib
import json
import tracemalloc
from collections.abc import AsyncIterator
from dataclasses import replace
from typing import Any

import httpx
import pytest

from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.privacy import CoordinateScanner, fine_coordinates
from sentinel_sync.backend.settings import BackendSettings, Extensions
from tests.backend.vehicle import Vehicle, problem, registration, stored_bytes

SCENARIO = "20241117_103045"
VIDEOS = f"/scenarios/{SCENARIO}/videos"
ANNOTATIONS_URL = f"/scenarios/{SCENARIO}/annotations"
ANNOTATIONS = json.dumps({"frames": [{"timestamp": 1.0, "bbox_3d": [12.123456, -3.0]}] * 50}).encode()
JSON = {"Content-Type": "application/json"}


@pytest.fixture
async def recorded(vehicle: Vehicle) -> Vehicle:
    assert (await vehicle.register()).status_code == 201
    return vehicle


async def send_video(vehicle: Vehicle, name: str, content: bytes, **headers: str | None) -> httpx.Response:
    return await vehicle.send("POST", VIDEOS, headers, files={name: (name, content, "video/mp4")})


async def test_a_whole_scenario_arrives_byte_for_byte(vehicle: Vehicle, backend_settings: BackendSettings) -> None:
    accepted = await vehicle.register()
    assert accepted.status_code == 201
    assert accepted.json()["missing"] == ["annotations.json", "bev.mp4", "interior.mp4"]
    videos = {"bev.mp4": bytes(range(256)) * 9000, "interior.mp4": b"\r\n--almost-a-boundary\r\n" * 10}
    for name, content in videos.items():
        answer = await send_video(vehicle, name, content)
        assert answer.status_code == 201
        assert answer.json() == {
            "scenario_id": SCENARIO,
            "part": name,
            "size": len(content),
            "sha256": hashlib.sha256(content).hexdigest(),
        }
    assert (await vehicle.get(f"/scenarios/{SCENARIO}")).json()["complete"] is False
    packed = gzip.compress(ANNOTATIONS)
    answer = await vehicle.send("POST", ANNOTATIONS_URL, {**JSON, "Content-Encoding": "gzip"}, content=packed)
    assert answer.status_code == 201

    shown = (await vehicle.get(f"/scenarios/{SCENARIO}")).json()
    assert shown["complete"] is True
    assert shown["missing"] == []
    assert shown["consent"]["policy_version"] == "2"
    parts = {part["name"]: part for part in shown["parts"]}
    assert parts["annotations.json"]["sha256"] == hashlib.sha256(ANNOTATIONS).hexdigest()
    assert parts["annotations.json"]["received_sha256"] == hashlib.sha256(packed).hexdigest()
    assert parts["annotations.json"]["kind"] == "annotations"
    for name, content in {**videos, "annotations.json": ANNOTATIONS}.items():
        assert (await vehicle.get(f"/scenarios/{SCENARIO}/parts/{name}")).content == content
    part = await vehicle.get(f"/scenarios/{SCENARIO}/parts/bev.mp4", {"Range": "bytes=1-3"})
    assert (part.status_code, part.content) == (206, b"\x01\x02\x03")
    assert (await vehicle.get("/scenarios")).json()["scenarios"] == [shown]
    assert list((backend_settings.folder / "incoming").iterdir()) == []
    assert len(list((backend_settings.folder / "parts").iterdir())) == 3


async def test_everything_that_came_again_is_409(recorded: Vehicle, backend_settings: BackendSettings) -> None:
    problem(await recorded.register(), 409, "key-used")
    problem(await recorded.send("POST", "/scenarios", json=registration()), 409, "scenario-exists")
    assert (await send_video(recorded, "bev.mp4", b"video", **{"Idempotency-Key": "bev"})).status_code == 201
    problem(await send_video(recorded, "bev.mp4", b"video", **{"Idempotency-Key": "bev"}), 409, "part-exists")
    problem(await send_video(recorded, "bev.mp4", b"other"), 409, "part-exists")
    for expected in (201, 409):
        answer = await recorded.send("POST", ANNOTATIONS_URL, JSON, content=ANNOTATIONS)
        assert answer.status_code == expected
    assert len(list((backend_settings.folder / "parts").iterdir())) == 2
    assert list((backend_settings.folder / "incoming").iterdir()) == []


async def test_a_key_of_other_work_is_no_409(recorded: Vehicle) -> None:
    key = {"Idempotency-Key": "one-key"}
    assert (await send_video(recorded, "bev.mp4", b"video", **key)).status_code == 201
    problem(await send_video(recorded, "interior.mp4", b"video", **key), 422, "key-reused")


async def test_two_vehicles_may_have_one_scenario_id(backend: httpx.AsyncClient) -> None:
    first, second = Vehicle(backend), Vehicle(backend, "vehicle_002")
    for vehicle in (first, second):
        assert (await vehicle.register()).status_code == 201
        assert (await send_video(vehicle, "bev.mp4", vehicle.vehicle_id.encode())).status_code == 201
    problem(await first.get(f"/scenarios/{SCENARIO}"), 400, "ambiguous")
    for vehicle in (first, second):
        query = {"vehicle_id": vehicle.vehicle_id}
        content = (await first.get(f"/scenarios/{SCENARIO}/parts/bev.mp4", params=query)).content
        assert content == vehicle.vehicle_id.encode()


async def test_what_is_announced_asked_for_and_here_is_told_apart(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, extensions=Extensions(scenario_catalogue=True)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        vehicle = Vehicle(client)
        assert (await vehicle.register()).status_code == 201

        async def state() -> str:
            (listed,) = (await vehicle.get("/scenarios", params={"vehicle_id": "vehicle_001"})).json()["scenarios"]
            return str(listed["state"])

        async def want(*files: str) -> httpx.Response:
            return await vehicle.send("PUT", f"/scenarios/{SCENARIO}/wanted", params={"file": files})

        assert await state() == "announced"
        # It would be asked for for ever.
        assert "bev.mp4" in problem(await want("bev.mp4", "rear.mp4"), 422, "unknown-part")["detail"]
        assert await state() == "announced"
        assert (await want("bev.mp4")).status_code == 204
        assert await state() == "wanted"
        await send_video(vehicle, "bev.mp4", b"video")
        assert await state() == "partial"
        assert (await want()).status_code == 204
        assert await state() == "wanted"
        await send_video(vehicle, "interior.mp4", b"video")
        assert (await vehicle.send("POST", ANNOTATIONS_URL, JSON, content=ANNOTATIONS)).status_code == 201
        assert await state() == "complete"


async def test_parts_need_their_scenario(vehicle: Vehicle) -> None:
    problem(await send_video(vehicle, "bev.mp4", b"video"), 404, "no-such-scenario")
    problem(await vehicle.send("POST", ANNOTATIONS_URL, JSON, content=b"{}"), 404, "no-such-scenario")
    problem(await vehicle.get(f"/scenarios/{SCENARIO}"), 404, "no-such-scenario")
    assert (await vehicle.register()).status_code == 201
    problem(await vehicle.get(f"/scenarios/{SCENARIO}/parts/bev.mp4"), 404, "no-such-part")


BAD_REGISTRATIONS: list[tuple[str, Any, str]] = [
    ("scenario_id", "../up", "invalid-body"),
    ("scenario_id", "a/b", "invalid-body"),
    ("scenario_id", "a\nb", "invalid-body"),
    ("scenario_id", "", "invalid-body"),
    ("priority", "urgent", "invalid-body"),
    ("consent", None, "invalid-body"),
    ("consent", {"granted_at": "yesterday", "policy_version": "1"}, "invalid-body"),
    ("metadata", {}, "invalid-body"),
    ("metadata", registration(files={"bev": "/data/bev.mp4"})["metadata"], "invalid-body"),
    ("metadata", registration(num_frames="60")["metadata"], "invalid-body"),
    ("metadata", registration(location="37.774929,-122.419416")["metadata"], "privacy-violation"),
    ("metadata", registration(location={"lat": 37.774, "lon": -122.41})["metadata"], "privacy-violation"),
    ("metadata", registration(gps=[37.77, -122.419416])["metadata"], "privacy-violation"),
    ("metadata", registration(deep=[{"Longitude": "-122.419416"}])["metadata"], "privacy-violation"),
    ("path", "/data/scenarios", "invalid-body"),
]


async def test_refuses_a_bad_registration(vehicle: Vehicle, backend_settings: BackendSettings) -> None:
    for field, value, kind in BAD_REGISTRATIONS:
        body = {**registration(), field: value}
        problem(await vehicle.send("POST", "/scenarios", json=body), 422, kind)
    assert (await vehicle.get("/scenarios")).json()["scenarios"] == []
    assert b"419416" not in stored_bytes(backend_settings.folder)


async def test_refuses_a_bad_multipart_body(recorded: Vehicle, backend_settings: BackendSettings) -> None:
    async def send(content: bytes, content_type: str = "multipart/form-data; boundary=b") -> httpx.Response:
        return await recorded.send("POST", VIDEOS, {"Content-Type": content_type}, content=content)

    def part(name: str = "bev.mp4", filename: str = "bev.mp4", data: bytes = b"video", head: str = "") -> bytes:
        disposition = f'form-data; name="{name}"; filename="{filename}"'
        return f"--b\r\nContent-Disposition: {disposition}{head}\r\n\r\n".encode() + data + b"\r\n"

    end = b"--b--\r\n"
    problem(await send(b"video", "video/mp4"), 415, "not-multipart")
    problem(await send(b"video", "multipart/form-data"), 415, "not-multipart")
    problem(await send(part()), 422, "multipart")  # no last boundary
    problem(await send(b"nonsense"), 422, "multipart")
    problem(await send(end), 422, "multipart")
    problem(await send(part() + part("interior.mp4", "interior.mp4") + end), 422, "multipart")
    problem(await send(part(name="video") + end), 422, "multipart")
    problem(await send(part(filename="") + end), 422, "multipart")
    problem(await send(part("x.mp4", "x.mp4") + end), 422, "unknown-part")
    problem(await send(part("../bev.mp4", "../bev.mp4") + end), 422, "unknown-part")
    problem(await send(part(data=b"") + end), 422, "empty-part")
    problem(await send(part(head="\r\nX-Long: " + "x" * 4_001) + end), 413, "too-large")
    problem(await send(part(data=b"x" * 16_000_001) + end), 413, "too-large")
    assert (await recorded.get(f"/scenarios/{SCENARIO}")).json()["parts"] == []
    assert list((backend_settings.folder / "incoming").iterdir()) == []
    assert list((backend_settings.folder / "parts").iterdir()) == []


async def test_refuses_bad_annotations(recorded: Vehicle, backend_settings: BackendSettings) -> None:
    packed = {**JSON, "Content-Encoding": "gzip"}
    bomb = gzip.compress(b"{" + b" " * 2_000_000 + b"}")
    fine = b'{"frames": [' + b"1," * 600_000 + b'{"gps": {"latitude" : 37.774929}}]}'
    for headers, content, status, kind in (
        ({"Content-Type": "text/plain"}, b"{}", 415, "not-json"),
        ({**JSON, "Content-Encoding": "br"}, b"{}", 415, "content-encoding"),
        (packed, ANNOTATIONS, 422, "damaged-gzip"),
        (packed, gzip.compress(ANNOTATIONS)[:-9], 422, "damaged-gzip"),
        (packed, bomb, 413, "too-large"),
        (JSON, b" " * 2_000_001, 413, "too-large"),
        (JSON, b"", 422, "invalid-annotations"),
        (JSON, b"[1]", 422, "invalid-annotations"),
        (JSON, ANNOTATIONS[:-5], 422, "invalid-annotations"),
        (packed, gzip.compress(fine), 422, "privacy-violation"),
    ):
        problem(await recorded.send("POST", ANNOTATIONS_URL, headers, content=content), status, kind)
    assert list((backend_settings.folder / "incoming").iterdir()) == []
    assert list((backend_settings.folder / "parts").iterdir()) == []


async def test_a_large_video_needs_little_memory(recorded: Vehicle) -> None:
    """Python's own memory stays far below the size of the body, which is never in one piece."""
    size = 15_900_000
    head = b'--b\r\nContent-Disposition: form-data; name="bev.mp4"; filename="bev.mp4"\r\n\r\n'

    async def body() -> AsyncIterator[bytes]:
        yield head
        for _ in range(size // 100_000):
            yield b"v" * 100_000
        yield b"\r\n--b--\r\n"

    tracemalloc.start()
    try:
        headers = {"Content-Type": "multipart/form-data; boundary=b"}
        answer = await recorded.send("POST", VIDEOS, headers, content=body())
        assert (answer.status_code, answer.json()["size"]) == (201, size)
        assert tracemalloc.get_traced_memory()[1] < size / 2  # some blocks on their way; how many is up to the disk
    finally:
        tracemalloc.stop()


def test_coarse_documents_have_no_fine_coordinates() -> None:
    coarse = registration(
        location={"lat": 37.77, "lon": -122.42, "name": "3.14159 street"},
        number=37.774929,
        reason="risk 0.901, later 0.1",
        gps={"valid": True, "lat": 37.77},
    )["metadata"]
    assert list(fine_coordinates(coarse)) == ["location.name"]  # under a place, no text may have such a number
    del coarse["location"]["name"]
    assert list(fine_coordinates(coarse)) == []


@pytest.mark.parametrize("cut", range(30))
def test_a_coordinate_across_two_blocks_is_seen(cut: int) -> None:
    text = b'{"x": {"lon" : -122.419416}}'
    scanner = CoordinateScanner()
    assert any([scanner.has_fine(text[:cut]), scanner.has_fine(text[cut:])])
    assert not CoordinateScanner().has_fine(
        b'{"lat": 37.77, "lon": -122.42, "x": 1.23456, "location": "37.77,-122.42"}'
    )
    assert CoordinateScanner().has_fine(b'{"location": "37.77,-122.419416"}')
    assert CoordinateScanner().has_fine(b'{"location": [37.774929, -122.41]}')
