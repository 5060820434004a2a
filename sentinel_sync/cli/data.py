"""`data`: what this vehicle holds of one driver, readable, and its erasure, with a record of what was done."""

import argparse
import asyncio
import json
import os
import sys
import time
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from pydantic import TypeAdapter

from sentinel_sync.base.privacy import pseudonym
from sentinel_sync.cli.actions import add_action, add_command, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.offline import Books, agent_runs, beside_agent, looked_into, opened, without_agent
from sentinel_sync.cli.profiles import WAIT_SECONDS, checked_driver, forgotten_beside_agent
from sentinel_sync.cli.ui.text import count, err, moment, out, printable, table, utc, width
from sentinel_sync.profiles.records import SyncState
from sentinel_sync.settings import CloudSettings
from sentinel_sync.store.documents import Documents
from sentinel_sync.store.outbox import ItemState, Outbox, OutboxItem
from sentinel_sync.store.store import DATABASE_NAME
from sentinel_sync.trips.trip_uploader import KIND as TRIP
from sentinel_sync.trips.trip_uploader import open_trip

_HEAD = ("WHAT", "DONE", "NOTE")
_ALL = 1_000_000
_ERASURE = "erasure"
_TRIPS_NOTE = "a trip is kept here until the backend has it: trips that were sent are there alone, under the pseudonym"
_NO_PSEUDONYM = "trips carry no driver: the fleet has no pseudonym key"
_RECORDINGS_NOTE = "a recording tells of no driver; what was sent of any, and under which consent, is in this list"
_NOT_OFFERED = "no backend offers to erase trips (wire contract): ask its operator, with the pseudonym"


@dataclass(frozen=True, slots=True)
class Step:
    """One part of an erasure.

    Attributes:
        what: What was to be erased.
        done: Whether it is; None where nobody can say yet.
        note: For a person.
    """

    what: str
    done: bool | None
    note: str


_STEPS = TypeAdapter(list[dict[str, Any]])


def add_parser(subparsers: Subparsers) -> None:
    """Add `data` and what can be done with it."""
    actions = add_command(
        subparsers,
        "data",
        summary="export or erase what this vehicle holds of one driver",
        description="What this vehicle holds of one driver. Works while the agent runs.",
    )
    exporting = add_action(actions, "export", "write all of it, readable, as JSON", _export)
    exporting.add_argument("driver", type=checked_driver, metavar="DRIVER", help="the vehicle's own id of the driver")
    exporting.add_argument("--out", type=Path, metavar="FILE", help="write it here, readable by its owner only")
    erasing = add_action(actions, "erase", "erase all of it, here and where the backend offers that", _erase)
    erasing.add_argument("driver", type=checked_driver, metavar="DRIVER", help="the vehicle's own id of the driver")
    erasing.add_argument("--yes", action="store_true", help="do not ask")


# --- export ---


async def _export(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    driver_id: str = arguments.driver
    async with looked_into(settings) as overview:
        summary = await overview.one(driver_id)
        references = await overview.references(driver_id)
    known_as = await _pseudonym(settings, driver_id)
    held: dict[str, Any] = {
        "driver_id": driver_id,
        "vehicle_id": settings.vehicle_id,
        "exported_at": utc(time.time()),
        "pseudonym": known_as,
        "profile": dict(summary.profile) if summary.profile else None,
        "profile_state": None if summary.standing is SyncState.UNKNOWN else summary.standing.value,
        "profile_sent": [],
        "trip_under_way": None,
        "trips": [],
        "trips_note": _TRIPS_NOTE if known_as else _NO_PSEUDONYM,
        "recordings_sent": [],
        "consents": [],
        "recordings_note": _RECORDINGS_NOTE,
    }
    if await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        async with opened(settings, writable=False) as folder:
            books = Books.of(settings, folder.outbox, folder.documents)
            held["trip_under_way"] = await _trip_under_way(folder.documents, known_as)
            held["trips"] = [json.loads(item.body) for item in await _trips(folder.outbox, known_as)]
            held["profile_sent"] = [
                {"at": utc(item.at), "size_bytes": item.size_bytes}
                for item in await folder.outbox.sent()
                if item.kind == "profile" and item.key in references
            ]
            held["recordings_sent"] = [
                asdict(part) | {"sent_at": utc(part.sent_at), "granted_at": utc(part.granted_at)}
                for part in await books.records.sent()
            ]
            held["consents"] = [
                asdict(decision) | {"at": utc(decision.at)} for decision in await books.record.history()
            ]
    text = json.dumps(held, indent=2, ensure_ascii=False) + "\n"
    if arguments.out is None:
        out(text)
    else:
        await asyncio.to_thread(_write, arguments.out, text)
        print_lines([f"{arguments.out} is written: keep it as safe as the driver's own papers"])
    return ExitCode.DONE


def _write(path: Path, text: str) -> None:
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
    except FileExistsError:
        raise CommandError(f"{path} is there already, and is left as it is") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror})") from None
    with os.fdopen(descriptor, "w", encoding="utf-8") as file:
        file.write(text)


async def _pseudonym(settings: CloudSettings, driver_id: str) -> str | None:
    return pseudonym(driver_id, await settings.read_pseudonym_key())


async def _trip_under_way(documents: Documents, known_as: str | None) -> str | None:
    """The id of the trip under way, where it carries this pseudonym."""
    trip = None if known_as is None else await open_trip(documents)
    return trip.trip_id if trip is not None and trip.driver == known_as else None


async def _trips(outbox: Outbox, known_as: str | None) -> list[OutboxItem]:
    """Trips in the outbox that carry a pseudonym."""
    if known_as is None:
        return []
    found = []
    for item in await outbox.items(kind=TRIP, limit=_ALL):
        try:
            body = json.loads(item.body)
        except ValueError:
            continue
        if isinstance(body, dict) and body.get("driver_id") == known_as:
            found.append(item)
    return found


# --- erase ---


async def _erase(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    driver_id: str = arguments.driver
    if not arguments.yes and not await asyncio.to_thread(_may_erase, driver_id):
        print_lines(["nothing was erased"])
        return ExitCode.FAILED
    known_as = await _pseudonym(settings, driver_id)
    steps = [*await _erase_profile(settings, driver_id), *await _erase_trips(settings, known_as)]
    steps.append(Step("recordings", None, "they tell of no driver: `consent withdraw` ends what waits to be sent"))
    await _put_on_record(settings, driver_id, steps)
    if arguments.json:
        print_json({"driver_id": driver_id, "pseudonym": known_as, "steps": [asdict(step) for step in steps]})
    else:
        print_lines(table(_HEAD, [_row(step) for step in steps], width=width(), right=frozenset()))
        print_lines([f"on record since {moment(time.time())}"])
    return ExitCode.DONE if all(step.done is not False for step in steps) else ExitCode.LEFT


async def _erase_profile(settings: CloudSettings, driver_id: str) -> list[Step]:
    async with looked_into(settings) as overview:
        is_known = (await overview.one(driver_id)).standing is not SyncState.UNKNOWN
        references = await overview.references(driver_id)
    if not is_known:
        return [Step("profile on this vehicle", True, "there was none")]
    if await agent_runs(settings):
        told = await forgotten_beside_agent(settings, driver_id, WAIT_SECONDS)
    else:
        async with without_agent(settings) as profiles:
            told = await profiles.forget_profile(driver_id)
    async with opened(settings, writable=True) as folder:
        await folder.outbox.forget_sent("profile", references)
    return [
        Step("profile on this vehicle", True, "file and merge state are gone; what was sent of it is off the record"),
        Step(
            "profile at the backend",
            told,
            "the backend has confirmed it" if told else "ordered; the backend has not confirmed it yet",
        ),
    ]


async def _erase_trips(settings: CloudSettings, known_as: str | None) -> list[Step]:
    if known_as is None:
        return [Step("trips", True, _NO_PSEUDONYM)]
    dropped, left, under_way = 0, 0, None
    if await asyncio.to_thread((settings.state_dir / DATABASE_NAME).is_file):
        async with opened(settings, writable=True) as folder:
            items = await _trips(folder.outbox, known_as)
            waiting = [item.key for item in items if item.state is not ItemState.SENDING]
            dropped = await folder.outbox.drop(waiting, reason="erased") if waiting else 0
            left = len(await _trips(folder.outbox, known_as))
            under_way = await _trip_under_way(folder.documents, known_as)
    note = f"{count(dropped, 'trip')} erased" + (
        f"; {count(left, 'trip')} just being sent: again later" if left else ""
    )
    if under_way is not None:
        note += "; one is under way: erase again once it has ended"
    return [
        Step("trips that wait on this vehicle", left == 0 and under_way is None, note),
        Step("trips at the backend", None, f"{_NOT_OFFERED} {known_as}"),
    ]


async def _put_on_record(settings: CloudSettings, driver_id: str, steps: Sequence[Step]) -> None:
    """Keep what was done, under the driver's keyed reference and the time: of whom, only the keys can tell."""
    async with beside_agent(settings) as books:
        reference = (await books.cipher.keyring()).reference(driver_id)
        key = f"{reference}:{utc(time.time())}"
        await books.documents.save(_ERASURE, key, [asdict(step) for step in steps], _STEPS)


def _row(step: Step) -> tuple[str, ...]:
    return step.what, {True: "yes", False: "not yet", None: "not by us"}[step.done], step.note


def _may_erase(driver_id: str) -> bool:
    if not sys.stdin.isatty():
        raise CommandError("erasing is for good: say --yes where nobody can be asked", ExitCode.USAGE)
    err(f"Erase all that this vehicle holds of {printable(driver_id)}, for good? [y/N] ")
    sys.stderr.flush()
    return sys.stdin.readline().strip().lower() in {"y", "yes"}
