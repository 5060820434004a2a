"""`serve`: the reference backend on a socket, for a bench, a demo, or a team that writes its own."""

import argparse
import json
import os
import secrets
import sys
from importlib import import_module
from pathlib import Path
from types import ModuleType

from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import err, out

KEY_VARIABLE = "SENTINEL_BACKEND_API_KEY"
DATABASE_VARIABLE = "SENTINEL_BACKEND_DATABASE"
_KEY_NAME = "api_key"

_EXTENSIONS = ("direct-uploads", "scenario-catalogue")


def add_parser(subparsers: Subparsers) -> None:
    """Add `serve`."""
    parser = subparsers.add_parser(
        "serve",
        help="run the reference backend",
        description="Run the reference backend (the extra `backend`) until SIGTERM or SIGINT.",
        epilog=(
            f"Without a key one is made and kept in FOLDER/{_KEY_NAME}, fit to be an agent's api_key_file.\n"
            "A key on the command line can be seen by other users of this machine:\n"
            f"{KEY_VARIABLE} or --api-key-file is safer."
        ),
    )
    parser.add_argument("--host", default="127.0.0.1", help="address to listen on (default: %(default)s)")
    parser.add_argument("--port", type=_port, default=8080, help="0 takes a free one (default: %(default)s)")
    parser.add_argument("--folder", type=Path, default=Path("backend"), help="all that it keeps (default: %(default)s)")
    parser.add_argument(
        "--api-key", action="append", default=[], metavar="KEY", help="a key to accept; may be repeated"
    )
    parser.add_argument("--api-key-file", type=Path, metavar="PATH", help="a file with keys to accept, one per line")
    parser.add_argument("--certificate", type=Path, metavar="PATH", help="serve https with this PEM certificate …")
    parser.add_argument("--private-key", type=Path, metavar="PATH", help="… and its private key")
    parser.add_argument(
        "--allow-plain-http", action="store_true", help="http on an address that is not loopback (behind a TLS proxy)"
    )
    parser.add_argument(
        "--extension",
        action="append",
        default=[],
        choices=_EXTENSIONS,
        metavar="NAME",
        help=f"offer an extension that is off by default ({', '.join(_EXTENSIONS)}); may be repeated",
    )
    parser.add_argument(
        "--database",
        metavar="postgresql://…",
        help=f"keep rows on a PostgreSQL server, which several processes may share; {DATABASE_VARIABLE} is safer where "
        "the address holds a password (default: a file in the folder)",
    )
    parser.add_argument(
        "--files",
        metavar="s3://BUCKET/PREFIX",
        help="keep finished files in an object store; its credential and endpoint as AWS tools take them, from "
        "AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY and AWS_ENDPOINT_URL (default: the folder)",
    )
    parser.add_argument(
        "--events", action="store_true", help="put what happens into the outbox table, for `backend relay`"
    )
    parser.set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    """Serve until a signal.

    Raises:
        CommandError: The extra is not installed, or the options cannot be used.
    """
    server = _server_module()
    if (arguments.certificate is None) != (arguments.private_key is None):
        raise CommandError("https takes both --certificate and --private-key", ExitCode.USAGE)
    tls = None
    if arguments.certificate is not None:
        tls = server.Tls(certificate=arguments.certificate, private_key=arguments.private_key)
    where = f"{arguments.host} port {arguments.port}"
    backend = import_module("sentinel_sync.backend.settings")
    extensions = backend.Extensions(**{name.replace("-", "_"): True for name in arguments.extension})
    keys = _keys(arguments)
    try:
        server.serve(
            arguments.host,
            arguments.port,
            folder=arguments.folder,
            api_keys=keys,
            settings=backend.BackendSettings(
                folder=arguments.folder,
                database=arguments.database or os.environ.get(DATABASE_VARIABLE) or None,
                files=arguments.files,
                with_events=arguments.events,
                api_keys=tuple(keys),
                extensions=extensions,
            ),
            tls=tls,
            allow_plain_http=arguments.allow_plain_http,
            announce=_announce_json if arguments.json else _announce,
        )
    except ValueError as error:
        raise CommandError(str(error), ExitCode.USAGE) from None
    except RuntimeError as error:
        raise CommandError(str(error), ExitCode.OCCUPIED) from None
    except OSError as error:
        raise CommandError(f"cannot serve on {where}: {error.strerror or error}", ExitCode.UNAVAILABLE) from None
    return ExitCode.DONE


def _server_module() -> ModuleType:
    try:
        return import_module("sentinel_sync.backend.server")
    except ModuleNotFoundError as error:
        if (error.name or "").startswith("sentinel_sync"):
            raise
        raise CommandError(
            f"the reference backend needs {error.name}: pip install 'sentinel-sync[backend]'", ExitCode.UNAVAILABLE
        ) from None


def _keys(arguments: argparse.Namespace) -> list[str]:
    keys: list[str] = [key.strip() for key in arguments.api_key]
    try:
        if arguments.api_key_file is not None:
            keys += arguments.api_key_file.read_text(encoding="utf-8").split()
        if from_environment := os.environ.get(KEY_VARIABLE, "").strip():
            keys.append(from_environment)
        return keys or [_made_key(arguments.folder)]
    except (OSError, UnicodeDecodeError) as error:
        why = error.strerror if isinstance(error, OSError) else "not UTF-8"
        raise CommandError(f"cannot read or keep the backend's key: {why}", ExitCode.USAGE) from None


def _made_key(folder: Path) -> str:
    """The key in the folder, made at the first start. It is named, never shown."""
    path = folder / _KEY_NAME
    folder.mkdir(mode=0o700, parents=True, exist_ok=True)
    if path.exists() and (kept := path.read_text(encoding="utf-8").strip()):
        key = kept
    else:
        key = secrets.token_urlsafe(24)
        path.touch(mode=0o600)
        path.write_text(f"{key}\n", encoding="utf-8")
    err(f"its API key is in {path}\n")
    return key


def _announce(line: str) -> None:
    # Whoever started this process may wait for the line, through a pipe.
    out(line + "\n")
    sys.stdout.flush()


def _announce_json(line: str) -> None:
    _announce(json.dumps({"event": "ready", "url": line.rsplit(" ", 1)[-1]}))


def _port(text: str) -> int:
    port = int(text)
    if not 0 <= port <= 65_535:
        raise argparse.ArgumentTypeError("must be between 0 and 65535")
    return port
