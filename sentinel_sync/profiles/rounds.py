"""Syncs the folder's files in batches, and remembers which of them the backend has as they are."""

import logging
from collections.abc import Awaitable, Callable, Sequence
from contextlib import AbstractAsyncContextManager, AsyncExitStack

from sentinel_sync.base.errors import CloudError, SentinelSyncError, StoreError
from sentinel_sync.profiles.cipher import Keyring, ProfileCipher
from sentinel_sync.profiles.executor import SerialExecutor
from sentinel_sync.profiles.file_sync import FileSync, Outcome
from sentinel_sync.profiles.files import ProfileFolder
from sentinel_sync.profiles.watch import FolderWatch

logger = logging.getLogger(__name__)

#: So many profiles take each step together: what they take in memory (a file has at most 1 MiB), and what each may have
#: to wait, is bounded. One batch after the other: where a second one computed while the first made its requests, each
#: request waited for the interpreter, and 1,000 profiles took 6.9 s instead of 4.
_BATCH = 64


class FolderRounds:
    """One folder's files, synced as many as are asked for.

    Args:
        folder: Where they lie.
        files: Syncs a batch.
        cipher: The keys.
        bench: Where what blocks is done.
        lock: Holds one driver's profile.
        why_not: Says why nothing may be sent now, or None.

    Attributes:
        watch: What lies in the folder and what of it the backend has.
    """

    def __init__(
        self,
        folder: ProfileFolder,
        files: FileSync,
        cipher: ProfileCipher,
        bench: SerialExecutor,
        *,
        lock: Callable[[str], AbstractAsyncContextManager[None]],
        why_not: Callable[[], Awaitable[str | None]],
    ) -> None:
        self._folder = folder
        self._files = files
        self._cipher = cipher
        self._bench = bench
        self._lock = lock
        self._why_not = why_not
        self.watch = FolderWatch()

    async def look(self) -> None:
        """Take in what lies in the folder now.

        Raises:
            ProfileError: It cannot be read.
        """
        self.watch.look(await self._bench.do(self._folder.signatures))

    async def sync(self, driver_ids: Sequence[str]) -> int:
        """Sync these drivers' files; returns how many are now as the backend has them.

        One that cannot be used is reported in the log and costs only itself. It ends early where the way to the backend
        is closed.

        Raises:
            StoreError: What is to be kept cannot be.
            ConfigurationError: There are no keys to be had.
        """
        if not driver_ids:
            return 0
        keyring = await self._cipher.keyring()  # a missing key is one error, not one per profile
        outcomes: dict[str, Outcome] = {}
        for start in range(0, len(driver_ids), _BATCH):
            done = await self._batch(driver_ids[start : start + _BATCH])
            outcomes |= done
            if await self._why_not() is not None or any(isinstance(one, StoreError) for one in done.values()):
                break
        errors = [outcome for outcome in outcomes.values() if isinstance(outcome, SentinelSyncError)]
        for driver_id, outcome in outcomes.items():
            self._note(keyring, driver_id, outcome)
        if errors:
            logger.warning("profiles.left: %d of %d not synced; the first: %s", len(errors), len(driver_ids), errors[0])
        return sum(isinstance(outcome, tuple) for outcome in outcomes.values())

    async def _batch(self, driver_ids: Sequence[str]) -> dict[str, Outcome]:
        async with AsyncExitStack() as stack:
            for driver_id in driver_ids:
                await stack.enter_async_context(self._lock(driver_id))
            return await self._files.run(driver_ids)

    async def remove_forgotten(self) -> None:
        """Remove files of drivers that are known here as forgotten, without asking anybody.

        Raises:
            StoreError: What is known cannot be read.
        """
        for driver_id in self.watch.changed():
            async with self._lock(driver_id):
                try:
                    await self._files.remove_forgotten(driver_id)
                except StoreError:
                    raise
                except SentinelSyncError as error:  # a broken file of one driver must not keep the others' from going
                    self.watch.note(driver_id, error)

    def _note(self, keyring: Keyring, driver_id: str, outcome: Outcome) -> None:
        self.watch.note(driver_id, outcome)
        match outcome:
            case StoreError():
                raise outcome
            case CloudError():
                return  # one line for all of them: it is the network's fault
            case SentinelSyncError():
                logger.warning("profiles.unusable: profile %s: %s", keyring.reference(driver_id)[:8], outcome)
