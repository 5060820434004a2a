"""What an HTTP answer means, row by row of the wire contract's answer table."""

from datetime import UTC, datetime
from email.utils import parsedate_to_datetime
from enum import StrEnum
from http import HTTPMethod, HTTPStatus

#: GETs are followed through at most so many redirects (wire contract, row 3xx).
MAX_REDIRECTS = 5

_NOT_NOW = frozenset({408, 425, 429})
_REFUSED = frozenset({401, 403})


class Meaning(StrEnum):
    """What an answer says about the work that was asked for."""

    DONE = "done"
    NOT_MODIFIED = "not modified"
    REDIRECT = "redirect"
    REFUSED = "credential refused"
    NOT_NOW = "not now"
    PRECONDITION = "precondition failed"
    REJECTED = "rejected"
    UNKNOWN = "unknown"


def meaning_of(status: int, method: str) -> Meaning:
    """Read one status as the contract does.

    409 on a POST is "already there", so the work is done. A redirect of anything but GET is not followed: a login
    portal answers so, and following it would post the payload to a stranger. 5xx beyond the contract's list (501, 507,
    511, …) are read as "not now", because nothing in them says that the item is at fault.
    """
    match status:
        case HTTPStatus.NOT_MODIFIED if method in {HTTPMethod.GET, HTTPMethod.HEAD}:
            return Meaning.NOT_MODIFIED
        case HTTPStatus.CONFLICT if method == HTTPMethod.POST:
            return Meaning.DONE
        case HTTPStatus.PRECONDITION_FAILED:
            return Meaning.PRECONDITION
        case _ if 200 <= status < 300:
            return Meaning.DONE
        case _ if 300 <= status < 400:
            return Meaning.REDIRECT if method == HTTPMethod.GET else Meaning.UNKNOWN
        case _ if status in _REFUSED:
            return Meaning.REFUSED
        case _ if status in _NOT_NOW or status >= 500:
            return Meaning.NOT_NOW
        case _ if 400 <= status < 500:
            return Meaning.REJECTED
    return Meaning.UNKNOWN


def may_lack_a_body(status: int, method: str, content_length: str | None) -> bool:
    """Say whether an empty body is a whole answer.

    HEAD and OPTIONS answer in headers, 204 and 205 never have a body, and no login portal answers 201; but an empty
    200 is what a portal or a broken proxy sends, so there it is unknown whether the work was done.
    """
    if method in {HTTPMethod.HEAD, HTTPMethod.OPTIONS} or status in {204, 205}:
        return True
    return status == HTTPStatus.CREATED and content_length in {None, "0"}


def retry_after_seconds(header: str | None, now: float, cap: float) -> float | None:
    """Read `Retry-After` (RFC 9110 section 10.2.3): seconds or an HTTP date.

    Args:
        header: The field's value, or None.
        now: The backend's wall time, seconds since the epoch: its own `Date` where it sent one, so that a vehicle
            whose clock is wrong waits as long as was meant.
        cap: `max_retry_after`, seconds.

    Returns:
        Seconds to wait, between 0 and `cap`, or None where there is no header or it makes no sense.
    """
    if header is None:
        return None
    text = header.strip()
    if text.isascii() and text.isdigit():
        return min(cap, float(text))
    at = http_date(text)
    return None if at is None else min(cap, max(0.0, at - now))


def http_date(text: str | None) -> float | None:
    """Seconds since the epoch of an HTTP date (RFC 9110 section 5.6.7), or None where it is none."""
    if text is None:
        return None
    try:
        moment = parsedate_to_datetime(text)
    except (ValueError, TypeError, IndexError, OverflowError):
        return None
    return (moment if moment.tzinfo else moment.replace(tzinfo=UTC)).timestamp()


def rfc3339(text: object) -> float | None:
    """Seconds since the epoch of an RFC 3339 time with an offset, or None where it is none."""
    if not isinstance(text, str):
        return None
    try:
        moment = datetime.fromisoformat(text.upper())  # RFC 3339 allows `t` and `z`, Python does not
    except ValueError:
        return None
    return moment.timestamp() if moment.tzinfo else None
