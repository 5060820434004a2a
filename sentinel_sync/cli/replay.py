"""`trips replay FILE`: a recorded drive becomes one trip, with the recording's own times, distance and speeds."""

import argparse
import asyncio
import json
import math
import sys
from collections.abc import Callable, Sequence
from contextlib import AsyncExitStack
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync.agent import SyncAgent
from sentinel_sync.base.errors import SentinelSyncError, StateLockedError
from sentinel_sync.base.payloads import TripSummary
from sentinel_sync.cli.actions import load_settings
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.ui import text as words
from sentinel_sync.cli.ui.text import err, out
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import Settings
from sentinel_sync.store.outbox import ItemState, OutboxItem
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper
from sentinel_sync.trips.drive_file import RecordedClock, read_drives
from sentinel_sync.trips.rules.drive import Drive
from sentinel_sync.trips.trip_uploader import TripUploader

#: Seconds that the backend is given to take the trip, by default; it is safe on disk before.
DEFAULT_WAIT = 10.0
#: Between so many readings the loop gets its turn, where nothing else paces them: some 10 ms.
_TURN = 1000


@dataclass(frozen=True, slots=True)
class Replayed:
    """What became of a drive.

    Attributes:
        item: Where the trip stands in the outbox, or None where the backend has it.
        joined: True where another process's agent sends it.
    """

    trip: TripSummary
    item: OutboxItem | None
    joined: bool


def add_parser(subparsers: Subparsers) -> None:
    """Add `trips` and what can be done with them."""
    trips = subparsers.add_parser("trips", help="replay a recorded drive as a trip")
    actions = trips.add_subparsers(title="actions", metavar="ACTION", required=True)
    parser = actions.add_parser(
        "replay",
        help="record a drive from a file as one trip",
        description=(
            "Records a drive from a GPX file, or from a CSV file with the columns time, lat, lon and maybe speed\n"
            "(RFC 3339 or seconds since 1970; degrees; m/s), as one trip with the file's own times.\n"
            "Where an agent runs on the state folder the trip is added to what it sends; else it is sent at once."
        ),
    )
    parser.add_argument("file", metavar="FILE", type=Path, help="the recorded drive")
    parser.add_argument("--driver", metavar="ID", help="who drove; only a pseudonym of the id is kept")
    parser.add_argument("--realtime", action="store_true", help="take as long as the drive took")
    parser.add_argument(
        "--speed-factor",
        metavar="N",
        type=_factor,
        help="so many times faster than the drive was (default: as fast as it goes)",
    )
    parser.add_argument(
        "--wait",
        metavar="SECONDS",
        type=_seconds,
        default=DEFAULT_WAIT,
        help=f"how long the backend is given to take the trip (default: {DEFAULT_WAIT:.0f})",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> ExitCode:
    """Replay one file."""
    pace: float | None = arguments.speed_factor or (1.0 if arguments.realtime else None)
    recorded = read_drives(arguments.file)
    settings = load_settings(arguments)
    try:
        replayed = asyncio.run(
            replay(
                recorded.drives,
                settings,
                driver=arguments.driver,
                pace=pace,
                wait=arguments.wait,
                tell=_progress(arguments),
            )
        )
    except KeyboardInterrupt:
        err("\nstopped: a drive that was not replayed to its end is not recorded\n")
        raise
    both = list(zip(recorded.drives, replayed, strict=True))
    if arguments.json:
        shown = [_as_json(drive, one) for drive, one in both]
        unusable = {"unusable": recorded.unusable.count, "unusable_reason": recorded.unusable.reason}
        out(json.dumps((shown[0] if len(shown) == 1 else {"drives": shown}) | unusable, indent=2) + "\n")
    else:
        lines = [line for drive, one in both for line in _as_text(arguments.file, drive, one, settings)]
        if recorded.unusable.count:
            left_out = words.count(recorded.unusable.count, "position")
            lines.append(f"  note: {left_out} could not be used, so left out ({recorded.unusable.reason})")
        out("\n".join(lines) + "\n")
    set_aside = any(one.item is not None and one.item.state is ItemState.SET_ASIDE for one in replayed)
    return ExitCode.FAILED if set_aside else ExitCode.DONE


async def replay(
    drives: Sequence[Drive],
    settings: Settings,
    *,
    driver: str | None = None,
    pace: float | None = None,
    wait: float = DEFAULT_WAIT,
    tell: Callable[[float, float], None] | None = None,
) -> list[Replayed]:
    """Record each drive as a trip in the configured state folder and give the backend `wait` seconds to take them.

    Args:
        drives: The drives.
        settings: Which vehicle, which backend, which folder.
        driver: The vehicle's own id of the driver.
        pace: How many times faster than it was; None is as fast as it goes.
        wait: Seconds.
        tell: Told seconds and metres into the drive, before each reading of a paced replay.

    Raises:
        ConfigurationError: The settings cannot be used.
        StoreError: The state folder cannot be used.
    """
    async with AsyncExitStack() as stack:
        agent: SyncAgent | None
        try:
            agent = await stack.enter_async_context(SyncAgent(settings))
            client, store = agent.client, agent.store
        except StateLockedError:
            # Somebody's agent runs on the folder: it sees a new item in its outbox, and sends it.
            agent = None
            client = CloudAPIClient(settings=settings.cloud)  # for its settings: it sends nothing here
            stack.push_async_callback(client.close)
            store = Store(settings.cloud.state_dir, max_bytes=settings.cloud.outbox_max_bytes, exclusive=False)
            await stack.enter_async_context(store)
        trips = []
        for drive in drives:
            clock = RecordedClock(drive.start)
            uploader = TripUploader(
                client,
                recoverable=False,
                foundation=Foundation.of(
                    client, store, timekeeper=Timekeeper(store.documents, clock), clock=clock, supervised=True
                ),
            )
            trips.append(await play(drive, uploader, clock, driver=driver, pace=pace, tell=tell))
        if agent is not None and wait > 0.0:
            await agent.run_once(wait)
        return [Replayed(trip, await store.outbox.find(trip.trip_id), joined=agent is None) for trip in trips]


async def play(
    drive: Drive,
    uploader: TripUploader,
    clock: RecordedClock,
    *,
    driver: str | None = None,
    pace: float | None = None,
    tell: Callable[[float, float], None] | None = None,
) -> TripSummary:
    """Do with an uploader what the vehicle's software did during the drive; returns the trip once it is on disk."""
    await uploader.start_trip(driver, drive.origin)
    began, driven = asyncio.get_running_loop().time(), 0.0
    for number, reading in enumerate(drive.readings):
        if pace is not None:
            if tell is not None:
                tell(reading.elapsed, driven)
            await asyncio.sleep(began + reading.elapsed / pace - asyncio.get_running_loop().time())
        elif number % _TURN == 0:
            await asyncio.sleep(0)
        clock.show(reading.elapsed)
        driven += reading.distance
        uploader.update_trip(reading.distance, reading.speed, location=(reading.lat, reading.lon))
    clock.show(drive.duration)
    trip = await uploader.end_trip()
    if trip is None:
        raise SentinelSyncError("the trip was ended by somebody else while the drive was replayed")
    return trip


def _factor(text: str) -> float:
    return _within(text, math.ulp(0.0), 1e9, "how many times faster")


def _seconds(text: str) -> float:
    return _within(text, 0.0, 86_400.0, "seconds, a day at most")


def _within(text: str, least: float, most: float, what: str) -> float:
    try:
        value = float(text)
    except ValueError:
        value = math.nan
    if not least <= value <= most:  # also False for NaN
        raise argparse.ArgumentTypeError(f"{text!r} is not a number: {what}")
    return value


def _progress(arguments: argparse.Namespace) -> Callable[[float, float], None] | None:
    """A line on the terminal that is written over, where a person waits for a paced replay."""
    if arguments.json or not sys.stderr.isatty():
        return None

    def tell(elapsed: float, driven: float) -> None:
        sys.stderr.write(f"\r{words.duration(elapsed)} into the drive, {driven / 1000.0:.1f} km\x1b[K\r")
        sys.stderr.flush()

    return tell


def _as_text(file: Path, drive: Drive, replayed: Replayed, settings: Settings) -> list[str]:
    trip = replayed.trip
    start, end = trip.start_time.astimezone(), trip.end_time.astimezone()
    until = f"{end:%H:%M}" if end.date() == start.date() else f"{end:%Y-%m-%d %H:%M}"
    lines = [
        f"{words.printable(str(file))} is recorded as {trip.trip_id}",
        f"  {start:%Y-%m-%d %H:%M} to {until} ({start:%Z}): {words.duration(trip.duration)}, {_driving(trip)}",
    ]
    notes = [words.count(len(drive.readings) + 1, "position")]
    if drive.left_out:
        notes.append(f"{drive.left_out:,} left out (jumps, or times that repeat or go back)")
    if drive.gaps:
        notes.append(
            f"{words.count(drive.gaps, 'gap')}, up to {words.duration(drive.longest_gap)} (a straight line counts)"
        )
    lines.append("  " + "; ".join(notes))
    if drive.doubt:
        lines.append(f"  note: {drive.doubt}")
    lines.append("  " + _whereabouts(replayed, settings))
    return lines


def _whereabouts(replayed: Replayed, settings: Settings) -> str:
    item = replayed.item
    if item is None:
        return f"the backend {settings.cloud.api_url} has it"
    if item.state is ItemState.SET_ASIDE:
        return f"the backend refused it, so it is set aside: {words.printable(item.reason or 'no reason given')}"
    if replayed.joined:
        return f"it waits in {settings.cloud.state_dir}; the agent that runs there sends it"
    why = item.reason or ("sending is switched off (cloud.enabled)" if not settings.cloud.enabled else "no contact")
    return f"it waits in {settings.cloud.state_dir} for the agent's next run ({words.printable(why)})"


def _as_json(drive: Drive, replayed: Replayed) -> dict[str, object]:
    item = replayed.item
    return {
        "trip": replayed.trip.model_dump(mode="json"),
        "state": "uploaded" if item is None else str(item.state),
        "reason": None if item is None else item.reason,
        "joined_running_agent": replayed.joined,
        "positions": len(drive.readings) + 1,
        "left_out": drive.left_out,
        "gaps": drive.gaps,
        "longest_gap": drive.longest_gap,
        "doubt": drive.doubt,
    }


def _driving(trip: TripSummary) -> str:
    average, highest = _km_h(trip.average_speed), _km_h(trip.max_speed)
    return f"{trip.distance / 1000.0:.1f} km, {average} on average, {highest} at most"


def _km_h(speed: float) -> str:
    return f"{speed * 3.6:.0f} km/h"
