"""`once`: send all that waits, then exit. For a timer, a script, or the minute before a vehicle is parked."""

import argparse
import asyncio
import json
from dataclasses import dataclass

from sentinel_sync.agent import SyncAgent
from sentinel_sync.cli.actions import load_settings
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.session import Say, run_agent
from sentinel_sync.cli.ui.text import count, out, printable
from sentinel_sync.status import AgentStatus, RemainingWork

#: So many seconds without a single item sent, and waiting longer is left to the next call.
_PATIENCE = 20.0
_EPILOG = """\
exit codes:
  0   all sent
  75  something is left: waiting for the network, or set aside for a person
"""


@dataclass(frozen=True, slots=True)
class Outcome:
    """What a sync has come to.

    Attributes:
        sent: Items that the backend took.
        counts: What there is now.
        why: Where something is left: what stood in the way, as far as the agent knows.
    """

    sent: int
    counts: RemainingWork
    why: str

    @property
    def left(self) -> int:
        """All that is still to be done."""
        return self.counts.left


def add_parser(subparsers: Subparsers) -> None:
    """Add `once`."""
    parser = subparsers.add_parser(
        "once", help="send all that waits, then exit", description="Send all that waits, then exit.", epilog=_EPILOG
    )
    parser.add_argument(
        "--timeout",
        metavar="SECONDS",
        type=_positive,
        default=None,
        help=f"stop after so long (default: go on for as long as something is sent every {_PATIENCE:.0f} seconds)",
    )
    parser.set_defaults(execute=execute, default_log_level="warning")


def execute(arguments: argparse.Namespace) -> int:
    """Send all and say what came of it."""
    settings = load_settings(arguments)
    outcomes: list[Outcome] = []

    async def work(agent: SyncAgent, stop: asyncio.Event, _: Say) -> int:
        before = await agent.store.outbox.counts()
        sync = asyncio.create_task(_sync_all(agent, arguments.timeout), name="cli.once")
        stopping = asyncio.create_task(stop.wait(), name="cli.stop")
        await asyncio.wait({sync, stopping}, return_when=asyncio.FIRST_COMPLETED)
        stopping.cancel()
        sync.cancel()
        await asyncio.wait({sync, stopping})
        if not sync.cancelled():
            sync.result()
        counts, said = await agent.remaining(), await agent.status()
        outcome = Outcome(counts.acknowledged - before.acknowledged, counts, _why(said))
        outcomes.append(outcome)
        return ExitCode.LEFT if outcome.left else ExitCode.DONE

    code = run_agent(settings, arguments, work, lines=False)
    (outcome,) = outcomes
    out((_json(outcome) if arguments.json else _words(outcome)) + "\n")
    return code


async def _sync_all(agent: SyncAgent, timeout: float | None) -> None:
    """Send for as long as anything is taken: an item, or more of a recording."""
    try:
        async with asyncio.timeout(timeout):
            taken = await _taken(agent)
            while (await agent.run_once(_PATIENCE)).unsent:
                before, now = taken, await _taken(agent)
                # The most so far: a transfer that begins anew again and again is no progress.
                taken = max(before[0], now[0]), max(before[1], now[1])
                if taken == before:
                    return
    except TimeoutError:
        return


async def _taken(agent: SyncAgent) -> tuple[int, int]:
    """How many items the backend took, ever, and how much of recordings, bytes."""
    counts, recordings = await agent.store.outbox.counts(), await agent.scenarios.get_scenarios()
    return counts.acknowledged, sum(recording["sent_bytes"] for recording in recordings)


def _why(said: AgentStatus) -> str:
    """What stood in the way, as far as the agent knows."""
    gate = said.connectivity
    if gate.gate != "open":
        return gate.gate_reason
    return "the time was over; the next call goes on from there" if gate.status == "online" else gate.message


def _words(outcome: Outcome) -> str:
    counts = outcome.counts
    lines = [f"{count(outcome.sent, 'item')} sent; {'nothing is left' if not outcome.left else 'not all'}"]
    if counts.unsent:
        lines.append(f"{count(counts.unsent, 'item')} still to be sent: {printable(outcome.why)}")
    if counts.set_aside:
        lines.append(
            f"{count(counts.set_aside, 'item')} set aside: `{program()} queue list --state set_aside` tells why"
        )
    for number, one, many in (
        (counts.recordings, "recording is not whole yet, or still changes", "recordings are not whole yet"),
        (counts.profiles, "driver profile is still to be synced", "driver profiles are still to be synced"),
        (counts.orders, "order is still to be carried out", "orders are still to be carried out"),
    ):
        if number:
            lines.append(count(number, one, many))
    return "\n".join(lines)


def _json(outcome: Outcome) -> str:
    counts = outcome.counts
    return json.dumps(
        {
            "sent": outcome.sent,
            "left": outcome.left,
            "waiting": counts.unsent,
            "set_aside": counts.set_aside,
            "recordings": counts.recordings,
            "profiles": counts.profiles,
            "orders": counts.orders,
            "why": outcome.why if outcome.left else None,
        }
    )


def _positive(text: str) -> float:
    seconds = float(text)
    if not seconds > 0.0:
        raise argparse.ArgumentTypeError("must be more than 0")
    return seconds
