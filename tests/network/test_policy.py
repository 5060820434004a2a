"""The traffic desk on a real store: whose word on the network counts, what waits, and for how long."""

import asyncio
from datetime import UTC, datetime, timedelta
from pathlib import Path
from typing import Any

import pytest

from sentinel_sync.base.clock import ClockObservation
from sentinel_sync.network.policy import save_operator_override
from sentinel_sync.network.rules.budget import DAY, LinkStatus
from sentinel_sync.network.rules.traffic import BULK, Link, Metering, TrafficClass
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from tests.fakes.clock import FakeClock
from tests.network.policies import A_MOMENT, MEGABYTE, held, opened, policy_on, used


class TestTheNetwork:
    async def test_with_nothing_said_everything_may_go(self, store: Store, clock: FakeClock) -> None:
        policy = policy_on(store, clock)
        assert await held(policy) == set()
        snapshot = policy.snapshot()
        assert (snapshot.link, snapshot.metered, snapshot.source) == (Link.OTHER, False, "nobody says otherwise")
        assert (snapshot.budgets, snapshot.usage, snapshot.held) == ([], [], {})

    async def test_the_settings_word_holds_what_is_large(self, store: Store, clock: FakeClock) -> None:
        policy = policy_on(store, clock, network="metered")
        assert await held(policy) == BULK
        assert await policy.blocked_reason(TrafficClass.SCENARIOS) == (
            "the network is metered (cloud.network says so): recordings wait for an unmetered one"
        )

    async def test_the_hosts_word_counts_at_once_and_before_the_settings(self, store: Store, clock: FakeClock) -> None:
        policy = policy_on(store, clock, network="metered")
        await policy.set_network("unmetered", link="ethernet")
        assert await held(policy) == set()
        assert policy.snapshot().source == "the host says so"
        assert policy.snapshot().link is Link.ETHERNET
        await policy.set_network("auto")
        assert await held(policy) == BULK

    @pytest.mark.parametrize(("choice", "link"), [("sometimes", None), ("metered", "carrier pigeon")])
    async def test_a_word_that_is_none_changes_nothing(
        self, store: Store, clock: FakeClock, choice: str, link: str | None
    ) -> None:
        policy = policy_on(store, clock)
        await policy.set_network("metered")
        with pytest.raises(ValueError, match="is none of"):
            await policy.set_network(choice, link)
        assert await held(policy) == BULK

    async def test_the_technicians_word_goes_before_the_hosts_until_it_is_taken_back(
        self, store: Store, clock: FakeClock
    ) -> None:
        policy = policy_on(store, clock)
        await policy.set_network("metered", link="cellular")
        await save_operator_override(store.documents, Metering.UNMETERED, None)
        clock.tick(A_MOMENT)
        assert await held(policy) == set()
        await policy.set_network("metered", link="cellular")  # the host repeats itself
        assert await held(policy) == set()
        assert (policy.snapshot().source, policy.snapshot().link) == ("the command line says so", Link.CELLULAR)
        await save_operator_override(store.documents, Metering.AUTO, None)
        clock.tick(A_MOMENT)
        assert await held(policy) == BULK

    async def test_a_technician_at_another_terminal_is_heard_within_half_a_second_of_a_transfer(
        self, store: Store, clock: FakeClock
    ) -> None:
        policy = policy_on(store, clock)
        assert await policy.blocked_reason(TrafficClass.SCENARIOS) is None
        async with Store(store.state_dir, exclusive=False) as other:
            await save_operator_override(other.documents, Metering.METERED, None)
        clock.tick(A_MOMENT)
        assert "the command line" in (await policy.blocked_reason(TrafficClass.SCENARIOS) or "")

    async def test_the_technicians_word_outlives_a_restart(self, tmp_path: Path, clock: FakeClock) -> None:
        async with Store(tmp_path, clock=clock) as store:
            await save_operator_override(store.documents, Metering.METERED, Link.WIFI)
        async with opened(tmp_path, clock) as policy:
            assert await held(policy) == BULK
            assert policy.snapshot().link is Link.WIFI

    async def test_a_word_from_another_version_is_set_aside(self, store: Store, clock: FakeClock) -> None:
        await store._database.run(
            lambda connection: connection.execute(
                "INSERT INTO document (kind, key, body, updated_at) VALUES ('network', 'operator', '{\"x\": 1}', 0)"
            )
        )
        assert await held(policy_on(store, clock)) == set()

    async def test_listeners_are_told_once_per_change(self, store: Store, clock: FakeClock) -> None:
        policy, told = policy_on(store, clock), list[bool]()
        policy.subscribe(lambda: told.append(policy.snapshot().metered))
        await policy.prepare()
        await policy.set_network("metered")
        await policy.set_network("metered")
        await policy.step()
        await policy.set_network("unmetered")
        assert told == [False, True, False]


class TestQuiet:
    async def test_what_is_large_waits_while_a_trip_is_under_way(self, store: Store, clock: FakeClock) -> None:
        policy, driving = policy_on(store, clock, quiet_during_trip=True), [False]
        policy.follow_trips(lambda: driving[0])
        assert await held(policy) == set()
        driving[0] = True
        assert policy.trip_under_way
        assert await held(policy) == BULK
        assert policy.wait_of(TrafficClass.SCENARIOS) is None, "nobody knows when a trip ends"
        driving[0] = False
        assert await held(policy) == set()

    async def test_not_unless_it_is_asked_for(self, store: Store, clock: FakeClock) -> None:
        policy = policy_on(store, clock)
        policy.follow_trips(lambda: True)
        assert await held(policy) == set()


class TestTheBudget:
    async def test_recordings_wait_then_people_then_trips_until_the_day_turns(
        self, store: Store, clock: FakeClock
    ) -> None:
        policy = policy_on(store, clock, data_budget={"any": {"day": 10 * MEGABYTE}})
        stages = []
        for _ in range(101):
            stages.append(await held(policy))
            policy.count(40_000, 60_000)
        assert stages[89] == set()
        assert stages[90] == stages[94] == BULK
        assert stages[95] == stages[99] == {*BULK, TrafficClass.PROFILES, TrafficClass.FLEET}
        assert stages[100] == set(TrafficClass)
        wait = policy.wait_of(TrafficClass.TRIPS)
        assert wait is not None
        assert 0.0 <= wait - (DAY - clock.now() % DAY) < 1.0
        clock.tick(wait)
        assert await held(policy) == set()
        assert policy.wait_of(TrafficClass.TRIPS) is None

    async def test_each_link_has_its_own(self, store: Store, clock: FakeClock) -> None:
        policy = policy_on(store, clock, data_budget={"cellular": {"month": MEGABYTE}}, network="unmetered")
        await policy.set_network("auto", link="cellular")
        policy.count(MEGABYTE, 0)
        assert await held(policy) == set(TrafficClass)
        assert "1 MB of the 1 MB per month for the cellular link are used" in (
            await policy.blocked_reason(TrafficClass.TRIPS) or ""
        )
        await policy.set_network("auto", link="wifi")
        assert await held(policy) == set()
        policy.count(0, 5 * MEGABYTE)
        assert await held(policy) == set()
        today = policy.snapshot().usage
        assert today == [
            LinkStatus(link=Link.WIFI, day_bytes=5 * MEGABYTE, month_bytes=5 * MEGABYTE),
            LinkStatus(link=Link.CELLULAR, day_bytes=MEGABYTE, month_bytes=MEGABYTE),
        ]

    @pytest.mark.parametrize(
        ("budget", "link", "warns"),
        [
            ({"cellular": {"day": 1}}, None, True),
            ({"cellular": {"day": 1}}, "wifi", False),
            ({"any": {"day": 1}}, None, False),
            ({"other": {"day": 1}}, None, False),
        ],
    )
    async def test_a_budget_for_a_link_that_nobody_names_is_said_to_be_of_no_use(
        self,
        store: Store,
        clock: FakeClock,
        caplog: pytest.LogCaptureFixture,
        budget: dict[str, Any],
        link: str | None,
        warns: bool,
    ) -> None:
        policy = policy_on(store, clock, data_budget=budget)
        await policy.set_network("auto", link)
        await policy.prepare()
        assert ("data_budget for cellular does not count" in caplog.text) is warns

    async def test_the_duty_looks_again_when_the_day_turns_and_tells_who_waits(
        self, store: Store, clock: FakeClock
    ) -> None:
        clock.set_wall(DAY * 20_800 - 10.0)
        policy, told = policy_on(store, clock, data_budget={"any": {"day": 1000}}), list[int]()
        policy.subscribe(lambda: told.append(used(policy)))
        policy.count(1000, 0)
        delay = await policy.step()
        assert 10.0 < delay < 11.0
        assert told == [1000]
        clock.tick(delay)
        await policy.step()
        assert told == [1000, 0]

    async def test_days_are_the_backends_where_its_time_is_known(self, store: Store, clock: FakeClock) -> None:
        timekeeper = Timekeeper(store.documents, clock)
        policy = policy_on(store, clock, timekeeper, data_budget={"any": {"day": 1000}})
        right = clock.now()
        clock.set_wall(20.0)
        policy.count(400, 0)
        await policy.step()
        timekeeper._seen[clock.boot_id()] = ClockObservation(clock.boot_id(), right - clock.monotonic(), 0.1)
        assert used(policy) == 400, "what was used in 1970 was used today"
        clock.set_wall(right)
        policy.count(600, 0)
        assert await held(policy) == set(TrafficClass)


async def test_asking_costs_next_to_nothing(store: Store, clock: FakeClock) -> None:
    """Each trip asks: with nothing new it must not go to the disk."""
    policy = policy_on(store, clock, data_budget={"any": {"day": MEGABYTE, "month": MEGABYTE}})
    await policy.prepare()
    statements: list[str] = []
    await store._database.run(lambda connection: connection.set_trace_callback(statements.append), writes=False)
    for _ in range(1000):
        assert await policy.blocked_reason(TrafficClass.TRIPS) is None
    assert statements == []
    clock.tick(A_MOMENT)
    await asyncio.gather(*(policy.blocked_reason(TrafficClass.TRIPS) for _ in range(8)))
    assert len(statements) == 1


class TestWindows:
    """Large things go within their windows alone."""

    async def test_they_open_and_close_by_the_vehicles_own_time(self, store: Store, clock: FakeClock) -> None:
        now = datetime.fromtimestamp(clock.now(), UTC).astimezone()
        opens = (now + timedelta(hours=1)).strftime("%H:00")
        closes = (now + timedelta(hours=2)).strftime("%H:00")
        policy = policy_on(store, clock, upload_window=[{"begin": opens, "end": closes}])
        assert await held(policy) == {TrafficClass.SCENARIOS}
        assert await policy.blocked_reason(TrafficClass.SCENARIOS) == (
            "cloud.upload_window is closed: recordings wait for it"
        )
        told: list[None] = []
        policy.subscribe(lambda: told.append(None))
        wait = await policy.step()
        assert 0.0 < wait <= 60.1
        until_open = (now.replace(minute=0, second=0, microsecond=0) + timedelta(hours=1) - now).total_seconds()
        clock.tick(until_open + 1.0)
        await policy.step()
        assert (await held(policy), len(told)) == (set(), 1)
        clock.tick(3600.0)
        await policy.step()
        assert (await held(policy), len(told)) == ({TrafficClass.SCENARIOS}, 2)

    async def test_the_hosts_word_on_the_vehicle_counts_at_once(self, store: Store, clock: FakeClock) -> None:
        windows = [{"when": "parked"}, {"when": "home"}]
        policy = policy_on(store, clock, update_window=windows)
        assert await held(policy) == {TrafficClass.MODELS}
        policy.set_conditions(["charging"])
        assert await held(policy) == {TrafficClass.MODELS}
        policy.set_conditions(["charging", "home"])
        assert await held(policy) == set()
        with pytest.raises(ValueError, match="is none of"):
            policy.set_conditions(["asleep"])
        policy.set_conditions([])
        assert await held(policy) == {TrafficClass.MODELS}
