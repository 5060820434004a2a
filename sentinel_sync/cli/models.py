"""`models`: what is in use on this vehicle, the operator's word on it, and the release side for whoever signs."""

import argparse
import asyncio
import json
from collections.abc import Sequence
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.base.errors import CloudError
from sentinel_sync.cli.actions import add_action, add_command, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.models_release import add_keygen, add_publish, add_sign, add_verify, add_withdraw
from sentinel_sync.cli.offline import held_by_agent, last_said, opened, runs, tell_if_new
from sentinel_sync.cli.ui.text import moment, printable, size, table, utc, width
from sentinel_sync.cloud.client import CloudAPIClient
from sentinel_sync.models.commands import CommandAction, CommandOutcome, ModelCommand, ModelCommands
from sentinel_sync.models.installed import ModelRecords
from sentinel_sync.models.model_downloader import ModelDownloader
from sentinel_sync.models.rules.installed import InstallResult, ModelRecord, ModelUpdate
from sentinel_sync.models.rules.releases import meant_by, same_version
from sentinel_sync.models.rules.status import ModelStatus
from sentinel_sync.network.foundation import Foundation
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import Store
from sentinel_sync.store.timekeeper import Timekeeper

_HEAD = ("MODEL", "IN USE", "SINCE", "AVAILABLE", "PREVIOUS", "PINNED", "NOTE")
_UPDATE_HEAD = ("MODEL", "IN USE", "AVAILABLE", "SIZE", "RELEASED")
#: Actions whose name on the command line is not that of the command as it is stored.
_ACTIONS: dict[str, CommandAction] = {"clear-bad": "forgive"}
#: Seconds between two looks for what became of an order.
_LOOK = 0.2
#: Seconds that `--wait` waits where it does not say.
_WAIT = 600.0
_LONGEST_WAIT = 86_400.0
#: Another command that holds the state folder is waited for so many seconds.
_OTHERS_WAIT = 60.0
_EPILOG = """\
Works while the agent runs: then an order is left for it, and `--wait` waits for what becomes of that. Without an agent
the command does it by itself.
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a command has come to.

    Attributes:
        done: Whether what was wanted is so now; None where it is left to the running agent.
        message: For a person.
        code: To exit with.
        updates: Of `check`: what there is.
    """

    done: bool | None
    message: str
    code: ExitCode
    updates: Sequence[ModelUpdate] = ()


def add_parser(subparsers: Subparsers) -> None:
    """Add `models` and what can be done with them."""
    actions = add_command(
        subparsers,
        "models",
        summary="list, check, install, roll back and pin models; make keys, sign, verify, publish and withdraw them",
        description="The models of this vehicle, and the tools of whoever releases them.",
        epilog=_EPILOG,
    )
    add_action(actions, "list", "show which version of each is in use, and what is offered", _list)
    _order(actions, "check", "ask the backend for newer ones")
    _order(actions, "install", "fetch a version and let the runtime open it", "NAME", "VERSION")
    _order(actions, "rollback", "let the runtime open the previous version again", "NAME")
    _order(actions, "pin", "want just this version, older or newer, whatever is offered", "NAME", "VERSION")
    _order(actions, "unpin", "take newer versions again", "NAME")
    _order(
        actions,
        "clear-bad",
        "let a version that failed on this vehicle be tried again",
        "NAME",
        "VERSION",
        aliases=("forgive",),
    )
    for add in (add_keygen, add_sign, add_verify, add_publish, add_withdraw):
        add(actions)


def _order(actions: Subparsers, name: str, text: str, *operands: str, aliases: Sequence[str] = ()) -> None:
    parser = add_action(actions, name, text, _carry_out, aliases=aliases)
    # What is refused is said by the command itself.
    parser.set_defaults(default_log_level="critical")
    for operand in operands:
        parser.add_argument(operand.lower(), metavar=operand)
    parser.add_argument(
        "--wait",
        nargs="?",
        metavar="SECONDS",
        type=_seconds,
        const=_WAIT,
        default=None,
        help=f"wait for what the running agent makes of it (at most {_WAIT:.0f} seconds by default)",
    )


# --- what there is ---


async def _list(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    await asyncio.to_thread(tell_if_new, settings)
    async with opened(settings, writable=False, or_empty=True) as folder:
        records = ModelRecords(folder.documents)
        await records.load()
    running = await asyncio.to_thread(runs, settings)
    said = await asyncio.to_thread(last_said, settings) if running else None
    shown = {} if said is None else {model.name: model for model in said.models}
    known = {name: ModelRecord(name) for name, model in shown.items() if model.offered} | records.all
    models = [_facts(record, shown.get(name)) for name, record in sorted(known.items())]
    if arguments.json:
        told = [{**model, "installed_at": utc(model["installed_at"])} for model in models]
        print_lines([json.dumps({"models": told, "agent_running": running}, indent=2)])
    elif not models:
        print_lines(["no model is known on this vehicle"])
    else:
        print_lines(table(_HEAD, [_row(model) for model in models], width=width(), right=frozenset()))
    return ExitCode.DONE


def _facts(record: ModelRecord, shown: ModelStatus | None) -> dict[str, Any]:
    """What is known of a model; what is only in the agent's memory is None without one."""
    installed, previous = record.installed, record.previous
    under_way = None if shown is None or shown.under_way is None else shown.under_way.phase
    available = None if shown is None else shown.available
    if installed is not None and installed.version == available:
        available = None  # as of the last check, before it was installed
    waits = shown is not None and bool(shown.offered) and shown.waits_for_pinned
    unoffered = f"nobody offers {record.pinned}, to which it is pinned" if waits else None
    return {
        "name": record.name,
        "installed": None if installed is None else installed.version,
        "installed_at": None if installed is None else installed.installed_at,
        "checksum": None if installed is None else installed.checksum,
        "available": available,
        "offered": [] if shown is None else [one.model_dump() for one in shown.offered],
        "under_way": under_way,
        "previous": None if previous is None else previous.version,
        "pinned": record.pinned,
        "bad_versions": [bad.version for bad in record.bad],
        "reason": "; ".join(filter(None, (record.damage, record.failure, unoffered))) or None,
    }


def _row(model: dict[str, Any]) -> tuple[str, ...]:
    since = model["installed_at"]
    bad = f"bad here: {', '.join(model['bad_versions'])}" if model["bad_versions"] else None
    return (
        model["name"],
        model["installed"] or "none",
        moment(since) if since else "",
        model["available"] or "",
        model["previous"] or "",
        model["pinned"] or "",
        "; ".join(filter(None, (model["under_way"], model["reason"], bad, _withheld(model)))),
    )


def _withheld(model: dict[str, Any]) -> str | None:
    """What is offered, and not to this vehicle."""
    withheld = [f"{one['version']} is {one['note']}" for one in model["offered"] if one["note"] is not None]
    return "; ".join(withheld) or None


# --- the operator's word ---


async def _carry_out(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    name, version = getattr(arguments, "name", ""), getattr(arguments, "version", None)
    order = ModelCommand(_ACTIONS.get(arguments.action, arguments.action), name, version)
    order.check()
    running = await asyncio.to_thread(runs, settings)
    if running:
        outcome = await _leave(settings, order, arguments.wait)
    else:
        outcome = await _do(settings, order)
    if arguments.json:
        answer: dict[str, Any] = {"done": outcome.done, "message": outcome.message, "agent_running": running}
        print_lines([json.dumps(answer | {"updates": list(outcome.updates)} if order.action == "check" else answer)])
    elif outcome.updates:
        rows = [_update_row(update) for update in outcome.updates]
        print_lines(table(_UPDATE_HEAD, rows, width=width(), right=frozenset({3})))
    elif outcome.done is False:
        raise CommandError(outcome.message, outcome.code)
    else:
        print_lines([printable(outcome.message)])
    return outcome.code


async def _leave(settings: CloudSettings, order: ModelCommand, wait: float | None) -> Outcome:
    """Leave an order for the running agent; where another command holds the folder, wait for it and do it then."""
    is_agent = await asyncio.to_thread(held_by_agent, settings)
    async with opened(settings, writable=True) as folder:
        orders = ModelCommands(folder.documents)
        key = await orders.place(order)
        if wait is None and is_agent:
            return Outcome(None, await _left(settings, order), ExitCode.DONE)
        wait = _OTHERS_WAIT if wait is None else wait
        found = await _awaited(settings, orders, key, wait)
        if found is not None:
            return Outcome(found.done, found.message, ExitCode.DONE if found.done else ExitCode.FAILED)
        if await asyncio.to_thread(runs, settings):
            who = "the running agent" if is_agent else "the command that holds the state folder"
            return Outcome(None, f"{who} has not done it within {wait:g} s; an agent will", ExitCode.LEFT)
        if is_agent or not await orders.withdraw(key):
            raise CommandError("the agent has ended; the next one does it", ExitCode.LEFT)
    return await _do(settings, order)


async def _left(settings: CloudSettings, order: ModelCommand) -> str:
    """What to say of an order that was left for the agent."""
    said = await asyncio.to_thread(last_said, settings)
    shown = next((model for model in said.models if model.name == order.name), None) if said is not None else None
    version = order.version or ""
    if shown is None or not shown.offered or order.action not in {"pin", "install"}:
        return "the running agent will do it"
    if order.action == "pin":
        return f"the running agent will do it: {_pinned(order.name, version, shown)}"
    return "the running agent will do it" + _overridden(version, shown, "the order")


async def _awaited(settings: CloudSettings, orders: ModelCommands, key: str, wait: float) -> CommandOutcome | None:
    """What became of an order; None where nobody works on the folder any more, or the time is over."""
    with suppress(TimeoutError):
        async with asyncio.timeout(wait):
            while (found := await orders.outcome(key)) is None:
                if not await asyncio.to_thread(runs, settings):
                    return await orders.outcome(key)  # it may have come with the last breath of whoever held it
                await asyncio.sleep(_LOOK)
            return found
    return None


async def _do(settings: CloudSettings, order: ModelCommand) -> Outcome:
    """Carry an order out without an agent; the state folder's lock keeps one from starting meanwhile."""
    async with (
        Store(settings.state_dir, max_bytes=settings.outbox_max_bytes) as store,
        CloudAPIClient(settings=settings) as client,
    ):
        if not settings.enabled:
            client.halt("disabled", "cloud.enabled is false")
        # What the agent has learned of the backend's time in this boot: a TUF repository's dates are judged by it.
        timekeeper = Timekeeper(store.documents, SystemClock())
        await timekeeper.load()
        models = ModelDownloader(client, False, foundation=Foundation.of(client, store, timekeeper=timekeeper))
        return await _obeyed(models, order)


async def _obeyed(models: ModelDownloader, order: ModelCommand) -> Outcome:
    name, version = order.name, order.version or ""
    match order.action:
        case "install":
            return _outcome(await models.download_and_install_model(name, version))
        case "rollback":
            return _outcome(await models.rollback(name))
        case "pin":
            await models.pin(name, version)
            with suppress(CloudError):  # out of reach: nobody can say what is offered
                await models.check_for_updates()
                shown = next((model for model in models.snapshot() if model.name == name), None)
                return Outcome(True, _pinned(name, version, shown), ExitCode.DONE)
            return Outcome(True, _pinned(name, version, None), ExitCode.DONE)
        case "unpin":
            await models.pin(name, None)
            return Outcome(True, f"{name} takes newer versions again", ExitCode.DONE)
        case "forgive":
            if not await models.clear_bad(name, version):
                lists = f"`{program()} models list` has those that were"
                return Outcome(False, f"{name} {version} was not found bad on this vehicle: {lists}", ExitCode.FAILED)
            return Outcome(True, f"{name} {version} may be tried again", ExitCode.DONE)
        case "check":
            return await _checked(models)


def _pinned(name: str, version: str, shown: ModelStatus | None) -> str:
    """What to say of a pin: that of a version which nobody offers waits for somebody to."""
    said = f"{name} {version} is pinned: no other is taken"
    if shown is None:
        return said
    known = (*(one.version for one in shown.offered), shown.installed, shown.previous)
    if any(one is not None and same_version(version, one) for one in known):
        return said + _overridden(version, shown, "the pin")
    return f"{said}. Nobody offers it now: is it mistyped? It is taken once it is offered"


def _overridden(version: str, shown: ModelStatus, what: str) -> str:
    """What to add where a version is offered, but not to this vehicle; empty elsewhere."""
    meant = meant_by(version, (one.version for one in shown.offered))
    note = next((one.note for one in shown.offered if one.version == meant), None)
    return f"; {meant} is {note}: {what} overrides that" if note is not None and meant != shown.installed else ""


async def _checked(models: ModelDownloader) -> Outcome:
    try:
        updates = await models.check_for_updates()
    except CloudError as error:
        raise CommandError(str(error), ExitCode.LEFT) from None
    refused = [f"{model.name}: {model.reason}" for model in models.snapshot() if model.status == "failed"]
    if refused and not updates:  # which are worth more to whoever asks; `models list` has both
        return Outcome(False, "; ".join(refused), ExitCode.FAILED)
    return Outcome(True, "there is nothing newer", ExitCode.DONE, updates)


def _outcome(result: InstallResult) -> Outcome:
    note = "" if result.note is None else f"; {result.note}"
    if result:
        return Outcome(True, f"{result.name} {result.version} is in use{note}", ExitCode.DONE)
    left = result.waiting or isinstance(result.error, CloudError)
    why = result.reason or f"{result.name} {result.version} is not in use"
    return Outcome(False, why + note, ExitCode.LEFT if left else ExitCode.FAILED)


def _update_row(update: ModelUpdate) -> tuple[str, ...]:
    installed, released = update["current_version"] or "none", update["released_at"] or ""
    return (update["name"], installed, update["version"], size(update["size"]), released)


def _seconds(text: str) -> float:
    with suppress(ValueError):
        if 0.0 < (seconds := float(text)) <= _LONGEST_WAIT:
            return seconds
    raise argparse.ArgumentTypeError(f"must be a number of seconds, more than 0 and at most {_LONGEST_WAIT:.0f}")
