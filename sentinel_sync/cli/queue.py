"""`queue`: list, show, retry, drop and verify what waits to be sent, also while an agent runs."""

import argparse
import asyncio
import base64
import json
import sys
import time
from collections.abc import Sequence
from dataclasses import replace

from sentinel_sync.base.backoff import CAP
from sentinel_sync.cli.actions import add_action, add_command, at_least_one, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import last_said, opened, runs, tell_if_new
from sentinel_sync.cli.ui.text import count, duration, err, from_now, moment, pairs, size, table, utc, width
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.database import DamagedError
from sentinel_sync.store.outbox import ItemState, Outbox, OutboxItem
from sentinel_sync.store.rules import OutboxStatus

_LIMIT = 50
_STATE_WORDS = {ItemState.WAITING: "waiting", ItemState.SENDING: "being sent", ItemState.SET_ASIDE: "set aside"}
_HEAD = ("KEY", "KIND", "STATE", "TRIES", "NEXT TRY", "AGE", "SIZE", "REASON")
_RIGHT = frozenset({3, 6})
_MEND = (
    "stop the agent and start it again: at its start it moves the damaged file aside and saves all that can be read. "
    "Then check the disk"
)


def add_parser(subparsers: Subparsers) -> None:
    """Add `queue` and what can be done with it."""
    actions = add_command(
        subparsers,
        "queue",
        summary="list, show, retry, drop or verify what waits to be sent",
        description="Look at what waits to be sent, and decide on what cannot be sent. Works while the agent runs.",
    )

    listing = add_action(actions, "list", "list items, oldest first", _list)
    listing.add_argument("--state", type=_state, metavar="STATE", help=f"only those that are {', '.join(ItemState)}")
    listing.add_argument("--kind", help="only those of a kind, such as trip")
    listing.add_argument(
        "--limit", type=at_least_one, default=_LIMIT, metavar="N", help="at most so many (default: %(default)s)"
    )

    showing = add_action(actions, "show", "show one item with its body", _show)
    showing.add_argument("key", metavar="KEY")

    retrying = add_action(actions, "retry", "try items now, also those that were set aside", _retry)
    retrying.add_argument("keys", nargs="*", metavar="KEY")
    retrying.add_argument("--all", action="store_true", help="try everything now")

    dropping = add_action(actions, "drop", "delete items for good", _drop)
    dropping.add_argument("keys", nargs="+", metavar="KEY")
    dropping.add_argument("--yes", action="store_true", help="do not ask")

    add_action(actions, "verify", "check the whole outbox file for damage", _verify)


async def _list(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    await asyncio.to_thread(tell_if_new, settings)
    async with opened(settings, writable=False, or_empty=True) as folder:
        items = await folder.outbox.items(state=arguments.state, kind=arguments.kind, limit=arguments.limit)
        total = _total(await folder.outbox.counts(arguments.kind), arguments.state)
    running = await asyncio.to_thread(runs, settings)
    items = await with_reasons(settings, items)
    now = time.time()
    if arguments.json:
        print_json({"total": total, "items": [_facts(item) for item in items]})
    elif not items:
        print_lines(["nothing there" if arguments.state or arguments.kind else "the queue is empty"])
    else:
        print_lines(table(_HEAD, [_row(item, now, running=running) for item in items], width=width(), right=_RIGHT))
        if total > len(items):
            err(f"{len(items):,} of {count(total, 'item')} shown: --limit shows more\n")
    return ExitCode.DONE


async def _show(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with opened(settings, writable=False) as folder:
        (item,) = await with_reasons(settings, await _find(folder.outbox, [arguments.key]))
    try:
        body = json.loads(item.body)
    except ValueError:
        body = {"base64": base64.b64encode(item.body).decode()}
    if arguments.json:
        print_json({**_facts(item), "body": body})
        return ExitCode.DONE
    running = await asyncio.to_thread(runs, settings)
    now = time.time()
    facts = [
        ("key", item.key),
        ("kind", item.kind),
        ("state", _state_word(item, running=running)),
        ("reason", item.reason or "none"),
        ("tries", str(item.attempts)),
        ("next try", next_try(item, now, running=running)),
        ("queued", f"{moment(item.created_at)} ({duration(now - item.created_at)} ago)"),
        ("size", size(len(item.body))),
    ]
    print_lines([*pairs(facts), "", json.dumps(body, indent=2)])
    return ExitCode.DONE


async def _retry(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    if bool(arguments.keys) == arguments.all:
        raise CommandError("name the items to retry, or say --all", ExitCode.USAGE)
    async with opened(settings, writable=True) as folder:
        if not arguments.all:
            await _find(folder.outbox, arguments.keys)
        retried = await folder.outbox.retry(None if arguments.all else list(dict.fromkeys(arguments.keys)))
    running = await asyncio.to_thread(runs, settings)
    if arguments.json:
        print_json({"retried": retried, "agent_running": running})
    else:
        then = "the running agent takes them up" if running else f"`{program()} once` or the next agent sends them"
        print_lines([f"{count(retried, 'item')} to be tried now: {then}" if retried else "there is nothing to retry"])
    return ExitCode.DONE


async def _drop(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    keys = list(dict.fromkeys(arguments.keys))
    async with opened(settings, writable=True) as folder:
        items = await _find(folder.outbox, keys)
        # The terminal is asked on a thread: meanwhile the agent may go on with the same file.
        if not arguments.yes and not await asyncio.to_thread(_may_drop, items):
            print_lines(["nothing was dropped"])
            return ExitCode.FAILED
        dropped = await folder.outbox.drop(keys)
    if arguments.json:
        print_json({"dropped": dropped})
    else:
        print_lines([f"{count(dropped, 'item')} dropped"])
    if dropped < len(keys):
        kept = count(len(keys) - dropped, "item")
        raise CommandError(f"{kept} could not be dropped: sent already, or being sent when an agent last ran")
    return ExitCode.DONE


async def _verify(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    try:
        async with opened(settings, writable=False) as folder:
            problems = await folder.outbox.verify()
            items = _total(await folder.outbox.counts(), None)
    except DamagedError as error:
        problems, items = [str(error)], 0
    if arguments.json:
        print_json({"sound": not problems, "items": items, "problems": problems})
    elif not problems:
        print_lines([f"the outbox is sound; it holds {count(items, 'item')}"])
    if problems:
        if not arguments.json:
            print_lines(problems)
        raise CommandError(f"the outbox in {settings.state_dir} is damaged: {_MEND}")
    return ExitCode.DONE


async def _find(outbox: Outbox, keys: Sequence[str]) -> list[OutboxItem]:
    """The items with these keys.

    Raises:
        CommandError: One of them is not there; nothing has been changed yet.
    """
    found = [await outbox.find(key) for key in keys]
    missing = [key for key, item in zip(keys, found, strict=True) if item is None]
    if missing:
        unknown, lists = ", ".join(map(repr, missing)), f"`{program()} queue list` has what waits, `sent` what went"
        raise CommandError(f"there is no item {unknown} in the queue: sent already, or mistyped? {lists}")
    return [item for item in found if item is not None]


async def with_reasons(settings: CloudSettings, items: Sequence[OutboxItem]) -> list[OutboxItem]:
    """The items with the reason that holds now: what an agent said last of all that waits, else each one's own."""
    said = await asyncio.to_thread(last_said, settings)
    if said is None:
        return list(items)
    return [
        item
        if item.state is ItemState.SET_ASIDE or (why := said.waiting_reason(item.kind)) is None
        else replace(item, reason=why)
        for item in items
    ]


def _may_drop(items: Sequence[OutboxItem]) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("dropping is for good: say --yes where nobody can be asked", ExitCode.USAGE)
    for item in items:
        err(f"{item.kind} {item.key}, {_STATE_WORDS[item.state]}, {item.reason or 'no reason noted'}\n")
    err(f"Drop {count(len(items), 'item')} for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}


def _row(item: OutboxItem, now: float, *, running: bool) -> tuple[str, ...]:
    return (
        item.key,
        item.kind,
        _state_word(item, running=running),
        str(item.attempts),
        next_try(item, now, running=running),
        duration(now - item.created_at),
        size(len(item.body)),
        item.reason or "",
    )


def _state_word(item: OutboxItem, *, running: bool) -> str:
    # Without an agent nothing is being sent: the last one was killed while it was.
    return _STATE_WORDS[ItemState.WAITING if item.state is ItemState.SENDING and not running else item.state]


def next_try(item: OutboxItem, now: float, *, running: bool, is_held: bool = False) -> str:
    """When an item goes next, in words; what is held (by the network, a window, the consent) goes once that ends."""
    match item.state:
        case ItemState.SENDING:
            return "under way" if running else "at next start"
        case ItemState.SET_ASIDE:
            return "when retried"
        case ItemState.WAITING:
            wait = item.due_at - now
            # No backoff is longer: an item due later was stamped before the clock was set back, and is due now.
            wait = wait if wait <= CAP else 0.0
            return "once that ends" if is_held and wait < 1.0 else from_now(wait)


def _facts(item: OutboxItem) -> dict[str, object]:
    return {
        "key": item.key,
        "kind": item.kind,
        "state": item.state,
        "attempts": item.attempts,
        "reason": item.reason,
        "created_at": utc(item.created_at),
        "due_at": utc(item.due_at) if item.state is ItemState.WAITING else None,
        "priority": item.priority,
        "size_bytes": len(item.body),
    }


def _total(counts: OutboxStatus, state: ItemState | None) -> int:
    by_state = {
        ItemState.WAITING: counts.waiting,
        ItemState.SENDING: counts.sending,
        ItemState.SET_ASIDE: counts.set_aside,
    }
    return sum(by_state.values()) if state is None else by_state[state]


def _state(text: str) -> ItemState:
    try:
        return ItemState(text.replace("-", "_").replace(" ", "_"))
    except ValueError:
        raise argparse.ArgumentTypeError(f"must be one of {', '.join(ItemState)}") from None
