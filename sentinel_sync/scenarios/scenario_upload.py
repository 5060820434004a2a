"""One scenario on its way, part by part: asked, prepared, sent, acknowledged, each step on disk before the next."""

import logging
from dataclasses import dataclass, replace

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import HeldError
from sentinel_sync.scenarios.active_upload import ActiveUpload, Phase
from sentinel_sync.scenarios.part_upload import PartSender, QueuedScenario
from sentinel_sync.scenarios.permission import Permission
from sentinel_sync.scenarios.preparation import Preparation
from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.plan import Consent, Part, ScenarioPlan
from sentinel_sync.store.outbox import OutboxItem

logger = logging.getLogger(__name__)


@dataclass(frozen=True, slots=True)
class Means:
    """What a delivery works with.

    Attributes:
        ledger: Where the plan lies.
        permission: Asked before each step.
        preparation: Makes what goes.
        sender: Sends it.
        clock: For stamps.
    """

    ledger: ScenarioRecords
    permission: Permission
    preparation: Preparation
    sender: PartSender
    clock: Clock


class ScenarioUpload:
    """Sends what is left of one scenario.

    Args:
        means: What it works with.
        plan: What is known of it.
        item: The claimed item.
        queued: What is in it.
        work: Where it says how far it is.

    Attributes:
        got_further: Whether the backend has more of it, for good, than when this began.
    """

    def __init__(
        self, means: Means, plan: ScenarioPlan, item: OutboxItem, queued: QueuedScenario, work: ActiveUpload
    ) -> None:
        self._means = means
        self._plan = plan
        self._item = item
        self._queued = queued
        self._work = work
        self.got_further = False

    async def run(self) -> bool:
        """Go on where it stopped; True once all parts have arrived, False where a more important one comes first.

        Raises:
            CloudError: A part was not taken; HeldError where nothing may be sent now.
            ScenarioError: The recording is not what was queued.
            StoreError: The disk that holds the state folder is full.
        """
        while (part := self._plan.next_part()) is not None:
            await self._ask()
            await self._send(await self._prepared(part))
            self.got_further = True
            if self._plan.uploaded_at is None and await self._means.ledger.is_overtaken(self._item):
                logger.info("scenario.overtaken: %s: a more important one goes first", self._plan.scenario_id)
                return False
        return True

    async def _ask(self) -> Consent:
        forbidden = await self._means.permission.blocked_reason()
        consent = await self._means.permission.consent()
        if consent is None or forbidden is not None:
            raise HeldError(f"scenario {self._plan.scenario_id}: not sent: {forbidden}")
        return consent

    async def _prepared(self, part: Part) -> Part:
        """The part with the file that goes for it, made now where it was not made before."""
        if await self._means.preparation.is_ready(part):
            return part
        file = await self._means.preparation.file_of(self._plan, part, self._work)
        # An upload that was begun was of another file.
        return await self._note(replace(part, file=file, upload_url=None))

    async def _send(self, part: Part) -> None:
        means, work = self._means, self._work
        # Asked again: making it may have taken minutes.
        consent = await self._ask()
        part = await self._note(replace(part, began_at=means.clock.now(), consent=consent))
        work.begin(Phase.UPLOADING, part.name, part.size_bytes if part.file is None else part.file.size_bytes)

        async def remember(upload_url: str | None) -> None:
            nonlocal part
            part = await self._note(replace(part, upload_url=upload_url))

        began_from: int | None = None

        def moved(done_bytes: int) -> None:
            nonlocal began_from
            began_from = done_bytes if began_from is None else began_from
            # Only a resumable upload keeps what was sent when it is cut.
            self.got_further = self.got_further or (done_bytes > began_from and part.upload_url is not None)
            work.moved(done_bytes)

        await means.sender.send(
            self._plan, part, self._queued, consent, ask=self._ask, remember=remember, on_progress=moved
        )
        await self._save(self._plan.acknowledged(part, means.clock.now(), consent))
        logger.info("scenario.part: %s %s, %d bytes", self._plan.scenario_id, part.name, work.total_bytes)
        await means.preparation.forget(part)

    async def _note(self, part: Part) -> Part:
        """Write down what is known of a part now."""
        await self._save(self._plan.with_part(part))
        return part

    async def _save(self, plan: ScenarioPlan) -> None:
        self._plan = plan
        await self._means.ledger.save(plan)
