"""Deltas are offered where they are a gain, made once, kept within bounds, and never in a vehicle's way."""

import asyncio
import logging
import threading
from dataclasses import replace
from hashlib import sha256
from pathlib import Path
from typing import Any

import httpx
import pytest

from sentinel_sync.backend import deltas
from sentinel_sync.backend.app import create_app
from sentinel_sync.backend.deltas import Delta, Deltas, make_delta
from sentinel_sync.backend.settings import BackendSettings, Extensions
from tests.backend.test_models import publish
from tests.backend.vehicle import SettableClock, Vehicle, problem
from tests.fakes.weights import all_moved, some_tensors_replaced, weights

OLD = weights(200_000, 1)
NEW = some_tensors_replaced(OLD, 100, 1, 2)
HAS = sha256(OLD).hexdigest()


async def ask(vehicle: Vehicle, has: str = HAS, version: str = "v2.0.0") -> dict[str, Any]:
    answer = await vehicle.get("/models/yolov8m/download", params={"version": version, "from": has})
    assert answer.status_code == 200
    body: dict[str, Any] = answer.json()
    return body


@pytest.fixture
async def published(vehicle: Vehicle) -> Vehicle:
    for version, content in (("v1.0.0", OLD), ("v2.0.0", NEW)):
        assert (await publish(vehicle, version, content)).status_code == 201
    return vehicle


async def test_one_is_offered_and_sent(
    published: Vehicle, backend: httpx.AsyncClient, server_clock: SettableClock
) -> None:
    answer = await ask(published)
    assert answer["checksum"] == sha256(NEW).hexdigest()
    offer = answer["delta"]
    assert set(offer) == {"download_url", "format", "size", "checksum"}
    assert offer["format"] == "zstd-blocks"
    assert offer["size"] <= 0.02 * len(NEW)
    file = await backend.get(offer["download_url"])  # no credential, no header
    assert len(file.content) == offer["size"]
    assert sha256(file.content).hexdigest() == offer["checksum"]
    assert file.headers["etag"] == f'"{offer["checksum"]}"'
    rest = await backend.get(offer["download_url"], headers={"Range": "bytes=100-"})
    assert (rest.status_code, rest.content) == (206, file.content[100:])
    problem(await backend.get(offer["download_url"][:-1]), 403, "token")
    problem(await backend.get(offer["download_url"].replace(HAS, "0" * 64)), 403, "token")
    server_clock.now += 901
    problem(await backend.get(offer["download_url"]), 410, "address-expired")


async def test_none_is_offered_where_there_is_nothing_to_offer(published: Vehicle) -> None:
    assert (await publish(published, "v3.0.0", weights(200_000, 99))).status_code == 201
    assert (await publish(published, "v1.0.0", OLD[:-4], name="another")).status_code == 201
    for has, version in (
        (HAS, "v1.0.0"),  # it has just this
        (HAS, "v3.0.0"),  # nothing in common
        ("0" * 64, "v2.0.0"),
        ("../../etc/passwd", "v2.0.0"),
        ("", "v2.0.0"),
        (sha256(OLD[:-4]).hexdigest(), "v2.0.0"),  # another model's
    ):
        assert "delta" not in await ask(published, has, version)
    answer = await published.get("/models/yolov8m/download", params={"version": "v2.0.0"})
    assert "delta" not in answer.json()


async def test_a_backend_without_the_extension_has_no_trace_of_it(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, extensions=Extensions(model_deltas=False)))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        vehicle = Vehicle(client)
        for version, content in (("v1.0.0", OLD), ("v2.0.0", NEW)):
            assert (await publish(vehicle, version, content)).status_code == 201
        assert "delta" not in await ask(vehicle)
        assert not any("delta" in path for path in (await client.get("/openapi.json")).json()["paths"])
    assert not (backend_settings.folder / "deltas").exists()


async def test_addresses_may_be_on_another_host(backend_settings: BackendSettings) -> None:
    app = create_app(replace(backend_settings, public_url="https://cdn.example/"))
    async with (
        app.router.lifespan_context(app),
        httpx.AsyncClient(transport=httpx.ASGITransport(app), base_url="http://backend") as client,
    ):
        vehicle = Vehicle(client)
        for version, content in (("v1.0.0", OLD), ("v2.0.0", NEW)):
            await publish(vehicle, version, content)
        offer = (await ask(vehicle))["delta"]
        assert offer["download_url"].startswith(f"https://cdn.example/model-deltas/{HAS}/")


async def test_it_is_made_once_for_all_vehicles(
    published: Vehicle, backend_settings: BackendSettings, monkeypatch: pytest.MonkeyPatch
) -> None:
    made = 0
    usual = deltas.make_delta

    def counted(*arguments: Any) -> Delta:
        nonlocal made
        made += 1
        return usual(*arguments)

    monkeypatch.setattr(deltas, "make_delta", counted)
    answers = await asyncio.gather(*(ask(published) for _ in range(5)))
    assert made == 1
    assert len({answer["delta"]["checksum"] for answer in answers}) == 1
    assert (await publish(published, "v3.0.0", weights(200_000, 99))).status_code == 201
    for _ in range(2):
        assert "delta" not in await ask(published, version="v3.0.0")
    assert made == 2  # that there is none is kept as well
    assert not list((backend_settings.folder / "deltas").glob("*.new"))


async def test_a_vehicle_that_would_wait_long_gets_none_and_the_next_one_does(
    published: Vehicle, monkeypatch: pytest.MonkeyPatch
) -> None:
    gone_on, usual = threading.Event(), deltas.make_delta

    def slow(*arguments: Any) -> Delta:
        gone_on.wait(30.0)
        return usual(*arguments)

    monkeypatch.setattr(deltas, "make_delta", slow)
    monkeypatch.setattr(deltas, "PATIENCE", 0.0)
    assert "delta" not in await ask(published)
    gone_on.set()
    monkeypatch.setattr(deltas, "PATIENCE", 30.0)
    assert "delta" in await ask(published)


async def test_a_full_disk_leaves_the_whole_file(
    published: Vehicle, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def full(*_: Any) -> Delta:
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as patched, caplog.at_level(logging.ERROR):
        patched.setattr(deltas, "make_delta", full)
        assert "delta" not in await ask(published)
    assert "deltas.failed" in caplog.text
    assert "delta" in await ask(published)


async def test_one_that_is_kept_no_more_is_404_and_made_again_when_asked_for(
    published: Vehicle, backend: httpx.AsyncClient, backend_settings: BackendSettings
) -> None:
    offer = (await ask(published))["delta"]
    for path in (backend_settings.folder / "deltas").iterdir():
        path.unlink()
    problem(await backend.get(offer["download_url"]), 404, "no-such-delta")
    assert (await ask(published))["delta"]["checksum"] == offer["checksum"]


async def test_those_asked_for_longest_ago_make_room(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    files = {}
    for number in range(4):
        files[number] = tmp_path / str(number)
        files[number].write_bytes(all_moved(OLD, number))
    kept = Deltas(tmp_path / "deltas")
    try:
        sizes = []
        for number in (1, 2, 3):
            delta = await kept.between(files[0], "0", files[number], str(number))
            assert delta is not None
            sizes.append(delta.size)
            monkeypatch.setattr(deltas, "CACHE_BYTES", 2 * max(sizes) + 1000)
            await kept.kept("0", "1")
        assert [kept.path("0", str(number)).exists() for number in (1, 2, 3)] == [True, False, True]
    finally:
        await kept.close()


async def test_closing_does_not_wait_for_what_is_being_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(all_moved(OLD, 1))
    begun = asyncio.Event()
    loop, stopped = asyncio.get_running_loop(), []

    def observed(old: Path, new: Path, target: Path, stop: threading.Event) -> Delta:
        loop.call_soon_threadsafe(begun.set)
        stopped.append(stop.wait(30.0))
        return make_delta(old, new, target, stop)

    monkeypatch.setattr(deltas, "make_delta", observed)
    kept = Deltas(tmp_path / "deltas")
    asking = asyncio.create_task(kept.between(tmp_path / "old", "0", tmp_path / "new", "1"))
    async with asyncio.timeout(30.0):
        await begun.wait()
        await kept.close()
        assert await asking is None
    assert stopped == [True]
    assert not list((tmp_path / "deltas").iterdir())


async def test_what_a_killed_process_left_half_made_goes_with_the_next_one(published: Vehicle, tmp_path: Path) -> None:
    folder = tmp_path / "backend" / "deltas"
    folder.mkdir(exist_ok=True)
    (folder / "half.new").write_bytes(b"half")
    assert "delta" in await ask(published)
    assert not list(folder.glob("*.new"))


def test_what_is_no_gain_leaves_no_file(tmp_path: Path) -> None:
    (tmp_path / "old").write_bytes(OLD)
    (tmp_path / "new").write_bytes(weights(200_000, 99))
    assert make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "delta", threading.Event()).size == 0
    assert not (tmp_path / "delta").exists()


@pytest.mark.parametrize(("old", "new"), [(b"x", b"y" * 5000), (b"y" * 5000, b"y"), (bytes(3), bytes(3_000_000))])
def test_small_and_odd_files_are_no_trouble(tmp_path: Path, old: bytes, new: bytes) -> None:
    (tmp_path / "old").write_bytes(old)
    (tmp_path / "new").write_bytes(new)
    delta = make_delta(tmp_path / "old", tmp_path / "new", tmp_path / "delta", threading.Event())
    assert delta.size <= 0.9 * len(new)
    assert (tmp_path / "delta").exists() == bool(delta.size)
