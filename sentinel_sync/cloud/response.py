"""Sends a request and reads what came back, whole or as a download: redirects by the contract, errors put into ours.

Never more of an answer is read than is wanted, also of one that unpacks to a thousand times its size.
"""

import asyncio
import codecs
import zlib
from collections.abc import AsyncIterator, Callable, Iterator, Mapping
from contextlib import asynccontextmanager, contextmanager, suppress
from dataclasses import dataclass
from functools import partial
from typing import Any
from uuid import uuid4

import httpcore

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import UnacknowledgedError, UnreachableError
from sentinel_sync.base.http_library import httpx
from sentinel_sync.base.payloads import MalformedJSONError, read_json
from sentinel_sync.base.privacy import loggable_text, unlogged
from sentinel_sync.cloud.request import (
    CountedStream,
    Deadline,
    Request,
    RequestHeaders,
    TrafficMeter,
    followed,
    loses_tls,
)
from sentinel_sync.cloud.rules.answers import (
    MAX_REDIRECTS,
    Meaning,
    acknowledges_unread,
    contradiction,
    may_lack_a_body,
    meaning_of,
)
from sentinel_sync.cloud.transport import BULK, FRESH

#: So much of an error body is read (wire contract, "Answers").
MAX_ERROR_BYTES = 64 << 10
#: So much of any other answer: the largest that the contract knows is a catalogue or a year's trend, well below it.
MAX_ANSWER_BYTES = 8 << 20
#: And so many values in it. Parsing holds the interpreter, in whatever thread: two million empty objects fit into six
#: megabytes and took 0.3 s, these take some 15 ms. A comparison of a thousand vehicles by twenty metrics has 20,000.
MAX_VALUES = 100_000
#: Seconds for an error's body: its status says what to do already, the reason in it is a courtesy.
ERROR_BODY_TIMEOUT = 5.0
#: What `read_answer` can unpack.
ACCEPT_ENCODING = "gzip"

_IDENTITY = frozenset({"", "identity"})
_GZIP = frozenset({"gzip", "x-gzip"})
#: zlib's window bits for "a gzip header and trailer".
_GZIP_WINDOW = 16 + zlib.MAX_WBITS
REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: The client's own credentials, if an embedder's has any, are for its own hosts; ours is a header.
NO_AUTH = httpx.Auth()
_SPENT = httpx.ByteStream(b"")

#: How a connection ends that the other side, or a middlebox, had given up while it was idle.
_ENDED = (httpx.RemoteProtocolError, httpx.ReadError, httpx.WriteError)
#: Nothing of the request has left then.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)


class OversizedError(ValueError):
    """The answer is larger than any that the contract knows."""


class UnreadableError(ValueError):
    """The answer is packed in a way that was not asked for, or is damaged."""


class ElsewhereError(UnreachableError):
    """A host that `api_url` redirected to gave no usable answer; `api_url` itself did answer."""


@dataclass(frozen=True, slots=True)
class Response:
    """An answer, read whole.

    Attributes:
        data: The body as JSON; None where there is none or it is an error's and no JSON.
        sent: Time since boot when the request was handed to the network, seconds.
        received: Time since boot when the answer was whole, seconds.
        from_api: Whether the host of `api_url` answered, not one that it redirected to.
    """

    status: int
    headers: httpx.Headers
    data: Any
    request_id: str
    sent: float
    received: float
    from_api: bool


@dataclass(frozen=True, slots=True)
class Download:
    """An answer whose body is still to be read, and the deadline to be moved while it is."""

    response: httpx.Response
    deadline: Deadline


class ConnectionTrace:
    """Follows one request through httpcore ("trace" among its request extensions).

    Args:
        refusal: Says of an address that was connected to, and whether its certificate was, why nothing may go there.
    """

    def __init__(self, refusal: Callable[[str, bool], str | None]) -> None:
        self._refusal = refusal
        self._opened = self._sent = self._answered = False

    @property
    def is_reused_and_unanswered(self) -> bool:
        """Whether it went over a connection that others had used, and no answer's head came."""
        return self._sent and not self._opened and not self._answered

    async def note(self, event: str, facts: Mapping[str, Any]) -> None:
        """Take in an event; raises httpx.ConnectError where nothing may be sent to an address, before anything is."""
        stream = facts.get("return_value")
        if isinstance(stream, httpcore.AsyncNetworkStream):
            address, *_ = stream.get_extra_info("server_addr") or ("",)
            if (why := self._refusal(str(address), event.endswith("start_tls.complete"))) is not None:
                await stream.aclose()
                raise httpx.ConnectError(why)
        if event.startswith("connection.connect_"):
            self._opened = True
        elif event.endswith("send_request_headers.started"):
            self._sent = True
        elif event.endswith("receive_response_headers.complete"):
            self._answered = True


@dataclass(frozen=True, slots=True)
class Exchange:
    """Makes requests over the shared client, with one credential.

    Of the client only the transport counts: its default headers, cookies, auth and redirects do not take part.

    Attributes:
        http: The shared client.
        headers: Where requests go, and what each carries.
        key: The credential; goes to the origin of `api_url` alone.
        meter: Counts what goes out and comes in.
        clock: To say when a request was sent and answered.
        guard: Says why nothing may be sent to a host at an address (whose certificate was verified or not), or None.
    """

    http: httpx.AsyncClient
    headers: RequestHeaders
    key: str
    meter: TrafficMeter
    clock: Clock
    guard: Callable[[str, str, bool], str | None]

    async def send(self, asked: Request, request_id: str, deadline: Deadline, timeout: httpx.Timeout) -> Response:
        """Send one request and read its answer whole.

        Args:
            request_id: Of this attempt.
            deadline: Moved while a large body goes out.
            timeout: Seconds for each phase.

        A kept connection that had ended before a byte of the answer is tried once more at once on a fresh one.

        Raises:
            UnreachableError: No whole, readable answer; whether the work was done is unknown.
            UnacknowledgedError: Answered 2xx, but with a body that does not acknowledge the work.
        """
        url, redirects, fresh = self.headers.url(asked), 0, False
        while redirects <= MAX_REDIRECTS:
            from_api = self.headers.is_own(url)
            headers = self.headers.of(asked, request_id, self.key, from_api=from_api)
            trace = ConnectionTrace(partial(self.guard, url.host))
            # Not http.build_request(): that would add the shared client's cookies and default headers.
            request = httpx.Request(
                asked.method,
                url,
                headers={"Accept-Encoding": ACCEPT_ENCODING, **headers},
                content=asked.body(deadline, self.meter),
                extensions={"timeout": timeout.as_dict(), BULK: asked.bulk, FRESH: fresh, "trace": trace.note},
            )
            sent = self.clock.monotonic()
            with self._as_ours(asked, request_id, trace, from_api=from_api):
                try:
                    response, body = await _read(self.http, request, self.meter)
                except _ENDED:
                    if fresh or not trace.is_reused_and_unanswered or not asked.is_repeatable:
                        raise
                    # Nobody read it, most likely; and where somebody did, the key makes it safe.
                    fresh, request_id = True, str(uuid4())
                    continue
                status = response.status_code
                if status in REDIRECTS and meaning_of(status, asked.method) is Meaning.REDIRECT:
                    url, redirects = next_url(response, url, asked.what, request_id), redirects + 1
                    continue
                data = _parse(response, body, asked, request_id)
            received = self.clock.monotonic()
            return Response(status, response.headers, data, request_id, sent, received, from_api)
        raise UnreachableError(f"{asked.what}: redirected more than {MAX_REDIRECTS} times", request_id=request_id)

    @contextmanager
    def _as_ours(self, asked: Request, request_id: str, trace: ConnectionTrace, *, from_api: bool) -> Iterator[None]:
        """Raise our errors for what the network, the answer or the address did."""
        unreachable = UnreachableError if from_api else ElsewhereError
        try:
            yield
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            was_reused = isinstance(error, _ENDED) and trace.is_reused_and_unanswered
            raise unreachable(f"{asked.what}: {fault(error)}", request_id=request_id, was_reused=was_reused) from None
        except (OversizedError, UnreadableError) as error:
            kind = UnacknowledgedError if asked.is_work else unreachable
            raise kind(f"{asked.what}: {error}", request_id=request_id) from None
        except (ValueError, OverflowError):
            if from_api:
                raise
            # A name or port that no resolver takes, out of somebody's Location.
            why = f"{asked.what}: redirected to an address that cannot be used"
            raise unreachable(why, request_id=request_id) from None
        except RuntimeError:
            if not self.http.is_closed:
                raise
            raise unreachable(f"{asked.what}: the client was closed", request_id=request_id) from None

    @asynccontextmanager
    async def open(
        self, address: str, asked: Request, request_id: str, timeout: httpx.Timeout
    ) -> AsyncIterator[httpx.Response]:
        """Ask for a file, and give the answer with its body unread.

        Args:
            address: Absolute, or relative to `api_url`.
            asked: Names it, and its further headers.
            request_id: Of this attempt.
            timeout: Seconds for each phase.

        Raises:
            UnreachableError: No answer, it broke off while it was read, or the address must not be followed.
        """
        what = asked.what
        url = file_url(address, self.headers.base, what, request_id)
        redirects, fresh = 0, False
        while redirects <= MAX_REDIRECTS:
            headers = self.headers.of(asked, request_id, self.key, from_api=self.headers.is_own(url))
            trace = ConnectionTrace(partial(self.guard, url.host))
            extensions = {"timeout": timeout.as_dict(), BULK: True, FRESH: fresh, "trace": trace.note}
            request = httpx.Request("GET", url, headers=headers, extensions=extensions)
            try:
                with unlogged():
                    response = await _opened(self.http, request, self.meter)
            except httpx.InvalidURL:  # of a redirect: httpx reads it although nobody asks it to follow
                why = f"{what}: redirected to what is no http(s) URL; not followed"
                raise UnreachableError(why, request_id=request_id) from None
            except (httpx.HTTPError, httpx.StreamError) as error:
                if isinstance(error, _ENDED) and trace.is_reused_and_unanswered and not fresh:
                    fresh, request_id = True, str(uuid4())
                    continue
                raise UnreachableError(f"{what}: {fault(error)}", request_id=request_id) from None
            except (ValueError, OverflowError):
                raise UnreachableError(f"{what}: its address cannot be used", request_id=request_id) from None
            self.meter.count_answer(response, 0)
            if isinstance(response.stream, httpx.AsyncByteStream):
                response.stream = CountedStream(response.stream, self.meter)
            try:
                if response.status_code not in REDIRECTS:
                    yield response
                    return
                url, redirects = next_url(response, url, what, request_id), redirects + 1
            except (httpx.HTTPError, httpx.StreamError) as error:
                raise UnreachableError(f"{what}: {fault(error)}", request_id=request_id) from None
            finally:
                await response.aclose()
        raise UnreachableError(f"{what}: redirected more than {MAX_REDIRECTS} times", request_id=request_id)


def fault(error: Exception) -> str:
    """Name a network fault for a person: what happened, without addresses or bodies."""
    match error:
        case httpx.ConnectTimeout():
            return "no connection within the time-out"
        case httpx.PoolTimeout():
            return "no free connection within the time-out"
        case httpx.TimeoutException():
            return "no answer within the time-out"
        case httpx.ConnectError():
            return f"cannot connect ({loggable_text(str(error)) or type(error).__name__})"
        case httpx.ProxyError():
            return f"the proxy does not let it pass ({loggable_text(str(error))})"
        case httpx.RemoteProtocolError():
            return "the answer was cut off or garbled"
    return f"the connection broke ({type(error).__name__})"


async def _read(http: httpx.AsyncClient, request: httpx.Request, meter: TrafficMeter) -> tuple[httpx.Response, bytes]:
    with unlogged():
        response = await _opened(http, request, meter)
        try:
            if response.is_success:
                return response, await read_answer(response)
            return response, await read_reason(response)
        finally:
            meter.count_answer(response, response.num_bytes_downloaded)
            await response.aclose()
            # httpx makes the stream refer to its response. Broken, a request leaves no cycle behind: else every few
            # thousand of them the collector would walk the whole heap, for tens of milliseconds, on the host's loop.
            response.stream = _SPENT


async def _opened(http: httpx.AsyncClient, request: httpx.Request, meter: TrafficMeter) -> httpx.Response:
    """Send a request, and give the answer with its body unread; the request is counted, its pieces of a file apart."""
    body_bytes = len(request.content) if isinstance(request.stream, httpx.ByteStream) else 0
    try:
        response = await http.send(request, stream=True, auth=NO_AUTH, follow_redirects=False)
    except _NEVER_SENT:
        raise
    except httpx.HTTPError:
        meter.count_request(request, body_bytes)
        raise
    meter.count_request(request, body_bytes)
    return response


def next_url(response: httpx.Response, url: httpx.URL, what: str, request_id: str) -> httpx.URL:
    """Where a redirect leads.

    Raises:
        UnreachableError: To no http(s) URL, or from https to http.
    """
    location = response.headers.get("Location", "")
    target = followed(location, url) if location else None
    if target is not None and not loses_tls(url, target):
        return target
    why = "to what is no http(s) URL" if target is None else "from https to http"
    raise UnreachableError(f"{what}: redirected {why}; not followed", request_id=request_id)


def file_url(address: str, base: httpx.URL, what: str, request_id: str) -> httpx.URL:
    """Where a file is, by an address that the backend gave; raises as `next_url`."""
    # As a folder: `api_url` ends without a slash, and what is relative to it lies below it (RFC 3986 section 5.2).
    url = followed(address, base.copy_with(raw_path=base.raw_path.rstrip(b"/") + b"/"))
    if url is not None and not loses_tls(base, url):
        return url
    why = "is no http(s) URL" if url is None else "is http, where the backend's is https"
    raise UnreachableError(f"{what}: its address {why}; not followed", request_id=request_id)


def _parse(response: httpx.Response, body: bytes, asked: Request, request_id: str) -> Any:
    status = response.status_code
    if not response.is_success:
        try:
            return read_json(body) if body else None
        except MalformedJSONError:
            return None
    if asked.proof is not None:
        missing = [name for name in asked.proof if name not in response.headers]
        if missing:
            raise UnreadableError(f"answered {status} without {', '.join(missing)}: a login page in between?")
        return None
    if not body.removeprefix(codecs.BOM_UTF8).strip() and may_lack_a_body(status, asked.method):
        return None
    refuse_crowded(body)
    try:
        data = read_json(body)
    except MalformedJSONError:
        if asked.is_work and acknowledges_unread(status, body):
            return None
        kind = loggable_text(response.headers.get("Content-Type", "nothing said"), 60)
        why = f"answered {status} with a body that is no JSON ({kind}): a login page in between?"
        if asked.is_work:
            raise UnacknowledgedError(f"{asked.what}: {why}", status=status, request_id=request_id) from None
        raise UnreadableError(why) from None
    if asked.is_work and (otherwise := contradiction(data, asked.names)) is not None:
        why = f"{asked.what}: answered {status}, but {otherwise}: {loggable_text(body.decode(errors='replace'))}"
        raise UnacknowledgedError(why, status=status, request_id=request_id, contradicts=True)
    return data


async def read_answer(response: httpx.Response) -> bytes:
    """Read the whole body of an answer that counts.

    Raises:
        OversizedError: It is larger than MAX_ANSWER_BYTES.
        UnreadableError: It cannot be unpacked.
        httpx.HTTPError: It was cut off.
    """
    chunks: list[bytes] = []
    size = 0
    async for chunk in _unpacked(response, MAX_ANSWER_BYTES + 1):
        chunks.append(chunk)
        size += len(chunk)
        if size > MAX_ANSWER_BYTES:
            raise OversizedError(f"the answer is larger than {MAX_ANSWER_BYTES} bytes")
    return b"".join(chunks)


def refuse_crowded(body: bytes) -> None:
    """Refuse JSON that is small but would take long to parse.

    Raises:
        OversizedError: It may hold more than MAX_VALUES values.
    """
    if body.count(b",") + body.count(b"[") + body.count(b"{") > MAX_VALUES:
        raise OversizedError(f"the answer holds more than {MAX_VALUES:,} values")


async def read_reason(response: httpx.Response) -> bytes:
    """Read what an answer that is no success says, as far as it comes: its status counts without it.

    A body that is cut off, drips, or cannot be unpacked is what was read of it until then.
    """
    body = bytearray()
    with suppress(httpx.HTTPError, UnreadableError, TimeoutError):
        async with asyncio.timeout(ERROR_BODY_TIMEOUT):
            async for chunk in _unpacked(response, MAX_ERROR_BYTES):
                body += chunk
                if len(body) >= MAX_ERROR_BYTES:
                    break
    return bytes(body[:MAX_ERROR_BYTES])


async def _unpacked(response: httpx.Response, limit: int) -> AsyncIterator[bytes]:
    """Yield the body in pieces of at most `limit` bytes each."""
    if response.is_stream_consumed:  # a transport that answers from memory has unpacked it already
        yield response.content
        return
    encoding = response.headers.get("Content-Encoding", "").strip().lower()
    if encoding in _IDENTITY:
        async for raw in response.aiter_raw():
            yield raw
        return
    if encoding not in _GZIP:
        raise UnreadableError("the answer is packed in a way that was not asked for")
    unpacker, is_empty = zlib.decompressobj(_GZIP_WINDOW), True
    try:
        async for raw in response.aiter_raw():
            packed, is_empty = raw, is_empty and not raw
            while packed:
                yield unpacker.decompress(packed, limit)
                packed = unpacker.unconsumed_tail
    except zlib.error:
        raise UnreadableError("the answer cannot be unpacked") from None
    if not unpacker.eof and not is_empty:
        raise UnreadableError("the answer was cut off")
