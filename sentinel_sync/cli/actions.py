"""Commands that consist of actions, such as `queue list`; an action is an async function, given the settings."""

import argparse
import asyncio
import json
from collections.abc import Callable, Coroutine, Sequence
from typing import Any

from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.ui.text import out
from sentinel_sync.settings import CloudSettings, Settings

#: Does it, and returns the exit code.
Answer = Callable[[CloudSettings, argparse.Namespace], Coroutine[Any, Any, int]]


def load_settings(arguments: argparse.Namespace) -> Settings:
    """Read the settings that the command line names. Blocks: call it before the loop runs.

    Raises:
        ConfigurationError: They cannot be used.
    """
    return Settings.load(arguments.config)


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
