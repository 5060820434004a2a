"""A process that uses data and says how much, until somebody kills it: `python -m … STATE_DIR LIMIT CHUNK`."""

import asyncio
import sys
from itertools import count
from pathlib import Path

from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock


async def main(state_dir: Path, limit_bytes: int, chunk_bytes: int) -> None:
    settings = CloudSettings.model_validate({"data_budget": {"any": {"day": limit_bytes, "month": limit_bytes}}})
    clock = FakeClock()  # a day may turn while a test runs
    async with Store(state_dir) as store:
        policy = TransferPolicy(store.documents, settings, clock=clock, bus_address="unix:path=/nowhere")
        await policy.prepare()
        for number in count(1):
            policy.count(chunk_bytes, 0)
            sys.stdout.write(f"{number * chunk_bytes}\n")
            sys.stdout.flush()
            if policy.duty.wake.is_set():
                policy.duty.wake.clear()
                await policy.step()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3])))
