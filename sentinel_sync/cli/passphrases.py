"""Where the passphrase of a signing key comes from: a file, the environment, a person; never the command line."""

import argparse
import getpass
import os
import sys
from pathlib import Path

from sentinel_sync.cli.exit_codes import CommandError, ExitCode

#: On the command line a passphrase could be seen by other users of the machine, and would stay in the shell's history.
VARIABLE = "SENTINEL_KEY_PASSPHRASE"


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
