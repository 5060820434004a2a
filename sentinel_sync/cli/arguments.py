"""The table of commands and the parser. Cheap to import: a command's own module is loaded when it is asked for."""

import argparse
import difflib
import re
import shlex
import sys
from collections.abc import Iterable, Sequence
from contextvars import ContextVar
from dataclasses import dataclass
from importlib import import_module
from pathlib import Path
from typing import NoReturn, Protocol

from sentinel_sync import __version__
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.ui.text import err

NAME = "sentinel-sync"
DEFAULT_COMMAND = "run"
#: Read where it exists and `--config` names no other.
DEFAULT_CONFIG = Path("configs/default.yaml")
#: Options for every command that take a value, and so hide the next word from the search for the command.
_VALUED = frozenset({"--config", "--log-level", "--log-format"})


@dataclass(frozen=True, slots=True)
class Command:
    """A line of the table.

    Attributes:
        module: Exports `add_parser(subparsers)`.
        help: One line for the list of commands.
    """

    module: str
    help: str


#: Every command. A further one is a module and a line here.
COMMANDS: dict[str, Command] = {
    "run": Command("sentinel_sync.cli.run", "run the agent until it is stopped (the default)"),
    "once": Command("sentinel_sync.cli.once", "send all that waits, then exit"),
    "status": Command("sentinel_sync.cli.status", "show what the agent does and what waits"),
    "health": Command("sentinel_sync.cli.health", "say in one line whether all is well"),
    "why": Command("sentinel_sync.cli.why", "say what something waits for, and what to do"),
    "sent": Command("sentinel_sync.cli.sent", "show what left the vehicle, when, and under which consent"),
    "queue": Command("sentinel_sync.cli.queue", "list, show, retry, drop or verify what waits to be sent"),
    "trips": Command("sentinel_sync.cli.replay", "replay a recorded drive as a trip"),
    "network": Command("sentinel_sync.cli.network", "show or say what the network may cost"),
    "fleet": Command("sentinel_sync.cli.fleet", "fleet statistics, rankings, trends, alerts and recordings"),
    "scenarios": Command("sentinel_sync.cli.scenarios", "list, show, queue or retry recordings"),
    "consent": Command("sentinel_sync.cli.consent", "grant, withdraw or show the consent to sending recordings"),
    "models": Command("sentinel_sync.cli.models", "list, install, roll back and pin models; sign and publish them"),
    "rollouts": Command("sentinel_sync.cli.rollouts", "roll models out step by step, watched by what vehicles report"),
    "profiles": Command("sentinel_sync.cli.profiles", "list, show, sync and forget driver profiles"),
    "data": Command("sentinel_sync.cli.data", "export or erase what this vehicle holds of one driver"),
    "config": Command("sentinel_sync.cli.config", "write, check or show the settings"),
    "install-service": Command("sentinel_sync.cli.service", "write a systemd unit that runs the agent"),
    "doctor": Command("sentinel_sync.cli.doctor", "check settings, disk, network, clock and credential"),
    "demo": Command("sentinel_sync.cli.demo", "a drive, an outage and a recovery, on this machine alone"),
    "serve": Command("sentinel_sync.cli.serve", "run the reference backend"),
    "backend": Command("sentinel_sync.cli.backend", "look after what a reference backend keeps: tables, keys, events"),
    "simulate-fleet": Command(
        "sentinel_sync.cli.simulate_fleet", "put many agents to a backend, and say what broke first"
    ),
    "conformance": Command("sentinel_sync.cli.conformance", "judge a backend by the wire contract"),
}


class Subparsers(Protocol):
    """What `add_parser` of a command's module is given."""

    def add_parser(
        self,
        name: str,
        *,
        aliases: Sequence[str] = ...,
        help: str | None = ...,  # noqa: A002 # argparse's own name for it
        description: str | None = ...,
        epilog: str | None = ...,
    ) -> argparse.ArgumentParser:
        """Make and return the parser of one command."""
        ...


class CommandParser(argparse.ArgumentParser):
    """A parser that knows the options of every command, and complains in one line.

    The shared options may stand before and after the command: where they are not given they are left out of the
    namespace (`SUPPRESS`), because a subparser's default would overwrite what stood before it.
    """

    def __init__(
        self,
        *,
        prog: str | None = None,
        description: str | None = None,
        epilog: str | None = None,
        add_help: bool = True,
    ) -> None:
        super().__init__(
            prog=prog,
            description=description,
            epilog=epilog,
            add_help=add_help,
            allow_abbrev=False,
            formatter_class=argparse.RawDescriptionHelpFormatter,
        )
        group = self.add_argument_group("options of every command")
        group.add_argument(
            "--config",
            metavar="PATH",
            type=Path,
            default=argparse.SUPPRESS,
            help=f"settings file (default: {DEFAULT_CONFIG} where it exists; SENTINEL_CLOUD__… overrides it)",
        )
        group.add_argument(
            "--json", action="store_true", default=argparse.SUPPRESS, help="show results as JSON, for programs"
        )
        group.add_argument(
            "--log-level",
            metavar="LEVEL",
            choices=("debug", "info", "warning", "error"),
            default=argparse.SUPPRESS,
            help="how much is logged on standard error: debug (also shows tracebacks), info, warning or error",
        )
        group.add_argument(
            "--log-format",
            metavar="FORMAT",
            choices=("auto", "text", "json"),
            default=argparse.SUPPRESS,
            help="text, json, or auto: json under systemd, text elsewhere",
        )

    def error(self, message: str) -> NoReturn:
        """Say what is wrong in one line and exit."""
        err(f"{NAME}: error: {message}{_meant(message)} (see {self.prog} --help)\n")
        sys.exit(ExitCode.USAGE)


#: How argparse complains of a word that is none of some; versions of Python differ in whether these are in quotes.
_INVALID_CHOICE = re.compile(r"invalid choice: '(.*)' \(choose from (.*)\)")


def _meant(complaint: str) -> str:
    """Which of the words that argparse lists was meant, where one is near."""
    found = _INVALID_CHOICE.search(complaint)
    choices = [] if found is None else [choice.strip("' ") for choice in found[2].split(",")]
    return "" if found is None else _near(found[1], choices)


def _near(word: str, known: Iterable[str]) -> str:
    near = difflib.get_close_matches(word, known, n=1)
    return f"; did you mean {near[0]!r}?" if near else ""


#: The settings file that this command line names: advice that did not name it would be of another vehicle.
_named_config: ContextVar[Path | None] = ContextVar("named_config", default=None)


def program() -> str:
    """How this program was called, with its `--config`, for advice that can be copied."""
    called = f"{Path(sys.executable).name} -m sentinel_sync" if Path(sys.argv[0]).name == "__main__.py" else NAME
    config = _named_config.get()
    return called if config is None else f"{called} --config {shlex.quote(str(config))}"


def parse(words: Sequence[str]) -> argparse.Namespace:
    """Parse a command line; the command's `execute` is in the result, and every shared option has a value.

    Raises:
        SystemExit: Bad usage, or help was asked for and given.
    """
    _named_config.set(None)
    command = _command_of(words)
    parser = CommandParser(
        prog=program(),
        description="Keeps a vehicle and its fleet backend in step over a bad network.",
        epilog=f"Without a command: {DEFAULT_COMMAND}. `{program()} COMMAND --help` tells more about one.",
    )
    parser.add_argument("--version", action="version", version=f"{NAME} {__version__}")
    subparsers = parser.add_subparsers(title="commands", metavar="COMMAND", dest="command")
    for name, line in COMMANDS.items():
        if name == command:
            import_module(line.module).add_parser(subparsers)
        else:
            subparsers.add_parser(name, help=line.help)
    if command is None and not _asks_about_all(words):
        words = [DEFAULT_COMMAND, *words]
        return parse(words)
    if command is not None and command not in COMMANDS:
        parser.error(f"there is no command {command!r}{_near(command, COMMANDS)}")
    arguments = parser.parse_args(words)
    _named_config.set(getattr(arguments, "config", None))
    config = DEFAULT_CONFIG if DEFAULT_CONFIG.exists() else None
    for option, value in (("config", config), ("json", False), ("log_level", None), ("log_format", "auto")):
        if not hasattr(arguments, option):
            setattr(arguments, option, value)
    return arguments


def _command_of(words: Sequence[str]) -> str | None:
    """Find the first word that is neither an option nor an option's value."""
    position = 0
    while position < len(words):
        word = words[position]
        if not word.startswith("-"):
            return word
        position += 2 if word in _VALUED else 1
    return None


def _asks_about_all(words: Sequence[str]) -> bool:
    return not {"-h", "--help", "--version"}.isdisjoint(words)
