"""Kill an agent at random instants while it installs models, and see that the runtime always has a whole one.

`python -m tests.soak.kill_models --kills 200 --seed 1`: an agent downloads signed models from the reference backend,
a process too, whole and as deltas, has them tried by a command, switches to them and rolls back. It is killed with
SIGKILL at random instants and started again. Another process opens the live file over and over, as the runtime does.
Whatever happens, that is the whole old model or the whole new one, by its SHA-256; after each start the registry, the
record and the live file agree; what a call had promised holds; an order is carried out once; and in the end nothing is
left lying about.
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
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

import httpx

from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child
from tests.soak.model_judge import DIARY, MODELS, Judge
from tests.soak.model_releases import LAST, LIVE_NAMES, VALIDATOR, publish

#: Which requests fail, and how.
FAULTS: list[dict[str, object]] = [
    {"kind": "truncate", "path": "/model-", "fraction": 0.25},
    {"kind": "delay", "path": "/model-", "fraction": 0.3, "delay": 0.1},
    {"kind": "garbage", "path": "/models", "fraction": 0.03},
    {"kind": "drop", "path": "/model", "fraction": 0.03},
    {"kind": "status", "path": "/model", "fraction": 0.03, "status": 503},
]
#: This share of the kills comes while something chosen is being done, within so many seconds of its beginning; …
AIMED, WITHIN = 0.6, 0.02
AIMS = ("downloading", "patching", "validating", "installing", "installing", "rollback", "rollback", "nothing")
#: … or so many seconds after the fork where that is not done.
AT_LATEST = 4.0
#: Of the others this share comes within so many seconds of the fork, while the vehicle starts and mends; …
EARLY, EARLY_WITHIN = 0.4, 0.12
#: … the rest between so many seconds and so many.
LATE_FROM, LATE_TO = 0.12, 1.5
#: After this share of the kills somebody looks; after the others it is killed again before anybody has.
LOOKED_AT = 0.6


@dataclass(slots=True)
class Outcome:
    """What came of it.

    Attributes:
        kills: SIGKILLs, by what was being done.
        mended: Kills after which a switch was to be finished.
        promises: How often a call had promised what is in use, and nothing was begun since.
        orders: Rollbacks that were ordered, and carried out, by whichever life.
        looks: How often the watcher saw a whole model.
        versions: Different ones that it saw.
        strikes: How often the backend failed on purpose, by kind.
        seconds: All of it.
        problems: What is not as promised; empty where all is.
    """

    kills: Counter[str] = field(default_factory=Counter)
    mended: int = 0
    promises: int = 0
    orders: int = 0
    looks: int = 0
    versions: int = 0
    strikes: dict[str, int] = field(default_factory=dict)
    seconds: float = 0.0
    problems: list[str] = field(default_factory=list)


class Soak:
    """One run in a folder."""

    def __init__(self, folder: Path, rng: Random) -> None:
        self._folder = folder
        self._rng = rng
        self.outcome = Outcome()

    async def run(self, kills: int) -> Outcome:
        """Kill so often, then let it come to its end, and judge."""
        began, key = time.monotonic(), secrets.token_urlsafe(16)
        trusted, published = await asyncio.to_thread(publish, self._folder, self._folder / "backend")
        judge = Judge(self._folder, published)
        async with AsyncExitStack() as stack:
            cloud = await self._start(
                stack,
                "sentinel_sync.demo.cloud",
                str(self._folder / "backend"),
                "0",
                json.dumps(FAULTS),
                environment={KEY_VARIABLE: key},
            )
            url = (await cloud.expect("ready"))["url"]
            config = self._configure(url, key, trusted)
            vehicle = await self._start(stack, "tests.soak.model_vehicle", str(config), str(self._folder / DIARY))
            watcher = await self._start(
                stack,
                "tests.soak.model_watcher",
                str(self._folder / MODELS),
                json.dumps(LIVE_NAMES),
                json.dumps(list(published)),
            )
            backend = await stack.enter_async_context(
                httpx.AsyncClient(base_url=url, headers={"Authorization": f"Bearer {key}"}, trust_env=False)
            )
            for number in range(kills):
                await self._live_and_die(vehicle, number, sorted(published.values()))
                await asyncio.to_thread(judge.what_is_left)
                if self._rng.random() < LOOKED_AT:
                    await self._look(vehicle, judge)
            self.outcome.strikes = (await backend.get("/_faults")).json()["strikes"]
            (await backend.put("/_faults", json={"faults": []})).raise_for_status()
            await self._obeyed(vehicle, {"finish": LAST})
            await self._look(vehicle, judge)
            await asyncio.to_thread(judge.the_end)
            await watcher.tell({})
            self._hear(await watcher.expect("seen"))
        self.outcome.mended, self.outcome.promises, self.outcome.orders = judge.mended, judge.promises, judge.orders
        self.outcome.problems += judge.problems
        self.outcome.seconds = time.monotonic() - began
        return self.outcome

    async def _start(self, stack: AsyncExitStack, module: str, *arguments: str, **how: Any) -> Child:
        name = module.rpartition(".")[2]
        child = await Child.start(
            module, *arguments, name=name, log=self._folder / f"{name}.log", environment=how.get("environment", {})
        )
        stack.push_async_callback(child.kill)
        return child

    # --- killing ---

    async def _live_and_die(self, vehicle: Child, number: int, versions: list[str]) -> None:
        rng = self._rng
        await vehicle.tell({"versions": versions, "seed": rng.random()})
        process = (await vehicle.expect("forked"))["process_id"]
        aim = rng.choice(AIMS) if rng.random() < AIMED else None
        doing: list[str] = ["starting"]
        there = asyncio.Event()
        listening = asyncio.create_task(self._listen(vehicle, aim, there, doing))
        try:
            if aim is not None:
                await asyncio.wait(
                    {listening, waiting := asyncio.create_task(there.wait())},
                    timeout=AT_LATEST,
                    return_when=asyncio.FIRST_COMPLETED,
                )
                waiting.cancel()
                await asyncio.sleep(rng.uniform(0.0, WITHIN))
            else:
                early = rng.random() < EARLY
                await asyncio.sleep(rng.uniform(0.0, EARLY_WITHIN) if early else rng.uniform(LATE_FROM, LATE_TO))
        finally:
            with contextlib.suppress(ProcessLookupError):  # it had ended by itself, which is found out below
                os.kill(process, signal.SIGKILL)
        if (code := await listening) != -signal.SIGKILL:
            self.outcome.problems.append(f"vehicle {number + 1} ended by itself with {code}, before it was killed")
        self.outcome.kills[doing[0]] += 1

    async def _listen(self, vehicle: Child, aim: str | None, there: asyncio.Event, doing: list[str]) -> int:
        """Hear what it does until it ends; returns its exit code."""
        while (told := await vehicle.event(within=90.0))["event"] != "ended":
            doing[0] = told["doing"]
            if doing[0] == aim:
                there.set()
        return int(told["code"])

    async def _obeyed(self, vehicle: Child, order: dict[str, Any]) -> None:
        """Have it do something, unharmed."""
        await vehicle.tell(order)
        if (code := (await vehicle.expect("ended", within=90.0))["code"]) != 0:
            self.outcome.problems.append(f"a vehicle ended with {code} that nobody killed: {order}")

    async def _look(self, vehicle: Child, judge: Judge) -> None:
        """Start it, so that it mends what is to be mended, and see what there is then."""
        await self._obeyed(vehicle, {"look": True})
        await asyncio.to_thread(judge.what_was_mended)

    def _hear(self, seen: dict[str, Any]) -> None:
        self.outcome.looks = sum(seen["seen"].values())
        self.outcome.versions = len(seen["seen"])
        self.outcome.problems += [f"the runtime: {what} ({number} times)" for what, number in seen["problems"].items()]

    def _configure(self, url: str, key: str, trusted: str) -> Path:
        validator = self._folder / "validator.sh"
        validator.write_text(VALIDATOR, encoding="utf-8")
        cloud = {
            "enabled": True,
            "api_url": url,
            "api_key": key,
            "vehicle_id": "soak_vehicle",
            "fleet_id": "soak_fleet",
            "rate_limit": 0,
            "timeout": 5,
            "connectivity_check_interval": 0.5,
            "auto_install_models": False,
            "model_trusted_keys": [trusted],
            "model_validator_command": ["/bin/sh", str(validator)],
            "model_probation": 0.3,
            "state_dir": str(self._folder / "state"),
            "models_dir": str(self._folder / MODELS),
            "trip_queue_file": str(self._folder / "none.json"),
            "scenarios_dir": str(self._folder / "scenarios"),
            "profiles_dir": str(self._folder / "profiles"),
        }
        path = self._folder / "config.yaml"
        path.write_text(json.dumps({"cloud": cloud}), encoding="utf-8")
        return path


async def soak(kills: int, seed: int, folder: Path) -> Outcome:
    """Kill at random instants."""
    return await Soak(folder, Random(seed)).run(kills)


def _as_text(outcome: Outcome) -> list[str]:
    kills = ", ".join(f"{name} {number}" for name, number in sorted(outcome.kills.items()))
    strikes = ", ".join(f"{kind} {number:,}" for kind, number in sorted(outcome.strikes.items())) or "none"
    return [
        f"{outcome.kills.total()} kills in {outcome.seconds:.0f} s; a switch was to be finished after {outcome.mended}",
        f"  where     {kills}",
        f"  failures  {strikes}",
        f"  promises  {outcome.promises} calls had promised what is in use; {outcome.orders} orders to roll back",
        f"  runtime   opened a whole model {outcome.looks:,} times, {outcome.versions} different ones",
        *(f"  PROBLEM   {problem}" for problem in outcome.problems[:20]),
        f"{len(outcome.problems)} problems" if outcome.problems else "there was a whole model at every instant",
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
            log = (folder / "model_vehicle.log").read_text(encoding="utf-8", errors="replace").splitlines()
            sys.stdout.write("\n".join(["the end of the vehicles' log:", *log[-20:]]) + "\n")
    return 1 if outcome.problems else 0


if __name__ == "__main__":
    sys.exit(main())
