"""Kill an agent in every step of an upload, and see that each recording arrives whole, and once.

`python -m tests.soak.kill_scenarios --kills 100 --seed 1`: an agent process watches a folder of recordings, compresses
and uploads them to the reference backend, a process too, which loses answers after doing the work and cuts connections.
The agent is killed with SIGKILL while it compresses, announces, creates an upload, sends at a random offset, between
parts, and when an answer is on its way; then it is started again. In the end the backend has every recording whole and
once, and no step that was done for good was done again. What arrived is fetched back and decoded; annotations have the
hash that they have on disk.

It is done twice: compressed over resumable uploads, and copied over multipart.
"""

import argparse
import asyncio
import contextlib
import hashlib
import json
import os
import secrets
import shutil
import signal
import sqlite3
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from functools import cache
from pathlib import Path
from random import Random
from typing import Any

import httpx

from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child
from sentinel_sync.store.store import DATABASE_NAME
from tests.fakes.processes import marked_by
from tests.soak.snare import Snare, Trap

FIXTURES = Path(__file__).parents[1] / "fixtures" / "scenarios"
VEHICLE = "soak_vehicle"
#: Of the four, so that a run takes half the time.
CAMERAS = {"interior": "interior.mp4", "bev": "bev.mp4"}
#: Which requests fail, and how. `lose` does the work and then cuts the connection instead of answering.
FAULTS: list[dict[str, object]] = [
    {"kind": "lose", "method": "POST", "path": "/scenarios", "fraction": 0.05},
    {"kind": "lose", "method": "PATCH", "path": "/scenarios", "fraction": 0.05},
    {"kind": "drop", "path": "/scenarios", "fraction": 0.02},
    {"kind": "status", "path": "/scenarios", "fraction": 0.02, "status": 503},
]
#: A backend that has no resumable uploads.
NO_RESUMABLE: dict[str, object] = {"kind": "status", "method": "OPTIONS", "path": "/scenarios", "status": 404}
#: Seconds in which ffmpeg is seen, where an agent says that it compresses.
SEEN_WITHIN = 0.5
#: Seconds that the kernel may take to end the ffmpeg of an agent that was killed.
GONE_WITHIN = 5.0
#: Seconds after which an agent is killed that did not come to the point that was chosen.
AT_LATEST = 8.0
#: A further recording is added so often, kills.
RECORDING_EVERY = 10


@dataclass(frozen=True, slots=True)
class Point:
    """Where to kill.

    Attributes:
        phase: Of which an agent tells, where that is the point.
        trap: What the wire lies in wait for, where that is.
    """

    name: str
    phase: str | None = None
    trap: Trap | None = None


@dataclass(frozen=True, slots=True)
class Way:
    """How recordings go.

    Attributes:
        points: One of each kind, with an offset at random.
        compresses: Whether videos are made small before.
        faults: By which the backend is what it is to be.
    """

    name: str
    points: Callable[[Random], list[Point]]
    compresses: bool
    faults: tuple[dict[str, object], ...] = ()


def resumable_points(rng: Random) -> list[Point]:
    """Where a compressing agent with a resumable backend can be killed."""
    return [
        Point("announcing", trap=Trap(b"POST /scenarios HTTP", "request")),
        Point("announced, answer lost", trap=Trap(b"POST /scenarios HTTP", "answer")),
        Point("compressing", phase="compressing"),
        Point("creating", trap=Trap(b"/videos HTTP", "request", skip=1)),
        Point("created, answer lost", trap=Trap(b"/videos HTTP", "answer", skip=1)),
        Point("patching", trap=Trap(b"PATCH /", "body", after_bytes=rng.randint(1, 60_000))),
        Point("patching further", trap=Trap(b"PATCH /", "body", after_bytes=rng.randint(1, 200_000))),
        Point("patched, answer lost", trap=Trap(b"PATCH /", "answer")),
        Point("between parts", trap=Trap(b"OPTIONS /scenarios", "request")),
        Point("annotations", trap=Trap(b"/annotations HTTP", "request")),
    ]


def multipart_points(rng: Random) -> list[Point]:
    """Where one can be killed that sends videos as they were recorded, each in one request."""
    return [
        Point("announced, answer lost", trap=Trap(b"POST /scenarios HTTP", "answer")),
        Point("posting", trap=Trap(b"POST /scenarios/", "body", after_bytes=rng.randint(1, 300_000))),
        Point("posted, answer lost", trap=Trap(b"POST /scenarios/", "answer")),
        Point("between parts", trap=Trap(b"POST /scenarios/", "request", skip=1)),
        Point("annotations, answer lost", trap=Trap(b"/annotations HTTP", "answer", skip=1)),
    ]


RESUMABLE = Way("resumable", resumable_points, compresses=True)
MULTIPART = Way("multipart", multipart_points, compresses=False, faults=(NO_RESUMABLE,))


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        kills: SIGKILLs, by point.
        orphaned: How often an ffmpeg was at work then.
        in_vain: Agents that were killed because they did not come to the point.
        scenarios: That the backend has whole.
        strikes: How often the backend failed on purpose, by kind.
        seconds: All of it.
        problems: What is not as promised; empty where all is.
    """

    kills: dict[str, int] = field(default_factory=dict)
    orphaned: int = 0
    in_vain: int = 0
    scenarios: int = 0
    strikes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


@dataclass(slots=True)
class Witness:
    """Remembers what agents told, and finds what was done twice."""

    made: set[tuple[str, str]] = field(default_factory=set)
    arrived: set[tuple[str, str]] = field(default_factory=set)
    under_way: dict[str, str] = field(default_factory=dict)
    problems: set[str] = field(default_factory=set)

    def hear(self, told: dict[str, Any]) -> None:
        scenario, part = str(told["scenario"]), str(told["part"])
        before = self.under_way.get(scenario)
        if before is not None and before != part:
            # The next part is begun only when the one before is acknowledged, and that is on disk.
            self.arrived.add((scenario, before))
        self.under_way[scenario] = part
        if (scenario, part) in self.arrived:
            self.problems.add(f"{scenario} {part} was acknowledged, and is sent again")
        if told["phase"] == "uploading":
            self.made.add((scenario, part))
        elif (scenario, part) in self.made:
            self.problems.add(f"{scenario} {part} was made, and is made again ({told['phase']})")


class Soak:
    """One run in a folder, which is made."""

    def __init__(self, folder: Path, way: Way, *, at_latest: float = AT_LATEST) -> None:
        folder.mkdir()
        self._at_latest = at_latest
        self._folder = folder
        self._way = way
        self._recordings = folder / "scenarios"
        self._witness = Witness()
        self._number = 0
        self.outcome = Outcome()

    async def run(self, sequence: list[Point], faults: list[dict[str, object]]) -> Outcome:
        """Kill at each of these points, then let it come to its end, and judge."""
        began = time.monotonic()
        key = secrets.token_urlsafe(16)
        async with AsyncExitStack() as stack:
            cloud = await Child.start(
                "sentinel_sync.demo.cloud",
                str(self._folder / "backend"),
                "0",
                json.dumps([*self._way.faults, *faults]),
                name="the backend",
                log=self._folder / "backend.log",
                environment={KEY_VARIABLE: key},
            )
            stack.push_async_callback(cloud.kill)
            url = (await cloud.expect("ready"))["url"]
            snare = await stack.enter_async_context(Snare(url))
            vehicle = await Child.start(
                "tests.soak.scenario_vehicle",
                str(self._configure(snare.url, key)),
                name="the vehicle",
                log=self._folder / "vehicle.log",
                # What is started by it, and by what is started by it, has the folder in its environment.
                environment={"PATH": os.pathsep.join((os.environ["PATH"], str(self._folder)))},
            )
            stack.push_async_callback(vehicle.kill)
            backend = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
            )
            in_vain = 0
            for index, point in enumerate(sequence):
                # Where the last one had nothing left to send, so that there is something again.
                idle, in_vain = self.outcome.in_vain > in_vain, self.outcome.in_vain
                if idle or index % RECORDING_EVERY == 0 or (index and point.name.startswith("announc")):
                    await asyncio.to_thread(self._record)
                await self._live_and_die(vehicle, snare, point)
            self.outcome.strikes = (await backend.get("/_faults")).json()["strikes"]
            (await backend.put("/_faults", json={"faults": list(self._way.faults)})).raise_for_status()
            await self._finish(vehicle, snare)
            arrived = (await backend.get("/scenarios", params={"limit": 1000})).json()["scenarios"]
            self._judge(arrived)
            await self._judge_content(backend, arrived)
        self.outcome.problems += sorted(self._witness.problems)
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _live_and_die(self, vehicle: Child, snare: Snare, point: Point) -> None:
        await vehicle.tell({})
        snare.set(point.trap, (await vehicle.expect("forked"))["process_id"])
        listening = asyncio.create_task(self._listen(vehicle, snare, point))
        await asyncio.wait({listening, asyncio.create_task(snare.sprung.wait())}, timeout=self._at_latest)
        if not snare.sprung.is_set():
            self.outcome.in_vain += 1
            snare.kill()
        if (code := await listening) != -signal.SIGKILL:
            self.outcome.problems.append(f"an agent ended by itself with {code}, before it was killed ({point.name})")
        self.outcome.kills[point.name] = self.outcome.kills.get(point.name, 0) + 1
        await self._see_ffmpeg_gone(point)

    async def _until_ffmpeg_runs(self) -> None:
        """Or it may have done its work already: that is a point to be killed at too."""
        deadline = time.monotonic() + SEEN_WITHIN
        while time.monotonic() < deadline:
            if await asyncio.to_thread(marked_by, str(self._folder), "ffmpeg"):
                self.outcome.orphaned += 1
                return
            await asyncio.sleep(0.005)

    async def _see_ffmpeg_gone(self, point: Point) -> None:
        """Nothing that the killed agent had started goes on."""
        deadline = time.monotonic() + GONE_WITHIN
        while left := await asyncio.to_thread(marked_by, str(self._folder), "ffmpeg"):
            if time.monotonic() > deadline:
                self.outcome.problems.append(f"ffmpeg goes on after its agent was killed ({point.name}): {left}")
                return
            await asyncio.sleep(0.01)

    async def _listen(self, vehicle: Child, snare: Snare | None, point: Point | None) -> int:
        """Hear what an agent tells until it ends; returns its exit code."""
        while (told := await vehicle.event(within=90.0))["event"] != "ended":
            self._witness.hear(told)
            if snare is not None and point is not None and told["phase"] == point.phase:
                await self._until_ffmpeg_runs()
                snare.kill()
        return int(told["code"])

    async def _finish(self, vehicle: Child, snare: Snare) -> None:
        await vehicle.tell({"finish": True})
        snare.set(None, (await vehicle.expect("forked"))["process_id"])
        if (code := await self._listen(vehicle, None, None)) != 0:
            self.outcome.problems.append(f"the last agent ended with {code}")

    def _record(self) -> None:
        """Leave a recording of two cameras as the recorder does: the metadata, which tells of the others, is last."""
        fixture = sorted(FIXTURES.iterdir())[self._number % 2]
        self._number += 1
        folder = self._recordings / f"{fixture.name}-{self._number}"
        folder.mkdir()
        for name in (*CAMERAS.values(), "annotations.json"):
            shutil.copyfile(fixture / name, folder / name)
        metadata = json.loads((fixture / "metadata.json").read_text(encoding="utf-8"))
        (folder / "metadata.json").write_text(json.dumps({**metadata, "files": CAMERAS}), encoding="utf-8")

    def _configure(self, url: str, key: str) -> Path:
        self._recordings.mkdir()
        cloud = {
            "enabled": True,
            "api_url": url,
            "api_key": key,
            "vehicle_id": VEHICLE,
            "fleet_id": "soak_fleet",
            "rate_limit": 0,
            "timeout": 5,
            "sync_interval": 1,
            "scenario_scan_interval": 0.1,
            "scenario_settle_time": 0.1,
            "state_dir": str(self._folder / "state"),
            "scenarios_dir": str(self._recordings),
            "compress_videos": self._way.compresses,
        }
        path = self._folder / "config.yaml"
        path.write_text(json.dumps({"cloud": cloud}), encoding="utf-8")
        return path

    def _judge(self, arrived: list[dict[str, Any]]) -> None:
        """Compare what the backend has with what the vehicle has on record and on disk."""
        problems = self.outcome.problems
        recorded = {path.name for path in self._recordings.iterdir()}
        names = [scenario["scenario_id"] for scenario in arrived]
        self.outcome.scenarios = sum(scenario["complete"] for scenario in arrived)
        problems += [f"{name} is missing" for name in sorted(recorded - set(names))]
        problems += [f"{name} is there twice" for name in sorted({name for name in names if names.count(name) > 1})]
        for scenario in arrived:
            name = scenario["scenario_id"]
            if not scenario["complete"]:
                problems.append(f"{name} is not whole: {scenario['missing']} missing")
            announced = self._announced(name)
            there = {part["name"]: part for part in scenario["parts"]}
            if len(there) != len(scenario["parts"]):
                problems.append(f"{name} has a part twice")
            for part_name, part in there.items():
                if part["received_sha256"] != announced.get(part_name):
                    problems.append(f"{name} {part_name} is not what was announced")
        if left := list((self._folder / "state" / "derived").glob("*")):
            problems.append(f"{len(left)} derived files were left behind")

    async def _judge_content(self, backend: httpx.AsyncClient, arrived: list[dict[str, Any]]) -> None:
        """Fetch everything back, and look at the bytes themselves."""
        for scenario in arrived:
            name, announced = scenario["scenario_id"], self._announced(scenario["scenario_id"])
            for part in (*CAMERAS.values(), "annotations.json"):
                content = (await backend.get(f"/scenarios/{name}/parts/{part}")).raise_for_status().content
                sha256 = hashlib.sha256(content).hexdigest()
                recorded = await asyncio.to_thread((self._recordings / name / part).read_bytes)
                if part == "annotations.json":
                    if content != recorded:
                        self.outcome.problems.append(f"{name} {part} is not what was recorded")
                elif sha256 != announced.get(part) or (self._way.compresses and len(content) >= len(recorded)):
                    self.outcome.problems.append(f"{name} {part} is not what was made of it")
                elif await asyncio.to_thread(_frames_of, content) != await asyncio.to_thread(_frames_of, recorded):
                    self.outcome.problems.append(f"{name} {part} has not all pictures of its recording")

    def _announced(self, scenario_id: str) -> dict[str, str]:
        """The hash of what was to go for each part, by the vehicle's own record."""
        with contextlib.closing(sqlite3.connect(self._folder / "state" / DATABASE_NAME)) as database:
            (body,) = database.execute(
                "SELECT body FROM document WHERE kind = 'scenario' AND key = ?", (scenario_id,)
            ).fetchone()
        parts = json.loads(body)["parts"]
        return {part["name"]: part["file"]["sha256"] for part in parts if part["file"] is not None}


@cache
def _frames_of(video: bytes) -> int:
    """How many pictures come out of a video. Blocks.

    Raises:
        CalledProcessError: It cannot be decoded to its end.
    """
    with tempfile.NamedTemporaryFile(suffix=".mp4") as file:
        file.write(video)
        file.flush()
        command = ["ffmpeg", "-nostdin", "-v", "error", "-xerror", "-i", file.name, "-map", "0:V"]
        done = subprocess.run([*command, "-progress", "pipe:1", "-f", "null", "-"], capture_output=True, check=True)
    counts = [line for line in done.stdout.decode().splitlines() if line.startswith("frame=")]
    return int(counts[-1].removeprefix("frame="))


async def soak(way: Way, kills: int, seed: int, folder: Path) -> Outcome:
    """Kill at random points."""
    rng = Random(seed)
    sequence = [rng.choice(way.points(rng)) for _ in range(kills)]
    return await Soak(folder / way.name, way).run(sequence, FAULTS)


def _as_text(way: Way, outcome: Outcome) -> list[str]:
    kills = ", ".join(f"{name} {number}" for name, number in sorted(outcome.kills.items()))
    strikes = ", ".join(f"{kind} {number:,}" for kind, number in sorted(outcome.strikes.items())) or "none"
    return [
        f"{way.name}: {sum(outcome.kills.values())} kills in {outcome.seconds:.0f} s, {outcome.in_vain} anywhere",
        f"  ffmpeg    was at work {outcome.orphaned} times",
        f"  where     {kills}",
        f"  failures  {strikes}",
        f"  backend   {outcome.scenarios} scenarios, whole",
        *(f"  PROBLEM   {problem}" for problem in outcome.problems[:20]),
        f"{len(outcome.problems)} problems" if outcome.problems else "every recording is there, whole, exactly once",
    ]


def main() -> int:
    """Parse the command line, run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=100, help="in each of the two ways (default: %(default)s)")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    arguments = parser.parse_args()
    problems = 0
    with tempfile.TemporaryDirectory(prefix="sentinel-soak-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        for way in (RESUMABLE, MULTIPART):
            outcome = asyncio.run(soak(way, arguments.kills, arguments.seed, folder))
            sys.stdout.write("\n".join(_as_text(way, outcome)) + "\n")
            problems += len(outcome.problems)
            if outcome.problems and arguments.keep is None:
                log = (folder / way.name / "vehicle.log").read_text(encoding="utf-8", errors="replace").splitlines()
                sys.stdout.write("\n".join(["the end of the agents' log:", *log[-20:]]) + "\n")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
