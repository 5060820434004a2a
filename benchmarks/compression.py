"""What compressing recordings saves at the default settings, and what it costs in time."""

import json
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, spread
from sentinel_sync.adapters.scenarios.transcoder import Compressed, Transcoder
from sentinel_sync.clock import SystemClock
from sentinel_sync.settings import CloudSettings

RECORDINGS = Path(__file__).parents[1] / "tests" / "fixtures" / "scenarios"
ROUNDS = 3


def _ignore(_share: float) -> None:
    """Nobody watches."""


async def measure() -> list[Figure]:
    videos = sorted(RECORDINGS.glob("*/*.mp4"))
    recorded = sum(video.stat().st_size for video in videos)
    transcoder = Transcoder(CloudSettings(), SystemClock())
    paces: list[float] = []
    sent = 0
    with tempfile.TemporaryDirectory() as folder:
        for _ in range(ROUNDS):
            sent, taken, lasts = 0, 0.0, 0.0
            for video in videos:
                size, seconds = await _compress(transcoder, video, Path(folder) / "derived.mp4")
                sent += size
                taken += seconds
                lasts += _seconds(video)
            paces.append(taken / lasts)
    return [
        Figure(
            "videos: bytes to send / bytes recorded",
            sent / recorded,
            "×",
            None,
            at_least=False,
            how=f"{sent:,} of {recorded:,} bytes, {len(videos)} videos, H.264 at quality 23",
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


async def _compress(transcoder: Transcoder, video: Path, target: Path) -> tuple[int, float]:
    """Bytes that go for a video, and the seconds that making them took."""
    size = video.stat().st_size
    with video.open("rb") as source:
        began = time.perf_counter()
        result = await transcoder.compress(source, size, target, _ignore)
        taken = time.perf_counter() - began
    return (result.size_bytes if isinstance(result, Compressed) else size), taken


def _seconds(video: Path) -> float:
    """How long a video is, as its recorder says."""
    return float(json.loads(video.with_name("metadata.json").read_text(encoding="utf-8"))["duration"])
