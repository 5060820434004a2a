"""The log: a line per record, for people or for programs."""

import json
import logging
import os
import sys
from typing import Any
from uuid import uuid4

import pytest

from sentinel_sync.cli.ui.logs import JsonFormatter, RepeatFilter, TextFormatter, logging_to_stderr, wants_json


def _record(message: str, *, error: Exception | None = None, **extra: object) -> logging.LogRecord:
    record = logging.makeLogRecord({"name": "sentinel_sync.x", "levelname": "WARNING", "msg": message, **extra})
    if error is not None:
        try:
            raise error
        except type(error):
            record.exc_info = sys.exc_info()
    return record


def _json(record: logging.LogRecord) -> dict[str, Any]:
    line = JsonFormatter().format(record)
    assert "\n" not in line
    found: dict[str, Any] = json.loads(line)
    return found


def test_json_has_the_event_and_what_was_given_besides() -> None:
    line = _json(_record("cloud.attempt: GET /x answered 500", request_id="r1", status=500))
    assert line.pop("time").endswith("+00:00")
    assert line == {
        "level": "warning",
        "logger": "sentinel_sync.x",
        "event": "cloud.attempt",
        "message": "GET /x answered 500",
        "request_id": "r1",
        "status": 500,
    }


def test_an_event_alone_and_a_message_without_one_are_both_whole() -> None:
    alone = _json(_record("agent.stopped"))
    assert (alone["event"], alone["message"]) == ("agent.stopped", "agent.stopped")
    plain = _json(_record("Something: else"))
    assert ("event" in plain, plain["message"]) == (False, "Something: else")


def test_json_keeps_a_traceback_in_its_line() -> None:
    assert "ValueError: no" in _json(_record("a.b: c", error=ValueError("no")))["exception"]


def test_text_is_one_line_whatever_it_quotes() -> None:
    line = TextFormatter(date=False, tracebacks=False).format(
        _record("a.b: \x1b[31mred\nnext", error=ValueError("x\ny"))
    )
    assert line.endswith("warning  a.b:  [31mred next (ValueError: x y)")


def test_text_shows_tracebacks_where_asked_for() -> None:
    text = TextFormatter(date=True, tracebacks=True).format(_record("a.b: c", error=ValueError("no")))
    assert "Traceback" in text


def test_the_journal_is_recognised_by_its_own_stream(monkeypatch: pytest.MonkeyPatch) -> None:
    reader, writer = os.pipe()
    with os.fdopen(reader), os.fdopen(writer, "w") as stream:
        monkeypatch.setattr(sys, "stderr", stream)
        status = os.fstat(writer)
        assert wants_json({"JOURNAL_STREAM": f"{status.st_dev}:{status.st_ino}"})
        # A shell that a desktop's service started inherits both, and its pipes are not the journal.
        assert not wants_json({"JOURNAL_STREAM": "8:1", "INVOCATION_ID": "1"})
        assert wants_json({"INVOCATION_ID": "1"})
        assert not wants_json({})


def test_other_packages_are_not_heard_below_warnings(capsys: pytest.CaptureFixture[str]) -> None:
    root, before = logging.getLogger(), logging.getLogger().handlers[:]
    with logging_to_stderr("debug", "text"):
        logging.getLogger("httpx").info("HTTP Request: GET https://api.example.com/drivers/eve/profile")
        logging.getLogger("sentinel_sync.cli").debug("cli.heard: yes")
    assert "cli.heard" in (err := capsys.readouterr().err)
    assert "eve" not in err
    assert root.handlers == before, "the log is as it was"


def test_an_hour_of_the_same_line_is_seven_lines_that_count_it() -> None:
    now = 0.0
    filtered, formatter, shown = RepeatFilter(lambda: now), TextFormatter(date=True, tracebacks=False), list[str]()
    for minute in range(61):
        now = minute * 60.0
        record = _record(f"cloud.attempt: GET /models: not sent; again in {minute}.5 s (request {uuid4()})")
        if filtered.filter(record):
            shown.append(formatter.format(record))
    assert len(shown) == 7
    assert "more like it" not in shown[0]
    assert all(line.endswith("(and 9 more like it since the last one shown)") for line in shown[1:])
    assert sum(map(len, shown)) < 60 * 1000


def test_what_differs_and_each_change_of_state_is_shown_however_soon() -> None:
    filtered = RepeatFilter(lambda: 0.0)
    lines = ["trip.ended: a", "trip.ended: b", "connectivity.offline: x", "connectivity.online: y"] * 2
    shown = [line for line in lines if filtered.filter(_record(line))]
    assert shown == [*lines[:4], *lines[2:4]]
    # As an error it is news once more.
    assert filtered.filter(logging.makeLogRecord({"levelno": logging.ERROR, "msg": "trip.ended: a"}))


def test_only_so_many_lines_are_remembered() -> None:
    filtered = RepeatFilter(lambda: 0.0)
    assert all(filtered.filter(_record(f"trip.ended: {number}")) for number in range(1000))
    assert not filtered.filter(_record("trip.ended: 999"))
    assert filtered.filter(_record("trip.ended: 0"))


def test_a_command_thins_its_log_but_at_debug(capsys: pytest.CaptureFixture[str]) -> None:
    for level, times in (("info", 1), ("debug", 3)):
        with logging_to_stderr(level, "text"):
            for _ in range(3):
                logging.getLogger("sentinel_sync.x").info("models.check: not sent")
        assert capsys.readouterr().err.count("models.check") == times
