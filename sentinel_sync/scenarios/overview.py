"""All scenarios as people and programs see them: from within the agent, and from another process."""

from sentinel_sync.scenarios.records import ScenarioRecords
from sentinel_sync.scenarios.rules.status import (
    Outlook,
    ScenarioStatus,
    SentPart,
    Whereabouts,
    sent_parts,
    status_of,
)


class Overview:
    """Looks scenarios up.

    Args:
        ledger: What is known of them.
    """

    def __init__(self, ledger: ScenarioRecords) -> None:
        self._ledger = ledger

    async def status(self, scenario_id: str, outlook: Outlook) -> ScenarioStatus:
        """Say where one stands."""
        plan = await self._ledger.plan(scenario_id)
        return status_of(scenario_id, plan, await self._ledger.whereabouts(scenario_id), outlook)

    async def statuses(self, outlook: Outlook) -> list[ScenarioStatus]:
        """Say where all stand, newest first."""
        queued = await self._ledger.all_whereabouts()
        found: list[tuple[float, ScenarioStatus]] = []
        async for plan in self._ledger.plans():
            there = queued.get(plan.scenario_id, Whereabouts())
            found.append((plan.queued_at, status_of(plan.scenario_id, plan, there, outlook)))
        return [status for _, status in sorted(found, key=lambda pair: pair[0], reverse=True)]

    async def sent(self) -> list[SentPart]:
        """What has left the vehicle and under which consent, newest first."""
        sent = [part async for plan in self._ledger.plans() for part in sent_parts(plan)]
        return sorted(sent, key=lambda part: part.sent_at, reverse=True)
