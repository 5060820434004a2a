"""`consent`: grant, withdraw and show the driver's consent to sending recordings, also while an agent runs."""

import argparse
import asyncio
from collections.abc import Sequence

from sentinel_sync.cli.actions import add_action, add_command, at_least_one, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.offline import changed, read, runs
from sentinel_sync.cli.ui.text import count, err, moment, pairs, size, table, utc, width
from sentinel_sync.scenarios.preparation import DerivedFiles
from sentinel_sync.scenarios.records import DERIVED_NAME
from sentinel_sync.scenarios.rules.lifecycle import WITHDRAWN
from sentinel_sync.scenarios.rules.plan import Consent, missing_consent
from sentinel_sync.scenarios.rules.status import SentPart, sent_under
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.store import DATABASE_NAME

_LIMIT = 50
_DECISIONS = ("DECIDED", "DECISION", "POLICY", "SENT UNDER IT")
_SENT = ("SENT", "SCENARIO", "PART", "SIZE", "ACKNOWLEDGED", "CONSENT OF", "POLICY")
_RIGHT = frozenset({3})
_NO_DECISION = "no decision was ever made: no recording is sent"


def add_parser(subparsers: Subparsers) -> None:
    """Add `consent` and what can be done with it."""
    actions = add_command(
        subparsers,
        "consent",
        summary="grant, withdraw or show the consent to sending recordings",
        description="The driver's consent to sending recordings. Off by default. Works while the agent runs.",
    )
    add_action(actions, "grant", "record that the driver consents, to the policy in force", _grant)
    add_action(actions, "withdraw", "record that the driver does not: nothing is sent any more", _withdraw)
    showing = add_action(actions, "show", "show the decision, those before it, and what was sent under which", _show)
    showing.add_argument(
        "--limit",
        type=at_least_one,
        default=_LIMIT,
        metavar="N",
        help="at most so many sent parts (default: %(default)s)",
    )


async def _grant(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with changed(settings) as books:
        decision = await books.record.record(granted=True, policy_version=settings.policy_version)
    running = await asyncio.to_thread(runs, settings)
    then = "the running agent takes it up" if running else f"an agent sends them: `{program()} run`"
    _tell(
        arguments,
        {**_facts(decision), "agent_running": running},
        [f"granted, to policy {decision.policy_version}: recordings may be sent, {then}"],
    )
    return ExitCode.DONE


async def _withdraw(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with changed(settings) as books:
        queued = len(await books.records.items())
        decision = await books.record.record(granted=False, policy_version=settings.policy_version)
        running = await asyncio.to_thread(runs, settings)
        # What an agent is sending stays its own: it asks twice a second whether it still may, and drops it then.
        await books.records.drop_all(WITHDRAWN)
        # By whom does not matter: a running agent is told at once, and may be the first.
        dropped = queued - len(await books.records.items())
        if not running:
            derived = DerivedFiles(settings.state_dir / DERIVED_NAME, settings.derived_max_bytes)
            await asyncio.to_thread(derived.sweep, ())
    stops = "the running agent stops what it is sending, " if running else ""
    _tell(
        arguments,
        {**_facts(decision), "agent_running": running, "dropped": dropped},
        [f"withdrawn: {stops}{count(dropped, 'recording')} left the queue; the recordings stay where they are"],
    )
    return ExitCode.DONE


async def _show(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    history: list[Consent] = []
    sent: list[SentPart] = []
    decision: Consent | None = None
    # Where no agent has ever run, nobody has decided anything.
    if await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        async with read(settings) as books:
            decision, history = await books.record.load(), await books.record.history()
            sent = await books.records.sent()
    missing = missing_consent(decision, settings.policy_version)
    if arguments.json:
        print_json(
            {
                "in_force": missing is None,
                "reason": missing,
                "policy_version": settings.policy_version,
                "decision": None if decision is None else _facts(decision),
                "history": [_facts(past) for past in history],
                "sent": [_sent_facts(part) for part in sent[: arguments.limit]],
                "sent_total": len(sent),
            }
        )
        return ExitCode.DONE
    facts = [
        ("consent", _NO_DECISION if decision is None else _decision(decision)),
        ("in force", "yes" if missing is None else f"no: {missing}"),
        ("policy", settings.policy_version),
    ]
    print_lines(pairs(facts))
    if history:
        print_lines(["", *table(_DECISIONS, [_row(past, sent) for past in history], width=width(), right=frozenset())])
    if sent:
        rows = [_sent_row(part) for part in sent[: arguments.limit]]
        print_lines(["", *table(_SENT, rows, width=width(), right=_RIGHT)])
    if len(sent) > arguments.limit:
        err(f"{arguments.limit:,} of {count(len(sent), 'sent part')} shown: --limit shows more\n")
    return ExitCode.DONE


def _row(decision: Consent, sent: Sequence[SentPart]) -> tuple[str, ...]:
    under = sent_under(decision, sent)
    amount = f"{count(len(under), 'part')}, {size(sum(part.size_bytes for part in under))}"
    return (
        moment(decision.at),
        "granted" if decision.granted else "withdrawn",
        decision.policy_version,
        amount if decision.granted and under else "nothing",
    )


def _sent_row(part: SentPart) -> tuple[str, ...]:
    return (
        moment(part.sent_at),
        part.scenario_id,
        part.part,
        size(part.size_bytes),
        "yes" if part.acknowledged else "no, begun",
        moment(part.granted_at),
        part.policy_version,
    )


def _decision(decision: Consent) -> str:
    return f"{'granted' if decision.granted else 'withdrawn'} {moment(decision.at)}, policy {decision.policy_version}"


def _facts(decision: Consent) -> dict[str, object]:
    return {"granted": decision.granted, "at": utc(decision.at), "policy_version": decision.policy_version}


def _sent_facts(part: SentPart) -> dict[str, object]:
    return {
        "scenario_id": part.scenario_id,
        "part": part.part,
        "sent_at": utc(part.sent_at),
        "acknowledged": part.acknowledged,
        "size_bytes": part.size_bytes,
        "sha256": part.sha256,
        "granted_at": utc(part.granted_at),
        "policy_version": part.policy_version,
    }


def _tell(arguments: argparse.Namespace, facts: dict[str, object], lines: Sequence[str]) -> None:
    if arguments.json:
        print_json(facts)
    else:
        print_lines(lines)
