"""What the client gives back, and what its attempts teach."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Any


class Contact(StrEnum):
    """What an attempt taught about the backend."""

    AUTHORIZED = "authorized"
    REACHABLE = "reachable"
    UNAUTHORIZED = "unauthorized"
    UNREACHABLE = "unreachable"


@dataclass(frozen=True, slots=True)
class APIResponse:
    """What the specification's face gives back, whatever the network does.

    Attributes:
        success: Whether the backend did what was asked.
        status_code: The HTTP status; 0 where no usable answer came.
        data: The answer's JSON.
        error: What went wrong, in words; None where nothing did.
        request_id: `X-Request-ID` of the last attempt; None where none was sent.
    """

    success: bool
    status_code: int
    data: Any = None
    error: str | None = None
    request_id: str | None = None


@dataclass(frozen=True, slots=True)
class Probe:
    """An answered health request.

    Attributes:
        server_time: The backend's wall time as it wrote it (RFC 3339), or None.
        date: Its `Date` header, seconds since the epoch, or None.
        sent: Time since boot when it was sent, seconds.
        received: Time since boot when the answer came, seconds.
        min_interval: Seconds that the backend wants between probes, or None.
    """

    server_time: str | None
    date: float | None
    sent: float
    received: float
    min_interval: float | None
