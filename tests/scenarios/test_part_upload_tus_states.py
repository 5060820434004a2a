"""A resumable upload as a state machine: whatever happens to it, in whatever order, it arrives whole, and once.

Hypothesis chooses what happens; what it finds it makes short, and prints as a program. `make test` plays a few.
"""

import asyncio
import os
import tempfile
from contextlib import ExitStack
from dataclasses import replace
from pathlib import Path

import pytest
from hypothesis import HealthCheck, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule, run_state_machine_as_test

from sentinel_sync.base.errors import HeldError, NotNowError, UnreachableError
from tests.fakes.fault_proxy import FaultProxy, fault_proxy
from tests.scenarios.recorded_part import RecordedPart, noise
from tests.scenarios.sending import PAUSE, Sender, vehicle
from tests.scenarios.test_part_upload_tus import KINDS, Server, announced, digest
from tests.servers.node_tus import NodeTus, node_tus

MANY = os.environ.get("SENTINEL_TUS") == "many"
EXAMPLES, STEPS = (200, 20) if MANY else (4, 6)
VIDEO = noise(3_000_000)
CUTS = st.lists(st.integers(1, len(VIDEO) // 2), max_size=4)


class Upload(RuleBasedStateMachine):
    """One video, a server, a bad connection between them, and a vehicle that is started again and again."""

    kind = "reference"

    def __init__(self) -> None:
        super().__init__()
        self._stack = ExitStack()
        self._folder = Path(self._stack.enter_context(tempfile.TemporaryDirectory()))
        self._runner = self._stack.enter_context(asyncio.Runner())
        self._node: NodeTus | None = None
        if self.kind == "node":
            self._node = self._stack.enter_context(node_tus(self._folder / "node"))
        self._ends = asyncio.Event()
        self._runner.run(self._begin())

    async def _begin(self) -> None:
        ready = asyncio.Event()

        async def host() -> None:
            async with KINDS["reference"](self._folder) as server:
                self._server: Server = server if self._node is None else Server(self._node.url, self._node_has)
                async with fault_proxy(self._server.url) as self._proxy:
                    ready.set()
                    await self._ends.wait()

        self._host = asyncio.create_task(host())
        await ready.wait()
        self._recorded = await RecordedPart.video(self._folder, VIDEO)
        await announced(self._server, self._recorded, self._folder)

    def _node_has(self) -> list[str]:
        assert self._node is not None
        return [digest(self._node.content(upload)) for upload in self._node.ids()]

    @property
    def proxy(self) -> FaultProxy:
        return self._proxy

    # --- what happens ---

    @rule(cuts=CUTS, attempts=st.integers(1, 3), stops=st.booleans())
    def the_vehicle_runs(self, cuts: list[int], attempts: int, stops: bool) -> None:
        """A process lives for some attempts on a connection that breaks, and may be stopped in the middle of one."""

        async def live() -> None:
            self.proxy.cuts.extend(cuts)
            async with vehicle(self.proxy.url, self._folder) as sender:
                for _ in range(attempts):
                    await self._attempt(sender, stops=stops)
                    sender.clock.tick(PAUSE)
            self.proxy.cuts.clear()

        self._runner.run(live())

    async def _attempt(self, sender: Sender, *, stops: bool) -> None:
        sending = asyncio.create_task(sender.send(self._recorded))
        if stops and self._recorded.progress:
            await asyncio.sleep(0)  # as far as it comes in one turn of the loop
            sending.cancel()
        try:
            await sending
        except (UnreachableError, NotNowError, HeldError, asyncio.CancelledError):
            return

    @precondition(lambda self: self._node is not None and self._node.ids() != [])
    @rule()
    def the_server_loses_what_it_had(self) -> None:
        assert self._node is not None
        for upload in self._node.ids():
            self._node.lose(upload)

    @precondition(lambda self: self._node is not None)
    @rule()
    def the_server_dies_and_comes_back(self) -> None:
        assert self._node is not None
        self._node.kill()
        self._node.start()

    @rule()
    def the_vehicle_forgets_where_the_upload_was(self) -> None:
        """Its store was put back from a backup."""
        self._recorded.part = replace(self._recorded.part, upload_url=None)

    # --- what always holds ---

    @invariant()
    def nobody_says_that_there_is_more_than_all(self) -> None:
        assert all(0 <= done <= len(VIDEO) for done in self._recorded.progress)

    def teardown(self) -> None:
        try:
            self._runner.run(self._end())
            assert digest(VIDEO) in self._server.has()
            if self._node is None:
                assert self._server.has() == [digest(VIDEO)]
        finally:
            self._ends.set()
            self._runner.run(asyncio.wait_for(self._host, 10.0))
            self._stack.close()

    async def _end(self) -> None:
        async with vehicle(self.proxy.url, self._folder) as sender:
            await sender.send_until_there(self._recorded)


@pytest.mark.timeout(300 if not MANY else 3600)
@pytest.mark.parametrize("kind", ["node", "reference"])
def test_whatever_happens_it_arrives_whole(kind: str) -> None:
    machine = type("UploadTo", (Upload,), {"kind": kind})
    checks = [HealthCheck.too_slow, HealthCheck.filter_too_much]
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=EXAMPLES, stateful_step_count=STEPS, deadline=None, suppress_health_check=checks
        ),
    )
