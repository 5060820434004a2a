"""What goes for a part: made ready once, opened as it was, streamed in constant memory."""

import asyncio
import gzip
import hashlib
import json
import os
from dataclasses import replace
from pathlib import Path

import pytest

from sentinel_sync.base.errors import ScenarioError, StoreError
from sentinel_sync.cloud.upload import PIECE_BYTES, BandwidthLimit, FileBody, OpenFile
from sentinel_sync.scenarios.preparation import annotations_file, open_what_goes
from sentinel_sync.scenarios.rules.plan import PartFile, PartKind
from tests.fakes.patience import until
from tests.scenarios.recorded_part import noise, part_of

CONTENT = noise(2 * PIECE_BYTES + 12_345)


@pytest.fixture
def video(tmp_path: Path) -> Path:
    path = tmp_path / "bev.mp4"
    path.write_bytes(CONTENT)
    return path


def opened(path: Path) -> OpenFile:
    return OpenFile(path.open("rb"), path.name, path.stat().st_size, error=ScenarioError)


async def drained(body: FileBody) -> bytes:
    return b"".join([piece async for piece in body])


class TestPieces:
    async def test_are_the_bytes_of_the_range(self, video: Path) -> None:
        async with opened(video) as source:
            for begin, end in ((0, len(CONTENT)), (1, PIECE_BYTES + 1), (PIECE_BYTES, len(CONTENT)), (7, 7)):
                pieces = [piece async for piece in source.pieces(begin, end)]
                assert b"".join(pieces) == CONTENT[begin:end]
                assert all(len(piece) <= PIECE_BYTES for piece in pieces)

    async def test_the_next_one_is_read_while_the_present_one_is_used(
        self, video: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        read: list[int] = []
        pread = os.pread

        def noted(descriptor: int, size: int, at: int) -> bytes:
            read.append(at)
            return pread(descriptor, size, at)

        monkeypatch.setattr(os, "pread", noted)
        async with opened(video) as source:
            pieces = source.pieces(0, len(CONTENT))
            await anext(pieces)
            await until(lambda: len(read) == 2, "the reading ahead")
            assert read == [0, PIECE_BYTES]
            await pieces.aclose()

    async def test_a_file_that_shrinks_is_told(self, video: Path) -> None:
        async with opened(video) as source:
            pieces = source.pieces(0, len(CONTENT))
            await anext(pieces)
            os.truncate(video, PIECE_BYTES)
            with pytest.raises(ScenarioError, match=r"bev\.mp4 became shorter while it was sent"):
                _ = [piece async for piece in pieces]

    async def test_leaving_in_the_middle_closes_it_once_no_thread_reads(self, video: Path) -> None:
        source = opened(video)
        async with source:
            pieces = source.pieces(0, len(CONTENT))
            await anext(pieces)
        with pytest.raises(ScenarioError):
            _ = [piece async for piece in source.pieces(0, 10)]
        await pieces.aclose()

    @pytest.mark.parametrize("algorithm", ["sha256", "sha1"])
    async def test_are_hashed_by_range(self, video: Path, algorithm: str) -> None:
        async with opened(video) as source:
            expected = hashlib.new(algorithm, CONTENT[5 : PIECE_BYTES + 5]).digest()
            assert await source.digest(algorithm, 5, PIECE_BYTES + 5) == expected


class TestFileBody:
    async def test_has_the_length_that_it_says_and_tells_how_far_it_is(self, video: Path) -> None:
        told: list[int] = []
        before, after = b"--frontier\r\n", b"\r\n--frontier--\r\n"
        async with opened(video) as source:
            body = FileBody(
                source,
                0,
                len(CONTENT),
                before=before,
                after=after,
                bandwidth=BandwidthLimit(0),
                on_progress=told.append,
            )
            sent = await drained(body)
        assert len(sent) == body.size_bytes
        assert sent == before + CONTENT + after
        assert told == [PIECE_BYTES, 2 * PIECE_BYTES, len(CONTENT)]
        assert body.reached == len(CONTENT)

    async def test_a_range_begins_where_it_says(self, video: Path) -> None:
        told: list[int] = []
        async with opened(video) as source:
            body = FileBody(source, 1000, 5000, bandwidth=BandwidthLimit(0), on_progress=told.append)
            assert body.reached == 1000
            assert await drained(body) == CONTENT[1000:5000]
        assert told == [5000]

    async def test_a_file_that_grows_is_sent_as_far_as_was_promised(self, video: Path) -> None:
        async with opened(video) as source:
            with video.open("ab") as file:
                file.write(b"more")
            body = FileBody(source, 0, len(CONTENT), bandwidth=BandwidthLimit(0), on_progress=lambda _: None)
            assert await drained(body) == CONTENT

    async def test_a_paced_one_comes_in_small_pieces(self, video: Path) -> None:
        async with opened(video) as source:
            body = FileBody(source, 0, len(CONTENT), bandwidth=BandwidthLimit(500_000_000), on_progress=lambda _: None)
            pieces = [piece async for piece in body]
        assert b"".join(pieces) == CONTENT
        assert max(map(len, pieces)) == 64 << 10


class TestAnnotations:
    FINE = b'{"frames": [' + b'{"lat": 37.774929}, ' * 50_000 + b"{}]}"
    COARSE = FINE.replace(b"37.774929", b"37.77").replace(b" ", b"")

    async def test_are_packed_alike_each_time_and_without_places(self, tmp_path: Path) -> None:
        path = tmp_path / "annotations.json"
        path.write_bytes(self.FINE)
        part = part_of(path, PartKind.ANNOTATIONS)
        made = tmp_path / "derived" / "a.gz"
        file = await annotations_file(tmp_path, part, made)
        content = made.read_bytes()
        assert file == PartFile("a.gz", len(content), hashlib.sha256(content).hexdigest(), "gzip")
        assert gzip.decompress(content) == self.COARSE
        assert await annotations_file(tmp_path, part, made) == file
        assert [entry.name for entry in made.parent.iterdir()] == ["a.gz"]

    async def test_can_be_made_unpacked(self, tmp_path: Path) -> None:
        path = tmp_path / "annotations.json"
        path.write_bytes(self.FINE)
        made = tmp_path / "derived" / "a.json"
        file = await annotations_file(tmp_path, part_of(path, PartKind.ANNOTATIONS), made, packed=False)
        assert file == PartFile("a.json", len(self.COARSE), hashlib.sha256(self.COARSE).hexdigest())
        assert made.read_bytes() == self.COARSE

    async def test_that_are_no_json_leave_nothing_behind(self, tmp_path: Path) -> None:
        path = tmp_path / "annotations.json"
        path.write_bytes(b'{"lat": "37.7}')
        with pytest.raises(ScenarioError):
            await annotations_file(tmp_path, part_of(path, PartKind.ANNOTATIONS), tmp_path / "derived" / "a.gz")
        assert list((tmp_path / "derived").iterdir()) == []

    async def test_that_nobody_waits_for_any_more_leave_nothing_behind(self, tmp_path: Path) -> None:
        path = tmp_path / "annotations.json"
        path.write_bytes(self.FINE * 20)
        derived = tmp_path / "derived"
        making = asyncio.create_task(annotations_file(tmp_path, part_of(path, PartKind.ANNOTATIONS), derived / "a.gz"))
        await until(lambda: derived.exists() and any(derived.iterdir()), "the file in the making")
        making.cancel()
        with pytest.raises(asyncio.CancelledError):
            await making
        assert list(derived.iterdir()) == []

    async def test_without_a_place_to_lie_are_the_disks_fault(self, tmp_path: Path) -> None:
        path = tmp_path / "annotations.json"
        path.write_bytes(json.dumps({"frames": []}).encode())
        (tmp_path / "derived").write_bytes(b"no folder")
        with pytest.raises(StoreError, match="cannot be packed on disk"):
            await annotations_file(tmp_path, part_of(path, PartKind.ANNOTATIONS), tmp_path / "derived" / "a.gz")


class TestWhatGoes:
    async def test_is_what_was_made_where_something_was(self, tmp_path: Path, video: Path) -> None:
        derived = tmp_path / "derived"
        derived.mkdir()
        (derived / "made.mp4").write_bytes(b"smaller")
        part = replace(part_of(video), file=PartFile("made.mp4", 7, hashlib.sha256(b"smaller").hexdigest()))
        async with open_what_goes(part, derived) as source:
            assert [piece async for piece in source.pieces(0, 7)] == [b"smaller"]

    @pytest.mark.parametrize("fault", ["gone", "changed", "a link"])
    async def test_what_was_made_must_be_what_it_was(self, tmp_path: Path, video: Path, fault: str) -> None:
        derived = tmp_path / "derived"
        derived.mkdir()
        if fault == "changed":
            (derived / "made.mp4").write_bytes(b"small")
        if fault == "a link":
            (derived / "made.mp4").symlink_to(video)
        part = replace(part_of(video), file=PartFile("made.mp4", 7, "0" * 64))
        with pytest.raises(StoreError, match=r"what was made of bev\.mp4"):
            async with open_what_goes(part, derived):
                raise AssertionError("opened")

    async def test_has_to_be_made_ready_first(self, tmp_path: Path, video: Path) -> None:
        with pytest.raises(ValueError, match="was not made ready"):
            async with open_what_goes(part_of(video), tmp_path):
                raise AssertionError("opened")

    async def test_the_recordings_own_file_never_goes(self, video: Path) -> None:
        part = replace(part_of(video), file=PartFile(None, len(CONTENT), "0" * 64))
        with pytest.raises(ValueError, match="not made ready"):
            async with open_what_goes(part, video.parent):
                raise AssertionError("opened")
