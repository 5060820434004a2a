"""`network`: what the network is like, by whose word, and how much data was used; and a technician's own word."""

import argparse
import asyncio
import json
import time

from sentinel_sync.base.clock import SystemClock
from sentinel_sync.cli.actions import add_action, add_command, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.offline import last_said, opened, runs
from sentinel_sync.cli.ui.text import from_now, pairs, table, width
from sentinel_sync.network.policy import TransferPolicy, load_operator_override, save_operator_override
from sentinel_sync.network.rules.budget import NetworkStatus, Period, data_size
from sentinel_sync.network.rules.traffic import Link, Metering, NetworkChoice
from sentinel_sync.settings import CloudSettings

_HEAD = ("LINK", "PERIOD", "USED", "BUDGET", "LEFT", "BEGINS ANEW")
_RIGHT = frozenset({2, 3, 4})
_EPILOG = """\
Your word goes before the host's, the settings' (cloud.network) and NetworkManager's. It stands, also over a restart,
until `network auto` takes it back. The data budget (cloud.data_budget) holds whatever is said here.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `network` and what can be said of it."""
    actions = add_command(
        subparsers,
        "network",
        summary="show or say what the network may cost",
        description="What the network is like and what that holds up. Works while the agent runs.",
        epilog=_EPILOG,
    )
    add_action(actions, "show", "show the network, the data used, and what waits for what", _show)
    for metering, text in (
        (Metering.METERED, "the network is metered: recordings and models wait"),
        (Metering.UNMETERED, "the network is not metered: everything may go"),
        (Metering.AUTO, "take it back: the host, the settings or NetworkManager know"),
    ):
        saying = add_action(actions, metering.value, text, _say)
        links = [str(link) for link in Link]
        saying.add_argument("--link", choices=links, metavar="LINK", help=f"what carries it: {', '.join(links)}")


async def _say(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    metering, link = Metering(arguments.action), None if arguments.link is None else Link(arguments.link)
    async with opened(settings, writable=True) as folder:
        await save_operator_override(folder.documents, metering, link)
    running = await asyncio.to_thread(runs, settings)
    if arguments.json:
        print_lines([json.dumps({"metering": metering, "link": link, "agent_running": running})])
        return ExitCode.DONE
    said = "nothing is said of its price" if metering is Metering.AUTO else f"the network counts as {metering}"
    carried = "" if link is None else f", the link as {link}"
    then = "the running agent notices at once" if running else "the next agent goes by it"
    until = f"until `{program()} network auto`"
    taken_back = metering is Metering.AUTO and link is None
    print_lines([f"taken back: {then}" if taken_back else f"{said}{carried}, {until}: {then}"])
    return ExitCode.DONE


async def _show(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    async with opened(settings, writable=False) as folder:
        word = await load_operator_override(folder.documents)
        policy = TransferPolicy(folder.documents, settings, clock=SystemClock(), owner=False)
        await policy.prepare()
        snapshot = policy.snapshot()
        await policy.close()
    running = await asyncio.to_thread(runs, settings)
    report = await asyncio.to_thread(last_said, settings) if running else None
    if report is not None and report.traffic is not None:
        snapshot = _as_said(snapshot, report.traffic)
    if arguments.json:
        print_lines([_json(snapshot, word, running=running)])
    else:
        print_lines([*pairs(_facts(snapshot, running=running)), "", *_table(snapshot)])
    return ExitCode.DONE


def _as_said(snapshot: NetworkStatus, said: NetworkStatus) -> NetworkStatus:
    """What a running agent knows better: it hears its host, and knows whether a trip is under way."""
    heard = {"link": said.link, "metered": said.metered, "source": said.source, "held": said.held}
    return snapshot.model_copy(update=heard)


def _facts(snapshot: NetworkStatus, *, running: bool) -> list[tuple[str, str]]:
    metered = "metered" if snapshot.metered else "not metered"
    facts = [
        ("network", f"{metered} ({snapshot.source})"),
        ("link", snapshot.link),
        ("agent", "running" if running else "not running: as this command sees it"),
    ]
    waiting = list(snapshot.held.values()) or ["nothing has to"]
    return facts + [("" if number else "waits", why) for number, why in enumerate(waiting)]


def _table(snapshot: NetworkStatus) -> list[str]:
    now = time.time()
    rows = [
        (
            use.link,
            use.period,
            data_size(use.used_bytes),
            data_size(use.limit_bytes),
            data_size(max(0, use.limit_bytes - use.used_bytes)),
            from_now(use.resets_at - now),
        )
        for use in snapshot.budgets
    ]
    bounded = {(use.link, use.period) for use in snapshot.budgets}
    rows += [
        (use.link, period, data_size(used), "none", "", "")
        for use in snapshot.usage
        for period, used in ((Period.DAY, use.day_bytes), (Period.MONTH, use.month_bytes))
        if (use.link, period) not in bounded
    ]
    return table(_HEAD, rows, width=width(), right=_RIGHT) if rows else ["no data was used in this month"]


def _json(snapshot: NetworkStatus, word: NetworkChoice | None, *, running: bool) -> str:
    return json.dumps(
        {
            "agent_running": running,
            **snapshot.model_dump(),
            "word": None if word is None else {"metering": word.metering, "link": word.link},
        }
    )
