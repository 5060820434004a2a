"""One HTTP request and its whole answer: bounded reading, redirects by the contract, httpx's errors put into ours."""

import re
from collections.abc import AsyncIterable, Mapping
from dataclasses import dataclass
from http import HTTPMethod
from typing import Any

import httpx
import pydantic_core

from sentinel_sync.clock import Clock
from sentinel_sync.errors import UnreachableError
from sentinel_sync.rules.answers import MAX_REDIRECTS, Meaning, may_lack_a_body, meaning_of
from sentinel_sync.rules.privacy import loggable_path

#: So much of an error body is read (wire contract, "Answers").
MAX_ERROR_BYTES = 64 << 10
#: So much of any other answer: the largest that the contract knows is a catalogue or a year's trend, well below it.
MAX_ANSWER_BYTES = 8 << 20
_REDIRECTS = frozenset({301, 302, 303, 307, 308})
_CONTROL = re.compile(r"[\x00-\x1f\x7f]+")

Content = bytes | AsyncIterable[bytes] | None


@dataclass(frozen=True, slots=True)
class Reply:
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


async def exchange(
    http: httpx.AsyncClient,
    method: HTTPMethod,
    url: httpx.URL,
    *,
    headers: Mapping[str, str],
    secret_headers: Mapping[str, str],
    content: Content,
    clock: Clock,
    timeout: httpx.Timeout,
) -> Reply:
    """Send one request and read its answer.

    Args:
        http: The shared client.
        method: The method; only GET and HEAD are redirected.
        url: Absolute; `secret_headers` go to its origin only.
        headers: Sent to whoever answers.
        secret_headers: The credential.
        content: The body.
        clock: To say when it was sent and received.
        timeout: Seconds for each phase.

    Raises:
        UnreachableError: No whole, readable answer; whether the work was done is unknown.
    """
    request_id = headers["X-Request-ID"]
    what = f"{method} {loggable_path(url.path)}"
    home = Origin.of(url)
    for _ in range(MAX_REDIRECTS + 1):
        at_home = Origin.of(url) == home
        request = http.build_request(
            method,
            url,
            headers={**headers, **secret_headers} if at_home else dict(headers),
            content=content,
            timeout=timeout,
        )
        sent = clock.monotonic()
        try:
            response = await http.send(request, stream=True, follow_redirects=False)
            try:
                body = await _read(response, what, request_id)
            finally:
                await response.aclose()
        except (httpx.HTTPError, httpx.InvalidURL, httpx.StreamError) as error:
            raise UnreachableError(f"{what}: {fault(error)}", request_id=request_id) from None
        if meaning_of(response.status_code, method) is Meaning.REDIRECT and response.status_code in _REDIRECTS:
            url = _next_url(response, url, what, request_id)
            continue
        data = _parse(response, body, method, what, request_id)
        return Reply(response.status_code, response.headers, data, request_id, sent, clock.monotonic(), at_home)
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
            return f"cannot connect ({clean(str(error)) or type(error).__name__})"
        case httpx.RemoteProtocolError():
            return "the answer was cut off or garbled"
        case httpx.DecodingError():
            return "the answer cannot be decompressed"
    return f"the connection broke ({type(error).__name__})"


def clean(text: str, limit: int = 200) -> str:
    """One line of text from outside, fit for a log: no control characters, no driver's id, not endless."""
    return loggable_path(_CONTROL.sub(" ", text).replace("?", "\u2047")).replace("\u2047", "?").strip()[:limit]


async def _read(response: httpx.Response, what: str, request_id: str) -> bytes:
    is_error = response.status_code >= 400
    limit = MAX_ERROR_BYTES if is_error else MAX_ANSWER_BYTES
    chunks: list[bytes] = []
    size = 0
    async for chunk in response.aiter_bytes():
        chunks.append(chunk)
        size += len(chunk)
        if size > limit:
            if is_error:
                break
            raise UnreachableError(f"{what}: the answer is larger than {limit} bytes", request_id=request_id)
    return b"".join(chunks)[:limit]


def _next_url(response: httpx.Response, url: httpx.URL, what: str, request_id: str) -> httpx.URL:
    target = url.join(response.headers.get("Location", ""))
    if target.scheme not in {"http", "https"}:
        raise UnreachableError(
            f"{what}: redirected to a scheme other than http(s); not followed", request_id=request_id
        )
    if url.scheme == "https" and target.scheme == "http":
        raise UnreachableError(f"{what}: redirected from https to http; not followed", request_id=request_id)
    return target


def _parse(response: httpx.Response, body: bytes, method: HTTPMethod, what: str, request_id: str) -> Any:
    status = response.status_code
    if meaning_of(status, method) is Meaning.DONE and status < 300:
        if not body and (method == HTTPMethod.HEAD or may_lack_a_body(status, response.headers.get("Content-Length"))):
            return None
        try:
            return pydantic_core.from_json(body)
        except ValueError:
            kind = clean(response.headers.get("Content-Type", "nothing said"), 60)
            raise UnreachableError(
                f"{what}: answered {status} with a body that is no JSON ({kind}): a login page in between?",
                request_id=request_id,
            ) from None
    try:
        return pydantic_core.from_json(body) if body else None
    except ValueError:
        return None
