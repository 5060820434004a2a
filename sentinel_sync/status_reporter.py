"""Composes what the agent says of itself, and keeps it in `status.json` for whoever looks from outside."""

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime

from sentinel_sync import __version__
from sentinel_sync.base.clock import Clock
from sentinel_sync.base.files import replace_file
from sentinel_sync.base.status import PeriodicTaskStatus, TransferStatus
from sentinel_sync.base.supervisor import Supervisor
from sentinel_sync.cloud.rules.connectivity import ConnectivitySummary
from sentinel_sync.composition import Components
from sentinel_sync.network.rules.status import BudgetStatus, NetworkStatus
from sentinel_sync.scenarios.rules.feature_status import ScenariosStatus
from sentinel_sync.status import STATUS_NAME, AgentStatus
from sentinel_sync.store.rules.status import OutboxStatus

logger = logging.getLogger(__name__)


class StatusReporter:
    """The status of one running agent.

    Args:
        parts: What it consists of.
        supervisor: Whose duties are shown.
        power: Gives the host's word on the battery.
        clock: For the stamp.
    """

    def __init__(self, parts: Components, supervisor: Supervisor, power: Callable[[], str], clock: Clock) -> None:
        self._parts = parts
        self._supervisor = supervisor
        self._power = power
        self._clock = clock
        self._written: AgentStatus | None = None

    async def look(self) -> AgentStatus:
        """What the agent says of itself now."""
        parts, settings = self._parts, self._parts.foundation.client.settings
        counts = await parts.foundation.store.outbox.counts()
        salvaged = parts.foundation.store.salvaged
        return AgentStatus(
            version=__version__,
            process_id=os.getpid(),
            vehicle_id=settings.vehicle_id,
            fleet_id=settings.fleet_id,
            api_url=settings.api_url,
            enabled=settings.enabled,
            power=self._power(),
            trip_id=parts.trips.trip_id,
            connectivity=self._connectivity(),
            outbox=OutboxStatus(
                waiting=counts.waiting,
                sending=counts.sending,
                set_aside=counts.set_aside,
                size_bytes=counts.size_bytes,
                acknowledged=counts.acknowledged,
                dropped=counts.dropped,
            ),
            duties=[
                PeriodicTaskStatus(
                    name=duty.name,
                    crashes=duty.crashes,
                    total_crashes=duty.total_crashes,
                    last_error=duty.last_error,
                )
                for duty in self._supervisor.duties
            ],
            salvaged_from=None if salvaged is None else salvaged.moved_to.name,
            updated_at=datetime.fromtimestamp(self._clock.now(), UTC),
            traffic=self._traffic(),
            scenarios=await self._scenarios(),
            models=self._parts.models.snapshot(),
            model_check=self._parts.models.last_check(),
            profiles=self._parts.profiles.snapshot(),
        )

    @property
    def shows_work(self) -> bool:
        """Whether what was written last tells of something under way."""
        return self._written is not None and bool(self._written.transfers)

    async def write(self) -> None:
        """Write `status.json` where anything but the passing of time has changed."""
        shown = await self.look()
        if self._written is not None and _steady(shown) == _steady(self._written):
            return
        self._written = shown
        path = self._parts.foundation.store.state_dir / STATUS_NAME
        try:
            await asyncio.to_thread(replace_file, path, shown.model_dump_json(indent=2).encode(), durable=False)
        except OSError as error:
            # A full disk must not stop the agent: the status is for people, and they see the error in the log.
            logger.warning("agent.status: cannot write %s (%s)", path.name, error.strerror)

    def _traffic(self) -> NetworkStatus:
        seen = self._parts.foundation.policy.snapshot()
        return NetworkStatus(
            link=seen.link,
            metered=seen.metered,
            source=seen.source,
            budgets=[
                BudgetStatus(
                    link=budget.link,
                    period=budget.period,
                    used_bytes=budget.used_bytes,
                    limit_bytes=budget.limit_bytes,
                )
                for budget in seen.budgets
            ],
            held={str(traffic): why for traffic, why in seen.held.items()},
        )

    async def _scenarios(self) -> ScenariosStatus:
        seen = await self._parts.scenarios.snapshot()
        going = seen.under_way
        return ScenariosStatus(
            consent=seen.in_force,
            consent_at=None if seen.consent is None else datetime.fromtimestamp(seen.consent.at, UTC),
            policy_version=seen.policy_version,
            held=seen.held,
            under_way=None
            if going is None
            else TransferStatus(
                name=going.scenario_id,
                part=going.part,
                phase=going.phase,
                done_bytes=going.done_bytes,
                total_bytes=going.total_bytes,
                rate=going.rate,
                time_left=going.time_left,
            ),
            queued=seen.queued,
            uploaded=seen.uploaded,
            set_aside=seen.set_aside,
            dropped=seen.dropped,
            deleted=seen.deleted,
            deleted_unsent=seen.deleted_unsent,
            reasons=seen.reasons,
        )

    def _connectivity(self) -> ConnectivitySummary:
        report = self._parts.connectivity.report()
        passage = self._parts.foundation.client.gate.passage(self._clock.monotonic())
        return ConnectivitySummary(
            status=report.status,
            message=report.message,
            unauthorized=report.unauthorized,
            offline_duration=round(report.offline_duration, 1),
            since=round(report.since, 1),
            gate=passage.state,
            gate_reason=passage.why,
            clock_skew=self._parts.foundation.timekeeper.skew(),
        )


def _steady(shown: AgentStatus) -> dict[str, object]:
    """What of a status is news; durations and stamps change by themselves."""
    return shown.model_dump(
        exclude={
            "updated_at": True,
            "connectivity": {"offline_duration", "since", "clock_skew"},
            "traffic": {"budgets"},  # a probe moves them by some bytes
        },
    )
