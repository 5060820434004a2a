"""Desks on a real store, for the tests of what they allow and of what they remember."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any

from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.budget import Period
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from tests.fakes.clock import FakeClock

NO_BUS = "unix:path=/nowhere/bus"
MEGABYTE = 1_000_000
#: Longer than what other processes say is remembered, seconds.
A_MOMENT = 0.5


def policy_on(store: Store, clock: FakeClock, timekeeper: Timekeeper | None = None, **settings: Any) -> TransferPolicy:
    owner = settings.pop("owner", True)
    return TransferPolicy(
        store.documents,
        CloudSettings.model_validate(settings),
        clock=clock,
        timekeeper=timekeeper,
        owner=owner,
        bus_address=NO_BUS,
    )


async def held(policy: TransferPolicy) -> set[TrafficClass]:
    return {traffic for traffic in TrafficClass if await policy.blocked_reason(traffic) is not None}


def used(policy: TransferPolicy, link: str = "any", period: Period = Period.DAY) -> int:
    (use,) = [use for use in policy.snapshot().budgets if (use.link, use.period) == (link, period)]
    return use.used_bytes


@asynccontextmanager
async def opened(state: Path, clock: FakeClock, **settings: Any) -> AsyncIterator[TransferPolicy]:
    """One life of an agent, as far as its desk is concerned."""
    async with Store(state, clock=clock) as store:
        policy = policy_on(store, clock, **settings)
        await policy.prepare()
        yield policy
        await policy.close()
