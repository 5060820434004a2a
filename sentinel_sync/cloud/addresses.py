"""What an address means that came in an answer: where to send bytes that are private, so nothing is taken on trust."""

import httpx

_DEFAULT_PORTS = {"http": 80, "https": 443}
_LAST_PORT = 65_535


def address_in(location: str, asked: httpx.URL) -> str | None:
    """The whole URL that a `Location` names (RFC 9110 section 10.2.2); None where nothing may be sent there.

    Nor is the address that was asked one of something new: an empty `Location` means it.

    A backend behind a proxy that ends TLS often does not know that it is asked by https, and says http: on the host and
    port that was asked, https is meant. Anywhere else it is refused.

    Args:
        location: Absolute, or relative to `asked`.
        asked: The URL of the request that was answered.
    """
    try:
        # Without user and password: they would become an Authorization of somebody else's making.
        url = asked.join(location).copy_with(userinfo=b"", fragment=None)
    except (httpx.InvalidURL, ValueError):
        return None
    if url.scheme not in _DEFAULT_PORTS or not url.host or (url.port or 0) > _LAST_PORT or url == asked:
        return None
    if asked.scheme == "https" and url.scheme == "http":
        same_port = url.port in {None, _DEFAULT_PORTS["http"], asked.port or _DEFAULT_PORTS["https"]}
        if url.host != asked.host or not same_port:
            return None
        url = url.copy_with(scheme="https", port=asked.port)
    return str(url)
