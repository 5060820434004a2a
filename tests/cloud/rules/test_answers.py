"""The answer table of the wire contract, every status of it."""

from http import HTTPMethod

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.cloud.rules.answers import (
    Meaning,
    acknowledges_unread,
    contradiction,
    may_lack_a_body,
    meaning_of,
    retry_after_seconds,
)

ALL = list(HTTPMethod)
NOT_GET: list[HTTPMethod] = [method for method in ALL if method != HTTPMethod.GET]
NOT_POST: list[HTTPMethod] = [method for method in ALL if method != HTTPMethod.POST]

TABLE: list[tuple[list[HTTPMethod], list[int], Meaning]] = [
    (ALL, [200, 201, 202, 203, 204, 205, 206, 207, 226, 299], Meaning.DONE),
    ([HTTPMethod.POST], [409], Meaning.DONE),
    (NOT_POST, [409], Meaning.REJECTED),
    (ALL, [401, 403], Meaning.REFUSED),
    (ALL, [408, 425, 429, 500, 502, 503, 504], Meaning.NOT_NOW),
    (ALL, [501, 505, 507, 508, 511, 599], Meaning.NOT_NOW),
    (
        ALL,
        [413, 415, 422, 400, 404, 410, 402, 405, 406, 411, 414, 416, 417, 418, 421, 423, 424, 426, 428, 431, 451, 499],
        Meaning.REJECTED,
    ),
    (ALL, [412], Meaning.PRECONDITION),
    ([HTTPMethod.GET], [300, 301, 302, 303, 305, 307, 308, 399], Meaning.REDIRECT),
    (NOT_GET, [300, 301, 302, 303, 305, 307, 308, 399], Meaning.UNKNOWN),
    ([HTTPMethod.GET, HTTPMethod.HEAD], [304], Meaning.NOT_MODIFIED),
    ([HTTPMethod.POST, HTTPMethod.PUT, HTTPMethod.PATCH, HTTPMethod.DELETE], [304], Meaning.UNKNOWN),
    (ALL, [0, 100, 101, 199], Meaning.UNKNOWN),
]


@pytest.mark.parametrize(
    ("method", "status", "meaning"),
    [(method, status, meaning) for methods, statuses, meaning in TABLE for method in methods for status in statuses],
)
def test_table(method: HTTPMethod, status: int, meaning: Meaning) -> None:
    assert meaning_of(status, method) is meaning
    assert meaning_of(status, str(method)) is meaning


@given(st.integers(-1, 1100), st.sampled_from(ALL))
def test_every_status_has_a_meaning_and_nothing_but_2xx_409_is_done(status: int, method: HTTPMethod) -> None:
    meaning = meaning_of(status, method)
    done = 200 <= status < 300 or (status == 409 and method == HTTPMethod.POST)
    assert (meaning is Meaning.DONE) == done


@pytest.mark.parametrize(
    ("status", "method", "may"),
    [
        (204, "POST", True),
        (205, "GET", True),
        (201, "POST", True),
        (200, "POST", True),
        (202, "PUT", True),
        (200, "DELETE", True),
        (200, "GET", False),
        (201, "GET", False),
        (200, "HEAD", True),
        (200, "OPTIONS", True),
    ],
)
def test_where_an_empty_body_is_a_whole_answer(status: int, method: str, may: bool) -> None:
    assert may_lack_a_body(status, method) is may


@pytest.mark.parametrize(
    ("status", "body", "acknowledges"),
    [
        (201, b"Created", True),
        (204, b"done", True),
        (201, b"\x00\x01\xff", True),
        (201, b"<id>17</id>", True),
        (200, b"OK", False),
        (202, b"accepted", False),
        (201, b"<!DOCTYPE html><title>Login</title>", False),
        (201, b"  \r\n<HTML><body>", False),
        (201, b'<?xml version="1.0"?><html xmlns="http://www.w3.org/1999/xhtml">', False),
        (204, b"<!-- portal --><html>", False),
    ],
)
def test_a_body_that_is_no_json_acknowledges_only_what_was_created(
    status: int, body: bytes, acknowledges: bool
) -> None:
    assert acknowledges_unread(status, body) is acknowledges


@pytest.mark.parametrize(
    "answer",
    [
        None,
        {},
        {"trip_id": "trip_0", "status": "uploaded"},
        {"trip_id": None, "status": None, "error": None},
        {"status": "accepted", "error": False},
        {"status": 201, "more": ["failed"]},
        {"scenario_id": "another kind of name"},
    ],
)
def test_what_does_not_contradict_acknowledges(answer: object) -> None:
    assert contradiction(answer, {"trip_id": "trip_0"}) is None


@pytest.mark.parametrize(
    ("answer", "why"),
    [
        ({"error": {"code": 503, "message": "not stored"}}, "an error"),
        ({"trip_id": "trip_0", "error": "disk full"}, "an error"),
        ({"status": "error"}, "says error"),
        ({"status": "FAILED"}, "says failed"),
        ({"status": " rejected "}, "says rejected"),
        ({"trip_id": "trip_0", "status": "invalid"}, "says invalid"),
        ({"trip_id": "trip_1"}, "another trip_id"),
        ({"trip_id": 17}, "another trip_id"),
        ([], "no object"),
        (["trip_0"], "no object"),
        ("ok", "no object"),
        (True, "no object"),
        (0, "no object"),
    ],
)
def test_what_contradicts_is_no_acknowledgement(answer: object, why: str) -> None:
    assert why in str(contradiction(answer, {"trip_id": "trip_0"}))


class TestRetryAfter:
    NOW = 1_795_420_800.0  # Mon, 23 Nov 2026 08:00:00 GMT

    @pytest.mark.parametrize(
        ("header", "seconds"),
        [
            (None, None),
            ("0", 0.0),
            ("17", 17.0),
            (" 17 ", 17.0),
            ("000000000000000017", 17.0),
            ("3600", 3600.0),
            ("3601", 3600.0),
            ("9" * 400, 3600.0),
            ("Mon, 23 Nov 2026 08:01:00 GMT", 60.0),
            ("Mon, 23 Nov 2026 09:01:00 +0100", 60.0),
            ("Mon, 23 Nov 2026 07:00:00 GMT", 0.0),
            ("Sat, 01 Jan 2050 00:00:00 GMT", 3600.0),
            ("Monday, 23-Nov-26 08:01:00 GMT", 60.0),
            ("Mon Nov 23 08:01:00 2026", 60.0),
            ("-5", None),
            ("+5", None),
            ("1.5", None),
            ("1e3", None),
            ("\u0661\u0662", None),
            ("soon", None),
            ("", None),
            ("Wed, 21 Oct 99999999999999 07:28:00 GMT", None),
            ("Wed, 21 Oct 2026 07:28:00 +9999", None),
        ],
    )
    def test_forms(self, header: str | None, seconds: float | None) -> None:
        assert retry_after_seconds(header, self.NOW, 3600.0) == seconds

    @given(st.text(), st.floats(-1e12, 1e12), st.floats(0.0, 1e6))
    def test_whatever_a_server_writes_it_is_none_or_within_the_cap(self, header: str, now: float, cap: float) -> None:
        seconds = retry_after_seconds(header, now, cap)
        assert seconds is None or 0.0 <= seconds <= cap
