"""A delta leads to just the signed file, or to nothing: whatever it holds, and whoever made it."""

import errno
import hashlib
import struct
import tracemalloc
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random
from threading import Event
from types import ModuleType

import pytest
from backports import zstd

from sentinel_sync.backend.deltas import make_delta
from sentinel_sync.base.errors import StoreFullError, VerificationError
from sentinel_sync.cloud.download import Target
from sentinel_sync.models import delta_file
from sentinel_sync.models.delta_file import apply_delta
from sentinel_sync.models.rules.delta import HEADER, MAGIC, MAX_BLOCK, Method, restored
from tests.fakes.weights import all_moved, some_tensors_replaced, weights

OLD = weights(500_000, 1)


@dataclass(frozen=True)
class Bench:
    """Two files and what lies between them."""

    folder: Path

    def make(self, new: bytes, old: bytes = OLD) -> Target:
        """Have the backend make the delta to `new`; the target is told what was signed."""
        (self.folder / "old").write_bytes(old)
        (self.folder / "new").write_bytes(new)
        make_delta(self.folder / "old", self.folder / "new", self.folder / "delta", Event())
        return self.target(new)

    def write(self, content: bytes) -> None:
        """Put a delta of the test's own making there."""
        (self.folder / "old").write_bytes(OLD)
        (self.folder / "delta").write_bytes(content)

    def target(self, new: bytes) -> Target:
        return Target(self.folder / "unused", len(new), hashlib.sha256(new).hexdigest())

    def apply(self, target: Target, stop: Event | None = None) -> bytes:
        result = self.folder / "result"
        apply_delta(self.folder / "delta", self.folder / "old", result, target, stop or Event())
        return result.read_bytes()

    def refuses(self, target: Target, match: str | None = None) -> None:
        with pytest.raises(VerificationError, match=match):
            self.apply(target)
        assert not (self.folder / "result").exists()


@pytest.fixture
def bench(tmp_path: Path) -> Bench:
    return Bench(tmp_path)


def block(content: bytes, *, method: int = 1, width: int = 0, length: int | None = None, source: int = 0) -> bytes:
    """A record that holds `content` in a frame, or whatever a test says that it holds."""
    frame = zstd.compress(content)
    return HEADER.pack(method, width, 0, len(frame), len(content) if length is None else length, source, 0) + frame


@pytest.mark.parametrize(
    ("change", "share"),
    [
        (lambda old: some_tensors_replaced(old, 100, 1, 7), 0.02),
        (lambda old: all_moved(old, 7), 0.4),
        (lambda old: all_moved(old, 7, by=1e-3), 0.5),
        # Elements that lie across: what is there once is taken for a part of its neighbour.
        (lambda old: old[:1] + all_moved(old[1:-3], 7) + old[-3:], 0.45),
        (lambda old: b"a longer header" * 100 + old, 0.01),
        # The block with the new header has no difference to take, and in a file of four blocks that is a lot.
        (lambda old: b"a longer header" * 100 + all_moved(old, 7), 0.6),
        # Nor does zstd find both halves of the block with the seam.
        (lambda old: old[1_200_000:] + old[:1_200_000], 0.3),
        (lambda old: old[:700_001], 0.01),
        (lambda old: old[:1_000_000] + b"\0" * 70_000 + old[1_100_000:] + weights(1000, 3), 0.02),
        (lambda old: old, 0.001),
    ],
    ids=[
        "tensors",
        "all moved",
        "moved further",
        "moved across",
        "inserted",
        "both",
        "swapped",
        "shorter",
        "mixed",
        "same",
    ],
)
def test_it_leads_to_the_new_file(bench: Bench, change: Callable[[bytes], bytes], share: float) -> None:
    new = change(OLD)
    target = bench.make(new)
    assert (bench.folder / "delta").stat().st_size <= share * len(new)
    assert bench.apply(target) == new


def test_another_old_file_or_another_target_comes_to_nothing(bench: Bench) -> None:
    new = some_tensors_replaced(OLD, 100, 1, 7)
    target = bench.make(new)
    bench.refuses(Target(target.staging, target.size, "0" * 64), "not what was signed")
    bench.refuses(Target(target.staging, target.size + 1, target.checksum), "not what was signed")
    bench.refuses(Target(target.staging, target.size - 1, target.checksum), "more than may be made")
    (bench.folder / "old").write_bytes(weights(500_000, 2))
    bench.refuses(target)


def test_damage_anywhere_is_seen(bench: Bench) -> None:
    new = all_moved(weights(20_000, 1), 7)
    target = bench.make(new, weights(20_000, 1))
    sound, rng = (bench.folder / "delta").read_bytes(), Random(1)
    places = [*range(len(MAGIC) + HEADER.size + 8), *(rng.randrange(len(sound)) for _ in range(200))]
    for place in places:
        damaged = bytearray(sound)
        damaged[place] ^= 1 << rng.randrange(8)
        (bench.folder / "delta").write_bytes(damaged)
        bench.refuses(target)
    for length in (0, 5, len(MAGIC), len(MAGIC) + 3, len(sound) // 2, len(sound) - 1):
        (bench.folder / "delta").write_bytes(sound[:length])
        bench.refuses(target)
    (bench.folder / "delta").write_bytes(sound + sound[len(MAGIC) :])
    bench.refuses(target, "more than may be made")


def test_a_frame_that_unpacks_to_a_giant_takes_no_more_memory_than_a_block(bench: Bench) -> None:
    length = 100_000
    bomb = block(bytes(200 << 20), length=length)
    bench.write(MAGIC + bomb)
    tracemalloc.start()
    try:
        bench.refuses(bench.target(bytes(length)), "something else than it says")
        _, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert peak < 4 * MAX_BLOCK


def test_a_window_that_wants_a_giants_memory_is_refused(bench: Bench) -> None:
    options: dict[int, int] = {zstd.CompressionParameter.window_log: 27, zstd.CompressionParameter.content_size_flag: 0}
    frame = zstd.ZstdCompressor(options=options).compress(b"x" * 1000, zstd.ZstdCompressor.FLUSH_BLOCK)
    bench.write(MAGIC + HEADER.pack(1, 0, 0, len(frame), 1000, 0, 0) + frame)
    bench.refuses(bench.target(b"x" * 1000), "cannot be unpacked")


@pytest.mark.parametrize(
    "content",
    [
        b"SSDELTA2" + block(b"x" * 1000),
        MAGIC,
        MAGIC + block(b"x" * 999, length=1000),
        MAGIC + block(b"x" * 1001, length=1000),
        MAGIC + HEADER.pack(1, 0, 0, 9, 1000, 0, 0) + b"no zstd! ",
        MAGIC + block(b"x" * 1000, method=2, width=4, source=999),
    ],
)
def test_what_is_no_delta_is_refused(bench: Bench, content: bytes) -> None:
    bench.write(content)
    bench.refuses(bench.target(b"x" * 1000))


def test_bytes_after_a_frame_are_no_part_of_it(bench: Bench) -> None:
    frame = zstd.compress(b"x" * 1000) + b"and more"
    bench.write(MAGIC + HEADER.pack(1, 0, 0, len(frame), 1000, 0, 0) + frame)
    bench.refuses(bench.target(b"x" * 1000), "something else than it says")


def test_it_stops_when_nobody_waits_any_more(bench: Bench) -> None:
    target = bench.make(all_moved(OLD, 7))
    stop = Event()
    stop.set()
    with pytest.raises(VerificationError, match="called off"):
        bench.apply(target, stop)
    assert not (bench.folder / "result").exists()


def test_a_link_in_the_results_place_is_not_followed(bench: Bench) -> None:
    victim = bench.folder / "victim"
    victim.write_bytes(b"precious")
    target = bench.make(all_moved(OLD, 7))
    (bench.folder / "result").symlink_to(victim)
    bench.apply(target)
    assert victim.read_bytes() == b"precious"
    assert not (bench.folder / "result").is_symlink()


@pytest.mark.parametrize(
    ("fault", "becomes"),
    [(OSError(errno.ENOSPC, "No space left on device"), StoreFullError), (MemoryError(), VerificationError)],
)
def test_a_machine_at_its_end_leaves_nothing(
    bench: Bench, monkeypatch: pytest.MonkeyPatch, fault: BaseException, becomes: type[Exception]
) -> None:
    target = bench.make(all_moved(OLD, 7))

    def fail(method: Method, planes: bytes, width: int, source: bytes) -> bytes:
        if (bench.folder / "result").stat().st_size:
            raise fault
        return restored(method, planes, width, source)

    monkeypatch.setattr("sentinel_sync.models.delta_file.restored", fail)
    with pytest.raises(becomes):
        bench.apply(target)
    assert not (bench.folder / "result").exists()


def test_without_the_library_it_says_what_to_install(monkeypatch: pytest.MonkeyPatch) -> None:
    def missing(name: str) -> ModuleType:
        raise ModuleNotFoundError(name)

    monkeypatch.setattr(delta_file, "import_module", missing)
    with pytest.raises(VerificationError, match=r"sentinel-sync\[delta\]"):
        delta_file.load_zstd()


def test_the_format_is_as_documented() -> None:
    text = (Path(__file__).parents[2] / "docs" / "deltas.md").read_text(encoding="utf-8")
    assert f"`{MAGIC.decode()}`" in text
    assert struct.calcsize(HEADER.format) == 24
    assert "24 bytes" in text
