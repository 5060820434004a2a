"""What happens in the demo: a day's drives, an outage, a crash, and everything arrives."""

import asyncio
import json
import secrets
import time
from contextlib import AsyncExitStack
from dataclasses import dataclass, field
from importlib.resources import files
from pathlib import Path
from typing import Any

from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.demo.city import DAY
from sentinel_sync.demo.cloud import KEY_VARIABLE
from sentinel_sync.demo.processes import Child, DemoError
from sentinel_sync.demo.recording import RecordingAct, SentRecording, Stage
from sentinel_sync.demo.witness import CutTrip, Witness, raw_ids_in, verify

FLEET, VEHICLE = "demo_fleet", "demo_vehicle"
#: Answers that the backend loses after doing the work, when it is back.
LOST_ANSWERS = 3
#: Drives by what happens during them.
_BEFORE, _CLOUD_DIES, _OFFLINE, _VEHICLE_DIES, _AFTER = (0, 1), 2, 3, 4, 5
#: The share of a drive after which something dies.
_MIDDLE = 0.4
#: The day began so many seconds ago; between two drives the vehicle stands for so many.
_DAY_AGO, _PAUSE = 5 * 3600.0, 900.0


@dataclass(slots=True)
class Report:
    """What happened.

    Attributes:
        recorded: Trips that were ended, by the number of their drive.
        cut: The trip during which the vehicle was killed, as it arrived.
        taken_over: Trips of the older module.
        outage: Seconds without a backend.
        waited: Trips that waited for the backend's return.
        lost_answers: Answers that the backend lost after doing the work.
        repeats: Trips that were sent again and recognised.
        arrived: Trips that the backend has.
        fleet: The backend's own statistics of the fleet.
        kept_queue_file: The older module's file, renamed.
        recording: The recording that arrived; None where there was no ffmpeg.
    """

    recorded: dict[int, TripSummary] = field(default_factory=dict)
    cut: TripSummary | None = None
    taken_over: int = 0
    outage: float = 0.0
    waited: int = 0
    lost_answers: int = 0
    repeats: int = 0
    arrived: int = 0
    fleet: dict[str, Any] = field(default_factory=dict)
    kept_queue_file: str = ""
    recording: SentRecording | None = None


class Demo:
    """One showing of it.

    Args:
        folder: Everything lies in it.
        stage: Told what happens.
    """

    def __init__(self, folder: Path, stage: Stage) -> None:
        self._folder = folder
        self._stage = stage
        self._key = secrets.token_urlsafe(24)
        self._pseudonym_key = secrets.token_urlsafe(24)
        self._old: list[dict[str, Any]] = []
        self._url = ""
        self._start = time.time() - _DAY_AGO
        self._report = Report()

    async def run(self) -> Report:
        """Show it.

        Raises:
            DemoError: Something is not as promised.
        """
        report = self._report
        async with AsyncExitStack() as stack:
            cloud = await self._start_cloud(stack, [])
            async with self._witness() as witness:
                await asyncio.to_thread(self._prepare_vehicle)
                vehicle = await self._start_vehicle(stack)
                self._stage.doing("the older module's trips are sent …")
                await self._see_arrive(witness, len(self._old))
                for drive in _BEFORE:
                    await self._drive(vehicle, drive)
                await self._see_arrive(witness, report.taken_over + len(_BEFORE))
                self._stage.done(f"all have arrived: the backend has {report.arrived} trips")
                report.recording = await RecordingAct(self._folder / "vehicle", self._stage).run(witness)

            cut = await self._go_through_outage(stack, cloud, vehicle)

            async with self._witness() as witness:
                await self._check(witness, cut)
        return report

    async def _go_through_outage(self, stack: AsyncExitStack, cloud: Child, vehicle: Child) -> CutTrip:
        report = self._report
        await self._begin(vehicle, _CLOUD_DIES)
        await self._until_middle(vehicle)
        await cloud.kill()
        began = time.monotonic()
        self._stage.done(f"outage: the backend was killed (kill -9) in the middle of drive {_CLOUD_DIES + 1}")
        await self._finish(vehicle, _CLOUD_DIES)
        await self._drive(vehicle, _OFFLINE)

        trip_id = await self._begin(vehicle, _VEHICLE_DIES)
        cut = CutTrip(_VEHICLE_DIES, trip_id, await self._until_middle(vehicle))
        await vehicle.kill()
        self._stage.done(
            f"crash: the vehicle's process was killed (kill -9) in the middle of drive {_VEHICLE_DIES + 1}, "
            f"{_km(cut.on_disk)} of it on disk"
        )
        self._start += _PAUSE
        vehicle = await self._start_vehicle(stack, after_crash=True)
        await self._drive(vehicle, _AFTER)

        self._stage.doing("the backend comes back …")
        lose = {"kind": "lose", "method": "POST", "path": "/trips", "count": LOST_ANSWERS}
        await self._start_cloud(stack, [lose])
        report.outage = time.monotonic() - began
        self._stage.done(
            f"the backend is back after {report.outage:.1f} s; it will lose up to {LOST_ANSWERS} answers "
            "after doing the work"
        )
        async with self._witness() as witness:
            expected = report.taken_over + len(DAY)
            await self._see_arrive(witness, expected)
            await self._see_sent_again(witness)
        if await vehicle.stop() != 0:
            raise DemoError("the vehicle did not stop in order")
        self._stage.done(f"everything has arrived: the backend has {report.arrived} trips; the vehicle has stopped")
        return cut

    # --- the processes ---

    async def _start_cloud(self, stack: AsyncExitStack, faults: list[dict[str, object]]) -> Child:
        again = self._url
        if not again:
            self._stage.doing("starting the reference backend …")
        child = await Child.start(
            "sentinel_sync.demo.cloud",
            str(self._folder / "backend"),
            again.rpartition(":")[2] or "0",
            json.dumps(faults),
            name="the backend",
            log=self._folder / "backend.log",
            environment={KEY_VARIABLE: self._key},
        )
        stack.push_async_callback(child.kill)
        self._url = (await child.expect("ready"))["url"]
        if not again:
            self._stage.done(f"the reference backend runs at {self._url}, a process of its own")
        return child

    def _prepare_vehicle(self) -> None:
        """Its folder as an older vehicle's: the settings, and the queue that the older module left. Blocks."""
        home = self._folder / "vehicle"
        (home / "data").mkdir(parents=True)
        queue = files("sentinel_sync.demo").joinpath("trip_queue.json").read_bytes()
        (home / "data" / "trip_queue.json").write_bytes(queue)
        self._old = json.loads(queue)
        cloud = {
            "enabled": True,
            "api_url": self._url,
            "api_key_file": str(home / "api_key"),
            "vehicle_id": VEHICLE,
            "fleet_id": FLEET,
            "pseudonym_key": self._pseudonym_key,
            "sync_interval": 5,
            "connectivity_check_interval": 1,
            "reconnect_spread": 0.5,
            "timeout": 5,
            "rate_limit": 50,
            "state_dir": str(home / "state"),
            "trip_queue_file": str(home / "data" / "trip_queue.json"),
            "scenarios_dir": str(home / "scenarios"),
            "scenario_scan_interval": 0.5,
            "scenario_settle_time": 0.5,
            "profiles_dir": str(home / "profiles"),
            "models_dir": str(home / "models"),
        }
        for name, text in (("api_key", self._key), ("config.yaml", json.dumps({"cloud": cloud}, indent=2))):
            path = home / name
            path.touch(mode=0o600)
            path.write_text(text + "\n", encoding="utf-8")

    async def _start_vehicle(self, stack: AsyncExitStack, *, after_crash: bool = False) -> Child:
        self._stage.doing("the vehicle starts again …" if after_crash else "the vehicle starts …")
        began = time.monotonic()
        child = await Child.start(
            "sentinel_sync.demo.vehicle",
            str(self._folder / "vehicle" / "config.yaml"),
            name="the vehicle",
            log=self._folder / "vehicle.log",
            environment={},
        )
        stack.push_async_callback(child.kill)
        told = await child.expect("ready")
        if after_crash:
            self._report.waited = told["waiting"]
            self._stage.done(
                f"the vehicle runs again after {time.monotonic() - began:.1f} s; {told['waiting']} trips wait on its "
                "disk, the cut one among them"
            )
        else:
            self._report.taken_over = len(self._old)
            self._stage.done(f"the vehicle runs; it took over {len(self._old)} trips that the older module had queued")
        return child

    # --- driving ---

    async def _begin(self, vehicle: Child, drive: int) -> str:
        self._stage.doing(f"drive {drive + 1} of {len(DAY)}: {DAY[drive].name} …")
        await vehicle.tell({"drive": drive, "start": self._start})
        trip_id: str = (await vehicle.expect("started"))["trip_id"]
        return trip_id

    async def _until_middle(self, vehicle: Child) -> float:
        """Wait for the middle of the drive; returns the metres that are on disk."""
        while (told := await vehicle.expect("stretch"))["progress"] < _MIDDLE:
            continue
        return float(told["distance"])

    async def _finish(self, vehicle: Child, drive: int) -> None:
        told = await vehicle.expect("ended")
        trip = TripSummary.model_validate(told["trip"])
        self._report.recorded[drive] = trip
        self._start = trip.end_time.timestamp() + _PAUSE
        self._stage.done(
            f"drive {drive + 1}: {DAY[drive].name}, {_km(trip.distance)} in {trip.duration / 60:.0f} min, "
            f"{_alerts(trip.alert_count)}"
        )
        self._report.waited = told["waiting"]

    async def _drive(self, vehicle: Child, drive: int) -> None:
        await self._begin(vehicle, drive)
        await self._finish(vehicle, drive)

    # --- asking the backend ---

    def _witness(self) -> Witness:
        return Witness(self._url, self._key, FLEET)

    async def _see_arrive(self, witness: Witness, count: int) -> None:
        self._report.arrived = await witness.wait_for("total", count)
        if self._report.arrived != count:
            raise DemoError(f"{self._report.arrived} trips have arrived where {count} should have")

    async def _see_sent_again(self, witness: Witness) -> None:
        """Trips whose answer was lost are sent again; only then has the vehicle nothing left to send."""
        self._stage.doing("the trips whose answers were lost are sent again …")
        self._report.repeats = await witness.wait_for("repeats", LOST_ANSWERS)
        if self._report.repeats < LOST_ANSWERS:
            raise DemoError(f"{LOST_ANSWERS} answers were lost, but {self._report.repeats} trips were sent again")

    async def _check(self, witness: Witness, cut: CutTrip) -> None:
        report = self._report
        self._stage.doing("comparing what arrived with what was recorded …")
        arrived = await witness.trips()
        verify(arrived, report.recorded, cut, self._old, self._pseudonym_key)
        (body,) = (trip for trip in arrived if trip["trip_id"] == cut.trip_id)
        report.cut = TripSummary.model_validate({name: body[name] for name in TripSummary.model_fields})
        report.lost_answers = (await witness.strikes()).get("lose", 0)
        report.fleet = await witness.statistics()
        if report.fleet["total_trips"] != len(arrived):
            raise DemoError(f"the fleet's statistics count {report.fleet['total_trips']} trips of {len(arrived)}")
        home = self._folder / "vehicle"
        if named := await asyncio.to_thread(lambda: list(raw_ids_in(home / "state", self._old))):
            raise DemoError(f"a driver's own id lies in {', '.join(named)}")
        kept = await asyncio.to_thread(lambda: [path.name for path in (home / "data").iterdir()])
        if len(kept) != 1 or not kept[0].startswith("trip_queue.json.imported-"):
            raise DemoError(f"the older module's queue was not renamed but is {', '.join(kept) or 'gone'}")
        report.kept_queue_file = kept[0]
        self._stage.done("each trip is there exactly once, with the figures that were recorded")


def _km(metres: float) -> str:
    return f"{metres / 1000.0:.1f} km"


def _alerts(number: int) -> str:
    return f"{number or 'no'} alert{'' if number == 1 else 's'}"
