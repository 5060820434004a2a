"""The one shared `httpx.AsyncClient`: TLS, proxy, pool. The only place that builds one."""

import ssl
from http.cookiejar import CookieJar, DefaultCookiePolicy
from pathlib import Path

import httpx

from sentinel_sync.errors import ConfigurationError
from sentinel_sync.settings import CloudSettings

#: Connections beyond the requests in flight: one for the health probe, one for a file from another host. The pool gets
#: slower the more wait for it (encode/httpx#3215), so nobody is let to wait: the client bounds what is in flight.
SPARE_CONNECTIONS = 2
#: A keep-alive connection is given up after so many idle seconds: most load balancers cut it after 60.
KEEPALIVE_EXPIRY = 50.0
#: Seconds to set up a connection: beyond it a vehicle is better off trying again.
CONNECT_TIMEOUT = 10.0


def timeouts(seconds: float) -> httpx.Timeout:
    """Separate time-outs: `timeout` for each read and write, less to connect, none worth naming for the pool.

    The pool's is generous because waiting for a place is not the network's fault; the client's own bound comes first.
    """
    return httpx.Timeout(seconds, connect=min(seconds, CONNECT_TIMEOUT), pool=seconds * 4)


def build_http_client(settings: CloudSettings) -> httpx.AsyncClient:
    """Build the client. Blocks: reads certificates.

    No default credential (it would go to every host), no redirects (the client follows them by the contract), no
    environment (a vehicle's proxy is configured, not inherited), HTTP/1.1 (under HTTP/2 httpx waits out the whole read
    time-out where a server answers before the upload ends).

    Raises:
        ConfigurationError: A certificate, key or proxy cannot be used.
    """
    proxy = settings.proxy.get_secret_value() if settings.proxy else None
    try:
        return httpx.AsyncClient(
            verify=_tls_context(settings),
            timeout=timeouts(settings.timeout),
            limits=httpx.Limits(
                max_connections=settings.max_in_flight + SPARE_CONNECTIONS,
                max_keepalive_connections=settings.max_in_flight,
                keepalive_expiry=KEEPALIVE_EXPIRY,
            ),
            proxy=proxy,
            # No cookies: nothing in the contract needs them, and a login page's would travel along.
            cookies=CookieJar(DefaultCookiePolicy(allowed_domains=())),
            trust_env=False,
            follow_redirects=False,
        )
    except (ValueError, httpx.InvalidURL):
        raise ConfigurationError("cloud.proxy must be a URL such as http://proxy.example.com:3128") from None


def _tls_context(settings: CloudSettings) -> ssl.SSLContext:
    try:
        context = ssl.create_default_context(cafile=_name(settings.ca_file))
        if settings.client_cert_file is not None:
            context.load_cert_chain(settings.client_cert_file, settings.client_key_file)
    except (OSError, ssl.SSLError) as error:
        files = [
            _name(file) for file in (settings.ca_file, settings.client_cert_file, settings.client_key_file) if file
        ]
        raise ConfigurationError(
            f"TLS files {', '.join(map(str, files))} cannot be used: {error.strerror or error}"
        ) from None
    return context


def _name(path: Path | None) -> str | None:
    return None if path is None else str(path)
