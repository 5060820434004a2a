"""Orders that outlive the process which was given them: whom to forget, and what the command line wants synced."""

import logging
from dataclasses import dataclass

from pydantic import TypeAdapter, ValidationError

from sentinel_sync.base.errors import ProfileError
from sentinel_sync.profiles.keys import Keyring
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

FORGET = "profile.forget"
SYNC = "profile.sync"
#: The key of an order to sync all.
ALL = "all"


@dataclass(frozen=True, slots=True)
class ForgetCommand:
    """A driver to be forgotten at the backend; on this vehicle that was done before.

    Attributes:
        driver_id: Whose profile goes.
        at: When the order was given, microseconds since the epoch.
        after: When the driver was forgotten before, 0 where never.
        deletes: Whether deletion is to be asked for: False once the backend has said that it does not offer it.
        asked: Whether it was asked for.
    """

    driver_id: str
    at: int
    after: int = 0
    deletes: bool = True
    asked: bool = False


@dataclass(frozen=True, slots=True)
class SyncCommand:
    """An order to sync now, given by another process, and then its answer.

    Attributes:
        asked_at: Wall time, seconds since the epoch.
        synced: How many were synced; None while it is under way.
        reason: Why one could not be synced, or None.
        wanted: How many it was about.
    """

    asked_at: float
    synced: int | None = None
    reason: str | None = None
    wanted: int = 0

    @property
    def done(self) -> bool:
        """Whether all that it was about is synced."""
        return self.synced is not None and self.synced >= self.wanted


@dataclass(frozen=True, slots=True)
class Sealed:
    """Something as it lies in the store: who a driver is, and what that driver drove, is there under seal only."""

    sealed: str


_FORGET = TypeAdapter(ForgetCommand)
SEALED = TypeAdapter(Sealed)
_SYNC = TypeAdapter(SyncCommand)


class ForgetCommands:
    """Orders to forget.

    Args:
        documents: Where they lie.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def save(self, keyring: Keyring, order: ForgetCommand) -> None:
        """Keep an order; returns when it is on disk. One for the same driver is replaced."""
        newest, *former = keyring.references(order.driver_id)
        sealed = Sealed(keyring.seal(_FORGET.dump_json(order)))
        await self._documents.save(FORGET, newest, sealed, SEALED)
        for reference in former:
            await self._documents.delete(FORGET, reference)

    async def done(self, keyring: Keyring, driver_id: str) -> None:
        """Nothing is left to do for it."""
        for reference in keyring.references(driver_id):
            await self._documents.delete(FORGET, reference)

    async def any(self) -> bool:
        """Whether there is any: asked often, and without keys."""
        return bool(await self._documents.keys(FORGET))

    async def all(self, keyring: Keyring) -> tuple[list[ForgetCommand], int]:
        """All orders, and how many there are besides that cannot be read, because their key is gone."""
        found, unreadable = list[ForgetCommand](), 0
        for key in await self._documents.keys(FORGET):
            lying = await self._documents.load(FORGET, key, SEALED)
            if lying is None:
                continue
            try:
                found.append(_FORGET.validate_json(keyring.open(lying.sealed)))
            except (ProfileError, ValidationError):
                unreadable += 1
        return found, unreadable

    async def find(self, keyring: Keyring, driver_id: str) -> bool:
        """Whether a driver is still to be forgotten at the backend."""
        for reference in keyring.references(driver_id):
            if await self._documents.load(FORGET, reference, SEALED) is not None:
                return True
        return False


class SyncCommands:
    """Orders to sync, by the driver's reference or `ALL`.

    Args:
        documents: Where they lie.
    """

    def __init__(self, documents: Documents) -> None:
        self._documents = documents

    async def give(self, key: str, asked_at: float) -> None:
        """Ask the process that owns the state folder to sync now."""
        await self._documents.save(SYNC, key, SyncCommand(asked_at), _SYNC)

    async def waiting(self) -> dict[str, SyncCommand]:
        """Those that nobody has answered."""
        found = dict[str, SyncCommand]()
        for key in await self._documents.keys(SYNC):
            order = await self._documents.load(SYNC, key, _SYNC)
            if order is not None and order.synced is None:
                found[key] = order
        return found

    async def answer(self, key: str, order: SyncCommand) -> None:
        """Say what came of it."""
        await self._documents.save(SYNC, key, order, _SYNC)

    async def answered(self, key: str) -> SyncCommand | None:
        """What came of it, told once; None while it is under way."""
        order = await self._documents.load(SYNC, key, _SYNC)
        if order is None or order.synced is None:
            return None
        await self._documents.delete(SYNC, key)
        return order
