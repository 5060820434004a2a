"""The operator's word on models, out of another process: placed in the store, carried out by the running agent."""

import logging
from collections.abc import Awaitable, Callable, Collection
from dataclasses import dataclass
from typing import Literal
from uuid import uuid4

from pydantic import TypeAdapter

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import CloudError, SentinelSyncError, StoreError
from sentinel_sync.models.rules.installed import InstallResult, is_passing
from sentinel_sync.models.rules.releases import check_name, check_version
from sentinel_sync.store.documents import Documents

logger: logging.Logger = logging.getLogger(__name__)

#: install: fetch and switch to `version`. rollback: to the previous one. pin, unpin: want just `version`, or no longer.
#: check: ask for the listing now. forgive: let `version`, found bad on this vehicle, be tried again.
CommandAction = Literal["install", "rollback", "pin", "unpin", "check", "forgive"]

_KIND = "model_order"
_OUTCOME = "model_order.outcome"
#: So many outcomes are kept to be shown, the newest.
_KEPT = 20
#: Those that are about one version.
_OF_A_VERSION = frozenset({"install", "pin", "forgive"})
#: These ask the backend, and may take hours; …
LONG_COMMANDS: frozenset[CommandAction] = frozenset({"install", "check"})
#: … these are done at once, and overtake them: nobody waits for a download to take a model back.
SHORT_COMMANDS: frozenset[CommandAction] = frozenset({"rollback", "pin", "unpin", "forgive"})


@dataclass(frozen=True, slots=True)
class ModelCommand:
    """What the operator wants.

    Attributes:
        name: Of the model; empty for `check`.
        version: For `install`, `pin` and `forgive`.
    """

    action: CommandAction
    name: str = ""
    version: str | None = None

    def __str__(self) -> str:
        return " ".join(part for part in (self.action, self.name, self.version) if part)

    def check(self) -> None:
        """Let an order pass that can be carried out at all.

        Raises:
            VerificationError: The name or the version is missing or cannot be one.
        """
        if self.action != "check":
            check_name(self.name, "the model's name")
        if self.action in _OF_A_VERSION or self.version is not None:
            check_version(self.version or "")


@dataclass(frozen=True, slots=True)
class PlacedCommand:
    """An order that waits to be carried out.

    Attributes:
        key: Names it; keys sort by the time of placing.
        placed_at: Wall time, seconds since the epoch.
    """

    key: str
    order: ModelCommand
    placed_at: float


@dataclass(frozen=True, slots=True)
class CommandOutcome:
    """What became of an order.

    Attributes:
        done: Whether it was carried out.
        message: What happened, for a person.
        at: Wall time, seconds since the epoch.
    """

    key: str
    order: ModelCommand
    placed_at: float
    done: bool
    message: str
    at: float


@dataclass(frozen=True, slots=True)
class _Written:
    order: ModelCommand
    placed_at: float


_SHAPE = TypeAdapter(_Written)
_OUTCOMES = TypeAdapter(CommandOutcome)


class ModelCommands:
    """Orders in the store: any process places them, the one that owns the state folder carries them out.

    Args:
        documents: Where they lie.
    """

    def __init__(self, documents: Documents, clock: Clock | None = None) -> None:
        self._documents = documents
        self._clock = clock or SystemClock()

    async def place(self, order: ModelCommand) -> str:
        """Leave an order for the running agent; returns its key once it is on disk.

        Raises:
            VerificationError: It cannot be carried out: the name or the version cannot be one.
            StoreError: It cannot be written.
        """
        order.check()
        now = self._clock.now()
        # Microseconds, padded: keys sort by time.
        key = f"{int(now * 1e6):020d}-{uuid4().hex[:8]}"
        await self._documents.save(_KIND, key, _Written(order, now), _SHAPE)
        return key

    async def waiting(self) -> list[PlacedCommand]:
        """Orders that nobody has carried out yet, the oldest first."""
        placed: list[PlacedCommand] = []
        for key in await self._documents.keys(_KIND):
            written = await self._documents.load(_KIND, key, _SHAPE)
            if written is not None:
                placed.append(PlacedCommand(key, written.order, written.placed_at))
        return placed

    async def withdraw(self, key: str) -> bool:
        """Take an order back that nobody has carried out yet; False where there is none."""
        return await self._documents.delete(_KIND, key)

    async def finish(self, placed: PlacedCommand, message: str, *, done: bool) -> CommandOutcome:
        """Keep what became of an order, and take it off the list.

        In that order: a kill in between has it carried out again, which each order bears.
        """
        outcome = CommandOutcome(placed.key, placed.order, placed.placed_at, done, message, self._clock.now())
        await self._documents.save(_OUTCOME, placed.key, outcome, _OUTCOMES)
        await self._documents.delete(_KIND, placed.key)
        for key in (await self._documents.keys(_OUTCOME))[:-_KEPT]:
            await self._documents.delete(_OUTCOME, key)
        return outcome

    async def outcome(self, key: str) -> CommandOutcome | None:
        """What became of one order; None while it waits."""
        return await self._documents.load(_OUTCOME, key, _OUTCOMES)

    async def outcomes(self) -> list[CommandOutcome]:
        """What became of the last orders, the newest last."""
        found: list[CommandOutcome] = []
        for key in await self._documents.keys(_OUTCOME):
            outcome = await self.outcome(key)
            if outcome is not None:
                found.append(outcome)
        return found


#: Carries out one order; its key is given along.
Obey = Callable[[ModelCommand, str], Awaitable[InstallResult]]


class ModelCommandQueue:
    """The orders of other processes.

    Args:
        commands: Where they lie.
    """

    def __init__(self, commands: ModelCommands) -> None:
        self._commands = commands
        #: Why an order was put off at last, by its key: said once.
        self._put_off: dict[str, str] = {}

    async def count(self) -> int:
        """How many wait."""
        return len(await self._commands.waiting())

    async def waiting(self, actions: Collection[CommandAction]) -> bool:
        """Whether orders of these kinds wait."""
        return any(placed.order.action in actions for placed in await self._commands.waiting())

    async def outcomes(self) -> list[CommandOutcome]:
        """What became of the last orders, the newest last."""
        return await self._commands.outcomes()

    async def carry_out(self, actions: Collection[CommandAction], carry_out: Obey) -> bool:
        """Carry out those of these kinds; False where some are left that only the network or the disk held up.

        A long order waits for the short ones that were placed before it: who pins a version and then has it installed
        means both.
        """
        done = True
        for placed in await self._commands.waiting():
            if placed.order.action not in actions:
                if actions is LONG_COMMANDS:
                    return False
                continue
            done = await self._carry_out(placed, carry_out) and done
        return done

    async def _carry_out(self, placed: PlacedCommand, carry_out: Obey) -> bool:
        order = placed.order
        try:
            order.check()
            result = await carry_out(order, placed.key)
        except SentinelSyncError as error:
            if isinstance(error, CloudError | StoreError) and is_passing(error):
                return self._put_it_off(placed, str(error))
            result = InstallResult(False, order.name, order.version or "", str(error), error)
        if result.error is not None and is_passing(result.error):
            return self._put_it_off(placed, str(result.error))
        self._put_off.pop(placed.key, None)
        message = "; ".join(filter(None, (_words(order, result), result.note)))
        logger.info("model.order: %s: %s", order, message)
        await self._commands.finish(placed, message, done=result.installed or result.waiting)
        return True

    def _put_it_off(self, placed: PlacedCommand, why: str) -> bool:
        if self._put_off.get(placed.key) != why:
            self._put_off[placed.key] = why
            logger.warning("model.order: %s is tried again: %s", placed.order, why)
        return False


def _words(order: ModelCommand, result: InstallResult) -> str:
    if result.reason is not None:
        return result.reason
    match order.action:
        case "install":
            return f"{result.name} {result.version} is in use"
        case "rollback":
            return f"{result.name} is back at {result.version}"
        case "pin":
            return f"{result.name} is pinned to {result.version}"
        case "unpin":
            return f"{result.name} follows the listing again"
        case "forgive":
            return f"{result.name} {result.version} may be tried again"
        case "check":
            return "checked"
