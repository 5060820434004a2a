"""A vehicle that sends recorded parts to a server at some address, again and again until they are there."""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass, field
from pathlib import Path
from random import Random
from typing import Any

from pydantic import SecretStr

from sentinel_sync.base.errors import HeldError, NotNowError, UnreachableError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.tus import PatchCeilings
from sentinel_sync.scenarios.upload import PartSender
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock
from tests.fakes.cloud import API_KEY, FLEET, VEHICLE
from tests.scenarios.recorded_part import RecordedPart

#: Longer than any pause that the client makes by itself.
PAUSE = 120.0
MEBIBYTE = 1 << 20
_MOST_ATTEMPTS = 40


@dataclass(slots=True)
class Sender:
    """A vehicle as it runs.

    Attributes:
        starts: At which byte each attempt at a part began.
        sent_bytes: All that went out, heads included.
    """

    client: CloudAPIClient
    parts: PartSender
    clock: FakeClock
    starts: list[int] = field(default_factory=list)
    sent_bytes: int = 0

    async def send(self, recorded: RecordedPart) -> None:
        """Make one attempt."""
        before = len(recorded.progress)
        try:
            await recorded.send(self.parts)
        finally:
            self.starts += recorded.progress[before : before + 1]

    async def send_over_time(self, recorded: RecordedPart) -> float:
        """Make one attempt while time passes; returns the seconds that it took, by the vehicle's clock."""
        begun = self.clock.monotonic()
        sending = asyncio.create_task(self.send(recorded))
        while not sending.done():
            await self.clock.advance(0.5)
            await asyncio.wait({sending}, timeout=0.01)
        await sending
        return self.clock.monotonic() - begun

    async def send_until_there(
        self, recorded: RecordedPart, *, between: Callable[[], None] = lambda: None
    ) -> list[Exception]:
        """Try again as the uploader would, calling `between` each time; returns what went wrong on the way."""
        faults: list[Exception] = []
        while len(faults) < _MOST_ATTEMPTS:
            try:
                await self.send(recorded)
            except (UnreachableError, NotNowError, HeldError) as fault:
                faults.append(fault)
                between()
                self.clock.tick(PAUSE)
            else:
                return faults
        raise AssertionError(f"not there after {len(faults)} attempts: {faults[-1]}")

    def _count(self, sent_bytes: int, _received_bytes: int) -> None:
        self.sent_bytes += sent_bytes

    def follow(self) -> None:
        self.client.on_traffic(self._count)


@asynccontextmanager
async def vehicle(
    url: str, folder: Path, *, ceilings: PatchCeilings | None = None, **settings: Any
) -> AsyncIterator[Sender]:
    """One run of a vehicle's process: nothing but what the test keeps goes over to the next."""
    clock = FakeClock()
    known: dict[str, Any] = {"rate_limit": 0.0, "timeout": 10.0, "state_dir": folder / "state"}
    async with CloudAPIClient(
        settings=CloudSettings(
            api_url=url, api_key=SecretStr(API_KEY), vehicle_id=VEHICLE, fleet_id=FLEET, **(known | settings)
        ),
        clock=clock,
        rng=Random(1),
    ) as client:
        sender = Sender(client, PartSender(client, folder / "derived", clock=clock, ceilings=ceilings), clock)
        sender.follow()
        yield sender
