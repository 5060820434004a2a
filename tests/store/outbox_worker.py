"""Run as a process by test_outbox_processes.py: puts items, says which are acknowledged to it, until it is killed.

It forks its workers, because a fork starts in a millisecond where an interpreter takes a second to import the package.
"""

import asyncio
import json
import os
import random
import signal
import sys
from pathlib import Path

from sentinel_sync.store.outbox import NewItem
from sentinel_sync.store.store import Store


async def put_for_ever(folder: Path, name: str, told: int) -> None:
    async with Store(folder) as store:
        os.write(told, b"open\n")
        number = 0

        async def caller(which: int) -> None:
            nonlocal number
            while True:
                number += 1
                key = f"{name}-{which}-{number}"
                await store.outbox.put(NewItem("trip", key, key.encode() * 40))
                os.write(told, f"{key}\n".encode())
                if number % 7 == 0:
                    claimed = await store.outbox.claim("trip", 3)
                    await store.outbox.release([item.seq for item in claimed[:1]])

        await asyncio.gather(*(caller(which) for which in range(5)))


def fork_and_kill(folder: Path, name: str, lines: int) -> list[str]:
    """Let one worker run until it has told of so many keys, kill it, and return all that it told."""
    reading, writing = os.pipe()
    worker = os.fork()
    if worker == 0:
        os.close(reading)
        try:
            asyncio.run(put_for_ever(folder, name, writing))
        finally:
            os._exit(1)
    os.close(writing)
    text = b""
    with os.fdopen(reading, "rb", buffering=0) as pipe:
        while text.count(b"\n") <= lines and (more := pipe.read(4096)):
            text += more
        os.kill(worker, signal.SIGKILL)
        while more := pipe.read(4096):  # what it had told before it died
            text += more
    os.waitpid(worker, 0)
    told = text.decode().split("\n")[:-1]
    assert told[0] == "open", "the store of a killed process was opened without ado"
    return told[1:]


def main(folder: Path, rounds: int, seed: int) -> None:
    chance = random.Random(seed)
    acknowledged = [
        key for number in range(rounds) for key in fork_and_kill(folder, f"round{number}", chance.randint(0, 60))
    ]
    sys.stdout.write(json.dumps(acknowledged))


if __name__ == "__main__":
    main(Path(sys.argv[1]), int(sys.argv[2]), int(sys.argv[3]))
