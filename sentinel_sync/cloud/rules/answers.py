"""What an answer means (the wire contract's table; a download's), and whether anything may be sent after it."""

import ipaddress
import re
from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum
from http import HTTPMethod, HTTPStatus
from random import Random

from sentinel_sync.base.backoff import RETURN_SPREAD, full_jitter
from sentinel_sync.base.clock import http_date

#: GETs are followed through at most so many redirects (wire contract, row 3xx).
MAX_REDIRECTS = 5

_NOT_NOW = frozenset({408, 425, 429})
_REFUSED = frozenset({401, 403})
#: What a `status` in an answer is where the work was not done (wire contract, Acknowledgement).
_FAILED = frozenset({"error", "failed", "rejected", "invalid"})
#: How a page begins, and within how many bytes: some have a comment or white space before it.
_HTML = (b"<!doctype", b"<html", b"<head", b"<body", b"<!--", b"<script", b"<meta", b"<title")
_HTML_WITHIN = 1024
#: The address of a download has expired (wire contract, Models).
_EXPIRED = frozenset({403, 410})
_CONTENT_RANGE = re.compile(r"bytes (\d{1,18})-(\d{1,18})/(\d{1,18}|\*)")


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


def may_lack_a_body(status: int, method: str) -> bool:
    """Say whether an empty body is a whole answer.

    HEAD and OPTIONS answer in headers, and work is acknowledged without words; but what was asked for with a GET is in
    the body, and an empty one is what a portal or a broken proxy sends.
    """
    return method != HTTPMethod.GET or status in {204, 205}


def acknowledges_unread(status: int, body: bytes) -> bool:
    """Whether a 2xx to a request for work acknowledges with a body that is no JSON (wire contract, Acknowledgement).

    A 201 or 204 does, unless the body is a page: no portal says "created", but some echo one.
    """
    start = body[:_HTML_WITHIN].lstrip().lower()
    return status in {201, 204} and not start.startswith(_HTML) and b"<html" not in start


def contradiction(answer: object, names: Mapping[str, str]) -> str | None:
    """Say how the JSON of a 2xx contradicts that the work was done; None where it does not.

    Args:
        answer: The body; None where there was none.
        names: What the answer names the work by, where it does: `{"trip_id": …}`.
    """
    if answer is None:
        return None
    if not isinstance(answer, Mapping):
        return "the body is no object"
    if answer.get("error"):
        return "the body tells of an error"
    status = answer.get("status")
    if isinstance(status, str) and status.strip().lower() in _FAILED:
        return f"the body says {status.strip().lower()}"
    for name, sent in names.items():
        named = answer.get(name)
        if named is not None and named != sent:
            return f"the body names another {name}"
    return None


def retry_after_seconds(header: str | None, now: float, cap: float) -> float | None:
    """Read `Retry-After` (RFC 9110 section 10.2.3): seconds or an HTTP date.

    Args:
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


@dataclass(frozen=True, slots=True)
class PartialFile:
    """How much of a file is on disk.

    Attributes:
        offset: Bytes on disk.
        etag: What the server called the file that they are of, or None where it did not say.
    """

    offset: int = 0
    etag: str | None = None


@dataclass(frozen=True, slots=True)
class TakeBody:
    """The body belongs at `offset`, and what comes after it on disk goes; the file is called `etag`."""

    offset: int
    etag: str | None


@dataclass(frozen=True, slots=True)
class AskForAll:
    """What is on disk may be of another file: ask again, for the whole."""


@dataclass(frozen=True, slots=True)
class AskForAddress:
    """The address has expired."""


@dataclass(frozen=True, slots=True)
class IsWhole:
    """All of it is on disk."""


@dataclass(frozen=True, slots=True)
class RetryLater:
    """Not now, or no file: what is on disk stays."""

    reason: str


@dataclass(frozen=True, slots=True)
class NotFound:
    """There is no file at this address, or not yet: a CDN may not have it."""

    reason: str


Step = TakeBody | AskForAll | AskForAddress | IsWhole | RetryLater | NotFound


def range_headers(progress: PartialFile) -> dict[str, str]:
    """Request headers that ask for the rest."""
    # Packed bytes could not be counted against the signed size, nor appended to.
    headers = {"Accept-Encoding": "identity"}
    if progress.offset:
        headers["Range"] = f"bytes={progress.offset}-"
        if progress.etag is not None and not progress.etag.startswith("W/"):
            headers["If-Range"] = progress.etag
    return headers


def next_step(status: int, headers: Mapping[str, str], progress: PartialFile, size: int) -> Step:
    """What an answer to a download asks for; none is final: only the whole bytes say whether they are those signed.

    `If-Range` alone is not relied upon: servers are known to answer 206 although it did not match, so the ETag and the
    range of every answer are compared here (RFC 9110 sections 13.1.5, 14.4).

    Args:
        status: Its status, redirects followed.
        headers: Its headers; looked up in any case.
        progress: What was asked from.
        size: Bytes that the signature promises.
    """
    if status in _EXPIRED:
        return AskForAddress()
    if status in _NOT_NOW or status >= 500:
        return RetryLater(f"answered {status}")
    if status == 416:
        if progress.offset == size:
            return IsWhole()
        return AskForAll() if progress.offset else NotFound("answered 416 to a request for the whole")
    if status not in {200, 206}:
        return NotFound(f"answered {status}")
    if headers.get("Content-Encoding", "identity").strip().lower() != "identity":
        return RetryLater("answered with a packed body, which was not asked for")
    if headers.get("Content-Type", "").strip().lower().startswith("text/html"):
        return RetryLater("answered with a page: a login page in between?")
    if status == 206:
        return _partial(headers, progress, size)
    length = headers.get("Content-Length")
    if length is not None and (not length.isdecimal() or int(length) != size):
        return RetryLater(f"offers {length[:20]} bytes, where {size} are signed")
    return TakeBody(0, headers.get("ETag"))


def _partial(headers: Mapping[str, str], progress: PartialFile, size: int) -> Step:
    match = _CONTENT_RANGE.fullmatch(headers.get("Content-Range", "").strip())
    if match is None:
        return AskForAll() if progress.offset else RetryLater("answered with a part that it does not name")
    first, last, total = match.groups()
    if total != "*" and int(total) != size:
        # Of another file, or of this one changed: asked for the whole it says so, or mends itself.
        return AskForAll() if progress.offset else RetryLater(f"offers {total} bytes, where {size} are signed")
    if int(first) != progress.offset or not int(first) <= int(last) < size:
        return AskForAll() if progress.offset else RetryLater("answered with a part that was not asked for")
    etag = headers.get("ETag")
    if progress.etag is not None and etag is not None and etag.removeprefix("W/") != progress.etag.removeprefix("W/"):
        return AskForAll()
    return TakeBody(progress.offset, etag if etag is not None else progress.etag)


#: A refused credential is tried again after so many seconds even if nobody changed it: the backend may have been wrong.
CREDENTIAL_RETRY_INTERVAL = 900.0
#: Ceiling of the pause after failures in a row, seconds. Coming online ends it at once.
MAX_PAUSE = 60.0


class GateState(StrEnum):
    """What the gate lets through."""

    OPEN = "open"
    PAUSED = "paused"  # the backend asked for it, or it does not answer
    REFUSED = "refused"  # the credential was refused; only the health probe passes
    HALTED = "halted"  # the host or the settings forbid sending


@dataclass(frozen=True, slots=True)
class GateDecision:
    """The gate's answer.

    Attributes:
        wait: Seconds until it is worth asking again; None where only an event can open the gate.
    """

    state: GateState
    wait: float | None
    why: str

    @property
    def open(self) -> bool:
        """Whether a request may go now."""
        return self.state is GateState.OPEN


_OPEN = GateDecision(GateState.OPEN, None, "")


class Gate:
    """Remembers what the last answers said about everybody's next request. Times are monotonic seconds.

    Args:
        credential_retry_interval: A refused credential is tried again after so many seconds.
        reconnect_spread: Whoever was asked to wait comes back within at least so many seconds after it.
    """

    def __init__(
        self,
        rng: Random,
        *,
        credential_retry_interval: float = CREDENTIAL_RETRY_INTERVAL,
        reconnect_spread: float = 0.0,
    ) -> None:
        self._rng = rng
        self._reconnect_spread = reconnect_spread
        self._credential_retry_interval = credential_retry_interval
        self._paused_until = float("-inf")
        self._asked_until = float("-inf")
        self._pause_reason = ""
        self._failures = 0
        self._refused_until: float | None = None
        self._refusal = ""
        self._halts: dict[str, str] = {}

    def passage(self, now: float) -> GateDecision:
        """Say whether a request may be sent at `now`."""
        if self._halts:
            return GateDecision(GateState.HALTED, None, next(iter(self._halts.values())))
        if self._refused_until is not None and now < self._refused_until:
            return GateDecision(GateState.REFUSED, self._refused_until - now, self._refusal)
        if now < self._paused_until:
            return GateDecision(GateState.PAUSED, self._paused_until - now, self._pause_reason)
        return _OPEN

    def probe_passage(self, now: float) -> GateDecision:
        """Say whether the health probe may be sent at `now`.

        It passes our own pause and a refusal, but neither a halt nor the backend's `Retry-After`, which is for the
        whole client (wire contract, "Answers").
        """
        if self._halts:
            return GateDecision(GateState.HALTED, None, next(iter(self._halts.values())))
        if now < self._asked_until:
            return GateDecision(GateState.PAUSED, self._asked_until - now, self._pause_reason)
        return _OPEN

    def on_success(self, now: float) -> None:
        """An authenticated request was answered as asked: nothing stands in the way, but what was asked for counts.

        A refusal stays for its interval: what succeeds meanwhile was sent before it.
        """
        self.on_reachable()
        if self._refused_until is not None and now >= self._refused_until:
            self._refused_until = None

    def on_reachable(self) -> None:
        """The health probe was answered: our own pause ends, the backend's `Retry-After` and a refusal stay."""
        self._failures = 0
        self._paused_until = self._asked_until

    def on_refused(self, why: str, now: float) -> None:
        """The credential was refused (401, 403)."""
        self._refused_until = now + self._credential_retry_interval
        self._refusal = why

    def on_credential_changed(self) -> None:
        """There is a new credential: it deserves a try."""
        self._refused_until = None

    def on_not_now(self, why: str, now: float, retry_after: float | None) -> None:
        """The backend asked to come back later; `retry_after` are the seconds it named.

        At least these, and a random part on top: a fleet that was told the same does not come back as one.
        """
        self._fail(why, now)
        if retry_after is not None:
            self._asked_until = max(self._asked_until, now + retry_after + self._spread(retry_after))
            self._paused_until = max(self._paused_until, self._asked_until)

    def on_unreachable(self, why: str, now: float) -> None:
        """No usable answer came."""
        self._fail(why, now)

    def halt(self, cause: str, why: str) -> None:
        """Forbid all sending until `resume(cause)`."""
        self._halts[cause] = why

    def resume(self, cause: str) -> None:
        """Lift what `halt(cause)` forbade."""
        self._halts.pop(cause, None)

    def _spread(self, asked: float) -> float:
        return self._rng.uniform(0.0, max(RETURN_SPREAD * asked, self._reconnect_spread)) if asked > 0.0 else 0.0

    def _fail(self, why: str, now: float) -> None:
        # Requests in flight together fail together: only the first of them lengthens the pause.
        if now >= self._paused_until:
            self._failures += 1
            self._paused_until = now + full_jitter(self._failures, self._rng, cap=MAX_PAUSE)
        self._pause_reason = why


class RetryBudget:
    """Allows retries in proportion to successes, so that a dead backend is not hammered.

    A token bucket as in gRPC's retry throttling (gRFC A6): each failure takes a token, each success gives back a part
    of one, and retries are allowed while more than half is left.
    """

    def __init__(self, tokens: float = 20.0, ratio: float = 0.1) -> None:
        self._capacity = tokens
        self._tokens = tokens
        self._ratio = ratio

    @property
    def allows_retry(self) -> bool:
        """Whether another retry may be made now."""
        return self._tokens > self._capacity / 2

    def on_failure(self) -> None:
        """Count an attempt that ended with nothing."""
        self._tokens = max(0.0, self._tokens - 1.0)

    def on_success(self) -> None:
        """Count an attempt that was answered."""
        self._tokens = min(self._capacity, self._tokens + self._ratio)


class AddressGuard:
    """Keeps what others have named (a download's address, a `Location`, a redirect) from leading into the vehicle.

    Server-side request forgery (CWE-918): a listing that names http://192.168.0.1/ would have the vehicle call its own
    devices. It is the address that was connected to that counts, so no name server's word gets by. Where the API itself
    is on such an address, as on a bench or in a private network, others may be too.

    Args:
        api_host: As in `api_url`.
        is_ours: Whether connections are ours to make; a proxy, or whoever shares a client, decides for itself.
    """

    def __init__(self, api_host: str, *, is_ours: bool = True) -> None:
        self._is_ours = is_ours
        self._api_host = api_host.lower()
        self._api_is_inside = api_host.lower() == "localhost" or _is_inside(api_host)

    def refusal(self, host: str, address: str, is_verified: bool) -> str | None:
        """Why nothing may be sent to a host at that address, or None.

        Args:
            host: By its name.
            address: That was connected to.
            is_verified: Whether it has shown the host's certificate: a login page's name server has every name inside.
        """
        if host.lower() == self._api_host:
            self._api_is_inside = self._api_is_inside or (is_verified and _is_inside(address))
            return None
        if self._api_is_inside or not self._is_ours or not _is_inside(address):
            return None
        return f"{address} is no address of the internet: what others name may not lead into this network"


def _is_inside(address: str) -> bool:
    try:
        found = ipaddress.ip_address(address.partition("%")[0].strip("[]"))
    except ValueError:  # a name
        return False
    if isinstance(found, ipaddress.IPv6Address):
        found = found.ipv4_mapped or found.sixtofour or found
    return not found.is_global or found.is_multicast
