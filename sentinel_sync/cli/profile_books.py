"""What is on record of driver profiles, opened from outside, whether or not an agent runs."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from dataclasses import dataclass

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.state_folder import last_said, opened, runs
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.profiles.backend_copy import RemoteProfiles
from sentinel_sync.profiles.commands import ForgetCommands, SyncCommands
from sentinel_sync.profiles.files import ProfileFolder, SerialExecutor
from sentinel_sync.profiles.forgetting import Forgetter
from sentinel_sync.profiles.keys import LegacyKeys, ProfileCipher, key_provider
from sentinel_sync.profiles.merge_session import ClockReading
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.profiles.records import ProfileOverview, ProfileRecords
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.store import DATABASE_NAME, Store


@dataclass(frozen=True, slots=True)
class ProfileBooks:
    """What is kept of profiles, beside a running agent or before the first one.

    Attributes:
        settings: They name the folders and the keys.
        records: What is kept of each driver.
        to_forget: Whom the backend is still to forget.
        to_sync: What the running agent is asked to sync.
        cipher: The keys.
    """

    settings: CloudSettings
    records: ProfileRecords
    to_forget: ForgetCommands
    to_sync: SyncCommands
    cipher: ProfileCipher

    @classmethod
    def of(cls, settings: CloudSettings, documents: Documents) -> "ProfileBooks":
        """Open them over a store."""
        return cls(
            settings, ProfileRecords(documents), ForgetCommands(documents), SyncCommands(documents), _cipher(settings)
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


@asynccontextmanager
async def looked_into(settings: CloudSettings) -> AsyncIterator[ProfileOverview]:
    """Open the books for a look, also where no agent has ever run; nothing is made or changed."""
    folder = ProfileFolder(settings.profiles_dir)
    if await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        async with opened(settings, writable=False) as state:
            yield ProfileOverview(folder, state.documents, _cipher(settings))
    else:
        yield ProfileOverview(folder, None, _cipher(settings))


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
