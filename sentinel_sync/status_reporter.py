"""Composes what the agent says of itself, and keeps it in `status.json` for whoever looks from outside."""

import asyncio
import logging
import os
from collections.abc import Callable
from datetime import UTC, datetime

from sentinel_sync import __version__
from sentinel_sync.base.clock import Clock
from sentinel_sync.base.files import replace_file
from sentinel_sync.base.tasks import Supervisor
from sentinel_sync.composition import Components
from sentinel_sync.status import STATUS_NAME, AgentStatus, RemainingWork

logger: logging.Logger = logging.getLogger(__name__)


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
        #: Address of the console, where one is served.
        self.console: str | None = None

    async def look(self) -> AgentStatus:
        """What the agent says of itself now."""
        parts, settings = self._parts, self._parts.foundation.client.settings
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
            connectivity=parts.connectivity.report().model_copy(
                update={"clock_skew": parts.foundation.timekeeper.skew()}
            ),
            outbox=await remaining_work(parts),
            duties=[task.status() for task in self._supervisor.duties],
            salvaged_from=None if salvaged is None else salvaged.moved_to.name,
            updated_at=datetime.fromtimestamp(self._clock.now(), UTC),
            traffic=parts.foundation.policy.snapshot(),
            scenarios=await parts.scenarios.snapshot(),
            models=parts.models.snapshot(),
            model_check=parts.models.last_check(),
            profiles=parts.profiles.snapshot(),
            console=self.console,
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


async def remaining_work(parts: Components) -> RemainingWork:
    """The one account of what is left; what the settings switch off is none of it."""
    settings = parts.foundation.client.settings
    counts = await parts.foundation.store.outbox.counts()
    return RemainingWork(
        **counts.model_dump(),
        recordings=parts.scenarios.unqueued if settings.upload_scenarios else 0,
        profiles=parts.profiles.snapshot().unsent if settings.sync_profiles else 0,
        orders=await parts.models.commands_waiting(),
    )


def _steady(shown: AgentStatus) -> dict[str, object]:
    """What of a status is news; durations and stamps change by themselves."""
    return shown.model_dump(
        exclude={
            "updated_at": True,
            "connectivity": {"offline_duration", "since", "clock_skew"},
            "traffic": {"budgets", "usage"},  # a probe moves them by some bytes
        },
    )
