"""Carries out the operator's orders, the oldest first, and keeps what became of them."""

import logging
from collections.abc import Awaitable, Callable, Collection

from sentinel_sync.adapters.models.orders import ModelOrders, Order, OrderAction, OrderOutcome, PlacedOrder
from sentinel_sync.errors import CloudError, SentinelSyncError, StoreError
from sentinel_sync.rules.releases.answers import InstallResult
from sentinel_sync.rules.releases.schedule import is_passing

logger = logging.getLogger(__name__)

#: These ask the backend, and may take hours; …
LONG_ORDERS: frozenset[OrderAction] = frozenset({"install", "check"})
#: … these are done at once, and overtake them: nobody waits for a download to take a model back.
SHORT_ORDERS: frozenset[OrderAction] = frozenset({"rollback", "pin", "unpin", "forgive"})

#: Carries out one order; its key is given along.
Obey = Callable[[Order, str], Awaitable[InstallResult]]


class OrderBook:
    """The orders of other processes.

    Args:
        orders: Where they lie.
    """

    def __init__(self, orders: ModelOrders) -> None:
        self._orders = orders

    async def waiting(self, actions: Collection[OrderAction]) -> bool:
        """Whether orders of these kinds wait."""
        return any(placed.order.action in actions for placed in await self._orders.waiting())

    async def outcomes(self) -> list[OrderOutcome]:
        """What became of the last orders, the newest last."""
        return await self._orders.outcomes()

    async def carry_out(self, actions: Collection[OrderAction], obey: Obey) -> bool:
        """Carry out those of these kinds; False where some are left that only the network or the disk held up.

        A long order waits for the short ones that were placed before it: who pins a version and then has it installed
        means both.
        """
        done = True
        for placed in await self._orders.waiting():
            if placed.order.action not in actions:
                if actions is LONG_ORDERS:
                    return False
                continue
            done = await self._carry_out(placed, obey) and done
        return done

    async def _carry_out(self, placed: PlacedOrder, obey: Obey) -> bool:
        order = placed.order
        try:
            order.check()
            result = await obey(order, placed.key)
        except (CloudError, StoreError) as error:
            logger.warning("model.order: %s %s is tried again: %s", order.action, order.name, error)
            return False
        except SentinelSyncError as error:
            result = InstallResult(False, order.name, order.version or "", str(error), error)
        if result.error is not None and is_passing(result.error):
            logger.warning("model.order: %s %s is tried again: %s", order.action, order.name, result.reason)
            return False
        message = _message(order, result)
        logger.info("model.order: %s %s: %s", order.action, order.name, message)
        await self._orders.finish(placed, message, done=result.installed or result.waiting)
        return True


def _message(order: Order, result: InstallResult) -> str:
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
