"""A vehicle that installs, validates and rolls back models for as long as it lives.

`python -m tests.soak.model_vehicle CONFIG DIARY`: as `tests.soak.vehicle` it imports everything once, and forks a
process for each line on its standard input. It tells what it is doing, for whoever wants to kill it just then. What is
durable, by the word of the calls that have returned, it writes into the diary.
"""

import asyncio
import json
import logging
import os
import sys
from pathlib import Path
from random import Random
from typing import Any

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import CloudError, VerificationError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.models.commands import ModelCommand, ModelCommands
from sentinel_sync.models.installed import ModelRecords
from sentinel_sync.models.model_downloader import ModelDownloader
from sentinel_sync.models.rules.installed import InstallResult, ModelRecord
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import CloudSettings, Settings
from sentinel_sync.store.store import Store
from tests.soak.vehicle import Diary, tell

logger = logging.getLogger(__name__)

NAME = "detector"
#: Seconds after which nobody is left who would kill it.
LIFE = 60.0
#: What the network broke off is gone on with so often before something else is done.
ATTEMPTS = 5
#: This share of what is done are rollbacks.
ROLLBACKS = 0.3
#: This share of the rollbacks is ordered.
ORDERS = 0.5
#: Seconds of rest between two things to do, at most.
REST = 0.1
#: Seconds between two looks at what is under way.
GLANCE = 0.001


def main() -> None:
    settings, diary = Settings.load(sys.argv[1]), sys.argv[2]
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        process = os.fork()
        if process == 0:
            run(settings, diary, order)
        tell("forked", process_id=process)
        _, status = os.waitpid(process, 0)
        tell("ended", code=os.waitstatus_to_exitcode(status))


def run(settings: Settings, diary: str, order: dict[str, Any]) -> None:
    """In the forked process: an agent's whole life."""
    code = 1
    try:
        # The orders are the parent's to read.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        asyncio.run(live(settings, Diary(diary), order))
        code = 0
    except BaseException:
        logger.exception("the vehicle's process failed")
    finally:
        os._exit(code)


async def live(settings: Settings, diary: Diary, order: dict[str, Any]) -> None:
    match order:
        case {"look": True}:
            await repair(settings.cloud)
        case {"versions": [*versions], "seed": seed}:
            async with asyncio.timeout(LIFE), SyncAgent(settings) as agent:
                await Vehicle(agent, diary).drive(versions, Random(seed))
        case {"finish": version}:
            async with asyncio.timeout(LIFE), SyncAgent(settings) as agent:
                await Vehicle(agent, diary).finish(version)


async def repair(settings: CloudSettings) -> None:
    """Do what an agent does with models at its start, and nothing more: what it does later would be in the way."""
    async with (
        asyncio.timeout(LIFE),
        Store(settings.state_dir) as store,
        CloudAPIClient(settings=settings) as client,
    ):
        await ModelDownloader(client, False, foundation=Foundation.of(client, store, supervised=True)).prepare()


class Vehicle:
    """One life."""

    def __init__(self, agent: SyncAgent, diary: Diary) -> None:
        self._agent = agent
        self._models = agent.models
        self._orders = ModelCommands(agent.store.documents)
        self._diary = diary
        self._rolling_back = False

    async def drive(self, versions: list[str], rng: Random) -> None:
        """One thing after the other, until the end comes from outside."""
        watching = asyncio.create_task(self._watch())
        for placed in await self._orders.waiting():
            await self._obeyed(placed.key)
        while not watching.done():
            if rng.random() < ROLLBACKS:
                await self._roll_back(by_order=rng.random() < ORDERS)
            else:
                await self._install(rng.choice(versions))
            await asyncio.sleep(rng.uniform(0.0, REST))
        await watching

    async def finish(self, version: str) -> None:
        """Bring this version into use, and stay until it is proven."""
        while not (await self._install(version)) or (await self._record()).probation is not None:  # noqa: ASYNC110
            await asyncio.sleep(REST)
        # As a check does: what no listed release has of half-done files is deleted.
        await self._models.check_for_updates()

    async def _install(self, version: str) -> bool:
        if any(bad.version == version for bad in (await self._record()).bad):
            await self._models.forgive(NAME, version)
        try:
            await self._models.pin(NAME, version)
        except VerificationError:
            return False  # it was found bad just now
        self._diary.write(begun=version)
        result = InstallResult(False, NAME, version)
        for _ in range(ATTEMPTS):
            # What fails on purpose need not wait for its backoff: only time would pass.
            self._agent.client.gate.on_reachable()
            result = await self._models.download_and_install_model(NAME, version)
            if not isinstance(result.error, CloudError):
                break
        await self._promise()
        return result.installed

    async def _roll_back(self, *, by_order: bool) -> None:
        """Take a model back: by a call, or as the command line has it done, by an order that is carried out once."""
        record = await self._record()
        # Else what is in use may change meanwhile, and with it what a rollback leads to.
        settled = record.previous is not None and record.probation is None and record.staged is None
        self._rolling_back = True
        if by_order and settled and record.previous is not None:
            self._diary.write(begun="the previous one", ordered=record.previous.version)
            key = await self._orders.place(ModelCommand("rollback", NAME))
            self._models.wake()
            await self._obeyed(key)
        else:
            self._diary.write(begun="the previous one")
            await self._models.rollback(NAME)
        self._rolling_back = False
        await self._promise()

    async def _obeyed(self, key: str) -> None:
        """Wait until an order was carried out, and write down what is in use then."""
        while await self._orders.outcome(key) is None:  # noqa: ASYNC110  # it is another process that would wait
            await asyncio.sleep(GLANCE)
        installed = (await self._record()).installed
        self._diary.write(obeyed=None if installed is None else installed.version)

    async def _promise(self) -> None:
        """Write down what may be in use from now on, whenever this process is killed."""
        record = await self._record()
        if record.installed is None:
            return
        may_be = {record.installed.version}
        if record.probation is not None and record.previous is not None:
            may_be.add(record.previous.version)
        if record.staged is not None:
            may_be.add(record.staged.release.version)
        self._diary.write(promised=sorted(may_be))

    async def _record(self) -> ModelRecord:
        records = ModelRecords(self._agent.store.documents)
        await records.load()
        return records.of(NAME)

    async def _watch(self) -> None:
        """Tell what is being done, as soon as that changes."""
        versions = self._agent.settings.cloud.models_dir / "versions" / NAME
        told = ""
        while True:
            doing = self._doing(versions)
            if doing != told:
                tell("doing", doing=doing)
                told = doing
            await asyncio.sleep(GLANCE)

    def _doing(self, versions: Path) -> str:
        if self._rolling_back:
            return "rollback"
        under_way = next((shown.under_way for shown in self._models.snapshot() if shown.under_way is not None), None)
        if under_way is None:
            return "nothing"
        if under_way.phase == "downloading" and any(versions.glob(".*.patched.part")):
            return "patching"
        return under_way.phase


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR, format="%(asctime)s %(process)d %(levelname)s %(message)s")
    main()
