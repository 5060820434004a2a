"""`models publish`: puts a signed model into the reference backend."""

import argparse
import json
import os
import ssl
import sys
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import quote, urlsplit

import httpx

from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.model_keys import MANIFEST_ENDING, manifest_path, read_manifest
from sentinel_sync.cli.serve import KEY_VARIABLE
from sentinel_sync.cli.words import printable
from sentinel_sync.models.signing import check_file
from sentinel_sync.settings import is_loopback

#: Seconds for each phase; the backend answers only once a large file is durable.
_TIMEOUT = 120.0
_LONGEST_WHY = 500


def add_publish(actions: Subparsers) -> None:
    """Add `models publish`."""
    parser = actions.add_parser(
        "publish",
        help="put a signed model into the reference backend",
        description="Put a model with its manifest into the reference backend: from then on vehicles are offered it.",
        epilog=(
            "Again with the same file, it changes the signatures, the rollout and the date.\n"
            "A key on the command line can be seen by other users of this machine:\n"
            f"{KEY_VARIABLE} or --api-key-file is safer."
        ),
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help=f"(default: FILE{MANIFEST_ENDING})")
    parser.add_argument("--url", required=True, help="of the backend; https, but for a loopback address")
    parser.add_argument("--api-key", metavar="KEY", help="one that may publish")
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file that holds it")
    parser.add_argument("--rollout", type=_share, default=1.0, metavar="SHARE", help="of vehicles, 0 to 1 (default: 1)")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM of the authority behind the backend's https")
    parser.set_defaults(execute=_publish)


def _publish(arguments: argparse.Namespace) -> int:
    release = read_manifest(arguments.manifest or manifest_path(arguments.file))
    url, key = _base(arguments.url), _key(arguments)
    try:
        check_file(arguments.file, release)
        answer = _put(url, key, arguments, release)
    except OSError as error:
        raise CommandError(f"cannot read {arguments.file}: {error.strerror or error}", ExitCode.USAGE) from None
    if not answer.is_success:
        raise CommandError(f"the backend did not take {release.name} {release.version}: {_why(answer)}")
    facts = {
        "name": release.name,
        "version": release.version,
        "checksum": release.checksum,
        "new": answer.status_code == 201,
        "rollout": arguments.rollout,
    }
    if arguments.json:
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
    else:
        done = "published" if facts["new"] else "was published before; its signatures, rollout and date are changed"
        sys.stdout.write(f"{release.name} {release.version} {done} ({arguments.rollout:.0%} of vehicles)\n")
    return ExitCode.DONE


def _put(url: str, key: str, arguments: argparse.Namespace, release: ModelRelease) -> httpx.Response:
    path = f"/models/{quote(release.name, safe='')}/versions/{quote(release.version, safe='')}"
    query: dict[str, Any] = {"rollout": arguments.rollout, "checksum": release.checksum}
    if release.filename is not None:
        query["filename"] = release.filename
    signatures = [(signature.signature, signature.key_id) for signature in release.signatures]
    if not signatures and release.signature is not None:
        signatures = [(release.signature, release.key_id)]
    query["signature"] = [signature for signature, _ in signatures]
    if signatures and all(key_id for _, key_id in signatures):
        query["key_id"] = [key_id for _, key_id in signatures]
    headers = {"Authorization": f"Bearer {key}", "Content-Length": str(release.size)}
    verify = True if arguments.ca_file is None else _authority(arguments.ca_file)
    try:
        with (
            arguments.file.open("rb") as file,
            httpx.Client(timeout=_TIMEOUT, verify=verify, follow_redirects=False) as client,
        ):
            return client.put(url + path, params=query, content=file, headers=headers)
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"the backend at {url} cannot be reached: {error or type(error).__name__}") from None


def _authority(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except ssl.SSLError:
        raise CommandError(f"{path} is no PEM of a certificate authority", ExitCode.USAGE) from None


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CommandError(f"{url} is no http(s) URL", ExitCode.USAGE)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise CommandError("over http anybody on the way could read the key: use https", ExitCode.USAGE)
    return url.rstrip("/")


def _key(arguments: argparse.Namespace) -> str:
    key = arguments.api_key or os.environ.get(KEY_VARIABLE, "")
    if arguments.api_key_file is not None:
        try:
            key = next(iter(arguments.api_key_file.read_text(encoding="utf-8").split()), "")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise CommandError(f"cannot read {arguments.api_key_file}: {why}", ExitCode.USAGE) from None
    if not key.strip():
        raise CommandError(f"a key that may publish is needed: --api-key-file, or {KEY_VARIABLE}", ExitCode.USAGE)
    return key.strip()


def _why(answer: httpx.Response) -> str:
    try:
        problem = answer.json()
        text = str(problem.get("detail") or problem.get("title") or "")
        wrong = [str(entry.get("message", "")) for entry in problem.get("errors", [])]
        text = ": ".join(filter(None, [text, "; ".join(wrong)]))
    except (ValueError, AttributeError):
        text = ""
    return printable(f"{answer.status_code} {text or answer.reason_phrase}")[:_LONGEST_WHY]


def _share(text: str) -> float:
    with suppress(ValueError):
        if 0.0 <= (share := float(text)) <= 1.0:
            return share
    raise argparse.ArgumentTypeError("must be a number between 0 and 1")
