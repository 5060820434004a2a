"""The way to a backend from a desk: its address, a key, whom to trust, one request, and why it was refused."""

import argparse
import os
import ssl
from contextlib import suppress
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from sentinel_sync.base.http_library import httpx
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.serve import KEY_VARIABLE
from sentinel_sync.cli.ui.text import printable
from sentinel_sync.settings import is_loopback

#: For the end of a command's help.
KEY_NOTE = (
    f"A key on the command line can be seen by other users of this machine:\n{KEY_VARIABLE} or --api-key-file is safer."
)
#: Seconds for each phase; the backend answers only once a large file is durable.
_TIMEOUT = 120.0
_LONGEST_WHY = 500


def add_backend(parser: argparse.ArgumentParser) -> None:
    """Add the options that name a backend and a key that may publish."""
    parser.add_argument("--url", required=True, help="of the backend; https, but for a loopback address")
    add_credential(parser, "one that may publish")


def add_credential(parser: argparse.ArgumentParser, key: str) -> None:
    """Add the options that name a key, and whom to trust."""
    parser.add_argument("--api-key", metavar="KEY", help=key)
    parser.add_argument("--api-key-file", type=Path, metavar="FILE", help="a file that holds it")
    parser.add_argument("--ca-file", type=Path, metavar="FILE", help="PEM of the authority behind the backend's https")


def asked(
    arguments: argparse.Namespace, method: str, path: str, *, headers: dict[str, str] | None = None, **more: Any
) -> httpx.Response:
    """The backend's answer to one request; blocks.

    Args:
        arguments: With the options of `add_backend`.
        method: Of HTTP.
        path: Below the backend's address.
        headers: Besides the credential.
        more: As httpx takes it: `params`, `json`, `content`.

    Raises:
        CommandError: It cannot be asked.
    """
    url, key, verify = way_to_backend(arguments, "a key that may publish")
    try:
        with httpx.Client(timeout=_TIMEOUT, verify=verify, follow_redirects=False) as client:
            return client.request(
                method, url + path, headers={"Authorization": f"Bearer {key}", **(headers or {})}, **more
            )
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise CommandError(f"the backend at {url} cannot be reached: {error or type(error).__name__}") from None


def vehicle_share(text: str) -> float:
    """A share of vehicles, such as 0.1 or 10%.

    Raises:
        argparse.ArgumentTypeError: It is none.
    """
    with suppress(ValueError):
        number = float(text.removesuffix("%")) / (100.0 if text.endswith("%") else 1.0)
        if 0.0 <= number <= 1.0:
            return number
    raise argparse.ArgumentTypeError(f"{text!r} is no share: it must be between 0 and 1, or 0% and 100%")


def refusal(answer: httpx.Response) -> str:
    """Why the backend did not do it, in its own words."""
    try:
        problem = answer.json()
        text = str(problem.get("detail") or problem.get("title") or "")
        wrong = [str(entry.get("message", "")) for entry in problem.get("errors", [])]
        text = ": ".join(filter(None, [text, "; ".join(wrong)]))
    except (ValueError, AttributeError):
        text = ""
    return printable(f"{answer.status_code} {text or answer.reason_phrase}")[:_LONGEST_WHY]


def way_to_backend(arguments: argparse.Namespace, what: str) -> tuple[str, str, ssl.SSLContext | bool]:
    """The backend's address, a key for it, and how httpx is to verify it. Blocks.

    Args:
        arguments: With `url` and the options of `add_credential`.
        what: Names the key where there is none.

    Raises:
        CommandError: One of them cannot be used.
    """
    verify = True if arguments.ca_file is None else _authority(arguments.ca_file)
    return _base(arguments.url), _key(arguments, what), verify


def _authority(path: Path) -> ssl.SSLContext:
    try:
        return ssl.create_default_context(cafile=path)
    except OSError:  # of which OpenSSL's is one
        raise CommandError(f"{path} is no PEM of a certificate authority", ExitCode.USAGE) from None


def _base(url: str) -> str:
    parts = urlsplit(url)
    if parts.scheme not in {"http", "https"} or not parts.hostname:
        raise CommandError(f"{url} is no http(s) URL", ExitCode.USAGE)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise CommandError("over http anybody on the way could read the key: use https", ExitCode.USAGE)
    return url.rstrip("/")


def _key(arguments: argparse.Namespace, what: str) -> str:
    key = arguments.api_key or os.environ.get(KEY_VARIABLE, "")
    if arguments.api_key_file is not None:
        try:
            key = next(iter(arguments.api_key_file.read_text(encoding="utf-8").split()), "")
        except (OSError, UnicodeDecodeError) as error:
            why = error.strerror if isinstance(error, OSError) else "not UTF-8"
            raise CommandError(f"cannot read {arguments.api_key_file}: {why}", ExitCode.USAGE) from None
    if not key.strip():
        raise CommandError(f"{what} is needed: --api-key-file, or {KEY_VARIABLE}", ExitCode.USAGE)
    return key.strip()
