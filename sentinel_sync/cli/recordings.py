"""`fleet recordings|want`: what vehicles have announced to the reference backend, and asking for its files."""

import argparse
from collections.abc import Mapping
from contextlib import suppress
from datetime import datetime
from http import HTTPMethod, HTTPStatus
from typing import Any

from sentinel_sync.cli.actions import add_action, at_least_one, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import moment, printable, size, table, width
from sentinel_sync.cloud.client import CloudAPIClient, quote_id
from sentinel_sync.cloud.request import Request
from sentinel_sync.settings import CloudSettings

_HEAD = ("RECORDING", "ANNOUNCED", "STATE", "SIZE", "HERE", "FILES")
_RIGHT = frozenset({3})
_REFUSED = frozenset({400, 403, 404, 422})


def add_recordings(actions: Subparsers) -> None:
    """Add `fleet recordings` and `fleet want`."""
    listing = add_action(actions, "recordings", "what a vehicle has announced, and what of it is here", _list)
    listing.add_argument("vehicle", nargs="?", metavar="VEHICLE", help="its id (default: this vehicle)")
    listing.add_argument(
        "--limit",
        type=at_least_one,
        default=100,
        metavar="N",
        help="at most so many, the newest (default: %(default)s)",
    )
    wanting = add_action(actions, "want", "ask a vehicle for a recording that it has announced", _want)
    wanting.add_argument("vehicle", metavar="VEHICLE", help="its id")
    wanting.add_argument("recording", metavar="RECORDING", help="its id, as `fleet recordings` shows it")
    wanting.add_argument(
        "--file", dest="files", action="append", metavar="NAME", help="only this file; may be repeated (default: all)"
    )


async def _list(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    vehicle = arguments.vehicle or settings.vehicle_id
    query = {"fleet_id": settings.fleet_id, "vehicle_id": vehicle, "limit": arguments.limit}
    answer = await _answered(settings, HTTPMethod.GET, "/scenarios", query)
    listed = answer.get("scenarios") if isinstance(answer, Mapping) else None
    if not isinstance(listed, list):
        raise CommandError("the backend's answer is no list of recordings")
    found = [facts for one in listed if isinstance(one, Mapping) and (facts := _facts(one)) is not None]
    if arguments.json:
        print_json(found)
    elif found:
        print_lines(table(_HEAD, [_row(one) for one in found], width=width(), right=_RIGHT))
    else:
        print_lines([printable(f"vehicle {vehicle} of fleet {settings.fleet_id} has announced no recording")])
    return ExitCode.DONE


async def _want(settings: CloudSettings, arguments: argparse.Namespace) -> int:
    query = {"vehicle_id": arguments.vehicle, "file": arguments.files or []}
    await _answered(settings, HTTPMethod.PUT, f"/scenarios/{quote_id(arguments.recording)}/wanted", query)
    what = ", ".join(arguments.files) if arguments.files else "all files"
    if arguments.json:
        print_json({"scenario_id": arguments.recording, "vehicle_id": arguments.vehicle, "files": arguments.files})
    else:
        said = f"{arguments.recording} is wanted ({what}): vehicle {arguments.vehicle} is told at its next report"
        print_lines([printable(said)])
    return ExitCode.DONE


async def _answered(settings: CloudSettings, method: HTTPMethod, path: str, query: Mapping[str, Any]) -> Any:
    async with CloudAPIClient(settings=settings) as client:
        if not settings.enabled:
            client.halt("disabled", "cloud.enabled is false")
        reply = await client.ask(Request.of(method, path, params=query, takes=_REFUSED))
    if reply.status not in _REFUSED:
        return reply.data
    problem = reply.data if isinstance(reply.data, Mapping) else {}
    why = str(problem.get("detail") or problem.get("title") or HTTPStatus(reply.status).phrase)
    if reply.status == HTTPStatus.FORBIDDEN:
        why += "; cloud.api_key must be one with the scope `read`, for this fleet (`backend add-key NAME --scope read`)"
    elif str(problem.get("type", "")).endswith("not-found") or not problem:
        why += "; the reference backend alone has this, `want` only with `serve --extension scenario-catalogue`"
    raise CommandError(printable(f"the backend did not do it: {reply.status} {why}"))


def _facts(listed: Mapping[str, Any]) -> dict[str, Any] | None:
    """One recording as it is shown; None where the entry names none."""
    parts = [one for one in listed.get("parts") or [] if isinstance(one, Mapping)]
    here = {str(one.get("name")): one.get("size") for one in parts}
    if not isinstance(listed.get("scenario_id"), str):
        return None
    return {
        "scenario_id": listed["scenario_id"],
        "announced_at": listed.get("received_at"),
        "state": listed.get("state") or ("complete" if listed.get("complete") else "announced"),
        "priority": listed.get("priority"),
        "size": sum(one for one in here.values() if isinstance(one, int)),
        "files": [
            {"name": name, "size": here.get(name)} for name in sorted({*here, *map(str, listed.get("missing") or [])})
        ],
    }


def _row(facts: Mapping[str, Any]) -> tuple[str, ...]:
    announced = str(facts["announced_at"] or "")
    with suppress(ValueError):
        announced = moment(datetime.fromisoformat(announced).timestamp())
    files = facts["files"]
    here = sum(one["size"] is not None for one in files)
    return (
        printable(facts["scenario_id"]),
        printable(announced),
        printable(str(facts["state"])),
        size(facts["size"]) if here else "",
        f"{here} of {len(files)}",
        printable(", ".join(one["name"] for one in files)),
    )
