"""What a request may look like before it leaves: its path, its query, its body."""

from datetime import UTC, datetime
from typing import Any
from urllib.parse import unquote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from sentinel_sync.base.payloads import Location
from sentinel_sync.cloud.request import coarse_query, quote_id
from sentinel_sync.cloud.response_policy import json_body, target_of


@pytest.mark.parametrize(
    ("identifier", "quoted"),
    [
        ("vehicle_001", "vehicle_001"),
        ("a/b", "a%2Fb"),
        ("..", "%2E%2E"),
        (".", "%2E"),
        ("2024-11-17_10.30", "2024-11-17_10.30"),
        ("é ?#%", "%C3%A9%20%3F%23%25"),
    ],
)
def test_ids_become_one_segment(identifier: str, quoted: str) -> None:
    assert quote_id(identifier) == quoted


@given(st.text(st.characters(exclude_categories=["Cs"]), min_size=1))
def test_any_id_becomes_one_segment_and_comes_back(identifier: str) -> None:
    quoted = quote_id(identifier)
    assert unquote(quoted) == identifier
    assert quoted.isascii()
    assert quoted not in {".", ".."}
    assert not set(quoted) & set("/?# ")


@pytest.mark.parametrize(
    ("endpoint", "params", "path", "query"),
    [
        ("/health", None, "/health", {}),
        ("health", {}, "/health", {}),
        ("", None, "/", {}),
        ("/a b/é", None, "/a%20b/%C3%A9", {}),
        ("/a%2Fb", None, "/a%2Fb", {}),
        ("/x?a=1&a=2&b=", None, "/x", {"a": ["1", "2"], "b": [""]}),
        ("/x?a=1", {"a": 2, "c": None, "d": True}, "/x", {"a": 2, "d": True}),
        ("/x?lat=37.774929", {"location": (37.774929, 1.5)}, "/x", {"lat": ["37.77"], "location": [37.77, 1.5]}),
        ("/near/37.774929,-122.419416", None, "/near/37.77,-122.42", {}),
        ("/x?u=https://a.example/b", None, "/x", {"u": ["https://a.example/b"]}),
    ],
)
def test_endpoints(endpoint: str, params: dict[str, Any] | None, path: str, query: dict[str, Any]) -> None:
    assert target_of(endpoint, params) == (path, query)


@pytest.mark.parametrize("endpoint", ["https://a.example/x", "//a.example", "/a/../b", "..", "./a", "/a#b"])
def test_an_endpoint_stays_below_the_base(endpoint: str) -> None:
    with pytest.raises(ValueError, match="endpoint"):
        target_of(endpoint, None)


def test_a_query_is_plain() -> None:
    at = datetime(2026, 11, 23, tzinfo=UTC)
    assert coarse_query({"since": at, "none": None}) == {"since": "2026-11-23T00:00:00Z"}


@pytest.mark.parametrize(
    ("data", "body"),
    [
        (None, None),
        ({}, b"{}"),
        ([], b"[]"),
        (0, b"0"),
        ({"a": (1, 2.5), "b": "x", "é": None}, '{"a":[1,2.5],"b":"x","é":null}'.encode()),
        (Location(lat=37.774929, lon=-122.419416), b'{"lat":37.77,"lon":-122.42}'),
        ({"here": Location(lat=37.774929, lon=0.0)}, b'{"here":{"lat":37.77,"lon":0.0}}'),
        ({"location": {"lat": 37.774929}}, b'{"location":{"lat":37.77}}'),
    ],
)
def test_bodies(data: Any, body: bytes | None) -> None:
    assert json_body(data) == body


@pytest.mark.parametrize(
    "data", [float("nan"), {"x": float("-inf")}, {"x": object()}, {"x": "\ud800"}, {"lat": float("nan")}]
)
def test_what_json_cannot_say_is_an_error(data: Any) -> None:
    with pytest.raises(ValueError, match=r"."):
        json_body(data)
