"""`config`: write a settings file to begin with, check one, show what counts and why, or its JSON Schema."""

import argparse
import json
import os
from importlib.resources import files
from pathlib import Path

from sentinel_sync.cli.actions import add_command, print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers, program
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import count, table, width
from sentinel_sync.settings import CloudSettings
from sentinel_sync.settings.reading import Setting, explained_settings

_HEAD = ("KEY", "VALUE", "FROM")
#: The settings template, in the package.
_TEMPLATE = "default.yaml"


def add_parser(subparsers: Subparsers) -> None:
    """Add `config` and what can be done with it."""
    actions = add_command(
        subparsers,
        "config",
        summary="write, check or show the settings",
        description="Write a settings file with every key, its default and its reason; check one; show what counts.",
    )
    making = actions.add_parser("init", help="write a settings file to begin with", description=_INIT)
    making.add_argument("file", metavar="FILE", type=Path, help="where it is to be; nothing is overwritten")
    making.set_defaults(execute=_init)
    checking = actions.add_parser("check", help="check the settings", description=_CHECK)
    checking.set_defaults(execute=_check)
    showing = actions.add_parser("show", help="show each key, its value and where that comes from", description=_SHOW)
    showing.add_argument(
        "--set", action="store_true", dest="only_set", help="only what is set to something else than its default"
    )
    showing.set_defaults(execute=_show)
    schema = actions.add_parser("schema", help="print the JSON Schema of the file, for editors", description=_SCHEMA)
    schema.set_defaults(execute=_schema)


_INIT = "Write a settings file with every key, its default and its reason, readable by its owner only."
_CHECK = "Check the settings file and the environment; code 2 where they cannot be used."
_SHOW = """\
Show each key, its value as it counts, and the line or variable that sets it. Secrets are not shown. With --set only
what the file or the environment sets to something else than its default: the file of `config init` has every key.
"""
_SCHEMA = "Print the JSON Schema of the settings file, by which editors complete and check it."


def _init(arguments: argparse.Namespace) -> int:
    path: Path = arguments.file
    template = files("sentinel_sync.settings").joinpath(_TEMPLATE).read_text(encoding="utf-8")
    try:
        descriptor = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o600)
        with os.fdopen(descriptor, "w", encoding="utf-8") as file:
            file.write(template)
    except FileExistsError:
        raise CommandError(f"{path} is there already, and is left as it is") from None
    except OSError as error:
        raise CommandError(f"{path} cannot be written ({error.strerror})") from None
    told = f"{path} is written: set api_url, vehicle_id, fleet_id and a key in it, then enabled: true"
    print_lines([told, f"`{program()} doctor --config {path}` says what is still wrong"])
    return ExitCode.DONE


def _check(arguments: argparse.Namespace) -> int:
    said = [setting for setting in explained_settings(arguments.config) if setting.origin is not None]
    chosen = sum(map(_is_chosen, said))
    if arguments.json:
        print_json({"file": _named(arguments.config), "usable": True, "set": len(said), "changed": chosen})
    else:
        where = "no file" if arguments.config is None else str(arguments.config)
        of_others = "all others have their defaults"
        print_lines([f"the settings can be used: {where}; {count(chosen, 'key')} set, {of_others}"])
    return ExitCode.DONE


def _show(arguments: argparse.Namespace) -> int:
    settings = [it for it in explained_settings(arguments.config) if _is_chosen(it) or not arguments.only_set]
    if arguments.json:
        print_json([{"key": it.key, "value": it.value, "from": it.origin or "default"} for it in settings])
    elif settings:
        print_lines(table(_HEAD, [_row(setting) for setting in settings], width=width(), right=frozenset()))
    else:
        print_lines(["nothing is set to something else than its default"])
    return ExitCode.DONE


def _is_chosen(setting: Setting) -> bool:
    """Whether somebody decided on it: the template of `config init` says every key, and decides on none."""
    return setting.origin is not None and not setting.is_default


def _schema(_: argparse.Namespace) -> int:
    print_json({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Settings of sentinel_sync",
        "type": "object",
        "properties": {"cloud": {"$ref": "#/$defs/CloudSettings"}},
        "$defs": _definitions(),
    })  # fmt: skip
    return ExitCode.DONE


def _definitions() -> dict[str, object]:
    schema = CloudSettings.model_json_schema(ref_template="#/$defs/{model}")
    inner = schema.pop("$defs", {})
    return {**inner, "CloudSettings": schema}


def _row(setting: Setting) -> tuple[str, ...]:
    value = setting.value if isinstance(setting.value, str) else json.dumps(setting.value)
    return setting.key, value, setting.origin or "default"


def _named(path: Path | None) -> str | None:
    return None if path is None else str(path)
