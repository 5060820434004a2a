"""Is the backend within reach? Probes, real traffic, states, and callbacks that cannot harm anybody."""

import asyncio
import threading
from collections.abc import AsyncIterator, Awaitable
from http import HTTPMethod
from itertools import pairwise
from random import Random

import pytest

from sentinel_sync.base.errors import CloudError, HeldError, StoreFullError
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.offline_manager import OfflineManager
from sentinel_sync.cloud.rules.connectivity import ConnectivityStatus
from tests.fakes.clock import FakeClock, settle
from tests.fakes.cloud import Answer, FakeCloud, json_answer, portal, problem, refused, settings_for
from tests.fakes.patience import until

UNKNOWN, ONLINE, OFFLINE = ConnectivityStatus.UNKNOWN, ConnectivityStatus.ONLINE, ConnectivityStatus.OFFLINE


@pytest.fixture
async def client(cloud: FakeCloud, clock: FakeClock, rng: Random) -> AsyncIterator[CloudAPIClient]:
    settings = settings_for(cloud, reconnect_spread=3.0, connectivity_check_interval=30.0, max_retries=0)
    async with CloudAPIClient(settings=settings, clock=clock, rng=rng) as made:
        yield made


@pytest.fixture
async def manager(client: CloudAPIClient, clock: FakeClock, rng: Random) -> AsyncIterator[OfflineManager]:
    made = OfflineManager(client, clock=clock, rng=rng)
    yield made
    await made.stop_monitoring()


async def traffic(client: CloudAPIClient) -> None:
    """A request of somebody's, whatever becomes of it."""
    try:
        await client.request(HTTPMethod.POST, "/trips", content=b"{}", idempotency_key="k")
    except CloudError:
        return


def probes(cloud: FakeCloud) -> int:
    return len(cloud.to("GET", "/health"))


async def go_offline(cloud: FakeCloud, manager: OfflineManager) -> None:
    await cloud.stop()
    assert not await manager.probe_now()
    assert manager.get_status() is OFFLINE


async def come_back(cloud: FakeCloud, manager: OfflineManager) -> None:
    await cloud.start()
    assert await manager.probe_now()


# --- states ---


async def test_nothing_is_known_before_the_backend_was_heard_of(manager: OfflineManager, cloud: FakeCloud) -> None:
    assert manager.get_status() is UNKNOWN
    assert not manager.is_online()
    assert manager.get_offline_duration() == 0.0
    assert cloud.requests == []


async def test_a_health_answer_is_online(manager: OfflineManager, cloud: FakeCloud) -> None:
    assert await manager.probe_now()
    assert manager.is_online()
    assert [seen.path for seen in cloud.requests] == ["/health"], "and nobody else's address was asked"


async def test_offline_since_when_and_for_how_long(manager: OfflineManager, cloud: FakeCloud, clock: FakeClock) -> None:
    await manager.probe_now()
    await go_offline(cloud, manager)
    clock.tick(75.0)
    await manager.probe_now()
    assert manager.get_offline_duration() == pytest.approx(75.0)
    report = manager.report()
    assert (report.status, report.transitions) == (OFFLINE, 2)
    assert report.since == pytest.approx(75.0)
    assert report.message.startswith("offline: ")
    await come_back(cloud, manager)
    assert manager.get_offline_duration() == 0.0
    assert manager.report().message == "online"


@pytest.mark.parametrize(
    "answer",
    [
        portal(),
        portal(302),
        Answer(200, b""),
        Answer(200, b"OK"),
        json_answer(200, ["ok"]),
        problem(500),
        problem(503),
        Answer(200, b'{"status"', declared=100),
    ],
    ids=["portal", "portal-302", "empty", "text", "list", "500", "503", "cut"],
)
async def test_what_is_no_health_answer_is_offline(answer: Answer, manager: OfflineManager, cloud: FakeCloud) -> None:
    cloud.script("GET", "/health", answer)
    assert not await manager.probe_now()
    assert manager.get_status() is OFFLINE


@pytest.mark.parametrize("status", [401, 403])
async def test_a_refused_credential_is_told_apart_from_being_offline(
    status: int, manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud
) -> None:
    cloud.script("POST", "/trips", refused(status))
    await traffic(client)
    report = manager.report()
    assert report.status is ONLINE
    assert report.unauthorized
    assert "unauthorized" in report.message
    assert "api_key" in report.message, "says what to do"
    await manager.probe_now()
    assert manager.report().unauthorized, "a health answer needs no credential, so it proves nothing"


# --- real traffic ---


async def test_real_traffic_counts_at_once(manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud) -> None:
    await traffic(client)
    assert manager.is_online()
    cloud.script("POST", "/trips", Answer(cut=0), Answer(cut=0))  # a reused connection: once more
    await traffic(client)
    assert manager.get_status() is OFFLINE
    assert probes(cloud) == 0


async def test_while_traffic_flows_nobody_probes(
    manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud, clock: FakeClock
) -> None:
    await manager.start_monitoring()
    await cloud.received(1, path="/health")
    await until(manager.is_online)
    for _ in range(60):
        await traffic(client)
        await clock.advance(10.0)
    assert len(cloud.to("POST", "/trips")) == 60
    assert probes(cloud) == 1, "the first, and in ten minutes no other"
    for more in range(1, 4):
        await clock.advance(40.0)
        await cloud.received(1 + more, path="/health")
        await until(lambda: clock.sleepers > 0)


async def test_a_backend_that_refuses_one_item_is_online(
    manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud
) -> None:
    cloud.script("POST", "/trips", problem(422))
    await traffic(client)
    assert manager.is_online()


# --- when it probes ---


async def settled_probe(cloud: FakeCloud, clock: FakeClock, count: int) -> None:
    await cloud.received(count, path="/health")
    await until(lambda: clock.sleepers > 0)


async def test_probes_are_spread_around_the_interval(
    manager: OfflineManager, cloud: FakeCloud, clock: FakeClock
) -> None:
    await manager.start_monitoring()
    await settled_probe(cloud, clock, 1)
    times = [clock.monotonic()]
    while len(times) < 12:
        before = probes(cloud)
        await clock.advance(0.5)
        await settle(50)
        await until(lambda: clock.sleepers > 0)
        if probes(cloud) > before:
            times.append(clock.monotonic())
    waits = [after - before for before, after in pairwise(times)]
    assert all(22.0 <= wait <= 38.5 for wait in waits)
    assert len(set(waits)) > 5


async def test_the_backends_own_interval_is_honoured_from_the_first_answer_on(
    manager: OfflineManager, cloud: FakeCloud, clock: FakeClock
) -> None:
    cloud.handler = lambda _: json_answer(200, {"status": "ok", "min_interval": 600})
    await manager.start_monitoring()
    await settled_probe(cloud, clock, 1)
    await clock.advance(590.0)
    assert probes(cloud) == 1
    await clock.advance(20.0)
    await settled_probe(cloud, clock, 2)


@pytest.mark.parametrize("interval", ["Infinity", "NaN", "-5", "1e300"])
async def test_an_absurd_interval_keeps_nobody_offline_for_ever(
    interval: str, manager: OfflineManager, cloud: FakeCloud, clock: FakeClock
) -> None:
    cloud.script("GET", "/health", Answer(200, b'{"status": "ok", "min_interval": %s}' % interval.encode()))
    await manager.start_monitoring()
    await settled_probe(cloud, clock, 1)
    await clock.advance(3_700.0)
    await cloud.received(2, path="/health")


async def test_a_lost_backend_is_looked_for_soon_and_then_ever_more_rarely(
    manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud, clock: FakeClock
) -> None:
    cloud.handler = lambda _: problem(500)
    await manager.start_monitoring()
    await settled_probe(cloud, clock, 1)

    async def in_the_next(seconds: float) -> int:
        before = probes(cloud)
        for _ in range(int(seconds * 2)):
            await clock.advance(0.5)
            await settle(50)
            await until(lambda: clock.sleepers > 0)
        return probes(cloud) - before

    assert await in_the_next(15.0) >= 2
    await in_the_next(300.0)
    assert 4 <= await in_the_next(300.0) <= 60, "about one in fifteen seconds, and no hammering"


async def test_the_host_may_say_that_the_network_changed(
    manager: OfflineManager, cloud: FakeCloud, clock: FakeClock
) -> None:
    await manager.start_monitoring()
    await settled_probe(cloud, clock, 1)
    manager.network_changed()
    await cloud.received(2, path="/health")


async def test_two_who_ask_at_the_same_time_share_one_probe(manager: OfflineManager, cloud: FakeCloud) -> None:
    assert await asyncio.gather(*(manager.probe_now() for _ in range(5))) == [True] * 5
    assert probes(cloud) == 1


async def test_one_who_stops_waiting_does_not_spoil_the_others_probe(manager: OfflineManager, cloud: FakeCloud) -> None:
    first, second = (asyncio.create_task(manager.probe_now()) for _ in range(2))
    await asyncio.sleep(0)
    first.cancel()
    assert await second
    assert probes(cloud) == 1


async def test_a_halted_client_is_not_probed(
    manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud, clock: FakeClock
) -> None:
    client.halt("power", "the battery is low")
    await manager.start_monitoring()
    await clock.advance(600.0)
    assert cloud.requests == []
    client.resume("power")
    manager.monitor.wake.set()
    await cloud.received(1, path="/health")


async def test_closing_cuts_off_a_probe_that_hangs(manager: OfflineManager, cloud: FakeCloud, clock: FakeClock) -> None:
    cloud.script("GET", "/health", Answer(silent=True))
    await manager.start_monitoring()
    await cloud.received(1, path="/health")
    async with asyncio.timeout(2.0):
        await manager.stop_monitoring()
    assert not [task for task in asyncio.all_tasks() if "sync." in task.get_name()]


# --- callbacks ---


async def test_callbacks_are_told_each_change(client: CloudAPIClient, cloud: FakeCloud, clock: FakeClock) -> None:
    told: list[str] = []
    manager = OfflineManager(client, connectivity_callback=lambda status: told.append(status.value), clock=clock)
    told_async: list[ConnectivityStatus] = []

    async def on_change(status: ConnectivityStatus) -> None:
        told_async.append(status)

    class Listener:
        async def __call__(self, status: ConnectivityStatus) -> None:
            told_async.append(status)

    manager.register_connectivity_callback(on_change)
    manager.register_connectivity_callback(Listener())
    await manager.probe_now()
    await until(lambda: told == ["online"] and told_async == [ONLINE] * 2)
    await manager.probe_now()
    await go_offline(cloud, manager)
    await until(lambda: told == ["online", "offline"] and len(told_async) == 4)
    await manager.close()


async def test_a_raising_callback_harms_nobody(
    manager: OfflineManager, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    told: list[ConnectivityStatus] = []

    def broken(status: ConnectivityStatus) -> None:
        raise RuntimeError("the host's own bug")

    async def broken_async(status: ConnectivityStatus) -> None:
        raise RuntimeError("the host's other bug")

    def leaves(status: ConnectivityStatus) -> None:
        raise SystemExit(3)

    for callback in (broken, broken_async, leaves, told.append):
        manager.register_connectivity_callback(callback)
    await manager.probe_now()
    await until(lambda: told == [ONLINE])
    await go_offline(cloud, manager)
    await until(lambda: told == [ONLINE, OFFLINE])
    await until(lambda: "own bug" in caplog.text and "other bug" in caplog.text and "SystemExit" in caplog.text)


async def test_a_blocking_callback_stalls_neither_the_loop_nor_the_others(
    manager: OfflineManager, cloud: FakeCloud
) -> None:
    may_end, inside = threading.Event(), threading.Semaphore(0)
    told: list[ConnectivityStatus] = []

    def slow(_: ConnectivityStatus) -> None:
        inside.release()
        may_end.wait(10)

    try:
        for _ in range(40):  # more than the loop's pool has threads
            manager.register_connectivity_callback(slow)
        manager.register_connectivity_callback(told.append)
        await manager.probe_now()
        await until(lambda: told == [ONLINE])
        assert await asyncio.to_thread(lambda: "the pool is free") == "the pool is free"
        await manager.probe_now()
    finally:
        may_end.set()


async def test_a_slow_callback_is_told_the_newest_not_every_one(manager: OfflineManager, cloud: FakeCloud) -> None:
    may_go_on, told = asyncio.Event(), list[ConnectivityStatus]()

    async def slow(status: ConnectivityStatus) -> None:
        told.append(status)
        await may_go_on.wait()

    manager.register_connectivity_callback(slow)
    await manager.probe_now()
    await until(lambda: told == [ONLINE])
    for _ in range(3):
        await go_offline(cloud, manager)
        await come_back(cloud, manager)
    await go_offline(cloud, manager)
    may_go_on.set()
    await until(lambda: told == [ONLINE, OFFLINE])


async def test_a_change_in_the_very_moment_a_callback_ends_is_told(
    manager: OfflineManager, client: CloudAPIClient, cloud: FakeCloud
) -> None:
    told: list[ConnectivityStatus] = []

    async def quick(status: ConnectivityStatus) -> None:
        told.append(status)

    manager.register_connectivity_callback(quick)
    await manager.probe_now()
    for _ in range(20):
        cloud.script("POST", "/trips", Answer(cut=0))
        client.gate.on_reachable()
        await traffic(client)
        client.gate.on_reachable()
        await traffic(client)
    await until(lambda: bool(told) and told[-1] is manager.get_status())


async def test_a_callback_may_close_the_manager(manager: OfflineManager, cloud: FakeCloud) -> None:
    closed = asyncio.Event()

    async def close(_: ConnectivityStatus) -> None:
        await manager.close()
        closed.set()

    manager.register_connectivity_callback(close)
    await manager.probe_now()
    async with asyncio.timeout(5.0):
        await closed.wait()


# --- syncs ---


class Sync:
    """A registered sync that counts its runs."""

    def __init__(self, error: Exception | None = None) -> None:
        self.runs = 0
        self._error = error

    async def __call__(self) -> None:
        self.runs += 1
        if self._error is not None:
            raise self._error


async def test_syncs_run_at_once_when_the_backend_is_first_heard_of(manager: OfflineManager) -> None:
    sync = Sync()
    manager.register_sync_callback(sync)
    await manager.probe_now()
    await until(lambda: sync.runs == 1)
    await manager.probe_now()
    await settle()
    assert sync.runs == 1, "only on coming back"


async def test_after_an_outage_syncs_run_with_a_small_random_spread(cloud: FakeCloud, clock: FakeClock) -> None:
    waits = []
    for seed in range(6):
        settings = settings_for(cloud, reconnect_spread=3.0)
        async with CloudAPIClient(settings=settings, clock=clock, rng=Random(seed)) as client:
            manager = OfflineManager(client, clock=clock, rng=Random(seed))
            await go_offline(cloud, manager)
            sync = Sync()
            manager.register_sync_callback(sync)
            await come_back(cloud, manager)
            await settle()
            assert sync.runs == 0
            began = clock.monotonic()
            while sync.runs == 0:
                await clock.advance(0.05)
            waits.append(clock.monotonic() - began)
            await manager.close()
    assert all(wait <= 3.1 for wait in waits)
    assert len({round(wait, 2) for wait in waits}) >= 5, "a fleet that leaves a tunnel does not arrive as one"


async def test_a_sync_that_raises_harms_nobody(
    manager: OfflineManager, cloud: FakeCloud, caplog: pytest.LogCaptureFixture
) -> None:
    syncs = [Sync(RuntimeError("a bug")), Sync(StoreFullError("full")), Sync(HeldError("held")), Sync()]
    for sync in syncs:
        manager.register_sync_callback(sync)
    await manager.probe_now()
    await until(lambda: [sync.runs for sync in syncs] == [1, 1, 1, 1])
    await manager.force_sync()
    assert [sync.runs for sync in syncs] == [2, 2, 2, 2]
    assert "connectivity.sync" in caplog.text


async def test_plain_functions_and_lambdas_will_do_as_syncs(manager: OfflineManager) -> None:
    runs: list[str] = []

    async def work() -> None:
        runs.append("awaited")

    def hand_over() -> Awaitable[None]:
        return work()

    manager.register_sync_callback(lambda: runs.append("plain"))
    manager.register_sync_callback(hand_over)
    await manager.force_sync()
    assert sorted(runs) == ["awaited", "plain"]


async def test_a_sync_that_hangs_is_not_started_twice_and_holds_up_nobody(
    manager: OfflineManager, cloud: FakeCloud, clock: FakeClock
) -> None:
    started = 0

    async def hangs() -> None:
        nonlocal started
        started += 1
        await asyncio.Event().wait()

    quick = Sync()
    manager.register_sync_callback(hangs)
    manager.register_sync_callback(quick)
    await manager.probe_now()
    for outage in range(3):
        await go_offline(cloud, manager)
        await come_back(cloud, manager)
        while quick.runs < outage + 2:
            await clock.advance(0.5)
    assert started == 1
    async with asyncio.timeout(2.0):
        await manager.close()
