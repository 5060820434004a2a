"""`backend`: looks after what a reference backend keeps: its tables, its keys, its events, and a copy of it all."""

import argparse
import asyncio
import os
import time
from collections.abc import Callable
from contextlib import suppress
from importlib import import_module
from pathlib import Path
from typing import Any

from sentinel_sync.cli.actions import add_command, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.serve import DATABASE_VARIABLE
from sentinel_sync.cli.ui.text import count, moment, printable, table, width

_DAY = 86_400.0
#: A key that ends later than a date can be shown has no end.
_MOST_DAYS = 1e6
_SCOPES = ("vehicle", "read", "publish")


def add_parser(subparsers: Subparsers) -> None:
    """Add `backend` and its actions."""
    actions = add_command(
        subparsers,
        "backend",
        summary="look after what a reference backend keeps: tables, keys, events",
        description="Look after what a reference backend keeps (the extra `backend`; `postgresql` for --database).",
        epilog=f"The address of a database may hold a password: {DATABASE_VARIABLE} is safer than the command line.",
    )
    _add(actions, "migrate", "bring the tables up to date, before the processes that need them are started", _migrate)
    checking = _add(actions, "check", "compare the figures with a recount, and the rows with the files", _check)
    checking.add_argument("--files", metavar="s3://…", help="as `serve` was given it (default: the folder)")
    checking.add_argument("--recount", action="store_true", help="make the figures anew from the trips, then compare")
    adding = _add(actions, "add-key", "make a key and show it, once", _add_key)
    adding.add_argument("name", metavar="NAME", help="by which it is rotated and revoked")
    adding.add_argument(
        "--scope", action="append", required=True, choices=_SCOPES, help="what it is for; may be repeated"
    )
    adding.add_argument("--fleet", metavar="ID", help="only for this fleet (default: any)")
    adding.add_argument("--vehicle", metavar="ID", help="only for this vehicle of it (default: any)")
    adding.add_argument("--days", type=_days, metavar="DAYS", help="for so many days (default: until it is revoked)")
    _add(actions, "list-keys", "show the names of keys and what they allow; never a key", _list_keys)
    rotating = _add(actions, "rotate-keys", "make new keys with what the old ones allow; those end later", _rotate_keys)
    rotating.add_argument("names", metavar="NAME", nargs="+", help="of keys")
    rotating.add_argument(
        "--grace-days", type=_grace, default=7.0, metavar="DAYS", help="until the old ones end (default: %(default)g)"
    )
    revoking = _add(actions, "revoke-key", "end all keys of a name at once", _revoke_key)
    revoking.add_argument("name", metavar="NAME", help="of keys")
    copying = _add(actions, "backup", "copy all that it keeps into a new folder, while it runs", _backup)
    copying.add_argument("target", type=Path, metavar="TARGET", help="a folder that is not there yet")
    relaying = _add(actions, "relay", "take events from the outbox to NATS JetStream until stopped", _relay)
    relaying.add_argument("--nats", required=True, metavar="URL", help="nats://… of a server with JetStream")


def _add(actions: Subparsers, name: str, text: str, execute: Callable[[argparse.Namespace], int]) -> Any:
    parser = actions.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
    parser.add_argument(
        "--folder", type=Path, default=Path("backend"), help="as `serve` was given it (default: %(default)s)"
    )
    parser.add_argument(
        "--database", metavar="postgresql://…", help="as `serve` was given it (default: a file in the folder)"
    )
    parser.set_defaults(execute=execute)
    return parser


def _days(text: str) -> float:
    days = _grace(text)
    if not days:  # a key that has ended before anybody has it
        raise argparse.ArgumentTypeError("must be more than 0 days")
    return days


def _grace(text: str) -> float:
    with suppress(ValueError):
        if 0.0 <= (days := float(text)) < _MOST_DAYS:
            return days
    raise argparse.ArgumentTypeError(f"must be a number of days, at least 0 and below {_MOST_DAYS:,.0f}")


# --- actions ---


def _migrate(arguments: argparse.Namespace) -> int:
    address = _address(arguments)
    if address is None:  # SQLite's tables are brought up to date by whoever opens them
        _in_database(arguments, write=lambda _: None, is_new=True)
    else:
        backend = _module("migrations")
        _told(lambda: backend.migrate(address))
    print_lines(["the tables are up to date"])
    return ExitCode.DONE


def _check(arguments: argparse.Namespace) -> int:
    check, folders = _module("check"), _module("storage").Folders(arguments.folder)
    if arguments.recount:
        _in_database(arguments, write=check.recount)

    async def look(database: Any) -> list[str]:
        found: list[str] = await check.findings(database, *_module("context").kept_files(arguments.files, folders))
        return found

    found = _in_database(arguments, look)
    if arguments.json:
        print_json(found)
    else:
        print_lines([printable(one) for one in found] or ["all fits together"])
    return ExitCode.FAILED if found else ExitCode.DONE


def _add_key(arguments: argparse.Namespace) -> int:
    if arguments.vehicle is not None and arguments.fleet is None:
        raise CommandError("--vehicle needs --fleet: a vehicle's id means something in its fleet", ExitCode.USAGE)
    keys, now = _module("keys"), time.time()
    ends_at = None if arguments.days is None else now + arguments.days * _DAY
    scopes = frozenset(keys.Scope(name) for name in arguments.scope)
    grant = keys.Grant(scopes, arguments.fleet, arguments.vehicle, ends_at)
    made = _in_database(arguments, write=lambda it: keys.issue_key(it, arguments.name, grant, now))
    return _show_keys(arguments, {arguments.name: made})


def _rotate_keys(arguments: argparse.Namespace) -> int:
    keys, grace = _module("keys"), arguments.grace_days * _DAY
    try:
        made = _in_database(arguments, write=lambda it: keys.rotate_keys(it, arguments.names, time.time(), grace))
    except keys.NoSuchKeyError as error:
        raise CommandError(f"{error}: nothing was changed; {_has_names()}") from None
    return _show_keys(arguments, made)


def _has_names() -> str:
    return f"`{program()} backend list-keys` has their names"


def _show_keys(arguments: argparse.Namespace, made: dict[str, str]) -> int:
    if arguments.json:
        print_json(made)
    else:
        print_lines([f"{printable(name)}  {key}" for name, key in made.items()])
    return ExitCode.DONE


def _list_keys(arguments: argparse.Namespace) -> int:
    found = _in_database(arguments, read=_module("keys").list_keys)
    if arguments.json:
        facts = [
            {
                "name": name,
                "scopes": sorted(grant.scopes),
                "fleet_id": grant.fleet_id,
                "vehicle_id": grant.vehicle_id,
                "created_at": made_at,
                "expires_at": grant.expires_at,
            }
            for name, grant, made_at in found
        ]
        print_json(facts)
        return ExitCode.DONE
    rows = [
        (
            printable(name),
            ", ".join(sorted(grant.scopes)),
            printable(grant.fleet_id or "any"),
            printable(grant.vehicle_id or "any"),
            moment(made_at),
            "never" if grant.expires_at is None else moment(grant.expires_at),
        )
        for name, grant, made_at in found
    ]
    head = ("NAME", "FOR", "FLEET", "VEHICLE", "MADE", "ENDS")
    print_lines(table(head, rows, width=width(), right=frozenset()) if rows else ["no key has been made"])
    return ExitCode.DONE


def _revoke_key(arguments: argparse.Namespace) -> int:
    keys = _module("keys")
    ended = _in_database(arguments, write=lambda it: keys.revoke_keys(it, arguments.name))
    if not ended:
        raise CommandError(f"there is no key {arguments.name}: {_has_names()}")
    print_lines([f"{count(ended, 'key')} ended; processes that run notice within {keys.KEPT_SECONDS:.0f} s"])
    return ExitCode.DONE


def _backup(arguments: argparse.Namespace) -> int:
    backup, source = _module("backup"), _module("storage").Folders(arguments.folder)
    is_elsewhere = _address(arguments) is not None
    copied = _in_database(
        arguments, read=lambda rows: backup.backup(source, arguments.target, rows if is_elsewhere else None)
    )
    note = "; its rows are PostgreSQL's to copy: pg_dump, before this" if is_elsewhere else ""
    print_lines([f"{count(copied, 'file')} and all else copied to {arguments.target}{note}"])
    return ExitCode.DONE


def _relay(arguments: argparse.Namespace) -> int:
    relay, jetstream = _module("relay"), _module("jetstream")

    async def run(database: Any) -> None:
        async with jetstream.jetstream(arguments.nats) as stream:
            await relay.Relay(database, stream).run()

    try:
        _told(lambda: asyncio.run(_opened(arguments, run)))
    except relay.StreamUnavailableError as error:
        raise CommandError(str(error), ExitCode.UNAVAILABLE) from None
    return ExitCode.DONE


# --- the way to the database ---


def _in_database(
    arguments: argparse.Namespace, work: Any = None, *, read: Any = None, write: Any = None, is_new: bool = False
) -> Any:
    """What some work with the database, or in a transaction of it, gives."""
    if _address(arguments) is None and not is_new and not (arguments.folder / "backend.sqlite3").exists():
        raise CommandError(f"{arguments.folder} is no folder of a backend: name it with --folder", ExitCode.USAGE)

    async def run(database: Any) -> Any:
        return await (database.write(write) if write is not None else database.read(read))

    return _told(lambda: asyncio.run(_opened(arguments, work or run)))


async def _opened(arguments: argparse.Namespace, run: Any) -> Any:
    folders = _module("storage").Folders(arguments.folder)
    folders.create()
    database = _module("engines").database_at(_address(arguments), folders.database)
    try:
        await database.open()
        return await run(database)
    finally:
        await database.close()


def _told(work: Callable[[], Any]) -> Any:
    """Does it; what keeps a person from it is said in one line."""
    database = _module("database")
    try:
        return work()
    except database.DatabaseUnavailableError as error:
        raise CommandError(f"the database cannot be used: {error}", ExitCode.UNAVAILABLE) from None
    except RuntimeError as error:
        raise CommandError(str(error)) from None
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    except OSError as error:
        raise CommandError(f"the folder cannot be used: {error.strerror or error}", ExitCode.STORE) from None


def _address(arguments: argparse.Namespace) -> str | None:
    return arguments.database or os.environ.get(DATABASE_VARIABLE) or None


def _module(name: str) -> Any:
    try:
        return import_module(f"sentinel_sync.backend.{name}")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sentinel_sync"):
            raise
        extra = {"nats": "events", "alembic": "postgresql", "sqlalchemy": "postgresql"}.get(error.name or "", "backend")
        raise CommandError(
            f"this needs {error.name}: pip install 'sentinel-sync[{extra}]'", ExitCode.UNAVAILABLE
        ) from None
