"""Where the passphrase of a signing key comes from: a file, the environment, a person; never the command line."""

import argparse
import base64
import getpass
import json
import os
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path
from typing import Any
from urllib.parse import quote

from pydantic import ValidationError

from sentinel_sync.base.files import replace_file
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.cli.actions import load_settings
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.backend_access import KEY_NOTE, add_backend, asked, refusal, vehicle_share
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.text import err, out, pairs, printable, size
from sentinel_sync.models.releases import key_in_file, key_in_text, read_trust
from sentinel_sync.models.rules.releases import EXTENSIONS, Trust, live_name, verify
from sentinel_sync.models.signing import (
    check_file,
    make_key,
    public_path,
    read_key,
    sign_release,
)

#: On the command line a passphrase could be seen by other users of the machine, and would stay in the shell's history.
VARIABLE = "SENTINEL_KEY_PASSPHRASE"
MANIFEST_ENDING = ".manifest.json"
_DEFAULT_KEY = Path("model-signing.pem")
_LARGEST_MANIFEST = 1 << 20
_READABLE = 0o644
_BY_OTHERS = 0o077


def add_passphrase(parser: argparse.ArgumentParser) -> None:
    """Add the options that say where it comes from."""
    parser.add_argument("--passphrase-file", type=Path, metavar="FILE", help="its first line is the key's passphrase")
    parser.add_argument("--passphrase-prompt", action="store_true", help="ask for the key's passphrase")


def new_passphrase(arguments: argparse.Namespace) -> bytes | None:
    """The passphrase of a key that is to be made; None where none is wanted.

    Raises:
        CommandError: It cannot be read, is empty, or was not repeated as it was.
    """
    if not arguments.passphrase_prompt:
        return _given(arguments)
    first = _asked("Passphrase of the new key: ")
    if first != _asked("Once more: "):
        raise CommandError("the two passphrases are not the same: no key was made", ExitCode.USAGE)
    return first


def passphrase_of(path: Path, arguments: argparse.Namespace) -> bytes:
    """The passphrase of the encrypted key in `path`.

    Raises:
        CommandError: It cannot be read, is empty, or nobody can be asked.
    """
    given = None if arguments.passphrase_prompt else _given(arguments)
    return given if given is not None else _asked(f"Passphrase of {path}: ")


def _given(arguments: argparse.Namespace) -> bytes | None:
    if arguments.passphrase_file is not None:
        try:
            first_line = arguments.passphrase_file.read_bytes().split(b"\n", 1)[0]
        except OSError as error:
            raise CommandError(f"cannot read {arguments.passphrase_file}: {error.strerror}", ExitCode.USAGE) from None
        return _not_empty(first_line.removesuffix(b"\r"))
    variable = os.environ.get(VARIABLE)
    return None if variable is None else _not_empty(variable.encode())


def _asked(question: str) -> bytes:
    if not sys.stdin.isatty():
        raise CommandError(f"a passphrase is needed: name --passphrase-file, or set {VARIABLE}", ExitCode.USAGE)
    return _not_empty(getpass.getpass(question).encode())


def _not_empty(passphrase: bytes) -> bytes:
    if not passphrase:
        raise CommandError("the passphrase is empty", ExitCode.USAGE)
    return passphrase


def add_keygen(actions: Subparsers) -> None:
    """Add `models keygen`."""
    parser = actions.add_parser(
        "keygen",
        help="make a key that signs models",
        description="Make an Ed25519 key: the private one for its owner only (0600), the public one beside it as .pub.",
        epilog=f"The passphrase may also come in {VARIABLE}. Without one the private key lies in the clear.",
    )
    parser.add_argument(
        "--out",
        type=Path,
        default=_DEFAULT_KEY,
        metavar="FILE",
        help="the private key; never overwritten (default: %(default)s)",
    )
    add_passphrase(parser)
    parser.set_defaults(execute=_keygen)


def add_sign(actions: Subparsers) -> None:
    """Add `models sign`."""
    parser = actions.add_parser(
        "sign",
        help="sign a model's file",
        description=f"Sign a model's file: writes its manifest beside it (FILE{MANIFEST_ENDING}).",
        epilog=f"An encrypted key's passphrase comes from a file, from {VARIABLE}, or is asked for.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--name", required=True, help="of the model, as vehicles know it")
    parser.add_argument("--version", required=True, help="like v2.1.0; never given to other bytes again")
    parser.add_argument(
        "--key",
        dest="keys",
        type=Path,
        action="append",
        required=True,
        metavar="FILE",
        help="a private key; several make several signatures",
    )
    parser.add_argument("--filename", help="what the listing calls the file (default: as the contract has it)")
    parser.add_argument("--out", type=Path, metavar="FILE", help="the manifest; an earlier one is overwritten")
    add_passphrase(parser)
    parser.set_defaults(execute=_sign)


def add_verify(actions: Subparsers) -> None:
    """Add `models verify`."""
    parser = actions.add_parser(
        "verify",
        help="check a model's file against its manifest, offline",
        description="Check that a file is what its manifest says, and that somebody trusted has signed it.",
        epilog="Without a trusted key named here, those of the settings count, as they do on the vehicle.",
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("manifest", type=Path, nargs="?", metavar="MANIFEST", help=f"(default: FILE{MANIFEST_ENDING})")
    parser.add_argument(
        "--trusted-key",
        dest="trusted_keys",
        action="append",
        default=[],
        metavar="KEY",
        help="a public key in base64, or a file that holds one; may be repeated",
    )
    parser.add_argument("--trusted-keys-dir", type=Path, metavar="FOLDER", help="a folder of such files")
    parser.add_argument(
        "--threshold", type=_positive, metavar="N", help="so many different ones must have signed (default: 1)"
    )
    parser.set_defaults(execute=_verify)


def manifest_path(file: Path) -> Path:
    """Where a file's manifest lies."""
    return file.with_name(file.name + MANIFEST_ENDING)


def read_manifest(path: Path) -> ModelRelease:
    """Read a manifest.

    Raises:
        CommandError: It is missing, or none.
    """
    try:
        with path.open("rb") as file:
            return ModelRelease.model_validate_json(file.read(_LARGEST_MANIFEST))
    except FileNotFoundError:
        raise CommandError(f"cannot read {path}: none is there; `models sign` makes one", ExitCode.USAGE) from None
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.USAGE) from None
    except ValidationError:
        raise CommandError(f"{path} is no manifest of a model: make one with `models sign`") from None


def _keygen(arguments: argparse.Namespace) -> int:
    passphrase = new_passphrase(arguments)
    key = make_key(arguments.out, passphrase)
    if passphrase is None:
        err(f"{arguments.out} is not encrypted: whoever reads it can sign for the fleet\n")
    facts = {
        "public_key": key.text,
        "key_id": key.key_id,
        "private_key_file": str(arguments.out),
        "public_key_file": str(public_path(arguments.out)),
    }
    _tell(facts, arguments)
    return ExitCode.DONE


def _sign(arguments: argparse.Namespace) -> int:
    signers = []
    for path in arguments.keys:
        signers.append(read_key(path, partial(passphrase_of, path, arguments)))
        if path.stat().st_mode & _BY_OTHERS:
            err(f"{path} can be read by others: chmod 600 {path}\n")
    if len({signer.public.key_id for signer in signers}) < len(signers):
        raise CommandError("a key is named twice: it counts once", ExitCode.USAGE)
    file, out = arguments.file, arguments.out or manifest_path(arguments.file)
    try:
        release = sign_release(
            file, arguments.name, arguments.version, filename=arguments.filename or _known(file), signers=signers
        )
        content = release.model_dump_json(exclude_none=True, indent=2).encode() + b"\n"
        replace_file(out, content, durable=True, mode=_READABLE)
    except OSError as error:
        raise CommandError(f"cannot sign {file}: {error.strerror}", ExitCode.USAGE) from None
    facts = {
        "name": release.name,
        "version": release.version,
        "size": release.size,
        "checksum": release.checksum,
        "key_ids": [signer.public.key_id for signer in signers],
        "manifest": str(out),
    }
    _tell(facts, arguments)
    return ExitCode.DONE


def _verify(arguments: argparse.Namespace) -> int:
    release = read_manifest(arguments.manifest or manifest_path(arguments.file))
    trust = _trust(arguments)
    live_name(release.name, release.filename)
    signers = verify(release, trust)
    try:
        check_file(arguments.file, release)
    except OSError as error:
        raise CommandError(f"cannot read {arguments.file}: {error.strerror}", ExitCode.USAGE) from None
    facts = {
        "genuine": True,
        "name": release.name,
        "version": release.version,
        "size": release.size,
        "checksum": release.checksum,
        "key_ids": list(signers),
    }
    _tell(facts, arguments)
    return ExitCode.DONE


def _known(file: Path) -> str | None:
    """The file's own name where it is one that the contract knows; else the contract's rule decides."""
    return file.name if file.suffix in EXTENSIONS else None


def _trust(arguments: argparse.Namespace) -> Trust:
    named: Sequence[str] = arguments.trusted_keys
    if not named and arguments.trusted_keys_dir is None:
        cloud = load_settings(arguments).cloud
        threshold = arguments.threshold or cloud.model_signature_threshold
        folder = cloud.model_trusted_keys_dir
        return read_trust(cloud.model_trusted_keys, folder, cloud.model_revoked_keys, threshold=threshold)
    keys = [_key(text) for text in named]
    return read_trust(keys, arguments.trusted_keys_dir, (), threshold=arguments.threshold or 1)


def _key(text: str) -> str:
    """The key that --trusted-key names, in base64."""
    path = Path(text)
    raw = key_in_file(path) if path.is_file() else key_in_text(text, f"--trusted-key {text} names no file, and")
    return base64.b64encode(raw).decode()


def _tell(facts: Mapping[str, object], arguments: argparse.Namespace) -> None:
    if arguments.json:
        out(json.dumps(facts, indent=2) + "\n")
        return
    lines = pairs([(name.replace("_", " "), _word(name, value)) for name, value in facts.items()])
    out("\n".join(lines) + "\n")


def _word(name: str, value: object) -> str:
    if isinstance(value, list):
        return ", ".join(map(str, value))
    if isinstance(value, bool):
        return "yes" if value else "no"
    return f"{size(value)} ({value:,} bytes)" if name == "size" and isinstance(value, int) else str(value)


def _positive(text: str) -> int:
    if not (text.isascii() and text.isdigit() and int(text)):
        raise argparse.ArgumentTypeError("must be a whole number, at least 1")
    return int(text)


def add_publish(actions: Subparsers) -> None:
    """Add `models publish`."""
    parser = actions.add_parser(
        "publish",
        help="put a signed model into the reference backend",
        description="Put a model with its manifest into the reference backend: from then on vehicles are offered it.",
        epilog=(
            "Again with the same file, it changes the signatures, the date, and the rollout where one is named;\n"
            "what was withdrawn is offered again.\n" + KEY_NOTE
        ),
    )
    parser.add_argument("file", type=Path, metavar="FILE")
    parser.add_argument("--manifest", type=Path, metavar="FILE", help=f"(default: FILE{MANIFEST_ENDING})")
    add_backend(parser)
    parser.add_argument(
        "--rollout",
        type=vehicle_share,
        metavar="SHARE",
        help="of vehicles, such as 0.1 or 10%% (default: as it was, else all)",
    )
    parser.set_defaults(execute=_publish)


def _publish(arguments: argparse.Namespace) -> int:
    release = read_manifest(arguments.manifest or manifest_path(arguments.file))
    try:
        check_file(arguments.file, release)
        answer = _put(arguments, release)
    except OSError as error:
        raise CommandError(f"cannot read {arguments.file}: {error.strerror or error}", ExitCode.USAGE) from None
    if not answer.is_success:
        raise CommandError(f"the backend did not take {release.name} {release.version}: {refusal(answer)}")
    is_new = answer.status_code == 201
    rollout = 1.0 if is_new and arguments.rollout is None else arguments.rollout
    facts = {
        "name": release.name,
        "version": release.version,
        "checksum": release.checksum,
        "new": is_new,
        "rollout": rollout,
    }
    if arguments.json:
        out(json.dumps(facts, indent=2) + "\n")
    else:
        done = "published" if facts["new"] else "was published before; its signatures and date are changed"
        share = " (its rollout as it was)" if rollout is None else f" ({rollout:.0%} of vehicles)"
        out(f"{release.name} {release.version} {done}{share}\n")
    return ExitCode.DONE


def add_withdraw(actions: Subparsers) -> None:
    """Add `models withdraw`."""
    parser = actions.add_parser(
        "withdraw",
        help="have the reference backend offer a version no more",
        description="Withdraw a published version: it is offered to no vehicle any more, and its roll-out is aborted.\n"
        "Where it is in use it stays; `publish` with the same file offers it again.",
        epilog=KEY_NOTE,
    )
    parser.add_argument("name", metavar="NAME", help="of the model")
    parser.add_argument("version", metavar="VERSION", help="that is published, as it is listed")
    add_backend(parser)
    parser.set_defaults(execute=_withdraw)


def _withdraw(arguments: argparse.Namespace) -> int:
    name, version = arguments.name, arguments.version
    answer = asked(arguments, "DELETE", _version_path(name, version))
    if not answer.is_success:
        raise CommandError(f"the backend did not withdraw {printable(f'{name} {version}')}: {refusal(answer)}")
    if arguments.json:
        out(json.dumps({"name": name, "version": version, "withdrawn": True}, indent=2) + "\n")
    else:
        out(f"{printable(f'{name} {version}')} is withdrawn: no vehicle is offered it; where it is in use it stays\n")
    return ExitCode.DONE


def _version_path(name: str, version: str) -> str:
    return f"/models/{quote(name, safe='')}/versions/{quote(version, safe='')}"


def _put(arguments: argparse.Namespace, release: ModelRelease) -> httpx.Response:
    path = _version_path(release.name, release.version)
    query: dict[str, Any] = {"checksum": release.checksum}
    if arguments.rollout is not None:
        query["rollout"] = arguments.rollout
    if release.filename is not None:
        query["filename"] = release.filename
    signatures = [(signature.signature, signature.key_id) for signature in release.signatures]
    if not signatures and release.signature is not None:
        signatures = [(release.signature, release.key_id)]
    query["signature"] = [signature for signature, _ in signatures]
    if signatures and all(key_id for _, key_id in signatures):
        query["key_id"] = [key_id for _, key_id in signatures]
    with arguments.file.open("rb") as file:
        return asked(arguments, "PUT", path, params=query, content=file, headers={"Content-Length": str(release.size)})
