"""A vehicle that uploads recordings for as long as it lives: `python -m tests.soak.scenario_vehicle CONFIG`.

As `tests.soak.vehicle` it imports everything once, and forks a process for each line on its standard input. The forked
process runs the agent's part for recordings, scan and upload, and tells what is under way, until it is killed; with
`{"finish": true}` until nothing is left.
"""

import asyncio
import json
import logging
import os
import sys
from random import SystemRandom

from sentinel_sync import CloudAPIClient, ScenarioUploader
from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.tasks import Supervisor
from sentinel_sync.base.transfer import TransferStatus
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import CloudSettings, Settings
from sentinel_sync.store.store import Store
from tests.soak.vehicle import tell

logger = logging.getLogger(__name__)

#: Seconds after which nobody is left who would kill it.
LIFE = 60.0
#: Seconds for the last one to send all that is left.
FINISH_WITHIN = 60.0
#: Between two looks whether that is done, seconds.
PAUSE = 0.05


def main() -> None:
    settings = Settings.load(sys.argv[1]).cloud
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            run(settings, finish=bool(order.get("finish")))
        tell("forked", process_id=process)
        _, status = os.waitpid(process, 0)
        tell("ended", code=os.waitstatus_to_exitcode(status))


def run(settings: CloudSettings, *, finish: bool) -> None:
    """In the forked process: an agent's whole life."""
    code = 1
    try:
        # The orders are the parent's to read.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        asyncio.run(live(settings, finish=finish))
        code = 0
    except BaseException:
        logger.exception("the vehicle's process failed")
    finally:
        os._exit(code)


async def live(settings: CloudSettings, *, finish: bool) -> None:
    clock, rng = SystemClock(), SystemRandom()
    supervisor = Supervisor(clock, rng)
    async with (
        Store(settings.state_dir) as store,
        CloudAPIClient(settings=settings) as client,
        asyncio.timeout(FINISH_WITHIN if finish else LIFE),
    ):
        scenarios = ScenarioUploader(
            client, True, foundation=Foundation.of(client, store, clock=clock, rng=rng, supervised=True)
        )
        scenarios.on_progress(report)
        await supervisor.start([scenarios.upload, scenarios.scan, scenarios.retention])
        try:
            while not finish or not await is_done(scenarios, store):
                # What failed on purpose need not wait for its backoff: only time would pass.
                await store.outbox.make_due()
                client.gate.on_reachable()
                scenarios.upload.wake.set()
                await asyncio.sleep(PAUSE)
        finally:
            await supervisor.stop(1.0)
            await scenarios.close()


async def is_done(scenarios: ScenarioUploader, store: Store) -> bool:
    counts = await store.outbox.counts()
    found = await scenarios.get_scenarios()
    names = {path.name for path in await asyncio.to_thread(lambda: list(scenarios._settings.scenarios_dir.iterdir()))}
    return counts.unsent == 0 and {status["scenario_id"] for status in found} >= names


async def report(progress: TransferStatus) -> None:
    tell(
        "under way",
        scenario=progress.scenario_id,
        part=progress.part,
        phase=progress.phase,
        done=progress.done_bytes,
        total=progress.total_bytes,
    )


if __name__ == "__main__":
    logging.basicConfig(level=logging.WARNING, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    main()
