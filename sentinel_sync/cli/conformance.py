"""`conformance`: judge a backend by the wire contract, row by row."""

import argparse
import asyncio
import os
import ssl
from pathlib import Path

from sentinel_sync.cli.actions import print_json, print_lines
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.serve import KEY_VARIABLE
from sentinel_sync.cli.ui.text import out, printable
from sentinel_sync.conformance.output import as_json, as_junit, evidence, line, summary
from sentinel_sync.conformance.run import Finding, Verdict
from sentinel_sync.settings import is_loopback

_DESCRIPTION = """\
Try the whole wire contract against a backend, extension by extension, and print what is met and what is not, with the
request and the answer that showed it. It works with a fleet and a vehicle of its own (conformance_…), so that what it
sends is nobody's; it deletes its profile where the backend can. Code 1 where something required is missed.
"""


def add_parser(subparsers: Subparsers) -> None:
    """Add `conformance`."""
    parser = subparsers.add_parser("conformance", help="judge a backend by the wire contract", description=_DESCRIPTION)
    parser.add_argument("url", metavar="URL", help="of the backend; https, but for a loopback address")
    parser.add_argument("--api-key", metavar="KEY", help=f"one that a vehicle may use; safer in {KEY_VARIABLE}")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file that holds it")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM of the authority behind the backend's https")
    parser.add_argument("--fleet-id", metavar="ID", help="where the key is good for one fleet and vehicle alone: these")
    parser.add_argument("--vehicle-id", metavar="ID", help="a test bench's; what the run sends is counted for it")
    parser.add_argument("--only", default="", metavar="TEXT", help="only checks whose name has this in it")
    parser.add_argument("--junit", type=Path, metavar="FILE", help="write JUnit's XML there, for a CI server")
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Judge it."""
    from sentinel_sync.conformance.judge import judge  # noqa: PLC0415 - no other command needs it

    url, key = _address(arguments.url), _key(arguments)
    verify = True if arguments.ca_file is None else _authority(arguments.ca_file)

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
    if arguments.json:
        print_json(as_json(url, findings))
    else:
        for finding in findings:
            if finding.verdict is Verdict.MISSED:
                out("\n" + "\n".join(printable(one) for one in evidence(finding).splitlines()) + "\n")
        print_lines(["", summary(findings)])
    return ExitCode.FAILED if any(finding.fails for finding in findings) else ExitCode.DONE


def _address(url: str) -> str:
    scheme, _, rest = url.partition("://")
    host = rest.partition("/")[0].rpartition("@")[2]
    host = host[1:].partition("]")[0] if host.startswith("[") else host.partition(":")[0]
    if scheme not in {"http", "https"} or not host:
        raise CommandError(f"{url} is no http(s) URL", ExitCode.USAGE)
    if scheme == "http" and not is_loopback(host):
        raise CommandError("over http anybody on the way could read the key: use https", ExitCode.USAGE)
    return url.rstrip("/")


def _key(arguments: argparse.Namespace) -> str:
    key: str = arguments.api_key or os.environ.get(KEY_VARIABLE, "")
    if arguments.api_key_file is not None:
        try:
            key = arguments.api_key_file.read_text(encoding="utf-8").strip()
        except (OSError, UnicodeDecodeError) as error:
            raise CommandError(f"cannot read {arguments.api_key_file} ({error})", ExitCode.USAGE) from None
    if not key:
        raise CommandError(f"a key is needed: --api-key-file, or {KEY_VARIABLE}", ExitCode.USAGE)
    return key


def _authority(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except (OSError, ssl.SSLError):
        raise CommandError(f"{path} is no PEM of a certificate authority", ExitCode.USAGE) from None
