"""`scenarios`: list, show, queue and retry recordings, also while an agent runs."""

import argparse
import asyncio
from pathlib import Path

from sentinel_sync.base.errors import ConsentError, ScenarioError
from sentinel_sync.cli.actions import add_action, add_command, at_least_one, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import Books, changed, conditions, read, runs, tell_if_new
from sentinel_sync.cli.ui.text import count, duration, err, moment, pairs, size, table, utc, width
from sentinel_sync.scenarios.recordings import absolute, folder_names, read_recording, storable
from sentinel_sync.scenarios.records import key_of
from sentinel_sync.scenarios.rules.plan import Part, Priority, ScenarioPlan
from sentinel_sync.scenarios.rules.status import ScenarioStatus
from sentinel_sync.settings import CloudSettings

_LIMIT = 50
_HEAD = ("SCENARIO", "STATUS", "PRIORITY", "SIZE", "SENT", "NOW", "REASON")
_RIGHT = frozenset({3, 4})
_PARTS = ("PART", "ON DISK", "TRAVELS AS", "SHA-256", "STATE", "NOTE")
_PARTS_RIGHT = frozenset({1, 2})
_STATUSES = ("queued", "held", "uploading", "uploaded", "set_aside", "dropped", "deleted")
#: Digits of a hash that are shown in a table; `--json` has them all.
_DIGITS = 12


def add_parser(subparsers: Subparsers) -> None:
    """Add `scenarios` and what can be done with it."""
    actions = add_command(
        subparsers,
        "scenarios",
        summary="list, show, queue or retry recordings",
        description="Look at recordings and their upload, queue one by name. Works while the agent runs.",
    )

    listing = add_action(actions, "list", "list all recordings that were ever heard of, newest first", _list)
    listing.add_argument("--status", choices=_STATUSES, help="only those of a status")
    listing.add_argument(
        "--limit", type=at_least_one, default=_LIMIT, metavar="N", help="at most so many (default: %(default)s)"
    )

    showing = add_action(actions, "show", "show one recording with its parts", _show)
    showing.add_argument("scenario_id", metavar="SCENARIO")

    queueing = add_action(actions, "queue", "queue a recording for upload", _queue)
    queueing.add_argument("path", metavar="FOLDER", type=Path, help="its path, or its name in scenarios_dir")
    queueing.add_argument(
        "--priority",
        choices=[priority.value for priority in Priority],
        default=Priority.NORMAL.value,
        help="how much it matters (default: %(default)s)",
    )

    retrying = add_action(actions, "retry", "try recordings again that were set aside, or wait after a failure", _retry)
    retrying.add_argument("scenario_ids", nargs="*", metavar="SCENARIO")
    retrying.add_argument("--all", action="store_true", help="all of them")
    for action in (queueing, retrying):
        # What is refused is said by the command itself.
        action.set_defaults(default_log_level="error")


async def _list(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    await asyncio.to_thread(tell_if_new, settings)
    async with read(settings, or_empty=True) as books:
        statuses = await books.records.statuses(await conditions(settings, books))
    known = {status["scenario_id"] for status in statuses}
    unheard_of = [
        name for name in await asyncio.to_thread(folder_names, settings.scenarios_dir) if storable(name) not in known
    ]
    found = [status for status in statuses if arguments.status in {None, status["status"]}]
    shown = found[: arguments.limit]
    if arguments.json:
        print_json({"total": len(found), "scenarios": shown})
    elif not shown:
        print_lines(["nothing there" if arguments.status else "no recording was ever queued"])
    else:
        print_lines(table(_HEAD, [_row(status) for status in shown], width=width(), right=_RIGHT))
        if len(found) > len(shown):
            err(f"{len(shown):,} of {count(len(found), 'scenario')} shown: --limit shows more\n")
    if unheard_of and not arguments.json:
        amount = f"{count(len(unheard_of), 'folder')} in cloud.scenarios_dir"
        err(f"{amount} not queued yet: `{program()} scenarios show NAME` says why\n")
    return ExitCode.DONE


async def _show(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with read(settings) as books:
        plan = await _known(settings, books, arguments.scenario_id)
        status = await books.records.status(plan.scenario_id, await conditions(settings, books))
    if arguments.json:
        print_json({**status, "folder": plan.folder, "files": [_part_facts(part) for part in plan.parts]})
        return ExitCode.DONE
    facts = [
        ("scenario", plan.scenario_id),
        ("folder", plan.folder),
        ("status", _word(status["status"])),
        ("reason", status["reason"] or "none"),
        ("now", _now(status) or "nothing is done with it"),
        ("priority", plan.priority.value),
        ("queued", moment(plan.queued_at)),
        ("uploaded", "no" if plan.uploaded_at is None else moment(plan.uploaded_at)),
        ("sent", f"{size(status['sent_bytes'])} of {size(status['total_bytes'])}"),
        ("consent", _consent(plan)),
    ]
    if plan.deleted_at is not None:
        facts.append(("deleted", moment(plan.deleted_at)))
    if plan.warning is not None:
        facts.append(("warning", plan.warning))
    print_lines(pairs(facts))
    if plan.parts:
        print_lines(["", *table(_PARTS, [_part_row(part) for part in plan.parts], width=width(), right=_PARTS_RIGHT)])
    return ExitCode.DONE


async def _queue(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with changed(settings) as books:
        path = await asyncio.to_thread(_named_folder, settings, arguments.path)
        scenario_id = await _take(settings, books, path, Priority(arguments.priority))
        status = await books.records.status(scenario_id, await conditions(settings, books))
    running = await asyncio.to_thread(runs, settings)
    if arguments.json:
        print_json({**status, "agent_running": running})
    elif status["status"] == "uploaded":
        print_lines([f"{scenario_id} was uploaded before: there is nothing to do"])
    else:
        print_lines([f"{scenario_id} is queued, {arguments.priority} priority: {_then(running=running)}"])
    return ExitCode.DONE


def _named_folder(settings: CloudSettings, path: Path) -> Path:
    by_name = settings.scenarios_dir / path
    return by_name if not path.exists() and len(path.parts) == 1 and by_name.is_dir() else path


async def _retry(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    if bool(arguments.scenario_ids) == arguments.all:
        raise CommandError("name the scenarios to retry, or say --all", ExitCode.USAGE)
    async with changed(settings) as books:
        if arguments.all:
            plans = [plan async for plan in books.records.plans()]
        else:
            plans = [
                await _known(settings, books, scenario_id) for scenario_id in dict.fromkeys(arguments.scenario_ids)
            ]
        retried = await books.outbox.retry([key_of(plan.scenario_id) for plan in plans])
        faults: list[str] = []
        for plan in plans:
            # What was refused is not in the queue: its folder is looked at again.
            if plan.refused is not None and plan.deleted_at is None:
                try:
                    await _take(settings, books, Path(plan.folder), plan.priority)
                    retried += 1
                except CommandError as error:
                    faults.append(str(error))
    running = await asyncio.to_thread(runs, settings)
    if arguments.json:
        print_json({"retried": retried, "agent_running": running, "refused": faults})
    else:
        amount = f"{count(retried, 'scenario')} to be tried now: {_then(running=running)}"
        print_lines([amount if retried else "there is nothing to retry", *faults])
    return ExitCode.FAILED if faults else ExitCode.DONE


async def _take(settings: CloudSettings, books: Books, path: Path, priority: Priority) -> str:
    """Queue a recording.

    Raises:
        CommandError: It cannot be queued; the message says why.
    """
    try:
        consent, policy_version = await books.record.load(), settings.policy_version
        return await books.records.take(path, priority, consent=consent, policy_version=policy_version)
    except ConsentError as error:
        raise CommandError(f"{error}; `{program()} consent grant` records that") from None
    except ScenarioError as error:
        raise CommandError(str(error)) from None


async def _known(settings: CloudSettings, books: Books, scenario_id: str) -> ScenarioPlan:
    plan = await books.records.plan(scenario_id)
    if plan is None:
        why = await asyncio.to_thread(why_unheard_of, settings, scenario_id)
        raise CommandError(f"there is no scenario {scenario_id!r} on record: {why}")
    return plan


NOT_COMPLETE = "not complete yet"


def why_unheard_of(settings: CloudSettings, scenario_id: str) -> str:
    """Why an agent has not queued a recording. Blocks."""
    if scenario_id not in folder_names(settings.scenarios_dir):
        return f"never queued, or mistyped? `{program()} scenarios list` has those that were"
    try:
        read_recording(absolute(settings.scenarios_dir) / scenario_id)
    except ScenarioError as error:
        return f"it is in cloud.scenarios_dir, but {NOT_COMPLETE}: {error}"
    return "it is in cloud.scenarios_dir, and complete: with the consent, a running agent queues it"


def _row(status: ScenarioStatus) -> tuple[str, ...]:
    return (
        status["scenario_id"],
        _word(status["status"]),
        status["priority"] or "",
        size(status["total_bytes"]),
        size(status["sent_bytes"]),
        _now(status),
        status["reason"] or status["warning"] or "",
    )


def _word(status: str) -> str:
    return status.replace("_", " ")


def _now(status: ScenarioStatus) -> str:
    """What is being done with it: `uploading bev.mp4 40 %, 1.2 MB/s, 12 s left`."""
    done, total = status["part_bytes"], status["part_total_bytes"]
    if status["phase"] is None or status["part"] is None or done is None or total is None:
        return ""
    words = [f"{status['phase']} {status['part']} {100 * done // max(1, total)} %"]
    if status["rate"] is not None:
        words.append(f"{size(status['rate'])}/s")
    if status["time_left"] is not None:
        words.append(f"{duration(status['time_left'])} left")
    return ", ".join(words)


def _consent(plan: ScenarioPlan) -> str:
    if plan.consent is None:
        return "nothing was sent"
    return f"sent under that of {moment(plan.consent.at)}, policy {plan.consent.policy_version}"


def _part_row(part: Part) -> tuple[str, ...]:
    file = part.file
    return (
        part.name,
        size(part.size_bytes),
        "" if file is None else size(file.size_bytes),
        "" if file is None else file.sha256[:_DIGITS],
        "acknowledged" if part.acknowledged_at is not None else ("begun" if part.began_at is not None else "waiting"),
        "" if file is None else file.note or "",
    )


def _part_facts(part: Part) -> dict[str, object]:
    file = part.file
    return {
        "name": part.name,
        "kind": part.kind.value,
        "size_bytes": part.size_bytes,
        "sent_bytes": None if file is None else file.size_bytes,
        "sha256": None if file is None else file.sha256,
        "derived": file is not None and file.derived_name is not None,
        "note": None if file is None else file.note,
        "acknowledged_at": utc(part.acknowledged_at),
        "granted_at": None if part.consent is None else utc(part.consent.at),
        "policy_version": None if part.consent is None else part.consent.policy_version,
    }


def _then(*, running: bool) -> str:
    return "the running agent takes it up" if running else f"`{program()} once` or the next agent sends it"
