"""A look into the state folder, or a change to its outbox, from outside, whether or not an agent runs on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from pydantic import ValidationError

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.cli.arguments import program
from sentinel_sync.cli.exit_codes import CommandError
from sentinel_sync.settings import CloudSettings
from sentinel_sync.status import STATUS_NAME, AgentStatus
from sentinel_sync.store.database import Database
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.outbox import Outbox
from sentinel_sync.store.store import DATABASE_NAME, is_locked


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """The parts of an opened state folder."""

    outbox: Outbox
    documents: Documents


@asynccontextmanager
async def opened(settings: CloudSettings, *, writable: bool) -> AsyncIterator[OpenFolder]:
    """Open the folder beside a running agent; creates nothing.

    Args:
        settings: They name the folder.
        writable: False for a look: not even the schema is brought up to date then.

    Raises:
        CommandError: There is no outbox there.
        StoreError: It cannot be opened.
    """
    path = settings.state_dir / DATABASE_NAME
    if not await asyncio.to_thread(path.is_file):
        raise CommandError(nothing_there(settings.state_dir))
    clock = SystemClock()
    database = Database(path, writable=writable)
    await database.open()
    try:
        yield OpenFolder(Outbox(database, clock, settings.outbox_max_bytes), Documents(database, clock))
    finally:
        await database.close()


def nothing_there(state_dir: Path) -> str:
    """What to say where no agent has ever run."""
    return (
        f"there is no outbox in the state folder {state_dir}: no agent has run on it yet. "
        f"Check cloud.state_dir and the working directory, or start one with `{program()} run`"
    )


def runs(settings: CloudSettings) -> bool:
    """Whether an agent runs on the folder now. Blocks shortly, creates nothing."""
    return is_locked(settings.state_dir)


def last_said(settings: CloudSettings) -> AgentStatus | None:
    """What the agent last said of itself, or None where that cannot be read. Blocks shortly."""
    try:
        return AgentStatus.model_validate_json((settings.state_dir / STATUS_NAME).read_bytes())
    except (OSError, ValidationError):
        return None
