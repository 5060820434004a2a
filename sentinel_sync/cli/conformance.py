"""`conformance`: judge a backend by the wire contract, row by row."""

import argparse
import asyncio
from pathlib import Path

from sentinel_sync.cli.actions import print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.backend_access import KEY_NOTE, add_credential, way_to_backend
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import out, printable
from sentinel_sync.conformance.output import as_json, as_junit, evidence, hint, line, summary
from sentinel_sync.conformance.run import CHECKS, Finding, Verdict

_DESCRIPTION = """\
Try the whole wire contract against a backend, extension by extension, and print what is met and what is not, with the
request and the answer that showed it. It works with a fleet and a vehicle of its own (conformance_…), so that what it
sends is nobody's; it deletes its profile where the backend can. Code 1 where something required is missed.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `conformance`."""
    parser = subparsers.add_parser(
        "conformance", help="judge a backend by the wire contract", description=_DESCRIPTION, epilog=KEY_NOTE
    )
    parser.add_argument("url", metavar="URL", help="of the backend; https, but for a loopback address")
    add_credential(parser, "one that a vehicle may use")
    parser.add_argument("--fleet-id", metavar="ID", help="where the key is good for one fleet and vehicle alone: these")
    parser.add_argument("--vehicle-id", metavar="ID", help="a test bench's; what the run sends is counted for it")
    parser.add_argument("--only", default="", metavar="TEXT", help="only checks whose name has this in it")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit's XML there, for a CI server")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Judge it."""
    from sentinel_sync.conformance.judge import judge  # noqa: PLC0415 - no other command needs it

    url, key, verify = way_to_backend(arguments, "a key")
    names = [one.name for one in CHECKS]
    if not any(arguments.only in name for name in names):
        raise CommandError(f"no check has {arguments.only!r} in its name: {', '.join(names)}", ExitCode.USAGE)

    def heard(finding: Finding) -> None:
        if not arguments.json:
            print_lines([printable(line(finding))])

    if (arguments.fleet_id is None) != (arguments.vehicle_id is None):
        raise CommandError("--fleet-id and --vehicle-id go together", ExitCode.USAGE)
    own_ids = None if arguments.fleet_id is None else (arguments.fleet_id, arguments.vehicle_id)
    findings = asyncio.run(judge(url, key, only=arguments.only, own_ids=own_ids, heard=heard, verify=verify))
    if arguments.junit is not None:
        try:
            arguments.junit.write_bytes(as_junit(findings))
        except OSError as error:
            raise CommandError(f"{arguments.junit} cannot be written ({error.strerror})") from None
    advice = hint(findings, has_own_ids=own_ids is not None)
    if arguments.json:
        print_json(as_json(url, findings, advice))
    else:
        for finding in findings:
            if finding.verdict is Verdict.MISSED:
                out("\n" + "\n".join(printable(one) for one in evidence(finding).splitlines()) + "\n")
        print_lines(["", summary(findings), *([] if advice is None else [advice])])
    return ExitCode.FAILED if any(finding.fails for finding in findings) else ExitCode.DONE
