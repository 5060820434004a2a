"""A look into the state folder, or a change to its outbox, from outside, whether or not an agent runs on it."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory

from pydantic import ValidationError

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.payloads import MalformedJSONError, read_json
from sentinel_sync.cli.arguments import program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import err
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.profiles.backend_copy import RemoteProfiles
from sentinel_sync.profiles.commands import ForgetCommands, SyncCommands
from sentinel_sync.profiles.files import ProfileFolder, SerialExecutor
from sentinel_sync.profiles.forgetting import Forgetter
from sentinel_sync.profiles.keys import LegacyKeys, ProfileCipher, key_provider
from sentinel_sync.profiles.merge_session import ClockReading, MergeSession
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.profiles.records import ProfileOverview, ProfileRecords
from sentinel_sync.profiles.rules.descent import Keep
from sentinel_sync.scenarios.consent import ConsentRecord, WithdrawalMark
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.plan import missing_consent
from sentinel_sync.scenarios.rules.status import UploadConditions
from sentinel_sync.settings import CloudSettings
from sentinel_sync.status import STATUS_NAME, AgentStatus
from sentinel_sync.store.database import Database
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.outbox import Outbox
from sentinel_sync.store.store import DATABASE_NAME, Store, is_locked, lock_owner


@dataclass(frozen=True, slots=True)
class OpenFolder:
    """The parts of an opened state folder."""

    outbox: Outbox
    documents: Documents


@asynccontextmanager
async def opened(settings: CloudSettings, *, writable: bool, or_empty: bool = False) -> AsyncIterator[OpenFolder]:
    """Open the folder beside a running agent; creates nothing.

    Args:
        settings: They name the folder.
        writable: False for a look: not even the schema is brought up to date then.
        or_empty: Where there is no outbox, look into an empty one: for lists, of which one with nothing is no error.

    Raises:
        CommandError: There is no outbox there.
        StoreError: It cannot be opened.
    """
    path = settings.state_dir / DATABASE_NAME
    if not await asyncio.to_thread(path.is_file):
        if not or_empty:
            raise CommandError(nothing_there(settings.state_dir))
        with TemporaryDirectory() as folder:
            async with Store(Path(folder), exclusive=False) as store:
                yield OpenFolder(store.outbox, store.documents)
        return
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


def tell_if_new(settings: CloudSettings) -> None:
    """Beside a list say where no agent has ever run: it may be another folder that was meant. Blocks shortly."""
    if not (settings.state_dir / DATABASE_NAME).is_file():
        err(f"{nothing_there(settings.state_dir)}\n")


def runs(settings: CloudSettings) -> bool:
    """Whether an agent runs on the folder now. Blocks shortly, creates nothing."""
    return is_locked(settings.state_dir)


def held_by_agent(settings: CloudSettings) -> bool:
    """Whether whoever holds the folder is an agent, and not another command. Blocks shortly."""
    try:
        said = read_json((settings.state_dir / STATUS_NAME).read_bytes())
    except (OSError, MalformedJSONError):
        return False
    owner = lock_owner(settings.state_dir)
    return isinstance(said, dict) and owner is not None and said.get("process_id") == owner


def last_said(settings: CloudSettings) -> AgentStatus | None:
    """What the agent last said of itself, or None where that cannot be read. Blocks shortly."""
    try:
        return AgentStatus.model_validate_json((settings.state_dir / STATUS_NAME).read_bytes())
    except (OSError, ValidationError):
        return None


@dataclass(frozen=True, slots=True)
class Books:
    """The record of scenarios, and of the driver's decisions.

    Attributes:
        outbox: What is queued, of whatever kind.
        records: Plans and items.
        record: Decisions.
    """

    outbox: Outbox
    records: ScenarioRecords
    record: ConsentRecord

    @classmethod
    def of(cls, settings: CloudSettings, outbox: Outbox, documents: Documents) -> "Books":
        """Open them over a store."""
        clock = SystemClock()
        records = ScenarioRecords(documents, outbox, clock)
        return cls(
            outbox,
            records,
            ConsentRecord(documents, clock, WithdrawalMark(settings.scenarios_dir)),
        )


@asynccontextmanager
async def read(settings: CloudSettings, *, or_empty: bool = False) -> AsyncIterator[Books]:
    """Open them for a look, as `opened`; nothing is made or changed.

    Raises:
        CommandError: No agent has ever run there.
    """
    async with opened(settings, writable=False, or_empty=or_empty) as folder:
        yield Books.of(settings, folder.outbox, folder.documents)


@asynccontextmanager
async def changed(settings: CloudSettings) -> AsyncIterator[Books]:
    """Open them for a change, beside a running agent or before the first one."""
    async with Store(settings.state_dir, max_bytes=settings.outbox_max_bytes, exclusive=False) as store:
        yield Books.of(settings, store.outbox, store.documents)


async def conditions(settings: CloudSettings, books: Books) -> UploadConditions:
    """What concerns all scenarios now: a running agent's word, or what the record says."""
    forbidden = missing_consent(await books.record.load(), settings.policy_version)
    if not settings.upload_scenarios:
        forbidden = "cloud.upload_scenarios is false"
    if not await asyncio.to_thread(runs, settings):
        return UploadConditions(held=forbidden, paused="no agent is running")
    said = await asyncio.to_thread(last_said, settings)
    if said is None:
        return UploadConditions(held=forbidden)
    shown = said.scenarios
    paused = said.connectivity.gate_reason or None
    if shown is None:
        return UploadConditions(held=forbidden, paused=paused)
    return UploadConditions(forbidden or shown.held, paused, shown.under_way)


@dataclass(frozen=True, slots=True)
class ProfileBooks:
    """What is kept of profiles, beside a running agent or before the first one.

    Attributes:
        settings: They name the folders and the keys.
        documents: Where it lies.
        records: What is kept of each driver.
        to_forget: Whom the backend is still to forget.
        to_sync: What the running agent is asked to sync.
        cipher: The keys.
    """

    settings: CloudSettings
    documents: Documents
    records: ProfileRecords
    to_forget: ForgetCommands
    to_sync: SyncCommands
    cipher: ProfileCipher

    @classmethod
    def of(cls, settings: CloudSettings, documents: Documents) -> "ProfileBooks":
        """Open them over a store."""
        return cls(
            settings,
            documents,
            ProfileRecords(documents),
            ForgetCommands(documents),
            SyncCommands(documents),
            _cipher(settings),
        )

    async def forget_here(self, driver_id: str) -> None:
        """Forget a driver on this vehicle, and leave it to the running agent to tell the backend.

        Raises:
            ProfileError: The file cannot be removed; the order stands.
            StoreError: The order cannot be written; nothing was done.
            ConfigurationError: There are no keys to be had.
        """
        clock = SystemClock()
        now = round(clock.now() * 1_000_000)
        async with CloudAPIClient(settings=self.settings) as client:
            forgetter = Forgetter(
                RemoteProfiles(client),
                self.records,
                self.to_forget,
                ProfileFolder(self.settings.profiles_dir),
                SerialExecutor(),
                vehicle=self.settings.vehicle_id,
                clock=clock,
            )
            # The agent, which knows the backend's clock, puts the time right.
            await forgetter.forget_here(await self.cipher.keyring(), driver_id, ClockReading(now, now, is_true=False))

    async def resolve(self, driver_id: str, keep: Keep) -> None:
        """Write down what a person decides about a profile; the running agent carries it out.

        Raises:
            ProfileError: The profile cannot be used.
            StoreError: It cannot be written.
            ConfigurationError: There are no keys to be had.
        """
        keyring, folder = await self.cipher.keyring(), ProfileFolder(self.settings.profiles_dir)
        session = MergeSession(driver_id, self.settings.vehicle_id, keyring)
        file = await SerialExecutor().do(folder.read, driver_id)
        await self.records.resolve(keyring, driver_id, session.resolution(keep, None if file is None else file.profile))


@asynccontextmanager
async def looked_into(settings: CloudSettings) -> AsyncIterator[ProfileOverview]:
    """Open the books for a look, also where no agent has ever run; nothing is made or changed."""
    folder = ProfileFolder(settings.profiles_dir)
    if await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        async with opened(settings, writable=False) as state:
            yield ProfileOverview(folder, state.documents, _cipher(settings), settings.vehicle_id)
    else:
        yield ProfileOverview(folder, None, _cipher(settings), settings.vehicle_id)


@asynccontextmanager
async def beside_agent(settings: CloudSettings) -> AsyncIterator[ProfileBooks]:
    """Open the books for a change, beside a running agent.

    Raises:
        CommandError: The agent takes its keys from somewhere else: it could not read what is written here.
    """
    async with Store(settings.state_dir, max_bytes=settings.outbox_max_bytes, exclusive=False) as store:
        books = ProfileBooks.of(settings, store.documents)
        said = await asyncio.to_thread(last_said, settings)
        if said is not None and said.profiles is not None and said.profiles.keys != books.cipher.source:
            raise CommandError(
                f"the running agent has its profile keys from {said.profiles.keys}, this command from"
                f" {books.cipher.source}: give it the same settings and environment",
                ExitCode.USAGE,
            )
        yield books


@asynccontextmanager
async def without_agent(settings: CloudSettings) -> AsyncIterator[ProfileSynchronizer]:
    """A synchronizer of one's own; the state folder's lock keeps an agent from starting meanwhile."""
    async with (
        Store(settings.state_dir, max_bytes=settings.outbox_max_bytes) as store,
        CloudAPIClient(settings=settings) as client,
    ):
        if not settings.enabled:
            client.halt("disabled", "cloud.enabled is false")
        await client.refresh_credential()
        yield ProfileSynchronizer(client, store)


async def agent_runs(settings: CloudSettings) -> bool:
    """Whether an agent runs on the state folder now."""
    return await asyncio.to_thread(runs, settings)


def _cipher(settings: CloudSettings) -> ProfileCipher:
    return ProfileCipher(key_provider(settings, SystemClock()), LegacyKeys([settings.vehicle_id]))
