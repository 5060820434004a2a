"""The extension `vehicle-report`: the status as the backend sees it, and what the backend asks for in answer."""

import asyncio
import logging
from collections.abc import Awaitable, Callable
from datetime import datetime
from http import HTTPMethod, HTTPStatus
from itertools import islice
from random import Random

from pydantic import ValidationError

from sentinel_sync.base.backoff import full_jitter
from sentinel_sync.base.clock import Clock, is_plausible, moment, rfc3339
from sentinel_sync.base.errors import CloudError, HeldError
from sentinel_sync.base.payloads import (
    LastStop,
    ReportedAgent,
    ReportedDisk,
    ReportedModel,
    ReportedOutbox,
    ReportedScenarios,
    ReportedUsage,
    VehicleReport,
    VehicleReportReceipt,
)
from sentinel_sync.base.tasks import PeriodicTask
from sentinel_sync.cloud.client import Probe, Response, quote_id
from sentinel_sync.cloud.request import Request
from sentinel_sync.composition import Components
from sentinel_sync.status import AgentStatus

logger: logging.Logger = logging.getLogger(__name__)

EXTENSION = "vehicle-report"
#: What is news is told at most so often, and what failed is tried again no sooner, seconds.
_SHORTEST = 60.0
#: Without news it is told so often, seconds, unless the backend says otherwise.
REPORT_INTERVAL = 3600.0
_LONGEST = 86_400.0
#: By so large a part at most news comes later, and what is told without news sooner: a fleet that was switched on, or
#: came back, in one minute is not to report in step from then on.
_SPREAD = 0.25
#: Of what is asked for in one answer; the others are asked for again in the next.
_MOST_WISHES = 100
_GONE = frozenset({HTTPStatus.NOT_FOUND, HTTPStatus.METHOD_NOT_ALLOWED, HTTPStatus.NOT_IMPLEMENTED})


class VehicleReporter:
    """Reports one running agent, where the backend wants that.

    Args:
        parts: What the agent consists of.
        look: Gives its status.
    """

    def __init__(
        self, parts: Components, look: Callable[[], Awaitable[AgentStatus]], clock: Clock, rng: Random
    ) -> None:
        self._parts = parts
        self._client = parts.foundation.client
        self._look = look
        self._clock = clock
        self._rng = rng
        self._interval = REPORT_INTERVAL
        self._due = self._earliest = clock.monotonic()
        self._failures = 0
        self._reporting = asyncio.Lock()
        self._is_known = False
        self._told: dict[str, object] | None = None
        self._seen_at: dict[tuple[str, str, str], datetime] = {}
        self.task: PeriodicTask = PeriodicTask("report", self.step)

    def note(self, status: AgentStatus) -> None:
        """Take in the newest status: what is news brings the next report forward; a plain call."""
        if not self._client.offers(EXTENSION):
            self._is_known = False
            return
        is_new, self._is_known = not self._is_known, True
        has_news = self._due > self._earliest and _news(self._report(status)) != self._told
        if has_news:
            self._due = self._earliest
        if is_new or has_news:
            self.task.wake.set()

    async def step(self) -> float:
        """Report where that is due; returns the seconds until the next look."""
        if not self._client.offers(EXTENSION):
            return self._interval
        async with self._reporting:
            return await self._step()

    async def _step(self) -> float:
        now = self._clock.monotonic()
        if now < self._due:
            return self._due - now
        passage = self._client.gate.passage(now)
        if not passage.open:
            return _SHORTEST if passage.wait is None else passage.wait
        try:
            await self._send(self._report(await self._look()))
        except CloudError as error:
            self._put_off(error)
        return max(0.0, self._due - self._clock.monotonic())

    async def _send(self, report: VehicleReport) -> None:
        path = f"/vehicles/{quote_id(self._client.settings.vehicle_id)}/status"
        body = report.model_dump_json(exclude_none=True).encode()  # what is optional is left out where there is none
        reply = await self._client.ask(Request.of(HTTPMethod.PUT, path, content=body, takes=_GONE))
        if reply.status in _GONE:
            self._client.withdraw(EXTENSION)
            return
        self._failures, self._told = 0, _news(report)
        await self._take_in(reply)
        now = self._clock.monotonic()
        self._earliest = now + _SHORTEST * (1.0 + self._rng.uniform(0.0, _SPREAD))
        self._due = max(self._earliest, now + self._interval * (1.0 - self._rng.uniform(0.0, _SPREAD)))

    def _put_off(self, error: CloudError) -> None:
        logger.info("agent.report: %s", error)
        if not isinstance(error, HeldError):
            self._failures += 1
        wait = _SHORTEST + full_jitter(self._failures, self._rng, cap=self._interval)
        self._earliest = self._due = self._clock.monotonic() + wait

    async def _take_in(self, reply: Response) -> None:
        try:
            receipt = VehicleReportReceipt.model_validate(reply.data or {})
        except ValidationError:
            return
        if receipt.report_interval is not None:
            self._interval = min(max(_SHORTEST, receipt.report_interval), _LONGEST)
        if receipt.probe_interval is not None:
            self._parts.connectivity.set_probe_interval(receipt.probe_interval)
        if is_plausible(rfc3339(receipt.time)):
            probe = Probe(receipt.time, None, reply.sent, reply.received, None)
            await self._parts.foundation.timekeeper.observe(probe)
        for wish in islice(receipt.wishes(), _MOST_WISHES):
            self._parts.scenarios.want(wish.scenario_id, wish.files)

    def _report(self, status: AgentStatus) -> VehicleReport:
        now, life, disk, recordings = self._clock.now(), status.life, status.disk, status.scenarios
        outbox, usage = status.outbox, [] if status.traffic is None else status.traffic.usage
        return VehicleReport(
            reported_at=moment(now),
            agent=ReportedAgent(
                version=status.version,
                started_at=moment(now) if life is None else life.started_at,
                starts=0 if life is None else life.starts,
                last_stop=LastStop.UNKNOWN if life is None else life.last_stop,
            ),
            outbox=ReportedOutbox(
                waiting=outbox.unsent,
                set_aside=outbox.set_aside,
                oldest_age=0.0 if outbox.oldest_at is None else round(max(0.0, now - outbox.oldest_at), 1),
                bytes=outbox.size_bytes,
            ),
            disk=ReportedDisk(free=0 if disk is None else disk.free_bytes, used=0 if disk is None else disk.used_bytes),
            scenarios=ReportedScenarios(
                waiting=0 if recordings is None else recordings.queued,
                on_request=0 if recordings is None else recordings.on_request,
                set_aside=0 if recordings is None else recordings.set_aside,
                uploaded=0 if recordings is None else recordings.uploaded,
            ),
            models=tuple(self._models(status, now)),
            data_used=ReportedUsage(
                day=sum(link.day_bytes for link in usage), month=sum(link.month_bytes for link in usage)
            ),
            certificate_expires_at=status.certificate_expires_at,
        )

    def _models(self, status: AgentStatus, now: float) -> list[ReportedModel]:
        found: list[ReportedModel] = []
        for model in status.models:
            for outcome in model.outcomes:
                # Of what has no time of its own: since it was first seen so.
                first = self._seen_at.setdefault((model.name, outcome.version, outcome.state), moment(now))
                found.append(
                    ReportedModel(
                        name=model.name,
                        version=outcome.version,
                        state=outcome.state,
                        since=outcome.since or first,
                        reason=outcome.reason,
                    )
                )
        there = {(one.name, one.version, one.state.value) for one in found}
        self._seen_at = {known: at for known, at in self._seen_at.items() if known in there}
        return found


def _news(report: VehicleReport) -> dict[str, object]:
    """What of a report is news: not what changes by itself, or by the report."""
    return report.model_dump(
        exclude={"reported_at": True, "disk": True, "data_used": True, "outbox": {"oldest_age", "bytes"}}
    )
