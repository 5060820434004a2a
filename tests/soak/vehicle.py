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
import sys
from random import Random

from sentinel_sync.agent import SyncAgent

logger = logging.getLogger(__name__)

#: Readings per trip, at most.
READINGS = 6
#: Seconds between two readings, at most.
PAUSE = 0.004
#: Seconds after which nobody is left who would kill it.
LIFE = 60.0
#: Seconds for the last agent to send all that is left.
FINISH_WITHIN = 90.0


def main() -> None:
    config, diary = sys.argv[1:]
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            run(config, diary, order)
        tell("forked", process_id=process)
        _, status = os.waitpid(process, 0)
        tell("ended", code=os.waitstatus_to_exitcode(status))


def run(config: str, diary: str, order: dict[str, object]) -> None:
    """In the forked process: an agent's whole life."""
    code = 1
    try:
        # The orders are the parent's to read.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        pages = Diary(diary)
        asyncio.run(finish(config, pages) if order.get("finish") else record(config, pages, str(order["seed"])))
        code = 0
    except BaseException:
        logger.exception("the vehicle's process failed")
    finally:
        os._exit(code)


async def record(config: str, diary: "Diary", seed: str) -> None:
    """Trip after trip, until the end comes from outside."""
    rng = Random(seed)
    async with asyncio.timeout(LIFE), SyncAgent.from_config(config) as agent:
        diary.write(running=os.getpid())
        while True:
            trip_id = await agent.trips.start_trip("driver_1", (rng.uniform(-80.0, 80.0), rng.uniform(-170.0, 170.0)))
            diary.write(started=trip_id)
            for _ in range(rng.randint(0, READINGS)):
                agent.trips.update_trip(
                    distance_delta=rng.uniform(0.0, 100.0),
                    speed=rng.uniform(0.0, 30.0),
                    risk_score=rng.random(),
                    alert_urgency=rng.choice(("info", "warning", "critical", None)),
                )
                await asyncio.sleep(rng.uniform(0.0, PAUSE))
            trip = await agent.trips.end_trip()
            if trip is None:
                raise RuntimeError("there was no trip to end")
            diary.write(ended=trip_id, body=trip.model_dump(mode="json"))


async def finish(config: str, diary: "Diary") -> None:
    """Send all that is left, and say what there is then."""
    async with SyncAgent.from_config(config) as agent:
        await (
            agent.store.outbox.retry()
        )  # as `queue retry` does: backoffs earned from the failures would only take time
        counts = await agent.flush(FINISH_WITHIN)
        diary.write(unsent=counts.unsent, set_aside=counts.set_aside, dropped=counts.dropped)


class Diary:
    """A file that is appended to in one write per line: what is in it has happened, whenever this process is killed."""

    def __init__(self, path: str) -> None:
        self._descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o600)

    def write(self, **facts: object) -> None:
        os.write(self._descriptor, json.dumps(facts).encode() + b"\n")


def tell(event: str, **facts: object) -> None:
    sys.stdout.write(json.dumps({"event": event, **facts}) + "\n")
    sys.stdout.flush()


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    main()
