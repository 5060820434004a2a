"""From a command line to an exit code: parses, sets up the log, runs the command, makes one line of an error."""

import io
import os
import sys
import traceback
from collections.abc import Sequence
from pathlib import Path

from sentinel_sync.base.errors import ConfigurationError, SentinelSyncError, StateLockedError, StoreError
from sentinel_sync.cli.arguments import NAME, parse
from sentinel_sync.cli.exit_codes import CommandError, ExitCode
from sentinel_sync.cli.ui.logs import logging_to_stderr, one_line
from sentinel_sync.cli.ui.text import err


def main(words: Sequence[str] | None = None) -> int:
    """Run one command line (`sys.argv` by default) and return its exit code."""
    debug = False
    try:
        _mend_streams()
        arguments = parse(sys.argv[1:] if words is None else words)
        debug = arguments.log_level == "debug"
        level = arguments.log_level or getattr(arguments, "default_log_level", "warning")
        with logging_to_stderr(level, arguments.log_format):
            code = int(arguments.execute(arguments))
        sys.stdout.flush()
    except SystemExit as end:  # argparse has said what there is to say
        return int(end.code or 0)
    except BrokenPipeError:
        # Whoever read the output went away (`status | head -1`): nobody is left to complain to, and the interpreter's
        # own flush at exit must not complain either.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return ExitCode.BROKEN_PIPE
    except KeyboardInterrupt:
        return ExitCode.INTERRUPTED
    except SentinelSyncError as error:
        return complain(str(error), code_for(error), debug=debug)
    except Exception as error:  # the last resort: one line for whoever ran the command, the traceback on demand
        hint = "" if debug else "; `--log-level debug` shows where"
        return complain(f"internal error: {type(error).__name__}: {error}{hint}", ExitCode.INTERNAL, debug=debug)
    return code


def complain(message: str, code: ExitCode, *, debug: bool = False) -> ExitCode:
    """Say what went wrong in one line; within an `except`, `debug` puts the traceback before it."""
    if debug:
        traceback.print_exc(file=sys.stderr)
    err(f"{NAME}: error: {one_line(' '.join(message.split()))}\n")
    return code


def code_for(error: SentinelSyncError) -> ExitCode:
    """The exit code that an error ends a command with."""
    match error:
        case CommandError():
            return error.code
        case ConfigurationError():
            return ExitCode.USAGE
        case StateLockedError():
            return ExitCode.OCCUPIED
        case StoreError():
            return ExitCode.STORE
    return ExitCode.FAILED


def _mend_streams() -> None:
    """Make do with the streams as they are: closed by whoever started this process, or of a narrow encoding."""
    if sys.stdout is None:
        sys.stdout = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # as long as the process
    if sys.stderr is None:
        sys.stderr = Path(os.devnull).open("w", encoding="utf-8")  # noqa: SIM115 # as long as the process
    if isinstance(sys.stdout, io.TextIOWrapper):
        sys.stdout.reconfigure(errors="backslashreplace")
