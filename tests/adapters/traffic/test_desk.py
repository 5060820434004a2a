"""The traffic desk on a real store: whose word counts, what waits, and what it remembers over restarts and kills."""

import asyncio
import os
import sys
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sentinel_sync.adapters.store.store import Store
from sentinel_sync.adapters.timekeeper import Timekeeper
from sentinel_sync.adapters.traffic.desk import TrafficDesk
from sentinel_sync.adapters.traffic.operator_word import save_word
from sentinel_sync.adapters.traffic.snapshot import LinkUse
from sentinel_sync.errors import StoreFullError
from sentinel_sync.rules.budget import DAY, Period
from sentinel_sync.rules.timekeeping import Sighting
from sentinel_sync.rules.traffic import BULK, Link, Metering, Traffic
from sentinel_sync.settings import CloudSettings
from tests.fakes.clock import FakeClock

NO_BUS = "unix:path=/nowhere/bus"
MEGABYTE = 1_000_000
#: Longer than what other processes say is remembered, seconds.
A_MOMENT = 0.5


def desk_on(store: Store, clock: FakeClock, timekeeper: Timekeeper | None = None, **settings: Any) -> TrafficDesk:
    owner = settings.pop("owner", True)
    return TrafficDesk(
        store.documents,
        CloudSettings.model_validate(settings),
        clock=clock,
        timekeeper=timekeeper,
        owner=owner,
        bus_address=NO_BUS,
    )


async def held(desk: TrafficDesk) -> set[Traffic]:
    return {traffic for traffic in Traffic if await desk.why_held(traffic) is not None}


def used(desk: TrafficDesk, link: str = "any", period: Period = Period.DAY) -> int:
    (use,) = [use for use in desk.snapshot().budgets if (use.link, use.period) == (link, period)]
    return use.used_bytes


@asynccontextmanager
async def opened(state: Path, clock: FakeClock, **settings: Any) -> AsyncIterator[TrafficDesk]:
    """One life of an agent, as far as its desk is concerned."""
    async with Store(state, clock=clock) as store:
        desk = desk_on(store, clock, **settings)
        await desk.prepare()
        yield desk
        await desk.close()


class TestTheNetwork:
    async def test_with_nothing_said_everything_may_go(self, store: Store, clock: FakeClock) -> None:
        desk = desk_on(store, clock)
        assert await held(desk) == set()
        snapshot = desk.snapshot()
        assert (snapshot.link, snapshot.metered, snapshot.source) == (Link.OTHER, False, "nobody says otherwise")
        assert (snapshot.budgets, snapshot.usage, snapshot.held) == ((), (), {})

    async def test_the_settings_word_holds_what_is_large(self, store: Store, clock: FakeClock) -> None:
        desk = desk_on(store, clock, network="metered")
        assert await held(desk) == BULK
        assert await desk.why_held(Traffic.SCENARIOS) == (
            "the network is metered (cloud.network says so): recordings wait for an unmetered one"
        )

    async def test_the_hosts_word_counts_at_once_and_before_the_settings(self, store: Store, clock: FakeClock) -> None:
        desk = desk_on(store, clock, network="metered")
        await desk.set_network("unmetered", link="ethernet")
        assert await held(desk) == set()
        assert desk.snapshot().source == "the host says so"
        assert desk.snapshot().link is Link.ETHERNET
        await desk.set_network("auto")
        assert await held(desk) == BULK

    @pytest.mark.parametrize(("choice", "link"), [("sometimes", None), ("metered", "carrier pigeon")])
    async def test_a_word_that_is_none_changes_nothing(
        self, store: Store, clock: FakeClock, choice: str, link: str | None
    ) -> None:
        desk = desk_on(store, clock)
        await desk.set_network("metered")
        with pytest.raises(ValueError, match="is none of"):
            await desk.set_network(choice, link)
        assert await held(desk) == BULK

    async def test_the_technicians_word_goes_before_the_hosts_until_it_is_taken_back(
        self, store: Store, clock: FakeClock
    ) -> None:
        desk = desk_on(store, clock)
        await desk.set_network("metered", link="cellular")
        await save_word(store.documents, Metering.UNMETERED, None)
        clock.tick(A_MOMENT)
        assert await held(desk) == set()
        await desk.set_network("metered", link="cellular")  # the host repeats itself
        assert await held(desk) == set()
        assert (desk.snapshot().source, desk.snapshot().link) == ("the command line says so", Link.CELLULAR)
        await save_word(store.documents, Metering.AUTO, None)
        clock.tick(A_MOMENT)
        assert await held(desk) == BULK

    async def test_a_technician_at_another_terminal_is_heard_within_half_a_second_of_a_transfer(
        self, store: Store, clock: FakeClock
    ) -> None:
        desk = desk_on(store, clock)
        assert await desk.why_held(Traffic.SCENARIOS) is None
        async with Store(store.state_dir, exclusive=False) as other:
            await save_word(other.documents, Metering.METERED, None)
        clock.tick(A_MOMENT)
        assert "the command line" in (await desk.why_held(Traffic.SCENARIOS) or "")

    async def test_the_technicians_word_outlives_a_restart(self, tmp_path: Path, clock: FakeClock) -> None:
        async with Store(tmp_path, clock=clock) as store:
            await save_word(store.documents, Metering.METERED, Link.WIFI)
        async with opened(tmp_path, clock) as desk:
            assert await held(desk) == BULK
            assert desk.snapshot().link is Link.WIFI

    async def test_a_word_from_another_version_is_set_aside(self, store: Store, clock: FakeClock) -> None:
        await store._database.run(
            lambda connection: connection.execute(
                "INSERT INTO document (kind, key, body, updated_at) VALUES ('network', 'operator', '{\"x\": 1}', 0)"
            )
        )
        assert await held(desk_on(store, clock)) == set()

    async def test_listeners_are_told_once_per_change(self, store: Store, clock: FakeClock) -> None:
        desk, told = desk_on(store, clock), list[bool]()
        desk.subscribe(lambda: told.append(desk.snapshot().metered))
        await desk.prepare()
        await desk.set_network("metered")
        await desk.set_network("metered")
        await desk.step()
        await desk.set_network("unmetered")
        assert told == [False, True, False]


class TestQuiet:
    async def test_what_is_large_waits_while_a_trip_is_under_way(self, store: Store, clock: FakeClock) -> None:
        desk, driving = desk_on(store, clock, quiet_during_trip=True), [False]
        desk.follow_trips(lambda: driving[0])
        assert await held(desk) == set()
        driving[0] = True
        assert desk.trip_under_way
        assert await held(desk) == BULK
        assert desk.wait_of(Traffic.SCENARIOS) is None, "nobody knows when a trip ends"
        driving[0] = False
        assert await held(desk) == set()

    async def test_not_unless_it_is_asked_for(self, store: Store, clock: FakeClock) -> None:
        desk = desk_on(store, clock)
        desk.follow_trips(lambda: True)
        assert await held(desk) == set()


class TestTheBudget:
    async def test_recordings_wait_then_people_then_trips_until_the_day_turns(
        self, store: Store, clock: FakeClock
    ) -> None:
        desk = desk_on(store, clock, data_budget={"any": {"day": 10 * MEGABYTE}})
        stages = []
        for _ in range(101):
            stages.append(await held(desk))
            desk.count(40_000, 60_000)
        assert stages[89] == set()
        assert stages[90] == stages[94] == BULK
        assert stages[95] == stages[99] == {*BULK, Traffic.PROFILES, Traffic.FLEET}
        assert stages[100] == set(Traffic)
        wait = desk.wait_of(Traffic.TRIPS)
        assert wait is not None
        assert 0.0 <= wait - (DAY - clock.now() % DAY) < 1.0
        clock.tick(wait)
        assert await held(desk) == set()
        assert desk.wait_of(Traffic.TRIPS) is None

    async def test_each_link_has_its_own(self, store: Store, clock: FakeClock) -> None:
        desk = desk_on(store, clock, data_budget={"cellular": {"month": MEGABYTE}}, network="unmetered")
        await desk.set_network("auto", link="cellular")
        desk.count(MEGABYTE, 0)
        assert await held(desk) == set(Traffic)
        assert "1 MB of the 1 MB per month for the cellular link are used" in (await desk.why_held(Traffic.TRIPS) or "")
        await desk.set_network("auto", link="wifi")
        assert await held(desk) == set()
        desk.count(0, 5 * MEGABYTE)
        assert await held(desk) == set()
        today = desk.snapshot().usage
        assert today == (
            LinkUse(Link.WIFI, 5 * MEGABYTE, 5 * MEGABYTE),
            LinkUse(Link.CELLULAR, MEGABYTE, MEGABYTE),
        )

    async def test_the_duty_looks_again_when_the_day_turns_and_tells_who_waits(
        self, store: Store, clock: FakeClock
    ) -> None:
        clock.set_wall(DAY * 20_800 - 10.0)
        desk, told = desk_on(store, clock, data_budget={"any": {"day": 1000}}), list[int]()
        desk.subscribe(lambda: told.append(used(desk)))
        desk.count(1000, 0)
        delay = await desk.step()
        assert 10.0 < delay < 11.0
        assert told == [1000]
        clock.tick(delay)
        await desk.step()
        assert told == [1000, 0]

    async def test_days_are_the_backends_where_its_time_is_known(self, store: Store, clock: FakeClock) -> None:
        timekeeper = Timekeeper(store.documents, clock)
        desk = desk_on(store, clock, timekeeper, data_budget={"any": {"day": 1000}})
        right = clock.now()
        clock.set_wall(20.0)
        desk.count(400, 0)
        await desk.step()
        timekeeper._seen[clock.boot_id()] = Sighting(clock.boot_id(), right - clock.monotonic(), 0.1)
        assert used(desk) == 400, "what was used in 1970 was used today"
        clock.set_wall(right)
        desk.count(600, 0)
        assert await held(desk) == set(Traffic)


class TestItsMemory:
    BUDGET: ClassVar[dict[str, Any]] = {"data_budget": {"any": {"day": 10 * MEGABYTE, "month": 20 * MEGABYTE}}}

    async def test_after_an_orderly_end_it_is_exact(self, tmp_path: Path, clock: FakeClock) -> None:
        async with opened(tmp_path, clock, **self.BUDGET) as desk:
            desk.count(1234, 1)
        async with opened(tmp_path, clock, **self.BUDGET) as desk:
            assert used(desk) == 1235
            clock.tick(DAY)
            desk.count(0, 65)
            assert (used(desk), used(desk, period=Period.MONTH)) == (65, 1300)
        clock.reboot("boot-2")
        async with opened(tmp_path, clock, **self.BUDGET) as desk:
            assert (used(desk), used(desk, period=Period.MONTH)) == (65, 1300)

    async def test_what_was_counted_before_the_store_was_read_counts(self, tmp_path: Path, clock: FakeClock) -> None:
        async with opened(tmp_path, clock, **self.BUDGET) as desk:
            desk.count(100, 0)
        async with Store(tmp_path, clock=clock) as store:
            desk = desk_on(store, clock, **self.BUDGET)
            desk.count(11, 0)
            await desk.prepare()
            assert used(desk) == 111

    async def test_it_writes_seldom(self, store: Store, clock: FakeClock) -> None:
        desk, writes = desk_on(store, clock, **self.BUDGET), 0
        await desk.prepare()
        for _ in range(10_000):
            desk.count(1000, 0)
            if desk.duty.wake.is_set():
                desk.duty.wake.clear()
                before = await version(store)
                await desk.step()
                writes += await version(store) - before
        assert used(desk) == 10 * MEGABYTE
        assert 256 <= writes <= 520

    async def test_where_there_is_no_budget_it_hardly_writes_at_all(self, store: Store, clock: FakeClock) -> None:
        desk = desk_on(store, clock)
        await desk.prepare()
        wakes = 0
        for _ in range(2000):
            desk.count(64 << 10, 0)
            wakes += desk.duty.wake.is_set()
            desk.duty.wake.clear()
            await desk.step()
        assert 1 <= wakes <= 5

    async def test_a_kill_hides_nothing_and_costs_little(self, tmp_path: Path, clock: FakeClock) -> None:
        limit, chunk, lives, said = 10 * MEGABYTE, 1000, 4, 0
        margin = limit // 256
        for life in range(lives):
            said += await use_until_killed(tmp_path, limit, chunk, after=20 + 61 * life)
        async with Store(tmp_path) as store:
            from_disk = desk_on(store, clock, data_budget={"any": {"day": limit}})
            await from_disk.prepare()
            assert said <= used(from_disk) <= said + lives * (margin + chunk)

    async def test_while_the_disk_is_full_it_counts_on_and_says_so_once(
        self, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        desk, tries = desk_on(store, clock, **self.BUDGET), 0
        await desk.prepare()
        whole = store.documents.save

        async def full(*_: object) -> None:
            nonlocal tries
            tries += 1
            raise StoreFullError("the disk is full")

        monkeypatch.setattr(store.documents, "save", full)
        for _ in range(1000):
            desk.count(10_000, 0)
            if desk.duty.wake.is_set():
                desk.duty.wake.clear()
                await desk.step()
        assert await held(desk) == set(Traffic)
        assert tries == 1
        assert caplog.text.count("traffic.usage") == 1
        monkeypatch.setattr(store.documents, "save", whole)
        clock.tick(61.0)
        desk.count(1, 0)
        await desk.step()
        again = desk_on(store, clock, **self.BUDGET)
        await again.prepare()
        assert used(again) >= 10 * MEGABYTE

    async def test_without_a_store_it_goes_by_what_the_others_say(
        self, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        closed = Store(tmp_path / "state", clock=clock)
        desk = desk_on(closed, clock, network="metered", **self.BUDGET)
        desk.count(9 * MEGABYTE, MEGABYTE)
        for _ in range(3):
            clock.tick(A_MOMENT)
            assert await held(desk) == set(Traffic)
        assert caplog.text.count("network.store") == 1
        async with closed:
            desk.count(5, 0)
            assert await held(desk) == set(Traffic)
            await desk.close()
            again = desk_on(closed, clock, **self.BUDGET)
            await again.prepare()
            assert used(again) == 10 * MEGABYTE + 5

    async def test_a_store_that_was_closed_first_costs_the_last_figures_only(
        self, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Store(tmp_path, clock=clock) as store:
            desk = desk_on(store, clock)
            await desk.prepare()
        desk.count(1, 1)
        await desk.close()
        assert "cannot be written" in caplog.text
        never_asked = desk_on(store, clock)
        never_asked.count(1, 1)
        await never_asked.close()
        assert "what was used at last is not known any more" in caplog.text


class TestBesideAnAgent:
    BUDGET: ClassVar[dict[str, Any]] = {"data_budget": {"any": {"day": 10 * MEGABYTE}}}

    async def test_what_a_command_used_is_booked_by_the_agent(self, store: Store, clock: FakeClock) -> None:
        agent = desk_on(store, clock, **self.BUDGET)
        agent.count(1000, 0)
        await agent.step()
        async with Store(store.state_dir, clock=clock, exclusive=False) as other:
            command = desk_on(other, clock, owner=False, **self.BUDGET)
            assert await command.why_held(Traffic.FLEET) is None
            assert used(command) == 1000
            command.count(70, 7)
            await command.close()
        await agent.step()
        assert used(agent) == 1077
        await agent.step()
        assert used(agent) == 1077
        await agent.close()
        again = desk_on(store, clock, **self.BUDGET)
        await again.prepare()
        assert used(again) == 1077

    async def test_a_command_that_used_nothing_leaves_nothing(self, store: Store, clock: FakeClock) -> None:
        before = await version(store)
        command = desk_on(store, clock, owner=False)
        await command.prepare()
        await command.close()
        assert await version(store) == before

    async def test_commands_without_an_agent_do_not_fill_the_disk(
        self, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(1005):
            command = desk_on(store, clock, owner=False)
            command.count(1, 0)
            await command.close()
        assert len(await store.documents.keys("data_usage.handed_in")) == 1000
        assert "no agent has run for a long time" in caplog.text


async def test_asking_costs_next_to_nothing(store: Store, clock: FakeClock) -> None:
    """Each trip asks: with nothing new it must not go to the disk."""
    desk = desk_on(store, clock, data_budget={"any": {"day": MEGABYTE, "month": MEGABYTE}})
    await desk.prepare()
    statements: list[str] = []
    await store._database.run(lambda connection: connection.set_trace_callback(statements.append), writes=False)
    for _ in range(1000):
        assert await desk.why_held(Traffic.TRIPS) is None
    assert statements == []
    clock.tick(A_MOMENT)
    await asyncio.gather(*(desk.why_held(Traffic.TRIPS) for _ in range(8)))
    assert len(statements) == 1


async def version(store: Store) -> int:
    """How many rows were changed on the store's connection."""
    return await store._database.run(lambda connection: connection.total_changes, writes=False)


async def use_until_killed(state: Path, limit: int, chunk: int, *, after: int) -> int:
    """Have a process use data, kill it when it has said `after` times how much, and return what it said last."""
    root = str(Path(__file__).parents[3])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.adapters.traffic.usage_worker",
        str(state),
        str(limit),
        str(chunk),
        stdout=asyncio.subprocess.PIPE,
        env={"PATH": os.environ["PATH"], "PYTHONPATH": root},
    )
    assert process.stdout is not None
    async with asyncio.timeout(30.0):
        for _ in range(after):
            await process.stdout.readline()
        process.kill()
        rest = (await process.stdout.read()).decode().splitlines()
        await process.wait()
    whole = [line for line in rest if line]
    return int(whole[-2]) if len(whole) > 1 else after * chunk
