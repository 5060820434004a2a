"""A process full of vehicles, each a whole agent: its own store on a disk, its own client, its own idea of the network.

`python -m sentinel_sync.fleet_simulation.vehicles`: a plan on standard input, then the second in which to begin; a line
of JSON for each second on standard output, and one with the trips that were acknowledged. It ends with its input.
"""

import asyncio
import contextlib
import gc
import json
import logging
import sys
import time
from pathlib import Path
from random import Random
from typing import Any

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.fleet_simulation.protocol import REFUSED, SCRIPTS, Plan, Second, kind_of
from sentinel_sync.settings import Settings

MODEL = "yolov8m_automotive"
STARTED_AT_ONCE = 16
LOOKED_AT = 150
"""Vehicles that are asked each second whether their trips still wait, at most; who was asked last is asked last."""
DRAIN = 60.0
"""Seconds, after the end, for what is left."""
LOOK_WITHIN = 10.0
"""Seconds over which vehicles look for a release, as hosts that have been told of one do; less in a short run."""


class WatchedTransport(httpx.AsyncBaseTransport):
    """Counts and times what goes to the backend, and takes the network away."""

    def __init__(self, inner: httpx.AsyncBaseTransport, fleet: "Fleet") -> None:
        self._inner = inner
        self._fleet = fleet

    async def handle_async_request(self, request: httpx.Request) -> httpx.Response:
        """One request.

        Raises:
            httpx.ConnectError: There is no network now.
        """
        kind, began = kind_of(request.method, request.url.path), time.monotonic()
        if self._fleet.is_cut_off:
            raise httpx.ConnectError("no network in this part of the script", request=request)
        try:
            response = await self._inner.handle_async_request(request)
        except httpx.TransportError:
            self._fleet.second.count(kind, REFUSED, None)
            raise
        self._fleet.second.count(kind, str(response.status_code), time.monotonic() - began)
        return response

    async def aclose(self) -> None:
        """Close the connections."""
        await self._inner.aclose()


class Vehicle:
    """One vehicle, and what it remembers of its trips."""

    def __init__(self, number: int, fleet: "Fleet") -> None:
        plan = fleet.plan
        self.name = f"vehicle_{number:06d}"
        folder = Path(plan.folder) / self.name
        settings = {
            "enabled": True,
            "api_url": plan.url,
            "api_key": plan.api_key,
            "vehicle_id": self.name,
            "fleet_id": plan.fleet_id,
            "ca_file": plan.ca_file,
            "network": "unmetered",
            "outbox_max_bytes": 1 << 24,
            "upload_scenarios": False,
            "sync_profiles": False,
            "model_trusted_keys": [plan.trusted_key] if plan.trusted_key else [],
            "state_dir": str(folder / "state"),
            "models_dir": str(folder / "models"),
            "profiles_dir": str(folder / "profiles"),
            "scenarios_dir": str(folder / "scenarios"),
            "trip_queue_file": str(folder / "trip_queue.json"),
        }
        verify: Any = True if plan.ca_file is None else fleet.trust
        self._http = httpx.AsyncClient(
            transport=WatchedTransport(httpx.AsyncHTTPTransport(verify=verify, trust_env=False), fleet)
        )
        self.agent = SyncAgent(Settings.model_validate({"cloud": settings}), http=self._http, rng=Random(number))  # noqa: S311  # repeatable
        self._fleet = fleet
        self._rng = Random(plan.seed * 1_000_003 + number)  # noqa: S311  # repeatable
        self.acknowledged: list[str] = []
        """Ids of trips that `end_trip` said were durable."""
        self.waiting = 0
        self.looked_at = 0.0

    async def drive(self) -> None:
        """End a trip now and then, until the run is over."""
        interval = self._fleet.plan.trip_interval
        await asyncio.sleep(self._rng.uniform(0.0, interval))
        while True:
            trip_id = await self.agent.trips.start_trip(driver_id=f"driver_{self._rng.randrange(3)}")
            self.agent.trips.update_trip(
                distance_delta=self._rng.uniform(200.0, 20_000.0), speed=self._rng.uniform(5.0, 40.0), risk_score=0.1
            )
            if await self.agent.trips.end_trip() is not None:
                self.acknowledged.append(trip_id)
                self.waiting += 1  # until it is seen that it does not
            await asyncio.sleep(self._rng.expovariate(1.0 / interval))

    async def want_the_release(self) -> None:
        """Look for it, and install it."""
        await asyncio.sleep(self._rng.uniform(0.0, min(LOOK_WITHIN, self._fleet.plan.duration / 6)))
        with contextlib.suppress(SentinelSyncError):  # what came of it is in the figures
            for update in await self.agent.models.check_for_updates():
                await self.agent.models.download_and_install_model(update["name"], update["version"])

    async def look(self) -> None:
        """How many of its trips wait."""
        self.looked_at = time.monotonic()
        self.waiting = (await self.agent.trips.get_statistics())["queued"]

    async def close(self) -> None:
        """Stop the agent."""
        await self.agent.aclose()
        await self._http.aclose()


class Fleet:
    """All vehicles of this process."""

    def __init__(self, plan: Plan) -> None:
        self.plan = plan
        self.is_cut_off = False
        self.second = Second()
        self.trust = httpx.create_ssl_context(verify=plan.ca_file) if plan.ca_file else None
        self._script = SCRIPTS[plan.script]
        self._vehicles = [Vehicle(number, self) for number in range(plan.first, plan.first + plan.vehicles)]

    async def start(self) -> None:
        """Start the agents, a few at a time."""
        turns = asyncio.Semaphore(STARTED_AT_ONCE)

        async def start(vehicle: Vehicle) -> None:
            async with turns:
                await vehicle.agent.start()

        await asyncio.gather(*(start(vehicle) for vehicle in self._vehicles))
        gc.freeze()

    async def run(self, begin: float) -> None:
        """The script, from `begin` (seconds since the epoch); prints a line for each second."""
        await asyncio.sleep(max(0.0, begin - time.time()))
        self.second = Second()
        driving = [asyncio.create_task(vehicle.drive()) for vehicle in self._vehicles]
        acting = asyncio.create_task(self._act())
        for number in range(round(self.plan.duration)):
            await self._measure(number, begin + number + 1.0)
        for task in (*driving, acting):
            task.cancel()
        await asyncio.wait([*driving, acting])
        for task in (*driving, acting):
            if not task.cancelled() and (error := task.exception()) is not None:
                raise error

    async def drain(self) -> None:
        """Send what is left, and print what was acknowledged and what is left for good."""
        await asyncio.gather(*(vehicle.agent.drain(DRAIN) for vehicle in self._vehicles))
        await asyncio.gather(*(vehicle.look() for vehicle in self._vehicles))
        versions = [await vehicle.agent.models.get_installed_models() for vehicle in self._vehicles]
        say(
            event="end",
            acknowledged={vehicle.name: vehicle.acknowledged for vehicle in self._vehicles},
            left=sum(vehicle.waiting for vehicle in self._vehicles),
            installed=sum(MODEL in found for found in versions),
        )
        await asyncio.gather(*(vehicle.close() for vehicle in self._vehicles))

    async def _act(self) -> None:
        began, duration = time.monotonic(), self.plan.duration
        window = self._script.away or self._script.refused
        if window is not None:
            await asyncio.sleep(window[0] * duration)
            self.is_cut_off = True
            await asyncio.sleep(began + window[1] * duration - time.monotonic())
            self.is_cut_off = False
            for vehicle in self._vehicles if self._script.away else ():
                vehicle.agent.connectivity.network_changed()
        if self._script.release_at is not None:
            await asyncio.sleep(self._script.release_at * duration + 1.0)
            await asyncio.gather(*(vehicle.want_the_release() for vehicle in self._vehicles))

    async def _measure(self, number: int, ends_at: float) -> None:
        if not self.is_cut_off:  # else there are only more of them
            waiting = [vehicle for vehicle in self._vehicles if vehicle.waiting]
            waiting.sort(key=lambda vehicle: vehicle.looked_at)
            await asyncio.gather(*(vehicle.look() for vehicle in waiting[:LOOKED_AT]))
        await asyncio.sleep(max(0.0, ends_at - time.time()))
        second, self.second = self.second, Second()
        second.lag = time.time() - ends_at
        second.waiting = sum(vehicle.waiting for vehicle in self._vehicles)
        say(event="second", number=number, **second.to_json())


def say(**facts: object) -> None:
    """A line for whoever started this process."""
    sys.stdout.write(json.dumps(facts) + "\n")
    sys.stdout.flush()


async def main() -> None:
    """Do what the plan says."""
    lines = asyncio.StreamReader(limit=1 << 20)
    await asyncio.get_running_loop().connect_read_pipe(lambda: asyncio.StreamReaderProtocol(lines), sys.stdin)
    fleet = Fleet(Plan.from_json((await lines.readline()).decode()))
    await fleet.start()
    say(event="ready")
    begin = float(await lines.readline())
    working = asyncio.create_task(_work(fleet, begin))
    ended = asyncio.create_task(lines.read())  # whoever started this is gone
    await asyncio.wait([working, ended], return_when=asyncio.FIRST_COMPLETED)
    ended.cancel()
    if working.done():
        await working
    else:
        working.cancel()
        await asyncio.wait([working])


async def _work(fleet: Fleet, begin: float) -> None:
    await fleet.run(begin)
    await fleet.drain()


if __name__ == "__main__":
    logging.basicConfig(level=logging.ERROR)
    asyncio.run(main())
