"""NetworkManager over a real D-Bus: there, changing, gone, back, absent, hanging; each is normal and said once."""

import asyncio
import os
import socket
import sys
from collections.abc import AsyncIterator
from pathlib import Path
from random import Random

import pytest

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.tasks import Supervisor
from sentinel_sync.network import network_manager
from sentinel_sync.network.network_manager import WORD_COUNTS_FOR, NetworkManagerWatch
from sentinel_sync.network.policy import TransferPolicy
from sentinel_sync.network.rules.traffic import Link, Metered, ObservedNetwork, TrafficClass
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.fakes.patience import until, until_true
from tests.network.buses import Daemon, NetworkManager, running_bus, skip_without

WIFI = "802-11-wireless"
GSM = "gsm"
YES, NO, GUESS_YES = 1, 2, 3


class Watcher:
    """A watch, and the news that it gave."""

    def __init__(self, address: str, clock: FakeClock) -> None:
        self.news = asyncio.Event()
        self.watch = NetworkManagerWatch(self.news.set, clock=clock, bus_address=address)

    async def look(self) -> float:
        self.news.clear()
        return await self.watch.look()

    async def hears(self) -> ObservedNetwork | None:
        """Wait for news and look."""
        async with asyncio.timeout(10.0):
            await self.news.wait()
        await self.look()
        return self.watch.observed


@pytest.fixture
async def bus(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[tuple[Daemon, NetworkManager]]:
    skip_without()
    # Not in the test's own folder: a socket's path has a hundred characters at most.
    async with running_bus(tmp_path_factory.mktemp("bus")) as running:
        yield running


@pytest.fixture
async def watcher(bus: tuple[Daemon, NetworkManager], clock: FakeClock) -> AsyncIterator[Watcher]:
    made = Watcher(bus[0].address, clock)
    yield made
    await made.watch.close()


async def test_it_appears_changes_vanishes_and_comes_back(
    bus: tuple[Daemon, NetworkManager], watcher: Watcher, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    _, manager = bus
    for _ in range(3):
        await watcher.look()
    assert watcher.watch.observed is None
    assert caplog.text.count("network.manager: NetworkManager does not answer") == 1

    await manager.start(NO, WIFI)
    await until_true(lambda: seen(watcher, ObservedNetwork(Metered.NO, Link.WIFI)))
    await manager.say(GUESS_YES, GSM)
    await until_true(lambda: seen(watcher, ObservedNetwork(Metered.GUESS_YES, Link.CELLULAR)))

    await manager.stop()
    assert await watcher.hears() == ObservedNetwork(Metered.GUESS_YES, Link.CELLULAR), "its word counts for a while"
    clock.tick(WORD_COUNTS_FOR)
    assert watcher.watch.observed is None
    assert caplog.text.count("network.manager: NetworkManager has gone") == 1

    await manager.start(YES, WIFI)
    await until_true(lambda: seen(watcher, ObservedNetwork(Metered.YES, Link.WIFI)))


async def seen(watcher: Watcher, observed: ObservedNetwork) -> bool:
    if watcher.news.is_set():
        await watcher.look()
    return watcher.watch.observed == observed


async def test_signals_about_something_else_are_no_news(bus: tuple[Daemon, NetworkManager], watcher: Watcher) -> None:
    _, manager = bus
    await manager.start(NO, WIFI)
    await watcher.look()
    assert watcher.watch.observed == ObservedNetwork(Metered.NO, Link.WIFI)
    await manager.say_something_else()
    await manager.say(YES, WIFI)  # what comes after it has passed it
    assert await watcher.hears() == ObservedNetwork(Metered.YES, Link.WIFI)
    watcher.news.clear()
    await manager.say_something_else()
    await watcher.watch._ask()  # its answer comes after the signal
    assert not watcher.news.is_set()


async def test_a_bus_that_dies_and_comes_back_is_found_again(
    bus: tuple[Daemon, NetworkManager], watcher: Watcher, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    daemon, manager = bus
    await manager.start(YES, GSM)
    await watcher.look()
    await daemon.stop()
    await manager.stop()
    assert await watcher.hears() == ObservedNetwork(Metered.YES, Link.CELLULAR)
    delay = await watcher.look()
    assert 0.0 < delay <= 60.0
    clock.tick(WORD_COUNTS_FOR)
    for _ in range(3):
        await watcher.look()
        clock.tick(60.0)
    assert watcher.watch.observed is None
    assert caplog.text.count("network.manager: the system bus") == 2, caplog.text

    await daemon.start()
    await manager.start(NO, WIFI)
    await watcher.look()
    assert watcher.watch.observed == ObservedNetwork(Metered.NO, Link.WIFI)


async def test_a_desk_under_a_supervisor_follows_it_without_being_asked(
    bus: tuple[Daemon, NetworkManager], store: Store, rng: Random
) -> None:
    daemon, manager = bus
    await manager.start(NO, WIFI)
    clock, told = SystemClock(), asyncio.Event()
    settings = CloudSettings.model_validate({"data_budget": {"cellular": {"day": 1000}}})
    policy = TransferPolicy(store.documents, settings, clock=clock, supervised=True, bus_address=daemon.address)
    policy.subscribe(told.set)
    supervisor = Supervisor(clock, rng)
    supervisor.start([policy.duty])
    assert await policy.blocked_reason(TrafficClass.SCENARIOS) is None
    assert policy.snapshot().link is Link.WIFI
    await until(told.is_set)
    told.clear()
    await manager.say(YES, GSM)
    await until(told.is_set)
    assert await policy.blocked_reason(TrafficClass.SCENARIOS) == (
        "the network is metered (NetworkManager says so): recordings wait for an unmetered one"
    )
    assert await policy.blocked_reason(TrafficClass.TRIPS) is None
    policy.count(600, 400)
    assert "per day for the cellular link" in (await policy.blocked_reason(TrafficClass.TRIPS) or "")
    await supervisor.stop(grace=1.0)
    await policy.close()
    assert not [task for task in asyncio.all_tasks() if task.get_name().startswith("sync.")]


async def test_a_desk_alone_follows_it_when_it_is_asked(bus: tuple[Daemon, NetworkManager], store: Store) -> None:
    daemon, manager = bus
    await manager.start(NO, WIFI)
    policy = TransferPolicy(store.documents, CloudSettings(), clock=SystemClock(), bus_address=daemon.address)
    assert await policy.blocked_reason(TrafficClass.MODELS) is None
    await manager.say(YES, WIFI)

    async def waits() -> bool:
        return await policy.blocked_reason(TrafficClass.MODELS) is not None

    await until_true(waits)
    await policy.close()


async def test_a_bus_that_hangs_costs_a_moment_and_is_said(
    tmp_path_factory: pytest.TempPathFactory,
    clock: FakeClock,
    caplog: pytest.LogCaptureFixture,
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    caplog.set_level("INFO")
    monkeypatch.setattr(network_manager, "_PATIENCE", 0.05)
    path = tmp_path_factory.mktemp("bus") / "bus"
    with socket.socket(socket.AF_UNIX) as hanging:  # the kernel connects; nobody ever answers
        hanging.bind(str(path))
        hanging.listen()
        watcher = Watcher(f"unix:path={path}", clock)
        async with asyncio.timeout(5.0):
            assert 0.0 < await watcher.look() <= 60.0
        await watcher.watch.close()
    assert "network.manager: the system bus cannot be used (TimeoutError)" in caplog.text


async def test_without_a_bus_it_tries_once_a_minute_and_says_it_once(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
) -> None:
    caplog.set_level("INFO")
    watcher = Watcher(f"unix:path={tmp_path}/none", clock)
    for _ in range(3):
        assert await watcher.look() == 60.0
        clock.tick(60.0)
    assert caplog.text.count("network.manager") == 1
    assert "there is no system bus" in caplog.text


async def test_without_the_extra_it_says_which(
    tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture, monkeypatch: pytest.MonkeyPatch
) -> None:
    caplog.set_level("INFO")
    (tmp_path / "bus").touch()
    monkeypatch.setattr(network_manager, "find_spec", lambda _: None)
    watcher = Watcher(f"unix:path={tmp_path}/bus", clock)
    await watcher.look()
    assert "the extra `network` (dbus-fast) is not installed" in caplog.text
    assert watcher.watch.observed is None


async def test_where_there_is_no_bus_its_library_takes_no_memory(tmp_path: Path) -> None:
    program = (
        "import asyncio, sys\n"
        "from sentinel_sync.network.network_manager import NetworkManagerWatch\n"
        "from sentinel_sync.base.clock import SystemClock\n"
        f"watch = NetworkManagerWatch(print, clock=SystemClock(), bus_address='unix:path={tmp_path}/none')\n"
        "asyncio.run(watch.look())\n"
        "sys.exit(any(name.startswith('dbus') for name in sys.modules))\n"
    )
    root = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-c", program, env={"PATH": os.environ["PATH"], "PYTHONPATH": root}
    )
    async with asyncio.timeout(30.0):
        assert await process.wait() == 0
