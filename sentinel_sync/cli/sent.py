"""`sent`: what left the vehicle, when, how many bytes, and under which consent."""

import argparse
import asyncio
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from datetime import datetime

from sentinel_sync.cli.actions import at_least_one, load_settings, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.offline import Books, opened, tell_if_new
from sentinel_sync.cli.ui.tables import Sheet, as_csv
from sentinel_sync.cli.ui.text import err, moment, out, size, table, utc, width
from sentinel_sync.scenarios.rules.status import SentPart
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.outbox import SentItem

_HEAD = ("SENT", "KIND", "NAME", "SIZE", "ACKNOWLEDGED", "CONSENT")
_RIGHT = frozenset({3})
_LIMIT = 50
#: Trips are coarse and pseudonymous, profiles sealed: neither needs the consent that recordings do (docs/privacy.md).
_NO_CONSENT = "none needed"


@dataclass(frozen=True, slots=True)
class Sent:
    """Something that left the vehicle. Times are seconds since the epoch.

    Attributes:
        kind: "trip", "profile", "recording", or a kind of the host's own.
        name: A trip's id, a profile's reference as in the log, a recording and its part.
        at: When the backend acknowledged it, or else when sending it was last begun.
        acknowledged: Whether the backend has it whole, as far as is known here.
        granted_at: When the consent was given that it went under; None where none is needed.
        policy_version: The policy that the consent was given to.
    """

    kind: str
    name: str
    at: float
    size_bytes: int
    acknowledged: bool
    granted_at: float | None = None
    policy_version: str | None = None

    @classmethod
    def item(cls, item: SentItem) -> "Sent":
        """Something of the outbox, or a profile."""
        name = item.key[:8] if item.kind == "profile" else item.key
        return cls(item.kind, name, item.at, item.size_bytes, acknowledged=True)

    @classmethod
    def part(cls, part: SentPart) -> "Sent":
        """A part of a recording."""
        name = f"{part.scenario_id} {part.part}"
        return cls(
            "recording", name, part.sent_at, part.size_bytes, part.acknowledged, part.granted_at, part.policy_version
        )


def add_parser(subparsers: Subparsers) -> None:
    """Add `sent`."""
    parser = subparsers.add_parser(
        "sent",
        help="show what left the vehicle, when, and under which consent",
        description="What left the vehicle, newest first: the last 20,000 trips and profiles, and every recording.",
    )
    period = parser.add_mutually_exclusive_group()
    period.add_argument("--today", action="store_true", help="only since midnight, in this machine's zone")
    period.add_argument(
        "--since", type=_instant, metavar="WHEN", help="only since then: 2026-11-28, or 2026-11-28T08:00:00+01:00"
    )
    parser.add_argument("--csv", action="store_true", help="all of it as comma-separated values, for a spreadsheet")
    parser.add_argument(
        "--limit", type=at_least_one, default=_LIMIT, metavar="N", help="at most so many (default: %(default)s)"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Show it."""
    since = _midnight(time.time()) if arguments.today else arguments.since or 0.0
    sent = asyncio.run(_sent(load_settings(arguments).cloud, since))
    shown = sent[: arguments.limit]
    total_bytes = sum(one.size_bytes for one in sent)
    if arguments.csv:
        out(_as_csv(sent) + "\n")
    elif arguments.json:
        print_json({"total": len(sent), "total_bytes": total_bytes, "sent": [_facts(one) for one in shown]})
    elif not sent:
        print_lines(["nothing was sent" + (" since then" if since else "")])
    else:
        print_lines(table(_HEAD, [_row(one) for one in shown], width=width(), right=_RIGHT))
        err(f"{len(shown):,} of {len(sent):,} shown, {size(total_bytes)} in all\n")
    return ExitCode.DONE


async def _sent(settings: CloudSettings, since: float) -> list[Sent]:
    await asyncio.to_thread(tell_if_new, settings)
    async with opened(settings, writable=False, or_empty=True) as folder:
        items = await folder.outbox.sent(since)
        parts = await Books.of(settings, folder.outbox, folder.documents).records.sent()
    found = [Sent.item(item) for item in items] + [Sent.part(part) for part in parts if part.sent_at >= since]
    return sorted(found, key=lambda one: one.at, reverse=True)


def _row(one: Sent) -> Sequence[str]:
    consent = _NO_CONSENT
    if one.granted_at is not None:
        consent = f"of {moment(one.granted_at)}, policy {one.policy_version}"
    return (
        moment(one.at), one.kind, one.name, size(one.size_bytes), "yes" if one.acknowledged else "no, begun", consent
    )  # fmt: skip


def _facts(one: Sent) -> dict[str, object]:
    return {**asdict(one), "at": utc(one.at), "granted_at": utc(one.granted_at)}


def _as_csv(sent: Sequence[Sent]) -> str:
    columns = tuple(Sent.__dataclass_fields__)
    return as_csv(Sheet(columns, tuple(tuple(_facts(one).values()) for one in sent)))


def _midnight(now: float) -> float:
    here = datetime.fromtimestamp(now).astimezone()
    return here.replace(hour=0, minute=0, second=0, microsecond=0).timestamp()


def _instant(text: str) -> float:
    try:
        return datetime.fromisoformat(text).astimezone().timestamp()
    except (ValueError, OverflowError):
        raise argparse.ArgumentTypeError(f"{text!r} is no date or time such as 2026-11-28") from None
