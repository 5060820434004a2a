"""`rollouts`: releases that reach the fleet step by step, watched by what vehicles report, stopped when they fail."""

import argparse
from http import HTTPStatus
from typing import Any
from urllib.parse import quote

from sentinel_sync.cli.actions import add_command, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.backend_access import KEY_NOTE, add_backend, asked, refusal, vehicle_share
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import pairs, printable, table, width

_ACTIONS = {
    "pause": "offer it to nobody new until it is resumed",
    "resume": "go on with the step it was in, also after it stopped by itself",
    "abort": "offer it to nobody any more; where it is in use it stays",
}

#: What is shown of a roll-out.
_FIELDS = frozenset(
    {"name", "version", "state", "step", "steps", "share", "installed", "active", "failed", "pending", "why"}
)


def add_parser(subparsers: Subparsers) -> None:
    """Add `rollouts` and what can be done with them."""
    actions = add_command(
        subparsers,
        "rollouts",
        summary="begin, watch, pause, resume and abort roll-outs of models",
        description="Roll a published model out step by step, on the reference backend: a step goes on by itself\n"
        "once enough vehicles report it as in use, and stops by itself once too many report that it failed.",
        epilog=KEY_NOTE,
    )
    creating = _add(actions, "create", "begin the roll-out of a published model", _create)
    creating.add_argument(
        "--steps", type=_steps, metavar="SHARES", help="ever larger shares of vehicles (default: 1%%,10%%,50%%,100%%)"
    )
    creating.add_argument(
        "--max-failed",
        type=vehicle_share,
        metavar="SHARE",
        help="of those that are decided, at which it stops (default: 2%%)",
    )
    creating.add_argument(
        "--enough",
        type=vehicle_share,
        metavar="SHARE",
        help="of those a step is to reach, that must have it (default: 80%%)",
    )
    creating.add_argument(
        "--step-hours", type=float, metavar="HOURS", help="a step lasts so long at least (default: 1)"
    )
    _add(actions, "show", "show where a roll-out stands, and why", _show)
    for name, text in _ACTIONS.items():
        _add(actions, name, text, _change)
    listing = actions.add_parser("list", help="show all roll-outs", description="Show all roll-outs, the newest first.")
    add_backend(listing)
    listing.set_defaults(execute=_list)


def _add(actions: Subparsers, name: str, text: str, execute: Any) -> argparse.ArgumentParser:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument("name", metavar="NAME", help="of the model")
    parser.add_argument("version", metavar="VERSION", help="that is published")
    add_backend(parser)
    parser.set_defaults(execute=execute)
    return parser


def _create(arguments: argparse.Namespace) -> int:
    given = {
        "steps": arguments.steps,
        "max_failed": arguments.max_failed,
        "enough": arguments.enough,
        "step_seconds": None if arguments.step_hours is None else arguments.step_hours * 3600.0,
    }
    return _said(arguments, "PUT", json={name: value for name, value in given.items() if value is not None})


def _show(arguments: argparse.Namespace) -> int:
    return _said(arguments, "GET")


def _change(arguments: argparse.Namespace) -> int:
    return _said(arguments, "POST", f"/{arguments.action}")


def _said(arguments: argparse.Namespace, method: str, more: str = "", **body: Any) -> int:
    path = f"/rollouts/{quote(arguments.name, safe='')}/versions/{quote(arguments.version, safe='')}{more}"
    facts = _answered(arguments, _FIELDS, method, path, **body)
    if arguments.json:
        print_json(facts)
    else:
        print_lines(pairs(_facts(facts)))
    return ExitCode.DONE


def _list(arguments: argparse.Namespace) -> int:
    found = _answered(arguments, frozenset({"rollouts"}), "GET", "/rollouts")["rollouts"]
    if arguments.json:
        print_json(found)
    elif found:
        rows = [
            (
                printable(one["name"]),
                printable(one["version"]),
                one["state"],
                _percent(one["share"]),
                str(one["installed"]),
                str(one["failed"]),
                printable(one["why"]),
            )
            for one in found
        ]
        head = ("MODEL", "VERSION", "STATE", "OFFERED", "IN USE", "FAILED", "WHY")
        print_lines(table(head, rows, width=width(), right=frozenset({3, 4, 5})))
    else:
        print_lines(["no roll-out has begun"])
    return ExitCode.DONE


def _answered(
    arguments: argparse.Namespace, fields: frozenset[str], method: str, path: str, **body: Any
) -> dict[str, Any]:
    """What the backend says, with these fields at least."""
    answer = asked(arguments, method, path, **body)
    if not answer.is_success:
        is_unknown = answer.status_code == HTTPStatus.NOT_FOUND and method != "PUT"
        has_them = f"; `{program()} rollouts list` has those that began" if is_unknown else ""
        raise CommandError(f"the backend did not do it: {refusal(answer)}{has_them}")
    try:
        facts = answer.json()
    except ValueError:
        facts = None
    if not isinstance(facts, dict) or not facts.keys() >= fields:
        raise CommandError(f"{arguments.url} does not answer as the reference backend does, which alone has roll-outs")
    return facts


def _facts(shown: dict[str, Any]) -> list[tuple[str, str]]:
    steps = f"step {shown['step']} of {len(shown['steps'])}: " + ", ".join(_percent(step) for step in shown["steps"])
    return [
        ("model", printable(f"{shown['name']} {shown['version']}")),
        ("state", shown["state"]),
        ("offered to", f"{_percent(shown['share'])} of vehicles ({steps})"),
        ("in use", f"{shown['installed']} of {shown['active']} that report"),
        ("failed", str(shown["failed"])),
        ("pending", str(shown["pending"])),
        ("why", printable(shown["why"])),
    ]


def _percent(share: float) -> str:
    return f"{100 * share:g} %"


def _steps(text: str) -> list[float]:
    return [vehicle_share(part.strip()) for part in text.split(",")]
