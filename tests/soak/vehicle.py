"""A vehicle that records and uploads trips for as long as it lives: `python -m tests.soak.vehicle CONFIG DIARY`.

This process only imports everything and then waits. For each line on its standard input it forks a process in which an
agent is started, so that two hundred starts do not spend their time importing; it tells the process's id, and how it
ended. What the forked process promises it writes into the diary at once and after the fact: a line is there only if
the call before it had returned.
"""

import asyncio
import json
import logging
import os
import resource
import sys
import threading
import time
from collections.abc import Awaitable, Callable
from functools import partial
from pathlib import Path
from random import Random
from typing import Any, TypeVar

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import StateLockedError, StoreError

logger = logging.getLogger(__name__)

Result = TypeVar("Result")

#: Readings per trip, at most.
READINGS = 6
#: Seconds between two readings, at most.
PAUSE = 0.004
#: Seconds after which nobody is left who would kill it.
LIFE = 60.0
#: Seconds until what the store refused is asked for again.
ASK_AGAIN = 0.05
#: What the kernel writes at once or not at all, bytes.
_PAGE_BYTES = 4096
#: How a process ends whose state folder another one has.
LOCKED = 9


def main() -> None:
    config, diary = sys.argv[1:]
    if "faketime" in os.environ.get("LD_PRELOAD", ""):
        # libfaketime 0.9.10 has clock_nanosleep fail with EINVAL where it leaves the monotonic clock alone.
        time.sleep = rest  # type: ignore[assignment]
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            run(config, diary, order)
        tell("forked", process_id=process)
        _, status = os.waitpid(process, 0)
        tell("ended", code=os.waitstatus_to_exitcode(status))


def rest(seconds: float) -> None:
    """Sleep without clock_nanosleep."""
    threading.Event().wait(seconds)


def limit(name: str, more: int) -> None:
    """Allow this process so much more memory than it has, or so many descriptors, or bytes of a file."""
    if name == "AS":
        pages = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0])
        more += pages * resource.getpagesize()
    resource.setrlimit(getattr(resource, f"RLIMIT_{name}"), (more, more))


def run(config: str, diary: str, order: dict[str, Any]) -> None:
    """In the forked process: an agent's whole life."""
    code = 1
    try:
        # The orders are the parent's to read.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        pages = Diary(diary)
        config = order.get("config", config)
        if "limit" in order:
            limit(*order["limit"])
        if "finish" in order:
            asyncio.run(finish(config, pages, order["finish"]))
        else:
            asyncio.run(record(config, pages, order["seed"], order.get("life", LIFE)))
        code = 0
    except StateLockedError:
        code = LOCKED
    except BaseException:
        logger.exception("the vehicle's process failed")
    finally:
        os._exit(code)


async def record(config: str, diary: "Diary", seed: str, life: float) -> None:
    """Trip after trip, until the end comes from outside."""
    rng = Random(seed)
    async with asyncio.timeout(life), SyncAgent.from_config(config) as agent:
        diary.write(running=os.getpid())
        while True:
            place = rng.uniform(-80.0, 80.0), rng.uniform(-170.0, 170.0)
            trip_id = await insist(partial(agent.trips.start_trip, "driver_1", place))
            diary.write(started=trip_id)
            for _ in range(rng.randint(0, READINGS)):
                agent.trips.update_trip(
                    distance_delta=rng.uniform(0.0, 100.0),
                    speed=rng.uniform(0.0, 30.0),
                    risk_score=rng.random(),
                    alert_urgency=rng.choice(("info", "warning", "critical", None)),
                )
                await asyncio.sleep(rng.uniform(0.0, PAUSE))
            trip = await insist(agent.trips.end_trip)
            if trip is None:
                raise RuntimeError("there was no trip to end")
            diary.write(ended=trip_id, body=trip.model_dump(mode="json"))


async def insist(ask: Callable[[], Awaitable[Result]]) -> Result:
    """Ask again for as long as the store refuses, as a host does whose disk is full."""
    while True:
        try:
            return await ask()
        except StoreError:
            await asyncio.sleep(ASK_AGAIN)


async def finish(config: str, diary: "Diary", within: float) -> None:
    """Send all that is left, and say what there is then."""
    async with SyncAgent.from_config(config) as agent:
        await (
            agent.store.outbox.retry()
        )  # as `queue retry` does: backoffs earned from the failures would only take time
        counts = await agent.flush(within)
        diary.write(unsent=counts.unsent, set_aside=counts.set_aside, dropped=counts.dropped)


class Diary:
    """A file that is appended to in whole lines: what is in it has happened, whenever this process is killed.

    SIGKILL ends a write(2) between two pages (`fatal_signal_pending` in Linux' mm/filemap.c), so one write is not
    enough to have a line whole: no line crosses a page. What fills a page up before it is blanks, of which any number
    may be there.

    Raises:
        ValueError: A line is longer than a page.
    """

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **facts: object) -> None:
        line = json.dumps(facts).encode() + b"\n"
        if len(line) > _PAGE_BYTES:
            raise ValueError(f"a line of {len(line)} bytes does not fit into a page of {_PAGE_BYTES}")
        left = _PAGE_BYTES - os.fstat(self._descriptor).st_size % _PAGE_BYTES
        if len(line) > left:
            os.write(self._descriptor, b" " * left)
        os.write(self._descriptor, line)


def read_diary(path: Path) -> list[dict[str, Any]]:
    """What the processes had promised, in order."""
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines() if not line.isspace()]


def tell(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    main()
