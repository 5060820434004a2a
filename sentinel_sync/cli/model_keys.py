"""`models keygen`, `sign` and `verify`: the release side, on a machine that is no vehicle. None needs a network."""

import argparse
import base64
import json
import sys
from collections.abc import Mapping, Sequence
from functools import partial
from pathlib import Path

from pydantic import ValidationError

from sentinel_sync.base.files import replace_file
from sentinel_sync.base.payloads import ModelRelease
from sentinel_sync.cli.arguments import Subparsers
from sentinel_sync.cli.configuration import load_settings
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.passphrases import VARIABLE, add_passphrase, new_passphrase, passphrase_of
from sentinel_sync.cli.words import pairs, size
from sentinel_sync.models.releases import key_in_file, key_in_text, read_trust
from sentinel_sync.models.rules.releases import EXTENSIONS, Trust, live_name, verify
from sentinel_sync.models.signing import (
    check_file,
    make_key,
    public_path,
    read_key,
    sign_release,
)

MANIFEST_ENDING = ".manifest.json"
_DEFAULT_KEY = Path("model-signing.pem")
_LARGEST_MANIFEST = 1 << 20
_READABLE = 0o644
_BY_OTHERS = 0o077


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
    except OSError as error:
        raise CommandError(f"cannot read {path}: {error.strerror}", ExitCode.USAGE) from None
    except ValidationError:
        raise CommandError(f"{path} is no manifest of a model: make one with `models sign`") from None


def _keygen(arguments: argparse.Namespace) -> int:
    passphrase = new_passphrase(arguments)
    key = make_key(arguments.out, passphrase)
    if passphrase is None:
        sys.stderr.write(f"{arguments.out} is not encrypted: whoever reads it can sign for the fleet\n")
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
            sys.stderr.write(f"{path} can be read by others: chmod 600 {path}\n")
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
        sys.stdout.write(json.dumps(facts, indent=2) + "\n")
        return
    lines = pairs([(name.replace("_", " "), _word(name, value)) for name, value in facts.items()])
    sys.stdout.write("\n".join(lines) + "\n")


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
