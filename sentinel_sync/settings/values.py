"""What a single value of the settings may be: types of their own, and checks that others ask too."""

import ipaddress
import re
from typing import Annotated
from urllib.parse import urlsplit

from pydantic import Field

_KEY = re.compile(r"[!-~]+")

Seconds = Annotated[float, Field(gt=0.0, le=30 * 86_400.0)]
#: Ids go into headers and URLs: visible ASCII only.
Identifier = Annotated[str, Field(min_length=1, max_length=128, pattern=r"^[!-~]+$")]


def is_key(text: str) -> bool:
    """Whether a text can stand in an `Authorization` header: visible ASCII, nothing else."""
    return _KEY.fullmatch(text) is not None


def is_loopback(host: str) -> bool:
    """Whether a host is this machine itself, without asking a name server.

    Names below `localhost` are none: whether they lead here is up to the resolver (RFC 6761 section 6.3: "SHOULD").
    """
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def is_loopback_url(url: str) -> bool:
    """Whether a URL leads to this machine itself."""
    try:
        return is_loopback(urlsplit(url).hostname or "")
    except ValueError:
        return False
