"""`why`: what each thing that is not done yet waits for, since when, and what a person can do."""

import argparse
import asyncio
import time
from collections.abc import AsyncIterator
from dataclasses import asdict, dataclass

from sentinel_sync.base.errors import SentinelSyncError, StoreError
from sentinel_sync.cli.actions import load_settings, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import conditions, last_said, looked_into, nothing_there, opened, read, runs, tell_if_new
from sentinel_sync.cli.queue import next_try, with_reasons
from sentinel_sync.cli.scenarios import NOT_COMPLETE, why_unheard_of
from sentinel_sync.cli.ui.text import duration, moment, pairs, table, utc, width
from sentinel_sync.profiles.records import SyncState
from sentinel_sync.scenarios.recordings import folder_names, storable
from sentinel_sync.scenarios.records import KIND as SCENARIO_KIND
from sentinel_sync.scenarios.records import key_of
from sentinel_sync.settings import CloudSettings
from sentinel_sync.status import AgentStatus
from sentinel_sync.store.outbox import ItemState, OutboxItem
from sentinel_sync.store.store import DATABASE_NAME

_HEAD = ("WHAT", "NAME", "WAITS FOR", "SINCE", "NEXT TRY", "WHAT TO DO")
#: So many items of the queue are gone through; the oldest come first, and tell of the others.
_MOST = 1000
_GOES = "nothing: it goes by itself"
_INCOMPLETE = "wait for the recorder; where nothing writes there any more, mend what is said"
_GOES_LATER = "nothing: it goes by itself once that is over"
_CONSENT = "`consent grant` where the driver agrees, and cloud.upload_scenarios: true"
_FINISHED = frozenset({"uploaded", "deleted", "dropped", "unknown"})
_SETTLED = frozenset({SyncState.SYNCED, SyncState.NO_FILE, SyncState.FORGOTTEN, SyncState.UNKNOWN})


@dataclass(frozen=True, slots=True)
class Waiting:
    """Something that is not done yet.

    Attributes:
        kind: "trip", "recording", "model", "driver", or what else is in the queue.
        name: By which it can be asked for.
        reason: What it waits for.
        since: Seconds since the epoch, or None where nobody noted that.
        next_try: When it is tried next, in words.
        remedy: What a person can do.
    """

    kind: str
    name: str
    reason: str
    since: float | None
    next_try: str
    remedy: str


def add_parser(subparsers: Subparsers) -> None:
    """Add `why`."""
    parser = subparsers.add_parser(
        "why",
        help="say what something waits for, since when, when it is tried next, and what to do",
        description="Say of a trip, a recording, a model or a driver what it waits for; without a name, of all.",
    )
    parser.add_argument("item", nargs="?", metavar="ITEM", help="a trip's id, a recording, a model's name or a driver")
    # What is amiss with keys is said in the answer.
    parser.set_defaults(execute=execute, default_log_level="error")


def execute(arguments: argparse.Namespace) -> int:
    """Say it."""
    settings = load_settings(arguments).cloud
    return asyncio.run(_tell(settings, arguments))


async def _tell(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    if arguments.item is None:
        await asyncio.to_thread(tell_if_new, settings)
    elif not await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        raise CommandError(nothing_there(settings.state_dir))
    found = [waiting async for waiting in _all_waiting(settings)]
    if arguments.item is not None:
        found = [waiting for waiting in found if arguments.item in {waiting.name, f"{waiting.kind}:{waiting.name}"}]
        if not found:
            raise CommandError(f"nothing by the name {arguments.item!r} waits: `{program()} sent` has what went")
    if arguments.json:
        print_json({"waiting": [{**asdict(waiting), "since": utc(waiting.since)} for waiting in found]})
    elif not found:
        print_lines(["nothing waits"])
    elif arguments.item is None:
        print_lines(table(_HEAD, [_row(waiting) for waiting in found], width=width(), right=frozenset()))
    else:
        for waiting in found:
            print_lines(pairs([(name.lower(), cell) for name, cell in zip(_HEAD, _row(waiting), strict=True)]))
    return ExitCode.DONE


def _row(waiting: Waiting) -> tuple[str, ...]:
    since = "unknown" if waiting.since is None else f"{moment(waiting.since)} ({duration(time.time() - waiting.since)})"
    return waiting.kind, waiting.name, waiting.reason, since, waiting.next_try, waiting.remedy


async def _all_waiting(settings: CloudSettings) -> AsyncIterator[Waiting]:
    running = await asyncio.to_thread(runs, settings)
    said = await asyncio.to_thread(last_said, settings) if running else None
    async with opened(settings, writable=False, or_empty=True) as folder:
        items = await with_reasons(settings, await folder.outbox.items(limit=_MOST))
    for item in items:
        if item.kind != SCENARIO_KIND:
            is_held = said is not None and said.waiting_reason(item.kind) is not None
            yield _of_item(item, running=running, is_held=is_held, remedy=_stopped(said) or _remedy(running=running))
    async for waiting in _recordings(settings, {item.key: item for item in items}, running=running):
        yield waiting
    for waiting in () if said is None else _models(said):
        yield waiting
    async for waiting in _drivers(settings, running=running):
        yield waiting


def _stopped(said: AgentStatus | None) -> str | None:
    """What to do where nothing at all may be sent until somebody does it; None where that is not so."""
    if said is None:
        return None
    if not said.enabled:
        return "set cloud.enabled to true"
    is_refused = said.connectivity.unauthorized or said.connectivity.gate == "refused"
    return "put the right key where cloud.api_key or api_key_file says" if is_refused else None


def _of_item(item: OutboxItem, *, running: bool, is_held: bool, remedy: str) -> Waiting:
    is_aside = item.state is ItemState.SET_ASIDE
    again = f"`{program()} queue retry {item.key}` once that is mended, or `queue drop`"
    return Waiting(
        item.kind,
        item.key,
        item.reason or (_its_turn(running=running)),
        item.created_at,
        next_try(item, time.time(), running=running, is_held=is_held),
        again if is_aside else remedy,
    )


def _its_turn(*, running: bool) -> str:
    return "its turn" if running else "an agent: none is running"


def _remedy(*, running: bool) -> str:
    return _GOES if running else f"start one: `{program()} run`, or `{program()} once`"


def _remedy_of(reason: str | None) -> str:
    """What to do about what is held: only a person decides on consent and settings, all else ends by itself."""
    is_decided = reason is not None and ("consent" in reason or "cloud.upload_scenarios" in reason)
    return _CONSENT if is_decided else _GOES_LATER


async def _recordings(
    settings: CloudSettings, queued: dict[str, OutboxItem], *, running: bool
) -> AsyncIterator[Waiting]:
    async with read(settings, or_empty=True) as books:
        held = await conditions(settings, books)
        statuses = await books.records.statuses(held)
        plans = {plan.scenario_id: plan async for plan in books.records.plans()}
    now = time.time()
    for status in statuses:
        name, state = status["scenario_id"], status["status"]
        if state in _FINISHED:
            continue
        item, plan = queued.get(key_of(name)), plans.get(name)
        unqueued = "when retried"
        if state == "set_aside":
            remedy = f"`{program()} scenarios retry {name}` once that is mended"
        elif state == "held":
            remedy = _remedy_of(status["reason"])
        elif state == "on_request":
            unqueued, remedy = "when asked for", "nothing: the files stay here until the backend asks for them"
        else:
            remedy = _remedy(running=running)
        yield Waiting(
            "recording",
            name,
            status["reason"] or _its_turn(running=running),
            None if plan is None else plan.queued_at,
            unqueued if item is None else next_try(item, now, running=running, is_held=state == "held"),
            remedy,
        )
    known = {status["scenario_id"] for status in statuses}
    for name in await asyncio.to_thread(folder_names, settings.scenarios_dir):
        if storable(name) not in known:
            why = await asyncio.to_thread(why_unheard_of, settings, name)
            goes = _INCOMPLETE if NOT_COMPLETE in why else _remedy(running=running)
            remedy = _remedy_of(held.held) if held.held else goes
            yield Waiting("recording", storable(name), held.held or why, None, "at the next look", remedy)


def _models(said: AgentStatus) -> list[Waiting]:
    waiting = []
    for model in said.models:
        is_newer = model.available is not None and model.available != model.installed
        if model.reason is None and not is_newer:
            continue
        reason = model.reason or f"{model.available} may be taken, and nobody has asked for it"
        remedy = _GOES if model.reason else f"`{program()} models install {model.name} {model.available}`"
        if bad := [bad.version for bad in model.bad_versions if bad.version == model.available]:
            remedy = f"`{program()} models clear-bad {model.name} {bad[0]}`, to try it again"
        waiting.append(Waiting("model", model.name, reason, None, "at the next check", remedy))
    return waiting


async def _drivers(settings: CloudSettings, *, running: bool) -> AsyncIterator[Waiting]:
    try:
        async with looked_into(settings) as overview:
            standings = await overview.all()
    except StoreError:
        raise
    except SentinelSyncError as error:  # no keys: what concerns all profiles is one line
        yield Waiting("driver", "all", str(error), None, "with the next sync", "see `doctor`")
        return
    for standing in standings:
        if standing.standing in _SETTLED:
            continue
        remedy = _remedy(running=running)
        if standing.standing is SyncState.UNDECIDED:
            remedy = f"`{program()} profiles resolve {standing.driver_id} --keep local|fleet|sum`"
        elif standing.standing is SyncState.UNUSABLE:
            remedy = "mend the profile's file"
        reason = standing.reason or f"the next sync: it is {standing.standing}"
        yield Waiting("driver", standing.driver_id, reason, None, "with the next sync", remedy)
