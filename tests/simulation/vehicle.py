"""A vehicle's days: it is driven, its driver's profile changes, its agent starts, stops, and dies at any instant."""

import asyncio
import contextlib
import json
import math
import shutil
from collections.abc import Awaitable, Callable
from contextvars import ContextVar
from dataclasses import dataclass, field
from datetime import UTC, datetime
from pathlib import Path
from random import Random
from typing import Any, TypeVar

import httpx

from sentinel_sync import Settings, StoreFullError, SyncAgent
from sentinel_sync.scenarios.rules.status import ScenarioStatus
from tests.simulation.link import Network, SimulatedLink
from tests.simulation.recorder import leave_recording
from tests.simulation.world import BootClock, World

Result = TypeVar("Result")

#: What must never be seen on the wire; the auditor looks for every part of it.
DRIVERS = {"driver_ada": "Ada Quillfeather", "driver_bo": "Bo Brandvold"}
LAT, LON = 48.858370, 2.294481
#: The vehicle whose agent is at work in this context.
WHO: ContextVar[str] = ContextVar("WHO")
_UPDATE_EVERY = 10.0
#: The mean time until somebody makes room on a full disk, and until somebody asks again for what it refused, seconds.
_FULL_LASTS, _ASK_AGAIN = 600.0, 30.0


@dataclass(slots=True)
class TripRecord:
    """What the driver of a trip remembers.

    Attributes:
        driven: Metres so far.
        told: Metres that `end_trip` acknowledged; None where it never returned.
    """

    vehicle: str
    driven: float = 0.0
    told: float | None = None


@dataclass(slots=True)
class Decision:
    """What a driver decided about recordings.

    Attributes:
        began: When `set_consent` was called, virtual seconds.
        stands_since: When it returned; None where it never did.
    """

    vehicle: str
    granted: bool
    began: float
    stands_since: float | None = None


@dataclass(frozen=True, slots=True)
class RecordingRecord:
    """A recording as its recorder remembers it.

    Attributes:
        made_at: Virtual seconds.
        is_wrong_clock: Whether the vehicle's clock was wrong then.
    """

    vehicle: str
    name: str
    made_at: float
    is_wrong_clock: bool


@dataclass(slots=True)
class History:
    """What was done and acknowledged, for the auditor.

    Attributes:
        trips: By the id that `start_trip` returned.
        profile_metres: Metres that profile managers have added to each driver's file, in all vehicles.
        releases: Of the model, oldest first.
        decisions: In the order in which they were made.
        switches: When an agent said that it had switched to a release, or found that it had been cut off doing so,
            virtual seconds, which vehicle's, and how it said it.
    """

    trips: dict[str, TripRecord] = field(default_factory=dict)
    profile_metres: dict[str, float] = field(default_factory=lambda: dict.fromkeys(DRIVERS, 0.0))
    releases: list["Release"] = field(default_factory=list)
    decisions: list[Decision] = field(default_factory=list)
    recordings: list[RecordingRecord] = field(default_factory=list)
    switches: list[tuple[float, str, str]] = field(default_factory=list)


@dataclass(slots=True)
class Release:
    """A version of the model at the backend.

    Attributes:
        sha256: Of its bytes, in hex.
        is_genuine: Whether the fleet's key has signed it.
        withdrawn_at: Since when it is not offered any more, virtual seconds.
    """

    version: str
    sha256: str
    is_genuine: bool
    withdrawn_at: float = math.inf


class CrashedError(Exception):
    """The vehicle's process is gone."""


class Vehicle:
    """One vehicle with its folders, over many lives of its process.

    Args:
        folder: For all that it keeps.
        settings: More settings.
    """

    def __init__(
        self, name: str, folder: Path, world: World, network: Network, history: History, rng: Random, **settings: Any
    ) -> None:
        self.name = name
        self.folder = folder / "0"
        self.folder.mkdir(parents=True)
        self._world = world
        self._network = network
        self._history = history
        self._rng = rng
        self._settings = settings
        self._lives = 0
        self._crash: asyncio.Future[None] | None = None
        self._link: SimulatedLink | None = None
        self._may_die_answering = False
        #: What the agent said of its recordings in the end, by name.
        self.said: dict[str, ScenarioStatus] = {}

    def profile_file(self, driver: str) -> Path:
        """A driver's profile, as the vehicle's profile manager keeps it."""
        return self.folder / "profiles" / f"{driver}.json"

    async def live(self, script: Callable[[SyncAgent, BootClock], Awaitable[None]], *, crash_in: float | None) -> None:
        """Start the agent, do what the script says, and stop it, or have it die after so many seconds at most."""
        self._lives += 1
        clock = self._world.boot(self._rng.choice([0.0, 0.0, 0.0, self._rng.uniform(-9e4, 9e4), -4e8]))
        self._world.note(f"{self.name} starts, its clock wrong by {clock.wrong_by:.0f} s")
        self._crash = crash = self._world.loop.create_future()
        is_metered = crash_in is not None and self._rng.random() < 0.3
        self._link = SimulatedLink(self._network, self.name, is_metered=is_metered, on_answered=self._answered)
        self._may_die_answering = crash_in is not None and self._rng.random() < 0.5
        life = asyncio.create_task(self._life(script, clock, self._link, is_metered))
        await asyncio.wait({life, crash}, timeout=crash_in, return_when=asyncio.FIRST_COMPLETED)
        if not life.done():
            self._die()
            life.cancel()
            with contextlib.suppress(asyncio.CancelledError, CrashedError):
                await life
            return
        self._world.note(f"{self.name} stops")
        life.result()

    async def _life(
        self,
        script: Callable[[SyncAgent, BootClock], Awaitable[None]],
        clock: BootClock,
        link: SimulatedLink,
        is_metered: bool,
    ) -> None:
        folder = self.folder
        WHO.set(self.name)
        settings = Settings.model_validate(
            {
                "cloud": {
                    "enabled": True,
                    "api_url": "http://127.0.0.1:1/",
                    "api_key": "key",
                    "vehicle_id": self.name,
                    "fleet_id": "fleet",
                    "network": "metered" if is_metered else "unmetered",
                    "upload_scenarios": True,
                    "pseudonym_key": "pseudonyms",
                    "sync_interval": 120.0,
                    "auto_install_models": True,
                    "model_check_interval": 120.0,
                    "trip_queue_file": folder / "trip_queue.json",
                    **{f"{name}_dir": folder / name for name in ("state", "scenarios", "profiles", "models")},
                    **self._settings,
                }
            }
        )
        async with (
            httpx.AsyncClient(transport=link) as http,
            SyncAgent(settings, http=http, clock=clock, rng=Random(self._rng.random())) as agent,
        ):
            await script(agent, clock)

    def _answered(self) -> None:
        """Die at the worst instant: the backend has done the work, and the vehicle has not heard of it."""
        if self._may_die_answering and self._rng.random() < 0.3 and self._crash is not None:
            self._die()
            if not self._crash.done():
                self._crash.set_result(None)

    def _die(self) -> None:
        """Keep what is on disk at this instant; nothing that the dead process does counts any more."""
        if self._link is None or self._link.is_cut:
            return
        self._link.is_cut = True
        former, self.folder = self.folder, self.folder.with_name(str(self._lives))
        is_full = former in self._world.disks.full
        shutil.copytree(former, self.folder, symlinks=True)
        if is_full:
            self._fill_disk()
        self._world.note(f"{self.name} dies")
        self._network.happened.add("a process died")

    # --- what drivers do ---

    async def drive(self, agent: SyncAgent, clock: BootClock) -> None:
        """One trip, its readings, and what the profile manager makes of it."""
        rng, trips = self._rng, self._history.trips
        life = self._link
        driver = rng.choice([*DRIVERS, *DRIVERS, None])
        place = {"lat": LAT, "lon": LON} if rng.random() < 0.9 else None
        trip_id = await self._insist(lambda: agent.trips.start_trip(driver, place))
        if life is None or life.is_cut:
            raise CrashedError
        record = trips[trip_id] = TripRecord(self.name)
        for _ in range(rng.randint(1, 120)):
            metres = rng.uniform(0.0, 300.0)
            agent.trips.update_trip(metres, speed=metres / _UPDATE_EVERY, risk_score=rng.random(), location=(LAT, LON))
            record.driven += metres
            await asyncio.sleep(_UPDATE_EVERY)
            if life.is_cut:
                raise CrashedError
            if rng.random() < 0.02:
                self.record(clock)
            if rng.random() < 0.005:
                self._fill_disk()
            if rng.random() < 0.02:
                clock.wrong_by = rng.choice([0.0, rng.uniform(-9e4, 9e4)])
                self._world.note(f"{self.name}: the clock is set, now wrong by {clock.wrong_by:.0f} s")
        summary = await self._insist(agent.trips.end_trip)
        if life.is_cut:
            raise CrashedError
        if summary is not None:
            record.told = summary.distance
        self._world.note(f"{self.name}: {trip_id} ended, {record.driven:.1f} m")
        if driver is not None and self.profile_file(driver).exists():
            self.add_to_profile(driver, record.driven, clock)

    async def decide(self, agent: SyncAgent, *, granted: bool) -> None:
        """The driver gives a consent to sending recordings, or takes it back."""
        life = self._link
        decision = Decision(self.name, granted, self._world.elapsed())
        self._history.decisions.append(decision)
        await self._insist(lambda: agent.scenarios.set_consent(granted))
        if life is None or life.is_cut:
            raise CrashedError
        decision.stands_since = self._world.elapsed()
        self._world.note(f"{self.name}: consent {'given' if granted else 'withdrawn'}")

    def record(self, clock: BootClock) -> None:
        """The recorder leaves a recording."""
        if self._link is None or self._link.is_cut:
            raise CrashedError
        name = datetime.fromtimestamp(self._world.now(), UTC).strftime("%Y%m%d_%H%M%S")
        if (folder := self.folder / "scenarios" / name).exists() or self._is_full():
            return
        leave_recording(folder, clock.now())
        made = RecordingRecord(self.name, name, self._world.elapsed(), clock.wrong_by != 0.0)
        self._history.recordings.append(made)
        self._world.note(f"{self.name}: recorded {name}")

    def add_to_profile(self, driver: str, metres: float, clock: BootClock) -> None:
        """As the profile manager does after a trip: it reads the file, changes it, and writes it."""
        if self._is_full():
            return
        path = self.profile_file(driver)
        profile = json.loads(path.read_text())
        profile["total_distance"] += metres
        profile["total_trips"] += 1
        profile["last_updated"] = clock.now()
        beside = path.with_suffix(".tmp")
        beside.write_text(json.dumps(profile, indent=2))
        beside.replace(path)
        self._history.profile_metres[driver] += metres

    # --- a disk that fills ---

    async def _insist(self, ask: Callable[[], Awaitable[Result]]) -> Result:
        """Ask until there is room for it, as a host does that is told so."""
        while True:
            try:
                return await ask()
            except StoreFullError:
                if not self._is_full():
                    raise
                self._network.happened.add("a full disk refused something")
                await asyncio.sleep(_ASK_AGAIN)

    def _is_full(self) -> bool:
        return self.folder in self._world.disks.full

    def _fill_disk(self) -> None:
        """Something else takes all the space, until somebody makes room."""
        folder, full = self.folder, self._world.disks.full
        full.add(folder)
        self._world.note(f"{self.name}: the disk is full")
        self._world.loop.call_later(self._rng.expovariate(1.0 / _FULL_LASTS), full.discard, folder)
