"""`profiles`: how the drivers' profiles stand, sync, decide about or forget one, also while an agent runs."""

import argparse
import asyncio
import sys
from collections.abc import Awaitable, Callable
from typing import Any, TypeVar

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.cli.actions import add_action, add_command, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import agent_runs, beside_agent, looked_into, without_agent
from sentinel_sync.cli.ui.text import count, err, pairs, printable, table, width
from sentinel_sync.profiles.commands import ALL, SyncCommand
from sentinel_sync.profiles.records import ProfileSummary, SyncState
from sentinel_sync.profiles.rules.descent import Keep
from sentinel_sync.profiles.rules.fields import checked_id
from sentinel_sync.settings import CloudSettings

_HEAD = ("DRIVER", "STATE", "DISTANCE", "SESSIONS", "VEHICLES", "NOTE")
_RIGHT = frozenset({2, 3, 4})
#: Seconds between two looks for what the running agent made of an order.
_LOOK = 0.2
#: Seconds that an order is waited for: the agent looks every 10 s, and a backend may be slow.
WAIT_SECONDS = 60.0
_METRES = 1000.0
_EPILOG = """\
`show` prints what was driven and how; face embeddings and whatever else may tell who it is stay in the file.
"""

Found = TypeVar("Found")


def add_parser(subparsers: Subparsers) -> None:
    """Add `profiles` and what can be done with them."""
    actions = add_command(
        subparsers,
        "profiles",
        summary="list, show, sync, resolve and forget driver profiles",
        description="The drivers' profiles on this vehicle, and at the backend, which cannot read them.",
        epilog=_EPILOG,
    )
    add_action(actions, "list", "show whose profiles there are, and whether the backend has them", _list)
    add_action(actions, "show", "show one, without what tells who the driver is", _show).add_argument(
        "driver", type=checked_driver, metavar="DRIVER"
    )
    syncing = add_action(actions, "sync", "sync all now, or one", _sync)
    syncing.add_argument("driver", type=checked_driver, metavar="DRIVER", nargs="?")
    forgetting = add_action(
        actions, "forget", "remove a profile for good: here, at the backend, and from there in every vehicle", _forget
    )
    forgetting.add_argument("driver", type=checked_driver, metavar="DRIVER")
    forgetting.add_argument("--yes", action="store_true", help="do not ask")
    resolving = add_action(
        actions, "resolve", "decide what a driver's totals are, where nothing tells (docs/profiles.md)", _resolve
    )
    resolving.add_argument("driver", type=checked_driver, metavar="DRIVER")
    resolving.add_argument(
        "--keep",
        choices=[str(keep) for keep in Keep],
        required=True,
        help="this vehicle's totals, for the whole fleet; the fleet's; or both added up",
    )
    for ordering in (syncing, forgetting, resolving):
        ordering.add_argument(
            "--wait",
            metavar="SECONDS",
            type=_seconds,
            default=WAIT_SECONDS,
            help="wait so long for a running agent (default: %(default)g)",
        )


# --- what there is ---


async def _list(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with looked_into(settings) as overview:
        standings = await overview.all()
    if arguments.json:
        running = await agent_runs(settings)
        print_json({"profiles": [_facts(standing) for standing in standings], "agent_running": running})
    elif standings:
        print_lines(table(_HEAD, [_row(standing) for standing in standings], width=width(), right=_RIGHT))
    else:
        print_lines([f"there is no profile in {settings.profiles_dir}"])
    return ExitCode.DONE


async def _show(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with looked_into(settings) as overview:
        standing = await overview.one(arguments.driver)
    if standing.standing is SyncState.UNKNOWN:
        where = f"in {settings.profiles_dir}, nor on record"
        raise CommandError(f"there is no profile of {arguments.driver!r} {where}: {_has_them()}")
    if arguments.json:
        print_json(_facts(standing))
        return ExitCode.DONE
    facts = [("driver", standing.driver_id), ("state", _state(standing)), ("vehicles", f"{standing.vehicles:,}")]
    facts += [(name, _value(value)) for name, value in standing.shown().items()]
    withheld = standing.withheld()
    if withheld:
        facts.append(("not shown", ", ".join(withheld)))
    print_lines(pairs(facts))
    return ExitCode.DONE


def _facts(standing: ProfileSummary) -> dict[str, Any]:
    return {
        "driver_id": standing.driver_id,
        "state": standing.standing.name.lower(),
        "reason": standing.reason,
        "vehicles": standing.vehicles,
        "fields": standing.shown(),
        "not_shown": standing.withheld(),
    }


def _row(standing: ProfileSummary) -> tuple[str, ...]:
    shown = standing.shown()
    distance, sessions = shown.get("total_distance"), shown.get("session_count")
    return (
        standing.driver_id,
        standing.standing,
        f"{distance / _METRES:,.1f} km" if isinstance(distance, (int, float)) else "",
        f"{sessions:,}" if isinstance(sessions, (int, float)) else "",
        f"{standing.vehicles:,}" if standing.vehicles else "",
        standing.reason or "",
    )


def _has_them() -> str:
    return f"mistyped? `{program()} profiles list` has those there are"


def _value(value: object) -> str:
    return f"{value:,}" if isinstance(value, int) else str(value)


def _state(standing: ProfileSummary) -> str:
    return f"{standing.standing}: {standing.reason}" if standing.reason else standing.standing


# --- what is wanted ---


async def _sync(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    driver_id, running = arguments.driver, await agent_runs(settings)
    if running:
        order = await _left_to_agent(settings, driver_id, arguments.wait)
    else:
        async with without_agent(settings) as profiles:
            order = await profiles.sync_ordered(driver_id)
    if arguments.json:
        synced, wanted = (None, None) if order is None else (order.synced, order.wanted)
        reason = None if order is None else order.reason
        print_json({"synced": synced, "wanted": wanted, "reason": reason, "agent_running": running})
        return ExitCode.DONE if order is not None and order.done else ExitCode.LEFT
    if order is None:
        raise CommandError(f"the running agent has not answered within {arguments.wait:g} s; it will", ExitCode.LEFT)
    if driver_id is not None and not order.wanted:
        raise CommandError(f"there is no profile of {driver_id!r} in {settings.profiles_dir}: {_has_them()}")
    if not order.done:
        left = f"{order.synced:,} of {count(order.wanted, 'profile')} synced"
        raise CommandError(f"{left}: {order.reason or 'the rest goes with the next sync'}", ExitCode.LEFT)
    print_lines([f"{count(order.wanted, 'profile')} synced"])
    return ExitCode.DONE


async def _left_to_agent(settings: CloudSettings, driver_id: str | None, wait: float) -> SyncCommand | None:
    async with beside_agent(settings) as books:
        key = ALL if driver_id is None else (await books.cipher.keyring()).reference(driver_id)
        await books.to_sync.give(key, SystemClock().now())
        return await _awaited(settings, lambda: books.to_sync.answered(key), wait)


async def _resolve(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    driver_id, keep = arguments.driver, Keep(arguments.keep)
    async with looked_into(settings) as overview:
        standing = (await overview.one(driver_id)).standing
    if standing in {SyncState.UNKNOWN, SyncState.NO_FILE, SyncState.FORGOTTEN, SyncState.TO_FORGET}:
        raise CommandError(f"there is nothing to decide: there is no profile of {driver_id!r} here: {_has_them()}")
    if standing not in {SyncState.UNDECIDED, SyncState.DECIDED} and keep is not Keep.LOCAL:
        raise CommandError(f"there is nothing to decide about {driver_id!r}: its state is {standing.value!r}")
    running = await agent_runs(settings)
    if running:
        async with beside_agent(settings) as books:
            await books.resolve(driver_id, keep)
        order = await _left_to_agent(settings, driver_id, arguments.wait)
    else:
        async with without_agent(settings) as profiles:
            await profiles.resolve_profile(driver_id, keep)
            order = await profiles.sync_ordered(driver_id)
    done = order is not None and order.done
    if arguments.json:
        print_json({"keep": keep, "done": done, "reason": order and order.reason, "agent_running": running})
        return ExitCode.DONE if done else ExitCode.LEFT
    if not done:
        reason = "the running agent has not answered yet" if order is None else order.reason
        raise CommandError(f"written down, and done with the next sync: {reason}", ExitCode.LEFT)
    async with looked_into(settings) as overview:
        print_lines(table(_HEAD, [_row(await overview.one(driver_id))], width=width(), right=_RIGHT))
    return ExitCode.DONE


async def _forget(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    driver_id = arguments.driver
    if not arguments.yes and not await asyncio.to_thread(_may_forget, driver_id):
        print_lines(["nothing was forgotten"])
        return ExitCode.FAILED
    running = await agent_runs(settings)
    if running:
        told = await forgotten_beside_agent(settings, driver_id, arguments.wait)
        later = "the running agent tells the backend as soon as it can"
    else:
        async with without_agent(settings) as profiles:
            told = await profiles.forget_profile(driver_id)
        later = "the backend is told with the next sync"
    if arguments.json:
        print_json({"forgotten_here": True, "forgotten_at_backend": told, "agent_running": running})
    else:
        where = "at the backend; other vehicles remove it when they next sync"
        print_lines([f"forgotten on this vehicle and {where}" if told else f"forgotten on this vehicle; {later}"])
    return ExitCode.DONE if told else ExitCode.LEFT


async def forgotten_beside_agent(settings: CloudSettings, driver_id: str, wait: float) -> bool:
    """Forget a driver here, and wait for the running agent to tell the backend; whether it has within the seconds."""
    async with beside_agent(settings) as books:
        await books.forget_here(driver_id)
        keyring = await books.cipher.keyring()

        async def is_told() -> bool | None:
            return None if await books.to_forget.find(keyring, driver_id) else True

        return await _awaited(settings, is_told, wait) or False


async def _awaited(settings: CloudSettings, look: Callable[[], Awaitable[Found | None]], wait: float) -> Found | None:
    """What the running agent made of an order; None where it has not within `wait` seconds."""
    try:
        async with asyncio.timeout(wait):
            while (found := await look()) is None:
                if not await agent_runs(settings):
                    raise CommandError("the agent has ended; the next one does it", ExitCode.LEFT)
                await asyncio.sleep(_LOOK)
            return found
    except TimeoutError:
        return None


def _may_forget(driver_id: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("forgetting is for good: say --yes where nobody can be asked", ExitCode.USAGE)
    err(f"Remove the profile of {printable(driver_id)} for good, in the whole fleet? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def checked_driver(text: str) -> str:
    """A driver's id from a command line."""
    try:
        return checked_id(text)
    except ValueError as error:
        raise argparse.ArgumentTypeError(str(error)) from None


def _seconds(text: str) -> float:
    seconds = float(text)
    if not 0.0 <= seconds <= 86_400.0:
        raise argparse.ArgumentTypeError("must be between 0 and 86400 seconds")
    return seconds
