"""Composes what the agent says of itself, and keeps it in `status.json` for whoever looks from outside."""

import asyncio
import logging
import os
import shutil
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path

from pydantic import TypeAdapter

from sentinel_sync import __version__
from sentinel_sync.base.clock import Clock, moment
from sentinel_sync.base.errors import StoreError
from sentinel_sync.base.files import replace_file
from sentinel_sync.base.payloads import LastStop
from sentinel_sync.base.tasks import Supervisor
from sentinel_sync.composition import Components
from sentinel_sync.metrics import FILE_NAME, Metrics
from sentinel_sync.status import STATUS_NAME, AgentLife, AgentStatus, DiskStatus, RemainingWork

logger: logging.Logger = logging.getLogger(__name__)

_METRICS_INTERVAL = 15.0
_DISK_INTERVAL = 30.0


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
        self._life: AgentLife | None = None
        self._listeners: list[Callable[[AgentStatus], None]] = []
        #: Counts for the textfile, where one is written.
        self.metrics: Metrics | None = None
        self._metrics_due = self._disk_due = float("-inf")
        self._disk_seen: DiskStatus | None = None
        #: Address of the console, where one is served.
        self.console: str | None = None

    async def begin(self) -> None:
        """Note that a life begins, and how the one before ended."""
        documents = self._parts.foundation.store.documents
        now, boot_id = self._clock.now(), self._clock.boot_id()
        try:
            before = await documents.load(*_LIFE_KEY, _LIFE)
        except StoreError as error:
            logger.warning("agent.life: how the last one ended cannot be read: %s", error)
            before = None
        starts = 1 if before is None else before.starts + 1
        self._life = AgentLife(started_at=moment(now), starts=starts, last_stop=_last_stop(before, boot_id))
        await self._note(_Life(starts, boot_id, is_over=False))

    async def end(self) -> None:
        """Note that it ends as it should."""
        if self._life is not None:
            await self._note(_Life(self._life.starts, self._clock.boot_id(), is_over=True))

    async def _note(self, life: "_Life") -> None:
        try:
            await self._parts.foundation.store.documents.save(*_LIFE_KEY, life, _LIFE)
        except StoreError as error:  # it is for people: no full disk may keep the agent from starting or stopping
            logger.warning("agent.life: not noted: %s", error)

    def subscribe(self, listener: Callable[[AgentStatus], None]) -> None:
        """Have each look at the status told to a plain function that returns at once."""
        self._listeners.append(listener)

    async def look(self) -> AgentStatus:
        """What the agent says of itself now."""
        parts, settings = self._parts, self._parts.foundation.client.settings
        salvaged, ends = parts.foundation.store.salvaged, parts.foundation.client.certificate_expires_at
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
            life=self._life,
            certificate_expires_at=None if ends is None else moment(ends),
            disk=await self._disk(),
        )

    async def _disk(self) -> DiskStatus | None:
        """How full the disk is, as of half a minute ago: each look takes a thread, and a status is asked for often."""
        now = self._clock.monotonic()
        if now >= self._disk_due:
            self._disk_seen = await asyncio.to_thread(_disk, self._parts.foundation.store.state_dir)
            self._disk_due = now + _DISK_INTERVAL
        return self._disk_seen

    @property
    def shows_work(self) -> bool:
        """Whether what was written last tells of something under way."""
        return self._written is not None and bool(self._written.transfers)

    async def write(self) -> bool:
        """Write `status.json` where anything but the passing of time has changed; returns whether it has."""
        shown = await self.look()
        for listener in self._listeners:
            listener(shown)
        await self._write_metrics(shown)
        if self._written is not None and _steady(shown) == _steady(self._written):
            return False
        self._written = shown
        path = self._parts.foundation.store.state_dir / STATUS_NAME
        try:
            await asyncio.to_thread(replace_file, path, shown.model_dump_json(indent=2).encode(), durable=False)
        except OSError as error:
            # A full disk must not stop the agent: the status is for people, and they see the error in the log.
            logger.warning("agent.status: cannot write %s (%s)", path.name, error.strerror)
        return True

    async def _write_metrics(self, shown: AgentStatus) -> None:
        """Write the textfile where one is wanted, at most so often: its reader looks four times a minute."""
        folder, now = self._parts.foundation.client.settings.metrics_dir, self._clock.monotonic()
        if folder is None or self.metrics is None or now < self._metrics_due:
            return
        self._metrics_due = now + _METRICS_INTERVAL
        try:
            text = (await self.metrics.text(shown)).encode()
            await asyncio.to_thread(replace_file, folder / FILE_NAME, text, durable=False)
        except OSError as error:
            logger.warning("agent.metrics: cannot write %s (%s)", folder / FILE_NAME, error.strerror)


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


@dataclass(frozen=True, slots=True)
class _Life:
    starts: int
    boot_id: str
    is_over: bool


_LIFE = TypeAdapter(_Life)
_LIFE_KEY = ("agent", "life")


def _last_stop(before: _Life | None, boot_id: str) -> LastStop:
    if before is None:
        return LastStop.UNKNOWN
    if before.is_over:
        return LastStop.CLEAN
    return LastStop.CRASH if before.boot_id == boot_id else LastStop.POWER


def _disk(folder: Path) -> DiskStatus | None:
    try:
        usage = shutil.disk_usage(folder)
    except OSError:
        return None
    return DiskStatus(free_bytes=usage.free, used_bytes=usage.used)


def _steady(shown: AgentStatus) -> dict[str, object]:
    """What of a status is news; durations and stamps change by themselves."""
    return shown.model_dump(
        exclude={
            "updated_at": True,
            "disk": True,
            "connectivity": {"offline_duration", "since", "clock_skew"},
            "traffic": {"budgets", "usage", "days"},  # a probe moves them by some bytes
        },
    )
