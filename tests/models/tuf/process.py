"""Checks a TUF repository in processes that are killed: `python -m tests.models.tuf.process STATE API ROOT`.

This process only imports everything and then waits. For each line on its standard input, URLs of metadata and a
number, it forks one that checks each; before that one changes a file or a document for the number-th time, it kills
itself with SIGKILL (0: never). What it found, or that it was killed, is told in one line.
"""

import asyncio
import json
import os
import signal
import sys
from pathlib import Path
from typing import Any

from pydantic import SecretStr

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.models.sources import ReleaseListing
from sentinel_sync.models.tuf import refresh as tuf_refresh  # noqa: F401 - loads python-tuf, so that no fork has to
from sentinel_sync.models.tuf.source import TufReleases
from sentinel_sync.settings import CloudSettings, ModelSource
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.store import Store
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE

#: What python-tuf does to its cache, as the interpreter's audit hooks call it; beside opening files to write them.
CHANGES = frozenset({"os.remove", "os.rename", "os.symlink", "os.mkdir"})


def main() -> None:
    state, api_url, root_file = sys.argv[1:]
    for line in iter(sys.stdin.readline, ""):
        order = json.loads(line)
        reader, writer = os.pipe()
        process = os.fork()
        if process == 0:
            os.close(reader)
            run(Path(state), api_url, Path(root_file), order, writer)
        os.close(writer)
        with os.fdopen(reader) as told:
            answer = json.loads(told.read() or "[]")
        code = os.waitstatus_to_exitcode(os.waitpid(process, 0)[1])
        sys.stdout.write(json.dumps({"found": answer, "killed": code == -signal.SIGKILL, "code": code}) + "\n")
        sys.stdout.flush()


def run(state: Path, api_url: str, root_file: Path, order: dict[str, Any], writer: int) -> None:
    """In the forked process: one check."""
    code = 1
    try:
        # The orders are the parent's to read.
        os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
        answer = asyncio.run(check(state, api_url, root_file, order))
        os.write(writer, json.dumps(answer).encode())
        code = 0
    finally:
        os._exit(code)


async def check(state: Path, api_url: str, root_file: Path, order: dict[str, Any]) -> list[dict[str, Any]]:
    """What a process that starts now knows, and is offered, for each URL."""
    settings = CloudSettings(
        api_url=api_url, api_key=SecretStr(API_KEY), vehicle_id=VEHICLE, fleet_id=FLEET, state_dir=state
    )
    clock, found = SystemClock(), list[dict[str, Any]]()
    async with CloudAPIClient(settings=settings) as client, Store(state, clock=clock) as store:
        if order["kill_at"]:
            kill_at(order["kill_at"], str(state / "tuf"))
        for url in order["urls"]:
            source = ModelSource(source="tuf", metadata_url=url, root_file=root_file)
            offers = TufReleases(client, store.documents, clock, source=source, folder=state / "tuf")
            await offers.open()
            known = versions_of(offers.last)
            try:
                found.append({"known": known, "offered": versions_of(await offers.ask())})
            except SentinelSyncError as error:
                found.append({"known": known, "error": f"{type(error).__name__}: {error}"})
    return found


def versions_of(offer: ReleaseListing | None) -> list[str]:
    return [] if offer is None else [release.version for release in offer.releases]


def kill_at(number: int, folder: str) -> None:
    """Be killed before the number-th change of a file below the folder, or of a document."""
    left = number

    def count() -> None:
        nonlocal left
        left -= 1
        if left == 0:
            os.kill(os.getpid(), signal.SIGKILL)

    def hook(event: str, arguments: tuple[Any, ...]) -> None:
        opens = event == "open" and isinstance(arguments[2], int) and arguments[2] & (os.O_WRONLY | os.O_RDWR)
        if (opens or event in CHANGES) and any(folder in str(argument) for argument in arguments[:2]):
            count()

    save = Documents.save

    async def saving(*arguments: Any) -> None:
        count()
        await save(*arguments)
        count()

    Documents.save = saving  # type: ignore[assignment, method-assign]
    sys.addaudithook(hook)


if __name__ == "__main__":
    main()
