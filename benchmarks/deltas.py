"""Deltas of a 50 MB float32 model: how small, how soon applied, in how much memory, and what the host's loop feels."""

import asyncio
import hashlib
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from statistics import median
from threading import Event

from benchmarks.report import Figure, percentile, spread
from benchmarks.sleeper import bare_naps, sleeper
from sentinel_sync.backend.deltas import make_delta
from sentinel_sync.cloud.download import Target
from sentinel_sync.models.delta_file import apply_delta
from tests.fakes.weights import all_moved, some_tensors_replaced, weights

WEIGHTS = 12_500_000
TENSORS, REPLACED = 200, 2
ROUNDS = 5
#: Applied so often while a task sleeps: some thousand naps, so that their 99.9th percentile is one.
REPEATS = 10
#: The limit that this machine sets: a bare loop, measured so long beside each case.
QUIET_SECONDS = 3.0
FIFTY = 50e6

_APPLY = """
import sys
from pathlib import Path
from threading import Event
from sentinel_sync.cloud.download import Target
from sentinel_sync.models.delta_file import apply_delta

def said(key):
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) * 1024 for line in lines if line.startswith(key))

delta, old, result = map(Path, sys.argv[1:4])
before = said("VmRSS:")
apply_delta(delta, old, result, Target(result, int(sys.argv[4]), sys.argv[5]), Event())
print(said("VmHWM:") - before)
"""


@dataclass(frozen=True, slots=True)
class Case:
    """A new model, the delta to it, and how long that took to make."""

    delta: Path
    old: Path
    target: Target
    made_in: float

    @property
    def share(self) -> float:
        """Of the full bytes."""
        return self.delta.stat().st_size / self.target.size

    def apply(self) -> float:
        """Seconds that it takes, with the hash and the fsync."""
        began = time.perf_counter()
        apply_delta(self.delta, self.old, self.target.staging, self.target, Event())
        return time.perf_counter() - began


async def measure() -> list[Figure]:
    with tempfile.TemporaryDirectory(dir=Path.cwd(), prefix=".bench-") as folder:
        cases = await asyncio.to_thread(_cases, Path(folder))
        return [figure for name, case, bar in cases for figure in await _figures(name, case, bar)]


def _cases(folder: Path) -> list[tuple[str, Case, float]]:
    old = weights(WEIGHTS, 1)
    (folder / "old").write_bytes(old)
    return [
        (
            f"{REPLACED} of {TENSORS} tensors replaced",
            _case(folder / "replaced", lambda: some_tensors_replaced(old, TENSORS, REPLACED, 2)),
            0.02,
        ),
        ("every weight × (1 + 1e-4 noise)", _case(folder / "moved", lambda: all_moved(old, 3)), 0.5),
    ]


def _case(path: Path, new: Callable[[], bytes]) -> Case:
    content, old, delta = new(), path.with_name("old"), path.with_suffix(".delta")
    path.write_bytes(content)
    began = time.perf_counter()
    make_delta(old, path, delta, Event())
    made_in = time.perf_counter() - began
    target = Target(path.with_suffix(".result"), len(content), hashlib.sha256(content).hexdigest())
    return Case(delta, old, target, made_in)


async def _figures(name: str, case: Case, bar: float) -> list[Figure]:
    seconds = [await asyncio.to_thread(case.apply) * FIFTY / case.target.size for _ in range(ROUNDS)]
    grown = await asyncio.to_thread(_growth, case)
    quiet = await bare_naps(QUIET_SECONDS)
    lateness = await _lateness(case)
    size = f"{case.delta.stat().st_size:,} of {case.target.size:,} bytes, made in {case.made_in:.2f} s"
    naps = (
        f"{len(lateness):,} naps of 1 ms, worst {max(lateness) * 1e3:.1f} ms; "
        f"a bare loop: {percentile(quiet, 0.999) * 1e3:.1f} ms, worst {max(quiet) * 1e3:.1f} ms"
    )
    return [
        Figure(f"delta, {name}: of the full bytes", case.share, "×", bar, at_least=False, how=size),
        Figure(
            f"delta, {name}: applied, per 50 MB", median(seconds), "s", 1.0, at_least=False, how=f"{spread(seconds)} s"
        ),
        Figure(
            f"delta, {name}: memory to apply",
            grown / 1e6,
            "MB",
            20.0,
            at_least=False,
            how="the peak of a fresh process, with the library",
        ),
        Figure(
            f"delta, {name}: stall at the 99.9th percentile while applying",
            percentile(lateness, 0.999) * 1e3,
            "ms",
            10.0,
            at_least=False,
            how=naps,
        ),
    ]


def _growth(case: Case) -> int:
    """Bytes by which a fresh process is larger at its largest while it applies."""
    target = case.target
    words = map(str, (case.delta, case.old, target.staging, target.size, target.checksum))
    run = subprocess.run([sys.executable, "-c", _APPLY, *words], check=True, capture_output=True, text=True)
    return int(run.stdout)


async def _lateness(case: Case) -> list[float]:
    lateness: list[float] = []
    stop = asyncio.Event()
    task = asyncio.create_task(sleeper(lateness, stop))
    for _ in range(REPEATS):
        await asyncio.to_thread(case.apply)
    stop.set()
    await task
    return lateness
