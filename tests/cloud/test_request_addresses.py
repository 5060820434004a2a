"""Where a request may go when a backend names an address: with bytes that are private, by a redirect, for a file."""

from collections.abc import Callable

import httpx
import pytest

from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.cloud.request import address_in
from sentinel_sync.cloud.response import file_url, next_url

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


def redirected(location: str, asked: str) -> str:
    answer = httpx.Response(302, headers={"Location": location})
    return str(next_url(answer, httpx.URL(asked), "GET /x", "id"))


def found(address: str, api_url: str) -> str:
    return str(file_url(address, httpx.URL(api_url), "GET a file", "id"))


def uploaded(location: str, asked: str) -> str:
    return str(address_in(location, httpx.URL(asked)))


class TestEachFollowsInItsOwnWay:
    """An upload's `Location`, a redirect and the address of a file are read alike, but for what is said here."""

    @pytest.mark.parametrize("follow", [uploaded, redirected, found])
    def test_no_part_of_a_credential_or_of_a_page_goes_along(self, follow: Callable[[str, str], str]) -> None:
        assert follow("https://user:password@store.example/1#part", SECURE) == "https://store.example/1"

    def test_a_file_lies_below_the_api_what_else_is_named_beside_what_was_asked(self) -> None:
        api = "https://api.example/v1"
        assert found("files/1", api) == "https://api.example/v1/files/1"
        assert redirected("files/1", api) == uploaded("files/1", api) == "https://api.example/files/1"

    def test_nothing_goes_on_without_tls_but_an_upload_whose_proxy_hid_it(self) -> None:
        plain = "http://api.example/1"
        assert uploaded(plain, SECURE) == "https://api.example/1"
        with pytest.raises(UnreachableError, match="from https to http; not followed"):
            redirected(plain, SECURE)
        why = "its address is http, where the backend's is https; not followed"
        with pytest.raises(UnreachableError, match=why):
            found(plain, SECURE)
        assert redirected(plain, PLAIN) == found(plain, PLAIN) == plain

    def test_only_a_redirect_has_to_name_something_and_only_an_upload_something_new(self) -> None:
        with pytest.raises(UnreachableError, match="redirected to what is no http"):
            redirected("", PLAIN)
        assert found("", PLAIN) == f"{PLAIN}/"
        assert redirected(PLAIN, PLAIN) == PLAIN, "a circle ends by its length"

    @pytest.mark.parametrize("location", ["ftp://api.example/1", "http:////%[", "javascript:0"])
    def test_what_is_no_address(self, location: str) -> None:
        assert address_in(location, httpx.URL(PLAIN)) is None
        with pytest.raises(UnreachableError, match=r"^GET /x: redirected to what is no http\(s\) URL; not followed$"):
            redirected(location, PLAIN)
        with pytest.raises(UnreachableError, match=r"^GET a file: its address is no http\(s\) URL; not followed$"):
            found(location, PLAIN)
