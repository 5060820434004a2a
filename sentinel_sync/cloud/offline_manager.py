"""`OfflineManager`: is the backend within reach? Probes it, learns from real traffic, tells who wants to know."""

import asyncio
import logging
from collections import deque
from collections.abc import Awaitable, Callable
from dataclasses import dataclass
from functools import partial
from random import Random, SystemRandom
from typing import Any

from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import CloudError, HeldError, SentinelSyncError
from sentinel_sync.base.tasks import EventPublisher, PeriodicTask, Supervisor, call_listener
from sentinel_sync.cloud.client import AttemptOutcome, CloudAPIClient, Probe
from sentinel_sync.cloud.rules.connectivity import Connectivity, ConnectivityStatus, ConnectivitySummary, Transition

logger: logging.Logger = logging.getLogger(__name__)

#: What a callback may be: `async def` runs on the loop; a plain function runs in a worker thread, where it may block.
ConnectivityCallback = Callable[[ConnectivityStatus], Any]
SyncCallback = Callable[[], Any]
ProbeCallback = Callable[[Probe], Awaitable[None]]

#: Seconds between two looks at a halted gate; whoever lifts the halt wakes the duty.
_WHILE_HALTED = 60.0
#: So many changes of the status are remembered: a day of tunnels.
_REMEMBERED = 200


@dataclass(frozen=True, slots=True)
class ConnectivityTurn:
    """A change of the status; `at` is wall time, seconds since the epoch."""

    at: float
    status: ConnectivityStatus
    message: str


class OfflineManager:
    """Knows whether the backend can be reached, and starts the registered syncs when it can be again.

    Args:
        api_client: The backend; every attempt on it teaches something.
        connectivity_callback: Told each change of the status.
        on_probe: Awaited with each answered probe (the agent learns the backend's time from it).
        is_busy: Says whether the vehicle is at work (a trip is under way): after ten minutes in which it is not, probes
            are rarer. By default they never are.
    """

    def __init__(
        self,
        api_client: CloudAPIClient,
        connectivity_callback: ConnectivityCallback | None = None,
        *,
        on_probe: ProbeCallback | None = None,
        is_busy: Callable[[], bool] | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._client = api_client
        self._settings = api_client.settings
        self._clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._on_probe = on_probe
        self._is_busy = is_busy
        self._state = Connectivity(
            self._settings.connectivity_check_interval,
            self._rng,
            self._clock.monotonic(),
            reconnect_spread=self._settings.reconnect_spread,
        )
        self._failed_probes = 0
        self._turns = EventPublisher[ConnectivityStatus]("connectivity.callback")
        if connectivity_callback is not None:
            self._turns.subscribe(connectivity_callback)
        self._syncs: list[SyncCallback] = []
        self._running: dict[str, asyncio.Task[None]] = {}
        self._probing: asyncio.Future[bool] | None = None
        self._background = Supervisor(self._clock, self._rng)
        self._transitions = 0
        self._history: deque[ConnectivityTurn] = deque(maxlen=_REMEMBERED)
        self.monitor: PeriodicTask = PeriodicTask("connectivity", self.step)
        api_client.subscribe(self._on_contact)

    def is_online(self) -> bool:
        """Whether the backend was within reach when last heard of."""
        return self._state.status is ConnectivityStatus.ONLINE

    def get_status(self) -> ConnectivityStatus:
        """online, offline or unknown."""
        return self._state.status

    def get_offline_duration(self) -> float:
        """Seconds without contact; 0.0 while online or unknown."""
        return self._state.offline_duration(self._clock.monotonic())

    def report(self) -> ConnectivitySummary:
        """All that is known, for a person."""
        now = self._clock.monotonic()
        passage = self._client.gate.passage(now)
        return ConnectivitySummary(
            status=self._state.status,
            message=self._state.message,
            unauthorized=self._state.unauthorized,
            offline_duration=round(self._state.offline_duration(now), 1),
            since=round(max(0.0, now - self._state.since), 1),
            gate=passage.state,
            gate_reason=passage.why,
            clock_skew=None,
            transitions=self._transitions,
        )

    def history(self) -> list[ConnectivityTurn]:
        """The last changes of the status since the start, oldest first."""
        return list(self._history)

    def register_connectivity_callback(self, callback: ConnectivityCallback) -> None:
        """Have `callback(status)` told each change; one that is slow or raises harms nobody."""
        self._turns.subscribe(callback)

    def register_sync_callback(self, callback: SyncCallback) -> None:
        """Have `callback()` run whenever the backend comes back within reach."""
        self._syncs.append(callback)

    def start_monitoring(self) -> "asyncio.Future[None]":
        """Probe from now on, in the running loop; may be awaited."""
        return self._background.start([self.monitor])

    async def stop_monitoring(self) -> None:
        """End what `start_monitoring` began, and the callbacks under way."""
        await self._background.stop(grace=0.0)
        await self.close()

    async def force_sync(self) -> None:
        """Run the registered syncs now; returns when all have ended."""
        await asyncio.gather(*(self._run_sync(sync) for sync in self._syncs))

    async def probe_now(self) -> bool:
        """Probe at once, or wait for the probe under way; True where the backend is within reach."""
        if self._probing is None or self._probing.done():
            self._probing = asyncio.ensure_future(self._probe())
        # Shielded: several may wait for it.
        return await asyncio.shield(self._probing)

    async def _probe(self) -> bool:
        await self._client.refresh_credential()
        try:
            probe = await self._client.probe()
        except CloudError as error:
            self._failed_probes += 1
            logger.debug("connectivity.probe: %s", error)
            return self.is_online()
        if probe.min_interval is not None:
            self._state.set_min_interval(probe.min_interval)
            # From this probe on: the next one was planned before the answer said so.
            self._state.on_contact(self._clock.monotonic())
        if self._on_probe is not None:
            await self._on_probe(probe)
        return True

    async def step(self) -> float:
        """Probe where one is due; returns the seconds until the next."""
        if self._is_busy is not None:
            self._state.note_activity(self._clock.monotonic(), is_busy=self._is_busy())
        wait = self._state.probe_in(self._clock.monotonic())
        if wait > 0.0:
            return wait
        passage = self._client.gate.probe_passage(self._clock.monotonic())
        if not passage.open:
            return _WHILE_HALTED if passage.wait is None else passage.wait
        await self.probe_now()
        return max(self._state.probe_in(self._clock.monotonic()), 0.1)

    def set_probe_interval(self, seconds: float) -> None:
        """Probe so often while all is well: the backend's word, until the next start."""
        self._state.set_interval(seconds)

    def network_changed(self) -> None:
        """The host saw the network change: probe now, after an outage within `reconnect_spread`."""
        self._state.probe_soon(self._clock.monotonic())
        self.monitor.wake.set()

    async def close(self) -> None:
        """Cancel the callbacks and the probe under way, and collect them."""
        await self._turns.close()
        # A sync may be the one that closes: it does not wait for itself.
        tasks: list[asyncio.Future[Any]] = [task for task in self._running.values() if task != asyncio.current_task()]
        if self._probing is not None:
            tasks.append(self._probing)
        for task in tasks:
            task.cancel()
        await asyncio.gather(*tasks, return_exceptions=True)
        self._running.clear()

    def _on_contact(self, contact: AttemptOutcome, why: str) -> None:
        now = self._clock.monotonic()
        transition: Transition | None = None
        match contact:
            case AttemptOutcome.AUTHORIZED:
                transition = self._state.on_contact(now)
                self._state.on_authorized()
            case AttemptOutcome.REACHABLE:
                transition = self._state.on_contact(now)
            case AttemptOutcome.UNAUTHORIZED:
                transition = self._state.on_unauthorized(why, now)
            case AttemptOutcome.UNREACHABLE:
                transition = self._state.on_no_contact(why, now)
                self.monitor.wake.set()  # its next look is sooner now
        if transition is not None:
            self._announce(transition)

    def _announce(self, transition: Transition) -> None:
        self._transitions += 1
        self._history.append(ConnectivityTurn(self._clock.now(), transition.after, self._state.message))
        if transition.before is ConnectivityStatus.OFFLINE:
            # The one line that sums an outage up: its probes are logged nowhere else.
            lasted, probes = transition.lasted, self._failed_probes
            logger.info(
                "connectivity.%s: %s after %.0f s, %d probes", transition.after, self._state.message, lasted, probes
            )
        else:
            logger.info("connectivity.%s: %s", transition.after, self._state.message)
        self._failed_probes = 0
        self._turns.tell(transition.after)
        if transition.after is ConnectivityStatus.ONLINE:
            # After an outage a spread, so that a fleet leaving a tunnel does not arrive as one; at the start none.
            spread = self._settings.reconnect_spread if transition.before is ConnectivityStatus.OFFLINE else 0.0
            delay = self._rng.uniform(0.0, spread)
            for number, sync in enumerate(self._syncs):
                self._spawn(f"connectivity.sync.{number}", partial(self._run_sync, sync, delay))

    def _spawn(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        # One at a time per callback: what comes meanwhile, it finds before it ends.
        if name not in self._running:
            self._running[name] = asyncio.get_running_loop().create_task(self._alone(name, work), name=name)

    async def _alone(self, name: str, work: Callable[[], Awaitable[None]]) -> None:
        try:
            await work()
        finally:
            # In the same turn of the loop in which `work` looked for the last time: nothing falls in between.
            self._running.pop(name, None)

    async def _run_sync(self, sync: SyncCallback, delay: float = 0.0) -> None:
        if delay > 0.0:
            await self._clock.sleep(delay)
        try:
            await call_listener(sync)
        except HeldError as error:
            logger.info("connectivity.sync: %s", error)
        except SentinelSyncError as error:
            logger.error("connectivity.sync: %s", error)
        except Exception:  # the host may register its own: whatever it raises is reported, and harms nobody
            logger.exception("connectivity.sync: %r raised", sync)
