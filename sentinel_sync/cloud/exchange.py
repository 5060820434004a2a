"""One HTTP request and its whole answer: redirects by the contract, httpx's errors put into ours."""

from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from http import HTTPMethod
from typing import Any

import httpx
import pydantic_core

from sentinel_sync.base.clock import Clock
from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.base.privacy import loggable_text
from sentinel_sync.cloud.answer_body import (
    ACCEPT_ENCODING,
    OversizedError,
    UnreadableError,
    read_answer,
    read_reason,
    refuse_crowded,
)
from sentinel_sync.cloud.rules.answers import MAX_REDIRECTS, Meaning, may_lack_a_body, meaning_of
from sentinel_sync.cloud.traffic_meter import TrafficMeter
from sentinel_sync.cloud.transport import BULK
from sentinel_sync.cloud.transport_logs import unlogged

REDIRECTS = frozenset({301, 302, 303, 307, 308})
#: The client's own credentials, if an embedder's has any, are for its own hosts; ours is a header.
NO_AUTH = httpx.Auth()

_SPENT = httpx.ByteStream(b"")

#: Nothing of the request has left then.
_NEVER_SENT = (httpx.ConnectError, httpx.ConnectTimeout, httpx.PoolTimeout, httpx.ProxyError, httpx.UnsupportedProtocol)

Content = bytes | AsyncIterable[bytes] | None


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
class Origin:
    """Scheme, host and port: what a credential belongs to (RFC 6454)."""

    scheme: str
    host: str
    port: int | None

    @classmethod
    def of(cls, url: httpx.URL) -> "Origin":
        """Origin of a URL, with the scheme's own port where none is given."""
        return cls(url.scheme, url.host.lower(), url.port or {"http": 80, "https": 443}.get(url.scheme))


@dataclass(frozen=True, slots=True)
class Outgoing:
    """One request as it goes out.

    Attributes:
        method: The method; only GET is redirected.
        url: Absolute.
        what: Names the request in errors.
        headers: Sent to whoever answers; with `X-Request-ID`.
        secret_headers: The credential, and …
        home: … the origin that alone gets it.
        content: The body.
        proof: Headers that a 2xx answer has, where it lies in them: then its body is no JSON. None: it is JSON.
        bulk: Whether it travels with the videos.
    """

    method: HTTPMethod
    url: httpx.URL
    what: str
    headers: Mapping[str, str]
    secret_headers: Mapping[str, str]
    home: Origin
    content: Content = None
    proof: tuple[str, ...] | None = None
    bulk: bool = False


async def exchange(
    http: httpx.AsyncClient, outgoing: Outgoing, *, meter: TrafficMeter, clock: Clock, timeout: httpx.Timeout
) -> Response:
    """Send one request and read its answer.

    Args:
        http: The shared client; of it only the transport counts: its default headers, cookies, auth and redirects
            do not take part.
        outgoing: The request.
        meter: Counts it.
        clock: To say when it was sent and received.
        timeout: Seconds for each phase.

    Raises:
        UnreachableError: No whole, readable answer; whether the work was done is unknown.
    """
    what, url = outgoing.what, outgoing.url
    request_id = outgoing.headers["X-Request-ID"]
    for _ in range(MAX_REDIRECTS + 1):
        at_home = Origin.of(url) == outgoing.home
        failure = UnreachableError if at_home else ElsewhereError
        # Not http.build_request(): that would add the shared client's cookies and default headers.
        request = httpx.Request(
            outgoing.method,
            url,
            headers={
                "Accept-Encoding": ACCEPT_ENCODING,
                **outgoing.headers,
                **(outgoing.secret_headers if at_home else {}),
            },
            content=outgoing.content,
            extensions={"timeout": timeout.as_dict(), BULK: outgoing.bulk},
        )
        sent = clock.monotonic()
        try:
            response, body = await _send(http, request, meter)
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise failure(f"{what}: {fault(error)}", request_id=request_id) from None
        except (OversizedError, UnreadableError) as error:
            raise failure(f"{what}: {error}", request_id=request_id) from None
        except (ValueError, OverflowError):
            if at_home:
                raise
            # A name or port that no resolver takes, out of somebody's Location.
            raise failure(f"{what}: redirected to an address that cannot be used", request_id=request_id) from None
        except RuntimeError:
            if not http.is_closed:
                raise
            raise failure(f"{what}: the client was closed", request_id=request_id) from None
        if meaning_of(response.status_code, outgoing.method) is Meaning.REDIRECT and response.status_code in REDIRECTS:
            url = next_url(response, url, what, request_id)
            continue
        try:
            data = _parse(response, body, outgoing)
        except ValueError as error:
            raise failure(f"{what}: {error}", request_id=request_id) from None
        return Response(response.status_code, response.headers, data, request_id, sent, clock.monotonic(), at_home)
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


async def _send(http: httpx.AsyncClient, request: httpx.Request, meter: TrafficMeter) -> tuple[httpx.Response, bytes]:
    with unlogged():
        response = await opened(http, request, meter)
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


async def opened(http: httpx.AsyncClient, request: httpx.Request, meter: TrafficMeter) -> httpx.Response:
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
    try:
        # Without user and password: they would become an Authorization of the redirecting host's making.
        target = url.join(location).copy_with(userinfo=b"")
    except httpx.InvalidURL:
        target = httpx.URL("")
    if not location or target.scheme not in {"http", "https"} or not target.host:
        raise UnreachableError(f"{what}: redirected to what is no http(s) URL; not followed", request_id=request_id)
    if url.scheme == "https" and target.scheme == "http":
        raise UnreachableError(f"{what}: redirected from https to http; not followed", request_id=request_id)
    return target


def _parse(response: httpx.Response, body: bytes, outgoing: Outgoing) -> Any:
    status = response.status_code
    if not response.is_success:
        try:
            return pydantic_core.from_json(body) if body else None
        except ValueError:
            return None
    if outgoing.proof is not None:
        missing = [name for name in outgoing.proof if name not in response.headers]
        if missing:
            raise ValueError(f"answered {status} without {', '.join(missing)}: a login page in between?")
        return None
    if not body and may_lack_a_body(status, outgoing.method, response.headers.get("Content-Length")):
        return None
    refuse_crowded(body)
    try:
        return pydantic_core.from_json(body)
    except ValueError:
        kind = loggable_text(response.headers.get("Content-Type", "nothing said"), 60)
        raise ValueError(f"answered {status} with a body that is no JSON ({kind}): a login page in between?") from None
