"""Commands that consist of actions, such as `queue list`; an action is an async function, given the settings."""

import argparse
import asyncio
import json
import logging
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from sentinel_sync.cli.arguments import DEFAULT_CONFIG, Subparsers
from sentinel_sync.cli.ui.logs import JsonFormatter, formatter_for
from sentinel_sync.cli.ui.text import err, out
from sentinel_sync.settings import CloudSettings, Settings
from sentinel_sync.settings.reading import environment_says_any

logger: logging.Logger = logging.getLogger(__name__)

#: A vehicle's file may be elsewhere: what is then said of an empty `state/` here would be of no vehicle.
_DEFAULTS = f"the built-in defaults count: there is no {DEFAULT_CONFIG} here, and --config names no settings file"
#: Does it, and returns the exit code.
Answer = Callable[[CloudSettings, argparse.Namespace], Coroutine[Any, Any, int]]


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Read the settings that the command line names, and tell where nobody says any. Blocks: call it before the loop.

    Raises:
        ConfigurationError: They cannot be used.
    """
    settings = Settings.load(arguments.config)
    if arguments.config is None and not environment_says_any():
        if isinstance(formatter_for("warning", arguments.log_format), JsonFormatter):
            logger.warning("settings.defaults: %s", _DEFAULTS)
        else:
            err(f"{_DEFAULTS}\n")
    return settings


def add_command(
    subparsers: Subparsers, name: str, *, summary: str, description: str, epilog: str | None = None
) -> Subparsers:
    """Add a command; returns what its actions are added to."""
    parser = subparsers.add_parser(name, help=summary, description=description, epilog=epilog)
    actions: Subparsers = parser.add_subparsers(title="actions", metavar="ACTION", required=True, dest="action")
    return actions


def add_action(
    actions: Subparsers, name: str, text: str, answer: Answer, *, aliases: Sequence[str] = ()
) -> argparse.ArgumentParser:
    """Add an action; `text` says what it does, in one clause. Returns its parser, for what it takes besides."""

    def execute(arguments: argparse.Namespace) -> int:
        return asyncio.run(answer(load_settings(arguments).cloud, arguments))

    parser = actions.add_parser(name, aliases=aliases, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.set_defaults(execute=execute)
    return parser


def add_watch(parser: argparse.ArgumentParser, interval: float) -> None:
    """Add `--watch`, which shows something again every so many seconds; `interval` is its default."""
    parser.add_argument(
        "--watch",
        nargs="?",
        metavar="SECONDS",
        type=_seconds,
        const=interval,
        default=None,
        help=f"show it again and again (every {interval:.0f} seconds by default) until Ctrl-C",
    )


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 1.0 <= seconds <= 86_400.0:
        raise argparse.ArgumentTypeError("must be between 1 and 86400 seconds")
    return seconds


def at_least_one(text: str) -> int:
    """A number of rows.

    Raises:
        argparse.ArgumentTypeError: It is none, or below one.
    """
    if not text.isascii() or not text.isdecimal() or int(text) < 1:
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


def print_lines(lines: Sequence[str]) -> None:
    """Show something to a person."""
    out("\n".join(lines) + "\n")


def print_json(value: object) -> None:
    """Show something to a program."""
    out(json.dumps(value, indent=2) + "\n")
