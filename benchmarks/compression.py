"""What compressing recordings saves at the default settings, and what it costs in time."""

import asyncio
import json
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, spread
from sentinel_sync.base.clock import SystemClock
from sentinel_sync.scenarios.preparation import annotations_file
from sentinel_sync.scenarios.rules.plan import Part, PartKind
from sentinel_sync.scenarios.transcoder import MadeVideo, Transcoder
from sentinel_sync.settings import CloudSettings

RECORDINGS = Path(__file__).parents[1] / "tests" / "fixtures" / "scenarios"
ROUNDS = 3


def _ignore(_share: float) -> None:
    """Nobody watches."""


async def measure() -> list[Figure]:
    videos = sorted(RECORDINGS.glob("*/*.mp4"))
    recorded = sum(path.stat().st_size for path in RECORDINGS.glob("*/*"))
    transcoder = Transcoder(CloudSettings(), SystemClock())
    paces: list[float] = []
    sent = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            sent, taken, lasts = await _without_videos(Path(folder) / "derived.json"), 0.0, 0.0
            for video in videos:
                size, seconds = await _compress(transcoder, video, Path(folder) / "derived.mp4")
                sent += size
                taken += seconds
                lasts += _seconds(video)
            paces.append(taken / lasts)
    return [
        Figure(
            "scenarios: bytes to send / bytes recorded",
            sent / recorded,
            "×",
            0.5,
            at_least=False,
            how=f"{sent:,} of {recorded:,} bytes: {len(videos)} videos as H.264 at quality 23, annotations as gzip",
        ),
        Figure(
            "compressing: seconds for a second of video",
            median(paces),
            "s",
            None,
            at_least=False,
            how=f"{spread(paces)} s at the lowest priority, both looks and the start of ffmpeg included",
        ),
    ]


async def _without_videos(target: Path) -> int:
    """Bytes that go for the metadata, as they were recorded, and for the annotations, packed."""
    sent = sum(path.stat().st_size for path in RECORDINGS.glob("*/metadata.json"))
    for path in RECORDINGS.glob("*/annotations.json"):
        status = path.stat()
        part = Part(PartKind.ANNOTATIONS, path.name, status.st_size, status.st_mtime_ns)
        sent += (await annotations_file(path.parent, part, target)).size_bytes
    return sent


async def _compress(transcoder: Transcoder, video: Path, target: Path) -> tuple[int, float]:
    """Bytes that go for a video, and the seconds that making them took."""
    size = await asyncio.to_thread(_size, video)
    with video.open("rb") as source:
        began = time.perf_counter()
        result = await transcoder.compress(source, size, target, _ignore)
        taken = time.perf_counter() - began
    return (result.size_bytes if isinstance(result, MadeVideo) else size), taken


def _size(video: Path) -> int:
    return video.stat().st_size


def _seconds(video: Path) -> float:
    """How long a video is, as its recorder says."""
    return float(json.loads(video.with_name("metadata.json").read_text(encoding="utf-8"))["duration"])
