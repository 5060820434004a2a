"""What the desk remembers of the data used: over restarts, kills and full disks, and beside other processes."""

import asyncio
import os
import sys
from pathlib import Path
from typing import Any, ClassVar

import pytest

from sentinel_sync.base.errors import StoreFullError
from sentinel_sync.network.rules.budget import DAY, Period
from sentinel_sync.network.rules.traffic import TrafficClass
from sentinel_sync.store.store import Store
from tests.fakes.clock import FakeClock
from tests.network.policies import A_MOMENT, MEGABYTE, held, opened, policy_on, used


class TestItsMemory:
    BUDGET: ClassVar[dict[str, Any]] = {"data_budget": {"any": {"day": 10 * MEGABYTE, "month": 20 * MEGABYTE}}}

    async def test_after_an_orderly_end_it_is_exact(self, tmp_path: Path, clock: FakeClock) -> None:
        async with opened(tmp_path, clock, **self.BUDGET) as policy:
            policy.count(1234, 1)
        async with opened(tmp_path, clock, **self.BUDGET) as policy:
            assert used(policy) == 1235
            clock.tick(DAY)
            policy.count(0, 65)
            assert (used(policy), used(policy, period=Period.MONTH)) == (65, 1300)
        clock.reboot("boot-2")
        async with opened(tmp_path, clock, **self.BUDGET) as policy:
            assert (used(policy), used(policy, period=Period.MONTH)) == (65, 1300)

    async def test_what_was_counted_before_the_store_was_read_counts(self, tmp_path: Path, clock: FakeClock) -> None:
        async with opened(tmp_path, clock, **self.BUDGET) as policy:
            policy.count(100, 0)
        async with Store(tmp_path, clock=clock) as store:
            policy = policy_on(store, clock, **self.BUDGET)
            policy.count(11, 0)
            await policy.prepare()
            assert used(policy) == 111

    async def test_it_writes_seldom(self, store: Store, clock: FakeClock) -> None:
        policy, writes = policy_on(store, clock, **self.BUDGET), 0
        await policy.prepare()
        for _ in range(10_000):
            policy.count(1000, 0)
            if policy.duty.wake.is_set():
                policy.duty.wake.clear()
                before = await version(store)
                await policy.step()
                writes += await version(store) - before
        assert used(policy) == 10 * MEGABYTE
        assert 256 <= writes <= 750

    async def test_where_there_is_no_budget_it_writes_ever_more_seldom(self, store: Store, clock: FakeClock) -> None:
        policy = policy_on(store, clock)
        await policy.prepare()
        wakes = [0, 0]
        for half in (0, 1):
            for _ in range(1000):
                policy.count(64 << 10, 0)
                wakes[half] += policy.duty.wake.is_set()
                policy.duty.wake.clear()
                await policy.step()
        assert wakes[1] <= 200 < wakes[0] <= 750

    @pytest.mark.parametrize("budget", [{}, {"data_budget": {"any": {"month": 10_000 * MEGABYTE}}}])
    @pytest.mark.parametrize("total", [1_700_000, 26_400_000, 400 * MEGABYTE])
    @pytest.mark.parametrize("killed", [False, True])
    async def test_whoever_looks_from_outside_sees_it_to_one_percent(
        self, tmp_path: Path, clock: FakeClock, budget: dict[str, Any], total: int, killed: bool
    ) -> None:
        """G6: beside a running agent, with or without a budget, and after a kill."""
        async with Store(tmp_path, clock=clock) as store:
            policy = policy_on(store, clock, **budget)
            await policy.prepare()
            said, piece = 0, total // 4000
            while said < total:
                policy.count(piece, 0)
                said += piece
                if policy.duty.wake.is_set():
                    policy.duty.wake.clear()
                    await policy.step()
            looker = policy_on(store, clock, **budget) if killed else policy_on(store, clock, owner=False, **budget)
            await looker.prepare()
            assert sum(use.day_bytes for use in looker.snapshot().usage) == pytest.approx(said, rel=0.01)

    async def test_a_kill_hides_nothing_and_costs_little(self, tmp_path: Path, clock: FakeClock) -> None:
        limit, chunk, lives, said = 10 * MEGABYTE, 1000, 4, 0
        margin = limit // 256
        for life in range(lives):
            said += await use_until_killed(tmp_path, limit, chunk, after=20 + 61 * life)
        async with Store(tmp_path) as store:
            from_disk = policy_on(store, clock, data_budget={"any": {"day": limit}})
            await from_disk.prepare()
            assert said <= used(from_disk) <= said + lives * (margin + chunk)

    async def test_while_the_disk_is_full_it_counts_on_and_says_so_once(
        self, store: Store, clock: FakeClock, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
    ) -> None:
        policy, tries = policy_on(store, clock, **self.BUDGET), 0
        await policy.prepare()
        whole = store.documents.save

        async def full(*_: object) -> None:
            nonlocal tries
            tries += 1
            raise StoreFullError("the disk is full")

        monkeypatch.setattr(store.documents, "save", full)
        for _ in range(1000):
            policy.count(10_000, 0)
            if policy.duty.wake.is_set():
                policy.duty.wake.clear()
                await policy.step()
        assert await held(policy) == set(TrafficClass)
        assert tries == 1
        assert caplog.text.count("traffic.usage") == 1
        monkeypatch.setattr(store.documents, "save", whole)
        clock.tick(61.0)
        policy.count(1, 0)
        await policy.step()
        again = policy_on(store, clock, **self.BUDGET)
        await again.prepare()
        assert used(again) >= 10 * MEGABYTE

    async def test_without_a_store_it_goes_by_what_the_others_say(
        self, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        closed = Store(tmp_path / "state", clock=clock)
        policy = policy_on(closed, clock, network="metered", **self.BUDGET)
        policy.count(9 * MEGABYTE, MEGABYTE)
        for _ in range(3):
            clock.tick(A_MOMENT)
            assert await held(policy) == set(TrafficClass)
        assert caplog.text.count("network.store") == 1
        async with closed:
            policy.count(5, 0)
            assert await held(policy) == set(TrafficClass)
            await policy.close()
            again = policy_on(closed, clock, **self.BUDGET)
            await again.prepare()
            assert used(again) == 10 * MEGABYTE + 5

    async def test_a_store_that_was_closed_first_costs_the_last_figures_only(
        self, tmp_path: Path, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        async with Store(tmp_path, clock=clock) as store:
            policy = policy_on(store, clock)
            await policy.prepare()
        policy.count(1, 1)
        await policy.close()
        assert "cannot be written" in caplog.text
        never_asked = policy_on(store, clock)
        never_asked.count(1, 1)
        await never_asked.close()
        assert "what was used at last is not known any more" in caplog.text


class TestBesideAnAgent:
    BUDGET: ClassVar[dict[str, Any]] = {"data_budget": {"any": {"day": 10 * MEGABYTE}}}

    async def test_what_a_command_used_is_booked_by_the_agent(self, store: Store, clock: FakeClock) -> None:
        agent = policy_on(store, clock, **self.BUDGET)
        agent.count(1000, 0)
        await agent.step()
        async with Store(store.state_dir, clock=clock, exclusive=False) as other:
            command = policy_on(other, clock, owner=False, **self.BUDGET)
            assert await command.blocked_reason(TrafficClass.FLEET) is None
            assert used(command) == 1000
            command.count(70, 7)
            await command.close()
        await agent.step()
        assert used(agent) == 1077
        await agent.step()
        assert used(agent) == 1077
        await agent.close()
        again = policy_on(store, clock, **self.BUDGET)
        await again.prepare()
        assert used(again) == 1077

    async def test_a_command_that_used_nothing_leaves_nothing(self, store: Store, clock: FakeClock) -> None:
        before = await version(store)
        command = policy_on(store, clock, owner=False)
        await command.prepare()
        await command.close()
        assert await version(store) == before

    async def test_commands_without_an_agent_do_not_fill_the_disk(
        self, store: Store, clock: FakeClock, caplog: pytest.LogCaptureFixture
    ) -> None:
        for _ in range(1005):
            command = policy_on(store, clock, owner=False)
            command.count(1, 0)
            await command.close()
        assert len(await store.documents.keys("data_usage.handed_in")) == 1000
        assert "no agent has run for a long time" in caplog.text


async def version(store: Store) -> int:
    """How many rows were changed on the store's connection."""
    return await store._database.run(lambda connection: connection.total_changes, writes=False)


async def use_until_killed(state: Path, limit: int, chunk: int, *, after: int) -> int:
    """Have a process use data, kill it when it has said `after` times how much, and return what it said last."""
    root = str(Path(__file__).parents[2])
    process = await asyncio.create_subprocess_exec(
        sys.executable,
        "-m",
        "tests.network.usage_worker",
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
