"""`SyncAgent`: builds every part once, hands them to the supervisor, and stops them with everything durable."""

import asyncio
import logging
from contextlib import AsyncExitStack
from enum import StrEnum
from pathlib import Path
from random import Random, SystemRandom
from typing import Self

from sentinel_sync import __version__
from sentinel_sync.base.clock import Clock, SystemClock
from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.base.folder_watch import WATCHED_INTERVAL, FolderWatch
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.tasks import PeriodicTask, Supervisor
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.cloud.offline_manager import OfflineManager
from sentinel_sync.cloud.response_policy import AttemptOutcome
from sentinel_sync.cloud.rules.answers import GateState
from sentinel_sync.cloud.rules.connectivity import ConnectivityStatus
from sentinel_sync.composition import Components, build
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.metrics import Metrics
from sentinel_sync.models.model_downloader import ModelDownloader
from sentinel_sync.network.policy import known_word
from sentinel_sync.profiles.profile_synchronizer import ProfileSynchronizer
from sentinel_sync.scenarios.scenario_uploader import ScenarioUploader
from sentinel_sync.settings import Settings
from sentinel_sync.status import AgentStatus, RemainingWork
from sentinel_sync.status_reporter import StatusReporter, remaining_work
from sentinel_sync.store.store import DATABASE_NAME, Store
from sentinel_sync.telemetry import Telemetry
from sentinel_sync.trips.trip_uploader import TripUploader
from sentinel_sync.vehicle_report import VehicleReporter

logger: logging.Logger = logging.getLogger(__name__)

#: How soon another process's change (the CLI's) is seen, seconds, where the kernel does not tell of it at once.
WATCH_INTERVAL = 2.0
#: The key file is looked at and the status file written at most so often, seconds, while nothing is under way.
_STATUS_INTERVAL = 4.0
#: While something is under way somebody may be watching its progress: the status is written so often then, seconds.
_BUSY_INTERVAL = 1.0
#: The age bound is asked once an hour: it is a matter of months.
_HOUSEKEEPING_INTERVAL = 3600.0
#: Between two tries of `flush`, seconds, where nothing says when to come back.
_FLUSH_PAUSE = 0.25
_LOW_POWER = "the battery is low"
#: Of `shutdown_timeout`, the part granted to requests under way; the rest is for what must be written.
_GRACE_SHARE = 0.5


class Power(StrEnum):
    """What the host says about the battery."""

    NORMAL = "normal"
    LOW = "low"


class SyncAgent:
    """Keeps one vehicle and its backend in step, inside the host's own event loop.

    ```python
    async with SyncAgent.from_config("configs/default.yaml") as agent:
        await agent.trips.start_trip(driver_id="driver_123")
    ```

    Args:
        settings: What to do; by `from_config` read when the agent is entered.
        http: A client to share; it is not closed then.
    """

    def __init__(
        self,
        settings: Settings | None = None,
        *,
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> None:
        self._settings = settings
        self._config_path: Path | None = None
        self._http = http
        self._clock: Clock = clock or SystemClock()
        self._rng = rng or SystemRandom()
        self._parts: Components | None = None
        self._stack = AsyncExitStack()
        self._supervisor = Supervisor(self._clock, self._rng)
        self._power = Power.NORMAL
        self._stopped = asyncio.Event()
        self._closing = asyncio.Lock()
        self._status_due = 0.0
        self._contact: AttemptOutcome | None = None
        self._refused = False
        self._data_version = -1
        self._status_board: StatusReporter | None = None
        self._metrics: Metrics | None = None
        self._report: VehicleReporter | None = None
        self._watch = PeriodicTask("watch", self._watch_step)
        self._housekeeping = PeriodicTask("housekeeping", self._housekeeping_step)

    @classmethod
    def from_config(
        cls,
        path: str | Path,
        *,
        http: httpx.AsyncClient | None = None,
        clock: Clock | None = None,
        rng: Random | None = None,
    ) -> Self:
        """An agent that reads its settings from a YAML file when it is entered (ConfigurationError then)."""
        agent = cls(http=http, clock=clock, rng=rng)
        agent._config_path = Path(path)
        return agent

    # --- parts ---

    @property
    def settings(self) -> Settings:
        """The settings in use."""
        if self._settings is None:
            raise SentinelSyncError("the agent has not read its settings yet: enter it first (`async with agent:`)")
        return self._settings

    @property
    def client(self) -> CloudAPIClient:
        """The one client."""
        return self._built.foundation.client

    @property
    def store(self) -> Store:
        """The one store."""
        return self._built.foundation.store

    @property
    def trips(self) -> TripUploader:
        """Trips."""
        return self._built.trips

    @property
    def scenarios(self) -> ScenarioUploader:
        """Recorded scenarios."""
        return self._built.scenarios

    @property
    def models(self) -> ModelDownloader:
        """Driving models."""
        return self._built.models

    @property
    def profiles(self) -> ProfileSynchronizer:
        """Driver profiles."""
        return self._built.profiles

    @property
    def fleet(self) -> FleetManager:
        """Fleet statistics."""
        return self._built.fleet

    @property
    def connectivity(self) -> OfflineManager:
        """The way to the backend."""
        return self._built.connectivity

    # --- life ---

    async def __aenter__(self) -> Self:
        await self.start()
        return self

    async def __aexit__(self, *_: object) -> None:
        await self.aclose()

    async def start(self) -> None:
        """Open the state folder, recover what a crash left, and begin all duties.

        Raises:
            ConfigurationError: The settings cannot be used.
            StateLockedError: Another agent owns the state folder.
            StoreError: The state folder cannot be used.
        """
        if self._parts is not None:
            raise SentinelSyncError("this agent is running already")
        if self._settings is None:
            # Parsing YAML takes longer than a loop can spare.
            self._settings = await asyncio.to_thread(Settings.load, self._config_path)
        self._data_version, self._status_board, self._refused = -1, None, False
        async with AsyncExitStack() as stack:
            parts = await build(self._settings.cloud, stack, http=self._http, clock=self._clock, rng=self._rng)
            if not self._settings.cloud.enabled:
                logger.warning("agent.disabled: cloud.enabled is false: trips are kept, nothing is sent")
                parts.foundation.client.halt("disabled", "cloud.enabled is false")
            if self._power is Power.LOW:
                parts.foundation.client.halt("power", _LOW_POWER)
            parts.connectivity.register_sync_callback(self._on_return)
            parts.foundation.client.subscribe(self._on_contact)
            parts.foundation.policy.subscribe(self._on_network)
            self._parts = parts
            board = self._board(parts)
            self._report = report = VehicleReporter(parts, board.look, self._clock, self._rng)
            board.subscribe(report.note)
            self._metrics = board.metrics = Metrics(parts.foundation.client, self._clock)
            if self._settings.cloud.open_telemetry:
                board.subscribe(Telemetry(parts.foundation.client, self._metrics).note)
            try:
                await board.begin()
                await self._supervisor.start([*parts.duties, report.task, self._watch, self._housekeeping])
            except BaseException:
                self._parts = None
                await self._supervisor.stop(0.0)
                raise
            self._stack = stack.pop_all()
        logger.info("agent.started: %s, vehicle %s", __version__, self._settings.cloud.vehicle_id)

    async def aclose(self) -> None:
        """Stop within `shutdown_timeout`: no new request, grace for those under way, then cut off; all is durable."""
        async with self._closing:
            if self._parts is not None:
                await self._close(self._parts)

    async def _close(self, parts: Components) -> None:
        # Not the client's halt: what is under way may end.
        parts.foundation.client.gate.halt("stopping", "the agent is stopping")
        async with AsyncExitStack() as last:
            # Each is done whatever becomes of those before it; the last pushed is the first.
            last.callback(self._say_stopped)
            last.push_async_callback(self._stack.aclose)
            last.push_async_callback(self._board(parts).end)
            last.push_async_callback(self._board(parts).write)
            # What is written last says why work waits, and that it was being stopped is no reason for that.
            last.callback(parts.foundation.client.gate.resume, "stopping")
            last.push_async_callback(self._supervisor.stop, self.settings.cloud.shutdown_timeout * _GRACE_SHARE)
        logger.info("agent.stopped")

    def _say_stopped(self) -> None:
        self._parts = None
        # Whoever waits is told; the next life waits for its own.
        stopped, self._stopped = self._stopped, asyncio.Event()
        stopped.set()

    async def run(self) -> None:
        """Run until `stop` is called: for a process of its own."""
        stopped = self._stopped
        async with self:
            await stopped.wait()

    def stop(self) -> None:
        """Let `run` end; a plain call, also fit for a signal handler of the loop."""
        self._stopped.set()

    # --- what a host asks for ---

    async def flush(self, timeout: float = 30.0) -> RemainingWork:
        """Send until nothing is left, at most `timeout` seconds; returns what there is then (`.left`, `.set_aside`).

        Also what is not queued yet: a recording that was written just now is waited for until it can be told whole.

        Ends early where waiting can't help: sending is switched off, or the credential is refused.
        """
        try:
            async with asyncio.timeout(timeout):
                await self._send_all()
        except TimeoutError:
            logger.info("agent.flush: something is left after %.1f s", timeout)
        return await self.remaining()

    async def remaining(self) -> RemainingWork:
        """All that is still to be done with the backend: queued, in the folders, ordered."""
        return await remaining_work(self._built)

    async def drain(self, deadline: float) -> RemainingWork:
        """For the grace after ignition off: send what fits into `deadline` seconds, most important first.

        Returns what is left, at the latest a second after the deadline.
        """
        return await self.flush(deadline)

    async def run_once(self, timeout: float = 60.0) -> RemainingWork:
        """Report to the backend, and send all that is due now or that it asks for in its answer.

        Gives up at once where it is out of reach.
        """
        if not await self.connectivity.probe_now():
            return await self.remaining()
        if self._report is not None:
            await self._report.step()
        return await self.flush(timeout)

    def set_power(self, state: str) -> None:
        """The host's word on the battery: 'low' stops all sending at once, 'normal' lifts that.

        Raises:
            ValueError: Neither.
        """
        power = known_word(state, Power)
        if power is self._power:
            return
        self._power = power
        logger.warning("agent.power: %s", power)
        if self._parts is None:  # it counts from the start on
            return
        if power is Power.LOW:
            self.client.halt("power", _LOW_POWER)
        else:
            self.client.resume("power")
            self.wake()

    async def set_network(self, choice: str, link: str | None = None) -> None:
        """The host's word on the network: 'metered' lets trips and profiles through only.

        Args:
            choice: 'metered', 'unmetered', or 'auto' to leave it to the settings and NetworkManager.
            link: 'wifi', 'cellular', 'ethernet' or 'other': whose data budget counts.

        Raises:
            ValueError: None of these.
        """
        await self._built.foundation.policy.set_network(choice, link)

    def set_conditions(self, *conditions: str) -> None:
        """The host's word on the vehicle, for `upload_window` and `update_window`: all that holds now.

        Raises:
            ValueError: One is none of 'parked', 'charging' and 'home'.
        """
        self._built.foundation.policy.set_conditions(conditions)

    def wake(self) -> None:
        """Have every part look now for what there is to do: for a host that has changed something outside the API."""
        for duty in self._built.duties:
            duty.wake.set()

    async def status(self) -> AgentStatus:
        """What the agent says of itself now."""
        return await self._board(self._built).look()

    async def metrics(self) -> str:
        """The status as metrics, in Prometheus' text format."""
        if self._metrics is None:
            raise SentinelSyncError("the agent is not running: enter it first (`async with agent:`)")
        return await self._metrics.text(await self.status())

    async def show_console_address(self, url: str | None) -> None:
        """Have the status name where the console is served; None once it is not any more."""
        if self._parts is not None:  # it may have been stopped first
            board = self._board(self._parts)
            board.console = url
            await board.write()

    # --- how ---

    @property
    def _built(self) -> Components:
        if self._parts is None:
            raise SentinelSyncError("the agent is not running: enter it first (`async with agent:`)")
        return self._parts

    async def _send_all(self) -> None:
        parts = self._built
        while True:
            if not parts.connectivity.is_online():
                await parts.connectivity.probe_now()
            for sync in parts.syncs:
                try:
                    await sync()
                except SentinelSyncError as error:
                    # What one part cannot do must not keep the others from sending.
                    logger.warning("agent.flush: %s", error)
            passage = parts.foundation.client.gate.passage(self._clock.monotonic())
            settles_in = parts.scenarios.settles_in()
            has_more = await self._sendable() > 0 or settles_in is not None
            if not has_more or passage.state in {GateState.HALTED, GateState.REFUSED}:
                return
            await self._clock.sleep(max(_FLUSH_PAUSE, passage.wait or 0.0))

    async def _sendable(self) -> int:
        """Items that are still to be sent, and may be."""
        parts = self._built
        unsent = (await parts.foundation.store.outbox.counts()).unsent
        for kind in await parts.held_kinds():
            unsent -= (await parts.foundation.store.outbox.counts(kind)).unsent
        return unsent

    def _on_contact(self, contact: AttemptOutcome, _: str) -> None:
        if contact is AttemptOutcome.UNAUTHORIZED:
            self._refused = True
        if contact is not self._contact:
            self._contact = contact
            self._watch.wake.set()

    def _on_network(self) -> None:
        """The network changed, or something waits for it: say so now, whoever changed it is looking."""
        self._status_due = 0.0
        self._watch.wake.set()
        if self._parts is not None and self._parts.connectivity.get_status() is ConnectivityStatus.OFFLINE:
            self._parts.connectivity.network_changed()

    async def _on_return(self) -> None:
        """The backend is back: what only the network held up is due now."""
        await self._built.foundation.store.outbox.make_due()
        self.wake()

    async def _watch_step(self) -> float:
        """Notice what other processes changed, a rotated key, and write the status for them."""
        parts = self._built
        version = await parts.foundation.store.outbox.data_version()
        if version != self._data_version:
            first, self._data_version = self._data_version == -1, version
            if not first:
                self.wake()
        board, now = self._board(parts), self._clock.monotonic()
        is_due = now >= self._status_due
        if is_due:
            self._status_due = now + _STATUS_INTERVAL
            await parts.foundation.client.refresh_credential()
        is_news = (is_due or parts.is_busy or board.shows_work) and await board.write()
        gate = parts.foundation.client.gate
        if self._refused and gate.passage(self._clock.monotonic()).state is not GateState.REFUSED:
            # There is a new key, whoever was the first to notice: what waits for it need not wait any longer.
            self._refused = False
            self.wake()
        if parts.is_busy or board.shows_work:
            return _BUSY_INTERVAL
        if not await self._is_told(parts.foundation.folders):
            return WATCH_INTERVAL
        # What has just changed may go on changing, where no file tells of it.
        return WATCHED_INTERVAL if is_due and not is_news else max(0.0, self._status_due - self._clock.monotonic())

    async def _is_told(self, folders: FolderWatch) -> bool:
        """Whether the kernel tells of what this watch looks for: other processes' changes and rotated keys."""
        cloud, wake = self.settings.cloud, self._watch.wake.set
        files = (cloud.api_key_file, cloud.ca_file, cloud.client_cert_file, cloud.client_key_file)
        told = [await folders.follows(cloud.state_dir, wake, DATABASE_NAME)]
        told += [await folders.follows(file.parent, wake) for file in files if file is not None]
        return all(told)

    async def _housekeeping_step(self) -> float:
        """Apply the age bound, while the wall clock can be trusted."""
        parts, max_age = self._built, self.settings.cloud.outbox_max_age
        timekeeper = parts.foundation.timekeeper
        if max_age > 0.0 and timekeeper.trusted:
            outbox = parts.foundation.store.outbox
            await outbox.drop_too_old(max_age, timekeeper.observations, timekeeper.stamp())
        return _HOUSEKEEPING_INTERVAL

    def _board(self, parts: Components) -> StatusReporter:
        if self._status_board is None:
            self._status_board = StatusReporter(parts, self._supervisor, lambda: self._power, self._clock)
        return self._status_board
