"""kill -9 before each single change that a check makes on disk: what is left is neither unusable nor a way back."""

import asyncio
import json
import sys
import time
from pathlib import Path
from typing import Any

from tests.fakes.cloud import Answer, FakeCloud
from tests.fakes.tuf_repository import TufRepository
from tests.fakes.wire_rules import Seen
from tests.models.tuf.vehicle import offer

#: Seconds for one process to check.
PATIENCE = 20.0
#: A check changes at least so many things: roots and other files, each written and renamed, links, documents.
FEWEST_CHANGES = 20


class Checker:
    """The process that forks those that check."""

    def __init__(self, process: asyncio.subprocess.Process, url: str) -> None:
        self._process = process
        self._url = url

    async def check(self, *folders: str, kill_at: int = 0) -> dict[str, Any]:
        """A process that checks what the host serves below each folder in turn."""
        assert self._process.stdin is not None
        assert self._process.stdout is not None
        order = {"urls": [f"{self._url}/{folder}/metadata/" for folder in folders], "kill_at": kill_at}
        self._process.stdin.write(json.dumps(order).encode() + b"\n")
        async with asyncio.timeout(PATIENCE):
            line = await self._process.stdout.readline()
        answer: dict[str, Any] = json.loads(line)
        return answer


async def test_a_check_that_is_killed_at_any_step(cloud: FakeCloud, stranger: FakeCloud, tmp_path: Path) -> None:
    repository = TufRepository(time.time())
    served: dict[str, dict[str, bytes]] = {"now": repository.files}

    def serve(seen: Seen) -> Answer:
        _, folder, path = seen.path.split("/", 2)
        content = served[folder].get(f"/{path}")
        return Answer(404) if content is None else Answer(200, content)

    stranger.handler = serve
    root_file = tmp_path / "root.json"
    await asyncio.to_thread(root_file.write_bytes, repository.anchor)
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.models.tuf.process",
        str(tmp_path / "state"),
        cloud.url,
        str(root_file),
        stdin=asyncio.subprocess.PIPE,
        stdout=asyncio.subprocess.PIPE,
    )
    try:
        checker = Checker(process, stranger.url)
        offer(repository, "v1")
        assert (await checker.check("now"))["found"] == [{"known": [], "offered": ["v1"]}]
        step, was_killed = 0, True
        while was_killed:
            step += 1
            served["past"] = dict(repository.files)
            old = [f"v{number}" for number in range(1, step + 1)]
            repository.set_keys("targets", 1)
            repository.publish_root()
            offer(repository, f"v{step + 1}")
            was_killed = (await checker.check("now", kill_at=step))["killed"]
            # The old listing or the new one, then all of the new one; and then there is no way back.
            after, back = (await checker.check("now", "past"))["found"]
            new = sorted([*old, f"v{step + 1}"])
            assert after["known"] in (sorted(old), new), step
            assert after["offered"] == new, step
            assert "VerificationError: the TUF repository is refused" in back["error"], step
        assert step > FEWEST_CHANGES
    finally:
        assert process.stdin is not None
        process.stdin.close()
        await process.wait()
