"""JSON from outside: what is odd in it is odd in one place."""

import json

import pytest
from hypothesis import given
from hypothesis import strategies as st
from pydantic import JsonValue

from sentinel_sync.base.payloads import MalformedJSONError, read_json


@pytest.mark.parametrize(
    ("text", "value"),
    [
        (b'\xef\xbb\xbf{"a": 1}', {"a": 1}),
        ('\ufeff{"a": 1}', {"a": 1}),
        (b'{"a": NaN, "b": [Infinity, -Infinity]}', {"a": None, "b": [None, None]}),
        (b'{"a": 1E400, "b": -1e999}', {"a": None, "b": None}),
        (b'{"a": ' + b"9" * 400 + b"}", {"a": None}),
        (b'{"a": 1, "a": 2}', {"a": 2}),
        (b'{"id": 12345678901234567890}', {"id": 12345678901234567890}),
        (b'["NaN", "1E400", "' + b"9" * 400 + b'"]', ["NaN", "1E400", "9" * 400]),
        (b" null ", None),
    ],
)
def test_what_is_odd_is_read_all_the_same(text: bytes | str, value: JsonValue) -> None:
    assert read_json(text) == value


@pytest.mark.parametrize(
    "text",
    [
        b"",
        b"{",
        b"{'a': 1}",
        b"nan",
        b"\xff\xfe{\x00}\x00",
        b"[" * 250 + b"]" * 250,
        b"9" * 5000,
        b'{"a": 1} x',
        "\ud800",
    ],
)
def test_what_is_none_is_refused_and_nothing_of_it_told(text: bytes | str) -> None:
    with pytest.raises(MalformedJSONError) as caught:
        read_json(text)
    assert "line 1" in str(caught.value)


@pytest.mark.parametrize("number", [b"NaN", b"-Infinity", b"1E400", b"9" * 400])
def test_where_a_file_is_written_back_an_odd_number_is_refused(number: bytes) -> None:
    with pytest.raises(MalformedJSONError, match="not finite or too large"):
        read_json(b'{"a": [' + number + b"]}", refuse_odd_numbers=True)


@given(
    st.recursive(
        st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False) | st.text(),
        lambda inner: st.lists(inner) | st.dictionaries(st.text(), inner),
    )
)
def test_what_is_not_odd_is_read_as_it_is(value: JsonValue) -> None:
    assert read_json(json.dumps(value)) == value
