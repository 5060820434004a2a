"""Vehicles for numbers that no machine holds: parked, with probes and reports when the agent's own rules say.

`python -m sentinel_sync.fleet_simulation.light`, as `vehicles.py`. What is sent is real; there is no agent around it.
"""

import asyncio
import heapq
import json
import sys
import time
import uuid
from datetime import UTC, datetime
from random import Random

from sentinel_sync.base.http_library import httpx
from sentinel_sync.cloud.rules.connectivity import Connectivity
from sentinel_sync.fleet_simulation.protocol import REFUSED, SCRIPTS, Plan, Second, kind_of
from sentinel_sync.fleet_simulation.vehicles import say

CHECK_INTERVAL, RECONNECT_SPREAD = 30.0, 3.0
"""Seconds, as settings have them by default."""
PARKED_PROBES, REPORTS = 300.0, 3600.0
"""Seconds between a parked vehicle's probes, and its reports."""
CONNECTIONS = 16
"""At once; httpcore's pool takes longer for each further one that waits (encode/httpx issue 3215)."""


class LightFleet:
    """All vehicles of this process."""

    def __init__(self, plan: Plan, client: httpx.AsyncClient) -> None:
        self._plan = plan
        self._client = client
        self._rng = Random(plan.seed * 1_000_003 + plan.first)  # noqa: S311  # repeatable
        self._second = Second()
        self._vehicles = [
            Connectivity(CHECK_INTERVAL, self._rng, 0.0, reconnect_spread=RECONNECT_SPREAD)
            for _ in range(plan.vehicles)
        ]
        self._due = [(self._rng.uniform(0.0, PARKED_PROBES), number) for number in range(plan.vehicles)]
        self._reports = [(self._rng.uniform(0.0, REPORTS), number) for number in range(plan.vehicles)]
        for queue in (self._due, self._reports):
            heapq.heapify(queue)
        for vehicle in self._vehicles:
            vehicle.on_contact(0.0)
            vehicle.note_activity(0.0, is_busy=False)
        self._began = 0.0
        self._turns = asyncio.Semaphore(CONNECTIONS)
        self._cut_off = SCRIPTS[plan.script].away or SCRIPTS[plan.script].refused

    async def run(self, begin: float) -> None:
        """The script, from `begin` (seconds since the epoch); prints a line for each second."""
        self._began = begin
        await asyncio.sleep(max(0.0, begin - time.time()))
        async with asyncio.TaskGroup() as tasks:
            for number in range(round(self._plan.duration)):
                ends_at = number + 1.0
                while (now := time.time() - begin) < ends_at:
                    self._send_what_is_due(tasks, now)
                    await asyncio.sleep(min(0.02, ends_at - now))
                second, self._second = self._second, Second()
                second.lag = max(second.lag, time.time() - begin - ends_at - 0.02)
                say(event="second", number=number, **second.to_json())
        say(event="end", acknowledged={}, left=0, installed=0)

    def _send_what_is_due(self, tasks: asyncio.TaskGroup, now: float) -> None:
        while self._due[0][0] <= now:
            tasks.create_task(self._probe(heapq.heappop(self._due)[1], now))
        while self._reports[0][0] <= now:
            _, number = heapq.heappop(self._reports)
            heapq.heappush(self._reports, (now + REPORTS, number))
            tasks.create_task(self._report(number))

    async def _probe(self, number: int, now: float) -> None:
        vehicle = self._vehicles[number]
        answer = await self._ask("GET", "/health")
        if answer is not None and answer.is_success:
            vehicle.on_contact(now)
        else:
            vehicle.on_no_contact("no answer", now)
        heapq.heappush(self._due, (now + max(vehicle.probe_in(now), 0.1), number))

    async def _report(self, number: int) -> None:
        name, moment = f"vehicle_{self._plan.first + number:06d}", datetime.now(UTC).isoformat()
        body = {
            "schema_version": 1,
            "reported_at": moment,
            "agent": {"version": "0", "started_at": moment, "starts": 1, "last_stop": "clean"},
            "outbox": {"waiting": 0, "set_aside": 0, "oldest_age": 0, "bytes": 0},
            "disk": {"free": 1, "used": 1},
            "scenarios": {"waiting": 0, "on_request": 0, "set_aside": 0, "uploaded": 0},
            "models": [],
            "data_used": {"day": 0, "month": 0},
        }
        headers = {
            "Authorization": f"Bearer {self._plan.api_key}",
            "X-Fleet-ID": self._plan.fleet_id,
            "X-Vehicle-ID": name,
            "X-Request-ID": str(uuid.uuid4()),
        }
        await self._ask("PUT", f"/vehicles/{name}/status", headers=headers, content=json.dumps(body))

    async def _ask(
        self, method: str, path: str, *, headers: dict[str, str] | None = None, content: str | None = None
    ) -> httpx.Response | None:
        if self._is_cut_off():
            return None
        given = {"Content-Type": "application/json", **(headers or {})} if content is not None else {}
        due = time.monotonic()
        async with self._turns:
            kind, began = kind_of(method, path), time.monotonic()
            self._second.lag = max(self._second.lag, began - due)  # it is this process that is late
            try:
                answer = await self._client.request(method, path, headers=given, content=content)
            except httpx.TransportError:
                self._second.count(kind, REFUSED, None)
                return None
            self._second.count(kind, str(answer.status_code), time.monotonic() - began)
            return answer

    def _is_cut_off(self) -> bool:
        if self._cut_off is None:
            return False
        share = (time.time() - self._began) / self._plan.duration
        return self._cut_off[0] <= share < self._cut_off[1]


async def main() -> None:
    """Do what the plan says."""
    lines = asyncio.StreamReader()
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    plan = Plan.from_json((await lines.readline()).decode())
    limits = httpx.Limits(max_connections=CONNECTIONS, max_keepalive_connections=CONNECTIONS)
    trust = True if plan.ca_file is None else httpx.create_ssl_context(verify=plan.ca_file)
    async with httpx.AsyncClient(
        base_url=plan.url, limits=limits, timeout=30.0, verify=trust, trust_env=False
    ) as client:
        fleet = LightFleet(plan, client)
        say(event="ready")
        await fleet.run(float(await lines.readline()))


if __name__ == "__main__":
    asyncio.run(main())
