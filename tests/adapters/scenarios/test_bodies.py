"""Files as request bodies: constant memory, exact lengths, and no doubt about what is sent."""

import gzip
import os
import tracemalloc
from pathlib import Path

import pytest

from sentinel_sync.adapters.scenarios.bodies import CHUNK_BYTES, FileBody, annotations_body, video_body
from sentinel_sync.errors import ScenarioError
from sentinel_sync.rules.scenarios.plan import Part, PartKind


def part(path: Path, kind: PartKind = PartKind.VIDEO) -> Part:
    status = path.stat()
    return Part(kind, path.name, status.st_size, status.st_mtime_ns)


async def drained(body: FileBody) -> bytes:
    async with body:
        return b"".join([piece async for piece in body])


@pytest.mark.parametrize("size", [1, CHUNK_BYTES - 1, CHUNK_BYTES, CHUNK_BYTES + 1])
async def test_the_promised_length_is_what_comes(tmp_path: Path, size: int) -> None:
    (tmp_path / "bev.mp4").write_bytes(os.urandom(size))
    told: list[int] = []
    body = await video_body(tmp_path, part(tmp_path / "bev.mp4"), told.append)
    sent = await drained(body)
    assert len(sent) == int(body.headers["Content-Length"])
    assert (tmp_path / "bev.mp4").read_bytes() in sent
    assert told[-1] == size
    assert told == sorted(told)


async def test_a_large_file_is_never_held(tmp_path: Path) -> None:
    with (tmp_path / "bev.mp4").open("wb") as file:
        os.truncate(file.fileno(), 128 << 20)
    body = await video_body(tmp_path, part(tmp_path / "bev.mp4"), lambda _: None)
    tracemalloc.start()
    try:
        async with body:
            total = 0
            async for piece in body:
                total += len(piece)
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert total == int(body.headers["Content-Length"])
    assert peak < 8 * CHUNK_BYTES


async def test_a_file_that_shrinks_under_way_is_an_error_and_no_short_body(tmp_path: Path) -> None:
    path = tmp_path / "bev.mp4"
    path.write_bytes(os.urandom(4 * CHUNK_BYTES))
    body = await video_body(tmp_path, part(path), lambda _: None)
    async with body:
        pieces = aiter(body)
        await anext(pieces)
        os.truncate(path, CHUNK_BYTES)
        with pytest.raises(ScenarioError, match="became shorter"):
            await drained(body)


async def test_a_file_that_grows_is_sent_as_far_as_was_promised(tmp_path: Path) -> None:
    path = tmp_path / "bev.mp4"
    path.write_bytes(b"a" * CHUNK_BYTES)
    body = await video_body(tmp_path, part(path), lambda _: None)
    with path.open("ab") as file:
        file.write(b"b")
    sent = await drained(body)
    assert len(sent) == int(body.headers["Content-Length"])


@pytest.mark.parametrize("change", ["size", "time"])
async def test_a_changed_file_is_not_what_was_queued(tmp_path: Path, change: str) -> None:
    path = tmp_path / "bev.mp4"
    path.write_bytes(b"a" * 100)
    queued = part(path)
    if change == "size":
        path.write_bytes(b"a" * 99)
        os.utime(path, ns=(queued.modified_ns, queued.modified_ns))
    else:
        os.utime(path, ns=(queued.modified_ns + 1, queued.modified_ns + 1))
    with pytest.raises(ScenarioError, match="changed after it was queued"):
        await video_body(tmp_path, queued, lambda _: None)


async def test_annotations_are_packed_alike_each_time_and_without_places(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(b'{"frames": [' + b'{"lat": 37.774929}, ' * 50_000 + b"{}]}")
    packed = []
    for _ in range(2):
        body = await annotations_body(
            tmp_path, part(path, PartKind.ANNOTATIONS), tmp_path / "derived" / "a.gz", lambda _: None
        )
        packed.append(await drained(body))
        assert len(packed[-1]) == int(body.headers["Content-Length"])
    assert packed[0] == packed[1]
    assert gzip.decompress(packed[0]) == path.read_bytes().replace(b"37.774929", b"37.77")


async def test_annotations_that_are_no_json_leave_nothing_behind(tmp_path: Path) -> None:
    path = tmp_path / "annotations.json"
    path.write_bytes(b'{"lat": "37.7}')
    with pytest.raises(ScenarioError):
        await annotations_body(
            tmp_path, part(path, PartKind.ANNOTATIONS), tmp_path / "derived" / "a.gz", lambda _: None
        )
    assert list((tmp_path / "derived").iterdir()) == []
