"""Takes one claimed scenario at a time to the backend, and settles what becomes of its item."""

import asyncio
import logging
from random import Random

from sentinel_sync.base.errors import CloudError, ScenarioError
from sentinel_sync.base.events import EventPublisher
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.rules.answers import GateState
from sentinel_sync.scenarios.active_upload import ActiveUpload, Phase, under_way
from sentinel_sync.scenarios.records import KIND, queued_of
from sentinel_sync.scenarios.rules.status import UploadProgress
from sentinel_sync.scenarios.scenario_upload import Means, ScenarioUpload
from sentinel_sync.store.outbox import Outbox, OutboxItem
from sentinel_sync.store.rules.verdict import Release, RetryDecision, SetAside, retry_decision

logger = logging.getLogger(__name__)


class UploadWorker:
    """Delivers, and can be stopped at any instant.

    Args:
        client: For its gate.
        outbox: Where the items lie.
        means: What a delivery works with.
        news: Who wants to know how it goes.
        rng: For backoff.

    Attributes:
        ask_again: Set by whoever has a reason to ask at once whether what is under way may go on.
    """

    def __init__(
        self, client: CloudAPIClient, outbox: Outbox, means: Means, news: EventPublisher[UploadProgress], *, rng: Random
    ) -> None:
        self._client = client
        self._outbox = outbox
        self._means = means
        self._news = news
        self._rng = rng
        self._work: ActiveUpload | None = None
        self.ask_again = asyncio.Event()

    @property
    def scenario_id(self) -> str | None:
        """The scenario that is under way, or None."""
        return None if self._work is None else self._work.scenario_id

    def progress(self) -> UploadProgress | None:
        """How what is under way goes, or None where nothing is."""
        return None if self._work is None else self._work.progress()

    def cut(self, why: str) -> None:
        """End what is under way, now."""
        if self._work is not None:
            self._work.cut(why)

    async def deliver(self, item: OutboxItem) -> bool:
        """Send what is left of one scenario; False where it did not come to its end.

        Raises:
            StoreError: The state folder cannot be read or written; the item waits again.
        """
        verdict: RetryDecision | None = Release()
        try:
            verdict = await self._attempt(item)
        finally:
            # Also where it was cancelled: then the item waits as if nothing had been tried.
            if verdict is not None:
                await self._outbox.settle(item, verdict)
        return verdict is None

    async def _attempt(self, item: OutboxItem) -> RetryDecision | None:
        """Do it; returns what follows for the item, or None where it has arrived and is acknowledged."""
        queued = queued_of(item)
        plan = None if queued is None else await self._means.ledger.plan(queued.scenario_id)
        if queued is None or plan is None:
            return SetAside("what is to be sent of it cannot be read: queue the scenario again")
        delivery: ScenarioUpload | None = None
        try:
            async with under_way(
                plan.scenario_id, self._blocked_reason, self.ask_again, news=self._news, clock=self._means.clock
            ) as self._work:
                delivery = ScenarioUpload(self._means, plan, item, queued, self._work)
                if not await delivery.run():
                    return Release()
            await self._outbox.acknowledge(KIND, [item.seq])
        except CloudError as error:
            # Whoever got further begins to count anew: a long upload over a bad network is cut often.
            further = delivery is not None and delivery.got_further
            return retry_decision(error, 1 if further else item.attempts, self._rng)
        except ScenarioError as error:
            return SetAside(str(error))
        finally:
            self._work = None
        logger.info("scenario.uploaded: %s", plan.scenario_id)
        return None

    async def _blocked_reason(self, work: ActiveUpload) -> str | None:
        """Why what is under way may not go on: what the network costs is no matter before anything is sent."""
        if work.phase is Phase.UPLOADING:
            return await self._means.permission.blocked_reason()
        passage = self._client.gate.passage(self._means.clock.monotonic())
        halted = passage.why if passage.state is GateState.HALTED else None
        return halted or await self._means.permission.why_forbidden()
