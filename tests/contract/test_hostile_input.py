"""Whatever bytes come from outside: each reader takes them or says what is wrong in one of our errors, and soon.

`make fuzz` tries many for each reader; by itself a few.
"""

import asyncio
import json
import os
import sqlite3
from collections.abc import Callable
from contextlib import closing, suppress
from inspect import isabstract
from pathlib import Path
from random import Random
from threading import Event

import httpx
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from sentinel_sync import CloudAPIClient, Settings
from sentinel_sync.base.clock import SystemClock, http_date, rfc3339
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.payloads import Answer, read_json
from sentinel_sync.cloud.download import Target
from sentinel_sync.cloud.rules.answers import PartialFile, next_step, retry_after_seconds
from sentinel_sync.cloud.rules.tus import TusState, offer_of
from sentinel_sync.models.delta_file import apply_delta
from sentinel_sync.models.files import Registry
from sentinel_sync.models.releases import key_in_file
from sentinel_sync.models.rules.delta import read_block
from sentinel_sync.profiles.files import ProfileFolder
from sentinel_sync.profiles.keys import KeyFile, Keyring
from sentinel_sync.profiles.rules.envelope import known_from, opened, profile_in
from sentinel_sync.scenarios.consent import WithdrawalMark
from sentinel_sync.scenarios.recordings import read_recording
from sentinel_sync.scenarios.rules.annotations import AnnotationFilter
from sentinel_sync.scenarios.rules.compression import ProgressReader, StderrText, TimesReader, video_encoders
from sentinel_sync.scenarios.rules.metadata import outgoing_metadata, read_metadata
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.log_repair import mended
from sentinel_sync.store.store import Store
from sentinel_sync.trips.drive_file import read_drives
from sentinel_sync.trips.legacy_queue import LegacyQueue
from tests.conftest import FIXTURES

_EXAMPLES = int(os.environ.get("SENTINEL_FUZZ", "25"))
#: What a reader may raise: one of ours, or what says that a value is none (turned into ours by whoever reads it).
_FAULTS = (SentinelSyncError, ValueError, OSError)
_KEYS = "ZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmZmY="

_ODD = (b"NaN", b"1e999", b"\xef\xbb\xbf", b"\0", b"[" * 300, b'"', b"---", b"9" * 5000)

Reader = Callable[[bytes, Path], object]
READERS: dict[str, tuple[bytes, Reader]] = {}


def reads(example: bytes) -> Callable[[Reader], Reader]:
    """Try this reader, with what it should be able to read as the beginning of what is tried."""

    def note(reader: Reader) -> Reader:
        READERS[reader.__name__.strip("_")] = example, reader
        return reader

    return note


def _file(folder: Path, name: str, content: bytes) -> Path:
    path = folder / name
    path.write_bytes(content)
    return path


# --- what backends answer ---


@reads(b'{"models": [{"name": "a", "version": "v1", "size": 1, "checksum": "00"}], "upload": "on_request"}')
def json_of_a_backend(content: bytes, _: Path) -> None:
    value = read_json(content)
    json.dumps(value, allow_nan=False)
    for shape in _shapes(Answer):
        with suppress(ValueError):
            shape.model_validate(value)


def _shapes(root: type[Answer]) -> list[type[Answer]]:
    found = [shape for sub in root.__subclasses__() for shape in (sub, *_shapes(sub))]
    return [shape for shape in found if not isabstract(shape)]


@reads(b"Wed, 21 Oct 2015 07:28:00 GMT")
def header_values(content: bytes, _: Path) -> None:
    text = content.decode("latin-1")
    waited = retry_after_seconds(text, 1.8e9, 3600.0)
    assert waited is None or 0.0 <= waited <= 3600.0
    http_date(text)
    rfc3339(text)
    names = ("Content-Range", "Content-Length", "ETag", "Upload-Offset", "Upload-Length", "Tus-Resumable")
    headers = httpx.Headers({**dict.fromkeys(names, text), "Tus-Version": text, "Tus-Extension": text})
    for status in (200, 204, 206, 416):
        next_step(status, headers, PartialFile(10, '"a"'), 100)
    offer_of(204, headers)
    TusState(100, "http://127.0.0.1/1").asked(200, headers)


@reads(b'HTTP/1.1 200 OK\r\nContent-Type: application/json\r\nContent-Length: 15\r\n\r\n{"status":"ok"}')
def a_whole_answer(content: bytes, folder: Path) -> None:
    async def answer(_: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        writer.write(content)
        writer.close()

    async def ask() -> None:
        server = await asyncio.start_server(answer, "127.0.0.1", 0)
        async with server:
            port = server.sockets[0].getsockname()[1]
            settings = CloudSettings.model_validate({
                "enabled": True,
                "api_url": f"http://127.0.0.1:{port}",
                "api_key": "key",
                "state_dir": folder,
                "timeout": 2.0,
            })  # fmt: skip
            async with CloudAPIClient(settings=settings) as client:
                await client.probe()

    asyncio.run(ask())


@reads(b"\x28\xb5\x2f\xfd" + bytes(40))
def model_deltas(content: bytes, folder: Path) -> None:
    with suppress(SentinelSyncError):
        read_block(content[:64], old_size=1000, missing=1000)
    old, delta = _file(folder, "old", bytes(1000)), _file(folder, "delta", content)
    result = folder / "result"
    apply_delta(delta, old, result, Target(result, 1000, "0" * 64), Event())


@reads(json.dumps({"driver_id": "driver_1", "epoch": 1, "parts": {}}).encode())
def profiles_from_other_vehicles(content: bytes, _: Path) -> None:
    for read in (lambda: opened(content, "driver_1", own=False), lambda: known_from(content)):
        with suppress(*_FAULTS):
            read()
    Keyring.of((_KEYS.encode(),)).open(content.decode("latin-1"))


# --- what lies on the vehicle ---


@reads((FIXTURES / "data" / "trip_queue.json").read_bytes())
def trip_queues(content: bytes, folder: Path) -> None:
    path = _file(folder, "trip_queue.json", content)

    async def take() -> None:
        async with Store(folder / "state", clock=SystemClock()) as store:
            queue = LegacyQueue(
                path, store, kind="trip", vehicle_id="vehicle_1", pseudonym_of=lambda _: None, clock=SystemClock()
            )
            await queue.take_over()

    asyncio.run(take())


@reads(b"timestamp,latitude,longitude,speed\n2026-11-28T10:00:00Z,48.1,11.5,3.0\n")
def recorded_drives(content: bytes, folder: Path) -> None:
    for name in ("drive.csv", "drive.gpx"):
        with suppress(*_FAULTS):
            read_drives(_file(folder, name, content))


@reads(b'{"timestamp": "2026-11-28T10:15:00", "duration": 2.0, "files": {"bev": "bev.mp4"}, "location": "48.1,11.5"}')
def recordings_metadata(content: bytes, folder: Path) -> None:
    with suppress(*_FAULTS):
        outgoing_metadata(read_metadata(content))
    for name in ("metadata.json", "annotations.json", "bev.mp4"):
        _file(folder, name, content)
    read_recording(folder)


@reads(b'{"frames": [{"speed": 3.5, "gps": [48.858370, 2.294481], "note": "at 48.858370, 2.294481"}]}')
def annotations(content: bytes, _: Path) -> None:
    kept = AnnotationFilter()
    b"".join([*(kept.feed(content[at : at + 7]) for at in range(0, len(content), 7)), kept.finish()])


@reads(b"frame=10\nout_time_us=400000\nprogress=continue\n V....D libx264  H.264\n")
def what_ffmpeg_says(content: bytes, _: Path) -> None:
    ProgressReader().feed(content)
    TimesReader().feed(content)
    said = StderrText()
    said.feed(content)
    video_encoders(said.text)


@reads(b'{"driver_id": "driver_1", "name": "Ada", "total_distance": 12.5}')
def driver_profiles(content: bytes, folder: Path) -> None:
    _file(folder, "driver_1.json", content)
    with suppress(*_FAULTS):
        profile_in(content)
    ProfileFolder(folder).read("driver_1")


@reads(_KEYS.encode())
def key_files(content: bytes, folder: Path) -> None:
    path = _file(folder, "keys", content)
    path.chmod(0o600)
    with suppress(*_FAULTS):
        key_in_file(path)
    asyncio.run(KeyFile(path).keys())


@reads(b'{"perception": {"version": "v1.0.0", "installed_at": "2026-11-28T10:00:00"}}')
def model_registries(content: bytes, folder: Path) -> None:
    for name in ("registry.json", ".bad_versions.json"):
        _file(folder, name, content)
    registry = Registry(folder)
    registry.read()
    registry.read_bad()


@reads(b'{"at": 1.0, "present": []}')
def consent_marks(content: bytes, folder: Path) -> None:
    _file(folder, ".consent-withdrawn.json", content)
    mark = WithdrawalMark(folder)
    assert mark.stands()
    mark.made_since(frozenset())


@reads(b"cloud:\n  enabled: true\n  api_url: https://example.com\n  api_key: key\n")
def settings_files(content: bytes, folder: Path) -> None:
    Settings.load(_file(folder, "vehicle.yaml", content))


@reads(b"")
def the_stores_log(content: bytes, folder: Path) -> None:
    with suppress(*_FAULTS):
        mended(_file(folder, "log", content))
    state = folder / "state"
    state.mkdir()
    for name in ("outbox.db", "outbox.db-wal"):
        _file(state, name, content)

    async def start() -> None:
        async with Store(state, clock=SystemClock()) as store:
            await store.outbox.counts("trip")

    asyncio.run(start())  # whatever lies there, it starts
    with closing(sqlite3.connect(state / "outbox.db")) as connection:
        assert connection.execute("PRAGMA integrity_check").fetchone() == ("ok",)


def spoilt(example: bytes, seed: int) -> bytes:
    """What should be there, with a few bytes altered, lost, doubled or put in."""
    rng, content = Random(seed), bytearray(example)
    for _ in range(rng.randint(1, 4)):
        at = rng.randint(0, len(content))
        match rng.randint(0, 4):
            case 0:
                content[at:at] = rng.choice(_ODD)
            case 1:
                del content[at : at + rng.randint(1, 20)]
            case 2:
                content[at:at] = content[: rng.randint(0, 40)]
            case 3 if at < len(content):
                content[at] ^= 1 << rng.randint(0, 7)
            case _:
                content = content[:at]
    return bytes(content)


def contents(example: bytes) -> st.SearchStrategy[bytes]:
    json_values = st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=20),
        lambda inner: st.lists(inner, max_size=4) | st.dictionaries(st.text(max_size=8), inner, max_size=4),
        max_leaves=12,
    )
    return st.one_of(
        st.integers(0, 1 << 32).map(lambda seed: spoilt(example, seed)),
        st.binary(max_size=600),
        json_values.map(lambda value: json.dumps(value).encode()),
    )


@pytest.mark.parametrize("name", sorted(READERS))
def test_hostile_bytes_are_taken_or_refused(name: str, tmp_path_factory: pytest.TempPathFactory) -> None:
    example, reader = READERS[name]

    @settings(max_examples=_EXAMPLES, deadline=5000.0, suppress_health_check=list(HealthCheck), database=None)
    @given(contents(example))
    def holds(content: bytes) -> None:
        with suppress(*_FAULTS):
            reader(content, tmp_path_factory.mktemp("it"))

    holds()
