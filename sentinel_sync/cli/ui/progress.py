"""What `run` and `once` show while they work: drawn on a terminal, lines in a pipe, JSON for programs, or nothing."""

import sys
from collections import deque
from importlib import import_module
from typing import Protocol, cast

from sentinel_sync.cli.ui.status_text import line_of
from sentinel_sync.cli.ui.text import can_draw, err, out, printable
from sentinel_sync.status import AgentStatus

#: Seconds between two looks for lines: after a change, and at most while nothing changes. A look costs about 1 ms, and
#: an idle agent should cost next to nothing.
_SOON, _LATE = 1.0, 5.0
#: Over how many looks the pace is averaged.
_LOOKS = 20


class View(Protocol):
    """Shows an agent at work. Called on the writer's thread only."""

    #: Seconds between two looks at the agent; None where it wants none.
    interval: float | None
    #: Whether log lines for the terminal must go through `log`, so that they don't tear the display.
    takes_log: bool

    def show(self, said: AgentStatus, at: float) -> None:
        """Show a status; `at` is in monotonic seconds."""
        ...

    def log(self, line: str) -> None:
        """Show a log line."""
        ...

    def close(self) -> None:
        """Leave the terminal in order."""
        ...


class Lines:
    """A line on standard output whenever something worth a line has changed.

    Args:
        as_json: Whole statuses as JSON, one per line.
    """

    interval: float | None = _SOON
    takes_log = False

    def __init__(self, *, as_json: bool) -> None:
        self._as_json = as_json
        self._last = ""

    def show(self, said: AgentStatus, at: float) -> None:  # noqa: ARG002 # as the protocol has it
        """Print a line where it differs from the last one."""
        line = printable(line_of(said))
        if line == self._last:
            self.interval = min(_LATE, 2.0 * (self.interval or _SOON))
            return
        self._last, self.interval = line, _SOON
        out((said.model_dump_json() if self._as_json else line) + "\n")
        sys.stdout.flush()

    def log(self, line: str) -> None:
        """Log lines go to standard error."""
        err(line + "\n")
        sys.stderr.flush()

    def close(self) -> None:
        """Nothing to put in order."""


class Quiet(Lines):
    """Log lines only."""

    interval: None = None

    def __init__(self) -> None:
        super().__init__(as_json=False)


class Pace:
    """How fast the outbox empties, from the last few looks at it."""

    def __init__(self) -> None:
        self._looks: deque[tuple[float, int]] = deque(maxlen=_LOOKS)

    def observe(self, at: float, acknowledged: int) -> float:
        """Take a look (monotonic seconds, items sent so far) and return items per second."""
        self._looks.append((at, acknowledged))
        began, before = self._looks[0]
        return max(0.0, (acknowledged - before) / (at - began)) if at > began else 0.0


def choose_view(*, as_json: bool, json_log: bool, lines: bool) -> View:
    """The view that fits whoever reads.

    Args:
        as_json: `--json`.
        json_log: The log is JSON: a program reads it and needs no second account.
        lines: Whether a pipe gets lines.
    """
    if as_json:
        return Lines(as_json=True) if lines else Quiet()
    if can_draw():
        # Imported here because rich is optional and slow to load.
        return cast("View", import_module("sentinel_sync.cli.ui.live").LiveView())
    return Lines(as_json=False) if lines and not json_log else Quiet()
