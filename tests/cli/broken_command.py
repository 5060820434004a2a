"""A command that ends as none should."""

import argparse

from sentinel_sync.cli.arguments import Subparsers


def add_parser(subparsers: Subparsers) -> None:
    subparsers.add_parser("status").set_defaults(execute=execute)


def execute(arguments: argparse.Namespace) -> int:
    raise ZeroDivisionError("nothing\nforeseen")
