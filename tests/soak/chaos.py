"""All that can happen to a vehicle's processes, for so many minutes, and then a look whether a trip was lost.

`python -m tests.soak.chaos --minutes 5 --seed 1`: real agents record trips and send them through a proxy that cuts
connections, to a real backend that fails on purpose. Round after round one thing goes wrong, drawn by the seed: either
side is killed or stopped for a while, the disk fills, the process runs out of descriptors, memory or file size, the
clock jumps, the state folder is put back from a backup or cloned, two agents race for it. In the end every trip whose
`end_trip()` had returned is at the backend exactly once, as it was returned; those alone excepted that a backup had
put back into the time before them.
"""

import argparse
import asyncio
import contextlib
import ctypes.util
import glob
import json
import os
import secrets
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Awaitable, Callable
from contextlib import AsyncExitStack
from pathlib import Path
from random import Random
from urllib.parse import urlsplit

from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child
from sentinel_sync.demo.witness import Witness
from tests.fakes.fault_proxy import FaultProxy, fault_proxy
from tests.soak.kill_trips import FAULTS, FLEET, Outcome, configure, judge
from tests.soak.vehicle import LOCKED, read_diary

_INSIDE = "SENTINEL_SOAK_NAMESPACE"
#: The vehicle's disk, where one can be mounted, bytes.
_DISK_MIB = 64
#: Seconds for which an agent lives in a round, for which a process is stopped, and for which it is once.
_LIFE, _STOPPED, _STOPPED_LONG = (0.2, 2.5), (0.5, 8.0), 130.0
#: Once in a run of so many minutes.
_LONG_RUN = 5.0
#: Seconds within which the last agent has to send what is left.
_FINISH = 300.0
_LIBFAKETIME = "/usr/lib/*/faketime/libfaketime.so.1"


class Chaos:
    """One run: its processes, and what was tried.

    Args:
        folder: For all of it.
        rng: Decides what happens when.
        has_disk: Whether `folder/disk` is a disk of its own, which can be filled.

    Attributes:
        tried: How often each trouble came.
        not_tried: What this machine cannot do, and why.
    """

    def __init__(self, folder: Path, rng: Random, *, has_disk: bool) -> None:
        self.folder = folder
        self.rng = rng
        self.tried: Counter[str] = Counter()
        self.not_tried: dict[str, str] = {}
        self.outcome = Outcome()
        self._disk = folder / "disk"
        self._diary = folder / "diary.jsonl"
        self._clock = folder / "clock"
        self._key = secrets.token_urlsafe(16)
        self._backup_at: int | None = None
        self._excused: set[str] = set()
        self._is_long_due = False
        self._troubles: dict[str, Callable[[], Awaitable[None]]] = {
            "the agent was killed": self._live,
            "the backend was killed": self._backend_killed,
            "the agent was stopped for a while": self._agent_stopped,
            "the backend was stopped for a while": self._backend_stopped,
            "connections were cut": self._cut,
            "few file descriptors": lambda: self._limited("NOFILE", self.rng.randint(16, 64)),
            "little memory": lambda: self._limited("AS", self.rng.randint(0, 96) << 20),
            "small files only": lambda: self._limited("FSIZE", self.rng.randint(0, 2 << 20)),
            "the disk was full": self._full,
            "the clock jumped": self._clock_jumped,
            "the state folder was put back from a backup": self._restored,
            "the state folder was cloned": self._cloned,
            "two agents raced for the state folder": self._raced,
        }
        if not has_disk:
            self.not_tried["the disk was full"] = "no disk can be mounted here"
        libraries = glob.glob(_LIBFAKETIME)  # noqa: PTH207 - a pattern from the root
        self._libfaketime = libraries[0] if libraries else ctypes.util.find_library("faketime")
        if self._libfaketime is None:
            self.not_tried["the clock jumped"] = "libfaketime is not installed"

    async def run(self, minutes: float, *, least: int = 0) -> None:
        """Round after round, so many at least, then the end and the verdict."""
        began = time.monotonic()
        self._is_long_due = minutes >= _LONG_RUN
        self._disk.mkdir(exist_ok=True)
        self._clock.write_text("+0\n")
        async with AsyncExitStack() as stack:
            self._backend = await self._start_backend(0)
            stack.push_async_callback(self._end_backend)
            self._port = urlsplit(self._url).port or 0
            self._proxy: FaultProxy = await stack.enter_async_context(fault_proxy(self._url))
            self._config = configure(self.folder, self._proxy.url, self._key, state=self._disk / "state")
            self._vehicle, self._other = [await self._start_vehicle(name) for name in ("vehicle", "other")]
            for child in (self._vehicle, self._other):
                stack.push_async_callback(child.kill)
            names = [name for name in self._troubles if name not in self.not_tried]
            while time.monotonic() - began < minutes * 60.0 or self.tried.total() < least:
                name = self.rng.choice(names)
                self.tried[name] += 1
                await self._troubles[name]()
            await self._end(stack)
        self.outcome.seconds = time.monotonic() - began

    async def _end(self, stack: AsyncExitStack) -> None:
        self._clock.write_text("+0\n")
        witness = await stack.enter_async_context(Witness(self._url, self._key, FLEET))
        await witness.end_faults()
        await self._finish(self._config)
        arrived = await witness.trips()
        times = () if "the clock jumped" in self.not_tried else ("start_time", "end_time")
        judge(arrived, read_diary(self._diary), self.outcome, excused=self._excused, corrected=times)
        self.outcome.repeats = await witness.count("repeats")

    async def _start_backend(self, port: int) -> Child:
        child = await Child.start(
            "sentinel_sync.demo.cloud",
            str(self.folder / "backend"),
            str(port),
            json.dumps(FAULTS),
            name="the backend",
            log=self.folder / "backend.log",
            environment={KEY_VARIABLE: self._key},
        )
        self._url = (await child.expect("ready"))["url"]
        return child

    async def _end_backend(self) -> None:
        await self._backend.kill()

    async def _start_vehicle(self, name: str) -> Child:
        faked = {
            "LD_PRELOAD": self._libfaketime or "",
            "FAKETIME_TIMESTAMP_FILE": str(self._clock),
            "FAKETIME_NO_CACHE": "1",
            "FAKETIME_DONT_FAKE_MONOTONIC": "1",
        }
        return await Child.start(
            "tests.soak.vehicle",
            str(self._config),
            str(self._diary),
            name=f"the {name}",
            log=self.folder / "vehicle.log",
            environment=faked if self._libfaketime else {},
        )

    # --- one life of an agent ---

    async def _live(
        self, during: Callable[[int], Awaitable[None]] | None = None, *, may_end: bool = False, **order: object
    ) -> None:
        """Let an agent live for a while, do something to it, and kill it."""
        process = await self._fork(self._vehicle, order)
        life = self.rng.uniform(*_LIFE)
        try:
            await asyncio.sleep(life / 2)
            if during is not None:
                await during(process)
            await asyncio.sleep(life / 2)
        finally:
            await self._kill(self._vehicle, process, may_end=may_end)

    async def _fork(self, vehicle: Child, order: dict[str, object]) -> int:
        self.outcome.kills += 1
        await vehicle.tell({"seed": str(self.rng.random()), "life": 900.0, **order})
        process: int = (await vehicle.expect("forked"))["process_id"]
        return process

    async def _kill(self, vehicle: Child, process: int, *, may_end: bool = False) -> int:
        with contextlib.suppress(ProcessLookupError):
            os.kill(process, signal.SIGKILL)
        code: int = (await vehicle.expect("ended"))["code"]
        if code != -signal.SIGKILL and not may_end:
            self.outcome.problems.append(f"an agent ended by itself with {code}, in {self.tried}")
        return code

    async def _finish(self, config: Path) -> None:
        await self._vehicle.tell({"finish": _FINISH, "config": str(config)})
        if (code := (await self._vehicle.expect("ended", within=_FINISH + 60.0))["code"]) != 0:
            self.outcome.problems.append(f"the last agent on {config.name} ended with {code}")

    # --- what goes wrong ---

    async def _backend_killed(self) -> None:
        async def kill(_: int) -> None:
            await self._backend.kill()
            await asyncio.sleep(self.rng.uniform(0.0, 1.0))
            self._backend = await self._start_backend(self._port)

        await self._live(kill)

    async def _agent_stopped(self) -> None:
        await self._live(self._stop)

    async def _backend_stopped(self) -> None:
        await self._live(lambda _: self._stop(self._backend.process_id))

    async def _stop(self, process: int) -> None:
        seconds = self.rng.uniform(*_STOPPED)
        if self._is_long_due:
            seconds, self._is_long_due = _STOPPED_LONG, False
        os.kill(process, signal.SIGSTOP)
        try:
            await asyncio.sleep(seconds)
        finally:
            os.kill(process, signal.SIGCONT)

    async def _cut(self) -> None:
        self._proxy.cuts.extend(self.rng.randint(0, 4000) for _ in range(20))
        await self._live()
        self._proxy.cuts.clear()

    async def _limited(self, limit: str, least: int) -> None:
        await self._live(may_end=True, limit=[limit, least])

    async def _full(self) -> None:
        ballast = self._disk / "ballast"

        async def fill(_: int) -> None:
            await asyncio.to_thread(_fill, ballast)
            await asyncio.sleep(self.rng.uniform(0.1, 2.0))
            if self.rng.random() < 0.5:
                ballast.unlink()

        await self._live(fill)
        if ballast.exists() and self.rng.random() < 0.5:
            # One that starts on a full disk; it may say so and end.
            await self._live(may_end=True)
        ballast.unlink(missing_ok=True)

    async def _clock_jumped(self) -> None:
        async def jump(_: int) -> None:
            seconds = self.rng.choice([0.0, self.rng.uniform(-9e4, 9e4), -4e8])
            self._clock.write_text(f"{seconds:+.0f}\n")

        await self._live(jump)

    async def _restored(self) -> None:
        """Every other time a backup is made; then it is put back."""
        state, backup = self._disk / "state", self.folder / "backup"
        if not state.exists():
            return
        if self._backup_at is None:
            shutil.rmtree(backup, ignore_errors=True)
            shutil.copytree(state, backup)
            self._backup_at = len(read_diary(self._diary))
            return
        since = read_diary(self._diary)[self._backup_at :]
        self._excused |= {str(line.get("started") or line.get("ended")) for line in since} - {"None"}
        self._backup_at = None
        shutil.rmtree(state)
        shutil.copytree(backup, state)
        await self._live()

    async def _cloned(self) -> None:
        state, clone = self._disk / "state", self._disk / "clone"
        if not state.exists():
            return
        shutil.copytree(state, clone)
        config = configure(self.folder, self._proxy.url, self._key, state=clone, name="clone.yaml")
        process = await self._fork(self._other, {"config": str(config)})
        await self._live()
        await self._kill(self._other, process)
        await self._finish(config)
        shutil.rmtree(clone)

    async def _raced(self) -> None:
        processes = [await self._fork(vehicle, {}) for vehicle in (self._vehicle, self._other)]
        await asyncio.sleep(self.rng.uniform(1.0, 2.5))
        codes = [
            await self._kill(vehicle, process, may_end=True)
            for vehicle, process in zip((self._vehicle, self._other), processes, strict=True)
        ]
        if sorted(codes) not in ([-signal.SIGKILL, LOCKED], [-signal.SIGKILL, -signal.SIGKILL]):
            self.outcome.problems.append(f"two agents raced for a folder, and ended with {codes}")


def _fill(ballast: Path) -> None:
    with contextlib.suppress(OSError), ballast.open("wb", buffering=0) as file:
        for size in (1 << 20, 4096, 1):
            with contextlib.suppress(OSError):
                while file.write(b"\0" * size):
                    continue


def _as_text(chaos: Chaos) -> list[str]:
    outcome = chaos.outcome
    return [
        f"{outcome.seconds:.0f} s, {outcome.kills} agents",
        *(f"  {number:4} × {name}" for name, number in sorted(chaos.tried.items(), key=lambda it: -it[1])),
        *(f"  not tried: {name}: {why}" for name, why in chaos.not_tried.items()),
        f"  recorded  {outcome.started:,} trips, {outcome.ended:,} of them ended and acknowledged",
        f"  backend   {outcome.arrived:,} trips, {outcome.interrupted:,} interrupted; {outcome.repeats:,} sent again",
        *(f"  PROBLEM   {problem}" for problem in outcome.problems[:20]),
        f"{len(outcome.problems)} problems" if outcome.problems else "lost: nothing; twice: nothing",
    ]


def _may_mount() -> bool:
    """Whether a disk can be mounted; begins anew in a namespace where that is allowed, if there is none yet."""
    unshare = shutil.which("unshare")
    is_inside = os.environ.get(_INSIDE) == "1"
    if unshare and not is_inside and not subprocess.run([unshare, "-rm", "true"], check=False).returncode:
        os.environ[_INSIDE] = "1"
        os.execv(unshare, [unshare, "-rm", sys.executable, "-m", "tests.soak.chaos", *sys.argv[1:]])
    return is_inside


def main() -> int:
    """Parse the command line, run, and print what was tried and what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--minutes", type=float, default=5.0)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    arguments = parser.parse_args()
    has_disk = _may_mount()
    with tempfile.TemporaryDirectory(prefix="sentinel-soak-") as temporary:
        folder = arguments.keep or Path(temporary)
        (disk := folder / "disk").mkdir(parents=True, exist_ok=True)
        if has_disk:
            subprocess.run(["mount", "-t", "tmpfs", "-o", f"size={_DISK_MIB}m", "tmpfs", str(disk)], check=True)
        try:
            chaos = Chaos(folder, Random(arguments.seed), has_disk=has_disk)
            asyncio.run(chaos.run(arguments.minutes))
        finally:
            if has_disk:
                subprocess.run(["umount", "--lazy", str(disk)], check=True)
        sys.stdout.write("\n".join(_as_text(chaos)) + "\n")
        if chaos.outcome.problems and arguments.keep is None:
            log = (folder / "vehicle.log").read_text(encoding="utf-8", errors="replace").splitlines()
            sys.stdout.write("\n".join(["the end of the agents' log:", *log[-40:]]) + "\n")
    return 1 if chaos.outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
