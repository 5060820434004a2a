"""The command line: one module per command, named in the table of `arguments.py`.

A command's module exports `add_parser(subparsers)`, which adds its parser and sets `execute=` on it to a function that
takes the parsed arguments and returns an exit code (`exit_codes.py`). A module is imported only when its command is
the one that was asked for, so it may import what it needs at its top. Errors are raised as `SentinelSyncError`;
`main.py` makes one line and an exit code of them.
"""
