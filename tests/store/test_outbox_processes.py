"""What a kill leaves behind, and several processes on one outbox."""

import asyncio
import json
import subprocess
import sys
from pathlib import Path

from sentinel_sync.store.outbox import ItemState, NewItem
from sentinel_sync.store.store import Store

KILLS = 60
REPOSITORY = Path(__file__).parents[2]

ADDER = """
import asyncio, sys
from pathlib import Path
from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store

async def main(folder, name):
    async with Store(Path(folder), exclusive=False) as store:
        for number in range(100):
            assert await store.outbox.put(NewItem("trip", f"{name}-{number}", b"{}"))

asyncio.run(main(*sys.argv[1:]))
"""


def test_whatever_was_acknowledged_survives_kill_9_at_any_moment(tmp_path: Path) -> None:
    work = subprocess.run(
        [sys.executable, "-m", "tests.store.outbox_worker", str(tmp_path / "state"), str(KILLS), "7"],
        cwd=REPOSITORY,
        capture_output=True,
        text=True,
        timeout=60,
        check=False,
    )
    assert work.returncode == 0, work.stderr
    acknowledged = json.loads(work.stdout)
    assert len(acknowledged) >= KILLS

    async def found() -> tuple[list[str], int]:
        async with Store(tmp_path / "state") as store:
            items = await store.outbox.items(limit=1_000_000)
            assert store.salvaged is None
            assert await store.outbox.verify() == []
            assert all(item.body == item.key.encode() * 40 for item in items), "each is whole"
            return [item.key for item in items], (await store.outbox.counts()).sending

    keys, sending = asyncio.run(found())
    assert sending == 0, "what a killed process was sending waits again"
    assert len(keys) == len(set(keys))
    assert set(acknowledged) <= set(keys)


async def test_several_processes_add_while_one_sends(tmp_path: Path) -> None:
    folder = tmp_path / "state"
    async with Store(folder) as store:
        adders = [
            await asyncio.create_subprocess_exec(sys.executable, "-c", ADDER, str(folder), f"p{number}", cwd=REPOSITORY)
            for number in range(3)
        ]
        sent: list[str] = []
        running = asyncio.gather(*(adder.wait() for adder in adders))
        while not running.done() or (await store.outbox.counts()).waiting:
            claimed = await store.outbox.claim("trip", 16)
            sent += [item.key for item in claimed]
            await store.outbox.acknowledge("trip", [item.seq for item in claimed])
            await asyncio.sleep(0.001)
        assert await running == [0, 0, 0]
        assert sorted(sent) == sorted(f"p{process}-{number}" for process in range(3) for number in range(100))
        assert (await store.outbox.counts()).acknowledged == 300


async def test_an_agent_notices_what_another_process_put(tmp_path: Path) -> None:
    async with Store(tmp_path) as agent, Store(tmp_path, exclusive=False) as other:
        before = await agent.outbox.data_version()
        await agent.outbox.put(NewItem("trip", "own", b"{}"))
        assert await agent.outbox.data_version() == before, "its own writing is no news"
        await other.outbox.put(NewItem("trip", "theirs", b"{}"))
        assert await agent.outbox.data_version() != before


async def test_a_look_from_outside_takes_nothing_away_from_the_agent(tmp_path: Path) -> None:
    async with Store(tmp_path) as agent:
        await agent.outbox.put(NewItem("trip", "a", b"{}"))
        await agent.outbox.claim("trip", 1)
        async with Store(tmp_path, exclusive=False) as other:
            assert [item.state for item in await other.outbox.items()] == [ItemState.SENDING]
