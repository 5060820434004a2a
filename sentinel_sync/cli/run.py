"""`run`: the agent until SIGTERM or SIGINT, with its console where that is asked for."""

import argparse
import asyncio
import gc
from functools import partial
from importlib import import_module
from importlib.util import find_spec

from sentinel_sync.agent import SyncAgent
from sentinel_sync.cli.actions import load_settings
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.session import Say, run_agent

_DESCRIPTION = "Run the agent until it is stopped."
_EPILOG = """\
signals:
  SIGTERM, SIGINT  stop within cloud.shutdown_timeout with everything on disk, exit code 0;
                   a second one ends the process at once
  SIGHUP           read a rotated key, probe the backend and send what waits, now

On a terminal the state is drawn (with the extra `cli`), in a pipe it is a line per change on standard output; the log
goes to standard error. Under systemd the log is JSON; Type=notify and WatchdogSec= are supported.

The console is a web page about this agent on a loopback address (the extra `console`). Its address is printed with a
token, which also lies in the state folder (console.token, for its owner only): without it the page shows, and changes
nothing.
"""
#: Where the console is if only `--console` is said.
_CONSOLE = "127.0.0.1:8765"


def add_parser(subparsers: Subparsers) -> None:
    """Add `run`."""
    parser = subparsers.add_parser(
        "run", help="run the agent until it is stopped", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.add_argument(
        "--console",
        nargs="?",
        metavar="HOST:PORT",
        type=_address,
        const=_address(_CONSOLE),
        default=None,
        help=f"serve a web page about this agent (default address: {_CONSOLE})",
    )
    parser.set_defaults(execute=execute, default_log_level="info")


def execute(arguments: argparse.Namespace) -> int:
    """Run until a signal."""
    settings = load_settings(arguments)
    if arguments.console is not None and (find_spec("starlette") is None or find_spec("uvicorn") is None):
        raise CommandError("the console takes its extra: pip install 'sentinel-sync[console]'", ExitCode.UNAVAILABLE)
    work = _until_stopped if arguments.console is None else partial(_with_console, arguments.console)
    return run_agent(settings, arguments, work, lines=True)


async def _until_stopped(_: SyncAgent, stop: asyncio.Event, __: Say) -> int:
    _freeze()
    await stop.wait()
    return ExitCode.DONE


async def _with_console(address: tuple[str, int], agent: SyncAgent, stop: asyncio.Event, say: Say) -> int:
    # Imported only here: what serves a page takes memory that an agent without one need not spend.
    console = await asyncio.to_thread(import_module, "sentinel_sync.console")
    async with console.running_console(agent, *address) as at:
        say(f"console: {at.url_with_token}")
        _freeze()
        await stop.wait()
    return ExitCode.DONE


def _freeze() -> None:
    """Leave what was imported out of later collections: each would walk all of it, 0.1 s of the loop's time."""
    gc.collect()
    gc.freeze()


def _address(text: str) -> tuple[str, int]:
    host, colon, port = text.rpartition(":")
    if not colon or not port.isdecimal() or not 0 <= int(port) <= 65_535:
        raise argparse.ArgumentTypeError(f"{text!r} is no HOST:PORT such as {_CONSOLE}")
    return host.removeprefix("[").removesuffix("]"), int(port)
