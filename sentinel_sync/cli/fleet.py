"""`fleet`: what the backend knows of the whole fleet, as tables, charts, JSON, CSV or a picture; its recordings."""

import argparse
import asyncio
import sys
from collections.abc import AsyncIterator, Awaitable, Callable
from contextlib import asynccontextmanager
from dataclasses import dataclass
from pathlib import Path

from sentinel_sync.base.errors import SentinelSyncError
from sentinel_sync.cli.actions import add_watch, load_settings
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.recordings import add_recordings
from sentinel_sync.cli.ui.tables import (
    Series,
    Sheet,
    age_note,
    as_csv,
    as_json,
    as_table,
    comparison_sheet,
    draw,
    facts_sheet,
    listing_sheet,
    save_picture,
)
from sentinel_sync.cli.ui.text import clear, err, is_terminal, out, printable, width
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.fleet.fleet_manager import FleetManager
from sentinel_sync.fleet.rules import FleetAnswer, FleetListing, FleetTrend, VehicleComparison, titled, unit_of
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store

#: Seconds between two looks of --watch: answers count as fresh for five minutes anyway.
_WATCH_INTERVAL = 60.0
#: Columns of a chart where nobody's terminal says.
_PLAIN_WIDTH = 100

Ask = Callable[[FleetManager, argparse.Namespace], Awaitable[FleetAnswer]]
Lay = Callable[[FleetAnswer], Sheet]


@dataclass(frozen=True, slots=True)
class Question:
    """An action of `fleet`.

    Attributes:
        ask: Puts it to the backend.
        lay: Lays the answer out.
        by_row: As in `as_table`.
    """

    ask: Ask
    lay: Lay
    by_row: bool = False


def add_parser(subparsers: Subparsers) -> None:
    """Add `fleet` and what can be asked."""
    parser = subparsers.add_parser(
        "fleet",
        help="fleet statistics, rankings, trends, alerts and recordings",
        description="What the backend knows of the whole fleet. With the backend away, the last known and its age.",
    )
    actions: Subparsers = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    _action(actions, "stats", "the fleet as a whole", Question(_statistics, facts_sheet, by_row=True))
    rankings = _action(actions, "rankings", "the best vehicles by a metric", Question(_rankings, _listed))
    _metric(rankings)
    _limit(rankings, 10)
    trends = _action(actions, "trends", "a metric day by day, with a chart", Question(_trends, _listed))
    _metric(trends)
    trends.add_argument("--days", type=int, default=30, metavar="N", help="so many days (default: %(default)s)")
    for suffix in ("png", "svg"):
        trends.add_argument(f"--{suffix}", type=Path, metavar="FILE", help=f"also draw it into a {suffix.upper()} file")
    comparing = _action(actions, "compare", "vehicles side by side", Question(_comparison, _compared, by_row=True))
    comparing.add_argument("vehicles", nargs="*", metavar="VEHICLE", help="their ids; all where none is named")
    alerts = _action(actions, "alerts", "alerts, newest first", Question(_alerts, _listed))
    alerts.add_argument("--severity", metavar="NAME", help="only those, such as critical")
    _limit(alerts, 50)
    leaders = _action(actions, "leaderboard", "the best drivers, by pseudonym", Question(_leaderboard, _listed))
    _metric(leaders)
    _limit(leaders, 10)
    vehicle = _action(actions, "vehicle", "when a vehicle was last heard", Question(_vehicle, facts_sheet, by_row=True))
    vehicle.add_argument("vehicle", nargs="?", metavar="VEHICLE", help="its id (default: this vehicle)")
    add_recordings(actions)


def _action(actions: Subparsers, name: str, text: str, question: Question) -> argparse.ArgumentParser:
    def execute(arguments: argparse.Namespace) -> int:
        settings = load_settings(arguments).cloud
        try:
            asyncio.run(_answer(settings, question, arguments))
        except ValueError as error:  # a limit of 0, a metric that cannot be a name
            raise CommandError(str(error), ExitCode.USAGE) from None
        except KeyboardInterrupt:
            if arguments.watch is None:
                raise
        return ExitCode.DONE

    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("--csv", action="store_true", help="as CSV, figures in metres, seconds and m/s")
    add_watch(parser, _WATCH_INTERVAL)
    parser.set_defaults(execute=execute)
    return parser


def _metric(parser: argparse.ArgumentParser) -> None:
    parser.add_argument("--metric", default="safety_score", metavar="NAME", help="by what (default: %(default)s)")


def _limit(parser: argparse.ArgumentParser, default: int) -> None:
    parser.add_argument(
        "--limit", type=int, default=default, metavar="N", help="at most so many (default: %(default)s)"
    )


async def _answer(settings: CloudSettings, question: Question, arguments: argparse.Namespace) -> None:
    async with _fleet(settings) as fleet:
        while True:
            try:
                answer = await question.ask(fleet, arguments)
            except SentinelSyncError as error:
                if arguments.watch is None:
                    raise
                _print([f"{error}"], again=True)
            else:
                _print(_lines(answer, question, arguments), again=arguments.watch is not None)
                await asyncio.to_thread(_draw_pictures, answer, arguments)
            if arguments.watch is None:
                return
            await asyncio.sleep(arguments.watch)


@asynccontextmanager
async def _fleet(settings: CloudSettings) -> AsyncIterator[FleetManager]:
    """A manager of the command's own; it shares what was last known with an agent that may be running."""
    async with (
        Store(settings.state_dir, max_bytes=settings.outbox_max_bytes, exclusive=False) as store,
        CloudAPIClient(settings=settings) as client,
    ):
        if not settings.enabled:
            client.halt("disabled", "cloud.enabled is false")
        yield FleetManager(client, store)


def _lines(answer: FleetAnswer, question: Question, arguments: argparse.Namespace) -> list[str]:
    note = age_note(answer)
    if arguments.json:
        return [as_json(answer)]
    sheet = question.lay(answer)
    if arguments.csv:
        if note is not None:
            err(f"{note}\n")
        return [as_csv(sheet)]
    lines = [f"({note})"] if note is not None else []
    if isinstance(answer, FleetTrend):
        series = series_of(answer)
        lines += [_heading(answer), *draw(series, width() or _PLAIN_WIDTH), ""]
    if not sheet.rows:
        return [*lines, "the backend knows of nothing there"]
    return [*lines, *as_table(sheet, by_row=question.by_row, width=width())]


def series_of(trend: FleetTrend) -> Series:
    """A trend as a chart has it, in a person's unit."""
    unit = unit_of(trend.metric or "")
    values = [None if point.value is None else unit.shown(point.value) for point in trend.trend]
    return Series([point.date for point in trend.trend], values, unit.name, unit.decimals)


def _heading(trend: FleetTrend) -> str:
    return printable(f"{titled(trend.metric or 'the metric')}, {len(trend.trend)} days")


def _draw_pictures(answer: FleetAnswer, arguments: argparse.Namespace) -> None:
    if not isinstance(answer, FleetTrend):
        return
    for path, suffix in ((arguments.png, ".png"), (arguments.svg, ".svg")):
        if path is not None:
            named = path if path.suffix.lower() == suffix else path.with_name(f"{path.name}{suffix}")
            save_picture(series_of(answer), _heading(answer), age_note(answer), named)


def _print(lines: list[str], *, again: bool) -> None:
    if again and is_terminal():
        clear()
    out("\n".join(lines) + "\n")
    sys.stdout.flush()


async def _statistics(fleet: FleetManager, _: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_aggregate_metrics()


async def _rankings(fleet: FleetManager, arguments: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_vehicle_rankings(arguments.metric, arguments.limit)


async def _trends(fleet: FleetManager, arguments: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_fleet_trends(arguments.metric, arguments.days)


async def _comparison(fleet: FleetManager, arguments: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_vehicle_comparison(arguments.vehicles or None)


async def _alerts(fleet: FleetManager, arguments: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_fleet_alerts(arguments.severity, arguments.limit)


async def _leaderboard(fleet: FleetManager, arguments: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_driver_leaderboard(arguments.metric, arguments.limit)


async def _vehicle(fleet: FleetManager, arguments: argparse.Namespace) -> FleetAnswer:
    return await fleet.get_vehicle_status(arguments.vehicle)


def _listed(answer: FleetAnswer) -> Sheet:
    if not isinstance(answer, FleetListing):
        raise TypeError(f"{type(answer).__name__} is no listing")
    return listing_sheet(answer)


def _compared(answer: FleetAnswer) -> Sheet:
    if not isinstance(answer, VehicleComparison):
        raise TypeError(f"{type(answer).__name__} is no comparison")
    return comparison_sheet(answer)
