"""The log on standard error: text for people, one JSON object per line for the journal."""

import json
import logging
import os
import re
import sys
import time
from collections import OrderedDict
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime

from sentinel_sync.cli.ui.writer import Writer

#: The project's loggers begin their messages with the event's name: "outbox.dropped: 3 items …".
_EVENT = re.compile(r"([a-z_]+(?:\.[a-z_]+)+)(?:: (.*))?", re.DOTALL)
#: What differs from one repetition of a line to the next, and is no news.
_NO_NEWS = re.compile(r"\(request [^)]*\)|\b\d+(?:\.\d+)? s\b|\b\d+ in a row\b")
#: A line that was shown is not shown again for so long, seconds …
_REPEAT_INTERVAL = 600.0
#: … as far as one remembers: so many lines.
_REMEMBERED = 256
#: Changes of state: each is news, however often it has been there before.
_TRANSITIONS = ("agent.", "connectivity.")
#: What every record has; anything else was given as `extra=` and belongs into the JSON.
_ORDINARY = frozenset(vars(logging.makeLogRecord({}))) | {"message", "asctime", "taskName"}
_OURS = "sentinel_sync"


class RepeatFilter(logging.Filter):
    """Shows a line that comes again and again once in ten minutes, and how often it came meanwhile.

    An hour without a network must not fill a flash disk with what the first minute has said. The number is the record's
    `repeated`.
    """

    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        super().__init__()
        self._clock = clock
        #: By line: when it was shown, and how often it came since; the oldest first.
        self._shown: OrderedDict[tuple[int, str], tuple[float, int]] = OrderedDict()

    def filter(self, record: logging.LogRecord) -> bool:
        """Whether this record is shown."""
        text = record.getMessage()
        if text.startswith(_TRANSITIONS):
            return True
        line, now = (record.levelno, _NO_NEWS.sub("", text)), self._clock()
        shown_at, count = self._shown.get(line, (float("-inf"), 0))
        if now - shown_at < _REPEAT_INTERVAL:
            self._shown[line] = (shown_at, count + 1)
            return False
        self._shown[line] = (now, 0)
        self._shown.move_to_end(line)
        if len(self._shown) > _REMEMBERED:
            self._shown.popitem(last=False)
        if count:
            record.repeated = count
        return True


class TextFormatter(logging.Formatter):
    """`15:04:05 warning  outbox.dropped: 3 items …`: one line per record; tracebacks only where asked for.

    Args:
        date: Whether the day is shown: in a file yes, on a terminal no.
        tracebacks: Whether an exception is shown whole; its last line stands for it otherwise.
    """

    def __init__(self, *, date: bool, tracebacks: bool) -> None:
        super().__init__()
        self._format = "%Y-%m-%dT%H:%M:%S%z" if date else "%H:%M:%S"
        self._tracebacks = tracebacks

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        moment = datetime.fromtimestamp(record.created, UTC).astimezone().strftime(self._format)
        text = f"{moment} {record.levelname.lower():<7}  {one_line(record.getMessage())}"
        if (repeated := getattr(record, "repeated", 0)) > 0:
            text = f"{text} (and {repeated} more like it since the last one shown)"
        if record.exc_info and record.exc_info[1] is not None:
            error = record.exc_info[1]
            if self._tracebacks:
                return f"{text}\n{self.formatException(record.exc_info)}"
            text = f"{text} ({type(error).__name__}: {one_line(str(error))})"
        return text


class JsonFormatter(logging.Formatter):
    """One JSON object per record: time, level, logger, event, message, what was given as `extra=`, exception."""

    def format(self, record: logging.LogRecord) -> str:
        """Format one record."""
        message = record.getMessage()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "logger": record.name,
        }
        if (event := _EVENT.fullmatch(message)) is not None:
            line["event"], message = event[1], event[2] or message
        line["message"] = message
        line |= {name: value for name, value in vars(record).items() if name not in _ORDINARY}
        if record.exc_info:
            line["exception"] = self.formatException(record.exc_info)
        return json.dumps(line, default=str)


class WriterHandler(logging.Handler):
    """Formats where the record is made and leaves the writing to the writer's thread."""

    def __init__(self, writer: Writer, write: Callable[[str], None]) -> None:
        super().__init__()
        self._writer = writer
        self._write = write

    def emit(self, record: logging.LogRecord) -> None:
        """Hand over one line."""
        line = self.format(record)
        self._writer.submit(lambda: self._write(line))


def formatter_for(level: str, log_format: str) -> logging.Formatter:
    """The formatter for standard error, as the options say."""
    terminal = sys.stderr.isatty()
    if log_format == "json" or (log_format == "auto" and not terminal and wants_json(os.environ)):
        return JsonFormatter()
    return TextFormatter(date=not terminal, tracebacks=level == "debug")


def wants_json(environment: Mapping[str, str]) -> bool:
    """Whether standard error is read by systemd.

    JOURNAL_STREAM holds the device and inode of the journal's stream (systemd.exec(5)). A terminal that a desktop
    started inherits the variable, so it must be this very stream. Without it, INVOCATION_ID tells a service whose
    output goes to a file.
    """
    stream = environment.get("JOURNAL_STREAM")
    if stream is None:
        return "INVOCATION_ID" in environment
    try:
        status = os.fstat(sys.stderr.fileno())
    except (OSError, ValueError):
        return False
    return stream == f"{status.st_dev}:{status.st_ino}"


@contextmanager
def logging_to_stderr(level: str, log_format: str) -> Iterator[None]:
    """Log to standard error while the block runs.

    Other packages are heard from warnings up, whatever the level: httpx logs whole URLs, which hold drivers' ids.
    """
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(formatter_for(level, log_format))
    with logging_to(handler, level):
        yield


@contextmanager
def logging_to(handler: logging.Handler, level: str) -> Iterator[None]:
    """Log to `handler`, and nowhere else, while the block runs; what repeats is thinned above debug."""
    if level != "debug":
        handler.addFilter(RepeatFilter())
    root, ours = logging.getLogger(), logging.getLogger(_OURS)
    before = (root.handlers[:], root.level, ours.level)
    root.handlers[:] = [handler]
    root.setLevel(logging.WARNING)
    ours.setLevel(level.upper())
    try:
        yield
    finally:
        root.handlers[:], _, _ = before
        root.setLevel(before[1])
        ours.setLevel(before[2])


def one_line(text: str) -> str:
    """The text without line breaks and other control characters: a log line is one line, whatever it quotes."""
    return "".join(character if character.isprintable() else " " for character in text)
