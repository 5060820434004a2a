"""`simulate-fleet`: many agents at a backend, one script, and what broke first."""

import argparse
import asyncio
from dataclasses import asdict
from pathlib import Path

from sentinel_sync.cli.actions import at_least_one, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.backend_access import KEY_NOTE, add_credential, way_to_backend
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import err, pairs
from sentinel_sync.fleet_simulation.protocol import SCRIPTS
from sentinel_sync.fleet_simulation.report import breaks, facts, page, picture
from sentinel_sync.fleet_simulation.run import Order, Outcome, simulate

_SHORTEST = 6.0


def add_parser(subparsers: Subparsers) -> None:
    """Add `simulate-fleet`."""
    parser = subparsers.add_parser(
        "simulate-fleet",
        help="put many agents to a backend, and say what broke first",
        description="Put many agents, each whole, to a backend, let them go through a script, and say what broke.\n"
        "They are a fleet of their own, with an id that is made for the run.",
        epilog=f"{KEY_NOTE}\nWithout --url, the reference backend is run for it (the extra `backend`).",
    )
    parser.add_argument("--url", help="of the backend (default: a reference backend of its own)")
    add_credential(parser, "of the backend; for `release` one that may publish")
    parser.add_argument("--vehicles", type=at_least_one, default=10, help="how many (default: %(default)s)")
    parser.add_argument(
        "--scenario",
        choices=tuple(SCRIPTS),
        default="steady",
        help="; ".join(f"{name}: {script.about}" for name, script in SCRIPTS.items()) + " (default: %(default)s)",
    )
    parser.add_argument("--duration", type=_duration, default=60.0, metavar="SECONDS", help="default: %(default)g")
    parser.add_argument(
        "--trip-interval",
        type=_duration,
        default=30.0,
        metavar="SECONDS",
        help="between a vehicle's trips (default: %(default)g)",
    )
    parser.add_argument("--processes", type=at_least_one, default=2, help="that have vehicles (default: %(default)s)")
    parser.add_argument("--light", action="store_true", help="probes and reports of parked vehicles, without agents")
    parser.add_argument("--seed", type=int, default=1, help="of what vehicles do when (default: %(default)s)")
    parser.add_argument("--database", metavar="postgresql://…", help="for the reference backend of this run")
    parser.add_argument(
        "--page", type=Path, metavar="FILE", help="write the page, and the picture as FILE.svg beside it"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Make the run, and show what came of it; 1 where something broke or a trip was lost or doubled.

    Raises:
        CommandError: It cannot be made.
    """
    url, key = None, ""
    if arguments.url is not None:
        url, key, _ = way_to_backend(arguments, "a key of the backend")
    order = Order(
        vehicles=arguments.vehicles,
        script=arguments.scenario,
        duration=arguments.duration,
        url=url,
        api_key=key,
        ca_file=None if arguments.ca_file is None else str(arguments.ca_file),
        trip_interval=arguments.trip_interval,
        processes=arguments.processes,
        seed=arguments.seed,
        is_light=arguments.light,
        database=arguments.database,
    )
    try:
        outcome = asyncio.run(simulate(order, lambda line: err(f"{line}\n")))
    except TimeoutError:
        raise CommandError("the vehicles did not start or end in time: fewer of them, or more processes") from None
    if arguments.page is not None:
        _write(outcome, arguments.page)
    found = breaks(outcome)
    if arguments.json:
        print_json({"figures": dict(facts(outcome)), "breaks": [asdict(one) for one in found]})
    else:
        first = f"{found[0].what}, in second {found[0].second}" if found else "nothing"
        print_lines(pairs([*facts(outcome), ("what broke first", first)]))
    is_bad = bool(found) or bool(outcome.lost) or bool(outcome.doubled)
    return ExitCode.FAILED if is_bad else ExitCode.DONE


def _write(outcome: Outcome, path: Path) -> None:
    try:
        path.write_text(page(outcome), encoding="utf-8")
        path.with_suffix(".svg").write_text(picture(outcome), encoding="utf-8")
    except OSError as error:
        raise CommandError(f"cannot write {path}: {error.strerror}", ExitCode.STORE) from None
    err(f"the page is {path}\n")


def _duration(text: str) -> float:
    seconds = float(text)
    if not _SHORTEST <= seconds <= 86_400.0:
        raise argparse.ArgumentTypeError(f"must be between {_SHORTEST:.0f} and 86400 seconds")
    return seconds
