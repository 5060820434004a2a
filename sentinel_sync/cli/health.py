"""`health`: whether all is well, in one line, and of each trouble what to do about it."""

import argparse
import asyncio

from sentinel_sync.base.errors import StoreError
from sentinel_sync.cli.actions import load_settings, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import last_said, nothing_there, opened, runs
from sentinel_sync.cli.ui.text import count
from sentinel_sync.settings import CloudSettings
from sentinel_sync.status import Trouble, troubles_of_queue
from sentinel_sync.store.store import DATABASE_NAME


def add_parser(subparsers: Subparsers) -> None:
    """Add `health`."""
    parser = subparsers.add_parser(
        "health",
        help="say in one line whether all is well; exit code 1 where it is not",
        description="Say in one line whether all is well, and of each trouble what to do. Changes nothing.\n"
        "Code 0 where all is well, also without a network for less than a day; 1 where somebody has to do something.",
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Say it; the exit code says it too."""
    settings = load_settings(arguments).cloud
    troubles, well = asyncio.run(_troubles(settings))
    if arguments.json:
        print_json({"healthy": not troubles, "troubles": [trouble.model_dump() for trouble in troubles]})
    elif troubles:
        told = "; ".join(f"{trouble.what} ({trouble.remedy})" for trouble in troubles)
        print_lines([f"{count(len(troubles), 'trouble')}: {told}"])
    else:
        print_lines([f"well: {well}"])
    return ExitCode.FAILED if troubles else ExitCode.DONE


async def _troubles(settings: CloudSettings) -> tuple[list[Trouble], str]:
    """What is wrong; and where nothing is, how things are."""
    if not await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        raise CommandError(nothing_there(settings.state_dir))
    said = await asyncio.to_thread(last_said, settings)
    try:
        async with opened(settings, writable=False) as folder:
            counts = await folder.outbox.counts()
    except StoreError as error:
        return [Trouble(part="store", what=str(error), remedy="`doctor` says more")], ""
    if not await asyncio.to_thread(runs, settings):
        idle = Trouble(part="agent", what="no agent is running", remedy=f"start one: `{program()} run`")
        return [idle, *troubles_of_queue(counts)], ""
    if said is None:
        return troubles_of_queue(counts), "an agent runs, and has said nothing of itself yet"
    # Its own word on the queue may be some seconds old.
    others = [trouble for trouble in said.troubles if trouble.part != "queue"]
    return [*troubles_of_queue(counts), *others], f"{said.connectivity.message}; {count(counts.unsent, 'item')} to send"
