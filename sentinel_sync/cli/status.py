"""`status`: what the agent does and what waits, whether or not one runs."""

import argparse
import asyncio
import json
import sys
import time
from dataclasses import dataclass

from sentinel_sync.base.errors import StoreError
from sentinel_sync.cli.actions import add_watch, load_settings
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import last_said, nothing_there, opened, runs
from sentinel_sync.cli.ui.status_text import facts_of, outbox_facts
from sentinel_sync.cli.ui.text import clear, duration, is_terminal, moment, out, pairs
from sentinel_sync.settings import CloudSettings
from sentinel_sync.status import AgentStatus
from sentinel_sync.store.rules import OutboxStatus
from sentinel_sync.store.store import DATABASE_NAME

_WATCH_INTERVAL = 2.0
#: The kind under which a trip under way is checkpointed (trips/trip_uploader.py).
_OPEN_TRIP = "open_trip"


@dataclass(frozen=True, slots=True)
class Picture:
    """All that can be seen from outside.

    Attributes:
        running: Whether an agent runs on the folder now.
        said: What an agent said of itself last, or None.
        age: Seconds since then. A running agent speaks when something changes, so a great age means calm.
        outbox: The counts now, or None where the outbox cannot be read.
        open_trip: Whether a trip was begun and not closed.
        trouble: Why the outbox cannot be read.
    """

    running: bool
    said: AgentStatus | None
    age: float | None
    outbox: OutboxStatus | None
    open_trip: bool
    trouble: str | None


def add_parser(subparsers: Subparsers) -> None:
    """Add `status`."""
    parser = subparsers.add_parser(
        "status",
        help="show what the agent does and what waits",
        description="Show what the agent does and what waits, whether or not one runs. Changes nothing.",
    )
    add_watch(parser, _WATCH_INTERVAL)
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Show the status once, or until Ctrl-C."""
    settings = load_settings(arguments).cloud
    if arguments.watch is None:
        _show(settings, look(settings), as_json=arguments.json)
        return ExitCode.DONE
    try:
        while True:
            picture = look(settings)
            if is_terminal() and not arguments.json:
                clear()
            _show(settings, picture, as_json=arguments.json)
            if not is_terminal() and not arguments.json:
                out("\n")
            sys.stdout.flush()
            time.sleep(arguments.watch)
    except KeyboardInterrupt:
        return ExitCode.DONE


def look(settings: CloudSettings) -> Picture:
    """Look at the state folder. Blocks; runs a loop of its own.

    Raises:
        CommandError: No agent has ever run there.
    """
    if not (settings.state_dir / DATABASE_NAME).is_file():
        raise CommandError(nothing_there(settings.state_dir))
    said = last_said(settings)
    age = None if said is None else max(0.0, time.time() - said.updated_at.timestamp())
    outbox, open_trip, trouble = None, False, None
    try:
        outbox, open_trip = asyncio.run(_look_into(settings))
    except StoreError as error:
        trouble = str(error)
    return Picture(runs(settings), said, age, outbox, open_trip, trouble)


async def _look_into(settings: CloudSettings) -> tuple[OutboxStatus, bool]:
    async with opened(settings, writable=False) as folder:
        return await folder.outbox.counts(), bool(await folder.documents.keys(_OPEN_TRIP))


def _show(settings: CloudSettings, picture: Picture, *, as_json: bool) -> None:
    text = _json(settings, picture) if as_json else "\n".join(_lines(settings, picture))
    out(text + "\n")


def _json(settings: CloudSettings, picture: Picture) -> str:
    said, outbox = picture.said, picture.outbox
    return json.dumps(
        {
            "running": picture.running,
            "state_dir": str(settings.state_dir),
            "age": picture.age,
            "agent": None if said is None else said.model_dump(mode="json"),
            "outbox": None if outbox is None else outbox.model_dump(),
            "open_trip": picture.open_trip,
            "trouble": picture.trouble,
        }
    )


def _lines(settings: CloudSettings, picture: Picture) -> list[str]:
    said, outbox = picture.said, picture.outbox
    facts = [
        ("vehicle", f"{settings.vehicle_id} of {settings.fleet_id}"),
        ("state folder", str(settings.state_dir)),
        ("agent", _agent(picture)),
    ]
    counts = outbox or (None if said is None else said.outbox)
    if picture.running and said is not None and picture.age is not None:
        facts += facts_of(said, outbox or said.outbox, age=picture.age)
    else:
        facts += outbox_facts(counts, running=picture.running) if counts is not None else []
        why = said.waiting_reason("trip") if said is not None and counts is not None and counts.unsent else None
        facts += [] if why is None else [("waits", why)]
        if picture.open_trip:
            facts.append(("trip", "one was cut off; it is closed and queued when an agent starts"))
    if picture.trouble is not None:
        facts.append(("trouble", f"the outbox cannot be read: {picture.trouble}"))
    return pairs(facts)


def _agent(picture: Picture) -> str:
    said, age = picture.said, picture.age
    if not picture.running:
        start = f"start it with `{program()} run`"
        if said is None or age is None:
            return f"not running: {start}"
        return f"not running, last heard of {duration(age)} ago ({moment(said.updated_at.timestamp())}): {start}"
    if said is None or age is None:
        return "running; it has said nothing of itself yet"
    switched_off = "" if said.enabled else ", cloud.enabled is false: it sends nothing"
    return f"running (process {said.process_id}), no change for {duration(age)}{switched_off}"


def _interval(text: str) -> float:
    seconds = float(text)
    if not 0.1 <= seconds <= 86_400.0:
        raise argparse.ArgumentTypeError("must be between 0.1 and 86400 seconds")
    return seconds
