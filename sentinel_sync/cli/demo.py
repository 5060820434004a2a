"""`demo`: a day of one vehicle on this machine alone: drives, an outage, a crash; and everything arrives."""

import argparse
import asyncio
import json
import shutil
import signal
import tempfile
import time
from dataclasses import asdict
from importlib.util import find_spec
from pathlib import Path
from typing import Any, Self

from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui import text as words
from sentinel_sync.cli.ui.text import can_draw, coloured
from sentinel_sync.demo.processes import DemoError
from sentinel_sync.demo.recording import Stage
from sentinel_sync.demo.story import Demo, Report

_DESCRIPTION = """\
Show the agent at work, on this machine alone: nothing leaves it, and nothing of yours is touched.

A backend and a vehicle run as processes of their own. The vehicle takes over an older module's queue, drives, and
uploads over real HTTP; a recording is sent once the driver consents. Then the backend is killed, the vehicle goes on,
is killed itself in the middle of a drive, and starts again. The backend returns, losing answers. In the end what
arrived is compared with what was recorded.
"""


class Quiet:
    """Nobody watches: a program reads the result."""

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put in order."""

    def doing(self, text: str) -> None:
        """Said nowhere."""

    def done(self, text: str) -> None:
        """Said nowhere."""


class Lines:
    """A line for each thing that ended, with the seconds since the start."""

    def __init__(self) -> None:
        self._began = time.monotonic()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        """Nothing to put in order."""

    def doing(self, text: str) -> None:
        """Only its end is worth a line."""

    def done(self, text: str) -> None:
        """Print a line."""
        print(f"{time.monotonic() - self._began:5.1f} s  {text}", flush=True)


class Drawn(Lines):
    """The same on a terminal: below the lines, what is being done now."""

    def __init__(self) -> None:
        super().__init__()
        # Imported here because rich is optional and slow to load.
        from rich.console import Console  # noqa: PLC0415

        self._console = Console(highlight=False)
        self._status = self._console.status("", spinner="dots")

    def __enter__(self) -> Self:
        self._status.start()
        return self

    def __exit__(self, *_: object) -> None:
        self._status.stop()

    def doing(self, text: str) -> None:
        """Show it beside the spinner."""
        self._status.update(text)

    def done(self, text: str) -> None:
        """Let a line stand above the spinner."""
        self._console.print(f"{time.monotonic() - self._began:5.1f} s  ", text, sep="", markup=False, soft_wrap=True)


def add_parser(subparsers: Subparsers) -> None:
    """Add `demo`."""
    parser = subparsers.add_parser(
        "demo", help="a drive, an outage and a recovery, on this machine alone", description=_DESCRIPTION
    )
    parser.add_argument("--keep", action="store_true", help="keep the folder with all that the two have written")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> ExitCode:
    """Show it, and say what came of it."""
    missing = [name for name in ("fastapi", "uvicorn") if find_spec(name) is None]
    if missing:
        raise CommandError(
            f"the demo needs the reference backend ({', '.join(missing)} not installed): "
            "pip install 'sentinel-sync[backend]'",
            ExitCode.UNAVAILABLE,
        )
    folder = Path(tempfile.mkdtemp(prefix="sentinel-demo-"))
    began = time.monotonic()
    keep = arguments.keep
    try:
        with Quiet() if arguments.json else Drawn() if can_draw() else Lines() as stage:
            report = asyncio.run(_until_terminated(folder, stage))
    except asyncio.CancelledError:
        raise KeyboardInterrupt from None
    except DemoError as error:
        keep = True
        raise CommandError(f"not as promised: {error} (what the two processes wrote is kept in {folder})") from None
    finally:
        if not keep:
            shutil.rmtree(folder, ignore_errors=True)
    seconds = time.monotonic() - began
    if arguments.json:
        print(json.dumps(_as_json(report, seconds, folder if keep else None), indent=2))
    else:
        print("\n".join(_as_text(report, seconds, folder if keep else None)))
    return ExitCode.DONE


async def _until_terminated(folder: Path, stage: Stage) -> Report:
    """Run the demo; SIGTERM ends it as Ctrl-C does, with its child processes gone."""
    task = asyncio.current_task()
    loop = asyncio.get_running_loop()
    if task is not None:
        loop.add_signal_handler(signal.SIGTERM, task.cancel)
    try:
        return await Demo(folder, stage).run()
    finally:
        loop.remove_signal_handler(signal.SIGTERM)


def _as_text(report: Report, seconds: float, kept: Path | None) -> list[str]:
    trips = [*report.recorded.values(), *([report.cut] if report.cut else [])]
    distance, duration = sum(trip.distance for trip in trips), sum(trip.duration for trip in trips)
    driving = f"{distance / 1000.0:.1f} km in {words.duration(duration)}"
    alerts = words.count(sum(trip.alert_count for trip in trips), "alert")
    waited = words.count(report.waited, "trip")
    cut = f"{report.cut.distance / 1000.0:.1f} km" if report.cut else "nothing"
    fleet = f"{report.fleet['total_trips']} trips, {report.fleet['total_distance'] / 1000.0:.1f} km"
    facts = [
        ("recorded", f"{words.count(len(trips), 'drive')}, {driving}, {alerts}"),
        (
            "taken over",
            f"{words.count(report.taken_over, 'trip')} of the older module; its file is renamed, not deleted",
        ),
        ("outage", f"the backend was gone for {words.duration(report.outage)}; {waited} waited on the vehicle's disk"),
        ("crash", f"one drive was cut off by kill -9: its first {cut} arrived, marked as interrupted"),
        ("lost answers", f"{report.lost_answers}: those trips were sent again, recognised, and counted once"),
        ("arrived", f"{report.arrived} of {len(trips) + report.taken_over}, each exactly once, as it was recorded"),
        ("recording", _recording(report)),
        ("privacy", "places to two decimals (about 1 km), drivers as pseudonyms, in the cloud and on disk"),
        ("cloud's view", f"{fleet}, safety score {report.fleet.get('average_safety_score', 0.0):.0f} of 100"),
        ("took", words.duration(seconds)),
        ("files", f"kept in {kept}" if kept else "removed; --keep leaves them"),
    ]
    return ["", coloured("All is as promised.", "green"), *(f"  {line}" for line in words.pairs(facts))]


def _recording(report: Report) -> str:
    sent = report.recording
    if sent is None:
        return "none was made: there is no ffmpeg (pip install 'sentinel-sync[video]')"
    share = 100 * sent.sent_bytes // sent.recorded_bytes
    return f"sent once the driver had consented; its video compressed to {share} %, its place to two decimals"


def _as_json(report: Report, seconds: float, kept: Path | None) -> dict[str, Any]:
    return {
        "recorded": [trip.model_dump(mode="json") for _, trip in sorted(report.recorded.items())],
        "interrupted": report.cut.model_dump(mode="json") if report.cut else None,
        "taken_over": report.taken_over,
        "outage_seconds": round(report.outage, 3),
        "waited": report.waited,
        "lost_answers": report.lost_answers,
        "sent_again": report.repeats,
        "arrived": report.arrived,
        "recording": None if report.recording is None else asdict(report.recording),
        "fleet": report.fleet,
        "seconds": round(seconds, 3),
        "folder": str(kept) if kept else None,
    }
