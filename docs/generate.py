"""Puts the site's sources together: the pages here, and those that are made from the code, so that they cannot differ.

python docs/generate.py [FOLDER]       by default build/docs
"""

import argparse
import json
import os
import re
import shutil
import sys
from collections.abc import Iterator
from importlib import import_module
from importlib.resources import files
from pathlib import Path
from typing import Any

import sentinel_sync
from sentinel_sync.cli.arguments import COMMANDS, NAME, CommandParser
from sentinel_sync.settings import CloudSettings

ROOT = Path(__file__).parent.parent
TARGET = Path(sys.argv[1]) if len(sys.argv) > 1 else ROOT / "build" / "docs"
#: Pages of the project's root that the site has too.
COPIES = {"CHANGELOG.md": "changelog.md", "CONTRIBUTING.md": "contributing.md", "SECURITY.md": "security-policy.md"}


def write(path: str, text: str) -> None:
    """Add a page or a file to the site."""
    target = TARGET / path
    target.parent.mkdir(parents=True, exist_ok=True)
    target.write_text(text, encoding="utf-8")


def cell(text: str) -> str:
    """Text for one cell of a table."""
    return text.replace("|", "\\|").replace("\n", " ")


# --- settings ---


def reasons() -> dict[str, tuple[str, str]]:
    """Heading and reason of each key, from the template that `config init` writes."""
    found: dict[str, tuple[str, str]] = {}
    heading, comment, is_told = "", list[str](), False
    template = files("sentinel_sync.settings").joinpath("default.yaml").read_text(encoding="utf-8")
    for line in template.splitlines():
        if (match := re.fullmatch(r"  # --- (.+) ---", line)) is not None:
            heading, comment = match[1], []
        elif (match := re.fullmatch(r"  # ?(.*)", line)) is not None:
            comment = [match[1]] if is_told else [*comment, match[1]]
            is_told = False
        elif (match := re.match(r"  (\w+):", line)) is not None:
            # Keys in a row share what is said above the first.
            found[match[1]] = (heading, " ".join(comment))
            is_told = True
        elif not line.strip():
            comment = []
    return found


def kind(schema: dict[str, Any]) -> str:
    """The type of a key, for people."""
    if "anyOf" in schema:
        return " or ".join(dict.fromkeys(kind(one) for one in schema["anyOf"]))
    if "enum" in schema:
        return " or ".join(f"`{one}`" for one in schema["enum"])
    if "const" in schema:
        return f"`{schema['const']}`"
    name = str(schema.get("format") or schema.get("type") or str(schema.get("$ref", "")).rpartition("/")[2] or "text")
    bounds = [
        f"{sign} {schema[key]}"
        for key, sign in (("minimum", "≥"), ("exclusiveMinimum", ">"), ("maximum", "≤"), ("exclusiveMaximum", "<"))
        if key in schema
    ]
    return " ".join([name, *bounds])


def settings_page() -> Iterator[str]:
    """Every key of the settings model, with its type, default and reason."""
    schema = CloudSettings.model_json_schema()
    known, shown = reasons(), ""
    defaults = CloudSettings().model_dump(mode="json")
    yield "# Settings\n"
    yield "One YAML file, all keys below `cloud:`; `SENTINEL_CLOUD__<KEY>` in the environment overrides each. Made from"
    yield "the settings model and from the template that `config init` writes. Seconds, bytes, requests per second.\n"
    for name, property_schema in sorted(
        schema["properties"].items(), key=lambda item: list(known).index(item[0]) if item[0] in known else len(known)
    ):
        heading, reason = known.get(name, ("others", ""))
        if heading != shown:
            shown = heading
            yield f"\n## {heading[:1].upper()}{heading[1:]}\n\n| key | type | default | |\n| --- | --- | --- | --- |"
        default = json.dumps(defaults.get(name), ensure_ascii=False)
        yield f"| `{name}` | {cell(kind(property_schema))} | `{cell(default)}` | {cell(reason)} |"


# --- commands ---


def commands_page() -> Iterator[str]:
    """Every command's help, as the command prints it."""
    yield "# Commands\n"
    yield "What `--help` prints, of each command; see also [the command line](../command-line.md).\n"
    for name, command in COMMANDS.items():
        top = CommandParser(prog=NAME)
        import_module(command.module).add_parser(top.add_subparsers())
        yield f"\n## {name}\n"
        for one in parsers_below(top):
            yield f"```text\n{one.format_help().rstrip()}\n```\n"


def parsers_below(parser: argparse.ArgumentParser) -> Iterator[argparse.ArgumentParser]:
    """The parsers of a parser's commands, each once, whatever its aliases."""
    for action in parser._actions:  # noqa: SLF001 - argparse has no other way to ask
        if isinstance(action, argparse._SubParsersAction):  # noqa: SLF001
            for one in {id(one): one for one in action.choices.values()}.values():
                yield one
                yield from parsers_below(one)


# --- the Python interface ---


def api_page() -> Iterator[str]:
    """What `from sentinel_sync import …` gives."""
    yield "# Python API\n"
    yield "All that `from sentinel_sync import …` gives. Everything else is the package's own business.\n"
    for module, names in sentinel_sync._NAMES.items():  # noqa: SLF001 - the one list there is
        yield from (f"\n::: {module}.{name}\n" for name in names)


# --- the wire ---


def wire_page(document: dict[str, Any]) -> Iterator[str]:
    """Each operation of the OpenAPI document: what it takes, what it answers, what must be there."""
    yield "# The wire contract, as OpenAPI\n"
    yield "Made from the reference backend's own document, which is [openapi.json](../openapi.json) here,"
    yield "and `/openapi.json` there.\n\n| request | | answers |\n| --- | --- | --- |"
    for path, operations in document["paths"].items():
        for method, operation in operations.items():
            answers = ", ".join(operation["responses"])
            yield f"| `{method.upper()} {cell(path)}` | {cell(operation.get('summary', ''))} | {answers} |"


os.environ["COLUMNS"] = "100"
shutil.rmtree(TARGET, ignore_errors=True)
shutil.copytree(ROOT / "docs", TARGET, ignore=shutil.ignore_patterns("*.py"))
write("reference/settings.md", "\n".join(settings_page()) + "\n")
write("reference/commands.md", "\n".join(commands_page()) + "\n")
write("reference/api.md", "\n".join(api_page()) + "\n")
write("reference/wire.md", "\n".join(wire_page(json.loads((ROOT / "docs" / "openapi.json").read_text()))) + "\n")
for source, target in COPIES.items():
    text = (ROOT / source).read_text(encoding="utf-8")
    write(target, re.sub(r"\]\(docs/", "](", text))
