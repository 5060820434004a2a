"""`run`: the agent until SIGTERM or SIGINT."""

import argparse
import asyncio

from sentinel_sync.agent import SyncAgent
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.configuration import load_settings
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.session import run_agent

_DESCRIPTION = "Run the agent until it is stopped."
_EPILOG = """\
signals:
  SIGTERM, SIGINT  stop within cloud.shutdown_timeout with everything on disk, exit code 0;
                   a second one ends the process at once
  SIGHUP           read a rotated key, probe the backend and send what waits, now

On a terminal the state is drawn (with the extra `cli`), in a pipe it is a line per change on standard output; the log
goes to standard error. Under systemd the log is JSON; Type=notify and WatchdogSec= are supported.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `run`."""
    parser = subparsers.add_parser(
        "run", help="run the agent until it is stopped", description=_DESCRIPTION, epilog=_EPILOG
    )
    parser.set_defaults(execute=execute, default_log_level="info")


def execute(arguments: argparse.Namespace) -> int:
    """Run until a signal."""
    return run_agent(load_settings(arguments), arguments, _until_stopped, lines=True)


async def _until_stopped(_: SyncAgent, stop: asyncio.Event) -> int:
    await stop.wait()
    return ExitCode.DONE
