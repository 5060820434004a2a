"""Kill a recording and uploading agent at random instants, and see that no trip is lost or there twice.

`python -m tests.soak.kill_trips --kills 200 --seed 1`: an agent process records trips and uploads them to the reference
backend, a process too, which loses answers after doing the work, cuts connections, and answers nonsense. The agent is
killed with SIGKILL at random instants and started again. In the end every trip whose `end_trip()` had returned is on
the backend exactly once, as it was returned, and every trip whose `start_trip()` had returned is there too.
"""

import argparse
import asyncio
import contextlib
import json
import os
import secrets
import signal
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Collection, Mapping, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child
from sentinel_sync.demo.witness import Witness
from tests.soak.vehicle import read_diary

FLEET = "soak_fleet"
#: Which requests fail, and how. `lose` does the work and then cuts the connection instead of answering.
FAULTS: list[dict[str, object]] = [
    {"kind": "lose", "method": "POST", "path": "/trips", "fraction": 0.08},
    {"kind": "truncate", "method": "POST", "path": "/trips", "fraction": 0.02},
    {"kind": "garbage", "method": "POST", "path": "/trips", "fraction": 0.02},
    {"kind": "drop", "method": "POST", "path": "/trips", "fraction": 0.02},
    {"kind": "status", "method": "POST", "path": "/trips", "fraction": 0.01, "status": 503},
    {"kind": "delay", "method": "POST", "path": "/trips", "fraction": 0.05, "delay": 0.05},
]
#: This share of the kills comes within so many seconds of the fork, while the agent starts; …
EARLY, EARLY_WITHIN = 0.3, 0.12
#: … the others between so many seconds and so many.
LATE_FROM, LATE_TO = 0.12, 1.0


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        kills: SIGKILLs.
        while_starting: Those before the agent ran.
        started: Trips whose `start_trip()` had returned.
        ended: Trips whose `end_trip()` had returned: acknowledged.
        arrived: Trips that the backend has.
        interrupted: Those closed by recovery.
        unannounced: Arrived trips that were killed between being on disk and being in the diary.
        repeats: How often the backend recognised a trip that it had.
        strikes: How often it failed on purpose, by kind.
        seconds: All of it.
        problems: What is not as promised; empty where all is.
    """

    kills: int = 0
    while_starting: int = 0
    started: int = 0
    ended: int = 0
    arrived: int = 0
    interrupted: int = 0
    unannounced: int = 0
    repeats: int = 0
    strikes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


async def soak(kills: int, seed: int, folder: Path) -> Outcome:
    """Do it `kills` times in a folder."""
    outcome = Outcome()
    began = time.monotonic()
    key = secrets.token_urlsafe(16)
    async with AsyncExitStack() as stack:
        cloud = await Child.start(
            "sentinel_sync.demo.cloud",
            str(folder / "backend"),
            "0",
            json.dumps(FAULTS),
            name="the backend",
            log=folder / "backend.log",
            environment={KEY_VARIABLE: key},
        )
        stack.push_async_callback(cloud.kill)
        url = (await cloud.expect("ready"))["url"]
        config, diary = configure(folder, url, key), folder / "diary.jsonl"
        vehicle = await Child.start(
            "tests.soak.vehicle",
            str(config),
            str(diary),
            name="the vehicle",
            log=folder / "vehicle.log",
            environment={},
        )
        stack.push_async_callback(vehicle.kill)
        rng = Random(seed)
        for number in range(kills):
            await _live_and_die(vehicle, rng, f"{seed}-{number}", outcome)
        witness = await stack.enter_async_context(Witness(url, key, FLEET))
        outcome.strikes = await witness.strikes()
        await witness.end_faults()
        await vehicle.tell({"finish": 90.0})
        if (code := (await vehicle.expect("ended", within=120.0))["code"]) != 0:
            outcome.problems.append(f"the last agent ended with {code}")
        judge(await witness.trips(), read_diary(diary), outcome)
        outcome.repeats = await witness.count("repeats")
    outcome.seconds = time.monotonic() - began
    return outcome


async def _live_and_die(vehicle: Child, rng: Random, seed: str, outcome: Outcome) -> None:
    await vehicle.tell({"seed": seed})
    process = (await vehicle.expect("forked"))["process_id"]
    life = rng.uniform(0.0, EARLY_WITHIN) if rng.random() < EARLY else rng.uniform(LATE_FROM, LATE_TO)
    try:
        await asyncio.sleep(life)
    finally:
        with contextlib.suppress(ProcessLookupError):  # it had ended by itself, which is found out below
            os.kill(process, signal.SIGKILL)
    code = (await vehicle.expect("ended"))["code"]
    if code != -signal.SIGKILL:
        outcome.problems.append(f"agent {outcome.kills + 1} ended by itself with {code}, before it was killed")
    outcome.kills += 1


def configure(folder: Path, url: str, key: str, *, state: Path | None = None, name: str = "config.yaml") -> Path:
    """Write a vehicle's settings; its state is in `folder/state` where no other folder is given."""
    cloud = {
        "enabled": True,
        "api_url": url,
        "api_key": key,
        "vehicle_id": "soak_vehicle",
        "fleet_id": FLEET,
        "pseudonym_key": "a key for the soak",
        "rate_limit": 0,
        "timeout": 5,
        "checkpoint_interval": 0.02,
        "sync_interval": 1,
        "connectivity_check_interval": 0.5,
        "reconnect_spread": 0.05,
        "state_dir": str(state or folder / "state"),
        "trip_queue_file": str(folder / "none.json"),
        "scenarios_dir": str(folder / "scenarios"),
        "profiles_dir": str(folder / "profiles"),
        "models_dir": str(folder / "models"),
    }
    path = folder / name
    path.write_text(json.dumps({"cloud": cloud}), encoding="utf-8")
    return path


def judge(
    arrived: Sequence[Mapping[str, Any]],
    diary: Sequence[Mapping[str, Any]],
    outcome: Outcome,
    *,
    excused: Collection[str] = (),
    corrected: Collection[str] = (),
) -> None:
    """Compare what the backend has with what the agents had promised.

    Args:
        excused: Trips that may be missing or different, as somebody put back a folder from before them.
        corrected: Fields that are not as they were returned, as the clock was found to be wrong later.
    """
    by_id = {trip["trip_id"]: trip for trip in arrived}
    started = {line["started"] for line in diary if "started" in line}
    unannounced = by_id.keys() - started
    started -= set(excused)
    ended = {line["ended"]: line["body"] for line in diary if "ended" in line and line["ended"] not in excused}
    outcome.while_starting = outcome.kills - sum("running" in line for line in diary)
    outcome.started, outcome.ended, outcome.arrived = len(started), len(ended), len(arrived)
    outcome.interrupted = sum(bool(trip["interrupted"]) for trip in arrived)
    outcome.unannounced = len(unannounced)
    problems = outcome.problems
    problems += [f"{trip_id} is there {number} times" for trip_id, number in _repeated(arrived)]
    problems += [f"{trip_id} was acknowledged and is missing" for trip_id in ended.keys() - by_id.keys()]
    problems += [f"{trip_id} was started and is missing" for trip_id in started - ended.keys() - by_id.keys()]
    for trip_id, body in ended.items():
        if trip_id in by_id and (wrong := _differences(by_id[trip_id], body, corrected)):
            problems.append(f"{trip_id} arrived with another {', '.join(wrong)} than end_trip() returned")
    # Killed between "on disk" and the diary's line: such a trip can only have been closed by recovery, one per kill.
    problems += [f"{trip_id} is nobody's" for trip_id in unannounced if not by_id[trip_id]["interrupted"]]
    if len(unannounced) > outcome.kills:
        problems.append(f"{len(unannounced)} trips were never announced, with {outcome.kills} kills")
    for left in [line for line in diary if "unsent" in line] or [{"unsent": "unknown"}]:
        if left != {"unsent": 0, "set_aside": 0, "dropped": {}}:
            problems.append(f"the last agent left work behind: {left}")


def _repeated(arrived: Sequence[Mapping[str, Any]]) -> list[tuple[str, int]]:
    return [(trip_id, number) for trip_id, number in Counter(trip["trip_id"] for trip in arrived).items() if number > 1]


def _differences(arrived: Mapping[str, Any], body: Mapping[str, Any], corrected: Collection[str]) -> list[str]:
    there = TripSummary.model_validate({name: arrived[name] for name in TripSummary.model_fields})
    here = TripSummary.model_validate(body)
    names = TripSummary.model_fields.keys() - set(corrected)
    return [name for name in sorted(names) if getattr(there, name) != getattr(here, name)]


def _as_text(outcome: Outcome) -> list[str]:
    strikes = ", ".join(f"{kind} {number:,}" for kind, number in sorted(outcome.strikes.items())) or "none"
    return [
        f"{outcome.kills} kills in {outcome.seconds:.0f} s, {outcome.while_starting} of them while the agent started",
        f"  recorded  {outcome.started:,} trips, {outcome.ended:,} of them ended and acknowledged",
        f"  backend   {outcome.arrived:,} trips, {outcome.interrupted:,} interrupted; {outcome.repeats:,} sent again",
        f"  failures  {strikes}",
        f"  announced {outcome.unannounced} trips were killed between being on disk and being announced",
        *(f"  PROBLEM   {problem}" for problem in outcome.problems[:20]),
        f"{len(outcome.problems)} problems" if outcome.problems else "every acknowledged trip is there exactly once",
    ]


def main() -> int:
    """Parse the command line, run, and print what came of it."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--keep", type=Path, help="work in this folder and keep it")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory(prefix="sentinel-soak-") as temporary:
        folder = arguments.keep or Path(temporary)
        folder.mkdir(parents=True, exist_ok=True)
        outcome = asyncio.run(soak(arguments.kills, arguments.seed, folder))
        sys.stdout.write("\n".join(_as_text(outcome)) + "\n")
        if outcome.problems and arguments.keep is None:
            log = (folder / "vehicle.log").read_text(encoding="utf-8", errors="replace").splitlines()
            sys.stdout.write("\n".join(["the end of the agents' log:", *log[-20:]]) + "\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
