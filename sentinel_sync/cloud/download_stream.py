"""Opens a file at an address that may be anybody's: redirects by the contract, the credential for its origin only."""

from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager

import httpx

from sentinel_sync.base.errors import UnreachableError
from sentinel_sync.cloud.exchange import REDIRECTS, Origin, fault, next_url, opened
from sentinel_sync.cloud.rules.answers import MAX_REDIRECTS
from sentinel_sync.cloud.traffic_meter import CountedStream, TrafficMeter
from sentinel_sync.cloud.transport import BULK
from sentinel_sync.cloud.transport_logs import unlogged

#: Names it in errors: an address often holds a token.
_WHAT = "GET a file"


@asynccontextmanager
async def open_download(
    http: httpx.AsyncClient,
    base: httpx.URL,
    address: str,
    *,
    headers: Mapping[str, str],
    secret_headers: Mapping[str, str],
    meter: TrafficMeter,
    timeout: httpx.Timeout,
) -> AsyncIterator[httpx.Response]:
    """Ask for a file, and give the answer with its body unread.

    Args:
        http: The shared client; only its transport counts.
        base: `api_url`: what relative addresses are relative to, and whose origin the credential is for.
        address: Absolute or relative.
        headers: Sent to whoever answers; with `X-Request-ID`.
        secret_headers: The credential.
        meter: Counts what comes, as it does.
        timeout: Seconds for each phase.

    Raises:
        UnreachableError: No answer, it broke off while it was read, or the address must not be followed.
    """
    request_id = headers["X-Request-ID"]
    url = _absolute(base, address, request_id)
    for _ in range(MAX_REDIRECTS + 1):
        secret = secret_headers if Origin.of(url) == Origin.of(base) else {}
        request = httpx.Request(
            "GET", url, headers={**headers, **secret}, extensions={"timeout": timeout.as_dict(), BULK: True}
        )
        try:
            with unlogged():
                response = await opened(http, request, meter)
        except httpx.InvalidURL:  # of a redirect: httpx reads it although nobody asks it to follow
            raise UnreachableError(
                f"{_WHAT}: redirected to what is no http(s) URL; not followed", request_id=request_id
            ) from None
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise UnreachableError(f"{_WHAT}: {fault(error)}", request_id=request_id) from None
        except (ValueError, OverflowError):
            raise UnreachableError(f"{_WHAT}: its address cannot be used", request_id=request_id) from None
        meter.count_answer(response, 0)
        if isinstance(response.stream, httpx.AsyncByteStream):
            response.stream = CountedStream(response.stream, meter)
        try:
            if response.status_code not in REDIRECTS:
                yield response
                return
            url = next_url(response, url, _WHAT, request_id)
        except (httpx.HTTPError, httpx.StreamError) as error:
            raise UnreachableError(f"{_WHAT}: {fault(error)}", request_id=request_id) from None
        finally:
            await response.aclose()
    raise UnreachableError(f"{_WHAT}: redirected more than {MAX_REDIRECTS} times", request_id=request_id)


def _absolute(base: httpx.URL, address: str, request_id: str) -> httpx.URL:
    try:
        # As a folder: `api_url` ends without a slash, and what is relative to it lies below it (RFC 3986 section 5.2).
        folder = base.copy_with(raw_path=base.raw_path.rstrip(b"/") + b"/")
        # Without user and password: they would become an Authorization of somebody else's making.
        url = folder.join(address).copy_with(userinfo=b"", fragment=None)
    except (httpx.InvalidURL, ValueError):
        url = httpx.URL("")
    if url.scheme not in {"http", "https"} or not url.host:
        raise UnreachableError(f"{_WHAT}: its address is no http(s) URL; not followed", request_id=request_id)
    if base.scheme == "https" and url.scheme == "http":
        raise UnreachableError(
            f"{_WHAT}: its address is http, where the backend's is https; not followed", request_id=request_id
        )
    return url
