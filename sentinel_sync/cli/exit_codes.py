"""What a command's end tells a script.

| code | name | means |
| --- | --- | --- |
| 0 | DONE | done; for `once`: all sent; for `run` and `serve`: stopped as asked |
| 1 | FAILED | something is not as it should be: a check failed, the outbox is damaged, there is no such item |
| 2 | USAGE | the command line or the settings cannot be used |
| 69 | UNAVAILABLE | an optional part is not installed, or an address is taken |
| 70 | INTERNAL | a mistake in this program |
| 73 | OCCUPIED | another agent runs on the state folder |
| 74 | STORE | the state folder cannot be used: permissions, a full disk, a damaged file |
| 75 | LEFT | something is left to be sent: come back later |
| 130 | INTERRUPTED | Ctrl-C |
| 141 | BROKEN_PIPE | nobody reads the output any more |

Those from 64 to 78 are named as in sysexits.h, the last two as a shell names death by SIGINT and SIGPIPE.
"""

from enum import IntEnum

from sentinel_sync.base.errors import SentinelSyncError


class ExitCode(IntEnum):
    """See the table above."""

    DONE = 0
    FAILED = 1
    USAGE = 2
    UNAVAILABLE = 69
    INTERNAL = 70
    OCCUPIED = 73
    STORE = 74
    LEFT = 75
    INTERRUPTED = 130
    BROKEN_PIPE = 141


class CommandError(SentinelSyncError):
    """A command cannot do what was asked: one line for a person, and the code to exit with."""

    def __init__(self, message: str, code: ExitCode = ExitCode.FAILED) -> None:
        super().__init__(message)
        self.code = code
