"""Where bytes that are private may be sent, when a backend names an address."""

import httpx
import pytest

from sentinel_sync.cloud.request import address_in

PLAIN = "http://api.example:8080/v1/scenarios/s/videos"
SECURE = "https://api.example/v1/scenarios/s/videos"


@pytest.mark.parametrize(
    ("asked", "location", "address"),
    [
        (SECURE, "/uploads/1", "https://api.example/uploads/1"),
        (SECURE, "1", "https://api.example/v1/scenarios/s/1"),
        (SECURE, "//cdn.example/1", "https://cdn.example/1"),
        (SECURE, "https://store.example:8443/1?token=x", "https://store.example:8443/1?token=x"),
        (PLAIN, "http://store.example/1", "http://store.example/1"),
        (PLAIN, "https://store.example/1", "https://store.example/1"),
        (SECURE, "https://user:password@store.example/1#part", "https://store.example/1"),
    ],
)
def test_absolute_and_relative_ones_are_followed(asked: str, location: str, address: str) -> None:
    assert address_in(location, httpx.URL(asked)) == address


@pytest.mark.parametrize(
    ("asked", "location", "address"),
    [
        (SECURE, "http://api.example/uploads/1", "https://api.example/uploads/1"),
        (SECURE, "http://api.example:80/uploads/1", "https://api.example/uploads/1"),
        ("https://api.example:8443/v1/videos", "http://api.example:8443/1", "https://api.example:8443/1"),
        (SECURE, "http://store.example/1", None),
        (SECURE, "http://api.example:8080/1", None),
    ],
)
def test_nothing_that_was_asked_under_tls_goes_on_without(asked: str, location: str, address: str | None) -> None:
    assert address_in(location, httpx.URL(asked)) == address


@pytest.mark.parametrize(
    "location", ["", PLAIN, "ftp://api.example/1", "file:///etc/passwd", "javascript:0", "http://api.example:99999999/"]
)
def test_what_is_no_address_of_an_upload_is_none(location: str) -> None:
    assert address_in(location, httpx.URL(PLAIN)) is None
