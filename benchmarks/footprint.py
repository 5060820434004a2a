"""What the agent costs while nothing happens: processor time, memory, and the import."""

import asyncio
import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from statistics import median

from benchmarks.report import Figure, spread
from benchmarks.server import backend

ROUNDS = 5
IDLE_SECONDS = 60.0
SETTLING_SECONDS = 65.0  # what a start looks at again once it has settled is no idling

_AGENT = """
import asyncio, sys
from sentinel_sync import Settings, SyncAgent
async def main():
    settings = Settings.load(None, enabled=True, api_url=sys.argv[1], api_key="benchmark", state_dir=sys.argv[2])
    async with SyncAgent(settings):
        print("ready", flush=True)
        await asyncio.Event().wait()
asyncio.run(main())
"""


async def measure() -> list[Figure]:
    imports = [_import_time() for _ in range(ROUNDS)]
    share, resident, wake_ups = await asyncio.to_thread(_idle)
    return [
        Figure("import sentinel_sync", median(imports), "s", 0.35, at_least=False, how=f"{spread(imports, 1e3)} ms"),
        Figure(
            "idle, online: share of one core",
            share * 100,
            "%",
            0.2,
            at_least=False,
            how=f"user + system time over {IDLE_SECONDS:.0f} s",
        ),
        Figure(
            "idle, online: wake-ups a second",
            wake_ups,
            "",
            2.0,
            at_least=False,
            how="voluntary context switches of all threads over the same time, a probe each 30 s among them",
        ),
        Figure("idle, online: resident memory", resident / 1e6, "MB", 60.0, at_least=False, how="VmRSS of the process"),
    ]


def _import_time() -> float:
    """Seconds that the import adds to a bare interpreter."""
    code = "import time; began = time.perf_counter(); import sentinel_sync; print(time.perf_counter() - began)"
    return float(subprocess.run([sys.executable, "-c", code], check=True, capture_output=True, text=True).stdout)


def _idle() -> tuple[float, int, float]:
    with tempfile.TemporaryDirectory() as folder, backend() as url:
        for name in ("profiles", "scenarios"):
            (Path(folder) / name).mkdir()
        process = subprocess.Popen(
            [sys.executable, "-c", _AGENT, url, folder],
            stdout=subprocess.PIPE,
            text=True,
            cwd=folder,
            env={**os.environ, "SENTINEL_CLOUD__TRIP_QUEUE_FILE": f"{folder}/none.json"},
        )
        assert process.stdout is not None
        try:
            process.stdout.readline()
            time.sleep(SETTLING_SECONDS)
            before, switches_before = cpu_seconds(process.pid), context_switches(process.pid)
            time.sleep(IDLE_SECONDS)
            share = (cpu_seconds(process.pid) - before) / IDLE_SECONDS
            wake_ups = (context_switches(process.pid) - switches_before) / IDLE_SECONDS
            resident = resident_bytes(process.pid)
        finally:
            process.terminate()
            process.wait()
            process.stdout.close()
    return share, resident, wake_ups


def cpu_seconds(pid: int) -> float:
    fields = Path(f"/proc/{pid}/stat").read_text(encoding="ascii").rpartition(")")[2].split()
    return (int(fields[11]) + int(fields[12])) / os.sysconf("SC_CLK_TCK")


def context_switches(pid: int) -> int:
    """Voluntary ones, of all threads: each is followed by a wake-up."""
    statuses = [path.read_text(encoding="ascii") for path in Path(f"/proc/{pid}/task").glob("*/status")]
    return sum(int(text.partition("\nvoluntary_ctxt_switches:")[2].split()[0]) for text in statuses)


def resident_bytes(pid: int) -> int:
    for line in Path(f"/proc/{pid}/status").read_text(encoding="ascii").splitlines():
        if line.startswith("VmRSS:"):
            return int(line.split()[1]) * 1024
    raise RuntimeError("the kernel does not tell the resident memory")
