"""`doctor`: looks at everything that a vehicle needs to send, and says of each thing what to do."""

import argparse
import asyncio
import json
import os
import sys
from collections.abc import AsyncIterator, Callable, Iterator
from dataclasses import asdict

from sentinel_sync.base.errors import ConfigurationError
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import ExitCode
from sentinel_sync.cli.findings import Finding, Level, fail, warn
from sentinel_sync.cli.machine_checks import (
    check_client_certificate,
    check_clock,
    check_ffmpeg,
    check_model_source,
    check_outbox,
    check_settings,
    check_state_folder,
    now,
)
from sentinel_sync.cli.network_checks import check_network
from sentinel_sync.cli.ui.text import Colour, coloured, count, out, printable
from sentinel_sync.settings import CloudSettings, Settings

_COLOURS: dict[Level, Colour] = {Level.OK: "green", Level.WARN: "yellow", Level.FAIL: "red"}
_NAME_WIDTH = 18

Tell = Callable[[Finding], None]


def add_parser(subparsers: Subparsers) -> None:
    """Add `doctor`."""
    parser = subparsers.add_parser(
        "doctor",
        help="check settings, disk, network, clock and credential",
        description="Check settings, disk, outbox, network, TLS, clock and credential; each line says what to do.",
        epilog="exit codes:\n  0  nothing fails (there may be warnings)\n  1  something fails\n",
    )
    # What the checks find is their own to say, not the log's.
    parser.set_defaults(execute=execute, default_log_level="critical")


def execute(arguments: argparse.Namespace) -> int:
    """Check everything; tell each finding as it comes."""
    findings: list[Finding] = []

    def tell(finding: Finding) -> None:
        findings.append(finding)
        if not arguments.json:
            out(line_of(finding) + "\n")
            sys.stdout.flush()

    try:
        settings = Settings.load(arguments.config)  # where they come from is its first finding
    except ConfigurationError as error:
        tell(fail("settings", str(error), "correct the file; configs/default.yaml has every key with its reason"))
    else:
        for finding in check_settings(arguments.config, settings, os.environ):
            tell(finding)
        for finding in _check_machine(settings.cloud):
            tell(finding)
        asyncio.run(_check_network(settings.cloud, tell))
    failed = sum(finding.level is Level.FAIL for finding in findings)
    warned = sum(finding.level is Level.WARN for finding in findings)
    if arguments.json:
        out(json.dumps({"ok": not failed, "checks": [asdict(finding) for finding in findings]}, indent=2))
        out("\n")
    else:
        out(f"\n{count(failed, 'failure')}, {count(warned, 'warning')}\n")
    return ExitCode.FAILED if failed else ExitCode.DONE


def line_of(finding: Finding) -> str:
    """A finding as text: the advice on a line of its own."""
    level = coloured(f"{finding.level:<4}", _COLOURS[finding.level])
    line = f"{level}  {finding.check:<{_NAME_WIDTH}}  {printable(finding.message)}"
    return f"{line}\n{'':<{_NAME_WIDTH + 8}}→ {printable(finding.advice)}" if finding.advice else line


def _check_machine(cloud: CloudSettings) -> Iterator[Finding]:
    yield from check_state_folder(cloud)
    yield from check_outbox(cloud)
    yield check_ffmpeg(cloud)
    yield from check_model_source(cloud)
    yield check_clock(now())
    certificate = check_client_certificate(cloud)
    if certificate is not None:
        yield certificate


async def _check_network(cloud: CloudSettings, tell: Tell) -> None:
    if not cloud.enabled:
        tell(
            warn(
                "network",
                "not checked: while cloud.enabled is false nothing is sent, not even by the doctor",
                "SENTINEL_CLOUD__ENABLED=true before this command checks it without changing the file",
            )
        )
        return
    findings: AsyncIterator[Finding] = check_network(cloud)
    async for finding in findings:
        tell(finding)
